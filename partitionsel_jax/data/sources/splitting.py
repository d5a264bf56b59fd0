"""Which rows go to which split: no two splits share a group, what rows were made of."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from partitionsel_jax.data.sources.scanning import Scan, spelt
from partitionsel_jax.data.sources.schemas import DOMAINS, listed
from partitionsel_jax.data.streams import generator

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
# Why a row is in no split.
SAME_QUESTION, MEANT_FOR_TEST, OVER_TRAIN, NEAR_TEST, MEANT_FOR_VALIDATION = range(-5, 0)
REASONS = {
    SAME_QUESTION: "another row of its question is held out",
    MEANT_FOR_TEST: "published for testing and not needed",
    OVER_TRAIN: "more than the training rows asked for",
    NEAR_TEST: "near-duplicate between validation and test",
    MEANT_FOR_VALIDATION: "published for validation and not needed",
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Rows per domain.

    Attributes:
      validation, test: just so many, each of another question.
      train: at most so many; 0 for all the rest.
    """

    validation: int
    test: int
    train: int = 0

    def __post_init__(self) -> None:
        for split in ("validation", "test"):
            if getattr(self, split) < 1:
                raise ValueError(
                    f"expected at least 1 row per domain in {split}, got {getattr(self, split)}"
                )
        if self.train < 0:
            raise ValueError(f"expected 0 (all) or more training rows, got {self.train}")


def assign(
    scan: Scan, sizes: Sizes, seed: int, near_test: np.ndarray | Sequence[int] = ()
) -> np.ndarray:
    """The split of every row.

    Questions are in an order that the data seed decides. Of every domain the first ones give a test
    row each, the next ones a validation row; all other rows of these questions are left out, and
    the rest is for training. Rows that their publishers meant for testing are test rows only, and
    in a domain that has such rows no others are; their questions are left out of training and
    validation whether they are among the test rows or not. The same holds for rows that are meant
    for validation: in a domain that has only one of both kinds, the other split is taken from the
    rest. The test rows do not depend on the other sizes.

    Args:
      scan: the rows.
      sizes: rows per domain.
      seed: data seed.
      near_test: rows that may not be validation rows; those that would have been are left out.

    Returns:
      i8[N], `TRAIN`, `VALIDATION`, `TEST` or one of `REASONS`.

    Raises:
      ValueError: domains with too few questions.
    """
    groups, group = np.unique(scan.group, return_inverse=True)
    order = np.argsort(group, kind="stable")
    # By domain, and of a domain in order of the questions.
    order = order[np.argsort(scan.domain[order], kind="stable")]
    starts = np.searchsorted(scan.domain[order], np.arange(len(scan.domains) + 1))
    rows = [order[a:b] for a, b in itertools.pairwise(starts)]

    split = np.full(len(group), TRAIN, np.int8)
    near = np.zeros(len(group), bool)
    near[np.asarray(near_test, np.int64)] = True
    meant = scan.test == 1
    watched = scan.validation if len(scan.validation) else np.zeros(len(group), bool)
    watched = watched & ~meant
    taken = np.full(len(groups), TRAIN, np.int8)
    taken[group[watched]] = VALIDATION
    taken[group[meant]] = TEST
    taken[np.isin(groups, scan.elsewhere)] = TEST
    wanted = {TEST: sizes.test, VALIDATION: sizes.validation}
    for part, size in wanted.items():
        for of_domain in rows:
            own = (meant if part == TEST else watched)[of_domain]
            others = (watched if part == TEST else meant)[of_domain]
            free = (split[of_domain] == TRAIN) & ~others & (own == own.any())
            free &= np.isin(taken[group[of_domain]], (TRAIN, part))
            candidates = of_domain[free]
            if part == VALIDATION:
                passed_over = candidates[near[candidates]]
                candidates = candidates[~near[candidates]]
            _, first = np.unique(group[candidates], return_index=True)
            chosen = candidates[first[:size]]
            if part == VALIDATION:
                last = group[chosen[-1]] if len(chosen) == size else len(groups)
                split[passed_over[group[passed_over] < last]] = NEAR_TEST
            split[chosen] = part
            taken[group[chosen]] = part
    split[(split == TRAIN) & (taken[group] != TRAIN)] = SAME_QUESTION
    split[(split < TRAIN) & meant] = MEANT_FOR_TEST
    split[(split == SAME_QUESTION) & watched] = MEANT_FOR_VALIDATION
    if sizes.train:
        for domain, of_domain in enumerate(rows):
            training = np.sort(of_domain[split[of_domain] == TRAIN])
            shuffled = generator(seed, "training rows", domain).permutation(training)
            split[shuffled[sizes.train :]] = OVER_TRAIN
    _check(scan, sizes, rows, split)
    return split


def _check(scan: Scan, sizes: Sizes, rows: list[np.ndarray], split: np.ndarray) -> None:
    """Raises ValueError unless every domain has its share of every split."""
    wanted = {"test": sizes.test, "validation": sizes.validation, "train": 1}
    short = []
    for name, of_domain in zip(scan.domains, rows, strict=True):
        got = {part: int(np.sum(split[of_domain] == SPLITS.index(part))) for part in wanted}
        if any(got[part] < least for part, least in wanted.items()):
            questions = len(np.unique(scan.group[of_domain]))
            shares = ", ".join(f"{part} {got[part]} of {wanted[part]}" for part in wanted)
            meant = np.isin(split[of_domain], (MEANT_FOR_TEST, MEANT_FOR_VALIDATION))
            meant_rows = int(np.sum(meant))
            shares += f"; {meant_rows} others are meant for test or validation" * bool(meant_rows)
            near = int(np.sum(split[of_domain] == NEAR_TEST))
            shares += f"; {near} near-duplicates of test rows" if near else ""
            first = scan.places.first.get(name, ())
            where = ", ".join(map(spelt, first))
            where = f", first {where}" if where else ""
            short.append(
                f"{name} ({len(of_domain)} rows of {questions} questions: {shares}{where})"
            )
    if short:
        raise ValueError(
            f"expected {sizes.test} test and {sizes.validation} validation rows of different "
            f"questions and at least 1 training row of every domain, got too few of "
            f"{listed(short, '; ')}; ask for fewer, give more rows, or leave the domain out by "
            f"listing the others in {DOMAINS}"
        )
