"""The shape of the code: the direction of imports, and the words that it is written in."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "partitionsel_jax"
# A room uses the rooms before it, and none after it.
ROOMS = (
    *("data", "models", "gradients", "selection", "offline", "evaluation", "config"),
    *("distributed", "step", "training", "subset", "planning", "sweeps", "reporting", "studies"),
)
# Packages that import jax and numpy, and nothing of ours.
ALONE = ("selection", "gradients")
# Words with a better one in use: see the glossary that the renaming followed.
RETIRED = re.compile(
    r"\bspoil|\bdear(er|est)?\b|told apart|\bUnwatched\b|last words", re.IGNORECASE
)
# What has to know an old name: a refusal or a reader of older logs, and a random stream's name.
REMEMBER = {
    "config/data_section.py",
    "data/label_noise.py",
    "reporting/runs.py",
    "configs/common.py",
}
OPENINGS = re.compile(r"(Of|As|Those|What|Whether)\b")


def sources():
    for folder in ("partitionsel_jax", "experiments", "configs"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def room_of(path: Path) -> str | None:
    parts = path.relative_to(PACKAGE).parts if path.is_relative_to(PACKAGE) else ()
    return parts[0] if len(parts) > 1 else None


def imported_rooms(path: Path) -> set[str]:
    """The second parts of everything of ours that a module imports, at its top or later."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "partitionsel_jax":
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("partitionsel_"):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names = [name.name.split(".") for name in node.names]
            found |= {parts[1] for parts in names if parts[0] == "partitionsel_jax" and parts[1:]}
    return found


def test_every_room_has_its_place():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_one_way(room):
    above = set(ROOMS[: ROOMS.index(room) + 1])
    for path in sorted((PACKAGE / room).rglob("*.py")):
        imported = imported_rooms(path)
        assert imported & set(ROOMS) <= above, path
        if room in ALONE:
            assert imported <= {room}, path


def test_selection_imports_jax_and_numpy_alone():
    found = set()
    for path in (PACKAGE / "selection").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
            elif isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
    assert found - set(sys.stdlib_module_names) == {"jax", "numpy", "partitionsel_jax"}


def test_modules_at_the_top_use_no_room():
    for path in PACKAGE.glob("*.py"):
        assert not imported_rooms(path) & set(ROOMS), path


def test_docstrings_stand_alone():
    bad = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                if OPENINGS.match(text):
                    bad.append(f"{path.relative_to(ROOT)}: {text.splitlines()[0]}")
    assert not bad, "\n".join(bad)


def test_retired_words_are_gone():
    bad = []
    for path in [*sources(), ROOT / "README.md", ROOT / "RESULTS.md"]:
        if any(path.as_posix().endswith(name) for name in REMEMBER):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if RETIRED.search(line):
                bad.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not bad, "\n".join(bad)
