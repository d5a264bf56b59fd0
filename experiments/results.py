"""Keeps what an ablation has shown, and writes RESULTS.md from all that is kept.

python -m experiments.results --workdir=DIR --claim=methods
python -m experiments.results
"""

import importlib
import pathlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from absl import flags

from configs import reproduce
from experiments import console

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Of experiments.ablate with a config of configs/reproduce; kept first."
)
_CLAIM = flags.DEFINE_string("claim", None, "The name of that config, e.g. methods.")
_SCALE = flags.DEFINE_string("scale", "bytes", "Its scale.")
_COMMAND = flags.DEFINE_string(
    "command", None, "The command that made the runs, where it was not the config's own."
)
_HARDWARE = flags.DEFINE_string("hardware", None, "Where they ran, if not on this machine.")
_STUDIES = flags.DEFINE_string("studies", "docs/study", "Where studies are kept.")
_PAGE = flags.DEFINE_string("page", "RESULTS.md", "What is written.")


def _points(claim: str, scale: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Method and axes of every point of a claim's config."""
    from partitionsel_jax import sweeps

    known = sorted(module.name for module in pkgutil.iter_modules(reproduce.__path__))
    if claim not in known:
        raise ValueError(
            f"expected a claim that has a config in configs/reproduce, got {claim!r}: "
            f"choose one of {', '.join(known)}"
        )
    module = importlib.import_module(f"configs.reproduce.{claim}")
    config = module.get_config(f"scale={scale},seeds=1,tune=False")
    return [(run.method, run.axes) for run in sweeps.planned(config.to_dict())]


def main() -> None:
    from partitionsel_jax import studies

    workdir, claim = _WORKDIR.value, _CLAIM.value
    if (workdir is None) != (claim is None):
        raise ValueError("expected --workdir and --claim together, or neither; got one of them")
    if workdir is not None and claim is not None:
        studies.keep(
            workdir,
            _STUDIES.value,
            scale=_SCALE.value,
            claim=claim,
            points=_points(claim, _SCALE.value),
            command=_COMMAND.value,
            hardware=_HARDWARE.value,
        )
    for path in studies.update(_STUDIES.value, pathlib.Path(_PAGE.value).absolute()):
        print(path)


if __name__ == "__main__":
    console.run(main)
