"""Random selection problems and NumPy oracles, shared by the tests of this folder."""

import dataclasses
import itertools

import jax
import numpy as np
from scipy.optimize import minimize, nnls

from partitionsel_jax import selection


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def make_problem(rng, pool_size=40, domain_count=3, size=8, dim=64):
    """A pool with a gradient signal common to pool and anchors; also features and anchor."""
    domains = rng.integers(0, domain_count, pool_size)
    centres = rng.normal(size=(domain_count, dim))
    signal = rng.normal(size=dim)
    features = rng.normal(size=(pool_size, dim)) + 0.3 * centres[domains] + 0.3 * signal
    anchor_domains = rng.integers(0, domain_count, 16)
    anchors = rng.normal(size=(16, dim)) + 0.3 * centres[anchor_domains] + 0.3 * signal
    features, anchor = unit(features), unit(anchors).mean(axis=0)
    counts = np.bincount(domains, minlength=domain_count)
    return from_features(features, anchor, domains, hamilton(counts, size)), features, anchor


def from_features(features, anchor, domains, budgets):
    """The Problem that float32 features and anchor pose."""
    features, anchor = np.float32(features), np.float32(anchor)
    return selection.Problem(
        alignment=features @ anchor,
        gram=features @ features.T,
        domains=np.asarray(domains, np.int32),
        budgets=np.asarray(budgets, np.int32),
    )


def padded(problem, pool_size, domain_count):
    """The same problem with padding rows and empty domains, so that sizes share a compilation."""
    extra = pool_size - len(problem.alignment)
    return selection.Problem(
        alignment=np.pad(problem.alignment, (0, extra)),
        gram=np.pad(problem.gram, (0, extra)),
        domains=np.pad(problem.domains, (0, extra), constant_values=-1),
        budgets=np.pad(problem.budgets, (0, domain_count - len(problem.budgets))),
    )


def hamilton(counts, size):
    """Largest-remainder apportionment in Python integers."""
    counts = [int(count) for count in counts]
    total = sum(counts)
    if total <= size:
        return np.array(counts, np.int32)
    seats = [size * count // total for count in counts]
    order = sorted(range(len(counts)), key=lambda p: (-(size * counts[p] % total), p))
    for p in order[: size - sum(seats)]:
        seats[p] += 1
    return np.array(seats, np.int32)


def best_value(features, anchor, picks, ridge=0.0):
    """f(S): the utility of `picks` under SciPy's non-negative least squares."""
    picks = list(picks)
    # A ridge is the squared length of a coordinate that every candidate has for itself.
    rows = np.vstack([features[picks].T, np.sqrt(ridge) * np.eye(len(picks))])
    weights, _ = nnls(rows, np.append(anchor, np.zeros(len(picks))), maxiter=10_000)
    return 0.5 * float(weights @ (features[picks] @ anchor))


def brute_force(features, anchor, domains, budgets):
    """f(S*) over every base of the partition matroid."""
    # In an orthonormal basis of their span, vectors are short and inner products the same.
    coordinates = np.linalg.qr(np.vstack([features, anchor]).T)[1].T
    features, anchor = coordinates[:-1], coordinates[-1]
    bases = [
        list(itertools.combinations(np.flatnonzero(domains == p), min(b, (domains == p).sum())))
        for p, b in enumerate(budgets)
    ]
    return max(best_value(features, anchor, sum(base, ())) for base in itertools.product(*bases))


def pursuit(features, anchor, domains, budgets, size):
    """Picks of orthogonal matching pursuit under the matroid, with SciPy's refit at each round."""
    alignment, left = features @ anchor, np.array(budgets)
    picks, residual = [], features @ anchor
    for _ in range(size):
        feasible = left[domains] > 0
        feasible[picks] = False
        if not feasible.any():
            break
        pick = int(np.argmax(np.where(feasible, residual, -np.inf)))
        picks.append(pick)
        left[domains[pick]] -= 1
        weights, _ = nnls(features[picks].T, anchor, maxiter=10_000)
        residual = alignment - features @ (features[picks].T @ weights)
    return picks


def kkt_residual(gram, target, weights):
    """Largest violation of the KKT conditions in float64, relative to the largest alignment."""
    gram, target, weights = (np.asarray(x, np.float64) for x in (gram, target, weights))
    residual = target - gram @ weights
    stationarity = np.abs(residual[weights > 0]).max(initial=0.0)
    ascent = residual[np.diagonal(gram) > 0].max(initial=0.0)
    return max(stationarity, ascent, -weights.min()) / np.abs(target).max()


# The one shape at which the whole registry is tested, so that each choice compiles once.
POOL, DOMAINS, SIZE, ANCHORS, DIM = 16, 3, 5, 4, 8

CHOICES = [
    (utility, coupling, rule, solver)
    for utility, entry in selection.UTILITIES.items()
    for coupling in selection.COUPLINGS
    for rule in entry.rules
    for solver in (selection.SOLVERS if entry.refits else ["exact"])
]


def name_of(choice):
    """An id for a choice, in which the default solver is left out."""
    return "-".join(part for part in choice if part != "exact")


def full_problem(rng, features=None):
    """A Problem of the registry's shape with every field that a utility reads."""
    if features is None:
        features = rng.normal(size=(POOL, DIM))
    anchors = rng.normal(size=(ANCHORS, features.shape[1])) + 0.5 * features.mean(axis=0)
    domains = rng.integers(0, DOMAINS, POOL)
    counts = np.bincount(domains, minlength=DOMAINS)
    problem = from_features(features, anchors.mean(axis=0), domains, hamilton(counts, SIZE))
    return dataclasses.replace(
        problem,
        losses=np.float32(rng.gamma(2.0, size=POOL)),
        reference_losses=np.float32(rng.gamma(2.0, size=POOL)),
        norms=np.float32(rng.gamma(2.0, size=POOL)),
        anchor_similarity=np.float32(features) @ np.float32(anchors).T,
        nuclear_norms=np.float32(rng.gamma(2.0, size=POOL)),
        novelty=np.float32(rng.gamma(2.0, size=POOL)),
    )


def solve(problem, choice, key=0, **options):
    """`select` by a choice of the registry, as NumPy arrays; `full` takes all of the pool."""
    utility, coupling, rule, solver = choice
    size = SIZE
    if selection.UTILITIES[utility].takes_all:
        size = len(problem.alignment)
        counts = np.bincount(np.maximum(problem.domains, 0), minlength=len(problem.budgets))
        problem = dataclasses.replace(problem, budgets=counts.astype(np.int32))
    result = selection.select(
        problem,
        size=size,
        utility=utility,
        coupling=coupling,
        rule=rule,
        solver=solver,
        key=jax.random.key(key),
        **options,
    )
    return jax.tree.map(np.asarray, result)


def sound_candidates(problem):
    """Candidates that are not padding and have no broken entry, by a literal loop; bool[N]."""
    present = np.asarray(problem.domains) >= 0
    sound = present.copy()
    for name in ("alignment", "losses", "norms", "reference_losses", "nuclear_norms", "novelty"):
        if getattr(problem, name) is not None:
            sound &= np.isfinite(getattr(problem, name))
    if problem.features is not None:
        sound &= np.isfinite(problem.features).all(axis=1)
    if problem.gram is not None:
        sound &= np.isfinite(np.diagonal(problem.gram))
        inside = np.flatnonzero(sound)
        for i in inside:
            sound[i] = np.isfinite(problem.gram[i, inside]).all()
    if problem.anchor_similarity is not None:
        finite = np.isfinite(problem.anchor_similarity)
        whole = finite[sound].any(axis=0)
        sound &= finite[:, whole].all(axis=1)
    return sound


class Oracle:
    """Scores and values of every utility, from its definition, in float64 and in loops.

    Attributes:
      open: bool[N]; the sound candidates.
      domains, budgets: of the matroid after the coupling.
    """

    def __init__(self, problem, utility, coupling, ridge=0.0, step_scale=1.0):
        self.utility, self.ridge, self.step_scale = utility, ridge, step_scale
        self.open = sound_candidates(problem)
        domains = np.where(self.open, problem.domains, 0)
        budgets = np.asarray(problem.budgets)
        self.groups = domains if coupling == "independent" else np.zeros_like(domains)
        self.domains, self.budgets = domains, budgets
        if coupling == "agnostic":
            self.domains, self.budgets = np.zeros_like(domains), np.array([budgets.sum()])
        inside = self.open[:, None] & self.open[None, :]
        together = self.groups[:, None] == self.groups[None, :]

        def clean(values):
            values = np.asarray(values, np.float64)
            return np.where(self.open.reshape(-1, *(1,) * (values.ndim - 1)), values, 0.0)

        gram = problem.gram
        if gram is None:
            features = clean(problem.features)
            gram = features @ features.T
        self.gram = np.where(inside & together, np.asarray(gram, np.float64), 0.0)
        self.alignment = clean(problem.alignment)
        if utility in ("loss", "lowest_loss", "reducible_loss"):
            self.scores_N = clean(problem.losses) * (-1 if utility == "lowest_loss" else 1)
            if utility == "reducible_loss" and problem.reference_losses is not None:
                self.scores_N = self.scores_N - clean(problem.reference_losses)
        elif utility == "uds":
            self.scores_N = clean(problem.nuclear_norms)
            if problem.novelty is not None:
                self.scores_N = self.scores_N + clean(problem.novelty)
        elif utility == "grad_norm":
            norms = np.sqrt(np.diagonal(self.gram)) if problem.norms is None else problem.norms
            self.scores_N = clean(norms)
        elif utility == "alignment":
            self.scores_N = self.alignment
        elif utility in ("anchor_coverage", "fair_transport"):
            finite = np.isfinite(problem.anchor_similarity)
            self.similarity = clean(problem.anchor_similarity)[:, finite[self.open].any(axis=0)]
            largest = np.abs(self.similarity).max(initial=0.0)
            self.epsilon = 0.1 * (largest if largest > 0.0 else 1.0)

    def value(self, picks):
        """The objective at `picks`."""
        picks = [int(i) for i in picks]
        if self.utility == "gradient_matching":
            weights = self.weights(picks)
            return 0.5 * weights @ self.alignment[picks]
        if self.utility == "taylor":
            pairs = sum(self.gram[i, j] for i, j in itertools.combinations(picks, 2))
            return self.step_scale * self.alignment[picks].sum() - self.step_scale**2 * pairs
        if self.utility == "facility_location":
            return sum(max([0.0, *(self.gram[i, j] for i in picks)]) for j in range(len(self.gram)))
        if self.utility == "anchor_coverage":
            return sum(
                max([0.0, *(row[a] for row in self._rows(picks, group))])
                for group in set(self.groups)
                for a in range(self.similarity.shape[1])
            )
        if self.utility == "fair_transport":
            size = int(self.budgets.sum())
            return sum(
                transport_value(self._rows(picks, group), size, self.epsilon)
                for group in set(self.groups[picks])
            )
        return self.scores_N[picks].sum()

    def scores(self, picks):
        """What adding each candidate is worth to the rule, f64[N]; nan where it may not be."""
        picks = [int(i) for i in picks]
        left = self.budgets - np.bincount(self.domains[picks], minlength=len(self.budgets))
        feasible = self.open & (left[self.domains] > 0)
        feasible[picks] = False
        if self.utility == "gradient_matching":
            residual = self.alignment - self.gram[:, picks] @ self.weights(picks)
            return np.where(feasible, residual, np.nan)
        if hasattr(self, "scores_N"):
            return np.where(feasible, self.scores_N, np.nan)
        before = self.value(picks)
        return np.array(
            [
                self.value([*picks, i]) - before if feasible[i] else np.nan
                for i in range(len(feasible))
            ]
        )

    def weights(self, picks):
        """The exact non-negative refit on `picks`."""
        block = self.gram[np.ix_(picks, picks)] + self.ridge * np.eye(len(picks))
        return nnls_from_gram(block, self.alignment[picks])

    def greedy(self, size):
        """Picks of the greedy rule, ties to the lowest index."""
        picks = []
        for _ in range(size):
            scores = self.scores(picks)
            if np.isnan(scores).all():
                break
            picks.append(int(np.nanargmax(scores)))
        return picks

    def regret(self, picks, rule="greedy"):
        """Most that a pick fell short of what the rule allows, relative to the largest score.

        Greedy allows the best score; `residual_random` the `remaining` best of max(score, 0) in
        each domain.
        """
        worst = 0.0
        picks = [int(i) for i in picks]
        for t, pick in enumerate(picks):
            scores = self.scores(picks[:t])
            assert not np.isnan(scores[pick]), f"pick {t}, candidate {pick}, was not feasible"
            least = np.nanmax(scores)
            if rule == "residual_random":
                domain = self.domains[pick]
                left = self.budgets[domain] - np.sum(self.domains[picks[:t]] == domain)
                rivals = np.maximum(scores[(self.domains == domain) & ~np.isnan(scores)], 0.0)
                least = np.sort(rivals)[-min(left, len(rivals))]
                scores = np.maximum(scores, 0.0)
            largest = max(np.nanmax(np.abs(self.scores([]))), 1e-30)
            worst = max(worst, (least - scores[pick]) / largest)
        return worst

    def _rows(self, picks, group):
        return self.similarity[[i for i in picks if self.groups[i] == group]]


def nnls_from_gram(gram, target):
    """argmax <w, b> - w'Aw / 2 over w >= 0 for a positive semidefinite A with b in its range."""
    weights = np.zeros(len(target))
    diagonal = np.diagonal(gram)
    # SciPy's solver gives columns that are zero but for rounding weights of any size.
    inside = np.flatnonzero(diagonal > 1e-12 * diagonal.max(initial=0.0))
    if len(inside):
        values, vectors = np.linalg.eigh(gram[np.ix_(inside, inside)])
        kept = values > 1e-7 * values[-1]
        root = np.sqrt(values[kept])
        factor, matched = vectors[:, kept] * root, (vectors[:, kept].T @ target[inside]) / root
        weights[inside] = nnls(factor.T, matched, maxiter=10_000)[0]
    return weights


def transport_value(similarity, size, epsilon):
    """F of fair transport from its dual, by a quasi-Newton method with bounds.

    min over u, v >= 0 of epsilon sum exp((c - u - v) / epsilon) / (K A) + sum u / K + sum v / A,
    where the best u for a v is known in closed form: just enough for every row's bound.
    """
    picks, anchors = similarity.shape
    if picks == 0 or anchors == 0:
        return 0.0
    kernel = np.exp(similarity / epsilon) / (size * anchors)

    def dual(prices):
        offered = kernel * np.exp(-prices)
        excess = np.maximum(offered.sum(axis=1) * size, 1.0)
        plan = offered / excess[:, None]
        value = plan.sum() + np.log(excess).sum() / size + prices.sum() / anchors
        return value, 1.0 / anchors - plan.sum(axis=0)

    options = {"maxiter": 1000, "ftol": 1e-14, "gtol": 1e-8}
    bounds = [(0.0, None)] * anchors
    prices = np.log(np.maximum(kernel.sum(axis=0) * anchors, 1.0))
    for _ in range(20):
        # Where curvature jumps, a line search may give up early: go on with a fresh model of it.
        found = minimize(dual, prices, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        prices = found.x + 1e-6
        ascent = np.where(found.x > 0.0, np.abs(found.jac), -found.jac)
        if ascent.max() <= 1e-6:
            break
    else:
        raise AssertionError("the oracle of fair transport did not converge")
    return epsilon * found.fun


def check_contract(problem, choice, result):
    """Asserts what `select` promises whatever the problem and the choice; answers the picks."""
    utility, coupling, _, solver = choice
    entry = selection.UTILITIES[utility]
    sound = sound_candidates(problem)
    filled = result.indices >= 0
    picks = result.indices[filled]
    assert result.indices.dtype == np.int32 and result.weights.dtype == np.float32
    assert len(set(picks.tolist())) == len(picks)
    assert sound[picks].all()
    assert result.dropped == np.sum((problem.domains >= 0) & ~sound)
    assert np.all(np.isfinite(result.weights)) and np.all(result.weights >= 0.0)
    assert np.all(result.weights[~filled] == 0.0)
    assert np.all(np.isfinite(result.gains)) and np.all(result.gains[~filled] == 0.0)
    if coupling == "agnostic" or entry.takes_all:
        assert len(picks) == min(len(result.indices), sound.sum())
    else:
        held = np.bincount(problem.domains[sound], minlength=len(problem.budgets))
        mix = np.bincount(problem.domains[picks], minlength=len(problem.budgets))
        np.testing.assert_array_equal(mix, np.minimum(problem.budgets, held))
    if utility in ("random", "full"):
        assert np.isnan(result.utility)
    else:
        value = Oracle(problem, utility, coupling).value(picks)
        scale = max(abs(value), np.nanmax(np.abs(problem.alignment), initial=0.0, where=sound))
        np.testing.assert_allclose(result.gains.sum(), result.utility, rtol=1e-5, atol=1e-6 * scale)
        if solver == "published":
            assert result.utility <= value + 1e-4 * scale
        else:
            np.testing.assert_allclose(result.utility, value, rtol=2e-3, atol=1e-4 * scale)
    if entry.refits:
        assert 0.0 <= result.certificate <= 1.0
        everything = Oracle(problem, utility, coupling).value(np.flatnonzero(sound))
        assert result.certificate * everything <= result.utility + 1e-3 * everything
    else:
        assert np.all(result.weights[filled] == 1.0)
        assert np.isnan(result.certificate)
    return picks
