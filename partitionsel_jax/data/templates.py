"""How a question becomes a prompt, an answer becomes a response, and an output gives its answer."""

import dataclasses
import re
from collections.abc import Callable, Mapping

from partitionsel_jax.data.tokenizers import Tokenizer

# GSM8K's marker (Cobbe et al. 2021, arXiv 2110.14168): worked steps, then "#### " and the answer.
_MARKER = "#### "
_LAST_MARKER = re.compile(r"(?:.*\n|^)####[ \t]*", re.DOTALL)

# The prompt without an input (Taori et al. 2023, Stanford Alpaca).
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{question}\n\n### Response:\n"
)


@dataclasses.dataclass(frozen=True)
class Template:
    """How a question is put to a model: `template(question, tokenizer)` gives the prompt's ids.

    Prompt and response are encoded apart, so that generation starts from the ids that training saw.

    Attributes:
      prompt: (question, tokenizer) -> ids, the beginning token included where rows begin with one.
      closing: tokenizer -> the token that closes a response.
      cuttable: whether a prompt that is too long may lose its beginning; where that would break the
        frame around the question, rows that do not fit are left out instead.
    """

    prompt: Callable[[str, Tokenizer], list[int]]
    closing: Callable[[Tokenizer], int]
    cuttable: bool = False

    def __call__(self, question: str, tokenizer: Tokenizer) -> list[int]:
        """The ids of a question's prompt."""
        return self.prompt(question, tokenizer)


def _begun(text: str, tokenizer: Tokenizer) -> list[int]:
    """The text as content, behind the beginning token if there is one."""
    beginning = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return beginning + tokenizer.encode(text)


def _plain(question: str, tokenizer: Tokenizer) -> list[int]:
    """The question, closed by one newline where the response starts."""
    return _begun(question + "\n", tokenizer)


def _alpaca(question: str, tokenizer: Tokenizer) -> list[int]:
    """The question as Stanford Alpaca's instruction."""
    return _begun(_ALPACA.format(question=question), tokenizer)


def _chat(question: str, tokenizer: Tokenizer) -> list[int]:
    """The question as the user's turn of the tokenizer's own chat template."""
    return tokenizer.chat([{"role": "user", "content": question}])


def _end(tokenizer: Tokenizer) -> int:
    return tokenizer.eos_id


def _turn_end(tokenizer: Tokenizer) -> int:
    return tokenizer.turn_end_id


TEMPLATES: Mapping[str, Template] = {
    "plain": Template(_plain, _end, cuttable=True),
    "alpaca": Template(_alpaca, _end),
    "chat": Template(_chat, _turn_end),
}


def named_template(name: str) -> Template:
    """The template of a name.

    Raises:
      ValueError: the name is unknown.
    """
    if name not in TEMPLATES:
        raise ValueError(f"unknown template {name!r}; choose one of {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def check_template(name: str, tokenizer: Tokenizer) -> Template:
    """The template of a name, tried on a question.

    Raises:
      ValueError: the name is unknown, or it is "chat" and the tokenizer has no chat template, or
        one that refuses a single question.
    """
    template = named_template(name)
    template("?", tokenizer)
    return template


def response_text(answer: str, steps: str = "") -> str:
    """The response a model is trained on: the answer, after its worked steps where there are any.

    Args:
      answer: the final answer; white space around it is dropped.
      steps: worked steps that lead to it; the marker is written only when this is not blank.

    Returns:
      Text for which `final_answer` gives `answer.strip()` back.

    Raises:
      ValueError: the answer holds a line that starts with "####", so that it could not be found
        again.
    """
    answer, steps = answer.strip(), steps.strip()
    text = f"{steps}\n{_MARKER}{answer}" if steps else answer
    if final_answer(text) != answer:
        raise ValueError(
            f"expected an answer without a line that starts with '####', got {answer!r}; rewrite "
            "the answer, because the marker would make another text its final answer"
        )
    return text


def final_answer(text: str) -> str:
    """What follows the last "####" that starts a line, or the whole text without one; stripped."""
    found = _LAST_MARKER.match(text)
    return text[found.end() :].strip() if found else text.strip()
