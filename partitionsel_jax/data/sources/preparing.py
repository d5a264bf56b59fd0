"""Preparing a TFDS builder: once, quietly, and safe against another process that does the same."""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import tensorflow_datasets as tfds
from absl import logging
from array_record.python.array_record_module import ArrayRecordReader
from google.protobuf.json_format import ParseError

Builder = TypeVar("Builder", bound=tfds.core.DatasetBuilder)
_FORMAT = tfds.core.FileFormat.ARRAY_RECORD
# What TFDS raises at files that describe nothing, or other records than the builder's.
_UNREADABLE = (AssertionError, TypeError, ValueError, RecursionError, ParseError)


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
    with quiet():
        try:
            builder.download_and_prepare(file_format=_FORMAT.value)
        except OSError:
            # Another process may have finished the same corpus first: then theirs is as good.
            builder = opened(open_builder, folder)
            if not is_there(builder):
                raise
    return builder


def opened(open_builder: Callable[[], Builder], folder: str) -> Builder:
    """The builder, whose records are not there yet or are whole; see `prepared`."""
    try:
        with quiet():
            builder = open_builder()
            fault = _fault(builder) if is_there(builder) else ""
    except _UNREADABLE as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        fault = f"their description: {reason[:200]}"
    if fault:
        raise ValueError(
            f"the prepared records cannot be read ({fault}): delete {folder}, and they are "
            "prepared again"
        )
    return builder


def is_there(builder: tfds.core.DatasetBuilder) -> bool:
    """Whether the records are written: TFDS gives them their place when they all are."""
    return builder.data_path.exists()


def _fault(builder: tfds.core.DatasetBuilder) -> str:
    """What is wrong with written records, as a look at the ends of their files tells; or empty."""
    metadata: Any = builder.info.metadata
    if builder.info.file_format != _FORMAT or not builder.info.splits:
        return "dataset_info.json is damaged or missing"
    if not isinstance(metadata, Mapping) or not metadata.get("domains"):
        return "metadata.json is damaged or missing"
    for split in builder.info.splits.values():
        for path, count in zip(split.filepaths, split.shard_lengths, strict=True):
            # Of a file that is missing or cut, array_record says that it has no records.
            if _records(path) != count:
                return f"{path.name} is damaged or missing"
    return ""


def _records(path: Any) -> int:
    """The number of records that a file says it has; -1 where it cannot say."""
    try:
        reader = ArrayRecordReader(str(path))
        count = reader.num_records()
        reader.close()
    except RuntimeError:
        return -1
    return count


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences TFDS: its progress bars, its prints, and its warning that a config is custom."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
