"""The selection problem, its result, and the checks that both must pass."""

import dataclasses
import operator
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax.selection.gram import DenseGram, FactoredGram, Gram

# Largest |K_ij - K_ji| / max |K_ij| that a Gram matrix computed in float32 may show.
SYMMETRY_TOLERANCE = 1e-4
# Rows, or entries, of a larger one that are compared with their mirror images: reading all of it
# on the host would take longer than selecting.
_CHECKED_ROWS, _CHECKED_ENTRIES = 16, 1 << 16

_STATIC = {"static": True}
# The fields of a problem that are one number of each candidate, and may be None.
_SCORES = ("losses", "norms", "reference_losses", "nuclear_norms", "novelty")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Problem:
    """A pool of candidates with their utilities' ingredients and the per-domain budgets.

    Attributes:
      alignment: f32[N]; s_i = <g_i, anchor gradient>.
      gram: f32[N, N], symmetric; K_ij = <g_i, g_j>. None where `features` are given.
      domains: i32[N] in [-1, P); -1 marks a padding row, which is never picked.
      budgets: i32[P], >= 0; most picks per domain. They sum to the selection's size. Or a function
        of the counts i32[P] of candidates that can be picked (those of `selection.budgets` with
        their size bound): eager calls compile once per function.
      losses: f32[N] or None; needed by `loss` and `reducible_loss` only.
      anchor_similarity: f32[N, A] or None; inner product (or cosine) of every candidate with every
        anchor, needed by `anchor_coverage` and `fair_transport` only. An anchor that is finite for
        no candidate is left out, not the candidates.
      features: f32[N, M] or None; instead of `gram` for pools so large that no [N, N] array should
        exist: K_ij = <features_i, features_j>.
      norms: f32[N], >= 0, or None; gradient norms before any scaling, for `grad_norm` only. None:
        the square roots of the Gram matrix's diagonal, which say nothing if features are unit.
      reference_losses: f32[N] or None; losses under a reference model, for `reducible_loss` only.
        None: `losses` have them taken off already.
      nuclear_norms: f32[N], >= 0, or None; of the rows' logits, needed by `uds` only.
      novelty: f32[N] or None; what `uds` adds to them: weighted distances from rows that were
        selected before. None: nothing.
      domain_count: P, for budgets that are a function; None: one more than the largest of the
        domains, which then have to be concrete. Static.
    """

    alignment: jax.Array
    gram: jax.Array | None
    domains: jax.Array
    budgets: jax.Array | Callable[[jax.Array], jax.Array]
    losses: jax.Array | None = None
    anchor_similarity: jax.Array | None = None
    features: jax.Array | None = None
    norms: jax.Array | None = None
    reference_losses: jax.Array | None = None
    nuclear_norms: jax.Array | None = None
    novelty: jax.Array | None = None
    domain_count: int | None = dataclasses.field(default=None, metadata=_STATIC)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Selection:
    """The answer of `select`.

    Attributes:
      indices: i32[K]; distinct, in the order picked; -1 where nothing feasible was left.
      weights: f32[K], >= 0; 0 at padding; 1 at every pick of a utility without weights.
      utility: f32[]; the objective reached; nan where the utility has none.
      certificate: f32[] in [0, 1]; lower bound on utility / optimum; nan except for
        `gradient_matching`, and where none was asked for. `certify` computes a sharper one.
      gains: f32[K]; what each pick adds to the utility, 0 at padding: its score when it was picked,
        or w_i s_i / 2 where weights are refitted. They sum to the utility, where there is one.
      dropped: i32[]; candidates left out because an entry of theirs was not finite.
      candidates: bool[N]; what could be picked: False for padding and for dropped ones.
      budgets: i32[P]; those of the problem, or what its function made of the candidates' counts.
    """

    indices: jax.Array
    weights: jax.Array
    utility: jax.Array
    certificate: jax.Array
    gains: jax.Array
    dropped: jax.Array
    candidates: jax.Array | None = None
    budgets: jax.Array | None = None


class Solution(NamedTuple):
    """The answer of a utility's solver; see `Selection` for the fields.

    `utility` and `certificate` are None where there is none: a nan inside a compiled program would
    be an error under `jax_debug_nans`.
    """

    indices: jax.Array
    weights: jax.Array
    gains: jax.Array
    utility: jax.Array | None
    certificate: jax.Array | None = None


def unweighted(indices: jax.Array, gains: jax.Array) -> Solution:
    """Picks of weight 1 each, whose gains sum to the utility; without a certificate."""
    return Solution(indices, (indices >= 0).astype(jnp.float32), gains, jnp.sum(gains))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Options:
    """How to select: the static and the traced arguments of `select` but the problem."""

    ridge: jax.Array
    step_scale: jax.Array
    key: jax.Array | None
    size: int = dataclasses.field(metadata=_STATIC)
    rule: str = dataclasses.field(metadata=_STATIC)
    solver: str = dataclasses.field(metadata=_STATIC)
    swaps: int = dataclasses.field(metadata=_STATIC)
    certificate: bool = dataclasses.field(metadata=_STATIC)

    def draw(self, shape: tuple[int, ...]) -> jax.Array:
        """Uniform draws from [0, 1), f32 of the given shape."""
        assert self.key is not None  # `select` has seen to it
        return jax.random.uniform(self.key, shape, jnp.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pool:
    """A problem made safe to compute with: every entry finite, every domain in range.

    Fields are those of `Problem`, 0 where a row is no candidate, and:

    Attributes:
      scale: f32[]; the largest |alignment|, to which tolerances are relative.
      gram: K, whole or in factors.
      candidates: bool[N]; False for padding and for rows with entries that are not finite.
      groups: i32[N] in [0, G); candidates of different groups do not know of each other.
      anchors: bool[A] or None; False for an anchor that is finite for no candidate.
      group_count: G. Static.
    """

    alignment: jax.Array
    scale: jax.Array
    gram: Gram
    domains: jax.Array
    budgets: jax.Array
    candidates: jax.Array
    groups: jax.Array
    losses: jax.Array | None = None
    anchor_similarity: jax.Array | None = None
    anchors: jax.Array | None = None
    norms: jax.Array | None = None
    reference_losses: jax.Array | None = None
    nuclear_norms: jax.Array | None = None
    novelty: jax.Array | None = None
    group_count: int = dataclasses.field(default=1, metadata=_STATIC)


def make_pool(
    problem: Problem, budgets: jax.Array | Callable[[jax.Array], jax.Array]
) -> tuple[Pool, jax.Array]:
    """Masks padding and non-finite candidates out; also counts the latter (i32[]).

    `budgets` are those of the problem, which holds none itself where they are a function.
    """
    # First the cast: what overflows float32 is not finite either.
    problem = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
        problem,
    )
    present_N = problem.domains >= 0
    sound_N = present_N & jnp.isfinite(problem.alignment)
    for name in _SCORES:
        if (values_N := getattr(problem, name)) is not None:
            sound_N &= jnp.isfinite(values_N)
    if problem.features is not None:
        # By Cauchy-Schwarz, inner products of rows with finite squares are finite.
        sound_N &= jnp.isfinite(jnp.sum(problem.features**2, axis=1))
    if problem.gram is not None:
        sound_N = _sound_rows(problem.gram, sound_N)
    similarity, anchors_A = problem.anchor_similarity, None
    if similarity is not None:
        # A broken anchor breaks a column; a broken candidate, a row.
        finite_NxA = jnp.isfinite(similarity)
        anchors_A = jnp.any(finite_NxA & sound_N[:, None], axis=0)
        sound_N &= jnp.all(finite_NxA | ~anchors_A[None, :], axis=1)
        similarity = jnp.where(anchors_A[None, :], similarity, 0.0)

    def clean(values: Any) -> Any:
        """0 in the rows of whatever is no candidate; None stays None."""
        return jax.tree.map(
            lambda leaf: jnp.where(sound_N.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, 0.0), values
        )

    if callable(budgets):
        # A candidate that cannot be picked must not earn its domain a budget.
        count = cast(int, problem.domain_count)
        budgets = budgets(jnp.bincount(jnp.where(sound_N, problem.domains, count), length=count))
        _check_array("budgets", budgets, (count,), jnp.integer)
    alignment_N = clean(problem.alignment)
    pool = Pool(
        alignment=alignment_N,
        scale=jnp.max(jnp.abs(alignment_N)),
        gram=(
            FactoredGram(clean(problem.features))
            if problem.gram is None
            else DenseGram(problem.gram, sound_N)
        ),
        domains=jnp.maximum(problem.domains.astype(jnp.int32), 0),
        budgets=budgets.astype(jnp.int32),
        candidates=sound_N,
        groups=jnp.zeros(sound_N.shape, jnp.int32),
        anchor_similarity=clean(similarity),
        anchors=anchors_A,
        **{name: clean(getattr(problem, name)) for name in _SCORES},
    )
    return pool, jnp.sum(present_N & ~sound_N, dtype=jnp.int32)


def _sound_rows(gram: jax.Array, sound_N: jax.Array) -> jax.Array:
    """The candidates among `sound_N` whose entries of K with the others are finite, bool[N]."""
    # A candidate with a broken gradient breaks its column in everybody's row, but it alone has a
    # broken diagonal: judge by the diagonal first, and the other entries only among the rest.
    diagonal_N = jnp.diagonal(gram)
    sound_N = sound_N & jnp.isfinite(diagonal_N)
    # A product by zeros is NaN where an entry is not finite, and the fastest way to read them all.
    zeros_N = 0.0 * jnp.where(sound_N, diagonal_N, 0.0)
    spotless = jnp.all(jnp.isfinite(gram @ zeros_N))
    found_N: jax.Array = jax.lax.cond(
        spotless,
        lambda: sound_N,
        lambda: (
            sound_N & jnp.all(jnp.isfinite(gram) | ~(sound_N[:, None] & sound_N[None, :]), axis=1)
        ),
    )
    return found_N


def check_problem(problem: Problem, size: int, *, budgeted: bool = False) -> int:
    """Checks ranks, lengths, dtypes and the size; of values those that are concrete.

    Returns:
      P: from the budgets, or where these are a function from `domain_count` or the domains.

    Raises:
      ValueError: naming the argument, what was expected, what came, and what to do: for a shape,
        dtype or size that does not fit, domains outside [-1, P), negative budgets, budgets that do
        not sum to `size` (where `budgeted`), or a Gram matrix that is not symmetric.
    """
    _check_array("alignment", problem.alignment, ("N",), jnp.floating)
    pool_size = problem.alignment.shape[0]
    if (problem.gram is None) == (problem.features is None):
        raise ValueError(
            f"exactly one of gram and features must be given, got "
            f"{'neither' if problem.gram is None else 'both'}; "
            "gram is f32[N, N], and features f32[N, M] stand in for it in large pools."
        )
    shapes: dict[str, tuple[int | str, ...]] = {
        "gram": (pool_size, pool_size),
        "features": (pool_size, "M"),
        "domains": (pool_size,),
        **dict.fromkeys(_SCORES, (pool_size,)),
        "anchor_similarity": (pool_size, "A"),
    }
    for name, shape in shapes.items():
        if getattr(problem, name) is not None:
            kind = jnp.integer if name == "domains" else jnp.floating
            _check_array(name, getattr(problem, name), shape, kind)
    check_count(size)
    if size > pool_size:
        raise ValueError(
            f"size must be at most the pool's {pool_size} candidates, got {size}; "
            "draw a larger pool or select fewer."
        )
    count, domains = problem.domain_count, None
    if is_concrete(problem.domains):
        domains = np.asarray(problem.domains)
    if callable(problem.budgets):
        if count is None:
            if domains is None:
                raise ValueError(
                    "domain_count must be given where budgets are a function and domains are "
                    "traced, got None; pass the number of domains P."
                )
            count = max(1, int(domains.max()) + 1)
    else:
        _check_array("budgets", problem.budgets, ("P",), jnp.integer)
        named = int(problem.budgets.shape[0])
        if named < 1:
            raise ValueError("budgets must name at least one domain, got shape (0,); pass i32[P].")
        if count not in (None, named):
            raise ValueError(
                f"domain_count must be {named} as budgets has {named} entries, got {count}; "
                "leave it out."
            )
        count = named
        if is_concrete(problem.budgets):
            budgets = np.asarray(problem.budgets)
            if budgets.min() < 0:
                raise ValueError(
                    f"budgets must be >= 0, got {budgets.tolist()}; use selection.budgets."
                )
            if budgeted and budgets.sum() != size:
                raise ValueError(
                    f"budgets must sum to size={size}, got {budgets.tolist()} with sum "
                    f"{budgets.sum()}; make them with selection.budgets, or use "
                    "coupling='agnostic' to ignore domains."
                )
    if domains is not None and not -1 <= domains.min() <= domains.max() < count:
        raise ValueError(
            f"domains must lie in [-1, {count}) as budgets has {count} entries, got values from "
            f"{domains.min()} to {domains.max()}; number the domains from 0 and use -1 for "
            "padding rows only."
        )
    if problem.gram is not None and is_concrete(problem.gram):
        _check_symmetric(problem.gram)
    return count


def check_count(value: Any, name: str = "size", least: int = 1) -> None:
    """Checks that `value` is a static integer of at least `least`."""
    try:
        valid = not isinstance(value, bool) and operator.index(value) >= least
    except Exception:  # a traced one fails in its own way
        valid = False
    if not valid:
        raise ValueError(
            f"{name} must be a Python integer >= {least} (it is static: shapes and loops depend "
            f"on it), got {value!r}."
        )


def check_scalar(
    name: str,
    value: jax.Array | float,
    least: float = 0.0,
    most: float = np.inf,
    without: float | None = None,
) -> jax.Array:
    """`value` as f32[], so that Python and array values share one compilation.

    Where it is concrete it must be finite and in [least, most], and not be `without`.
    """
    valid = np.shape(value) == ()
    if valid and is_concrete(value):
        host = float(np.asarray(value))
        valid = bool(np.isfinite(host)) and least <= host <= most and host != without
    if not valid:
        but = "" if without is None else f" without {without:g}"
        raise ValueError(
            f"{name} must be a finite scalar in [{least:g}, {most:g}]{but}, got {value}; "
            "batches go through jax.vmap."
        )
    return jnp.asarray(value, jnp.float32)


def is_concrete(value: object) -> bool:
    """True if `value` can be read now, rather than when compiled code runs."""
    return not isinstance(value, jax.core.Tracer)


def _check_array(name: str, array: Any, shape: tuple[int | str, ...], kind: Any) -> None:
    got = getattr(array, "shape", None)
    fits = got is not None and len(got) == len(shape)
    fits = fits and all(
        isinstance(want, str) or want == have for want, have in zip(shape, got or (), strict=True)
    )
    if not fits:
        expected = "[" + ", ".join(map(str, shape)) + "]"
        came = f"shape {got}" if got is not None else type(array).__name__
        raise ValueError(
            f"{name} must be an array of shape {expected}, got {came}; "
            "N is the length of alignment, and batches go through jax.vmap."
        )
    if 0 in array.shape[1:]:
        raise ValueError(
            f"{name} must not be empty, got shape {got}; leave it None where there is nothing."
        )
    if not jnp.issubdtype(array.dtype, kind):
        wanted = "float32" if kind is jnp.floating else "int32"
        raise ValueError(f"{name} must be {wanted}, got {array.dtype}; convert it with astype.")


def _check_symmetric(gram: jax.Array | np.ndarray) -> None:
    """Compares rows with columns: all of a small matrix, some spread over a large one."""
    size = gram.shape[0]
    step = -(-size // min(size, max(_CHECKED_ROWS, _CHECKED_ENTRIES // size)))
    if not isinstance(gram, jax.Array) or jax.default_backend() == "cpu":
        gram = np.asarray(gram)  # without a copy; elsewhere only what is read comes to the host
    rows = np.asarray(gram[::step], np.float32)
    columns = np.asarray(gram[:, ::step], np.float32).T
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(rows - columns)
    finite = np.isfinite(difference)
    scale = np.max(np.abs(rows), where=np.isfinite(rows), initial=0.0)
    worst = np.max(difference, where=finite, initial=0.0)
    if worst > SYMMETRY_TOLERANCE * scale:
        raise ValueError(
            f"gram must be symmetric, got entries that differ from their mirror image by {worst:g} "
            f"(largest entry {scale:g}); pass features @ features.T."
        )
