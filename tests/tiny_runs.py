"""A run small enough to train many times: two domains, two layers, pools of sixteen."""

import json
import logging

import pytest


def tiny_config():
    from configs import common

    config = common.default()
    config.data.tasks.update({"chain_sum": {"max_terms": 2}, "count_bits": {"max_n": 2550}})
    config.data.update({"train": 40, "validation": 8, "test": 4, "length": 48})
    config.data.noise.update({"kind": "garbled", "share": 0.25})
    config.model.update({"layers": 2, "width": 16, "mlp_width": 24, "heads": 2, "kv_heads": 1})
    config.model.head_dim = 8
    config.features.update({"last_layers": 1, "dim": 32, "microbatch": 4})
    config.selection.update({"pool": 16, "size": 8, "anchors": 8})
    config.training.update({"updates": 8, "evaluate_every": 4, "checkpoint_every": 3, "devices": 1})
    config.evaluation.batch = 8
    return config


def rows(folder, name):
    """The rows of a run's metrics.jsonl or selections.jsonl."""
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def without_seconds(folder):
    """The metrics of a run, but for the time that they took."""
    return [
        {key: value for key, value in row.items() if key != "seconds"}
        for row in rows(folder, "metrics.jsonl")
    ]


@pytest.fixture(scope="session")
def corpus_directory(tmp_path_factory):
    return str(tmp_path_factory.mktemp("corpora"))


@pytest.fixture
def tiny(corpus_directory):
    """A fresh copy of the tiny configuration, to be changed at will."""
    config = tiny_config()
    config.data.directory = corpus_directory
    return config


@pytest.fixture
def train(tmp_path):
    """Trains a configuration of one run, in a new folder unless one is named."""

    from partitionsel_jax import training

    def run(config, folder=None):
        (planned,) = training.expand(config.to_dict())
        folder = folder or tmp_path / "run"
        return training.train(planned, folder), folder

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory, corpus_directory):
    """One undisturbed run of the tiny configuration: its summary, folder and configuration."""
    from partitionsel_jax import training

    config = tiny_config()
    config.data.directory = corpus_directory
    (planned,) = training.expand(config.to_dict())
    folder = tmp_path_factory.mktemp("finished")
    return training.train(planned, folder), folder, config


@pytest.fixture
def project_log(caplog):
    caplog.set_level(logging.INFO, logger="partitionsel_jax")
    return caplog
