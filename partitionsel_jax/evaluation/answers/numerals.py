"""Numbers in English words, digits in another base, and the units behind a number."""

import re
from fractions import Fraction

from partitionsel_jax.evaluation.answers.spelling import untexted

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: value for value, word in enumerate(_ONES.split())}
_SMALL |= {word: 10 * value for value, word in enumerate(_TENS.split(), 2)}
_PARTS = {"third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}
_PARTS |= {f"{word}s": value for word, value in _PARTS.items()} | {"half": 2, "halves": 2}
MAGNITUDES = {"dozen": 12, "hundred": 100, "thousand": 10**3}
MAGNITUDES |= {"million": 10**6, "billion": 10**9, "trillion": 10**12}
_WORD = re.compile(r"[\s-]*([A-Za-z]+)")

_BASES = {word: value for word, value in _SMALL.items() if 2 <= value <= 16}
_BASES |= {"binary": 2, "octal": 8, "decimal": 10, "hex": 16, "hexadecimal": 16}
_BASE = rf"(?:[0-9]{{1,2}}|{'|'.join(_BASES)})"
_WRITTEN = re.compile(
    r"(?i)(?P<digits>[-0-9A-Za-z.,(){}\\! ]{1,200}?)\s*+(?:"
    rf"_\s*[{{(]*\s*(?:base\s*)?(?P<index>{_BASE})\s*[)}}]*"
    rf"|,?\s*\(?\s*(?:in\s+)?base\s*-?\s*(?P<word>{_BASE})\s*\)?"
    r"|\(?\s*(?:in\s+)?(?P<name>binary|octal|hexadecimal|hex)\s*\)?)"
)
_PREFIXED = re.compile(r"(?i)(?P<sign>-?)0(?P<prefix>[box])(?P<digits>[0-9a-f]{1,200})")

# The first word of each names the unit.
_SPELLINGS = (
    "millimeter millimeters millimetre millimetres mm; centimeter centimeters centimetre "
    "centimetres cm cms; meter meters metre metres m; kilometer kilometers kilometre kilometres "
    "km kms; inch inches in; foot feet ft; yard yards yd yds; mile miles mi; "
    "milligram milligrams mg; gram grams g; kilogram kilograms kilo kilos kg kgs; ounce ounces oz; "
    "pound pounds lb lbs; ton tons tonne tonnes; milliliter milliliters millilitre millilitres ml; "
    "liter liters litre litres l L; gallon gallons gal; second seconds s sec secs; "
    "minute minutes min mins; hour hours h hr hrs; day days; week weeks; month months; "
    "year years yr yrs; cent cents; dollar dollars usd; euro euros eur €; rupee rupees rs inr ₹; "
    "degree degrees deg; celsius; fahrenheit; radian radians rad"
)
_UNITS = {word: words.split()[0] for words in _SPELLINGS.split(";") for word in words.split()}
_UNITS |= {"£": "sterling", "gbp": "sterling", "mph": "mile/hour"}
_UNITS |= dict.fromkeys(("kmh", "kph", "kmph"), "kilometer/hour")
# Behind a number these words go on with the arithmetic, take the number back, or name a part.
_NO_UNITS = (
    "or and to plus minus over divided than if not nor but half halves third thirds fourths fifth "
    "fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth tenths hundredths "
    "thousandths squared cubed factorial below under above negative point pi sqrt sin cos tan log "
    "exp mod zero one two three four five six seven eight nine ten eleven twelve dozen hundred "
    "thousand million billion trillion choose base"
)
_NO_UNIT = frozenset(_NO_UNITS.split())
_UNIT = re.compile(
    r"(?i)(?:(?P<prefix>square|sq|cubic|cu)\b\.?\s*)?(?P<word>[A-Za-z€£₹]+)\.?"
    r"(?:\s*\^\s*\{?\s*(?P<exponent>[23])\s*\}?|\s+(?P<suffix>squared|cubed)\b)?"
    r"(?:\s*(?:/|\bper\b)\s*(?P<divisor>[A-Za-z]+))?"
    r"(?P<scale>\s+(?:c|celsius|f|fahrenheit)\b)?"
)
_SQUARES = ("square", "sq", "squared", "2")
# "5th", "5/hour" and "5-inch" begin with what is no part of the word.
_JOINT = re.compile(r"\A(?:(?:st|nd|rd|th)\b)?[\s,/-]*")


def number_in_words(text: str) -> tuple[Fraction, str] | None:
    """Reads the number words that a text begins with: "twenty-five apples", "minus two", "half".

    An article counts as one before a magnitude or a part only: "a dozen", "a third".

    Returns:
      The number and the text behind it, or None where the text begins with no number word.
    """
    words: list[tuple[str, int]] = []
    while len(words) < 20 and (found := _WORD.match(text, words[-1][1] if words else 0)):
        words.append((found[1].lower(), found.end()))
    sign = -1 if words and words[0][0] in ("minus", "negative") else 1
    words = words[1:] if sign < 0 else words
    names = [*(word for word, _ in words), ""]
    if names[0] == "half":
        # Of one, or of the magnitude that follows: "half a dozen".
        of = MAGNITUDES.get(names[2]) if names[1] == "a" else None
        return Fraction(sign * (of or 1), 2), text[words[2 if of else 0][1] :]
    total, group, end, previous = 0, None, None, 100
    if len(words) > 1 and names[0] in ("a", "an"):
        if names[1] not in MAGNITUDES and names[1] not in _PARTS:
            return None
        group, words, names = 1, words[1:], names[1:]
    for place, (word, stop) in enumerate(words):
        if word in _SMALL and (previous >= 100 or (20 <= previous < 100 and _SMALL[word] < 10)):
            previous = _SMALL[word]
            group = (group or 0) + previous
        elif word in MAGNITUDES and group is not None:
            previous = MAGNITUDES[word]
            if previous <= 100:
                group *= previous
            else:
                total, group = total + group * previous, 0
        elif word in _PARTS and group is not None and not total and group < _PARTS[word]:
            return Fraction(sign * group, _PARTS[word]), text[stop:]
        elif word != "and" or end is None or previous < 100 or names[place + 1] not in _SMALL:
            break
        end = stop
    if end is None or group is None:
        return None
    return Fraction(sign * (total + group)), text[end:]


def in_base(text: str) -> tuple[str, int] | None:
    """The digits, in lower case and without leading zeros, and the base of a number that says it.

    None where a tidy text is anything else, or has a digit that the base has not.
    """
    text = untexted(text)
    if found := _PREFIXED.fullmatch(text):
        digits = found["sign"] + found["digits"]
        base = {"b": 2, "o": 8, "x": 16}[found["prefix"].lower()]
    elif found := _WRITTEN.fullmatch(text):
        said = (found["index"] or found["word"] or found["name"]).lower()
        digits, base = found["digits"], _BASES.get(said) or int(said)
    else:
        return None
    digits = re.sub(r"[\s,(){}]|\\[,;:! ]", "", digits).lower()
    if not re.fullmatch(r"-?[0-9a-z]+(?:\.[0-9a-z]+)?", digits) or not 2 <= base <= 36:
        return None
    if any(int(digit, 36) >= base for digit in re.sub(r"[-.]", "", digits)):
        return None
    sign = "-" if digits.startswith("-") else ""
    return sign + (digits.removeprefix("-").lstrip("0") or "0"), base


def unit_behind(rest: str, algebra: bool) -> str | None:
    """The unit in all that follows a number: "meter^2", "mile/hour"; "" for none, or for things.

    None where this is neither, so that the number is not the whole answer. With `algebra` letters
    may be variables: a single one, or an unknown word without a space before it, is no unit then.
    """
    upright = "\\text" in rest
    rest = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", rest)
    rest = re.sub(r"\([^()0-9]*\)", " ", rest)
    bare = _JOINT.sub("", rest).rstrip(" .,")
    if not bare:
        return None if "/" in rest else ""
    spaced, found = not rest.startswith(bare[0]), _UNIT.match(bare)
    if found is None:
        return None
    word = found["word"]
    unit = _UNITS.get(word) or _UNITS.get(word.lower())
    behind = bare[found.end() if unit else found.start("word") :]
    if not re.fullmatch(r"[A-Za-z' ,./-]*", behind) or _NO_UNIT.intersection(
        re.findall("[a-z]+", behind.lower())
    ):
        return None
    if not unit:
        return "" if upright or (spaced and (len(word) > 2 or word.lower() == "of")) else None
    # "5x" has a variable, and "1990s" a plural.
    single = len(word) == 1 and word.isascii() and not upright
    if single and (algebra or (word == "s" and not spaced)):
        return None
    if unit == "degree" and found["scale"]:
        return "celsius" if found["scale"].strip().lower().startswith("c") else "fahrenheit"
    if power := found["prefix"] or found["exponent"] or found["suffix"]:
        unit += "^2" if power.lower() in _SQUARES else "^3"
    divisor = _UNITS.get((found["divisor"] or "").lower())
    return f"{unit}/{divisor}" if divisor else unit


def compatible(first: str, second: str) -> bool:
    """Returns whether two units may be of one answer: one that is left out agrees with any."""
    return not first or not second or first == second
