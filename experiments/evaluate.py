"""Evaluates a finished run, an adapter or a checkpoint on published benchmarks.

python -m experiments.evaluate --workdir=RUN --benchmarks=gsm8k,svamp --config.directory=FILES
python -m experiments.evaluate --model=smollm2-135m --adapter=DIR --output=OUT --benchmarks=gsm8k

The same command again goes on where it was stopped. `--against` compares with another evaluation,
by the questions that both were asked. reasoning_gym asks none that a run was trained on, nor that
the run of `--against` was: evaluate a run first, then the model that it started from.
"""

from pathlib import Path

from absl import flags

from experiments import console

_DEFAULT = Path(__file__).parents[1] / "configs" / "evaluation.py"

_CONFIG = console.define_config_flag(str(_DEFAULT), "What is asked, and how.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder of a finished run.")
_MODEL = flags.DEFINE_string("model", None, "A checkpoint: a preset, a path or owner/name.")
_ADAPTER = flags.DEFINE_string("adapter", None, "A directory in PEFT's format, for --model.")
_BENCHMARKS = flags.DEFINE_list("benchmarks", None, "Names by commas; config.benchmarks if none.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "Where the folder of each benchmark goes; WORKDIR/evaluation if not given."
)
_AGAINST = flags.DEFINE_string(
    "against", None, "Another run, or the --output of another evaluation, to compare with."
)


def main() -> None:
    from partitionsel_jax.training import benchmarking

    config = _CONFIG.value.to_dict()
    if _BENCHMARKS.value is not None:
        config["benchmarks"] = _BENCHMARKS.value
    table = benchmarking.evaluate_all(
        benchmarking.parse(config),
        run=_WORKDIR.value,
        model=_MODEL.value,
        adapter=_ADAPTER.value,
        output=_OUTPUT.value,
        against=_AGAINST.value,
    )
    print(table)


if __name__ == "__main__":
    console.run(main)
