"""Who meets whom, as flags and the launchers' environments say."""

import pytest

from partitionsel_jax.distributed import clusters

JAX = {
    "JAX_COORDINATOR_ADDRESS": "boss:1234",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}
SLURM = {
    "SLURM_JOB_ID": "4099",
    "SLURM_PROCID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[08-09]",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
TPU = {"TPU_WORKER_HOSTNAMES": "t0,t1,t2", "TPU_WORKER_ID": "1"}
SLICES = {
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "t0.pods:8080",
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (JAX, ("boss:1234", 4, 3)),
        (SLURM, ("gpu08:61443", 4, 2)),
        (MPI, ("10.96.0.1:8476", 4, 1)),
        (
            MPI | {"OMPI_MCA_orte_hnp_uri": "1314521088.0;tcp6://[fe80::b9b,2620:10d::2]:43370"},
            ("[fe80::b9b]:8476", 4, 1),
        ),
        (
            MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_MCA_orte_hnp_uri": ""},
            ("127.0.0.1:8476", 4, 1),
        ),
        (TPU, ("t0:8476", 3, 1)),
        (TPU | SLICES, ("t0.pods:8476", 6, 4)),
        # The variables of JAX are the user's; mpirun's are closer to a process than its job's.
        (JAX | SLURM, ("boss:1234", 4, 3)),
        (SLURM | MPI, ("10.96.0.1:8476", 4, 1)),
    ],
)
def test_every_launcher_is_known_by_its_variables(environment, expected):
    found = clusters.find(environment)
    assert (found.coordinator, found.processes, found.process) == expected


def test_flags_win():
    found = clusters.find(JAX | SLURM, coordinator="[::1]:99", processes=2, process=0)
    assert (found.coordinator, found.processes, found.process) == ("[::1]:99", 2, 0)
    assert found.address == ("::1", 99)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"},  # of a batch script
        SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0", "OMPI_MCA_orte_hnp_uri": "x"}
        | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"},
    ],
)
def test_alone_there_is_nobody_to_meet(environment):
    assert clusters.find(environment) is None


@pytest.mark.parametrize("endpoints", ["10.0.0.1,10.0.0.2", "a:0:10.0.0.1,b:1:10.0.0.2"])
def test_a_tpu_vm_is_known_by_its_metadata(endpoints):
    values = {"agent-worker-number": "1", "worker-network-endpoints": endpoints}
    found = clusters.find({}, metadata=lambda name: values.get(name, ""))
    assert (found.coordinator, found.processes, found.process) == ("10.0.0.1:8476", 2, 1)
    assert found.hosts == ("10.0.0.1", "10.0.0.2")
    assert clusters.find({}, metadata=lambda name: "") is None


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
        (SLURM | {"SLURM_STEP_NODELIST": "gpu[1-"}, {}, r"the node list 'gpu\[1-' cannot be read"),
        (MPI | {"OMPI_MCA_orte_hnp_uri": ""}, {}, "give --coordinator=HOST:PORT, --processes=4"),
        (TPU | {"TPU_WORKER_ID": "x"}, {}, "the TPU's variables: expected a number, got 'x'"),
        (TPU | {"MEGASCALE_NUM_SLICES": "2"}, {}, "expected a number, got None"),
    ],
)
def test_what_makes_no_sense_is_refused(environment, flags, message):
    with pytest.raises(ValueError, match=message):
        clusters.find(environment, **flags)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("login", ["login"]),
        ("gpu[01-03,7],login", ["gpu01", "gpu02", "gpu03", "gpu7", "login"]),
        ("rack[1-2]n[08-09]x", ["rack1n08x", "rack1n09x", "rack2n08x", "rack2n09x"]),
        ("a,b-2", ["a", "b-2"]),
    ],
)
def test_node_lists_are_expanded(text, names):
    assert clusters.expand_nodes(text) == names


@pytest.mark.parametrize("text", ["", ",", "a,", "gpu[", "gpu]", "gpu[]", "gpu[a-b]", "gpu[3-1]"])
def test_node_lists_that_cannot_be_read_are_refused(text):
    with pytest.raises(ValueError, match=r"SLURM: .*"):
        clusters.expand_nodes(text)


@pytest.mark.parametrize(
    ("count", "nodes", "hosts"), [(4, "a,b", ("a", "a", "b", "b")), (3, "a,b", ())]
)
def test_hosts_are_named_where_slurm_spreads_processes_evenly(count, nodes, hosts):
    changed = {"SLURM_STEP_NUM_TASKS": str(count), "SLURM_STEP_NODELIST": nodes}
    assert clusters.find(SLURM | changed).hosts == hosts
