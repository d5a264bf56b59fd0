"""A corpus: random access to training, anchor, validation and test rows of named domains."""

import dataclasses
import hashlib
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from partitionsel_jax.data import fitting, label_noise, templates
from partitionsel_jax.data.fitting import Named, Scan
from partitionsel_jax.data.own_anchors import OwnAnchors, compared
from partitionsel_jax.data.rows import Encoded, Rows, encode_batch, laid_out
from partitionsel_jax.data.sources.duplicates import Prompt
from partitionsel_jax.data.sources.scanning import BAD_SHARE
from partitionsel_jax.data.sources.splitting import SPLITS
from partitionsel_jax.data.streams import generator
from partitionsel_jax.data.templates import check_template, named_template, prompt_of
from partitionsel_jax.data.tokenizers import Tokenizer

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

# Training rows of a domain that show in which words its questions are framed.
_SAMPLE = 256
_TEXTS = ("question", "response", "answer", "entry", "messages")


@dataclasses.dataclass(frozen=True)
class Example:
    """One example as text.

    Attributes:
      id: unique over all splits.
      domain: index into the corpus's `domains`.
      question: what the prompt is made of.
      response: what is learnt (corrupted where it was).
      answer: the reference answer, never corrupted.
      entry: JSON that the domain's scorer needs.
      corrupted: whether the response was corrupted.
      messages: JSON of the conversation that the question ends; "" where there is none.
    """

    id: int
    domain: int
    question: str
    response: str
    answer: str
    entry: str
    corrupted: bool
    messages: str = ""

    @property
    def prompt(self) -> templates.Prompt:
        """The prompt for a model: the conversation where there is one, else the question."""
        return prompt_of(self.question, self.messages)


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
      ids: i64[n], their ids, ascending.
      tokenizer: makes tokens of text.
      length: T, the tokens of a row.
      template: one of `TEMPLATES`, what makes prompts of questions.
      corrupted: row -> corrupted response.
    """

    name: str
    records: Sequence[Mapping[str, Any]] = dataclasses.field(repr=False)
    positions: np.ndarray = dataclasses.field(repr=False)
    domains: np.ndarray = dataclasses.field(repr=False)
    ids: np.ndarray = dataclasses.field(repr=False)
    tokenizer: Tokenizer
    length: int
    template: str = "plain"
    corrupted: Mapping[int, str] = dataclasses.field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """Gives the number of rows, n."""
        return len(self.positions)

    def __getitem__(self, index: int) -> Example:
        """Reads the example at `index`, in 0 .. n-1."""
        return self.examples([index])[0]

    def examples(self, indices: Sequence[int] | np.ndarray) -> list[Example]:
        """Reads the examples at `indices` in their order; raises IndexError outside 0 .. n-1."""
        chosen = [int(index) for index in indices]
        if outside := [index for index in chosen if not 0 <= index < len(self)]:
            raise IndexError(f"expected indices in 0 .. {len(self) - 1} of {self.name}: {outside}")
        records = fitting.read(self.records, self.positions[chosen])
        return [self._example(*pair) for pair in zip(chosen, records, strict=True)]

    def _example(self, index: int, record: Mapping[str, Any]) -> Example:
        texts = {name: record.get(name, b"").decode() for name in _TEXTS}
        if corrupted := index in self.corrupted:
            texts["response"] = self.corrupted[index]
        return Example(int(record["id"]), int(record["domain"]), corrupted=corrupted, **texts)

    def all_examples(self) -> Iterator[Example]:
        """Reads every example in order, of which only a few are in memory at a time."""
        for chunk in fitting.chunks(np.arange(len(self))):
            yield from self.examples(chunk)

    def rows(self, indices: Sequence[int] | np.ndarray) -> Rows:
        """Reads the rows at `indices` in their order; raises IndexError outside 0 .. n-1."""
        examples = self.examples(indices)
        prompts, responses = [e.prompt for e in examples], [e.response for e in examples]
        found = encode_batch(prompts, responses, self.tokenizer, self.length, self.template)
        if errors := [row for row in found if isinstance(row, ValueError)]:
            raise errors[0]
        encoded = [row for row in found if isinstance(row, Encoded)]
        if len(encoded) < len(found):
            raise ValueError(
                f"example {examples[found.index(None)].id} of {self.name} does not fit into "
                f"{self.length} tokens: were its records changed since they were scanned? Prepare "
                "them again, in a new directory"
            )
        return Rows(
            *laid_out(encoded, self.tokenizer, self.length),
            domain=np.array([e.domain for e in examples], np.int32),
            id=np.array([e.id for e in examples], np.int32),
            corrupted=np.array([e.corrupted for e in examples], bool),
        )

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Returns the indices (i64) of rows by their ids; raises ValueError if no row has one."""
        places = np.minimum(np.searchsorted(self.ids, ids), len(self) - 1)
        if missing := np.asarray(ids)[self.ids[places] != ids].tolist():
            raise ValueError(
                f"{len(missing)} ids are of no row of {self.name} (first {missing[:4]}): expected "
                "those of this corpus, so that its data settings must be those they come from"
            )
        return places

    def part(self, chosen: np.ndarray, name: str = "") -> "Source":
        """Makes a source, of another name if one is given, of the rows where bool[n] is True."""
        rows = enumerate(np.flatnonzero(chosen).tolist())
        return dataclasses.replace(
            self,
            name=name or self.name,
            positions=self.positions[chosen],
            domains=self.domains[chosen],
            ids=self.ids[chosen],
            corrupted={new: self.corrupted[old] for new, old in rows if old in self.corrupted},
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Named domains and the four sources that training and evaluation read.

    Attributes:
      domains: the names; a row's domain is an index into them.
      train: what pools are drawn from; the only source with corrupted rows.
      anchors: what the validation direction is measured on; never scored.
      validation: what the validation loss is measured on; disjoint from the anchors.
      test: questions and entries for generation and scoring.
      left_out: split -> rows whose responses do not fit, and which are in no source. A response
        that lost its end would teach a model to stop anywhere, and to leave out its answer.
      cut: split -> rows of which a part of the prompt was cut.
      fingerprint: differs where the records do.
      report: what was counted when the records were prepared; see `prepare_files`.
      refused: split -> rows whose prompt the template refuses, and which are in no source.
    """

    domains: tuple[str, ...]
    train: Source
    anchors: Source
    validation: Source
    test: Source
    left_out: Mapping[str, Named]
    cut: Mapping[str, Named]
    fingerprint: str = ""
    report: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    refused: Mapping[str, Named] = dataclasses.field(default_factory=dict)

    def held_out_of(self, names: Collection[str]) -> "Corpus":
        """The corpus whose anchors, validation and test rows are of the domains of these names.

        Raises:
          ValueError: one of the domains has none.
        """
        numbers = [place for place, name in enumerate(self.domains) if name in names]
        parts: dict[str, Any] = {}
        for what in ("anchors", "validation", "test"):
            source: Source = getattr(self, what)
            if missing := [self.domains[i] for i in numbers if i not in source.domains]:
                raise ValueError(
                    f"expected {what} rows of the domains {', '.join(names)}, got none of "
                    f"{', '.join(missing)}; name other domains, or prepare more rows"
                )
            parts[what] = source.part(np.isin(source.domains, numbers))
        return dataclasses.replace(self, **parts)


def joined(name: str, *sources: Source) -> Source:
    """Makes one source, in order of the ids, of sources of different rows.

    Args:
      name: what errors call it.
      sources: at least one, of the same tokenizer, length and template.
    """
    records = tuple(source.records for source in sources)
    starts = np.cumsum([0, *map(len, records)])[:-1]
    positions = [source.positions + start for source, start in zip(sources, starts, strict=True)]
    ids = np.concatenate([source.ids for source in sources])
    order = np.argsort(ids)
    texts = {s.ids[row]: text for s in sources for row, text in s.corrupted.items()}
    return dataclasses.replace(
        sources[0],
        name=name,
        records=_Joined(records),
        positions=np.concatenate(positions)[order],
        domains=np.concatenate([source.domains for source in sources])[order],
        ids=ids[order],
        corrupted={row: texts[i] for row, i in enumerate(ids[order].tolist()) if i in texts},
    )


def load(
    builder: "tfds.core.DatasetBuilder",
    tokenizer: Tokenizer,
    length: int,
    seed: int,
    *,
    template: str = "plain",
    noise_kind: str = "none",
    noise_share: float = 0.0,
    anchors: OwnAnchors | None = None,
) -> Corpus:
    """Opens a prepared builder as a corpus; scans every record once, and remembers what it found.

    Args:
      builder: prepared, with the splits train, validation and test, the features of
        `ReasoningGym`, and the domains' names in its info's metadata.
      tokenizer: gives the ids.
      length: T, the tokens of a row; a row holds its whole response, and its whole prompt, or of a
        prompt that may be cut as much of the end as there is room for.
      seed: the data seed, for the corrupted rows and for which validation rows are anchors.
      template: one of `TEMPLATES`, what makes prompts of questions.
      noise_kind: one of `label_noise.KINDS`.
      noise_share: part of every training domain that is corrupted, in [0, 1). A corrupted response
        that is too long for its row loses its end.
      anchors: of the user's own, from `read_anchors`, in place of half of the validation rows of
        every domain. Those that ask, or nearly ask, what a validation or test row asks are left
        out, and so are training rows that ask what an anchor asks; the report counts both.

    Raises:
      ValueError: an argument out of range, a template that is unknown or that the tokenizer does
        not have, or that refuses more than 1 % of the rows, or a domain without rows in one of the
        sources.
    """
    check_template(template, tokenizer)
    label_noise.check(noise_kind, noise_share)
    if length < 3:
        raise ValueError(f"expected rows of at least 3 tokens, got {length}; use longer rows")
    metadata = builder.info.metadata or {}
    domains, report = tuple(metadata.get("domains", ())), metadata.get("report", {})
    data_dir = getattr(builder, "data_dir", None)
    directory = None if data_dir is None else epath.Path(data_dir) / "scans"
    how = tokenizer, length, template
    scans = {
        split: fitting.scan(builder.as_data_source(split=split), *how, directory, split)
        for split in SPLITS
    }
    _check_refused(scans)
    for split, scanned in scans.items():
        _check_range(scanned, split, domains)
        _check_domains(scanned, split, domains, length)

    def source(split: str) -> Source:
        found = scans[split]
        return Source(split, found.records, found.positions, found.domains, found.ids, *how)

    train, validation, test = map(source, SPLITS)
    # Before any row is left out, so that the others are corrupted as without anchors of one's own.
    corrupted = _corrupted(train, scans["train"].prompts, seed, noise_kind, noise_share)
    train = dataclasses.replace(train, corrupted=corrupted)
    if anchors is None:
        is_anchor = _anchors(validation.domains, domains, seed)
        held_out = validation.part(is_anchor, "anchors")
        validation = validation.part(~is_anchor)
    else:
        scored: list[list[Prompt]] = [[] for _ in domains]
        for row in itertools.chain(validation.all_examples(), test.all_examples()):
            scored[row.domain].append(_asked(row))
        anchors = anchors.without(scored)
        kept = _without(train, anchors, domains, directory)
        counts = {**anchors.report, "training rows": len(train) - len(kept)}
        train, report = kept, {**report, "anchors": counts}
        first = 1 + max(int(scanned.ids.max()) for scanned in scans.values())
        records = _InMemory({**row, "id": first + i} for i, row in enumerate(anchors.records))
        scans["anchors"] = found = fitting.scan(records, *how)
        _check_refused({"anchors": found})
        # They need not be of every domain.
        _check_range(found, "anchors", domains)
        if not len(found.ids):
            raise ValueError(
                f"expected anchors, got none of the {counts['read']} rows of "
                f"data.anchors_path={counts['file']!r}: {len(found.left_out)} do not fit into "
                f"data.length={length}, {counts['scored elsewhere']} ask what validation or test "
                "rows ask; use longer rows, or name a file of other anchors"
            )
        held_out = source("anchors")
    # A builder's name holds a digest of its content.
    own = anchors.fingerprint if anchors else "[]"
    content = f"{getattr(builder.info, 'full_name', '')}\n{own}"
    unfit = {
        what: {split: scanned.named(what) for split, scanned in scans.items()}
        for what in ("left_out", "cut", "refused")
    }
    return Corpus(
        domains=domains,
        train=train,
        anchors=held_out,
        validation=validation,
        test=test,
        fingerprint=hashlib.sha256(content.encode()).hexdigest()[:16],
        report=report,
        **unfit,
    )


class _InMemory(list):
    """Records with the batched read of a TFDS data source."""

    def __getitems__(self, positions: Sequence[int]) -> list[Any]:
        return [self[position] for position in positions]


class _Joined(Sequence[Mapping[str, Any]]):
    """Records of several data sources, one behind the other, with their batched read."""

    def __init__(self, parts: Sequence[Any]):
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, position: Any) -> Any:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[Any]:
        found: dict[int, Any] = {}
        start = 0
        for part in self.parts:
            inside = [place for place in positions if start <= place < start + len(part)]
            if inside:
                read = part.__getitems__([place - start for place in inside])
                found |= dict(zip(inside, read, strict=True))
            start += len(part)
        return [found[place] for place in positions]


def _check_refused(scans: Mapping[str, Scan]) -> None:
    """Raises ValueError if the template refuses more of all rows than may be bad ones."""
    total = sum(len(scanned.records) for scanned in scans.values())
    refused = sum(len(scanned.refused) for scanned in scans.values())
    if refused > BAD_SHARE * total:
        found = [scanned.named("refused") for scanned in scans.values() if len(scanned.refused)]
        raise ValueError(
            f"expected a template that refuses at most {BAD_SHARE:.0%} of the rows, got "
            f"{refused} of {total} refused: {'; '.join(map(str, found))}. Of the first of them it "
            f"says: {found[0].reason}"
        )


def _check_range(scanned: Scan, split: str, domains: Sequence[str]) -> None:
    """Raises ValueError unless ids and domains are in range."""
    for what, values, end, remedy in (
        ("domains", scanned.domains, len(domains), "name every domain in the builder's metadata"),
        ("ids", scanned.ids, 2**31, "rows hold them as 32-bit integers"),
    ):
        if len(values) and not 0 <= values.min() <= values.max() < end:
            raise ValueError(
                f"expected {what} in 0 .. {end - 1} in {split}, got {values.min()} .. "
                f"{values.max()}; {remedy}"
            )


def _check_domains(scanned: Scan, split: str, domains: Sequence[str], length: int) -> None:
    """Raises ValueError unless every domain has a row."""
    empty = [name for i, name in enumerate(domains) if i not in scanned.domains]
    if empty or not domains:
        count = len(scanned.refused)
        refused = f", {count} because the template refuses them" * bool(count)
        raise ValueError(
            f"expected rows of every domain in {split}, got none of {', '.join(empty) or 'any'} "
            f"({len(scanned.left_out)} rows were left out because they do not fit {length} tokens"
            f"{refused}); use longer rows, or leave the domain out"
        )


def _corrupted(
    train: Source, prompts: np.ndarray, seed: int, kind: str, share: float
) -> dict[int, str]:
    """Corrupts responses, by row, and cuts them to the room that prompts of these lengths leave."""
    if kind == "none" or not share:
        return {}
    framed = named_template(train.template).framed
    responses = [example.response for example in train.all_examples()]
    new = label_noise.corrupt(seed, train.domains, responses, kind, share)
    for row, text in new.items():
        room = train.length - 1 - int(prompts[row] if framed else 1)
        # Random characters can take more tokens than words do.
        while (excess := len(train.tokenizer.encode(text)) - room) > 0:
            text = text[:-excess]
        new[row] = text
    return new


def _anchors(domain: np.ndarray, domains: tuple[str, ...], seed: int) -> np.ndarray:
    """Chooses half of every domain's validation rows, at random, as anchors: bool[n]."""
    is_anchor = np.zeros(len(domain), bool)
    for i, name in enumerate(domains):
        rows = generator(seed, "anchors", i).permutation(np.flatnonzero(domain == i))
        if len(rows) < 2:
            raise ValueError(
                f"expected at least 2 validation rows of domain {name}, one anchor and one scored "
                f"row, got {len(rows)}; prepare more validation rows"
            )
        is_anchor[rows[: round(len(rows) / 2)]] = True
    return is_anchor


def _without(
    train: Source, anchors: OwnAnchors, domains: tuple[str, ...], directory: epath.Path | None
) -> Source:
    """Leaves out the training rows that ask what an anchor asks."""

    def find() -> dict[str, Any]:
        samples = []  # evenly chosen rows of every domain show in which words it frames questions
        for domain in range(len(domains)):
            rows = np.flatnonzero(train.domains == domain)
            chosen = train.examples(rows[:: max(1, len(rows) // _SAMPLE)])
            samples.append([_asked(row).asked for row in chosen])
        index = anchors.index(samples)
        return {"kept": [not index.match(*_asked(row)) for row in train.all_examples()]}

    # All rows are read for it, which is done once.
    rows = hashlib.sha256(train.positions.tobytes()).hexdigest()
    kept = fitting.remembered(directory, "anchors", (rows, anchors.fingerprint), find)["kept"]
    left = train.part(np.array(kept, bool))
    if empty := [name for i, name in enumerate(domains) if i not in left.domains]:
        raise ValueError(
            f"expected training rows of every domain, got none of {', '.join(empty)}: the anchors "
            "ask what all of them ask; name a file of anchors that holds other questions"
        )
    return left


def _asked(example: Example) -> Prompt:
    return compared(example.question, example.messages, example.entry)
