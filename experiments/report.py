"""Writes the report of the runs in some workdirs: python -m experiments.report --workdir=DIR,DIR"""

from absl import flags

from experiments import console

_WORKDIRS = flags.DEFINE_list(
    "workdir", None, "Directories that hold one run, or a tree of runs.", required=True
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Where to write it; by default the folder report in the one workdir."
)


def main() -> None:
    from partitionsel_jax import reporting

    console.show_report(reporting.build(_WORKDIRS.value, _OUTPUT.value))


if __name__ == "__main__":
    console.run(main)
