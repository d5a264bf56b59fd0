"""How long a step would take on devices that are not here, and whether it fits into them.

Memory is arithmetic: a compiler knows better (`checks.compile_step`), in one to eleven minutes for
each of the combinations that a table has dozens of.
Letters: N pool, A anchors, K selected, M feature dimension, T tokens.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.config.settings import Settings
from partitionsel_jax.models.config import DTYPES, DecoderConfig
from partitionsel_jax.planning.hardware import GIGA, Slice
from partitionsel_jax.step import costs
from partitionsel_jax.step.step import Step
from partitionsel_jax.training import starts

# Figures that no table publishes: the share of the peak that matrix products reach, all else of a
# step included, of the bandwidth that collectives reach, and of a device's memory that a step may
# use; the share of a row's tokens that its loss counts; what a round of selection takes however
# little it reads (some ten small kernels); and the products with the Gram matrix that the
# certificate takes, 15 to 60 on unit features.
UTILISATION, NETWORK, FILL, RESPONSE, PICK_SECONDS, CERTIFICATE = 0.4, 0.7, 0.9, 0.5, 5e-5, 60
# A line of a table: heading -> value.
Record = dict[str, Any]


def planned(
    config: Mapping[str, Any], *, devices: int, pool: int | None = None, split_weights: bool = False
) -> Settings:
    """Settings of a step that shares nothing with others, its rows all of full length.

    Args:
      config: as `ConfigDict.to_dict()` gives it; neither data nor weights are read.
      devices: that rows are divided over: numbers of picks and anchors are rounded up.
      pool: candidates instead of the config's; the share that is picked stays.
      split_weights: see `spmd.Layout`.

    Raises:
      ValueError: a config that makes no sense, or a pool that the devices do not divide.
    """
    config = starts.complete({**config, "repeats": 1, "methods": {}})
    selection, chosen_data = dict(config["selection"]), dict(config["data"])
    candidates = pool or selection["pool"]
    if candidates % devices:
        raise ValueError(
            f"a pool of {candidates} cannot be divided over {devices} devices: use a multiple"
        )
    size = selection["size"] * candidates / selection["pool"]
    picks, anchors = (devices * math.ceil(n / devices) for n in (size, selection["anchors"]))
    selection |= {"size": min(candidates, picks), "pool": candidates, "anchors": anchors}
    selection |= {"updates_per_pool": 1, "anchor_balance": False}
    rows = chosen_data["train"]
    chosen_data |= {"buckets": (), "train": max(rows, candidates) if rows else rows}
    if chosen_data["source"] != "reasoning_gym" and not chosen_data["domains"]:
        # Their number, which only the files tell, changes no shape that matters.
        number = max(1, len(selection.get("shares", ())), len(chosen_data.get("weights", ())))
        chosen_data["domains"] = tuple(f"domain {place}" for place in range(number))
    alone = {"anchors_every": 1, "sketch_every": 0, "fidelity_every": 0}
    form = {"spmd": "shard_map", "split_weights": split_weights, "devices": devices}
    sections = {
        "selection": selection,
        "data": chosen_data,
        "features": config["features"] | alone,
        "training": config["training"] | form,
    }
    return run_settings.parse({**config, **sections})


def predict(
    config: Mapping[str, Any],
    slice_: Slice,
    pool: int,
    utilisation: float = UTILISATION,
    response: float = RESPONSE,
) -> tuple[Record, list[Record]]:
    """Predicts one step of a config, nothing of which overlaps.

    Weights are split only where whole ones do not fit.

    Returns:
      What the step takes, by the headings of a table; and what it holds, with whole weights and,
      where layers are recomputed, with split ones.

    Raises:
      ValueError: see `planned`; a share outside (0, 1].
    """
    for name, share in (("utilisation", utilisation), ("response", response)):
        if not 0 < share <= 1:
            raise ValueError(f"{name} is a share in (0, 1], not {share}")
    chip, room, devices = slice_.chip, FILL * slice_.chip.memory / GIGA, slice_.devices
    forms = [planned(config, devices=devices, pool=pool)]
    if config["model"].get("remat", "none") != "none":
        forms.append(planned(config, devices=devices, pool=pool, split_weights=True))
    needs = [memory_of(settings) for settings in forms]
    form = -1 if needs[0]["together"] > room else 0
    settings, chosen, need = forms[form], forms[form].selection, needs[form]
    stages = costs.stages(settings, response)
    features, update = (
        (each.products + (chip.exact - 1) * each.exact) / (chip.peak * utilisation)
        for each in stages
    )
    selection = 0.0
    if chosen.needs_features:
        # The picks' rows of the Gram matrix for every pick, and all of it for the certificate.
        read = 4.0 * chosen.pool * (chosen.size**2 + CERTIFICATE * chosen.pool)
        selection = read / chip.bandwidth + chosen.size * PICK_SECONDS
    received = sum(each.received for each in stages)
    network = received / (slice_.network * NETWORK)
    seconds = features + selection + update + network
    rows = (chosen.pool + chosen.anchors) // devices
    microbatch = min(settings.features.microbatch, rows)
    step: Record = {
        **{"devices": slice_.name, "chips": devices, "pool": pool, "picks": chosen.size},
        **{"rows a device": rows, "computed as": microbatch * math.ceil(rows / microbatch)},
        **{"weights": need["weights"], "step, s": seconds, "features": features},
        **{"selection": selection, "update": update, "network": network},
        **{"candidates/s": pool / seconds, "received, GB": received / GIGA},
        **{"memory, GB": need["together"], "fits": "yes" if need["together"] <= room else "no"},
    }
    return step, [{"devices": slice_.name, "pool": pool, **each} for each in needs]


def memory_of(settings: Settings) -> Record:
    """GB on one device during a step of `planned` settings, by what holds them.

    `trained` are adapters or all weights, and their gradient; `features` those of this device's
    candidates and anchors, and of all candidates twice, as they come and as they are compared;
    `selection` the Gram matrix and the picks' rows of it; `rows` the tokens and masks of this
    device's pool, and the picks on their way; `activations` those of a microbatch, at the worst
    moment of the update or of the features; `gathered` what split weights are put together into:
    embedding, head and two layers; `proxy` the model that selects, where it is another, with its
    gradient and its optimizer's state where it trains.
    """
    devices, split = settings.training.devices, settings.training.split_weights
    step, chosen, model = Step.create(settings), settings.selection, settings.model
    state, frozen, others = (
        costs.on_one_device(tree, devices, split) for tree in costs.shapes(step)
    )
    dim, length = settings.features.dim or step.coordinates, settings.data.length
    mine, picked = -(-(chosen.pool + chosen.anchors) // devices), chosen.size // devices
    update = min(settings.training.microbatch or picked, picked)
    activations = _activations(model, update, length, model.layers)
    features = selection = gathered = 0.0
    if chosen.needs_features:
        features = 4.0 * dim * (2 * chosen.pool + (chosen.pool + chosen.anchors) / devices)
        selection = 4.0 * chosen.pool * (chosen.pool + chosen.size)
        size, window = min(settings.features.microbatch, mine), settings.features.tokens or length
        chooser = settings.chooser[0]
        scoped = settings.features.last_layers or chooser.layers
        activations = max(activations, _activations(chooser, size, window, scoped))
    if split and devices > 1:
        shapes = jax.eval_shape(step.model.init, jax.random.key(0))
        layers = shapes.pop("layers")
        parts = jax.tree.leaves(costs.on_one_device(shapes, devices, True))
        pairs = zip(jax.tree.leaves(shapes), parts, strict=True)
        outside = [leaf for leaf, part in pairs if leaf.shape != part.shape]
        gathered = _bytes(outside) + 2 * _bytes(layers) / model.layers
    held = {
        "base": _bytes(frozen),
        "trained": 2 * _bytes(state.parameters),
        "optimizer": _bytes(state.optimizer),
        "features": features,
        "selection": selection,
        "rows": length * (5 * chosen.pool / devices + 4 * chosen.size),
        "activations": activations,
        "gathered": gathered,
    }
    if chosen.has_proxy:
        held["proxy"] = _bytes(others.proxy)
    learners = [state.proxy, *((state.guard or ())[:2])]
    for learner in filter(None, learners):
        held["proxy"] += 2 * _bytes(learner.parameters) + _bytes(learner.optimizer)
    shown = {name: size / GIGA for name, size in held.items()}
    return {"weights": "split" if split else "whole", **shown, "together": sum(shown.values())}


def _bytes(tree: Any) -> float:
    return float(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)))


def _activations(model: DecoderConfig, rows: int, length: int, layers: int) -> float:
    """Bytes of forward and backward through `layers` of so many rows."""
    tokens, size = rows * length, jnp.dtype(DTYPES[model.dtype]).itemsize
    inputs = tokens * model.width * size
    inside = model.width + (model.heads + 2 * model.kv_heads) * model.head_dim + 3 * model.mlp_width
    # Of one layer: what it computes, and as much for the cotangents.
    inner = 2.0 * (tokens * size * (inside + model.heads * model.head_dim) + 3 * inputs)
    if model.attention == "xla":
        inner += rows * model.heads * length**2 * (4 + size)
    # Of the others: their inputs, or all of it.
    kept = float(layers * inputs)
    if model.remat == "none":
        kept, inner = layers * inner / 2, inner / 2
    elif model.remat == "dots":
        kept += layers * tokens * inside * size
    chunks = model.chunks
    head = chunks.token_block(tokens) * min(chunks.vocab, model.vocab_size) + tokens * model.width
    return kept + max(inner, 8.0 * head)
