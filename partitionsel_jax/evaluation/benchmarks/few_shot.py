"""Few-shot prompts: which solved examples stand before a question, and how many of them fit."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

from partitionsel_jax.data.streams import generator
from partitionsel_jax.evaluation.benchmarks.questions import Question

# Where a model that was shown examples has begun to make up the next question.
_NEXT = "\nQuestion:"


@dataclasses.dataclass(frozen=True)
class Examples:
    """Solved questions that few-shot prompts take theirs from.

    Attributes:
      count: examples before a question; 0 puts the question by itself.
      pools: group -> its examples, in the order in which they are taken; "" for all.
      by_group: whether a question's examples are of its own group.
    """

    count: int = 0
    pools: Mapping[str, Sequence[Question]] = dataclasses.field(default_factory=dict, repr=False)
    by_group: bool = False

    @classmethod
    def drawn(
        cls, solved: Sequence[Question], count: int, *, seed: int, by_group: bool = False
    ) -> "Examples":
        """The examples in an order that the seed alone decides.

        Args:
          solved: the published training questions.
          count, by_group: see the class.
        """
        pools: dict[str, list[Question]] = {}
        for place in generator(seed, "few-shot examples").permutation(len(solved)):
            example = solved[place]
            pools.setdefault(example.group if by_group else "", []).append(example)
        return cls(count, pools, by_group)

    def of(self, question: Question) -> list[Question]:
        """The examples of a question, which is never among them.

        Raises:
          ValueError: there are too few.
        """
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


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A question as it is put to the model, before any template.

    Attributes:
      text: the examples that fitted, and the question.
      dropped: examples that did not fit.
      fits: whether it fits at all.
    """

    text: str
    dropped: int
    fits: bool


def make_prompt(question: Question, examples: Examples, fits: Callable[[str], bool]) -> Prompt:
    """The question behind as many of its examples as fit; the first ones go first.

    Without examples the prompt is the question alone. With them, each is "Question: ..." and
    "Answer: ..." on two lines, as the Language Model Evaluation Harness has it for GSM8K
    (github.com/EleutherAI/lm-evaluation-harness).

    Args:
      fits: prompt -> whether it leaves room for an answer.
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
    """What of an output answers the question: with examples, what comes before a next question."""
    return output.partition(_NEXT)[0] if examples.count else output
