"""Bad input of any kind is one line on standard error and exit code 1, whatever the command."""

import json
import os

import pytest

from configs import self_selection
from partitionsel_jax.training import plan, workdir
from tests.commands import fast

COMMANDS = (
    *("ablate", "benchmark", "data", "evaluate", "export", "fetch"),
    *("pods", "replay", "report", "results", "select", "subset", "train"),
)
SMOKE = "--config=configs/self_selection.py:smoke"


def refused(module, *arguments):
    """The one line that a command ends with."""
    result = fast(module, *arguments)
    lines = result.stderr.splitlines()
    assert (result.returncode, len(lines)) == (1, 1), result.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


@pytest.mark.parametrize("module", COMMANDS)
def test_help_is_shown_and_ends_with_0(module):
    for flag in ("--help", "-h", "--helpfull"):
        result = fast(module, flag)
        assert (result.returncode, result.stderr) == (0, "")
        assert "flags:" in result.stdout


# Config files


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"def get_config(:\n    pass", "c.py, line 1: invalid syntax"),
        (b"x = 1", "c.py: it defines no get_config()"),
        (b"get_config = 5", "c.py: it defines no get_config()"),
        (b"def get_config(a, b):\n    return 1", "cannot be called with nothing"),
        (
            b"def get_config(text=None):\n    return {}",
            "get_config() gives dict: return",
        ),
        (b"def get_config(text=None):\n    pass", "get_config() gives nothing"),
        (b"def get_config(text=None):\n    return 1 / 0", "c.py, line 2: ZeroDivisionError"),
        (b"def get_config(text=None):\n    return get_config()", "c.py, line 2: RecursionError"),
        (b"import no_such_package", "c.py, line 1: ModuleNotFoundError"),
        (b"raise SystemExit(0)", "c.py, line 1: SystemExit"),
        (b"\0", "c.py, line None: source code string cannot contain null bytes"),
        (b"x = '\xff'", "c.py, line 1: (unicode error)"),
    ],
)
def test_a_config_file_that_gives_no_config_is_named(tmp_path, content, said):
    (tmp_path / "c.py").write_bytes(content)
    assert said in refused("train", f"--config={tmp_path}/c.py", f"--workdir={tmp_path}/run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("module", ["ablate", "data", "evaluate", "pods", "train"])
@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("/nope.py", "there is no file /nope.py"),
        ("configs", "is a directory"),
        ("", "names no file"),
        ("/dev/null", "expected /dev/null to be a file, got a device"),
    ],
)
def test_a_config_that_is_no_file_is_refused_by_every_command(module, config, said):
    workdir = ["--workdir=/tmp/none"] if module in ("ablate", "evaluate", "train") else []
    assert said in refused(module, f"--config={config}", *workdir)


BODY = """
from configs import self_selection
from ml_collections import ConfigDict

def get_config(text=None):
    config = ConfigDict(self_selection.get_config("smoke").to_dict(), type_safe=False)
    {}
    return config
"""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("config = ConfigDict()", "the config lacks seed"),
        ("del config.selection['utility']", "the config lacks selection.utility"),
        ("config.training = 5", "training must be a section of fields, not 5"),
        ("config.training.updates = '8'", "training.updates must be an integer, not '8'"),
        ("config.training.updates = 10**30", "training.updates must be at most 2147483647"),
        ("config.training.updates = True", "training.updates must be an integer, not True"),
        ("config.seed = 10**5000", "seed must be at most"),
        ("config.seed = None", "seed must be an integer, not None"),
        ("config.data.domains = 'abc'", "data.domains must be texts, (value, ...), not 'abc'"),
        ("config.data.buckets = ('a',)", "data.buckets must be integers"),
        ("config.data.tasks = {'chain_sum': 5}", "data.tasks.chain_sum must be a section"),
        ("config.data.workers = 10**6", "data.workers must lie in [0, 512]"),
        ("config.axes = 5", "axes must be a section of fields"),
        ("config.axes = {'selection': {'size': ({},)}}", "axes.selection.size lists {}"),
        ("config.methods = [1]", "methods must be a section of fields"),
        ("config.methods = {'a/b': {}}", "methods has a label 'a/b', which is no name of a folder"),
        ("config.repeats = 10**12", "repeats must be at least 1 and at most 10000"),
    ],
)
def test_a_value_of_the_wrong_kind_or_size_is_named(tmp_path, line, said):
    (tmp_path / "c.py").write_text(BODY.format(line))
    assert said in refused("train", f"--config={tmp_path}/c.py", f"--workdir={tmp_path}/run")
    assert not (tmp_path / "run").exists()


# Values of flags

GIVEN = {
    "ablate": [SMOKE, "--workdir={}"],
    "benchmark": ["--suite=selection"],
    "data": [SMOKE],
    "evaluate": ["--workdir={}"],
    "export": ["--workdir={}", "--merged={}/new"],
    "fetch": ["--model=smollm2-135m"],
    "pods": [SMOKE],
    "replay": ["--run={}", "--workdir={}/new"],
    "report": ["--workdir={}"],
    "results": [],
    "select": ["--features={}/f.npy", "--size=1"],
    "subset": [
        *("--model={}/m", "--data={}/r.jsonl", "--anchors={}/a.jsonl", "--size=1", "--output={}/o")
    ],
    "train": [SMOKE, "--workdir={}"],
}
PATHS = {
    "ablate": ["workdir"],
    "benchmark": ["output"],
    "data": ["html", "jsonl"],
    "evaluate": ["workdir", "model", "adapter", "output", "against"],
    "export": ["workdir", "adapter", "merged"],
    "fetch": ["model"],
    "pods": ["output"],
    "replay": ["run", "workdir", "failure"],
    "report": ["workdir", "output"],
    "results": ["workdir", "studies", "page"],
    "select": ["features", "anchors", "domains", "output"],
    "subset": ["model", "adapter", "data", "anchors", "output"],
    "train": ["workdir"],
}


def given(module, tmp_path):
    return [argument.format(tmp_path) for argument in GIVEN[module]]


@pytest.mark.parametrize("module", COMMANDS)
def test_an_empty_path_is_refused_rather_than_the_current_directory_used(tmp_path, module):
    for name in PATHS[module]:
        for value in ("", " "):
            said = refused(module, *given(module, tmp_path), f"--{name}={value}")
            assert said.startswith(f"--{name} has an empty value (a shell variable that is not set")
    assert os.listdir(tmp_path) == []


def test_an_empty_item_of_a_list_of_paths_is_refused(tmp_path):
    assert refused("report", f"--workdir={tmp_path},").startswith("--workdir has an empty value")


@pytest.mark.parametrize("module", COMMANDS)
def test_a_bucket_that_nothing_reads_is_refused_with_the_package(tmp_path, monkeypatch, module):
    for name in set(PATHS[module]) - {"model"}:
        said = refused(module, *given(module, tmp_path), f"--{name}=az://bucket/x")
        assert said.endswith("buckets of az:// need another package: pip install adlfs")
        said = refused(module, *given(module, tmp_path), f"--{name}=file:///x")
        assert "no bucket is read by file://" in said


@pytest.mark.parametrize(
    ("module", "flag"),
    [
        *((module, "patience") for module in ("train", "ablate")),
        *(("pods", name) for name in ("utilisation", "response")),
        *(("select", name) for name in ("ridge", "step_scale")),
    ],
)
def test_a_number_that_is_not_finite_is_refused(tmp_path, module, flag):
    for value in ("nan", "inf", "-inf", "1e999"):
        assert f"--{flag}" in refused(module, *given(module, tmp_path), f"--{flag}={value}")


@pytest.mark.parametrize(
    ("module", "flag"),
    [
        *((module, name) for module in ("train", "ablate") for name in ("process", "processes")),
        ("benchmark", "repeats"),
        ("data", "rows"),
        ("replay", "every"),
        *(("select", name) for name in ("block", "size", "seed", "chunk_rows", "shortlist_rows")),
        *(("subset", name) for name in ("block", "dim", "last_layers", "length", "seed")),
    ],
)
def test_a_huge_integer_is_refused(tmp_path, module, flag):
    for value in (10**30, "9" * 5000, "10**30"):
        assert f"--{flag}" in refused(module, *given(module, tmp_path), f"--{flag}={value}")


@pytest.mark.parametrize(
    "field",
    [
        *("seed", "repeats", "data.seed", "data.train", "data.length", "features.seed"),
        *("features.dim", "selection.pool", "selection.size", "model.layers", "lora.rank"),
        *("training.updates", "training.devices", "evaluation.batch"),
    ],
)
def test_a_huge_integer_field_is_refused_by_its_name(tmp_path, field):
    said = refused("train", SMOKE, f"--workdir={tmp_path}/run", f"--config.{field}={10**30}")
    assert said.startswith(field)
    assert refused("train", SMOKE, f"--workdir={tmp_path}/run", f"--config.{field}=10**30")


def test_a_path_that_is_too_long_or_a_claim_that_is_none_is_refused(tmp_path):
    assert "too many for a path" in refused("train", SMOKE, f"--workdir={'/x' * 3000}")
    assert "File name too long" in refused("train", SMOKE, f"--workdir={tmp_path}/{'x' * 300}")
    for claim in ("a.b", "..", "__init__", "nope"):
        said = refused("results", f"--workdir={tmp_path}", f"--claim={claim}")
        assert said.startswith("expected a claim that has a config in configs/reproduce")


# Records that were edited by hand


@pytest.fixture(scope="module")
def records():
    """config.json and summary.json of a run, as training writes them."""
    config = self_selection.get_config("smoke").to_dict() | {"methods": {}}
    (run,) = plan.expand(config)
    return run


@pytest.fixture
def recorded(records, tmp_path):
    """The folder of a run that says that it is finished."""
    folder = workdir.claim(records, tmp_path / "run", "cpu")
    summary = {"updates": 20, "fingerprint": 1, "origin": {}, "validation_loss": 1.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    picks = {"ids": [0] * 8, "domains": [0] * 8, "weights": [1.0] * 8, "gains": [0.0] * 8}
    rows = [json.dumps({"step": step} | picks) for step in range(1, 21)]
    (folder / "selections.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "metrics.jsonl").write_text('{"step": 0}\n')
    return folder


def edit(path, name, value):
    content = json.loads(path.read_text())
    *sections, last = name.split(".")
    inner = content
    for section in sections:
        inner = inner[section]
    inner[last] = value
    path.write_text(json.dumps(content))


def readers(folder):
    """The commands that read a run's records, each with what makes it do so."""
    new = folder.parent / "new"
    return {
        "train": ("train", SMOKE, "--config.methods={}", f"--workdir={folder}"),
        "replay": ("replay", f"--run={folder}", f"--workdir={new}"),
        "score": ("replay", f"--run={folder}", f"--workdir={new}", "--score=random"),
        "export": ("export", f"--workdir={folder}", f"--merged={new}"),
        "evaluate": ("evaluate", f"--workdir={folder}", "--benchmarks=reasoning_gym"),
        "report": ("report", f"--workdir={folder}"),
    }


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe{", b"[" * 100_000, b"9" * 10_000],
    ids=lambda content: repr(content[:8]),
)
def test_a_config_json_that_is_none_is_named_by_every_command(recorded, content):
    (recorded / "config.json").write_bytes(content)
    for arguments in readers(recorded).values():
        assert f"{recorded}/config.json" in refused(*arguments)


@pytest.mark.parametrize(
    ("name", "value", "commands"),
    [
        ("config", 5, ("train", "replay", "score", "export", "evaluate", "report")),
        ("seed", "x", ("train", "replay", "score", "export", "evaluate", "report")),
        ("seed", 10**30, ("train", "replay", "export", "report")),
        ("method", None, ("train", "replay", "export", "evaluate", "report")),
        ("config.selection", 5, ("train", "replay", "score", "export", "evaluate")),
        ("config.training.updates", "x", ("train", "replay", "score", "export", "evaluate")),
        ("config.data.tasks", [1], ("train", "replay", "score", "export", "evaluate")),
        ("domains", [1], ("report",)),
        ("updates", 10**12, ("report",)),
        ("axes", [1], ("report",)),
    ],
)
def test_an_edited_config_json_is_refused(recorded, name, value, commands):
    edit(recorded / "config.json", name, value)
    for command in commands:
        assert str(recorded) in refused(*readers(recorded)[command])


@pytest.mark.parametrize(
    ("name", "value", "commands"),
    [
        ("updates", "x", ("train", "export")),
        ("fingerprint", None, ("train", "export")),
        ("origin", 5, ("train", "replay", "export")),
        ("validation_loss", "low", ("train", "export", "report")),
        ("test", 5, ("train", "report")),
        ("seconds", {"train": "x"}, ("train", "export")),
        ("seconds", 5, ("train", "export", "report")),
    ],
)
def test_an_edited_summary_json_is_refused(recorded, name, value, commands):
    edit(recorded / "summary.json", name, value)
    for command in commands:
        assert f"{recorded}/summary.json" in refused(*readers(recorded)[command])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step": "x"}, "does not hold one row for each of the updates 1..20"),
        ({"step": None}, "does not hold one row for each of the updates 1..20"),
        ({"ids": 5}, "update 3 has no list of numbers in 'ids'"),
        ({"ids": ["a"] * 8}, "update 3 has no list of numbers in 'ids'"),
        ({"weights": None}, "update 3 has no list of numbers in 'weights'"),
        ({"gains": [10**30] * 8}, "update 3 has no list of numbers in 'gains'"),
        ({"ids": [1.5] * 8}, "update 3 has"),
        ({"domains": [0] * 7}, "update 3 has"),
    ],
)
def test_an_edited_selections_jsonl_is_refused(recorded, change, said):
    path = recorded / "selections.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = json.dumps(json.loads(lines[2]) | change)
    path.write_text("\n".join(lines))
    assert said in refused(*readers(recorded)["replay"])


@pytest.mark.parametrize("name", ["config.json", "summary.json", "metrics.jsonl"])
def test_a_pipe_in_the_place_of_a_record_is_refused(recorded, name):
    (recorded / name).unlink()
    os.mkfifo(recorded / name)
    assert f"expected {recorded}/{name} to be a file, got a named pipe" in refused(
        *readers(recorded)["report"]
    )
