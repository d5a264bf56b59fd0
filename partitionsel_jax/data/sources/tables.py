"""Rows of Parquet files, and of Arrow files and streams as `save_to_disk` of `datasets` writes."""

from collections.abc import Collection, Iterator
from typing import Any

from partitionsel_jax.data.sources.files import SourceFile, check_format, check_size, reading_errors
from partitionsel_jax.data.sources.rows import INVALID_UTF8, RawRow, check_names

_BATCH = 256
_STREAM = b"\xff\xff\xff\xff"
_MAGIC = {"parquet": (b"PAR1",), "arrow": (b"ARROW1", _STREAM)}
# Rows that a file of any size may say to have.
_ROWS_FREELY = 1 << 20
# Packed by more than so many times, and to more bytes than these, a column is unpacked row by row:
# one long text that all rows refer to is unpacked once for each.
_PACKED_WELL, _LONG_TEXT = 200, 1 << 20


def table_columns(file: SourceFile) -> list[str]:
    """The names of the columns of a file.

    Raises:
      ValueError, OSError: see `read_table`.
    """
    import pyarrow as pa

    with reading_errors(file.path, file.name, (pa.ArrowInvalid, OSError)), _opened(file) as table:
        return (table.schema_arrow if file.format == "parquet" else table.schema).names


def read_table(file: SourceFile, columns: Collection[str] | None = None) -> Iterator[RawRow]:
    """The rows of a file in order, a batch of them in memory at a time.

    What is stored as bytes is decoded as text.

    Args:
      file: of the format "parquet" or "arrow".
      columns: those that are read; None for all.

    Raises:
      ValueError: the file is damaged, no file of its format, or packed as no rows are.
      OSError: the file cannot be read.
    """
    import pyarrow as pa

    number = unpacked = 0
    size = file.path.stat().st_size
    with reading_errors(file.path, file.name, (pa.ArrowInvalid, OSError)), _opened(file) as table:
        schema = table.schema_arrow if file.format == "parquet" else table.schema
        check_names(schema.names, file.name)
        wanted = [name for name in schema.names if columns is None or name in columns]
        batches = _parquet if file.format == "parquet" else _arrow
        for batch in batches(table, wanted, file):
            unpacked += sum(_plain(column).nbytes for column in batch.columns)
            check_size(unpacked, size, file.name)
            for fields in _fields(batch):
                number += 1
                yield RawRow(number, fields or {}, INVALID_UTF8 if fields is None else "")


def _fields(batch: Any) -> Iterator[dict[str, Any] | None]:
    """The rows of a batch; None for one that holds bytes which are not UTF-8."""
    try:
        rows = batch.to_pylist() if batch.columns else [{}] * batch.num_rows
    except UnicodeDecodeError:  # of some row, and pyarrow does not say of which
        rows = [None] * batch.num_rows
    has_bytes = "binary" in str(batch.schema)
    for place, row in enumerate(rows):
        try:
            row = batch.slice(place, 1).to_pylist()[0] if row is None else row
            yield _decoded(row) if has_bytes else row
        except UnicodeDecodeError:
            yield None


def _opened(file: SourceFile) -> Any:
    """The file as pyarrow's reader of its format."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open(file.path, "rb") as stream:
        start = stream.read(64)
    check_format(start, file.name, file.format, _MAGIC[file.format])
    if file.format == "parquet":
        return pq.ParquetFile(file.path, buffer_size=1 << 20, pre_buffer=False)
    source = pa.memory_map(str(file.path))
    return pa.ipc.open_stream(source) if start.startswith(_STREAM) else pa.ipc.open_file(source)


def _parquet(table: Any, wanted: list[str], file: SourceFile) -> Iterator[Any]:
    """The batches of a Parquet file.

    Raises:
      ValueError: what the file says of itself is more than so many bytes can hold.
    """
    size, found, batch = file.path.stat().st_size, table.metadata, _BATCH
    if found.num_rows > max(_ROWS_FREELY, size):
        raise ValueError(
            f"{file.name} says to have {found.num_rows:,} rows in {size:,} bytes, which rows of "
            "text do not fit into; write it again, or as JSON Lines"
        )
    for group in map(found.row_group, range(found.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            packed, unpacked = chunk.total_compressed_size, chunk.total_uncompressed_size
            check_size(unpacked, max(packed, 1), file.name)
            if unpacked > max(_LONG_TEXT, _PACKED_WELL * packed):
                batch = 1
    yield from table.iter_batches(batch_size=batch, columns=wanted)


def _arrow(table: Any, wanted: list[str], file: SourceFile) -> Iterator[Any]:
    """The batches of an Arrow file or stream."""
    is_file = hasattr(table, "get_batch")
    for batch in map(table.get_batch, range(table.num_record_batches)) if is_file else table:
        # Offsets that point anywhere would end the process, not raise.
        batch.validate(full=True)
        for start in range(0, batch.num_rows, _BATCH):
            yield batch.slice(start, _BATCH).select(wanted)


def _plain(column: Any) -> Any:
    """The column with texts in place of numbers of categories, as `to_pylist` writes them out."""
    return column.dictionary_decode() if hasattr(column, "dictionary_decode") else column


def _decoded(value: Any) -> Any:
    """The value with text for its bytes, at any depth."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    return value
