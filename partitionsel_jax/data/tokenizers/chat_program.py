"""The program of the process that chat templates have to themselves; see `TimeLimited`.

A template is a program that came with a checkpoint: it may loop without end, fill the memory, or
differ from call to call. Its limits are those of a process; what would be random is refused. The
environment is the one that transformers gives to templates, whose import would take seconds here.
"""

import datetime
import functools
import json
import re
from typing import Any

import jinja2
import jinja2.meta
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

# What Llama 3's templates say where they are told no date.
TODAY = datetime.datetime(2024, 7, 26)
# Characters of one rendered conversation, and of those of one reply.
_LONGEST, _MOST = 1 << 24, 1 << 25
_LONGEST_FAULT = 500
# How Python writes an object that has no text: by its place in memory, another in every process.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+>")


class Refused(Exception):
    """A template that is not used, whatever it may render; the message says why."""


def answer(
    text: str, variables: dict[str, str], conversations: list[list[Any]], start: bool
) -> dict[str, Any]:
    """Renders conversations by a template.

    Args:
      text: the template.
      variables: what it sees beside the conversation.
      conversations: (messages, tools) of each.
      start: True if the start of an answer is asked for.

    Returns:
      {"refused": why} of a template that is not used, else {"rendered": (text, fault) of every
      conversation}, of the first ones if all would be too long for one reply.
    """
    rendered: list[tuple[str, str]] = []
    try:
        template = _compiled(text)
        for messages, tools in conversations:
            rendered.append(_rendered(template, messages, tools, start, variables))
            if sum(len(found) for found, _ in rendered) > _MOST:
                break
    except Refused as error:
        return {"refused": str(error)}
    return {"rendered": rendered}


@functools.lru_cache(maxsize=16)
def _compiled(text: str) -> jinja2.Template:
    try:
        environment = _environment()
        tree = environment.parse(text)
        if any(node.name == "random" for node in tree.find_all(jinja2.nodes.Filter)):
            _refuse_random("random")
        if "lipsum" in jinja2.meta.find_undeclared_variables(tree):
            _refuse_random("lipsum")
        return environment.from_string(text)
    except Refused:
        raise
    except jinja2.TemplateSyntaxError as error:
        line = f"line {error.lineno} of the chat template"
        raise Refused(f"{line} is not valid ({error.message})") from None
    except Exception as error:
        raise Refused(f"it is not valid ({_named(error)})") from None


def _rendered(
    template: jinja2.Template, messages: Any, tools: Any, start: bool, variables: dict[str, str]
) -> tuple[str, str]:
    """Renders one conversation: its text, or what is wrong with it."""
    given = {"messages": messages, "tools": tools, "documents": None, **variables}
    try:
        found = template.render(add_generation_prompt=start, **given)
    except Refused:
        raise
    except MemoryError:
        raise Refused("it needs more memory than is given to it") from None
    except Exception as error:  # it may fail in any way on what it did not foresee
        return "", _named(error)
    if len(found) > _LONGEST:
        raise Refused(f"it writes more than {_LONGEST:,} characters")
    if _ADDRESS.search(found) and not _ADDRESS.search(json.dumps([messages, tools])):
        raise Refused("it writes the address of an object, which is another at every run")
    return found, ""


def _named(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_FAULT]


def _refuse_random(name: str) -> None:
    raise Refused(f"it uses {name!r}, which is random, and rows must be the same at every run")


class _Generation(Extension):
    """`{% generation %}`, which marks what an assistant wrote, and changes nothing else."""

    tags = {"generation"}  # noqa: RUF012  (as its base class has it)

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


@functools.cache
def _environment() -> jinja2.Environment:
    """Makes the environment of all templates; they cannot reach out of it."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    # A template may also reach the filter by its name in a text.
    environment.filters["random"] = lambda *_, **__: _refuse_random("random")
    environment.filters["tojson"] = _tojson
    del environment.globals["lipsum"]
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": TODAY.strftime}
    return environment
