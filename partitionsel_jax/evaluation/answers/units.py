"""What may stand behind a number: units, which can disagree, and counted things, which cannot."""

import re

_SPELLINGS = {
    "millimeter": "mm millimeter millimeters millimetre millimetres",
    "centimeter": "cm cms centimeter centimeters centimetre centimetres",
    "meter": "m meter meters metre metres",
    "kilometer": "km kms kilometer kilometers kilometre kilometres",
    "inch": "in inch inches",
    "foot": "ft foot feet",
    "yard": "yd yds yard yards",
    "mile": "mi mile miles",
    "milligram": "mg milligram milligrams",
    "gram": "g gram grams",
    "kilogram": "kg kgs kilogram kilograms kilo kilos",
    "ounce": "oz ounce ounces",
    "pound": "lb lbs pound pounds",
    "ton": "ton tons tonne tonnes",
    "milliliter": "ml milliliter milliliters millilitre millilitres",
    "liter": "l L liter liters litre litres",
    "gallon": "gal gallon gallons",
    "second": "s sec secs second seconds",
    "minute": "min mins minute minutes",
    "hour": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "yr yrs year years",
    "cent": "cent cents",
    "dollar": "dollar dollars usd",
    "euro": "euro euros eur €",
    "sterling": "£ gbp",
    "rupee": "rs rupee rupees inr ₹",
    "degree": "deg degree degrees",
    "celsius": "celsius",
    "fahrenheit": "fahrenheit",
    "radian": "rad radian radians",
    "mile/hour": "mph",
    "kilometer/hour": "kmh kph kmph",
}
_UNITS = {word: unit for unit, words in _SPELLINGS.items() for word in words.split()}
# Behind a number these words go on with the arithmetic, take the number back, or name a part.
_NO_UNITS = (
    "or and to plus minus over divided than if not nor but half halves third thirds fourths fifth "
    "fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth tenths hundredths "
    "thousandths squared cubed factorial below under above negative point pi sqrt sin cos tan log "
    "exp mod zero one two three four five six seven eight nine ten eleven twelve dozen hundred "
    "thousand million billion trillion choose base"
)
_NO_UNIT = frozenset(_NO_UNITS.split())
_PHRASE = re.compile(
    r"(?:(?P<prefix>square|sq|cubic|cu)\b\.?\s*)?(?P<word>[A-Za-z€£₹]+)\.?"
    r"(?:\s*\^\s*\{?\s*(?P<exponent>[23])\s*\}?|\s+(?P<suffix>squared|cubed)\b)?"
    r"(?:\s*(?:/|\bper\b)\s*(?P<divisor>[A-Za-z]+))?"
    r"(?P<scale>\s+(?:c|celsius|f|fahrenheit)\b)?",
    re.IGNORECASE,
)
_POWERS = {"square": "^2", "sq": "^2", "squared": "^2", "2": "^2"}
# "5th", "5/hour" and "5-inch" begin with what is no part of the word.
_JOINT = re.compile(r"\A(?:(?:st|nd|rd|th)\b)?[\s,/-]*")
_TAIL = re.compile(r"[A-Za-z' ,./-]*")


def unit_behind(rest: str, algebra: bool) -> str | None:
    """Reads what follows a number.

    Args:
      rest: everything behind the number, its leading space included.
      algebra: letters may be variables: a single one, or an unknown word without a space before
        it, is then no unit.

    Returns:
      The unit in one spelling ("meter^2", "mile/hour"); "" for nothing, or for things that are
      counted; None where this is neither, so that the number is not the whole answer.
    """
    upright = "\\text" in rest
    rest = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", rest)
    rest = re.sub(r"\([^()0-9]*\)", " ", rest)
    bare = _JOINT.sub("", rest).rstrip(" .,")
    if not bare:
        return None if "/" in rest else ""
    spaced, rest = not rest.startswith(bare[0]), bare
    found = _PHRASE.match(rest)
    if found is None:
        return None
    word = found["word"]
    unit = _UNITS.get(word) or _UNITS.get(word.lower())
    behind = rest[found.end() if unit else found.start("word") :]
    words = set(re.findall(r"[a-z]+", behind.lower()))
    if not _TAIL.fullmatch(behind) or words & _NO_UNIT:
        return None
    if not unit:
        return "" if upright or (spaced and (len(word) > 2 or word.lower() == "of")) else None
    # "5x" has a variable, and "1990s" a plural.
    single = len(word) == 1 and word.isascii() and not upright
    if single and (algebra or (word == "s" and not spaced)):
        return None
    if unit == "degree" and found["scale"]:
        return "celsius" if found["scale"].strip().lower().startswith("c") else "fahrenheit"
    power = found["prefix"] or found["exponent"] or found["suffix"]
    divisor = _UNITS.get((found["divisor"] or "").lower())
    return (
        unit
        + (_POWERS.get(power.lower(), "^3") if power else "")
        + (f"/{divisor}" if divisor else "")
    )


def compatible(first: str, second: str) -> bool:
    """Whether two units may belong to one answer: a unit that is left out agrees with any."""
    return not first or not second or first == second
