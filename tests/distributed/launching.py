"""Processes of tests.distributed.member, alone or several that train together."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def environment(devices, **more):
    """This process's variables, with so many simulated devices."""
    flags = re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"])
    return {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)} | more


def rendezvous(count):
    """What a launcher would tell each of `count` processes; nothing where there is one."""
    if count == 1:
        return [{}]
    address = f"127.0.0.1:{free_port()}"
    return [
        {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(number),
        }
        for number in range(count)
    ]


def start(module, *arguments, stdout=subprocess.PIPE, **more):
    """A module as a program, in a session of its own; `more` are its variables."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=more,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def member(mode, corpora, workdir, changes=None, faults=None, **more):
    """One process of tests.distributed.member."""
    return start(
        *("tests.distributed.member", mode, corpora, str(workdir)),
        *(json.dumps(changes or {}), json.dumps(faults or {})),
        **more,
    )


@contextlib.contextmanager
def ended(started):
    """Whatever happens, none of them is left running."""
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()
