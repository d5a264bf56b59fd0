"""Equality of expressions: by their form, without computing, or by their value, by math-verify."""

import ast
import contextlib
import contextvars
import functools
import importlib.util
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from partitionsel_jax.evaluation.answers.spelling import matching
from partitionsel_jax.time_limited import TimeLimited

_MOST_CHARACTERS = 400

# A form is nested tuples: ("number", q), ("name", s), ("call", f, x), ("power", x, n),
# ("product", q, factors), ("sum", terms), with factors and terms sorted.
Form = tuple[Any, ...]

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"|(?P<call>\\?(?:sqrt|sin|cos|tan|log|ln|exp)(?=\s*\())"
    r"|(?P<name>\\?(?:pi|infty|theta|alpha|beta|lambda)(?![A-Za-z])|[A-Za-z](?:_\{?[A-Za-z0-9]\}?)?)"
    r"|(?P<operator>\\cdot(?![A-Za-z])|\\times(?![A-Za-z])|[-+*/^()]))"
)
# Python reads these signs; mathematics does not write them.
_SIGNS = re.compile(r"[*/] [-+]|\^ (?:\+|- [-+])")
_MOST_BRACKETS = 60

_SERVICE = TimeLimited(Path(__file__).with_name("equivalence_program.py"))
_SECONDS = 5.0
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


def form(text: str) -> Form | None:
    """Reads a tidy expression, in LaTeX or Python's notation, without computing anything.

    `-38 + 3i^2 - 30i`, `3*i^2 - 30*i - 38` and `3i^{2} - 30 \\cdot i - 38` have one form;
    `x(x + 1)` and `x^2 + x` have two. Only numbers that multiply or divide a product are gathered
    into its coefficient.

    Returns:
      The form of sums, products, quotients and powers of numbers and one-letter names, fractions,
      roots and elementary functions; None where the text is anything else or too long.
    """
    plain = _plain(text)
    if plain is None or len(plain) > _MOST_CHARACTERS or plain.count("(") > _MOST_BRACKETS:
        return None
    # Python's grammar for the text with a name in place of every number and name, and with the
    # signs of multiplication that are left out.
    source, leaves = list[str](), dict[str, Form]()
    place, behind_operand = 0, False
    while place < len(plain):
        found = _TOKEN.match(plain, place)
        if found is None:
            return None
        kind, token, place = found.lastgroup, found[0].strip().lstrip("\\"), found.end()
        if behind_operand and kind == "number":
            # "2 3" is two numbers and "x2" a name: no product is written so.
            return None
        if behind_operand and (kind != "operator" or token == "("):
            source.append("*")
        behind_operand = kind in ("number", "name") or token == ")"
        if kind in ("number", "name"):
            leaf = _number(token) if kind == "number" else ("name", re.sub(r"[{}]", "", token))
            token = f"leaf{len(leaves)}"
            leaves[token] = leaf
        source.append({"cdot": "*", "times": "*"}.get(token, token))
    joined = " ".join(source)
    if _SIGNS.search(joined):
        return None
    try:
        return _form(ast.parse(joined.replace("^", "**"), mode="eval").body, leaves)
    except (SyntaxError, ValueError, RecursionError):
        return None


def factor_count(read: Form) -> int:
    """Counts the factors of a product with sums of variables among them; 0 for all other forms.

    `(x - 1)(x + 1)^2` has 3, `2 x^2 (x + 1)` has 3; `x^2 - 1`, `6 x y`, `2 (x + 1)` and `1/(x + 1)`
    are no such products.
    """
    count, has_sum = 0, False
    for factor in _parts(read, "product"):
        base, power = factor[1:] if factor[0] == "power" else (factor, _number(1))
        times = power[1] if power[0] == "number" else Fraction(1)
        if times < 1 or times.denominator != 1:
            return 0
        count += min(int(times), 1000)
        has_sum = has_sum or (base[0] == "sum" and _has_names(base))
    return count if has_sum and count > 1 else 0


def value_of(read: Form | None) -> Fraction | None:
    """Computes the form of arithmetic: numbers, + - * / and brackets; None for anything else."""
    if read is None or read[0] not in ("number", "sum", "product"):
        return None
    if read[0] == "number":
        return read[1]
    values = [value_of(part) for part in read[-1]]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return sum(known, Fraction(0)) if read[0] == "sum" else math.prod(known, start=read[1])


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
      RuntimeError: the process could not be started, whatever the expressions.
    """
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


def are_sets(parts: Sequence[str]) -> bool:
    """Returns whether each text is an inequality, a membership, or an interval."""
    return all(RELATION.search(part) or _INTERVAL.fullmatch(part) for part in parts)


def _form(node: ast.expr, leaves: dict[str, Form]) -> Form:
    """Brings a parsed expression into its form; raises ValueError for what has none."""
    match node:
        case ast.Name(name):
            return leaves[name]
        case ast.Call(ast.Name(name), [argument]):
            return ("call", name, _form(argument, leaves))
        case ast.UnaryOp(sign, operand):
            read = _form(operand, leaves)
            return read if isinstance(sign, ast.UAdd) else _product([_number(-1), read])
        case ast.BinOp(left, operator, right):
            first, second = _form(left, leaves), _form(right, leaves)
            match operator:
                case ast.Pow():
                    return ("power", first, second)
                case ast.Mult():
                    return _product([first, second])
                case ast.Div():
                    return _product([first, _inverse(second)])
                case ast.Sub():
                    second = _product([_number(-1), second])
            terms = (*_parts(first, "sum"), *_parts(second, "sum"))
            return ("sum", tuple(sorted(terms, key=repr)))
    raise ValueError("no expression")


def _number(value: str | int | Fraction) -> Form:
    return ("number", Fraction(value))


def _parts(read: Form, kind: str) -> tuple[Form, ...]:
    """The terms of a sum or the factors of a product; any other form is its own only part."""
    return read[-1] if read[0] == kind else (read,)


def _product(factors: list[Form]) -> Form:
    """Makes one flat product with its numbers gathered."""
    coefficient = math.prod(one[1] for one in factors if one[0] in ("number", "product"))
    kept = [one for one in factors if one[0] != "number"]
    rest = [part for one in kept for part in _parts(one, "product")]
    if not rest:
        return _number(coefficient)
    if coefficient == 1 and len(rest) == 1:
        return rest[0]
    return ("product", Fraction(coefficient), tuple(sorted(rest, key=repr)))


def _inverse(factor: Form) -> Form:
    """Makes the factor of a division; raises ValueError for zero."""
    if factor[0] == "product":
        return _product([_inverse(_number(factor[1])), *map(_inverse, factor[2])])
    if factor[0] != "number":
        return ("power", factor, _number(-1))
    if factor[1] == 0:
        raise ValueError("a division by zero")
    return _number(1 / factor[1])


def _has_names(read: Form) -> bool:
    """Returns whether a variable occurs."""
    if read[0] == "name":
        return read[1] != "pi"
    children = read[-1] if read[0] in ("sum", "product") else read[1:]
    return any(_has_names(child) for child in children if isinstance(child, tuple))


def _plain(text: str) -> str | None:
    """Writes `\\frac{a}{b}`, `\\sqrt{a}` and other groups with round brackets; None on failure."""
    if len(text) > _MOST_CHARACTERS:
        return None
    while (place := text.find("\\frac{")) >= 0:
        middle = matching(text, place + 5)
        end = matching(text, middle + 1) if text[middle + 1 : middle + 2] == "{" else -1
        if middle < 0 or end < 0:
            return None
        top, bottom = text[place + 6 : middle], text[middle + 2 : end]
        text = f"{text[:place]}(({top})/({bottom})){text[end + 1 :]}"
    text = re.sub(r"_\{([A-Za-z0-9])\}", r"_\1", text)
    if "\\{" in text or "_{" in text:
        return None
    return text.replace("{", "(").replace("}", ")")


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
