"""Where an output announces its answer: boxes, "the answer is ...", and GSM8K's marker."""

import re

from partitionsel_jax.evaluation.answers.choices import chosen_letter
from partitionsel_jax.evaluation.answers.kinds import AnswerKind
from partitionsel_jax.evaluation.answers.numerals import number_in_words
from partitionsel_jax.evaluation.answers.parts import (
    several,
    values_at_the_end,
    values_at_the_start,
)
from partitionsel_jax.evaluation.answers.quantities import quantity
from partitionsel_jax.evaluation.answers.spelling import tidy

# A longer text is no answer, nor are more announcements than these an answer announced.
LONGEST = 1_000
_MOST_TRIES = 30
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*+(?=\{)|\\boxed\s++(?P<bare>[^\s{}$\\]++)")
_SUBJECT = r"answers?\b(?:\s++(?:choice|option)\b)?"
_CHOICE = (
    r"(?:(?:correct|right|best|final)\s++(?:option|choice|alternative|letter)"
    r"|my\s++(?:final\s++)?(?:choice|pick|selection|guess))\b"
)
_PREDICATE = (
    r"\**(?:\s++(?:to|for|of)\s[^.\n]{0,60}?)?"
    r"(?:\s*+\**\s*+[:=]\**|\s++(?:is|are|was|equals|will be|would be|must be|should be)\b"
    r"(?!\s++not\b|n't))"
    r"(?:\s*+(?:that|thus|therefore|simply|equal to)\b)?\s*+:?[ \t]*+"
)
_NOT_SUPPOSED = (
    r"(?<!if the )(?<!whether the )(?<!suppose the )(?<!not the )(?<!wrong )(?<!incorrect )"
    r"(?<!n't think the )(?<!not think the )(?<!n't believe the )(?<!not believe the )"
    r"(?<!doubt the )"
)
_PHRASE = re.compile(rf"(?i){_NOT_SUPPOSED}\b{_SUBJECT}{_PREDICATE}")
_DECISION = (
    r"(?:choose|pick|select|mark|circle|say|guess|opt for|settle on|go(?:ing)? (?:with|for)"
    r"|(?:think|believe|say)(?: that)? it(?:'s| is)|it's)(?: for)?\s++"
)
_CHOICE_PHRASE = re.compile(
    rf"(?i)\b(?=[a-z])(?:{_NOT_SUPPOSED}(?:{_SUBJECT}|{_CHOICE}){_PREDICATE}"
    rf"|(?<!not )(?<!n't )(?<!never )(?<!if i ){_DECISION}"
    r"(?=(?:(?:the\s)?(?:option|choice|answer|letter)\s++)?[(*\[]{0,3}[A-E][)*\]]{0,3}"
    r"(?:[.,:;!\n]|$|(?<=\))\s|\s?[—–(]|\s-\s|\s(?:because|since|as|here|given|based)\b)))"
)
# A full stop ends the clause, but not that of an abbreviation.
_CLAUSE_END = re.compile(
    r"(?i)(?<!\bi\.e)(?<!\be\.g)(?<!\bRs)(?<!\bvs)(?<!\bapprox)(?<!\bsq)[.](?=\s|$)"
    r"|(?:[,;(]\s*+)?\b(?:because|since|which|where|so|but|rather than|instead of|not)\b"
)
_MATH = re.compile(r"(?s)(?<!\\)\$\$?([^$]+?)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]")
_MARKER = re.compile(r"(?m)^####")
_STEP = re.compile(
    r"(?i)(?:step|part|case|phase|stage|method|approach|section|question|problem|example|round|task|"
    r"equation)s?\s*+#?(?:[0-9]+|[ivx]+|[a-e]|one|two|three|four|five|six)\b"
)
_NUMBERED = re.compile(r"[0-9]{1,2}[.):]\s+[A-Za-z]")
_OPTION_TITLE = re.compile(r"(?i)(?:option|choice|alternative)s?\s+\(?[A-E]\b")
_GERUND = re.compile(r"[A-Z][a-z]+ing\b")
_SAYS = re.compile(r"[:=]|\bis\b")
_TITLE = re.compile(
    r"(?i)(?:(?:the|my|our|final|detailed|full|short|brief|alternative|correct|step-by-step|quick|"
    r"complete|worked)\s+)*"
    r"(?:answer|solution|explanation|check|verification|verify|conclusion|reasoning|analysis|summary"
    r"|result|working|work|proof|note|calculation|computation|setup|approach|method|strategy|step)s?"
    r"(?:\s+(?:of|for|to|why|process|by|and)\b[A-Za-z ]*)?"
)
# Where a model that did not stop goes on with the next row.
_NEXT_ROW = re.compile(r"(?i)#{1,3} |(?:question|problem|input|passage|premise|q)\b[^:\n]{0,12}:")
_BETWEEN = re.compile(
    r"(?i)\s*+(?P<joint>[,;]?\s*+(?:\b(?:and|or)\b)?|\.)\s*+(?:(?P<name>[A-Za-z])\s*+=)?\s*+"
)
_NAMED = re.compile(r"(?<![A-Za-z\\])([A-Za-z])\s*=\s*\$?\s*$")
_SPACES = re.compile(r"\\[()\[\],;!]|\\q?quad\b|[$*&~]|\\\\|^\s*[-•]\s|\n\s*-\s")
_MOST_BETWEEN = 60


def marked(text: str, kind: AnswerKind) -> str | None:
    """The answer of the last line that begins with GSM8K's "####"; None without such a line.

    Markdown has headings of four signs too: a line that is the title of what follows it, or the
    number of a step, is no marker's.
    """
    rows = []
    for found in list(_MARKER.finditer(text))[-_MOST_TRIES:]:
        line, _, below = text[found.end() :].strip().partition("\n")
        rows.append((line.strip("# \t\r")[:LONGEST], below[:LONGEST].strip()))
    # A heading for each choice.
    choices = kind.letters and len({chosen_letter(tidy(line), kind.letters) for line, _ in rows})
    for line, below in reversed(rows):
        titled = below and choices and choices > 1 and re.search(r"\w\W+\w", line)
        if titled or _is_heading(tidy(line).rstrip(":"), below, kind):
            continue
        box = last_box(line, kind)
        return box[1] if box else announced(line, kind)[1] or line
    return None


def last_box(text: str, kind: AnswerKind) -> tuple[int, str] | None:
    """Where the last complete box ends, and what it holds.

    Boxes with nothing but "and", "or", or a comma between them are one answer, and so are boxes on
    lines of their own where an answer may have several parts.
    """
    boxes: list[tuple[int, int, str]] = []
    for found in list(_BOX.finditer(text))[-_MOST_TRIES:]:
        held = (found.end(), found["bare"]) if found["bare"] else _held(text, found.end())
        if held:
            boxes.append((found.start(), *held))
    if not boxes:
        return None
    last = [boxes.pop()]
    while boxes and _joined(text[boxes[-1][1] : last[0][0]], boxes[-1][2], last[0][2], kind):
        last.insert(0, boxes.pop())
    return last[-1][1], _together(text, last, kind)


def announced(text: str, kind: AnswerKind) -> tuple[int, str]:
    """Where the clause of the last announced answer starts, and the clause; or (-1, "")."""
    pattern = _CHOICE_PHRASE if kind.letters else _PHRASE
    for found in list(pattern.finditer(text))[: -_MOST_TRIES - 1 : -1]:
        following = text[found.end() : found.end() + LONGEST].lstrip()
        if kind.lists and not kind.letters:
            lines = [line for line in following.splitlines() if line.strip(" *$\\[]()")]
            if values := values_at_the_start(lines, kind):
                return found.end(), values
        following = following.split("\n\n")[0]
        # A formula on lines of its own belongs to the clause.
        opened = re.match(r"(?:\\\[|\$\$)\s*\n(.+)", following)
        line = opened.group(1) if opened else following.partition("\n")[0]
        question = line.find("?")
        clause = _CLAUSE_END.split(line, maxsplit=1)[0].strip()
        if not clause or 0 <= question <= len(clause):
            continue
        if kind.numeric and not has_number(clause):
            continue
        if kind.letters and not names_letter(clause, kind.letters):
            continue
        return found.end(), clause
    return -1, ""


def formula(clause: str, kind: AnswerKind) -> str:
    """The formula of a clause, where the rest of it is nothing but words."""
    found = list(_MATH.finditer(clause))
    if not kind.algebra or len(found) != 1:
        return clause
    rest = _MATH.sub(" ", clause)
    words = re.findall(r"[A-Za-z]+", rest)
    behind = clause[found[0].end() :]
    if not words or re.search(r"[0-9%=]|\b(?:not|or|and|than)\b", rest) or behind.strip(" .,"):
        return clause
    return next(group for group in found[0].groups() if group is not None)


def last_formula(line: str) -> str:
    """Gives the content of the last `$...$` of a line; "" without any."""
    formulas = _MATH.findall(line)
    return next(group for group in formulas[-1] if group) if formulas else ""


def has_number(clause: str) -> bool:
    """Returns whether a clause holds a number, in digits or in words."""
    if re.search(r"[0-9½¼¾⅓⅔]", clause):
        return True
    starts = (found.start() for found in re.finditer(r"[A-Za-z]+", clause))
    return any(number_in_words(clause[start : start + 200]) for start in starts)


def names_letter(text: str, letters: str) -> bool:
    """Returns whether a text names choices, be it one, several, or one that it denies."""
    return re.search(rf"\b[{letters}]\b", text) is not None or bool(
        chosen_letter(tidy(text), letters)
    )


def _is_heading(line: str, below: str, kind: AnswerKind) -> bool:
    """Returns whether the tidy text of a marker's line is the title of what is below."""
    if not line:
        return False
    if _STEP.match(line) or _TITLE.fullmatch(line):
        return True
    below = "" if _NEXT_ROW.match(below) else below
    if kind.letters and not names_letter(line, kind.letters):
        return True
    if not below:
        return False
    if _NUMBERED.match(line):
        return True
    if kind.letters:
        return _OPTION_TITLE.match(line) is not None or not chosen_letter(line, kind.letters)
    if kind.words:
        return _GERUND.match(line) is not None
    if not kind.numeric:
        return re.fullmatch(r"[A-Za-z ,'-]+", line) is not None
    if not has_number(line):
        return True
    # "Total = 18" and "The total is 18" say a number; "Day 5" and "Adding 9 and 9" do not.
    return bool(re.match(r"[A-Za-z]", line)) and quantity(_SAYS.split(line)[-1]) is None


def _held(text: str, start: int) -> tuple[int, str] | None:
    """Where the braces that open at `start` close, and what they hold."""
    depth, place = 0, start
    while place < min(len(text), start + LONGEST):
        if text[place] == "\\":
            place += 2
            continue
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        place += 1
        if depth == 0:
            return place, text[start + 1 : place - 1].strip()
    return None


def _joined(between: str, first: str, second: str, kind: AnswerKind) -> bool:
    """Returns whether two boxes are parts of one answer, by what is between them."""
    if len(between) > _MOST_BETWEEN:
        return False
    # Without the signs around formulas and the commands for spaces.
    found = _BETWEEN.fullmatch(_SPACES.sub(" ", re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", between)))
    if found is None:
        return False
    if found["joint"].strip(" ."):
        return True
    single = several(tidy(first)) is None and several(tidy(second)) is None
    apart = "\n" in between and "." not in found["joint"]
    return kind.lists and not kind.letters and single and bool(apart or found["name"])


def _together(text: str, boxes: list[tuple[int, int, str]], kind: AnswerKind) -> str:
    """Joins the contents of boxes that are one answer, each with the name that is before it."""
    contents = [values_at_the_end(box[2].splitlines(), kind) or box[2] for box in boxes]
    if len({re.sub(r"^[A-Za-z]\s*=\s*", "", content) for content in contents}) == 1:
        return contents[-1]
    names = [_NAMED.search(text[max(0, start - 12) : start]) for start, _, _ in boxes]
    if all(names) and not any("=" in content for content in contents):
        pairs = zip(names, contents, strict=True)
        return ", ".join(f"{name[1]} = {content}" for name, content in pairs if name)
    return ", ".join(contents)
