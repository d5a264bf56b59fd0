"""Trains every run of a configuration, and writes the report that compares them.

A workdir that holds earlier work of the same configuration is continued. Several processes train
together where SLURM, Open MPI or a TPU pod has started them, or where flags say so.

SIGTERM and SIGINT save: the running update is finished, its state saved, and the command ends with
exit code 75; the same command goes on from there. A second signal ends it at once, but for the same
one again within a second and a half, as `timeout` sends it. Any other code but 0 is an error.
"""

from absl import flags

from experiments import console

_CONFIG = console.define_config_flag()
_WORKDIR = flags.DEFINE_string("workdir", None, "Where to write; a run found there is continued.")
flags.mark_flags_as_required(["config", "workdir"])
console.define_process_flags()


def main() -> None:
    from partitionsel_jax import distributed, paths, reporting, training

    console.join_processes()
    workdir = paths.absolute(_WORKDIR.value)
    with distributed.processes.ending_together(), distributed.stopping.listening() as stop:
        training.train_all(_CONFIG.value.to_dict(), workdir, stop)
    if distributed.processes.is_first():
        console.show_report(reporting.build(workdir))


if __name__ == "__main__":
    console.run(main)
