"""A data card: a corpus in numbers (rows, lengths, learnt tokens, duplicates) and a few rows."""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from partitionsel_jax.data import fitting
from partitionsel_jax.data.corpus import Corpus, Source
from partitionsel_jax.data.fitting import Named
from partitionsel_jax.data.sources.duplicates import normalise
from partitionsel_jax.data.streams import generator
from partitionsel_jax.data.templates import text_of
from partitionsel_jax.data.tokenizers import Tokenizer

SPLITS = ("train", "anchors", "validation", "test")
_BINS = 16


class Piece(NamedTuple):
    """A stretch of a row, all of it prompt or all of it learnt.

    Attributes:
      text: the text of its tokens; the purpose of a token without text.
      is_learnt: True if it has a loss.
      is_marker: True if it is one token without text of its own, such as the closing one.
    """

    text: str
    is_learnt: bool
    is_marker: bool = False


class ShownRow(NamedTuple):
    """A training row to look at: its size in tokens, and those that are learnt, and its pieces."""

    id: int
    domain: str
    corrupted: bool
    tokens: int
    learnt: int
    pieces: tuple[Piece, ...]


@dataclasses.dataclass(frozen=True)
class Card:
    """A corpus in numbers.

    Attributes:
      length: T, the most tokens of a row.
      template: the template that makes prompts of questions.
      domains: their names.
      rows: split -> rows per domain; exact.
      corrupted: training rows that were corrupted; exact.
      left_out, cut, refused: as the corpus has them.
      read: split -> number of rows, all or a random part, that the following was read from.
      histogram: rows of `first` to `last` tokens, both included, among the training rows.
      lengths: by domain, of the training rows: rows, tokens without padding, learnt (those with a
        loss: the responses', closing tokens included), and longest (tokens of the longest row).
      repeats: rows whose text another row has, white space and case aside: splits (one, for rows
        that repeat an earlier row of it, or two, for rows of the second whose text stands in the
        first), rows (read of the last of them), and how many of them repeat prompts, responses,
        or both of one row.
      shown: some training rows of each domain.
      report: the counts that were made when the corpus was prepared from files.
    """

    length: int
    template: str
    domains: tuple[str, ...]
    rows: Mapping[str, tuple[int, ...]]
    corrupted: int
    left_out: Mapping[str, Named]
    cut: Mapping[str, Named]
    read: Mapping[str, int]
    histogram: pd.DataFrame
    lengths: pd.DataFrame
    repeats: pd.DataFrame
    shown: tuple[ShownRow, ...]
    report: Mapping[str, Any]
    refused: Mapping[str, Named] = dataclasses.field(default_factory=dict)


def gather(corpus: Corpus, *, rows: int = 5_000, shown: int = 2, seed: int = 0) -> Card:
    """Counts a corpus, and reads a random part of every split that has more rows than asked for.

    Args:
      corpus: as `load` opens it.
      rows: read from each split at most; 0 reads all.
      shown: rows of each domain to show, as far as it has them.
      seed: decides which rows are read and shown.

    Raises:
      ValueError: `rows` or `shown` below 0.
    """
    if rows < 0 or shown < 0:
        raise ValueError(
            f"expected rows and shown of at least 0, got {rows} and {shown}; 0 rows stand for all"
        )
    count, train = len(corpus.domains), corpus.train
    sources = {split: getattr(corpus, split) for split in SPLITS}
    chosen = {split: _chosen(source, rows, seed) for split, source in sources.items()}
    texts = {split: _texts(source, chosen[split]) for split, source in sources.items()}
    sizes = _sizes(train, chosen["train"])
    return Card(
        length=train.length,
        template=train.template,
        domains=corpus.domains,
        rows={
            split: tuple(np.bincount(source.domains, minlength=count).tolist())
            for split, source in sources.items()
        },
        corrupted=len(train.corrupted),
        left_out=corpus.left_out,
        cut=corpus.cut,
        read={split: len(indices) for split, indices in chosen.items()},
        histogram=_histogram(sizes["tokens"].to_numpy(), train.length),
        lengths=sizes.groupby("domain")
        .agg(
            rows=("tokens", "size"),
            tokens=("tokens", "sum"),
            learnt=("learnt", "sum"),
            longest=("tokens", "max"),
        )
        .reindex(range(count), fill_value=0)
        .set_axis(corpus.domains),
        repeats=_repeats(texts),
        shown=tuple(
            _shown(corpus, index)
            for i in range(count)
            for index in generator(seed, "data card, shown", i).permutation(
                np.flatnonzero(train.domains == i)
            )[:shown]
        ),
        report=corpus.report,
        refused=corpus.refused,
    )


def pieces(tokens: Sequence[int], is_learnt: Sequence[bool], tokenizer: Tokenizer) -> list[Piece]:
    """Cuts a row wherever its loss mask changes, and around tokens that decode to no text.

    Args:
      tokens: the ids of one row; padding behind the last learnt token is left out.
      is_learnt: where there is a loss.
      tokenizer: the tokenizer of the ids.
    """
    size = int(np.flatnonzero(is_learnt)[-1]) + 1
    names = {tokenizer.bos_id: "begin", tokenizer.turn_end_id: "end of turn"}
    names[tokenizer.eos_id] = "end"
    cut = [
        (bool(learnt), "" if tokenizer.decode([token]) else names.get(token, f"token {token}"))
        for token, learnt in zip(tokens[:size], is_learnt[:size], strict=True)
    ]
    found: list[Piece] = []
    for (learnt, name), run in itertools.groupby(range(size), key=cut.__getitem__):
        if name:
            found += [Piece(name, learnt, is_marker=True) for _ in run]
        else:
            found.append(Piece(tokenizer.decode([tokens[place] for place in run]), learnt))
    return found


def _chosen(source: Source, rows: int, seed: int) -> np.ndarray:
    """Chooses the rows to read, i64[n], ascending, which reads fastest."""
    if not rows or rows >= len(source):
        return np.arange(len(source))
    random = generator(seed, f"data card of {source.name}")
    return np.sort(random.choice(len(source), rows, replace=False))


def _sizes(source: Source, indices: np.ndarray) -> pd.DataFrame:
    """Counts the tokens of rows, and those with a loss."""
    sizes = [np.empty((0, 3), np.int64)]
    for rows in map(source.rows, fitting.chunks(indices)):
        sizes.append(np.stack([rows.domain, rows.lengths, rows.response.sum(axis=1)], axis=1))
    return pd.DataFrame(np.concatenate(sizes), columns=["domain", "tokens", "learnt"])


def _histogram(tokens: np.ndarray, length: int) -> pd.DataFrame:
    width = -(-length // _BINS)
    first = np.arange(1, length + 1, width)
    rows = np.bincount((tokens - 1) // width, minlength=len(first))
    return pd.DataFrame(
        {"first": first, "last": (first + width - 1).clip(max=length), "rows": rows}
    )


def _texts(source: Source, indices: np.ndarray) -> pd.DataFrame:
    """Gives u64 hashes of the prompts and responses of rows; texts would not fit into memory."""
    found = [
        (_hash(text_of(example.prompt)), _hash(example.response))
        for chunk in fitting.chunks(indices)
        for example in source.examples(chunk)
    ]
    return pd.DataFrame(found, columns=["prompts", "responses"], dtype=np.uint64)


def _hash(text: str) -> int:
    digest = hashlib.blake2b(normalise(text).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _repeats(texts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Counts rows whose texts stand in earlier rows of train, or in rows of another split."""
    train = texts["train"]
    found: list[tuple[Any, ...]] = [
        (("train",), train, train.apply(pd.Series.duplicated), train.duplicated().sum())
    ]
    for pair in itertools.combinations(SPLITS, 2):
        first, second = (texts[split] for split in pair)
        repeated = pd.DataFrame({name: second[name].isin(first[name]) for name in second})
        both = len(second.merge(first.drop_duplicates()))
        found.append((pair, second, repeated, both))
    return pd.DataFrame(
        {"splits": splits, "rows": len(rows), **repeated.sum(), "both": both}
        for splits, rows, repeated, both in found
    )


def _shown(corpus: Corpus, index: int) -> ShownRow:
    rows = corpus.train.rows([index])
    tokens, is_learnt = rows.tokens[0].tolist(), rows.response[0].tolist()
    return ShownRow(
        id=int(rows.id[0]),
        domain=corpus.domains[int(rows.domain[0])],
        corrupted=bool(rows.corrupted[0]),
        tokens=int(rows.lengths[0]),
        learnt=sum(is_learnt),
        pieces=tuple(pieces(tokens, is_learnt, corpus.train.tokenizer)),
    )
