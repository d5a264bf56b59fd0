"""A corpus: random access to training, anchor, validation and test rows of named domains."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from partitionsel_jax.data import spoilage
from partitionsel_jax.data.rows import Rows, encode_example, least_room
from partitionsel_jax.data.streams import generator
from partitionsel_jax.data.templates import Template, check_template
from partitionsel_jax.data.tokenizers import Tokenizer

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

_SPLITS = ("train", "validation", "test")
_SCAN_CHUNK = 1024


@dataclasses.dataclass(frozen=True)
class Example:
    """One example as text.

    Attributes:
      id: unique over all splits.
      domain: index into the corpus's `domains`.
      question, response: what the prompt is made of, and what is learnt (spoilt where it was).
      answer: the reference answer, never spoilt.
      entry: JSON that the domain's scorer needs.
      spoilt: whether the response was spoilt.
    """

    id: int
    domain: int
    question: str
    response: str
    answer: str
    entry: str
    spoilt: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Random access to the rows of one part of a corpus, in order of their ids.

    `source[i]` is an `Example`, `source.rows(indices)` are `Rows`; both read the records anew, so
    that a corpus may be larger than memory.

    Attributes:
      name: what errors call it.
      records: the split's records, by position.
      positions: i64[n], the records that belong to this source.
      domains: i32[n], their domains.
      tokenizer: gives the ids.
      length: T, the tokens of a row.
      template: one of `TEMPLATES`, what makes prompts of questions.
      spoilt: row -> spoilt response.
    """

    name: str
    records: Sequence[Mapping[str, Any]] = dataclasses.field(repr=False)
    positions: np.ndarray = dataclasses.field(repr=False)
    domains: np.ndarray = dataclasses.field(repr=False)
    tokenizer: Tokenizer
    length: int
    template: str = "plain"
    spoilt: Mapping[int, str] = dataclasses.field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """The number of rows, n."""
        return len(self.positions)

    def __getitem__(self, index: int) -> Example:
        """The example at `index`, in 0 .. n-1."""
        return self.examples([index])[0]

    def examples(self, indices: Sequence[int] | np.ndarray) -> list[Example]:
        """The examples at `indices`, each in 0 .. n-1, in the order given.

        Raises:
          IndexError: an index outside 0 .. n-1.
        """
        chosen = [int(index) for index in indices]
        if outside := [index for index in chosen if not 0 <= index < len(self)]:
            raise IndexError(f"expected indices in 0 .. {len(self) - 1} of {self.name}: {outside}")
        records = _read(self.records, self.positions[chosen])
        return [self._example(*pair) for pair in zip(chosen, records, strict=True)]

    def rows(self, indices: Sequence[int] | np.ndarray) -> Rows:
        """The rows at `indices`, each in 0 .. n-1, in the order given.

        Raises:
          IndexError: an index outside 0 .. n-1.
        """
        examples = self.examples(indices)
        encoded = [
            encode_example(e.question, e.response, self.tokenizer, self.length, self.template)
            for e in examples
        ]
        shape = (len(examples), self.length)
        return Rows(
            tokens=np.array([e.tokens for e in encoded], np.int32).reshape(shape),
            response=np.array([e.response for e in encoded], bool).reshape(shape),
            domain=np.array([e.domain for e in examples], np.int32),
            id=np.array([e.id for e in examples], np.int32),
            spoilt=np.array([e.spoilt for e in examples], bool),
        )

    def _example(self, index: int, record: Mapping[str, Any]) -> Example:
        """The record as an example, with its spoilt response where it has one."""
        spoilt = index in self.spoilt
        return Example(
            id=int(record["id"]),
            domain=int(record["domain"]),
            question=record["question"].decode(),
            response=self.spoilt[index] if spoilt else record["response"].decode(),
            answer=record["answer"].decode(),
            entry=record["entry"].decode(),
            spoilt=spoilt,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Named domains and the four sources that training and evaluation read.

    Attributes:
      domains: the names; a row's domain is an index into them.
      train: what pools are drawn from; the only source with spoilt rows.
      anchors: what the validation direction is measured on; never scored.
      validation: what the validation loss is measured on; disjoint from the anchors.
      test: questions and entries for generation and scoring.
      left_out: split -> rows that do not fit, and which are in no source.
      cut: split -> rows of which a part of the prompt was cut.
    """

    domains: tuple[str, ...]
    train: Source
    anchors: Source
    validation: Source
    test: Source
    left_out: Mapping[str, int]
    cut: Mapping[str, int]


def load(
    builder: "tfds.core.DatasetBuilder",
    tokenizer: Tokenizer,
    length: int,
    seed: int,
    *,
    template: str = "plain",
    spoilt_kind: str = "none",
    spoilt_share: float = 0.0,
    anchor_share: float = 0.5,
) -> Corpus:
    """Opens a prepared builder as a corpus; scans every record once.

    Args:
      builder: prepared, with the splits train, validation and test, the features of
        `ReasoningGym`, and the domains' names in its info's metadata.
      tokenizer: gives the ids.
      length: T, the tokens of a row; a row holds its whole response, and its whole prompt, or of a
        prompt that may be cut as much of the end as there is room for.
      seed: the data seed, for the spoilt rows and for which validation rows are anchors.
      template: one of `TEMPLATES`, what makes prompts of questions.
      spoilt_kind: one of `spoilage.KINDS`.
      spoilt_share: part of every training domain that is spoilt, in [0, 1). A spoilt response that
        is too long for its row loses its end.
      anchor_share: part of every validation domain that become anchors, in (0, 1), rounded, and
        at least one row on either side.

    Raises:
      ValueError: an argument out of range, a template that is unknown or that the tokenizer does
        not have, or a domain without rows in one of the sources.
    """
    chosen = check_template(template, tokenizer)
    spoilage.check(spoilt_kind, spoilt_share)
    if not 0.0 < anchor_share < 1.0:
        raise ValueError(
            f"expected an anchor share in (0, 1), got {anchor_share}; both the anchors and the "
            "scored rows need validation rows"
        )
    if length < 3:
        raise ValueError(f"expected rows of at least 3 tokens, got {length}; use longer rows")
    domains = tuple((builder.info.metadata or {}).get("domains", ()))
    empty = (np.empty(0, np.int64), np.empty(0, np.int32), tokenizer, length, template)
    scans = {
        split: _scan(Source(split, builder.as_data_source(split=split), *empty), chosen, domains)
        for split in _SPLITS
    }
    train, validation, test = (scans[split].source for split in _SPLITS)
    new = spoilage.spoil(seed, train.domains, scans["train"].responses, spoilt_kind, spoilt_share)
    room = scans["train"].room
    new = {row: _shortened(text, tokenizer, room[row]) for row, text in new.items()}
    is_anchor = _anchors(validation.domains, domains, anchor_share, seed)
    return Corpus(
        domains=domains,
        train=dataclasses.replace(train, spoilt=new),
        anchors=_part(validation, "anchors", is_anchor),
        validation=_part(validation, "validation", ~is_anchor),
        test=test,
        left_out={split: scan.left_out for split, scan in scans.items()},
        cut={split: scan.cut for split, scan in scans.items()},
    )


@dataclasses.dataclass(frozen=True)
class _Scan:
    """A split's source and what only a look at every record tells."""

    source: Source
    responses: list[str]
    room: list[int]
    left_out: int
    cut: int


def _scan(empty: Source, template: Template, domains: tuple[str, ...]) -> _Scan:
    """Reads the records of a source once: keeps the rows that fit, in order of their ids."""
    tokenizer, length = empty.tokenizer, empty.length
    kept: list[tuple[int, int, int]] = []
    texts: list[str] = []
    rooms: list[int] = []
    cut = 0
    for position, record in enumerate(_all(empty.records)):
        response = record["response"].decode()
        prompt = template(record["question"].decode(), tokenizer)
        # What the prompt and the closing token leave to the response.
        room = length - 1 - least_room(prompt, template)
        size = len(tokenizer.encode(response))
        if size > room:
            continue
        cut += len(prompt) + size + 1 > length
        kept.append((int(record["id"]), position, int(record["domain"])))
        texts.append(response)
        rooms.append(room)
    columns = np.array(kept, np.int64).reshape(len(kept), 3)
    order = np.argsort(columns[:, 0])
    ids, positions, domain = columns[order].T
    left_out = len(empty.records) - len(kept)
    _check(ids, domain, empty.name, domains, left_out, length)
    return _Scan(
        dataclasses.replace(empty, positions=positions, domains=domain.astype(np.int32)),
        [texts[row] for row in order],
        [rooms[row] for row in order],
        left_out,
        cut,
    )


def _check(
    ids: np.ndarray,
    domain: np.ndarray,
    split: str,
    domains: tuple[str, ...],
    left_out: int,
    length: int,
) -> None:
    """Raises ValueError unless ids and domains are in range and every domain has a row."""
    if len(domain) and not 0 <= domain.min() <= domain.max() < len(domains):
        raise ValueError(
            f"expected domains in 0 .. {len(domains) - 1} in {split}, got {domain.min()} .. "
            f"{domain.max()}; name every domain in the builder's metadata"
        )
    if len(ids) and not 0 <= ids.min() <= ids.max() < 2**31:
        raise ValueError(
            f"expected ids in 0 .. 2^31 - 1 in {split}, got {ids.min()} .. {ids.max()}; rows hold "
            "them as 32-bit integers"
        )
    empty = [name for i, name in enumerate(domains) if not np.any(domain == i)]
    if empty or not domains:
        raise ValueError(
            f"expected rows of every domain in {split}, got none of {', '.join(empty) or 'any'} "
            f"({left_out} rows were left out because they do not fit {length} tokens); "
            "use longer rows, or leave the domain out"
        )


def _anchors(domain: np.ndarray, domains: tuple[str, ...], share: float, seed: int) -> np.ndarray:
    """bool[n], which validation rows are anchors: a random part of every domain."""
    is_anchor = np.zeros(len(domain), bool)
    for i, name in enumerate(domains):
        rows = generator(seed, "anchors", i).permutation(np.flatnonzero(domain == i))
        if len(rows) < 2:
            raise ValueError(
                f"expected at least 2 validation rows of domain {name}, one anchor and one scored "
                f"row, got {len(rows)}; prepare more validation rows"
            )
        is_anchor[rows[: min(max(round(share * len(rows)), 1), len(rows) - 1)]] = True
    return is_anchor


def _part(source: Source, name: str, chosen: np.ndarray) -> Source:
    """The chosen rows of a source as a source of their own."""
    return dataclasses.replace(
        source, name=name, positions=source.positions[chosen], domains=source.domains[chosen]
    )


def _shortened(text: str, tokenizer: Tokenizer, room: int) -> str:
    """The text cut to `room` tokens: random characters can take more of them than words do."""
    while (excess := len(tokenizer.encode(text)) - room) > 0:
        text = text[:-excess]
    return text


def _all(records: Any) -> Iterator[Mapping[str, Any]]:
    """Every record in order, read in chunks: one read each would take twice as long."""
    for start in range(0, len(records), _SCAN_CHUNK):
        yield from _read(records, range(start, min(start + _SCAN_CHUNK, len(records))))


def _read(records: Any, positions: Sequence[int] | np.ndarray) -> Sequence[Mapping[str, Any]]:
    """The records at `positions`, with one read."""
    return records.__getitems__([int(position) for position in positions])
