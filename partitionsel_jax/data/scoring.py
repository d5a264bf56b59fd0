"""The score of an output by its task's own scorer, whatever text a model wrote."""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from partitionsel_jax.data.generation import Task, create
from partitionsel_jax.data.templates import final_answer
from partitionsel_jax.time_limited import TimeLimited

# These scorers pass the answer to `eval` or to SymPy's parser, which evaluates it too. What a model
# wrote is never executed: for these tasks only the reference answer itself counts.
_EXECUTES_ANSWERS = frozenset(
    {
        "binary_matrix",
        "countdown",
        "intermediate_integration",
        "n_queens",
        "polynomial_multiplication",
        "puzzle24",
        "simple_integration",
        "spiral_matrix",
        "string_insertion",
    }
)
# Numbers that numeric scorers cannot take: a huge exponent, which `Fraction` would write out digit
# by digit, and "nan", whose distance from the right answer compares as if it were none.
_NO_NUMBER = re.compile(r"e[-+]?[\d_]{4}|\bnan[ij]?\b", re.IGNORECASE)
_SECONDS = 5.0
_PROCESS = TimeLimited(Path(__file__).with_name("scoring_program.py"))


def score(task: str | Task, output: str, entry: str | bytes | Mapping[str, Any]) -> float:
    """Scores the final answer of an output; no text makes it raise, and none is executed.

    Another answer than the reference is scored in a process of its own: where the scorer takes
    more than 5 seconds or 2 GiB, or fails, the score is 0.

    Args:
      task: the task's name, or (name, settings) where the settings matter to its scorer.
      output: what a model wrote; `final_answer` is taken from it.
      entry: the task's entry, or its JSON as the corpus stores it.

    Returns:
      A score in [0, 1]; 1 is a right answer. Many tasks give small scores for answers that are
      wrong but well formed: compare with 1 for accuracy.

    Raises:
      ValueError: the task is unknown, or refuses its settings.
      RuntimeError: the process of the scorers cannot be started on this machine.
    """
    name, settings = (task, {}) if isinstance(task, str) else task
    stored = json.dumps(settings, sort_keys=True)
    dataset = _scorer(name, stored)
    text = entry if isinstance(entry, str | bytes) else json.dumps(entry, default=str)
    record = json.loads(text)
    answer = final_answer(output)
    reference = record["answer"].strip()
    if name in _EXECUTES_ANSWERS:
        return float(answer == reference)
    if answer != reference:
        if not answer or _NO_NUMBER.search(answer):
            return 0.0
        value = _PROCESS.ask(name, stored, answer, record, seconds=_SECONDS)
        return value if value is not None and 0.0 <= value <= 1.0 else 0.0
    try:
        value = float(dataset.score_answer(answer, record))
    except Exception:  # a scorer may fail in any way, even on the answer that its task gives
        return 0.0
    return value if 0.0 <= value <= 1.0 else 0.0


def takes_reference_only(task: str) -> bool:
    """Whether a task's score is 1 for the reference answer and 0 for any other.

    Its scorer would execute what a model wrote, so that it is not asked.
    """
    return task in _EXECUTES_ANSWERS


@functools.lru_cache(maxsize=256)
def _scorer(name: str, settings: str) -> Any:
    """The task's dataset, made once: some read files when they are made."""
    return create(name, json.loads(settings), size=1, seed=0)
