"""Independent random streams of one seed, each named by its purpose."""

import hashlib

import numpy as np


def derive(seed: int, purpose: str, *numbers: int, bits: int = 128) -> int:
    """An integer of `bits` bits that depends on nothing but its arguments.

    Every use of randomness names its purpose, so that the one seed of a config feeds the data, the
    model and the selection without any of them sharing a stream.

    Args:
      seed: the config's seed; any integer.
      purpose: what the stream is for, for example "pool order".
      *numbers: what else tells the stream apart: an epoch, a domain, a step.
      bits: size of the result; a multiple of 8, at most 512.
    """
    text = "\0".join([purpose, str(int(seed)), *(str(int(number)) for number in numbers)])
    digest = hashlib.blake2b(text.encode(), digest_size=bits // 8).digest()
    return int.from_bytes(digest, "big")


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """A NumPy generator (counter-based Philox) on the stream of `derive`."""
    return np.random.Generator(np.random.Philox(key=derive(seed, purpose, *numbers)))
