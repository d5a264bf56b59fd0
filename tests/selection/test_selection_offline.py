"""Offline selection: the picks of `select`, whatever the chunks, the shortlist and the devices."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection_problems import kkt_residual, unit

from partitionsel_jax import offline, selection
from partitionsel_jax.offline import passes, rounds, selector

ROWS, DIM, DOMAINS, SIZE = 240, 32, 4, 12
STEP = 0.3


def make_pool(seed=0, rows=ROWS, domain_count=DOMAINS, dim=DIM):
    """Features with a signal common to them and the anchors; none of unit norm."""
    rng = np.random.default_rng(seed)
    domains = rng.integers(0, domain_count, rows).astype(np.int32)
    domains[:domain_count] = np.arange(domain_count)
    signal = 0.5 * rng.normal(size=dim)
    features = rng.normal(size=(rows, dim)) + signal
    features *= rng.uniform(0.1, 10.0, size=(rows, 1))
    anchors = rng.normal(size=(16, dim)) + signal
    return features.astype(np.float32), anchors.astype(np.float32), domains


def plain(features):
    return features


def duplicates(features):
    features[ROWS // 2 :] = features[: ROWS // 2]
    return features


def zero_rows(features):
    features[::3] = 0.0
    return features


def not_finite(features):
    features[5, 3], features[7], features[100, 0] = np.nan, np.inf, -np.inf
    return features


def half(features):
    return features.astype(np.float16)


def double(features):
    return features.astype(np.float64)


def whole(features, anchors, domains, budgets, *, scaling="unit", dense=False):
    """The Problem of the same features, all of them in memory."""
    wide = features.astype(np.float64)
    sound = np.isfinite(wide).all(axis=1)
    norms = np.where(sound, np.linalg.norm(np.where(sound[:, None], wide, 0.0), axis=1), np.nan)
    if scaling == "unit":
        wide = wide / np.where(norms > 0.0, norms, 1.0)[:, None]
        anchors = unit(anchors.astype(np.float64))
    wide = np.where(sound[:, None], wide, np.nan).astype(np.float32)
    anchor = anchors.mean(axis=0).astype(np.float32)
    return selection.Problem(
        alignment=wide @ anchor,
        gram=wide @ wide.T if dense else None,
        features=None if dense else wide,
        domains=domains,
        budgets=budgets,
        norms=norms.astype(np.float32),
    )


def budgets_of(features, domains, size=SIZE):
    sound = np.isfinite(features.astype(np.float64)).all(axis=1)
    counts = np.bincount(domains[sound], minlength=domains.max() + 1)
    return selection.budgets.proportional(jnp.asarray(counts, jnp.int32), size)


def expected(features, anchors, domains, utility, coupling, scaling="unit"):
    problem = whole(
        *(features, anchors, domains, budgets_of(features, domains)),
        scaling=scaling,
        dense=utility == "facility_location",
    )
    return selection.select(
        problem,
        size=SIZE,
        utility=utility,
        coupling=coupling,
        step_scale=STEP,
        key=jax.random.key(3),
    )


def assert_same(result, reference):
    indices = np.asarray(reference.indices)
    np.testing.assert_array_equal(result.indices, indices[indices >= 0])
    weights = np.asarray(reference.weights)[: len(result.weights)]
    np.testing.assert_allclose(result.weights, weights, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(result.utility, float(reference.utility), rtol=1e-4)
    assert result.dropped == int(reference.dropped)


choose = functools.partial(offline.select, size=SIZE, step_scale=STEP, seed=3)


@pytest.mark.parametrize("coupling", selection.COUPLINGS)
@pytest.mark.parametrize("utility", offline.UTILITIES)
def test_picks_are_those_of_select(utility, coupling):
    features, anchors, domains = make_pool()
    result = choose(features, anchors, domains, utility=utility, coupling=coupling)
    assert_same(result, expected(features, anchors, domains, utility, coupling))


@pytest.mark.parametrize("change", [plain, duplicates, zero_rows, not_finite, half, double])
@pytest.mark.parametrize("utility", ["gradient_matching", "taylor", "alignment"])
def test_picks_are_those_of_select_whatever_the_rows(change, utility):
    features, anchors, domains = make_pool(1)
    features = change(features)
    result = choose(features, anchors, domains, utility=utility)
    assert_same(result, expected(features, anchors, domains, utility, "joint"))
    assert len(result.indices) == SIZE
    assert np.isfinite(features[result.indices].astype(np.float64)).all()


@pytest.mark.parametrize("domain_count", [1, 2, 7])
def test_picks_are_those_of_select_for_any_number_of_domains(domain_count):
    features, anchors, domains = make_pool(2, domain_count=domain_count)
    result = choose(features, anchors, domains)
    assert_same(result, expected(features, anchors, domains, "gradient_matching", "joint"))
    np.testing.assert_array_equal(result.picks_per_domain, result.budgets)


@pytest.mark.parametrize("utility", ["gradient_matching", "grad_norm"])
def test_rows_are_taken_as_they_are_without_scaling(utility):
    features, anchors, domains = make_pool(3)
    result = choose(features, anchors, domains, utility=utility, scaling="none")
    assert_same(result, expected(features, anchors, domains, utility, "joint", "none"))


def test_a_ridge_counts_as_in_select():
    features, anchors, domains = make_pool(3)
    problem = whole(features, anchors, domains, budgets_of(features, domains))
    result = choose(features, anchors, domains, ridge=0.5)
    assert_same(result, selection.select(problem, size=SIZE, ridge=0.5))


@pytest.mark.parametrize(
    "reading",
    [
        offline.Reading(chunk_rows=7),
        offline.Reading(chunk_rows=7, shortlist_rows=1, devices=tuple(jax.devices()[:1])),
        offline.Reading(shortlist_rows=5),
        offline.Reading(chunk_rows=100, devices=tuple(jax.devices()[:3])),
        offline.Reading(chunk_rows=10**9, shortlist_rows=10**9),
    ],
)
@pytest.mark.parametrize("coupling", ["joint", "independent"])
def test_picks_depend_on_neither_chunks_nor_shortlist_nor_devices(reading, coupling):
    features, anchors, domains = make_pool(4)
    features = duplicates(features)
    one = offline.Reading(devices=tuple(jax.devices()[:1]))
    reference = choose(features, anchors, domains, coupling=coupling, reading=one)
    result = choose(features, anchors, domains, coupling=coupling, reading=reading)
    np.testing.assert_array_equal(result.indices, reference.indices)
    np.testing.assert_array_equal(result.weights, reference.weights)


def test_a_shortlist_of_one_row_costs_passes_and_no_more():
    features, anchors, domains = make_pool(5)
    small = choose(features, anchors, domains, reading=offline.Reading(shortlist_rows=1))
    large = choose(features, anchors, domains)
    np.testing.assert_array_equal(small.indices, large.indices)
    # One pass to survey, and at most one for every pick.
    assert large.passes < small.passes <= SIZE + 1


def test_weights_meet_the_kkt_conditions_among_the_picks():
    features, anchors, domains = make_pool(6)
    result = choose(features, anchors, domains)
    picked = unit(features[result.indices].astype(np.float64))
    anchor = unit(anchors.astype(np.float64)).mean(axis=0)
    assert kkt_residual(picked @ picked.T, picked @ anchor, result.weights) < 1e-5


def test_more_picks_than_dimensions_are_filled_with_weight_zero():
    features, anchors, domains = make_pool(7, dim=6)
    result = offline.select(features, anchors, domains, size=60)
    assert len(set(result.indices.tolist())) == 60
    np.testing.assert_array_equal(result.picks_per_domain, result.budgets)
    carried = result.weights > 0.0
    assert 0 < carried.sum() <= 6 and not carried[12:].any()
    picked = unit(features[result.indices].astype(np.float64))
    anchor = unit(anchors.astype(np.float64)).mean(axis=0)
    # Nothing is left to match, which is why the rest carries no weight, and takes but one pass.
    assert result.passes <= 1 + 12 + 1
    assert np.linalg.norm(anchor - result.weights @ picked) < 1e-5 * np.linalg.norm(anchor)


def test_slots_for_picks_grow_with_need(monkeypatch):
    features, anchors, domains = make_pool(8)
    reference = choose(features, anchors, domains)
    monkeypatch.setattr(rounds, "FIRST_SLOTS", 1)
    result = choose(features, anchors, domains)
    np.testing.assert_array_equal(result.indices, reference.indices)
    np.testing.assert_allclose(result.weights, reference.weights, rtol=1e-4)


def test_without_any_gain_budgets_are_filled_in_the_order_of_scores():
    features, anchors, domains = make_pool(9)
    anchor = unit(anchors.astype(np.float64)).mean(axis=0)
    away = features - 2.0 * np.maximum(features @ anchor, 0.0)[:, None] * anchor / (anchor @ anchor)
    result = choose(away.astype(np.float32), anchors, domains)
    assert len(result.indices) == SIZE and not result.weights.any() and result.utility == 0.0
    ranked = choose(away.astype(np.float32), anchors, domains, utility="alignment")
    np.testing.assert_array_equal(result.indices, ranked.indices)


def test_rows_that_are_all_zero_are_picked_by_index():
    result = choose(np.zeros((ROWS, DIM), np.float32), np.ones((1, DIM), np.float32))
    np.testing.assert_array_equal(result.indices, np.arange(SIZE))


@pytest.mark.parametrize("utility", offline.UTILITIES)
def test_one_row_and_one_pick(utility):
    result = offline.select(np.ones((1, 1), np.float32), np.ones((1, 1)), size=1, utility=utility)
    assert result.indices.tolist() == [0]
    np.testing.assert_allclose(result.weights, [1.0], rtol=1e-6)


def test_huge_and_tiny_rows_keep_their_direction():
    features, anchors, domains = make_pool(10)
    reference = choose(features, anchors, domains)
    factor = np.where(np.arange(ROWS) % 2, 1e30, 1e-30)[:, None].astype(np.float32)
    result = choose(features * factor, anchors, domains)
    np.testing.assert_array_equal(result.indices, reference.indices)


def test_features_need_only_slices_of_rows():
    features, anchors, domains = make_pool(11)

    class Rows:
        shape, dtype = features.shape, features.dtype
        largest = 0

        def __getitem__(self, rows):
            assert isinstance(rows, slice)
            self.largest = max(self.largest, rows.stop - rows.start)
            return features[rows]

    rows = Rows()
    result = choose(rows, anchors, domains, reading=offline.Reading(chunk_rows=16))
    np.testing.assert_array_equal(result.indices, choose(features, anchors, domains).indices)
    assert rows.largest == 16


def test_anchors_that_are_not_finite_are_left_out_and_counted():
    features, anchors, domains = make_pool(12)
    reference = choose(features, anchors[2:], domains)
    anchors[0, 0], anchors[1] = np.nan, np.inf
    result = choose(features, anchors, domains)
    assert result.dropped_anchors == 2
    np.testing.assert_array_equal(result.indices, reference.indices)


def test_a_domain_that_loses_rows_leaves_slots_empty():
    features, anchors, domains = make_pool(13)
    features[domains == 1] = np.nan
    result = choose(features, anchors, domains, budgets=np.array([3, 3, 3, 3]))
    assert len(result.indices) == len(result.weights) == 9
    assert result.picks_per_domain.tolist() == [3, 0, 3, 3]
    assert result.dropped == np.sum(domains == 1)


@pytest.mark.parametrize("shortlist_rows", [1, None])
def test_rows_that_are_not_finite_hide_no_others(shortlist_rows):
    features, anchors, domains = make_pool(16)
    features[: ROWS - 40] = np.nan
    reading = offline.Reading(shortlist_rows=shortlist_rows)
    result = choose(features, anchors, domains, reading=reading)
    assert_same(result, expected(features, anchors, domains, "gradient_matching", "joint"))


def test_rank_takes_the_best_of_every_domain_and_the_lowest_of_equals():
    scores = np.array([1.0, 3.0, 3.0, -np.inf, 2.0, 3.0], np.float32)
    domains = np.array([0, 0, 0, 1, 1, 0])
    assert rounds.rank(scores, domains, np.array([2, 2])).tolist() == [1, 2, 4]


def test_programs_are_compiled_once():
    features, anchors, domains = make_pool(14)
    choose(features, anchors, domains)
    known = passes._best._cache_size(), rounds.drafts.play._cache_size()
    features, anchors, domains = make_pool(15)
    choose(features, anchors, domains)
    assert (passes._best._cache_size(), rounds.drafts.play._cache_size()) == known


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"utility": "loss"}, "utility must be one of .* got 'loss'; others need more"),
        ({"coupling": "none"}, "coupling must be one of"),
        ({"scaling": "max"}, "scaling must be one of"),
        ({"size": 0}, "size must be a Python integer >= 1"),
        ({"size": ROWS + 1}, "size must be at most the 240 rows"),
        ({"ridge": -1.0}, "ridge must be finite and 0 <= ridge"),
        ({"step_scale": 0.0}, "step_scale must be finite and 0 < step_scale"),
        ({"features": np.zeros((ROWS, DIM), np.int32)}, "features must be float16"),
        ({"features": np.zeros(ROWS, np.float32)}, "features must be a matrix"),
        ({"features": np.zeros((0, DIM), np.float32)}, "features must be a matrix"),
        ({"anchors": None}, "anchors must be given"),
        ({"anchors": np.zeros((2, DIM + 1))}, "anchors must have the dimension of features, 32"),
        ({"anchors": np.full((2, DIM), np.nan)}, "anchors must have a row with finite entries"),
        ({"domains": np.zeros(ROWS - 1, np.int32)}, r"domains must be integers of shape \(240,\)"),
        ({"domains": np.zeros(ROWS)}, "domains must be integers"),
        ({"domains": np.full(ROWS, -1)}, "domains must lie in 0"),
        ({"budgets": np.array([SIZE])}, "budgets must be 4 integers"),
        ({"budgets": np.array([3, 3, 3, 2])}, "sum to size=12"),
        ({"budgets": offline.files.parse_budgets("fixed:1,2")}, r"shares must have shape \(4,\)"),
        ({"budgets": np.array([-1, 5, 5, 3])}, "budgets must be >= 0"),
        ({"budgets": np.array([240, 0, 0, 0]), "size": 240}, "must not exceed the rows"),
        ({"seed": 2**32}, r"seed must lie in 0 \.\. 2\^32 - 1, got 4294967296"),
        ({"seed": -1}, "seed must lie in 0"),
        ({"ridge": 1e300}, "ridge must be finite"),
        ({"step_scale": 1e300}, "step_scale must be finite"),
        ({"reading": offline.Reading(chunk_rows=0)}, "chunk_rows must be at least 1"),
        ({"reading": offline.Reading(shortlist_rows=-1)}, "shortlist_rows must be at least 1"),
    ],
)
def test_bad_arguments_are_refused_before_features_are_read(changes, message):
    features, anchors, domains = make_pool()

    class Untouchable:
        shape, dtype = features.shape, features.dtype

        def __getitem__(self, rows):
            raise AssertionError("features were read")

    given = {"features": Untouchable(), "anchors": anchors, "domains": domains} | changes
    with pytest.raises(ValueError, match=message):
        offline.select(**({"size": SIZE} | given))


def test_fewer_finite_rows_than_picks_are_refused():
    features, anchors, domains = make_pool()
    features[5:] = np.nan
    with pytest.raises(ValueError, match="at least size=12 rows with finite entries, got 5"):
        choose(features, anchors, domains)


@pytest.mark.parametrize(
    ("text", "picks"),
    [
        ("proportional", [6, 4, 2]),
        ("uniform", [4, 4, 4]),
        ("temperature:0", [4, 4, 4]),
        ("fixed:1,1,2", [3, 3, 6]),
        ("counts:1,2,9", [1, 2, 9]),
    ],
)
def test_budgets_are_parsed(text, picks):
    budgets = offline.files.parse_budgets(text)
    if callable(budgets):
        budgets = budgets(jnp.array([30, 20, 10], jnp.int32), 12)
    assert np.asarray(budgets).tolist() == picks


@pytest.mark.parametrize(
    "text",
    ["even", "proportional:1", "temperature", "temperature:nan", "temperature:1,2",
     "fixed:", "counts:1.5,2,3", "counts:a", "", f"counts:1,1,{10**30}", "counts:" + "9" * 5000,
     "fixed:1e400,1,1", "fixed:1e300,1,1", "fixed:nan,1,1", "temperature:1e300"],
)  # fmt: skip
def test_unknown_budgets_are_refused_in_one_line(text):
    with pytest.raises(ValueError, match=r"^budgets") as error:
        offline.files.parse_budgets(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_a_failed_write_leaves_the_earlier_selection_as_it_was(tmp_path):
    folder = tmp_path / "out"
    one, weights = np.arange(3), np.ones(3)
    offline.files.write(folder, one, weights, {"seed": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        offline.files.write(folder, one + 1, weights, {"seed": float("nan")})
    assert np.load(folder / "indices.npy").tolist() == [0, 1, 2]
    assert json.loads((folder / "summary.json").read_text()) == {"seed": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_only_the_rows_asked_for_are_in_memory(tmp_path):
    features, _, _ = make_pool()
    np.save(tmp_path / "f.npy", np.asfortranarray(features))
    mapped = offline.matrices.MappedMatrix("features", tmp_path / "f.npy")
    np.testing.assert_array_equal(mapped[3:9], features[3:9])
    assert mapped[3:9].base is None and not isinstance(mapped[3:9], np.memmap)


def test_budgets_ignore_domains_when_agnostic():
    features, anchors, domains = make_pool()
    assert selector.select(
        features, anchors, domains, size=SIZE, coupling="agnostic", budgets=np.array([1])
    ).budgets.tolist() == [SIZE]


@pytest.mark.parametrize("coupling", ["joint", "independent", "agnostic"])
def test_blocks_match_the_anchors_again_without_rows_picked_before(coupling):
    features, anchors, domains = make_pool(seed=3, dim=8)
    size, block = 40, 6
    found = offline.select(features, anchors, domains, size=size, coupling=coupling, block=block)
    assert len(set(found.indices.tolist())) == size == len(found.weights) == len(found.gains)
    assert found.budgets.sum() == size
    left = found.budgets.copy()
    rest, done = features.copy(), 0
    while done < size:
        wanted = min(block, size - done)
        budgets = left
        if wanted < left.sum():
            shares = jnp.asarray(found.budgets, jnp.float32)
            budgets = selection.budgets.fixed(jnp.asarray(left, jnp.int32), wanted, shares)
        again = offline.select(
            *(rest, anchors, domains),
            size=wanted,
            coupling=coupling,
            budgets=np.asarray(budgets, np.int32),
        )
        # What fills up a block is no match: the next block takes it.
        matched = int(np.sum(again.gains > 1e-6)) or wanted
        expected = again.indices[:matched]
        np.testing.assert_array_equal(found.indices[done : done + matched], expected)
        rest[expected] = np.nan
        groups = domains if coupling != "agnostic" else np.zeros_like(domains)
        left = left - np.bincount(groups[expected], minlength=len(left))
        done += matched


def test_more_picks_than_dimensions_matter_in_blocks_alone():
    features, anchors, domains = make_pool(seed=5, dim=8)
    whole, blocks = (
        offline.select(features, anchors, domains, size=60, block=block) for block in (None, 4)
    )
    assert np.sum(whole.weights > 0) <= 9
    assert np.sum(blocks.weights > 0) > 30
    assert blocks.utility > whole.utility


def test_gains_are_those_of_the_direction_that_was_left():
    features, anchors, domains = make_pool(seed=2)
    found = offline.select(features, anchors, domains, size=5)
    rows = unit(features[found.indices].astype(np.float64))
    anchor = unit(anchors.astype(np.float64)).mean(axis=0)
    np.testing.assert_allclose(found.gains[0], rows[0] @ anchor, rtol=1e-5)
    assert np.isnan(offline.select(features, size=3, utility="random").gains).all()


def test_a_block_of_no_rows_is_refused():
    features, anchors, _ = make_pool()
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        offline.select(features, anchors, size=3, block=0)


@pytest.mark.parametrize("coupling", ["joint", "independent", "agnostic"])
@pytest.mark.parametrize("shortlist", [1, 7, 300])
@pytest.mark.parametrize("change", [plain, duplicates, zero_rows, not_finite])
def test_facility_location_picks_what_select_picks(coupling, shortlist, change):
    features, anchors, domains = make_pool(seed=4)
    features = change(features)
    budgets = budgets_of(features, domains)
    found = offline.select(
        *(features, None, domains),
        size=SIZE,
        utility="facility_location",
        coupling=coupling,
        reading=offline.Reading(chunk_rows=37, shortlist_rows=shortlist),
    )
    problem = whole(features, anchors, domains, budgets, dense=True)
    expected = selection.select(problem, size=SIZE, utility="facility_location", coupling=coupling)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.utility, expected.utility, rtol=1e-5)


def test_facility_location_resembles_a_sample():
    features, _, domains = make_pool(seed=6)
    size, seed = 8, 5
    found = offline.select(
        features, None, domains, size=size, utility="facility_location", references=60, seed=seed
    )
    sample = np.sort(np.random.default_rng(seed).choice(ROWS, 60, replace=False))
    rows = unit(features.astype(np.float64))
    similar, cover, left = rows @ rows[sample].T, np.zeros(60), found.budgets.copy()
    for pick in found.indices:
        gains = np.maximum(similar - cover, 0).sum(axis=1)
        gains[left[domains] == 0] = -np.inf
        assert gains[pick] == pytest.approx(gains.max(), rel=1e-5)
        cover, left[domains[pick]] = np.maximum(cover, similar[pick]), left[domains[pick]] - 1


def test_facility_location_fills_budgets_once_all_are_served():
    features = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    found = offline.select(features, size=8, utility="facility_location")
    assert found.indices.tolist() == [0, 5, 10, 1, 2, 3, 4, 6]
    assert found.gains.tolist() == [5, 5, 5, 0, 0, 0, 0, 0]


def test_no_references_are_refused():
    features, _, _ = make_pool()
    with pytest.raises(ValueError, match="references must be at least 1, got 0"):
        offline.select(features, size=3, utility="facility_location", references=0)
