"""Questions of reasoning-gym, generated from (task, seed, number) and scored by the task itself."""

import json
from collections.abc import Collection, Sequence

from partitionsel_jax.data.generation import Entry, Task, numbered_entries
from partitionsel_jax.data.scoring import score
from partitionsel_jax.data.templates import response_text
from partitionsel_jax.evaluation.benchmarks.questions import Question


def generated(
    tasks: Sequence[Task], count: int, seed: int, seen: Collection[str] = frozenset()
) -> list[Question]:
    """`count` distinct questions of every task: the first ones that were not seen.

    "task/number" names the same question whatever was seen, so that a model that was trained on
    some of them and one that was not are compared on all others.

    Args:
      tasks: (name, settings) of each, as `canonical_tasks` gives them.
      count: questions of each.
      seed: of the questions.
      seen: questions that a model has been trained on.

    Raises:
      ValueError: a task with too few distinct questions beside the seen ones, or an answer that
        could not be found again in an output.
    """
    return [
        _question(task, number, entry)
        for task in tasks
        for number, entry in numbered_entries(task, count, seed, seen)
    ]


def passed_over(questions: Sequence[Question]) -> int:
    """How many seen questions stood before the last ones of every task in `generated`."""
    last = {question.group: int(question.id.rpartition("/")[2]) for question in questions}
    return sum(last.values()) - len(questions)


def score_of(output: str, question: Question) -> float:
    """The score in [0, 1] that the question's task gives to an output."""
    record = json.loads(question.entry)
    return score((record["task"], record["settings"]), output, record["entry"])


def _question(task: Task, number: int, entry: Entry) -> Question:
    name, settings = task
    record = {"task": name, "settings": settings, "entry": entry}
    stored = json.dumps(record, ensure_ascii=False, default=str)
    reference = response_text(entry["answer"])
    return Question(f"{name}/{number}", entry["question"], reference, name, entry=stored)
