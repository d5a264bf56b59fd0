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


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings:
    """Benchmarks and how they are put to a model; configs/evaluation.py says what fields mean."""

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
        least = {f"few_shot.{name}": (count, 0) for name, count in self.few_shot.items()} | {
            "new_tokens": (self.new_tokens, 0),
            "batch": (self.batch, 1),
            "limit": (self.limit, 0),
            "reasoning_gym.questions": (self.reasoning_gym.questions, 1),
        }
        for name, (value, low) in least.items():
            not_below(name, value, low)
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

    def room(self, benchmark: Benchmark) -> int:
        """Most tokens of an answer."""
        return self.new_tokens or benchmark.new_tokens


def parse(config: Mapping[str, Any]) -> BenchmarkSettings:
    """Checks a whole evaluation config and freezes it.

    Raises:
      ValueError: an unknown or missing field, or a value out of its range, by name.
    """
    return run_settings.build(BenchmarkSettings, config, "")
