import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from anytime_jax.laws import chinchilla, timescale


def test_the_timescale_is_how_much_adamw_remembers():
    # Shares of the updates in the last weights of theta <- (1 - eta lambda) theta + u.
    rate, decay, steps = 1e-2, 0.5, 1_000
    shares = (1 - rate * decay) ** np.arange(steps)
    ages = np.arange(steps) / steps
    remembered = (shares * ages).sum() / shares.sum()
    tau = timescale.timescale(rate, decay, steps)
    assert tau == pytest.approx(0.2)
    # Of an exponential with this mean, cut off at the run's length.
    cut = tau - 1 / (math.exp(1 / tau) - 1)
    assert remembered == pytest.approx(cut, rel=0.01)


def test_published_values():
    assert timescale.optimal_timescale(20) == pytest.approx(0.2236, abs=5e-5)
    found = timescale.overtraining(234)
    assert (found.size, found.compute) == pytest.approx((0.38, 1.67), abs=5e-3)
    assert found.data / found.size == pytest.approx(234 / 20)


def test_the_best_decay_has_the_best_timescale():
    decay = timescale.optimal_weight_decay(3e-3, 20_000, 50)
    tau = timescale.timescale(3e-3, decay, 20_000)
    assert tau == pytest.approx(timescale.optimal_timescale(50), rel=1e-14)
    # In tokens: B TPP^.527 / (1.084 eta D).
    batch, tokens = 5e5, 5e5 * 20_000
    expected = batch * 50**0.527 / (1.084 * 3e-3 * tokens)
    assert decay == pytest.approx(expected, rel=1e-12)
    other = timescale.optimal_weight_decay(3e-3, 20_000, 50, coefficient=2.168)
    assert other == pytest.approx(decay / 2)


def test_overtraining_keeps_the_loss():
    law = chinchilla.ChinchillaLaw(A=300.0, B=900.0, E=1.7, alpha=0.35, beta=0.35)
    best = law.optimum(1e21)
    optimal = float(best.tokens_per_parameter)
    for factor in (0.1, 1.0, 12.0):
        found = timescale.overtraining(factor * optimal, optimal=optimal)
        size, tokens = best.parameters * found.size, best.tokens * found.data
        assert_allclose(law.predict(size, tokens), best.loss, rtol=1e-12)
        assert_allclose(tokens / size, factor * optimal, rtol=1e-12)
        assert found.compute == pytest.approx(found.size * found.data)
        assert found.compute >= 1


def test_the_curve_of_tokens_per_parameter_is_that_of_a_law():
    x, ratio = np.array([0.05, 0.3, 1.0]), 4.0
    law = chinchilla.ChinchillaLaw(A=1.0, B=1.0, E=1e-12, alpha=0.35, beta=0.35)
    losses = law.predict(1.0, ratio * x)
    curve = timescale.tokens_per_parameter_curve(x, ratio)
    assert_allclose(curve, losses / losses[-1], rtol=1e-10)


def test_batch_sizes_are_powers_of_the_data():
    known = dict(reference_tokens=1e9, reference_batch=64.0)
    assert timescale.optimal_batch(1e9, **known) == 64
    ratio = timescale.optimal_batch(1e12, exponent=0.47, **known) / 64
    assert math.log(ratio) / math.log(1e3) == pytest.approx(0.47)


def test_the_noisy_quadratic_is_that_of_an_average_of_noisy_updates():
    # d theta = -theta dx / tau + s / tau dW from theta_0, by its exact variance.
    tau, curvature, noise, start = 0.3, 2.0, 0.05, 1.7
    x, dx = np.array([0.0, 0.2, 1.0]), 1e-5
    square, expected = start, {0: curvature / 2 * start}
    for step in range(1, round(1 / dx) + 1):
        square += dx * (-2 * square / tau + noise / tau**2)
        expected[step] = curvature / 2 * square
    found = timescale.noisy_quadratic(
        x, tau, curvature=curvature, noise=noise, start=start
    )
    assert_allclose(found, [expected[round(at / dx)] for at in x], rtol=1e-3)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (timescale.timescale, (0.0, 0.1, 10), "learning_rate=0.0 must be finite"),
        (timescale.timescale, (0.1, 0.1, 0), "steps=0 must be an integer >= 1"),
        (timescale.optimal_timescale, (0,), "tokens_per_parameter=0 must be finite"),
        (timescale.overtraining, (-1,), "tokens_per_parameter=-1 must be finite"),
        (timescale.tokens_per_parameter_curve, ([0.5], 0), "ratio=0 must be finite"),
        (
            timescale.tokens_per_parameter_curve,
            ([0.0], 1),
            r"progress\[0\]=0.0 must be",
        ),
    ],
)
def test_errors(function, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
