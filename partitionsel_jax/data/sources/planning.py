"""What is written of a source: the scan, the splits, and the prompts that training must not see."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from partitionsel_jax.data.sources import duplicates, splitting
from partitionsel_jax.data.sources.files import SourceFile
from partitionsel_jax.data.sources.scanning import Scan, Tally, check_columns, good_rows, scan
from partitionsel_jax.data.sources.schemas import Row, Schema
from partitionsel_jax.data.sources.splitting import SPLITS, TEST, TRAIN, VALIDATION, Sizes


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A decided corpus, to be written in one more pass.

    Attributes:
      files, schema: the source.
      scan: what the first pass kept.
      split: i8[N], of every good row.
      held_out: the validation and test prompts.
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

    Validation rows that nearly are test rows give way to the next ones until there are none.

    Raises:
      ValueError: bad input of any kind, with what to do about it.
    """
    check_columns(files, schema)
    held = sizes.validation + sizes.test
    scanned = scan(files, schema, domains, seed, keep=held + held // 2)
    between: dict[int, str] = {}
    prompts = dict(scanned.prompts)
    while True:
        split = splitting.assign(scanned, sizes, seed, between)
        tests, validations = (np.flatnonzero(split == part).tolist() for part in (TEST, VALIDATION))
        prompts |= _prompts(files, schema, scanned, {*tests, *validations} - prompts.keys())
        test_prompts = duplicates.held_out(prompts[row] for row in tests)
        found = {row: test_prompts.match(prompts[row]) for row in validations}
        found = {row: kind for row, kind in found.items() if kind}
        if not found:
            break
        between |= found
    return Plan(
        files=tuple(files),
        schema=schema,
        scan=scanned,
        split=split,
        held_out=duplicates.held_out(prompts[row] for row in (*tests, *validations)),
        between=collections.Counter(between.values()),
    )


def planned_rows(
    plan: Plan, left_out: collections.Counter[str]
) -> Iterator[tuple[int, int, int, Row]]:
    """The rows of a plan as (split, id, domain, row), in order of reading.

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
        if part == TRAIN and (kind := plan.held_out.match(row.compared)):
            left_out[kind] += 1
            continue
        yield part, row_number, int(domains[row_number]), row
    if row_number + 1 != len(domains) or next(rows, None) is not None:
        raise ValueError(
            "expected the source to stay as it is, but it changed while it was read; prepare it "
            "again when nothing writes to it"
        )


def report(plan: Plan, counts: np.ndarray, left_out: collections.Counter[str]) -> dict[str, Any]:
    """What happened to every row, as JSON can hold it.

    Args:
      plan: what was written.
      counts: i64[3, P], rows written per split and domain.
      left_out: training rows left out as duplicates, by kind.
    """
    reasons = {
        reason: int(np.sum(plan.split == code)) for code, reason in splitting.REASONS.items()
    }
    return {
        **plan.scan.tally.report(),
        "groups": len(np.unique(plan.scan.group)),
        "duplicates": {
            "train": {kind: left_out[kind] for kind in (duplicates.EXACT, duplicates.NEAR)},
            "validation": {
                kind: plan.between[kind] for kind in (duplicates.EXACT, duplicates.NEAR)
            },
        },
        "left_out": {reason: rows for reason, rows in reasons.items() if rows},
        "rows": {
            name: {part: int(counts[i, place]) for i, part in enumerate(SPLITS)}
            for place, name in enumerate(plan.scan.domains)
        },
    }


def _prompts(
    files: Sequence[SourceFile], schema: Schema, scanned: Scan, wanted: set[int]
) -> dict[int, str]:
    """What near-duplicates of these rows are looked for in, which takes another pass."""
    if not wanted:
        return {}
    last = max(wanted)
    rows = good_rows(files, schema, scanned.domains, Tally())
    numbered = zip(range(last + 1), rows, strict=False)
    return {number: row.compared for number, row in numbered if number in wanted}
