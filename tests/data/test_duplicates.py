import fractions
import re
import unicodedata

import numpy as np
import pytest

from partitionsel_jax.data.sources import duplicates


def naive(one, other):
    """The definition, word by word: Jaccard index of word 3-grams, and the same numbers."""

    def plain(text):
        return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).lower()).strip()

    def grams(text):
        words = re.findall(r"\[[^\[\]\s]*\]|[^\[\]\s]+", plain(text))
        if len(words) < 3:
            return {" ".join(words)}
        return {" ".join(words[i : i + 3]) for i in range(len(words) - 2)}

    def numbers(text):
        return sorted(re.findall(r"(?<![^\W])\d+(?:\.\d+)?", plain(text)))

    if plain(one) == plain(other):
        return "exact"
    a, b = grams(one), grams(other)
    similar = fractions.Fraction(len(a & b), len(a | b)) >= fractions.Fraction(4, 5)
    return "near" if similar and numbers(one) == numbers(other) else ""


def best(text, texts):
    kinds = {naive(text, other) for other in texts}
    return next((kind for kind in ("exact", "near") if kind in kinds), "")


@pytest.mark.parametrize("seed", range(3))
def test_matches_are_those_of_comparing_every_pair(seed):
    random = np.random.default_rng(seed)
    words = ["a", "b", "Ab", "[C]", "[C][N]", "[Ring1]", "7", "12.5", "ﬁ", "e  f", "."]

    def mutated(text):
        parts = text.split(" ")
        for _ in range(random.integers(0, 3)):
            parts[random.integers(len(parts))] = str(random.choice(words))
        return " ".join(parts[random.integers(0, 2) :])

    sizes = random.integers(0, 60, 40)
    held = [" ".join(random.choice(words, size)) for size in sizes]
    asked = [mutated(str(random.choice(held))) for _ in range(300)]
    index = duplicates.held_out(held)
    found = [index.match(text) for text in asked]
    assert found == [best(text, held) for text in asked]
    assert set(found) == {"", "exact", "near"}


def words(count, start=0):
    return [f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(start, start + count)]


def test_a_jaccard_index_of_four_fifths_is_near_and_less_is_not():
    # 8 of 10 and 8 of 11 shingles in common.
    held = " ".join(words(10))
    index = duplicates.held_out([held])
    assert index.match(" ".join(words(11) + words(1, 50))) == "near"
    assert index.match(" ".join(words(11) + words(2, 50))) == ""


def test_the_rarest_shingles_of_a_prompt_may_all_be_of_other_prompts():
    held = " ".join(words(10))
    longer = " ".join(words(40))
    elsewhere = " ".join(words(4, 8)[:2] + words(2, 90) + words(20, 200))
    index = duplicates.held_out([held, longer, elsewhere])
    assert index.match(held + " " + " ".join(words(2, 90))) == "near"


def test_a_prompt_may_begin_with_the_same_shingle_again_and_again():
    index = duplicates.held_out(["x x a b c d e f g"])
    assert index.match("x x x x x a b c d e f g") == "near"


def test_problems_that_differ_in_a_number_differ():
    text = " ".join([*words(40), "costs {} dollars", *words(40, 50)])
    index = duplicates.held_out([text.format(12)])
    assert index.match(text.format(12) + " please") == "near"
    assert index.match(text.format(13) + " please") == ""


def test_case_width_and_white_space_do_not_tell_prompts_apart():
    index = duplicates.held_out(["How many ﬁsh\n are there?"])
    assert index.match(" how MANY fish are  there？") == "exact"


def test_the_symbols_of_a_molecule_are_words():
    molecule = "".join(f"[{symbol}]" for symbol in words(20))
    index = duplicates.held_out([molecule])
    assert index.match(molecule + "[Ring2]") == "near"
    assert index.match(molecule.replace("][", "")) == ""


def test_short_prompts_are_compared_as_a_whole():
    index = duplicates.held_out(["two words", "one"])
    assert [index.match(text) for text in ("Two words", "words two", "two", "one", "")] == [
        "exact",
        "",
        "",
        "exact",
        "",
    ]


def test_nothing_is_a_duplicate_of_nothing():
    assert duplicates.held_out([]).match("anything at all") == ""
