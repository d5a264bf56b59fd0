"""TFDS records without TensorFlow: written as array_record, whole or not at all, and checked."""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import tensorflow_datasets as tfds
from absl import logging
from array_record.python.array_record_module import ArrayRecordReader
from google.protobuf.json_format import ParseError
from tensorflow_datasets.proto import tf_example_pb2

Builder = TypeVar("Builder", bound=tfds.core.DatasetBuilder)
_FORMAT = tfds.core.FileFormat.ARRAY_RECORD
# TFDS raises these at files that describe nothing, or other records than the builder's.
_UNREADABLE = (AssertionError, TypeError, ValueError, RecursionError, ParseError)


def prepared(
    open_builder: Callable[[], Builder], folder: str = "their folder under data.directory"
) -> Builder:
    """Opens a builder and writes its records as array_record files, unless they are there already.

    TFDS writes into a temporary directory and renames it at the end: a process killed half-way
    leaves nothing that the next call would take for the corpus. Errors call the place `folder`.

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
    """Opens a builder, whose records (its `data_path`) are not there yet or are whole."""
    try:
        with _quiet():
            builder = open_builder()
            fault = _fault(builder) if builder.data_path.exists() else ""
    except _UNREADABLE as error:
        fault = f"their description: {str(error).strip() or type(error).__name__:.200}"
    if fault:
        raise ValueError(
            f"the prepared records cannot be read ({fault.splitlines()[0]}): delete {folder}, and "
            "they are prepared again"
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
            # array_record says of a file that is missing or cut that it has no records, or raises.
            with contextlib.suppress(RuntimeError):
                reader = ArrayRecordReader(str(path))
                if reader.num_records() == count:
                    reader.close()
                    continue
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
    """Makes a record of scalar int64 and text features, as a `FeaturesDict` of them reads it."""
    # A new message each time: one that is used again keeps the memory of all its former values.
    example = tf_example_pb2.Example()
    features = example.features.feature
    for name, number in numbers.items():
        features[name].int64_list.value.append(number)
    for name, text in texts.items():
        features[name].bytes_list.value.append(text.encode())
    return example.SerializeToString()
