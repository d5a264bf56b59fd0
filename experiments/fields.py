"""Prints every field of a configuration: its value, its meaning, and what it may be.

python -m experiments.fields [--config=configs/quickstart.py] [--find=selection,learning_rate]
"""

from absl import flags

from experiments import console

_CONFIG = console.define_config_flag("configs/quickstart.py")
_FIND = flags.DEFINE_list("find", [""], "Only fields whose names hold one of these words.")


def main() -> None:
    # Imported late, so that a mistyped flag answers at once.
    from partitionsel_jax.config import fields
    from partitionsel_jax.config.settings import PlanSettings, Settings

    config, words = _CONFIG.value.to_dict(), _FIND.value
    lines = dict(fields.described(PlanSettings, config)) | dict(fields.described(Settings, config))
    if unknown := [word for word in words if not any(word in name for name in lines)]:
        raise ValueError(f"--find={unknown[0]}: no field of the config has this in its name")
    for name, text in lines.items():
        if any(word in name for word in words):
            print(text)


if __name__ == "__main__":
    console.run(main)
