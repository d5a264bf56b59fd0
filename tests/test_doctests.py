"""Examples in docstrings print what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import partitionsel_jax

ROOT = Path(partitionsel_jax.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
    for path in ROOT.rglob("*.py")
    if ">>> " in path.read_text()
)


def test_the_public_functions_of_the_heart_have_examples():
    assert {"partitionsel_jax.selection.selector", "partitionsel_jax.gradients.sketches"} <= {
        *MODULES
    }


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted and not found.failed
