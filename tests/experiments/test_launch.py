"""The launch scripts: they parse, their flags exist, and exit code 75 starts a run again."""

import operator
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from jax._src.clusters import cloud_tpu_cluster

from configs import common
from partitionsel_jax.distributed import stopping
from tests.commands import ROOT, run

LAUNCH = ROOT / "experiments" / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
FILES = [*SCRIPTS, LAUNCH / "gke.yaml"]
ARGUMENTS = ("--config=configs/a.py:x='1 2'", "--workdir=gs://b/run", "--config.seed=3")


def program(folder, name, text):
    """An executable that stands for a real one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def counting(codes, log):
    """A program that logs its arguments and ends with the next of these codes each time."""
    return f"""
printf '%s\\n' "$*" >> {log}
set -- {" ".join(map(str, codes))}
shift $(( $(wc -l < {log}) - 1 ))
exit "${{1:-0}}"
"""


def launch(script, folder, *arguments, **environment):
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    command = ["bash", str(LAUNCH / script), *arguments]
    given = os.environ | environment | {"PATH": path}
    return subprocess.run(
        command, cwd=folder, env=given, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash(script):
    found = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert os.access(script, os.X_OK)


def test_every_flag_of_the_scripts_is_one_of_the_command():
    known = set(re.findall(r"--(?:\[no\])?(\w+)", run("train", "--helpfull").stdout))
    assert {"coordinator", "processes", "process"} <= known
    for path in FILES:
        text = path.read_text()
        lines = [line for line in text.splitlines() if not line.lstrip().startswith("#SBATCH")]
        assert "experiments.train" in text
        used = set(re.findall(r"(?<![\w.])--([a-z_]+)(?=[=.])", "\n".join(lines)))
        others = {"zone", "worker", "command", "nodes"}
        assert {"config", "workdir"} <= used
        assert used - others <= known, path.name


def test_fields_that_the_gke_job_changes_are_fields_of_a_config():
    (container,) = gke_job()["template"]["spec"]["containers"]
    changes = [flag for flag in container["command"] if flag.startswith("--config.")]
    assert changes
    for flag in changes:
        field = flag.removeprefix("--config.").partition("=")[0]
        assert operator.attrgetter(field)(common.default()) is not None


def gke_job():
    manifest = yaml.safe_load((LAUNCH / "gke.yaml").read_text())
    (replicated,) = manifest["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def test_gke_starts_all_pods_again_after_exit_code_75():
    manifest, job = yaml.safe_load((LAUNCH / "gke.yaml").read_text()), gke_job()
    codes, disrupted = job["podFailurePolicy"]["rules"]
    assert codes["onExitCodes"]["values"] == [stopping.EXIT_CODE]
    assert disrupted["onPodConditions"] == [{"type": "DisruptionTarget"}]
    (rule,) = manifest["spec"]["failurePolicy"]["rules"]
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    # Kubernetes wants a failure policy's pods never restarted in place.
    assert pod["restartPolicy"] == "Never"
    assert codes["onExitCodes"]["containerName"] == container["name"]
    ports = [str(port["containerPort"]) for port in container["ports"]]
    assert ports == [cloud_tpu_cluster.coordinator_port]  # which JAX finds the first host by
    chips = job["parallelism"] * container["resources"]["limits"]["google.com/tpu"]
    sides = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    assert job["parallelism"] == job["completions"] and chips == int(sides[0]) * int(sides[1])


@pytest.mark.parametrize(("code", "again"), [(0, False), (1, False), (75, True)])
def test_slurm_queues_a_stopped_job_again_and_no_other(tmp_path, code, again):
    program(tmp_path / "bin", "srun", f'echo "$@" > srun.log; exit {code}')
    program(tmp_path / "bin", "scontrol", 'echo "$@" > scontrol.log')
    found = launch("slurm.sh", tmp_path, "--workdir=/a b", SLURM_JOB_ID="17")
    assert found.returncode == code
    assert "-m experiments.train" in Path(tmp_path, "srun.log").read_text()
    assert "--workdir=/a b" in Path(tmp_path, "srun.log").read_text()
    queued = tmp_path / "scontrol.log"
    assert queued.exists() == again
    assert not again or queued.read_text().split() == ["requeue", "17"]


def tpu(tmp_path, codes, **environment):
    """Runs the script with a gcloud that is the one worker."""
    program(tmp_path / "bin", "gcloud", 'for flag; do :; done; bash -c "${flag#--command=}"')
    log = tmp_path / "train.log"
    program(tmp_path / "partitionsel_jax/.venv/bin", "python", counting(codes, log))
    given = {"NAME": "pod", "ZONE": "zone", "PAUSE": "0"} | environment
    found = launch("tpu_vm.sh", tmp_path, *ARGUMENTS, **given)
    return found, log.read_text().splitlines() if log.exists() else []


def test_tpu_workers_go_on_after_a_stop(tmp_path):
    found, runs = tpu(tmp_path, [75, 75, 0], RETRIES="0")
    assert found.returncode == 0, found.stderr
    assert len(runs) == 3 and len(set(runs)) == 1
    assert "-m experiments.train" in runs[0] and " ".join(ARGUMENTS) in runs[0]


def test_a_tpu_slice_that_fails_is_tried_again_so_often(tmp_path):
    found, runs = tpu(tmp_path, [1] * 9, RETRIES="2")
    assert found.returncode == 1 and len(runs) == 3
    found, runs = tpu(tmp_path / "other", [1, 0])
    assert found.returncode == 0 and len(runs) == 2


def test_a_tpu_slice_without_a_name_is_refused(tmp_path):
    found, runs = tpu(tmp_path, [0], NAME="")
    assert found.returncode != 0 and not runs
    assert "NAME: the slice" in found.stderr
