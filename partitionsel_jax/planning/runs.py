"""The settings that a config would have on some devices and with some pool."""

import math
from collections.abc import Mapping
from typing import Any

from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.config.settings import Settings
from partitionsel_jax.training import starts


def planned(
    config: Mapping[str, Any],
    *,
    devices: int,
    pool: int | None = None,
    split_weights: bool = False,
) -> Settings:
    """Settings of a step of which nothing is shared with others, its rows all of full length.

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

    def divided(count: float) -> int:
        return devices * math.ceil(count / devices)

    selection |= {
        "size": min(candidates, divided(selection["size"] * candidates / selection["pool"])),
        "pool": candidates,
        "anchors": divided(selection["anchors"]),
        "updates_per_pool": 1,
        "anchor_balance": False,
    }
    rows = chosen_data["train"]
    chosen_data |= {"buckets": (), "train": max(rows, candidates) if rows else rows}
    if chosen_data["source"] != "reasoning_gym" and not chosen_data["domains"]:
        # Their number, which only the files tell, changes no shape that matters.
        number = max(1, len(selection.get("shares", ())), len(chosen_data.get("weights", ())))
        chosen_data["domains"] = tuple(f"domain {place}" for place in range(number))
    features = {**config["features"], "anchors_every": 1, "sketch_every": 0, "fidelity_every": 0}
    form = {"spmd": "shard_map", "split_weights": split_weights, "devices": devices}
    sections = {
        "selection": selection,
        "data": chosen_data,
        "features": features,
        "training": {**config["training"], **form},
    }
    return run_settings.parse({**config, **sections})
