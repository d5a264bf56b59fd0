"""Measures the parts of a training step: python -m experiments.benchmark --suite=selection

Prints tables, and writes them as SUITE.md and SUITE.json into --output if one is given; the
gradients suite also a chart, SUITE.png.
"""

import jax
from absl import flags

from experiments import console

_SUITE = flags.DEFINE_string(
    "suite",
    None,
    "What to measure: selection, offline, gradients, step, loading, data, buckets or scaling.",
    required=True,
)
_SIZES = flags.DEFINE_list(
    "sizes",
    None,
    "Only these: of selection, problems as pool x picks x domains, e.g. 256x32x8,1024x128x8; of "
    "gradients, parts out of cost, fidelity.",
)
_REPEATS = flags.DEFINE_integer(
    "repeats", 30, "Timed runs of each method; slow ones get fewer.", lower_bound=1
)
_LARGE = flags.DEFINE_bool("large", False, "Also measure what takes minutes.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write the table and the numbers to.")


def main() -> None:
    # Compile times are part of what is measured.
    jax.config.update("jax_enable_compilation_cache", False)
    from experiments import suites

    options = suites.Options(_SIZES.value, _REPEATS.value, _LARGE.value)
    suites.run(_SUITE.value, options, _OUTPUT.value)


if __name__ == "__main__":
    console.run(main)
