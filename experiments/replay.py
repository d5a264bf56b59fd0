"""Makes an update again that stopped a run because it was not finite; prints its record.

The error of the run names the folder to give as --failure: WORKDIR/failure/NUMBER.
"""

import json

from absl import app, flags

from experiments import console

_FAILURE = flags.DEFINE_string("failure", None, "WORKDIR/failure/NUMBER of a run.")
flags.mark_flag_as_required("failure")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    console.start()
    from partitionsel_jax import training
    from partitionsel_jax.training.records import plain

    with console.one_line_errors(ValueError, OSError):
        record = training.replay(_FAILURE.value)
    for name, value in plain(record).items():
        print(f"{name}: {json.dumps(value)}")


if __name__ == "__main__":
    console.run(main)
