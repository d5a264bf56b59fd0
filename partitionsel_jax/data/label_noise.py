"""Corrupted responses: the noise that validation-guided selection has to tell from the signal."""

import numpy as np

from partitionsel_jax.data.streams import generator
from partitionsel_jax.data.templates import final_answer

KINDS = ("none", "garbled", "swapped")

# The stream that published results were drawn from; another name would corrupt other rows.
_STREAM = "spoilt rows"

_FIRST_PRINTABLE, _LAST_PRINTABLE = 32, 126


def corrupt(
    seed: int, domains: np.ndarray, responses: list[str], kind: str, share: float
) -> dict[int, str]:
    """Chooses the rows to corrupt and writes their new responses.

    Guarantees:
      * a function of the arguments alone;
      * round(share · rows) rows of every domain, the same rows for both kinds, and those of a
        smaller share are among those of a larger one;
      * `garbled`: random printable ASCII characters, as many as some row of the domain has, and
        never the row's own response;
      * `swapped`: another row's response of the same domain, uniform over those whose final answer
        differs from the row's own, so that a swapped row is always wrong.

    Args:
      seed: the data seed.
      domains: i32[n], the rows' domains.
      responses: the rows' n responses.
      kind: one of `KINDS`; "none" corrupts nothing whatever the share.
      share: part of each domain to corrupt, in [0, 1).

    Returns:
      Row -> its corrupted response, for the corrupted rows.

    Raises:
      ValueError: unknown kind, share out of range, lengths that disagree, or "swapped" rows in a
        domain that has a single final answer.
    """
    check(kind, share)
    if len(domains) != len(responses):
        raise ValueError(
            f"expected one domain per response, got {len(domains)} domains and "
            f"{len(responses)} responses; pass those of the same rows"
        )
    corrupted: dict[int, str] = {}
    for domain in np.unique(domains) if kind != "none" else ():
        rows = generator(seed, _STREAM, domain).permutation(np.flatnonzero(domains == domain))
        count = round(share * len(rows))
        if count == 0:
            continue
        texts = [responses[row] for row in rows]
        rng = generator(seed, f"{kind} responses", domain)
        new = _garbled(rng, texts, count) if kind == "garbled" else _swapped(rng, texts, domain)
        corrupted.update((int(row), new[i]) for i, row in enumerate(rows[:count]))
    return corrupted


def check(kind: str, share: float) -> None:
    """Raises ValueError unless `kind` is known and `share` is in [0, 1)."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind of label noise {kind!r}; choose one of {', '.join(KINDS)}")
    if not 0.0 <= share < 1.0:
        raise ValueError(
            f"expected a corrupted share in [0, 1), got {share}; every domain must keep right rows"
        )


def _garbled(rng: np.random.Generator, texts: list[str], count: int) -> list[str]:
    """Draws random characters for the first `count` texts, in lengths drawn from all of them."""
    lengths = [max(1, len(text)) for text in texts]
    garbled = texts[:count]
    for row, own in enumerate(garbled):
        text = own
        while text == own:
            size = lengths[rng.integers(len(lengths))]
            codes = rng.integers(_FIRST_PRINTABLE, _LAST_PRINTABLE + 1, size, dtype=np.uint8)
            text = codes.tobytes().decode("ascii")
        garbled[row] = text
    return garbled


def _swapped(rng: np.random.Generator, texts: list[str], domain: int) -> list[str]:
    """Draws for every text one of the others whose final answer differs, uniformly."""
    answers = np.array([final_answer(text) for text in texts], dtype=object)
    _, group = np.unique(answers, return_inverse=True)
    if group.max() == 0:
        raise ValueError(
            f"cannot swap responses in domain {domain}: all of its {len(texts)} rows have the "
            f"final answer {answers[0]!r}; give it rows with another answer, or the kind 'garbled'"
        )
    # Sorted by answer, the rows of one's own answer are one run: draw a place outside the run.
    order = np.argsort(group, kind="stable")
    size = np.bincount(group)
    start = np.cumsum(size) - size
    place = rng.integers(0, len(texts) - size[group])
    place += np.where(place >= start[group], size[group], 0)
    return [texts[i] for i in order[place]]
