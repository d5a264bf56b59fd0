"""The settings of an evaluation by benchmarks, as checked, frozen values."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from partitionsel_jax import data
from partitionsel_jax.config import settings as run_settings
from partitionsel_jax.config.checks import choice, not_below
from partitionsel_jax.data.generation import Task, canonical_tasks
from partitionsel_jax.evaluation import benchmarks
from partitionsel_jax.evaluation.benchmarks import BENCHMARKS, PROCEDURAL, Benchmark
from partitionsel_jax.models.config import DTYPES


@dataclasses.dataclass(frozen=True)
class ProceduralSettings:
    """Questions of reasoning-gym: task name -> arguments, questions of each task, their seed."""

    tasks: Mapping[str, Mapping[str, Any]]
    questions: int
    seed: int

    def __post_init__(self):
        not_below("reasoning_gym.questions", self.questions, 1)


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings:
    """Benchmarks and how they are put to a model; the fields of configs/evaluation.py.

    Attributes:
      benchmarks: names.
      directory: the folder that holds a folder of each benchmark's files.
      few_shot: benchmark -> examples in a prompt, for those that differ from the benchmark's own.
      new_tokens: most tokens of an answer; 0 for the benchmark's own.
      batch: prompts per call.
      limit: most questions of a benchmark; 0 for all.
      template: how a question is put to the model; empty for the one of the run, and for a
        checkpoint "chat" where its tokenizer has a chat template, else "plain".
      dtype: of a checkpoint's weights and computation; a run keeps its own.
      seed: decides which questions are left with a limit, and which examples are shown.
      reasoning_gym: the questions of the benchmark of that name.
    """

    benchmarks: tuple[str, ...]
    directory: str
    few_shot: Mapping[str, int]
    new_tokens: int
    batch: int
    limit: int
    template: str
    dtype: str
    seed: int
    reasoning_gym: ProceduralSettings

    def __post_init__(self):
        if not self.benchmarks:
            raise ValueError(
                f"no benchmark named: set --benchmarks to some of {', '.join(BENCHMARKS)}"
            )
        repeated = {name for name in self.benchmarks if self.benchmarks.count(name) > 1}
        if repeated:
            raise ValueError(f"benchmarks {sorted(repeated)} are named twice: name each once")
        for name in (*self.benchmarks, *self.few_shot):
            benchmarks.named(name)
        for name, count in self.few_shot.items():
            not_below(f"few_shot.{name}", count, 0)
        not_below("new_tokens", self.new_tokens, 0)
        not_below("batch", self.batch, 1)
        not_below("limit", self.limit, 0)
        choice("template", self.template, ("", *data.TEMPLATES))
        choice("dtype", self.dtype, DTYPES)
        if not self.directory and set(self.benchmarks) - {PROCEDURAL}:
            raise ValueError(
                "directory is empty: set --config.directory to the folder that holds a folder of "
                "files for each benchmark"
            )

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of reasoning-gym, checked."""
        return canonical_tasks(self.reasoning_gym.tasks.items())

    def shots(self, benchmark: Benchmark) -> int:
        return self.few_shot.get(benchmark.name, benchmark.few_shot)


def parse(config: Mapping[str, Any]) -> BenchmarkSettings:
    """Checks a whole evaluation config and freezes it.

    Raises:
      ValueError: an unknown or missing field, or a value out of its range, by name.
    """
    return run_settings.build(BenchmarkSettings, config, "")
