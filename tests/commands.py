"""Commands as a user types them, in a process of their own."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(module, *arguments):
    """`python -m experiments.MODULE ARGUMENTS`, on the CPU and from the repository's root."""
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )


class _Server:
    """A process that has imported what commands need, started when first asked."""

    def __init__(self):
        self._process = None

    def run(self, module, *arguments, seconds=60):
        """The same as `run`, in a fork: without the seconds that imports take."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.command_server"],
                cwd=ROOT,
                env=os.environ | {"JAX_PLATFORMS": "cpu"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            atexit.register(self._process.kill)
        with tempfile.TemporaryDirectory() as folder:
            paths = [os.path.join(folder, name) for name in ("output", "error")]
            request = json.dumps([module, list(map(str, arguments)), *paths, seconds])
            print(request, file=self._process.stdin, flush=True)
            code = int(self._process.stdout.readline())
            texts = [Path(path).read_text() for path in paths]
        return subprocess.CompletedProcess([module, *arguments], code, *texts)


fast = _Server().run
