"""Scorers of answers to a corpus's own test questions, and the accuracy of a model by them."""

import functools
import importlib.util
import itertools
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from partitionsel_jax import data
from partitionsel_jax.evaluation import molecules
from partitionsel_jax.evaluation.answers import is_correct
from partitionsel_jax.evaluation.losses import batches
from partitionsel_jax.file_errors import one_line
from partitionsel_jax.time_limited import NotStarted

# (output, example) -> True for a right output; raises `molecules.NoMolecule` where none can be.
Scorer = Callable[[str, data.Example], bool]

_LOG = logging.getLogger(__name__)
T = TypeVar("T")

SCORERS: Mapping[str, Scorer] = {
    "text": lambda output, example: data.final_answer(output) == data.final_answer(example.answer),
    "mathematics": lambda output, example: is_correct(output, example.answer, "metamathqa"),
    "molecules": lambda output, example: molecules.compare(output, example.answer).exact,
}
_PACKAGES = {
    "text": (),
    "mathematics": ("math_verify",),
    "molecules": ("rdkit", "selfies", "rapidfuzz", "sacrebleu"),
}


def check_scorer(name: str) -> Scorer:
    """Looks up a scorer.

    Raises:
      ValueError: the name is unknown, or a package that it needs is not installed.
    """
    if name not in SCORERS:
        raise ValueError(f"unknown scorer {name!r}; choose one of {', '.join(SCORERS)}")
    missing = [package for package in _PACKAGES[name] if not importlib.util.find_spec(package)]
    if missing:
        raise ValueError(
            f"the scorer {name!r} needs {', '.join(missing)}: pip install -e "
            "'.[evaluation]' in the clone"
        )
    return SCORERS[name]


def task_scorer(task: tuple[str, dict]) -> Scorer:
    """Makes the scorer of a reasoning-gym task, whose full score of 1 is right."""
    return lambda output, example: data.score(task, output, example.entry) == 1.0


def judged(judge: Callable[[], T], wrong: Callable[[], T], row: str) -> T:
    """Judges one output; every judgement passes through here, so that none ends an evaluation.

    An output is any text, and a scorer is other people's code: whatever it raises over an output
    counts as a wrong answer, and a warning names the row. ImportError and NotStarted pass through,
    as no answer at all could be judged.
    """
    try:
        return judge()
    except (ImportError, NotStarted):
        raise
    except Exception as error:
        _LOG.warning("%s: the scorer failed (%s); it counts as wrong", row, one_line(error))
        return wrong()


def answer_accuracy(
    generate: Callable[[np.ndarray, np.ndarray], Any],
    source: data.Source,
    scorers: Mapping[str, Scorer],
    *,
    batch: int,
) -> dict[str, Any]:
    """Lets a model answer every question of a source greedily, and scores what it wrote.

    Args:
      generate: (tokens i32[batch, T] of prompts, lengths i32[batch]) -> i32[batch, T] with the
        continuations, which may end at any of `source.tokenizer.stop_ids`.
      source: the questions, and the template that makes prompts of them.
      scorers: domain -> its scorer, in the corpus's order.
      batch: prompts per call.

    Returns:
      {"accuracy": share of right answers, "accuracy_per_domain": {name: share},
      "questions_per_domain": {name: number}, "cut_prompts": questions that were cut,
      "bad_references": those whose reference is no molecule, and which count as wrong}.
    """
    tokenizer, template = source.tokenizer, data.TEMPLATES[source.template]
    examples = source.examples(range(len(source)))
    tokens = np.full((len(examples), source.length), tokenizer.pad_id, np.int32)
    lengths = np.zeros(len(examples), np.int32)
    cut = bad = 0
    for row, example in enumerate(examples):
        # As in training: what the reference and the token that closes it take is left for answers.
        room = source.length - len(tokenizer.encode(example.response)) - 1
        prompt = data.encode_prompt(example.prompt, tokenizer, room, source.template)
        cut += len(template(example.prompt, tokenizer)) > len(prompt)
        tokens[row, : len(prompt)], lengths[row] = prompt, len(prompt)
    pieces = batches((tokens, lengths), batch)
    outputs = np.concatenate([np.asarray(generate(*piece))[:real] for piece, real in pieces])

    def is_right(name: str, output: str, example: data.Example) -> bool:
        nonlocal bad
        try:
            return scorers[name](output, example)
        except molecules.NoMolecule:
            bad += 1
            return False

    names, scores = list(scorers), {name: list[bool]() for name in scorers}
    for example, length, output in zip(examples, lengths, outputs.tolist(), strict=True):
        written = itertools.takewhile(lambda one: one not in tokenizer.stop_ids, output[length:])
        name = names[example.domain]
        judge = functools.partial(is_right, name, tokenizer.decode(written), example)
        scores[name].append(judged(judge, lambda: False, f"{name}, example {example.id}"))
    scores = {name: values for name, values in scores.items() if values}
    return {
        "accuracy": float(np.mean([score for domain in scores.values() for score in domain])),
        "accuracy_per_domain": {name: float(np.mean(values)) for name, values in scores.items()},
        "questions_per_domain": {name: len(values) for name, values in scores.items()},
        "cut_prompts": cut,
        "bad_references": bad,
    }
