"""The molecule tasks of Mol-Instructions that ask for molecules."""

from pathlib import Path

from partitionsel_jax.data.sources.rows import BadRow
from partitionsel_jax.data.sources.schemas import joined, molecule_metadata
from partitionsel_jax.evaluation.benchmarks.files import Row, read_rows
from partitionsel_jax.evaluation.benchmarks.questions import Question


def molecules(path: Path, split: str) -> list[Question]:
    """An array: instruction, input, output, metadata (JSON text with the task and the split).

    Rows of the other splits are left aside.

    Source: Fang et al. 2023, arXiv 2306.08018; github.com/zjunlp/Mol-Instructions.
    """
    questions = []
    for row in read_rows(path):
        if _split(row) == split:
            # The prompt of the training data: the input under the instruction.
            instruction, given = row.text("instruction"), row.text("input", default="")
            questions.append(
                Question(
                    str(row.number),
                    joined(instruction, given),
                    row.text("output"),
                    about=given or instruction,
                )
            )
    return questions


def has_molecule(question: Question) -> bool:
    """Whether the published answer is a molecule, which an answer can be compared with.

    Raises:
      ValueError: a package of the extra `evaluation` is not installed.
    """
    from partitionsel_jax.evaluation.molecules_decoding import NoMolecule, whole

    try:
        whole(question.reference)
    except NoMolecule:
        return False
    return True


def _split(row: Row) -> str:
    try:
        split = molecule_metadata(row.fields).get("split")
    except BadRow as error:
        raise row.error(f"the {error}") from None
    if not isinstance(split, str):
        raise row.error("expected metadata that name the split")
    return split
