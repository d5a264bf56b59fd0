"""Answers of several parts: lists, sets, tuples, intervals, values with their names, and rows."""

import itertools
import re
from typing import NamedTuple

from partitionsel_jax.evaluation.answers.kinds import AnswerKind
from partitionsel_jax.evaluation.answers.quantities import Quantity, quantity, same_quantity
from partitionsel_jax.evaluation.answers.spelling import matching, tidy

_JOINTS = re.compile(r"(?i)\s*(?:,|;)\s*(?:and|or)\b\s*|\s*[,;]\s*|\s+(?:and|or)\s+")
_TEXT_JOINTS = re.compile(r"(?i)\\text\s*\{\s*(,?\s*(?:and|or|,))\s*\}")
_THOUSANDS = re.compile(r"(?<![0-9,.])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]|,[0-9])")
_NAMED = re.compile(r"(?P<name>[A-Za-z](?:_\{?\w\}?)?)\s*=\s*(?P<value>[^=]+)")
_MOST_PARTS = _MOST_ROWS = 50

_ENVIRONMENT = re.compile(
    r"(?s)\\begin\{(aligned|align\*?|cases|gathered|gather\*?|split|eqnarray\*?|array)\}"
    r"(?:\{[lcr]*+\})?(?P<body>(?:(?!\\(?:begin|end)\b).)*+)\\end\{\1\}"
)
# A function that is defined piece by piece is one answer.
_PIECEWISE = re.compile(r"\\text|\bif\b|[<>]|\\(?:le|ge)q?\b")
_BULLET = re.compile(r"^(?:[-*•+]\s+|\(?[0-9]{1,2}[.)]\s+)(?=\S)")
_LEADING = re.compile(r"(?i)^(?:and|or|so|thus|then|hence|therefore)\b,?\s+")
_TRAILING = re.compile(r"(?i)[\s,.;]+(?:and|or)$|[\s,.;]+$")
_BOLD = re.compile(r"(?<![\w)])\*\*|\*\*(?![\w(-])")
_ASSIGNED = re.compile(r"(?P<name>[A-Za-z](?:_\{?\w{1,9}\}?)?)\s*=\s*(?P<value>[^=]+)")
_LABELLED = re.compile(
    r"(?P<name>[A-Za-z][A-Za-z' -]{0,60}?)\s*(?:[:=]|\bis\b|\bare\b)\s*(?P<value>[^=:]+)"
)
_NO_LABEL = re.compile(r"(?i)(?:step|check|case|total|sum|so|since|if|verif\w*)\b")


class Several(NamedTuple):
    """Two parts or more, without their names.

    `opening` and `closing` are the brackets around them, or "". Where all have a name of their own,
    "x = 1, y = 2", `names` holds these, and the parts are in their order; else it is empty.
    """

    opening: str
    closing: str
    parts: tuple[str, ...]
    names: tuple[str, ...] = ()


class _Named(NamedTuple):
    name: str
    value: str
    number: Quantity


def several(text: str) -> Several | None:
    """Cuts a tidy answer into its parts; None for a single answer, and for more than 50 parts.

    Inside round and square brackets every comma separates, but for one before three zeros:
    "(5,120)" is a pair and "(1,000)" a number; elsewhere a comma between groups of three digits
    belongs to the number, unless a comma with a space shows what separates.
    """
    text = _TEXT_JOINTS.sub(r" \1 ", text).replace("\\{", "{").replace("\\}", "}").strip()
    text = re.sub(r"^\(\s*[a-z](?:\s*,\s*[a-z])+\s*\)\s*=\s*", "", text)
    text = re.sub(r"^[a-zA-Z]\s*(?:=|\\in(?![A-Za-z]))\s*(?=\(|\[|\{)", "", text)
    opening = closing = ""
    if text[:1] in ("(", "[", "{") and matching(text, 0) == len(text) - 1:
        opening, closing, text = text[0], text[-1], text[1:-1]
    pieces = [piece.strip() for piece in _cut(text, bool(opening))]
    parts = [part for piece in pieces for part in _both_signs(piece)]
    if not 2 <= len(parts) <= _MOST_PARTS or not all(parts):
        return None
    named = [found for part in parts if (found := _NAMED.fullmatch(part))]
    names = {found["name"] for found in named}
    if len(named) < len(parts) or 1 < len(names) < len(parts):
        return Several(opening, closing, tuple(parts))
    if len(names) > 1:
        named.sort(key=lambda found: found["name"])
    values = tuple(found["value"] for found in named)
    return Several(opening, closing, values, tuple(sorted(names)) if len(names) > 1 else ())


def unrolled(text: str) -> str:
    """Writes the rows of aligned equations on lines of their own, without their `&`.

    A row that begins with its equals sign goes on with the row before it.
    """

    def rows(found: re.Match[str]) -> str:
        body = found["body"]
        if "=" not in body or _PIECEWISE.search(body):
            return found.group()
        lines = [row.strip() for row in body.replace("&", "").replace("\\\\", "\n").splitlines()]
        return "\n" + "\n".join(filter(None, lines)).replace("\n=", " =") + "\n"

    return _ENVIRONMENT.sub(rows, text)


def values_at_the_end(lines: list[str], kind: AnswerKind) -> str:
    """The values that the last lines give, a name and a number each: "x = 3, y = 5".

    Lines that give one name two spellings of one number are steps and no list. Where answers are
    numbers, labels may stand for names: "Adults: 3", "Children: 5", which gives "3, 5". The result
    is "" where fewer than two lines give any.
    """
    if len(named := _trailing(lines, _ASSIGNED, kind)) > 1:
        kept: list[_Named] = []
        for one in named:
            # A step, where the next line gives the same value to the same name.
            if kept and kept[-1].name == one.name and same_quantity(kept[-1].number, one.number):
                kept.pop()
            kept.append(one)
        found = [f"{one.name} = {one.value}" for one in kept]
    else:
        found = [one.value for one in (_trailing(lines, _LABELLED, kind) if kind.numeric else ())]
    return ", ".join(found) if len(found) > 1 else ""


def values_at_the_start(lines: list[str], kind: AnswerKind) -> str:
    """Gives the values of the first lines, as `values_at_the_end` does."""
    patterns = (_ASSIGNED, _LABELLED) if kind.numeric else (_ASSIGNED,)
    first = itertools.takewhile(
        lambda line: any(_read(line, pattern, kind) for pattern in patterns), lines[:_MOST_ROWS]
    )
    return values_at_the_end(list(first), kind)


def _cut(text: str, bracketed: bool) -> list[str]:
    """The pieces between the joints that are inside no brackets."""
    if bracketed and not re.search(r"[,;]\s", text):
        keep = {found.start() for found in re.finditer(r",000(?![0-9])", text)}
    else:
        keep = {place for found in _THOUSANDS.finditer(text) for place in range(*found.span())}
    pieces, start, depth, scanned = [], 0, 0, 0
    for found in _JOINTS.finditer(text):
        gap = text[scanned : found.start()]
        depth += sum(map(gap.count, "([{")) - sum(map(gap.count, ")]}"))
        scanned = found.end()
        if depth == 0 and found.start() not in keep:
            pieces.append(text[start : found.start()])
            start = found.end()
    return [*pieces, text[start:]]


def _both_signs(part: str) -> list[str]:
    """Two parts for one plus-or-minus sign."""
    before, sign, after = part.partition("\\pm")
    if not sign or "\\pm" in after:
        return [part]
    return [f"{before}+{after}" if before.strip() else after.strip(), f"{before}-{after.strip()}"]


def _trailing(lines: list[str], pattern: re.Pattern[str], kind: AnswerKind) -> list[_Named]:
    """Reads the last lines, as long as they match; a line of "and" does not count."""
    told = (
        line
        for line in lines[: -_MOST_ROWS - 1 : -1]
        if not re.fullmatch(r"(?i)\W*(?:and|or)\W*", line)
    )
    read = itertools.takewhile(bool, (_read(line, pattern, kind) for line in told))
    return [one for one in read if one][::-1]


def _read(line: str, pattern: re.Pattern[str], kind: AnswerKind) -> _Named | None:
    """Reads name and value of a line; None where it holds anything else."""
    if len(line) > 100 or not re.search(r"[0-9]", line):
        return None
    bare = tidy(_BOLD.sub("", _BULLET.sub("", line.strip(), count=1)))
    found = pattern.fullmatch(_TRAILING.sub("", _LEADING.sub("", bare, count=1)))
    if found is None or (pattern is _LABELLED and _NO_LABEL.match(found["name"])):
        return None
    number = quantity(found["value"].strip(), algebra=kind.algebra)
    return _Named(found["name"], found["value"].strip(), number) if number else None
