"""Writes the report of the runs in a workdir: python -m experiments.report --workdir=DIR"""

import sys

from absl import app, flags

from partitionsel_jax import reporting

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory that holds one run, or a tree of runs.", required=True
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1:]}")
    try:
        report = reporting.build(_WORKDIR.value)
    except ValueError as error:
        sys.exit(f"experiments.report: {error}")
    print(report.table)
    for caveat in report.caveats:
        print(f"note: {caveat}")
    print(f"report: {report.page}")


if __name__ == "__main__":
    app.run(main)
