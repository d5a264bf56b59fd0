"""Conversations: every common way of writing one becomes turns, of which one is learnt.

Everything a turn says is honoured, or the row is refused by its name, or it is ignored and
reported: see the tables below.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from partitionsel_jax.data.sources.rows import (
    TOO_DEEP,
    BadRow,
    SkippedRow,
    filled,
    is_null,
    is_visible,
    text,
)
from partitionsel_jax.data.templates import turn_text
from partitionsel_jax.data.tokenizers.chat import TOOLS

# The name of a role, in any case -> its name in chat templates.
_CALLS = "a call of a tool"
ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "chatbot"), "assistant"),
    **dict.fromkeys(("ai", "bard", "bing", "claude", "gemini", "gpt4", "gpt-4"), "assistant"),
    "system": "system",
    "developer": "developer",
    **dict.fromkeys(("tool", "function", "observation", "ipython"), "tool"),
    **dict.fromkeys(("tool_response", "function_response", "tool_result"), "tool"),
    **dict.fromkeys(("function_call", "tool_call", "function-call", "tool_calls"), _CALLS),
}
# Where a turn says whose it is, and what it says; of several, one must be null or say the same.
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from"), ("content", "value", "text", "parts")
# Where a turn says whether it is learnt: 1 or true for learnt, and 1 or true for context.
LEARNT_KEYS = (
    *("weight", "train", "loss", "training", "trainable", "train_on_turn", "learn"),
    *("loss_weight", "loss_mask", "loss_scale"),
)
CONTEXT_KEYS = ("masked", "is_masked", "ignore", "ignore_loss")
_SAYING = frozenset((*LEARNT_KEYS, *CONTEXT_KEYS))
# Keys that would decide what is learnt in ways that are not known here.
_REFUSED_KEYS = ("mask", "train_detail")
# Keys that chat templates are given as they are; all others are ignored and reported.
_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
_TEMPLATE_KEYS = ("name", "tool_call_id", *_REASONING_KEYS)
_KNOWN_KEYS = {
    *(*_ROLE_KEYS, *_CONTENT_KEYS, *_TEMPLATE_KEYS, *LEARNT_KEYS, *CONTEXT_KEYS),
    *("tool_calls", "function_call"),
}
_TEXT_PARTS = ("text", "input_text", "output_text", None)
# Columns beside the conversation that belong to it.
SYSTEM_COLUMNS = ("system", "system_prompt", "systemInstruction", "system_instruction")
TOOLS_COLUMNS, HISTORY = ("tools", "functions"), "history"
_BESIDE = frozenset((*SYSTEM_COLUMNS, *TOOLS_COLUMNS))
# All columns that are read beside those that a user names.
COLUMNS = (*SYSTEM_COLUMNS, *TOOLS_COLUMNS, HISTORY, *LEARNT_KEYS, *CONTEXT_KEYS)
_DEEPEST = 100
# How JSON of turns begins.
_TURNS = re.compile(r'\s*\[\s*\{\s*"(?:role|from|content|value)"\s*:')

Turn = dict[str, Any]


class Conversation(NamedTuple):
    """A conversation as a corpus has it.

    Attributes:
      before: the turns up to the response; the first may have the role `TOOLS`.
      response: what is learnt.
      ignored: what it says and nobody reads.
    """

    before: list[Turn]
    response: str
    ignored: tuple[str, ...] = ()

    @property
    def as_json(self) -> str:
        """The turns as JSON; empty where the question is all there is."""
        (first, *others) = self.before
        if not others and first.keys() == {"role", "content"} and first["role"] == "user":
            return ""
        return json.dumps(self.before, ensure_ascii=False)


def asked(turns: Sequence[Mapping[str, Any]]) -> str:
    """The text of turns without what frames it: the system's turn, and a description of tools."""
    framing = ("system", "developer", TOOLS)
    return "\n".join(turn_text(turn) for turn in turns if turn["role"] not in framing)


def turns_in(value: Any) -> list[Mapping[str, Any]] | None:
    """The turns of a value: a list of objects, an object of equal lists, or a single turn.

    None where it is nothing of these.
    """
    if isinstance(value, Mapping):
        columns = {key: column for key, column in value.items() if not is_null(column)}
        lists = [column for column in columns.values() if isinstance(column, list)]
        if lists and len(lists) == len(columns) and len(set(map(len, lists))) == 1:
            return [dict(zip(columns, turn, strict=True)) for turn in zip(*lists, strict=True)]
        is_turn = any(isinstance(columns.get(key), str) for key in _ROLE_KEYS)
        is_turn = is_turn and any(key in columns for key in _CONTENT_KEYS)
        return [value] if is_turn else None
    is_list = isinstance(value, list) and all(isinstance(item, Mapping) for item in value)
    return value if is_list else None


def turns_or_text(value: Any) -> list[Mapping[str, Any]] | None:
    """The turns of a value, or of the JSON that a text begins as; None of any other text."""
    if not isinstance(value, str):
        return turns_in(value)
    if not _TURNS.match(value):
        return None
    try:
        return turns_in(json.loads(value))
    except (ValueError, RecursionError):
        return None


def turns_of(fields: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The turns of a column, which may be JSON of them; see `turns_in`."""
    value = fields.get(name)
    turns = turns_in(_parsed(value, name) if isinstance(value, str) else value)
    if turns is None:
        raise BadRow(f"{name!r} is not a list of messages")
    return turns


def conversation(
    turns: Sequence[Mapping[str, Any]],
    others: Mapping[str, Any],
    asked: int = 0,
    column: str = "",
) -> Conversation:
    """A conversation and what belongs to it.

    Args:
      turns: as a file has them.
      others: the other columns of the row, which may have a system's turn and tools.
      asked: of so many first ones none is the response.
      column: where the others are, for errors.

    Raises:
      BadRow: it cannot be used.
      SkippedRow: all its turns say that they are not learnt.
    """
    read = [_turn(item) for item in turns]
    messages, ignored = [turn for turn, *_ in read], [note for *_, notes in read for note in notes]
    answers = [i for i, turn in enumerate(messages) if turn["role"] == "assistant"]
    answers = [i for i in answers if i >= asked]
    if not answers:
        raise BadRow(f"no message of the assistant{f' in {column!r}' if column else ''}")
    learnt = [i for i in answers if read[i][1] is not False]
    if not learnt:
        raise SkippedRow("conversations of which nothing is to be learnt")
    end = learnt[-1]
    before = beside(others, messages[:end])
    for i, (turn, learn, _) in enumerate(read):
        if learn and turn["role"] != "assistant":
            ignored.append(f"a turn of role {turn['role']} that says it is learnt")
        elif learn and i < end:
            ignored.append("a turn before the response that says it is learnt")
    if not any(turn["role"] == "user" for turn in before):
        raise BadRow("no message of the user before the response")
    if "tool_calls" in messages[end]:
        raise BadRow("the response calls a tool, which is no text")
    if apart := [key for key in _REASONING_KEYS if messages[end].get(key)]:
        raise BadRow(f"the response has a part of it in {apart[0]!r}; write it into its content")
    response = messages[end]["content"]
    if not is_visible(response):
        raise BadRow("empty response")
    if not any(is_visible(turn_text(turn)) for turn in before):
        raise BadRow("empty prompt")
    return Conversation(before, response, tuple(dict.fromkeys(ignored)))


def beside(others: Mapping[str, Any], turns: list[Turn]) -> list[Turn]:
    """The turns with what columns beside them say: a system's turn, and tools."""
    if _BESIDE.isdisjoint(others):
        return turns
    for name in SYSTEM_COLUMNS:
        if not is_visible(said := _framing(others, name)):
            continue
        if any(turn["role"] == "system" for turn in turns):
            if said not in [turn["content"] for turn in turns]:
                raise BadRow(
                    f"the column {name!r} and a message of the system say different things"
                )
            continue
        turns = [{"role": "system", "content": said}, *turns]
    for name in TOOLS_COLUMNS:
        tools = others.get(name)
        if is_null(tools) or not tools:
            continue
        tools = _parsed(tools, name) if isinstance(tools, str) and tools.strip() else tools
        tools = [tools] if isinstance(tools, Mapping) and tools else tools or []
        if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
            raise BadRow(f"{name!r} is not a list of objects")
        if name == "functions":
            tools = [{"type": "function", "function": tool} for tool in tools]
        if tools and turns[0]["role"] != TOOLS:
            turns = [{"role": TOOLS, "content": _shallow(tools)}, *turns]
    return turns


def _framing(fields: Mapping[str, Any], name: str) -> str:
    """The text of a column of the system's, which may be text, parts, or a message."""
    value = fields.get(name)
    if isinstance(value, Mapping):
        return _content(value, {k: v for k, v in value.items() if not is_null(v)}, False) or ""
    return _joined(fields, name) if isinstance(value, list) else text(fields, name, optional=True)


def history(others: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The turns before the prompt, where a column holds them: pairs of texts, or messages."""
    value = others.get(HISTORY)
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _parsed(value, HISTORY)
    # A text of that name is any column.
    if is_null(value) or not value or isinstance(value, str):
        return []
    if (turns := turns_in(value)) is not None:
        return turns
    if not isinstance(value, list) or not all(isinstance(p, list) and len(p) == 2 for p in value):
        raise BadRow(f"{HISTORY!r} is not a list of pairs, or of messages")
    roles = ("user", "assistant")
    return [
        {"role": role, "content": said}
        for pair in value
        for role, said in zip(roles, pair, strict=True)
    ]


def row_says(others: Mapping[str, Any]) -> list[str]:
    """Notes on what a row says of itself beside its texts and nobody reads.

    Raises:
      SkippedRow: it says that it is not learnt.
    """
    notes: list[str] = []
    if _SAYING.isdisjoint(others):
        return notes
    for name in (*LEARNT_KEYS, *CONTEXT_KEYS):
        value = others.get(name)
        if is_null(value) or value == "":
            continue
        try:
            learnt = _truth(name, value) == (name in LEARNT_KEYS)
        except BadRow:
            notes.append(f"the column {name!r}, which is neither 0 nor 1")
            continue
        # A loss may have been measured.
        if not learnt and (name != "loss" or isinstance(value, bool | str)):
            raise SkippedRow("rows that say they are not to be learnt")
    return notes


def _turn(item: Mapping[str, Any]) -> tuple[Turn, bool | None, list[str]]:
    """A turn as templates know it; whether it says that it is learnt; and what else it says."""
    if len(item) == 2:
        # Nearly all turns end here, of a million or more.
        spelt = item.get("role", item.get("from"))
        said = item.get("content", item.get("value"))
        role = ROLES.get(spelt) if isinstance(spelt, str) else None
        if role and role != _CALLS and isinstance(said, str) and said.isascii():
            return {"role": role, "content": said}, None, []
    given = {key: value for key, value in item.items() if not is_null(value)}
    whose = _role(item, given)
    if refused := [key for key in _REFUSED_KEYS if key in given]:
        raise BadRow(f"a message says {refused[0]!r}; say 'train': true or false instead")
    notes = [f"{key!r} of messages" for key in given if key not in _KNOWN_KEYS]
    turn: Turn = {"role": "assistant" if whose == _CALLS else whose}
    calls = _calls(given)
    content = _content(item, given, optional=bool(calls))
    if whose == _CALLS and content is not None:
        calls = _calls_in(content)
        content = None if calls else content
    turn["content"] = content
    if calls:
        turn["tool_calls"] = _shallow(calls)
    turn |= {key: given[key] for key in _TEMPLATE_KEYS if given.get(key)}
    return turn, _learnt(given), notes


def _role(item: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """The role of whoever says a turn."""
    keys = [key for key in _ROLE_KEYS if key in given] or [
        "from" if "from" in item and "role" not in item else "role"
    ]
    said = []
    for key in keys:
        spelt = filled(item, key)
        if (role := ROLES.get(spelt.strip().lower())) is None:
            raise BadRow(f"unknown role {spelt[:40]!r}")
        said.append(role)
    if len(set(said)) > 1:
        raise BadRow("'role' and 'from' of a message differ")
    return said[0]


def _content(item: Mapping[str, Any], given: Mapping[str, Any], optional: bool) -> str | None:
    """The text of a turn; None where that is optional and it has none."""
    keys = [key for key in _CONTENT_KEYS if key in given]
    if not keys:
        if optional:
            return None
        return text(item, "value" if "from" in item and "role" not in item else "content")
    said = {key: _joined(given, key) for key in keys}
    # Tables fill up with empty texts what only some of their rows have.
    spoken = [key for key in keys if said[key]] or keys[:1]
    if len({said[key] for key in spoken}) > 1:
        raise BadRow(f"{' and '.join(map(repr, spoken))} of a message differ")
    return said[spoken[0]]


def _joined(given: Mapping[str, Any], key: str) -> str:
    """The text of a content; of one in parts, the texts of its parts, each on lines of its own."""
    parts = given[key]
    if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
        if key == "parts" and isinstance(parts, list):  # Gemini's may be bare texts
            return "\n".join(text({key: part}, key) for part in parts)
        return text(given, key)
    texts = []
    for part in parts:
        kind = part.get("type")
        if kind not in _TEXT_PARTS or (kind is None and is_null(part.get("text"))):
            what = kind or next((k for k, v in part.items() if not is_null(v)), None)
            raise BadRow(f"{key!r} has a part that is no text ({what!r})")
        texts.append(text(part, "text"))
    return "\n".join(texts)


def _calls(given: Mapping[str, Any]) -> list[Any]:
    """The tools that a turn calls, in the form that chat templates know."""
    calls = given.get("tool_calls") or []
    calls = _parsed(calls, "tool_calls") if isinstance(calls, str) else calls
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise BadRow("'tool_calls' is not a list of objects")
    if legacy := given.get("function_call"):
        if not (more := _calls_in(legacy)):
            raise BadRow("'function_call' is not an object with a name")
        calls = [*calls, *more]
    return calls


def _calls_in(value: Any) -> list[Any]:
    """The calls that ShareGPT's turns hold as JSON; empty where it is a text of another kind."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(isinstance(call, Mapping) and "name" in call for call in calls):
        return []
    return [{"type": "function", "function": dict(call)} for call in calls]


def _learnt(given: Mapping[str, Any]) -> bool | None:
    """True if a turn says that it is learnt; None where it does not say."""
    said = {_truth(key, given[key]) for key in LEARNT_KEYS if key in given}
    said |= {not _truth(key, given[key]) for key in CONTEXT_KEYS if key in given}
    if len(said) > 1:
        raise BadRow("a message says that it is learnt, and that it is not")
    return said.pop() if said else None


def _truth(key: str, value: Any) -> bool:
    spelt = value.strip().lower() if isinstance(value, str) else value
    if spelt in (0, 1):
        return bool(spelt)
    if spelt in ("0", "1", "true", "false"):
        return spelt in ("1", "true")
    raise BadRow(f"{key!r} of a message is {str(value)[:40]!r}, and 0 or 1 are known")


def _parsed(value: str, name: str) -> Any:
    """The value of a column that holds JSON."""
    try:
        return json.loads(value)
    except RecursionError:
        raise BadRow(TOO_DEEP) from None
    except ValueError:
        raise BadRow(f"{name!r} is not JSON") from None


def _shallow(value: Any) -> Any:
    """The value, which must not be nested so deeply that templates could not follow."""
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
            if isinstance(inner, Mapping | list)
        ]
        if not level:
            return value
    raise BadRow(TOO_DEEP)
