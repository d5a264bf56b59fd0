"""Chat templates: conversations as text, of which it stays known what is markup and what content.

Templates are rendered as transformers' `apply_chat_template` does, with one difference: the date is
fixed, because rows must not depend on the day on which they are made.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from partitionsel_jax.time_limited import TimeLimited

# A role and a content, and whatever else the template knows ("tool_calls", say).
Message = Mapping[str, Any]
# The role of a first turn whose content is the list of tools that the conversation may call:
# templates are given them apart.
TOOLS = "tools"

_FRAMES = ("system", "developer")
_CALLS = "calls of tools"
_ASKED, _EARLIER = "messages of the user", "messages of the user before the last"
_ANSWERED = "messages of the assistant"
_PART_OF_ROLE = {
    "system": "messages of the system",
    "developer": "messages of the developer",
    "tool": "messages of tools",
    TOOLS: "descriptions of tools",
}
_PROCESS = TimeLimited(Path(__file__).with_name("chat_program.py"))
# What rendering may take: far more than any template needs, on a machine that is busy.
_SECONDS, _SECONDS_EACH = 10.0, 0.01

# Unicode's planes 15 and 16, which are for private use: no template changes, splits or strips them.
_PRIVATE = (range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


class Piece(NamedTuple):
    """Part of a rendered conversation.

    Attributes:
      text: what was rendered.
      spelt: whether the text is that of special tokens which a message quotes: ordinary text. In
        other pieces, special tokens are the template's.
    """

    text: str
    spelt: bool


class TemplateRefused(ValueError):
    """A chat template that is not used at all, whatever the conversation."""


class ChatTemplate:
    """A chat template, which runs in a process of its own: it is a program of the checkpoint's.

    Args:
      text: the Jinja template.
      origin: where it came from, for errors.
      variables: what it sees beside the conversation: the texts of special tokens.

    Raises:
      TemplateRefused: the text is no template, or a random one.
    """

    def __init__(self, text: str, origin: str, variables: Mapping[str, str]):
        self._text, self._origin, self._variables = text, origin, dict(variables)
        self._refused = ""
        self._left_out: dict[str, bool] = {}
        self._rendered([], answer=True)

    def batch(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        answer: bool,
        special: Mapping[str, list[tuple[int, int]]],
    ) -> list[list[Piece]]:
        """Renders conversations.

        Special tokens that a message quotes pass through the template as private characters: what
        a template writes of its own can be told from them afterwards.

        Args:
          conversations: the turns of each; a first one of the role `TOOLS` holds its tools.
          answer: whether the start of an answer is asked for behind them.
          special: every string of a conversation -> (start, end) of the special tokens in it.

        Returns:
          The pieces of each; a single one where no message quotes a special token.

        Raises:
          TemplateRefused: the template exceeds its time or memory, or is random.
          ValueError: it refuses a conversation, fails, or leaves out what a turn says.
        """
        for part in sorted({part for turns in conversations for part in _parts(turns)}):
            self._check_written(part)
        shielded = [self._shielded(turns, special) for turns in conversations]
        found = self._rendered([turns for turns, _ in shielded], answer)
        pieces = []
        for (rendered, fault), (_, original) in zip(found, shielded, strict=True):
            if fault:
                raise ValueError(
                    f"{self._origin}: the chat template cannot render this conversation "
                    f"({fault}); change the messages, or use another template than 'chat'"
                )
            runs = itertools.groupby(rendered, key=original.__contains__) if original else ()
            spelt_out = [
                Piece("".join(original[c] if spelt else c for c in run), spelt)
                for spelt, run in runs
            ]
            pieces.append(spelt_out if original else [Piece(rendered, spelt=False)])
        return pieces

    def check_spoken(self, conversations: Sequence[Sequence[Message]]) -> None:
        """Raises ValueError if the template leaves out what is said in conversations like these."""
        spoken = {part for turns in conversations for part in _spoken(turns)}
        for part in sorted(spoken):
            self._check_written(part)

    def _shielded(
        self, turns: Sequence[Message], special: Mapping[str, list[tuple[int, int]]]
    ) -> tuple[Sequence[Message], dict[str, str]]:
        """The conversation with a private character for every special token that it quotes."""
        quoted = {text[start:end] for text in strings(turns) for start, end in special[text]}
        if not quoted:
            return turns, {}
        taken = set(self._text).union(*strings(turns))
        private = (c for c in map(chr, itertools.chain(*_PRIVATE)) if c not in taken)
        stand_in = dict(zip(sorted(quoted), private, strict=False))

        def shield(text: str) -> str:
            for start, end in reversed(special[text]):
                text = text[:start] + stand_in[text[start:end]] + text[end:]
            return text

        return _mapped(turns, shield), {character: text for text, character in stand_in.items()}

    def _check_written(self, part: str) -> None:
        """Raises ValueError if the template says nothing of a part that conversations may have."""
        if part not in self._left_out:
            rendered = self._rendered(_PROBES[part], answer=True)
            # Where it fails on this one, it says so of every conversation that has such a part.
            failed = any(fault for _, fault in rendered)
            self._left_out[part] = not failed and rendered[0] == rendered[1]
        if self._left_out[part]:
            raise ValueError(
                f"{self._origin}: the chat template leaves out {part}, so that what they say would "
                "be lost; take them out of the messages, or use another template than 'chat'"
            )

    def _rendered(
        self, conversations: Sequence[Sequence[Message]], answer: bool
    ) -> list[tuple[str, str]]:
        """Text and fault of every conversation, one of which is empty."""
        asked = [_with_tools_apart(turns) for turns in conversations]
        seconds = _SECONDS + _SECONDS_EACH * len(asked)
        found: list[tuple[str, str]] = []
        while not self._refused:
            arguments = self._text, self._variables, asked[len(found) :], answer
            try:
                reply = _PROCESS.ask(*arguments, seconds=seconds)
            except RuntimeError as error:  # no process can be had
                raise ValueError(
                    f"{self._origin}: the chat template cannot be run: {error}"
                ) from None
            except TypeError as error:
                raise ValueError(f"expected messages that JSON can hold: {error}") from None
            if reply is None:
                self._refused = f"it takes more than {seconds:.0f} seconds, or than 2 GiB of memory"
            elif "refused" in reply:
                self._refused = reply["refused"]
            else:
                found += map(tuple, reply["rendered"])
                if len(found) == len(asked):
                    return found
        raise TemplateRefused(
            f"{self._origin}: the chat template is refused: {self._refused}; repair it, or use "
            "another template than 'chat'"
        )


def _with_tools_apart(turns: Sequence[Message]) -> tuple[list[Message], Any]:
    """The messages, and the tools that they may call."""
    if turns and turns[0].get("role") == TOOLS:
        return [*turns[1:]], turns[0]["content"]
    return [*turns], None


def _spoken(turns: Sequence[Message]) -> list[str]:
    """What a conversation has of messages that every template should write."""
    roles = [turn.get("role") for turn in turns]
    there = {
        _ASKED: "user" in roles,
        _EARLIER: roles.count("user") > 1,
        _ANSWERED: "assistant" in roles,
    }
    return [part for part, is_there in there.items() if is_there]


def _parts(turns: Sequence[Message]) -> set[str]:
    """What a conversation has that templates may leave out."""
    parts = {_PART_OF_ROLE.get(turn.get("role", ""), "") for turn in turns} - {""}
    return parts | {_CALLS} if any("tool_calls" in turn for turn in turns) else parts


def _probes() -> dict[str, list[list[dict[str, Any]]]]:
    """Part -> two conversations that differ in what it says."""
    asked, answered = {"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}

    def call(name: str) -> dict[str, Any]:
        function = {"name": name, "arguments": {}}
        calls = [{"id": "abcdefghi", "type": "function", "function": function}]
        return {"role": "assistant", "content": None, "tool_calls": calls}

    def tool(said: str) -> dict[str, Any]:
        return {"role": "tool", "name": "a", "tool_call_id": "abcdefghi", "content": said}

    function = {"name": "a", "description": "a", "parameters": {"type": "object", "properties": {}}}
    tools = {"role": TOOLS, "content": [{"type": "function", "function": function}]}
    instructed = [[{"role": role, "content": said}, asked] for role in _FRAMES for said in "ab"]
    words = "one", "two"
    spoken = [[{**asked, "content": said}] for said in words]
    return {
        _ASKED: spoken,
        _EARLIER: [[*turns, answered, asked] for turns in spoken],
        _ANSWERED: [[asked, {**answered, "content": said}, asked] for said in words],
        _PART_OF_ROLE["system"]: instructed[:2],
        _PART_OF_ROLE["developer"]: instructed[2:],
        _PART_OF_ROLE["tool"]: [[asked, call("a"), tool(said), answered, asked] for said in "ab"],
        _PART_OF_ROLE[TOOLS]: [[tools, asked], [asked]],
        _CALLS: [[asked, call(said), tool("a"), answered, asked] for said in "ab"],
    }


def strings(value: Any) -> Iterator[str]:
    """Every string in a conversation, or in several, the keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from value
        yield from itertools.chain.from_iterable(map(strings, value.values()))
    elif isinstance(value, list | tuple):
        yield from itertools.chain.from_iterable(map(strings, value))


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The conversation with every string changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value


_PROBES = _probes()
