import dataclasses
import threading

import numpy as np
import pytest

from partitionsel_jax import data


@pytest.fixture
def corpus(synthetic):
    """53 training rows in two domains of different size, 8 anchors each."""
    builder = synthetic.builder(train=26, validation=16)
    records = builder.as_data_source("train")
    records.append(synthetic.record(999, 0, "one more?", "1"))
    return data.load(builder, data.ByteTokenizer(), length=16, seed=0)


@pytest.fixture
def pools(corpus):
    """Five pools of 10 an epoch, and two anchor epochs every four steps."""
    return data.Pools(corpus, pool_size=10, anchor_size=4, seed=0)


def equal(left, right):
    return all(
        np.array_equal(a, b)
        for x, y in zip(left, right, strict=True)
        for a, b in zip(x, y, strict=True)
    )


def test_a_step_sees_the_same_whatever_was_read_before(corpus, pools):
    forwards = [pools[t] for t in range(12)]
    again = data.Pools(corpus, pool_size=10, anchor_size=4, seed=0)
    for t in (11, 0, 7, 7, 3):
        assert equal(again[t], forwards[t])


def test_a_restarted_program_sees_the_same(builder, corpus):
    other = data.load(builder_again(builder), data.ByteTokenizer(), length=96, seed=0)
    first = data.load(builder, data.ByteTokenizer(), length=96, seed=0)
    for t in (0, 9):
        assert equal(data.Pools(first, 32, 8, seed=0)[t], data.Pools(other, 32, 8, seed=0)[t])


def builder_again(builder):
    """The same files, opened without the class that wrote them."""
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(builder.data_dir)


def test_an_epoch_holds_no_row_twice_and_drops_its_tail(pools):
    assert pools.steps_per_epoch == 5
    for epoch in range(6):
        steps = range(5 * epoch, 5 * epoch + 5)
        seen = np.concatenate([pools.members(t)[0] for t in steps])
        assert len(set(seen.tolist())) == 50


def test_epochs_differ(pools):
    epochs = [np.concatenate([pools.members(5 * e + i)[0] for i in range(5)]) for e in range(4)]
    for i in range(4):
        for j in range(i):
            assert (epochs[i] == epochs[j]).mean() < 0.2


def test_every_row_is_seen_although_tails_are_dropped(pools):
    seen = np.concatenate([pools.members(t)[0] for t in range(30)])
    assert set(seen.tolist()) == set(range(53))


def test_seeds_differ(corpus, pools):
    other = data.Pools(corpus, pool_size=10, anchor_size=4, seed=1)
    assert not np.array_equal(pools.members(0)[0], other.members(0)[0])
    assert not np.array_equal(
        np.concatenate([pools.members(t)[1] for t in range(4)]),
        np.concatenate([other.members(t)[1] for t in range(4)]),
    )


def test_balanced_anchors_are_equally_many_of_each_domain_in_epochs_of_their_own(pools):
    for epoch in range(5):
        seen = []
        for t in range(4 * epoch, 4 * epoch + 4):
            anchors = pools[t][1]
            np.testing.assert_array_equal(anchors.domain, [0, 0, 1, 1])
            seen += anchors.id.tolist()
        assert len(set(seen)) == 16


def test_unbalanced_anchors_are_one_shuffle(corpus):
    pools = data.Pools(corpus, pool_size=10, anchor_size=5, seed=0, anchor_balance=False)
    seen = np.concatenate([pools.members(t)[1] for t in range(3)])
    assert len(set(seen.tolist())) == 15
    assert pools[0][1].tokens.shape == (5, 16)


def test_steps_in_a_row_share_their_pool_and_anchors(corpus, pools):
    """Each on its own clock; what they share are the pools and anchors of fewer steps."""
    shared = data.Pools(corpus, 10, 4, seed=0, pool_every=3, anchor_every=2)
    for t in range(40):
        pool, anchors = shared.members(t)
        np.testing.assert_array_equal(pool, pools.members(t // 3)[0])
        np.testing.assert_array_equal(anchors, pools.members(t // 2)[1])
    assert shared.steps_per_epoch == 3 * pools.steps_per_epoch
    last, first = shared.members(14)[0], shared.members(15)[0]
    assert set(first.tolist()) != set(last.tolist())
    assert list(data.prefetch(shared, 4, 4)) == []
    read = list(data.prefetch(shared, 4, 8))
    assert all(equal(pair, shared[4 + i]) for i, pair in enumerate(read))


def test_orders_are_uniform(corpus):
    first = [data.Pools(corpus, 1, 2, seed=0).members(53 * epoch)[0][0] for epoch in range(2000)]
    counts = np.bincount(first, minlength=53)
    # Chi-square with 52 degrees of freedom: 99.99 % lie below 101.
    assert ((counts - 2000 / 53) ** 2 / (2000 / 53)).sum() < 101


@pytest.mark.parametrize("buffer", [1, 3, 50])
def test_prefetch_gives_what_direct_access_gives(pools, buffer):
    read = list(data.prefetch(pools, 3, 14, buffer))
    assert len(read) == 11
    assert all(equal(pair, pools[3 + i]) for i, pair in enumerate(read))
    assert list(data.prefetch(pools, 3, 3)) == []


@dataclasses.dataclass(frozen=True, eq=False)
class FailingPools(data.Pools):
    """Pools whose step 2 cannot be read."""

    def __getitem__(self, step):
        if step == 2:
            raise OSError("bucket is gone")
        return super().__getitem__(step)


def test_prefetch_raises_what_the_reader_raised_when_the_step_is_due(corpus, pools):
    failing = FailingPools(corpus, pool_size=10, anchor_size=4, seed=0)
    read = data.prefetch(failing, 0, 10, buffer=5)
    assert equal(next(read), pools[0])
    assert equal(next(read), pools[1])
    with pytest.raises(OSError, match="bucket is gone"):
        next(read)
    assert not reader_threads()


def test_closing_prefetch_ends_its_thread(pools):
    read = data.prefetch(pools, 0, 10)
    next(read)
    assert reader_threads()
    read.close()
    assert not reader_threads()


def reader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"pool_size": 54}, "pool size in 1 .. 53, the number of training rows, got 54"),
        ({"pool_size": 0}, "got 0"),
        ({"anchor_size": 0}, "got 0"),
        ({"anchor_size": 5}, "multiple of the 2 domains, got 5; use 4 or 6"),
        ({"anchor_size": 1}, "use 2, or"),
        ({"anchor_size": 18}, "anchor size in 1 .. 16"),
        ({"pool_every": 0}, "pool_every >= 1 steps, got 0"),
        ({"anchor_every": -2}, "anchor_every >= 1 steps, got -2"),
    ],
)
def test_sizes_that_cannot_be_had_are_refused(corpus, sizes, message):
    with pytest.raises(ValueError, match=message):
        data.Pools(corpus, **({"pool_size": 10, "anchor_size": 4, "seed": 0} | sizes))


def test_too_few_anchors_of_one_domain_are_refused(synthetic):
    builder = synthetic.builder()
    validation = builder.as_data_source("validation")
    validation[:] = [row for row in validation if row["domain"] == 0] + validation[1:4:2]
    corpus = data.load(builder, data.ByteTokenizer(), length=16, seed=0)
    with pytest.raises(ValueError, match="anchors of domain domain1, got 2"):
        data.Pools(corpus, pool_size=4, anchor_size=4, seed=0)


def test_steps_and_buffers_out_of_range_are_refused(pools):
    with pytest.raises(ValueError, match="step >= 0, got -1"):
        pools[-1]
    with pytest.raises(ValueError, match="0 <= start <= stop, got 3 and 2"):
        data.prefetch(pools, 3, 2)
    with pytest.raises(ValueError, match="buffer of 0"):
        data.prefetch(pools, 0, 2, buffer=0)
