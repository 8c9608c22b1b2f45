import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax import averaging, schedules
from anytime_jax.theory import equivalence

STEPS = 60
AVERAGES = {
    "latest": averaging.latest(),
    "uniform": averaging.uniform(),
    "age_ema": averaging.age_ema(divisor=6.25),
    "age_ema_narrow": averaging.age_ema(divisor=100),
    "power": averaging.power(gamma=3),
    "power_wide": averaging.power(gamma=-0.5),
    "polynomial": averaging.polynomial(eta=3),
    "ema": averaging.ema(decay=0.9),
    "ema_biased": averaging.ema(decay=0.98, debias=False),
    "tail": averaging.tail(start=40),
    "tail_of_nothing": averaging.tail(start=100),
    "with_the_initial_weights": lambda t: 1 / (t + 1),
    "never": lambda t: 0.0,
    "late": lambda t: 0.0 if t < 30 else 0.1,
}
RATES = {
    "small": 0.01,
    "middle": 0.3,
    "one": 1.0,
    "decaying": schedules.inverse_sqrt(peak=0.5, offset=5, warmup_steps=4),
    "random": np.random.default_rng(0).uniform(0.01, 1, size=STEPS),
}


def run(rates, samples, initial):
    """All iterates, w_1 to w_T."""
    iterates, weight = [], initial
    for rate, sample in zip(rates, samples, strict=True):
        weight = (1 - rate) * weight + rate * sample
        iterates.append(weight)
    return iterates


def averaged(average, iterates, initial):
    value = initial
    for t, iterate in enumerate(iterates, 1):
        value = value + float(average(t)) * (iterate - value)
    return value


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("average", AVERAGES)
def test_the_last_iterate_is_the_average(average, rate):
    average, rate = AVERAGES[average], RATES[rate]
    random = np.random.default_rng(1)
    samples, initial = random.normal(size=STEPS), 3.0
    own = rate
    if callable(rate):
        own = equivalence.values.rates(rate, STEPS)
    own = np.broadcast_to(own, STEPS)
    expected = averaged(average, run(own, samples, initial), initial)
    rates = equivalence.equivalent_schedule(average, rate, STEPS)
    assert rates.dtype == np.float64
    assert np.all((rates >= 0) & (rates <= 1))
    assert abs(run(rates, samples, initial)[-1] - expected) < 1e-12
    table = schedules.from_values(values=rates)
    assert_allclose(table(np.arange(STEPS)), rates, rtol=1e-6)


def test_published_rates():
    # N = 12: the mean of w_1 ... w_12, where w_1 is the initial weight, after 11
    # updates.
    published = [0.2297, 0.1855, 0.1548, 0.1320, 0.1139, 0.0987, 0.0851, 0.0721]
    published += [0.0587, 0.0436, 0.0250]
    rates = equivalence.equivalent_schedule(lambda t: 1 / (t + 1), 0.3, 11)
    assert_allclose(rates, published, atol=5.1e-5)


def test_averaging_decays_to_zero():
    rate, steps = 0.05, 1_000
    rates = equivalence.equivalent_schedule(averaging.uniform(), rate, steps)
    assert np.all(np.diff(rates[1:]) < 0)
    assert_allclose(rates[-1], rate / steps, rtol=1e-12)
    # As long as what comes is much longer than 1 / rate, 1 / (k + 1 / rate - 1).
    k = np.arange(1, 601)
    assert_allclose(rates[:600], 1 / (k + 1 / rate - 1), rtol=1e-7)


def test_latest_is_the_run_itself():
    for rate in RATES.values():
        rates = equivalence.equivalent_schedule(averaging.latest(), rate, STEPS)
        own = equivalence.values.rates(rate, STEPS)
        assert_allclose(rates, own, rtol=1e-13)


def test_early_rates_are_right_where_their_weights_are_tiny():
    # (k / T)^7 of the weight is left to w_k: 1e-35 for the first of them.
    steps, gamma = 100_000, 6
    rates = equivalence.equivalent_schedule(averaging.power(gamma=gamma), 1.0, steps)
    k = np.arange(1.0, steps + 1)
    assert_allclose(rates, 1 - (1 - 1 / k) ** (gamma + 1), rtol=1e-7)


def test_a_forgotten_past_keeps_the_rates_of_the_run():
    rates = equivalence.equivalent_schedule(averaging.tail(start=3), 1.0, 5)
    assert_array_equal(rates, [1, 1, 1, 1, 0.5])


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (0.0, r"rate\(0\)=0.0 must be in \(0, 1\]"),
        ([0.5, 1.5], r"rate\(1\)=1.5 must be in \(0, 1\]"),
        ([0.5, -0.5], r"rate\(1\)=-0.5 must be a finite rate"),
        ([0.5], r"rate of shape \(1,\) must have one rate"),
    ],
)
def test_errors(rate, message):
    with pytest.raises(ValueError, match=message) as error:
        equivalence.equivalent_schedule(averaging.uniform(), rate, 2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("average", "message"),
    [
        (0.5, "average=0.5 must be an average, or a callable from update to"),
        (lambda t: 0.75 * t, r"average: its weight at update 2, 1.5, must be in"),
        (lambda t: float("nan"), "average: its weight at update 1, nan, must be in"),
    ],
)
def test_errors_about_averages(average, message):
    with pytest.raises(ValueError, match=message) as error:
        equivalence.equivalent_schedule(average, 0.5, 2)
    assert "\n" not in str(error.value)


def test_averages_are_asked_in_float64():
    def average(t):
        return 1 - jnp.exp2(-6.25 / t)

    rates = equivalence.equivalent_schedule(average, 0.3, STEPS)
    exact = equivalence.equivalent_schedule(AVERAGES["age_ema"], 0.3, STEPS)
    assert_allclose(rates, exact, rtol=1e-12)


def test_a_million_updates():
    steps = 10**6
    rates = equivalence.equivalent_schedule(averaging.uniform(), 0.1, steps)
    # The weights of the samples, from the rates: (1 - (1 - eta)^(T - k + 1)) / T.
    later = np.cumsum(np.log1p(-rates[:0:-1]))[::-1]
    weight = rates * np.exp(np.append(later, 0.0))
    expected = -np.expm1(np.arange(steps, 0, -1) * np.log1p(-0.1)) / steps
    assert_allclose(weight, expected, rtol=1e-9)
