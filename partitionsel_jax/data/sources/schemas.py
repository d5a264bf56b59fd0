"""The published formats, and how a row of each becomes a row of ours."""

import collections
import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from partitionsel_jax.data.sources import messages
from partitionsel_jax.data.sources.duplicates import Prompt
from partitionsel_jax.data.sources.files import PATTERNS
from partitionsel_jax.data.sources.layouts import SPLIT_NAMES, splits_said
from partitionsel_jax.data.sources.rows import BadRow, SkippedRow, filled, is_null, parsed, text
from partitionsel_jax.data.templates import final_answer, turn_text

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
# The column in which rows may say which split they are of.
SPLIT = "split"
_FINAL_ANSWER = "The answer is:"
# What errors call the list of domains that are wanted: in a configuration, and in Python.
DOMAINS = "data.domains (`domains` of `prepare_files`)"
_LISTED = 10
# Molecules of SELFIES symbols, joined by dots.
_SELFIES = re.compile(r"(?:\[[!-Z\\^-~]+\])+(?:\.(?:\[[!-Z\\^-~]+\])+)*")


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
        response, unless it says "weight": 0, "train": false or the like: then the last that does
        not. Prompt and response may be such lists, too.

    The columns system (or system_prompt) and tools (or functions) beside either are part of the
    conversation, and so is history (pairs of texts, or messages) beside a prompt. A row that says
    "weight": 0, "train": false or the like is passed over, and a column split is believed.
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
      group: what no two splits may share: the question that the row was made of.
      compared: what near-duplicates are looked for in; exact copies, in the whole question.
      messages: JSON of the conversation up to the response; empty where that is the question alone.
      entry: JSON of what else was published with the row.
      meant: the split that its publishers meant it for; empty where they do not say.
      ignored: what the row says and nobody reads, such as an unknown key of a message.
    """

    domain: str
    question: str
    response: str
    answer: str
    group: str
    compared: str
    messages: str = ""
    entry: str = "{}"
    meant: str = ""
    ignored: tuple[str, ...] = ()

    @property
    def prompt(self) -> Prompt:
        """The prompt, as duplicates of it are looked for."""
        return Prompt(self.question, self.compared)

    @property
    def texts(self) -> dict[str, str]:
        """The texts of its record."""
        names = ("question", "response", "answer", "messages", "entry")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class Schema:
    """A kind of source.

    Attributes:
      parse: (fields, stem of the file) -> row; raises `BadRow` and `SkippedRow`.
      columns: those that every file must have.
      optional: those that rows may lack, but not all of them.
      further: those that all rows may lack.
      domains: all that there are, in order; empty where the rows decide.
      repository: where it is published, as "owner/name" of a hub; empty where it is not.
      patterns: the files that are downloaded from a repository.
      leave_out: stems of published files that hold nothing of it.
    """

    parse: Callable[[Mapping[str, Any], str], Row]
    columns: tuple[str, ...]
    optional: tuple[str, ...] = ()
    further: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    repository: str = ""
    patterns: tuple[str, ...] = PATTERNS
    leave_out: tuple[str, ...] = ()

    @property
    def read(self) -> tuple[str, ...]:
        """All columns that are looked at."""
        return (*self.columns, *self.optional, *self.further, *messages.COLUMNS, SPLIT)


def schema_of(kind: str, columns: Columns) -> Schema:
    """Gives the schema of a kind; only instructions have columns of the user's.

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
    pair = columns.prompt, columns.response
    if not columns.messages and (not all(pair) or columns.response in (pair[0], columns.input)):
        raise ValueError(
            "expected columns of prompt and response (data.columns), each of its own, or of "
            f"messages, got {columns}; name them"
        )
    own = set(dataclasses.astuple(columns))

    def parse(fields: Mapping[str, Any], stem: str) -> Row:
        # A column that the user names is what the user says, and nothing else.
        others = {name: value for name, value in fields.items() if name not in own}
        return _instruction(fields, others, columns)

    needed = (columns.messages,) if columns.messages else pair
    optional = "" if columns.messages else columns.input
    named = tuple(filter(None, (*needed, columns.domain)))
    return Schema(parse, named, (optional,) if optional else ())


def listed(names: Iterable[str], separator: str = ", ") -> str:
    """Joins names for an error: the first ten, and the number of the others."""
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return separator.join(names[:_LISTED]) + more


def domain_order(kind: str, schema: Schema, domains: Sequence[str]) -> tuple[str, ...]:
    """Gives the domains in order: those asked for, each once and of the kind, or all it has."""
    if twice := [name for name, count in collections.Counter(domains).items() if count > 1]:
        raise ValueError(f"expected every domain of {DOMAINS} once, got {listed(twice)} twice")
    unknown = [name for name in domains if schema.domains and name not in schema.domains]
    if unknown:
        raise ValueError(
            f"{kind} has no domain {listed(unknown)}; choose of {', '.join(schema.domains)} in "
            f"{DOMAINS}"
        )
    return tuple(domains) or schema.domains


def _entry(**texts: str) -> str:
    return json.dumps(texts, ensure_ascii=False)


def _metamathqa(fields: Mapping[str, Any], stem: str) -> Row:
    """MetaMathQA (Yu et al. 2023, arXiv 2309.12284): query, response, type, original_question."""
    question, response = filled(fields, "query"), filled(fields, "response")
    domain = filled(fields, "type")
    # Rows made of one question share it, and little else to compare.
    original = filled(fields, "original_question")
    answer = response.rpartition(_FINAL_ANSWER)[2].strip()
    return Row(
        domain=domain,
        question=question,
        response=response,
        answer=answer if _FINAL_ANSWER in response else final_answer(response),
        entry=_entry(type=domain, original_question=original),
        group=original,
        compared=question,
    )


def _mol_instructions(fields: Mapping[str, Any], stem: str) -> Row:
    """Mol-Instructions (Fang et al. 2023, arXiv 2306.08018), its molecule-oriented part."""
    metadata = molecule_metadata(fields)
    task = text(metadata, "task", optional=True) or stem
    domain = re.sub(r"\W+", "_", task.strip().lower())
    if domain in _OTHER_MOLECULE_TASKS:
        raise SkippedRow(domain)
    instruction, output = filled(fields, "instruction"), filled(fields, "output")
    if not _SELFIES.fullmatch(output.strip()):
        raise BadRow("'output' is not SELFIES")
    given = text(fields, "input", optional=True)
    split = text(metadata, "split", optional=True)
    return Row(
        domain=domain,
        question=joined(instruction, given),
        response=output,
        answer=output,
        entry=_entry(task=domain, instruction=instruction, input=given, split=split),
        # An instruction is worded in many ways; what it is about tells questions apart.
        group=_product(domain, given.strip(), output) or instruction,
        compared=given.strip() or instruction,
        meant=SPLIT_NAMES.get(split.strip().lower(), split),
    )


def molecule_metadata(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Gives the metadata of a row of Mol-Instructions, an object or JSON of one; else BadRow."""
    metadata = fields.get("metadata") or {}
    if isinstance(metadata, str):
        metadata = parsed(metadata, "metadata")
    if not isinstance(metadata, Mapping):
        raise BadRow("metadata is not an object")
    return metadata


def _product(domain: str, given: str, output: str) -> str:
    """The name of a question: of a reaction the product, which all tasks name, else the input."""
    if domain == "forward_reaction_prediction":
        product = output
    elif domain == "retrosynthesis":
        product = given
    elif domain == "reagent_prediction" and ">>" in given:
        product = given.rpartition(">>")[2]
    else:
        return given
    return ".".join(sorted(molecule.strip() for molecule in product.split(".")))


def _instruction(fields: Mapping[str, Any], others: Mapping[str, Any], columns: Columns) -> Row:
    """A row of a user's own columns, and of others that belong to it."""
    domain = filled(fields, columns.domain) if columns.domain else "all"
    notes = messages.row_says(others)
    split = others.get(SPLIT)
    said = splits_said(split) if isinstance(split, str) else set()
    if len(said) != 1 and not is_null(split) and split != "":
        notes.append(f"the column {SPLIT!r}, which names no split")
    if columns.messages:
        talk = messages.conversation(messages.turns_of(fields, columns.messages), others)
    else:
        talk = _pair(fields, others, columns)
    question = "\n".join(map(turn_text, talk.before))
    return Row(
        domain=domain,
        question=question,
        response=talk.response,
        answer=final_answer(talk.response),
        messages=talk.as_json,
        group=question,
        compared=messages.asked(talk.before),
        meant=said.pop() if len(said) == 1 else "",
        ignored=(*talk.ignored, *notes),
    )


def _pair(
    fields: Mapping[str, Any], others: Mapping[str, Any], columns: Columns
) -> messages.Conversation:
    """Prompt and response, either of which may be a list of messages."""
    given = text(fields, columns.input, optional=True) if columns.input else ""
    values = fields.get(columns.prompt), fields.get(columns.response)
    asked, answer = map(messages.turns_or_text, values)
    if asked and given.strip():
        raise BadRow(f"{columns.input!r} beside messages in {columns.prompt!r}")
    if not asked:
        asked = [{"role": "user", "content": joined(filled(fields, columns.prompt), given)}]
    if not answer:
        answer = [{"role": "assistant", "content": filled(fields, columns.response)}]
    turns = [*messages.history(others), *asked]
    return messages.conversation([*turns, *answer], others, len(turns), columns.response)


def joined(instruction: str, given: str) -> str:
    """Joins an instruction and, on a line of its own, what it is about."""
    return f"{instruction}\n{given}" if given.strip() else instruction


_PUBLISHED: Mapping[str, Schema] = {
    "metamathqa": Schema(
        _metamathqa,
        ("query", "response", "type", "original_question"),
        domains=METAMATHQA_DOMAINS,
        repository="meta-math/MetaMathQA",
    ),
    "mol_instructions": Schema(
        _mol_instructions,
        ("instruction", "output"),
        further=("input", "metadata"),
        domains=MOLECULE_DOMAINS,
        repository="zjunlp/Mol-Instructions",
        patterns=("data/Molecule-oriented_Instructions.zip",),
        leave_out=("Protein-oriented_Instructions", "Biomolecular_text_Instructions"),
    ),
}
KINDS = (*_PUBLISHED, "instructions")
