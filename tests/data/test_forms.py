"""Forms of data files: read where their meaning is clear, else named; bombs end in one line."""

import codecs
import gzip
import json
import os
import struct
import time
import tracemalloc
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from partitionsel_jax.data.sources import files, reading
from partitionsel_jax.data.sources.files import source_files
from tests.data.case_files import ASKED, FOLDER, MESSAGES, PLAIN, rows_of

OBJECTS = [{"a": "é一"}, {"a": "b"}]


def read(path):
    return [row for file in source_files(path) for row in reading.read(file)]


def table(rows=3, **columns):
    return pa.table({name: list(values) * rows for name, values in columns.items()})


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("blank_end.csv", PLAIN),
        ("blank_first.csv", PLAIN),
        ("semicolon.csv", PLAIN),
        ("pretty.jsonl", PLAIN),
        ("utf16le_nobom.jsonl", PLAIN),
        ("int_answers.jsonl", PLAIN),
        ("saved_to_disk", PLAIN),
        ("image_struct.parquet", PLAIN),
        ("list_lines.jsonl", MESSAGES),
    ],
)
def test_a_form_whose_meaning_is_clear_is_read(name, columns):
    found = [(row.question, row.response) for row in rows_of(FOLDER / name, columns)]
    assert found[: len(ASKED)] == ASKED
    assert len(found) in (len(ASKED), 60)


ENCODINGS = ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.jsonl", '{"a":"é一"}\n{"a":"b"}\n'),
        ("rows.json", '[{"a": "é一"},\n {"a": "b"}]'),
        ("rows.csv", "a\né一\nb\n"),
        ("rows.jsonl.gz", '{"a":"é一"}\n{"a":"b"}\n'),
    ],
)
def test_every_unicode_encoding_is_told_by_its_bytes(tmp_path, encoding, name, text):
    content = text.encode(encoding)
    pack = gzip.compress if name.endswith(".gz") else bytes
    (tmp_path / name).write_bytes(pack(content))
    assert [row.fields for row in read(tmp_path / name)] == OBJECTS


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_LE, b""])
def test_text_of_few_ascii_letters_is_told_too(tmp_path, mark):
    rows = [{"问题": "一二三四五六七八九十" * 40, "答": "一丁七" * 30}] * 3
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "rows.jsonl").write_bytes(mark + text.encode("utf-16-le"))
    assert [row.fields for row in read(tmp_path / "rows.jsonl")] == rows


def test_bytes_that_are_zero_do_not_make_utf8_another_encoding(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"a":"1"}\n' * 9 + b"\0" * 99 + b'\n{"a":"1"}\n')
    assert [row.problem for row in read(tmp_path / "rows.jsonl")].count("") == 10


def test_half_a_surrogate_pair_of_utf16_breaks_its_row_alone(tmp_path):
    text = '{"a":"1"}\n{"a":"\ud800"}\n{"a":"2"}\n'
    (tmp_path / "rows.jsonl").write_bytes(text.encode("utf-16-le", "surrogatepass"))
    assert [row.problem for row in read(tmp_path / "rows.jsonl")] == ["", "invalid UTF-8", ""]
    (tmp_path / "rows.jsonl").write_bytes(text[:20].encode("utf-16-le", "surrogatepass")[:-1])
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
@pytest.mark.parametrize(
    "text",
    [
        '{"a":"é一"}{"a":"b"}',
        '{"a":"é一"},\n{"a":"b"},\n',
        '{\n "a": "é一"\n}\n{\n "a": "b"\n}\n',
        '{\n "a": "é一"\n},\n{\n "a": "b"\n}',
        '\n\n{"a":"é一"}\n\n{"a":"b"}\n\n\n',
    ],
)
def test_objects_one_after_the_other_are_rows(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert [row.fields for row in read(tmp_path / name)] == OBJECTS


@pytest.mark.parametrize("first", ['{"a": "b', "{", '{"a": ', "{]"])
def test_a_broken_first_line_is_one_bad_row(tmp_path, first):
    (tmp_path / "rows.jsonl").write_text(first + '\n{"a":"é一"}\n{"a":"b"}\n')
    rows = read(tmp_path / "rows.jsonl")
    assert [row.problem for row in rows] == ["not JSON", "", ""]
    assert [row.fields for row in rows[1:]] == OBJECTS


@pytest.mark.parametrize("first", [True, False])
def test_rows_on_many_lines_are_not_taken_apart_where_one_is_broken(tmp_path, first):
    rows = [{"a": [{"a": i}]} for i in range(3)]
    text = "\n".join(json.dumps(row, indent=1) for row in rows)
    broken = f'"a": {int(not first)}'
    for cut in (text.replace(broken, "a"), text[:-3], '{"data": [\n{"a": 1},\n{"a": 2},\n'):
        (tmp_path / "rows.jsonl").write_text(cut)
        with pytest.raises(ValueError, match=r"^rows.jsonl cannot be read at row \d"):
            read(tmp_path / "rows.jsonl")


def test_files_joined_into_one_keep_their_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"a":"\xc3\xa9\xe4\xb8\x80"}\n' * 2)
    assert [row.fields for row in read(tmp_path / "rows.jsonl")] == OBJECTS[:1] * 2


@pytest.mark.parametrize("head", [1 << 20, 40])
@pytest.mark.parametrize(
    "text",
    [
        '[{"role":"user","content":"x"}]\n[{"role":"user","content":"y"}]\n',
        '[[{"role":"user","content":"x"}],\n [{"role":"user","content":"y"}]]',
        '[\n{"role":"user",\n"content":"x"}\n]\n[\n{"role":"user","content":"y"}]',
    ],
)
def test_lists_of_messages_are_rows_of_one_column(tmp_path, monkeypatch, text, head):
    if text.startswith("[\n") and head < 100:
        pytest.skip("a row that is longer than what is looked at")
    monkeypatch.setattr(reading, "_WINDOW", head)
    (tmp_path / "rows.jsonl").write_text(text)
    contents = [row.fields["messages"][0]["content"] for row in read(tmp_path / "rows.jsonl")]
    assert contents == ["x", "y"]


def test_an_object_of_a_conversation_on_many_lines_is_a_row(tmp_path):
    row = {"messages": [{"role": "user", "content": "x"}], "tools": [{"name": "y"}]}
    for count in (1, 3):
        (tmp_path / "rows.json").write_text("\n".join([json.dumps(row, indent=1)] * count))
        assert [found.fields for found in read(tmp_path / "rows.json")] == [row] * count


def test_a_document_longer_than_what_is_looked_at_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_WINDOW", 64)
    (tmp_path / "rows.json").write_text(json.dumps({"version": 1, "data": OBJECTS * 20}, indent=1))
    assert [row.fields for row in read(tmp_path / "rows.json")] == OBJECTS * 20


@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        ("a.tsv", "prompt\tresponse\n1,5; a\t2\n", [["1,5; a", "2"]]),
        ("a.csv", "prompt\tresponse\n1,5\t2\n", [["1,5", "2"]]),
        ("a.csv", 'prompt;response\n"a;b, c";2\n', [["a;b, c", "2"]]),
        ("a.csv", "sep=;\r\nprompt;response\r\n1,5;2\r\n", [["1,5", "2"]]),
        ("a.csv", "prompt,response\na;b;c,d\n", [["a;b;c", "d"]]),
        ("a.csv", "\n \nprompt,response\na,b\n\n,\n \nc,d\n\n", [["a", "b"], ["c", "d"]]),
        ("a.csv", 'prompt,response\n"a\n\nb",c\n', [["a\n\nb", "c"]]),
        ("a.csv", "prompt\nwhat; is, it\n", None),
        ("a.csv", "prompt\nwhat; is it\n", [["what; is it"]]),
    ],
)
def test_what_parts_the_cells_of_a_csv_is_told_by_its_header(tmp_path, name, text, rows):
    (tmp_path / name).write_text(text, newline="")
    found = read(tmp_path / name)
    if rows is None:
        assert [row.problem for row in found] == ["another number of cells than the header"]
    else:
        assert [list(row.fields.values()) for row in found] == rows


@pytest.mark.parametrize("open_writer", [pa.ipc.new_stream, pa.ipc.new_file])
def test_arrow_is_read_as_stream_and_as_file(tmp_path, open_writer):
    columns = {
        "text": pa.array(["x", "é"]).dictionary_encode(),
        "view": pa.array(["x", "y"], pa.string_view()),
        "messages": pa.array([[{"role": "user"}]] * 2),
        "number": [1.5, None],
        "image": [b"\xff\xd8", b"\x89"],
    }
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink:
        content = pa.table(columns)
        with open_writer(sink, content.schema) as writer:
            writer.write_table(content)
    (file,) = source_files(tmp_path / "a.arrow")
    found = [row.fields for row in reading.read(file, ("text", "view", "messages", "number"))]
    assert found[1] == {"text": "é", "view": "y", "messages": [{"role": "user"}], "number": None}
    assert reading.column_names(file) == list(columns)
    assert [row.problem for row in reading.read(file)] == ["invalid UTF-8"] * 2


def test_columns_that_are_not_used_are_not_read(tmp_path):
    bad = pa.StringArray.from_buffers(2, *pa.array([b"\xff", b"fine"]).buffers()[1:])
    content = pa.table({"prompt": ["a", "b"], "response": ["c", "d"], "image": bad})
    pq.write_table(content, tmp_path / "rows.parquet")
    assert [row.question for row in rows_of(tmp_path / "rows.parquet")] == ["a", "b"]


def test_what_a_saved_dataset_does_not_list_is_none_of_its_files(tmp_path):
    for name in ("data-00000-of-00001.arrow", "cache-0123.arrow"):
        content = (FOLDER / "saved_to_disk" / "data-00000-of-00001.arrow").read_bytes()
        (tmp_path / name).write_bytes(content)
    state = (FOLDER / "saved_to_disk" / "state.json").read_text()
    (tmp_path / "state.json").write_text(state)
    assert [file.name for file in source_files(tmp_path)] == ["data-00000-of-00001.arrow"]
    (tmp_path / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(ValueError, match=r"00001.arrow is missing, which the state.json"):
        source_files(tmp_path)
    for damaged in ("[", "[]", "{}", '{"_data_files": 3}', "[" * 100_000):
        (tmp_path / "state.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"state.json cannot be read"):
            source_files(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"\n<!DOCTYPE html><html>", "is a web page, .*; fetch the file itself"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("a.parquet", b'{"a": 1}\n', r"is text, and its name says \.parquet"),
        ("a.arrow", b"PAR1 and more", r"is Parquet, which its name does not say; name it \.parq"),
        ("a.parquet", b"ARROW1 and more", r"is an Arrow file, .*; name it \.arrow"),
        ("a.jsonl", b"\x28\xb5\x2f\xfd", "is Zstandard data, .*; unpack it first"),
        ("a.parquet", b"PARE and more", "is encrypted Parquet"),
        ("a.csv", b"SQLite format 3\0", "is an SQLite database"),
    ],
)
def test_a_form_that_is_not_read_is_named_and_is_not_called_damaged(
    tmp_path, name, content, message
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^{name} {message}") as error:
        read(tmp_path / name)
    assert "damaged" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", b""),
        ("a.arrow", b""),
        ("a.parquet", b"PAR1"),
        ("a.arrow", (FOLDER / "saved_to_disk/data-00000-of-00001.arrow").read_bytes()[:3000]),
    ],
)
def test_tables_that_are_cut_short_are_damaged(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^{name} cannot be read"):
        read(tmp_path / name)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text("{}")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "d.jsonl").symlink_to("/nowhere")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    for path, message in {
        tmp_path / "a.jsonl": "to be a file, got a named pipe",
        tmp_path: r"a\.jsonl to be a file, got a named pipe",
        tmp_path / "zero.csv": "to be a file, got a device",
        tmp_path / "c": "d.jsonl is a link to nothing",
    }.items():
        with pytest.raises(ValueError, match=message):
            source_files(path)


def packed(path, content, times, start=b""):
    with gzip.open(path, "wb", 1) as file:
        file.write(start)
        for _ in range(times):
            file.write(content)


@pytest.mark.parametrize(
    ("name", "start", "content"),
    [
        ("a.jsonl.gz", b"", b"\0"),
        ("a.jsonl.gz", b"", b"\n"),
        ("a.jsonl.gz", b"", b'{"a":1}' + b" " * 1000 + b"\n"),
        ("a.csv.gz", b"", b"a"),
        ("a.csv.gz", b"a,b\n", b"\n"),
        ("a.json.gz", b'["', b"a"),
    ],
)
def test_packed_bombs_end_in_one_line_in_bounded_memory(
    tmp_path, monkeypatch, name, start, content
):
    monkeypatch.setattr(reading, "_MOST_BLANK", 1 << 14)
    monkeypatch.setattr(files, "_UNPACKED_FREELY", 1 << 21)
    monkeypatch.setattr(files, "_MOST_PACKED", 50)
    packed(tmp_path / name, content * (1 + (1 << 20) // len(content)), 60, start)
    tracemalloc.start()
    started = time.monotonic()
    with pytest.raises(ValueError, match=f"^{name} (unpacks to more|has more than .* blank)"):
        read(tmp_path / name)
    assert time.monotonic() - started < 20
    assert tracemalloc.get_traced_memory()[1] < 60 << 20
    tracemalloc.stop()


def test_rows_that_repeat_themselves_are_no_bomb(tmp_path):
    packed(tmp_path / "a.jsonl.gz", b'{"a": "the same again and again"}\n' * 30, 1000)
    assert len(read(tmp_path / "a.jsonl.gz")) == 30_000


def test_a_line_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_LONGEST", 1000)
    (tmp_path / "a.jsonl").write_text('{"a":"' + "x" * 2000)
    with pytest.raises(ValueError, match=r"^a.jsonl has a row or a line of more than 1,000"):
        read(tmp_path / "a.jsonl")


def zipped(path, content=b'{"a": 1}', method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.jsonl", content)
    return bytearray(path.read_bytes())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [((6, 8), 1, "is encrypted"), ((8, 10), 97, "cannot be read .*compression method is not supp")],
)
def test_archives_that_cannot_be_unpacked_say_why(tmp_path, field, value, message):
    content = zipped(tmp_path / "a.zip")
    content[field[0]] = content[content.index(b"PK\1\2") + field[1]] = value
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^a\.zip:a\.jsonl {message}") as error:
        read(tmp_path / "a.zip")
    assert "\n" not in str(error.value)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    zipped(tmp_path / "a.zip", b" " * (70 << 20))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(ValueError, match=r"^a\.zip unpacks to more than 500 times"):
        source_files(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: table(100, a=["x" * 1_000_000]), "unpacks to more than"),
        (
            lambda: pa.table({"a": pa.DictionaryArray.from_arrays([0] * 500_000, ["x" * 900_000])}),
            "unpacks to more than",
        ),
        (lambda: pa.table({"a": pa.nulls(3_000_000, pa.string())}), "says to have 3,000,000 rows"),
    ],
    ids=["pages", "dictionary", "rows"],
)
def test_parquet_bombs_are_refused(tmp_path, content, message):
    pq.write_table(content(), tmp_path / "a.parquet", compression="zstd")
    before = pa.total_allocated_bytes()
    with pytest.raises(ValueError, match=f"^a.parquet {message}"):
        read(tmp_path / "a.parquet")
    assert pa.total_allocated_bytes() - before < 1 << 28


@pytest.mark.parametrize("deep", ["[" * 100_000 + "]" * 100_000, '{"a":' * 100_000])
def test_what_is_nested_too_deeply_is_a_bad_row_or_one_line(tmp_path, deep):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' + f'{{"a": {deep}\n' + '{"a": 1}\n')
    problems = [row.problem for row in read(tmp_path / "a.jsonl")]
    assert problems == ["", "nested too deeply", ""]
    (tmp_path / "a.json").write_text(f'[{{"a": 1}}, {{"a": {deep}')
    with pytest.raises(ValueError, match=r"^a.json cannot be read at row 2 \(it is nested too dee"):
        read(tmp_path / "a.json")


def test_a_number_of_absurdly_many_digits_is_not_called_damage(tmp_path):
    (tmp_path / "a.json").write_text(f'[{{"a": 1}}, {{"a": {"9" * 5000}}}]')
    with pytest.raises(ValueError, match=r"^a.json cannot be read at row 2 \(Exceeds the limit"):
        read(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["A.JSONL", "a.Csv", "A.JSON.GZ", "a.ZIP"])
def test_the_case_of_a_suffix_does_not_matter(tmp_path, name):
    text = b"a\nb\n" if "Csv" in name else b'{"a": "b"}'
    if name == "a.ZIP":
        zipped(tmp_path / name, text)
    else:
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("GZ") else text)
    assert [row.fields for row in read(tmp_path)] == [{"a": "b"}]


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.csv.BZ2", "a.parquet.gz", "sub/a.json.xz"])
def test_a_file_that_is_packed_otherwise_is_not_passed_over(tmp_path, name):
    (tmp_path / "sub").mkdir()
    for file in ("b.jsonl", "notes.txt", "a.json.bak", name):
        (tmp_path / file).write_text("{}")
    with pytest.raises(ValueError, match=f"^{name} is packed as .*; unpack it first"):
        source_files(tmp_path)
    (tmp_path / name).unlink()
    assert [file.name for file in source_files(tmp_path)] == ["b.jsonl"]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.jsonl.zst"])
def test_tables_in_an_archive_are_not_passed_over(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("b.jsonl", "{}")
        archive.writestr(name, "")
    with pytest.raises(ValueError, match=f"{name} .*; unpack it first"):
        source_files(tmp_path)


def test_an_archive_with_two_files_of_one_name_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, pytest.warns(UserWarning):
        archive.writestr("b.jsonl", "{}")
        archive.writestr("b.jsonl", "{}")
    with pytest.raises(ValueError, match=r"^a.zip holds several files of one name"):
        source_files(tmp_path)


@pytest.mark.parametrize("open_writer", [pa.ipc.new_stream, pa.ipc.new_file])
def test_arrow_offsets_that_point_anywhere_do_not_end_the_process(tmp_path, open_writer):
    table = pa.table({"a": ["q" * 7] * 3})
    path = tmp_path / "a.arrow"
    with open_writer(path, table.schema) as writer:
        writer.write_table(table)
    offsets = struct.pack("<4i", 0, 7, 14, 21)
    content = path.read_bytes()
    assert content.count(offsets) == 1
    path.write_bytes(content.replace(offsets, struct.pack("<4i", 0, 7, 1 << 30, 21)))
    with pytest.raises(ValueError, match=r"^a.arrow cannot be read"):
        read(tmp_path)
