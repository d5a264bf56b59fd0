"""Costs of an update: matrix products and bytes between devices, counted in the traced step.

XLA's own cost analysis counts the body of a loop once, however often it runs, and the decoder is a
loop over its layers; here a loop counts as often as it runs, where that is known. Norms, softmax,
one Cholesky factor of the head's width and the rounds of the selection are left out: for a decoder,
a few per cent. Logits' nuclear norms count at the width for responses of twice the mean length.
"""

import bisect
import collections
import dataclasses
import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from partitionsel_jax import models
from partitionsel_jax.config.settings import Settings
from partitionsel_jax.data.rows import Rows
from partitionsel_jax.distributed import processes, spmd
from partitionsel_jax.models import parameters as trees
from partitionsel_jax.selection import Selection
from partitionsel_jax.step import logit_scores
from partitionsel_jax.step.candidates import RowInfo
from partitionsel_jax.step.parts import divide, row_losses
from partitionsel_jax.step.state import Others, TrainState
from partitionsel_jax.step.step import Step

_LOG = logging.getLogger(__name__)

_COLLECTIVES = {
    "all_gather": "gathered",
    **dict.fromkeys(("reduce_scatter", "psum_scatter"), "dealt"),
    **dict.fromkeys(("psum", "psum_invariant", "pmax", "pmin"), "summed"),
}


@dataclasses.dataclass(frozen=True)
class Counts:
    """Amounts that one device computes and exchanges.

    Attributes:
      products: operations of matrix products, multiplications and additions.
      exact: those among them that are float32 at the highest precision.
      received: bytes from other devices in a ring of D: (D - 1) / D of what is gathered or
        scattered, twice that of what is summed.
      gathered, dealt, summed: bytes of the whole arrays in gatherings (features of the pool and a
        few numbers of every row), scatterings (picked rows to the devices that train on them) and
        sums (the gradient, the mean of the anchors' features and a few numbers).
      weights: the same of weights that devices split, and of the sums of their gradients.
    """

    products: float = 0.0
    exact: float = 0.0
    received: float = 0.0
    gathered: float = 0.0
    dealt: float = 0.0
    summed: float = 0.0
    weights: float = 0.0

    @property
    def exchanged(self) -> float:
        """Bytes of all arrays that devices exchange."""
        return self.gathered + self.dealt + self.summed + self.weights


def count(
    function: Callable[..., Any],
    *shapes: Any,
    devices: int,
    rounds: float = 1.0,
    response: float = 1.0,
) -> Counts:
    """Counts a per-device function; of a conditional, its most expensive branch.

    Args:
      function: of one device's arrays; it names the axis `spmd.AXIS`.
      shapes: of these arrays.
      devices: on the axis.
      rounds: how often a loop runs whose end depends on the data.
      response: share of a row's tokens that its loss counts; of a conditional on it (see
        `logit_scores.SHARES`), the branch for twice as many.
    """
    program = jax.make_jaxpr(function, axis_env=[(spmd.AXIS, devices)])(*shapes)
    return count_traced(program.jaxpr, devices, rounds, response)


def count_traced(
    jaxpr: core.Jaxpr, devices: int, rounds: float = 1.0, response: float = 1.0
) -> Counts:
    """Counts a per-device function that is traced already; see `count`."""
    return Counts(**_add_up(jaxpr, devices, rounds, response))


def _add_up(jaxpr: core.Jaxpr, devices: int, rounds: float, response: float) -> dict[str, float]:
    total: dict[str, float] = collections.defaultdict(float)
    for equation in jaxpr.eqns:
        name, times = equation.primitive.name, 1.0
        if name == "dot_general":
            inner = [_product(equation)]
        elif name in _COLLECTIVES:
            inner = [_exchange(equation, devices)]
        else:
            bodies = core.jaxprs_in_params(equation.params)
            inner = [_add_up(body, devices, rounds, response) for body in bodies]
            if name == "cond" and logit_scores.SCOPE in str(equation.source_info.name_stack):
                inner = [inner[bisect.bisect_left(logit_scores.SHARES, min(2 * response, 1))]]
            elif name == "cond":
                inner = [max(inner, key=lambda one: (one["products"], one["received"]))]
            elif name in ("scan", "while"):
                times = equation.params["length"] if name == "scan" else rounds
        for each in inner:
            for field, value in each.items():
                total[field] += times * value
    return total


def _product(equation: core.JaxprEqn) -> dict[str, float]:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left: Any = equation.invars[0].aval
    made: Any = equation.outvars[0].aval
    products = 2.0 * made.size * math.prod(left.shape[axis] for axis in contracted)
    precision = equation.params["precision"]
    highest = isinstance(precision, tuple) and jax.lax.Precision.HIGHEST in precision
    exact = products if highest and left.dtype == np.float32 else 0.0
    return {"products": products, "exact": exact}


def _exchange(equation: core.JaxprEqn, devices: int) -> dict[str, float]:
    kind = _COLLECTIVES[equation.primitive.name]
    whole: Any = equation.outvars if kind == "gathered" else equation.invars
    size = sum(variable.aval.size * variable.aval.dtype.itemsize for variable in whole)
    passes = 2 if kind == "summed" else 1
    # The transpose of a gathering of weights, which sums their gradients, keeps its name.
    field = "weights" if trees.SCOPE in str(equation.source_info.name_stack) else kind
    return {field: size, "received": passes * size * (devices - 1) / devices}


def stages(settings: Settings, response: float) -> tuple[Counts, Counts]:
    """Counts features (or losses) of one device's candidates and anchors, and the update.

    Features include the comparison of all candidates: the Gram matrix.

    Args:
      settings: of a step that shares nothing with others; features that are kept over epochs are
        counted as those of the first one.
      response: share of a row's tokens that its loss counts.
    """
    devices, split = settings.training.devices, settings.training.split_weights
    step = Step.create(settings, devices)
    step = dataclasses.replace(step, features=step.features.unshared)
    return _counted(step, devices, split, settings.data.length, response)


def shapes(step: Step) -> tuple[TrainState, Any, Others]:
    """Shapes of what an update takes beside its rows, whole: state, frozen parameters, others."""
    whole = jax.eval_shape(step.chooser.init, jax.random.key(0))
    trained, fixed = divide(step.chooser, whole)
    state, frozen = jax.eval_shape(step.initial, 0, None, trained)
    chosen = step.selection
    proxy = fixed if chosen.trains_proxy else whole if chosen.has_proxy else None
    reference = whole if "reference_losses" in chosen.reads else None
    return state, frozen, Others(reference, proxy)


@functools.lru_cache(maxsize=16)
def _counted(
    step: Step, devices: int, split: bool, length: int, response: float
) -> tuple[Counts, Counts]:
    """Counts a step's stages; runs that differ in their seed alone are traced once."""
    part = functools.partial(on_one_device, devices=devices, split_weights=split)
    state, frozen, others = map(part, shapes(step))
    chosen = step.selection
    pool, anchors = (rows(n // devices, length) for n in (chosen.pool, chosen.anchors))

    def counted(function: Any, microbatch: int, *inputs: Any) -> Counts:
        rounds = _rounds(step.model, microbatch * (length - 1), response)
        return count(function, *inputs, devices=devices, rounds=rounds, response=response)

    features = Counts()
    size = min(step.features.microbatch, (chosen.pool + chosen.anchors) // devices)
    if chosen.needs_features or chosen.needs_forward:
        features = counted(
            lambda *inputs: step.candidates(*inputs)[0],
            size,
            *(state, frozen, pool, anchors, others),
        )

    def update(state: Any, frozen: Any, pool: Any, info: Any, picks: Any, others: Any) -> Any:
        kept = state.curriculum, state.kept, jax.random.key(0)
        return step.update(state, frozen, pool, info, picks, *kept, others=others, rival=picks)

    def picks() -> Selection:
        each, one = jnp.zeros(chosen.size), jnp.zeros(())
        return Selection(each.astype(jnp.int32), each, one, one, each, one)

    picked = chosen.size // devices
    info = RowInfo.of(rows(chosen.pool, length))
    inputs = (state, frozen, pool, info, jax.eval_shape(picks), others)
    return features, counted(update, min(step.microbatch or picked, picked), *inputs)


def count_losses(model: models.Model, size: int, length: int, response: float) -> float:
    """Operations of the losses of so many rows, on one device.

    Args:
      model: the decoder.
      size: rows in one forward pass.
      length: of a row.
      response: share of a row's tokens that its loss counts.
    """
    parameters = jax.eval_shape(model.init, jax.random.key(0))
    losses = functools.partial(row_losses, model)
    rounds = _rounds(model, size * (length - 1), response)
    return count(losses, parameters, rows(size, length), devices=1, rounds=rounds).products


def _rounds(model: models.Model, tokens: int, response: float) -> int:
    """How often the one loop runs whose end depends on the data: over blocks that count."""
    return math.ceil(response * tokens / model.config.chunks.token_block(tokens))


def rows(count: int, length: int) -> Rows:
    """Shapes of so many rows."""
    number, flag = (jax.ShapeDtypeStruct((count,), dtype) for dtype in (np.int32, bool))
    tokens, mask = (jax.ShapeDtypeStruct((count, length), dtype) for dtype in (np.int32, bool))
    return Rows(tokens, mask, number, number, flag)


def on_one_device(tree: Any, devices: int, split_weights: bool) -> Any:
    """Shapes of one device's part of weights or of a state, of devices that need not be here."""
    stand_ins = (jax.devices()[0],) * devices
    return spmd.Layout(stand_ins, "shard_map", split_weights).on_one_device("weights", tree)


@dataclasses.dataclass(frozen=True)
class Flops:
    """Operations of a run's updates on all devices together, from the tokens that they computed.

    Attributes:
      features: operations of the features (or losses) of all candidates and anchors.
      update: operations of the weighted gradient step on the picks.
      feature_tokens, update_tokens: what goes through the model meanwhile, padding included, where
        rows have their full length and nothing is shared with other updates.
      bucketed: whether rows may be computed at less than their full length.
    """

    features: float
    update: float
    feature_tokens: int
    update_tokens: int
    bucketed: bool

    def of(self, tokens: int) -> float:
        """Operations of an update that computed so many tokens, padding included.

        Exact where nothing is bucketed: what an update takes from others is in its tokens. With
        buckets both stages are scaled by the share of the tokens that is left, as if operations
        were proportional to tokens.
        """
        if self.bucketed:
            share = tokens / (self.feature_tokens + self.update_tokens)
            return share * (self.features + self.update)
        if not self.feature_tokens:
            return self.update
        return self.update + self.features * (tokens - self.update_tokens) / self.feature_tokens


def count_flops(settings: Settings, devices: int, rows: Rows) -> Flops:
    """Traces the stages of a run's step; compiles nothing.

    Args:
      settings: of the run.
      devices: that it runs on.
      rows: some of its data, whose share of response tokens tells how much of the logits is
        computed. A run that continues has to give the same.
    """
    whole = dataclasses.replace(
        settings,
        features=settings.features.unshared,
        selection=settings.selection.unshared,
        data=dataclasses.replace(settings.data, buckets=()),
        training=dataclasses.replace(settings.training, devices=devices),
    )
    # The first token is predicted from nothing.
    features, update = stages(whole, float(np.mean(np.asarray(rows.response)[:, 1:])))
    picked = _padded(settings.selection.size // devices, settings.training.microbatch)
    chosen = settings.selection
    # A guard has two twins, one of which is the proxy itself where that trains.
    beside = 2 if chosen.has_guard else int(chosen.trains_proxy)
    updated = picked * (1 + beside)
    return Flops(
        features=devices * features.products,
        update=devices * update.products,
        feature_tokens=devices * _feature_tokens(settings, devices),
        update_tokens=devices * settings.data.length * updated,
        bucketed=bool(settings.data.buckets),
    )


@dataclasses.dataclass(frozen=True)
class TwinCosts:
    """Operations of an update of a run with a guard, on all devices together.

    Attributes:
      whole: all of them, where rows have their full length and nothing is shared with others.
      twins: those of the guard's twins among them.
      random: those of an update on random rows, without proxy and guard.
      bucketed: whether rows may be computed at less than their full length.
      updates: length of the run.
    """

    whole: float
    twins: float
    random: float
    bucketed: bool
    updates: int

    @property
    def share(self) -> float:
        """The part of the run's cost that the twins are, features shared by no updates."""
        return self.twins / self.whole

    def relative(self, flops: float, upfront: float = 0.0) -> float:
        """Cost of an update without the twins, relative to one on random rows.

        Args:
          flops: of an update, the mean over the run.
          upfront: of the proxy's own training, before the first update.
        """
        scale = flops / self.whole if self.bucketed else 1.0
        return (flops - scale * self.twins + upfront / self.updates) / (scale * self.random)


def twin_costs(settings: Settings, devices: int, rows: Rows) -> TwinCosts:
    """Traces an update with a guard, without it, and on random rows; see `count_flops`."""
    chosen = settings.selection

    def flops(**changes: Any) -> Flops:
        selection, features = dataclasses.replace(chosen, **changes), settings.features.unshared
        changed = dataclasses.replace(settings, selection=selection, features=features)
        return count_flops(changed, devices, rows)

    whole = flops()
    alone = {"guard": False, "proxy": "", "proxy_trains": False}
    random = flops(**alone, utility="random", swaps=0, budgets="proportional")
    twins = whole.update - flops(guard=False).update
    return TwinCosts(
        whole=whole.features + whole.update,
        twins=twins,
        random=random.update,
        bucketed=whole.bucketed,
        updates=settings.training.updates,
    )


def _feature_tokens(settings: Settings, devices: int) -> int:
    """Tokens of one device's features, or of the losses that take their place."""
    chosen, features, length = settings.selection, settings.features, settings.data.length
    pool, anchors = chosen.pool // devices, chosen.anchors // devices
    if chosen.needs_features:
        window = min(features.tokens or length, length)
        return window * _padded(pool + anchors, features.microbatch)
    if not chosen.needs_forward:
        return 0
    passes = [pool] * (1 + ("reference_losses" in chosen.reads))
    passes += [anchors] * (chosen.budgets == "curriculum")
    return length * sum(_padded(count, features.microbatch) for count in passes)


def _padded(rows: int, microbatch: int) -> int:
    """Rows with those that fill up the last microbatch."""
    size = min(microbatch or rows, rows)
    return -(-rows // size) * size


def exchanged(step: Step, devices: int, *arguments: Any) -> Counts:
    """Counts an update that computes all features, and shares none with others.

    Args:
      step: the update.
      devices: how many there are.
      arguments: of `Step.__call__`, as one device sees them; arrays or their shapes.
    """
    step = dataclasses.replace(
        step, features=step.features.unshared, selection=step.selection.unshared
    )
    state, *rest = arguments
    state = dataclasses.replace(state, kept=state.kept and state.kept.unshared)
    return count(step.__call__, state, *rest, devices=devices)


def size_of(tree: Any) -> float:
    """Bytes of a tree of arrays, or of their shapes."""
    return float(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)))


def held_by_proxy(state: TrainState, others: Others) -> float:
    """Bytes that a model which selects for another takes during a step.

    Where it trains, or twins of it do, gradients and optimizers' states are among them.

    Args:
      state, others: one device's part of what a step takes; arrays or their shapes.
    """
    held = size_of(others.proxy)
    for learner in filter(None, (state.proxy, *(state.guard or ())[:2])):
        held += 2 * size_of(learner.parameters) + size_of(learner.optimizer)
    return held


def log_proxy(step: Step, layout: spmd.Layout, state: TrainState, others: Others) -> None:
    """Logs what the model that selects, if it is another, takes of each device's memory."""
    if not step.selection.has_proxy or not processes.is_first():
        return
    mine = layout.on_one_device("weights", state), layout.on_one_device("weights", others)
    sizes = (
        trees.count(jax.eval_shape(model.init, jax.random.key(0)))
        for model in (step.chooser, step.model)
    )
    held = _text(held_by_proxy(*mine))
    _LOG.info(
        "selection.proxy=%r, of %s parameters beside the model's %s, takes %s of each device's "
        "memory%s",
        *(step.selection.proxy, *(f"{size:,}" for size in sizes), held),
        ", gradients and optimizers' states included" if state.proxy or state.guard else "",
    )
    if state.kept is not None and state.kept.table is not None:
        rows, size = step.features.cache_rows, _text(2 * size_of(state.kept.table))
        _LOG.info("features of %s rows are kept over epochs, in %s of it", f"{rows:,}", size)


def log_traffic(step: Step, layout: spmd.Layout, *arguments: Any) -> None:
    """Logs the bytes that devices exchange in an update, where there is more than one device.

    Args:
      step, layout: the update, and where it runs.
      arguments: as its mapped program takes them.
    """
    devices = len(layout.devices)
    if devices == 1 or not processes.is_first():
        return
    kinds = zip(Step.KINDS, arguments, strict=False)
    found = exchanged(step, devices, *(layout.on_one_device(*each) for each in kinds))
    parts = {"features": found.gathered, "picked rows": found.dealt, "gradient": found.summed}
    parts |= {"weights": found.weights} if found.weights else {}
    listed = ", ".join(f"{name} {_text(size)}" for name, size in parts.items())
    _LOG.info("%d devices exchange %s in an update: %s", devices, _text(found.exchanged), listed)


def _text(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
