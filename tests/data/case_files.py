"""Files that people have reported on, read all the way from a file to rows of a corpus."""

import json
from pathlib import Path

from partitionsel_jax.data.sources.files import source_files
from partitionsel_jax.data.sources.scanning import Tally, good_rows
from partitionsel_jax.data.sources.schemas import Columns, schema_of

FOLDER = Path(__file__).with_name("cases")
TEMPLATES = FOLDER / "templates"
PLAIN = Columns(domain="")
MESSAGES = Columns(messages="messages", domain="")
SHAREGPT = Columns(messages="conversations", domain="")
# What nearly all of them ask and answer.
ASKED = [
    (row["prompt"], str(row["response"]))
    for row in map(json.loads, (FOLDER / "int_answers.jsonl").read_text().splitlines())
]


def rows_of(path, columns=PLAIN, tally=None):
    """The good rows of a file or directory."""
    schema = schema_of("instructions", columns)
    return list(good_rows(source_files(path), schema, (), tally or Tally()))


def written(folder, *rows, name="rows.jsonl"):
    """A file of JSON Lines."""
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
