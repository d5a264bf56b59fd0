"""Runs commands in forks of a process that has imported all they need; see `commands.fast`.

One request a line on standard input as JSON, [module, arguments, output file, error file, seconds];
one line back: the exit code, -14 where the command took longer.
"""

import importlib
import json
import os
import runpy
import signal
import sys
import traceback

IMPORTS = (
    "configs.quickstart",
    "experiments.console",
    "experiments.suites.gradients",
    "partitionsel_jax.planning",
    "partitionsel_jax.reporting",
    "partitionsel_jax.studies",
    "partitionsel_jax.offline",
    "partitionsel_jax.training.benchmarking",
    "partitionsel_jax.training.exporting",
)


def command(module, arguments, output, error, seconds):
    """What `python -m experiments.MODULE ARGUMENTS` does, in this process."""
    signal.alarm(seconds)
    for descriptor, path in ((1, output), (2, error)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(f"experiments.{module}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main():
    for name in IMPORTS:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = command(*json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
