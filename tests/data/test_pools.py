import dataclasses
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitionsel_jax import data
from partitionsel_jax.data.pools import domain_counts, domain_shares, most_rows


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
    await_no_reader()


def test_closing_prefetch_ends_its_thread(pools):
    read = data.prefetch(pools, 0, 10)
    next(read)
    assert reader_threads()
    read.close()
    await_no_reader()


def reader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")]


def await_no_reader():
    for thread in reader_threads():
        thread.join(timeout=5)
    assert not reader_threads()


@pytest.fixture(scope="module")
def on_disk(builder):
    return data.load(builder, data.ByteTokenizer(), length=96, seed=0)


@pytest.mark.parametrize("workers", [1, 2])
def test_prefetch_by_worker_processes_gives_what_direct_access_gives(on_disk, workers):
    pools = data.Pools(on_disk, 32, 8, seed=0, mix="weighted", weights=range(1, 9))
    read = list(data.prefetch(pools, 2, 7, buffer=2, workers=workers))
    assert len(read) == 5
    assert all(equal(pair, pools[2 + i]) for i, pair in enumerate(read))


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("mix", ["natural", "uniform"])
def test_parts_of_processes_one_behind_the_other_are_the_whole(on_disk, processes, mix):
    whole = data.Pools(on_disk, 32, 8, seed=0, mix=mix)
    parts = [
        data.Pools(on_disk, 32, 8, seed=0, mix=mix, process=i, processes=processes)
        for i in range(processes)
    ]
    for t in (0, 5, 23):
        for place, rows in enumerate(whole[t]):
            read = [part[t][place] for part in parts]
            joined = [np.concatenate(leaves) for leaves in zip(*read, strict=True)]
            assert all(np.array_equal(a, b) for a, b in zip(rows, joined, strict=True))


SHARES = st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(any)


@given(weights=SHARES, size=st.integers(0, 40), seed=st.integers(0, 5))
def test_every_domain_has_its_share_rounded_down_or_up(weights, size, seed):
    shares = domain_shares("weighted", weights, len(weights))
    exact = np.array([size * weight / sum(weights) for weight in weights])
    for number in range(20):
        counts = domain_counts(shares, size, seed, number)
        assert counts.sum() == size
        assert (counts >= np.floor(exact + 1e-9)).all()
        assert (counts <= np.ceil(exact - 1e-9)).all()
        assert (counts <= most_rows(shares, size)).all()


def test_shares_are_right_on_average():
    shares = domain_shares("weighted", [1, 2, 4, 6], 4)
    counts = np.mean([domain_counts(shares, 10, 0, number) for number in range(4000)], axis=0)
    np.testing.assert_allclose(counts, 10 * shares, atol=0.03)


@pytest.mark.parametrize(
    ("mix", "weights"), [("uniform", ()), ("weighted", (1, 3)), ("weighted", (0, 1))]
)
def test_pools_hold_the_domains_in_their_shares_and_no_row_twice(corpus, mix, weights):
    pools = data.Pools(corpus, 8, 4, seed=0, mix=mix, weights=weights)
    shares = domain_shares(mix, weights, 2)
    seen = []
    for t in range(60):
        members = pools.members(t)[0]
        assert len(set(members.tolist())) == 8
        np.testing.assert_array_equal(
            np.bincount(corpus.train.domains[members], minlength=2),
            domain_counts(shares, 8, 0, t),
        )
        seen += members.tolist()
    assert set(seen) == set(np.flatnonzero(shares[corpus.train.domains] > 0).tolist())
    # Domains do not come one behind the other, so that no device has one of them alone.
    firsts = {int(corpus.train.domains[pools.members(t)[0][0]]) for t in range(60)}
    assert firsts == set(np.flatnonzero(shares).tolist())
    again = data.Pools(corpus, 8, 4, seed=0, mix=mix, weights=weights)
    np.testing.assert_array_equal(again.members(31)[0], pools.members(31)[0])


def test_a_domains_epoch_holds_no_row_twice(corpus):
    pools = data.Pools(corpus, 8, 4, seed=0, mix="uniform")
    first = np.concatenate([pools.members(t)[0] for t in range(26 // 4)])
    assert len(set(first.tolist())) == len(first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mix": "even"}, "unknown mix 'even'; choose one of natural, uniform, weighted"),
        ({"mix": "uniform", "weights": (1, 2)}, "say nothing for the mix 'uniform'"),
        ({"mix": "weighted"}, "a weight for each of 2 domains, got"),
        ({"mix": "weighted", "weights": (0, 0)}, "one of them above, got"),
        ({"mix": "weighted", "weights": (1, float("nan"))}, "finite weights"),
        ({"mix": "weighted", "weights": (1, 0), "pool_size": 30}, "domain domain0 has 27 .* is 30"),
        ({"processes": 4}, "a pool size that 4 processes divide, got 10; use 12"),
        ({"processes": 2, "process": 2}, "a process in 0 .. 1, got 2"),
    ],
)
def test_shares_and_processes_that_cannot_be_had_are_refused(corpus, options, message):
    with pytest.raises(ValueError, match=message):
        data.Pools(corpus, **({"pool_size": 10, "anchor_size": 4, "seed": 0} | options))


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
