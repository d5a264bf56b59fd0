"""TFDS records without TensorFlow: written as array_record, whole or not at all, and checked."""

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import tensorflow_datasets as tfds
from absl import logging
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath
from google.protobuf.json_format import ParseError
from tensorflow_datasets.proto import tf_example_pb2

Builder = TypeVar("Builder", bound=tfds.core.DatasetBuilder)
_FORMAT = tfds.core.FileFormat.ARRAY_RECORD
# TFDS raises these at files that describe nothing, or other records than the builder's.
_UNREADABLE = (AssertionError, TypeError, ValueError, RecursionError, ParseError)
# Rows are read one by one, in any order. Snappy takes half the time of the default compression and
# half as much room again.
_OPTIONS = "group_size:1,snappy"
_SHARD_BYTES = 1 << 28


def prepared(
    open_builder: Callable[[], Builder], folder: str = "their folder under data.directory"
) -> Builder:
    """Opens a builder and writes its records as array_record files, unless they are there already.

    TFDS writes into a temporary directory and renames it at the end: a process killed half-way
    leaves nothing that the next call would take for the corpus.

    Args:
      open_builder: makes the builder; called again where another process was faster.
      folder: what errors call the place of the records.

    Raises:
      ValueError: records that were written earlier, and are damaged.
      OSError: records that cannot be written.
    """
    builder = opened(open_builder, folder)
    with _quiet():
        try:
            builder.download_and_prepare(file_format=_FORMAT.value)
        except OSError:
            # Another process may have finished the same corpus first: then theirs is as good.
            builder = opened(open_builder, folder)
            if not builder.data_path.exists():
                raise
    return builder


def opened(open_builder: Callable[[], Builder], folder: str) -> Builder:
    """The builder, whose records (its `data_path`) are not there yet or are whole."""
    try:
        with _quiet():
            builder = open_builder()
            fault = _fault(builder) if builder.data_path.exists() else ""
    except _UNREADABLE as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        fault = f"their description: {reason[:200]}"
    if fault:
        raise ValueError(
            f"the prepared records cannot be read ({fault}): delete {folder}, and they are "
            "prepared again"
        )
    return builder


def _fault(builder: tfds.core.DatasetBuilder) -> str:
    """The fault of written records, as a look at the ends of their files tells; empty for none."""
    metadata: Any = builder.info.metadata
    if builder.info.file_format != _FORMAT or not builder.info.splits:
        return "dataset_info.json is damaged or missing"
    if not isinstance(metadata, Mapping) or not metadata.get("domains"):
        return "metadata.json is damaged or missing"
    for split in builder.info.splits.values():
        for path, count in zip(split.filepaths, split.shard_lengths, strict=True):
            try:
                reader = ArrayRecordReader(str(path))
                found = reader.num_records()
                reader.close()
            except RuntimeError:
                found = -1
            # array_record says of a file that is missing or cut that it has no records.
            if found != count:
                return f"{path.name} is damaged or missing"
    return ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS: its progress bars, its prints, and its warning that a config is custom."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def serialise(numbers: Mapping[str, int], texts: Mapping[str, str]) -> bytes:
    """A record of scalar int64 and text features, as a `FeaturesDict` of them reads it."""
    # A new message each time: one that is used again keeps the memory of all its former values.
    example = tf_example_pb2.Example()
    features = example.features.feature
    for name, number in numbers.items():
        features[name].int64_list.value.append(number)
    for name, text in texts.items():
        features[name].bytes_list.value.append(text.encode())
    return example.SerializeToString()


class ShardWriter:
    """Writes one split row by row; a new shard begins when the last one is full.

    TFDS's own writer keeps a split in memory before it writes it, and is five times as slow. The
    name of a shard says how many there are, so that they are renamed when the split is finished.
    """

    def __init__(self, directory: epath.PathLike, split: str):
        self._directory, self._split = epath.Path(directory), split
        self._writer: Any = None
        self._lengths: list[int] = []
        self._bytes = self._in_shard = 0

    def write(self, record: bytes) -> None:
        """Adds a record."""
        if self._writer is None or self._in_shard >= _SHARD_BYTES:
            self.close()
            path = self._unfinished(len(self._lengths))
            self._writer = ArrayRecordWriter(os.fspath(path), _OPTIONS)
            self._lengths.append(0)
            self._in_shard = 0
        self._writer.write(record)
        self._lengths[-1] += 1
        self._in_shard += len(record)
        self._bytes += len(record)

    def close(self) -> None:
        """Ends the shard that is open."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def finish(self, template: Any) -> tfds.core.SplitInfo:
        """Ends the split and gives its shards their names, by TFDS's template of them."""
        self.close()
        for shard in range(len(self._lengths)):
            name = template.sharded_filepath(shard_index=shard, num_shards=len(self._lengths))
            self._unfinished(shard).rename(self._directory / name.name)
        return tfds.core.SplitInfo(
            name=self._split,
            shard_lengths=self._lengths,
            num_bytes=self._bytes,
            filename_template=template,
        )

    def _unfinished(self, shard: int) -> epath.Path:
        return self._directory / f"{self._split}.{shard:05d}.unfinished"
