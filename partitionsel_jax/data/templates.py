"""How a question becomes a prompt, an answer becomes a response, and an output gives its answer."""

import re

# GSM8K's marker (Cobbe et al. 2021, arXiv 2110.14168): worked steps, then "#### " and the answer.
_MARKER = "#### "
_LAST_MARKER = re.compile(r"(?:.*\n|^)####[ \t]*", re.DOTALL)


def prompt_text(question: str) -> str:
    """The prompt of a question: the question, closed by one newline where the response starts."""
    return question + "\n"


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
