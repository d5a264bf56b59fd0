"""What a checkpoint says is honoured or refused by name: nothing that it holds is dropped."""

import json
import logging
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import LLAMA, write_adapter, write_gguf

from partitionsel_jax import models
from partitionsel_jax.models import pretrained
from partitionsel_jax.models.pretrained import description

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TOKENS = np.arange(12).reshape(2, 6)


@pytest.fixture
def tiny(tmp_path):
    """A Llama in three shards with a tokenizer, to be changed."""
    return shutil.copytree(pretrained.locate("tiny-llama3.2"), tmp_path / "model")


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def all_tensors(directory):
    return {k: v for path in directory.glob("model-*") for k, v in load_file(path).items()}


def one_line(caught, *parts):
    text = str(caught.value)
    assert "\n" not in text and all(part in text for part in parts), text


@pytest.fixture
def adapter(tmp_path):
    """An adapter of the Llama's, in a folder of its own."""
    config = pretrained.describe(pretrained.locate("tiny-llama3.2"))
    write_adapter(tmp_path / "a", config, "owner/base")
    return tmp_path / "a"


# Forms


@pytest.mark.parametrize("file", ["config.json", INDEX, "tokenizer.json", "tokenizer_config.json"])
def test_a_byte_order_mark_is_no_part_of_a_json_file(tiny, file):
    expected = models.load(tiny).logits(TOKENS)
    path = tiny / file
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    model = models.load(tiny)
    np.testing.assert_array_equal(model.logits(TOKENS), expected)
    assert model.tokenizer.decode(model.tokenizer.encode("é b")) == "é b"


def test_an_adapter_given_as_a_model_is_named_with_its_base(adapter):
    for also in (None, "config.json"):  # which some trainers copy to it
        if also:
            shutil.copy(pretrained.locate("tiny-llama3.2") / also, adapter / also)
        with pytest.raises(ValueError) as caught:
            models.load(adapter)
        one_line(caught, str(adapter), "LoRA adapter", "'owner/base'", "--adapter")


def test_a_model_given_as_an_adapter_is_named(tiny):
    with pytest.raises(ValueError, match=r"holds a model .*, no adapter"):
        models.load(tiny, adapter=tiny)


def test_paths_in_buckets_are_refused_as_such():
    for arguments in (("gs://bucket/model",), ("tiny-llama3.2",)):
        with pytest.raises(ValueError, match=r"gs://bucket/model is no local directory.* copy it"):
            models.load(*arguments, adapter="gs://bucket/model")


def test_a_git_lfs_pointer_is_called_what_it_is(tiny):
    shard = tiny / "model-00002-of-00003.safetensors"
    shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match=f"{shard.name} .*is a Git LFS pointer.* git lfs pull"):
        models.load(tiny)


# Weights that are there twice, or that nobody names


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_head_of_its_own_in_a_tied_model_is_used_and_said(tiny, caplog, dtype):
    shard = tiny / "model-00001-of-00003.safetensors"
    tensors = load_file(shard)
    tensors[HEAD] = (tensors[EMBEDDING][::-1] * 2).astype(dtype)
    save_file(tensors, shard)
    edit(tiny / INDEX, lambda content: content["weight_map"].update({HEAD: shard.name}))
    with caplog.at_level(logging.WARNING):
        found = models.load(tiny)
    assert "lm_head.weight differs from the embedding" in caplog.text
    assert not found.config.tied and not pretrained.describe(tiny).tied
    edit(tiny / "config.json", lambda content: content.update(tie_word_embeddings=False))
    np.testing.assert_array_equal(found.logits(TOKENS), models.load(tiny).logits(TOKENS))


def test_a_head_that_repeats_the_embedding_stays_tied(tiny):
    tensors = all_tensors(tiny)
    save_file(tensors | {HEAD: tensors[EMBEDDING].copy()}, tiny / SINGLE)
    (tiny / INDEX).unlink()
    assert models.load(tiny).config.tied


def test_a_single_file_beside_shards_must_hold_the_same(tiny):
    expected = models.load(tiny).logits(TOKENS)
    tensors = all_tensors(tiny)
    save_file(tensors, tiny / SINGLE)
    np.testing.assert_array_equal(models.load(tiny).logits(TOKENS), expected)
    last = "model.layers.1.mlp.down_proj.weight"
    newer = tensors[last].copy()
    newer[-1, -1] += 1
    for changed in (tensors | {last: newer}, {k: v for k, v in tensors.items() if k != last}):
        save_file(changed, tiny / SINGLE)
        for read in (models.load, pretrained.describe):
            with pytest.raises(ValueError) as caught:
                read(tiny)
            one_line(caught, str(tiny), f"{SINGLE} and {INDEX}", "differ")


def test_tensors_of_a_shard_that_its_index_does_not_list_are_seen(tiny):
    shard = tiny / "model-00003-of-00003.safetensors"
    tensors = load_file(shard)
    save_file(tensors | {"model.vision.weight": np.ones(3, np.float32)}, shard)
    with pytest.raises(ValueError, match=r"unknown tensor 'model\.vision\.weight'"):
        models.load(tiny)
    save_file(tensors | {EMBEDDING: np.ones((264, 32), np.float32)}, shard)
    with pytest.raises(
        ValueError, match=r"holds 'model\.embed_tokens\.weight' in .*-00001-of.*-00003-of"
    ):
        models.load(tiny)


def test_files_of_weights_that_are_not_read_are_reported(tiny, caplog):
    save_file({"x": np.ones(3, np.float32)}, tiny / "consolidated.safetensors")
    with caplog.at_level(logging.WARNING):
        models.load(tiny)
    assert "not read: ['consolidated.safetensors']" in caplog.text


def test_an_adapter_beside_weights_is_refused_as_a_model_and_read_as_an_adapter(tiny, adapter):
    for file in tiny.glob("model*"):
        shutil.copy(file, adapter)
    found = models.load(tiny, adapter=adapter)
    assert found.model.lora == models.LoRAConfig(4, 8.0, ("q", "v"))
    for config in (False, True):
        if config:
            shutil.copy(tiny / "config.json", adapter)
        with pytest.raises(ValueError) as caught:
            models.load(adapter)
        one_line(caught, "adapter_config.json", INDEX, "a folder of their own")


@pytest.mark.parametrize(
    "file", ["", ".", "..", "/etc/passwd", "../x", "a/b", "\0", "a\nb", 3, None, []]
)
def test_an_index_names_files_beside_it_and_nothing_else(tiny, file):
    edit(tiny / INDEX, lambda content: content["weight_map"].update({EMBEDDING: file}))
    with pytest.raises(ValueError) as caught:
        models.load(tiny)
    one_line(caught, INDEX, EMBEDDING, "no file beside it")


# Fields that change the computation


LINEAR = {"rope_type": "linear", "factor": 4.0}
DEFAULT = {"rope_type": "default", "rope_theta": 500000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"rope_parameters": DEFAULT, "rope_scaling": LINEAR}, "rope_parameters=.*rope_scaling="),
        ({"rope_parameters": DEFAULT, "rope_scaling": YARN}, "rope_scaling: rope type 'yarn'"),
        ({"rope_parameters": LINEAR, "rope_scaling": {"type": "default"}}, "disagree"),
        ({"rope_parameters": DEFAULT, "rope_theta": 1e4}, "rope_theta=10000.0.*disagree"),
        ({"rope_parameters": LINEAR, "rope_scaling": {**LINEAR, "factor": 2.0}}, "disagree"),
        (
            {"rope_scaling": {"rope_type": "linear", "type": "llama3", "factor": 2.0}},
            "'linear' and",
        ),
        ({"rope_scaling": {"rope_type": "default", "factor": 2.0}}, "factor=2.0 is not known of"),
        ({"rope_scaling": {**LINEAR, "attention_factor": 0.5}}, "attention_factor=0.5 is not"),
        ({"rope_parameters": {"full_attention": DEFAULT}}, "full_attention=.* is not known of"),
        ({"quantization_config": {"bits": 4}}, "quantization_config="),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types="),
        ({"sliding_window": 128, "max_position_embeddings": 256}, "sliding_window=128"),
        ({"embedding_multiplier": 12.0}, "embedding_multiplier=12.0"),
        ({"logits_scaling": 8.0}, "logits_scaling=8.0"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
        ({"use_qk_norm": True}, "use_qk_norm=True"),
        ({"use_rope": False}, "use_rope=False"),
        ({"num_local_experts": 8}, "num_local_experts=8"),
    ],
)
def test_a_config_that_computes_something_else_is_refused_by_name(said, message):
    with pytest.raises(ValueError, match=rf"config\.json: .*{message}") as caught:
        description.decoder_config(LLAMA | said, "config.json")
    one_line(caught)


@pytest.mark.parametrize(
    "said",
    [
        {"rope_parameters": DEFAULT, "rope_theta": 500000, "rope_scaling": None},
        {"rope_parameters": DEFAULT, "rope_scaling": {"type": "default"}},
        {"rope_theta": 500000, "rope_parameters": {}},
        {"layer_types": ["full_attention"] * 2, "sliding_window": None},
        {"sliding_window": 4096, "max_position_embeddings": 2048},
        {"logits_scaling": 1.0, "quantization_config": None, "num_experts": 0, "use_rope": True},
        {"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": False},
    ],
)
def test_what_agrees_or_changes_nothing_is_read(said, caplog):
    config = description.decoder_config(LLAMA | said, "config.json")
    assert config.rope_scaling.kind == "none"
    assert config.rope_theta == (1e4 if "rope" not in str([*said][:1]) else 5e5)
    assert not caplog.text


def test_fields_that_nobody_knows_are_reported_once(caplog):
    said = LLAMA | {
        "attention_dropout": 0.1,
        "of_the_future": 3,
        "unset": None,
        "pretraining_tp": 1,
    }
    for _ in range(2):
        description.decoder_config(said, "once/config.json")
    assert [record.getMessage() for record in caplog.records] == [
        "once/config.json: unknown fields, which are not read: attention_dropout, of_the_future"
    ]


def test_published_configs_are_read_without_a_word(caplog):
    for name, preset in models.PRESETS.items():
        content = description.config_json(preset.config, "bfloat16")
        content |= {"transformers_version": "4.46", "initializer_range": 0.02, "bos_token_id": 1}
        description.decoder_config(content, name)
    assert not caplog.text


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ({"attention.sliding_window": 64}, "llama.attention.sliding_window' says 64, which is not"),
        ({"logit_scale": 0.5}, "llama.logit_scale' says 0.5, which is not"),
        ({"attention.causal": False}, "llama.attention.causal' says False, which is not"),
        ({"expert_count": 8}, "llama.expert_count' says 8, which is not"),
        ({"attention.value_length": 4}, "attention.value_length=4 beside head_dim"),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 2.0}, "disagree about rope scaling"),
        ({"rope.scale_linear": 4.0, "rope.scaling.factor": 2.0}, "disagree about rope scaling"),
        ({"expert_count": 0, "attention.causal": True, "vocab_size": 96}, None),
        ({"rope.scaling.factor": 2.0}, None),
    ],
)
def test_what_a_gguf_file_says_of_its_architecture_is_read_or_refused(
    tmp_path, golden, added, message
):
    path = write_gguf(tmp_path / "m.gguf", golden["llama-untied-sharded"][0], fields=added)
    if message is None:
        factor = added.get("rope.scaling.factor", 1.0)  # linear without a type, as in llama.cpp
        assert pretrained.describe(path).rope_scaling.factor == factor
        return
    with pytest.raises(ValueError, match=f"m.gguf: .*{message}"):
        models.load(path)


def test_rope_factors_beside_another_scaling_are_refused(tmp_path):
    directory = pretrained.locate("tiny-llama3.2")
    fields = {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}
    path = write_gguf(tmp_path / "m.gguf", directory, rope_freqs=np.ones(4), fields=fields)
    with pytest.raises(ValueError, match="disagree about rope scaling"):
        models.load(path)
