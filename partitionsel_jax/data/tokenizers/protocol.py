"""What a tokenizer offers to the data, to generation and to evaluation."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from partitionsel_jax.data.tokenizers.chat import Message


class Tokenizer(Protocol):
    """Text to token ids and back; the package's docstring says which tokens begin and end what.

    Attributes:
      pad_id: fills rows up, and is never looked at.
      bos_id: begins every row; None for a model that was trained without such a token.
      eos_id: closes a response, unless it is a turn of a chat.
      turn_end_id: closes a response that is a turn of a chat; `eos_id` without a chat template.
      stop_ids: the tokens at any of which a generated answer ends, each once.
      vocab_size: the largest id, plus 1; a model may have more rows than that.
      chat_template: the Jinja template of conversations; None where there is none.
      answer_start: what that template writes where an answer begins; empty without one.
      fingerprint: a text that differs where other rows could come of it.
    """

    @property
    def pad_id(self) -> int: ...
    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_id(self) -> int: ...
    @property
    def turn_end_id(self) -> int: ...
    @property
    def stop_ids(self) -> tuple[int, ...]: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def chat_template(self) -> str | None: ...
    @property
    def answer_start(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...

    def encode(self, text: str) -> list[int]:
        """The ids of content: special tokens written in it are ordinary text, none is added."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """What `encode` gives of each text, faster."""
        ...

    def encode_markup(self, text: str) -> list[int]:
        """The ids of text whose special tokens are meant as such; none is added."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; special ones and those past the vocabulary are skipped."""
        ...

    def chat(self, messages: Sequence[Message], *, answer: bool = True) -> list[int]:
        """The ids of a conversation, the beginning token included; with the start of an answer.

        Raises:
          ValueError: there is no chat template, or it refuses the conversation.
        """
        ...

    def chat_batch(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """What `chat` gives of each conversation, faster."""
        ...
