"""What runs are called, and which of them may be averaged: equal method, config and domains."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

HOUSE = "partitionsel"
BASELINE = "random"
_MOST_FIELDS = 3


def distinct(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names runs so that two of them share a name only if they differ in nothing but the seed.

    A method run under one config keeps its bare name. Otherwise the config fields that differ are
    appended, or the hash where they are many, or a counter where the same seed was run twice.

    Args:
      facts: the config.json of each run.

    Returns:
      One label a run, in the same order.
    """
    copies = Counter[tuple[str, int]]()
    identities = []
    for fact in facts:
        same = (fact["method"], _identity(fact))
        copies[json.dumps(same), fact["seed"]] += 1
        identities.append((*same, copies[json.dumps(same), fact["seed"]]))
    names = {}
    for method in {fact["method"] for fact in facts}:
        variants = {
            identity[1]: fact
            for identity, fact in zip(identities, facts, strict=True)
            if identity[0] == method
        }
        suffixes = _suffixes(list(variants.values()))
        for variant, suffix in zip(variants, suffixes, strict=True):
            names[method, variant] = f"{method} ({suffix})" if suffix else method
    return [
        names[method, variant] + (f" (copy {copy})" if copy > 1 else "")
        for method, variant, copy in identities
    ]


def in_order(methods: Mapping[str, str]) -> list[str]:
    """Labels by name, this codebase's method first and the baselines last.

    Args:
      methods: the method of each label.
    """
    last = baselines(methods)
    return sorted(methods, key=lambda name: (name in last, methods[name] != HOUSE, name))


def baselines(methods: Mapping[str, str]) -> set[str]:
    """The labels that others are compared with; none while there is a single label.

    They are those of the method `random`. Where it did not run, the first label by name is the one
    baseline, that of this codebase's method only if there is no other.

    Args:
      methods: the method of each label.
    """
    if len(methods) < 2:
        return set()
    named = {label for label, method in methods.items() if method == BASELINE}
    return named or {min(methods, key=lambda label: (methods[label] == HOUSE, label))}


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested config as ("a.b.c", value), without the run's own seed."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" != "seed":
            yield f"{prefix}{key}", value


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields of flat configs that are not the same in all of them, in order."""
    keys = list(dict.fromkeys(key for config in configs for key in config))
    return [key for key in keys if len({json.dumps(c.get(key)) for c in configs}) > 1]


def _identity(fact: Mapping[str, Any]) -> str:
    return json.dumps([fact["config_hash"], list(fact["domains"])])


def _suffixes(variants: Sequence[Mapping[str, Any]]) -> list[str]:
    if len(variants) == 1:
        return [""]
    configs = [dict(flatten(fact["config"])) for fact in variants]
    fields = differing(configs)
    short = {key: key.rsplit(".", 1)[-1] for key in fields}
    if len(set(short.values())) < len(short):
        short = {key: key for key in fields}
    texts = [", ".join(f"{short[key]}={c[key]}" for key in fields if key in c) for c in configs]
    if len(fields) > _MOST_FIELDS or len(set(texts)) < len(texts):
        texts = [f"#{fact['config_hash'][:8]}" for fact in variants]
    if len(set(texts)) < len(texts):
        # One hash over different domains.
        texts = [f"{text}, variant {number}" for number, text in enumerate(texts, start=1)]
    return texts
