"""Conversations: every common way of writing one becomes turns, of which one is learnt.

Everything a turn says is honoured, or the row is refused by its name, or it is ignored and
reported: see the tables below.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from partitionsel_jax.data.sources import rows
from partitionsel_jax.data.sources.rows import BadRow, SkippedRow, is_null, is_visible, text
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
# All columns that are read beside those that a user names.
COLUMNS = (*SYSTEM_COLUMNS, *TOOLS_COLUMNS, HISTORY, *LEARNT_KEYS, *CONTEXT_KEYS)
# The deepest nesting that templates follow.
_DEEPEST = 100
# How JSON of turns begins.
_TURNS = re.compile(r'\s*\[\s*\{\s*"(?:role|from|content|value)"\s*:')

Turn = dict[str, Any]


class Conversation(NamedTuple):
    """The turns before a response, of which the first may have the role `TOOLS`, and the response.

    What they say and nobody reads is `ignored`.
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
    """Joins the texts of turns without the framing: a system's turn and a description of tools."""
    framing = ("system", "developer", TOOLS)
    return "\n".join(turn_text(turn) for turn in turns if turn["role"] not in framing)


def turns_in(value: Any) -> list[Mapping[str, Any]] | None:
    """Gives the turns of a list of objects, an object of equal lists, or a single turn; or None."""
    if isinstance(value, Mapping):
        columns = _given(value)
        lists = [column for column in columns.values() if isinstance(column, list)]
        if lists and len(lists) == len(columns) and len(set(map(len, lists))) == 1:
            return [dict(zip(columns, turn, strict=True)) for turn in zip(*lists, strict=True)]
        is_turn = any(isinstance(columns.get(key), str) for key in _ROLE_KEYS)
        return [value] if is_turn and not columns.keys().isdisjoint(_CONTENT_KEYS) else None
    return value if _is_list_of(Mapping, value) else None


def turns_or_text(value: Any) -> list[Mapping[str, Any]] | None:
    """Gives the turns of a value, or of the JSON that a text begins as; None of any other text."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if _TURNS.match(value) else None
        except (ValueError, RecursionError):
            return None
    return turns_in(value)


def turns_of(fields: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Gives the turns of a column, which may be JSON of them; see `turns_in`."""
    turns = turns_in(_parsed(fields.get(name), name))
    if turns is None:
        raise BadRow(f"{name!r} is not a list of messages")
    return turns


def conversation(
    turns: Sequence[Mapping[str, Any]],
    others: Mapping[str, Any],
    asked: int = 0,
    column: str = "",
) -> Conversation:
    """Makes a conversation of turns, as a file has them, and of the other columns of their row.

    The response is not among the first `asked` turns; the others are from the column named. Raises
    BadRow where it cannot be used, and SkippedRow where all turns say that they are not learnt.
    """
    read = [_turn(item) for item in turns]
    messages = [turn for turn, _, _ in read]
    ignored = [note for _, _, notes in read for note in notes]
    answers = [i for i in range(asked, len(read)) if messages[i]["role"] == "assistant"]
    if not answers:
        raise BadRow(f"no message of the assistant{f' in {column!r}' if column else ''}")
    learnt = [i for i in answers if read[i][1] is not False]
    if not learnt:
        raise SkippedRow("conversations of which nothing is to be learnt")
    end = learnt[-1]
    for i, (turn, learn, _) in enumerate(read):
        if learn and turn["role"] != "assistant":
            ignored.append(f"a turn of role {turn['role']} that says it is learnt")
        elif learn and i < end:
            ignored.append("a turn before the response that says it is learnt")
    before, last = beside(others, messages[:end]), messages[end]
    if not any(turn["role"] == "user" for turn in before):
        raise BadRow("no message of the user before the response")
    if "tool_calls" in last:
        raise BadRow("the response calls a tool, which is no text")
    if apart := [key for key in _REASONING_KEYS if last.get(key)]:
        raise BadRow(f"the response has a part of it in {apart[0]!r}; write it into its content")
    if not is_visible(last["content"]):
        raise BadRow("empty response")
    if not any(is_visible(turn_text(turn)) for turn in before):
        raise BadRow("empty prompt")
    return Conversation(before, last["content"], tuple(dict.fromkeys(ignored)))


def beside(others: Mapping[str, Any], turns: list[Turn]) -> list[Turn]:
    """Adds to turns what columns beside them say: a system's turn, and tools."""
    for name in SYSTEM_COLUMNS:
        if is_null(value := others.get(name)):
            continue
        said = _content(value) if isinstance(value, Mapping) else _joined(others, name)
        systems = [turn["content"] for turn in turns if turn["role"] == "system"]
        if said in systems or not is_visible(said):
            continue
        turns = [{"role": "system", "content": said}, *turns]
        if systems:
            raise BadRow(f"the column {name!r} and a message of the system say different things")
    for name in TOOLS_COLUMNS:
        tools = _parsed(others.get(name) or None, name)
        if is_null(tools) or not tools:
            continue
        tools = [tools] if isinstance(tools, Mapping) else tools
        if not _is_list_of(Mapping, tools):
            raise BadRow(f"{name!r} is not a list of objects")
        if name == "functions":
            tools = [{"type": "function", "function": tool} for tool in tools]
        if not turns or turns[0]["role"] != TOOLS:
            turns = [{"role": TOOLS, "content": _shallow(tools)}, *turns]
    return turns


def history(others: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Gives the turns before the prompt, where a column holds them: pairs of texts, or messages."""
    value = others.get(HISTORY)
    # A text of that name is any column.
    if is_null(value) or not value or (isinstance(value, str) and value.lstrip()[:1] != "["):
        return []
    value = _parsed(value, HISTORY)
    if (turns := turns_in(value)) is not None:
        return turns
    if not _is_list_of(list, value) or not all(len(pair) == 2 for pair in value):
        raise BadRow(f"{HISTORY!r} is not a list of pairs, or of messages")
    roles = ("user", "assistant") * len(value)
    said = [text for pair in value for text in pair]
    return [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]


def row_says(others: Mapping[str, Any]) -> list[str]:
    """Notes what a row says of itself and nobody reads; raises SkippedRow if it is not learnt."""
    notes: list[str] = []
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


def _given(item: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if not is_null(value)}


def _is_list_of(kind: type, value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _parsed(value: Any, name: str) -> Any:
    """The value of a column that may hold JSON."""
    return rows.parsed(value, repr(name)) if isinstance(value, str) else value


def _turn(item: Mapping[str, Any]) -> tuple[Turn, bool | None, list[str]]:
    """A turn as templates know it; whether it says that it is learnt; and what else it says."""
    given, role = _given(item), _role(item)
    if refused := [key for key in _REFUSED_KEYS if key in given]:
        raise BadRow(f"a message says {refused[0]!r}; say 'train': true or false instead")
    notes = [f"{key!r} of messages" for key in given if key not in _KNOWN_KEYS]
    calls = _calls(given)
    content = None if calls and given.keys().isdisjoint(_CONTENT_KEYS) else _content(item)
    if role == _CALLS:
        role = "assistant"
        if content is not None:
            calls = _calls_in(content)
            content = None if calls else content
    turn: Turn = {"role": role, "content": content}
    if calls:
        turn["tool_calls"] = _shallow(calls)
    turn |= {key: given[key] for key in _TEMPLATE_KEYS if given.get(key)}
    said = {_truth(key, given[key]) for key in LEARNT_KEYS if key in given}
    said |= {not _truth(key, given[key]) for key in CONTEXT_KEYS if key in given}
    if len(said) > 1:
        raise BadRow("a message says that it is learnt, and that it is not")
    return turn, said.pop() if said else None, notes


def _role(item: Mapping[str, Any]) -> str:
    """The role of whoever says a turn."""
    keys = [key for key in _ROLE_KEYS if not is_null(item.get(key))] or ["role"]
    said = {rows.filled(item, key).strip().lower() for key in keys}
    if unknown := [name for name in said if name not in ROLES]:
        raise BadRow(f"unknown role {unknown[0][:40]!r}")
    if len({ROLES[name] for name in said}) > 1:
        raise BadRow("'role' and 'from' of a message differ")
    return ROLES[said.pop()]


def _content(item: Mapping[str, Any]) -> str:
    """The text of a turn, wherever it is; of several texts, all must be the same or empty."""
    keys = [key for key in _CONTENT_KEYS if not is_null(item.get(key))] or ["content"]
    said = {key: _joined(item, key) for key in keys}
    # Tables fill up with empty texts what only some of their rows have.
    spoken = [key for key in keys if said[key]] or keys[:1]
    if len({said[key] for key in spoken}) > 1:
        raise BadRow(f"{' and '.join(map(repr, spoken))} of a message differ")
    return said[spoken[0]]


def _joined(item: Mapping[str, Any], key: str) -> str:
    """The text of a content; of one in parts, the texts of its parts, each on lines of its own."""
    parts = item.get(key)
    if key == "parts" and isinstance(parts, list):  # Gemini's may be bare texts
        parts = [part if isinstance(part, Mapping) else {"text": part} for part in parts]
    if not _is_list_of(Mapping, parts):
        return text(item, key)
    texts = []
    for part in parts or ():
        kind = part.get("type")
        if kind not in _TEXT_PARTS or (kind is None and is_null(part.get("text"))):
            what = kind or next(iter(_given(part)), None)
            raise BadRow(f"{key!r} has a part that is no text ({what!r})")
        texts.append(text(part, "text"))
    return "\n".join(texts)


def _calls(given: Mapping[str, Any]) -> list[Any]:
    """The tools that a turn calls, in the form that chat templates know."""
    calls = _parsed(given.get("tool_calls") or [], "tool_calls")
    if not _is_list_of(Mapping, calls):
        raise BadRow("'tool_calls' is not a list of objects")
    if legacy := given.get("function_call"):
        if not (more := _calls_in(legacy)):
            raise BadRow("'function_call' is not an object with a name")
        calls = [*calls, *more]
    return calls


def _calls_in(value: Any) -> list[Any]:
    """The calls that ShareGPT's turns hold as JSON; empty where it is a text of another kind."""
    try:
        value = _parsed(value, "")
    except BadRow:
        return []
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(isinstance(call, Mapping) and "name" in call for call in calls):
        return []
    return [{"type": "function", "function": dict(call)} for call in calls]


def _truth(key: str, value: Any) -> bool:
    spelt = value.strip().lower() if isinstance(value, str) else value
    if spelt in (0, 1):
        return bool(spelt)
    if spelt in ("0", "1", "true", "false"):
        return spelt in ("1", "true")
    raise BadRow(f"{key!r} of a message is {str(value)[:40]!r}, and 0 or 1 are known")


def _shallow(value: Any) -> Any:
    """The value, which must not be nested so deeply that templates could not follow."""
    lines = json.dumps(value, indent=1).splitlines()
    if any(len(line) - len(line.lstrip()) > _DEEPEST for line in lines):
        raise BadRow(rows.TOO_DEEP)
    return value
