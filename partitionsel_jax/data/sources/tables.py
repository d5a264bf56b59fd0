"""Rows of Parquet files, and of Arrow files and streams as `save_to_disk` of `datasets` writes."""

import io
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from partitionsel_jax.data.sources.files import SourceFile, check_unpacked, reading_errors
from partitionsel_jax.data.sources.forms import check_binary
from partitionsel_jax.data.sources.raw_rows import check_names

_WINDOW = 1 << 20
_BATCH = 256
# What holds the Arrow types that a Parquet file was written with.
_ARROW_SCHEMA = b"ARROW:schema"
_PARQUET, _ARROW, _STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
_MAGIC = {"parquet": (_PARQUET,), "arrow": (_ARROW, _STREAM)}
# Rows that a file of any size may say to have.
_ROWS_FREELY = 1 << 20
# Packed by more than so many times, a column is unpacked row by row: one long text that all rows
# refer to is unpacked once for each.
_PACKED_WELL = 200


def read_table(
    file: SourceFile, columns: Collection[str] | None = None
) -> Iterator[Mapping[str, Any] | None]:
    """The rows of a file in order, a batch of them in memory at a time.

    Text is decoded, and so is what is stored as bytes. None stands for a row that holds bytes
    which are not UTF-8.

    Args:
      file: of the format "parquet" or "arrow".
      columns: those that are read; None for all.

    Raises:
      ValueError: the file is damaged, no file of its format, or packed as no rows are.
      OSError: the file cannot be read.
    """
    import pyarrow as pa

    with reading_errors(file.path, file.name, (pa.ArrowInvalid, OSError)):
        yield from _rows(file, columns)


def table_columns(file: SourceFile) -> list[str]:
    """The names of the columns of a file.

    Raises:
      ValueError, OSError: as `read_table`.
    """
    import pyarrow as pa

    with reading_errors(file.path, file.name, (pa.ArrowInvalid, OSError)):
        names, batches = _opened(file, None)
        batches.close()
        return names


def _rows(file: SourceFile, columns: Collection[str] | None) -> Iterator[Mapping[str, Any] | None]:
    names, batches = _opened(file, columns)
    check_names(names, file.name)
    size, read = file.path.stat().st_size, 0
    for batch in batches:
        read += batch.nbytes
        check_unpacked(read, size, file.name)
        # Neither format promises that its text is UTF-8.
        cells = [column.cast(_bytes_type(column.type)).to_pylist() for column in batch.columns]
        for row in zip(*cells, strict=True) if cells else [()] * batch.num_rows:
            try:
                values = [_decoded(cell) for cell in row]
            except UnicodeDecodeError:
                yield None
            else:
                yield dict(zip(batch.schema.names, values, strict=True))


def _opened(file: SourceFile, columns: Collection[str] | None) -> tuple[list[str], Any]:
    """The names of all columns of a file, and its batches, of the columns that are wanted."""
    with open(file.path, "rb") as stream:
        start = stream.read(64)
    check_binary(start, _MAGIC[file.format], file.name, f".{file.format}")
    if file.format == "parquet":
        return _parquet(file, columns)
    return _arrow(file, columns, stream=start.startswith(_STREAM))


def _parquet(file: SourceFile, columns: Collection[str] | None) -> tuple[list[str], Any]:
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(
        file.path, metadata=_plain_metadata(file.path), buffer_size=_WINDOW, pre_buffer=False
    )
    names = parquet.schema_arrow.names

    def batches() -> Iterator[Any]:
        with parquet:
            size = _batch_size(parquet.metadata, file)
            wanted = None if columns is None else [name for name in names if name in columns]
            yield from parquet.iter_batches(batch_size=size, columns=wanted)

    return names, batches()


def _batch_size(metadata: Any, file: SourceFile) -> int:
    """Rows that are unpacked at a time.

    Raises:
      ValueError: what the file says of itself is more than so many bytes can hold.
    """
    size = file.path.stat().st_size
    if metadata.num_rows > max(_ROWS_FREELY, size):
        raise ValueError(
            f"{file.name} says to have {metadata.num_rows:,} rows in {size:,} bytes, which rows of "
            "text do not fit into; write it again, or as JSON Lines"
        )
    batch = _BATCH
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            packed, unpacked = chunk.total_compressed_size, chunk.total_uncompressed_size
            check_unpacked(unpacked, max(packed, 1), file.name)
            if unpacked > max(_WINDOW, _PACKED_WELL * packed):
                batch = 1
    return batch


def _arrow(
    file: SourceFile, columns: Collection[str] | None, *, stream: bool
) -> tuple[list[str], Any]:
    import pyarrow as pa

    source = pa.memory_map(str(file.path))
    reader = pa.ipc.open_stream(source) if stream else pa.ipc.open_file(source)
    names = reader.schema.names

    def batches() -> Iterator[Any]:
        with source:
            found = reader if stream else map(reader.get_batch, range(reader.num_record_batches))
            for batch in found:
                # Offsets that point anywhere would end the process, not raise.
                batch.validate(full=True)
                wanted = names if columns is None else [n for n in names if n in columns]
                for start in range(0, batch.num_rows, _BATCH):
                    yield batch.slice(start, _BATCH).select(wanted)

    return names, batches()


def _plain_metadata(path: Path) -> Any:
    """The metadata of a Parquet file without the Arrow types it was written with.

    Of those, dictionaries of text are refused as a whole where one entry is not UTF-8. None where
    the file does not end as a Parquet file does, which its reader knows how to say.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open(path, "rb") as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(max(size - 8, 0))
        end = stream.read()
        length = int.from_bytes(end[:4], "little")
        if end[4:] != b"PAR1" or length + 12 > size:
            return None
        stream.seek(size - 8 - length)
        footer = stream.read(length).replace(_ARROW_SCHEMA, _ARROW_SCHEMA.lower())
    return pq.read_metadata(pa.BufferReader(b"PAR1" + footer + end))


def _bytes_type(kind: Any) -> Any:
    """The Arrow type with binary for string, at any depth."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return _bytes_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _bytes_type(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_string_view(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        make = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return make(kind.value_field.with_type(_bytes_type(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_bytes_type(field.type)) for field in kind])
    return kind


def _decoded(value: Any) -> Any:
    """The value with text for its bytes, at any depth."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    return value
