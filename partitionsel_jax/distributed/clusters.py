"""Finds out which processes run a program together: from flags, variables, or the launcher."""

import contextlib
import dataclasses
import os
import subprocess
from collections.abc import Mapping
from typing import Any

# `jax.distributed.initialize()` detects launchers too, but ends a process with a stack trace where
# another is missing. Its detection alone has no public name.
from jax._src.clusters import GceTpuCluster, GkeTpuCluster, OmpiCluster, SlurmCluster

# Port of process 0 where all run on one machine; elsewhere JAX chooses it.
_LOCAL_PORT = 8476
# Seconds for the name of a TPU's first host to be known.
_NAMES_S = 90
_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_BY_HAND = "give --coordinator=HOST:PORT, --processes and --process"


@dataclasses.dataclass(frozen=True)
class Rendezvous:
    """Where this process meets the others.

    Attributes:
      coordinator: "host:port" of process 0.
      processes: how many there are.
      process: which one this is, from 0.
      hosts: name of each process's host, where the launcher tells.
      source: what said so, for messages.

    Raises:
      ValueError: numbers or an address that make no sense.
    """

    coordinator: str
    processes: int
    process: int
    hosts: tuple[str, ...] = ()
    source: str = "the flags"

    def __post_init__(self) -> None:
        """Checks address and numbers."""
        host, _, port = self.coordinator.rpartition(":")
        if not (host and port.isdigit() and 0 < int(port) < 2**16):
            raise ValueError(
                f"{self.source}: expected a coordinator HOST:PORT, got {self.coordinator!r}; name "
                "the host of process 0 and a free port on it"
            )
        if not 0 <= self.process < self.processes:
            raise ValueError(
                f"{self.source}: expected a process in 0 .. {self.processes - 1}, got "
                f"{self.process}; processes count from 0"
            )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the coordinator."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)


def find(
    *, coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> Rendezvous | None:
    """Finds where this process meets the others; None where it is alone.

    The arguments (flags) come first; then the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES
    and JAX_PROCESS_ID; then what JAX detects of Open MPI (mpirun), SLURM (srun) and TPU pods.

    Raises:
      ValueError: some of the three given and others not, or values that make no sense.
    """
    flags = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    if any(value is not None for value in flags.values()):
        return _from_three(flags, "the flags")
    variables = {name: os.environ.get(name) for name in _VARIABLES}
    if any(variables.values()):
        return _from_three(variables, "the environment")
    # Open MPI 5 does not name the launcher's address, which JAX goes by.
    if "OMPI_COMM_WORLD_SIZE" in os.environ and not OmpiCluster.is_env_present():
        return _from_open_mpi_5()
    # What mpirun starts inside of a SLURM job has the variables of both.
    for launcher, source in (
        (OmpiCluster, "Open MPI"),
        (SlurmCluster, "SLURM"),
        (GkeTpuCluster, "the TPU's variables"),
        (GceTpuCluster, "the TPU VM's metadata"),
    ):
        with contextlib.suppress(OSError):  # a machine without metadata
            if launcher.is_env_present():
                return _from_launcher(launcher, source)
    return None


def _from_three(given: Mapping[str, str | int | None], source: str) -> Rendezvous:
    if missing := [name for name, value in given.items() if value in (None, "")]:
        raise ValueError(
            f"{source} name only some of coordinator, number and index of the processes: give "
            f"{' and '.join(missing)} too"
        )
    address, count, index = given.values()
    return Rendezvous(str(address), _number(count, source), _number(index, source), source=source)


def _number(value: Any, source: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{source}: expected a number, got {value!r}") from None


def _from_open_mpi_5() -> Rendezvous | None:
    size = os.environ["OMPI_COMM_WORLD_SIZE"]
    if size == "1":
        return None
    if os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") != size:
        raise ValueError(
            "Open MPI does not tell where process 0 is: give --coordinator=HOST:PORT, "
            f"--processes={size} and --process=$OMPI_COMM_WORLD_RANK"
        )
    rank = _number(os.environ.get("OMPI_COMM_WORLD_RANK", ""), "Open MPI")
    address = f"127.0.0.1:{_LOCAL_PORT}"
    return Rendezvous(address, _number(size, "Open MPI"), rank, source="Open MPI")


def _from_launcher(launcher: Any, source: str) -> Rendezvous | None:
    try:
        count = launcher.get_process_count()
        if count == 1:
            return None
        port = os.environ.get("JAX_COORDINATOR_PORT")
        coordinator = launcher.get_coordinator_address(
            timeout_secs=_NAMES_S, override_coordinator_port=port
        )
        index = launcher.get_process_id()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{source} cannot be read ({error}): {_BY_HAND}") from None
    hosts = _slurm_hosts(count) if launcher is SlurmCluster else ()
    if hosts:  # JAX takes the first node of a list like rack[1-2]n[01-08] to be rack1
        coordinator = f"{hosts[0]}:{coordinator.rpartition(':')[2]}"
    elif source.startswith("the TPU"):
        hosts = tuple(launcher._get_worker_list_in_slice())
    return Rendezvous(coordinator, count, index, hosts if len(hosts) == count else (), source)


def _slurm_hosts(count: int) -> tuple[str, ...]:
    """Names each process's node, where SLURM spreads them evenly, as srun does by default."""
    command = ["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]]
    try:
        nodes = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return ()
    each, rest = divmod(count, max(len(nodes), 1))
    return () if rest else tuple(node for node in nodes for _ in range(each))
