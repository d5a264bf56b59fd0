"""The byte-level tokenizer, which needs no vocabulary file."""

import dataclasses
from collections.abc import Iterable, Sequence

from partitionsel_jax.data.tokenizers.chat import Message

_SPECIAL = 3


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
    """UTF-8 bytes as tokens: pad 0, beginning 1, end 2, and byte b is token 3 + b.

    `vocab_size` is the 259 ids that exist; padding it to a round size is the model's business. No
    text stands for a special token, so that all text is content.
    """

    pad_id: int = dataclasses.field(default=0, init=False)
    bos_id: int = dataclasses.field(default=1, init=False)
    eos_id: int = dataclasses.field(default=2, init=False)
    turn_end_id: int = dataclasses.field(default=2, init=False)
    stop_ids: tuple[int, ...] = dataclasses.field(default=(2,), init=False)
    vocab_size: int = dataclasses.field(default=_SPECIAL + 256, init=False)
    chat_template: None = dataclasses.field(default=None, init=False)
    answer_start: str = dataclasses.field(default="", init=False)
    fingerprint: str = dataclasses.field(default="bytes", init=False)

    def encode(self, text: str) -> list[int]:
        """The ids (3 .. 258) of the text's bytes; a lone surrogate, which has none, becomes "?"."""
        return [_SPECIAL + byte for byte in text.encode("utf-8", errors="replace")]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """What `encode` gives of each text."""
        return [self.encode(text) for text in texts]

    def encode_markup(self, text: str) -> list[int]:
        """The same as `encode`."""
        return self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; invalid UTF-8 becomes U+FFFD, and ids that are no byte are skipped.

        Skipped are the special ids and those past `vocab_size`, which a model with a padded
        vocabulary can still produce.
        """
        data = bytes(int(i) - _SPECIAL for i in ids if _SPECIAL <= i < self.vocab_size)
        return data.decode("utf-8", errors="replace")

    def chat(self, messages: Sequence[Message], *, answer: bool = True) -> list[int]:
        """Raises ValueError: bytes have no chat template."""
        raise ValueError(
            "the byte-level tokenizer has no chat template; load a checkpoint's tokenizer, or use "
            "another template than 'chat'"
        )

    def chat_batch(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Raises as `chat` does."""
        return [self.chat(messages) for messages in conversations]
