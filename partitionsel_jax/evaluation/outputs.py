"""The folder of an evaluation: its settings, its outputs as lines, its summary."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from etils import epath

from partitionsel_jax.json_files import read_json, write_json, write_text

SETTINGS, OUTPUTS, SUMMARY = "settings.json", "outputs.jsonl", "summary.json"


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
    theirs = read_json(path)
    changed = [
        f"{name}: {theirs.get(name)!r} there, {ours.get(name)!r} now"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]
    if changed:
        raise ValueError(
            f"{folder} holds an evaluation with other settings ({'; '.join(changed)}): choose "
            "another folder, or the settings that it was started with"
        )


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
    *lines, _ = path.read_text().split("\n")
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            name = row["id"]
        except (ValueError, KeyError, TypeError):
            row, name = {}, None
        if name is None or name in rows:
            what = "no output" if name is None else f"{name!r} again"
            raise ValueError(
                f"{path}, line {number}: expected the output of a question, got {what}; the file "
                "was edited: take that line out"
            )
        rows[name] = row
    return rows


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"
