import csv
import gzip
import json
import os
import time
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from partitionsel_jax.data.sources import reading
from partitionsel_jax.data.sources.files import content_digest, source_files
from tests.data import source_rows

ROWS = source_rows.instructions(20)


def read(path):
    return [row for file in source_files(path) for row in reading.read(file)]


def only(path):
    (file,) = source_files(path)
    return file


@pytest.mark.parametrize("name", source_rows.WRITERS)
def test_every_format_gives_the_rows_that_were_written(tmp_path, name):
    rows = read(source_rows.write(tmp_path, name, ROWS))
    assert [row.number for row in rows] == list(range(1, len(ROWS) + 1))
    assert not any(row.problem for row in rows)
    expected = ROWS
    if name == "rows.csv":
        texts = [json.dumps(row["messages"]) for row in ROWS]
        expected = [row | {"messages": text} for row, text in zip(ROWS, texts, strict=True)]
    assert [row.fields for row in rows] == expected


@pytest.mark.parametrize("window", [4, 7, 64])
def test_a_json_array_does_not_depend_on_where_its_windows_end(tmp_path, monkeypatch, window):
    rows = [
        {"text": 'é "quoted" \\ ' * i, "n": [i, -1.5e-7, None, True], "u": "\u2028"}
        for i in range(9)
    ]
    (tmp_path / "rows.json").write_bytes(b"\xef\xbb\xbf\n " + json.dumps(rows).encode())
    monkeypatch.setattr(reading, "_WINDOW", window)
    assert [row.fields for row in read(tmp_path / "rows.json")] == rows


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
def test_invalid_utf8_breaks_its_row_alone(tmp_path, name):
    path = source_rows.write(tmp_path, name, ROWS)
    damaged = path.read_bytes().replace(b"the 3th time", b"the \xff time")
    path.write_bytes(damaged)
    assert [(row.number, row.problem) for row in read(path) if row.problem] == [
        (4, "invalid UTF-8")
    ]


def test_invalid_utf8_in_parquet_breaks_its_row_alone(tmp_path):
    messages = [[{"role": b"user", "content": text}] for text in (b"a", "é".encode(), b"\xe9")]
    texts = pa.array([b"fine", b"\xff", b"fine"])
    # The bytes are labelled as text, as a careless writer would.
    text = pa.StringArray.from_buffers(3, *texts.buffers()[1:])
    table = pa.table({"text": text, "messages": pa.array(messages)})
    pq.write_table(table, tmp_path / "rows.parquet")
    rows = read(tmp_path / "rows.parquet")
    assert [row.problem for row in rows] == ["", "invalid UTF-8", "invalid UTF-8"]
    assert rows[0].fields == {"text": "fine", "messages": [{"role": "user", "content": "a"}]}


def test_invalid_utf8_in_parquet_categories_is_told_of_their_file(tmp_path):
    texts = pa.array([b"fine", b"\xff", "é".encode()])
    text = pa.StringArray.from_buffers(3, *texts.buffers()[1:])
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 1, None]), text)
    nested = pa.ListArray.from_arrays([0, 1, 2, 3, 4, 5], pa.StructArray.from_arrays([column], "d"))
    for values in (column, nested):
        pq.write_table(pa.table({"domain": values}), tmp_path / "rows.parquet")
        with pytest.raises(ValueError, match=r"^rows.parquet cannot be read \(Invalid UTF8"):
            read(tmp_path / "rows.parquet")


def test_parquet_categories_are_text(tmp_path):
    column = pa.array(["é", "b", "é"]).dictionary_encode()
    pq.write_table(pa.table({"domain": column}), tmp_path / "rows.parquet")
    assert [row.fields["domain"] for row in read(tmp_path / "rows.parquet")] == ["é", "b", "é"]


def test_lines_that_are_no_object_are_told_by_their_number(tmp_path):
    lines = ['{"a": 1}', "", "{", "[1]", '{"a": 2}', "9" * 5000]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    found = [(row.number, row.problem) for row in read(tmp_path / "rows.jsonl")]
    assert found == [(1, ""), (3, "not JSON"), (4, "not a JSON object"), (5, ""), (6, "not JSON")]


def test_csv_lines_of_another_length_are_told_by_their_number(tmp_path):
    (tmp_path / "rows.csv").write_text('a,b\n1,2\n1\n"1"x,2\n"1\n",2\n')
    problems = [row.problem for row in read(tmp_path / "rows.csv")]
    assert problems == ["", "another number of cells than the header", "not CSV", ""]


def test_a_csv_cell_of_a_megabyte_is_read_and_the_limit_of_csv_is_left_alone(tmp_path):
    long = "lorem, " * 150_000
    (tmp_path / "rows.csv").write_text(f'a,b\n1,2\n"{long}",3\n4,5\n')
    limits, rows = [], []
    usual = csv.field_size_limit(1234)
    try:
        for row in reading.read(only(tmp_path / "rows.csv")):
            limits.append(csv.field_size_limit())
            rows.append(row.fields)
    finally:
        csv.field_size_limit(usual)
    assert rows == [{"a": "1", "b": "2"}, {"a": long, "b": "3"}, {"a": "4", "b": "5"}]
    assert limits == [1234] * 3


def test_a_csv_cell_without_an_end_is_not_read_to_the_end_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_LONGEST_CELL", 100)
    (tmp_path / "rows.csv").write_text('a,b\n1,2\n"3' + ",4\n5" * 1000)
    with pytest.raises(
        ValueError, match=r"at row 2 \(field larger .*; close the quote that is open"
    ):
        read(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    "name", ["rows.json", "rows.jsonl", "rows.csv", "rows.parquet", "rows.jsonl.gz"]
)
def test_a_truncated_file_is_named(tmp_path, name):
    path = source_rows.write(tmp_path, name, ROWS)
    cut = -30 if name == "rows.csv" else -20
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=rf"{name} cannot be read .*write.* again"):
        read(path)


@pytest.mark.parametrize("name", ["rows.jsonl", "lines.json", "rows.jsonl.gz"])
def test_json_lines_that_end_inside_a_row_are_named(tmp_path, name):
    content = "".join(json.dumps({"text": f"é{i}"}, ensure_ascii=False) + "\n" for i in range(9))
    cut = content.encode().rstrip()
    pack = gzip.compress if name.endswith(".gz") else bytes
    (tmp_path / name).write_bytes(pack(cut))
    assert len(read(tmp_path / name)) == 9
    for end in (-1, -4):  # the latter between the bytes of a letter
        (tmp_path / name).write_bytes(pack(cut[:end]))
        with pytest.raises(ValueError, match=rf"{name} cannot be read at row 9 \(the file"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "row", "reason"),
    [
        ('[{"a": 1}]\n[{"a": 2}]', 1, r"'\[' follows where its JSON ends"),
        ('[{"a": 1}, {"a": 2}]]', 2, r"'\]' follows where its JSON ends"),
        ('[] "', 0, "'\"' follows where its JSON ends"),
        ('[{"a": 1} {"a": 2}]', 1, r"expected ',' or '\]', got '{'"),
        ('[{"a": 1},, {"a": 2}]', 2, "Expecting value"),
        ('[{"a": 1}, {"a": 2},]', 3, "Expecting value"),
        ('[{"a": 1}, {"a": 2}', 2, r"expected ',' or '\]', got the end of the file"),
        ("[", 1, "Expecting value"),
    ],
)
@pytest.mark.parametrize("window", [3, 1 << 20])
def test_an_array_that_is_not_quite_json_is_named_with_the_place(
    tmp_path, monkeypatch, window, text, row, reason
):
    monkeypatch.setattr(reading, "_WINDOW", window)
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(ValueError, match=rf"rows.json cannot be read at row {row} \({reason}"):
        read(tmp_path / "rows.json")


@pytest.mark.parametrize("window", range(1, 25))
def test_a_number_is_not_cut_where_a_window_ends(tmp_path, monkeypatch, window):
    monkeypatch.setattr(reading, "_WINDOW", window)
    (tmp_path / "rows.json").write_text('[{"a": 1}, 1234567.5e+10, 12345, {"a": 2}]')
    found = [(row.number, row.problem) for row in read(tmp_path / "rows.json")]
    assert found == [(1, ""), (2, "not a JSON object"), (3, "not a JSON object"), (4, "")]


@pytest.mark.parametrize("window", [1, 5, 1 << 20])
@pytest.mark.parametrize("indent", [2, None])
def test_the_one_list_of_objects_of_a_document_are_its_rows(tmp_path, monkeypatch, window, indent):
    monkeypatch.setattr(reading, "_WINDOW", window)
    rows = [{"text": 'é "quoted"' * i, "n": [i, 1234567, -1.5e-7], "o": {}} for i in range(9)]
    document = {"version": 1.25, "tags": ["a", [1], {"b": 2}], "of": {"a": [{}]}, "data": rows}
    path = tmp_path / "rows.json"
    for content in (document, {"data": rows}, document | {"none": []}):
        path.write_text(json.dumps(content, indent=indent, ensure_ascii=False) + "\n\n")
        assert [tuple(row) for row in read(path)] == [(i + 1, r, "") for i, r in enumerate(rows)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": [{}], "b": [{}]}, "is one JSON object with several lists of objects; write an arr"),
        ({"a": 1, "b": ["c"]}, "is one JSON object with no list of objects; write an array"),
    ],
)
def test_a_document_without_one_list_of_objects_says_what_to_write(tmp_path, content, message):
    (tmp_path / "rows.json").write_text(json.dumps(content, indent=2))
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "rows.json")


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_one_conversation_is_a_row_and_so_is_any_one_line_of_several(tmp_path, name):
    row = {"messages": [{"role": "user", "content": "a"}], "domain": "b"}
    (tmp_path / name).write_text(json.dumps(row))
    assert [found.fields for found in read(tmp_path / name)] == [row]
    rows = [{"data": [{"a": 1}]}] * 2
    (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    assert [found.fields for found in read(tmp_path / name)] == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "rows.jsonl",
            gzip.compress(b"{}", mtime=0),
            r"is gzip data, .*name it \.gz after .*\.jsonl\.gz",
        ),
        ("rows.csv", b"PAR1 and more", r"is Parquet, which its name does not say; name it \.parq"),
        ("rows.jsonl", b"PK\x03\x04 and more", r"is a zip archive, .*; name it \.zip"),
    ],
)
def test_another_format_than_the_name_says_is_named_with_its_suffix(
    tmp_path, name, content, message
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} {message}"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_two_columns_of_one_name_are_refused(tmp_path, name):
    names = ["a", "b", "a", "", ""]
    if name == "rows.csv":
        (tmp_path / name).write_text(f"{','.join(names)}\n1,2,3,4,5\n")
    else:
        pq.write_table(pa.Table.from_arrays([pa.array([1])] * 5, names), tmp_path / name)
    with pytest.raises(ValueError, match=rf"every column of {name} .* got 'a' twice or more; rena"):
        read(tmp_path / name)


def test_a_damaged_page_of_parquet_is_named(tmp_path):
    path = source_rows.write(tmp_path, "rows.parquet", ROWS)
    content = bytearray(path.read_bytes())
    content[60:200] = bytes(140)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"rows.parquet cannot be read"):
        read(path)


@pytest.mark.parametrize("damage", [slice(90, 120), slice(-20, None)], ids=["inside", "end"])
def test_a_damaged_archive_is_named(tmp_path, damage):
    path = source_rows.write(tmp_path, "rows.zip", ROWS)
    content = bytearray(path.read_bytes())
    content[damage] = bytes(len(content[damage]))
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"rows.zip.* cannot be read"):
        read(path)


def test_a_broken_array_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_WINDOW", 64)
    (tmp_path / "rows.json").write_text('[{"a": 1}, {"a" 2}, ' + '{"a": 3}, ' * 1000 + "{}]")
    asked = []
    original = reading._is_cut
    monkeypatch.setattr(reading, "_is_cut", lambda *a: asked.append(a) or original(*a))
    with pytest.raises(ValueError, match=r"rows.json cannot be read at row 2"):
        read(tmp_path / "rows.json")
    assert len(asked) == 1


def test_a_directory_is_all_its_data_files_in_order_of_their_names(tmp_path):
    for name in ("b/rows.jsonl", "a.json", "c.zip", ".cache/x.json", "dataset_infos.json", "d.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if name == "c.zip":
            with zipfile.ZipFile(path, "w") as archive:
                for member in ("z.csv", "y.json", "x.txt"):
                    archive.writestr(member, "")
        else:
            path.write_text("[]")
    names = [file.name for file in source_files(tmp_path, leave_out=("a",))]
    assert names == ["b/rows.jsonl", "c.zip:y.json", "c.zip:z.csv"]


def test_a_directory_without_data_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("# no rows")
    with pytest.raises(ValueError, match=r"\.jsonl.*found none; name the file or directory"):
        source_files(tmp_path)


def test_the_digest_is_of_names_and_content(tmp_path):
    def digest(name, content):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / name).write_text(content)
        return content_digest(source_files(folder))

    first = digest("a.json", "[1]")
    assert digest("a.json", "[1]") == first
    assert digest("a.json", "[2]") != first
    assert digest("b.json", "[1]") != first


def test_a_file_is_hashed_again_only_when_it_was_touched(tmp_path, monkeypatch):
    path = tmp_path / "rows.json"
    path.write_text("[1]")
    before = content_digest([only(path)])
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", lambda *_: pytest.fail("hashed again"))
        assert content_digest([only(path)]) == before
    path.write_text("[2]")
    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns + 1))
    assert content_digest([only(path)]) != before


def test_packed_parquet_is_not_read(tmp_path):
    (tmp_path / "rows.parquet.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(ValueError, match=r"is packed as \.gz, which \.parquet files are not"):
        source_files(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "[{'a': 1}]",
        '[ // rows\n{"a": 1}]',
        '[{"a": None}]',
    ],
)
def test_what_other_languages_write_is_named_with_its_row(tmp_path, content):
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(ValueError, match=r"^rows.json cannot be read at row \d .* write it again"):
        read(tmp_path / "rows.json")


def test_a_last_line_that_is_whole_is_not_called_damaged(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": "b"}\n{"a": "b",}')
    assert [row.problem for row in read(tmp_path / "rows.jsonl")] == ["", "not JSON"]
    (tmp_path / "rows.jsonl").write_text('{"a": "b"}\n{"a": ' + "9" * 5000 + "}")
    assert [row.problem for row in read(tmp_path / "rows.jsonl")] == ["", "not JSON"]
