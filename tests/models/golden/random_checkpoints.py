"""Tiny random Llama and Qwen2 checkpoints in the hub's format, and what transformers computes.

The weights are large (standard deviation 0.3), and the norms and biases are random too: with the
default initialisation a wrong rotary embedding or a forgotten bias changes the logits by 1e-3 only.
"""

import json
import pathlib
import shutil
from typing import Any

import numpy as np
import torch
import transformers

SEED = 2024
TOKENS = (2, 40)
# (row of the tokens, length) of each prompt, and how far each is continued.
PROMPTS = ((0, 3), (1, 9), (0, 20))
CONTINUATION = 24
# Another implementation rounds differently: a narrower choice would be a coin toss.
LEAST_GAP = 0.02

SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "num_hidden_layers": 2,
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
# Of head_dim 8 at this base the wavelengths are 6, 63, 628 and 6283 tokens. Those below 128/4 stay,
# those above 128/1 are stretched 8 times, and the second lies in the blended band between.
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}

# name -> config class, its arguments, how to save: "shard" is save_pretrained's max_shard_size,
# "keys" the transformers major version whose names config.json has.
VARIANTS: dict[str, tuple[type, dict[str, Any], dict[str, Any]]] = {
    "llama3-tied": (
        transformers.LlamaConfig,
        {
            "hidden_size": 32,
            "head_dim": 8,
            "tie_word_embeddings": True,
            "rope_parameters": LLAMA3_ROPE,
            "max_position_embeddings": 1024,
            "eos_token_id": [2, 3],
        },
        {"keys": 4},
    ),
    "llama-untied-sharded": (
        transformers.LlamaConfig,
        {
            "hidden_size": 24,
            "head_dim": 8,
            "tie_word_embeddings": False,
            "rope_parameters": DEFAULT_ROPE,
        },
        {"keys": 5, "shard": "20KB"},
    ),
    "llama-biases": (
        transformers.LlamaConfig,
        {
            "hidden_size": 24,
            "tie_word_embeddings": False,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": {**DEFAULT_ROPE, "rope_type": "linear", "factor": 2.0},
        },
        {"keys": 5},
    ),
    "qwen2-tied-sharded": (
        transformers.Qwen2Config,
        {
            "hidden_size": 32,
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {**DEFAULT_ROPE, "rope_theta": 1_000_000.0},
            "max_window_layers": 1,
        },
        {"keys": 4, "shard": "40KB"},
    ),
    "qwen2-untied": (
        transformers.Qwen2Config,
        {
            "hidden_size": 24,
            "num_key_value_heads": 1,
            "tie_word_embeddings": False,
            "rms_norm_eps": 1e-6,
            "rope_parameters": DEFAULT_ROPE,
        },
        {"keys": 5},
    ),
    "llama-bfloat16": (
        transformers.LlamaConfig,
        {
            "hidden_size": 24,
            "head_dim": 8,
            "tie_word_embeddings": False,
            "rope_parameters": DEFAULT_ROPE,
        },
        {"keys": 4, "dtype": torch.bfloat16},
    ),
}


def randomise(model: torch.nn.Module, rng: np.random.Generator) -> None:
    """Draws every parameter anew, the final norm larger than the others for logits of 10 to 20."""
    for name, parameter in sorted(model.named_parameters()):
        value = 0.3 * rng.standard_normal(parameter.shape)
        if name.endswith("norm.weight"):
            value = 1.0 + value
        if name == "model.norm.weight":
            value = 2.5 * value
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(value))


def with_version_4_keys(config: dict[str, Any]) -> dict[str, Any]:
    """The config.json that transformers 4 wrote, as most checkpoints on the hub have it."""
    config = dict(config)
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.3"
    if config["model_type"] == "qwen2":
        # The hub's Qwen2.5 files have neither of these, and a window that is not in use.
        for name in ("layer_types", "rope_scaling"):
            config.pop(name, None)
        config["sliding_window"] = 16
    return dict(sorted((k, v) for k, v in config.items() if k != "pad_token_id"))


def save(directory: pathlib.Path, name: str, seed: int) -> None:
    """Writes the checkpoint directory of a variant, replacing what is there."""
    kind, arguments, how = VARIANTS[name]
    config = kind(**{**SMALL, **arguments})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomise(model, np.random.default_rng(seed))
    shutil.rmtree(directory, ignore_errors=True)
    model.to(how.get("dtype", torch.float32)).save_pretrained(
        directory, max_shard_size=how.get("shard", "1GB")
    )
    for path in directory.glob("*.safetensors"):
        path.chmod(0o644)
    if how["keys"] == 4:
        path = directory / "config.json"
        config = with_version_4_keys(json.loads(path.read_text()))
        path.write_text(json.dumps(config, indent=2) + "\n")


@torch.inference_mode()
def continuation(
    model: torch.nn.Module, prompt: np.ndarray, count: int
) -> tuple[np.ndarray, float]:
    """The continuation by argmax over full forward passes, and the narrowest choice in it."""
    tokens, gap = torch.from_numpy(prompt)[None].long(), float("inf")
    for _ in range(count):
        best = model(tokens, use_cache=False).logits[0, -1].topk(2)
        gap = min(gap, float(best.values[0] - best.values[1]))
        tokens = torch.cat([tokens, best.indices[None, :1]], dim=1)
    return tokens[0, len(prompt) :].numpy().astype(np.int32), gap


def load(directory: pathlib.Path) -> torch.nn.Module:
    """The checkpoint as a float32 model; every parameter must come from the files."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    if any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise ValueError(f"{directory} does not fit its own config: {info}")
    return model.eval()


def continued(
    model: torch.nn.Module, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    """Random tokens whose prompts are continued without a near-tie, and their continuations."""
    for _ in range(20):
        tokens = rng.integers(0, SMALL["vocab_size"], TOKENS, dtype=np.int32)
        found = [continuation(model, tokens[row, :length], CONTINUATION) for row, length in PROMPTS]
        gap = min(gap for _, gap in found)
        if gap >= LEAST_GAP:
            return tokens, np.stack([greedy for greedy, _ in found]), gap
    raise ValueError(f"every draw of tokens had a choice narrower than {LEAST_GAP}; change SEED")


def make(folder: pathlib.Path) -> None:
    """Writes `checkpoints/` and `logits.npz` under `folder`."""
    golden: dict[str, np.ndarray] = {}
    for number, name in enumerate(VARIANTS):
        directory = folder / "checkpoints" / name
        save(directory, name, SEED + number)
        model = load(directory)
        tokens, greedy, gap = continued(model, np.random.default_rng(SEED + 100 + number))
        with torch.inference_mode():
            logits = model(torch.from_numpy(tokens).long(), use_cache=False).logits.numpy()
        golden[f"{name}/tokens"] = tokens
        golden[f"{name}/logits"] = logits.astype(np.float32)
        golden[f"{name}/greedy"] = greedy
        size = sum(path.stat().st_size for path in directory.iterdir())
        print(
            f"{name}: {size} bytes, max |logit| {abs(logits).max():.2f}, "
            f"std {logits.std():.2f}, narrowest choice {gap:.3f}"
        )
    np.savez_compressed(folder / "logits.npz", **golden)
