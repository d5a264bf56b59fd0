"""Runs that start from a checkpoint: what is trained, what stays, and what can be taken away."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from configs import (
    common,
    llama31_8b_by_1b,
    llama32_3b_mol,
    pretrained,
    qwen25_3b_by_05b,
    qwen25_3b_metamath,
    smollm2_17b_by_135m,
    smollm2_reasoning,
)
from partitionsel_jax import models, training
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.distributed import spmd
from partitionsel_jax.models import parameters as trees
from partitionsel_jax.models.pretrained import TINY, tiny
from partitionsel_jax.step.step import Step
from partitionsel_jax.training import exporting, starts
from partitionsel_jax.training import setup as run_setup
from partitionsel_jax.training.checkpoints import Checkpoints
from tests.tiny_runs import tiny_config


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """name -> directory of each tiny model."""
    root = tmp_path_factory.mktemp("models")
    return {name: tiny.write(name, root / name) for name in TINY}


def with_adapters(config, checkpoint):
    """A tiny configuration, on adapters of a checkpoint."""
    pretrained.start_from(config, str(checkpoint))
    config.data.update({"template": "chat", "length": 160})
    config.lora.update({"rank": 2, "targets": ("q", "down"), "dropout": 0.25})
    config.features.parameters = "lora"
    config.optimizer.learning_rate = 0.02
    return config


@pytest.fixture
def adapted(tiny, checkpoints):
    """The tiny configuration, on adapters of a tiny Llama; random picks, which compile fast."""
    tiny.selection.utility = "random"
    return with_adapters(tiny, checkpoints["tiny-llama3.2"])


def short(config):
    """One update, evaluated and saved."""
    config.training.update({"updates": 1, "evaluate_every": 1, "checkpoint_every": 1})
    return config


@pytest.fixture(scope="module")
def trained_on_a_copy(checkpoints, corpus_directory, tmp_path_factory):
    """The place of a checkpoint, and the folder of a run that started from there."""
    place = tmp_path_factory.mktemp("copy")
    shutil.copytree(checkpoints["tiny-llama3.2"], place / "model")
    config = short(with_adapters(tiny_config(), place / "model"))
    config.data.directory = corpus_directory
    config.selection.utility = "random"
    (planned,) = training.expand(config.to_dict())
    training.train(planned, place / "run")
    return place / "model", place / "run"


@pytest.fixture
def run_on_a_copy(adapted, checkpoints, trained_on_a_copy, tmp_path):
    """A checkpoint that may be changed, and the folder of a run that started from it."""
    place, trained = trained_on_a_copy
    short(adapted).checkpoint = str(place)
    shutil.copytree(trained, tmp_path / "run")
    yield place, tmp_path / "run"
    shutil.rmtree(place)
    shutil.copytree(checkpoints["tiny-llama3.2"], place)


@pytest.fixture(scope="module")
def done(tmp_path_factory, checkpoints, corpus_directory):
    """A finished run on adapters, shared by the tests that only look at it."""
    config = with_adapters(tiny_config(), checkpoints["tiny-llama3.2"])
    config.data.directory = corpus_directory
    folder = tmp_path_factory.mktemp("done") / "run"
    (planned,) = training.expand(config.to_dict())
    return training.train(planned, folder), folder


def test_the_shape_comes_from_the_checkpoint_and_is_recorded(done):
    _, folder = done
    stored = json.loads((folder / "config.json").read_text())["config"]["model"]
    config = TINY["tiny-llama3.2"]
    assert (stored["layers"], stored["width"], stored["context"]) == (2, 32, config.context)
    assert stored["rope_scaling"]["kind"] == "llama3"
    assert (
        run_settings.parse(json.loads((folder / "config.json").read_text())["config"]).model
        == config
    )


def test_adapters_train_and_the_checkpoint_s_weights_stay(done, checkpoints):
    summary, folder = done
    run = starts.load_finished(folder, "run")
    base = models.load(checkpoints["tiny-llama3.2"]).parameters
    jax.tree.map(np.testing.assert_array_equal, run.frozen, base)
    adapters, rest = trees.split(run.parameters, models.is_adapter)
    jax.tree.map(np.testing.assert_array_equal, rest, base)
    assert np.any(adapters["layers"]["attention"]["q"]["lora_b"])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["validation_loss"] for row in rows if "validation_loss" in row]
    assert losses[-1] < losses[0]
    assert summary["validation_loss"] == losses[-1]


def test_both_exports_say_what_the_run_says(done, tmp_path):
    _, folder = done
    differences = exporting.export(folder, adapter=tmp_path / "a", merged=tmp_path / "m")
    assert [difference.what for difference in differences] == ["adapter", "merged"]
    assert all(difference.agrees and difference.scale > 0.1 for difference in differences)
    run = starts.load_finished(folder, "run")
    tokens = np.arange(60, dtype=np.int32)[None, :]
    expected = models.Model(run.settings.model, run.settings.lora).apply(run.parameters, tokens)
    merged = models.load(tmp_path / "m")
    np.testing.assert_allclose(merged.logits(tokens), expected, atol=1e-4)
    base = run.settings.checkpoint
    again = models.load(base, adapter=tmp_path / "a")
    assert again.model.lora == run.settings.lora
    np.testing.assert_allclose(again.logits(tokens), expected, atol=1e-5)
    assert np.abs(models.load(base).logits(tokens) - expected).max() > 0.01
    ids = merged.tokenizer.chat([{"role": "user", "content": "2 + 2"}])
    assert ids == models.load(base).tokenizer.chat([{"role": "user", "content": "2 + 2"}])
    (rounded,) = exporting.export(folder, merged=tmp_path / "half", dtype="bfloat16")
    assert rounded.agrees and rounded.largest < 1e-4 < rounded.rounding
    with pytest.raises(ValueError, match="is not empty"):
        exporting.export(folder, merged=tmp_path / "half")


def test_an_export_that_differs_is_an_error(done, tmp_path, monkeypatch):
    _, folder = done
    real = models.merge

    def wrong(parameters, lora, dtype):
        return jax.tree.map(lambda leaf: 1.01 * leaf, real(parameters, lora, dtype))

    monkeypatch.setattr(models, "merge", wrong)
    with pytest.raises(
        ValueError, match="the merged model's logits differ from the run's by up to"
    ):
        exporting.export(folder, merged=tmp_path / "m")


def test_other_libraries_are_told_the_tokens_that_begin_and_end(done, tmp_path):
    _, folder = done
    exporting.export(folder, adapter=tmp_path / "a", merged=tmp_path / "m")
    tokenizer = models.load(tmp_path / "m").tokenizer
    config, generation = (
        json.loads((tmp_path / "m" / name).read_text())
        for name in ("config.json", "generation_config.json")
    )
    assert config["bos_token_id"] == generation["bos_token_id"] == tokenizer.bos_id == 256
    assert config["eos_token_id"] == tokenizer.eos_id
    assert generation["eos_token_id"] == list(tokenizer.stop_ids)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json"))
    assert theirs.encode("hi").ids == [tokenizer.bos_id, *tokenizer.encode("hi")]
    adapter = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == starts.settings_of(folder, "run").checkpoint


def test_an_export_of_a_run_whose_checkpoint_was_replaced_is_refused(run_on_a_copy, tmp_path):
    copied, folder = run_on_a_copy
    write_other(copied)
    with pytest.raises(ValueError, match="does not hold the weights and the tokenizer"):
        exporting.export(folder, merged=tmp_path / "m")
    edited = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(edited | {"rope_theta": 1e4}))
    with pytest.raises(ValueError, match=r"has rope_theta=10000\.0 where the run has 500000\.0"):
        exporting.export(folder, merged=tmp_path / "m")


def test_a_chat_template_that_changes_under_a_run_stops_it(adapted, train, run_on_a_copy):
    copied, folder = run_on_a_copy
    (folder / "summary.json").unlink()
    file = copied / "tokenizer_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"chat_template": "Be brief. " + config["chat_template"]}))
    with pytest.raises(ValueError, match="the tokenizer and its chat template are not what the"):
        train(adapted, folder)


def write_other(directory):
    """Replaces a tiny Llama by another one of its shape."""
    shutil.rmtree(directory)
    config = TINY["tiny-llama3.2"]
    with models.pretrained.writing.new_directory(directory) as target:
        other = models.Model(config).init(jax.random.key(7))
        models.pretrained.writing.checkpoint(target, config, other, "float32")
        tiny._write_tokenizer(target, "tiny-llama3.2")


def test_a_stopped_run_on_a_checkpoint_ends_with_the_same_bits(done, train, monkeypatch):
    """Adapters, dropout and all."""
    summary, folder = done
    config = json.loads((folder / "config.json").read_text())["config"]
    real, saved = Checkpoints.save, []

    def save(self, state, *rest):
        real(self, state, *rest)
        saved.append(int(state.step))
        if len(saved) == 1:
            self.close()
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save)
    run = training.PlannedRun("again", config["seed"], "", config)
    other = folder.parent / "again"
    with pytest.raises(KeyboardInterrupt):
        training.train(run, other)
    found = training.train(run, other)
    assert saved[0] < summary["updates"]
    for name in ("fingerprint", "origin", "validation_loss", "test", "test_before"):
        assert found[name] == summary[name]
    assert summary["test_before"]["loss"] > summary["test"]["loss"]


def test_dropout_acts_in_updates_and_on_any_number_of_devices(adapted, checkpoints):
    adapted.training.updates = 4
    settings = {}
    for rate in (0.0, 0.5):
        adapted.lora.dropout = rate
        (run,) = training.expand(adapted.to_dict())
        settings[rate] = run_settings.parse(run.config)
    updated = {}
    for rate, count in ((0.0, 1), (0.5, 1), (0.5, 2)):
        chosen = settings[rate]
        setup = run_setup.prepare(chosen, spmd.Layout.first(count))
        state, frozen = run_setup.initialise(setup)
        for number in range(2):  # B is zero before the first, which hides what A read
            rows = [setup.shard(part) for part in setup.pools[number]]
            state, _ = setup.training_step(state, frozen, *rows, setup.seed, setup.others)
        updated[rate, count] = jax.device_get(state.parameters)["layers"]["attention"]["q"]
    plain, dropped, shared = updated.values()
    assert np.abs(plain["lora_b"] - dropped["lora_b"]).max() > 1e-3
    np.testing.assert_allclose(shared["lora_b"], dropped["lora_b"], atol=1e-5)
    np.testing.assert_allclose(shared["lora_a"], dropped["lora_a"], atol=1e-5)


@pytest.mark.parametrize("name", ["relative", "~/home"])
def test_a_workdir_is_the_same_from_every_directory(adapted, tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (planned,) = training.expand(short(adapted).to_dict())
    training.train(planned, name)
    assert {path.name for path in tmp_path.iterdir()} == {name.removeprefix("~/")}
    assert exporting.export(name, adapter="~/adapter")[0].agrees
    assert (tmp_path / "adapter" / "adapter_config.json").exists()


def test_exports_that_make_no_sense_are_refused_before_anything_is_read(done, tmp_path):
    _, folder = done
    with pytest.raises(ValueError, match="nothing to export"):
        exporting.export(folder)
    with pytest.raises(ValueError, match="is not the folder of a finished run, as it lacks config"):
        exporting.export(folder.parent, merged=tmp_path / "m")
    with pytest.raises(ValueError, match="must be apart"):
        exporting.export(folder, adapter=tmp_path / "m" / "a", merged=tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_checkpoint_that_was_replaced_stops_the_run(adapted, train, run_on_a_copy):
    copied, folder = run_on_a_copy
    (folder / "summary.json").unlink()
    write_other(copied)
    with pytest.raises(
        ValueError, match=r"the frozen weights are not what the run started with: was config"
    ):
        train(adapted, folder)


def test_full_fine_tuning_starts_from_the_checkpoint_and_moves_it(
    adapted, train, checkpoints, tmp_path
):
    adapted.lora.update({"rank": 0, "dropout": 0.0})
    adapted.features.parameters = "full"
    adapted.optimizer.learning_rate = 1e-6
    adapted.training.update({"updates": 2, "evaluate_every": 2, "checkpoint_every": 2})
    _, folder = train(adapted)
    found = starts.load_finished(folder, "run").parameters
    base = models.load(checkpoints["tiny-llama3.2"]).parameters
    moved = [
        float(jnp.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(base), strict=True)
    ]
    assert 0 < max(moved) < 1e-5
    with pytest.raises(ValueError, match="trained all weights"):
        exporting.export(folder, adapter=tmp_path / "a")
    assert exporting.export(folder, merged=tmp_path / "m")[0].agrees


def test_a_base_in_bfloat16_stays_frozen_in_it(adapted, checkpoints):
    adapted.model.update({"dtype": "bfloat16", "param_dtype": "bfloat16"})
    (run,) = training.expand(adapted.to_dict())
    settings = run_settings.parse(run.config)
    step = Step.create(settings)
    state, frozen = step.initial(0, starts.weights(settings))
    assert {leaf.dtype for leaf in jax.tree.leaves(frozen)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.parameters)} == {jnp.dtype("float32")}


def test_fresh_adapters_are_those_of_a_whole_initialisation(adapted):
    (run,) = training.expand(adapted.to_dict())
    settings = run_settings.parse(run.config)
    step = Step.create(settings)
    drawn, _ = step.initial(3)
    found, _ = step.initial(3, starts.weights(settings))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found.parameters, drawn.parameters
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": "/nowhere/at/all"}, "no model '/nowhere/at/all'"),
        ({"checkpoint": "smollm2-135"}, "did you mean 'smollm2-135m'"),
        ({"data.length": 4096}, "data.length=4096 exceeds the model's context of 2048"),
        ({"data.template": "chatml"}, r"data\.template must be one of"),
        ({"model.attention": "cudnn"}, r"model\.attention='cudnn' computes in bfloat16 only"),
        ({"lora.dropout": 1.0}, r"lora\.dropout must lie in"),
        ({"lora.rank": 0}, r"lora\.dropout=0\.25 concerns adapters"),
    ],
)
def test_what_a_pretrained_run_may_not_ask_for(adapted, changes, message):
    for dotted, value in changes.items():
        *sections, field = dotted.split(".")
        section = adapted
        for name in sections:
            section = section[name]
        section[field] = value
    with pytest.raises(ValueError, match=message):
        training.expand(adapted.to_dict())


def test_cudnn_attention_needs_a_gpu(adapted, tmp_path):
    adapted.model.update({"attention": "cudnn", "dtype": "bfloat16"})
    (run,) = training.expand(adapted.to_dict())
    with pytest.raises(ValueError, match=r"needs an NVIDIA GPU, and this machine has cpu"):
        training.check(run, tmp_path / "run")


def test_a_shape_that_is_not_the_checkpoint_s_is_refused(checkpoints):
    config = common.default()
    config.data.tasks.chain_sum = {}
    config.checkpoint = str(checkpoints["tiny-qwen2.5"])
    with pytest.raises(ValueError, match=r"model\.layers=4, but the checkpoint .* has 2"):
        training.expand(config.to_dict())
    config.model.update({"layers": 2, "width": 32, "mlp_width": 64, "head_dim": 8})
    with pytest.raises(ValueError, match=r"model\.rope_theta=10000\.0, but the checkpoint"):
        training.expand(config.to_dict())


def test_a_checkpoint_that_is_not_there_leaves_no_folder(adapted, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    pretrained.start_from(adapted, "qwen2.5-0.5b")
    (run,) = training.expand(adapted.to_dict())  # its shape is known without it
    with pytest.raises(ValueError, match=r"experiments.fetch --model=qwen2.5-0.5b"):
        training.train(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_without_a_tokenizer_cannot_be_trained_on(adapted, checkpoints, tmp_path):
    copied = tmp_path / "model"
    shutil.copytree(checkpoints["tiny-llama3.2"], copied)
    (copied / "tokenizer.json").unlink()
    adapted.checkpoint = str(copied)
    (run,) = training.expand(adapted.to_dict())
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        training.check(run, tmp_path / "run")


def test_a_tokenizer_larger_than_the_embedding_is_refused(checkpoints, tmp_path):
    copied = tmp_path / "model"
    shutil.copytree(checkpoints["tiny-llama3.2"], copied)
    definition = json.loads((copied / "tokenizer.json").read_text())
    last = dict(definition["added_tokens"][-1])
    definition["added_tokens"] += [
        last | {"id": number, "content": f"<|{number}|>"} for number in range(last["id"] + 1, 270)
    ]
    (copied / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(ValueError, match="the tokenizer has 270 ids and the embedding 264 rows"):
        models.load(copied)


@pytest.mark.parametrize("module", [smollm2_reasoning, qwen25_3b_metamath, llama32_3b_mol])
def test_configs_have_the_paper_s_settings_and_a_smoke_variant(module):
    config = module.get_config()
    if module is not smollm2_reasoning:
        config.data.domains = ("one", "other")  # or the corpus would be downloaded to know them
    (run,) = training.expand(config.to_dict())
    settings = run_settings.parse(run.config)
    assert (settings.lora.rank, settings.lora.alpha) == (16, 96.0)
    assert set(settings.lora.targets) == set(models.PROJECTIONS) - {"o"}
    assert (settings.selection.pool, settings.selection.size) == (256, 32)
    assert (settings.features.parameters, settings.features.last_layers) == ("lora", 3)
    assert (settings.optimizer.learning_rate, settings.training.updates) == (2e-4, 1024)
    assert (settings.optimizer.warmup, settings.optimizer.clip) == (0.03, 1.0)
    assert settings.model.param_dtype == "bfloat16"
    assert settings.checkpoint in models.PRESETS
    if module is not smollm2_reasoning:
        assert (settings.data.length, settings.selection.anchors) == (512, 4)
    (smoke,) = training.expand(module.get_config("smoke").to_dict())
    small = run_settings.parse(smoke.config)
    assert small.checkpoint in TINY
    assert small.training.updates <= 10


@pytest.mark.parametrize("module", [smollm2_17b_by_135m, qwen25_3b_by_05b, llama31_8b_by_1b])
def test_configs_with_a_proxy_share_pools_and_have_a_smoke_variant(module):
    config = module.get_config("compare")
    config.data.domains = ("one", "other")  # or the corpus would be downloaded to know them
    ours, random = (run_settings.parse(run.config) for run in training.expand(config.to_dict()))
    chosen = ours.selection
    assert (chosen.pool, chosen.size, chosen.updates_per_pool) == (512, 32, 8)
    assert (chosen.anchors, ours.features.anchors_every) == (64, 8)
    assert chosen.has_proxy and not chosen.proxy_trains
    # The same update on other rows: what is random needs neither pool nor proxy.
    assert random.selection.utility == "random" and not random.selection.has_proxy
    assert (random.selection.size, random.optimizer) == (chosen.size, ours.optimizer)
    target, proxy = (models.Model(shape) for shape in (ours.model, ours.chooser[0]))
    sizes = [
        sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))
        for model in (target, proxy)
    ]
    assert sizes[0] > 5 * sizes[1]
    assert {ours.checkpoint, chosen.proxy} <= set(models.PRESETS)
    (smoke,) = training.expand(module.get_config("smoke").to_dict())
    starts.check_scorers(smoke.settings)  # of one tokenizer
    assert {smoke.settings.checkpoint, smoke.settings.selection.proxy} <= set(TINY)
    assert smoke.settings.chooser[0].layers < smoke.settings.model.layers
    (trains,) = training.expand(module.get_config("smoke,trains").to_dict())
    assert trains.settings.selection.trains_proxy
