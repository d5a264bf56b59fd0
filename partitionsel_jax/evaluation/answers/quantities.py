"""Numbers with their percent sign and unit: how they are written, and when two are the same."""

import dataclasses
import re
from fractions import Fraction

from partitionsel_jax.evaluation.answers.equivalence import form, value_of
from partitionsel_jax.evaluation.answers.numerals import (
    MAGNITUDES,
    compatible,
    number_in_words,
    unit_behind,
)
from partitionsel_jax.evaluation.answers.spelling import matching, untexted

_INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.[0-9]+|\.(?![0-9A-Za-z]))?|\.[0-9]+)"
# The longest notation first: "1 1/2" must not be read as 1, nor "1/2" as 1.
_NOTATIONS = (
    r"(?P<whole0>[0-9]+)\s*(?:and\s+)?\\frac\{(?P<top0>[0-9]+)\}\{(?P<bottom0>[0-9]+)\}",
    r"(?P<whole1>[0-9]+)\s+(?:and\s+)?(?P<top1>[0-9]+)\s*/\s*(?P<bottom1>[0-9]+)(?![0-9.])",
    rf"\\frac\{{(?P<top2>-?{_INTEGER})\}}\{{(?P<bottom2>-?{_INTEGER})\}}",
    rf"(?P<top3>{_INTEGER})\s*+/\s*+(?P<bottom3>{_INTEGER})(?![0-9.])",
    rf"(?:(?P<mantissa>{_DECIMAL})\s*(?:\\times|\\cdot|\*|x)\s*)?"
    r"10\s*\^\s*(?:\{\s*(?P<power0>[+-]?[0-9]{1,3})\s*\}|(?P<power1>[+-]?[0-9]{1,3}))(?![0-9])",
    rf"(?P<digits>{_DECIMAL})[eE](?P<power2>[+-]?[0-9]{{1,3}})(?![0-9A-Za-z])",
    r"(?P<lead>[0-9]*\.[0-9]*)\\overline\s*\{(?P<period>[0-9]+)\}",
    rf"(?P<plain>{_DECIMAL})",
)
_NUMBER = re.compile(
    r"(?i)(?P<sign>-\s*|\+\s*|(?:negative|minus)\s+)?(?:(?P<money>(?:US)?\$|Rs\.?|€|£|₹|¥)\s*(?P<late>-\s*)?)?"
    rf"(?:{'|'.join(_NOTATIONS)})"
)
_PERCENT = re.compile(r"(?i)\s*(?:%|per\s?cent(?:age)?(?: points?)?\b)")
_MAGNITUDE = re.compile(rf"(?i)\s*-?({'|'.join(MAGNITUDES)})s?\b")
_AND_A_HALF = re.compile(r"(?i)\s+and (?:a|one) half\b")
_CURRENCIES = {"€": "euro", "£": "sterling", "₹": "rupee", "rs": "rupee", "rs.": "rupee"}
# Arithmetic and prices in brackets; "1-5" is a range.
_FOUND_BY = re.compile(
    r"(?i)[0-9][A-Za-z ]{0,30}(?:[+*/]|\s-\s|\\times|\\cdot)\s*\$?[0-9]"
    r"|\b(?:each|apiece|per [a-z]+)$"
)
# "18 [9 * 2]", "twenty (20) apples".
_ASIDE = re.compile(
    r"\s([(\[])([^()\[\]]*[0-9][^()\[\]]*)[)\]](?:\s+(?!dozen|hundred|thousand|[a-z]+illion|per)[A-Za-z]+)?$"
)
_ALTERNATIVE = re.compile(r"(?i)\b(?:or|not|no|than|if|to|but)\b")
_AGAIN = re.compile(
    r"(?i)\A(?:=|\\approx(?![A-Za-z])|i\.e\.,?|or|that is,?|equal to|equivalent to)\s*"
)
_TWICE = re.compile(
    r"(?i)\s*[,;:]?\s*\b(?:or|i\.e\.|that is|namely)(?![A-Za-z]),?\s*|\s*[,;:]\s+|\s+-\s+"
)
# The last group of "1 000" in prose, or a number of its own: nobody can tell.
_GROUP_BEFORE = re.compile(r"[0-9] $")
_OPERAND_BEFORE = re.compile(
    r"(?i)(?:[\w\\.]|[-+*/^_]\s*|\\times\s*|\\cdot\s*"
    r"|(?:\b(?:not|never|than|twice|double|half of)|n't)\s+(?:be\s+)?)$"
)
_OPERAND_AFTER = re.compile(r"\s*(?:[*^_+]|/\s*[\d(\\])|\{|\s(?:squared|cubed)\b")
_DENIED_AFTER = re.compile(
    r"(?i)\s+(?:(?:is|are|was|be)\s+(?:not|wrong|incorrect|too)\b|(?:isn't|cannot|can't)\b)"
)
_MINUEND = re.compile(r"(?:[\d)}\]]|(?<![A-Za-z])[A-Za-z])\s*$|\w$")
_PROSE = re.compile(r"[A-Za-z ,.:;'\"()\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af-]*")
_BOUND = re.compile(r"(?i)\b(?:at (?:least|most)|up to|as (?:many|much) as)\b")
# In front of a number these deny it, bound it, or compute with it.
_DENIALS = (
    "not no never neither nor or than between under over below above plus minus times divided half "
    "twice double triple dozen hundred thousand million two three four five six seven eight nine "
    "ten"
)
_DENYING = frozenset(_DENIALS.split())
# No benchmark has numbers of more digits, and their cost grows with the square.
_MOST_DIGITS = 200
_FLOAT_DECIMALS = 6
# The relative spacing of doubles: their print may be off by as much.
_DOUBLE = Fraction(1, 2**52)


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A number as it was written.

    Attributes:
      value: the number in front of a percent sign or a unit.
      percent: whether a percent sign or word follows.
      unit: the unit in one spelling, or "" without one.
      decimals: digits behind the decimal point.
      fraction: written as a fraction without a whole number before it.
      reduced: not a fraction, or one in lowest terms that is no integer.
    """

    value: Fraction
    percent: bool = False
    unit: str = ""
    decimals: int = 0
    fraction: bool = False
    reduced: bool = True


def quantity(text: str, *, algebra: bool = False) -> Quantity | None:
    """Reads a tidy text that is one number and nothing else but its unit; None for anything else.

    Numbers are integers, decimals, fractions, mixed numbers, thousands separators, scientific
    notation, repeating decimals, signs of money, percentages, units, or number words. In algebra a
    letter behind a number is a variable.
    """
    # An exclamation mark is a factorial only where numbers are computed with.
    text = text.strip() if algebra else text.rstrip("! ").lstrip()
    while text.startswith("(") and matching(text, 0) == len(text) - 1 and "," not in text:
        text = text[1:-1].strip()
    if not algebra:
        text = _ASIDE.sub(r" (\2)", text, count=1)
    if text.endswith(")") and matching(text, text.find("(")) == len(text) - 1:
        text = _without_aside(text, algebra)
    if found := _NUMBER.match(text):
        return _read(found, text[found.end() :], algebra)
    if (worded := number_in_words(text)) is None:
        return None
    value, rest = worded
    if value.denominator == 1 and (half := _AND_A_HALF.match(rest)):
        value, rest = value + Fraction(1, 2), rest[half.end() :]
    return _measured(Quantity(value, fraction=value.denominator != 1), rest, algebra=False)


def computed(text: str) -> Fraction | None:
    """The value of a number, or of arithmetic among whose numbers words may stand."""
    number = quantity(text)
    plain = re.sub(r"(?<!\\)\b[A-Za-z]+\b", " ", text).strip()
    return number.value if number else value_of(form(plain))


def repeated_quantity(text: str, *, algebra: bool = False) -> Quantity | None:
    """The number that a tidy text says twice: "a dozen, 12", "1/2, or 0.5"; None otherwise.

    Without a word between them two numbers in digits are two answers, though they are equal.
    """
    parts = _TWICE.split(untexted(text))
    if len(parts) != 2:
        return None
    first, second = (quantity(part, algebra=algebra) for part in parts)
    if first is None or second is None or not _same_said(first, second):
        return None
    worded = len({re.search("[0-9]", part) is None for part in parts}) == 2
    return first if worded or re.search(r"\bor\b|i\.e|that is|namely", text) else None


def last_quantity(text: str, *, algebra: bool = False) -> str:
    """The last number in prose, as it is written there with its percent sign; "" without one.

    Where the last number is denied, part of a word, or an operand of an unfinished expression,
    there is none. In algebra an exclamation mark behind a number is a factorial.
    """
    *_, last = [None, *_NUMBER.finditer(text)]
    if last is None:
        return ""
    before, after = text[: last.start()], text[last.end() :]
    attached = re.match(r"[A-Za-z]+", after)
    if (
        _OPERAND_BEFORE.search(before)
        or _OPERAND_AFTER.match(after)
        or (algebra and after.startswith("!"))
        or _DENIED_AFTER.match(after)
        or (_GROUP_BEFORE.search(before) and re.match(r"[0-9]{3}(?![0-9])", last.group()))
        # The dash of "5-7" and "x - 7" is a range or a subtraction, that of "is -7" a sign.
        or (last.group()[0] in "+-" and _MINUEND.search(before))
        or (attached and unit_behind(attached.group(), algebra=False) is None)
    ):
        return ""
    percent = _PERCENT.match(after)
    return last.group() + (percent.group() if percent else "")


def only_quantity(text: str, *, algebra: bool = False) -> Quantity | None:
    """The number of a tidy sentence that has one number only: "She has 18 apples left".

    None where the words before it deny it, bound it, or compute with it: "not 5", "more than 5".
    """
    found = list(_NUMBER.finditer(text))
    if len(found) != 1:
        return None
    before = text[: found[0].start()]
    words = re.findall(r"[a-z']+", before.lower())
    if (
        not _PROSE.fullmatch(before)
        or before[-1:].isalnum()
        or (words and len(words[-1]) == 1 and words[-1] != "a")
        or _BOUND.search(before)
        or any(word in _DENYING or word.endswith("n't") for word in words)
    ):
        return None
    return quantity(text[found[0].start() :], algebra=algebra)


def same_quantity(
    expected: Quantity, given: Quantity, *, rounded: bool = False, reduced: bool = False
) -> bool:
    """Returns whether two quantities are the same answer.

    * Numbers are compared exactly, however they are written: 0.5 = 1/2, 18 = 18.00.
    * Units that are both given must agree; a unit that one of them leaves out does not count.
    * A percentage p % against a plain number x: x = p / 100 where x is written as a fraction or
      lies between -1 and 1, and x = p otherwise, the sign then being a unit: 50 % = 0.5 = 1/2 = 50,
      but not 0.5 % = 0.5 and not 5000 % = 50.
    * A reference with six decimals or more is the print of a float: a fraction, or a decimal with
      six digits or more, may differ by one in the last digit of the shorter of both, and a fraction
      by what a double has no room for (2.6666666666666665 = 8/3). With `rounded`, a reference of
      two decimals or more is met by a number with more digits that rounds to it.
    * With `reduced`, references are exact and a fraction must be in lowest terms.
    """
    if not compatible(expected.unit, given.unit) or (reduced and not given.reduced):
        return False
    if expected.percent == given.percent:
        return expected.value == given.value or (
            not reduced and _rounds_to(expected, given, 2 if rounded else _FLOAT_DECIMALS)
        )
    percentage, plain = (expected, given) if expected.percent else (given, expected)
    is_share = plain.fraction or abs(plain.value) < 1
    return plain.value == (percentage.value / 100 if is_share else percentage.value)


def _rounds_to(expected: Quantity, given: Quantity, decimals: int) -> bool:
    """Returns whether an inexact reference of at least that many decimals stands for a number."""
    places, error = expected.decimals, abs(given.value - expected.value)
    # Of an integer nothing was rounded, and of a tiny number too much.
    if expected.value.denominator == 1 or abs(expected.value) * 10**places < 10:
        return False
    if places >= _FLOAT_DECIMALS and (given.fraction or given.decimals >= _FLOAT_DECIMALS):
        shorter = places if given.fraction else min(places, given.decimals)
        doubled = given.fraction and abs(expected.value) * 10**places >= 10**15
        return error * 10**shorter <= 1 or (doubled and error <= abs(given.value) * _DOUBLE)
    more_digits = (given.value * 10**places).denominator != 1
    return places >= decimals and more_digits and error * 10**places <= Fraction(1, 2)


def _without_aside(text: str, algebra: bool) -> str:
    """A number without the brackets that say it again or how it was found.

    "24 (2 dozen)", "3 hours (180 minutes)", "18 (9 * 2)", "$18 ($9 each)", "18 (9 * 2 = 18)". In
    algebra brackets behind a number are a factor, but for those with an equals sign.
    """
    before, _, aside = (part.strip() for part in text[:-1].partition("("))
    said = quantity(before, algebra=algebra)
    if said is None:
        return text
    denied = _ALTERNATIVE.search(aside)
    if "=" in aside:
        same = said.value == computed(_AGAIN.sub("", aside.rpartition("=")[2])) and not denied
        return before if same else text
    if algebra or not re.search(r"\s\(", text):
        return text
    if _FOUND_BY.search(aside) and not denied:
        return before
    again = quantity(_AGAIN.sub("", aside))
    converted = again and said.unit and again.unit and said.unit != again.unit
    return before if again and (converted or _same_said(said, again)) else text


def _same_said(first: Quantity, second: Quantity) -> bool:
    """Returns whether two quantities are one that was said twice."""
    return first.value == second.value or same_quantity(first, second)


def _read(found: re.Match[str], rest: str, algebra: bool) -> Quantity | None:
    """Reads a number in digits and what follows it."""
    if sum(map(str.isdigit, found.group())) > _MOST_DIGITS:
        return None
    # One notation matched; its groups have names of their own but for a figure behind them.
    groups = {
        name.rstrip("0123"): value.replace(",", "")
        for name, value in found.groupdict().items()
        if value is not None
    }
    decimals, reduced = 0, True
    if "top" in groups:
        numerator, denominator = int(groups["top"]), int(groups["bottom"])
        if denominator == 0 or ("whole" in groups and numerator < 0):
            return None
        value = Fraction(numerator, denominator)
        reduced = value.denominator == denominator != 1
        value += int(groups.get("whole", 0))
    elif "period" in groups:
        lead, period = groups["lead"], groups["period"]
        repeating = Fraction(int(period), 10 ** len(period) - 1)
        value = Fraction(lead + "0") + repeating / 10 ** len(lead.partition(".")[2])
    else:
        digits = groups.get("plain") or groups.get("digits") or groups.get("mantissa") or "1"
        power = int(groups.get("power", 0))
        value = Fraction(digits) * Fraction(10) ** power
        decimals = len(digits.partition(".")[2]) if power == 0 else 0
    if half := _AND_A_HALF.match(rest):
        value, rest = value + Fraction(1, 2), rest[half.end() :]
    if magnitude := _MAGNITUDE.match(rest):
        value, rest = value * MAGNITUDES[magnitude.group(1).lower()], rest[magnitude.end() :]
        decimals = 0
    negative = (groups.get("sign", "+")[0] in "-nNmM") != ("late" in groups)
    number = Quantity(
        -value if negative else value,
        unit=_CURRENCIES.get(groups.get("money", "").lower(), ""),
        decimals=decimals,
        fraction="top" in groups and "whole" not in groups,
        reduced=reduced,
    )
    return _measured(number, rest, algebra)


def _measured(number: Quantity, rest: str, algebra: bool) -> Quantity | None:
    """Adds the percent sign or the unit behind a number; None where anything else is there."""
    percent = _PERCENT.match(rest)
    unit = unit_behind(rest[percent.end() :] if percent else rest, algebra)
    if unit is None or (percent and unit):
        return None
    return dataclasses.replace(number, percent=percent is not None, unit=number.unit or unit)
