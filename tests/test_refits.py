import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose

from anytime_jax import laws, schedules
from anytime_jax.laws import fitting

TRUE = laws.MultiPowerLaw(2.0, 0.6, 0.4, 60.0, 1.4, 0.6, 0.55)
STEPS = np.arange(100, 2000, 20)
RUN = dict(peak=3e-3, warmup_steps=100)
SCHEDULES = dict(
    constant=schedules.constant(**RUN),
    cosine=schedules.cosine(**RUN, total_steps=2000),
    low=schedules.multi_step(**RUN, boundaries=[600], factor=0.1),
)


@pytest.fixture(scope="module")
def curves():
    """Of a known law, with noise."""
    random, made = np.random.default_rng(0), []
    for name, schedule in SCHEDULES.items():
        rates = schedules.rates(schedule, 2000)
        noise = np.exp(1e-3 * random.normal(size=len(STEPS)))
        losses = TRUE.predict(rates, STEPS) * noise
        made.append(laws.Curve(rates, STEPS, losses, name))
    return made


def fit(law, curves, **choices):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", laws.UnidentifiedWarning)
        return law.fit(curves, **choices)


@pytest.mark.parametrize(
    ("law", "choices"),
    [
        (laws.MultiPowerLaw, {}),
        (laws.MultiPowerLaw, dict(ridge=5.0, fixed=dict(gamma=0.5))),
        (laws.AnnealingLaw, dict(fixed=dict(memory=200.0), warmup="constant")),
        (laws.SimpleLaw, {}),
        (laws.SimpleLaw, dict(procedure="published")),
        (laws.AnnealingLaw, dict(procedure="published", fixed=dict(memory=200.0))),
    ],
)
def test_held_out_errors_are_those_of_fits_without_the_curve(curves, law, choices):
    fitted = fit(law, curves, **choices)
    found = laws.hold_out(fitted, curves)
    assert found == fitted
    expected = []
    for i, curve in enumerate(curves):
        other = fit(law, curves[:i] + curves[i + 1 :], **choices)
        expected.append(other.errors(curve)["final_error"])
    assert_allclose(found.fitted.held_out_errors, expected, atol=2e-5)
    assert found.fitted.held_out_error == max(map(abs, found.fitted.held_out_errors))
    assert fitted.fitted.held_out_errors == () and fitted.fitted.held_out_error is None


def test_refits_compile_nothing(curves):
    fitted = fit(laws.MultiPowerLaw, curves)
    before = fitting._value_and_slope._cache_size()
    laws.hold_out(fitted, curves)
    assert fitting._value_and_slope._cache_size() == before


def test_what_is_left_out_does_not_count(curves):
    fitted = fit(laws.SimpleLaw, curves)
    found = laws.hold_out(fitted, curves).fitted.held_out_errors
    last = curves[-1]
    moved = laws.Curve(last.rates, last.steps, last.losses + 0.25, last.name)
    others = laws.hold_out(fitted, [*curves[:-1], moved]).fitted.held_out_errors
    assert_allclose(others[-1], found[-1] - 0.25, atol=1e-12)
    assert abs(others[0] - found[0]) > 1e-3


def test_errors(curves):
    fitted = fit(laws.SimpleLaw, curves)
    for law, given, message in (
        (
            laws.SimpleLaw(2.0, 0.6, 0.4, 3.0),
            curves,
            "law=SimpleLaw.* must be one that",
        ),
        (fitted, curves[:2], "must be those of the fit"),
        (fitted, curves[::-1], "must be those of the fit"),
        (fit(laws.SimpleLaw, curves[1:2]), curves[1:2], "must be two or more to leave"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            laws.hold_out(law, given)
        assert "\n" not in str(error.value)


def test_profiles_keep_what_was_given(curves):
    fitted = fit(laws.SimpleLaw, curves, fixed=dict(L0=1.9))
    found = laws.profile(fitted, curves, "B", factors=(0.9, 1.0, 1.1))
    assert [one["L0"] for one in found.parameters] == [1.9] * 3
    assert found.objective.argmin() == 1
    assert_allclose(found.objective[1], fitted.fitted.objective, rtol=1e-6)
    alone = fit(laws.SimpleLaw, curves, fixed=dict(L0=1.9, A=0.6, alpha=0.4))
    with pytest.raises(ValueError, match="name='B' must not be all that was fitted"):
        laws.profile(alone, curves, "B")
