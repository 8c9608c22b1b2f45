"""Kernels against slow twins, closed forms and published moments."""

import math

import numpy as np
import pytest

from anytime_jax import averaging
from anytime_jax.averaging import kernel

AVERAGES = {
    "latest": averaging.latest(),
    "uniform": averaging.uniform(),
    "ema25": averaging.age_ema(divisor=25),
    "power": averaging.power(gamma=1.5),
    "polynomial": averaging.polynomial(eta=3),
    "ema": averaging.ema(decay=0.9),
    "ema biased": averaging.ema(decay=0.9, debias=False),
    "tail": averaging.tail(start=20),
    "callable": lambda t: 9 / (9 + t),
}


def _slow_kernel(average, steps, every):
    """The recursion run on coefficients; entry 0 belongs to the initial parameters."""
    coefficients = np.zeros(steps + 1)
    coefficients[0] = 1.0
    for tick in range(every, steps + 1, every):
        kept = math.prod(1 - average(i) for i in range(tick - every + 1, tick + 1))
        coefficients *= kept
        coefficients[tick] += 1 - kept
    return coefficients


@pytest.mark.parametrize("every", [1, 3, 10])
@pytest.mark.parametrize("name", AVERAGES)
def test_kernel_is_the_recursion_run_on_coefficients(name, every):
    slow = _slow_kernel(AVERAGES[name], 61, every)
    fast = kernel(AVERAGES[name], 61, every=every)
    assert fast.dtype == np.float64
    np.testing.assert_allclose(fast, slow[1:], rtol=1e-10, atol=1e-14)
    # The initial parameters are as old as the run.
    ages = np.arange(61, -1, -1)
    age = averaging.mean_age(AVERAGES[name], 61, every=every)
    np.testing.assert_allclose(age, slow @ ages, rtol=1e-12, atol=1e-12)
    samples = averaging.effective_samples(AVERAGES[name], 61, every=every)
    np.testing.assert_allclose(samples, 1 / (slow @ slow), rtol=1e-12)


def test_before_the_first_tick_all_belongs_to_the_initial_parameters():
    np.testing.assert_array_equal(kernel(averaging.uniform(), 4, every=5), np.zeros(4))
    assert averaging.mean_age(averaging.uniform(), 4, every=5) == 4
    assert averaging.effective_samples(averaging.uniform(), 4, every=5) == 1


def _harmonic(t):
    return math.fsum(1 / i for i in range(1, t + 1))


def _shamir_zhang(i, t, eta=3.5):
    logs = math.lgamma(i + eta) + math.lgamma(t)
    logs -= math.lgamma(i) + math.lgamma(t + eta + 1)
    return (eta + 1) * math.exp(logs)


# (average, the coefficient of theta_i at t): the exact kernels of each method.
IDENTITIES = {
    "uniform": (averaging.uniform(), lambda i, t: 1 / t),
    "EDM2": (
        averaging.power(gamma=6.94),
        lambda i, t: (i**7.94 - (i - 1) ** 7.94) / t**7.94,
    ),
    "Shamir-Zhang": (averaging.polynomial(eta=3.5), _shamir_zhang),
    "anytime": (
        averaging.age_ema(divisor=12.5),
        lambda i, t: (
            (1 - 2 ** (-12.5 / i)) * 2 ** (-12.5 * (_harmonic(t) - _harmonic(i)))
        ),
    ),
    "debiased": (
        averaging.ema(decay=0.99),
        lambda i, t: 0.01 * 0.99 ** (t - i) / (1 - 0.99**t),
    ),
    "biased": (
        averaging.ema(decay=0.99, debias=False),
        lambda i, t: 0.01 * 0.99 ** (t - i),
    ),
    "tail": (averaging.tail(start=150), lambda i, t: (i > 150) / (t - 150)),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_exact_kernel(name):
    average, coefficient = IDENTITIES[name]
    expected = [coefficient(i, 200) for i in range(1, 201)]
    np.testing.assert_allclose(kernel(average, 200), expected, rtol=1e-9, atol=1e-30)


# The power family, published to the digits shown.
MOMENTS = """
    average                          gamma  sigma  mean age  half-life  effective
    uniform()                        0      0.289  0.500     -          1.00
    power(sigma_rel=0.25)            0.72   0.250  0.368     0.403      0.83
    power(sigma_rel=0.20)            1.83   0.200  0.261     0.245      0.58
    age_ema(divisor=5)               2.47   0.178  0.224     0.200      0.49
    polynomial(eta=3)                3      0.163  0.200     0.173      0.44
    age_ema(divisor=6.25)            3.33   0.155  0.188     0.160      0.41
    age_ema(divisor=10)              5.93   0.111  0.126     0.100      0.27
    power(sigma_rel=0.10)            6.94   0.100  0.112     0.087      0.24
    age_ema(divisor=12.5)            7.66   0.093  0.104     0.080      0.22
    power(gamma=8)                   8      0.090  0.100     0.077      0.21
    age_ema(divisor=25)              16.33  0.0517 0.055     0.040      0.11
    power(sigma_rel=0.05)            16.97  0.050  0.053     0.039      0.11
    age_ema(divisor=50)              33.7   0.0273 0.028     0.020      0.057
    age_ema(divisor=100)             68.3   0.0140 0.014     0.010      0.029
"""


def _first(row):
    return row.split()[0]


def _rounds_to(value, published):
    digits = len(published.partition(".")[2])
    return abs(value - float(published)) <= 0.55 * 10.0**-digits


@pytest.mark.parametrize("row", MOMENTS.strip().splitlines()[1:], ids=_first)
def test_moments_are_the_published_ones(row):
    expression, gamma, sigma_rel, mean_age, half_life, effective = row.split()
    name, _, argument = expression.rstrip(")").partition("(")
    key, _, value = argument.partition("=")
    average = getattr(averaging, name)(**({key: float(value)} if key else {}))
    # Large enough that the discrete kernel has the continuous one's moments.
    steps = 100_000
    coefficients = kernel(average, steps)
    positions = np.arange(1, steps + 1) / steps
    mean = coefficients @ positions
    width = np.sqrt(coefficients @ (positions - mean) ** 2)
    assert _rounds_to(width, sigma_rel)
    assert _rounds_to(averaging.mean_age(average, steps) / steps, mean_age)
    assert _rounds_to(averaging.effective_samples(average, steps) / steps, effective)
    instantaneous = steps * float(average(steps))  # gamma + 1
    assert _rounds_to(instantaneous - 1, gamma)
    if half_life != "-":
        assert _rounds_to(math.log(2) / instantaneous, half_life)


@pytest.mark.parametrize("gamma", [0.0, 1.5, 6.94, 16.97])
def test_moments_of_the_power_family(gamma):
    average, steps = averaging.power(gamma=gamma), 100_000
    age = averaging.mean_age(average, steps) / steps
    np.testing.assert_allclose(age, 1 / (gamma + 2), rtol=1e-3)
    effective = averaging.effective_samples(average, steps) / steps
    np.testing.assert_allclose(effective, (2 * gamma + 1) / (gamma + 1) ** 2, rtol=1e-3)


@pytest.mark.parametrize("every", [1, 10, 100])
def test_ticking_every_k_steps_keeps_the_width(every):
    # Karras' rule with (1 - 1/t) in place of (1 - k/t) gives sigma_rel = 0.297 for
    # k = 10 and almost the initial weights for k = 100, where 0.10 was asked for.
    average, steps = averaging.power(sigma_rel=0.10), 4000
    coefficients = kernel(average, steps, every=every)
    positions = np.arange(1, steps + 1) / steps
    mean = coefficients @ positions
    width = np.sqrt(coefficients @ (positions - mean) ** 2)
    np.testing.assert_allclose(width, 0.10, rtol=0.02)
    np.testing.assert_allclose(1 - mean, 0.112, atol=0.0005 + every / steps / 2)


@pytest.mark.parametrize("name", AVERAGES)
def test_implied_decay_is_an_identity_in_weight_space(name):
    rng = np.random.default_rng(1)
    initial, updates = rng.normal(size=1), rng.normal(size=(40, 1))
    trajectory = initial - np.cumsum(updates, axis=0)
    coefficients = kernel(AVERAGES[name], 40, every=3)
    average = coefficients @ trajectory + (1 - coefficients.sum()) * initial
    multipliers = averaging.implied_decay(AVERAGES[name], 40, every=3)
    assert np.all(np.diff(multipliers) <= 1e-15)
    np.testing.assert_allclose(average, initial - multipliers @ updates, rtol=1e-10)


@pytest.mark.parametrize(
    ("average", "multiplier", "position"),
    [
        (averaging.age_ema(divisor=25), 0.9, 0.88),
        (averaging.age_ema(divisor=25), 0.5, 0.96),
        (averaging.age_ema(divisor=25), 0.1, 0.994),
        (averaging.power(sigma_rel=0.10), 0.9, 0.75),
        (averaging.power(sigma_rel=0.10), 0.5, 0.92),
        (averaging.uniform(), 0.25, 0.75),
        (averaging.tail(start=8000), 0.5, 0.9),
    ],
)
def test_which_decay_an_average_imitates(average, multiplier, position):
    decay = averaging.implied_decay(average, 10_000)
    reached = np.count_nonzero(decay > multiplier) / 10_000
    assert abs(reached - position) <= 0.005


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(steps=0), "steps=0 must be an integer >= 1"),
        (dict(steps=10.0), "steps=10.0 must be an integer"),
        (dict(steps=10, every=0), "every=0 must be an integer >= 1"),
        (dict(steps=10, every=True), "every=True must be an integer"),
    ],
)
def test_bad_counts_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        kernel(averaging.uniform(), **arguments)


def test_in_tokens_an_update_is_as_many_updates_of_one_token():
    tokens = np.array([3, 1, 2, 5])
    for average, _ in IDENTITIES.values():
        fine = averaging.kernel(average, tokens.sum())
        expected = np.add.reduceat(fine, np.cumsum(tokens) - tokens)
        actual = averaging.kernel(average, len(tokens), tokens=tokens)
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("tokens", [0, -3, [1, 2], [1, 2, 0], 1.5])
def test_tokens_that_are_not_possible(tokens):
    with pytest.raises(ValueError, match=r"tokens.* must be a"):
        averaging.kernel(averaging.uniform(), 3, tokens=tokens)
