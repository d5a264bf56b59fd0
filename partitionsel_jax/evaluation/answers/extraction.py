"""The final answer of an output, and of a published reference."""

import re

from partitionsel_jax.evaluation.answers.choices import (
    EXPLAINS,
    chosen_letter,
    named_choice,
    unannounced_letter,
    with_option,
)
from partitionsel_jax.evaluation.answers.kinds import AnswerKind, kind_of
from partitionsel_jax.evaluation.answers.numerals import number_in_words
from partitionsel_jax.evaluation.answers.parts import (
    several,
    unrolled,
    values_at_the_end,
    values_at_the_start,
)
from partitionsel_jax.evaluation.answers.quantities import last_quantity, only_quantity, quantity
from partitionsel_jax.evaluation.answers.spelling import last_turn, plain, tagged, tidy

# An answer is at the end; a longer text is a model that did not stop.
_MOST_CHARACTERS = 20_000
# "## Answer" on a line of its own announces what is below.
_TITLE = re.compile(
    r"(?im)^(?:#{1,6}[ \t]*+\**|\*\*)[ \t]*+(?:(?:the|my|final|correct)[ \t]++)*+answer"
    r"[ \t]*+[:*]*+[ \t]*$"
)
_VALUE = re.compile(r"(?:[A-Za-z]\s*=\s*)?-?\$?[0-9](?:[0-9,./]*[0-9])?")
_JOINT = re.compile(r"\s*+(?:[,;]\s*+)?(?:\b(?:and|or)\b)?\s*+")
# An expression that a short sentence says something is.
_SAID = re.compile(
    r"(?P<subject>[A-Za-z].*)(?<![\w'])"
    r"(?:is|are|equals|equal to|be|becomes|gives|get|obtain|yields)(?![\w'])\s*:?\s*(?P<value>\S.*)"
)
_FUNCTIONS = re.compile(r"\\[A-Za-z]+|sqrt|sin|cos|tan|log|ln|exp|pi")
_CALLED = re.compile(
    r"(?i)(?:(?:so|thus|hence|therefore)\b,?\s+)?(?P<value>\S.*?)\s+is\s+(?:the|our|my)\s+"
    r"(?:final\s+|correct\s+)?answer"
)
_BEHIND = re.compile(r"\W*(?:respectively\W*)?")
_DENIAL = re.compile(r"(?i)\b(?:not|cannot|never|nor|than)\b|n't\b")
# A longer text is no answer, nor are more announcements than these an answer announced.
_LONGEST = 1_000
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
_STEP = re.compile(
    r"(?i)(?:step|part|case|phase|stage|method|approach|section|question|problem|example|round|task|"
    r"equation)s?\s*+#?(?:[0-9]+|[ivx]+|[a-e]|one|two|three|four|five|six)\b"
)
_OPTION_TITLE = re.compile(r"(?i)(?:option|choice|alternative)s?\s+\(?[A-E]\b")
_HEADING = re.compile(
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
_NAME_BEFORE = re.compile(r"(?<![A-Za-z\\])([A-Za-z])\s*=\s*\$?\s*$")
_SPACES = re.compile(r"\\[()\[\],;!]|\\q?quad\b|[$*&~]|\\\\|^\s*[-•]\s|\n\s*-\s")
_MOST_BETWEEN = 60


def final_answer_of(output: str, benchmark: str = "gsm8k") -> str:
    """The final answer that an output gives, as it is written there, in plain characters.

    Of an output its last turn is read, without its thoughts, and of that what `<answer>` tags hold.
    What follows the last "####" that starts a line decides alone, if it is no heading; otherwise
    the last box or announcement, or else what the text ends with. docs/answers.md has the rules.

    Args:
      output: what a model wrote.
      benchmark: a name of `ANSWER_KINDS`.

    Returns:
      The answer, a letter for multiple choice; "" where there is none.

    Raises:
      ValueError: the benchmark is unknown.
    """
    kind = kind_of(benchmark)
    text = _plain_end(last_turn(output))
    held = tagged(text)
    text = unrolled(_TITLE.sub("Answer:", text if held is None else held))
    text = with_option(text, kind.letters) if kind.letters or kind.words else text
    decided = _marked(text, kind)
    stated = _stated(text, kind) if decided is None else decided
    # A line between tags is an answer whatever it says.
    if held is not None and not stated and "\n" not in held:
        stated = held
    if kind.letters:
        # Nothing makes up for a statement that names several letters or denies one.
        if decided is not None or _names_letter(stated, kind.letters):
            return chosen_letter(tidy(stated), kind.letters)
        return unannounced_letter(text, kind.letters)
    return stated if stated or decided is not None else _unstated(text, kind)


def reference_answer(reference: str, kind: AnswerKind) -> str:
    """The answer of a published reference: marked, boxed, announced, or the whole text."""
    text = unrolled(_plain_end(reference))
    decided = _marked(text, kind)
    answer = ((decided if decided is not None else _stated(text, kind)) or text.strip())[:_LONGEST]
    return chosen_letter(tidy(answer), kind.letters) if kind.letters else answer


def _end(text: str, characters: int) -> str:
    """The end of a long text, without the word that the cut goes through."""
    return text if len(text) <= characters else re.sub(r"^\S+", "", text[-characters:])


def _plain_end(text: str) -> str:
    """The end of a text in plain characters, which may be more than there were."""
    return _end(plain(_end(text, _MOST_CHARACTERS)), _MOST_CHARACTERS)


def _marked(text: str, kind: AnswerKind) -> str | None:
    """The answer of the last line that begins with GSM8K's "####"; None without such a line.

    Markdown has headings of four signs too: a line that is the title of what follows it, or the
    number of a step, is no marker's.
    """
    rows = []
    for found in list(re.finditer(r"(?m)^####", text))[-_MOST_TRIES:]:
        line, _, below = text[found.end() :].strip().partition("\n")
        rows.append((line.strip("# \t\r")[:_LONGEST], below[:_LONGEST].strip()))
    # A heading for each choice.
    choices = kind.letters and len({chosen_letter(tidy(line), kind.letters) for line, _ in rows})
    for line, below in reversed(rows):
        titled = below and choices and choices > 1 and re.search(r"\w\W+\w", line)
        if titled or _is_heading(tidy(line).rstrip(":"), below, kind):
            continue
        box = _last_box(line, kind)
        return box[1] if box else _announced(line, kind)[1] or line
    return None


def _is_heading(line: str, below: str, kind: AnswerKind) -> bool:
    """Returns whether the tidy text of a marker's line is the title of what is below."""
    if not line:
        return False
    if _STEP.match(line) or _HEADING.fullmatch(line):
        return True
    below = "" if _NEXT_ROW.match(below) else below
    if kind.letters and not _names_letter(line, kind.letters):
        return True
    if not below:
        return False
    if re.match(r"[0-9]{1,2}[.):]\s+[A-Za-z]", line):
        return True
    if kind.letters:
        return _OPTION_TITLE.match(line) is not None or not chosen_letter(line, kind.letters)
    if kind.words:
        return re.match(r"[A-Z][a-z]+ing\b", line) is not None
    if not kind.numeric:
        return re.fullmatch(r"[A-Za-z ,'-]+", line) is not None
    if not _has_number(line):
        return True
    # "Total = 18" and "The total is 18" say a number; "Day 5" and "Adding 9 and 9" do not.
    return (
        bool(re.match(r"[A-Za-z]", line)) and quantity(re.split(r"[:=]|\bis\b", line)[-1]) is None
    )


def _stated(text: str, kind: AnswerKind) -> str:
    """Finds the answer that was boxed or announced last; "" where none was."""
    box = _last_box(text, kind)
    start, clause = _announced(text, kind)
    if box is None:
        return _formula(clause, kind)
    end, content = box
    if kind.letters:
        later = start >= end or not _names_letter(content, kind.letters)
        return clause if clause and later else content
    later = start >= end and re.search(r"[0-9$\\]", clause) is not None
    return _formula(clause, kind) if later else content


def _last_box(text: str, kind: AnswerKind) -> tuple[int, str] | None:
    """The end of the last complete box, and what it holds.

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
    end = last[-1][1]
    contents = [values_at_the_end(box[2].splitlines(), kind) or box[2] for box in last]
    if len({re.sub(r"^[A-Za-z]\s*=\s*", "", content) for content in contents}) == 1:
        return end, contents[-1]
    # Each with the name that is before it.
    names = [_NAME_BEFORE.search(text[max(0, start - 12) : start]) for start, _, _ in last]
    if all(names) and not any("=" in content for content in contents):
        pairs = zip(names, contents, strict=True)
        contents = [f"{name[1]} = {content}" for name, content in pairs if name]
    return end, ", ".join(contents)


def _held(text: str, start: int) -> tuple[int, str] | None:
    """The end of the braces that open at `start`, and what they hold."""
    depth, place = 0, start
    while place < min(len(text), start + _LONGEST):
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
    if found is None or found["joint"].strip(" ."):
        return found is not None
    single = several(tidy(first)) is None and several(tidy(second)) is None
    apart = "\n" in between and "." not in found["joint"]
    return kind.lists and not kind.letters and single and bool(apart or found["name"])


def _announced(text: str, kind: AnswerKind) -> tuple[int, str]:
    """The start of the clause of the last announced answer, and the clause; or (-1, "")."""
    pattern = _CHOICE_PHRASE if kind.letters else _PHRASE
    for found in list(pattern.finditer(text))[: -_MOST_TRIES - 1 : -1]:
        following = text[found.end() : found.end() + _LONGEST].lstrip()
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
        if clause and not 0 <= question <= len(clause) and _may_answer(clause, kind):
            return found.end(), clause
    return -1, ""


def _may_answer(clause: str, kind: AnswerKind) -> bool:
    """Returns whether a clause holds what every answer of its kind has."""
    if kind.letters:
        return _names_letter(clause, kind.letters)
    return _has_number(clause) if kind.numeric else True


def _formula(clause: str, kind: AnswerKind) -> str:
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


def _has_number(clause: str) -> bool:
    """Returns whether a clause holds a number, in digits or in words."""
    if re.search(r"[0-9½¼¾⅓⅔]", clause):
        return True
    starts = (found.start() for found in re.finditer(r"[A-Za-z]+", clause))
    return any(number_in_words(clause[start : start + 200]) for start in starts)


def _names_letter(text: str, letters: str) -> bool:
    """Returns whether a text names choices, be it one, several, or one that it denies."""
    named = re.search(rf"\b[{letters}]\b", text)
    return named is not None or chosen_letter(tidy(text), letters) != ""


def _unstated(text: str, kind: AnswerKind) -> str:
    """The answer of a text that announces none."""
    lines = [line.strip()[-_LONGEST:] for line in text.splitlines() if line.strip(" .*$\\[]()")]
    if not lines:
        return ""
    if len(lines) > 1 and EXPLAINS.match(lines[1]):
        worded = re.search(r"=|[A-Za-z]{3,}", _FUNCTIONS.sub(" ", lines[0]))
        if (kind.algebra and not worded) or _is_number(tidy(lines[0]), kind):
            return lines[0]
    if kind.words and (choice := named_choice(lines)) is not None:
        return choice
    if kind.lists and (values := values_at_the_end(lines, kind)):
        return values
    line = lines[-1]
    tidied = tidy(line)
    if called := _CALLED.fullmatch(tidied):
        return called["value"]
    if _is_number(tidied, kind):
        return line
    if not kind.numeric:
        alone = _formula(line, kind)
        if alone != line:
            return alone
        if kind.algebra and (said := _said(tidied)):
            return said
        words = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", re.sub(r"\\text\s*\{[^{}]*\}", "", line))
        if len(words) <= 3 or re.match(r"(?i)(?:yes|no|true|false)\b[,.:]", line):
            return line
        if kind.algebra and (formulas := _MATH.findall(line)):
            return next(group for group in formulas[-1] if group)
    if kind.lists and (values := _values(tidied) or _counted(tidied, kind)):
        return values
    return last_quantity(tidy(_end(text, _LONGEST)), algebra=kind.algebra).strip()


def _is_number(line: str, kind: AnswerKind) -> bool:
    """Returns whether a tidy line is a number, or where lists are answers several, and no more."""
    parts = several(line) if kind.lists else None
    numbers = parts.parts if parts else (line,)
    return all(quantity(number, algebra=kind.algebra) for number in numbers)


def _said(line: str) -> str:
    """The expression of "the derivative is 6*x + 2"; "" where the line says anything else."""
    found = _SAID.fullmatch(line)
    if found is None or _DENIAL.search(found["subject"]):
        return ""
    words = re.search(r"[A-Za-z]{2,}", _FUNCTIONS.sub(" ", found["value"]))
    return found["value"] if not words or found["value"] in ("True", "False") else ""


def _values(line: str) -> str:
    """The numbers that a tidy line ends with, and what is between them; "" for fewer than two."""
    found = list(_VALUE.finditer(line))
    if not found or not _BEHIND.fullmatch(line, found[-1].end()):
        return ""
    first = len(found) - 1
    while first and _JOINT.fullmatch(line, found[first - 1].end(), found[first].start()):
        # Numbers with nothing but a space between them are no list.
        if not line[found[first - 1].end() : found[first].start()].strip():
            break
        first -= 1
    values = line[found[first].start() : found[-1].end()]
    return values if first < len(found) - 1 or "," in values else ""


def _counted(line: str, kind: AnswerKind) -> str:
    """The parts of a last sentence that gives a number in each: "3 adults and 5 children"."""
    if not kind.numeric:
        return ""
    sentence = re.split(r"(?<=[\w)][.!])\s+", line)[-1]
    parts = re.split(r"[,;]?\s+(?:and|while)\s+|[,;]\s+", sentence)
    parts = [part for place, part in enumerate(parts) if place or re.search(r"[0-9]", part)]
    counted = len(parts) > 1 and all(only_quantity(part) for part in parts)
    return ", ".join(parts) if counted else ""
