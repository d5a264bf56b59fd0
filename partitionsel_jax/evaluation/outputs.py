"""The folder of an evaluation: its settings, its outputs as lines, its summary."""

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from etils import epath

from partitionsel_jax.file_errors import one_line, reading
from partitionsel_jax.json_files import INTEGER, is_a, read_json, write_json, write_text

SETTINGS, OUTPUTS, SUMMARY = "settings.json", "outputs.jsonl", "summary.json"

# What a line holds.
_FIELDS: Mapping[str, type] = {
    "id": str,
    "question": str,
    "group": str,
    "prompt": str,
    "output": str,
    "answer": str,
    "reference": str,
    "scores": dict,
    "too_long": bool,
    "dropped_examples": int,
}


def claim(folder: epath.Path, settings: Mapping[str, Any]) -> None:
    """Makes a folder an evaluation's own, unless it is already.

    Raises:
      ValueError: it holds one with other settings (the differing ones are named), or one without.
    """
    ours = json.loads(json.dumps(settings))
    path = folder / SETTINGS
    if not path.exists():
        if (folder / OUTPUTS).exists():
            raise ValueError(f"{folder} holds outputs without {SETTINGS}: choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, ours)
        return
    if changed := differences(read_settings(folder), ours):
        raise ValueError(
            f"{folder} holds an evaluation with other settings ({'; '.join(changed)}): choose "
            "another folder, or the settings that it was started with"
        )


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """What differs between two settings, by name."""
    return [
        f"{name}: {theirs.get(name)!r} there, {ours.get(name)!r} now"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]


def read_settings(folder: epath.Path) -> dict[str, Any]:
    """The settings of an evaluation.

    Raises:
      ValueError: a file that is damaged, or names no benchmark.
    """
    return _object(folder / SETTINGS, "benchmark", str)


def read_count(folder: epath.Path) -> int:
    """How many questions a finished evaluation has answered.

    Raises:
      ValueError: a summary that is damaged, or does not tell.
    """
    return _object(folder / SUMMARY, "n", INTEGER)["n"]


def _object(path: epath.Path, field: str, kind: Any) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict) or not is_a(value.get(field), kind):
        raise ValueError(
            f"{path}: expected an object with {field!r}, got {str(value)[:40]}; the file was "
            "damaged or edited: restore it from a copy, or evaluate again in another folder"
        )
    return value


class Outputs:
    """An append-only file with one JSON object for each question, which a restart continues.

    Attributes:
      rows: id -> its row.

    Args:
      path: the file; made when missing.
      ids: of the questions that it is for.

    Raises:
      ValueError: a damaged line before the last, or one of another question.
    """

    def __init__(self, path: epath.Path, ids: Collection[str]):
        self.rows = read_outputs(path) if path.exists() else {}
        if strange := [name for name in self.rows if name not in ids]:
            raise ValueError(
                f"{path} holds the question {strange[0]!r}, which is none of this evaluation's: it "
                "was edited; choose another folder"
            )
        write_text(path, "".join(map(_line, self.rows.values())))
        self._file = path.open("a")

    def append(self, row: Mapping[str, Any]) -> None:
        self.rows[row["id"]] = dict(row)
        self._file.write(_line(row))

    def flush(self) -> None:
        """Hands what was appended to the system, so that a kill does not lose it."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_outputs(path: epath.Path) -> dict[str, dict[str, Any]]:
    """id -> row; a last line that is cut off is left out.

    Raises:
      ValueError: another damaged line, or an id that came twice.
    """
    # What follows the last line's end was being written when the process was killed.
    with reading(path):
        *lines, _ = path.read_bytes().split(b"\n")
    rows: dict[str, dict[str, Any]] = {}
    metrics: set[str] = set()
    for number, line in enumerate(lines, 1):
        try:
            row = _row(line)
            metrics = metrics or set(row["scores"])
            if row["id"] in rows:
                raise ValueError(f"{row['id']!r} again")
            if set(row["scores"]) != metrics:
                raise ValueError(
                    f"other scores than {', '.join(sorted(metrics))} of the first line"
                )
        except ValueError as error:
            reason = "invalid UTF-8" if isinstance(error, UnicodeDecodeError) else error
            raise ValueError(
                f"{path}, line {number}: expected the output of a question, got {reason}; the file "
                "was damaged or edited: take that line out and evaluate again, which answers the "
                "question anew"
            ) from None
        rows[row["id"]] = row
    return rows


def _row(line: bytes) -> dict[str, Any]:
    """A line's content; raises ValueError that says what came instead."""
    try:
        row = json.loads(line.decode())
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"no JSON ({one_line(error)})") from None
    if not isinstance(row, dict):
        raise ValueError(f"{str(row)[:40]!r}")
    for name, kind in _FIELDS.items():
        if not isinstance(row.get(name), kind):
            raise ValueError(f"one whose {name!r} is missing or no {kind.__name__}")
    for metric, score in row["scores"].items():
        if not isinstance(score, int | float) or not math.isfinite(score):
            raise ValueError(f"one whose score {metric!r} is no number: {score!r}")
    if not row["scores"]:
        raise ValueError("one without scores")
    if strange := row.keys() - _FIELDS.keys():
        raise ValueError(f"one with a field {min(strange)!r} of another version")
    return row


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"
