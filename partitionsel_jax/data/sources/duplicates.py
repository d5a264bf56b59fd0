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
import dataclasses
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
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
    """The text in Unicode's NFKC, lower case, and single spaces."""
    folded = (text if text.isascii() else unicodedata.normalize("NFKC", text)).lower()
    return " ".join(folded.split())


def _words(text: str) -> list[str]:
    """The words of a normalised text; a symbol in brackets, as SELFIES has them, is one."""
    return (text.replace("[", " [").replace("]", "] ") if "[" in text else text).split()


def _shingles(words: Sequence[str]) -> set[Shingle]:
    """The 3-grams of words; of fewer words, the whole of them."""
    return set(zip(words, words[1:], words[2:], strict=False)) or {tuple(words)}


def boilerplate(samples: Iterable[Collection[str]]) -> frozenset[Shingle]:
    """The shingles that more than one question in ten shares, and no fewer than eight.

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


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """An index of held-out prompts; `held_out(prompts)` makes it.

    Attributes:
      texts: the normalised whole prompts.
      sets: the shingles of what they ask.
      symbols: the numbers, and what is in brackets, in it; sorted.
      order: the rarest shingle first.
      places: shingle -> which prompts have it among their first ones in that order, how many of
        theirs come not before it, and how many they have.
      boilerplate: the shingles that do not count.
    """

    texts: frozenset[str]
    sets: Sequence[set[Shingle]]
    symbols: Sequence[list[str]]
    order: Mapping[Shingle, int]
    places: Mapping[Shingle, list[tuple[int, int, int]]]
    boilerplate: frozenset[Shingle]

    def match(self, text: str, asked: str | None = None) -> str:
        """How a prompt is held out: `EXACT`ly, by a `NEAR`-duplicate, or not at all (empty).

        Args:
          text: the whole of it.
          asked: what near-duplicates are looked for in; None for the whole.
        """
        plain = normalise(text)
        if plain in self.texts:
            return EXACT
        if asked is not None and asked is not text:
            plain = normalise(asked)
        words = _words(plain)
        # A near-duplicate lacks at most one shingle in five of either side. Most prompts are done
        # with here, by their first words.
        few = max(len(words) - 2, 0) * (_OF - _SHARED) // _OF + 1
        first = _shingles(words[: few + 2])
        if (
            len(first) == few
            and self.order.keys().isdisjoint(first)
            and self.boilerplate.isdisjoint(first)
        ):
            return ""
        mine = _shingles(words) - self.boilerplate
        known = mine & self.order.keys()
        # Two sets that nearly are the same share one of the first shingles of either; and all that
        # they share come not before the first of them, on either side (Xiao et al. 2008, "Efficient
        # similarity joins for near duplicate detection").
        size, last = len(mine), max(_prefix(mine) - len(mine - known), 0)
        rarest = sorted(known, key=self.order.__getitem__)[:last]
        candidates = {
            place
            for left, shingle in zip(range(len(known), 0, -1), rarest, strict=False)
            for place, theirs, other in self.places.get(shingle, ())
            if (left if left < theirs else theirs) * (_OF + _SHARED) >= (size + other) * _SHARED
        }
        own = sorted(_SYMBOL.findall(plain)) if candidates else []
        for place in candidates:
            if self.symbols[place] == own:
                shared, both = len(mine & self.sets[place]), size + len(self.sets[place])
                # In integers, so that the bound is met exactly.
                if shared * (_OF + _SHARED) >= both * _SHARED:
                    return NEAR
        return ""


def _prefix(shingles: set[Shingle]) -> int:
    """So many shingles that a near-duplicate has one of them at least: it lacks one in five."""
    return len(shingles) * (_OF - _SHARED) // _OF + 1


def held_out(
    prompts: Iterable[str | Prompt], boilerplate: frozenset[Shingle] = frozenset()
) -> HeldOut:
    """The index of these prompts.

    Args:
      prompts: those that are one text are compared by the whole of it.
      boilerplate: the shingles that do not count.
    """
    pairs = [(prompt, prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    kept = sorted({normalise(asked) for _, asked in pairs})
    sets = [_shingles(_words(asked)) - boilerplate for asked in kept]
    counts = collections.Counter(shingle for its in sets for shingle in its)
    order = {shingle: i for i, shingle in enumerate(sorted(counts, key=lambda s: (counts[s], s)))}
    places: dict[Shingle, list[tuple[int, int, int]]] = {}
    for place, its in enumerate(sets):
        first = sorted(its, key=order.__getitem__)[: _prefix(its)]
        for before, shingle in enumerate(first):
            places.setdefault(shingle, []).append((place, len(its) - before, len(its)))
    return HeldOut(
        texts=frozenset(normalise(text) for text, _ in pairs),
        sets=sets,
        symbols=[sorted(_SYMBOL.findall(asked)) for asked in kept],
        order=order,
        places=places,
        boilerplate=boilerplate,
    )
