"""The scales that a claim is put to the test at, and the arguments that all these configs take.

| scale       | model                        | data                  | hardware               |
|-------------|------------------------------|-----------------------|------------------------|
| `bytes`     | byte-level Llama, 0.2M       | reasoning-gym, 8 tasks| one CPU core           |
| `smollm2`   | SmolLM2-135M-Instruct        | reasoning-gym, 8 tasks| one GPU                |
| `metamath`  | Qwen2.5-3B                   | MetaMathQA            | the paper's            |
| `molecules` | Llama-3.2-3B                 | Mol-Instructions      | the paper's            |

`bytes` is the problem of `configs/self_selection.py` with a model of two thirds its width, 96
updates and half its anchors, since a claim takes a hundred runs or more: a run of PartitionSel
lasts twenty seconds.

Seeds that are reported begin at 10, and that which chooses learning rates is 0: that config's
settings were chosen by seeds 0 to 3.
"""

from ml_collections import ConfigDict

from configs import common, llama32_3b_mol, qwen25_3b_metamath, self_selection, smollm2_reasoning

FIRST_SEED = 10
TRIAL_SEEDS = (0,)
# Around what does best at each scale.
_LEARNING_RATES = {
    "bytes": (4e-3, 8e-3, 16e-3),
    "smollm2": (1e-4, 2e-4, 4e-4),
    "metamath": (1e-4, 2e-4, 4e-4),
    "molecules": (1e-4, 2e-4, 4e-4),
}
# Of that config's own model, which is larger.
_WHOLE_RATES = (2e-3, 4e-3, 8e-3)
_CONFIGS = {
    "bytes": self_selection,
    "smollm2": smollm2_reasoning,
    "metamath": qwen25_3b_metamath,
    "molecules": llama32_3b_mol,
}
# Of a scale's own config: what it is always given, and which of our arguments it takes.
_ALWAYS = {"bytes": ["noise=none"]}
_TAKEN: dict[str, tuple[str, ...]] = {
    "bytes": (),
    "smollm2": ("model",),
    "metamath": ("path", "model"),
    "molecules": ("path", "model"),
}


def start(text: str | None, whole: bool = False) -> tuple[ConfigDict, ConfigDict]:
    """The config of a scale, without methods and axes, and the arguments that were given.

    Args:
      text: the config's arguments: `scale`; `seeds`, how many are reported; `tune`, whether every
        method chooses its learning rate first; `path` and `model` as the scale's own config has
        them; `smoke`.
      whole: whether scale `bytes` keeps that config's model, updates and anchors.

    Raises:
      ValueError: an unknown argument or scale.
    """
    arguments = common.arguments(
        text, smoke=False, scale="bytes", seeds=5, tune=True, path="", model=""
    )
    scale = arguments.scale
    if scale not in _LEARNING_RATES:
        raise ValueError(f"expected scale to be one of {tuple(_LEARNING_RATES)}, got {scale!r}")
    given = {"path": arguments.path, "model": arguments.model}
    taken = _TAKEN[scale]
    if useless := [name for name, value in given.items() if value and name not in taken]:
        raise ValueError(f"scale={scale} takes no {useless[0]}: leave it out")
    asked = [*_ALWAYS.get(scale, ()), *(f"{name}={given[name]}" for name in taken if given[name])]
    config = _CONFIGS[scale].get_config(",".join(asked + ["smoke"] * arguments.smoke))
    if scale == "bytes" and not (whole or arguments.smoke):
        config.model.update({"width": 64, "mlp_width": 176, "head_dim": 16})
        config.selection.anchors = 16
        config.training.update({"updates": 96, "evaluate_every": 12, "checkpoint_every": 96})
    config.methods = ConfigDict()
    config.seed, config.repeats = FIRST_SEED, arguments.seeds
    if arguments.tune and not arguments.smoke:
        rates = _WHOLE_RATES if whole and scale == "bytes" else _LEARNING_RATES[scale]
        common.tune_learning_rate(config, rates, TRIAL_SEEDS)
    if arguments.smoke:
        config.repeats = 1
        config.training.update({"updates": 4, "evaluate_every": 4, "checkpoint_every": 4})
    return config, arguments


def sizes(config: ConfigDict, *fractions: float) -> tuple[int, ...]:
    """Picks that are these fractions of the pool."""
    return tuple(round(fraction * config.selection.pool) for fraction in fractions)
