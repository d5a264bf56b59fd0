"""Who meets whom, as flags and the launchers' environments say."""

import socket

import pytest
from jax._src.clusters import cloud_tpu_cluster

from partitionsel_jax.distributed import clusters

JAX = {
    "JAX_COORDINATOR_ADDRESS": "boss:1234",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}
SLURM = {
    "SLURM_JOB_ID": "4099",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[08-09]",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
MPI_5 = {name: value for name, value in MPI.items() if "uri" not in name}
TPU = {"TPU_WORKER_HOSTNAMES": "t0,t1,t2", "TPU_WORKER_ID": "1", "TPU_SKIP_MDS_QUERY": "1"}
SLICES = {
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "t0.pods:8080",
}
ONE_SLICE = {"MEGASCALE_NUM_SLICES": "", "MEGASCALE_SLICE_ID": ""} | {
    "MEGASCALE_COORDINATOR_ADDRESS": ""
}


@pytest.fixture
def found(monkeypatch, tmp_path):
    """What `clusters.find` says in an environment, with a SLURM that lists its nodes."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$3" = "gpu[08-09]" ] && echo gpu08 && echo gpu09\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)  # which JAX may have set
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "10.0.0.1")

    def find(environment, **flags):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        if "TPU_WORKER_HOSTNAMES" in environment:
            monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
        return clusters.find(**flags)

    return find


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (JAX, ("boss:1234", 4, 3)),
        (SLURM, ("gpu08:61443", 4, 2)),
        (SLURM | {"JAX_COORDINATOR_PORT": "99"}, ("gpu08:99", 4, 2)),
        (SLURM | {"SLURM_STEP_NODELIST": "other[1-2]"}, ("other1:61443", 4, 2)),
        (MPI, ("10.96.0.1:62624", 4, 1)),
        (MPI_5 | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, ("127.0.0.1:8476", 4, 1)),
        (TPU | ONE_SLICE, ("t0:8482", 3, 1)),
        (TPU | SLICES, ("t0.pods:8482", 6, 4)),
        # The variables of JAX are the user's; mpirun's are closer to a process than its job's.
        (JAX | SLURM, ("boss:1234", 4, 3)),
        (SLURM | MPI, ("10.96.0.1:62624", 4, 1)),
    ],
)
def test_every_launcher_is_known_by_its_variables(found, environment, expected):
    rendezvous = found(environment)
    assert (rendezvous.coordinator, rendezvous.processes, rendezvous.process) == expected


def test_flags_win(found):
    rendezvous = found(JAX | SLURM, coordinator="[::1]:99", processes=2, process=0)
    assert (rendezvous.coordinator, rendezvous.processes, rendezvous.process) == ("[::1]:99", 2, 0)
    assert rendezvous.address == ("::1", 99)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"},  # of a batch script
        SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
        {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"} | ONE_SLICE,
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0", "OMPI_MCA_orte_hnp_uri": "x"},
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
    ],
)
def test_alone_there_is_nobody_to_meet(found, environment):
    assert found(environment) is None


@pytest.mark.parametrize("endpoints", ["10.0.0.1,10.0.0.2", "a:0:10.0.0.1,b:1:10.0.0.2"])
def test_a_tpu_vm_is_known_by_its_metadata(monkeypatch, found, endpoints):
    values = {"agent-worker-number": "1", "worker-network-endpoints": endpoints, "tpu-env": ""}
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda name: (values[name], 200))
    rendezvous = found({})
    assert rendezvous.coordinator == "10.0.0.1:8482"
    assert (rendezvous.processes, rendezvous.process) == (2, 1)
    assert rendezvous.hosts == ("10.0.0.1", "10.0.0.2")


def test_a_tpu_without_metadata_is_alone(monkeypatch, found):
    def nobody_answers(name):
        raise ConnectionError(name)

    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", nobody_answers)
    assert found({}) is None


@pytest.mark.parametrize(
    ("environment", "flags", "message"),
    [
        ({}, {"coordinator": "a:1"}, "the flags name only some .* give --processes and --process"),
        ({"JAX_PROCESS_ID": "1"}, {}, "give JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES too"),
        ({}, {"coordinator": "a", "processes": 2, "process": 0}, "HOST:PORT, got 'a'"),
        ({}, {"coordinator": "a:0", "processes": 2, "process": 0}, "HOST:PORT"),
        ({}, {"coordinator": "a:1", "processes": 2, "process": 2}, "a process in 0 .. 1, got 2"),
        (JAX | {"JAX_NUM_PROCESSES": "four"}, {}, "expected a number, got 'four'"),
        (SLURM | {"SLURM_PROCID": "4"}, {}, "SLURM: expected a process in 0 .. 3, got 4"),
        (MPI_5, {}, "give --coordinator=HOST:PORT, --processes=4"),
        (
            MPI | {"OMPI_MCA_orte_hnp_uri": "x"},
            {},
            "Open MPI cannot be read .*: give --coordinator",
        ),
        (TPU | ONE_SLICE | {"TPU_WORKER_ID": "x"}, {}, "the TPU's variables cannot be read .*'x'"),
    ],
)
def test_what_makes_no_sense_is_refused(found, environment, flags, message):
    with pytest.raises(ValueError, match=message):
        found(environment, **flags)


@pytest.mark.parametrize(("count", "hosts"), [(4, ("gpu08", "gpu08", "gpu09", "gpu09")), (3, ())])
def test_hosts_are_named_where_slurm_spreads_processes_evenly(found, count, hosts):
    assert found(SLURM | {"SLURM_NTASKS": str(count)}).hosts == hosts
