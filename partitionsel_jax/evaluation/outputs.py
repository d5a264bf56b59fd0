"""The folder of an evaluation: its settings, its outputs as lines, its summary."""

import json
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

from partitionsel_jax.file_errors import one_line, reading
from partitionsel_jax.json_files import INTEGER, check_fields, read_fields, write_json

SETTINGS, OUTPUTS, SUMMARY = "settings.json", "outputs.jsonl", "summary.json"

_ANEW = "restore it from a copy, or evaluate again in another folder"
_LINE_ANEW = "take that line out and evaluate again, which answers the question anew"
_TEXTS = ("id", "question", "group", "prompt", "output", "answer", "reference")
_FIELDS: Mapping[str, Any] = dict.fromkeys(_TEXTS, str) | {
    "scores": dict,
    "too_long": bool,
    "dropped_examples": INTEGER,
}

Row = dict[str, Any]


def claim(folder: epath.Path, settings: Mapping[str, Any]) -> None:
    """Makes a folder an evaluation's own, unless it is already.

    Raises:
      ValueError: it holds one with other settings (the differing ones are named), or one without.
    """
    ours = json.loads(json.dumps(settings))
    if not (folder / SETTINGS).exists():
        if (folder / OUTPUTS).exists():
            raise ValueError(f"{folder} holds outputs without {SETTINGS}: choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SETTINGS, ours)
    elif changed := differences(read_settings(folder), ours):
        raise ValueError(
            f"{folder} holds an evaluation with other settings ({'; '.join(changed)}): choose "
            "another folder, or the settings that it was started with"
        )


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Names what differs between two settings."""
    return [
        f"{name}: {theirs.get(name)!r} there, {ours.get(name)!r} now"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]


def read_settings(folder: epath.Path) -> dict[str, Any]:
    """Reads the settings of an evaluation, which name its benchmark; ValueError if damaged."""
    return read_fields(folder / SETTINGS, {"benchmark": str}, _ANEW)


def read_finished(folder: epath.Path) -> dict[str, Row]:
    """Reads id -> row of an evaluation that has answered all of its questions.

    Raises:
      ValueError: it has not, or a file is damaged: named with its line.
    """
    for file in (SETTINGS, OUTPUTS, SUMMARY):
        if not (folder / file).exists():
            raise ValueError(
                f"{folder} is not the folder of a finished evaluation, as it lacks {file}: "
                "name the one that experiments.evaluate wrote, and let it finish"
            )
    rows = read_outputs(folder / OUTPUTS)
    if (count := read_fields(folder / SUMMARY, {"n": INTEGER}, _ANEW)["n"]) != len(rows):
        raise ValueError(
            f"{folder / OUTPUTS} holds {len(rows)} outputs, and {SUMMARY} is of {count}: some "
            "were lost; evaluate again by the same command, which answers those anew"
        )
    return rows


def read_outputs(path: epath.Path) -> dict[str, Row]:
    """Reads id -> row; a last line that is cut off is left out.

    Raises:
      ValueError: another damaged line, or an id that came twice.
    """
    # What follows the last line's end was being written when the process was killed.
    with reading(path):
        *lines, _ = path.read_bytes().split(b"\n")
    rows: dict[str, Row] = {}
    for number, line in enumerate(lines, 1):
        place = f"{path}, line {number}"
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place}: no JSON ({one_line(error)}): {_LINE_ANEW}") from None
        check_fields(row, _FIELDS, place, _LINE_ANEW)
        scores = row["scores"]
        metrics = next(iter(rows.values()), row)["scores"].keys()
        wrong = ""
        if strange := row.keys() - _FIELDS.keys():
            wrong = f"a field {min(strange)!r} of another version"
        elif row["id"] in rows:
            wrong = f"the question {row['id']!r} again"
        elif not all(
            isinstance(one, int | float) and math.isfinite(one) for one in scores.values()
        ):
            wrong = f"scores that are no numbers: {scores}"
        elif not metrics or scores.keys() != metrics:
            wrong = f"other scores than {', '.join(sorted(metrics)) or 'none'} of the first line"
        if wrong:
            raise ValueError(f"{place} has {wrong}: it was damaged or edited; {_LINE_ANEW}")
        rows[row["id"]] = row
    return rows


def line_of(row: Mapping[str, Any]) -> str:
    """Writes a row as its line of the outputs."""
    return json.dumps(row, allow_nan=False) + "\n"
