"""Hand-made rows in the published formats, with every field, and writers of every file format."""

import csv
import gzip
import itertools
import json
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq

from partitionsel_jax.data.sources.schemas import METAMATHQA_DOMAINS, MOLECULE_DOMAINS

_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "jetty")


def sentence(number, words=8):
    """A sentence that shares no three words in a row with another number's, as a rule."""
    picked = [_WORDS[number * 7 // 10**place % 10] + str(number % 97) for place in range(words)]
    return " ".join(picked)


def metamathqa(questions, domains=METAMATHQA_DOMAINS, variants=1):
    """Rows of MetaMathQA: of every question, so many rows of every domain."""
    return [
        {
            "type": domain,
            "query": f"{sentence(number)}, asked as {domain} {variant}?",
            "original_question": f"{sentence(number)}?",
            "response": f"Step by step: {number}.\n#### {number}\nThe answer is: {number}",
        }
        for number, domain, variant in itertools.product(range(questions), domains, range(variants))
    ]


def selfies(number, symbols=12):
    """A made-up molecule."""
    alphabet = ("[C]", "[N]", "[O]", "[=C]", "[Ring1]", "[Branch1]", "[F]", "[S]", "[P]", "[Cl]")
    return "".join(alphabet[(number + 1) * 7919 // 3**place % 10] for place in range(symbols))


def molecules(task, questions, test=0):
    """Rows of a file of Mol-Instructions; the last `test` of them are marked for testing."""
    # No two tasks share a molecule, but for those that have no files of their own.
    first = 10_000 * MOLECULE_DOMAINS.index(task) if task in MOLECULE_DOMAINS else 0
    arrow = ">>" if task == "reagent_prediction" else "."
    return [
        {
            "instruction": ("Name the product.", "What comes out of this?")[number % 2],
            "input": f"{selfies(first + number)}{arrow}{selfies(first + number + 500)}",
            "output": selfies(first + number + 1000),
            "metadata": {
                "task": task.replace("_", " "),
                "split": "test" if number >= questions - test else "train",
            },
        }
        for number in range(questions)
    ]


def molecule_archive(path, questions=8, test=2, **more):
    """The published archive: a JSON array for each task, and whatever else is given."""
    files = {task: molecules(task, questions, test) for task in MOLECULE_DOMAINS} | more
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for task, rows in files.items():
            name = f"Molecule-oriented_Instructions/{task}.json"
            archive.writestr(name, json.dumps(rows, indent=4, ensure_ascii=False))
        archive.writestr("__MACOSX/._retrosynthesis.json", b"\0\5\26\7")
    return path


def instructions(questions, domains=("prose", "code")):
    """Rows of a user's own, with every column that `Columns` can name."""
    return [
        {
            "prompt": f"Say this again: {sentence(number)}",
            "input": "" if number % 3 else f"the {number}th time",
            "response": f"{sentence(number)}\n#### {number}",
            "domain": domains[number % len(domains)],
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": f"Say this again: {sentence(number)}"},
                {"role": "assistant", "content": f"{sentence(number)} é"},
            ],
        }
        for number in range(questions)
    ]


def _write_json(path, rows):
    path.write_text(json.dumps(rows, indent=2, ensure_ascii=False))


def _write_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write_packed(path, rows):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(map(json.dumps, rows)))


def _write_csv(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        nested = (list, dict)
        for row in rows:
            cells = {k: json.dumps(v) if isinstance(v, nested) else v for k, v in row.items()}
            writer.writerow(cells)


def _write_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)


def _write_zip(path, rows):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("below/rows.json", json.dumps(rows))


WRITERS = {
    "rows.json": _write_json,
    "rows.jsonl": _write_lines,
    "lines.json": _write_lines,
    "rows.jsonl.gz": _write_packed,
    "rows.csv": _write_csv,
    "rows.parquet": _write_parquet,
    "rows.zip": _write_zip,
}


def write(folder, name, rows):
    """Writes rows in the format that the name says; returns the path."""
    WRITERS[name](folder / name, rows)
    return folder / name
