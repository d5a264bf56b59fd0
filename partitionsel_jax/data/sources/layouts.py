"""The split of each file of a source, and which files belong to it, as the source itself says.

Split names mean what they say: rows of a test file are test rows or left out, rows of a validation
file are validation rows or left out, and no others are where a domain has such rows. The names are
those that the `datasets` library knows (its documentation, "Structure your repository").
"""

import fnmatch
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from partitionsel_jax.file_errors import reading

SPLITS = TRAIN, VALIDATION, TEST = "train", "validation", "test"
# A word of a file's or folder's name -> the split that it says.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trainset", "trn"), TRAIN),
    **dict.fromkeys(("validation", "valid", "val", "valset", "validset", "validate"), VALIDATION),
    **dict.fromkeys(("dev", "devel", "development", "devset", "minival"), VALIDATION),
    **dict.fromkeys(("test", "testing", "tests", "testset", "tst"), TEST),
    **dict.fromkeys(("testmini", "minitest", "devtest"), TEST),
    **dict.fromkeys(("eval", "evaluation", "heldout", "holdout"), TEST),
}
# Words end at whatever is no letter, and inside "TestData" before its "D".
_LETTERS = re.compile(r"[^\W\d_]+")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+")
# The suffixes that a file's name may have behind all that it says.
_SUFFIXES = re.compile(r"(\.(jsonl?|ndjson|[ct]sv|parquet|arrow|gz|zip))+$", re.IGNORECASE)
# The name that a hub gives the shards of a split; it decides, whatever folder it is in.
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")
_CARD, _STATE = "README.md", "state.json"
# Descriptions of a dataset beside its rows.
DESCRIPTIONS = (
    *("dataset_infos.json", "dataset_info.json", "config.json", "dataset_dict.json"),
    _STATE,
)


def split_of(name: str) -> str:
    """Gives the split that a path below a source's root says; empty where it says none.

    Raises:
      ValueError: it says several.
    """
    path = PurePosixPath(name.replace(":", "/"))
    stem = _SUFFIXES.sub("", path.name)
    shard = _SHARD.fullmatch(stem)
    if shard and len(said := splits_said(shard[1])) == 1:
        return said.pop()
    said = set().union(*map(splits_said, (*path.parent.parts, stem)))
    return _only(said, f"{name} is named for")


def splits_said(part: str) -> set[str]:
    """Gives the splits that the words of a name say."""
    words = [word.lower() for run in _LETTERS.findall(part) for word in _WORD.findall(run)]
    pairs = [one + other for one, other in itertools.pairwise(words) if other == "out"]
    return {SPLIT_NAMES[word] for word in (*words, *pairs) if word in SPLIT_NAMES}


def _only(said: set[str], what: str) -> str:
    """The one split, or empty, of what says it."""
    if len(said) > 1:
        raise ValueError(
            f"{what} the splits {' and '.join(sorted(said))}, and its rows can be of one only; "
            "name or list it otherwise"
        )
    return "".join(said)


class Layout:
    """The descriptions in a source's directory, and what they say of the files below it.

    A README.md may list files by split, as hubs have it: others are none of the dataset then. A
    state.json, as `save_to_disk` writes it, lists the files of its folder; caches lie beside them.
    """

    def __init__(self, root: Path):
        """Reads the descriptions; raises ValueError for one that is damaged or lists no file."""
        self._listed = list(_listed(root / _CARD))
        self._saved = {
            state.parent: _saved(state) for state in sorted(root.rglob(_STATE)) if state.is_file()
        }

    def has(self, path: Path, name: str) -> bool:
        """Returns whether a file, whose name is its path below the root, is of the dataset."""
        saved = self._saved.get(path.parent)
        if saved is not None and path.suffix == ".arrow" and path.name not in saved:
            return False
        return not self._listed or any(_matches(name, pattern) for pattern, _ in self._listed)

    def split(self, name: str) -> str:
        """Gives the split of a file; see `split_of`."""
        archive = name.partition(":")[0]
        found = {
            split
            for pattern, split in self._listed
            if split and (_matches(name, pattern) or _matches(archive, pattern))
        }
        return _only(found, f"{_CARD} lists {name} for") or split_of(name)


def _matches(name: str, pattern: str) -> bool:
    """Returns whether a README lists a path: itself, a pattern, or a folder that it lies in."""
    pattern = pattern.removeprefix("./").rstrip("/")
    # In a hub's patterns, ** stands for no folder as well.
    spellings = {pattern, pattern.replace("**/", ""), f"{pattern}/*"}
    return any(fnmatch.fnmatchcase(name, spelling) for spelling in spellings)


def _saved(state: Path) -> list[str]:
    """The names of the files that a state.json lists, which must be there."""
    with reading(state):
        content = json.loads(state.read_text(encoding="utf-8"))
        if content.get("_indices_data_files"):
            raise ValueError(
                f"{state} lists rows in a file of their own, which is not read; save the dataset "
                "again after flatten_indices()"
            )
        names = [str(file["filename"]) for file in content["_data_files"]]
    for path in (state.with_name(name) for name in names):
        if not path.exists():
            raise ValueError(f"{path} is missing, which the state.json beside it lists; save again")
    return names


def _listed(card: Path) -> Iterator[tuple[str, str]]:
    """Pattern and split of all files that the head of a README lists; "" for no split."""
    if not card.is_file():
        return
    import yaml

    with reading(card):
        text = card.read_text(encoding="utf-8", errors="replace").removeprefix("\ufeff")
        parts = re.split(r"^---\s*$", text, maxsplit=2, flags=re.MULTILINE)
        try:
            head = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
        except yaml.YAMLError:
            return  # a page for people, whose head is of another kind
    for config in _objects(head.get("configs") if isinstance(head, Mapping) else None):
        folder, files = str(config.get("data_dir") or ""), config.get("data_files")
        if files is None:
            yield folder or "*", ""
        elif isinstance(files, Mapping) and "path" not in files:
            files = [{"split": split, "path": paths} for split, paths in files.items()]
        elif not isinstance(files, list):
            files = [files]
        for entry in files or ():
            known = entry if isinstance(entry, Mapping) else {"path": entry}
            paths = known.get("path") or ()
            for path in [paths] if isinstance(paths, str) else paths:
                said = splits_said(str(known.get("split", "")))
                what = f"{_CARD} lists {path} for {known.get('split')!r}, which says"
                yield str(PurePosixPath(folder) / str(path)), _only(said, what)


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
