import itertools
import math

import numpy as np
import pytest
import scipy.optimize
from numpy.testing import assert_allclose

from anytime_jax.laws import collapse
from experiments import published
from experiments.collapse import ladders, run

CHESS, MLP, CHESS_CONSTANT = (
    published.find(f"supercollapse/{name}.npz")
    for name in ("chess", "mlp", "chess_const")
)
needs_published = pytest.mark.skipif(
    None in (CHESS, MLP, CHESS_CONSTANT),
    reason="no supercollapse (see experiments/published.py)",
)
AT = np.array([0.1, 0.25, 0.5, 0.75, 0.9, 0.95])
MU, NU, IRREDUCIBLE = 0.4, 0.3, 1.2


def power_law_runs(exponent, noise=0.0, seeds=1):
    """Runs of L0 + 2 t^-mu + 3 p^-nu up to t* ~ p^exponent, with noise of seeds."""
    random = np.random.default_rng(0)
    runs, horizons, sizes = [], [], []
    for size in np.geomspace(1e3, 1e6, 5):
        horizon = 40 * (size / 1e3) ** exponent
        times = np.geomspace(1e-4, 1, 4_000) * horizon
        for _ in range(seeds):
            excess = 2 * times**-MU + 3 * size**-NU
            shift = np.exp(noise * random.normal())
            runs.append((times, IRREDUCIBLE + excess * shift))
            horizons.append(horizon)
            sizes.append(size)
    return runs, horizons, sizes


def test_a_sum_of_power_laws_collapses_only_at_its_own_horizons():
    spreads = {}
    for exponent in (0.5 * NU / MU, NU / MU, 1.5 * NU / MU):
        runs, horizons, sizes = power_law_runs(exponent)
        found = collapse.collapse(runs, horizons, sizes, offset=IRREDUCIBLE)
        spreads[exponent] = found.spread[:-1].max()
    assert spreads[NU / MU] < 1e-6
    assert all(spreads[e] > 0.01 for e in spreads if e != NU / MU)
    # And only less the irreducible loss.
    runs, horizons, sizes = power_law_runs(NU / MU)
    assert collapse.collapse(runs, horizons, sizes).spread.max() > 0.01


def test_the_curve_that_they_collapse_on():
    runs, horizons, sizes = power_law_runs(NU / MU)
    found = collapse.collapse(runs, horizons, sizes, offset=IRREDUCIBLE)
    ratio = 2 * horizons[0] ** -MU / (3 * sizes[0] ** -NU)
    expected = collapse.closed_form(found.progress, MU, ratio)
    assert_allclose(found.curves, np.tile(expected, (5, 1)), rtol=1e-5)


def test_at_compute_optimal_horizons_the_ratio_is_that_of_the_exponents():
    compute = 1e9

    def loss(log_size):
        return 2 * (compute / math.exp(log_size)) ** -MU + 3 * math.exp(-NU * log_size)

    best = math.exp(scipy.optimize.minimize_scalar(loss, bracket=(5, 15)).x)
    ratio = 2 * (compute / best) ** -MU / (3 * best**-NU)
    assert ratio == pytest.approx(NU / MU, rel=1e-6)


def test_noise_of_seeds_is_taken_out_by_the_own_final_loss():
    runs, horizons, sizes = power_law_runs(NU / MU, noise=0.01, seeds=40)
    found = collapse.collapse(runs, horizons, sizes, offset=IRREDUCIBLE)
    # A shift of a whole run is a factor that the normalisation removes.
    assert found.spread.max() < 1e-6
    assert found.floor.mean() == pytest.approx(0.01, rel=0.15)
    assert found.onset == found.progress[0]


def test_statistics_are_those_of_the_definition():
    random = np.random.default_rng(1)
    losses = 2 + random.random((7, 5))
    groups = ["a", "b", "a", "c", "b", "a", "a"]
    ratios = []
    for group in "ab":
        own = losses[[g == group for g in groups]] - 1.5
        ratios.append(np.sqrt(((own - own.mean(0)) ** 2).mean(0)) / own.mean(0))
    floor = collapse.noise_floor(losses, groups, 1.5)
    assert_allclose(floor, np.mean(ratios, axis=0), rtol=1e-12)
    curves = collapse.normalize(losses, 1.5)
    assert_allclose(curves, (losses - 1.5) / (losses[:, -1:] - 1.5), rtol=1e-15)
    mean = curves.mean(axis=0)
    expected = np.sqrt((curves**2).mean(axis=0) - mean**2) / mean
    assert_allclose(collapse.spread(curves), expected, atol=1e-8)
    assert np.isnan(collapse.noise_floor(losses, range(7))).all()


def test_onset_is_where_no_later_point_is_above():
    progress, floor = np.array([0.2, 0.4, 0.6, 0.8, 1.0]), np.ones(5)
    for spread, expected in (
        ([2, 2, 0.5, 0.5, 0], 0.6),
        ([0.5, 2, 0.5, 0.5, 0], 0.6),
        ([0.5, 0.5, 0.5, 0.5, 5], 0.2),
        ([0.5, 0.5, 0.5, 1.0, 0], None),
    ):
        assert collapse.onset(progress, spread, floor) == expected
    assert collapse.onset(progress, np.zeros(5), np.full(5, np.nan)) is None


def test_end_points_are_recovered_and_robust():
    compute = np.geomspace(1e2, 1e6, 9)
    for level, size, exponent in itertools.product((0.0, 0.5), (0.05, 3.0), (0.1, 0.4)):
        losses = level + size * compute**-exponent
        found = collapse.fit_end_points(compute, losses)
        assert found.irreducible == pytest.approx(level, abs=1e-4)
        assert found.exponent == pytest.approx(exponent, rel=1e-3)
        assert found.coefficient == pytest.approx(size, rel=1e-2)
    losses[4] *= 1.05
    assert collapse.fit_end_points(compute, losses).exponent == pytest.approx(
        0.4, rel=0.02
    )


def test_the_objective_of_the_end_points():
    random = np.random.default_rng(2)
    compute = np.geomspace(1, 1e3, 8)
    losses = (0.5 + 0.3 * compute**-0.2) * np.exp(0.003 * random.normal(size=8))
    found = collapse.fit_end_points(compute, losses)

    def objective(values):
        level, size, exponent = values
        if min(values) < 0:
            return math.inf
        total = 0.0
        for c, loss in zip(compute, losses, strict=True):
            off = abs(math.log((level + size * c**-exponent) / loss))
            total += off**2 / 2 if off <= 1e-3 else 1e-3 * (off - 5e-4)
        return total / 8

    assert found.objective == pytest.approx(objective(found[:3]), rel=1e-9)
    for start in (found[:3], (0.4, 0.4, 0.15), (0.55, 0.25, 0.3)):
        ended = scipy.optimize.minimize(
            lambda x: 1e6 * objective(x), start, method="Nelder-Mead"
        )
        assert found.objective <= ended.fun / 1e6 * (1 + 1e-6)


def collapsed(path):
    ladder = ladders.read(path)
    ends = collapse.fit_end_points(*ladder.mean_finals())
    found = collapse.collapse(
        ladder.runs, ladder.horizons, ladder.sizes.tolist(), offset=ends.irreducible
    )
    return ends, found


@needs_published
def test_published_chess():
    ends, found = collapsed(CHESS)
    expected = (0.5428, 0.3282, 0.1157)
    assert_allclose(ends[:3], expected, rtol=1e-3)
    at = np.searchsorted(found.progress, AT - 1e-9)
    expected = (4.62e-3, 2.32e-3, 1.59e-3, 1.22e-3, 5.23e-4, 2.23e-4)
    assert_allclose(found.spread[at], expected, rtol=0.02)
    assert_allclose(found.floor[at], 2.7e-3, rtol=0.12)
    # The two touch from 0.2 to 0.35: on other grids it is from 0.25 to 0.345.
    assert found.onset == pytest.approx(0.245)


@needs_published
def test_published_mlp():
    ends, found = collapsed(MLP)
    expected = (0.0013, 0.0426, 0.1601)
    assert_allclose(ends[:3], expected, rtol=0.03)
    at = np.searchsorted(found.progress, AT - 1e-9)
    expected = (1.30e-2, 4.98e-3, 3.81e-3, 2.76e-3, 1.68e-3, 7.98e-4)
    assert_allclose(found.spread[at], expected, rtol=0.03)
    # Of the noise of seeds, its range over these points was computed before.
    ends_of_floor = found.floor[at].min(), found.floor[at].max()
    assert_allclose(ends_of_floor, (2.2e-3, 3.7e-3), rtol=0.02)
    assert found.onset == pytest.approx(0.765)


@needs_published
def test_the_onset_at_a_constant_rate_hangs_on_how_the_last_loss_is_read():
    ladder = ladders.read(CHESS_CONSTANT)
    measured, _ = run.measure(ladder)
    assert measured["onset"]["200"] == pytest.approx(0.3)
    assert measured["onset_over_last_record"]["200"] == pytest.approx(0.53)
    # The stored last losses are those between records.
    between = [np.interp(h, *r) for h, r in zip(ladder.horizons, ladder.runs, strict=1)]
    assert_allclose(ladder.finals, between, rtol=1e-5)
    # A decayed run has a record at its horizon.
    decayed = ladders.read(CHESS)
    assert_allclose(decayed.recorded_finals(), decayed.finals, rtol=1e-6)


def test_the_last_record_up_to_the_horizon():
    runs = [([1.0, 2.0, 3.0], [4.0, 3.0, 2.0])] * 3
    runs = [tuple(map(np.array, run)) for run in runs]
    ladder = ladders.Ladder(runs, np.array([1.5, 2.0, 9.0]), np.arange(3), np.ones(3))
    assert_allclose(ladder.recorded_finals(), [4, 3, 2])


@needs_published
def test_constant_rates_collapse_less_at_the_end():
    ends, constant = collapsed(CHESS_CONSTANT)
    assert ends.irreducible == pytest.approx(0.5465, abs=1e-4)
    _, decayed = collapsed(CHESS)
    late = slice(int(0.9 * 200) - 1, -1)
    ratio = constant.spread[late] / decayed.spread[late]
    assert ratio.min() > 2


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (collapse.progress_grid, (1,), "count=1 must be an integer >= 2"),
        (
            collapse.on_grid,
            ([0, 1], [2, 1], 2.0, [1.0]),
            r"times\[1\]=1 must not be be",
        ),
        (
            collapse.on_grid,
            ([1, 2], [2, 1], 2.0, [0.2]),
            r"times\[0\]=1 must not be af",
        ),
        (collapse.on_grid, ([1, 1], [2, 1], 1.0, [1.0]), r"times\[1\]=1 must be above"),
        (collapse.on_grid, ([0, 1], [2, 1], 1.0, [1.5]), "progress=1.5 must be in"),
        (collapse.normalize, ([3.0, 2.0], 2.0), "offset=2.0 must be below the last"),
        (collapse.normalize, ([3.0, math.nan],), r"losses\[1\]=nan must be finite"),
        (collapse.spread, ([[1.0, 1.0]],), "must be at least 2"),
        (collapse.noise_floor, ([[1.0, 1.0]], "ab"), "losses_RxG 1, groups 2"),
        (collapse.onset, ([0.5, 1.0], [0.1], [0.1]), "must be the same"),
        (collapse.fit_end_points, ([1, 1, 2], [3, 2, 1]), "compute must have three"),
        (collapse.closed_form, ([0.5], 0.0, 1.0), "exponent=0.0 must be finite"),
    ],
)
def test_errors(function, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        function(*arguments)
    assert "\n" not in str(error.value)


def test_errors_of_runs():
    runs = [([0.1, 1.0], [2.0, 1.0])] * 2
    with pytest.raises(ValueError, match=r"progress\[1\]=0\.9 must be 1"):
        collapse.collapse(runs, [1.0, 1.0], "ab", progress=[0.5, 0.9])
    with pytest.raises(ValueError, match="runs 2, horizons 3, groups 2"):
        collapse.collapse(runs, [1.0] * 3, "ab")
