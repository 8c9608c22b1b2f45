"""Averaged weights under a law: twins of the sums, and a quadratic's exact risk."""

import math
import warnings

import numpy as np
import pytest

from anytime_jax import averaging, laws, schedules, theory
from tests import trained

LAW = laws.MultiPowerLaw(L0=3.0, A=0.5, alpha=0.5, B=400.0, C=1.0, beta=0.5, gamma=0.5)
AVERAGES = dict(
    ema25=averaging.age_ema(divisor=25),
    ema3=averaging.age_ema(divisor=3),
    uniform=averaging.uniform(),
    tail=averaging.tail(start=300),
    ema=averaging.ema(decay=0.98, debias=False),
    plain=lambda t: min(1.0, 4 / t),
)


def test_the_newest_weights_have_the_loss_of_the_law():
    trunk = schedules.constant(peak=3e-4, warmup_steps=100)
    at = np.array([500, 200, 999])
    found = laws.predict_average(LAW, trunk, averaging.latest(), at)
    np.testing.assert_allclose(found, LAW.predict(trunk, at), rtol=1e-12)


def test_the_equivalent_of_a_constant_rate_is_a_decay_to_nearly_zero():
    for average in AVERAGES.values():
        rates_T = laws.equivalent_rates(2.0, average, 1000)
        assert (np.diff(rates_T) <= 1e-12).all()
        assert rates_T[0] <= 2.0 * (1 + 1e-12)
        assert rates_T[-1] == pytest.approx(2.0 * float(average(1000)), rel=1e-6)


def test_rates_may_be_a_schedule_a_number_or_longer_than_the_horizon():
    table = laws.equivalent_rates(np.full(50, 0.5), averaging.uniform(), 20)
    number = laws.equivalent_rates(0.5, averaging.uniform(), 20)
    called = laws.equivalent_rates(lambda t: 0.5, averaging.uniform(), 20)
    np.testing.assert_array_equal(table, number)
    np.testing.assert_array_equal(called, number)


@pytest.mark.parametrize("name", AVERAGES)
def test_the_sum_over_pairs_is_that_of_all_iterates(name):
    """Without a gain from decay only the two sums of powers are left."""
    law = laws.MultiPowerLaw(
        L0=1.0, A=0.7, alpha=0.45, B=0.0, C=1.0, beta=0.5, gamma=0.5
    )
    trunk, updates = schedules.constant(peak=1e-2, warmup_steps=50), 600
    share_T = averaging.kernel(AVERAGES[name], updates)
    share_T[0] += 1 - share_T.sum()
    sums_T = np.cumsum(schedules.rates(trunk, updates))
    pairs = 0.0
    for share, total in zip(share_T, sums_T, strict=True):
        pairs += share * share_T @ ((total + sums_T) / 2) ** -0.45
    [found] = laws.predict_average(law, trunk, AVERAGES[name], [updates - 1])
    assert found == pytest.approx(1.0 + 0.7 * pairs, rel=2e-3)


@pytest.mark.parametrize("name", ["ema25", "ema3", "uniform"])
def test_what_is_left_of_the_start_is_that_of_a_quadratic(name):
    """Gradient descent on a power-law spectrum, whose risk is A S^-alpha, exactly."""
    problem = theory.LinearRegression(
        capacity=1.5, source=1.75, dimension=math.inf, noise=0
    )
    updates, rate = 20_000, 0.5
    average = AVERAGES[name]
    risk = theory.sgd_risk(
        problem, rate, dict(average=average), updates, batch_size=math.inf
    )
    law = laws.SimpleLaw(
        L0=0.0, A=float(risk["raw"][0]) * (rate * updates) ** 0.5, alpha=0.5, B=0.0
    )
    [found] = laws.predict_average(law, rate, average, [updates - 1])
    assert found == pytest.approx(float(risk["average"][0]), rel=0.01)


def test_an_average_that_forgets_hardly_needs_the_pairs():
    at = [5000]
    for name, most in (("ema25", 2e-3), ("uniform", math.inf)):
        decayed = laws.equivalent_rates(3e-4, AVERAGES[name], at[0] + 1)
        plain = LAW.predict(decayed, at)
        pairs = laws.predict_average(LAW, 3e-4, AVERAGES[name], at)
        assert 0 < (pairs - plain)[0] < most


def test_every_law_predicts_averages():
    common = dict(L0=3.0, A=0.5, alpha=0.5)
    members = (
        laws.SimpleLaw(**common, B=400.0),
        laws.AnnealingLaw(**common, C=20.0, memory=50.0),
        laws.AnnealingLaw(**common, C=20.0, memory=50.0, warmup="constant"),
        laws.FunctionalScalingLaw(
            L0=3.0, c1=0.5, s=0.5, c2=1e3, c3=1.0, c4=100.0, gamma=0.5
        ),
    )
    trunk = schedules.constant(peak=3e-4, warmup_steps=500)
    for law in members:
        raw = law.predict(trunk, [9999])
        average = laws.predict_average(law, trunk, AVERAGES["ema25"], [9999])
        latest = laws.predict_average(law, trunk, averaging.latest(), [9999])
        assert average[0] < raw[0]
        np.testing.assert_allclose(latest, raw, rtol=1e-12)


@pytest.mark.parametrize(
    "kind", [laws.MultiPowerLaw, laws.AnnealingLaw, laws.FunctionalScalingLaw]
)
def test_averages_of_trained_runs_are_foretold_by_their_raw_losses(kind):
    """Far better than by the raw weights themselves, and no more than that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", laws.UnidentifiedWarning)
        law = kind.fit([trained.curve(schedule) for schedule in trained.SCHEDULES])
    for schedule in ("constant", "inverse_sqrt"):
        made = trained.curve(schedule, "ema25")
        late = made.steps > 1536
        at, losses = made.steps[late], made.losses[late]
        found = laws.predict_average(law, made.rates, AVERAGES["ema25"], at)
        error = np.abs(found - losses).mean()
        assert error < 0.04
        assert error < 0.6 * np.abs(law.predict(made.rates, at) - losses).mean()


def test_errors():
    with pytest.raises(ValueError, match=r"^updates=0 must be an integer >= 1$"):
        laws.equivalent_rates(0.5, averaging.uniform(), 0)
    with pytest.raises(ValueError, match=r"^rates of shape \(3,\) must have"):
        laws.equivalent_rates([0.5] * 3, averaging.uniform(), 4)
    with pytest.raises(ValueError, match=r"^at=.* must be integers >= 0"):
        laws.predict_average(LAW, 3e-4, averaging.uniform(), [-1])
