"""What runs in the process that chat templates have to themselves; see `TimeLimited`.

A template is a program that came with a checkpoint: it may loop without end, fill the memory, or
differ from call to call. Its limits are those of a process; what would be random is refused.
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
_RANDOM_FILTERS, _RANDOM_FUNCTIONS = {"random"}, {"lipsum"}
# How Python writes an object that has no text: by its place in memory, another in every process.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+>")


class Refused(Exception):
    """A template that is not used, whatever it may render; the message says why."""


def answer(
    text: str, variables: dict[str, str], conversations: list[list[Any]], start: bool
) -> dict[str, Any]:
    """What a template renders.

    Args:
      text: the template.
      variables: what it sees beside the conversation.
      conversations: (messages, tools) of each.
      start: whether the start of an answer is asked for.

    Returns:
      {"refused": why} of a template that is not used, else {"rendered": (text, fault) of every
      conversation}, of the first ones if all would be too long for one reply.
    """
    try:
        template = _compiled(text)
    except Exception as error:
        return {"refused": _fault_of_template(error)}
    rendered: list[tuple[str, str]] = []
    size = 0
    for messages, tools in conversations:
        try:
            found = template.render(
                messages=messages,
                add_generation_prompt=start,
                tools=tools,
                documents=None,
                **variables,
            )
        except Refused as error:
            return {"refused": str(error)}
        except MemoryError:
            return {"refused": "it needs more memory than is given to it"}
        except Exception as error:  # it may fail in any way on what it did not foresee
            rendered.append(("", _named(error)))
            continue
        if len(found) > _LONGEST:
            return {"refused": f"it writes more than {_LONGEST:,} characters"}
        if _ADDRESS.search(found) and not _ADDRESS.search(json.dumps([messages, tools])):
            return {"refused": "it writes the address of an object, which is another at every run"}
        rendered.append((found, ""))
        size += len(found)
        if size > _MOST:
            break
    return {"rendered": rendered}


def _fault_of_template(error: Exception) -> str:
    """What is wrong with a template that cannot be compiled."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"line {error.lineno} of the chat template is not valid ({error.message})"
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return f"it is not valid ({_named(error)})"


def _named(error: Exception) -> str:
    """An exception in one line; a template may raise what it likes."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_FAULT]


@functools.lru_cache(maxsize=16)
def _compiled(text: str) -> jinja2.Template:
    """A template, ready to be rendered."""
    environment = _environment()
    tree = environment.parse(text)
    used = {node.name for node in tree.find_all(jinja2.nodes.Filter)} & _RANDOM_FILTERS
    used |= jinja2.meta.find_undeclared_variables(tree) & _RANDOM_FUNCTIONS
    if used:
        raise _randomness(sorted(used)[0])
    return environment.from_string(text)


def _randomness(name: str) -> Refused:
    return Refused(f"it uses {name!r}, which is random, and rows must be the same at every run")


@functools.cache
def _environment() -> jinja2.Environment:
    """The environment that transformers gives to templates; they cannot reach out of it."""

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

    def random(*_: Any, **__: Any) -> None:
        raise _randomness("random")

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    # Reached by its name in a text ("map('random')"), it is found out when it is called.
    environment.filters["random"] = random
    del environment.globals["lipsum"]
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = TODAY.strftime
    return environment
