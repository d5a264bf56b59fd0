"""How a row of each published format becomes a row of ours."""

import collections
import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from partitionsel_jax.data.sources.duplicates import Prompt
from partitionsel_jax.data.sources.raw_rows import INVALID_UTF8
from partitionsel_jax.data.templates import final_answer

METAMATHQA_DOMAINS = tuple(
    f"{problems}_{augmentation}"
    for problems in ("GSM", "MATH")
    for augmentation in ("AnsAug", "Rephrased", "SV", "FOBAR")
)
MOLECULE_DOMAINS = (
    "description_guided_molecule_design",
    "forward_reaction_prediction",
    "reagent_prediction",
    "retrosynthesis",
)
# Published beside them, with text or numbers instead of molecules as outputs.
_OTHER_MOLECULE_TASKS = ("molecular_description_generation", "property_prediction")
_FINAL_ANSWER = "The answer is:"
# ShareGPT's names of the roles.
_ROLES = {"human": "user", "gpt": "assistant"}
# What errors call the list of domains that are wanted: in a configuration, and in Python.
DOMAINS = "data.domains (`domains` of `prepare_files`)"
_LISTED = 10
# White space, control characters, and what Unicode has shown as nothing: the default ignorable code
# points, and the blank of Braille.
_VISIBLE = re.compile(
    "[^\\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
    "\U000e0000-\U000e0fff]"
)
# Molecules of SELFIES symbols, joined by dots.
_SELFIES = re.compile(r"(?:\[[!-Z\\^-~]+\])+(?:\.(?:\[[!-Z\\^-~]+\])+)*")
# `json.dumps` would make an encoder for every row.
_entry_text = json.JSONEncoder(ensure_ascii=False).encode


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of the columns of a user's own files; "" for one that is not used.

    Attributes:
      prompt: the question or instruction.
      input: what the instruction is about; may be empty or absent in a row.
      response: what is learnt.
      domain: the row's domain; without such a column all rows are of one domain, "all".
      messages: a conversation, instead of prompt and response: a list of {"role", "content"} or
        ShareGPT's {"from", "value"}, or JSON of one. The last message of the assistant is the
        response.
    """

    prompt: str = "prompt"
    input: str = ""
    response: str = "response"
    domain: str = "domain"
    messages: str = ""


class Row(NamedTuple):
    """A row of any source.

    Attributes:
      domain: its name.
      question, response, answer: as `Example` has them.
      messages: JSON of the conversation up to the response; empty where that is the question alone.
      entry: what else was published with the row.
      group: what no two splits may share: the question that the row was made of.
      compared: what near-duplicates are looked for in; exact copies, in the whole question.
      test: whether its publishers meant the row for testing; None where they do not say.
    """

    domain: str
    question: str
    response: str
    answer: str
    messages: str
    entry: Mapping[str, str]
    group: str
    compared: str
    test: bool | None = None

    @property
    def prompt(self) -> Prompt:
        """What duplicates of it are looked for in."""
        return Prompt(self.question, self.compared)

    @property
    def texts(self) -> dict[str, str]:
        """What a record holds of it, beside its numbers."""
        return {
            "question": self.question,
            "response": self.response,
            "answer": self.answer,
            "messages": self.messages,
            "entry": _entry_text(self.entry),
        }


class BadRow(ValueError):
    """A row that cannot be used; the message is the reason."""


class SkippedRow(ValueError):
    """A row that is none of this source's, and not at fault; the message says what it is of."""


@dataclasses.dataclass(frozen=True)
class Schema:
    """What is known of a kind of source.

    Attributes:
      parse: (fields, stem of the file) -> row; raises `BadRow` and `SkippedRow`.
      columns: those that every file must have.
      optional: those that rows may lack, but not all of them.
      remedy: what to do about a column that is not there.
      domains: all that there are, in order; empty where the rows decide.
      repository: where it is published, as "owner/name" of a hub; empty where it is not.
      patterns: the files that are downloaded from a repository.
      leave_out: stems of published files that hold nothing of it.
    """

    parse: Callable[[Mapping[str, Any], str], Row]
    columns: tuple[str, ...]
    optional: tuple[str, ...] = ()
    remedy: str = "name the columns that are there"
    domains: tuple[str, ...] = ()
    repository: str = ""
    patterns: tuple[str, ...] = ("*.json", "*.jsonl", "*.csv", "*.parquet", "*.gz", "*.zip")
    leave_out: tuple[str, ...] = ()


def schema_of(kind: str, columns: Columns) -> Schema:
    """The schema of a kind; the columns matter to instructions only.

    Raises:
      ValueError: an unknown kind, or columns that lack prompt or response, or take them from one.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of source {kind!r}; choose one of {', '.join(KINDS)}")
    if kind != "instructions":
        if columns != Columns():
            raise ValueError(
                f"expected no columns for {kind}, got {columns}; its format is fixed: use the kind "
                "instructions for files of your own"
            )
        return _PUBLISHED[kind]
    if not columns.messages and not (columns.prompt and columns.response):
        raise ValueError(
            f"expected the columns of prompt and response, or of messages, got {columns}; name them"
        )
    if not columns.messages and columns.response in (columns.prompt, columns.input):
        raise ValueError(
            f"expected the response in a column of its own, got {columns.response!r} for it and "
            "for the prompt or input; name another one (data.columns.response)"
        )
    needed, optional = [columns.prompt, columns.response, columns.domain], [columns.input]
    if columns.messages:
        needed, optional = [columns.messages, columns.domain], []

    def parse(fields: Mapping[str, Any], stem: str) -> Row:
        return _instruction(fields, columns)

    return Schema(parse, tuple(filter(None, needed)), tuple(filter(None, optional)))


def listed(names: Iterable[str], separator: str = ", ") -> str:
    """Names for an error: the first ten, and how many there are more."""
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return separator.join(names[:_LISTED]) + more


def domain_order(kind: str, schema: Schema, domains: Sequence[str]) -> tuple[str, ...]:
    """The domains in order: those asked for, or all that the kind has.

    Raises:
      ValueError: domains twice, or that the kind does not have.
    """
    chosen = tuple(domains)
    twice = [name for name, count in collections.Counter(chosen).items() if count > 1]
    if twice:
        raise ValueError(
            f"expected every domain of {DOMAINS} once, got {listed(twice)} twice or more; name it "
            "once"
        )
    unknown = [name for name in chosen if schema.domains and name not in schema.domains]
    if unknown:
        raise ValueError(
            f"{kind} has no domain {listed(unknown)}; choose of {', '.join(schema.domains)} in "
            f"{DOMAINS}"
        )
    return chosen or schema.domains


def _metamathqa(fields: Mapping[str, Any], stem: str) -> Row:
    """MetaMathQA (Yu et al. 2023, arXiv 2309.12284): query, response, type, original_question.

    Rows made of one question share the last, and little else to compare: it is required.
    """
    question, response = _filled(fields, "query"), _filled(fields, "response")
    domain = _filled(fields, "type")
    original = _filled(fields, "original_question")
    answer = response.rpartition(_FINAL_ANSWER)[2].strip()
    return Row(
        domain=domain,
        question=question,
        response=response,
        answer=answer if _FINAL_ANSWER in response else final_answer(response),
        messages="",
        entry={"type": domain, "original_question": original},
        group=original,
        compared=question,
    )


def _mol_instructions(fields: Mapping[str, Any], stem: str) -> Row:
    """Mol-Instructions (Fang et al. 2023, arXiv 2306.08018), its molecule-oriented part."""
    metadata = molecule_metadata(fields)
    task = _text(metadata, "task", optional=True) or stem
    domain = re.sub(r"\W+", "_", task.strip().lower())
    if domain in _OTHER_MOLECULE_TASKS:
        raise SkippedRow(domain)
    instruction, output = _filled(fields, "instruction"), _filled(fields, "output")
    if not _SELFIES.fullmatch(output.strip()):
        raise BadRow("'output' is not SELFIES")
    given = _text(fields, "input", optional=True)
    split = _text(metadata, "split", optional=True)
    return Row(
        domain=domain,
        question=joined(instruction, given),
        response=output,
        answer=output,
        messages="",
        entry={"task": domain, "instruction": instruction, "input": given, "split": split},
        # An instruction is worded in many ways; what it is about tells questions apart.
        group=_product(domain, given.strip(), output) or instruction,
        compared=given.strip() or instruction,
        test=split == "test" if split else None,
    )


def molecule_metadata(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The metadata of a row of Mol-Instructions, which are an object or JSON of one.

    Raises:
      BadRow: they are neither.
    """
    metadata = fields.get("metadata") or {}
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except ValueError:
            raise BadRow("metadata is not JSON") from None
    if not isinstance(metadata, Mapping):
        raise BadRow("metadata is not an object")
    return metadata


def _product(domain: str, given: str, output: str) -> str:
    """What tells questions apart: of a reaction its product, whichever way it is told.

    A reaction is a row of several tasks, which name more or fewer of its reagents; its product they
    all name. Of what is no reaction it is the input. Molecules in another spelling are others.
    """
    if domain == "forward_reaction_prediction":
        product = output
    elif domain == "retrosynthesis":
        product = given
    elif domain == "reagent_prediction" and ">>" in given:
        product = given.rpartition(">>")[2]
    else:
        return given
    return ".".join(sorted(molecule.strip() for molecule in product.split(".")))


def _instruction(fields: Mapping[str, Any], columns: Columns) -> Row:
    """A row of a user's own columns."""
    domain = _domain(fields, columns.domain) if columns.domain else "all"
    if columns.messages:
        question, asked, response, messages = _conversation(fields, columns.messages)
    else:
        given = _text(fields, columns.input, optional=True) if columns.input else ""
        question = asked = joined(_filled(fields, columns.prompt), given)
        response, messages = _filled(fields, columns.response), ""
    return Row(
        domain=domain,
        question=question,
        response=response,
        answer=final_answer(response),
        messages=messages,
        entry={},
        group=question,
        compared=asked,
    )


def _conversation(fields: Mapping[str, Any], name: str) -> tuple[str, str, str, str]:
    """Question, the same without the system's part, response, and JSON of the conversation.

    The last is empty where the conversation is the question alone.
    """
    value = fields.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise BadRow(f"{name!r} is not JSON") from None
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise BadRow(f"{name!r} is not a list of messages")
    messages = [_message(item) for item in value]
    ends = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not ends:
        raise BadRow("no message of the assistant")
    before, response = messages[: ends[-1]], messages[ends[-1]]["content"]
    if not any(message["role"] == "user" for message in before):
        raise BadRow("no message of the user before the response")
    if not _VISIBLE.search(response):
        raise BadRow("empty response")
    question = "\n".join(message["content"] for message in before)
    if not _VISIBLE.search(question):
        raise BadRow("empty prompt")
    asked = "\n".join(message["content"] for message in before if message["role"] != "system")
    alone = len(before) == 1
    return question, asked, response, "" if alone else json.dumps(before, ensure_ascii=False)


def _message(item: Mapping[str, Any]) -> dict[str, str]:
    """A message as {"role", "content"}."""
    sharegpt = "from" in item and "role" not in item
    role = _filled(item, "from" if sharegpt else "role")
    return {
        "role": _ROLES.get(role, role),
        "content": _text(item, "value" if sharegpt else "content"),
    }


def joined(instruction: str, given: str) -> str:
    """The instruction, and on a line of its own what it is about."""
    return f"{instruction}\n{given}" if given.strip() else instruction


def _domain(fields: Mapping[str, Any], name: str) -> str:
    """The row's domain; numbers are names, too."""
    value = fields.get(name)
    return str(value) if type(value) is int else _filled(fields, name)


def _filled(fields: Mapping[str, Any], name: str) -> str:
    """The text of a column, which must hold something that can be seen."""
    text = fields.get(name)
    # Nearly all rows end here, of a million or more.
    if type(text) is str and text.isascii() and _VISIBLE.search(text):
        return text
    text = _text(fields, name)
    if not _VISIBLE.search(text):
        raise BadRow(f"empty {name!r}")
    return text


def _text(fields: Mapping[str, Any], name: str, *, optional: bool = False) -> str:
    """The text of a column; empty where it is optional and missing or null."""
    value = fields.get(name)
    if value is None and optional:
        return ""
    if not isinstance(value, str):
        raise BadRow(f"{name!r} is not text" if name in fields else f"no column {name!r}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # half a surrogate pair, written as an escape
            raise BadRow(INVALID_UTF8) from None
    return value


_PUBLISHED: Mapping[str, Schema] = {
    "metamathqa": Schema(
        _metamathqa,
        ("query", "response", "type", "original_question"),
        remedy="give the published files, or files of your own as instructions",
        domains=METAMATHQA_DOMAINS,
        repository="meta-math/MetaMathQA",
    ),
    "mol_instructions": Schema(
        _mol_instructions,
        ("instruction", "output"),
        remedy="give the published files, or files of your own as instructions",
        domains=MOLECULE_DOMAINS,
        repository="zjunlp/Mol-Instructions",
        patterns=("data/Molecule-oriented_Instructions.zip",),
        leave_out=("Protein-oriented_Instructions", "Biomolecular_text_Instructions"),
    ),
}
KINDS = (*_PUBLISHED, "instructions")
