"""The score of an output by its task's own scorer, whatever text a model wrote."""

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

from partitionsel_jax.data.generation import Task, create
from partitionsel_jax.data.templates import final_answer

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


def score(task: str | Task, output: str, entry: str | bytes | Mapping[str, Any]) -> float:
    """Scores the final answer of an output; no text makes it raise, and none is executed.

    Args:
      task: the task's name, or (name, settings) where the settings matter to its scorer.
      output: what a model wrote; `final_answer` is taken from it.
      entry: the task's entry, or its JSON as the corpus stores it.

    Returns:
      A score in [0, 1]; 1 is a right answer. Many tasks give small scores for answers that are
      wrong but well formed: compare with 1 for accuracy.

    Raises:
      ValueError: the task is unknown, or refuses its settings.
    """
    name, settings = (task, {}) if isinstance(task, str) else task
    dataset = _scorer(name, json.dumps(settings, sort_keys=True))
    record = json.loads(entry) if isinstance(entry, str | bytes) else entry
    answer = final_answer(output)
    reference = record["answer"].strip()
    if name in _EXECUTES_ANSWERS:
        return float(answer == reference)
    if not answer or (_NO_NUMBER.search(answer) and answer != reference):
        return 0.0
    try:
        value = float(dataset.score_answer(answer, record))
    except Exception:  # a scorer may fail in any way on text that it did not foresee
        return 0.0
    return value if 0.0 <= value <= 1.0 else 0.0


@functools.lru_cache(maxsize=256)
def _scorer(name: str, settings: str) -> Any:
    """The task's dataset, made once: some read files when they are made."""
    return create(name, json.loads(settings), size=1, seed=0)
