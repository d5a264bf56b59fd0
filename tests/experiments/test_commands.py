"""The commands as a user types them: what is wrong ends them early, with one clear line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(module, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        ("quickstart.py:smoke", ["--config.selection.utilty=random"], "utilty"),
        ("quickstart.py:smoke", ["--config.selection.size=many"], "selection.size"),
        ("quickstart.py:smoke", ["--config.selection.size=99"], "error: selection.size=99 picks"),
        ("quickstart.py:smoke", ["--config.features.last_layers=7"], "must lie in 0 (all) .. 2"),
        ("quickstart.py:smoke", ["--config.features.parameters=lora"], "parameters='full'\n"),
        ("quickstart.py:smoke", ["extra"], "unexpected arguments"),
        ("quickstart.py:smok", [], "unknown config argument 'smok'"),
        ("quickstart.py:seeds=many", [], "expected seeds=<int>"),
        ("no_such_config.py", [], "no_such_config.py"),
    ],
)
def test_what_is_wrong_ends_the_command_with_a_clear_line(tmp_path, config, arguments, message):
    workdir = tmp_path / "run"
    result = run("train", f"--config=configs/{config}", f"--workdir={workdir}", *arguments)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not workdir.exists()
