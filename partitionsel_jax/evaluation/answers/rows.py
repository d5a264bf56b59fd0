"""Answers that take several lines: rows of an environment, and a value a line."""

import itertools
import re

from partitionsel_jax.evaluation.answers.kinds import AnswerKind
from partitionsel_jax.evaluation.answers.quantities import Quantity, quantity, same_quantity
from partitionsel_jax.evaluation.answers.tidying import tidy

_ENVIRONMENT = re.compile(
    r"\\begin\{(aligned|align\*?|cases|gathered|gather\*?|split|eqnarray\*?|array)\}"
    r"(?:\{[lcr]*+\})?(?P<body>(?:(?!\\(?:begin|end)\b).)*+)\\end\{\1\}",
    re.DOTALL,
)
# A function that is defined piece by piece is one answer.
_PIECEWISE = re.compile(r"\\text|\bif\b|[<>]|\\(?:le|ge)q?\b")
_BULLET = re.compile(r"^(?:[-*•+]\s+|\(?[0-9]{1,2}[.)]\s+)(?=\S)")
_LEADING = re.compile(r"^(?:and|or|so|thus|then|hence|therefore)\b,?\s+", re.IGNORECASE)
_TRAILING = re.compile(r"[\s,.;]+(?:and|or)$|[\s,.;]+$", re.IGNORECASE)
_JOINT = re.compile(r"\W*(?:and|or)\W*", re.IGNORECASE)
_BOLD = re.compile(r"(?<![\w)])\*\*|\*\*(?![\w(-])")
_ASSIGNED = re.compile(r"(?P<name>[A-Za-z](?:_\{?\w{1,9}\}?)?)\s*=\s*(?P<value>[^=]+)")
_LABELLED = re.compile(
    r"(?P<name>[A-Za-z][A-Za-z' -]{0,60}?)\s*(?:[:=]|\bis\b|\bare\b)\s*(?P<value>[^=:]+)"
)
_NO_LABEL = re.compile(r"(?:step|check|case|total|sum|so|since|if|verif\w*)\b", re.IGNORECASE)
_MOST_ROWS = 50


def unrolled(text: str) -> str:
    """Writes the rows of aligned equations on lines of their own, without their `&`.

    A row that begins with its equals sign goes on with the row before it.
    """
    return _ENVIRONMENT.sub(_lines, text)


def _lines(found: re.Match[str]) -> str:
    """The rows of an environment, or all of it as it is where they are no equations."""
    body = found["body"]
    if "=" not in body or _PIECEWISE.search(body):
        return found.group()
    rows = [row.strip() for row in body.replace("&", "").replace("\\\\", "\n").splitlines()]
    return "\n" + "\n".join(filter(None, rows)).replace("\n=", " =") + "\n"


def values_at_the_end(lines: list[str], kind: AnswerKind) -> str:
    """The values that the last lines give, a name and a number each: "x = 3, y = 5".

    Lines that give one name two spellings of one number are steps and no list. Where answers are
    numbers, labels may stand for names: "Adults: 3", "Children: 5", which gives "3, 5".

    Returns:
      The values with their names; "" where fewer than two lines give any.
    """
    named = _trailing(lines, _ASSIGNED, kind)
    if len(named) > 1:
        return ", ".join(f"{name} = {value}" for name, value in _distinct(named, kind))
    labelled = _trailing(lines, _LABELLED, kind) if kind.numeric else []
    return ", ".join(value for _, value in labelled) if len(labelled) > 1 else ""


def values_at_the_start(lines: list[str], kind: AnswerKind) -> str:
    """Likewise, of the first lines."""
    patterns = (_ASSIGNED, _LABELLED) if kind.numeric else (_ASSIGNED,)
    first = itertools.takewhile(
        lambda line: any(_read(line, pattern, kind) for pattern in patterns), lines[:_MOST_ROWS]
    )
    return values_at_the_end(list(first), kind)


def _trailing(
    lines: list[str], pattern: re.Pattern[str], kind: AnswerKind
) -> list[tuple[str, str]]:
    """Name and value of each of the last lines that match."""
    found: list[tuple[str, str]] = []
    for line in lines[: -_MOST_ROWS - 1 : -1]:
        if _JOINT.fullmatch(line):
            continue
        read = _read(line, pattern, kind)
        if read is None:
            break
        found.insert(0, read)
    return found


def _read(line: str, pattern: re.Pattern[str], kind: AnswerKind) -> tuple[str, str] | None:
    """Name and value of a line; None where it holds anything else."""
    if len(line) > 100 or not re.search(r"[0-9]", line):
        return None
    bare = tidy(_BOLD.sub("", _BULLET.sub("", line.strip(), count=1)))
    bare = _TRAILING.sub("", _LEADING.sub("", bare, count=1))
    found = pattern.fullmatch(bare)
    if found is None or (pattern is _LABELLED and _NO_LABEL.match(found["name"])):
        return None
    value = found["value"].strip()
    return (found["name"], value) if quantity(value, algebra=kind.algebra) else None


def _distinct(named: list[tuple[str, str]], kind: AnswerKind) -> list[tuple[str, str]]:
    """The values without the steps that lead to one of the same name."""
    kept: list[tuple[str, str, Quantity]] = []
    for name, value in named:
        number = quantity(value, algebra=kind.algebra)
        if number is None:
            continue
        if (
            kept
            and kept[-1][0] == name
            and same_quantity(kept[-1][2], number, rounded=False, reduced=False)
        ):
            kept.pop()
        kept.append((name, value, number))
    return [(name, value) for name, value, _ in kept] if len(kept) > 1 else []
