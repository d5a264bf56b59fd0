"""Accuracy of greedy answers, by the scorer of each domain."""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from partitionsel_jax import data
from partitionsel_jax.evaluation.judged import judged
from partitionsel_jax.evaluation.losses import batches
from partitionsel_jax.evaluation.scoring import BadReference, Scorer


def answer_accuracy(
    generate: Callable[[np.ndarray, np.ndarray], Any],
    source: data.Source,
    scorers: Mapping[str, Scorer],
    *,
    batch: int,
) -> dict[str, Any]:
    """Lets a model answer every question of a source, and scores what it wrote.

    Args:
      generate: (tokens i32[batch, T] of prompts, lengths i32[batch]) -> i32[batch, T] with the
        continuations, which may end at any of `source.tokenizer.stop_ids`.
      source: the questions, and the template that makes prompts of them.
      scorers: domain -> what says whether an answer is right, in the corpus's order.
      batch: prompts per call.

    Returns:
      {"accuracy": share of right answers, "accuracy_per_domain": {name: share},
      "questions_per_domain": {name: number}, "cut_prompts": questions that were cut,
      "bad_references": those whose reference its scorer cannot read, and which count as wrong}.
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
    outputs = [
        np.asarray(generate(*piece))[:real] for piece, real in batches((tokens, lengths), batch)
    ]
    names = list(scorers)
    scores: dict[str, list[float]] = {name: [] for name in names}
    for example, length, output in zip(examples, lengths, np.concatenate(outputs), strict=True):
        written = itertools.takewhile(
            lambda token: token not in tokenizer.stop_ids, output[length:].tolist()
        )
        name, right = names[example.domain], False
        try:
            judge = functools.partial(scorers[name], tokenizer.decode(written), example)
            right = judged(judge, lambda: False, f"{name}, example {example.id}")
        except BadReference:
            bad += 1
        scores[name].append(float(right))
    return {
        "accuracy": float(np.mean([score for domain in scores.values() for score in domain])),
        "accuracy_per_domain": {name: float(np.mean(values)) for name, values in scores.items()},
        "questions_per_domain": {name: len(values) for name, values in scores.items()},
        "cut_prompts": cut,
        "bad_references": bad,
    }
