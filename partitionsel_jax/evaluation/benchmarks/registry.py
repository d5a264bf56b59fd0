"""The benchmarks by name: which files they are read from, and how outputs are judged."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from partitionsel_jax.evaluation.benchmarks import choices, judging, molecule_tasks, word_problems
from partitionsel_jax.evaluation.benchmarks.files import find
from partitionsel_jax.evaluation.benchmarks.judging import Judge
from partitionsel_jax.evaluation.benchmarks.questions import Question

# The name of the benchmark whose questions are generated, not read.
PROCEDURAL = "reasoning_gym"

Reader = Callable[[Path, str], list[Question]]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
      name: its key in `BENCHMARKS`, and the folder of its files.
      judge: (output, question) -> what the output is worth.
      scorer: the one of `evaluation.SCORERS` that needs the packages that it needs.
      read: (file, "test" or "train") -> the file's questions; its docstring tells the format and
        the source. None where questions are generated.
      files: where its questions are, relative to its folder; the first pattern that is found.
      examples: likewise, its published training questions for few-shot prompts; () for none.
      by_group: whether examples are of the question's own group.
      few_shot: examples in a prompt unless a config says otherwise; models that were tuned on
        instructions are asked without.
      new_tokens: most tokens of an answer unless a config says otherwise.
      metrics: the scores that its judge gives.
      primary: the one of them that stands for it.
      over_all: saved outputs -> metrics that are no means over questions.
      judgeable: whether answers can be compared with a question's reference.
    """

    name: str
    judge: Judge
    scorer: str = "text"
    read: Reader | None = None
    files: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    by_group: bool = False
    few_shot: int = 0
    new_tokens: int = 512
    metrics: tuple[str, ...] = ("accuracy",)
    primary: str = "accuracy"
    over_all: Callable[[Sequence[Mapping[str, Any]]], dict[str, float]] | None = None
    judgeable: Callable[[Question], bool] = lambda question: True


def _mathematical(name: str, read: Reader, *files: str, **fields) -> Benchmark:
    return Benchmark(name, judging.mathematical(name), "mathematics", read, files, **fields)


def _molecular(name: str, file: str) -> Benchmark:
    # One file holds both splits.
    return Benchmark(
        name,
        judging.molecular,
        "molecules",
        molecule_tasks.molecules,
        (file,),
        examples=(file,),
        metrics=judging.MOLECULAR,
        primary="exact",
        over_all=judging.corpus_bleu,
        judgeable=molecule_tasks.has_molecule,
    )


BENCHMARKS: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        _mathematical(
            "gsm8k",
            word_problems.gsm8k,
            "test.jsonl",
            "main/test-*.parquet",
            examples=("train.jsonl", "main/train-*.parquet"),
        ),
        _mathematical(
            "math",
            word_problems.mathematics,
            "test/*/*.json",
            "test.jsonl",
            examples=("train/*/*.json", "train.jsonl"),
            new_tokens=1024,
        ),
        _mathematical(
            "numglue",
            word_problems.numglue,
            "NumGLUE_test.json",
            examples=("NumGLUE_train.json",),
            by_group=True,
        ),
        _mathematical("svamp", word_problems.svamp, "SVAMP.json"),
        _mathematical("simuleq", word_problems.simuleq, "simuleq.json", "SimulEq*.json"),
        _mathematical(
            "deepmind",
            word_problems.deepmind,
            "interpolate/*.txt",
            examples=("train-easy/*.txt",),
            by_group=True,
        ),
        _mathematical("aqua", choices.aqua, "test.json", examples=("train.json",)),
        _mathematical("sat_math", choices.sat_math, "sat-math.jsonl"),
        _mathematical(
            "mmlu_math", choices.mmlu, "test/*_test.csv", examples=("dev/*_dev.csv",), by_group=True
        ),
        Benchmark(PROCEDURAL, judging.by_its_task, by_group=True, new_tokens=256),
        _molecular("mol_design", "description_guided_molecule_design.json"),
        _molecular("mol_forward", "forward_reaction_prediction.json"),
        _molecular("mol_reagent", "reagent_prediction.json"),
        _molecular("mol_retrosynthesis", "retrosynthesis.json"),
    )
}


def named(name: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
      ValueError: the name is unknown.
    """
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown benchmark {name!r}{hint}; choose from {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def read_questions(benchmark: Benchmark, directory: Path) -> list[Question]:
    """The questions of a benchmark, from the folder of its name in a directory.

    Raises:
      ValueError: its files are not there, or damaged; no question; an id that came twice.
    """
    return _read(benchmark, benchmark.files, directory, "test")


def read_examples(benchmark: Benchmark, directory: Path) -> list[Question]:
    """Its published training questions, which few-shot prompts show solved.

    Raises:
      ValueError: as `read_questions`, or it has none.
    """
    if not benchmark.examples:
        raise ValueError(
            f"{benchmark.name} was published without training questions that could be examples: "
            f"set config.few_shot.{benchmark.name}=0"
        )
    return _read(benchmark, benchmark.examples, directory, "train")


def _read(
    benchmark: Benchmark, patterns: tuple[str, ...], directory: Path, split: str
) -> list[Question]:
    if benchmark.read is None:
        raise ValueError(f"the questions of {benchmark.name} are generated: there is none to read")
    folder = directory / benchmark.name
    paths = find(folder, patterns, f"{split} questions of {benchmark.name}")
    questions = [question for path in paths for question in benchmark.read(path, split)]
    if not questions:
        raise ValueError(
            f"no {split} question of {benchmark.name} in {', '.join(map(str, paths[:3]))}: "
            "compare it with the published file"
        )
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise ValueError(
                f"{benchmark.name}: the id {question.id!r} came twice in {folder}; keep one file "
                "or one row of it"
            )
        seen.add(question.id)
    return questions
