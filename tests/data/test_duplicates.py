import fractions
import re
import unicodedata

import numpy as np
import pytest

from partitionsel_jax.data.sources import duplicates


def naive(one, other, frames=frozenset()):
    """The definition, word by word: Jaccard index of word 3-grams, same numbers and symbols."""

    def plain(text):
        return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).lower()).strip()

    def grams(text):
        words = re.findall(r"\[[^\[\]\s]*\]|[^\[\]\s]+", plain(text))
        if len(words) < 3:
            return {" ".join(words)} - frames
        return {" ".join(words[i : i + 3]) for i in range(len(words) - 2)} - frames

    def symbols(text):
        bracketed = re.findall(r"\[[^\[\]\s]*\]", plain(text))
        rest = re.sub(r"\[[^\[\]\s]*\]", "[]", plain(text))
        return sorted(bracketed), sorted(re.findall(r"(?<![^\W])\d+(?:\.\d+)?", rest))

    if plain(one) == plain(other):
        return "exact"
    a, b = grams(one), grams(other)
    similar = a and fractions.Fraction(len(a & b), len(a | b)) >= fractions.Fraction(4, 5)
    return "near" if similar and symbols(one) == symbols(other) else ""


def best(text, texts, frames=frozenset()):
    kinds = {naive(text, other, frames) for other in texts}
    return next((kind for kind in ("exact", "near") if kind in kinds), "")


@pytest.mark.parametrize("framed", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_matches_are_those_of_comparing_every_pair(seed, framed):
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
    frames = frozenset()
    if framed:
        # All that many have in common, and the prompts that are nothing but that.
        frame = ["you", "are", "a", "helpful", "person", "and", "say:"]
        frames = frozenset(zip(frame, frame[1:], frame[2:], strict=False))
        held = [" ".join(frame + text.split(" ")) for text in held] + [" ".join(frame)]
        asked = [" ".join(frame + text.split(" ")) for text in asked]
        asked += [" ".join(frame), " ".join(frame[1:])]
    index = duplicates.HeldOut(held, frames)
    found = [index.match(text) for text in asked]
    assert found == [best(text, held, {" ".join(words) for words in frames}) for text in asked]
    assert set(found) == {"", "exact", "near"}


def words(count, start=0):
    return [f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(start, start + count)]


def test_a_jaccard_index_of_four_fifths_is_near_and_less_is_not():
    # 8 of 10 and 8 of 11 shingles in common.
    held = " ".join(words(10))
    index = duplicates.HeldOut([held])
    assert index.match(" ".join(words(11) + words(1, 50))) == "near"
    assert index.match(" ".join(words(11) + words(2, 50))) == ""


def test_boilerplate_is_what_one_question_in_ten_shares_and_eight_at_least():
    def samples(sharing, count):
        own = [" ".join(words(5, 6 * i)) for i in range(count)]
        return [[f"Tell me  why {text}" if i < sharing else text for i, text in enumerate(own)]]

    shared = {("tell", "me", "why")}
    assert duplicates.boilerplate(samples(8, 12)) == shared
    assert duplicates.boilerplate(samples(7, 12)) == set()
    assert duplicates.boilerplate(samples(11, 109)) == shared
    assert duplicates.boilerplate(samples(10, 109)) == set()
    # Domain by domain.
    assert duplicates.boilerplate(samples(8, 8) + samples(0, 200)) == shared
    assert duplicates.boilerplate([["tell me why"], ["tell me why"]] * 8) == set()


def test_symbols_of_molecules_are_no_boilerplate():
    molecules = [
        "".join(f"[{symbol}]" for symbol in ["C", "N", "O", *words(3, 5 * i)]) for i in range(20)
    ]
    assert duplicates.boilerplate([molecules]) == set()


def test_boilerplate_does_not_count_on_either_side():
    frame = " ".join(words(90, 200))
    frames = duplicates.boilerplate([[f"{frame} {text}" for text in words(20)]])
    index = duplicates.HeldOut([f"{frame} how old is the grey fox there"], frames)
    assert index.match(f"{frame} how tall is the red cat now") == ""
    assert index.match(f"{frame} how old is the grey fox there") == "exact"
    assert index.match(f"{' '.join(words(88, 202))} how old is the grey fox there") == "near"
    assert duplicates.HeldOut([f"{frame} how old is it"]).match(f"{frame} what is that") == "near"


def test_a_prompt_of_boilerplate_alone_has_exact_copies_alone():
    frame = " ".join(words(30))
    frames = duplicates.boilerplate([[f"{frame} {text}" for text in words(20, 100)]])
    index = duplicates.HeldOut([frame], frames)
    assert index.match(frame.upper()) == "exact"
    assert index.match(" ".join(words(29))) == ""


def test_what_is_asked_may_be_a_part_of_a_prompt():
    asked = " ".join(words(10))
    index = duplicates.HeldOut([duplicates.Prompt(f"Be brief. {asked}", asked)])
    assert index.match(f"Be brief. {asked}", asked) == "exact"
    assert index.match(f"Be kind. {asked}", asked) == "near"
    assert index.match("Be brief.", " ".join(words(10, 50))) == ""


def test_the_rarest_shingles_of_a_prompt_may_all_be_of_other_prompts():
    held = " ".join(words(10))
    longer = " ".join(words(40))
    elsewhere = " ".join(words(4, 8)[:2] + words(2, 90) + words(20, 200))
    index = duplicates.HeldOut([held, longer, elsewhere])
    assert index.match(held + " " + " ".join(words(2, 90))) == "near"


def test_a_prompt_may_begin_with_the_same_shingle_again_and_again():
    index = duplicates.HeldOut(["x x a b c d e f g"])
    assert index.match("x x x x x a b c d e f g") == "near"


def test_problems_that_differ_in_a_number_differ():
    text = " ".join([*words(40), "costs {} dollars", *words(40, 50)])
    index = duplicates.HeldOut([text.format(12)])
    assert index.match(text.format(12) + " please") == "near"
    assert index.match(text.format(13) + " please") == ""


def test_case_width_and_white_space_do_not_tell_prompts_apart():
    index = duplicates.HeldOut(["How many ﬁsh\n are there?"])
    assert index.match(" how MANY fish are  there？") == "exact"


def test_the_symbols_of_a_molecule_are_words():
    one, other = ("".join(f"[{s}]" for s in words(20, start)) for start in (0, 50))
    index = duplicates.HeldOut([f"{one}.{other}"])
    assert index.match(f"{other}.{one}") == "near"
    assert index.match(f"{other}.{one}[Ring2]") == ""
    assert index.match(f"{one}{other}".replace("][", "")) == ""


def test_short_prompts_are_compared_as_a_whole():
    index = duplicates.HeldOut(["two words", "one"])
    assert [index.match(text) for text in ("Two words", "words two", "two", "one", "")] == [
        "exact",
        "",
        "",
        "exact",
        "",
    ]


def test_nothing_is_a_duplicate_of_nothing():
    assert duplicates.HeldOut([]).match("anything at all") == ""
