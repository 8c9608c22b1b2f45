import csv
import math

import numpy as np
import pytest
import scipy.optimize
from numpy.testing import assert_allclose

from anytime_jax.laws import chinchilla, three_terms
from anytime_jax.laws.chinchilla import ChinchillaLaw
from experiments import published

PUBLISHED = published.find("chinchilla_epoch/svg_extracted_data.csv")
needs_published = pytest.mark.skipif(
    PUBLISHED is None, reason="no chinchilla_epoch (see experiments/published.py)"
)
LAW = ChinchillaLaw(A=420.0, B=1700.0, E=1.75, alpha=0.34, beta=0.36)
FEW = np.array([[5.0, 10.0, -0.5, 0.5, 0.5], [10.0, 5.0, 0.5, 0.5, 1.0]])


def points(noise=0.0, seed=0):
    random = np.random.default_rng(seed)
    sizes, tokens = np.meshgrid(np.geomspace(3e7, 1e10, 8), np.geomspace(1e9, 4e11, 8))
    sizes, tokens = sizes.ravel(), tokens.ravel()
    off = noise * random.standard_t(3, size=len(sizes))
    return sizes, tokens, LAW.predict(sizes, tokens) * np.exp(off)


def objective(logs, sizes, tokens, losses, delta=1e-3):
    """The objective as it is written, point by point."""
    a, b, e, alpha, beta = logs
    total = 0.0
    for size, token, loss in zip(sizes, tokens, losses, strict=True):
        terms = math.exp(a) / size**alpha, math.exp(b) / token**beta, math.exp(e)
        off = abs(math.log(sum(terms) / loss))
        total += off**2 / 2 if off <= delta else delta * (off - delta / 2)
    return total


def logs(law):
    return [math.log(law.A), math.log(law.B), math.log(law.E), law.alpha, law.beta]


def test_the_objective_is_the_sum_over_points():
    data = points(noise=0.003)
    law = ChinchillaLaw(A=400.0, B=1800.0, E=1.7, alpha=0.33, beta=0.37)
    for delta in (1e-3, 1e-2):
        expected = objective(logs(law), *data, delta)
        assert_allclose(law.objective(*data, delta=delta), expected, rtol=1e-12)


@pytest.mark.parametrize("exact", [False, True])
def test_derivatives(exact):
    sizes, tokens, losses = points(noise=0.003)
    data = three_terms.Points(np.log(sizes), np.log(tokens), np.log(losses), 1e-3)
    random = np.random.default_rng(1)
    weights = random.integers(0, 3, size=(2, len(sizes))).astype(float)
    centered = data.centered(np.array([logs(LAW), [6.0, 8.0, 0.3, 0.3, 0.4]]))
    centered += 0.01
    _, gradient, curvature = data.expand(centered, weights, exact)
    step = 1e-6
    for i in range(5):
        up, down = centered.copy(), centered.copy()
        up[:, i] += step
        down[:, i] -= step
        high, low = (data.expand(at, weights, exact) for at in (up, down))
        slope = (high[0] - low[0]) / (2 * step)
        assert_allclose(gradient[:, i], slope, rtol=1e-5, atol=1e-10)
        if exact:
            second = (high[1] - low[1]) / (2 * step)
            assert_allclose(curvature[:, i], second, rtol=1e-4, atol=1e-5)
        else:  # Above the objective everywhere: a parabola that touches it.
            for shift in (-0.02, -0.005, 0.005, 0.02):
                moved = centered.copy()
                moved[:, i] += shift
                residuals, _ = data.residuals(centered)
                slopes = [data.jacobian(row)[:, i] for row in centered]
                linear = residuals + shift * np.stack(slopes)
                bound = (
                    data.expand(centered, weights, False)[0]
                    + shift * gradient[:, i]
                    + shift**2 * curvature[:, i, i] / 2
                )
                assert ((weights * data.huber(linear)).sum(axis=1) <= bound).all()


def test_descents_never_rise_and_end_where_scipy_does():
    data = points(noise=0.003, seed=2)
    # Nelder and Mead know no derivative, and start where the search ends or near it.
    found = chinchilla.search(*data, starts=FEW)
    shifted = np.array(logs(found.law)) * [1.02, 0.98, 1.02, 0.99, 1.01]
    ended = scipy.optimize.minimize(
        lambda x: 1e3 * objective(x, *data),
        shifted,
        method="Nelder-Mead",
        options=dict(maxiter=2_000, maxfev=2_000, xatol=1e-9, fatol=1e-12),
    )
    assert found.objective <= ended.fun / 1e3 * (1 + 1e-9)
    assert found.objective == pytest.approx(found.law.objective(*data), rel=1e-12)
    before = np.inf
    centered = three_terms.Points(*map(np.log, data), 1e-3)
    for steps in (0, 1, 3, 10, 30):
        fits = three_terms.descend(centered, FEW, steps=steps)
        assert (fits.objective <= before).all()
        before = fits.objective


def test_it_recovers_what_made_the_points():
    found = chinchilla.search(*points(), starts=FEW)
    assert_allclose(logs(found.law), logs(LAW), rtol=1e-6)
    assert found.objective < 1e-15
    assert (found.starts, found.reached) == (2, 2)


def test_it_does_not_mind_a_few_bad_points():
    sizes, tokens, losses = points()
    losses[[3, 20, 40]] *= 1.2
    fitted = ChinchillaLaw.fit(sizes, tokens, losses, starts=FEW)
    assert_allclose(logs(fitted), logs(LAW), rtol=3e-3)


def test_weights_are_repetitions():
    sizes, tokens, losses = points(noise=0.003, seed=3)
    weights = np.random.default_rng(4).integers(0, 3, size=len(sizes))
    repeated = (np.repeat(values, weights) for values in (sizes, tokens, losses))
    expected = chinchilla.search(*repeated, starts=FEW)
    data = three_terms.Points(np.log(sizes), np.log(tokens), np.log(losses), 1e-3)
    rough = three_terms.descend(data, FEW, np.stack([weights, weights]))
    fits = three_terms.descend(
        data, rough.parameters, np.stack([weights, weights]), exact=True
    )
    assert_allclose(fits.objective.min(), expected.objective, rtol=1e-6)


def test_the_optimum_is_the_best_on_its_isoflop():
    flops = np.array([1e18, 1e21, 1e24])
    best = LAW.optimum(flops)
    assert_allclose(6 * best.parameters * best.tokens, flops, rtol=1e-12)
    assert_allclose(best.tokens_per_parameter, best.tokens / best.parameters)
    assert_allclose(best.loss, LAW.predict(best.parameters, best.tokens), rtol=1e-15)
    for i, budget in enumerate(flops):
        found = scipy.optimize.minimize_scalar(
            lambda x, c=budget: float(LAW.predict(np.exp(x), c / 6 / np.exp(x))),
            bounds=(np.log(1e5), np.log(1e13)),
            method="bounded",
            options=dict(xatol=1e-10),
        )
        assert_allclose(np.exp(found.x), best.parameters[i], rtol=1e-4)
        assert_allclose(found.fun, best.loss[i], rtol=1e-12)
    # A power of compute, with the exponent that is named.
    slope = np.log(best.parameters[1] / best.parameters[0]) / np.log(flops[1] / 1e18)
    assert slope == pytest.approx(LAW.exponent)
    twice = LAW.optimum(2e21, flops_per=12.0)
    assert_allclose(twice.parameters, best.parameters[1], rtol=1e-12)


def test_the_published_tokens_per_parameter():
    epoch = ChinchillaLaw(A=482.01, B=2085.43, E=1.8172, alpha=0.3478, beta=0.3658)
    # At the least compute; at that of Chinchilla they are 18.4.
    assert epoch.optimum(1e18).tokens_per_parameter == pytest.approx(25.7, abs=0.05)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    inside, errors, spreads = [], [], []
    for seed in range(12):
        data = points(noise=0.004, seed=seed)
        law = ChinchillaLaw.fit(*data, starts=FEW[:1])
        drawn = law.bootstrap(*data, resamples=60, level=0.8)
        low, high = drawn.interval["alpha"]
        inside.append(low <= LAW.alpha <= high)
        assert low <= np.median(drawn.samples["alpha"]) <= high
        errors.append(law.standard_errors(*data)["alpha"])
        spreads.append((drawn.standard_error["alpha"], law.alpha))
    assert 6 <= sum(inside) <= 12  # 9.6 of 12, +- 1.4
    bootstrapped, fitted = np.array(spreads).T
    spread = np.std(fitted, ddof=1)
    assert 0.5 < np.mean(bootstrapped) / spread < 2
    assert 0.5 < np.mean(errors) / spread < 2


def test_standard_errors_of_small_residuals_are_those_of_least_squares():
    sizes, tokens, losses = points()
    random = np.random.default_rng(5)
    losses *= np.exp(1e-4 * random.normal(size=len(losses)))
    law = ChinchillaLaw.fit(sizes, tokens, losses, starts=FEW)
    errors = law.standard_errors(sizes, tokens, losses)

    def residuals(values):
        A, B, E, alpha, beta = values
        return np.log((A * sizes**-alpha + B * tokens**-beta + E) / losses)

    at = np.array([law.A, law.B, law.E, law.alpha, law.beta])
    steps = np.diag(1e-5 * at)
    jacobian = np.stack(
        [(residuals(at + h) - residuals(at - h)) / (2 * h.sum()) for h in steps], axis=1
    )
    scaled = jacobian * at
    inverse = np.linalg.inv(scaled.T @ scaled)
    meat = (scaled * residuals(at)[:, None]).T @ (scaled * residuals(at)[:, None])
    expected = np.sqrt(np.diag(inverse @ meat @ inverse)) * at
    assert_allclose([errors[name] for name in chinchilla.NAMES], expected, rtol=1e-3)
    both = law.alpha + law.beta
    assert 0 < errors["exponent"] < (errors["alpha"] + errors["beta"]) / both


def test_standard_errors_are_infinite_where_points_determine_too_little():
    sizes, tokens = np.full(6, 1e8), np.geomspace(1e9, 1e11, 6)
    losses = LAW.predict(sizes, tokens)
    assert set(LAW.standard_errors(sizes, tokens, losses).values()) == {np.inf}


def read_published():
    with PUBLISHED.open() as file:
        rows = list(csv.DictReader(file))
    columns = ("Model Size", "Training FLOP", "loss")
    sizes, flops, losses = (np.array([float(r[c]) for r in rows]) for c in columns)
    return sizes, flops / (6 * sizes), losses


@needs_published
def test_epochs_optimum():
    data = read_published()
    kept = np.sort(np.argsort(data[2])[:-5])
    data = [values[kept] for values in data]
    found = chinchilla.search(*data)
    assert (found.starts, len(kept)) == (4500, 240)
    assert found.reached > 1000
    assert found.objective == pytest.approx(1.018274e-3, abs=1e-8)
    law = found.law
    expected = (477.83, 2143.42, 1.817218, 0.347310, 0.367172)
    fitted = (law.A, law.B, law.E, law.alpha, law.beta)
    assert_allclose(fitted, expected, rtol=1e-5)
    hoffmann = ChinchillaLaw(
        A=math.exp(6.0073404),
        B=math.exp(6.0179186),
        E=math.exp(0.5267228),
        alpha=0.33917084,
        beta=0.2849083,
    )
    assert hoffmann.objective(*data) == pytest.approx(1.2312e-3, abs=5e-8)
    # Epoch's 95 % intervals, of which the ends are noisy, and standard errors.
    drawn = law.bootstrap(*data, resamples=500)
    for name, expected, error in (
        ("E", (1.769, 1.871), 0.026),
        ("alpha", (0.317, 0.373), 0.015),
        ("beta", (0.331, 0.415), 0.021),
    ):
        assert_allclose(drawn.interval[name], expected, rtol=0.03)
        assert drawn.standard_error[name] == pytest.approx(error, rel=0.15)
    assert drawn.standard_error["exponent"] == pytest.approx(0.020, rel=0.15)
    assert_allclose(drawn.interval["A"], (285, 744), rtol=0.12)


@needs_published
def test_the_five_highest_losses_decide():
    start = [[6.0, 9.0, 0.6, 0.35, 0.45]]
    found = chinchilla.search(*read_published(), starts=start)
    assert found.objective == pytest.approx(1.8260e-3, abs=5e-8)
    law = found.law
    fitted = (law.A, law.B, law.E, law.alpha, law.beta)
    assert_allclose(fitted, (495.7, 12846, 1.8913, 0.3493, 0.4530), rtol=2e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(A=0.0), "A=0.0 must be finite and > 0"),
        (dict(beta=-0.1), "beta=-0.1 must be finite and > 0"),
        (dict(alpha=math.nan), "alpha=nan must be finite and > 0"),
        (dict(E=-1.0), "E=-1.0 must be finite and >= 0"),
        (dict(B="1"), "B='1' must be finite and > 0"),
    ],
)
def test_errors_of_parameters(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        ChinchillaLaw(**{**dict(A=1.0, B=1.0, E=1.0, alpha=1.0, beta=1.0), **arguments})
    assert "\n" not in str(error.value)


def test_errors_of_points():
    sizes, tokens, losses = points()
    for name, replaced in (
        (r"parameters\[1\]=0.0 must be finite", (np.array([1.0, 0.0]), tokens, losses)),
        (r"losses\[0\]=nan must be finite", (sizes, tokens, [math.nan])),
        ("parameters 64, tokens 63, losses 64", (sizes, tokens[1:], losses)),
        ("must be at least 5", (sizes[:4], tokens[:4], losses[:4])),
        ("parameters must have three different", (np.ones(64), tokens, losses)),
        ("tokens=.* must be numbers", (sizes, ["many"] * 64, losses)),
    ):
        with pytest.raises(ValueError, match=name) as error:
            ChinchillaLaw.fit(*replaced)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"starts of shape \(1, 4\) must be"):
        ChinchillaLaw.fit(sizes, tokens, losses, starts=np.ones((1, 4)))
    with pytest.raises(ValueError, match="delta=0 must be"):
        ChinchillaLaw.fit(sizes, tokens, losses, delta=0)
    with pytest.raises(ValueError, match="losses do not follow the law"):
        ChinchillaLaw.fit(sizes, tokens, 1 / losses, starts=FEW)
    with pytest.raises(ValueError, match=r"level=1\.0 must be between"):
        LAW.bootstrap(sizes, tokens, losses, level=1.0)
    with pytest.raises(ValueError, match="resamples=1 must be an integer >= 2"):
        LAW.bootstrap(sizes, tokens, losses, resamples=1)
    with pytest.raises(ValueError, match=r"flops_per=-6\.0 must be"):
        LAW.optimum(1e21, flops_per=-6.0)
