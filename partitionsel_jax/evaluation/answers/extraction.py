"""The final answer of an output, and of a published reference."""

import re

from partitionsel_jax.data.templates import final_answer
from partitionsel_jax.evaluation.answers.benchmarks import Benchmark, named
from partitionsel_jax.evaluation.answers.choices import chosen_letter, last_letter
from partitionsel_jax.evaluation.answers.number_words import number_in_words
from partitionsel_jax.evaluation.answers.quantities import last_quantity, quantity
from partitionsel_jax.evaluation.answers.several import several
from partitionsel_jax.evaluation.answers.tidying import tidy

# An answer is at the end; a longer text is a model that did not stop.
_MOST_CHARACTERS = 20_000
# Nor is a longer text an answer, or more announcements than these an answer announced.
_LONGEST = 1_000
_MOST_TRIES = 30
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)|\\boxed\s+(?P<bare>[^\s{}$\\]+)")
_PHRASE = re.compile(
    r"(?<!if the )(?<!whether the )(?<!suppose the )(?<!not the )\banswers?\b\**"
    r"(?:\s+(?:to|for|of)\s[^.\n]{0,60}?)?"
    r"(?:\s*\**\s*[:=]\**|\s+(?:is|are|was|equals|will be|would be)\b(?!\s+not\b|n't))"
    r"(?:\s*(?:that|thus|therefore|simply|equal to)\b)?\s*:?[ \t]*",
    re.IGNORECASE,
)
# A full stop ends the clause, but not that of an abbreviation.
_CLAUSE_END = re.compile(
    r"(?<!\bi\.e)(?<!\be\.g)(?<!\bRs)(?<!\bvs)(?<!\bapprox)(?<!\bsq)[.](?=\s|$)"
    r"|\s*[,;(]?\s*\b(?:because|since|which|where|so|but|rather than|instead of|not)\b",
    re.IGNORECASE,
)
_MATH = re.compile(r"(?<!\\)\$\$?([^$]+?)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_VALUE = r"(?:[A-Za-z]\s*=\s*)?-?\$?[0-9](?:[0-9,./]*[0-9])?"
_VALUES = re.compile(rf"{_VALUE}(?:\s*(?:,|,?\s*\band\b|,?\s*\bor\b)\s*{_VALUE})+(?=\W*$)")


def final_answer_of(output: str, benchmark: str = "gsm8k") -> str:
    """The final answer that an output gives, as it is written there.

    What follows the last "####" that starts a line decides alone. Otherwise:

    * the last `\\boxed{...}` or "the answer is ..." / "Answer: ...", whichever comes later;
    * multiple choice: the letter of these, or else of the last line;
    * benchmarks with expressions or words: a last line that is no prose, or its last `$...$`;
    * the last number of the text, or the numbers that it ends with where lists are answers.

    Args:
      output: what a model wrote.
      benchmark: a name of `BENCHMARKS`.

    Returns:
      The answer, a letter for multiple choice; "" where there is none.

    Raises:
      ValueError: the benchmark is unknown.
    """
    return given_answer(output, named(benchmark))


def given_answer(output: str, kind: Benchmark) -> str:
    """The final answer of an output, by the rules of `final_answer_of`."""
    text = _end(output, _MOST_CHARACTERS)
    marked = _marked(text)
    stated = _stated(text, kind) if marked is None else marked
    if kind.letters:
        letter = chosen_letter(tidy(stated), kind.letters)
        # The last line does not make up for a statement that names several letters or denies one.
        if letter or marked is not None or re.search(rf"\b[{kind.letters}]\b", stated):
            return letter
        return last_letter("\n".join(map(tidy, _end(text, _LONGEST).splitlines())), kind.letters)
    return stated if stated or marked is not None else _unstated(text, kind)


def reference_answer(reference: str, kind: Benchmark) -> str:
    """The answer of a published reference: marked, boxed, announced, or the whole text."""
    text = _end(reference, _MOST_CHARACTERS)
    marked = _marked(text)
    answer = ((marked if marked is not None else _stated(text, kind)) or text.strip())[:_LONGEST]
    return chosen_letter(tidy(answer), kind.letters) if kind.letters else answer


def _end(text: str, characters: int) -> str:
    """The end of a long text, without the word that the cut goes through."""
    return text if len(text) <= characters else re.sub(r"^\S+", "", text[-characters:])


def _marked(text: str) -> str | None:
    """The line of the marker; None without a marker."""
    answer = final_answer(text)
    if answer == text.strip():
        return None
    line = answer.partition("\n")[0].strip()[:_LONGEST]
    box = _last_box(line)
    return box[1] if box else line


def _stated(text: str, kind: Benchmark) -> str:
    """What was boxed or announced last; "" where nothing was."""
    box = _last_box(text)
    start, clause = _last_phrase(text, kind)
    if box is None:
        return _formula(clause, kind)
    end, content = box
    announced = start >= end and re.search(r"[0-9$\\]", clause) is not None
    return _formula(clause, kind) if announced else content


def _last_box(text: str) -> tuple[int, str] | None:
    """Where the last complete box ends, and what it holds."""
    for found in list(_BOX.finditer(text))[: -_MOST_TRIES - 1 : -1]:
        if found["bare"]:
            return found.end(), found["bare"]
        depth, place = 0, found.end()
        while place < min(len(text), found.end() + _LONGEST):
            if text[place] == "\\":
                place += 2
                continue
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            place += 1
            if depth == 0:
                return place, text[found.end() + 1 : place - 1].strip()
    return None


def _last_phrase(text: str, kind: Benchmark) -> tuple[int, str]:
    """Where the clause of the last announced answer starts, and the clause; or (-1, "")."""
    for found in list(_PHRASE.finditer(text))[: -_MOST_TRIES - 1 : -1]:
        following = text[found.end() : found.end() + _LONGEST].lstrip().split("\n\n")[0]
        # A formula on lines of its own belongs to the clause.
        opened = re.match(r"(?:\\\[|\$\$)\s*\n(.+)", following)
        line = opened.group(1) if opened else following.partition("\n")[0]
        question = line.find("?")
        clause = _CLAUSE_END.split(line, maxsplit=1)[0].strip()
        if not clause or 0 <= question <= len(clause):
            continue
        if kind.numeric and not _has_number(clause):
            continue
        return found.end(), clause
    return -1, ""


def _has_number(clause: str) -> bool:
    """Whether a clause holds a number, in digits or in words."""
    if re.search(r"[0-9½¼¾⅓⅔]", clause):
        return True
    starts = (found.start() for found in re.finditer(r"[A-Za-z]+", clause))
    return any(number_in_words(clause[start:]) for start in starts)


def _formula(clause: str, kind: Benchmark) -> str:
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


def _unstated(text: str, kind: Benchmark) -> str:
    """The answer of a text that announces none."""
    text = _end(text, _LONGEST)
    lines = [line.strip() for line in text.splitlines() if line.strip(" .*$\\[]()")]
    if not lines:
        return ""
    line = lines[-1]
    if _is_number(tidy(line), kind):
        return line
    if not kind.numeric:
        formula = _formula(line, kind)
        if formula != line:
            return formula
        if not _is_prose(line) or re.match(r"(?:yes|no|true|false)\b[,.:]", line, re.IGNORECASE):
            return line
        formulas = _MATH.findall(line) if kind.algebra else []
        if formulas:
            return next(group for group in formulas[-1] if group)
    values = _VALUES.search(tidy(line)) if kind.lists else None
    if values:
        return values.group()
    return last_quantity(tidy(text), algebra=kind.algebra).strip()


def _is_number(line: str, kind: Benchmark) -> bool:
    """Whether a tidy line is a number, or several where lists are answers, and nothing else."""
    parts = several(line) if kind.lists else None
    numbers = parts.parts if parts else (line,)
    return all(quantity(number, algebra=kind.algebra) for number in numbers)


def _is_prose(line: str) -> bool:
    """Whether a line is a sentence rather than an answer."""
    words = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", re.sub(r"\\text\s*\{[^{}]*\}", "", line))
    return len(words) > 3
