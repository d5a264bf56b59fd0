"""Synthetic run directories, written the way training writes them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

DOMAINS = ["basic_arithmetic", "chain_sum", "gsm_symbolic", "letter_counting"]


_SHARES = {"features_share": 0.7, "selection_share": 0.1, "update_share": 0.2}


def write_run(
    directory: Path,
    method: str = "random",
    seed: int = 0,
    losses: Sequence[float] = (4.0, 3.0, 2.0),
    every: int = 10,
    step_seconds: float = 0.5,
    domains: Sequence[str] = DOMAINS,
    config: dict | None = None,
    config_hash: str | None = None,
    corrupted_share: float | None = 0.3,
    finished: bool = True,
    flops: float | None = 1e6,
    axes: dict | None = None,
    extra: dict | None = None,
    chooser: str = "",
) -> Path:
    """Writes a run whose evaluations, every `every` updates from update 0, are `losses`.

    Methods pick differently from pools of the same ids; `extra` goes into every row.
    """
    selects = method not in ("random", "full")
    updates, num_domains = every * (len(losses) - 1), len(domains)
    config = {"method": method, "seed": seed, "model": {"layers": 2}} if config is None else config
    directory.mkdir(parents=True, exist_ok=True)
    facts = {
        "config": config,
        "config_hash": config_hash or f"hash-of-{method}",
        "method": method,
        "seed": seed,
        "domains": list(domains),
        "versions": {"jax": "0.10.2", "numpy": "2.4.0"},
        "device": "cpu x1",
        "commit": None,
        "updates": updates,
        "pool_size": 16 * num_domains,
        "selected": 2 * num_domains,
        "chooser": chooser,
    }
    if axes is not None:
        facts["axes"] = axes
    (directory / "config.json").write_text(json.dumps(facts))
    rng = np.random.default_rng([seed, *method.encode()])
    selections = []
    rows: list[dict] = [_evaluation(losses[0], num_domains) | {"step": 0}]
    for step in range(1, updates + 1):
        corrupted_pool = 0 if not corrupted_share else round(corrupted_share * 16 * num_domains)
        corrupted_selected = 0 if not corrupted_share else (1 if selects else 2)
        row = {
            "step": step,
            "loss": 4.0 - step / (updates + 1),
            "pool_loss": None,
            "utility": float(1 - np.exp(-step / 20)) if selects else None,
            "certificate": float(rng.uniform(0.8, 1.0)) if selects else None,
            "effective_sample_size": 5.0 if selects else None,
            "conflicting_pairs": float(rng.uniform(0.1, 0.3)) if selects else None,
            "matching_cosine": None,
            "selected": [2] * num_domains,
            "pool": [16] * num_domains,
            "budgets": [2] * num_domains if selects else None,
            "corrupted_selected": corrupted_selected,
            "corrupted_pool": corrupted_pool,
            "dropped": 0,
            "gradient_norm": 1.0,
            "learning_rate": 1e-3,
            "tokens": 1000,
            "padding": 0.25,
            "flops": flops,
            "seconds": {"step": step_seconds},
            **(extra or {}),
        }
        ids = 1000 * step + rng.choice(16 * num_domains, 2 * num_domains, replace=False)
        selections.append({"step": step, "ids": ids.tolist()})
        if step % every == 0:
            row |= _evaluation(losses[step // every], num_domains)
        rows.append(row)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = "".join(json.dumps(row) + "\n" for row in selections)
    (directory / "selections.jsonl").write_text(lines)
    if finished:
        by_name = dict.fromkeys(domains, 0.25)
        summary = {
            "validation_loss": losses[-1],
            "test": {
                "loss": 1.0,
                "accuracy": 0.25 + 0.1 * seed,
                "accuracy_per_domain": by_name,
                "questions_per_domain": dict.fromkeys(domains, 8),
            },
            "seconds": {"train": updates * step_seconds, "evaluation": 1.0, "compile": 9.0}
            | (_SHARES if selects else {}),
        }
        (directory / "summary.json").write_text(json.dumps(summary))
    return directory


def _evaluation(loss: float, num_domains: int) -> dict:
    return {"validation_loss": loss, "validation_loss_per_domain": [loss] * num_domains}


@pytest.fixture(name="write_run", scope="session")
def _write_run() -> Callable[..., Path]:
    return write_run
