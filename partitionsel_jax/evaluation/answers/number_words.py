"""Numbers written out in English."""

import re
from fractions import Fraction

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: value for value, word in enumerate(_ONES.split())} | {
    word: 10 * value for value, word in enumerate(_TENS.split(), 2)
}
_PARTS = {
    word: value
    for value, words in (
        (2, "half halves"),
        (3, "third thirds"),
        (4, "quarter quarters fourth fourths"),
        (5, "fifth fifths"),
        (6, "sixth sixths"),
        (8, "eighth eighths"),
        (10, "tenth tenths"),
    )
    for word in words.split()
}
MAGNITUDES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_WORD = re.compile(r"[\s-]*([A-Za-z]+)")
_ARTICLES = ("a", "an")


def number_in_words(text: str) -> tuple[Fraction, str] | None:
    """Reads the number words that a text begins with.

    Args:
      text: such as "twenty-five apples", "a dozen", "three quarters", "minus two", "half".

    Returns:
      The number and the text behind it, or None where the text begins with no number word. An
      article counts as one before a magnitude or a part only: "a dozen", "a third".
    """
    words = [(found.group(1).lower(), found.end()) for found in _leading_words(text)]
    sign = -1 if words and words[0][0] in ("minus", "negative") else 1
    place = 1 if sign < 0 else 0
    total, group, end = 0, None, None
    if place < len(words) and words[place][0] in _ARTICLES and place + 1 < len(words):
        if words[place + 1][0] not in MAGNITUDES and words[place + 1][0] not in _PARTS:
            return None
        group, place = 1, place + 1
    elif place < len(words) and words[place][0] == "half":
        return _half(words[place + 1 :], sign, text[words[place][1] :], text)
    previous = 100
    while place < len(words):
        word, stop = words[place]
        if word in _SMALL and (previous >= 100 or (20 <= previous < 100 and _SMALL[word] < 10)):
            group = (group or 0) + _SMALL[word]
            previous = _SMALL[word]
        elif word in MAGNITUDES and group is not None:
            previous = MAGNITUDES[word]
            if previous <= 100:
                group *= previous
            else:
                total, group = total + group * previous, 0
        elif word in _PARTS and group is not None and not total and group < _PARTS[word]:
            return Fraction(sign * group, _PARTS[word]), text[stop:]
        elif not (word == "and" and end is not None and previous >= 100 and _goes_on(words, place)):
            break
        place, end = place + 1, stop
    if end is None or group is None:
        return None
    return Fraction(sign * (total + group)), text[end:]


def _half(words: list[tuple[str, int]], sign: int, rest: str, text: str) -> tuple[Fraction, str]:
    """The number that begins with "half": of one, or of the magnitude that follows."""
    if len(words) > 1 and words[0][0] == "a" and words[1][0] in MAGNITUDES:
        return Fraction(sign * MAGNITUDES[words[1][0]], 2), text[words[1][1] :]
    return Fraction(sign, 2), rest


def _leading_words(text: str) -> list[re.Match[str]]:
    """The words at the start of a text, up to the first thing that is none."""
    found: list[re.Match[str]] = []
    place = 0
    while len(found) < 20 and (word := _WORD.match(text, place)):
        found.append(word)
        place = word.end()
    return found


def _goes_on(words: list[tuple[str, int]], place: int) -> bool:
    """Whether a number word follows."""
    return place + 1 < len(words) and words[place + 1][0] in _SMALL
