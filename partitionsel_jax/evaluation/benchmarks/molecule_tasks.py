"""The molecule tasks of Mol-Instructions that ask for molecules."""

import json
from pathlib import Path

from partitionsel_jax.evaluation.benchmarks.files import Row, read_rows
from partitionsel_jax.evaluation.benchmarks.questions import Question


def molecules(path: Path, split: str) -> list[Question]:
    """An array: instruction, input, output, metadata (JSON text with the task and the split).

    Rows of the other splits are left aside. A test row whose output is no molecule is an error.

    Source: Fang et al. 2023, arXiv 2306.08018; github.com/zjunlp/Mol-Instructions.
    """
    from partitionsel_jax.evaluation import molecules as metrics

    questions = []
    for row in read_rows(path):
        if _split(row) == split:
            # The prompt of the training data: the input under the instruction.
            lines = (row.text("instruction"), row.text("input", default=""))
            prompt = "\n".join(filter(None, lines))
            questions.append(Question(str(row.number), prompt, row.text("output")))
            if split == "test":
                try:
                    metrics.compare("", row.text("output"))
                except ValueError as error:
                    raise row.error(str(error)) from None
    return questions


def _split(row: Row) -> str:
    metadata = row.fields.get("metadata")
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except ValueError as error:
            raise row.error(f"the metadata are not valid JSON ({error})") from None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("split"), str):
        raise row.error("expected metadata that name the split")
    return metadata["split"]
