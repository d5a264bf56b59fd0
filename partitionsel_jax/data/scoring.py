"""The score of an output on a reasoning-gym task: 1 where its final answer is right, else 0.

This is what "accuracy" means for these tasks everywhere in the project: the share of questions
whose final answer (what follows the last "####", or the whole output) is right by the task's rule,
which `scoring_rules` states for every task. It is no exact match where a task has many right
answers or asks for a rounded number.
"""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from partitionsel_jax.data.generation import Task, create
from partitionsel_jax.data.scoring_rules import RULES, TEXT, UNJUDGED, plain
from partitionsel_jax.data.templates import final_answer
from partitionsel_jax.time_limited import TimeLimited

# No answer is longer, and some comparisons take more than linear time.
_LONGEST = 20_000
_SECONDS = 5.0
_PROCESS = TimeLimited(Path(__file__).with_name("scoring_program.py"))


def score(task: str | Task, output: str, entry: str | bytes | Mapping[str, Any]) -> float:
    """Scores the final answer of an output; no text makes it raise, and none is executed.

    Where a task has many right answers, its own scorer judges those that have the task's form, in
    a process of its own: if it takes more than 5 seconds or 2 GiB, or fails, the score is 0.

    Args:
      task: the task's name, or (name, settings) where the settings matter to its scorer.
      output: what a model wrote; `final_answer` is taken from it.
      entry: the task's entry, or its JSON as the corpus stores it.

    Returns:
      1.0 for a right answer, else 0.0.

    Raises:
      ValueError: the task is unknown, or refuses its settings.
      RuntimeError: the process of the scorers cannot be started on this machine.
    """
    name, settings = (task, {}) if isinstance(task, str) else task
    stored = json.dumps(settings, sort_keys=True)
    _check_task(name, stored)
    text = entry if isinstance(entry, str | bytes) else json.dumps(entry, default=str)
    record = json.loads(text)
    answer, reference = final_answer(output), record["answer"].strip()
    if plain(answer) == plain(reference):
        return 1.0
    if not answer or len(answer) > _LONGEST:
        return 0.0
    rule = RULES.get(name, TEXT)
    if not rule.form:
        return float(rule.check(answer, reference, record["metadata"]))
    if not re.fullmatch(rule.form, plain(answer)):
        return 0.0
    return float(_PROCESS.ask(name, stored, answer, record, seconds=_SECONDS) == 1.0)


def takes_reference_only(task: str) -> bool:
    """Returns whether a task has right answers beside its reference that are not judged."""
    return RULES.get(task) is UNJUDGED


@functools.lru_cache(maxsize=256)
def _check_task(name: str, settings: str) -> None:
    create(name, json.loads(settings), size=1, seed=0)
