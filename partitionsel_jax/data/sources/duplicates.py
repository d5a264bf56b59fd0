"""Near-duplicates of held-out prompts, found exactly with an inverted index of their shingles.

Two prompts are near-duplicates when the Jaccard index of their sets of word 3-grams is at least 0.8
(Broder 1997, "On the resemblance and containment of documents") and they hold the same numbers, and
symbols of SELFIES: problems that differ in a number, or have a letter in its place, differ, and so
do molecules of other atoms. The reactants of a reaction may stand in any order.

What many questions are framed in, such as an instruction, says nothing about two of them: 3-grams
that are `boilerplate` do not count, as frequent n-grams do not in the decontamination of GPT-3
(Brown et al. 2020, arXiv 2005.14165, appendix C). A prompt that has no others is a duplicate of its
exact copies alone.
"""

import collections
import itertools
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

Shingle = tuple[str, ...]
EXACT, NEAR = "exact", "near"
# The least Jaccard index, 4 / 5.
_SHARED, _OF = 4, 5
# Boilerplate is in one question in so many, and in no fewer than these: a question that a corpus
# words in several ways is no frame.
_FRAMED, _FEWEST = 10, 8
_SYMBOL = re.compile(r"\[[^\[\]\s]*\]|(?<!\w)\d+(?:\.\d+)?")


class Prompt(NamedTuple):
    """The text of a row in which duplicates are looked for.

    Attributes:
      text: the whole prompt, which exact copies share.
      asked: what near-duplicates nearly share.
    """

    text: str
    asked: str


def normalise(text: str) -> str:
    """Writes a text in Unicode's NFKC, lower case, and single spaces."""
    folded = (text if text.isascii() else unicodedata.normalize("NFKC", text)).lower()
    return " ".join(folded.split())


def _words(text: str) -> list[str]:
    """The words of a normalised text; a symbol in brackets, as SELFIES has them, is one."""
    return (text.replace("[", " [").replace("]", "] ") if "[" in text else text).split()


def _shingles(words: Sequence[str]) -> set[Shingle]:
    """The 3-grams of words; of fewer words, the whole of them."""
    return set(zip(words, words[1:], words[2:], strict=False)) or {tuple(words)}


def boilerplate(samples: Iterable[Collection[str]]) -> frozenset[Shingle]:
    """Gives the shingles that more than one question in ten shares, and no fewer than eight.

    Those of SELFIES symbols never are: they are of a small alphabet, no wording.

    Args:
      samples: of every domain, prompts of different questions.
    """
    common: set[Shingle] = set()
    for texts in samples:
        least = max(_FEWEST, len(texts) // _FRAMED + 1)
        if len(texts) >= least:
            counts = collections.Counter(
                shingle for text in texts for shingle in _shingles(_words(normalise(text)))
            )
            common.update(shingle for shingle, count in counts.items() if count >= least)
    return frozenset(
        shingle for shingle in common if not all(word.startswith("[") for word in shingle)
    )


class HeldOut:
    """An index of held-out prompts, by the shingles of what they ask."""

    def __init__(
        self, prompts: Iterable[str | Prompt], boilerplate: frozenset[Shingle] = frozenset()
    ):
        """Indexes prompts.

        Args:
          prompts: those that are one text are compared by the whole of it.
          boilerplate: the shingles that do not count.
        """
        pairs = [(prompt, prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
        asked = sorted({normalise(asked) for _, asked in pairs})
        self._texts = {normalise(text) for text, _ in pairs}
        self._boilerplate = boilerplate
        self._sets = [_shingles(_words(text)) - boilerplate for text in asked]
        # The numbers, and what is in brackets.
        self._symbols = [sorted(_SYMBOL.findall(text)) for text in asked]
        counts = collections.Counter(itertools.chain.from_iterable(self._sets))
        rarest = sorted(counts, key=lambda shingle: (counts[shingle], shingle))
        self._order = {shingle: rank for rank, shingle in enumerate(rarest)}
        # Shingle -> the prompts that have it among their rarest.
        self._places: dict[Shingle, list[int]] = {}
        for place, mine in enumerate(self._sets):
            for shingle in sorted(mine, key=self._order.__getitem__)[: _enough(len(mine))]:
                self._places.setdefault(shingle, []).append(place)

    def match(self, text: str, asked: str | None = None) -> str:
        """Tells how a prompt is held out: `EXACT`ly, by a `NEAR`-duplicate, or not at all (empty).

        Args:
          text: the whole of it.
          asked: what near-duplicates are looked for in; None for the whole.
        """
        plain = normalise(text)
        if plain in self._texts:
            return EXACT
        if asked is not None and asked is not text:
            plain = normalise(asked)
        words = _words(plain)
        mine = _shingles(words) - self._boilerplate
        known = sorted(mine & self._order.keys(), key=self._order.__getitem__)
        # Two sets that nearly are the same share one of the rarest of either (Xiao et al. 2008,
        # "Efficient similarity joins for near duplicate detection"); the unknown are rarest of all.
        rarest = known[: max(_enough(len(mine)) - len(mine) + len(known), 0)]
        candidates = {place for shingle in rarest for place in self._places.get(shingle, ())}
        own = sorted(_SYMBOL.findall(plain)) if candidates else []
        for place in candidates:
            if self._symbols[place] == own:
                shared, both = len(mine & self._sets[place]), len(mine) + len(self._sets[place])
                # In integers, so that the bound is met exactly.
                if shared * (_OF + _SHARED) >= both * _SHARED:
                    return NEAR
        return ""


def _enough(count: int) -> int:
    """So many of a set's shingles that a near-duplicate has one of them: it lacks one in five."""
    return count * (_OF - _SHARED) // _OF + 1
