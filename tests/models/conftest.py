"""Tiny checkpoints in a hub's format and in GGUF, and HF transformers' logits of them."""

import shutil

import numpy as np
import pytest
from tiny_checkpoints import GOLDEN, VARIANTS

from partitionsel_jax.models.pretrained import gguf_conversion


@pytest.fixture(autouse=True)
def _conversions(request, monkeypatch, tmp_path_factory):
    """GGUF files of tests are not converted into the user's cache; the real SmolLM2 is."""
    if request.module.__name__ != "test_smollm2":
        folder = tmp_path_factory.mktemp("converted")
        monkeypatch.setattr(gguf_conversion, "cache_directory", lambda: folder)


@pytest.fixture(scope="session")
def golden():
    """variant -> (checkpoint directory, {"tokens", "logits", "greedy"})."""
    with np.load(GOLDEN / "logits.npz") as values:
        arrays = dict(values)
    return {
        variant: (
            GOLDEN / "checkpoints" / variant,
            {name: arrays[f"{variant}/{name}"] for name in ("tokens", "logits", "greedy")},
        )
        for variant in VARIANTS
    }


@pytest.fixture
def copy_of(tmp_path):
    """Copies a golden checkpoint, to be corrupted."""

    def copy(variant):
        target = tmp_path / variant
        shutil.copytree(GOLDEN / "checkpoints" / variant, target)
        return target

    return copy
