"""Exact-match accuracy of greedy answers, by the domains' own scorers."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from partitionsel_jax import data
from partitionsel_jax.evaluation.losses import batches


def answer_accuracy(
    generate: Callable[[np.ndarray, np.ndarray], Any],
    source: data.Source,
    tasks: Sequence[tuple[str, dict[str, Any]]],
    *,
    batch: int,
) -> dict[str, Any]:
    """Lets a model answer every question of a source, and scores what it wrote.

    Args:
      generate: (tokens i32[batch, T] of prompts, lengths i32[batch]) -> i32[batch, T] with the
        continuations, which may end at any of `source.tokenizer.stop_ids`.
      source: the questions, and the template that makes prompts of them.
      tasks: (name, arguments) of each domain, in the corpus's order.
      batch: prompts per call.

    Returns:
      {"accuracy": mean over the questions, "accuracy_per_domain": {name: mean}}; a question counts
      when its scorer gives the full score of 1.
    """
    tokenizer = source.tokenizer
    examples = source.examples(range(len(source)))
    tokens = np.full((len(examples), source.length), tokenizer.pad_id, np.int32)
    lengths = np.zeros(len(examples), np.int32)
    for row, example in enumerate(examples):
        # A prompt that fills the buffer would leave no room for an answer.
        prompt = data.encode_prompt(example.question, tokenizer, source.length - 1, source.template)
        tokens[row, : len(prompt)], lengths[row] = prompt, len(prompt)
    outputs = [
        np.asarray(generate(*piece))[:real] for piece, real in batches((tokens, lengths), batch)
    ]
    scores: dict[str, list[float]] = {name: [] for name, _ in tasks}
    for example, length, output in zip(examples, lengths, np.concatenate(outputs), strict=True):
        written = itertools.takewhile(
            lambda token: token not in tokenizer.stop_ids, output[length:].tolist()
        )
        task = tasks[example.domain]
        full = data.score(task, tokenizer.decode(written), example.entry) == 1.0
        scores[task[0]].append(float(full))
    return {
        "accuracy": float(np.mean([score for domain in scores.values() for score in domain])),
        "accuracy_per_domain": {name: float(np.mean(values)) for name, values in scores.items()},
    }
