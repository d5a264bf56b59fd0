"""Text to token ids and back, and which tokens begin a row and end an answer.

One rule holds in training and in generation, for whatever tokenizer, and depends on no library's
habits of adding tokens:

* **Beginning.** Every row begins with `bos_id`; where that is None, with its first content. It is
  None where the model was trained without one. `add_bos_token` in tokenizer_config.json decides;
  where it is absent or null, whether the post-processor in tokenizer.json puts the `bos_token` in
  front. For a GGUF file `tokenizer.ggml.add_bos_token` decides; absent, it is true for the
  pre-tokenizer "llama-bpe" alone. A chat template that writes the token itself gets no second one.
* **End.** A response is closed by exactly one token: with the chat template by `turn_end_id`, the
  first special token that the template writes behind an assistant's message (`eos_id` where it
  writes none), with any other template by `eos_id`.
* **Stops.** A generated answer ends at any of `stop_ids`: `eos_id`, `turn_end_id`, and what
  generation_config.json (a GGUF file's `tokenizer.ggml.eot_token_id`) names beside them.
* **Content is never markup.** `encode` takes the text of a special token for ordinary text; only a
  template's own text is read by `encode_markup`. Neither adds a token.

Nothing that a checkpoint holds is executed: JSON is read, and chat templates run in a sandbox.
"""

from partitionsel_jax.data.tokenizers.byte_level import ByteTokenizer
from partitionsel_jax.data.tokenizers.chat import Message
from partitionsel_jax.data.tokenizers.loading import load_tokenizer
from partitionsel_jax.data.tokenizers.subword import SubwordTokenizer

Tokenizer = ByteTokenizer | SubwordTokenizer

__all__ = ["ByteTokenizer", "Message", "SubwordTokenizer", "Tokenizer", "load_tokenizer"]
