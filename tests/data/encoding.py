"""One example laid out as a row of tokens."""

from typing import NamedTuple

import numpy as np

from partitionsel_jax.data.rows import encode_batch, laid_out


class EncodedExample(NamedTuple):
    """Tokens and response mask of a row, and how many prompt tokens had to go."""

    tokens: np.ndarray
    response: np.ndarray
    cut: int


def encode_example(prompt, response, tokenizer, length, template="plain"):
    """The row of an example, which must fit."""
    (encoded,) = encode_batch([prompt], [response], tokenizer, length, template)
    assert encoded is not None
    tokens, is_response = laid_out([encoded], tokenizer, length)
    return EncodedExample(tokens[0], is_response[0], encoded.cut)
