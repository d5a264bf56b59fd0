"""Pretrained checkpoints against HF transformers' logits, and what can be wrong with one.

The golden values are made by tests/models/golden/make_golden.py.
"""

import dataclasses
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import LLAMA, VARIANTS, write_gguf

from partitionsel_jax import models
from partitionsel_jax.models import parameters as trees
from partitionsel_jax.models import pretrained
from partitionsel_jax.models.pretrained import description, names, weights


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_those_of_transformers(golden, variant):
    directory, expected = golden[variant]
    found = models.load(directory).logits(expected["tokens"])
    assert found.dtype == jnp.float32
    assert np.abs(expected["logits"]).max() > 10  # a scale at which a wrong rotation shows
    np.testing.assert_allclose(found, expected["logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_tokens_equal_those_of_transformers_in_a_batch_and_one_by_one(golden, variant):
    directory, expected = golden[variant]
    model = models.load(directory)
    tokens = expected["tokens"].tolist()
    prompts = [tokens[0][:3], tokens[1][:9], tokens[0][:20]]

    def written(prompts):
        return models.generate(model.model, model.parameters, prompts, new_tokens=24)

    together = written(prompts)
    assert together == expected["greedy"].tolist()
    if variant in ("llama-biases", "qwen2-untied"):  # other programs, to be compiled anew
        assert [written([prompt])[0] for prompt in prompts] == together


def test_bfloat16_weights_are_read_as_they_are_and_float32_ones_rounded(golden):
    directory, expected = golden["llama-bfloat16"]
    model = models.load(directory, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(model.parameters)} == {jnp.dtype("bfloat16")}
    exact = models.load(directory).parameters
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a, np.float32), b),
        model.parameters,
        exact,
    )
    logits = model.logits(expected["tokens"])
    assert logits.dtype == jnp.float32
    # Computed in bfloat16: near, and not nearer than that.
    assert 1e-3 < np.abs(logits - expected["logits"]).mean() < 0.3


COUNTS = {
    # As the hub states them for the published safetensors files.
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "llama3.1-8b": 8_030_261_248,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
}


@pytest.mark.parametrize("name", models.PRESETS)
def test_presets_have_the_published_number_of_parameters(name):
    config = models.PRESETS[name].config
    assert sum(math.prod(t.shape) for t in names.tensors(config)) == COUNTS[name]
    shapes = jax.eval_shape(models.Model(config).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == COUNTS[name]


@pytest.mark.parametrize("name", [*models.PRESETS, *pretrained.TINY])
def test_a_config_json_gives_the_decoder_back(name):
    preset = models.PRESETS.get(name)
    config = preset.config if preset else pretrained.TINY[name]
    content = json.loads(json.dumps(description.config_json(config, "bfloat16")))
    assert description.decoder_config(content, "config.json") == config


@pytest.mark.parametrize(
    ("added", "found"),
    [
        ({}, {"kv_heads": 4, "head_dim": 8, "rope_theta": 1e4, "tied": False, "norm_eps": 1e-6}),
        ({"head_dim": None, "num_key_value_heads": 2}, {"head_dim": 8, "kv_heads": 2}),
        ({"rope_theta": 500000}, {"rope_theta": 5e5}),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, {"rope_theta": 7.0}),
        ({"rope_theta": 7.0, "rope_scaling": None}, {"rope_theta": 7.0}),
        (
            {"rope_theta": 7.0, "rope_scaling": {"type": "linear", "factor": 2}},
            {"rope_theta": 7.0, "rope_scaling": models.RopeScaling("linear", 2.0)},
        ),
        (
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 7.0, "factor": 2.0}},
            {"rope_theta": 7.0, "rope_scaling": models.RopeScaling("linear", 2.0)},
        ),
        ({"attention_bias": True}, {"biases": ("q", "k", "v", "o")}),
        ({"mlp_bias": True}, {"biases": ("gate", "up", "down")}),
        ({"model_type": "qwen2"}, {"biases": ("q", "k", "v")}),
    ],
)
def test_both_generations_of_config_keys_and_their_defaults(added, found):
    config = description.decoder_config(LLAMA | added, "config.json")
    assert {field: getattr(config, field) for field in found} == found


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ({"model_type": "gpt_neox"}, "config.json: model_type='gpt_neox' is not supported"),
        ({"model_type": None}, "config.json lacks 'model_type'"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config=.* is not supported"),
        ({"use_sliding_window": True}, "use_sliding_window=True is not supported"),
        ({"hidden_size": None}, "config.json lacks 'hidden_size'"),
        ({"hidden_size": "32"}, "hidden_size='32' where a value of type int"),
        ({"vocab_size": True}, "vocab_size=True where a value of type int"),
        ({"num_attention_heads": 0}, "num_attention_heads must be at least 1"),
        ({"num_key_value_heads": 3}, "config.json: model.heads must be a multiple of .*=3, not 4"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope type 'yarn' is not supported"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "lacks 'low_freq_factor'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor=0\.5 is not supported"),
        ({"rope_theta": math.inf}, r"model\.rope_theta must be > 0, not inf"),
        ({"rope_scaling": 3}, "rope_scaling=3 where a value of type dict"),
    ],
)
def test_what_a_config_json_may_not_say(added, message):
    with pytest.raises(ValueError, match=message):
        description.decoder_config(LLAMA | added, "config.json")


def _edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _edit_tensors(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _remove(path):
    path.unlink()


def _cut(path):
    path.write_bytes(path.read_bytes()[:-64])


def _cut_header(path):
    path.write_bytes(path.read_bytes()[:20])


SHARDED, SINGLE = "llama-untied-sharded", "qwen2-untied"
SHARD = "model-00002-of-00004.safetensors"
NORM = "model.layers.1.input_layernorm.weight"


@pytest.mark.parametrize(
    ("variant", "file", "change", "message"),
    [
        (SHARDED, SHARD, _remove, f"{SHARD} is missing"),
        (SHARDED, SHARD, _cut, f"{SHARD} cannot be read .*cut short"),
        (SINGLE, "model.safetensors", _cut, "model.safetensors cannot be read .*cut short"),
        (SINGLE, "model.safetensors", _cut_header, "model.safetensors cannot be read"),
        (SINGLE, "model.safetensors", _remove, "holds neither model.safetensors nor"),
        (SINGLE, "config.json", _remove, "config.json is missing"),
        (SINGLE, "config.json", _cut_header, "config.json is no valid JSON"),
        (
            SINGLE,
            "model.safetensors",
            lambda path: _edit_tensors(path, lambda t: t.pop(NORM)),
            f"lacks the tensor '{NORM}'",
        ),
        (
            SINGLE,
            "model.safetensors",
            lambda path: _edit_tensors(path, lambda t: t.update({NORM: t[NORM][:-1].copy()})),
            rf"model.safetensors: {NORM} has shape \[\d+\] where the config makes it \[\d+\]",
        ),
        (
            SINGLE,
            "model.safetensors",
            lambda path: _edit_tensors(path, lambda t: t.update({"model.vision.weight": t[NORM]})),
            "unknown tensor 'model.vision.weight'",
        ),
        (
            SINGLE,
            "model.safetensors",
            lambda path: _edit_tensors(path, lambda t: t.update({NORM: t[NORM].astype(np.int32)})),
            f"{NORM} holds int32",
        ),
        (
            SHARDED,
            "model.safetensors.index.json",
            lambda path: _edit_json(path, lambda c: c["weight_map"].update({NORM: "../x"})),
            "no file beside it",
        ),
        (
            SHARDED,
            "model.safetensors.index.json",
            lambda path: _edit_json(path, lambda c: c["weight_map"].update({"new": SHARD})),
            f"{SHARD} lacks 'new', which",
        ),
        (
            SHARDED,
            "model.safetensors.index.json",
            lambda path: _edit_json(path, lambda c: c.pop("weight_map")),
            "expected a 'weight_map'",
        ),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_error(copy_of, variant, file, change, message):
    directory = copy_of(variant)
    change(directory / file)
    with pytest.raises(ValueError, match=message) as caught:
        models.load(directory)
    assert "\n" not in str(caught.value)
    assert str(directory) in str(caught.value)


def test_redundant_tensors_of_old_or_tied_checkpoints_are_left_aside(copy_of, golden):
    directory = copy_of("llama3-tied")
    redundant = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32),
    }
    _edit_tensors(
        directory / "model.safetensors",
        lambda t: t.update(redundant | {"lm_head.weight": t["model.embed_tokens.weight"].copy()}),
    )
    expected = golden["llama3-tied"][1]
    found = models.load(directory).logits(expected["tokens"])
    np.testing.assert_allclose(found, expected["logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("source", ["nowhere", "smollm2-135", "some/where/else"])
def test_a_name_of_nothing_is_an_error_that_lists_what_there_is(source):
    with pytest.raises(
        ValueError, match=r"no model .*owner/name, or one of .*qwen2.5-3b"
    ) as caught:
        models.load(source)
    assert ("did you mean 'smollm2-135m'" in str(caught.value)) == (source == "smollm2-135")


def test_logits_refuse_what_would_be_silently_wrong(golden):
    model = models.load(golden["llama-biases"][0])
    for tokens, message in (
        ([1, 2], r"expected tokens \[B, T\], got shape \[2\]"),
        ([[1, 96]], r"expected token ids in 0 \.\. 95, got 1 \.\. 96"),
        ([[-1]], r"got -1 \.\. -1"),
        ([[2**32 + 5]], r"got 4294967301 \.\. 4294967301"),
        ([[0.5]], "expected integer token ids, got float64"),
        (np.zeros((1, 0), np.int32), "empty"),
        (np.zeros((1, 257), np.int32), "rows of 257 tokens exceed the model's context of 256"),
    ):
        with pytest.raises(ValueError, match=message):
            model.logits(tokens)
    with pytest.raises(ValueError, match=r"dtype must be one of .* not 'float16'"):
        models.load(golden["llama-biases"][0], dtype="float16")


# GGUF


@pytest.mark.parametrize(
    ("variant", "quantization"),
    [("llama-untied-sharded", "F32"), ("qwen2-untied", "F32"), ("qwen2-tied-sharded", "F16")],
)
def test_a_gguf_file_gives_the_logits_of_its_checkpoint(golden, tmp_path, variant, quantization):
    directory, expected = golden[variant]
    path = write_gguf(tmp_path / "model.gguf", directory, quantization)
    model = models.load(path)
    assert model.config == models.load(directory).config
    tolerance = 1e-4 if quantization == "F32" else 0.2
    found = model.logits(expected["tokens"])
    np.testing.assert_allclose(found, expected["logits"], atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("quantization", "bits"), [("Q8_0", 7), ("Q4_0", 3), ("Q4_1", 4), ("BF16", 8)]
)
def test_quantised_tensors_are_as_near_as_their_bits_allow(golden, tmp_path, quantization, bits):
    # Of width 32, which is a block: every matrix but `down` [32, 40] can be quantised.
    directory = tmp_path / "model"
    config = dataclasses.replace(pretrained.TINY["tiny-llama3.2"], mlp_width=64)
    parameters = models.Model(config).init(jax.random.key(1))
    directory.mkdir()
    pretrained.writing.checkpoint(directory, config, parameters, "float32")
    path = write_gguf(tmp_path / "model.gguf", directory, quantization, rope_freqs=_rope_freqs())
    exact, found = models.load(directory).parameters, models.load(path).parameters
    differs = False
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(found), strict=True):
        assert np.abs(a - b).max() <= np.abs(a).max() * 2.0**-bits * 1.01
        differs |= bool(np.any(a != b))
    assert differs


def _rope_freqs(factor=32.0):
    config = pretrained.TINY["tiny-llama3.2"]
    plain = dataclasses.replace(config, rope_scaling=models.RopeScaling())
    scaled = dataclasses.replace(config, rope_scaling=models.RopeScaling("llama3", factor))
    return plain.frequencies() / scaled.frequencies()


def test_llama3_scaling_is_recognised_from_the_factors_that_gguf_files_hold(tmp_path):
    directory = pretrained.locate("tiny-llama3.2")
    path = write_gguf(tmp_path / "model.gguf", directory, rope_freqs=_rope_freqs())
    assert pretrained.describe(path) == models.load(directory).config
    other = write_gguf(tmp_path / "other.gguf", directory, rope_freqs=_rope_freqs(5.0))
    with pytest.raises(ValueError, match=r"rope_freqs.weight holds factors of no known"):
        models.load(other)


def test_linear_scaling_in_a_gguf_file(golden, tmp_path):
    directory = golden["llama-untied-sharded"][0]
    path = write_gguf(tmp_path / "model.gguf", directory, scaling="linear", factor=2.0)
    assert pretrained.describe(path).rope_scaling == models.RopeScaling("linear", 2.0)
    yarn = write_gguf(tmp_path / "yarn.gguf", directory, scaling="yarn", factor=2.0)
    with pytest.raises(ValueError, match="rope scaling 'yarn' is not supported"):
        pretrained.describe(yarn)


def test_older_linear_scaling_and_partial_rotation_in_a_gguf_file(golden, tmp_path):
    directory = golden["llama-untied-sharded"][0]
    older = write_gguf(tmp_path / "older.gguf", directory, scale_linear=4.0)
    assert pretrained.describe(older).rope_scaling == models.RopeScaling("linear", 4.0)
    partial = write_gguf(tmp_path / "partial.gguf", directory, rotated=2)
    with pytest.raises(ValueError, match=r"rope\.dimension_count=2 beside head_dim=\d+ is not"):
        pretrained.describe(partial)


def test_what_a_gguf_file_may_not_be(golden, tmp_path):
    directory = golden["llama-untied-sharded"][0]
    path = write_gguf(tmp_path / "model.gguf", directory)
    whole = path.read_bytes()
    for size in (0, 3, 40, len(whole) // 2, len(whole) - 64):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"model\.gguf cannot be read .*cut short"):
            models.load(path)
    write_gguf(path, directory, architecture="falcon")
    with pytest.raises(ValueError, match="model_type='falcon' is not supported"):
        models.load(path)
    tiny = tmp_path / "k.gguf"
    _write_k_quant(tiny)
    with pytest.raises(ValueError, match=r"token_embd.weight is of type Q6_K, which is not"):
        models.load(tiny)
    text = tmp_path / "model.bin"
    text.write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected a checkpoint directory or a .gguf file"):
        models.load(text)


def _write_k_quant(path):
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    kind = gguf.GGMLQuantizationType.Q6_K
    size = gguf.GGML_QUANT_SIZES[kind][1]
    writer.add_tensor("token_embd.weight", np.zeros((2, size), np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# Writing


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_checkpoint_that_is_written_again_is_the_same(golden, tmp_path, variant):
    directory, _ = golden[variant]
    model = models.load(directory)
    target = tmp_path / "copy"
    with pretrained.writing.new_directory(target) as folder:
        pretrained.writing.checkpoint(folder, model.config, model.parameters, "float32", 20_000)
    assert len(list(target.glob("*.safetensors"))) > 1
    again = models.load(target)
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, again.parameters, model.parameters)


def test_biases_that_no_config_json_can_name_are_refused():
    config = dataclasses.replace(pretrained.TINY["tiny-llama3.2"], biases=("q", "up"))
    with pytest.raises(ValueError, match=r"no config.json can say so"):
        description.config_json(config, "float32")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("gs://bucket/model", "is no local directory"),
        (".", "is not empty|is the current directory"),
    ],
)
def test_where_nothing_can_be_written(target, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        pretrained.writing.check_new(target)
    assert not any(tmp_path.iterdir())


def test_a_home_and_a_link_are_followed(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name, place in (("~/new", "new"), (str(tmp_path / "link"), "empty")):
        with pretrained.writing.new_directory(name) as folder:
            (folder / "file").write_text("x")
        assert (tmp_path / place / "file").exists()


def test_a_directory_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new"
    with pytest.raises(RuntimeError), pretrained.writing.new_directory(target) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert not any(tmp_path.iterdir())
    with pretrained.writing.new_directory(target) as folder:
        (folder / "whole").write_text("x")
    with (
        pytest.raises(ValueError, match="is not empty"),
        pretrained.writing.new_directory(target),
    ):
        raise AssertionError("never reached")
    assert [path.name for path in target.iterdir()] == ["whole"]


# Adapters


def adapted(config, **changes):
    lora = models.LoRAConfig(**{"rank": 3, "alpha": 5.0, "targets": ("q", "down")} | changes)
    model = models.Model(config, lora)
    parameters = model.init(jax.random.key(3))
    rng = np.random.default_rng(4)
    return model, jax.tree.map(
        lambda leaf: leaf + 0.2 * rng.standard_normal(leaf.shape, np.float32), parameters
    )


def test_adapters_come_back_from_peft_format(golden, tmp_path):
    config = models.load(golden["qwen2-untied"][0]).config
    model, parameters = adapted(config, dropout=0.25)
    folder = tmp_path / "adapter"
    pretrained.adapters.write(folder, config, model.lora, parameters, base="owner/name")
    content = json.loads((folder / "adapter_config.json").read_text())
    assert content["base_model_name_or_path"] == "owner/name"
    assert sorted(content["target_modules"]) == ["down_proj", "q_proj"]
    tensors = load_file(folder / "adapter_model.safetensors")
    a = tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"]
    expected = parameters["layers"]["attention"]["q"]["lora_a"][1].T
    np.testing.assert_array_equal(a, expected)
    lora, tree = pretrained.adapters.read(folder, config)
    assert lora == model.lora
    ours, _ = trees.split(parameters, models.is_adapter)
    jax.tree.map(np.testing.assert_array_equal, tree, ours)


def test_a_loaded_adapter_equals_its_merged_weights(golden, tmp_path):
    directory, expected = golden["llama-biases"]
    base = models.load(directory)
    model, parameters = adapted(base.config, targets=models.PROJECTIONS)
    pretrained.adapters.write(
        tmp_path / "adapter", base.config, model.lora, parameters, base=str(directory)
    )
    loaded = models.load(directory, adapter=tmp_path / "adapter")
    plain = base.logits(expected["tokens"])
    with_adapter = loaded.logits(expected["tokens"])
    assert np.abs(with_adapter - plain).max() > 1
    merged = dataclasses.replace(
        base, parameters=models.merge(loaded.parameters, loaded.model.lora)
    )
    np.testing.assert_allclose(
        merged.logits(expected["tokens"]), with_adapter, atol=2e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type='IA3' is not supported"),
        ({"lora_bias": True}, "lora_bias=True is not supported"),
        ({"layer_replication": [[0, 1]]}, "layer_replication=.* is not supported"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' is not supported"),
        ({"of_the_future": 1}, "of_the_future=1 is not supported"),
        ({"target_modules": [["q_proj"]]}, "expected target_modules as a list"),
        ({"use_dora": True}, "use_dora=True is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save=.* is not supported"),
        ({"rank_pattern": {"q": 3}}, "rank_pattern=.* is not supported"),
        ({"target_modules": ["qkv_proj"]}, r"target_modules \['qkv_proj'\] are not projections"),
        ({"target_modules": ".*"}, "expected target_modules as a list"),
        ({"r": 4}, r"lora_A.weight has shape \[3, \d+\] where the config makes it \[4, \d+\]"),
        ({"r": -1}, "adapter_config.json: lora.rank"),
        ({"target_modules": ["q_proj", "k_proj", "down_proj"]}, "lacks the tensor .*k_proj"),
    ],
)
def test_adapters_of_another_kind_are_refused(golden, tmp_path, changes, message):
    config = models.load(golden["qwen2-untied"][0]).config
    model, parameters = adapted(config)
    folder = tmp_path / "adapter"
    pretrained.adapters.write(folder, config, model.lora, parameters, base="owner/name")
    _edit_json(folder / "adapter_config.json", lambda content: content.update(changes))
    with pytest.raises(ValueError, match=message):
        pretrained.adapters.read(folder, config)


def test_rank_stabilised_scaling_is_read_as_the_alpha_that_it_means(golden, tmp_path):
    config = models.load(golden["qwen2-untied"][0]).config
    model, parameters = adapted(config)
    folder = tmp_path / "adapter"
    pretrained.adapters.write(folder, config, model.lora, parameters, base="owner/name")
    _edit_json(folder / "adapter_config.json", lambda c: c.update({"use_rslora": True}))
    lora, _ = pretrained.adapters.read(folder, config)
    assert lora.scale == pytest.approx(5.0 / 3**0.5)


def test_a_model_without_adapters_has_none_to_write(golden, tmp_path):
    model = models.load(golden["qwen2-untied"][0])
    with pytest.raises(ValueError, match="no adapters"):
        pretrained.adapters.write(
            tmp_path / "a", model.config, model.model.lora, model.parameters, base="x"
        )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused_by_the_name_of_their_tensor(copy_of, value):
    directory = copy_of(SINGLE)

    def change(tensors):
        tensors[NORM] = tensors[NORM].copy()
        tensors[NORM][3] = value

    _edit_tensors(directory / "model.safetensors", change)
    with pytest.raises(ValueError, match=f"{NORM} holds numbers that are not finite"):
        models.load(directory)


def test_a_preset_wins_over_a_folder_of_its_name(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-qwen2.5").mkdir()
    assert models.load("tiny-qwen2.5").config.vocab_size == 264
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        models.load("./tiny-qwen2.5")


# Order of reading


def test_no_tensor_is_read_before_all_are_known_to_fit(copy_of, monkeypatch):
    directory = copy_of(SHARDED)
    monkeypatch.setattr(weights, "read", lambda *_: pytest.fail("weights were read"))
    _edit_json(directory / "config.json", lambda content: content.update({"vocab_size": 97}))
    with pytest.raises(ValueError, match=r"has shape \[96, \d+\] where the config makes it \[97"):
        models.load(directory)


def test_a_preset_that_was_not_fetched_says_how(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"python -m experiments.fetch --model=smollm2-135m"):
        models.load("smollm2-135m")


def test_a_fetched_preset_is_described_by_its_own_files(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    known = models.PRESETS["qwen2.5-0.5b"].config
    assert pretrained.shape_of("qwen2.5-0.5b") == known
    folder = tmp_path / ".cache/partitionsel_jax/models/qwen2.5-0.5b"
    with pretrained.writing.new_directory(folder) as new:
        newer = dataclasses.replace(known, rope_theta=2e6)
        content = description.config_json(newer, "bfloat16")
        (new / "config.json").write_text(json.dumps(content))
    assert pretrained.shape_of("qwen2.5-0.5b") == newer


def test_tiny_models_are_made_when_first_asked_for_and_then_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    first = models.load("tiny-qwen2.5")
    (folder,) = (tmp_path / ".cache/partitionsel_jax/models").iterdir()
    assert len(list(folder.glob("*.safetensors"))) > 1
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = models.load("tiny-qwen2.5")
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    jax.tree.map(np.testing.assert_array_equal, first.parameters, again.parameters)
    shutil.rmtree(folder)
    other = models.load("tiny-qwen2.5").parameters
    jax.tree.map(np.testing.assert_array_equal, first.parameters, other)


@pytest.mark.parametrize("variant", ["llama-untied-sharded", "llama-bfloat16"])
def test_tensors_that_are_read_in_pieces_are_the_same(golden, monkeypatch, tmp_path, variant):
    directory, _ = golden[variant]
    file = write_gguf(tmp_path / "model.gguf", directory)
    whole, from_file = models.load(directory).parameters, models.load(file).parameters
    held = []
    place = weights._place
    monkeypatch.setattr(weights, "PIECE_BYTES", 700)

    def record(parameter, piece, *rest, **options):
        held.append(piece.nbytes)
        return place(parameter, piece, *rest, **options)

    monkeypatch.setattr(weights, "_place", record)
    for source, expected in ((directory, whole), (file, from_file)):
        jax.tree.map(np.testing.assert_array_equal, models.load(source).parameters, expected)
    assert len(held) > 150
    assert max(held) <= 700
