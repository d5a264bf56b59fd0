import numpy as np
import pytest

from partitionsel_jax import data

DOMAINS = np.array([0] * 100 + [1] * 37 + [2] * 3, np.int32)
RESPONSES = [
    f"{'steps ' * (i % 4)}\n#### {i % 5}" if i < 100 else f"answer {i}" for i in range(140)
]
BOTH = pytest.mark.parametrize("kind", ["garbled", "swapped"])


@BOTH
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_the_share_of_every_domain_is_corrupted(kind, share):
    corrupted = data.corrupt(0, DOMAINS, RESPONSES, kind, share)
    counts = np.bincount(DOMAINS[sorted(corrupted)], minlength=3) if corrupted else np.zeros(3)
    np.testing.assert_array_equal(counts, [round(share * n) for n in (100, 37, 3)])


@BOTH
def test_corrupted_rows_are_a_function_of_the_arguments(kind):
    corrupted = data.corrupt(0, DOMAINS, RESPONSES, kind, 0.3)
    assert corrupted == data.corrupt(0, DOMAINS, RESPONSES, kind, 0.3)
    assert corrupted.keys() != data.corrupt(1, DOMAINS, RESPONSES, kind, 0.3).keys()


@BOTH
def test_a_larger_share_corrupts_the_same_rows_and_more(kind):
    smaller = data.corrupt(0, DOMAINS, RESPONSES, kind, 0.2)
    larger = data.corrupt(0, DOMAINS, RESPONSES, kind, 0.6)
    assert smaller.items() < larger.items()


def test_both_kinds_corrupt_the_same_rows():
    garbled = data.corrupt(0, DOMAINS, RESPONSES, "garbled", 0.3)
    assert garbled.keys() == data.corrupt(0, DOMAINS, RESPONSES, "swapped", 0.3).keys()


def test_garbled_responses_are_printable_and_as_long_as_some_row_of_the_domain():
    for row, text in data.corrupt(0, DOMAINS, RESPONSES, "garbled", 0.9).items():
        own = DOMAINS[row] == DOMAINS
        assert len(text) in {len(RESPONSES[i]) for i in np.flatnonzero(own)}
        assert text.isascii()
        assert text.isprintable()
        assert text != RESPONSES[row]


def test_a_short_response_is_never_garbled_into_itself():
    responses = ["x"] * 2000
    corrupted = data.corrupt(0, np.zeros(2000, np.int32), responses, "garbled", 0.99)
    assert len(corrupted) == 1980
    assert "x" not in corrupted.values()
    assert len(set(corrupted.values())) == 94


def test_swapped_responses_are_of_the_same_domain_with_another_answer():
    for row, text in data.corrupt(0, DOMAINS, RESPONSES, "swapped", 0.9).items():
        assert text in {RESPONSES[i] for i in np.flatnonzero(DOMAINS[row] == DOMAINS)}
        assert data.final_answer(text) != data.final_answer(RESPONSES[row])


def test_swapped_responses_are_uniform_over_those_with_another_answer():
    responses = ["a"] * 600 + ["b"] * 300 + ["c"] * 100
    corrupted = data.corrupt(0, np.zeros(1000, np.int32), responses, "swapped", 0.99)
    of_a = [text for row, text in corrupted.items() if responses[row] == "a"]
    # 300 of 400 others are "b": a binomial share with standard deviation 0.018.
    assert abs(of_a.count("b") / len(of_a) - 0.75) < 0.07


def test_no_label_noise_leaves_everything():
    assert data.corrupt(0, DOMAINS, RESPONSES, "none", 0.5) == {}


def test_a_domain_with_a_single_answer_cannot_be_swapped():
    with pytest.raises(ValueError, match=r"domain 1.*'same'.*garbled"):
        data.corrupt(0, np.array([0, 0, 1, 1]), ["a", "b", "same", "same "], "swapped", 0.5)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        data.corrupt(0, DOMAINS, RESPONSES, "garbled", share)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"'scrambled'.*none, garbled, swapped"):
        data.corrupt(0, DOMAINS, RESPONSES, "scrambled", 0.5)


def test_domains_and_responses_of_different_rows_are_refused():
    with pytest.raises(ValueError, match="3 domains and 140 responses"):
        data.corrupt(0, DOMAINS[:3], RESPONSES, "garbled", 0.5)
