"""What is written of a source: the scan, the splits, and the prompts that training must not see."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from partitionsel_jax.data.sources import duplicates, splitting
from partitionsel_jax.data.sources.files import SourceFile, changed
from partitionsel_jax.data.sources.scanning import (
    FirstPrompts,
    Place,
    Places,
    Scan,
    Tally,
    check_columns,
    good_rows,
    scan,
)
from partitionsel_jax.data.sources.schemas import Row, Schema
from partitionsel_jax.data.sources.splitting import SPLITS, TEST, TRAIN, VALIDATION, Sizes

_KINDS = ("", duplicates.EXACT, duplicates.NEAR)


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

    files: tuple[SourceFile, ...]
    schema: Schema
    scan: Scan
    split: np.ndarray
    held_out: duplicates.HeldOut
    between: collections.Counter[str]


def make_plan(
    files: Sequence[SourceFile], schema: Schema, domains: Sequence[str], sizes: Sizes, seed: int
) -> Plan:
    """Scans a source and decides the splits.

    Validation rows that nearly are test rows, or rows that were published for testing, give way to
    the next ones. The source is read once; and once more, whatever it holds, where so many rows
    give way that those next ones were not among the prompts that the scan kept.

    Raises:
      ValueError: bad input of any kind, with what to do about it; also a domain that is left with
        too few rows.
    """
    unread = check_columns(files, schema)
    held = sizes.validation + sizes.test
    scanned = scan(files, schema, domains, seed, keep=held + held // 2)
    scanned.tally.unread = unread
    frames = duplicates.boilerplate(_samples(scanned))
    split = splitting.assign(scanned, sizes, seed)
    tests = [scanned.prompts[row] for row in np.flatnonzero(split == TEST).tolist()]
    index = duplicates.held_out((*tests, *scanned.published), frames)
    prompts = dict(scanned.prompts)
    near = np.zeros(len(split), np.int8)
    for row, prompt in prompts.items():
        near[row] = split[row] != TEST and _KINDS.index(index.match(*prompt))
    split = splitting.assign(scanned, sizes, seed, np.flatnonzero(near))
    if not prompts.keys() >= set(np.flatnonzero(split == VALIDATION).tolist()):
        near, first = _look_again(files, schema, scanned, split == TEST, index, sizes.validation)
        split = splitting.assign(scanned, sizes, seed, np.flatnonzero(near))
        prompts |= first
    validations = [prompts[row] for row in np.flatnonzero(split == VALIDATION).tolist()]
    return Plan(
        files=tuple(files),
        schema=schema,
        scan=scanned,
        split=split,
        held_out=duplicates.held_out((*validations, *tests, *scanned.published), frames),
        between=collections.Counter(
            _KINDS[kind] for kind in near[split == splitting.NEAR_TEST].tolist()
        ),
    )


def _samples(scanned: Scan) -> Iterator[list[str]]:
    """Of every domain what some of its questions ask, apart for rows meant for testing."""
    samples: dict[tuple[int, int], list[str]] = {}
    for row, prompt in scanned.prompts.items():
        place = int(scanned.domain[row]), int(scanned.test[row])
        samples.setdefault(place, []).append(prompt.asked)
    yield from samples.values()


def _look_again(
    files: Sequence[SourceFile],
    schema: Schema,
    scanned: Scan,
    is_test: np.ndarray,
    index: duplicates.HeldOut,
    size: int,
) -> tuple[np.ndarray, Mapping[int, duplicates.Prompt]]:
    """Which rows nearly are test rows, and the prompts of the first that are not.

    Returns:
      i8[N], a place in `_KINDS`, of the rows that may be for validation; and of every domain the
      prompts of at least so many of them that are no near-duplicates, by row.
    """
    taken = np.concatenate([scanned.group[is_test | (scanned.test == 1)], scanned.elsewhere])
    may_be = ~np.isin(scanned.group, taken)
    near = np.zeros(len(may_be), np.int8)
    first = FirstPrompts(size)
    rows = good_rows(files, schema, scanned.domains, Tally())
    number = -1
    for number, (free, row) in enumerate(zip(may_be.tolist(), rows, strict=False)):
        if not free:
            continue
        near[number] = kind = _KINDS.index(index.match(*row.prompt))
        if not kind:
            domain, group = int(scanned.domain[number]), int(scanned.group[number])
            first.add(domain, group, number, row.prompt)
    _check_ended(rows, number + 1 == len(may_be))
    return near, first.prompts()


def planned_rows(plan: Plan, left_out: Places) -> Iterator[tuple[int, Place, dict[str, int], Row]]:
    """The rows of a plan as (split, place, id and domain, row), in order of reading.

    Args:
      plan: the plan.
      left_out: counts the training rows that are duplicates of held-out ones, by kind.

    Raises:
      ValueError: the source is not what it was at the first pass.
    """
    tally = Tally()
    domains = plan.scan.domain
    row_number = -1
    rows = good_rows(plan.files, plan.schema, plan.scan.domains, tally)
    for row_number, (part, row) in enumerate(zip(plan.split.tolist(), rows, strict=False)):
        if part < TRAIN:
            continue
        if part == TRAIN and (kind := plan.held_out.match(row.question, row.compared)):
            left_out.add(kind, tally.place)
            continue
        yield part, tally.place, {"id": row_number, "domain": int(domains[row_number])}, row
    _check_ended(rows, row_number + 1 == len(domains))


def _check_ended(rows: Iterator[Row], in_full: bool) -> None:
    """Raises ValueError unless the source has as many good rows as it had at the first pass."""
    if not in_full or next(rows, None) is not None:
        raise changed()


def report(plan: Plan, counts: np.ndarray, left_out: Places) -> dict[str, Any]:
    """What happened to every row, as JSON can hold it.

    Args:
      plan: what was written.
      counts: i64[3, P], rows written per split and domain.
      left_out: training rows left out as duplicates, by kind; the first of them are named.
    """
    reasons = {
        reason: int(np.sum(plan.split == code)) for code, reason in splitting.REASONS.items()
    }
    kinds = (duplicates.EXACT, duplicates.NEAR)
    return {
        **plan.scan.tally.report(),
        "groups": len(np.unique(plan.scan.group)),
        "duplicates": {
            "train": {kind: left_out.counts[kind] for kind in kinds},
            "validation": {kind: plan.between[kind] for kind in kinds},
            "first": {
                kind: [list(place) for place in left_out.first.get(kind, ())] for kind in kinds
            },
        },
        "left_out": {reason: rows for reason, rows in reasons.items() if rows},
        "rows": {
            name: {part: int(counts[i, place]) for i, part in enumerate(SPLITS)}
            for place, name in enumerate(plan.scan.domains)
        },
    }
