"""The interface of all tokenizers, and the simplest of them."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Protocol

from partitionsel_jax.data.tokenizers.chat import Conversation


class Tokenizer(Protocol):
    """Text to token ids and back; the package's docstring says which tokens begin and end what.

    Attributes:
      pad_id: fills rows up, and is masked everywhere.
      bos_id: begins every row; None for a model that was trained without such a token.
      eos_id: closes a response, unless it is a turn of a chat.
      turn_end_id: closes a response that is a turn of a chat; `eos_id` without a chat template.
      stop_ids: the tokens at any of which a generated answer ends, each once.
      vocab_size: the largest id, plus 1; a model may have more rows than that.
      chat_template: the Jinja template of conversations; None where there is none.
      answer_start: text that this template writes where an answer begins; empty without one.
      fingerprint: differs between tokenizers that could encode a row differently.
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
        """Encodes content: special tokens written in it are ordinary text, none is added."""

    def encode_markup(self, text: str) -> list[int]:
        """Encodes text whose special tokens are meant as such; none is added."""

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; special ones and those past the vocabulary are skipped."""

    def chat_batch(
        self, conversations: Sequence[Conversation], *, answer: bool = True
    ) -> list[list[int]]:
        """Encodes conversations, the beginning token included.

        Args:
          conversations: turns with a "role" and a "content", and whatever the template knows.
          answer: True if the start of an answer is written behind them.

        Raises:
          ValueError: there is no chat template, or it refuses a conversation, or leaves out what
            such conversations say.
        """

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes several texts as `encode` does, faster where the tokenizer can."""
        return [self.encode(text) for text in texts]

    def chat(self, messages: Conversation, *, answer: bool = True) -> list[int]:
        """Encodes one conversation; see `chat_batch`."""
        return self.chat_batch([messages], answer=answer)[0]


@dataclasses.dataclass(frozen=True)
class ByteTokenizer(Tokenizer):
    """UTF-8 bytes as tokens: pad 0, beginning 1, end 2, and byte b is token 3 + b.

    `vocab_size` is the 259 ids that exist; padding it to a round size is the model's business. No
    text stands for a special token, so that all text is content.
    """

    pad_id, bos_id, eos_id, turn_end_id = 0, 1, 2, 2
    stop_ids = (2,)
    vocab_size = 3 + 256
    chat_template = None
    answer_start = ""
    fingerprint = "bytes"

    def encode(self, text: str) -> list[int]:
        """Gives the ids (3 .. 258) of a text's bytes; a lone surrogate becomes "?"."""
        return [3 + byte for byte in text.encode("utf-8", errors="replace")]

    def encode_markup(self, text: str) -> list[int]:
        return self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Gives the text of the ids that are bytes; invalid UTF-8 becomes U+FFFD."""
        data = bytes(int(i) - 3 for i in ids if 3 <= i < self.vocab_size)
        return data.decode("utf-8", errors="replace")

    def chat_batch(
        self, conversations: Sequence[Conversation], *, answer: bool = True
    ) -> list[list[int]]:
        raise ValueError(
            "the byte-level tokenizer has no chat template; load a checkpoint's tokenizer, or use "
            "another template than 'chat'"
        )
