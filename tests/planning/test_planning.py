"""Planning: what is counted is what compilers count, and what is said to be held is held."""

import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from configs import common
from partitionsel_jax import planning
from partitionsel_jax.planning import report
from partitionsel_jax.planning.checks import _grid
from partitionsel_jax.step import costs
from partitionsel_jax.step.step import Step
from tests.commands import run


def config_of(**model):
    config = common.default()
    config.data.tasks.update({"chain_sum": {}, "count_bits": {}})
    config.data.length = 16
    config.model.update({"layers": 2, "width": 64, "mlp_width": 256, "heads": 2, "kv_heads": 2})
    config.model.update({"head_dim": 32, "remat": "layer", "vocab_size": 512, **model})
    config.lora.rank = 2
    config.features.update({"parameters": "lora", "dim": 64, "last_layers": 1, "microbatch": 4})
    config.selection.update({"pool": 32, "size": 4, "anchors": 2})
    config.training.microbatch = 1
    return config.to_dict()


def settings_of(devices=4, split=True, **model):
    return planning.planned(config_of(**model), devices=devices, split_weights=split)


def test_loops_products_and_collectives_are_counted_exactly():
    def function(x, part):
        def layer(x, part):
            return jnp.tanh(x @ jax.lax.all_gather(part, "data", tiled=True)), None

        def loss(parts):
            return jax.lax.scan(jax.checkpoint(layer), x, parts)[0].sum()

        return jax.lax.psum(jax.grad(loss)(part)[0], "data")

    shapes = jax.ShapeDtypeStruct((3, 8), np.float32), jax.ShapeDtypeStruct((6, 2, 8), np.float32)
    found = costs.count(function, *shapes, devices=4)
    # Forward, again in the backward pass, and two products of the derivative.
    assert found.products == 6 * 4 * (2 * 3 * 8 * 8)
    gathered, summed = 8 * 8 * 4 * 3 / 4, 2 * (2 * 8 * 4) * 3 / 4
    assert found.received == 6 * 3 * gathered + summed
    assert found.exact == 0


def test_a_loop_of_unknown_length_counts_as_often_as_it_is_said_to_run():
    def function(x):
        return jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: x @ x, x)

    x = jax.ShapeDtypeStruct((4, 4), np.float32)
    once, thrice = (costs.count(function, x, devices=1, rounds=n) for n in (1, 3))
    assert once.products == 128 and thrice.products == 3 * 128


def test_counts_agree_with_the_compilers_where_no_loop_repeats():
    config = config_of(layers=1, chunk_tokens=2**20, remat="none")
    config["features"]["microbatch"] = 64
    config["training"]["microbatch"] = 0
    settings = planning.planned(config, devices=1)
    step = Step.create(settings)
    state, frozen = jax.eval_shape(step.initial, 0)
    chosen, length = settings.selection, settings.data.length
    pool, anchors = (costs.rows(n, length) for n in (chosen.pool, chosen.anchors))
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    whole, rows = PartitionSpec(), PartitionSpec("data")
    mapped = jax.shard_map(
        lambda *inputs: step.featurize(*inputs)[0],
        mesh=mesh,
        in_specs=(whole, whole, rows, rows),
        out_specs=whole,
        check_vma=False,
    )
    compiled = jax.jit(mapped).lower(state, frozen, pool, anchors).compile()
    flops = compiled.cost_analysis()["flops"]
    counted = costs.stages(settings, response=1.0)[0].products
    # It counts all else, too (norms, softmax, signs), and leaves out products that nothing reads.
    assert 0.9 * flops < counted < 1.1 * flops


def test_work_grows_with_depth_as_every_layer_is_counted():
    found = [costs.stages(settings_of(layers=n), 0.5) for n in (2, 3, 5)]
    for stage in (0, 1):
        for field in ("products", "received"):
            two, three, five = (getattr(each[stage], field) for each in found)
            assert five - three == pytest.approx(2 * (three - two))
    assert found[1][1].products > found[0][1].products


def test_split_weights_cost_their_gathering_and_no_operation():
    whole, split = (costs.stages(settings_of(split=s), 0.5) for s in (False, True))
    assert [stage.products for stage in whole] == [stage.products for stage in split]
    settings = settings_of()
    _, frozen = jax.eval_shape(Step.create(settings).initial, 0)
    embedding = frozen.pop("embedding")
    layers = sum(
        leaf.size * 4
        for path, leaf in jax.tree_util.tree_leaves_with_path(frozen["layers"])
        if path[-1].key == "kernel"
    )
    # Forward and backward; the embedding for the lookup and as the head.
    gathered = 0.75 * (2 * layers + 2 * 4 * embedding.size)
    assert split[1].received - whole[1].received == pytest.approx(gathered, rel=1e-4)


@pytest.fixture(scope="module")
def compiled():
    found = {}
    for layers in (2, 6):
        config = config_of(layers=layers)
        found[layers] = config, planning.compile_step(config, "cpu-4")
    return found


def test_arguments_by_arithmetic_are_those_of_the_compiled_step(compiled):
    config, (found, arithmetic) = compiled[6]
    memory = planning.memory_of(planning.planned(config, devices=4, split_weights=True))
    expected = memory["base"] + memory["trained"] / 2 + memory["optimizer"]
    rows = (32 + 4) * (16 * 5 + 9) / 4
    assert found["arguments, GB"] == pytest.approx(expected + rows / 1e9, rel=0.02)
    assert arithmetic == {"compiled for": "cpu-4", "pool": 32, **memory}
    assert found["by arithmetic, GB"] == memory["together"]


def test_a_proxy_is_planned_compiled_and_named(tmp_path, project_log):
    config = config_of()
    config["selection"] |= {"proxy": "tinier-llama3.2", "proxy_trains": True}
    config["selection"]["utility"] = "alignment"  # which compiles fast
    planning.write_compiled(config, targets=["cpu-4"], pools=[32], output=str(tmp_path))
    numbers = json.loads((tmp_path / "pods_compiled.json").read_text())
    (found,), (memory,) = numbers["compiled"], numbers["arithmetic"]
    assert memory["proxy"] > 0
    # Gradients are no arguments. What is split of the proxy is split in the arithmetic, too.
    settings = planning.planned(config, devices=4, split_weights=True)
    state, _, _ = (
        costs.on_one_device(tree, 4, True) for tree in costs.shapes(Step.create(settings))
    )
    gradients = costs.size_of(state.parameters) + costs.size_of(state.proxy.parameters)
    held = sum(memory[name] for name in ("base", "trained", "optimizer", "proxy"))
    rows = (32 + 4) * (16 * 5 + 9) / 4
    expected = held + (rows - gradients) / 1e9
    assert found["arguments, GB"] == pytest.approx(expected, rel=0.02)
    assert "selected for by tinier-llama3.2" in (tmp_path / "pods_compiled.md").read_text()


def test_a_plan_says_what_selection_costs_beside_random_picks():
    def times(**selection):
        config = config_of(layers=3)
        config["selection"] |= selection
        config["features"]["anchors_every"] = 2
        step, (memory, _) = planning.predict(config, planning.find("h100-1"), 32)
        assert ("proxy" in memory) == bool(selection.get("proxy"))
        return step["times random's"], step

    proxy = {"proxy": "tinier-llama3.2"}
    (itself, _), (trains, _) = times(), times(**proxy, proxy_trains=True)
    assert itself > trains > 1
    shared, step = times(updates_per_pool=4)
    # 8 of 32 candidates and 1 of 2 anchors an update.
    network = step["mean step, s"] - step["selection"] - step["update"]
    assert network == pytest.approx(step["features"] * 9 / 34)
    assert shared < itself
    assert times(utility="random")[0] == 1


def test_what_a_compiler_says_stands_beside_the_arithmetic(compiled, tmp_path, monkeypatch):
    config, found = compiled[6]
    monkeypatch.setattr(report, "compile_step", lambda *_: found)
    planning.write_compiled(config, targets=["cpu-4"], pools=[32], output=str(tmp_path))
    text = (tmp_path / "pods_compiled.md").read_text()
    assert text.count("| cpu-4 ") == 2 and "float32" in text and "activations" in text


def test_gathered_layers_are_freed_after_their_use(compiled):
    config, (deep, _) = compiled[6]
    settings = planning.planned(config, devices=4)
    _, frozen = jax.eval_shape(Step.create(settings).initial, 0)
    one_layer = sum(leaf.size * 4 for leaf in jax.tree.leaves(frozen["layers"])) / 6
    shallow, _ = compiled[2][1]
    assert 1e9 * (deep["temporary, GB"] - shallow["temporary, GB"]) < one_layer


def test_memory_of_split_weights_falls_with_the_devices():
    base = [planning.memory_of(settings_of(devices=n))["base"] for n in (1, 2, 4)]
    norms = base[2] - (base[0] - base[2]) / 3
    assert norms < 0.02 * base[0]
    assert base[1] - norms == pytest.approx((base[0] - norms) / 2)
    whole = planning.memory_of(settings_of(devices=4, split=False))
    assert whole["base"] == base[0] and whole["gathered"] == 0


@pytest.mark.parametrize(
    ("name", "devices", "network"),
    [("v5e-16", 16, 100e9), ("v5p-64", 32, 300e9), ("h100-8", 8, 450e9), ("h100-16", 16, 50e9)],
)
def test_slices_have_the_devices_of_their_name(name, devices, network):
    found = planning.find(name)
    assert (found.devices, found.network) == (devices, network)


@pytest.mark.parametrize("name", ["v5e", "v5e-0", "a100-8", "v5e-x", "h100-8x"])
def test_unknown_devices_are_refused(name):
    with pytest.raises(ValueError, match="devices must be v5e-COUNT, v5p-COUNT, h100-COUNT"):
        planning.find(name)


def test_cores_of_half_a_chip_are_refused():
    with pytest.raises(ValueError, match="count 2 cores for every chip"):
        planning.find("v5p-7")


def test_grids_of_slices():
    assert [_grid(n, 2) for n in (1, 4, 8, 16, 32)] == ["1x1", "2x2", "2x4", "4x4", "4x8"]
    assert [_grid(n, 3) for n in (4, 32, 64)] == ["1x2x2", "2x4x4", "4x4x4"]
    with pytest.raises(ValueError, match="power of 2 of chips, not 12"):
        _grid(12, 2)


def test_a_plan_rounds_picks_and_anchors_up_and_keeps_their_share():
    settings = planning.planned(config_of(), devices=8, pool=320)
    assert (settings.selection.pool, settings.selection.size) == (320, 40)
    assert settings.selection.anchors == 8
    assert settings.training.devices == 8
    with pytest.raises(ValueError, match="a pool of 30 cannot be divided over 8 devices"):
        planning.planned(config_of(), devices=8, pool=30)


def test_weights_are_split_only_where_whole_ones_do_not_fit():
    slice_ = planning.find("v5e-4")
    small, large = (
        planning.predict(config, slice_, 32)
        for config in (config_of(), config_of(width=16_384, mlp_width=65_536, layers=3))
    )
    for (step, needs), form, place in ((small, "whole", 0), (large, "split", 1)):
        assert step["weights"] == needs[place]["weights"] == form
        assert step["memory, GB"] == needs[place]["together"]
        parts = ("features", "selection", "update", "network")
        assert step["step, s"] == pytest.approx(math.fsum(step[part] for part in parts))
    assert small[0]["fits"] == "yes"
    assert large[0]["network"] > small[0]["network"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"response": 0.0}, "response is a share"), ({"utilisation": 1.5}, "utilisation is a share")],
)
def test_assumptions_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        planning.predict(config_of(), planning.find("v5e-4"), 32, **changes)


@pytest.mark.parametrize(
    ("target", "message"),
    [("h100-8", "only TPU slices and cpu-COUNT"), ("cpu-1024", "8 devices are simulated")],
)
def test_targets_without_a_compiler_are_refused(target, message):
    with pytest.raises(ValueError, match=message):
        planning.compile_step(config_of(), target)


def test_the_command_writes_its_tables(tmp_path):
    config = "--config=configs/self_selection.py:smoke"
    result = run("pods", config, "--devices=v5p-8", "--pool=64", f"--output={tmp_path}")
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "pods.md").read_text()
    assert re.search(r"\| v5p-8 +\| 4 ", text) and "cloud.google.com/tpu/docs/v5p" in text
    assert (tmp_path / "pods.json").stat().st_size > 500
    refused = run("pods", config, "--pool=many")
    assert refused.returncode == 1 and "error: --pool takes numbers" in refused.stderr
