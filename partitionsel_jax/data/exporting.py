"""A corpus as JSON Lines, for whatever reads these."""

import json
from collections.abc import Iterator
from typing import Any

from etils import epath

from partitionsel_jax.data.card import SPLITS
from partitionsel_jax.data.corpus import Corpus, Source


def write_rows(corpus: Corpus, folder: epath.PathLike) -> None:
    """Writes `train.jsonl`, `anchors.jsonl`, `validation.jsonl` and `test.jsonl` to a folder.

    Responses are those that are learnt, corrupted where they were.

    Raises:
      ValueError: a file of these is there.
    """
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        if (path := folder / f"{split}.jsonl").exists():
            raise ValueError(f"{path} is there: remove it, or choose another folder")
    for split in SPLITS:
        with (folder / f"{split}.jsonl").open("w") as stream:
            for row in _rows(corpus, getattr(corpus, split)):
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _rows(corpus: Corpus, source: Source) -> Iterator[dict[str, Any]]:
    for example in source.all_examples():
        about = {"domain": corpus.domains[example.domain], "corrupted": example.corrupted}
        if example.messages:
            last = {"role": "assistant", "content": example.response}
            yield {"messages": [*json.loads(example.messages), last], **about}
        else:
            yield {"prompt": example.question, "response": example.response, **about}
