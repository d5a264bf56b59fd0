"""Answers of several parts: lists, sets, tuples, intervals, and values with their names."""

import dataclasses
import re

from partitionsel_jax.evaluation.answers.tidying import matching

_JOINTS = re.compile(r"\s*(?:,|;)\s*(?:and|or)\b\s*|\s*[,;]\s*|\s+(?:and|or)\s+", re.IGNORECASE)
_TEXT_JOINTS = re.compile(r"\\text\s*\{\s*(,?\s*(?:and|or|,))\s*\}", re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<![0-9,.])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]|,[0-9])")
_NAMED = re.compile(r"(?P<name>[A-Za-z](?:_\{?\w\}?)?)\s*=\s*(?P<value>[^=]+)")
_MOST_PARTS = 50


@dataclasses.dataclass(frozen=True)
class Several:
    """Two parts or more.

    Attributes:
      opening: "(", "[", "{" or "", as the list was bracketed.
      closing: likewise.
      parts: the text of each part, without its name.
      names: the name of each part where all have one of their own, "x = 1, y = 2", and the parts
        are then in the names' order; or empty.
    """

    opening: str
    closing: str
    parts: tuple[str, ...]
    names: tuple[str, ...] = ()


def several(text: str) -> Several | None:
    """Cuts a tidy answer into its parts.

    Inside round and square brackets every comma separates, but for one before three zeros:
    "(5,120)" is a pair and "(1,000)" a number; elsewhere a comma between groups of three digits
    belongs to the number, unless a comma with a space shows what separates.

    Returns:
      The parts, or None where the text is a single answer or has more than 50 parts.
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
    if len(named) < len(parts):
        return Several(opening, closing, tuple(parts))
    if len(names) == len(parts):
        named.sort(key=lambda found: found["name"])
        values = tuple(found["value"] for found in named)
        return Several(opening, closing, values, tuple(sorted(names)))
    if len(names) == 1:
        parts = [found["value"] for found in named]
    return Several(opening, closing, tuple(parts))


def _cut(text: str, bracketed: bool) -> list[str]:
    """The pieces between the joints that are inside no brackets."""
    spaced = re.search(r"[,;]\s", text) is not None
    keep = (
        {place for found in _THOUSANDS.finditer(text) for place in range(*found.span())}
        if spaced or not bracketed
        else {found.start() for found in re.finditer(r",000(?![0-9])", text)}
    )
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
