"""The numbers of a data card against loops over a corpus, and rows cut at their loss mask."""

import collections
import itertools

import numpy as np
import pytest

from partitionsel_jax import data
from partitionsel_jax.data import card
from tests.data import checkpoints
from tests.data.encoding import encode_example

TOKENIZER = data.ByteTokenizer()


@pytest.fixture
def corpus(synthetic):
    """Three domains with rows of every length, a third of the training responses corrupted."""
    splits, number = {}, 0
    for split, size in {"train": 30, "validation": 4, "test": 2}.items():
        splits[split] = synthetic.records()
        for row in range(size * 3):
            question, response = "q" * (number * 7 % 23), f"{number * 5 % 13}" * (1 + row % 4)
            splits[split].append(synthetic.record(number, row % 3, question, response))
            number += 1
    builder = synthetic.builder_of(splits, ["one", "two", "three"])
    return data.load(builder, TOKENIZER, 25, 0, noise_kind="swapped", noise_share=0.3)


def test_numbers_are_those_of_a_loop_over_every_row(corpus):
    found = card.gather(corpus, rows=0)
    for split in card.SPLITS:
        source = getattr(corpus, split)
        domains = collections.Counter(source[i].domain for i in range(len(source)))
        assert found.rows[split] == tuple(domains[i] for i in range(3))
        assert found.read[split] == len(source)
    assert (found.length, found.template, found.domains) == (25, "plain", ("one", "two", "three"))
    assert found.corrupted == sum(corpus.train[i].corrupted for i in range(len(corpus.train))) > 0
    assert (found.left_out, found.cut) == (corpus.left_out, corpus.cut)
    assert found.cut["train"].rows > 0

    sizes = collections.defaultdict(list)
    for index in range(len(corpus.train)):
        example = corpus.train[index]
        encoded = encode_example(example.question, example.response, TOKENIZER, 25)
        learnt = len(example.response) + 1
        prompt = min(1 + len(example.question) + 1, 25 - learnt)
        assert np.count_nonzero(encoded.tokens) == prompt + learnt
        sizes[example.domain].append((prompt + learnt, learnt))
    assert tuple(found.lengths.index) == corpus.domains
    for i, part in enumerate(found.lengths.itertuples(index=False)):
        tokens, learnt = zip(*sizes[i], strict=True)
        assert part == (len(tokens), sum(tokens), sum(learnt), max(tokens))
    everything = [size for part in sizes.values() for size, _ in part]
    for part in found.histogram.itertuples():
        assert part.rows == sum(part.first <= size <= part.last for size in everything)


@pytest.mark.parametrize("length", [3, 15, 16, 17, 96, 1000])
def test_bins_hold_every_length_once(synthetic, length):
    splits = {
        split: synthetic.records(
            [synthetic.record(10 * i + place, 0, "", "1" * (length - 2 - i % 2)) for i in range(4)]
        )
        for place, split in enumerate(("train", "validation", "test"))
    }
    corpus = data.load(synthetic.builder_of(splits, ["one"]), TOKENIZER, length, 0)
    bins = [*card.gather(corpus).histogram.itertuples()]
    assert (bins[0].first, bins[-1].last) == (1, length)
    assert len(bins) <= 16
    assert all(a.last + 1 == b.first for a, b in itertools.pairwise(bins))
    assert sum(part.rows for part in bins) == 4


def test_a_large_split_is_read_in_part_and_counted_in_full(corpus):
    found, again, other = (card.gather(corpus, rows=7, seed=seed) for seed in (0, 0, 1))
    whole = card.gather(corpus)
    for name in ("histogram", "lengths", "repeats"):
        assert getattr(found, name).equals(getattr(again, name))
    assert found.shown == again.shown
    assert not found.lengths.equals(other.lengths)
    assert (found.rows, found.corrupted) == (whole.rows, whole.corrupted)
    assert found.read == {"train": 7, "anchors": 6, "validation": 6, "test": 6}
    assert found.lengths["rows"].sum() == found.histogram["rows"].sum() == 7


def test_shown_rows_are_of_every_domain_and_say_what_the_corpus_says(corpus):
    found = card.gather(corpus, shown=3)
    assert [row.domain for row in found.shown] == ["one"] * 3 + ["two"] * 3 + ["three"] * 3
    examples = {e.id: e for e in corpus.train.examples(range(len(corpus.train)))}
    assert len({row.id for row in found.shown}) == 9
    for row in found.shown:
        example = examples[row.id]
        learnt = "".join(p.text for p in row.pieces if p.is_learnt and not p.is_marker)
        assert learnt == example.response
        assert (row.corrupted, row.learnt) == (example.corrupted, len(example.response) + 1)
        assert row.tokens <= corpus.train.length


def duplicated(synthetic, train, validation):
    """A corpus of these (prompt, response) pairs; anchors and test are like nothing else."""
    own = itertools.count()
    # Which of two validation rows becomes the anchor is the seed's choice: give both the same text.
    splits = {
        "train": train,
        "validation": [validation, validation],
        "test": [("only in test", "here")],
    }
    builder = synthetic.builder_of(
        {
            split: synthetic.records([synthetic.record(next(own), 0, *pair) for pair in pairs])
            for split, pairs in splits.items()
        },
        ["one"],
    )
    return data.load(builder, TOKENIZER, 60, 0)


def repeats(corpus):
    """Splits -> rows, and those that repeat prompts, responses, or both."""
    found = card.gather(corpus).repeats
    assert [*found] == ["splits", "rows", "prompts", "responses", "both"]
    return {splits: tuple(counts) for splits, *counts in found.itertuples(index=False)}


def test_duplicates_are_found_whatever_their_case_and_white_space(synthetic):
    corpus = duplicated(
        synthetic,
        train=[
            *[("What is 2?", "two"), ("what  IS\n2? ", "Two"), ("What is 2", "TWO\t")],
            *[("x", "y"), ("y", "x")],
        ],
        validation=("X", " Two"),
    )
    found = repeats(corpus)
    assert found["train",] == (5, 1, 2, 1)
    for split in ("anchors", "validation"):
        # The prompt of one row and the response of another: never both of one.
        assert found["train", split] == (1, 1, 1, 0)
    assert found["anchors", "validation"] == (1, 1, 1, 1)
    assert found["train", "test"] == (1, 0, 0, 0)


def test_duplicates_are_those_of_a_loop(synthetic):
    random = np.random.default_rng(0)
    train = [(f"q{a}", f"r{b}") for a, b in random.integers(6, size=(40, 2))]
    _, *counts, both = repeats(duplicated(synthetic, train, ("q0", "r0")))["train",]
    for place, count in enumerate(counts):
        texts = [pair[place] for pair in train]
        assert count == sum(text in texts[:i] for i, text in enumerate(texts))
    assert both == sum(pair in train[:i] for i, pair in enumerate(train))


def test_rows_are_cut_where_the_loss_mask_changes():
    encoded = encode_example("2 + ü =", "4 é", TOKENIZER, 30)
    assert card.pieces(encoded.tokens.tolist(), encoded.response.tolist(), TOKENIZER) == [
        card.Piece("begin", False, is_marker=True),
        card.Piece("2 + ü =\n", False),
        card.Piece("4 é", True),
        card.Piece("end", True, is_marker=True),
    ]


@pytest.mark.parametrize(
    ("eos_token", "closing"), [("<|im_end|>", "end"), ("<|endoftext|>", "end of turn")]
)
def test_markup_of_a_chat_is_shown_and_its_end_closes_the_response(tmp_path, eos_token, closing):
    folder = checkpoints.edited(tmp_path, "qwen2", eos_token=eos_token)
    tokenizer = data.load_tokenizer(folder)
    encoded = encode_example("2+2", "4", tokenizer, 200, "chat")
    found = card.pieces(encoded.tokens.tolist(), encoded.response.tolist(), tokenizer)
    assert [piece for piece in found if piece.is_learnt] == [
        card.Piece("4", True),
        card.Piece(closing, True, is_marker=True),
    ]
    prompt = [piece for piece in found if not piece.is_learnt]
    (begin,) = checkpoints.named(tokenizer, "<|im_start|>")
    assert prompt[0] == card.Piece(f"token {begin}", False, is_marker=True)
    assert "user\n2+2" in [piece.text for piece in prompt]


@pytest.mark.parametrize("arguments", [{"rows": -1}, {"shown": -1}])
def test_fewer_than_no_rows_are_refused(corpus, arguments):
    with pytest.raises(ValueError, match="expected rows and shown of at least 0, got"):
        card.gather(corpus, **arguments)
