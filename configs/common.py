"""The fields of every configuration, and how a config reads its own arguments."""

import ast
from typing import Any

from ml_collections import ConfigDict

# What arguments were once called, and are called now.
_RENAMED = {"spoilt": "noise"}


def default() -> ConfigDict:
    """All fields with defaults; what they mean is documented in `config/sections.py`.

    A config file starts from this, changes what it is about, and documents the result.
    """
    config = ConfigDict()
    config.seed = 0
    config.checkpoint = ""  # pretrained model to start from: path, preset or owner/name
    config.repeats = 1  # runs with seeds seed, seed + 1, ...
    config.methods = ConfigDict()  # label -> changed fields; several runs side by side
    config.axes = ConfigDict()  # field -> its values; a run for every combination
    # Fields whose value every method chooses by validation loss, over seeds of their own.
    config.tune = ConfigDict({"seeds": (), "grid": ConfigDict()})

    config.data = data = ConfigDict()
    data.source = "reasoning_gym"  # or metamathqa, mol_instructions, instructions
    data.tasks = ConfigDict()  # reasoning-gym task -> its arguments
    data.path = ""  # of the other sources: file, directory or owner/name; "": as published
    data.columns = ConfigDict(
        {"prompt": "prompt", "input": "", "response": "response", "domain": "domain"}
    )
    data.columns.messages = ""
    data.domains = ()  # of files, in order; (): all that are found
    data.train, data.validation, data.test = 2000, 64, 32  # rows per domain; train 0: the rest
    data.anchors_path = ""  # the user's own anchors; "": half of the validation rows
    data.length = 96  # tokens per row
    data.template = "plain"  # how a question is put to the model
    data.buckets = ()  # narrower rows that short ones are computed at
    data.mix, data.weights = "natural", ()  # shares of the domains in a pool
    data.workers = 0  # processes that read ahead; 0: threads
    data.scorer = ""  # what judges answers; "": the source's own
    data.noise = ConfigDict({"kind": "none", "share": 0.0})
    data.seed = 0
    data.directory = ""  # prepared corpora; empty for the user's cache folder

    config.model = model = ConfigDict()
    model.vocab_size = 264  # 259 of the byte-level tokenizer, rounded up
    model.layers, model.width, model.mlp_width = 4, 96, 256
    model.heads, model.kv_heads, model.head_dim = 4, 2, 24
    model.rope_theta, model.norm_eps = 10_000.0, 1e-5
    model.rope_scaling = ConfigDict(
        {"kind": "none", "factor": 1.0, "low": 1.0, "high": 4.0, "original": 8192}
    )
    model.tied, model.biases, model.context = True, (), 0
    model.dtype = model.param_dtype = "float32"
    model.remat, model.attention = "none", "xla"
    model.chunk_vocab, model.chunk_tokens = 8192, 0  # block of logits held; 0: by the batch
    config.lora = lora = ConfigDict({"rank": 0, "alpha": 16.0, "dropout": 0.0})
    lora.targets = ("q", "k", "v", "o")

    config.features = features = ConfigDict()
    features.parameters, features.last_layers = "full", 2
    features.path = "factored"
    features.family, features.dim = "two_sided", 1024
    features.normalize, features.preconditioner = True, "none"
    features.microbatch = 16
    features.tokens = 0  # 0: whole rows
    features.anchors_every = 1
    features.seed, features.sketch_every = 0, 0  # 0: one sketch for all steps
    features.fidelity_every, features.fidelity_rows = 0, 32  # 0: never compared

    config.selection = selection = ConfigDict()
    selection.pool, selection.size, selection.anchors = 64, 8, 32
    selection.utility, selection.coupling, selection.rule = "gradient_matching", "joint", "greedy"
    selection.solver = "exact"
    selection.reference = ""  # folder of a finished run, for reducible_loss
    selection.recorded = ""  # folder of a run whose recorded picks are trained on
    selection.budgets, selection.shares, selection.temperature = "proportional", (), 1.0
    selection.curriculum = ConfigDict({"decay": 0.9, "blend": 0.5, "floor": 0.05, "sharpness": 1.0})
    selection.anchor_balance, selection.anchor_mean = True, "plain"
    selection.ridge, selection.swaps, selection.step_scale = 0.0, 0, 1.0
    selection.weights, selection.weight_cap = "uniform", 3.0
    selection.updates_per_pool = 1

    config.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate, optimizer.schedule, optimizer.warmup = 2e-3, "linear", 0.03
    optimizer.weight_decay, optimizer.clip = 0.0, 1.0
    optimizer.b1, optimizer.b2 = 0.9, 0.999

    config.training = training = ConfigDict()
    training.updates, training.evaluate_every, training.checkpoint_every = 240, 20, 40
    training.microbatch = 0  # picks in one backward pass of the update; 0: all of a device's
    training.keep_checkpoints = 2
    training.keep_best = 0  # of the lowest validation loss, kept beside the newest
    training.devices = 0  # 0: all of them
    training.spmd = "pmap"  # how the step is mapped over devices, or "shard_map"
    training.split_weights = False  # every device keeps a part of each matrix (shard_map alone)
    config.evaluation = ConfigDict({"batch": 64, "test": True})
    config.evaluation.answers_every = 0  # updates between answering validation questions; 0: never
    return config


def tune_learning_rate(
    config: ConfigDict,
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3),
    seeds: tuple[int, ...] = (0, 1),
) -> None:
    """Lets every point choose its learning rate from one grid, by seeds of their own."""
    config.tune.grid = {"optimizer": {"learning_rate": rates}}
    config.tune.seeds = seeds


def arguments(text: str | None, **defaults: Any) -> ConfigDict:
    """Reads the part after the colon of --config=file.py:key=value,flag.

    Args:
      text: e.g. "seeds=3,smoke"; None or empty for none.
      **defaults: the arguments there are. A value is read with its default's type, and a boolean
        may stand alone.

    Returns:
      The arguments by name.

    Raises:
      ValueError: an argument that is not there, or a value of another type.
    """
    parsed = ConfigDict(defaults)
    for part in filter(None, (text or "").split(",")):
        name, given, value = part.partition("=")
        if name in _RENAMED:
            raise ValueError(f"config argument {name!r} is now called {_RENAMED[name]!r}")
        if name not in defaults:
            raise ValueError(
                f"unknown config argument {name!r}; this config takes {sorted(defaults)}"
            )
        kind = type(defaults[name])
        if not given and kind is not bool:
            raise ValueError(f"config argument {name!r} needs a value: {name}=...")
        try:
            parsed[name] = value if kind is str else ast.literal_eval(value or "True")
        except (ValueError, SyntaxError, TypeError):
            raise ValueError(
                f"config argument {part!r}: expected {name}=<{kind.__name__}>"
            ) from None
        if type(parsed[name]) is not kind:
            raise ValueError(f"config argument {part!r}: expected {name}=<{kind.__name__}>")
    return parsed
