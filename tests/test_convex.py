import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from numpy.testing import assert_allclose

from anytime_jax import schedules
from anytime_jax.theory import convex


def twin(rates, distance=1.0, norms=None):
    """The three terms as they are written, sum by sum, with updates from 1."""
    steps = len(rates)
    norms = norms if norms is not None else [1.0] * steps
    eta = dict(enumerate(rates, 1))
    norm = dict(enumerate(norms, 1))

    def left(k):
        return math.fsum(eta[t] for t in range(k, steps + 1))

    def noise(k):
        return math.fsum((eta[t] * norm[t]) ** 2 for t in range(k, steps + 1))

    last = (eta[k] / left(k + 1) * noise(k) / left(k) / 2 for k in range(1, steps))
    return distance**2 / (2 * left(1)), noise(1) / (2 * left(1)), math.fsum(last)


def test_terms_are_those_of_the_formula():
    random = np.random.default_rng(0)
    for steps in (1, 2, 3, 30):
        rates, norms = random.exponential(size=(2, steps))
        terms = convex.terms(rates, steps, distance=1.7, gradient_norms=norms)
        assert_allclose(terms, twin(rates, 1.7, norms), rtol=1e-13)
        arguments = dict(distance=1.7, gradient_norms=norms)
        assert_allclose(convex.bound(rates, steps, **arguments), sum(terms), rtol=1e-15)
        averaged = convex.averaged_bound(rates, steps, **arguments)
        assert_allclose(averaged, sum(twin(rates, 1.7, norms)[:2]), rtol=1e-13)


def test_a_constant_rate_has_a_closed_form():
    steps, rate, norm, distance = 1_000_000, 0.03, 2.0, 3.0
    terms = convex.terms(rate, steps, distance=distance, gradient_norms=norm)
    harmonic = math.fsum(1 / k for k in range(1, steps))
    noise = rate * norm**2 / 2
    expected = distance**2 / (2 * rate * steps), noise, noise * harmonic
    assert_allclose(terms, expected, rtol=1e-12)


PUBLISHED = {
    "linear": [(0.097255, 0.203608), (0.049563, 0.100630), (0.015793, 0.031652)],
    "wsd": [(0.049544, 0.223028), (0.025374, 0.109323), (0.008118, 0.034212)],
    "1-sqrt": [(0.052427, 0.218713), (0.026846, 0.107288), (0.008569, 0.033658)],
    "cosine": [(0.094695, 0.209114), (0.048242, 0.103386), (0.015340, 0.032586)],
    "constant": [(0.040234, 0.248543), (0.018176, 0.137545), (0.005033, 0.049677)],
    "1/sqrt": [(0.238750, 0.225314), (0.212086, 0.122264), (0.183668, 0.043543)],
}


def of_this_package(name, steps):
    run = dict(peak=1.0, total_steps=steps, final_fraction=0.0)
    return {
        "linear": lambda: schedules.linear(**run),
        "wsd": lambda: schedules.wsd(**run, cooldown_fraction=0.2),
        "1-sqrt": lambda: schedules.wsd(**run, cooldown_fraction=0.2, shape="1-sqrt"),
        "cosine": lambda: schedules.cosine(**run),
        "constant": lambda: schedules.constant(peak=1.0),
        "1/sqrt": lambda: schedules.inverse_sqrt(peak=1.0, offset=1),
    }[name]()


def of_the_authors(name, steps):
    """The first T of T + 1 rates, where rate t of a cooldown has (t + 1) / N."""
    rates = np.ones(steps + 1)
    if name == "1/sqrt":
        rates = 1 / np.sqrt(np.arange(steps + 1) + 1)
    if name in ("wsd", "1-sqrt"):
        length = int(0.2 * (steps + 1))
        x = (np.arange(length) + 1) / length
        rates[-length:] = 1 - x if name == "wsd" else 1 - np.sqrt(x)
    if name in ("linear", "cosine"):
        x = np.arange(steps + 1) / steps
        rates = 1 - x if name == "linear" else (1 + np.cos(np.pi * x)) / 2
    return rates[:steps]


@pytest.mark.parametrize("convention", [of_this_package, of_the_authors])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_peaks_and_bounds(name, convention):
    for steps, (multiplier, omega) in zip(
        (100, 400, 4000), PUBLISHED[name], strict=True
    ):
        best = convex.best_peak(convention(name, steps), steps)
        assert_allclose(best.multiplier, multiplier, atol=5.1e-7, rtol=0)
        assert_allclose(best.bound, omega, atol=5.1e-7, rtol=0)


def test_the_best_peak_is_the_best():
    random = np.random.default_rng(1)
    rates, norms = random.exponential(size=(2, 20))
    arguments = dict(distance=2.0, gradient_norms=norms)
    best = convex.best_peak(rates, 20, **arguments)

    def bound(multiplier):
        return convex.bound(multiplier * rates, 20, **arguments)

    assert_allclose(bound(best.multiplier), best.bound, rtol=1e-14)
    for factor in (0.99, 1.01):
        assert bound(factor * best.multiplier) > best.bound
    # Proportional to the distance, and inversely to the gradients.
    scaled = convex.best_peak(rates, 20, distance=6.0, gradient_norms=2 * norms)
    assert_allclose(scaled.multiplier, best.multiplier * 3 / 2, rtol=1e-13)
    assert_allclose(scaled.bound, best.bound * 3 * 2, rtol=1e-13)


def test_the_bound_holds():
    # Subgradients of the largest coordinate's modulus, from distance 1.
    random = np.random.default_rng(2)
    for _ in range(30):
        steps, size = 40, 8
        rates = random.exponential(0.2, size=steps) * np.linspace(1, 0.01, steps)
        weights = random.normal(size=size)
        weights /= np.linalg.norm(weights)
        for t in range(steps - 1):  # x_T: T - 1 updates from x_1
            i = np.argmax(np.abs(weights))
            weights[i] -= rates[t] * np.sign(weights[i])
        assert np.max(np.abs(weights)) <= convex.bound(rates, steps)


def test_linear_decay_is_the_best_among_shapes():
    steps = 400
    left = 1 - np.arange(steps) / steps
    bounds = {p: convex.best_peak(left**p, steps).bound for p in (0.8, 0.9, 1, 1.1, 2)}
    assert min(bounds, key=bounds.get) == 1
    for frequency in (1, 2, 3):
        for size in (-0.1, 0.1):
            wave = 1 + size * np.sin(np.pi * frequency * left)
            assert convex.best_peak(left * wave, steps).bound > bounds[1]
    # Of the average, the constant is.
    flat = convex.averaged_bound(0.05, steps)
    random = np.random.default_rng(3).exponential(0.05, size=steps)
    assert flat == pytest.approx(steps**-0.5)
    assert flat < convex.averaged_bound(random, steps)


def test_the_lowest_bound_is_that_of_linear_decay_but_for_the_end():
    def omega(log_rates_T):
        rates_T = jnp.exp(log_rates_T)
        left_T = jnp.cumsum(rates_T[::-1])[::-1]
        noise_T = jnp.cumsum((rates_T**2)[::-1])[::-1]
        last = jnp.sum(rates_T[:-1] / left_T[1:] * noise_T[:-1] / left_T[:-1])
        return ((1 + noise_T[0]) / left_T[0] + last) / 2

    steps = 160
    with jax.enable_x64(True):
        slope = jax.jit(jax.value_and_grad(omega))
        found = scipy.optimize.minimize(
            lambda x: [np.asarray(value, np.float64) for value in slope(x)],
            np.full(steps, -1.5),
            jac=True,
            method="L-BFGS-B",
            options=dict(maxiter=5_000, gtol=1e-9, ftol=1e-14),
        )
    rates = np.exp(found.x)
    straight = 1 - np.arange(steps) / steps
    assert_allclose((rates / rates[0])[:-1], straight[:-1], atol=0.02)
    assert convex.bound(rates, steps) == pytest.approx(found.fun, rel=1e-12)
    excess = convex.best_peak(straight, steps).bound / found.fun - 1
    assert 0 < excess < 0.012


def test_rates_of_zero_at_the_end_are_left_out():
    rates = np.array([0.5, 0.0, 0.3, 0.1])
    ended = np.append(rates, [0.0, 0.0])
    assert convex.terms(ended, 6) == convex.terms(rates, 4)
    assert_allclose(convex.terms(ended, 6), twin(rates), rtol=1e-14)
    norms = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert convex.bound(ended, 6, gradient_norms=norms) == convex.bound(
        rates, 4, gradient_norms=norms[:4]
    )


def test_the_theorem_on_wsd():
    assert_allclose(convex.wsd_bound(400, 320), 0.134204, atol=5e-7, rtol=0)
    assert_allclose(
        convex.wsd_bound(400, 320, distance=2.0, gradient_norm=3.0),
        6 * convex.wsd_bound(400, 320),
    )
    for steps in (100, 1_000, 4_900):
        schedule = of_this_package("wsd", steps)
        best = convex.best_peak(schedule, steps).bound
        assert 1 < convex.wsd_bound(steps, round(0.8 * steps)) / best < 1.25
    assert np.isfinite(convex.wsd_bound(2, 1))


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (convex.terms, ([0.1, -0.1], 2), r"schedule\(1\)=-0.1 must be a finite rate"),
        (convex.bound, ([0.0, 0.0], 2), "schedule must have a rate above 0"),
        (convex.wsd_bound, (4, 4), "cooldown_start=4 must be below steps=4"),
        (convex.wsd_bound, (4, 0), "cooldown_start=0 must be an integer >= 1"),
        (convex.wsd_bound, (1, 1), "steps=1 must be an integer >= 2"),
    ],
)
def test_errors(function, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        function(*arguments)
    assert "\n" not in str(error.value)


def test_errors_about_distance_and_gradients():
    for distance in (0, -1.0, math.inf, "1", True):
        with pytest.raises(ValueError, match=r"distance=.* must be .*finite and > 0"):
            convex.bound(0.1, 2, distance=distance)
    with pytest.raises(ValueError, match=r"gradient_norms\(1\)=nan must be"):
        convex.bound(0.1, 2, gradient_norms=[1.0, math.nan])
    with pytest.raises(ValueError, match=r"gradient_norms of shape \(3,\) must have"):
        convex.bound(0.1, 2, gradient_norms=np.ones(3))
    with pytest.raises(ValueError, match="gradient_norms must be above 0 where"):
        convex.best_peak(0.1, 2, gradient_norms=0.0)
