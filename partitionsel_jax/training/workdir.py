"""A run's folder: which run it belongs to, and who may write to it."""

import contextlib
import fcntl
import importlib.metadata
import json
import logging
import os
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
from etils import epath

from partitionsel_jax import __version__
from partitionsel_jax.config.essentials import config_hash, essentials
from partitionsel_jax.json_files import INTEGER, NUMBER, read_fields
from partitionsel_jax.training.records import write_json

if TYPE_CHECKING:
    from partitionsel_jax.training.plan import PlannedRun

_LOG = logging.getLogger(__name__)

# In a run's folder, locked by the process that trains there.
LOCK = "lock"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


# What is read of a run's config.json and summary.json.
_CONFIG = {"config": dict, "method": str, "seed": INTEGER}
_SUMMARY = {
    **{"updates": INTEGER, "fingerprint": INTEGER, "parameters_fingerprint?": INTEGER},
    **{"origin": dict, "validation_loss?": NUMBER, "test?": dict, "test_before?": dict},
    "seconds?": {f"{part}?": NUMBER for part in ("train", "evaluation", "compile")},
}
_REMEDY = "restore it from a copy, or train again in a new --workdir"


def read_config(folder: epath.PathLike) -> dict[str, Any]:
    """Reads the config.json of the run in a folder.

    Raises:
      ValueError: it is damaged, or was edited.
      OSError: it is not there, or may not be read.
    """
    return read_fields(epath.Path(folder) / "config.json", _CONFIG, _REMEDY)


def read_summary(folder: epath.PathLike) -> dict[str, Any]:
    """Reads the summary.json of the finished run in a folder; raises as `read_config`."""
    return read_fields(epath.Path(folder) / "summary.json", _SUMMARY, _REMEDY)


def hint(folder: epath.Path, file: str) -> str:
    """Names runs below a folder that is none itself, for an error's text."""
    inner = sorted(str(path.parent) for path in folder.glob(f"*/*/{file}"))
    return f" ({', '.join(inner[:4])} ...)" if inner else ""


def folder_of(run: "PlannedRun", root: epath.PathLike) -> epath.Path:
    """Returns the folder of a run below its plan's workdir."""
    return epath.Path(root) / run.folder if run.folder else epath.Path(root)


def check(run: "PlannedRun", root: epath.PathLike) -> None:
    """Makes sure that a run may write to its folder; touches nothing.

    Raises:
      ValueError: the folder holds a run of another config or seed (the differing fields are
        named), the workdir mixes a run of its own with runs in folders below it, or it cannot be
        written.
    """
    folder = folder_of(run, root)
    _check_writable(folder)
    if (folder / "config.json").exists():
        _check_same(run, folder / "config.json")
    elif (folder / "metrics.jsonl").exists():
        raise ValueError(f"{folder} holds a run without config.json: choose another --workdir")
    if run.folder and (epath.Path(root) / "config.json").exists():
        raise ValueError(
            f"{root} holds a single run, and this config has several: choose another --workdir"
        )
    if not run.folder and any(folder.glob("*/*/config.json")):
        raise ValueError(
            f"{root} holds several runs, and this config is a single one: choose another --workdir"
        )


def _is_bucket(path: epath.PathLike) -> bool:
    return "://" in os.fspath(path)


def _check_writable(folder: epath.Path) -> None:
    if _is_bucket(folder):
        return
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise ValueError(
            f"--workdir: {nearest} {'cannot be written' if nearest.is_dir() else 'is a file'}: "
            "mount it writable, or choose another"
        )


def check_free(run: "PlannedRun", root: epath.PathLike) -> None:
    """Raises ValueError if another process trains in a run's folder."""
    folder = folder_of(run, root)
    if not _is_bucket(folder) and (folder / LOCK).exists():
        with locked(folder):
            pass


@contextlib.contextmanager
def locked(folder: epath.Path, doing: str = "training", flag: str = "--workdir") -> Iterator[None]:
    """Keeps other processes out of a folder; whatever ends this one releases it.

    Buckets and file systems without locks are not guarded.

    Args:
      folder: it is there.
      doing: what is done in it.
      flag: what names it.

    Raises:
      ValueError: another process is at work there.
    """
    if _is_bucket(folder):
        yield
        return
    with open(folder / LOCK, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another process is {doing} in {folder}: wait for it or end it, or choose "
                f"another {flag}"
            ) from None
        except OSError as error:
            _LOG.warning("%s cannot be locked (%s): start no second run there", folder, error)
        yield


def claim(run: "PlannedRun", root: epath.PathLike, device: str) -> epath.Path:
    """Writes the config.json of a run that `check` let pass, where it has none.

    Returns the folder, which is made when missing.

    Args:
      run: from `plan.expand`.
      root: the plan's workdir; `run.folder` lies below it.
      device: what the run executes on, in words.
    """
    folder = folder_of(run, root)
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    settings = run.settings
    write_json(
        folder / "config.json",
        {
            "method": run.method,
            "seed": run.seed,
            "axes": run.axes,
            "tuned": run.tuned,
            "trial": run.trial,
            "chooser": "" if run.chooser is None else run.chooser.folder,
            "config_hash": config_hash(run.config),
            "domains": list(settings.data.names),
            "updates": settings.training.updates,
            "pool_size": settings.selection.pool,
            "selected": settings.selection.size,
            "device": device,
            "versions": {"partitionsel_jax": __version__}
            | {name: importlib.metadata.version(name) for name in PACKAGES},
            "commit": _commit(),
            "config": run.config,
        },
    )
    return folder


def _check_same(run: "PlannedRun", path: epath.Path) -> None:
    stored = read_config(path.parent)
    theirs = essentials(stored["config"]) | {"seed": stored["seed"]}
    # Through JSON, so that tuples and lists compare equal.
    ours = json.loads(json.dumps(essentials(run.config))) | {"seed": run.seed}
    changed = [
        f"{field}: {theirs.get(field)!r} there, {ours.get(field)!r} now"
        for field in sorted(theirs.keys() | ours.keys())
        if theirs.get(field) != ours.get(field)
    ]
    if changed:
        raise ValueError(
            f"{path.parent} holds a run of another config ({'; '.join(changed)}): "
            "choose another --workdir, or the config it was started with"
        )


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
