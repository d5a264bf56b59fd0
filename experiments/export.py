"""Writes what a finished run has learnt for other libraries, and checks that it says the same.

python -m experiments.export --workdir=RUN --adapter=DIR --merged=DIR

`--adapter` writes the adapters in PEFT's format, `--merged` the whole model with them added in, in
the hub's. Both are read back, and their logits compared with those of the run's own parameters.
"""

from absl import flags

from experiments import console

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The folder of a finished run, the one with its config.json.", required=True
)
_ADAPTER = flags.DEFINE_string("adapter", None, "A new directory for the adapters.")
_MERGED = flags.DEFINE_string("merged", None, "A new directory for the merged weights.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the merged weights.")


def main() -> None:
    from partitionsel_jax.training import exporting

    exporting.export(
        _WORKDIR.value, adapter=_ADAPTER.value, merged=_MERGED.value, dtype=_DTYPE.value
    )


if __name__ == "__main__":
    console.run(main)
