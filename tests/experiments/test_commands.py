"""The commands as a user types them: what is wrong ends them early, with one clear line."""

import pytest

from tests.commands import fast as run

LONGER = {"selection": {"recorded": "@small-self"}, "training": {"updates": 40}}


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        ("quickstart.py:smoke", ["--config.selection.utilty=random"], "utilty"),
        ("quickstart.py:smoke", ["--config.selection.size=many"], "selection.size"),
        (
            "self_selection.py:smoke",
            ["--config.selection.size=99"],
            "error: selection.size=99 picks",
        ),
        (
            "self_selection.py:smoke",
            ["--config.features.last_layers=7"],
            "must lie in 0 (all) .. 2",
        ),
        ("self_selection.py:smoke", ["--config.features.parameters=lora"], "parameters='full'\n"),
        ("quickstart.py:smoke", ["extra"], "unexpected arguments"),
        ("quickstart.py:smok", [], "unknown config argument 'smok'"),
        ("quickstart.py:seeds=many", [], "expected seeds=<int>"),
        ("no_such_config.py", [], "no_such_config.py"),
        ("smollm2_reasoning.py:smoke,model=x", ["--config.checkpoint=x"], "error: no model 'x'"),
        ("smollm2_reasoning.py:smoke", ["--config.model.layers=3"], "layers"),
        ("llama32_3b_mol.py:smoke", ["--config.lora.targets=('qkv',)"], "are not projections"),
        (
            "llama31_8b_by_1b.py:smoke,proxy=tiny-qwen2.5",
            ["--config.training.devices=1"],
            "selection.proxy='tiny-qwen2.5' reads other ids: its tokenizer differs",
        ),
        (
            "quickstart.py:smoke",
            ["--config.methods.partitionsel.selection.proxy=tinier-llama3.2"],
            "reads other ids: its tokenizer differs",
        ),
        (
            "quickstart.py:smoke",
            ["--config.methods.partitionsel.selection.proxy=nowhere"],
            "fits no run: no model 'nowhere': expected a checkpoint",
        ),
        (
            "proxy.py:smoke",
            [f"--config.methods.recorded={LONGER}"],
            "error: recorded trains on the selections of small-self, which makes 20 updates",
        ),
        (
            "quickstart.py:smoke",
            ["--config.checkpoint=tiny-qwen2.5"],
            "but the checkpoint 'tiny-qwen2.5' has",
        ),
    ],
)
def test_what_is_wrong_ends_the_command_with_a_clear_line(tmp_path, config, arguments, message):
    workdir = tmp_path / "run"
    result = run("train", f"--config=configs/{config}", f"--workdir={workdir}", *arguments)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not workdir.exists()


ABLATE = ["--config=configs/ablations/utilities.py:smoke", "--workdir={new}"]
COMPRESS = ["--model=tiny-llama3.2", "--output={new}"]
REPLAY = ["--run=tests", "--workdir={new}"]


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("ablate", [*ABLATE, "--shard=3/2"], "error: --shard=3/2 is no part of the runs: expected"),
        (
            "ablate",
            [*ABLATE, "--config.axes.selection.coupling=('joint','wide')"],
            "error: axes.selection.coupling='wide' fits no run: selection.coupling must be one of",
        ),
        ("replay", [], "error: give either --run or --failure"),
        ("replay", ["--run=tests"], "error: --run needs --workdir"),
        ("replay", REPLAY, "is not the folder of a run, as it lacks config.json"),
        ("replay", [*REPLAY, "--change=a=1"], "error: --change is for --score"),
        ("fetch", [], "Flag --model must have a value other than None"),
        ("fetch", ["--model=gpt-2"], "error: no preset 'gpt-2': expected one of"),
        ("compress", ["--output={new}"], "error: give either --model or --run"),
        ("compress", [*COMPRESS], "error: nothing to compress: give --layers, --rank or both"),
        ("compress", [*COMPRESS, "--layers=2"], "--layers=2 of a model with 2: use 1 at most"),
        ("compress", [*COMPRESS, "--rank=22"], "error: model.rank=22 makes no matrix of this mod"),
        ("compress", [*COMPRESS, "--rank=-1"], "rank"),
        ("compress", ["--run=tests", "--rank=2", "--output={new}"], "is not the folder of a fini"),
        ("compress", ["--model=x", "--rank=2", "--output=tests"], "error: tests is not empty"),
        ("export", ["--workdir=nowhere"], "error: nothing to export: give --adapter, --merged"),
        ("export", ["--workdir=nowhere", "--merged={new}"], "'nowhere' is not the folder of a"),
        ("export", ["--workdir=nowhere", "--merged=tests"], "error: tests is not empty"),
        ("export", ["--workdir=nowhere", "--dtype=float16"], "dtype"),
    ],
)
def test_other_commands_say_what_is_wrong(tmp_path, module, arguments, message):
    new = tmp_path / "new"
    result = run(module, *(argument.format(new=new) for argument in arguments))
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not new.exists()
