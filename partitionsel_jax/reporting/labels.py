"""Names of runs, and which of them are compared: labels, baselines, evaluation sets."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from partitionsel_jax.config.essentials import essentials, flatten

if TYPE_CHECKING:
    from partitionsel_jax.reporting.runs import Run

HOUSE = "partitionsel"
BASELINE = "random"
_MOST_FIELDS = 3
# Fields that change neither training rows nor validation rows: how many candidates a step sees, and
# which of the rows there are, is the method's business.
_INCIDENTAL = (
    *("data.pool", "data.pool_size", "data.workers", "data.directory", "data.buckets"),
    *("data.filter", "data.train_on"),
)
# Fields that change training rows, or their share of a pool, and leave validation rows as they are.
_TRAINING = (*_INCIDENTAL, "data.noise", "data.mix", "data.weights")


def distinct(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names runs so that two of them share a name only if they differ in nothing but the seed.

    A method run under one config keeps its bare name. Otherwise the config fields that differ are
    appended, or the hash where they are many, or a counter where the same seed was run twice.
    `facts` are the config.json of each run, in the order of the labels.
    """
    variants: dict[str, dict[str, Mapping[str, Any]]] = {}
    identities = [json.dumps([fact["config_hash"], list(fact["domains"])]) for fact in facts]
    for fact, identity in zip(facts, identities, strict=True):
        variants.setdefault(fact["method"], {})[identity] = fact
    named = {
        (method, identity): f"{method} ({suffix})" if suffix else method
        for method, found in variants.items()
        for identity, suffix in zip(found, _suffixes(list(found.values())), strict=True)
    }
    copies = Counter[tuple[str, int]]()
    labels = []
    for fact, identity in zip(facts, identities, strict=True):
        label = named[fact["method"], identity]
        copies[key := (label, fact["seed"])] += 1
        labels.append(label if copies[key] == 1 else f"{label} (copy {copies[key]})")
    return labels


def baselines(methods: Mapping[str, str]) -> set[str]:
    """The labels that others are compared with; none while there is a single label.

    They are those of the method `random`. Where it did not run, the first label by name is the one
    baseline, that of this codebase's method only if there is no other. `methods` is label ->
    method.
    """
    if len(methods) < 2:
        return set()
    named = {label for label, method in methods.items() if method == BASELINE}
    return named or {min(methods, key=lambda label: (methods[label] == HOUSE, label))}


def by_label(runs: "Sequence[Run]") -> "dict[str, list[Run]]":
    """The runs of each label by seed; this codebase's method first, the baselines last."""
    methods = {run.label: run.method for run in runs}
    last = baselines(methods)
    return {
        label: sorted((run for run in runs if run.label == label), key=lambda run: run.seed)
        for label in sorted(methods, key=lambda name: (name in last, methods[name] != HOUSE, name))
    }


def serving(runs: "Sequence[Run]") -> "dict[str, list[Run]]":
    """Label -> runs of a model of another shape than that of the runs that it selects for.

    They are there for others: neither their losses nor their costs compare.
    """
    folders = {run.directory.resolve(): run for run in runs}
    found: dict[str, dict[str, Run]] = {}
    for folder, run in folders.items():
        if chooser := run.facts.get("chooser"):
            other = folders.get(folder.parents[chooser.count("/")] / chooser)
            if other and other.section("model") != run.section("model"):
                found.setdefault(other.label, {})[other.name] = other
    return {label: list(named.values()) for label, named in found.items()}


def evaluation_sets(runs: "Sequence[Run]") -> "list[list[Run]]":
    """The runs, kept apart where they are not validated on the same rows."""
    found: dict[object, list[Run]] = {}
    for run in runs:
        found.setdefault(_data(run, _TRAINING), []).append(run)
    return list(found.values())


def comparable(run: "Run", other: "Run") -> bool:
    """True if two runs train and validate on the same data, so that their losses compare."""
    return _data(run, _INCIDENTAL) == _data(other, _INCIDENTAL)


def fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of a nested config as "a.b.c" -> value, without the run's own seed."""
    return {field: value for field, value in flatten(config).items() if field != "seed"}


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields of flat configs that are not the same in all of them, in order."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({json.dumps(c.get(key)) for c in configs}) > 1]


def _data(run: "Run", without: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Domains and config fields that decide on a run's rows, except the fields `without`."""
    decisive = {
        field: value
        for field, value in essentials(run.config).items()
        # Losses per token compare between equal vocabularies only.
        if (field.startswith("data.") or field == "model.vocab_size")
        and not any(field == name or field.startswith(f"{name}.") for name in without)
    }
    return run.domains, json.dumps(decisive, sort_keys=True)


def _suffixes(variants: Sequence[Mapping[str, Any]]) -> list[str]:
    """A short text for each config of one method; empty where there is one config."""
    if len(variants) == 1:
        return [""]
    configs = [fields(fact["config"]) for fact in variants]
    apart = differing(configs)
    short = {field: field.rsplit(".", 1)[-1] for field in apart}
    if len(set(short.values())) < len(short):
        short = {field: field for field in apart}
    texts = [", ".join(f"{short[key]}={c[key]}" for key in apart if key in c) for c in configs]
    if len(apart) > _MOST_FIELDS or len(set(texts)) < len(texts):
        texts = [f"#{fact['config_hash'][:8]}" for fact in variants]
    if len(set(texts)) < len(texts):
        # One hash over different domains.
        texts = [f"{text}, variant {number}" for number, text in enumerate(texts, start=1)]
    return texts
