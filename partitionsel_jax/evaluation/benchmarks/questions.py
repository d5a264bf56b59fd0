"""A benchmark's questions, and the prompts that put them to a model behind solved examples."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from partitionsel_jax.data.streams import derive, generator


@dataclasses.dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    Attributes:
      id: unique in its benchmark; the same whenever the same files are read.
      prompt: the question as it is put to a model, before any template.
      reference: the published answer, as its judge takes it.
      group: the part of the benchmark that is also reported by itself: a subject, a module, a
        task, a kind of question; "" where there are none.
      worked: the published solution that few-shot examples show; "" for the reference.
      entry: JSON of what else the judge needs; "" for nothing.
      about: what distinguishes it from others that are put in the same words; "" for the prompt.
    """

    id: str
    prompt: str
    reference: str
    group: str = ""
    worked: str = ""
    entry: str = ""
    about: str = ""


def limited(questions: Sequence[Question], limit: int, seed: int) -> list[Question]:
    """Draws at most `limit` (0: all) questions of all groups alike; more only adds to fewer.

    The seed and the ids decide which: where a few are missing, most of the others stay.
    """
    if not limit or limit >= len(questions):
        return list(questions)
    ranks = [derive(seed, f"question {question.id}") for question in questions]
    first = sorted(range(len(questions)), key=ranks.__getitem__)[:limit]
    return [questions[place] for place in sorted(first)]


def digest(questions: Iterable[Question]) -> str:
    """Makes a text that differs where any field of any question, or their order, does."""
    content = hashlib.sha256()
    for question in questions:
        content.update(json.dumps(dataclasses.astuple(question)).encode())
    return content.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Examples:
    """Solved questions that few-shot prompts take theirs from.

    Attributes:
      count: examples before a question; 0 puts the question by itself.
      pools: group -> its examples, in the order in which they are taken; "" for all.
      by_group: True if a question's examples are of its own group.
    """

    count: int = 0
    pools: Mapping[str, Sequence[Question]] = dataclasses.field(default_factory=dict, repr=False)
    by_group: bool = False

    @classmethod
    def drawn(
        cls, solved: Sequence[Question], count: int, *, seed: int, by_group: bool = False
    ) -> "Examples":
        """Puts the published training questions in an order that the seed alone decides."""
        pools: dict[str, list[Question]] = {}
        for place in generator(seed, "few-shot examples").permutation(len(solved)):
            example = solved[place]
            pools.setdefault(example.group if by_group else "", []).append(example)
        return cls(count, pools, by_group)

    def of(self, question: Question) -> list[Question]:
        """Takes the examples of a question, which is never among them; ValueError for too few."""
        pool = self.pools.get(question.group if self.by_group else "", ())
        others = (example for example in pool if example.prompt != question.prompt)
        found = list(itertools.islice(others, self.count))
        if len(found) < self.count:
            among = f" of the group {question.group!r}" if self.by_group else ""
            raise ValueError(
                f"expected {self.count} examples{among} for question {question.id!r}, got "
                f"{len(found)}; ask for fewer in config.few_shot"
            )
        return found


class Prompt(NamedTuple):
    """A question behind the examples that fitted, the number that did not, and if it fits at all.

    No template is applied yet.
    """

    text: str
    dropped: int
    fits: bool


def make_prompt(question: Question, examples: Examples, fits: Callable[[str], bool]) -> Prompt:
    """Puts a question behind as many of its examples as fit; the first ones go first.

    Without examples the prompt is the question alone. With them, each is "Question: ..." and
    "Answer: ..." on two lines, as the Language Model Evaluation Harness has it for GSM8K
    (github.com/EleutherAI/lm-evaluation-harness).

    Args:
      fits: prompt -> True if it leaves room for an answer.
    """
    if not examples.count:
        return Prompt(question.prompt, 0, fits(question.prompt))
    shots = [
        f"Question: {example.prompt}\nAnswer: {example.worked or example.reference}"
        for example in examples.of(question)
    ]
    asked = f"Question: {question.prompt}\nAnswer:"
    for dropped in range(examples.count + 1):
        text = "\n\n".join([*shots[dropped:], asked])
        if fits(text):
            return Prompt(text, dropped, True)
    return Prompt(asked, examples.count, False)


def own_answer(output: str, examples: Examples) -> str:
    """Cuts an output where a model that was shown examples goes on with a question of its own."""
    return output.partition("\nQuestion:")[0] if examples.count else output
