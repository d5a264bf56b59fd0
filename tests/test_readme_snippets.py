"""README's Python snippets run, at small sizes and on a tiny checkpoint."""

import re
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from configs.self_selection import get_config
from partitionsel_jax.training import plan

README = (Path(__file__).parents[1] / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(snippet, smaller=(), **names):
    """The names that are defined once the snippet ran, its sizes replaced by smaller ones."""
    for written, replacement in smaller:
        assert written in snippet
        snippet = snippet.replace(written, replacement)
    *lines, last = snippet.strip().splitlines()
    names |= {"jax": jax, "jnp": jnp}
    exec(compile("\n".join(lines), "README.md", "exec"), names)
    return names, eval(last.partition("#")[0], names)


class Rows(NamedTuple):
    tokens: jax.Array
    response: jax.Array


def test_each_is_run_by_a_test_below():
    assert len(SNIPPETS) == 4


def test_selecting_from_gradients():
    rng = np.random.default_rng(0)
    _, (indices, weights, utility, certificate) = run(
        SNIPPETS[0],
        per_example_gradients={"w": jnp.asarray(rng.normal(1, 1, (64, 5, 7)), jnp.float32)},
        validation_gradients={"w": jnp.asarray(rng.normal(1, 1, (4, 5, 7)), jnp.float32)},
        domains=jnp.arange(64) % 8,
    )
    assert indices.shape == weights.shape == (32,)
    assert len({*indices.tolist()}) == 32
    assert utility > 0.0 and 0.0 < certificate <= 1.0


def test_features_of_a_decoder():
    number = jnp.arange(60).reshape(5, 12)
    rows = Rows(number % 50, number % 12 > 4)
    smaller = (
        ("vocab_size=49152, layers=30, width=576", "vocab_size=50, layers=4, width=16"),
        (
            "mlp_width=1536, heads=9, kv_heads=3, head_dim=64",
            "mlp_width=24, heads=2, kv_heads=1, head_dim=8",
        ),
        ("layers=30)", "layers=4)"),
        ("rank=16", "rank=2"),
        ("dim=1024", "dim=64"),
    )
    _, (vectors, losses) = run(SNIPPETS[1], smaller, rows=rows)
    assert vectors.shape == (5, 64) and losses.shape == (5,)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)


def test_a_pretrained_model(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    smaller = (
        ('"smollm2-135m", adapter="/tmp/adapter"', '"tiny-qwen2.5"'),
        ("new_tokens=32", "new_tokens=4"),
    )
    names, (model, parameters) = run(SNIPPETS[2], smaller, tokens=jnp.ones((2, 6), jnp.int32))
    logits = names["model"].logits(names["tokens"])
    assert logits.shape == (2, 6, names["model"].config.vocab_size)
    assert callable(model.losses) and isinstance(parameters, dict)


def test_a_method_that_trains_on_the_selections_of_another():
    config = get_config("smoke")
    exec(SNIPPETS[3].replace(", ...}", ', "mlp_width": 32, "heads": 2, "head_dim": 16}'))
    runs = plan.expand(config.to_dict())
    assert {run.method: run.chooser and run.chooser.method for run in runs} == {
        "small": None,
        "partitionsel": None,
        "random": None,
        "target": "small",
    }
