"""Tuning: which setting is chosen, by a search written out, and the known table."""

import functools
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax import averaging, schedules
from anytime_jax.theory import (
    Envelope,
    LinearRegression,
    envelope,
    family_risk,
    optimal_exponent,
    predicted_rate,
    rank,
    rate_grid,
    sgd_risk,
    tune,
)

PROBLEM = LinearRegression(capacity=1.5, source=3, dimension=30, noise=1).expanded()
HORIZONS = [30, 60, 240]
RATES = [0.02, 0.1, 0.3, 0.5, 0.9]
FAMILY = dict(
    constant=schedules.constant(peak=1.0),
    sqrt=schedules.inverse_sqrt(peak=1.0, offset=16),
)
AVERAGES = dict(ema=averaging.age_ema(divisor=6.25), uniform=averaging.uniform())


def cosine(horizon):
    return schedules.cosine(peak=1.0, total_steps=horizon, final_fraction=0.1)


def test_optimal_exponents():
    exponents = [optimal_exponent(1.5, b) for b in (0.3, 1.5, 2, 3, 6)]
    assert_allclose(exponents, [0, 0, 0.25, 0.5, 0.75], rtol=1e-15)


@pytest.mark.parametrize("a", [1.1, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("b", [1.05, 1.5, 2.0, 4.5])
def test_predicted_rates(a, b):
    best = predicted_rate(a, b)
    assert_allclose(best, 1 - 1 / b if b >= a else (b - 1) / a, rtol=1e-14)
    # No other exponent is better, and the optimal one is written as the default.
    others = [predicted_rate(a, b, g) for g in np.linspace(0, 0.99, 100)]
    assert max(others) <= best + 1e-14
    assert predicted_rate(a, b, optimal_exponent(a, b)) == best
    # The bias falls as the part of the target that is left, the noise as 1/k.
    learned = 10.0 ** (12 * 0.6 / a)
    terms = learned ** (1 - b), learned / 1e12
    assert_allclose(predicted_rate(a, b, 0.4), -math.log10(max(terms)) / 12, rtol=1e-12)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (optimal_exponent, (0, 2), "capacity=0 must be finite and > 0"),
        (optimal_exponent, (1, -2), "source=-2 must be finite and > 0"),
        (optimal_exponent, (math.nan, 2), "capacity=nan must be finite and > 0"),
        (
            optimal_exponent,
            (1.5, "2"),
            "source='2' must be a Python or NumPy number, finite and > 0",
        ),
        (predicted_rate, (1, 2), "capacity=1 must be finite and > 1"),
        (predicted_rate, (1.5, 0.9), "source=0.9 must be finite and > 1"),
        (predicted_rate, (1.5, math.inf), "source=inf must be finite and > 1"),
        (predicted_rate, (1.5, 2, 1), "exponent=1 must be in [0, 1)"),
        (predicted_rate, (1.5, 2, -0.1), "exponent=-0.1 must be in [0, 1)"),
    ],
)
def test_refuses_bad_exponents(function, arguments, message):
    with pytest.raises(ValueError) as caught:
        function(*arguments)
    assert str(caught.value) == message


def test_rate_grids():
    rates = rate_grid(PROBLEM)
    assert rates.shape == (25,)
    assert_allclose(rates[[0, -1]] * PROBLEM.trace, [0.01, 3], rtol=1e-13)
    assert_allclose(np.diff(np.log(rates)), math.log(300) / 24, rtol=1e-12)
    assert rate_grid(PROBLEM, 3).shape == (3,)


@functools.cache
def cosine_risks(rate):
    """One cosine run for each horizon, infinite where it diverges."""
    risks = []
    for horizon in HORIZONS:
        cosine_T = np.cos(np.pi * np.arange(horizon) / horizon)
        # A rate of 0 beside it, so that a divergence is no error.
        run = (PROBLEM, 0.1 + 0.45 * (1 + cosine_T), {}, horizon)
        risks.append(sgd_risk(*run, rates=[rate, 0.0])["raw"][0, 0])
    return risks


@functools.cache
def trunk_risks(schedule, rate):
    """One run for all horizons: its risks at each, by average."""
    run = (PROBLEM, FAMILY[schedule], AVERAGES, HORIZONS[-1])
    found = sgd_risk(*run, record=HORIZONS, rates=[rate, 0.0])
    return {name: risk[0] for name, risk in found.items()}


@functools.cache
def baseline():
    return envelope(PROBLEM, cosine, HORIZONS, rates=RATES)


def test_family_risks_are_single_runs():
    found = family_risk(PROBLEM, cosine, HORIZONS, RATES)
    expected = [cosine_risks(rate) for rate in RATES]
    assert found.shape == (5, 3)
    assert_allclose(found, expected, rtol=1e-12)
    larger = family_risk(PROBLEM, cosine, HORIZONS, RATES, batch_size=8)
    assert (larger < found).all()


def test_the_envelope_is_tuned_at_every_horizon():
    found = baseline()
    assert isinstance(found, Envelope)
    assert_array_equal(found.horizons, HORIZONS)
    for index in range(len(HORIZONS)):
        risks = [cosine_risks(rate)[index] for rate in RATES]
        best = risks.index(min(risks))
        assert_allclose(found.risk[index], risks[best], rtol=1e-12)
        assert found.rate[index] == RATES[best]
        assert found.at_edge[index] == (best in (0, 4))
    assert not found.at_edge.any()


def test_the_envelope_says_where_the_grid_is_too_short():
    low = envelope(PROBLEM, cosine, HORIZONS, rates=[1e-3, 2e-3])
    both = envelope(PROBLEM, cosine, HORIZONS, rates=[0.01, 0.06, 0.1])
    assert low.rate.tolist() == [2e-3] * 3
    assert low.at_edge.all()
    assert both.at_edge.tolist() == [rate != 0.06 for rate in both.rate]
    assert set(both.at_edge) == {True, False}


def test_edges_are_those_of_the_rates_in_any_order():
    found = envelope(PROBLEM, cosine, HORIZONS, rates=RATES[::-1])
    assert not found.at_edge.any()
    shuffled = [RATES[k] for k in (2, 0, 4, 1, 3)]
    for rates in (RATES, shuffled):
        choices = dict(baseline=baseline(), rates=rates)
        best = tune(PROBLEM, FAMILY, AVERAGES, HORIZONS, **choices)
        assert best.rate not in (min(RATES), max(RATES))
        assert not best.at_edge


def test_diverging_rates_lose():
    found = envelope(PROBLEM, cosine, [2000], rates=[0.02, 0.1, 5.0])
    assert family_risk(PROBLEM, cosine, [2000], [5.0, 0.1])[0, 0] == math.inf
    assert found.risk < 1
    assert found.rate < 5


@pytest.mark.parametrize("objective", ["worst", "mean"])
def test_ranks_as_a_search_does(objective):
    settings = rank(
        PROBLEM, FAMILY, AVERAGES, HORIZONS, rates=RATES, objective=objective
    )
    names = {(x.schedule, x.average) for x in settings}
    assert names == {(s, a) for s in FAMILY for a in ("raw", *AVERAGES)}
    envelope_risks = np.min([cosine_risks(rate) for rate in RATES], axis=0)
    for setting in settings:
        scores = []
        for rate in RATES:
            risks = trunk_risks(setting.schedule, rate)[setting.average]
            pairs = zip(risks, envelope_risks, strict=True)
            regrets = [math.log(risk / least) for risk, least in pairs]
            score = max(regrets) if objective == "worst" else math.fsum(regrets) / 3
            scores.append((score, rate, regrets))
        score, rate, regrets = min(scores)
        assert setting.rate == rate
        assert_allclose(setting.score, score, rtol=1e-10)
        assert_allclose(setting.regret, regrets, rtol=0, atol=1e-12)
        assert_allclose(
            setting.risk, envelope_risks * np.exp(setting.regret), rtol=1e-12
        )
        assert setting.at_edge is (rate in (RATES[0], RATES[-1]))
    assert [x.score for x in settings] == sorted(x.score for x in settings)


def test_tune_is_the_first_of_rank():
    choices = dict(rates=RATES, objective="mean", baseline=baseline(), batch_size=2)
    best = tune(PROBLEM, FAMILY, AVERAGES, HORIZONS, **choices)
    first = rank(PROBLEM, FAMILY, AVERAGES, HORIZONS, **choices)[0]
    assert best._replace(risk=0, regret=0) == first._replace(risk=0, regret=0)
    assert_array_equal(best.regret, first.regret)


def test_both_objectives_differ_and_edges_are_told():
    """The worst regret of a rate that suits long runs is at the short ones."""
    family = dict(constant=FAMILY["constant"])
    choices = dict(baseline=baseline(), rates=np.geomspace(0.005, 0.5, 60))
    worst, mean = (
        tune(PROBLEM, family, {}, HORIZONS, objective=x, **choices)
        for x in ("worst", "mean")
    )
    assert worst.score == worst.regret.max() <= mean.regret.max()
    assert_allclose(mean.score, mean.regret.mean(), rtol=1e-12)
    assert mean.score <= worst.regret.mean()
    assert worst.rate != mean.rate
    low = tune(PROBLEM, family, {}, HORIZONS, baseline=baseline(), rates=[1e-3, 2e-3])
    assert low.at_edge is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(objective="best"), "objective='best' must be one of worst, mean"),
        (
            dict(schedule_family={}),
            "schedule_family must name at least one schedule",
        ),
        (
            dict(schedule_family=[]),
            "schedule_family=[] must map names to horizon-free schedules",
        ),
        (dict(averages=[1]), "averages=[1] must map names to averages"),
        (dict(horizons=[]), "horizons=[] must be numbers of updates"),
        (dict(horizons=7), "horizons=7 must be numbers of updates"),
        (dict(horizons=[0, 5]), "horizons=0 must be an integer >= 1"),
        (dict(horizons=[5.0]), "horizons=5.0 must be an integer >= 1"),
        (dict(horizons=[5, 5]), "horizons=[5, 5] must ascend"),
        (dict(horizons=[9, 5]), "horizons=[9, 5] must ascend"),
        (
            dict(horizons=[30, 60]),
            "baseline.horizons=[30, 60, 240] must be horizons=[30, 60]",
        ),
        (
            dict(rates=[]),
            "rates=[] must be multipliers, at least one",
        ),
        (dict(rates=[-0.1]), "rates: -0.1 must be finite and >= 0"),
        (
            dict(averages=dict(raw=averaging.latest())),
            "averages: the name 'raw' is that of the weights themselves",
        ),
    ],
)
def test_refuses_bad_choices(change, message):
    choices = dict(schedule_family=FAMILY, averages=AVERAGES, horizons=HORIZONS)
    choices |= dict(baseline=baseline(), rates=RATES)
    with pytest.raises(ValueError) as caught:
        rank(PROBLEM, **choices | change)
    assert str(caught.value) == message


def test_refuses_rates_that_all_diverge():
    message = (
        r"^schedule: its rate is never below 5; the largest stable rate at a batch"
    )
    with pytest.raises(ValueError, match=message):
        rank(PROBLEM, FAMILY, {}, HORIZONS, baseline=baseline(), rates=[5.0, 9.0])
    to_zero = functools.partial(schedules.linear, peak=1.0)
    message = r"^schedule diverges: the risk is over 1e\+150 after \d+ updates"
    with pytest.raises(ValueError, match=message):
        envelope(PROBLEM, lambda t: to_zero(total_steps=t), [5000], rates=[8.0, 9.0])
    with pytest.raises(ValueError, match=r"^horizons=\[9, 5\] must ascend$"):
        envelope(PROBLEM, cosine, [9, 5], rates=RATES)


def tail_half(t):
    """The mean over (H/2, H] at every horizon H = 512 x 2^k."""
    horizon = 512
    while horizon < t:
        horizon *= 2
    return 1.0 if t <= horizon / 2 else 1 / (t - horizon / 2)


def ratios(text):
    return [float(x) for x in text.split()]


# Reference, 1.6, b = 2a: risk over that of the tuned cosine at 1x, 2x, ... 32x.
TABLE = {
    ("constant", "raw"): ratios("2.40 1.73 1.48 1.57 2.02 2.90"),
    ("constant", "tail"): ratios("1.30 1.04 .96 .98 1.08 1.25"),
    ("quarter", "tail"): ratios("1.14 1.04 .98 .95 .94 .95"),
    ("half", "tail"): ratios("1.19 1.18 1.18 1.17 1.16 1.14"),
    ("offset", "tail"): ratios("1.02 .98 .98 .97 .97 .96"),
    ("offset", "ema"): ratios("1.04 .98 .96 .94 .93 .91"),
}
SLOPES = {
    ("constant", "raw"): -0.09,
    ("constant", "tail"): -0.41,
    ("quarter", "tail"): -0.61,
    ("half", "tail"): -0.64,
    ("offset", "tail"): -0.63,
    ("offset", "ema"): -0.64,
}
LAW = LinearRegression(capacity=1.5, source=3, dimension=20_000, noise=1)
DOUBLINGS = [512 * 2**k for k in range(6)]


@functools.cache
def reference_envelope():
    return envelope(LAW, cosine, DOUBLINGS)


def test_the_table_of_the_reference():
    family = dict(
        constant=schedules.constant(peak=1.0),
        quarter=lambda t: (t + 1) ** -0.25,
        half=lambda t: (t + 1) ** -0.5,
        offset=schedules.inverse_sqrt(peak=1.0, offset=128),
    )
    averages = dict(tail=tail_half, ema=averaging.age_ema(divisor=6.25))
    settings = rank(
        LAW,
        family,
        averages,
        DOUBLINGS,
        objective="mean",
        baseline=reference_envelope(),
    )
    found = {(x.schedule, x.average): x for x in settings}
    for key, expected in TABLE.items():
        setting = found[key]
        assert not setting.at_edge
        # Half a digit of the table, whose own nodes are right to some 3e-4.
        assert_allclose(np.exp(setting.regret), expected, atol=0.0056, err_msg=key)
        slope = math.log2(setting.risk[-1] / setting.risk[-2])
        assert_allclose(slope, SLOPES[key], atol=0.0051, err_msg=key)


def test_a_horizon_aware_row_of_the_reference():
    """WSD, 10 % to a tenth, at the one rate of smallest mean log-risk."""

    def wsd(horizon):
        # Unlike the package's it reaches its floor at the last update.
        return lambda t: 1 - 9 * max(0, (t + 1) / horizon - 0.9)

    risk = family_risk(LAW, wsd, DOUBLINGS, rate_grid(LAW))
    best = np.log(risk).mean(axis=1).argmin()
    found = risk[best] / reference_envelope().risk
    assert_allclose(found, ratios("1.97 1.47 1.30 1.31 1.51 1.86"), atol=0.0056)
