import collections
import csv
import math

import numpy as np
import pytest
import scipy.interpolate
from numpy.testing import assert_allclose

from anytime_jax.laws import chinchilla, isoflop
from experiments import published

POINTS = published.find("porian/isoflop_points.csv")
needs_published = pytest.mark.skipif(
    POINTS is None, reason="no porian (see experiments/published.py)"
)
LAW = chinchilla.ChinchillaLaw(A=480.0, B=2100.0, E=1.8, alpha=0.35, beta=0.37)
BUDGETS = np.geomspace(1e18, 1e22, 6)


def runs(count=13):
    """Runs of the law at six budgets, each around its best size."""
    best = LAW.optimum(BUDGETS).parameters
    sizes_FxK = best[:, None] * np.geomspace(0.11, 8, count)
    losses_FxK = LAW.predict(sizes_FxK, BUDGETS[:, None] / (6 * sizes_FxK))
    flops_FxK = np.repeat(BUDGETS[:, None], count, axis=1)
    return flops_FxK.ravel(), sizes_FxK.ravel(), losses_FxK.ravel()


def test_both_methods_find_the_best_sizes_of_a_law():
    data, best = runs(), LAW.optimum(BUDGETS)
    found = isoflop.fit(*data, grid=400)
    assert_allclose(found.flops, BUDGETS)
    assert_allclose(found.sizes, best.parameters, rtol=2e-2)
    assert_allclose(found.losses, best.loss, rtol=1e-4)
    assert not found.at_edge.any()
    assert found.law.exponent == pytest.approx(LAW.exponent, abs=2e-4)
    assert found.law.r2 > 0.99999
    assert_allclose(found.law(BUDGETS), found.sizes, rtol=1e-2)
    near = np.abs(np.log(data[1] / np.repeat(best.parameters, 13))) < 0.8
    parabola = isoflop.fit(*(values[near] for values in data), method="parabola")
    assert_allclose(parabola.sizes, best.parameters, rtol=0.06)
    assert parabola.law.exponent == pytest.approx(LAW.exponent, abs=1e-3)


def test_akima_is_scipys_at_the_grid():
    random = np.random.default_rng(0)
    sizes = np.sort(random.uniform(1e6, 1e9, size=8))
    losses = 3 + 0.3 * np.log(sizes / 1e8) ** 2 + 0.02 * random.normal(size=8)
    order = random.permutation(8)
    found = isoflop.best_size(sizes[order], losses[order])
    # As the published procedure has it: 25 points a gap, evenly spaced in log size.
    grid = np.geomspace(sizes[0], sizes[-1], 7 * 25)
    curve = scipy.interpolate.Akima1DInterpolator(np.log(sizes), np.log(losses))
    values = np.exp(curve(np.log(grid)))
    assert_allclose(found.size, grid[values.argmin()], rtol=1e-10)
    assert_allclose(found.loss, values.min(), rtol=1e-12)
    assert found.loss <= losses.min()


def test_the_parabola_is_exact_for_a_parabola():
    sizes = np.geomspace(1e6, 1e9, 6)
    found = isoflop.best_size(
        sizes, 2.5 + 0.1 * np.log(sizes / 3e7) ** 2, method="parabola"
    )
    assert_allclose((found.size, found.loss), (3e7, 2.5), rtol=1e-10)
    assert not found.at_edge


@pytest.mark.parametrize("method", ["akima", "parabola"])
def test_a_curve_that_is_lowest_at_an_end(method):
    sizes = np.geomspace(1e6, 1e9, 6)
    for losses, end in ((np.linspace(4, 3, 6), -1), (np.linspace(3, 4, 6) ** 2, 0)):
        found = isoflop.best_size(sizes, losses, method=method)
        assert found == (sizes[end], losses[end], True)
    # Such a budget is told, and left out of the law.
    flops, sizes, losses = runs()
    kept = (flops < BUDGETS[-1]) | (sizes < 0.5 * LAW.optimum(BUDGETS[-1]).parameters)
    found = isoflop.fit(flops[kept], sizes[kept], losses[kept], method=method)
    assert found.at_edge.tolist() == [False] * 5 + [True]
    inside = isoflop.power_law(found.flops[:5], found.sizes[:5])
    assert_allclose(found.law, inside, rtol=1e-12)


def test_a_hill_has_no_lowest_point_inside():
    found = isoflop.best_size([1e6, 1e7, 1e8], [3.0, 4.0, 3.5], method="parabola")
    assert found == (1e6, 3.0, True)


def test_the_lowest_of_runs_of_one_size_counts():
    flops, sizes, losses = runs()
    worse = np.append(losses, losses + 0.1)
    both = isoflop.fit(np.tile(flops, 2), np.tile(sizes, 2), worse)
    assert_allclose(both.law, isoflop.fit(flops, sizes, losses).law, rtol=1e-12)


def test_power_law_is_that_of_polyfit():
    random = np.random.default_rng(1)
    x, y, importance = random.lognormal(size=(3, 20))
    u, v = np.log(x), np.log(y)
    law = isoflop.power_law(x, y)
    slope, level = np.polyfit(u, v, 1)
    assert_allclose(law, (slope, np.exp(level), np.corrcoef(u, v)[0, 1] ** 2))
    weighted = isoflop.power_law(x, y, importance)
    slope, level = np.polyfit(u, v, 1, w=np.sqrt(importance))
    assert_allclose(weighted[:2], (slope, np.exp(level)))
    assert_allclose(weighted([1.0, 2.0]), np.exp(level) * np.array([1.0, 2**slope]))
    assert math.isnan(isoflop.power_law([1, 2], [3, 3]).r2)


def test_noise_moves_the_exponent_in_proportion():
    data, spreads = runs(), []
    for noise in (1e-4, 4e-4):
        found = isoflop.bootstrap(*data, noise, resamples=150, method="parabola")
        spreads.append(found.exponents.std())
        low, high = found.interval
        assert low < isoflop.fit(*data, method="parabola").law.exponent < high
        assert ((found.exponents >= low) & (found.exponents <= high)).mean() > 0.9
        assert np.isfinite(found.size_spreads).all()
    assert spreads[1] / spreads[0] == pytest.approx(4, rel=0.1)
    each = isoflop.bootstrap(
        *data, np.full(len(data[0]), 4e-4), resamples=150, method="parabola"
    )
    assert_allclose(each.exponents, found.exponents, rtol=1e-12)


def test_noise_that_hides_the_minimum_is_told():
    found = isoflop.bootstrap(*runs(), 5.0, resamples=100)
    assert np.isnan(found.size_spreads).any() or (found.size_spreads > 0.5).all()


def test_smoothing_averages_a_growing_window():
    random = np.random.default_rng(2)
    values = 1e6 + random.normal(size=300)
    positions, means = isoflop.smooth(values, width=0.05)
    for i in (0, 19, 20, 57, 150, 290, 299):
        half = int(0.05 * i)
        window = values[i - half : i + half + 1]
        assert means[i] == pytest.approx(window.mean(), rel=1e-14)
        last = min(i + half, 299)
        assert positions[i] == (i - half + last) / 2
    same = isoflop.smooth(values, width=0.0)
    assert_allclose(same, (np.arange(300), values), rtol=1e-14)


def read(name, key=("dataset", "hparams", "warmup", "decay", "param_count")):
    found = collections.defaultdict(list)
    with (POINTS.parent / name).open() as file:
        for row in csv.DictReader(file):
            if row.get("n", "1"):  # No best size inside the sizes.
                found[tuple(row[k] for k in key)].append(row)
    return found


@needs_published
def test_published_exponents():
    pairs, runs_of, fits = map(
        read, ("optimal_pairs.csv", "isoflop_points.csv", "fit_results.csv")
    )
    assert len(pairs) == 15
    for key, rows in pairs.items():
        [row] = [row for row in fits[key] if row["kind"] == "basic"]
        expected = float(row["n_exponent"]), float(row["n_coef"]), float(row["n_r2"])
        flops, sizes = ([float(row[k]) for row in rows] for k in ("flops", "n"))
        assert_allclose(isoflop.power_law(flops, sizes), expected, rtol=1e-9)
        # From the runs themselves; theirs is the median over noise.
        columns = (
            [float(row[k]) for row in runs_of[key]] for k in ("flops", "n", "loss")
        )
        found = isoflop.fit(*columns)
        assert found.law.exponent == pytest.approx(expected[0], abs=0.005)
        assert found.law.r2 == pytest.approx(expected[2], abs=0.002)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (isoflop.best_size, ([1, 2], [1, 2]), "must be at least 3"),
        (isoflop.best_size, ([1, 2, 2], [1, 2, 3]), "sizes .* three different values"),
        (isoflop.best_size, ([1, 2, 3], [1, 2]), "sizes 3, losses 2"),
        (isoflop.best_size, ([1, 2, -3], [1, 2, 3]), r"sizes\[2\]=-3.0 must be finite"),
        (isoflop.fit, ([1, 1, 1], [1, 2, 3], [3, 2, 3]), "not at 1 of 1"),
        (isoflop.power_law, ([1, 1], [1, 2]), "x must have two different"),
        (isoflop.power_law, ([1, 2], [1, 2], [1]), "x 2, importance 1"),
        (isoflop.smooth, ([],), "values=.* must be numbers|at least 1"),
        (isoflop.bootstrap, (*runs(), [0.1, 0.1]), r"noise of shape \(2,\) must be"),
        (isoflop.bootstrap, (*runs(), -0.1), "noise=-0.1 must be finite|noise.*-0.1"),
    ],
)
def test_errors(function, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        function(*arguments)
    assert "\n" not in str(error.value)


def test_errors_of_choices():
    with pytest.raises(ValueError, match="method='cubic' must be 'akima' or"):
        isoflop.fit(*runs(), method="cubic")
    with pytest.raises(ValueError, match="grid=1 must be an integer >= 2"):
        isoflop.best_size([1, 2, 3], [3, 2, 3], grid=1)
    with pytest.raises(ValueError, match=r"width=1\.0 must be in \[0, 1\)"):
        isoflop.smooth([1.0], width=1.0)
    with pytest.raises(ValueError, match="level=0 must be between"):
        isoflop.bootstrap(*runs(), 0.01, level=0)
