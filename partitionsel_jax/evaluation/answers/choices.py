"""Multiple choice: the letter that an answer names."""

import re

from partitionsel_jax.evaluation.answers.tidying import untexted

# What may stand before the letter of a choice; "answer" is what the extraction looks for.
_OPTION = r"(?:option|choice|letter|alternative)s?\s*(?:is|:)?\s*"
_DENIED = re.compile(
    r"(?:\bnot|\bcannot|n't|\bneither|\bnor|\beliminate|\bexclude|\brule out|\bthan)\s+(?:be\s+)?"
    rf"(?:{_OPTION})?\(?[A-E]\b\)?"
    rf"|(?:{_OPTION})?\(?\b[A-E]\b\)?\s+(?:is|are|was|can be|cannot|can't|isn't|must be)\s+"
    r"(?:also\s+|clearly\s+|obviously\s+)?(?:not|wrong|incorrect|false|too|ruled|eliminated|be)\b",
    re.IGNORECASE,
)
_CONFIRMED = re.compile(
    rf"(?:{_OPTION})?\(?\b([A-E])\b\)?\s+(?:is|must be)\s+(?:the\s+)?"
    r"(?:correct|right|answer|best|final|true)\b"
)
_CLAUSE_REST = re.compile(r"\b(?:because|since|as|for|rather|instead|whereas|while)\b.*", re.DOTALL)
_HEDGED = re.compile(r"\b([A-Z])\b\)?(?:,?\s*\b(?:or|and)\b|\s*[,/&])\s*\(?(?!\1)[A-Z]\b(?!')")
_BRACKETED = re.compile(r"(?<![\w)])[(\[]\s*([A-Za-z])\s*[)\]]")
_SPOKEN = re.compile(rf"\b(?i:{_OPTION})\(?([A-Za-z])\b")
_FIRST = re.compile(r"[(\[]?([A-Z])(?:[)\]]|\b)(?![\w'°^_=])")
_LAST = re.compile(r"(?<![\w°$=+*/^\\(-])(?<![0-9] )(?<!degrees )([A-Z])$")
# Behind these the "A" at the start of an answer is no article.
_NO_NOUN = re.compile(r"\s*(?:$|[^\sa-z]|(?:or|and|is|with|that|which)\b)")


def chosen_letter(text: str, letters: str) -> str:
    """The one letter that a stated answer names.

    The whole answer, its first letter, a letter in brackets or behind "option", or its last word,
    in this order: "C", "(c)", "C) 12 cm", "12, i.e. (C)", "option C", "it must be C".

    Args:
      text: a tidy answer: what was in a box, or what followed "the answer is".
      letters: the letters there are to choose from.

    Returns:
      The letter in upper case, or "" where there is none, or several: "A or B".
    """
    text = _DENIED.sub(" ", untexted(text)).strip(" .,:;")
    text = _CLAUSE_REST.sub("", text).strip(" .,:;")
    whole = re.fullmatch(r"[(\[{]?\s*([A-Za-z])\s*[)\]}.:]*", text)
    if whole:
        return _of(letters, {whole.group(1).upper()})
    if _HEDGED.search(text):
        return ""
    marked = {found.upper() for found in _BRACKETED.findall(text) + _SPOKEN.findall(text)}
    first = _FIRST.match(text)
    if first and (first.group(1) != "A" or _NO_NOUN.match(text[first.end() :])):
        return _of(letters, {first.group(1)} | marked)
    if marked:
        return _of(letters, marked)
    last = _LAST.search(text)
    return _of(letters, {last.group(1)}) if last else ""


def last_letter(text: str, letters: str) -> str:
    """The letter that the end of a text names when no answer was announced.

    Args:
      text: tidy paragraphs, a line each.
      letters: the letters there are to choose from.

    Returns:
      The last letter that is called correct, or else the one that the last sentence names or that
      is the first line; "" where there is none or several, or where the text ends with a list of
      the choices.
    """
    confirmed = _CONFIRMED.findall(_DENIED.sub(" ", text))
    if confirmed:
        return _of(letters, {confirmed[-1].upper()})
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or _is_list(lines):
        return ""
    last = chosen_letter(re.split(r"(?<=[\w)][.!?])(?<!^[A-Z]\.)\s+", lines[-1])[-1], letters)
    alone = re.fullmatch(r"\(?([A-Z])\)?", lines[0])
    return _of(letters, {alone.group(1)} | ({last} if last else set())) if alone else last


def _of(letters: str, found: set[str]) -> str:
    """The only letter of a set, if it is a choice."""
    return next(iter(found)) if len(found) == 1 and found <= set(letters) else ""


def _is_list(lines: list[str]) -> bool:
    """Whether the last lines are choices, a letter each."""
    heads = [re.match(r"\(?([A-E])[).:]", line) for line in lines[-2:]]
    return len(heads) == 2 and all(heads)
