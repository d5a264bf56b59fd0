"""Chat templates: conversations as text, of which it stays known what is markup and what content.

Templates are rendered as transformers' `apply_chat_template` does, with one difference: the date is
fixed, because rows must not depend on the day on which they are made.
"""

import datetime
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import jinja2

# A role and a content, and whatever else the template knows ("tool_calls", say).
Message = Mapping[str, Any]
# The role of a first turn whose content is the list of tools that the conversation may call:
# templates are given them apart.
TOOLS = "tools"

# What Llama 3's templates say where they are told no date.
TODAY = datetime.datetime(2024, 7, 26)

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


class ChatTemplate:
    """A compiled chat template.

    Args:
      text: the Jinja template.
      origin: where it came from, for errors.
      variables: what it sees beside the conversation: the texts of special tokens.

    Raises:
      ValueError: the text is no template.
    """

    def __init__(self, text: str, origin: str, variables: Mapping[str, str]):
        import jinja2

        self._text, self._origin, self._variables = text, origin, dict(variables)
        try:
            self._template = _environment().from_string(text)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(
                f"{origin}: line {error.lineno} of the chat template is not valid ({error}); "
                "repair it, or use another template than 'chat'"
            ) from None

    def pieces(
        self,
        messages: Sequence[Message],
        *,
        answer: bool,
        special: Mapping[str, list[tuple[int, int]]],
    ) -> list[Piece]:
        """Renders a conversation.

        Special tokens that a message quotes pass through the template as private characters: what
        a template writes of its own can be told from them afterwards.

        Args:
          messages: the conversation.
          answer: whether the start of an answer is asked for behind it.
          special: every string of the conversation -> (start, end) of the special tokens in it.

        Returns:
          The pieces; a single one where no message quotes a special token.

        Raises:
          ValueError: the template refuses the conversation, or fails.
        """
        quoted = {text[start:end] for text in strings(messages) for start, end in special[text]}
        if not quoted:
            return [Piece(self._render(messages, answer), spelt=False)]
        taken = set(self._text).union(*strings(messages))
        private = (c for c in map(chr, itertools.chain(*_PRIVATE)) if c not in taken)
        stand_in = dict(zip(sorted(quoted), private, strict=False))

        def shield(text: str) -> str:
            for start, end in reversed(special[text]):
                text = text[:start] + stand_in[text[start:end]] + text[end:]
            return text

        rendered = self._render(_mapped(messages, shield), answer)
        original = {character: text for text, character in stand_in.items()}
        runs = itertools.groupby(rendered, key=original.__contains__)
        return [
            Piece("".join(original[c] if spelt else c for c in run), spelt) for spelt, run in runs
        ]

    def _render(self, messages: Any, answer: bool) -> str:
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=answer,
                tools=None,
                documents=None,
                **self._variables,
            )
        except Exception as error:  # a template may fail in any way on what it did not foresee
            raise ValueError(
                f"{self._origin}: the chat template cannot render this conversation "
                f"({type(error).__name__}: {error}); change the messages, or use another template "
                "than 'chat'"
            ) from error


def strings(value: Any) -> Iterator[str]:
    """Every string in a conversation, or in several, but the keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from itertools.chain.from_iterable(map(strings, value.values()))
    elif isinstance(value, list | tuple):
        yield from itertools.chain.from_iterable(map(strings, value))


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The conversation with every string but the keys changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value


@functools.cache
def _environment() -> "jinja2.Environment":
    """The environment that transformers gives to templates; they cannot reach out of it."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`, which marks what an assistant wrote, and changes nothing else."""

        tags = {"generation"}  # noqa: RUF012  (as its base class has it)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = TODAY.strftime
    return environment
