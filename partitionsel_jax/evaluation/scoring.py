"""Whether an answer to a corpus's own test question is right, by what its source is judged by."""

import importlib.util
from collections.abc import Callable, Mapping

from partitionsel_jax import data

# (output, example) -> whether the output is right; raises `BadReference` where none can be.
Scorer = Callable[[str, data.Example], bool]


class BadReference(ValueError):
    """A reference that its scorer cannot read, so that no answer can be told right from wrong."""


def _by_text(output: str, example: data.Example) -> bool:
    """The final answer, letter by letter but for white space around it."""
    return data.final_answer(output) == data.final_answer(example.answer)


def _by_value(output: str, example: data.Example) -> bool:
    """The final answer as a mathematical object."""
    from partitionsel_jax.evaluation.answers import is_correct

    return is_correct(output, example.answer, benchmark="metamathqa")


def _by_molecule(output: str, example: data.Example) -> bool:
    """The same molecules."""
    from partitionsel_jax.evaluation import molecules
    from partitionsel_jax.evaluation.molecules_decoding import NoMolecule

    try:
        return molecules.measure(output, example.answer).exact
    except NoMolecule as error:
        raise BadReference(str(error)) from error


SCORERS: Mapping[str, Scorer] = {
    "text": _by_text,
    "mathematics": _by_value,
    "molecules": _by_molecule,
}

_PACKAGES = {
    "text": (),
    "mathematics": ("math_verify",),
    "molecules": ("rdkit", "selfies", "rapidfuzz", "sacrebleu"),
}


def check_scorer(name: str) -> Scorer:
    """The scorer of a name.

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
    """The scorer of a reasoning-gym task, whose full score of 1 is right."""
    return lambda output, example: data.score(task, output, example.entry) == 1.0
