"""The columns of a user's files, found by the names that people give them."""

from collections.abc import Iterable, Mapping, Sequence

from partitionsel_jax.data.sources.files import SourceFile
from partitionsel_jax.data.sources.reading import column_names
from partitionsel_jax.data.sources.schemas import Columns

# Usual names, the likeliest first.
USUAL = {
    "prompt": ("prompt", "instruction", "question", "query", "problem"),
    "input": ("input", "context"),
    "response": ("response", "completion", "output", "answer", "solution", "chosen"),
    "domain": ("domain", "task", "category", "type", "source", "dataset"),
    "messages": ("messages", "conversations", "conversation"),
}


def find_columns(files: Sequence[SourceFile], given: Mapping[str, str]) -> Columns:
    """Finds which columns hold what, in the first rows of every file.

    Of a conversation and a pair of prompt and response, the conversation is taken. A column counts
    where all files have it; that of an instruction's input, where one has it.

    Args:
      files: of the source.
      given: fields of `Columns` that the user has named; "" for one that is not to be used.

    Raises:
      ValueError: neither a conversation nor a pair is found.
    """
    seen = [names for file in files if (names := set(column_names(file)))]
    everywhere = set.intersection(*seen) if seen else set()
    anywhere = set().union(*seen)

    def usual(field: str, there: Iterable[str]) -> str:
        if field in given:
            return given[field]
        taken = set(given.values())
        return next((name for name in USUAL[field] if name in there and name not in taken), "")

    domain = usual("domain", everywhere)
    pair = given.get("prompt") or given.get("response")
    if messages := "" if pair else usual("messages", everywhere):
        return Columns(prompt="", response="", domain=domain, messages=messages)
    found = Columns(
        prompt=usual("prompt", everywhere),
        input=usual("input", anywhere),
        response=usual("response", everywhere),
        domain=domain,
    )
    if missing := [name for name in ("prompt", "response") if not getattr(found, name)]:
        raise ValueError(
            f"expected a column of {' and of '.join(missing)} by one of the usual names "
            f"({'; '.join(', '.join(USUAL[name]) for name in missing)}), or messages, in every "
            f"file; got {', '.join(sorted(anywhere)) or 'none'}: name the columns"
        )
    return found
