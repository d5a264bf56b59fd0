"""The form of an expression: what is left when order, spacing and notation are taken away."""

import math
import re
from fractions import Fraction
from typing import Any

from partitionsel_jax.evaluation.answers.tidying import matching

# A form is nested tuples: ("number", q), ("name", s), ("call", f, x), ("power", x, n),
# ("product", q, factors), ("sum", terms), with factors and terms sorted.
Form = tuple[Any, ...]

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"|(?P<call>\\?(?:sqrt|sin|cos|tan|log|ln|exp)(?=\s*\())"
    r"|(?P<name>\\?(?:pi|infty|theta|alpha|beta|lambda)(?![A-Za-z])|[A-Za-z](?:_\{?[A-Za-z0-9]\}?)?)"
    r"|(?P<operator>\\cdot(?![A-Za-z])|\\times(?![A-Za-z])|[-+*/^()]))"
)
_MOST_CHARACTERS = 400
_MOST_BRACKETS = 60


def form(text: str) -> Form | None:
    """Reads a tidy expression without computing anything.

    `-38 + 3i^2 - 30i`, `3*i^2 - 30*i - 38` and `3i^{2} - 30 \\cdot i - 38` have one form;
    `x(x + 1)` and `x^2 + x` have two. Only numbers that multiply or divide a product are gathered
    into its coefficient.

    Args:
      text: sums, products, quotients and powers of numbers and one-letter names, `\\frac`,
        `\\sqrt` and elementary functions; LaTeX or Python's notation.

    Returns:
      The form, or None where the text is anything else or too long.
    """
    plain = _plain(text)
    if plain is None or len(plain) > _MOST_CHARACTERS or plain.count("(") > _MOST_BRACKETS:
        return None
    tokens, place = [], 0
    while place < len(plain):
        found = _TOKEN.match(plain, place)
        if found is None or found.end() == place:
            return None
        tokens.append((str(found.lastgroup), found.group().strip().lstrip("\\")))
        place = found.end()
    reader = _Reader(tokens)
    try:
        read = reader.sum()
    except _Unreadable:
        return None
    return read if reader.done() else None


def factor_count(read: Form) -> int:
    """How many factors a product with sums of variables among them has; 0 for all other forms.

    `(x - 1)(x + 1)^2` has 3, `2 x^2 (x + 1)` has 3; `x^2 - 1`, `6 x y`, `2 (x + 1)` and `1/(x + 1)`
    are no such products.
    """
    factors = read[2] if read[0] == "product" else (read,)
    count, has_sum = 0, False
    for factor in factors:
        base, times = factor, Fraction(1)
        if factor[0] == "power":
            base = factor[1]
            times = factor[2][1] if factor[2][0] == "number" else Fraction(1)
        if times < 1 or times.denominator != 1:
            return 0
        count += min(int(times), 1000)
        has_sum = has_sum or (base[0] == "sum" and _has_names(base))
    return count if has_sum and count > 1 else 0


def value_of(text: str) -> Fraction | None:
    """The value of tidy arithmetic: numbers, + - * / and brackets; None for anything else."""
    read = form(text)
    return None if read is None else _value(read)


def _value(read: Form) -> Fraction | None:
    """The value of a form without names, calls and powers."""
    if read[0] == "number":
        return Fraction(read[1])
    if read[0] not in ("sum", "product"):
        return None
    values = [_value(part) for part in read[-1]]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return sum(known, Fraction(0)) if read[0] == "sum" else math.prod(known, start=read[1])


class _Unreadable(Exception):
    """The text is not an expression."""


class _Reader:
    """Recursive descent over tokens."""

    def __init__(self, tokens: list[tuple[str, str]]):
        self._tokens = tokens
        self._place = 0

    def done(self) -> bool:
        """Whether every token was read."""
        return self._place == len(self._tokens)

    def sum(self) -> Form:
        """Terms with signs between them."""
        terms = [self._term()]
        while self._next() in ("+", "-"):
            sign = self._take()
            term = self._term()
            terms.append(_product([_number(-1), term]) if sign == "-" else term)
        flat = [inner for term in terms for inner in (term[1] if term[0] == "sum" else (term,))]
        return terms[0] if len(terms) == 1 else ("sum", tuple(sorted(flat, key=repr)))

    def _term(self) -> Form:
        """Factors, with or without a sign of multiplication between them."""
        negative = False
        while self._next() in ("+", "-"):
            negative ^= self._take() == "-"
        factors = [_number(-1)] if negative else []
        factors.append(self._power())
        while not self.done() and self._next() not in ("+", "-", ")"):
            # "2 3" is two numbers and "x2" a name: no product is written so.
            if self._kind() == "number" or self._next() == "^":
                raise _Unreadable
            operator = self._take() if self._next() in ("*", "cdot", "times", "/") else "*"
            factor = self._power()
            factors.append(_inverse(factor) if operator == "/" else factor)
        return _product(factors)

    def _power(self) -> Form:
        """An atom, and its exponent."""
        base = self._atom()
        if self._next() != "^":
            return base
        self._take()
        negative = self._next() == "-"
        if negative:
            self._take()
        exponent = self._power()
        return ("power", base, _product([_number(-1), exponent]) if negative else exponent)

    def _atom(self) -> Form:
        """A number, a name, a call, or a sum in brackets."""
        kind, text = self._kind(), self._take()
        if kind == "number":
            return _number(text)
        if kind == "name":
            return ("name", re.sub(r"[{}]", "", text))
        if kind == "call":
            return ("call", text, self._atom())
        if text != "(":
            raise _Unreadable
        inner = self.sum()
        if self._take() != ")":
            raise _Unreadable
        return inner

    def _kind(self) -> str:
        """The kind of the next token."""
        return "" if self.done() else self._tokens[self._place][0]

    def _next(self) -> str:
        """The next token."""
        return "" if self.done() else self._tokens[self._place][1]

    def _take(self) -> str:
        """Reads the next token."""
        if self.done():
            raise _Unreadable
        self._place += 1
        return self._tokens[self._place - 1][1]


def _number(value: str | int | Fraction) -> Form:
    """A leaf."""
    return ("number", Fraction(value))


def _product(factors: list[Form]) -> Form:
    """One flat product with its numbers gathered."""
    coefficient, rest = Fraction(1), []
    for factor in factors:
        if factor[0] == "number":
            coefficient *= factor[1]
        elif factor[0] == "product":
            coefficient *= factor[1]
            rest.extend(factor[2])
        else:
            rest.append(factor)
    if not rest:
        return _number(coefficient)
    if coefficient == 1 and len(rest) == 1:
        return rest[0]
    return ("product", coefficient, tuple(sorted(rest, key=repr)))


def _inverse(factor: Form) -> Form:
    """The factor of a division."""
    if factor[0] == "product":
        return _product([_inverse(_number(factor[1])), *map(_inverse, factor[2])])
    if factor[0] == "number":
        if factor[1] == 0:
            raise _Unreadable
        return _number(1 / factor[1])
    return ("power", factor, _number(-1))


def _has_names(read: Form) -> bool:
    """Whether a variable occurs."""
    if read[0] == "name":
        return read[1] != "pi"
    children = read[-1] if read[0] in ("sum", "product") else read[1:]
    return any(_has_names(child) for child in children if isinstance(child, tuple))


def _plain(text: str) -> str | None:
    """`\\frac{a}{b}`, `\\sqrt{a}` and other groups with round brackets; None where that fails."""
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
