"""How an answer to each reasoning-gym task is judged: a rule for every task.

reasoning-gym's own scorers reward a learner on its way and do not tell right from wrong:
`coin_flip` gives full marks to any prefix of the reference, `game_of_life_halting` to any text,
`gsm_symbolic` to the number with its sign turned. So a task's own scorer is asked only where many
answers are right, and only about a text that has the task's form from end to end. All other tasks
are judged here, and a task that the table does not know is judged as text.
"""

import ast
import json
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

_NUMBER = r"[-+−]? ?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:[eE][-+]?\d{1,3})?"
# A text's numbers, line ends and other characters. Digits come first, so that none is cut, and no
# number begins right behind another: "4.5.5" is not 4.5 and 0.5.
_PARTS = re.compile(r"(?<![\d.])[-+−]? ?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?|\n|\S", re.ASCII)
_FRACTIONS = (
    re.compile(r"(-?\d{1,300}) ?/ ?(\d{1,300})", re.ASCII),
    re.compile(r"(-?)\\d?frac\{(\d{1,300})\}\{(\d{1,300})\}", re.ASCII),
)
_COMPLEX = re.compile(r"[-+]? ?[\d.]*[ij]?(?: ?[-+] ?[\d.]*[ij])?", re.ASCII)
_ROLE = re.compile(r"(\w+) is an? (\w+)")

# (answer, reference, the entry's metadata) -> whether the answer is right.
Check = Callable[[str, str, Mapping[str, Any]], bool]


class Rule(NamedTuple):
    """A rule that makes an answer right which is not the reference letter by letter.

    Attributes:
      meaning: the rule in words, for users.
      check: whether an answer is right.
      form: what a text has to look like from end to end before the task's own scorer is asked;
        empty where `check` decides.
    """

    meaning: str
    check: Check = lambda answer, reference, metadata: False
    form: str = ""


def plain(text: str) -> str:
    """Returns the text without white space at the ends of its lines, and with single spaces."""
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def number(text: str) -> Fraction | None:
    """Reads a text that is one number, thousands separated or not; None for any other."""
    text = text.strip().replace("−", "-")
    if not re.fullmatch(_NUMBER, text, re.ASCII) or not re.search(r"\d", text):
        return None
    try:
        return Fraction(text.replace(",", "").replace(" ", ""))
    except ValueError:
        return None


def _equal(read: Callable[[str], Any]) -> Check:
    """Accepts a text that reads as the reference does; one that cannot be read reads as None."""
    return lambda answer, reference, _: (
        (value := read(answer)) is not None and value == read(reference)
    )


def _within(relative: str) -> Check:
    """Accepts a number or a fraction this close to the reference, relative to it."""

    def check(answer: str, reference: str, _: Mapping[str, Any]) -> bool:
        value, right = _ratio(answer), number(reference)
        if value is None or right is None:
            return False
        return abs(value - right) <= Fraction(relative) * abs(right)

    return check


def _ratio(text: str) -> Fraction | None:
    """Reads a number or a plain fraction."""
    found = _FRACTIONS[0].fullmatch(text.strip())
    if found is None:
        return number(text)
    above, below = map(int, found.groups())
    return Fraction(above, below) if below else None


def _rounded(answer: str, reference: str, metadata: Mapping[str, Any]) -> bool:
    """Accepts what differs in the last of 12 significant digits, or of more if there are more."""
    digits = len(re.sub(r"[eE].*|\D", "", reference).lstrip("0"))
    return _within(f"1e-{max(12, digits) - 1}")(answer, reference, metadata)


def _three_figures(answer: str, reference: str, metadata: Mapping[str, Any]) -> bool:
    value, right = number(answer), number(reference)
    if value is None or right is None:
        return False
    is_rounded = value == Fraction(f"{float(right):.2e}")
    return is_rounded or _within("1e-4")(answer, reference, metadata)


def _terms(text: str) -> tuple[int, int] | None:
    """Reads numerator and denominator, so that a fraction that is not reduced is wrong."""
    if len(text) > 1 and text[0] == text[-1] == "$":
        text = text[1:-1]
    for pattern in _FRACTIONS:
        if found := pattern.fullmatch(text.strip()):
            *sign, above, below = found.groups()
            return int("".join(sign) + above), int(below)
    return None


def _complex(text: str) -> complex | None:
    text = plain(text).replace("−", "-")
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip()
    if not _COMPLEX.fullmatch(text):
        return None
    try:
        return complex(text.replace(" ", "").replace("i", "j"))
    except ValueError:
        return None


def _same_numbers(places: int | None = None) -> Check:
    """Accepts the reference's text with numbers of the same value in it.

    Args:
      places: decimals that the task asks for, within half a unit of which numbers may differ; they
        are compared exactly where none is given.
    """

    def is_close(part: str, right: str) -> bool:
        value, wanted = _ratio(part), _ratio(right)
        if value is None or wanted is None:
            return False
        if places is None:
            return value == wanted
        decimals = max(len(right.partition(".")[2]), places)
        return abs(value - wanted) <= Fraction(1, 2 * 10**decimals)

    def check(answer: str, reference: str, _: Mapping[str, Any]) -> bool:
        texts = (plain(text).replace('"', "'") for text in (answer, reference))
        parts, rights = map(_PARTS.findall, texts)
        return len(parts) == len(rights) and all(
            part == right or is_close(part, right)
            for part, right in zip(parts, rights, strict=True)
        )

    return check


def _same_roots(answer: str, reference: str, _: Mapping[str, Any]) -> bool:
    """Compares comma-separated numbers in any order, to four decimals."""
    values, rights = (_numbers(text, ",") for text in (answer, reference))
    if values is None or rights is None or len(values) != len(rights):
        return False
    pairs = zip(values, rights, strict=True)
    return all(abs(value - right) <= Fraction(1, 20_000) for value, right in pairs)


def _numbers(text: str, between: str) -> list[Fraction] | None:
    """Reads numbers in any order, with such separators between them; None for any other text."""
    found = [number(item) for item in re.split(between, text)]
    values = sorted(value for value in found if value is not None)
    return values if len(values) == len(found) else None


def _json(text: str) -> str | None:
    """Spells a JSON value in one way, in which 1, 1.0 and true differ."""
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):
        return None


def _partitions(text: str) -> list[list[str]] | None:
    """Reads JSON lists of lists of texts, in any order."""
    value = json.loads(_json(text) or "null")
    if not isinstance(value, list) or not all(isinstance(group, list) for group in value):
        return None
    if not all(isinstance(member, str) for group in value for member in group):
        return None
    return sorted(value)


def _groups(text: str) -> list[list[str]] | None:
    """Reads JSON lists of lists of texts, in any order and their members too."""
    groups = _partitions(text)
    return None if groups is None else sorted(map(sorted, groups))


def _is_palindrome(answer: str, reference: str, _: Mapping[str, Any]) -> bool:
    answer = answer.lower()
    return answer == answer[::-1] and sorted(answer) == sorted(reference.lower())


def _roles(text: str) -> list[tuple[str, ...]] | None:
    """Reads who is what, of "X is a knight, and Y is a knave", with or without a full stop."""
    parts = re.split(r", and |, | and ", plain(text).removesuffix("."))
    found = [_ROLE.fullmatch(part) for part in parts]
    return None if None in found else sorted(match.groups() for match in found if match)


def _listed(item: str, between: str) -> str:
    return f"(?:{item})(?:{between}(?:{item}))*"


def _grid(text: str, cell: str) -> list[list[int]]:
    """Reads the rows of a grid of such cells; none for any other text."""
    text = plain(text)
    if not re.fullmatch(_listed(cell, r"[ \n]"), text):
        return []
    return [[int(cell) for cell in line.split(" ")] for line in text.split("\n")]


def _is_kakurasu(answer: str, reference: str, metadata: Mapping[str, Any]) -> bool:
    rows = _grid(answer, "[01]")
    if len(rows) != metadata["n_rows"] or {len(row) for row in rows} != {metadata["n_cols"]}:
        return False
    sums = [
        [sum(place * cell for place, cell in enumerate(line, 1)) for line in lines]
        for lines in (rows, zip(*rows, strict=True))
    ]
    return sums == [list(metadata["row_sums"]), list(metadata["col_sums"])]


def _is_survo(answer: str, reference: str, metadata: Mapping[str, Any]) -> bool:
    """Returns whether the numbers given fill the empty cells, and lines end with their sums."""
    rows, puzzle = _grid(answer, "[0-9]{1,9}"), metadata["puzzle"]
    if [len(row) for row in rows] != [len(row) for row in puzzle]:
        return False
    cells = [pair for lines in zip(rows, puzzle, strict=True) for pair in zip(*lines, strict=True)]
    filled = sorted(cell for cell, given in cells if given == 0)
    return (
        all(given in (0, cell) for cell, given in cells)
        and filled == sorted(metadata["candidate_numbers"])
        and all(sum(line[:-1]) == line[-1] for line in (*rows, *zip(*rows, strict=True)))
    )


# A letter or more digits would be no arithmetic, and a long text more than a stack holds.
_ARITHMETIC = re.compile(r"[-+*/() 0-9]{1,400}", re.ASCII)
_OPERATORS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def _makes(answer: str, reference: str, metadata: Mapping[str, Any]) -> bool:
    """Accepts arithmetic that makes the target, or else 24, of each of the numbers once."""
    used: list[int] = []
    try:
        if not _ARITHMETIC.fullmatch(answer):
            return False
        value = _value(ast.parse(answer.strip(), mode="eval").body, used)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return False
    return value == metadata.get("target", 24) and sorted(used) == sorted(metadata["numbers"])


def _value(node: ast.expr, used: list[int]) -> Fraction:
    """Computes the exact value of an expression; the numbers in it are added to `used`."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, used), _value(node.right, used))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, used)
    raise ValueError("expected +, -, * and / between whole numbers")


# The rule of a task that the table below does not have.
TEXT = Rule("the reference alone")
# Their scorers pass the answer to SymPy's parser, which evaluates it, and nothing that a model
# wrote is executed.
UNJUDGED = Rule("the reference alone, as any other solution would have to be executed")
_JUG = '"(?:(?:fill|empty) [A-Z]|pour [A-Z]->[A-Z])"'
_KNIGHT = '"[wB],[A-Z][0-9],[A-Z][0-9]"'
_FORMS = {
    # Of a letter that is named twice, its scorer forgets the first digit.
    "cryptarithm": r"(?!.*([A-Z]) ?=.*\1 ?=)" + _listed("[A-Z] ?= ?[0-9]", " ?, ?"),
    "jugs": rf"\[ ?{_listed(_JUG, ', ?')} ?\]",
    "knight_swap": rf"No|\[ ?{_listed(_KNIGHT, ', ?')} ?\]",
    "quantum_lock": _listed("[A-C]", " ?(?:→|->) ?"),
    "shortest_path": _listed("up|down|left|right", " "),
    "sokoban": "[LRUD]+",
    "tower_of_hanoi": _listed("Move disk [0-9]+ from Peg [0-9]+ to Peg [0-9]+", "\n"),
    "word_ladder": _listed("[A-Za-z]+", ", ?"),
}
_NUMBERS = (
    "aiw basic_arithmetic chain_sum count_bits count_primes decimal_chain_sum gcd gsm_symbolic "
    "largest_island lcm leg_counting letter_counting maze number_sequence products "
    "rectangle_count rotten_oranges self_reference simple_equations simple_geometry"
)
_EXECUTED = "intermediate_integration polynomial_multiplication simple_integration"
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_NUMBERS.split(), Rule("a number of the same value", _equal(number))),
    **dict.fromkeys(
        ("codeio", "game_of_life", "list_functions"), Rule("the same JSON value", _equal(_json))
    ),
    **dict.fromkeys(
        ("dice", "fraction_simplification"),
        Rule("the same numerator and denominator", _equal(_terms)),
    ),
    **dict.fromkeys(_EXECUTED.split(), UNJUDGED),
    "countdown": Rule("arithmetic with the numbers given that makes the target", _makes),
    "puzzle24": Rule("arithmetic with the numbers given that makes 24", _makes),
    "coin_flip": Rule(
        "a number or a fraction within a relative 1e-4 of the value", _within("1e-4")
    ),
    "decimal_arithmetic": Rule("a number within a relative 1e-11 of the value", _rounded),
    "number_format": Rule("the number chosen, in any notation", _within("1e-14")),
    "power_function": Rule(
        "the value, rounded to 3 figures or within a relative 1e-4", _three_figures
    ),
    "complex_arithmetic": Rule("a complex number of the same value", _equal(_complex)),
    "advanced_geometry": Rule("the reference, its numbers to 2 or 3 decimals", _same_numbers(2)),
    "pool_matrix": Rule("the reference, its numbers to 2 decimals", _same_numbers(2)),
    **dict.fromkeys(
        ("number_filtering", "number_sorting"),
        Rule("the reference, its numbers of the same value", _same_numbers()),
    ),
    "polynomial_equations": Rule("the same roots in any order, to 4 decimals", _same_roots),
    "prime_factorization": Rule(
        "the same factors in any order", _equal(lambda text: _numbers(text, "[×x*]"))
    ),
    "word_sorting": Rule(
        "the same words in the same order",
        _equal(lambda text: [item.strip() for item in text.split(",")]),
    ),
    "group_anagrams": Rule("the same groups in any order", _equal(_groups)),
    "palindrome_partitioning": Rule("the same partitions in any order", _equal(_partitions)),
    "palindrome_generation": Rule("a palindrome of the same letters", _is_palindrome),
    "knights_knaves": Rule("the same role for everybody, in any order", _equal(_roles)),
    "kakurasu": Rule("zeros and ones that have the sums asked for", _is_kakurasu),
    "survo": Rule("the numbers given, in places that have the sums asked for", _is_survo),
    "n_queens": Rule(
        "any solution of the board",
        lambda answer, _, metadata: plain(answer) in map(plain, metadata["valid_answers"]),
    ),
    **{
        task: Rule(
            "any solution that the task's own scorer finds right, in the form asked for", form=form
        )
        for task, form in _FORMS.items()
    },
}
