"""Questions of reasoning-gym, generated from (task, number, seed) and scored by the task itself."""

import json
from collections.abc import Collection, Sequence

from partitionsel_jax.data.generation import Entry, Task, distinct_entries
from partitionsel_jax.data.scoring import score
from partitionsel_jax.evaluation.benchmarks.questions import Question


def generated(
    tasks: Sequence[Task], count: int, seed: int, seen: Collection[str] = frozenset()
) -> list[Question]:
    """`count` distinct questions of every task; a function of the arguments alone.

    The seed's questions are drawn independently of those of any other seed, but a task with few
    distinct questions gives some of them again: `seen` leaves those out.

    Args:
      tasks: (name, settings) of each, as `canonical_tasks` gives them.
      count: questions of each.
      seed: of the questions.
      seen: questions of these tasks that a model has been trained on.

    Raises:
      ValueError: a task with too few distinct questions beside the seen ones, or one whose scorer
        does not accept its own answer.
    """
    return [
        _question(task, number, entry)
        for task in tasks
        for number, entry in enumerate(_unseen(task, count, seed, seen), 1)
    ]


def score_of(output: str, question: Question) -> float:
    """The score in [0, 1] that the question's task gives to an output."""
    record = json.loads(question.entry)
    return score((record["task"], record["settings"]), output, record["entry"])


def _unseen(task: Task, count: int, seed: int, seen: Collection[str]) -> list[Entry]:
    asked = count
    while True:
        entries = distinct_entries(task, asked, seed)
        fresh = [entry for entry in entries if entry["question"] not in seen]
        if len(fresh) >= count:
            return fresh[:count]
        asked += count - len(fresh)


def _question(task: Task, number: int, entry: Entry) -> Question:
    name, settings = task
    record = {"task": name, "settings": settings, "entry": entry}
    stored = json.dumps(record, ensure_ascii=False, default=str)
    question = Question(f"{name}/{number}", entry["question"], entry["answer"], name, entry=stored)
    if score_of(question.reference, question) != 1.0:
        raise ValueError(
            f"task {name} does not give its own answer {entry['answer']!r} full marks once the "
            "entry has gone through JSON; leave the task out"
        )
    return question
