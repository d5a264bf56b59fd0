"""LoRA adapters in the format of the PEFT library: adapter_config.json and its safetensors."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from partitionsel_jax.file_errors import reading
from partitionsel_jax.models.config import DecoderConfig, LoRAConfig
from partitionsel_jax.models.parameters import is_adapter, split
from partitionsel_jax.models.pretrained import names, weights, writing
from partitionsel_jax.models.pretrained.description import ADAPTER_CONFIG as CONFIG
from partitionsel_jax.models.pretrained.description import CONFIG as MODEL_CONFIG
from partitionsel_jax.models.pretrained.description import Fields, check_local, read_json
from partitionsel_jax.models.pretrained.weights import ADAPTER as WEIGHTS

# Fields of adapter_config.json that are read, or that change nothing in what is computed.
_KNOWN = (
    "peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "auto_mapping",
    "base_model_name_or_path", "corda_config", "eva_config", "inference_mode", "loftq_config",
    "megatron_core", "peft_version", "revision", "runtime_config", "task_type",
)  # fmt: skip
# All others belong to variants of LoRA, which these values leave unused; of those that are not
# named here, null, false and what is empty do.
_UNUSED: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    # Some initialisations also change the base; these do not.
    "init_lora_weights": (True, False, "gaussian", "orthogonal"),
    "qalora_group_size": (16,),
}


def write(
    directory: str | os.PathLike[str],
    config: DecoderConfig,
    lora: LoRAConfig,
    parameters: dict[str, Any],
    *,
    base: str,
    revision: str | None = None,
) -> None:
    """Writes the adapters among `parameters` into a new directory.

    Args:
      base: the model that they belong to, as PEFT shall look for it: a repository or a path.
      revision: of the repository.

    Raises:
      ValueError: a model without adapters, or a directory that holds something.
    """
    if not lora.rank:
        raise ValueError("this model has no adapters (lora.rank=0): export its merged weights")
    content = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": [
            module for module, name in names.MODULES.items() if name in lora.targets
        ],
        "revision": revision,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": False,
    }
    tree, _ = split(parameters, is_adapter)
    tensors = names.adapters(config, lora.rank, lora.targets)
    with writing.new_directory(directory) as folder:
        writing.save_parameters(folder, tensors, tree, "float32", sys.maxsize, WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n")


def read(
    directory: str | os.PathLike[str], config: DecoderConfig
) -> tuple[LoRAConfig, dict[str, Any]]:
    """Reads the adapters of a PEFT directory, and their parameters in float32.

    Args:
      config: of the decoder that they shall sit on.

    Raises:
      ValueError: no adapter, one of another kind or another model, or damaged files.
    """
    folder = check_local(directory)
    with reading(folder):
        if (folder / MODEL_CONFIG).exists() and not (folder / CONFIG).exists():
            raise ValueError(
                f"{folder} holds a model ({MODEL_CONFIG}), no adapter: expected a folder with "
                f"{CONFIG} and {WEIGHTS}; give this one as the model"
            )
        lora = _described(folder / CONFIG)
        tensors = names.adapters(config, lora.rank, lora.targets)
        # Whatever else lies beside them, the adapters' own file is meant.
        source = weights.SafetensorsFiles(folder, WEIGHTS)
        weights.check(tensors, source.shapes, source.where)
    return lora, weights.read(tensors, source, jnp.float32)


def _described(path: Path) -> LoRAConfig:
    """The adapters that an adapter_config.json describes."""
    where, content = str(path), read_json(path)
    fields = Fields(content, where)
    if (kind := fields.get("peft_type", str)) != "LORA":
        raise ValueError(f"{where}: peft_type={kind!r} is not supported; LORA is")
    for name, value in content.items():
        unused = value is None or value is False or value in ("", [], {})
        if name not in _KNOWN and not (unused or value in _UNUSED.get(name, ())):
            raise ValueError(f"{where}: {name}={value!r:.80} is not supported")
    modules = content.get("target_modules")
    if modules == "all-linear":
        modules = list(names.MODULES)
    if not isinstance(modules, list) or not all(isinstance(name, str) for name in modules):
        raise ValueError(f"{where}: expected target_modules as a list, got {modules!r:.80}")
    if unknown := sorted(set(modules) - {*names.MODULES}):
        raise ValueError(
            f"{where}: target_modules {unknown} are not projections of the decoder; "
            f"{sorted(names.MODULES)} are"
        )
    rank, alpha = fields.get("r", int), fields.get("lora_alpha", float)
    if not rank:
        raise ValueError(f"{where}: r=0 makes no adapter; expected a rank of at least 1")
    if fields.get("use_rslora", bool, False):
        alpha *= rank**0.5  # which scales by alpha / sqrt(rank)
    targets = tuple(name for module, name in names.MODULES.items() if module in modules)
    try:
        return LoRAConfig(rank, alpha, targets, fields.get("lora_dropout", float, 0.0))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
