"""Which processes run a program together, as flags or the launcher's environment say."""

import dataclasses
import glob
import re
import urllib.request
from collections.abc import Callable, Mapping

# Where the processes meet unless told otherwise. Jobs of one SLURM cluster get ports of their own,
# above those that Linux hands out.
PORT = 8476
_FIRST_SLURM_PORT, _SLURM_PORTS = 61_440, 4096
# Of a TPU VM, which its shells have no variables of.
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"


@dataclasses.dataclass(frozen=True)
class Rendezvous:
    """Where this process meets the others.

    Attributes:
      coordinator: "host:port" of process 0.
      processes: how many there are.
      process: which this one is, from 0.
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
    environment: Mapping[str, str],
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    metadata: Callable[[str], str] | None = None,
) -> Rendezvous | None:
    """Where this process meets others; None where it is alone.

    Flags come first; then the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID; then what Open MPI (mpirun), SLURM (srun) and TPU pods (GKE) set, and what a TPU
    VM's metadata say.

    Args:
      environment: the variables.
      coordinator, processes, process: the flags.
      metadata: an attribute's name -> its value, "" where there is none; None for those of the TPU
        VM, if this is one.

    Raises:
      ValueError: some of the three given and others not, or values that make no sense.
    """
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    if any(value is not None for value in given.values()):
        return _from_three(given, "the flags", "--")
    three = {
        "JAX_COORDINATOR_ADDRESS": environment.get("JAX_COORDINATOR_ADDRESS"),
        "JAX_NUM_PROCESSES": environment.get("JAX_NUM_PROCESSES"),
        "JAX_PROCESS_ID": environment.get("JAX_PROCESS_ID"),
    }
    if any(three.values()):
        return _from_three(three, "the environment", "")
    # What mpirun starts inside of a SLURM job has the variables of both.
    for launcher in (_open_mpi, _slurm, _tpu):
        found = launcher(environment)
        if found is not None:
            return found if found.processes > 1 else None
    if metadata is None and _has_tpu():
        metadata = _attribute
    found = None if metadata is None else _tpu_vm(metadata)
    return found if found is not None and found.processes > 1 else None


def _from_three(given: Mapping[str, str | int | None], source: str, prefix: str) -> Rendezvous:
    missing = [f"{prefix}{name}" for name, value in given.items() if value in (None, "")]
    if missing:
        raise ValueError(
            f"{source} name only some of coordinator, number and index of the processes: give "
            f"{' and '.join(missing)} too"
        )
    address, count, index = given.values()
    return Rendezvous(str(address), _number(count, source), _number(index, source), source=source)


def _slurm(environment: Mapping[str, str]) -> Rendezvous | None:
    """A step that srun started; without one, a batch script is a process of its own."""
    if not {"SLURM_JOB_ID", "SLURM_PROCID", "SLURM_STEP_NODELIST"} <= environment.keys():
        return None
    count = _number(environment.get("SLURM_STEP_NUM_TASKS", "1"), "SLURM")
    nodes = expand_nodes(environment["SLURM_STEP_NODELIST"])
    port = _FIRST_SLURM_PORT + _number(environment["SLURM_JOB_ID"], "SLURM") % _SLURM_PORTS
    # Equally many processes on each node, one node behind the other, is srun's own default.
    each = count // len(nodes)
    even = each * len(nodes) == count
    return Rendezvous(
        f"{nodes[0]}:{port}",
        count,
        _number(environment["SLURM_PROCID"], "SLURM"),
        tuple(node for node in nodes for _ in range(each)) if even else (),
        "SLURM",
    )


def expand_nodes(text: str) -> list[str]:
    """The names in a SLURM node list: "gpu[01-03,7],login" -> gpu01, gpu02, gpu03, gpu7, login.

    Raises:
      ValueError: a list that cannot be read.
    """
    names: list[str] = []
    if not re.fullmatch(r"([^,\[\]]|\[[^\[\]]+\])+(,([^,\[\]]|\[[^\[\]]+\])+)*", text):
        raise ValueError(f"SLURM: the node list {text!r} cannot be read; name --coordinator")
    for part in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", text):
        made = [""]
        for fixed, ranges in re.findall(r"([^\[\]]+)|\[([^\]]*)\]", part):
            pieces = [fixed] if fixed else _numbers(ranges)
            made = [before + piece for before in made for piece in pieces]
        names += made
    return names


def _numbers(ranges: str) -> list[str]:
    """The numbers of "01-03,7", as wide as they are written."""
    found: list[str] = []
    for piece in ranges.split(","):
        first, dash, last = piece.partition("-")
        if not dash:
            found.append(first)
            continue
        numbers = range(_number(first, "SLURM"), _number(last, "SLURM") + 1)
        if not numbers:
            raise ValueError(f"SLURM: {piece!r} of a node list has no numbers; name --coordinator")
        found += [str(number).zfill(len(first)) for number in numbers]
    return found


def _open_mpi(environment: Mapping[str, str]) -> Rendezvous | None:
    """A process that mpirun started; Open MPI 4 names the launcher's address, 5 does not."""
    if not {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"} <= environment.keys():
        return None
    source = "Open MPI"
    uri = environment.get("OMPI_MCA_orte_hnp_uri", "")
    found = re.search(r"tcp://([^:,]+)[:,]|tcp6://\[([^,\]]+)[,\]]", uri)
    count = _number(environment["OMPI_COMM_WORLD_SIZE"], source)
    local = environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == str(count)
    if found is None and not local:
        raise ValueError(
            "Open MPI does not tell where process 0 is: give --coordinator=HOST:PORT, "
            f"--processes={count} and --process=$OMPI_COMM_WORLD_RANK"
        )
    host = "127.0.0.1"
    if found is not None and not local:
        host = found.group(1) or f"[{found.group(2)}]"
    index = _number(environment["OMPI_COMM_WORLD_RANK"], source)
    return Rendezvous(f"{host}:{PORT}", count, index, source=source)


def _tpu(environment: Mapping[str, str]) -> Rendezvous | None:
    """A host of TPU slices, with the variables that GKE sets."""
    hosts = tuple(filter(None, environment.get("TPU_WORKER_HOSTNAMES", "").split(",")))
    if not hosts or "TPU_WORKER_ID" not in environment:
        return None
    source = "the TPU's variables"
    index = _number(environment["TPU_WORKER_ID"], source)
    slices = _number(environment.get("MEGASCALE_NUM_SLICES") or 1, source)
    if slices == 1:
        return Rendezvous(f"{hosts[0]}:{PORT}", len(hosts), index, hosts, source)
    first = environment.get("MEGASCALE_COORDINATOR_ADDRESS", "").split(":")[0]
    index += len(hosts) * _number(environment.get("MEGASCALE_SLICE_ID"), source)
    return Rendezvous(f"{first}:{PORT}", len(hosts) * slices, index, source=source)


def _has_tpu() -> bool:
    """Whether this machine has a TPU's devices."""
    return bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))


def _attribute(name: str) -> str:
    """An attribute of this Google Cloud machine; "" where there is none, or no such machine."""
    request = urllib.request.Request(_METADATA + name, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def _tpu_vm(metadata: Callable[[str], str]) -> Rendezvous | None:
    """A host of a TPU VM slice, whose endpoints are hosts or name:number:host."""
    index, endpoints = metadata("agent-worker-number"), metadata("worker-network-endpoints")
    if not (index and endpoints):
        return None
    source = "the TPU VM's metadata"
    hosts = tuple(endpoint.split(":")[-1] for endpoint in endpoints.split(","))
    return Rendezvous(
        f"{hosts[0]}:{PORT}", len(hosts), _number(index, source), hosts, source=source
    )


def _number(value: str | int | None, source: str) -> int:
    try:
        return int("" if value is None else value)
    except ValueError:
        raise ValueError(f"{source}: expected a number, got {value!r}") from None
