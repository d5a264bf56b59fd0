"""Near-duplicates of held-out prompts, found exactly with an inverted index of their shingles.

Two prompts are near-duplicates when the Jaccard index of their sets of word 3-grams is at least 0.8
(Broder 1997, "On the resemblance and containment of documents") and they hold the same numbers:
problems that differ in a number differ.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

Shingle = tuple[str, ...]
EXACT, NEAR = "exact", "near"
# A Jaccard index of 4 / 5; in integers, so that the bound is met exactly.
_SHARED, _OF = 4, 5
# Not the digits in the names of SELFIES symbols, such as [Ring1] and [=Branch1_2].
_NUMBER = re.compile(r"(?<!\w)\d+(?:\.\d+)?")


def normalise(text: str) -> str:
    """The text in Unicode's NFKC, lower case, and single spaces."""
    folded = (text if text.isascii() else unicodedata.normalize("NFKC", text)).lower()
    return " ".join(folded.split())


def words(text: str) -> list[str]:
    """The words of a normalised text; a symbol in brackets, as SELFIES has them, is one."""
    if "[" in text:
        text = text.replace("[", " [").replace("]", "] ")
    return text.split()


def shingles(words: Sequence[str]) -> set[Shingle]:
    """The 3-grams of words; of fewer words, the whole of them."""
    return set(zip(words, words[1:], words[2:], strict=False)) or {tuple(words)}


def numbers(text: str) -> list[str]:
    """The numbers of a text, sorted."""
    return sorted(_NUMBER.findall(text))


def near(one: set[Shingle], other: set[Shingle]) -> bool:
    """Whether the Jaccard index of two sets is at least 0.8."""
    shared = len(one & other)
    return shared * _OF >= (len(one) + len(other) - shared) * _SHARED


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """An index of held-out prompts; `held_out(texts)` makes it.

    Attributes:
      texts: the normalised prompts.
      sets: their shingles.
      numbers: their numbers.
      places: shingle -> which prompts have it.
    """

    texts: frozenset[str]
    sets: Sequence[set[Shingle]]
    numbers: Sequence[list[str]]
    places: Mapping[Shingle, list[int]]

    def match(self, text: str) -> str:
        """How a prompt is held out: `EXACT`ly, by a `NEAR`-duplicate, or not at all (empty)."""
        text = normalise(text)
        if text in self.texts:
            return EXACT
        its_words = words(text)
        # A near-duplicate lacks at most one shingle in five of either side. Most prompts are done
        # with here, by their first words.
        few = max(len(its_words) - 2, 0) * (_OF - _SHARED) // _OF + 1
        first = shingles(its_words[: few + 2])
        if len(first) == few and self.places.keys().isdisjoint(first):
            return ""
        mine = shingles(its_words)
        known = mine & self.places.keys()
        missing = len(mine) * (_OF - _SHARED) // _OF
        unknown = len(mine) - len(known)
        if unknown > missing:
            return ""
        # One of any missing + 1 shingles leads to every near-duplicate.
        rarest = sorted(known, key=lambda shingle: len(self.places[shingle]))
        candidates = {
            place for shingle in rarest[: missing + 1 - unknown] for place in self.places[shingle]
        }
        own = numbers(text)
        found = any(near(mine, self.sets[i]) and self.numbers[i] == own for i in candidates)
        return NEAR if found else ""


def held_out(texts: Iterable[str]) -> HeldOut:
    """The index of these prompts."""
    kept = sorted({normalise(text) for text in texts})
    sets = [shingles(words(text)) for text in kept]
    places: dict[Shingle, list[int]] = {}
    for place in range(len(kept)):
        for shingle in sets[place]:
            places.setdefault(shingle, []).append(place)
    return HeldOut(frozenset(kept), sets, [numbers(text) for text in kept], places)
