"""The verdict on an output: its final answer compared with that of the reference."""

import dataclasses
import re

from partitionsel_jax.evaluation.answers.choices import chosen_letter, named_choice
from partitionsel_jax.evaluation.answers.equivalence import (
    RELATION,
    are_sets,
    equivalent,
    factor_count,
    form,
    require_math_verify,
    time_limit,
)
from partitionsel_jax.evaluation.answers.extraction import final_answer_of, reference_answer
from partitionsel_jax.evaluation.answers.kinds import AnswerKind, kind_of
from partitionsel_jax.evaluation.answers.numerals import compatible, in_base, unit_behind
from partitionsel_jax.evaluation.answers.parts import Several, several
from partitionsel_jax.evaluation.answers.quantities import (
    Quantity,
    computed,
    only_quantity,
    quantity,
    repeated_quantity,
    same_quantity,
)
from partitionsel_jax.evaluation.answers.spelling import tidy, untexted

_MOST_CHARACTERS = 400
_MOST_SYMBOLIC_PARTS = 4
_MOST_ARITHMETIC = 100
_ARITHMETIC = re.compile(
    r"(?:[-0-9+*/^!(){}\[\]|. _ei]|\\[A-Za-z]+|sqrt|pi|log|ln|sin|cos|tan|exp)+"
)
_TRUTH = {"true": True, "yes": True, "false": False, "no": False}
_NOTHING = re.compile(
    r"(?:there (?:is|are) )?no (?:real )?solutions?|\\emptyset|(?:the )?empty set|\{\s*\}"
)
# DeepMind writes 2*x, so that digits and letters without a sign are a number in another base.
_LITERAL = re.compile(r"-?(?=[0-9]*[a-z])[0-9a-z]+")
_NAME = re.compile(r"[A-Za-z]'*(?:_\{?\w+\}?)?(?:\([a-z]\))?|\\[a-z]+")
_UNIT = re.compile(r"(?:\s*\\text\s*\{[^{}]*\}(?:\s*\^\s*\{?[23]\}?)?|(?:\s+[A-Za-z]{2,})+)$")
_EQUALS = re.compile(r"(?<![<>!=\\])=(?!=)|\\approx(?![A-Za-z])")
# "x = 3, y = 5" is no chain of equalities.
_JOINT = re.compile(r"[,;]\s|\b(?:and|or)\b")


def is_correct(output: str, reference: str, benchmark: str = "gsm8k") -> bool:
    """Returns whether the final answer of an output is that of the reference.

    No text makes it raise, and no text is executed. What is not surely right counts as wrong: no
    answer, two of them, a bound, a denial, an equation left unsolved. Numbers are exact, and
    expressions match by value for math and metamathqa, by their form for deepmind; comparing two of
    them ends after 5 seconds. docs/answers.md has every rule.

    Args:
      output: what a model wrote, worked steps included.
      reference: the published answer field, worked steps included where they are published.
      benchmark: a name of `ANSWER_KINDS`.

    Raises:
      ValueError: the benchmark is unknown.
      ImportError: the benchmark has expressions to compare and math-verify is not installed.
      RuntimeError: the process that compares expressions cannot be started on this machine.
    """
    kind = kind_of(benchmark)
    if kind.symbolic:
        require_math_verify()
    expected, given = reference_answer(reference, kind), final_answer_of(output, benchmark)
    if kind.letters:
        return bool(expected) and expected == given
    with time_limit():
        return _same_answer(tidy(expected), tidy(given), kind)


def _same_answer(expected: str, given: str, kind: AnswerKind) -> bool:
    """Compares a tidy answer with the reference."""
    if not expected or not given or len(given) > _MOST_CHARACTERS:
        return False
    if expected == given:
        return True
    parts = several(expected) if kind.lists and _number(expected, kind) is None else None
    if parts is None:
        return _same_single(expected, given, kind)
    found = several(given)
    if found is None:
        # An inequality may describe an interval; one value is never a list of them.
        described = parts.opening != "" or are_sets(parts.parts)
        return kind.symbolic and described and equivalent(expected, given)
    related = [all(map(RELATION.search, side.parts)) for side in (parts, found)]
    if kind.symbolic and related[0] != related[1]:
        return equivalent(expected, given)
    return _same_parts(parts, found, kind)


def _same_parts(expected: Several, given: Several, kind: AnswerKind) -> bool:
    """Compares part by part, in order for tuples, intervals and lists whose order matters."""
    count, named = len(expected.parts), expected.names and given.names
    positional = kind.algebra and expected.opening in ("(", "[")
    brackets = (expected.opening, expected.closing) == (given.opening, given.closing)
    if (
        count != len(given.parts)
        or (named and expected.names != given.names)
        or (positional and not brackets and not given.names)
        or (kind.algebra and not positional and given.opening == "(")
    ):
        return False
    if positional or expected.names or count >= kind.ordered_from:
        pairs = zip(expected.parts, given.parts, strict=True)
        return all(_same_single(part, other, kind) for part, other in pairs)
    cheap = dataclasses.replace(kind, symbolic=False)
    wanted, left = _unmatched(list(expected.parts), list(given.parts), cheap)
    if kind.symbolic and len(wanted) <= _MOST_SYMBOLIC_PARTS:
        wanted, left = _unmatched(wanted, left, kind)
    return not wanted


def _unmatched(
    expected: list[str], given: list[str], kind: AnswerKind
) -> tuple[list[str], list[str]]:
    """Takes equal parts out of two lists in pairs, and gives the rest of both."""
    wanted = []
    for part in expected:
        match = next((other for other in given if _same_single(part, other, kind)), None)
        if match is None:
            wanted.append(part)
        else:
            given.remove(match)
    return wanted, given


def _same_single(expected: str, given: str, kind: AnswerKind) -> bool:
    """Compares answers of one part by what the reference is."""
    if expected == given:
        return True
    if kind.algebra and (based := _same_in_base(expected, given)) is not None:
        return based
    plain, words = untexted(expected), _words(expected)
    if words in _TRUTH:
        return _truth(given) is _TRUTH[words]
    if _NOTHING.fullmatch(plain.lower()):
        return _NOTHING.fullmatch(untexted(given).lower()) is not None
    if letter := re.fullmatch(r"\(?([A-F])\)?", plain):
        return chosen_letter(given, "ABCDEF") == letter.group(1)
    literal = kind.lowest_terms and _LITERAL.fullmatch(expected)
    number = None if literal else _number(expected, kind)
    if number is not None:
        other = _given_number(expected, given, kind)
        if other is None:
            # A number that is not worked out, such as "2^{10}" or "x = 5!"; "5:1" is none.
            value = (_assignment(given) or ("", ""))[1]
            worked = len(value) <= _MOST_ARITHMETIC and _ARITHMETIC.fullmatch(value)
            return bool(kind.symbolic and worked) and _same_expression(expected, given, kind)
        return same_quantity(number, other, rounded=kind.rounded, reduced=kind.lowest_terms)
    if kind.words and named_choice([expected]):
        return (named_choice([given]) or "").lower() == words
    # Words, a time or a date rather than mathematics.
    is_text = re.fullmatch(r"[A-Za-z0-9 :.,'/-]+", plain) and (
        re.match(r"\\text\s*\{\s*[A-Za-z]", expected)
        or re.search(r"[A-Za-z]{4,}|[0-9]:[0-9]", plain)
    )
    if not kind.algebra or literal or is_text:
        return words == _words(given)
    return _same_expression(expected, given, kind)


def _same_in_base(expected: str, given: str) -> bool | None:
    """Compares digits and bases; None where neither says a base."""
    assigned = _assignment(given, loose=True)
    value = assigned[1] if assigned else given
    first, second = in_base(expected), in_base(value) if assigned else None
    if first is None and second is None:
        return None
    plain = r"-?[0-9]+(?:\.[0-9]+)?"
    sides = [
        (text.lstrip("0"), 10) if found is None and re.fullmatch(plain, text) else found
        for found, text in ((first, expected), (second, value))
    ]
    return None not in sides and sides[0] == sides[1]


def _number(text: str, kind: AnswerKind) -> Quantity | None:
    """The number that a reference is, its name left out."""
    assigned = _assignment(text)
    return quantity(assigned[1], algebra=kind.algebra) if assigned else None


def _given_number(expected: str, given: str, kind: AnswerKind) -> Quantity | None:
    """The one number that an answer gives where the reference is a number."""
    assigned, reference = _assignment(given, loose=True), _assignment(expected)
    if assigned is None or RELATION.search(untexted(given)):
        return None
    if kind.words and named_choice([given]) is not None:
        return None
    if reference and not _names_agree(reference[0], assigned[0]):
        return None
    first, *others = _sides(given)
    if len(others) == 1 and (said := quantity(first)) and computed(others[0]) == said.value:
        return said
    value = assigned[1]
    return (
        quantity(value, algebra=kind.algebra)
        or repeated_quantity(value, algebra=kind.algebra)
        or only_quantity(untexted(value), algebra=kind.algebra)
    )


def _same_expression(expected: str, given: str, kind: AnswerKind) -> bool:
    """Compares expressions by form and, where the benchmark allows it, by value."""
    reference, answer = _assignment(expected), _assignment(given)
    if (reference is None) != (answer is None) and not kind.symbolic:
        return False
    if reference and answer:
        if not _names_agree(reference[0], answer[0]):
            return False
        expected, given = reference[1], answer[1]
    elif (reference or answer) and not ("=" in expected and "=" in given):
        # An equation answers an equation only.
        return False
    (expected, unit), (given, other) = _without_unit(expected), _without_unit(given)
    if not compatible(unit, other):
        return False
    first, second = form(expected), form(given)
    if first is not None and first == second:
        return True
    if not kind.symbolic:
        return re.sub(r"\s", "", expected) == re.sub(r"\s", "", given)
    # An equal sum is no answer to a question for factors.
    factors = factor_count(first) if first is not None else 0
    if factors and (second is None or factor_count(second) != factors):
        return False
    return equivalent(expected, given)


def _assignment(text: str, *, loose: bool = False) -> tuple[str, str] | None:
    """Parts a name from its value: "x = 5", "5 = x", "f(2) = 3 + 4 = 7".

    The name is "" where there is none; where it is `loose`, sums of names and arithmetic may stand
    for it too: "x + y = 5", "2 + 3 = 5". None for an equation, "2x = 5".
    """
    parts = _sides(text)
    if len(parts) == 1:
        return "", text
    name, value = parts[0], parts[-1]
    if not name or not value or any(map(_JOINT.search, parts[1:-1])):
        return None
    if _NAME.fullmatch(name):
        return name, value
    if len(parts) == 2 and _NAME.fullmatch(value) and quantity(name):
        return value, name
    return ("", value) if loose and _is_label(name) else None


def _sides(text: str) -> list[str]:
    """Cuts a text at the equals signs outside brackets: "18 (9 * 2 = 18)" is one side."""
    sides, start, depth, scanned = [], 0, 0, 0
    for found in _EQUALS.finditer(text):
        gap = text[scanned : found.start()]
        depth += sum(map(gap.count, "([")) - sum(map(gap.count, ")]"))
        scanned = found.end()
        if depth <= 0:
            sides.append(text[start : found.start()].strip())
            start = found.end()
    return [*sides, text[start:].strip()]


def _is_label(text: str) -> bool:
    """Returns whether the left of an equals sign is a name, a sum of names, or arithmetic."""
    text = re.sub(r"\\[A-Za-z]+|_\{?\w+\}?|\([^()]*\)", " ", untexted(text))
    letters = re.search(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])|[0-9][A-Za-z]", text)
    return not (letters and re.search(r"[0-9^]|^\s*-", text)) and not RELATION.search(text)


def _names_agree(first: str, second: str) -> bool:
    """Returns whether two names may be of one value: a name that is left out agrees with any."""
    return not first or not second or first.replace(" ", "") == second.replace(" ", "")


def _without_unit(text: str) -> tuple[str, str]:
    """An expression and the unit behind it."""
    found = _UNIT.search(text)
    unit = unit_behind(found.group(), algebra=True) if found and found.start() else None
    return (text, "") if found is None or unit is None else (text[: found.start()].strip(), unit)


def _truth(text: str) -> bool | None:
    """Reads a yes or no; None where a text says neither or both."""
    words = _words(text)
    if words in _TRUTH:
        return _TRUTH[words]
    first, *_ = said = words.split(" ")
    clear = len({_TRUTH[word] for word in said if word in _TRUTH}) == 1
    return _TRUTH.get(first) if clear and re.match(r"\w+\s*[,.:;]", text) else None


def _words(text: str) -> str:
    """Words without case, articles and punctuation (Rajpurkar et al. 2016, arXiv 1606.05250)."""
    text = re.sub(r"[.'\"]|(?<=:)\s+|\s+(?=:)", "", untexted(text).casefold())
    text = re.sub(r"(?<=[0-9])(?=[^\W\d_])", " ", re.sub(r"[^\w:%+-]+", " ", text))
    return " ".join(re.sub(r"\b(?:a|an|the)\b(?=\s+\S)", " ", text).split())
