"""Trains every run of an ablation, one after the other, and writes the report that compares them.

python -m experiments.ablate --config=configs/ablations/utilities.py --workdir=DIR

What is finished is skipped and what was stopped continues, so that the same command goes on after
any interruption. A run that fails does not end the others; the command then ends with code 1 and a
line for each failure. Signals are handled as by experiments.train. With --shard=I/N only the Ith of
N parts of the runs is trained, and no report is written: experiments.report does it at the end.
"""

import sys

from absl import flags

from experiments import console

_CONFIG = console.define_config_flag()
_WORKDIR = flags.DEFINE_string("workdir", None, "Where to write; runs found there are continued.")
_SHARD = flags.DEFINE_string("shard", None, "I/N: the Ith of N parts of the runs, I from 1.")
_LIST = flags.DEFINE_bool("list", False, "Print the runs' folders, and train none.")
flags.mark_flags_as_required(["config", "workdir"])
console.define_process_flags()


def main() -> None:
    from partitionsel_jax import distributed, paths, reporting, sweeps

    shard = sweeps.Shard.parse(_SHARD.value) if _SHARD.value else sweeps.Shard()
    config, workdir = _CONFIG.value.to_dict(), paths.absolute(_WORKDIR.value)
    if _LIST.value:
        for run in sweeps.planned(config, shard):
            print(run.folder or run.method)
        return
    console.join_processes()
    with distributed.processes.ending_together(), distributed.stopping.listening() as stop:
        outcome = sweeps.ablate(config, workdir, stop, shard)
    if distributed.processes.is_first() and outcome.finished and not _SHARD.value:
        console.show_report(reporting.build(workdir))
    for failure in outcome.failures:
        print(f"error: {failure}", file=sys.stderr)
    sys.exit(1 if outcome.failures else 0)


if __name__ == "__main__":
    console.run(main)
