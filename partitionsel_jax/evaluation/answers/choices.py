"""Multiple choice: the letter that an answer names."""

import re
from collections.abc import Sequence

from partitionsel_jax.evaluation.answers.spelling import tidy, untexted

# What may stand before the letter of a choice; "answer" is what the extraction looks for.
_OPTION = r"(?:option|choice|letter|alternative)s?\s*+(?:(?:is|:)\s*+)?"
_DENIED = re.compile(
    r"(?i)(?:\bnot|\bcannot|n't|\bneither|\bnor|\beliminate|\bexclud(?:e|es|ing)"
    r"|\brul(?:e|es|ing) out|\bthan|\bnever|\bnone of|\banything but|\bexcept(?: for)?)\s+"
    r"(?:(?:be|choose|pick|select|mark|go with)\s+)?"
    rf"(?:{_OPTION})?\(?[A-E]\b\)?"
    rf"|(?:{_OPTION})?\(?\b[A-E]\b\)?\s+(?:is|are|was|can be|cannot|can't|isn't|must be)\s+"
    r"(?:also\s+|clearly\s+|obviously\s+)?(?:not|wrong|incorrect|false|too|ruled|eliminated|be)\b"
    rf"|(?:{_OPTION})?\(?\b[A-E]\b\)?\s+(?:fails\b|(?:does|is)n't\b|does not\b"
    r"|(?:seems|looks)\s+(?:wrong|incorrect|false)\b)"
    r"|(?:\b(?:wrong|incorrect|false)\s+(?:answer|option|choice)(?:\s+is|:)"
    r"|\A(?:wrong|incorrect|false|rejected):"
    r"|\b(?:doubt|(?:don't|not)\s+(?:think|believe))\s+(?:that\s+)?(?:the\s+(?:correct\s+)?answer\s+is"
    rf"|it(?:'s|\s+is)))\s+(?:{_OPTION})?\(?[A-E]\b\)?"
)
_CONFIRMED = re.compile(
    rf"(?:{_OPTION})?\(?\b([A-E])\b\)?\s+(?:(?:works|fits)\b|(?:is|must be)\s+(?:the\s+)?"
    r"(?:correct|right|answer|best|final|true)\b)"
)
_CLAUSE_REST = re.compile(r"(?s)\b(?:because|since|as|for|rather|instead|whereas|while)\b.*")
_HEDGED = re.compile(
    r"\b([A-Z])\b\)?(?:,?\s*\b(?:or|and|vs|versus)\b\.?|\s*[,/&<>])\s*\(?(?!\1)[A-Z]\b(?!')|\bor$"
    r"|\b([A-E])\b(?:[^.;]{0,40}\bbut|,\s*no,?)\s+\(?(?!\2)[A-E]\b\)?$"
)
_BRACKETED = re.compile(r"(?<![\w)])[(\[]\s*([A-Za-z])\s*[)\]]")
_SPOKEN = re.compile(rf"\b(?i:{_OPTION})\(?([A-Za-z])\b")
_FIRST = re.compile(r"[(\[]?([A-Z])(?:[)\]]|\b)(?![\w'°^_=])")
_LOWER = re.compile(r"(?<![\w.(])([a-e])[).:](?=\s|$|[$\\0-9])")
# Of a figure, or of a story, and no choice.
_NAMED = re.compile(
    r"(?i)\b(?:points?|angles?|vertex|sides?|lines?|segments?|circles?|sets?|events?|city|town|station"
    r"|vitamin|person|machine|pipe|train|from [A-Z] to)\s+[A-Z]$"
)
_LAST = re.compile(r"(?<![\w°$=+*/^\\(-])(?<![0-9] )(?<!degrees )([A-Z])$")
_SPEAKER = re.compile(r"^A:\s+(?=[A-Za-z]+ [A-Za-z]+ \S+ \S+)")
# A line that begins with a choice; "A: ..." may be the name of who speaks.
_HEAD = re.compile(
    rf"(?:(?i:{_OPTION}))?[(\[]?\b([A-Z])"
    r"(?:[)\]}]+[.:,]?(?=\s|$)|[.](?=\s|$)|:(?=\s*(?:[-$\(]*[0-9]|$))|(?<!A):(?=\s)|$"
    r"|,?(?=\s+(?:because|since|as)\b))"
)
_LOWER_HEAD = re.compile(r"\(?([a-e])[).:](?=\s|$|[0-9$\\])")
_MOST_WORDS = 6
_HEADING_LETTER = re.compile(
    r"[\W_]*(?i:options?\s+|choices?\s+)?\(?([A-Ea-e])(?:[).:](?=\s|\*|$)|\W*$)"
)
_LISTED = re.compile(r"(?i:option\s+|choice\s+)?\(?[A-Ea-e][).:]")
_REJECTED = re.compile(
    r"(?i)(?:\b(?:is|are|was|be)|'s)\s+(?:clearly\s+|obviously\s+)?(?:too|wrong|incorrect|not|false|out)\b"
    r"|n't\b|\?"
)
_SUPPOSED = re.compile(r"(?i)\b(?:if|suppose|assum\w++|whether|why|had)\b[^,.;\n]*+")
_CONCLUSION = re.compile(
    r"(?i)(?:no|wait|actually|so|thus|hence|therefore|finally|in conclusion|conclusion|overall"
    r"|final|we choose)\b"
    r"|[(\[]?[A-Z][)\]]?\W*$|(?:option|choice)\s+\(?[A-Z]\)?\W*$"
)
# An explanation follows an answer that comes first.
EXPLAINS = re.compile(
    r"(?i)[\W_]*(?:(?:brief|short|detailed|here(?:'s| is)(?: the| an?| my)?)\s+)*"
    r"(?:explanations?|because|since|reason(?:ing|s)?|rationale|justification|analysis|check|"
    r"verification|proof|notes?|here's why|steps?|why|working|work|solution|details)\b"
)
# An answer is at the end; nor is a longer line one.
_MOST_LINES = 12
_LONGEST = 400
_ORDINALS = {
    word: place
    for words in ("1 2 3 4 5", "one two three four five", "first second third fourth fifth")
    for place, word in enumerate(words.split())
}
_ORDINAL = re.compile(
    r"(?i)\b(?=[acot])(?:the\s+)?(?:option|choice|alternative)\s*(?:number\s*|no\.\s*|#\s*)?\(?"
    r"([1-5]|one|two|three|four|five)\b\)?(?!\.?[0-9]|\s*(?:or|and|[,/&])\s*\(?(?:[1-5]|one|two|three|four|five)\b)"
    r"|\bthe\s+(first|second|third|fourth|fifth)\s+(?:option|choice|alternative)\b"
)
_NAMES_LETTER = re.compile(r"\b(?:[B-E]|A(?!\s[a-z]))\b|\([a-e]\)")
# NumGLUE's choices.
_LABELS = r"option\s+[0-9]|entailment|contradiction|neutral"
_LABEL = re.compile(rf"(?i)\b({_LABELS})\b")
_CHOICE = re.compile(rf"(?i)({_LABELS})\b(?=\s*(?:$|[.:,;()-]|\s(?:is|because|since|as)\b))")
_CORRECT = re.compile(rf"(?i)\b({_LABELS})\s+is\s+(?:the\s+)?(?:correct|right|answer|best|true)\b")
_CALLED = re.compile(
    rf"(?i)\b(?:is|be|choose|pick|select|go with)\s+(?:an?\s+)?({_LABELS})(?=$|\s*[,;(]|\s-\s)"
)
_DENIED_LABEL = re.compile(
    rf"(?i)\b(?:not|neither|nor|no|than|rather than)\s+(?:an?\s+)?(?:{_LABELS})\b"
    rf"|\b(?:{_LABELS})\s+(?:is|was|cannot|can't|isn't)\s+(?:(?:not|too|be)\b|wrong|incorrect|false)"
)
# Behind these the "A" at the start of an answer is no article.
_NO_NOUN = re.compile(r"\s*(?:$|[^\sa-z0-9]|[0-9]\S*(?:\s\S+)?$|(?:or|and|is|with|that|which)\b)")


def with_option(text: str, letters: str) -> str:
    """One spelling for an option that is named by its number: "the second option", "choice #2".

    Option 2 is option B where choices have letters and the text names none.
    """
    if letters and _NAMES_LETTER.search(text):
        return text
    names = letters or "12345"

    def spelt(found: re.Match[str]) -> str:
        place = _ORDINALS[(found[1] or found[2]).lower()]
        return f"Option {names[place]}" if place < len(names) else found[0]

    return _ORDINAL.sub(spelt, text)


def chosen_letter(text: str, letters: str) -> str:
    """The one letter that a stated answer names, in upper case; "" for none, or several: "A or B".

    The whole answer, its first letter, a letter in brackets or behind "option", or its last word,
    in this order: "C", "(c)", "C) 12 cm", "12, i.e. (C)", "option C", "it must be C".
    """
    text = _DENIED.sub(" ", untexted(text)).strip(" .,:;")
    text = _CLAUSE_REST.sub("", text).strip(" .,:;")
    if whole := re.fullmatch(r"[(\[{]?\s*([A-Za-z])\s*[)\]}.:]*", text):
        return _only(letters, {whole.group(1).upper()})
    if _HEDGED.search(text):
        return ""
    marked = {found.upper() for found in _BRACKETED.findall(text) + _SPOKEN.findall(text)}
    first = _FIRST.match(text)
    if first and (first.group(1) != "A" or _NO_NOUN.match(text[first.end() :])):
        return _only(letters, {first.group(1)} | marked)
    if _LOWER.match(text):
        marked |= {found.upper() for found in _LOWER.findall(text)}
    if marked:
        return _only(letters, marked)
    last = None if _NAMED.search(text) else _LAST.search(text)
    return _only(letters, {last.group(1)}) if last else ""


def unannounced_letter(text: str, letters: str) -> str:
    """The letter that a whole text names which announces no answer.

    That is the last letter that is called correct; or else the one that the first line begins with,
    as an explanation behind it may name others: "B. 12", unless the text concludes otherwise; or
    else the one that the last sentence names. "" where there is none or several, or where the text
    is a list of the choices.
    """
    lines = [line.strip() for line in text.replace("**", "").splitlines() if line.strip(" *#_-")]
    if not lines:
        return ""
    end = [tidy(line[-_LONGEST:]) for line in lines[-_MOST_LINES:]]
    said = _SUPPOSED.sub(" ", _DENIED.sub(" ", "\n".join(end)))
    if confirmed := _CONFIRMED.findall(said):
        return _only(letters, {confirmed[-1].upper()})
    sentence = re.split(r"(?<=[\w)][.!?])(?<!^[A-Za-z]\.)\s+", end[-1])[-1]
    sentence = _SPEAKER.sub("", sentence)
    is_list = len(end) > 1 and all(map(_LISTED.match, end[-2:]))
    last = "" if is_list else chosen_letter(sentence, letters)
    first = _first_letter(lines, letters)
    if first and last != first and _CONCLUSION.match(sentence):
        return "" if last else first
    return first or last


def named_choice(lines: Sequence[str]) -> str | None:
    """The option or label of NumGLUE, "Option 2" or "entailment", that the lines of a text name.

    The last line or else the first begins with it, calls it correct, or ends its sentence with it.
    "" where there are several; None where there is none.
    """
    last, first = _label_of(lines[-1]), _label_of(lines[0])
    if last is None or first is None or last == first or _CORRECT.search(lines[-1]):
        return first if last is None else last
    return ""


def _label_of(line: str) -> str | None:
    """The option or label that a line gives; "" for several, None for none."""
    plain = _DENIED_LABEL.sub(" ", untexted(tidy(line[:_LONGEST]))).lstrip(" ,.;(")
    for sentence in re.split(r"(?<=\w)[.!]\s+", plain):
        found = _CHOICE.match(sentence) or _CORRECT.search(sentence) or _CALLED.search(sentence)
        if found:
            others = _LABEL.findall(_CLAUSE_REST.sub("", sentence))
            same = len({" ".join(other.lower().split()) for other in others}) <= 1
            return " ".join(found[1].split()) if same else ""
    return None


def _first_letter(lines: list[str], letters: str) -> str:
    """The choice that the first line begins with; "" where more lines begin with one."""
    line = untexted(tidy(lines[0][:_LONGEST].lstrip("# ")))
    found = _HEAD.match(line)
    if not found and len(line.split()) <= _MOST_WORDS and (lower := _LOWER_HEAD.match(line)):
        # A choice in lower case, but no step of a solution: "b. 4".
        steps = re.search(r"\s\(?[a-e][).:](?=\s|$)", line[lower.end() :])
        found = None if steps else lower
    if found is None or _HEDGED.match(line, found.start(1)):
        return ""
    if _REJECTED.search(re.split(r"[.!]\s", line[found.end() :])[0]):
        return ""
    others = {head[1].upper() for other in lines[1:] if (head := _HEADING_LETTER.match(other))}
    if others - {found[1].upper()} and not EXPLAINS.match(lines[1]):
        return ""
    return _only(letters, {found[1].upper()})


def _only(letters: str, found: set[str]) -> str:
    """The only letter of a set, if it is a choice."""
    return next(iter(found)) if len(found) == 1 and found <= set(letters) else ""
