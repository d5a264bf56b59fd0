"""Published benchmarks: questions from their own files, and how outputs are judged.

benchmark = benchmarks.named("gsm8k")
questions = benchmarks.read_questions(benchmark, Path("DIRECTORY"))  # DIRECTORY/gsm8k/test.jsonl
benchmark.judge("It is 18.", questions[0]).scores  # {"accuracy": 1.0}
"""

from partitionsel_jax.evaluation.benchmarks.questions import Examples, Question, digest, limited
from partitionsel_jax.evaluation.benchmarks.registry import (
    BENCHMARKS,
    BINARY,
    PROCEDURAL,
    Benchmark,
    Judgement,
    generated,
    named,
    passed_over,
    read_questions,
)

__all__ = [
    "BENCHMARKS",
    "BINARY",
    "PROCEDURAL",
    "Benchmark",
    "Examples",
    "Judgement",
    "Question",
    "digest",
    "generated",
    "limited",
    "named",
    "passed_over",
    "read_questions",
]
