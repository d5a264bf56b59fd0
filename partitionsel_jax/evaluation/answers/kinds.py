"""The kind of answer that each benchmark asks for."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class AnswerKind:
    """How the answers of one benchmark are read and compared.

    Attributes:
      letters: the choices of a multiple-choice benchmark; only these letters are answers there.
      algebra: answers may be expressions, so that a letter behind a number is a variable, no unit.
      symbolic: expressions are compared by value, with math-verify; without it, by their form.
      words: answers may be words, whatever they are.
      lists: answers may have several parts.
      ordered_from: bare lists of at least this length must come in the reference's order.
      rounded: references are rounded decimals; an answer with more digits is rounded likewise.
      lowest_terms: a fraction that can be reduced is an unfinished answer.
    """

    letters: str = ""
    algebra: bool = False
    symbolic: bool = False
    words: bool = False
    lists: bool = True
    ordered_from: int = 2
    rounded: bool = False
    lowest_terms: bool = False

    @property
    def numeric(self) -> bool:
        """Returns whether every answer is a number, or several."""
        return not (self.letters or self.algebra or self.words)


_ANY_ORDER = 1 << 30  # parts, which no list has

ANSWER_KINDS: Mapping[str, AnswerKind] = {
    # Cobbe et al. 2021 (arXiv 2110.14168), Patel et al. 2021 (arXiv 2103.07191).
    "gsm8k": AnswerKind(lists=False),
    "svamp": AnswerKind(lists=False),
    # Hendrycks et al. 2021 (arXiv 2103.03874); MetaMathQA (arXiv 2309.12284) holds rows of both.
    "math": AnswerKind(algebra=True, symbolic=True, ordered_from=_ANY_ORDER),
    "metamathqa": AnswerKind(algebra=True, symbolic=True, ordered_from=_ANY_ORDER),
    # Mishra et al. 2022 (arXiv 2204.05660); Koncel-Kedziorski et al. 2016 (SimulEq of MAWPS), whose
    # lists name one quantity each: swapped, they answer another question.
    "numglue": AnswerKind(words=True, ordered_from=_ANY_ORDER, rounded=True),
    "simuleq": AnswerKind(rounded=True),
    # Saxton et al. 2019 (arXiv 1904.01557) score by exact match. Its pairs are mostly roots, its
    # longer lists mostly numbers to sort, where the question's own order would be a wrong answer.
    "deepmind": AnswerKind(algebra=True, ordered_from=3, lowest_terms=True),
    # Ling et al. 2017 (arXiv 1705.04146); AGIEval (arXiv 2304.06364); MMLU (arXiv 2009.03300).
    "aqua": AnswerKind(letters="ABCDE"),
    "sat_math": AnswerKind(letters="ABCD"),
    "mmlu_math": AnswerKind(letters="ABCD"),
}


def kind_of(name: str) -> AnswerKind:
    """Looks up what a benchmark asks for; ValueError for an unknown name."""
    if name not in ANSWER_KINDS:
        raise ValueError(f"unknown benchmark {name!r}; choose one of {', '.join(ANSWER_KINDS)}")
    return ANSWER_KINDS[name]
