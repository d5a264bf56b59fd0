"""How a question becomes a prompt, an answer becomes a response, and an output gives its answer."""

import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from partitionsel_jax.data.tokenizers import Message, Tokenizer

# A question, or the turns of a conversation up to the answer.
Prompt = str | Sequence[Message]

# GSM8K's marker (Cobbe et al. 2021, arXiv 2110.14168): worked steps, then "#### " and the answer.
_MARKER = "#### "
_LAST_MARKER = re.compile(r"(?:.*\n|^)####[ \t]*", re.DOTALL)

# The prompt without an input (Taori et al. 2023, Stanford Alpaca).
_RESPONSE = "### Response:\n"
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    f"the request.\n\n### Instruction:\n{{question}}\n\n{_RESPONSE}"
)
# Where words, marks and tags begin in what a prompt ends with.
_BEGINS = re.compile(r"(?<![^\s>\]])\S|(?<=\w)[<\[]")


class Template(NamedTuple):
    """How a question is put to a model: `template(prompt, tokenizer)` gives the prompt's ids.

    Prompt and response are encoded apart, so that generation starts from the ids that training saw.

    Attributes:
      batch: (prompts, tokenizer) -> ids of each, the beginning token included where rows begin
        with one.
      closing: tokenizer -> the token that closes a response.
      framed: whether there is text around the question. A prompt that is too long loses the
        beginning of its question; the frame stays.
      start: tokenizer -> the end of every prompt's text, behind which a response begins.
    """

    batch: Callable[[Sequence[Prompt], Tokenizer], list[list[int]]]
    closing: Callable[[Tokenizer], int] = operator.attrgetter("eos_id")
    framed: bool = True
    start: Callable[[Tokenizer], str] = lambda tokenizer: ""

    def __call__(self, prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
        """Encodes a prompt."""
        return self.batch([prompt], tokenizer)[0]

    def continuations(self, responses: Sequence[str], tokenizer: Tokenizer) -> list[str]:
        """Takes away what the prompt has already written of the responses, such as "<think>"."""
        start = self.start(tokenizer)
        # The ends of the prompt that a response may repeat, the longest first.
        openings = [start[found.start() :] for found in _BEGINS.finditer(start)]
        return [_continued(response, openings) for response in responses]


def _continued(response: str, openings: Sequence[str]) -> str:
    for opening in openings:
        if response.startswith(opening):
            return response.removeprefix(opening)
        # A tag is the same whatever white space is around it; a word may be an answer.
        tag, begun = opening.strip(), response.lstrip()
        if not tag[0].isalnum() and begun.startswith(tag):
            return begun.removeprefix(tag)
    return response


def prompt_of(question: str, messages: str) -> Prompt:
    """Returns the conversation (its JSON is `messages`) where there is one, else the question."""
    return json.loads(messages) if messages else question


def text_of(prompt: Prompt) -> str:
    """Returns the prompt as one text: of a conversation, its turns one below the other."""
    return prompt if isinstance(prompt, str) else "\n".join(map(turn_text, prompt))


def turn_text(message: Message) -> str:
    """Returns a turn's content, and the tools that it calls, or describes, as JSON."""
    content = message["content"]
    if isinstance(content, str) and "tool_calls" not in message:
        return content
    parts = [*([] if content is None else [content]), *message.get("tool_calls", ())]
    return "\n".join(
        part if isinstance(part, str) else json.dumps(part, ensure_ascii=False) for part in parts
    )


def _begun(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Encodes texts as content, behind the beginning token if there is one."""
    beginning = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return [beginning + ids for ids in tokenizer.encode_batch(texts)]


def _plain(prompts: Sequence[Prompt], tokenizer: Tokenizer) -> list[list[int]]:
    """Writes the question, closed by one newline where the response starts."""
    return _begun([text_of(prompt) + "\n" for prompt in prompts], tokenizer)


def _alpaca(prompts: Sequence[Prompt], tokenizer: Tokenizer) -> list[list[int]]:
    return _begun([_ALPACA.format(question=text_of(prompt)) for prompt in prompts], tokenizer)


def _chat(prompts: Sequence[Prompt], tokenizer: Tokenizer) -> list[list[int]]:
    """Writes the question as the user's turn, or a conversation, by the tokenizer's template."""
    return tokenizer.chat_batch(
        [
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            for prompt in prompts
        ]
    )


TEMPLATES: Mapping[str, Template] = {
    "plain": Template(_plain, framed=False),
    "alpaca": Template(_alpaca, start=lambda _: _RESPONSE),
    "chat": Template(
        _chat, operator.attrgetter("turn_end_id"), start=operator.attrgetter("answer_start")
    ),
}


def named_template(name: str) -> Template:
    """Returns the template of a name; raises ValueError for an unknown one."""
    if name not in TEMPLATES:
        raise ValueError(f"unknown template {name!r}; choose one of {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def check_template(name: str, tokenizer: Tokenizer) -> Template:
    """Returns the template of a name, tried on a question.

    Raises:
      ValueError: the name is unknown, or it is "chat" and the tokenizer has no chat template, or
        one that refuses a single question.
    """
    template = named_template(name)
    template("?", tokenizer)
    return template


def response_text(answer: str, steps: str = "") -> str:
    """Writes the response a model is trained on: the answer, behind its worked steps if any.

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
    """Returns what is behind the last "####" that starts a line, or all without one; stripped."""
    found = _LAST_MARKER.match(text)
    return text[found.end() :].strip() if found else text.strip()
