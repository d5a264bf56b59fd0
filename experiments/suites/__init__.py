"""Benchmark suites: modules with a `run` that yields the parts of an answer to `Options`.

One that has a chart also has a `draw`: numbers -> PNG, or None where they hold nothing to draw.
"""

import importlib
import importlib.metadata
import json
import os
import platform
from typing import Any

import jax
from etils import epath

from experiments.suites.measuring import Options, log
from partitionsel_jax import __version__

SUITES = (*("buckets", "data", "gradients", "loading", "offline", "scaling", "selection", "step"),)
# Those that can be asked for some of their sizes.
SIZED = ("gradients", "selection")


def run(suite: str, options: Options, output: str | None = None) -> None:
    """Runs a suite, logs its banner and every part as it comes, and writes them if asked to.

    Args:
      suite: one of `SUITES`.
      options: what is measured.
      output: folder for SUITE.md, SUITE.json and, if the suite has a chart, SUITE.png; or None.

    Raises:
      ValueError: a suite or sizes that do not exist.
      OSError: a folder that cannot be written.
    """
    if suite not in SUITES:
        raise ValueError(f"suite must be one of {list(SUITES)}, got {suite!r}; use --suite=NAME.")
    if options.sizes is not None and suite not in SIZED:
        raise ValueError(
            f"the {suite} suite has no sizes, got {list(options.sizes)}; leave --sizes out."
        )
    folder = None if output is None else epath.Path(output)
    if folder is not None:
        # Before the measurements, which may take minutes.
        folder.mkdir(parents=True, exist_ok=True)
    devices = jax.devices()
    versions = {"partitionsel_jax": __version__, "python": platform.python_version()}
    for name in ("jax", "jaxlib", "numpy", "scipy"):
        versions[name] = importlib.metadata.version(name)
    facts: dict[str, Any] = {
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "platform": devices[0].platform,
        "host": f"{os.cpu_count()} cores, {platform.machine()}",
        **{"versions": versions, "suite": suite, "repeats": options.repeats},
    }
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    texts = [f"{suite} on {facts['device']} ({facts['host']}); {said}"]
    log.info(texts[0])
    numbers = {"facts": facts}
    # Here, since a suite imports much that others do without.
    module = importlib.import_module(f"experiments.suites.{suite}")
    for part in module.run(options):
        numbers |= part.numbers
        texts.append("\n\n".join(text.strip() for text in part.texts))
        log.info("\n%s", texts[-1])
    if folder is None:
        return
    (folder / f"{suite}.json").write_text(json.dumps(numbers, indent=1, allow_nan=False) + "\n")
    (folder / f"{suite}.md").write_text("\n\n".join(texts) + "\n")
    drawn = module.draw(numbers) if hasattr(module, "draw") else None
    if drawn is not None:
        (folder / f"{suite}.png").write_bytes(drawn)
    log.info("written: %s", os.fspath(folder / f"{suite}.json"))
