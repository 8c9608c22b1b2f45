"""The laws beside the multi-power law: annealing, forward momentum, functional."""

import dataclasses
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from anytime_jax import laws, schedules
from anytime_jax.laws import annealing, forward_momentum, simple
from experiments.multi_power_law import curves
from tests import mpl

ANNEALING = laws.AnnealingLaw(2.0, 0.6, 0.4, 3.0, memory=8.0)
FUNCTIONAL = laws.FunctionalScalingLaw(2.0, 0.6, 0.4, 9.0, 0.7, 30.0, 0.6)
MOMENTUM = laws.ForwardMomentumLaw(2.0, 0.6, 0.4, 3.0, every=4)
AT = np.array([5, 6, 7, 19, 20, 21, 29, 38, 39])


def annealing_twin(law, rates, t):
    rates = list(rates[: t + 1])
    if law.warmup == "constant":
        end = 0
        while end + 1 < len(rates) and rates[end + 1] > rates[end]:
            end += 1
        rates[:end] = [rates[end]] * end
    area = math.fsum(
        (rates[k - 1] - rates[k]) * law.momentum ** (i - k)
        for i in range(1, t + 1)
        for k in range(1, i + 1)
    )
    return law.L0 + law.A * math.fsum(rates[: t + 1]) ** -law.alpha - law.C * area


def functional_twin(law, rates, t):
    now = math.fsum(rates[: t + 1])
    gained = 0.0
    for k in range(1, t + 1):
        then = math.fsum(rates[: k + 1])
        share = 1 - (1 + law.c4 * (now - then)) ** -law.gamma
        fall = max(rates[k - 1] - rates[k], 0)
        gained += fall * (law.c3 + then**-law.s) * share
    return law.L0 + law.c1 * now**-law.s - law.c2 * gained


def momentum_twin(law, rates, t):
    """At a step that has a row."""
    total = rates[law.every - 1] * law.every
    first = second = moved = 0.0
    rows = range(law.every - 1, t + 1, law.every)
    for i, row in enumerate(rows):
        fall = (rates[row - law.every] - rates[row]) * law.every if i else 0.0
        total += rates[row] * law.every if i else 0.0
        first = 0.9 * first + 0.1 * fall
        second = 0.999 * second + 0.001 * fall * fall
        high = second / (1 - 0.999 ** (i + 1)) * 1e5
        moved += first / (1 - 0.9 ** (i + 1)) / (math.sqrt(high + 1e-8) + 1e-8)
    return law.L0 + law.A * total**-law.alpha - law.C * moved


RATES = {
    "constant": np.full(40, 3e-3),
    "warmup": np.append(np.linspace(0, 3e-3, 7), np.full(33, 3e-3)),
    "cosine": schedules.rates(
        schedules.cosine(peak=3e-3, total_steps=40, warmup_steps=5), 40
    ),
    "linear": schedules.rates(schedules.linear(peak=3e-3, total_steps=36), 40),
    "two steps": np.repeat([3e-3, 1e-3, 4e-4], [20, 10, 10]),
    "cyclic": np.tile([3e-3, 2e-3, 1e-3, 2e-3], 10),
}


@pytest.mark.parametrize("name", RATES)
def test_the_sums_as_they_are_written(name):
    rates = RATES[name]
    for warmup in annealing.WARMUPS:
        law = laws.AnnealingLaw(2.0, 0.6, 0.4, 3.0, memory=8.0, warmup=warmup)
        expected = [annealing_twin(law, rates, t) for t in AT]
        assert_allclose(law.predict(rates, AT), expected, rtol=1e-12)
    expected = [functional_twin(FUNCTIONAL, rates, t) for t in AT]
    assert_allclose(FUNCTIONAL.predict(rates, AT), expected, rtol=1e-12)
    rows = np.array([3, 7, 11, 23, 39])
    expected = [momentum_twin(MOMENTUM, rates, t) for t in rows]
    assert_allclose(MOMENTUM.predict(rates, rows), expected, rtol=1e-12)


GOLDEN = [  # schedule, step, S1 and S2 with a constant warmup, and with the ramp
    ("constant_24000", 23999, 7.2, 0.0, 6.876, -0.3000),
    ("cosine_24000", 8000, 2.31076606, 0.03256034, 1.98676606, -0.26708384),
    ("cosine_24000", 23999, 4.251735, 0.26726457, 3.927735, -0.03273543),
    ("wsd_20000_24000", 23999, 6.46917305, 0.23676559, 6.14517305, -0.06323441),
    ("wsdcon_9", 15999, 3.12, 0.20992983, 2.796, -0.09007005),
]


@pytest.mark.parametrize(("name", "step", *(f"x{i}" for i in range(4))), GOLDEN)
def test_golden_features(name, step, x0, x1, x2, x3):
    rates = curves.rates(name)
    for warmup, expected in dict(constant=(x0, x1), ramp=(x2, x3)).items():
        law = laws.AnnealingLaw(1.0, 1.0, 1.0, 1.0, memory=1000.0, warmup=warmup)
        for at in ([step], [step // 3, step // 2, step]):  # In any number of parts.
            found = law.features(rates, np.array(at), warmup=warmup)
            area = annealing.areas(np, law.memory, found)[-1]
            assert_allclose((found.sums_P[-1], area), expected, atol=1e-8, rtol=0)


def test_numpy_and_jax_agree():
    at = np.array([3, 4, 17, 39])
    cases = (ANNEALING, FUNCTIONAL, MOMENTUM)
    for law in cases:
        features = law.features(RATES["cosine"], at, **law.conventions)
        with jax.enable_x64(True):
            found = law.formula(jnp, law.parameters, jax.device_put(features))
            assert found.dtype == jnp.float64
        own = law.formula(np, law.parameters, features)
        assert_allclose(found, own, rtol=1e-13)
    assert not jax.config.jax_enable_x64


def test_a_memory_of_one_step_is_the_present_rate():
    law = laws.AnnealingLaw(2.0, 0.6, 0.4, 3.0, memory=1.0)
    simple = laws.SimpleLaw(2.0, 0.6, 0.4, 3.0)
    rates = RATES["two steps"]
    assert_allclose(law.predict(rates, AT), simple.predict(rates, AT), rtol=1e-8)
    with pytest.raises(ValueError, match=r"memory=0.5 must be at least 1 step"):
        laws.AnnealingLaw(2.0, 0.6, 0.4, 3.0, memory=0.5)


def test_rises_count_in_the_annealing_law_and_not_in_the_functional_one():
    rates = np.repeat([3e-3, 1e-3, 2e-3], [10, 10, 20])
    low = np.repeat([3e-3, 1e-3], [10, 30])
    area = 2e-3 * 8 * (1 - (7 / 8) ** 30) - 1e-3 * 8 * (1 - (7 / 8) ** 20)
    power = 2.0 + 0.6 * rates.sum() ** -0.4
    assert_allclose(ANNEALING.predict(rates, 39), power - 3.0 * area, rtol=1e-12)
    shares = [functional_twin(FUNCTIONAL, r, 39) for r in (rates, low)]
    assert_allclose(
        [FUNCTIONAL.predict(r, 39) for r in (rates, low)], shares, rtol=1e-12
    )


@pytest.mark.parametrize(
    "law",
    [
        laws.AnnealingLaw(2.0, 0.6, 0.4, 3.0, memory=8.0, warmup="constant"),
        laws.ForwardMomentumLaw(2.0, 0.6, 0.4, 3.0, every=4, warmup="constant"),
    ],
)
def test_inside_the_warmup_nothing_hangs_on_what_comes_later(law):
    schedule = schedules.cosine(peak=3e-3, total_steps=40, warmup_steps=10)
    rates = schedules.rates(schedule, 40)
    at = np.arange(1, 10)
    expected = 2.0 + 0.6 * ((at + 1) * rates[at]) ** -0.4
    assert_allclose(law.predict(rates, at), expected, rtol=1e-12)
    assert_allclose(law.predict(schedule, at), expected, rtol=1e-12)
    assert_allclose(law.predict(rates, np.append(at, 39))[:-1], expected, rtol=1e-12)
    for t in (*at, 15, 39):
        found = law.predict(schedule, t)
        assert_allclose(law.predict(rates, t), found, rtol=1e-14)


def test_steps_at_rate_zero_go_on_lowering_the_annealing_law():
    rates = np.repeat([3e-3, 0.0], [20, 60])
    found = ANNEALING.predict(rates, [20, 40, 79])
    assert (np.diff(found) < 0).all()
    # The other two stand still.
    assert np.ptp(FUNCTIONAL.predict(rates, [20, 40, 79])) < 1e-15


def test_between_rows_the_forward_law_is_linear_in_its_sums():
    features = MOMENTUM.features(RATES["cosine"], np.arange(40), every=4, warmup="ramp")
    for values in features:
        assert_allclose(np.diff(values[3:], 2)[0::4], 0, atol=1e-12)
    assert np.abs(np.diff(features.momenta_P[3::4])).min() > 0


def test_the_log_s_grid_is_part_of_the_forward_law():
    fine = laws.ForwardMomentumLaw(2.0, 0.6, 0.4, 3.0, every=1)
    found = [law.predict(RATES["cosine"], 39) for law in (fine, MOMENTUM)]
    assert abs(np.diff(found)) > 0.01
    with pytest.raises(ValueError, match="every=0 must be an integer >= 1"):
        laws.ForwardMomentumLaw(2.0, 0.6, 0.4, 3.0, every=0)
    for law in (laws.ForwardMomentumLaw, laws.AnnealingLaw):
        with pytest.raises(ValueError, match="warmup='paper' must be one of ramp, con"):
            law(2.0, 0.6, 0.4, 3.0, warmup="paper")


STEPS = np.arange(100, 2000, 20)


def family():
    run = dict(peak=3e-3, warmup_steps=100)
    made = dict(
        constant=schedules.constant(**run),
        cosine=schedules.cosine(**run, total_steps=2000),
        low=schedules.multi_step(**run, boundaries=[600], factor=0.1),
        wsd=schedules.wsd(**run, total_steps=2000),
    )
    return {name: schedules.rates(schedule, 2000) for name, schedule in made.items()}


def measured(law):
    return [
        laws.Curve(rates, STEPS, law.predict(rates, STEPS), name)
        for name, rates in family().items()
    ]


@pytest.mark.parametrize(
    "law",
    [
        laws.AnnealingLaw(2.0, 0.6, 0.4, 0.4, memory=60.0),
        laws.ForwardMomentumLaw(2.0, 0.6, 0.4, 0.5, every=20),
        laws.FunctionalScalingLaw(2.0, 0.6, 0.4, 60.0, 0.7, 30.0, 0.6),
    ],
)
def test_known_parameters_are_recovered(law):
    curves = measured(law)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", laws.UnidentifiedWarning)
        found = type(law).fit(curves, "converged", **law.conventions)
    assert found.conventions == law.conventions
    assert found.score(curves)["worst_error"] < 1e-4
    for name in ("L0", law.PARAMETERS[1], law.PARAMETERS[2]):
        assert_allclose(getattr(found, name), getattr(law, name), rtol=0.01)
    if not isinstance(law, laws.FunctionalScalingLaw):
        assert_allclose(found.C, law.C, rtol=0.01)


@pytest.mark.filterwarnings("ignore::anytime_jax.laws.UnidentifiedWarning")
def test_the_published_fit_of_the_annealing_law_takes_its_memory_as_given():
    law = laws.AnnealingLaw(2.0, 0.6, 0.4, 0.4, memory=60.0, warmup="constant")
    found = laws.AnnealingLaw.fit(
        measured(law), "published", warmup="constant", fixed=dict(memory=60.0)
    )
    assert found.memory == 60.0
    for name, value in law.parameters.items():
        assert_allclose(getattr(found, name), value, rtol=0.01)
    assert set(found.fitted.standard_errors) == {"L0", "A", "alpha", "C"}
    assert laws.AnnealingLaw.fit(measured(law), "published").memory == 1000.0


def raw_huber(law, curves):
    """The sum over all points, point by point."""
    total = 0.0
    for curve in curves:
        for off in abs(law.predict(curve.rates, curve.steps) - curve.losses):
            total += off**2 / 2 if off <= 1e-3 else 1e-3 * (off - 5e-4)
    return total


def test_the_published_fit_of_the_forward_law_is_of_raw_residuals():
    curves = measured(laws.AnnealingLaw(2.0, 0.6, 0.4, 0.4, memory=60.0))
    found = laws.ForwardMomentumLaw.fit(curves, "published", every=20)
    least = raw_huber(found, curves)
    for name in found.PARAMETERS:
        for factor in (0.998, 1.002):
            moved = found.parameters | {name: factor * getattr(found, name)}
            other = laws.ForwardMomentumLaw(**moved, **found.conventions)
            assert raw_huber(other, curves) > least
    of_logs = laws.ForwardMomentumLaw.fit(curves, "converged", every=20)
    assert raw_huber(of_logs, curves) > 1.0001 * least
    assert of_logs.fitted.objective < found.fitted.objective


@pytest.mark.filterwarnings("ignore::anytime_jax.laws.UnidentifiedWarning")
def test_the_published_fit_of_the_forward_law_has_bounds():
    law = laws.ForwardMomentumLaw(0.9, 0.6, 0.4, 0.5, every=20)
    found = laws.ForwardMomentumLaw.fit(measured(law), "published", every=20)
    assert found.L0 == 1.1
    law = dataclasses.replace(law, L0=2.0)
    found = laws.ForwardMomentumLaw.fit(measured(law), "published", every=20)
    for name, value in law.parameters.items():
        assert_allclose(getattr(found, name), value, rtol=0.01)


def test_published_fits_refuse_what_their_authors_do_not_do():
    curves = measured(ANNEALING)
    message = "fixed={'C': 1.0} must hold nothing but memory for 'published'"
    with pytest.raises(ValueError, match=message):
        laws.AnnealingLaw.fit(curves, "published", fixed=dict(C=1.0))
    with pytest.raises(ValueError, match=r"memory=0\.5 must be at least 1 step"):
        laws.AnnealingLaw.fit(curves, "published", fixed=dict(memory=0.5))
    early = laws.Curve(RATES["warmup"], [3, 9, 39], [3.0, 2.5, 2.25], "early")
    message = r"early: steps\[0\]=3 must be at least 6, the end of the warmup"
    with pytest.raises(ValueError, match=message):
        laws.AnnealingLaw.fit([early], "published")


def test_laws_without_a_known_procedure_say_so():
    curve = laws.Curve(RATES["cosine"], [9, 19, 39], [3.0, 2.5, 2.25])
    message = "FunctionalScalingLaw: no procedure of its authors is recorded"
    with pytest.raises(ValueError, match=message):
        laws.FunctionalScalingLaw.fit([curve], "published")


@mpl.needs_curves
@pytest.mark.parametrize(
    ("size", "memory", "parameters", "r2"),
    [
        (25, 200.0, (3.0364, 0.5223, 0.5036, 1.9108), 0.99796),
        (100, 500.0, (2.6696, 0.5751, 0.4808, 0.9294), 0.99854),
    ],
)
def test_the_annealing_law_on_published_curves(size, memory, parameters, r2):
    law = laws.AnnealingLaw.fit(mpl.train(size), "converged", fixed=dict(memory=memory))
    found = [getattr(law, name) for name in ("L0", "A", "alpha", "C")]
    assert_allclose(found, parameters, rtol=1e-3)
    assert_allclose(law.score(mpl.test(size))["r2"], r2, atol=5e-5, rtol=0)
    free = laws.AnnealingLaw.fit(mpl.train(size), "converged")
    assert free.fitted.objective <= law.fitted.objective


@mpl.needs_curves
@pytest.mark.parametrize(
    ("size", "memory", "r2"),
    [(25, 1e3, 0.99326), (25, 500, 0.994), (100, 1e3, 0.99588), (100, 500, 0.9965)],
)
def test_the_annealing_law_s_own_fit_on_published_curves(size, memory, r2):
    law = laws.AnnealingLaw.fit(
        mpl.train(size), "published", warmup="constant", fixed=dict(memory=memory)
    )
    digits = len(str(r2)) - 2
    assert round(law.score(mpl.test(size))["r2"], digits) == r2


@mpl.needs_curves
def test_the_forward_law_s_own_fit_ends_where_any_start_leads():
    law = laws.ForwardMomentumLaw.fit(mpl.train(25), "published")
    found = tuple(law.parameters.values())
    for start in ((1.1, 10.0, 0.1, 10.0), (8.0, 1e-3, 5.0, 0.0)):
        parts = [(*law.features(c.rates, c.steps), c.losses) for c in mpl.train(25)]
        bounds = tuple(forward_momentum.BOUNDS.values())
        other = simple.least(parts, [start], bounds, raw=True)
        assert_allclose(other, found, rtol=1e-3)


@mpl.needs_curves
def test_the_functional_law_on_published_curves():
    with pytest.warns(laws.UnidentifiedWarning):
        law = laws.FunctionalScalingLaw.fit(mpl.train(25), "converged")
    assert law.fitted.objective < 1.65e-4
    assert law.score(mpl.test(25))["r2"] > 0.998
