"""The final answer of an output, and of a published reference."""

import re

from partitionsel_jax.evaluation.answers.announcing import (
    LONGEST,
    announced,
    formula,
    last_box,
    last_formula,
    marked,
    names_letter,
)
from partitionsel_jax.evaluation.answers.choices import (
    EXPLAINS,
    chosen_letter,
    named_choice,
    unannounced_letter,
    with_option,
)
from partitionsel_jax.evaluation.answers.kinds import AnswerKind, kind_of
from partitionsel_jax.evaluation.answers.parts import several, unrolled, values_at_the_end
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
# What a short sentence says that something is, where that is an expression.
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


def final_answer_of(output: str, benchmark: str = "gsm8k") -> str:
    """The final answer that an output gives, as it is written there, in plain characters.

    An output is read up to the token that ends its turn and from the end of its thoughts on; what
    `<answer>...</answer>` holds is all that is read. What follows the last "####" that starts a
    line decides alone, if it is no heading. Otherwise:

    * the last `\\boxed{...}`, or several that belong together, or "the answer is ..." / "Answer:
      ...", whichever comes later;
    * multiple choice: the letter of these, or else the one that the first line begins with, or
      that the last line names;
    * benchmarks with expressions or words: a last line that is no prose, its last `$...$`, or what
      it says that something is;
    * benchmarks with lists: the values that the last lines give, "x = 3" and "y = 5";
    * the last number of the text, or the numbers that it ends with where lists are answers; the
      number of the first line where an explanation follows.

    Args:
      output: what a model wrote.
      benchmark: a name of `ANSWER_KINDS`.

    Returns:
      The answer, a letter for multiple choice; "" where there is none.

    Raises:
      ValueError: the benchmark is unknown.
    """
    return given_answer(output, kind_of(benchmark))


def given_answer(output: str, kind: AnswerKind) -> str:
    """The final answer of an output, by the rules of `final_answer_of`."""
    text = _plain_end(last_turn(output))
    held = tagged(text)
    text = unrolled(_TITLE.sub("Answer:", text if held is None else held))
    text = with_option(text, kind.letters) if kind.letters or kind.words else text
    decided = marked(text, kind)
    stated = _stated(text, kind) if decided is None else decided
    # A line between tags is an answer whatever it says.
    if held is not None and not stated and "\n" not in held:
        stated = held
    if kind.letters:
        # Nothing makes up for a statement that names several letters or denies one.
        if decided is not None or names_letter(stated, kind.letters):
            return chosen_letter(tidy(stated), kind.letters)
        return unannounced_letter(text, kind.letters)
    return stated if stated or decided is not None else _unstated(text, kind)


def reference_answer(reference: str, kind: AnswerKind) -> str:
    """The answer of a published reference: marked, boxed, announced, or the whole text."""
    text = unrolled(_plain_end(reference))
    decided = marked(text, kind)
    answer = ((decided if decided is not None else _stated(text, kind)) or text.strip())[:LONGEST]
    return chosen_letter(tidy(answer), kind.letters) if kind.letters else answer


def _end(text: str, characters: int) -> str:
    """The end of a long text, without the word that the cut goes through."""
    return text if len(text) <= characters else re.sub(r"^\S+", "", text[-characters:])


def _plain_end(text: str) -> str:
    """The end of a text in plain characters, which may be more than there were."""
    return _end(plain(_end(text, _MOST_CHARACTERS)), _MOST_CHARACTERS)


def _stated(text: str, kind: AnswerKind) -> str:
    """Finds the answer that was boxed or announced last; "" where none was."""
    box = last_box(text, kind)
    start, clause = announced(text, kind)
    if box is None:
        return formula(clause, kind)
    end, content = box
    if kind.letters:
        later = start >= end or not names_letter(content, kind.letters)
        return clause if clause and later else content
    later = start >= end and re.search(r"[0-9$\\]", clause) is not None
    return formula(clause, kind) if later else content


def _unstated(text: str, kind: AnswerKind) -> str:
    """The answer of a text that announces none."""
    lines = [line.strip()[-LONGEST:] for line in text.splitlines() if line.strip(" .*$\\[]()")]
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
    if called := _CALLED.fullmatch(tidy(line)):
        return called["value"]
    if _is_number(tidy(line), kind):
        return line
    if not kind.numeric:
        alone = formula(line, kind)
        if alone != line:
            return alone
        if kind.algebra and (said := _said(tidy(line))):
            return said
        words = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", re.sub(r"\\text\s*\{[^{}]*\}", "", line))
        if len(words) <= 3 or re.match(r"(?i)(?:yes|no|true|false)\b[,.:]", line):
            return line
        if kind.algebra and (inner := last_formula(line)):
            return inner
    if kind.lists and (values := _values(tidy(line)) or _counted(tidy(line), kind)):
        return values
    return last_quantity(tidy(_end(text, LONGEST)), algebra=kind.algebra).strip()


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
