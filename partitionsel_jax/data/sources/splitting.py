"""The split of every row: no two splits share a group, what rows were made of.

The first pass over a source is a `Scan`; from it a `Plan` is made, and a last pass gives its rows.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from partitionsel_jax.data.sources.duplicates import EXACT, NEAR, HeldOut, Prompt, boilerplate
from partitionsel_jax.data.sources.files import SourceFile, changed
from partitionsel_jax.data.sources.layouts import SPLITS
from partitionsel_jax.data.sources.scanning import (
    FirstPrompts,
    Place,
    Places,
    Scan,
    Tally,
    check_columns,
    good_rows,
    scan,
    spelt,
)
from partitionsel_jax.data.sources.schemas import DOMAINS, Row, Schema, listed
from partitionsel_jax.data.streams import generator

TRAIN, VALIDATION, TEST = range(len(SPLITS))
# Codes of rows that are in no split, and why they are in none.
SAME_QUESTION, MEANT_FOR_TEST, OVER_TRAIN, NEAR_TEST, MEANT_FOR_VALIDATION = range(-5, 0)
REASONS = {
    SAME_QUESTION: "another row of its question is held out",
    MEANT_FOR_TEST: "published for testing and not needed",
    OVER_TRAIN: "more than the training rows asked for",
    NEAR_TEST: "near-duplicate between validation and test",
    MEANT_FOR_VALIDATION: "published for validation and not needed",
}


class Sizes(NamedTuple):
    """Rows per domain.

    Attributes:
      validation, test: just so many, each of another question.
      train: at most so many; 0 for all the rest.
    """

    validation: int
    test: int
    train: int = 0


def assign(
    scan: Scan, sizes: Sizes, seed: int, near_test: np.ndarray | Sequence[int] = ()
) -> np.ndarray:
    """Decides the split of every row.

    Questions are in an order that the data seed decides. The first ones of every domain give a test
    row each, the next ones a validation row; all other rows of these questions are left out, and
    the rest is for training. Rows that their publishers meant for testing are test rows only, and
    in a domain that has such rows no others are; their questions are left out of training and
    validation whether they are among the test rows or not. The same holds for rows that are meant
    for validation: in a domain that has only one of both kinds, the other split is taken from the
    rest. The test rows do not depend on the other sizes.

    Args:
      scan, sizes, seed: the rows, how many are wanted per domain, and the data seed.
      near_test: rows that may not be validation rows; those that would have been are left out.

    Returns:
      i8[N], `TRAIN`, `VALIDATION`, `TEST` or one of `REASONS`.

    Raises:
      ValueError: domains with too few questions.
    """
    groups, group = np.unique(scan.group, return_inverse=True)
    order = np.lexsort((group, scan.domain))
    starts = np.searchsorted(scan.domain[order], np.arange(len(scan.domains) + 1))
    rows = [order[a:b] for a, b in itertools.pairwise(starts)]

    split = np.full(len(group), TRAIN, np.int8)
    near = np.zeros(len(group), bool)
    near[np.asarray(near_test, np.int64)] = True
    for_test, for_validation = scan.meant == TEST, scan.meant == VALIDATION
    taken = np.full(len(groups), TRAIN, np.int8)
    taken[group[for_validation]] = VALIDATION
    taken[np.isin(groups, [at for at, _ in scan.published])] = TEST
    for part, size, meant, others, avoided in (
        (TEST, sizes.test, for_test, for_validation, np.zeros_like(near)),
        (VALIDATION, sizes.validation, for_validation, for_test, near),
    ):
        for of_domain in rows:
            own = meant[of_domain]
            free = (split[of_domain] == TRAIN) & ~others[of_domain] & (own == own.any())
            free &= np.isin(taken[group[of_domain]], (TRAIN, part))
            passed_over = of_domain[free & avoided[of_domain]]
            candidates = of_domain[free & ~avoided[of_domain]]
            _, first = np.unique(group[candidates], return_index=True)
            chosen = candidates[first[:size]]
            last = group[chosen[-1]] if len(chosen) == size else len(groups)
            split[passed_over[group[passed_over] < last]] = NEAR_TEST
            split[chosen] = part
            taken[group[chosen]] = part
    split[(split == TRAIN) & (taken[group] != TRAIN)] = SAME_QUESTION
    split[(split < TRAIN) & for_test] = MEANT_FOR_TEST
    split[(split == SAME_QUESTION) & for_validation] = MEANT_FOR_VALIDATION
    if sizes.train:
        for domain, of_domain in enumerate(rows):
            training = np.sort(of_domain[split[of_domain] == TRAIN])
            shuffled = generator(seed, "training rows", domain).permutation(training)
            split[shuffled[sizes.train :]] = OVER_TRAIN
    _check(scan, sizes, rows, split)
    return split


def _check(scan: Scan, sizes: Sizes, rows: list[np.ndarray], split: np.ndarray) -> None:
    """Raises ValueError unless every domain has its share of every split."""
    wanted = {TEST: sizes.test, VALIDATION: sizes.validation, TRAIN: 1}
    short = []
    for name, of_domain in zip(scan.domains, rows, strict=True):
        counts = collections.Counter(split[of_domain].tolist())
        if all(counts[part] >= least for part, least in wanted.items()):
            continue
        shares = ", ".join(f"{SPLITS[part]} {counts[part]} of {n}" for part, n in wanted.items())
        reasons = [f"{why}: {counts[code]}" for code, why in REASONS.items() if counts[code]]
        where = ", ".join(map(spelt, scan.places.first.get(name, ())))
        questions = len(np.unique(scan.group[of_domain]))
        short.append(
            f"{name} ({len(of_domain)} rows of {questions} questions: "
            f"{'; '.join([shares, *reasons])}, first {where})"
        )
    if short:
        raise ValueError(
            f"expected {sizes.test} test and {sizes.validation} validation rows of different "
            f"questions and at least 1 training row of every domain, got too few of "
            f"{listed(short, '; ')}; ask for fewer, give more rows, or leave the domain out by "
            f"listing the others in {DOMAINS}"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A decided corpus, to be written in one more pass.

    Attributes:
      files, schema: the source.
      scan: what the first pass kept.
      split: i8[N], of every good row.
      held_out: the validation and test prompts, and all that were published for testing.
      between: kind of duplicate -> validation rows left out because of a test row.
    """

    files: Sequence[SourceFile]
    schema: Schema
    scan: Scan
    split: np.ndarray
    held_out: HeldOut
    between: Mapping[str, int]

    def rows(self, left_out: Places) -> Iterator[tuple[int, Place, int, Row]]:
        """Reads the source once more: (split, place, number, row) of all rows that have a split.

        Training rows that are duplicates of held-out ones are counted, by kind. Raises ValueError
        where the source is not what it was at the first pass.
        """
        for number, place, row in _again(self.files, self.schema, self.scan):
            part = int(self.split[number])
            if part == TRAIN and (kind := self.held_out.match(*row.prompt)):
                left_out.add(kind, place)
            elif part >= TRAIN:
                yield part, place, number, row

    def report(self, counts: np.ndarray, left_out: Places) -> dict[str, Any]:
        """Tells the fate of every row as JSON; i64[3, P] were written per split and domain."""
        codes = collections.Counter(self.split.tolist())
        kinds = (EXACT, NEAR)
        return {
            **self.scan.tally.report(),
            "groups": len(np.unique(self.scan.group)),
            "duplicates": {
                "train": {kind: left_out.counts[kind] for kind in kinds},
                "validation": {kind: self.between.get(kind, 0) for kind in kinds},
                "first": {kind: [list(place) for place in left_out.first[kind]] for kind in kinds},
            },
            "left_out": {why: codes[code] for code, why in REASONS.items() if codes[code]},
            "rows": {
                name: dict(zip(SPLITS, counts[:, place].tolist(), strict=True))
                for place, name in enumerate(self.scan.domains)
            },
        }


def _again(
    files: Sequence[SourceFile], schema: Schema, scan: Scan
) -> Iterator[tuple[int, Place, Row]]:
    """Number, place and row of all that were scanned, read once more; there must be as many."""
    tally, count = Tally(), 0
    for row in good_rows(files, schema, scan.domains, tally):
        if count < len(scan.group):
            yield count, tally.place, row
        count += 1
    if count != len(scan.group):
        raise changed()


def make_plan(
    files: Sequence[SourceFile], schema: Schema, domains: Sequence[str], sizes: Sizes, seed: int
) -> Plan:
    """Scans a source and decides the splits.

    Validation rows that nearly are test rows, or rows that were published for testing, give way to
    the next ones. The source is read once; and once more, whatever it holds, where so many rows
    give way that those next ones were not among the prompts that the scan kept.

    Raises:
      ValueError: bad input of any kind, also a domain that is left with too few rows.
    """
    unread = check_columns(files, schema)
    held = sizes.validation + sizes.test
    scanned = scan(files, schema, domains, seed, keep=held + held // 2)
    scanned.tally.unread = unread
    # Questions of every domain, apart for rows meant for testing, show what they are framed in.
    samples: dict[tuple[int, bool, bool], list[str]] = {}
    for row, prompt in scanned.prompts.items():
        said = scanned.meant[row]
        sample = samples.setdefault((int(scanned.domain[row]), said >= TRAIN, said == TEST), [])
        sample.append(prompt.asked)
    frames = boilerplate(samples.values())
    split = assign(scanned, sizes, seed)
    prompts = dict(scanned.prompts)
    tests = [prompts[row] for row in np.flatnonzero(split == TEST).tolist()]
    tests += [prompt for _, prompt in scanned.published]
    index = HeldOut(tests, frames)
    near = {
        row: kind
        for row, prompt in prompts.items()
        if split[row] != TEST and (kind := index.match(*prompt))
    }
    split = assign(scanned, sizes, seed, list(near))
    if not prompts.keys() >= set(np.flatnonzero(split == VALIDATION).tolist()):
        near, first = _look_again(files, schema, scanned, split == TEST, index, sizes.validation)
        split = assign(scanned, sizes, seed, list(near))
        prompts |= first
    validations = [prompts[row] for row in np.flatnonzero(split == VALIDATION).tolist()]
    return Plan(
        files=files,
        schema=schema,
        scan=scanned,
        split=split,
        held_out=HeldOut([*validations, *tests], frames),
        between=collections.Counter(
            near[row] for row in np.flatnonzero(split == NEAR_TEST).tolist()
        ),
    )


def _look_again(
    files: Sequence[SourceFile],
    schema: Schema,
    scanned: Scan,
    is_test: np.ndarray,
    index: HeldOut,
    size: int,
) -> tuple[dict[int, str], dict[int, Prompt]]:
    """Finds the rows that nearly are test rows, and the prompts of the first that are not."""
    taken = [*scanned.group[is_test].tolist(), *(group for group, _ in scanned.published)]
    may_be = ~np.isin(scanned.group, taken)
    near, first = {}, FirstPrompts(size)
    for number, _, row in _again(files, schema, scanned):
        if may_be[number] and (kind := index.match(*row.prompt)):
            near[number] = kind
        elif may_be[number]:
            group = int(scanned.group[number])
            first.add(int(scanned.domain[number]), group, number, row.prompt)
    return near, first.prompts()
