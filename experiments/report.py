"""Writes the report of the runs in a workdir: python -m experiments.report --workdir=DIR"""

from absl import app, flags

from experiments import console

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory that holds one run, or a tree of runs.", required=True
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1:]}")
    from partitionsel_jax import reporting

    with console.one_line_errors(ValueError, OSError):
        console.show_report(reporting.build(_WORKDIR.value))


if __name__ == "__main__":
    console.run(main)
