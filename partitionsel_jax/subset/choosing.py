"""Which rows to train on: size, budgets and anchors as they are typed, and the picks."""

import dataclasses
import re

import numpy as np

from partitionsel_jax import offline
from partitionsel_jax.data.streams import generator
from partitionsel_jax.offline.files import parse_budgets
from partitionsel_jax.subset.table import Table

_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")


@dataclasses.dataclass(frozen=True)
class Request:
    """Size, budgets and utility of a choice.

    Attributes:
      size: "5%" of the candidates, or how many.
      budgets: as `offline.files.parse_budgets` reads them, or "anchors": the shares of the anchors'
        domains.
      utility, coupling, ridge, step_scale, seed: see `offline.select`.
      block: most picks that match the anchors together; None: half of the features' dimension where
        more are asked for, since no more rows than dimensions can matter to one match.
    """

    size: str
    budgets: str = "proportional"
    utility: str = "gradient_matching"
    coupling: str = "joint"
    ridge: float = 0.0
    step_scale: float = 1.0
    seed: int = 0
    block: int | None = None

    def count(self, rows: int) -> int:
        """How many of so many candidates are asked for.

        Raises:
          ValueError: no number, or one outside 1 .. rows.
        """
        found = _PERCENT.fullmatch(self.size.strip())
        if found:
            count = max(1, round(float(found[1]) / 100 * rows))
        elif self.size.strip().isdecimal():
            count = int(self.size)
        else:
            raise ValueError(f"size must be a number of rows or a share like 5%, got {self.size!r}")
        if not 1 <= count <= rows:
            raise ValueError(f"size must lie in 1 .. {rows}, the candidates, got {self.size}")
        return count


def held_out_share(anchors: str) -> float:
    """The share of each domain that "10%" asks for; 0.0 for the name of a file.

    Raises:
      ValueError: a share outside 0 .. 50 %.
    """
    found = _PERCENT.fullmatch(anchors.strip())
    if not found:
        return 0.0
    share = float(found[1]) / 100
    if not 0 < share <= 0.5:
        raise ValueError(f"anchors={anchors} must be above 0% and at most 50% of the rows")
    return share


def held_out(table: Table, share: float, seed: int) -> np.ndarray:
    """Rows that are anchors, bool[N]: at random, of every domain a share and at least one.

    Raises:
      ValueError: a domain with one row alone.
    """
    chosen = np.zeros(len(table), bool)
    for domain, name in enumerate(table.names):
        rows = np.flatnonzero(table.domains == domain)
        if len(rows) < 2:
            raise ValueError(
                f"domain {name} has {len(rows)} rows: at least 2 are needed, one of them an anchor"
            )
        drawn = generator(seed, "held out as anchors", domain).permutation(rows)
        chosen[drawn[: max(1, round(share * len(rows)))]] = True
    return chosen


def check(
    request: Request, domains: np.ndarray, names: tuple[str, ...], anchor_domains: np.ndarray
) -> None:
    """Raises ValueError for a request that `choose` would refuse, before there are features."""
    offline.check_names(request.utility, request.coupling)
    size = request.count(len(domains))
    budgets = _budgets(request.budgets, names, domains, anchor_domains, size)
    if request.coupling != "agnostic":
        offline.limits(budgets, np.bincount(domains, minlength=len(names)), size)


def choose(
    request: Request,
    features: offline.Rows,
    anchors: offline.Rows | None,
    domains: np.ndarray,
    names: tuple[str, ...],
    anchor_domains: np.ndarray,
) -> offline.OfflineSelection:
    """Selects rows.

    Args:
      request: what is asked for.
      features: float[N, M], of the candidates.
      anchors: float[A, M]; None for utilities that look at none.
      domains: i32[N], of the candidates.
      names: of the domains.
      anchor_domains: i32[A]; -1 for a domain that no candidate has.

    Raises:
      ValueError: whatever does not fit, by name.
    """
    size = request.count(features.shape[0])
    block = request.block
    if block is None and size > features.shape[1] // 2:
        block = max(1, features.shape[1] // 2)
    return offline.select(
        features,
        anchors,
        domains,
        size=size,
        budgets=_budgets(request.budgets, names, domains, anchor_domains, size),
        utility=request.utility,
        coupling=request.coupling,
        ridge=request.ridge,
        step_scale=request.step_scale,
        seed=request.seed,
        block=block,
    )


def _budgets(
    text: str, names: tuple[str, ...], domains: np.ndarray, anchor_domains: np.ndarray, size: int
) -> offline.Budgets | np.ndarray:
    if text != "anchors":
        found = parse_budgets(text)
        scheme, _, values = text.partition(":")
        numbers = len(values.split(",")) if scheme in ("fixed", "counts") else len(names)
        if numbers != len(names):
            raise ValueError(
                f"budgets={text} has {numbers} numbers for {len(names)} domains: give one for each "
                f"of {', '.join(names)}"
            )
        return found
    if (anchor_domains < 0).any():
        raise ValueError(
            f"budgets=anchors shares the picks out by the anchors' domains, and "
            f"{(anchor_domains < 0).sum()} anchors are of none of {', '.join(names)}: choose other "
            "budgets, or give the anchors domains"
        )
    counts = np.bincount(anchor_domains, minlength=len(names))
    have = np.bincount(domains, minlength=len(names))
    most = int(have[counts > 0].sum())
    if size > most:
        raise ValueError(
            f"budgets=anchors with size {size} asks for more rows than the {most} of the domains "
            f"{', '.join(name for name, count in zip(names, counts, strict=True) if count)}: "
            "choose fewer, or other budgets"
        )
    return parse_budgets("fixed:" + ",".join(map(str, counts)))
