"""reasoning-gym as a TFDS builder: array_record files, read and written without TensorFlow."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from partitionsel_jax.data.generation import Task, canonical_tasks, distinct_entries, worked_steps
from partitionsel_jax.data.sources.splitting import SPLITS
from partitionsel_jax.data.sources.writing import prepared
from partitionsel_jax.data.templates import response_text


@dataclasses.dataclass(eq=False)
class ReasoningGymConfig(tfds.core.BuilderConfig):
    """A config with a hash of all that decides the rows as its name; `configure` makes it."""

    tasks: tuple[Task, ...] = ()  # a task's place is its domain id
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)  # split -> rows per task
    seed: int = 0


class ReasoningGym(tfds.core.GeneratorBasedBuilder):
    """Questions of reasoning-gym tasks with worked steps, answers and what scores them.

    Features: id (unique over all splits), domain (the task's place), question, response (worked
    steps and the final answer, or the answer alone), answer, entry (JSON of the reasoning-gym
    entry, for `score`). The names of the domains are in `builder.info.metadata["domains"]`.
    No question is in two splits.
    """

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded. Looking for checksums, TFDS would import a package it does not require.
    url_infos = None

    def _info(self) -> tfds.core.DatasetInfo:
        texts = dict.fromkeys(("question", "response", "answer", "entry"), tfds.features.Text())
        return tfds.core.DatasetInfo(
            builder=self,
            description="Procedurally generated reasoning tasks with verifiable answers.",
            homepage="https://github.com/open-thought/reasoning-gym",
            features=tfds.features.FeaturesDict({"id": np.int64, "domain": np.int64, **texts}),
            metadata=tfds.core.MetadataDict(
                domains=[name for name, _ in self.builder_config.tasks]
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        """Generates every task once and cuts it, so that the splits share no question."""
        config = self.builder_config
        total = sum(config.sizes.values())
        records: dict[str, list[dict]] = {split: [] for split in config.sizes}
        for domain, task in enumerate(config.tasks):
            rows = iter(enumerate(distinct_entries(task, total, config.seed), domain * total))
            for split, size in config.sizes.items():
                records[split] += [_record(task, domain, *next(rows)) for _ in range(size)]
        return {split: self._generate_examples(rows) for split, rows in records.items()}

    def _generate_examples(self, records: list[dict]) -> Iterator[tuple[int, dict]]:
        return ((record["id"], record) for record in records)


def _record(task: Task, domain: int, number: int, entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": number,
        "domain": domain,
        "question": entry["question"],
        "response": response_text(entry["answer"], worked_steps(task[0], entry)),
        "answer": entry["answer"],
        "entry": json.dumps(entry, ensure_ascii=False, default=str),
    }


def configure(
    tasks: Iterable[str | Task], train: int, validation: int, test: int, seed: int
) -> ReasoningGymConfig:
    """Makes the builder config of these rows; any change of them changes its name."""
    sizes = dict(zip(SPLITS, (train, validation, test), strict=True))
    for split, size in sizes.items():
        if size < 1:
            raise ValueError(f"expected at least 1 row per task in {split}, got {size}")
    pairs = canonical_tasks(tasks)
    content = {
        "tasks": pairs,
        "sizes": sizes,
        "seed": int(seed),
        "builder": str(ReasoningGym.VERSION),
        "reasoning_gym": importlib.metadata.version("reasoning-gym"),
        "template": response_text("answer", steps="steps"),
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return ReasoningGymConfig(
        name=f"{len(pairs)}-tasks-{digest[:16]}", tasks=pairs, sizes=sizes, seed=int(seed)
    )


def prepare(
    tasks: Iterable[str | Task],
    *,
    train: int,
    validation: int,
    test: int,
    seed: int,
    directory: str | os.PathLike[str],
) -> ReasoningGym:
    """Generates and writes the corpus, unless `directory` has it already.

    A process killed half-way leaves nothing that the next call would take for the corpus.

    Args:
      tasks: reasoning-gym task names or (name, settings) pairs; one domain each.
      train, validation, test: rows per task and split.
      seed: data seed.
      directory: TFDS data directory; every choice of the arguments has its own place in it.

    Returns:
      The builder, ready for `as_data_source` and `load`.

    Raises:
      ValueError: sizes or tasks that cannot be had, or prepared files that are not complete.
    """
    config = configure(tasks, train, validation, test, seed)
    builder = prepared(
        functools.partial(ReasoningGym, config=config, data_dir=os.fspath(directory))
    )
    found = {split: info.num_examples for split, info in builder.info.splits.items()}
    wanted = {split: size * len(config.tasks) for split, size in config.sizes.items()}
    if found != wanted:
        raise ValueError(
            f"expected {wanted} rows in {builder.data_dir}, got {found}; delete that directory "
            "and call again"
        )
    return builder
