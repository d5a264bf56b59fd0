"""A small prepared corpus of the quickstart's tasks, and builders made of hand-written records."""

import types

import pytest

from configs.tasks import QUICKSTART_TASKS
from partitionsel_jax import data

SIZES = {"train": 40, "validation": 8, "test": 4}


class Records(list):
    """Records with the batched read of a TFDS data source."""

    def __getitems__(self, positions):
        return [self[position] for position in positions]


def record(number, domain, question, response, answer="", entry="{}"):
    """One record as TFDS gives it: text as bytes."""
    texts = {"question": question, "response": response, "answer": answer, "entry": entry}
    return {"id": number, "domain": domain} | {key: text.encode() for key, text in texts.items()}


def synthetic_builder(train=20, validation=8, test=4, domains=2):
    """A builder of hand-written records, `domains` domains with that many rows each."""
    splits, number = {}, 0
    for split, size in {"train": train, "validation": validation, "test": test}.items():
        splits[split] = Records()
        for row in range(size * domains):
            splits[split].append(record(number, row % domains, f"q{number}?", f"{number * 7 % 50}"))
            number += 1
    return builder_of(splits, [f"domain{i}" for i in range(domains)])


def builder_of(splits, domains):
    """A builder of the given records per split."""
    info = types.SimpleNamespace(metadata={"domains": domains})
    return types.SimpleNamespace(info=info, as_data_source=lambda split: splits[split])


@pytest.fixture(scope="session")
def builder(tmp_path_factory):
    """The quickstart's tasks, prepared with few rows."""
    directory = tmp_path_factory.mktemp("corpus")
    return data.prepare(QUICKSTART_TASKS, **SIZES, seed=0, directory=directory)


@pytest.fixture(scope="session")
def corpus(builder):
    """The prepared corpus with clean rows."""
    return data.load(builder, data.ByteTokenizer(), length=96, seed=0)


@pytest.fixture
def synthetic():
    """The modules' makers of hand-written corpora."""
    return types.SimpleNamespace(
        builder=synthetic_builder, builder_of=builder_of, record=record, records=Records
    )
