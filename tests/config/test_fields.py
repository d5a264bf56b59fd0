"""Every field is declared once: what is derived from its declaration holds together."""

import importlib
import pathlib

import pytest

from configs import common
from partitionsel_jax.config import fields
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.config.essentials import INCIDENTAL, config_hash, flatten
from partitionsel_jax.config.settings import PlanSettings, Settings

EVERY = dict(fields.every(PlanSettings)) | dict(fields.every(Settings))
# A change here starts every study anew: the workdirs of users are of another configuration.
HASHES = {"self_selection": "d384688d73b0", "smollm2_reasoning": "d8a5fce9e71f"}


@pytest.mark.parametrize("name", EVERY)
def test_every_field_has_a_meaning_and_a_default_that_it_allows(name):
    declared = EVERY[name]
    assert declared.meaning
    if declared.choices:
        assert declared.default in declared.choices
    if declared.range:
        assert declared.allows(declared.default)


def test_the_list_for_users_has_every_field_of_a_config():
    config = common.default().to_dict()
    sections = (PlanSettings, Settings)
    listed = {name for each in sections for name, _ in fields.described(each, config)}
    assert listed == set(flatten(config))
    lines = dict(fields.described(Settings, config))
    assert "must be at least 1" in lines["selection.size"]
    assert "one of joint, independent, agnostic" in lines["selection.coupling"]
    assert "changes no result" in lines["training.devices"]


def test_incidental_fields_are_fields():
    assert set(INCIDENTAL) <= set(EVERY)


@pytest.mark.parametrize("name", HASHES)
def test_the_hashes_of_published_configs_stay(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    assert config_hash(config.to_dict()) == HASHES[name]


@pytest.mark.parametrize(
    ("section", "old", "new"), [("data", "spoilt", "noise"), ("selection", "picks", "recorded")]
)
def test_an_old_name_is_refused_with_the_new_one(section, old, new):
    config = common.default().to_dict()
    config[section][old] = config[section].pop(new)
    with pytest.raises(ValueError, match=rf"config\.{section}\.{old} is now called .*\.{new}"):
        run_settings.parse(config)


def test_the_configuration_knows_nothing_of_devices():
    root = pathlib.Path(fields.__file__).parent
    assert not any("distributed" in path.read_text() for path in root.glob("*.py"))
