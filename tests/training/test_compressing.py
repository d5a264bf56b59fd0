"""Models made of a large one's weights, by the command's own function, and what uses them."""

import json

import jax
import numpy as np
import pytest

from partitionsel_jax import models, training
from partitionsel_jax.models import compression
from partitionsel_jax.models.pretrained import description
from partitionsel_jax.step import costs
from partitionsel_jax.training import compressing, exporting, starts


@pytest.fixture(scope="module")
def low_rank(finished, tmp_path_factory):
    """The tiny run's first layer, with matrices of rank 3."""
    folder = tmp_path_factory.mktemp("compressed") / "model"
    compressing.compress(folder, run=str(finished[1]), layers=1, rank=3)
    return folder


def test_the_first_layers_of_a_run_are_its_parameters(finished, tmp_path, project_log):
    compressing.compress(tmp_path / "model", run=str(finished[1]), layers=1)
    assert "1 of 2 layers; a token costs 6.14e+03 multiplications, 0.76 of the" in project_log.text
    run = starts.load_finished(finished[1], "run")
    found = models.load(tmp_path / "model")
    assert found.config.layers == 1 and found.config.rank == 0
    expected = compression.first_layers(run.parameters, 1)
    jax.tree.map(np.testing.assert_array_equal, found.parameters, expected)
    assert found.tokenizer.ids_fingerprint == "bytes"


def test_both_together_are_the_one_after_the_other(finished, low_rank):
    parameters = compression.first_layers(starts.load_finished(finished[1], "run").parameters, 1)
    found = models.load(low_rank)
    assert (found.config.layers, found.config.rank) == (1, 3)
    expected, _ = compression.low_rank(found.config, parameters)
    jax.tree.map(np.testing.assert_array_equal, found.parameters, expected)


def test_a_pretrained_model_keeps_its_tokenizer_and_its_dtype(tmp_path):
    compressing.compress(tmp_path / "model", model="tiny-qwen2.5", layers=1, dtype="bfloat16")
    whole, found = models.load("tiny-qwen2.5"), models.load(tmp_path / "model", "bfloat16")
    assert found.tokenizer.ids_fingerprint == whole.tokenizer.ids_fingerprint
    content = json.loads((tmp_path / "model" / description.CONFIG).read_text())
    assert content["model_type"] == "qwen2" and content["num_hidden_layers"] == 1
    assert content["torch_dtype"] == "bfloat16" and content["eos_token_id"]
    expected = compression.first_layers(models.load("tiny-qwen2.5", "bfloat16").parameters, 1)
    jax.tree.map(np.testing.assert_array_equal, found.parameters, expected)


def test_a_low_rank_model_can_select_and_its_cost_is_counted(tiny, low_rank):
    features = {}
    for proxy in ("", str(low_rank)):
        tiny.selection.proxy = proxy
        (run,) = training.expand(tiny.to_dict())
        starts.check_scorers(run.settings)
        corpus = training.setup.prepare(run.settings)
        features[proxy] = costs.count_flops(run.settings, 1, corpus.validation_rows).features
    shape, lora = run.settings.chooser
    assert (shape.layers, shape.rank) == (1, 3)
    expected = models.Model(shape, lora).shapes
    assert jax.tree.map(np.shape, corpus.others.proxy) == jax.tree.map(np.shape, expected)
    assert features[str(low_rank)] < 0.8 * features[""]


def test_a_compressed_model_can_be_trained_first(tiny, low_rank):
    tiny.checkpoint = str(low_rank)
    numerics = ("dtype", "param_dtype", "remat", "attention", "chunk_vocab", "chunk_tokens")
    tiny.model = {name: tiny.model[name] for name in numerics}
    (run,) = training.expand(tiny.to_dict())
    assert run.settings.model.rank == 3
    assert starts.tokenizer(run.settings).ids_fingerprint == "bytes"
    setup = training.setup.prepare(run.settings)
    state, _ = training.setup.initialise(setup)
    loss = training.setup.validate(setup, state.parameters, {}).mean
    assert 0 < loss < 6  # far less than that of weights in a wrong place


def test_what_cannot_be_compressed_is_refused(low_rank, tmp_path):
    new = tmp_path / "new"
    for arguments, message in (
        (
            {"model": str(low_rank), "rank": 2},
            "this model's matrices are factors already, of rank 3",
        ),
        (
            {"model": "tiny-qwen2.5", "run": str(low_rank), "rank": 2},
            "give either --model or --run",
        ),
        ({"model": "tiny-qwen2.5", "layers": -1}, "use 1 at most"),
    ):
        with pytest.raises(ValueError, match=message):
            compressing.compress(new, **arguments)
        assert not new.exists()


def test_an_exported_run_can_be_compressed_and_trained(finished, tmp_path):
    exporting.export(finished[1], merged=tmp_path / "merged")
    compressing.compress(tmp_path / "again", model=str(tmp_path / "merged"), layers=1)
    compressing.compress(tmp_path / "model", run=str(finished[1]), layers=1)
    for name in ("model.safetensors", "config.json", "tokenizer_config.json"):
        found, expected = ((tmp_path / folder / name).read_bytes() for folder in ("again", "model"))
        assert found == expected
