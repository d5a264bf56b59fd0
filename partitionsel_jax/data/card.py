"""A data card: a corpus in numbers (rows, lengths, learnt tokens, duplicates) and a few rows."""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

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


@dataclasses.dataclass(frozen=True)
class Bin:
    """Rows of `first` to `last` tokens, both included."""

    first: int
    last: int
    rows: int


@dataclasses.dataclass(frozen=True)
class Lengths:
    """How long training rows are, padding left out.

    Attributes:
      rows: number of rows that were read.
      tokens: number of their tokens.
      learnt: tokens with a loss among them: the responses', closing tokens included.
      longest: tokens of the longest row.
    """

    rows: int
    tokens: int
    learnt: int
    longest: int

    @property
    def label_share(self) -> float:
        """Part of the tokens that has a loss."""
        return self.learnt / self.tokens if self.tokens else 0.0


@dataclasses.dataclass(frozen=True)
class Repeats:
    """Rows whose text another row has, white space and case aside.

    Attributes:
      splits: one split, for rows that repeat an earlier row of it, or two, for rows of the second
        whose text stands in the first.
      rows: number of rows that were read of the last of the splits.
      prompts, responses: number of them that repeat a prompt, or a response.
      both: number of them that repeat prompt and response of one row.
    """

    splits: tuple[str, ...]
    rows: int
    prompts: int
    responses: int
    both: int


@dataclasses.dataclass(frozen=True)
class Piece:
    """A stretch of a row, all of it prompt or all of it learnt.

    Attributes:
      text: the text of its tokens; the purpose of a token without text.
      is_learnt: True if it has a loss.
      is_marker: True if it is one token without text of its own, such as the closing one.
    """

    text: str
    is_learnt: bool
    is_marker: bool = False


@dataclasses.dataclass(frozen=True)
class ShownRow:
    """A training row to look at, piece by piece.

    Attributes:
      id, domain, corrupted: as the corpus has them; the domain by its name.
      tokens, learnt: how many tokens the row has, and how many have a loss.
      pieces: in order.
    """

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
      left_out: split -> rows that do not fit `length`.
      cut: split -> rows with a prompt that was cut.
      read: split -> number of rows, all or a random part, that the following was read from.
      histogram: the number of tokens of the training rows.
      lengths: the lengths of the training rows of each domain, in order.
      repeats: within train, and between any two splits.
      shown: some training rows of each domain.
      report: the counts that were made when the corpus was prepared from files.
      refused: split -> rows whose prompt the template refuses.
    """

    length: int
    template: str
    domains: tuple[str, ...]
    rows: Mapping[str, tuple[int, ...]]
    corrupted: int
    left_out: Mapping[str, Named]
    cut: Mapping[str, Named]
    read: Mapping[str, int]
    histogram: tuple[Bin, ...]
    lengths: tuple[Lengths, ...]
    repeats: tuple[Repeats, ...]
    shown: tuple[ShownRow, ...]
    report: Mapping[str, Any]
    refused: Mapping[str, Named] = dataclasses.field(default_factory=dict)

    @property
    def total(self) -> Lengths:
        """The lengths of all domains together."""
        return Lengths(
            rows=sum(part.rows for part in self.lengths),
            tokens=sum(part.tokens for part in self.lengths),
            learnt=sum(part.learnt for part in self.lengths),
            longest=max(part.longest for part in self.lengths),
        )


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
    count = len(corpus.domains)
    sources = {split: getattr(corpus, split) for split in SPLITS}
    chosen = {split: _chosen(source, rows, seed) for split, source in sources.items()}
    texts = {split: _texts(source, chosen[split]) for split, source in sources.items()}
    tokens, learnt = _sizes(corpus.train, chosen["train"])
    domain = corpus.train.domains[chosen["train"]]
    return Card(
        length=corpus.train.length,
        template=corpus.train.template,
        domains=corpus.domains,
        rows={
            split: tuple(np.bincount(source.domains, minlength=count).tolist())
            for split, source in sources.items()
        },
        corrupted=len(corpus.train.corrupted),
        left_out=corpus.left_out,
        cut=corpus.cut,
        read={split: len(indices) for split, indices in chosen.items()},
        histogram=_histogram(tokens, corpus.train.length),
        lengths=tuple(_lengths(tokens[domain == i], learnt[domain == i]) for i in range(count)),
        repeats=(
            _repeats_within("train", texts["train"]),
            *(
                _repeats_between(pair, texts[pair[0]], texts[pair[1]])
                for pair in itertools.combinations(SPLITS, 2)
            ),
        ),
        shown=tuple(
            _shown(corpus, index)
            for i in range(count)
            for index in _some_of(corpus.train.domains, i, shown, seed)
        ),
        report=corpus.report,
        refused=corpus.refused,
    )


def pieces(tokens: Sequence[int], is_learnt: Sequence[bool], tokenizer: Tokenizer) -> list[Piece]:
    """A row cut wherever its loss mask changes, and around tokens that decode to no text.

    Args:
      tokens: the ids of one row; padding behind the last learnt token is left out.
      is_learnt: where there is a loss.
      tokenizer: the tokenizer of the ids.
    """
    size = int(np.flatnonzero(is_learnt)[-1]) + 1
    names = {
        tokenizer.bos_id: "begin",
        tokenizer.turn_end_id: "end of turn",
        tokenizer.eos_id: "end",
    }
    found: list[Piece] = []
    keyed = [
        (
            bool(learnt),
            "" if tokenizer.decode([token]) else names.get(token, f"token {token}"),
            token,
        )
        for token, learnt in zip(tokens[:size], is_learnt[:size], strict=True)
    ]
    for (learnt, name), run in itertools.groupby(keyed, key=lambda entry: entry[:2]):
        if name:
            found += [Piece(name, learnt, is_marker=True) for _ in run]
        else:
            found.append(Piece(tokenizer.decode([token for *_, token in run]), learnt))
    return found


def _chosen(source: Source, rows: int, seed: int) -> np.ndarray:
    """i64[n], the rows to read, ascending, which reads fastest."""
    if not rows or rows >= len(source):
        return np.arange(len(source))
    random = generator(seed, f"data card of {source.name}")
    return np.sort(random.choice(len(source), rows, replace=False))


def _some_of(domains: np.ndarray, domain: int, count: int, seed: int) -> np.ndarray:
    order = generator(seed, "data card, shown", domain).permutation(
        np.flatnonzero(domains == domain)
    )
    return order[:count]


def _sizes(source: Source, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """i64[n] each: the tokens of rows, and those with a loss."""
    read = (source.rows(chunk) for chunk in fitting.chunks(indices))
    sizes = [(rows.lengths, rows.response.sum(axis=1)) for rows in read]
    tokens, learnt = np.concatenate([np.empty((2, 0), np.int64), *sizes], axis=1)
    return tokens, learnt


def _histogram(tokens: np.ndarray, length: int) -> tuple[Bin, ...]:
    width = -(-length // _BINS)
    firsts = range(1, length + 1, width)
    counts = np.bincount((tokens - 1) // width, minlength=len(firsts)).tolist()
    return tuple(
        Bin(first, min(first + width - 1, length), rows)
        for first, rows in zip(firsts, counts, strict=True)
    )


def _lengths(tokens: np.ndarray, learnt: np.ndarray) -> Lengths:
    return Lengths(len(tokens), int(tokens.sum()), int(learnt.sum()), int(tokens.max(initial=0)))


def _texts(source: Source, indices: np.ndarray) -> pd.DataFrame:
    """u64 hashes of the prompts and responses of rows; texts would not fit into memory."""
    found = [
        (_hash(text_of(example.prompt)), _hash(example.response))
        for chunk in fitting.chunks(indices)
        for example in source.examples(chunk)
    ]
    columns = ["prompts", "responses"]
    return pd.DataFrame(np.array(found, np.uint64).reshape(len(found), 2), columns=columns)


def _hash(text: str) -> int:
    digest = hashlib.blake2b(normalise(text).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _repeats_within(split: str, texts: pd.DataFrame) -> Repeats:
    counts = {name: int(column.duplicated().sum()) for name, column in texts.items()}
    return Repeats((split,), len(texts), **counts, both=int(texts.duplicated().sum()))


def _repeats_between(splits: tuple[str, ...], first: pd.DataFrame, second: pd.DataFrame) -> Repeats:
    counts = {name: int(column.isin(first[name]).sum()) for name, column in second.items()}
    both = second.merge(first.drop_duplicates(), on=list(first))
    return Repeats(splits, len(second), **counts, both=len(both))


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
