"""Numbers in another base: 1010_2, 2A_{16}, 1010 (base 2)."""

import re

from partitionsel_jax.evaluation.answers.tidying import untexted

_WORDS = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
)
_NAMES = {word: base for base, word in enumerate(_WORDS.split(), 2)} | {
    "binary": 2,
    "octal": 8,
    "decimal": 10,
    "hex": 16,
    "hexadecimal": 16,
}
_BASE = rf"(?:[0-9]{{1,2}}|{'|'.join(_NAMES)})"
_WRITTEN = re.compile(
    r"(?P<digits>[-0-9A-Za-z.,(){}\\! ]{1,200}?)\s*+(?:"
    rf"_\s*[{{(]*\s*(?:base\s*)?(?P<index>{_BASE})\s*[)}}]*"
    rf"|,?\s*\(?\s*(?:in\s+)?base\s*-?\s*(?P<word>{_BASE})\s*\)?"
    r"|\(?\s*(?:in\s+)?(?P<name>binary|octal|hexadecimal|hex)\s*\)?)",
    re.IGNORECASE,
)
_PREFIXED = re.compile(r"(?P<sign>-?)0(?P<prefix>[box])(?P<digits>[0-9a-f]{1,200})", re.IGNORECASE)
_PREFIXES = {"b": 2, "o": 8, "x": 16}
_DIGITS = re.compile(r"-?[0-9a-z]+(?:\.[0-9a-z]+)?")


def in_base(text: str) -> tuple[str, int] | None:
    """Reads a tidy number that says its base.

    Returns:
      The digits in lower case without leading zeros, and the base; None where the text is anything
      else, or has a digit that the base has not.
    """
    text = untexted(text)
    if found := _PREFIXED.fullmatch(text):
        digits, base = found["sign"] + found["digits"], _PREFIXES[found["prefix"].lower()]
    elif found := _WRITTEN.fullmatch(text):
        said = (found["index"] or found["word"] or found["name"]).lower()
        digits, base = found["digits"], _NAMES.get(said) or int(said)
    else:
        return None
    digits = re.sub(r"[\s,(){}]|\\[,;:! ]", "", digits).lower()
    if not _DIGITS.fullmatch(digits) or not 2 <= base <= 36:
        return None
    if any(int(digit, 36) >= base for digit in re.sub(r"[-.]", "", digits)):
        return None
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    return sign + (digits.lstrip("0") or "0"), base
