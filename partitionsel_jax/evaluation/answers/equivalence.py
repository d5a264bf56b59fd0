"""Equality of two expressions by math-verify, in a process of its own with a time limit."""

import contextlib
import contextvars
import functools
import importlib.util
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from partitionsel_jax.time_limited import TimeLimited

_SERVICE = TimeLimited(Path(__file__).with_name("equivalence_program.py"))
_SECONDS = 5.0
_MOST_CHARACTERS = 400
_MOST_DIGITS = 60
_MOST_NESTED = 20
_MOST_RELATIONS = 4
# Sums, integrals, limits, products and named operators are questions, not answers.
_COMMANDS = (
    "frac sqrt pi infty cup cap in le ge ne pm cdot times sin cos tan sec csc cot arcsin arccos "
    "arctan log ln exp theta alpha beta gamma delta lambda mu phi omega binom begin end setminus "
    "emptyset mathbb langle rangle lfloor rfloor lceil rceil mid"
)
_READABLE_COMMANDS = frozenset(_COMMANDS.split())
_CHARACTERS = re.compile(r"[A-Za-z0-9+\-*/^_(){}\[\]|.,=<>!&: \\]+")
# "1 2" would be read as 3, and the base of 101_2 would be dropped.
_MISREAD = re.compile(r"[0-9]\s+[0-9]|[0-9]\s*_|[A-Za-z]{4,}")
# "x < -2 or x > 2" is one set.
_OR = re.compile(r"\\text\s*\{\s*,?\s*or\s*\}|,?\s\bor\b|\\lor(?![A-Za-z])|\\vee(?![A-Za-z])")
_AND = re.compile(r"\\text\s*\{\s*,?\s*and\s*\}|,?\s\band\b|\\land(?![A-Za-z])|\\wedge(?![A-Za-z])")
RELATION = re.compile(r"[<>]|\\(?:le|ge|ne|in)(?![A-Za-z])")
_INTERVAL = re.compile(r"\s*[(\[][^()\[\]]*,[^()\[\]]*[)\]]\s*")
# math-verify adds numbers that stand beside each other: 2(3) would be 5.
_FACTOR = re.compile(r"(?<![\w/.\\])[0-9]+(?=\s*(?:\(|e\^))|\)(?=\s*(?:\(|[0-9]|\\frac))")
# Nor does everybody read 3!! and 2^3^2 alike.
_GROUPS = re.compile(
    r"!\s*!|\^\s*(?:\{[^{}]*\}|[0-9A-Za-z])\s*\^|[0-9]\s*[{\[]|\]\s*\[|(?:^|[-+*/(=,\s])\{[^{}]*\}\s*[0-9({]"
)
_ENVIRONMENTS = re.compile(r"\\(?:begin|end)\s*\{[pbv]?matrix\}")

# What is left of the time of the answer that is being checked.
_left: contextvars.ContextVar[float] = contextvars.ContextVar("left", default=math.inf)


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Gives all comparisons of one answer, which may have several parts, the time of one."""
    token = _left.set(_SECONDS)
    try:
        yield
    finally:
        _left.reset(token)


def equivalent(expected: str, given: str, *, seconds: float = _SECONDS) -> bool:
    """Returns whether math-verify finds two tidy LaTeX expressions equal.

    Nothing is executed: both go through math-verify's LaTeX grammar only, in a separate process
    that is ended and replaced when it takes too long, and that all threads share. What cannot be
    read, is too long or nested too deeply, or takes over 2 GiB or the time, is not equal.

    Raises:
      ImportError: math-verify is not installed.
      RuntimeError: the process could not be started, whatever the expressions.
    """
    require_math_verify()
    pair = [_alternatives(expected), _alternatives(given)]
    seconds = min(seconds, _left.get())
    if seconds <= 0 or not all(_readable(one) for side in pair for ones in side for one in ones):
        return False
    same, took = _SERVICE.ask(*pair, seconds=seconds) or (False, seconds)
    _left.set(_left.get() - took)
    return bool(same)


@functools.cache
def require_math_verify() -> None:
    """Raises ImportError where math-verify is not installed."""
    if importlib.util.find_spec("math_verify") is None:
        raise ImportError(
            "checking expressions needs math-verify; install it with "
            "pip install -e '.[evaluation]' in the clone"
        )


def are_relations(parts: Sequence[str]) -> bool:
    """Returns whether each text is an inequality or a membership."""
    return all(map(RELATION.search, parts))


def are_sets(parts: Sequence[str]) -> bool:
    """Returns whether each text is an inequality, a membership, or an interval."""
    return all(RELATION.search(part) or _INTERVAL.fullmatch(part) for part in parts)


def _alternatives(text: str) -> list[list[str]]:
    """A text as LaTeX: relations cut at "or" and those at "and", any other text in one piece."""
    parts = [_AND.split(part) for part in _OR.split(text)]
    flat = [piece for pieces in parts for piece in pieces]
    if not 1 < len(flat) <= _MOST_RELATIONS or not are_sets(flat):
        return [[_latex(text)]]
    return [[_latex(piece.strip()) for piece in pieces] for pieces in parts]


def _latex(text: str) -> str:
    """A tidy expression as LaTeX with exact numbers."""
    text = re.sub(r"(?<![\\A-Za-z])(sqrt|sin|cos|tan|log|ln|exp|pi)(?![A-Za-z])", r"\\\1", text)
    text = re.sub(r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(r"\^\s*\(([^()]*)\)", r"^{\1}", text)
    text = re.sub(r"\^\s*(-\s*[0-9A-Za-z]|-?[0-9]+)", r"^{\1}", text)
    text = _FACTOR.sub(r"\g<0> \\cdot ", text.replace("*", r" \cdot "))
    text = re.sub(r"(\\[a-z]+)\s+_", r"\1_", text)
    # math-verify would round decimals to six digits.
    return re.sub(
        r"([0-9]*)\.([0-9]+)",
        lambda one: rf"\frac{{{one[1]}{one[2]}}}{{1{'0' * len(one[2])}}}",
        text,
    )


def _readable(text: str) -> bool:
    """Returns whether math-verify may see a text."""
    if not 0 < len(text) <= _MOST_CHARACTERS or re.search(rf"[0-9]{{{_MOST_DIGITS},}}", text):
        return False
    bare = re.sub(r"\\mathbb\s*\{[RQZNC]\}", "", _ENVIRONMENTS.sub("", text))
    names = re.findall(r"\\([A-Za-z]+)", bare)
    if not _READABLE_COMMANDS.issuperset(names) or {"begin", "end"} & set(names):
        return False
    # A bracket that is missing may change what the rest means.
    if sum(map(text.count, "([")) != sum(map(text.count, ")]")):
        return False
    signs = ((sign in "([{") - (sign in ")]}") for sign in text)
    plain = re.sub(r"\\log_(?:[0-9](?![0-9])|\{[0-9]+\})|\\[A-Za-z]+", "|", bare)
    return (
        max(itertools.accumulate(signs)) <= _MOST_NESTED
        and _CHARACTERS.fullmatch(text) is not None
        and _MISREAD.search(plain) is None
        and _GROUPS.search(text) is None
    )
