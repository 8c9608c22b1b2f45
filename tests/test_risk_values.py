"""Risks against published numbers: figure 3 of arXiv 2602.03702 and golden values."""

import functools
import json
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from anytime_jax import averaging
from anytime_jax.theory import LinearRegression, sgd_risk
from experiments import published

FIGURE_3 = published.find("anytime/figure3_synthetic_sigma2_0.01.json")
MULTIPLIERS = np.array(
    [
        *(1e-4, 2e-4, 5e-4, 7e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 3e-2, 5e-2, 7.5e-2),
        *(0.1, 0.2, 0.3, 0.5, 0.8, 1, 2, 3, 5, 10),
    ]
)
CHECKPOINTS = [1000, 2000, 3000, 5000, 8000, 10000, 20000, 50000]


@functools.cache
def figure_3(a, b, normalize):
    """The problem of one panel."""
    law = dict(capacity=a, source=b, dimension=500_000, noise=0.01)
    return LinearRegression(**law, normalize=normalize)


def sweep(a, b, normalize, schedule, record):
    """Risks of the uniform average, [22, record], and the multiplier selected."""
    problem = figure_3(a, b, normalize)
    shape = dict(const=lambda t: 1.0, sqrt=lambda t: 1 / math.sqrt(t + 1))[schedule]
    averages = dict(uniform=averaging.uniform())
    asked = [*CHECKPOINTS, *record]
    rates = MULTIPLIERS / problem.trace
    found = sgd_risk(problem, shape, averages, 50_000, record=asked, rates=rates)
    risk_RxS = found["uniform"]
    best = risk_RxS[:, : len(CHECKPOINTS)].mean(axis=1).argmin()
    return risk_RxS[best, len(CHECKPOINTS) :], MULTIPLIERS[best]


@pytest.mark.skipif(FIGURE_3 is None, reason="figure 3 is not in ANYTIME_DATA")
def test_the_published_panels():
    figure = json.loads(FIGURE_3.read_text())
    assert (figure["dimension"], figure["steps"]) == (500_000, 50_000)
    assert len(figure["panels"]) == 4
    for panel in figure["panels"]:
        a, b = panel["a"], panel["b"]
        for name, schedule in (("constant", "const"), ("sqrt", "sqrt")):
            risk, selected = sweep(a, b, True, schedule, panel["plot_steps"])
            assert selected == panel[f"{name}_lr_multiplier"]
            assert_allclose(risk, panel[name], rtol=1e-6)


# Reference, 1.5: the target as it is, after 1, 2, 5, 10, 20 and 50 thousand updates.
TABLE = """
1.1 1.1 const 1.0 1.91106    1.70299    1.4477     1.26871    1.10115    0.896076
1.1 1.1 sqrt  5.0 2.19121    2.02741    1.84279    1.72046    1.60904    1.47436
1.1 2.2 const 1.0 4.87343e-3 2.559e-3   1.1961e-3  7.49655e-4 5.27296e-4 3.90519e-4
1.1 2.2 sqrt  3.0 1.8356e-2  1.23394e-2 7.35194e-3 4.98961e-3 3.39526e-3 2.04709e-3
1.5 1.5 const 1.0 0.142596   0.110923   7.979e-2   6.2281e-2  4.86473e-2 3.50918e-2
1.5 1.5 sqrt  3.0 0.233149   0.197017   0.161451   0.14051    0.123093   0.104027
1.5 3.0 const 0.5 7.89251e-4 3.76174e-4 1.64197e-4 1.00093e-4 6.74345e-5 4.44264e-5
1.5 3.0 sqrt  2.0 4.83848e-3 2.93932e-3 1.54462e-3 9.57296e-4 5.96265e-4 3.20599e-4
1.9 1.9 const 0.8 3.16396e-2 2.24345e-2 1.43234e-2 1.0234e-2  7.32702e-3 4.72105e-3
1.9 1.9 sqrt  2.0 6.67583e-2 5.425e-2   4.20954e-2 3.5092e-2  2.94149e-2 2.34242e-2
1.9 3.8 const 0.5 2.66834e-4 1.31741e-4 6.14437e-5 3.8461e-5  2.56168e-5 1.57975e-5
1.9 3.8 sqrt  1.0 1.83916e-3 1.06937e-3 5.29558e-4 3.13482e-4 1.86376e-4 9.41565e-5
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row[:3]))
def test_the_target_as_it_is(row):
    a, b, schedule, multiplier, *expected = row
    record = [1000, 2000, 5000, 10000, 20000, 50000]
    risk, selected = sweep(float(a), float(b), False, schedule, record)
    assert selected == float(multiplier)
    # The table's own nodes, bins of 2 %, are right to 5 or 6 digits.
    assert_allclose(risk, [float(x) for x in expected], rtol=2e-5)


# The normalized target, after 50,000 updates, and the multiplier selected.
NORMALIZED = {
    (1.1, 1.1): (5.60540e-6, 0.002, 6.74679e-6, 0.02),
    (1.1, 2.2): (1.40113e-4, 0.5, 2.83999e-4, 3),
    (1.5, 1.5): (1.11662e-6, 0.0007, 1.60839e-6, 0.01),
    (1.5, 3.0): (4.21411e-5, 0.5, 1.29502e-4, 2),
    (1.9, 1.9): (5.34098e-7, 0.0005, 9.49513e-7, 0.005),
    (1.9, 3.8): (1.02082e-5, 0.3, 5.5205e-5, 1),
}


@pytest.mark.parametrize(("a", "b"), NORMALIZED)
def test_the_normalized_target(a, b):
    for schedule, values in zip(
        ("const", "sqrt"), np.split(np.array(NORMALIZED[a, b]), 2), strict=True
    ):
        risk, selected = sweep(a, b, True, schedule, [50_000])
        assert selected == values[1]
        assert float(f"{risk[0]:.5e}") == values[0]


def test_spot_values_of_both_targets():
    """schedules.md 0, at 1000 updates."""
    cases = [
        (1.5, 1.5, 7e-4, "const", 2.44839e-06, 1.16334),
        (1.5, 3.0, 0.5, "const", 3.90442e-04, 7.89251e-04),
        (1.5, 3.0, 2.0, "sqrt", 1.92745e-03, 4.83848e-03),
    ]
    for a, b, multiplier, schedule, *expected in cases:
        for normalize, value in zip((True, False), expected, strict=True):
            problem = figure_3(a, b, normalize)
            rates = np.full(1000, multiplier / problem.trace)
            if schedule == "sqrt":
                rates /= np.sqrt(np.arange(1, 1001))
            found = sgd_risk(problem, rates, dict(uniform=averaging.uniform()), 1000)
            assert float(f"{found['uniform'][0]:.5e}") == value


def test_a_thousand_directions():
    problem = LinearRegression(capacity=1.5, source=3, dimension=1000, noise=0.01)
    record = [100, 1000, 2000, 5000, 20000, 50000]
    averages = dict(uniform=averaging.uniform())
    found = sgd_risk(problem, 0.5 / problem.trace, averages, 50_000, record=record)
    expected = [
        0.0122237364,
        7.78510e-4,
        3.73052e-4,
        1.64166e-4,
        6.74197e-5,
        4.31554e-5,
    ]
    assert_allclose(found["uniform"][0], expected[0], rtol=1e-8)
    assert [float(f"{x:.5e}") for x in found["uniform"][1:]] == expected[1:]


def test_which_rate_serves_two_horizons():
    """schedules.md 0: d = 500, EMA-6.25; a constant rate has to be retuned."""
    problem = LinearRegression(capacity=1.5, source=3, dimension=500, noise=0.01)
    averages = dict(ema=lambda t: 1 - 2 ** (-6.25 / (t + 1)))
    run = functools.partial(
        sgd_risk,
        averages=averages,
        steps=20_000,
        record=[2000, 20_000],
        rates=MULTIPLIERS / problem.trace,
    )
    constant = run(problem, 1.0)["ema"]
    best = constant.argmin(axis=0)
    assert MULTIPLIERS[best].tolist() == [0.3, 0.1]
    digits = [f"{x:.2e}" for x in (*constant.min(axis=0), constant[best[0], 1])]
    assert digits == ["2.80e-04", "5.19e-05", "7.35e-05"]
    sqrt = run(problem, lambda t: math.sqrt(300 / (t + 300)))["ema"]
    assert MULTIPLIERS[sqrt.argmin(axis=0)].tolist() == [0.5, 0.5]
    assert [f"{x:.2e}" for x in sqrt.min(axis=0)] == ["2.95e-04", "5.55e-05"]


# Reference, 6.5: sums of lambda s, twice the risk; the last column is age_ema itself.
GOLDEN = """
1 const  .0720527522 .1036828805 .0589191748 .0630488614 .0592024454 .0588398709
1 sqrt   .0996889181 .1641571256 .1104599269 .1155501354 .1110151973 .1102942894
1 offset .0784714801 .0827315219 .0526290317 .0566323555 .0527402752 .0526091010
4 const  .0367345263 .0893286287 .0427349160 .0466198870 .0431757418 .0426029076
4 sqrt   .0789246701 .1305617755 .0890370173 .0927493044 .0894978365 .0888955705
4 offset .0224470248 .0455434015 .0219265781 .0237004516 .0221105555 .0218703825
"""


def test_golden_values():
    i = np.arange(1, 17)
    problem = LinearRegression(eigenvalues=i**-1.5, squared_target=i**-0.5, noise=0.1)
    assert_allclose(problem.trace, 2.1200658477524255, rtol=1e-15)
    assert_allclose(2 * problem.initial_risk, 1.584346533444987, rtol=1e-15)
    schedules = dict(
        const=0.2,
        sqrt=lambda t: 0.5 / math.sqrt(t + 1),
        offset=lambda t: 0.5 * math.sqrt(32 / (t + 1 + 32)),
    )
    averages = dict(
        uniform=averaging.uniform(),
        ema=lambda t: 1 - 2 ** (-6.25 / (t + 1)),
        tail=averaging.tail(start=50),
        four=lambda t: min(4, t) / t,
        age_ema=averaging.age_ema(divisor=6.25),
    )
    for line in GOLDEN.strip().splitlines():
        batch_size, schedule, *expected = line.split()
        found = sgd_risk(problem, schedules[schedule], averages, 100, int(batch_size))
        risks = [2 * float(x[0]) for x in found.values()]
        assert_allclose(risks, [float(x) for x in expected], rtol=0, atol=5.1e-11)


def test_values_that_were_simulated():
    """Reference, 6.5: the exact values beside its Monte Carlo."""
    i = np.arange(1, 7)
    problem = LinearRegression(eigenvalues=i**-1.3, squared_target=i**-0.8, noise=0.25)
    averages = dict(
        ema=lambda t: 1 - 2 ** (-6.25 / (t + 1)), tail=averaging.tail(start=30)
    )
    constant = sgd_risk(problem, 0.25, averages, 60)
    assert [f"{2 * constant[x][0]:.6f}" for x in ("raw", "ema")] == [
        "0.115126",
        "0.051507",
    ]
    # 45 updates at .35, then 15 down a line that ends at a tenth.
    wsd = [0.35] * 45 + [0.35 * (1 - 0.9 * k / 15) for k in range(1, 16)]
    found = sgd_risk(problem, wsd, averages, 60, 4)
    assert f"{2 * found['tail'][0]:.6f}" == "0.012261"
