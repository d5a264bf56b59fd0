"""The training runs that configs/ describes, at their full sizes."""

import importlib
from pathlib import Path

import configs


def runs():
    """The files under configs/ that describe a training run."""
    names = sorted(path.stem for path in Path(configs.__path__[0]).glob("*.py"))
    modules = {name: importlib.import_module(f"configs.{name}") for name in names}
    made = {
        name: module.get_config()
        for name, module in modules.items()
        if hasattr(module, "get_config")
    }
    return {name: config for name, config in made.items() if "training" in config}


RUNS = runs()
