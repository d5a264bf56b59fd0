"""Chat templates: conversations as text, of which it stays known what is markup and what content.

Templates are rendered as transformers' `apply_chat_template` does, with one difference: the date is
fixed, because rows must not depend on the day on which they are made.
"""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from partitionsel_jax.time_limited import NotStarted, TimeLimited

# A role and a content, and whatever else the template knows ("tool_calls", say).
Message = Mapping[str, Any]
Conversation = Sequence[Message]
# Part of a rendered conversation, and True if it is the text of special tokens that a message
# quotes: ordinary text. In other parts, special tokens are the template's.
Piece = tuple[str, bool]
FindSpecial = Callable[[Sequence[str]], Sequence[Sequence[tuple[int, int]]]]
# The role of a first turn whose content is the list of tools that the conversation may call:
# templates are given them apart.
TOOLS = "tools"

_PROCESS = TimeLimited(Path(__file__).with_name("chat_program.py"))
# What rendering may take: far more than any template needs, on a machine that is busy.
_SECONDS, _SECONDS_EACH = 10.0, 0.01
# Unicode's planes 15 and 16, which are for private use: no template changes, splits or strips them.
_PRIVATE = (range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))

# What a conversation may have that a template may leave out, by the name that errors give it: the
# role, the least number of its turns ("call" is an assistant's that calls tools), and the roles of
# a conversation for trying it, which says a word in the turn with a star. A template that writes
# the same whatever the word leaves it out.
_PARTS: Mapping[str, tuple[str, int, str]] = {
    "messages of the user": ("user", 1, "user*"),
    "messages of the user before the last": ("user", 2, "user* assistant user"),
    "messages of the assistant": ("assistant", 1, "user assistant* user"),
    "messages of the system": ("system", 1, "system* user"),
    "messages of the developer": ("developer", 1, "developer* user"),
    "descriptions of tools": (TOOLS, 1, f"{TOOLS}* user"),
    "calls of tools": ("call", 1, "user call* tool assistant user"),
    "messages of tools": ("tool", 1, "user call tool* assistant user"),
}
# Every template should write these.
_SPOKEN = frozenset([*_PARTS][:3])
_ID = "abcdefghi"


def _parts(turns: Conversation) -> set[str]:
    """Names the parts that a conversation has."""
    found = collections.Counter(turn.get("role") for turn in turns)
    found["call"] = sum("tool_calls" in turn for turn in turns)
    return {part for part, (role, least, _) in _PARTS.items() if found[role] >= least}


def _trial(part: str, word: str) -> list[Message]:
    """Makes the conversation that says a word in one part, and "a" in the others."""
    roles = _PARTS[part][-1].split()
    turns = [_turn(role.removesuffix("*"), word if role[-1] == "*" else "a") for role in roles]
    # Templates may write of tools what they like, as long as they know of them.
    return turns[1:] if turns[0]["role"] == TOOLS and word == "two" else turns


def _turn(role: str, said: str) -> Message:
    if role == "call":
        function: dict[str, Any] = {"name": said, "arguments": {}}
        call = {"id": _ID, "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    if role == TOOLS:
        parameters = {"type": "object", "properties": {}}
        function = {"name": said, "description": said, "parameters": parameters}
        return {"role": TOOLS, "content": [{"type": "function", "function": function}]}
    more = {"name": "a", "tool_call_id": _ID} if role == "tool" else {}
    return {"role": role, "content": said, **more}


class TemplateRefused(ValueError):
    """A chat template that is not used at all, whatever the conversation."""


class ChatTemplate:
    """A chat template, which runs in a process of its own: it is a program of the checkpoint's.

    Args:
      text: the Jinja template.
      origin: where it came from, for errors.
      variables: what it sees beside the conversation: the texts of special tokens.
      special: texts -> (start, end) of the special tokens in each.

    Raises:
      TemplateRefused: the text is no template, or a random one.
    """

    def __init__(
        self, text: str, origin: str, variables: Mapping[str, str], special: FindSpecial
    ) -> None:
        self._text, self._origin, self._variables = text, origin, dict(variables)
        self._special = special
        self._refused = ""
        self._left_out: dict[str, bool] = {}
        self._rendered([], answer=True)

    def batch(self, conversations: Sequence[Conversation], *, answer: bool) -> list[list[Piece]]:
        """Renders conversations.

        Special tokens that a message quotes pass through the template as private characters: what
        a template writes of its own can be told from them afterwards.

        Args:
          conversations: the turns of each; a first one of the role `TOOLS` holds its tools.
          answer: True if the start of an answer is asked for behind them.

        Returns:
          The pieces of each; a single one where no message quotes a special token.

        Raises:
          TemplateRefused: the template exceeds its time or memory, or is random.
          ValueError: it refuses a conversation, fails, or leaves out what a turn says.
        """
        self._check_written(_parts(turns) - _SPOKEN for turns in conversations)
        texts = list({*_strings(conversations)})
        spans = dict(zip(texts, self._special(texts), strict=True))
        quoted = sorted({text[start:end] for text in texts for start, end in spans[text]})
        taken = set(self._text).union(*texts) if quoted else set()
        private = (c for c in map(chr, itertools.chain(*_PRIVATE)) if c not in taken)
        stand_in = dict(zip(quoted, private, strict=False))
        original = {character: text for text, character in stand_in.items()}

        def shield(text: str) -> str:
            for start, end in reversed(spans[text]):
                text = text[:start] + stand_in[text[start:end]] + text[end:]
            return text

        pieces = []
        shielded = _mapped(conversations, shield) if quoted else conversations
        for rendered, fault in self._rendered(shielded, answer):
            if fault:
                raise ValueError(
                    f"{self._origin}: the chat template cannot render this conversation "
                    f"({fault}); change the messages, or use another template than 'chat'"
                )
            runs = itertools.groupby(rendered, key=original.__contains__)
            pieces.append(
                [(rendered, False)]
                if original.keys().isdisjoint(rendered)
                else [("".join(original.get(c, c) for c in run), found) for found, run in runs]
            )
        return pieces

    def check_spoken(self, conversations: Sequence[Conversation]) -> None:
        """Raises ValueError if the template leaves out what is said in conversations like these."""
        self._check_written(_parts(turns) & _SPOKEN for turns in conversations)

    def _check_written(self, parts: Iterable[set[str]]) -> None:
        """Raises ValueError if the template says nothing of a part that conversations have."""
        for part in sorted(set().union(*parts)):
            if part not in self._left_out:
                one, two = self._rendered([_trial(part, "one"), _trial(part, "two")], True)
                # Where it fails on this one, it says so of every conversation that has the part.
                self._left_out[part] = one == two and not one[1]
            if self._left_out[part]:
                raise ValueError(
                    f"{self._origin}: the chat template leaves out {part}, so that what they say "
                    "would be lost; take them out of the messages, or use another template than "
                    "'chat'"
                )

    def _rendered(
        self, conversations: Sequence[Conversation], answer: bool
    ) -> list[tuple[str, str]]:
        """Returns text and fault of every conversation, one of which is empty."""
        asked = []
        for turns in conversations:
            apart = bool(turns) and turns[0].get("role") == TOOLS
            asked.append((list(turns[apart:]), turns[0]["content"] if apart else None))
        seconds = _SECONDS + _SECONDS_EACH * len(asked)
        found: list[tuple[str, str]] = []
        while not self._refused:
            arguments = self._text, self._variables, asked[len(found) :], answer
            try:
                reply = _PROCESS.ask(*arguments, seconds=seconds)
            except NotStarted as error:
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


def _strings(value: Any) -> Iterator[str]:
    """Gives every string in a conversation, or in several, the keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from itertools.chain(value, *map(_strings, value.values()))
    elif isinstance(value, list | tuple):
        yield from itertools.chain.from_iterable(map(_strings, value))


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Returns the conversation with every string changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value
