"""More devices with as many rows each: each computes the same, apart from the selection."""

import pytest

from experiments.suites import scaling


def test_a_device_computes_the_same_however_many_there_are(monkeypatch):
    monkeypatch.setattr(scaling, "LENGTH", 16)
    (alone, little), (total, selection) = (
        scaling.flops(*scaling.step_of(devices, "shard_map", split=True)) for devices in (1, 8)
    )
    # The Gram matrix grows with the square of the pool.
    assert selection > 30 * little > 0
    assert total - selection == pytest.approx(alone - little, rel=0.02)


def test_sizes_are_refused():
    with pytest.raises(ValueError, match="the scaling suite has no sizes"):
        scaling.run(sizes=["1"], repeats=1, large=False)
