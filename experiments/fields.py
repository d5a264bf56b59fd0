"""Prints every field of a configuration: its value, its meaning, and what it may be.

python -m experiments.fields [--config=configs/quickstart.py] [WORD ...]

With words, only the fields whose names hold one of them, e.g. `selection` or `learning_rate`.
"""

from absl import app

from experiments import console

_CONFIG = console.define_config_flag("configs/quickstart.py")


def main(argv: list[str]) -> None:
    # Imported late, so that a mistyped flag answers at once.
    from partitionsel_jax.config import fields
    from partitionsel_jax.config.settings import PlanSettings, Settings

    config, words = _CONFIG.value.to_dict(), argv[1:] or [""]
    lines = dict(fields.described(PlanSettings, config)) | dict(fields.described(Settings, config))
    if unknown := [word for word in words if not any(word in name for name in lines)]:
        raise app.UsageError(f"no field of the config has {unknown[0]!r} in its name")
    for name, text in lines.items():
        if any(word in name for word in words):
            print(text)


if __name__ == "__main__":
    console.run(main)
