"""No cell of a CSV file that is written here is a formula to a spreadsheet."""

import csv
import io

import pytest

from partitionsel_jax.csv_files import from_csv, to_csv

TEXTS = ["=1+1", "+x", "-x", "@sum", "\tx", "\rx", "\nx", "=cmd|' /C calc'!A0", "-", "'=x", "''-x"]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_that_begin_like_formulas_are_marked_as_text_and_read_back(text):
    written = to_csv([["name", text], [text, 1]])
    cells = [cell for line in csv.reader(io.StringIO(written, newline="")) for cell in line]
    assert cells == ["name", f"'{text}", f"'{text}", "1"]
    assert from_csv(written) == [{"name": text, text: "1"}]


@pytest.mark.parametrize(
    "cell",
    [-0.5, -3, "-0.5", "-1e-05", "+2", "-inf", "", "random", "it's", "'x'", "a=b", 'say "x"'],
)
def test_numbers_stay_numbers_and_other_texts_texts(cell):
    written = to_csv([["name"], [cell]])
    assert list(csv.reader(io.StringIO(written))) in ([["name"], [str(cell)]], [["name"], []])
    assert from_csv(written) in ([{"name": str(cell)}], [])


def test_no_line_begins_inside_of_a_cell():
    (row,) = from_csv(to_csv([["name"], ["a\r=1+1"]]))
    assert row == {"name": "a\r=1+1"}
