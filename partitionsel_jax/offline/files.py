"""Features, anchors and domains from .npy files; indices, weights and a summary to a directory."""

import functools
import importlib.metadata
import json
import logging
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax import __version__
from partitionsel_jax.offline import selector
from partitionsel_jax.offline.matrices import Part, open_matrix, read_values
from partitionsel_jax.selection import budgets as schemes

# What a selection's directory holds, and nothing else.
OUTPUTS = ("indices.npy", "weights.npy", "ids.json", "summary.json")

_LARGEST = 1e18  # of a budget, as int64 and float32 hold it

_LOG = logging.getLogger(__name__)


def _part(rows: int) -> slice:
    """This process's rows: all processes have as many, up to one."""
    process, processes = jax.process_index(), jax.process_count()
    return slice(process * rows // processes, (process + 1) * rows // processes)


def select_files(
    features: str,
    *,
    size: int,
    anchors: str | None = None,
    domains: str | None = None,
    ids: str | None = None,
    budgets: str = "proportional",
    output: str | None = None,
    overwrite: bool = False,
    reading: selector.Reading | None = None,
    **choices: Any,
) -> Path:
    """`select` from files to files; every process of a JAX job reads its part of the rows.

    Args:
      features: float[N, M], as `open_matrix` names matrices in files.
      size: K.
      anchors: float[A, M], the same.
      domains: integers [N], or texts, as `read_values` names them in files. Texts are domains in
        their order.
      ids: integers or texts [N], the same.
      budgets: as in `parse_budgets`.
      output: directory to write; None: beside the features, `NAME.selection`. It holds
        `indices.npy` i64[K'], `weights.npy` f32[K'], `summary.json` and, where there are ids, those
        of the picks in `ids.json`. It appears as a whole or, if the process is killed, not at all.
      overwrite: whether an earlier selection there may be replaced.
      reading: chunks, memory and devices.
      **choices: utility, coupling, scaling, ridge, step_scale and seed of `select`.

    Returns:
      The directory.

    Raises:
      ValueError: for whatever does not fit, before the first pass where that can be known.
    """
    began = time.perf_counter()
    inputs = {"features": features, "anchors": anchors, "domains": domains, "ids": ids}
    for name, path in {**inputs, "output": output}.items():
        if path is not None and (not path or "://" in path):
            raise ValueError(f"{name}: expected a path on this machine, got {path!r}.")
    folder = Path(output) if output else Path(features).with_suffix(".selection")
    if jax.process_index() == 0:
        _check_output(folder, overwrite=overwrite)
    matrix = open_matrix("features", features)
    anchor_rows = None if anchors is None else open_matrix("anchors", anchors)
    selector.check_matrix("features", matrix)
    mine, domain_N, names = _part(matrix.shape[0]), None, None
    if domains is not None:
        domain_N = read_values("domains", domains)
        if domain_N.dtype == object:
            names, domain_N = np.unique(domain_N.astype(str), return_inverse=True)
        selector.check_domains(domain_N, matrix.shape[0])
    id_N = None if ids is None else _ids(ids, matrix.shape[0])
    selection = selector.select(
        Part(matrix, mine),
        anchor_rows,
        None if domain_N is None else domain_N[mine],
        size=size,
        budgets=parse_budgets(budgets),
        reading=reading,
        spread=True,
        **choices,
    )
    devices = (reading and reading.devices) or tuple(jax.devices())
    summary: dict[str, Any] = {
        **{name: path and os.fspath(Path(path).absolute()) for name, path in inputs.items()},
        "rows": matrix.shape[0],
        "dimension": matrix.shape[1],
        "rows_per_domain": [matrix.shape[0]]
        if domain_N is None
        else np.bincount(domain_N).tolist(),
        "domain_names": None if names is None else names.tolist(),
        "dropped": selection.dropped,
        "anchor_rows": 0 if anchor_rows is None else anchor_rows.shape[0],
        "dropped_anchors": selection.dropped_anchors,
        "size": size,
        "picked": len(selection.indices),
        "budget_scheme": budgets,
        "budgets": selection.budgets.tolist(),
        "picks_per_domain": selection.picks_per_domain.tolist(),
        "choices": choices,
        "utility_reached": selection.utility if math.isfinite(selection.utility) else None,
        "picks_with_weight": int(np.sum(selection.weights > 0.0)),
        "passes": selection.passes,
        "seconds": round(time.perf_counter() - began, 3),
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "versions": {"partitionsel_jax": __version__}
        | {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")},
    }
    if jax.process_index() == 0:
        picked = None if id_N is None else id_N[selection.indices].tolist()
        write(folder, selection.indices, selection.weights, summary, picked)
    said = (summary["picked"], summary["rows"], summary["passes"], summary["seconds"], folder)
    _LOG.info("%d of %d rows picked in %d passes, %.1f s: %s", *said)
    return folder


def parse_budgets(text: str) -> "selector.Budgets | np.ndarray":
    """Budgets as they are typed.

    Args:
      text: `proportional`, `uniform`, `temperature:0.5`, `fixed:0.7,0.3` (a share per domain) or
        `counts:10,6` (so many picks per domain exactly).

    Returns:
      What `select` takes.

    Raises:
      ValueError: another word, or no numbers where there should be.
    """
    scheme, _, values = text.partition(":")
    kind = int if scheme == "counts" else float
    try:
        numbers = [kind(value) for value in values.split(",")] if values else []
    except ValueError:
        numbers = [math.nan]
    if not all(abs(number) <= _LARGEST for number in numbers):
        raise ValueError(
            f"budgets: {scheme} must be followed by {'integers' if kind is int else 'numbers'} "
            f"with commas between, of at most {_LARGEST:.0e}, got {text!r:.80}."
        )
    if scheme in ("proportional", "uniform") and not values:
        return {"proportional": schemes.proportional, "uniform": schemes.uniform}[scheme]
    if scheme == "temperature" and len(numbers) == 1:
        return functools.partial(schemes.temperature, tau=numbers[0])
    if scheme == "fixed" and numbers:
        return functools.partial(schemes.fixed, shares=jnp.array(numbers, jnp.float32))
    if scheme == "counts" and numbers:
        return np.array(numbers, np.int64)
    raise ValueError(
        "budgets must be proportional, uniform, temperature:TAU, fixed:SHARE,SHARE,... or "
        f"counts:PICKS,PICKS,..., got {text!r:.80}."
    )


def _ids(text: str, rows: int) -> np.ndarray:
    found = read_values("ids", text)
    if found.shape != (rows,):
        raise ValueError(
            f"ids must be of shape ({rows},), one for every row of features, got "
            f"{list(found.shape)}."
        )
    return found


def write(
    folder: Path,
    indices: np.ndarray,
    weights: np.ndarray,
    summary: dict[str, Any],
    ids: list[Any] | None = None,
) -> None:
    """Writes a selection's directory beside its place, and moves it there in one step."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # In the same directory, so that moving it is one step; named by process, so that two that run
    # at a time do not write to the same.
    new = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        new.mkdir()
        np.save(new / "indices.npy", indices.astype(np.int64))
        np.save(new / "weights.npy", weights.astype(np.float32))
        if ids is not None:
            (new / "ids.json").write_text(json.dumps(ids) + "\n")
        text = json.dumps(summary, indent=2, allow_nan=False)
        (new / "summary.json").write_text(text + "\n")
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _check_output(folder: Path, *, overwrite: bool) -> None:
    """Makes sure that nothing of the user's is in the way; touches nothing."""
    if folder.is_dir():
        strangers = sorted(entry.name for entry in folder.iterdir() if entry.name not in OUTPUTS)
        if strangers:
            raise ValueError(
                f"output: {folder} holds other files ({strangers[0]}); choose another directory."
            )
        if any(folder.iterdir()) and not overwrite:
            raise ValueError(
                f"output: {folder} holds a selection; choose another directory, or pass "
                "--overwrite to replace it."
            )
    elif folder.exists():
        raise ValueError(f"output: {folder} is not a directory; choose another.")
    parent = folder.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise ValueError(f"output: {parent} cannot be written to; choose another directory.")
