import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax import schedules
from anytime_jax.theory import convex, peaks, values

BASE = 4_000
FACTORS = (1.5, 2, 2.5, 3, 3.5, 4)
COOLDOWNS = [0.4375, 0.634, 0.775, 0.8875, 0.972, 1.0]
COOLDOWNS_SQRT = [0.25, 0.269, 0.306, 0.325, 0.344, 0.381]
DROPS = [0.625, 0.525, 0.475, 0.425, 0.40, 0.375]
DROPS_1_SQRT = [0.6, 0.5, 0.45, 0.425, 0.375, 0.35]


def inverse_sqrt(t):
    return (t + 1) ** -0.5


def cooled(rates, fraction, shape):
    """The rates with a cooldown to 0 over their last `fraction`."""
    steps = len(rates)
    length = round(fraction * steps)
    x = np.arange(length) / max(length, 1)
    tail = rates[steps - length] if length else 0.0
    decay = 1 - (np.sqrt(x) if shape == "1-sqrt" else x)
    return np.append(rates[: steps - length], tail * decay)


def dropped(steps, factor):
    return np.where(np.arange(steps) < 0.8 * BASE, 1.0, factor)


def picked(rates_of, candidates, published, goal):
    """The candidate around the published one whose best peak is closest to the goal."""
    i = np.argmin(np.abs(candidates - published))
    some = candidates[max(i - 2, 0) : i + 3]
    best = [convex.best_peak(r, len(r)).multiplier for r in map(rates_of, some)]
    return some[np.argmin(np.abs(np.array(best) - goal))]


@pytest.mark.parametrize(
    ("trunk", "published", "candidates"),
    [
        (1.0, COOLDOWNS, np.linspace(0.1, 1, 33)),
        (inverse_sqrt, COOLDOWNS_SQRT, np.linspace(0.1, 0.7, 33)),
    ],
)
def test_published_longer_cooldowns(trunk, published, candidates):
    rates = values.rates(trunk, 4 * BASE)
    base = cooled(rates[:BASE], 0.2, "linear")
    goal = convex.best_peak(base, BASE).multiplier
    for factor, expected in zip(FACTORS, published, strict=True):
        steps = round(factor * BASE)
        found = picked(
            lambda fraction, n=steps: cooled(rates[:n], fraction, "linear"),
            candidates,
            expected,
            goal,
        )
        assert_allclose(found, expected, atol=5.1e-4)
        # Without their grid, within half its spacing.
        extension = peaks.longer_cooldown(trunk, BASE, steps)
        half = (candidates[1] - candidates[0]) / 2
        assert_allclose(extension.value, expected, atol=half + 5e-4)


@pytest.mark.parametrize(
    ("shape", "published"), [("linear", DROPS), ("1-sqrt", DROPS_1_SQRT)]
)
def test_published_single_drops(shape, published):
    goal = convex.best_peak(cooled(np.ones(BASE), 0.2, shape), BASE).multiplier
    candidates = np.linspace(0.2, 1, 33)
    for factor, expected in zip(FACTORS, published, strict=True):
        steps = round(factor * BASE)
        found = picked(
            lambda rho, n=steps: cooled(dropped(n, rho), 0.2, shape),
            candidates,
            expected,
            goal,
        )
        assert_allclose(found, expected, atol=5.1e-4)
        extension = peaks.single_drop(1.0, BASE, steps, shape=shape)
        assert_allclose(extension.value, expected, atol=0.0125)
        assert abs(extension.mismatch) < 1e-6


@pytest.mark.parametrize("trunk", [1.0, inverse_sqrt])
@pytest.mark.parametrize("shape", ["linear", "1-sqrt"])
def test_extensions_keep_the_best_peak(trunk, shape):
    trunk_T = values.rates(trunk, 2_500)
    goal = convex.best_peak(cooled(trunk_T[:1_000], 0.2, shape), 1_000).multiplier
    longer = peaks.longer_cooldown(trunk, 1_000, 2_500, shape=shape)
    drop = peaks.single_drop(trunk, 1_000, 2_500, shape=shape)
    dropped_T = np.where(np.arange(2_500) < 800, 1.0, drop.value) * trunk_T
    for rates_T, tolerance in (
        (cooled(trunk_T, longer.value, shape), 1e-3),  # of a whole number of steps
        (cooled(dropped_T, 0.2, shape), 1e-8),
    ):
        found = convex.best_peak(rates_T, 2_500).multiplier
        assert_allclose(found, goal, rtol=tolerance)


def test_the_shape_and_the_floor_are_those_of_the_schedules():
    shape = dict(name="power", exponent=2.0)
    cooldown = dict(shape=shape, final_fraction=0.1)
    base = schedules.wsd(peak=1.0, total_steps=500, cooldown_fraction=0.3, **cooldown)
    found = peaks.longer_cooldown(1.0, 500, 800, cooldown_fraction=0.3, **cooldown)
    longer = schedules.wsd(
        peak=1.0, total_steps=800, cooldown_fraction=found.value, **cooldown
    )
    assert_allclose(
        convex.best_peak(longer, 800).multiplier,
        convex.best_peak(base, 500).multiplier,
        rtol=2e-3,
    )


def test_no_extension_is_needed_for_the_same_horizon():
    assert_allclose(peaks.longer_cooldown(1.0, 500, 500), (0.2, 0), atol=1e-7)
    assert_allclose(peaks.single_drop(1.0, 500, 500), (1, 0), atol=1e-7)


def test_a_mismatch_says_that_there_is_no_extension():
    extension = peaks.longer_cooldown(1.0, 500, 5_000)
    assert extension.value == 1.0
    linear = convex.best_peak(1 - np.arange(5_000) / 5_000, 5_000).multiplier
    base = convex.best_peak(cooled(np.ones(500), 0.2, "linear"), 500).multiplier
    assert_allclose(extension.mismatch, linear / base - 1, rtol=1e-9)
    assert extension.mismatch < -0.3


def test_transfer():
    def wsd(fraction, steps=400):
        return lambda t: min(1, (steps - t) / (fraction * steps))

    # gamma* of the published table.
    moved = peaks.transfer(1e-3, wsd(0.2), wsd(1.0), 400)
    assert_allclose(moved, 1e-3 * 0.049563 / 0.025374, rtol=5e-5)
    longer = peaks.transfer(1e-3, wsd(1.0), wsd(1.0, 4_000), 400, 4_000)
    assert_allclose(longer, 1e-3 * 0.015793 / 0.049563, rtol=5e-5)
    assert peaks.transfer(0.5, 1.0, 1.0, 10) == pytest.approx(0.5)
    # The peak is that of the schedule as it is given.
    assert peaks.transfer(1.0, 2.0, 1.0, 10) == pytest.approx(2.0)


def test_rate_curves():
    grid = np.array([1e-4, 5e-4, 1e-3, 2e-3, 3e-3])
    curve = peaks.RateCurve(1e-5, 20.0, 2.9)
    fitted = peaks.fit_rate_curve(grid, 1e-5 / grid + 20 * grid + 2.9)
    assert_allclose(
        [fitted.inverse, fitted.linear, fitted.constant], [1e-5, 20, 2.9], rtol=1e-9
    )
    assert_allclose(fitted.best, (1e-5 / 20) ** 0.5, rtol=1e-9)
    assert_allclose(curve.predict(grid), fitted.predict(grid), rtol=1e-12)
    nearby = curve.predict(curve.best * np.array([0.99, 1.0, 1.01]))
    assert np.argmin(nearby) == 1
    assert math.isnan(peaks.RateCurve(-1.0, 1.0, 0.0).best)
    assert math.isnan(peaks.RateCurve(1.0, 0.0, 0.0).best)


def test_least_squares_leave_nothing_to_gain():
    random = np.random.default_rng(0)
    grid, losses = random.uniform(0.5, 2, size=9), random.normal(size=9)
    fitted = peaks.fit_rate_curve(grid, losses)
    residuals = losses - fitted.predict(grid)
    for column in (1 / grid, grid, np.ones(9)):
        assert abs(residuals @ column) < 1e-12


def test_a_published_sweep_and_its_transfer():
    # Final losses of a 124M model, 50 000 steps: cooldown of 20 %, best at 1e-3 of the
    # sweep; with 60 % and 99.4 % the best was 2e-3.
    sweep = [1e-4, 5e-4, 1e-3, 2e-3, 3e-3]
    curve = peaks.fit_rate_curve(sweep, [3.0644, 2.9714, 2.9660, 2.9742, 2.9941])
    assert_allclose(curve.predict(sweep), [3.0644, 2.9714, 2.966, 2.9742, 2.9941], 1e-3)
    assert sweep[np.argmin(np.abs(np.log(sweep) - np.log(curve.best)))] == 1e-3

    def wsd(fraction):
        return lambda t: min(1, (50_000 - t) / (fraction * 50_000))

    moved = peaks.transfer(curve.best, wsd(0.2), wsd(0.994), 50_000)
    assert sweep[np.argmin(np.abs(np.log(sweep) - np.log(moved)))] == 2e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: peaks.longer_cooldown(1.0, 4, 3), "steps=3 must be an integer >= 4"),
        (lambda: peaks.single_drop(1.0, 0, 3), "base_steps=0 must be an integer >= 1"),
        (
            lambda: peaks.single_drop(1.0, 2, 3, cooldown_fraction=1.5),
            r"cooldown_fraction=1.5 must be in \[0, 1\]",
        ),
        (
            lambda: peaks.longer_cooldown(1.0, 2, 3, shape="steep"),
            "shape='steep' must be one of linear, ",
        ),
        (lambda: peaks.longer_cooldown(-1.0, 2, 3), r"trunk\(0\)=-1.0 must be"),
        (lambda: peaks.transfer(0.0, 1.0, 1.0, 3), "peak=0.0 must be finite and > 0"),
        (
            lambda: peaks.fit_rate_curve([1, 2, 2], [1, 2, 3]),
            "must be at least three different numbers",
        ),
        (
            lambda: peaks.fit_rate_curve([1, 2, 3], [1, 2]),
            r"losses of shape \(2,\) must be as many as the 3 peaks",
        ),
        (
            lambda: peaks.fit_rate_curve([1, 2, 0], [1, 2, 3]),
            r"peaks\(2\)=0.0 must be finite and > 0",
        ),
        (
            lambda: peaks.fit_rate_curve([1, 2, 3], [1, math.nan, 3]),
            r"losses\(1\)=nan must be finite",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_predictions_keep_their_shape():
    curve = peaks.RateCurve(1.0, 1.0, 0.0)
    assert_array_equal(curve.predict([[1.0, 2.0]]), [[2.0, 2.5]])
    assert curve.predict(1.0) == 2.0
