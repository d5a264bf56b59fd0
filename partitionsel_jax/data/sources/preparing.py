"""Preparing a TFDS builder: once, quietly, and safe against another process that does the same."""

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import TypeVar

import tensorflow_datasets as tfds
from absl import logging

Builder = TypeVar("Builder", bound=tfds.core.DatasetBuilder)


def prepared(open_builder: Callable[[], Builder]) -> Builder:
    """Opens a builder and writes its records as array_record files, unless they are there already.

    TFDS writes into a temporary directory and renames it at the end: a process killed half-way
    leaves nothing that the next call would take for the corpus.

    Args:
      open_builder: makes the builder; called again where another process was faster.

    Raises:
      OSError: records that cannot be written.
    """
    with quiet():
        builder = open_builder()
        try:
            builder.download_and_prepare(file_format="array_record")
        except OSError:
            # Another process may have finished the same corpus first: then theirs is as good.
            builder = open_builder()
            if not builder.info.splits:
                raise
    return builder


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
