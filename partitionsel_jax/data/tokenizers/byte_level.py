"""The simplest of all tokenizers, which needs no vocabulary."""

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence

from etils import epath

from partitionsel_jax.data.tokenizers.chat import Conversation


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
    """UTF-8 bytes as tokens: pad 0, beginning 1, end 2, and byte b is token 3 + b.

    No text stands for a special token, so that all text is content.

    Attributes, as of every tokenizer:
      pad_id: fills rows up, and is masked everywhere.
      bos_id, eos_id, turn_end_id, stop_ids: as the package's docstring says.
      vocab_size: the largest id, plus 1; a model may have more rows than that.
      chat_template: the Jinja template of conversations; None where there is none.
      answer_start: text that this template writes where an answer begins; empty without one.
      fingerprint: differs between tokenizers that could encode a row differently.
    """

    pad_id, bos_id, eos_id, turn_end_id = 0, 1, 2, 2
    stop_ids = (2,)
    vocab_size = 3 + 256
    chat_template = None
    answer_start = ""
    fingerprint = ids_fingerprint = "bytes"

    def encode(self, text: str) -> list[int]:
        """Gives the ids (3 .. 258) of a text's bytes; a lone surrogate becomes "?"."""
        return [3 + byte for byte in text.encode("utf-8", errors="replace")]

    encode_markup = encode

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encodes several texts."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Gives the text of the ids that are bytes; invalid UTF-8 becomes U+FFFD."""
        data = bytes(int(i) - 3 for i in ids if 3 <= i < self.vocab_size)
        return data.decode("utf-8", errors="replace")

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes a tokenizer_config.json by which `load_tokenizer` knows it, and nothing else."""
        text = json.dumps({"tokenizer_class": type(self).__name__}, indent=2) + "\n"
        (epath.Path(directory) / "tokenizer_config.json").write_text(text)

    def chat_batch(
        self, conversations: Sequence[Conversation], *, answer: bool = True
    ) -> list[list[int]]:
        """Raises ValueError: there is no chat template."""
        raise ValueError(
            "the byte-level tokenizer has no chat template; load a checkpoint's tokenizer, or use "
            "another template than 'chat'"
        )
