"""A run's folder: whose it is, and where everything in it lives."""

import importlib.metadata
import subprocess
from typing import Any

import jax
from etils import epath

from partitionsel_jax import __version__
from partitionsel_jax.training import settings as run_settings
from partitionsel_jax.training.plan import PlannedRun
from partitionsel_jax.training.records import read_json, write_json

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def claim(run: PlannedRun, root: epath.PathLike, device: str) -> epath.Path:
    """The folder of a run, with its config.json; made when missing.

    Args:
      run: from `plan.expand`.
      root: the plan's workdir; `run.folder` lies below it.
      device: what the run executes on, in words.

    Raises:
      ValueError: the folder holds a run of another config or seed; the differing fields are named
        and nothing is touched.
    """
    folder = epath.Path(root) / run.folder if run.folder else epath.Path(root)
    path = folder / "config.json"
    if path.exists():
        _check_same(run, path)
        return folder
    if (folder / "metrics.jsonl").exists():
        raise ValueError(f"{folder} holds a run without config.json: choose another --workdir")
    folder.mkdir(parents=True, exist_ok=True)
    parsed = run_settings.parse(run.config)
    write_json(
        path,
        {
            "method": run.method,
            "seed": run.seed,
            "config_hash": run_settings.config_hash(run.config),
            "domains": list(parsed.data.tasks),
            "updates": parsed.training.updates,
            "pool_size": parsed.selection.pool,
            "selected": parsed.selection.size,
            "device": device,
            "versions": {"partitionsel_jax": __version__}
            | {name: importlib.metadata.version(name) for name in PACKAGES},
            "commit": _commit(),
            "config": run.config,
        },
    )
    return folder


def _check_same(run: PlannedRun, path: epath.Path) -> None:
    stored = read_json(path)
    theirs = run_settings.essentials(stored["config"]) | {"seed": stored["seed"]}
    # Through JSON, so that tuples and lists compare equal.
    ours = run_settings.essentials(run.config) | {"seed": run.seed}
    changed = [
        f"{field}: {theirs.get(field)!r} there, {ours.get(field)!r} now"
        for field in sorted(theirs.keys() | ours.keys())
        if _listed(theirs.get(field)) != _listed(ours.get(field))
    ]
    if changed:
        raise ValueError(
            f"{path.parent} holds a run of another config ({'; '.join(changed)}): "
            "choose another --workdir, or the config it was started with"
        )


def _listed(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_listed(item) for item in value]
    return value


def _commit() -> str | None:
    """The checkout's commit, marked when it has changes; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    folder = epath.Path(__file__).parent
    try:
        answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def describe(devices: tuple[jax.Device, ...]) -> str:
    """E.g. "2 x NVIDIA H200"."""
    return f"{len(devices)} x {devices[0].device_kind}"
