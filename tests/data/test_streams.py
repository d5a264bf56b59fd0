import numpy as np

from partitionsel_jax.data.streams import derive, generator

GOLDEN = [470, 391, 619, 162, 38]


def test_streams_differ_by_seed_purpose_and_number():
    streams = [
        derive(seed, purpose, *numbers)
        for seed in (0, 1)
        for purpose in ("pool order", "anchor order")
        for numbers in ((), (0,), (1,), (0, 1), (1, 0))
    ]
    assert len(set(streams)) == len(streams)


def test_a_stream_depends_on_nothing_but_its_arguments():
    first = generator(3, "x", 1).integers(0, 1000, 5)
    np.random.default_rng(0).random(7)
    np.testing.assert_array_equal(generator(3, "x", 1).integers(0, 1000, 5), first)
    # The value itself is a promise: another one would change every corpus and every pool.
    np.testing.assert_array_equal(first, GOLDEN)


def test_the_size_of_an_integer_is_as_asked():
    assert all(0 <= derive(seed, "s", bits=32) < 2**32 for seed in range(50))
