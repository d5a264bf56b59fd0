"""The common part of configs that start from a pretrained model."""

from pathlib import Path

from ml_collections import ConfigDict

from configs import common

SAMPLES = Path(__file__).parent / "samples"
# Widths for rows of 512 tokens: what they save is in docs/results/buckets.md.
BUCKETS = (128, 192, 256, 320, 384, 448)

# The fields of config.model that are the user's; the checkpoint decides all others.
_NUMERICS = (
    "dtype",
    "param_dtype",
    "remat",
    "attention",
    "chunk_vocab",
    "chunk_tokens",
)


def start_from(config: ConfigDict, checkpoint: str) -> None:
    """Makes a run start from a checkpoint: a directory, a GGUF file, a preset or owner/name."""
    config.checkpoint = checkpoint
    config.model = ConfigDict({name: config.model[name] for name in _NUMERICS})


def published_settings(config: ConfigDict) -> None:
    """The settings of the paper's code (arXiv 2606.07954), the data and the model apart.

    LoRA of rank 16 and alpha 96, 32 of 256 candidates by the LoRA gradients of the last 3 layers,
    scaled to unit norm, rows of 512 tokens, AdamW for 1,024 updates up to a learning rate of 2e-4.
    It takes 4 anchors a step; balanced ones have to be as many of every domain.
    """
    config.data.length = 512
    config.lora.update({"rank": 16, "alpha": 96.0})
    config.lora.targets = ("q", "k", "v", "gate", "up", "down")
    config.model.update({"dtype": "bfloat16", "param_dtype": "bfloat16", "remat": "layer"})
    config.features.update({"parameters": "lora", "last_layers": 3, "normalize": True})
    config.selection.update({"pool": 256, "size": 32, "anchors": 4})
    config.optimizer.update({"learning_rate": 2e-4, "schedule": "linear", "warmup": 0.03})
    config.optimizer.update({"clip": 1.0, "weight_decay": 0.0})
    config.training.update({"updates": 1024, "evaluate_every": 64, "checkpoint_every": 64})
    config.training.microbatch = 8


def select_by(config: ConfigDict, proxy: str, trains: bool = False) -> None:
    """Lets a smaller model of the same family select, from pools and anchors that updates share.

    Eight updates share a pool of 512 candidates, of which each trains on 32 (half of them in all),
    and 64 anchors.
    """
    config.selection.update({"proxy": proxy, "proxy_trains": trains})
    config.selection.update({"pool": 512, "updates_per_pool": 8, "anchors": 64})
    config.features.anchors_every = 8


def smoke(config: ConfigDict, checkpoint: str) -> None:
    """The same run made small: on a tiny random model, a minute on a CPU."""
    start_from(config, checkpoint)
    config.model.update({"dtype": "float32", "param_dtype": "float32"})
    config.data.update({"train": 40, "validation": 8, "test": 1})
    config.lora.update({"rank": 4, "alpha": 8.0})
    config.features.update({"last_layers": 1, "dim": 64, "microbatch": 8})
    config.selection.update({"pool": 16, "size": 8})
    config.training.update({"updates": 8, "evaluate_every": 4, "checkpoint_every": 4})
    config.training.microbatch = 0
    config.evaluation.batch = 16


def published_corpus(
    text: str | None, source: str, model: str, tiny: str, sample: str, proxy: str = ""
) -> ConfigDict:
    """The published settings on one of the paper's corpora.

    Args:
      text: the config's own arguments: smoke, compare, seeds, model, path; proxy and trains where
        another model selects.
      source: see `DataSettings`.
      model, tiny: the checkpoint, and that of the smoke variant.
      sample: what of configs/samples/ the smoke variant reads.
      proxy: a checkpoint that selects; "" for the model itself.
    """
    more = {"proxy": proxy, "trains": False} if proxy else {}
    arguments = common.arguments(
        text, smoke=False, compare=False, seeds=1, model="", path="", **more
    )
    config = common.default()
    config.repeats = arguments.seeds
    if arguments.compare:
        config.methods.partitionsel = {}
        alone = {"proxy": "", "proxy_trains": False, "updates_per_pool": 1}
        random = {"utility": "random", "rule": "greedy", "swaps": 0} | (alone if proxy else {})
        config.methods.random = {"selection": random}
    start_from(config, arguments.model or model)
    published_settings(config)
    if proxy:
        select_by(config, arguments.proxy, arguments.trains)
    config.data.update({"source": source, "path": arguments.path, "template": "alpaca"})
    config.data.update({"train": 0, "validation": 64, "test": 16, "buckets": BUCKETS})
    config.selection.anchor_balance = False
    if arguments.smoke:
        smoke(config, arguments.model or tiny)
        config.data.path = arguments.path or str(SAMPLES / sample)
        config.data.update({"train": 0, "validation": 3, "test": 1})
        if proxy:
            chosen = arguments.proxy if arguments.proxy != proxy else f"tinier{tiny[4:]}"
            config.selection.update({"proxy": chosen, "size": 4, "updates_per_pool": 4})
            config.selection.anchors = 4
            config.features.anchors_every = 4
        # The tiny model's tokens are bytes.
        config.data.update({"length": 512, "buckets": (384,)})
    return config
