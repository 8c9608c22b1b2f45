import math

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

from anytime_jax import laws, schedules
from experiments.multi_power_law import curves
from tests import mpl

PARAMETERS = dict(L0=2.0, A=0.6, alpha=0.4, B=30.0, C=1.5, beta=0.6, gamma=0.55)
LAW = laws.MultiPowerLaw(**PARAMETERS)


def twin(law, rates, t):
    """The sums as they are written."""
    first = 1
    if law.warmup == "paper":
        while first < len(rates) and rates[first] > rates[first - 1]:
            first += 1
    gained = 0.0
    for k in range(first, t + 1):
        after = math.fsum(rates[k : t + 1])
        growth = 1 + law.C * rates[k] ** -law.gamma * after if rates[k] else math.inf
        share = 1 - growth**-law.beta if after else 0.0
        gained += (rates[k - 1] - rates[k]) * share
    return law.L0 + law.A * math.fsum(rates[: t + 1]) ** -law.alpha - law.B * gained


RATES = {
    "constant": np.full(40, 3e-3),
    "warmup": np.append(np.linspace(0, 3e-3, 7), np.full(33, 3e-3)),
    "cosine": schedules.rates(
        schedules.cosine(peak=3e-3, total_steps=40, warmup_steps=5), 40
    ),
    "linear": schedules.rates(schedules.linear(peak=3e-3, total_steps=36), 40),
    "two steps": np.repeat([3e-3, 1e-3, 4e-4], [20, 10, 10]),
    "zero": np.repeat([3e-3, 0.0], [20, 20]),
}


@pytest.mark.parametrize("warmup", ["paper", "authors"])
@pytest.mark.parametrize("name", RATES)
def test_the_sum_as_it_is_written(name, warmup):
    law = laws.MultiPowerLaw(**PARAMETERS, warmup=warmup)
    rates = RATES[name]
    at = [5, 6, 7, 19, 20, 21, 29, 38, 39]
    expected = [twin(law, rates, t) for t in at]
    assert_allclose(law.predict(rates, at), expected, rtol=1e-12)


GOLDEN = [  # schedule, step, sum of rates, authors' convention, paper's
    ("constant_24000", 8000, 2.0763, 3.50992679, 3.40249513),
    ("constant_24000", 23999, 6.8760, 3.34584531, 3.23753424),
    ("cosine_24000", 8000, 1.98676606, 3.50289299, 3.39550896),
    ("cosine_24000", 23999, 3.927735, 3.31518652, 3.20720387),
    ("wsd_20000_24000", 23999, 6.14517305, 3.26626034, 3.15800631),
    ("wsdcon_9", 8000, 2.07609, 3.50686508, 3.39943352),
    ("wsdcon_9", 15999, 2.7960, 3.38489368, 3.27717566),
]


@pytest.mark.parametrize(("name", "step", "total", "authors", "paper"), GOLDEN)
def test_golden_predictions(name, step, total, authors, paper):
    rates = curves.rates(name)
    assert_allclose(rates[: step + 1].sum(), total, atol=1e-8, rtol=0)
    for warmup, expected in dict(authors=authors, paper=paper).items():
        law = laws.MultiPowerLaw(*mpl.PUBLISHED[25], warmup=warmup)
        assert_allclose(law.predict(rates, [step]), expected, atol=1e-7, rtol=0)


METRICS = {  # per curve: r2, mae, rmse, pred_error, worst_error
    25: {
        "cosine_24000": (171, 0.99851, 0.00443, 0.00618, 0.00128, 0.00996),
        "constant_24000": (171, 0.99867, 0.00376, 0.00540, 0.00105, 0.00901),
        "wsdcon_9": (95, 0.99947, 0.00293, 0.00374, 0.00083, 0.00366),
        "constant_72000": (546, 0.99976, 0.00158, 0.00188, 0.00047, 0.00202),
        "cosine_72000": (546, 0.99662, 0.00745, 0.00801, 0.00224, 0.00706),
        "wsd_20000_24000": (170, 0.99922, 0.00341, 0.00430, 0.00100, 0.00298),
        "wsdld_20000_24000": (170, 0.99936, 0.00314, 0.00383, 0.00092, 0.00311),
        "wsdcon_3": (95, 0.99825, 0.00449, 0.00678, 0.00129, 0.00642),
        "wsdcon_18": (95, 0.99961, 0.00250, 0.00311, 0.00071, 0.00298),
    },
    100: {
        "cosine_24000": (171, 0.99934, 0.00328, 0.00442, 0.00107, 0.00371),
        "constant_24000": (171, 0.99981, 0.00185, 0.00207, 0.00059, 0.00139),
        "wsdcon_9": (109, 0.99864, 0.00493, 0.00634, 0.00158, 0.00547),
        "constant_72000": (546, 0.99796, 0.00478, 0.00567, 0.00158, 0.00664),
        "cosine_72000": (546, 0.99699, 0.00727, 0.00821, 0.00245, 0.00455),
        "wsd_20000_24000": (171, 0.99867, 0.00375, 0.00592, 0.00123, 0.00523),
        "wsdld_20000_24000": (171, 0.99904, 0.00325, 0.00492, 0.00106, 0.00572),
        "wsdcon_3": (109, 0.99728, 0.00567, 0.00890, 0.00181, 0.01034),
        "wsdcon_18": (109, 0.99987, 0.00138, 0.00190, 0.00043, 0.00251),
    },
}
AVERAGES = {  # of the authors' logs
    25: (0.998802, 0.003760, 0.004652, 0.001102, 0.004095),
    100: (0.998301, 0.004348, 0.005919, 0.001425, 0.005829),
}
FINAL = {  # prediction less measurement at the end
    25: (0.0106, -0.0096, -0.0094, -0.0020, 0.0026),
    100: (0.0105, -0.0154, -0.0150, -0.0016, -0.0081),
}
KEYS = ("r2", "mae", "rmse", "pred_error", "worst_error")


@mpl.needs_curves
@pytest.mark.parametrize("size", mpl.SIZES)
def test_published_metrics(size):
    law = laws.MultiPowerLaw(*mpl.PUBLISHED[size], warmup="authors")
    for name, (count, *expected) in METRICS[size].items():
        curve = mpl.load(size)[name]
        assert len(curve.steps) == count
        found = law.errors(curve)
        assert_allclose([found[k] for k in KEYS], expected, atol=5.1e-6, rtol=0)
    score = law.score(mpl.test(size))
    assert_allclose([score[k] for k in KEYS], AVERAGES[size], atol=1.01e-6, rtol=0)
    names = ("cosine_24000", "wsd_20000_24000", "wsdld_20000_24000", "cosine_72000")
    ends = [mpl.load(size)[name] for name in (*names, "constant_72000")]
    finals = [law.errors(curve)["final_error"] for curve in ends]
    assert_allclose(finals, FINAL[size], atol=5.1e-5, rtol=0)


def test_constant_stretches_cost_nothing_and_change_nothing():
    rates = np.repeat([3e-3, 1e-3], [500_000, 500_000])
    law = LAW
    at = [499_999, 500_000, 999_999]
    power = [law.L0 + law.A * (3e-3 * 5e5) ** -law.alpha]
    for after in (1, 500_000):
        gained = 1 - (1 + law.C * 1e-3**-law.gamma * after * 1e-3) ** -law.beta
        total = 3e-3 * 5e5 + 1e-3 * after
        power.append(law.L0 + law.A * total**-law.alpha - law.B * 2e-3 * gained)
    assert_allclose(law.predict(rates, at), power, rtol=1e-12)


def test_what_comes_later_does_not_matter():
    rates = RATES["cosine"]
    whole = LAW.predict(rates, [10, 20])
    assert_allclose(LAW.predict(rates[:21], [10, 20]), whole, rtol=1e-15)
    other = np.append(rates[:21], np.zeros(19))
    assert_allclose(LAW.predict(other, [20, 10]), whole[::-1], rtol=1e-15)


def test_doubling_the_clock_of_the_law():
    # Rates, B and C change units: S is 10 times as large, the falls are too.
    unit = 10.0
    law = laws.MultiPowerLaw(
        **PARAMETERS
        | dict(
            A=LAW.A * unit**LAW.alpha,
            B=LAW.B / unit,
            C=LAW.C * unit ** (LAW.gamma - 1),
        )
    )
    rates = RATES["two steps"]
    at = np.arange(40)
    assert_allclose(law.predict(unit * rates, at), LAW.predict(rates, at), rtol=1e-12)


def test_schedules_that_rise_again_are_refused():
    with pytest.raises(ValueError, match=r"rates\[3\]=0.75 must not be above rates\[2"):
        LAW.predict([0.5, 1.0, 0.5, 0.75], [3])
    # Up to the step that is asked for, it does not rise.
    assert np.isfinite(LAW.predict([0.5, 1.0, 0.5, 0.75], [2])).all()


def test_an_unknown_convention_is_refused():
    with pytest.raises(ValueError, match="warmup='ramp' must be one of paper, authors"):
        laws.MultiPowerLaw(**PARAMETERS, warmup="ramp")
    curve = laws.Curve([1e-3] * 9, [4, 8], [3.0, 2.0])
    with pytest.raises(ValueError, match="warmup='ramp' must be one of paper, authors"):
        laws.MultiPowerLaw.fit([curve], warmup="ramp")


def test_the_global_flag_is_left_alone():
    assert LAW.predict(1e-3, [5]).dtype == np.float64
    assert not jax.config.jax_enable_x64
