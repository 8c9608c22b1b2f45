import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose

from anytime_jax import laws, schedules
from anytime_jax.laws import fitting
from tests import mpl

TRUE = laws.MultiPowerLaw(2.0, 0.6, 0.4, 60.0, 1.4, 0.6, 0.55)
STEPS = np.arange(100, 2000, 20)


def measured(law, rates, name, steps=STEPS, noise=0.0, seed=0):
    random = np.random.default_rng(seed)
    losses = law.predict(rates, steps) * np.exp(noise * random.normal(size=len(steps)))
    return laws.Curve(rates, steps, losses, name)


def family():
    run = dict(peak=3e-3, warmup_steps=100)
    made = dict(
        constant=schedules.constant(**run),
        cosine=schedules.cosine(**run, total_steps=2000),
        linear=schedules.linear(**run, total_steps=2000),
        wsd=schedules.wsd(**run, total_steps=2000),
        low=schedules.multi_step(**run, boundaries=[600], factor=0.1),
        half=schedules.multi_step(**run, boundaries=[1200], factor=0.5),
    )
    return {name: schedules.rates(schedule, 2000) for name, schedule in made.items()}


@pytest.fixture(scope="module")
def clean():
    return [measured(TRUE, rates, name) for name, rates in family().items()]


@pytest.fixture(scope="module")
def converged(clean):
    """Fitted without taking falls together."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(fitting, "GROUP", 1)
        warnings.simplefilter("ignore", laws.UnidentifiedWarning)
        return laws.MultiPowerLaw.fit(clean, "converged")


def test_known_parameters_are_recovered(clean, converged):
    for name, value in TRUE.parameters.items():
        assert_allclose(getattr(converged, name), value, rtol=5e-3)
    assert converged.score(clean)["worst_error"] < 1e-6
    assert converged.fitted.points == 6 * len(STEPS)
    assert converged.fitted.curves == tuple(family())


def test_the_record_is_exact(clean, converged):
    residuals = np.concatenate(
        [np.log(converged.predict(c.rates, c.steps) / c.losses) for c in clean]
    )
    assert_allclose(converged.fitted.objective, fitting.huber(residuals).sum())
    errors = [abs(converged.errors(c)["final_error"]) for c in clean]
    assert converged.fitted.final_error == max(errors)


def test_the_ridge_holds_the_shape(clean):
    shapes = []
    for ridge in (0.1, 1e6):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", laws.UnidentifiedWarning)
            shapes.append(laws.MultiPowerLaw.fit(clean, ridge=ridge))
    loose, tight = shapes
    assert_allclose([tight.C, tight.beta, tight.gamma], [1, 0.5, 0.5], rtol=1e-3)
    assert abs(np.log(loose.C)) > 10 * abs(np.log(tight.C))
    assert loose.fitted.objective < tight.fitted.objective
    assert loose.fitted.ridge == 0.1


def test_the_record_says_what_was_done(clean):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", laws.UnidentifiedWarning)
        zero = laws.MultiPowerLaw.fit(clean[:2], fixed=dict(C=1.4, gamma=0.5), ridge=0)
    assert (zero.fitted.procedure, zero.fitted.ridge) == ("converged", 0.0)
    simple = laws.SimpleLaw.fit(clean)
    assert (simple.fitted.procedure, simple.fitted.ridge) == ("converged", 0.0)


def test_fixed_parameters_stay(clean):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", laws.UnidentifiedWarning)
        law = laws.MultiPowerLaw.fit(clean, "converged", fixed=dict(gamma=0.4, L0=1.9))
    assert (law.gamma, law.L0) == (0.4, 1.9)
    assert set(law.fitted.standard_errors) == {"A", "alpha", "B", "C", "beta"}


def test_standard_errors_are_those_of_repeated_fits():
    law = laws.SimpleLaw(2.0, 0.6, 0.4, 40.0)
    rates = {name: family()[name] for name in ("constant", "cosine", "low")}

    def fit(seed):
        return laws.SimpleLaw.fit(
            [
                measured(law, r, name, noise=1e-3, seed=(seed, i))
                for i, (name, r) in enumerate(rates.items())
            ]
        )

    fits = [fit(seed) for seed in range(40)]
    for name in law.PARAMETERS:
        spread = np.std([np.log(getattr(one, name)) for one in fits])
        claimed = np.median([one.fitted.standard_errors[name] for one in fits])
        assert 0.6 < claimed / spread < 1.6
        center = np.mean([np.log(getattr(one, name)) for one in fits])
        assert abs(center - np.log(getattr(law, name))) < 4 * spread / np.sqrt(40)


def test_a_constant_rate_alone_says_nothing_of_falls():
    curve = measured(TRUE, family()["constant"], "constant")
    message = "the curves constant do not determine B, C, beta, gamma"
    with pytest.warns(laws.UnidentifiedWarning, match=message):
        law = laws.MultiPowerLaw.fit([curve], "converged")
    assert law.fitted.unidentified == ("B", "C", "beta", "gamma")
    errors = law.fitted.standard_errors
    assert all(np.isinf(errors[name]) for name in law.fitted.unidentified)
    assert max(errors[name] for name in ("L0", "A", "alpha")) < 0.1


def test_the_profile_is_least_at_the_fit(clean, converged):
    found = laws.profile(converged, clean, "beta", factors=(0.8, 1.0, 1.25))
    assert_allclose(found.values, converged.beta * np.array([0.8, 1, 1.25]))
    assert found.objective.argmin() == 1
    assert found.parameters[0]["beta"] == found.values[0]
    # The others have made up for what they can.
    for end in (0, 2):
        moved = fitting.Problem(laws.MultiPowerLaw, clean, dict(warmup="paper"), {})
        alone = converged.parameters | dict(beta=found.values[end])
        bound = moved.value(alone) * found_points(clean) * fitting.DELTA**2
        assert found.objective[1] < found.objective[end] < 0.5 * bound


def found_points(curves):
    return sum(len(curve.steps) for curve in curves)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(procedure="best"), "procedure='best' must be one of"),
        (dict(ridge=-1.0), "ridge=-1.0 must be a finite number >= 0"),
        (
            dict(ridge=1.0, procedure="converged"),
            "ridge=1.0 must be a finite number >= 0",
        ),
        (dict(ridge=1.0), "ridge=1.0 must be left out for SimpleLaw"),
        (dict(fixed=dict(delta=1.0)), "delta must be a field of SimpleLaw: L0, A, alp"),
        (dict(warmup="paper"), "warmup must be a field of SimpleLaw: L0, A, alpha, B"),
        (dict(fixed=dict(L0="a")), r"fixed\['L0'\]='a' must be a finite number >= 0"),
        (dict(fixed=dict(L0=True)), r"fixed\['L0'\]=True must be a finite number"),
        (dict(fixed=dict(L0=-1.0)), r"fixed\['L0'\]=-1.0 must be a finite number"),
        (
            dict(fixed=dict(L0=2.0, A=0.6, alpha=0.4, B=1.0)),
            "must leave a parameter to be fitted",
        ),
        (
            dict(procedure="published", fixed=dict(B=1.0)),
            "fixed={'B': 1.0} must hold nothing for 'published'",
        ),
    ],
)
def test_errors(clean, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        laws.SimpleLaw.fit(clean, **arguments)
    assert "\n" not in str(error.value)


def test_errors_about_curves(clean, converged):
    with pytest.raises(ValueError, match="curves must hold at least one curve"):
        laws.SimpleLaw.fit([])
    with pytest.raises(ValueError, match="name='delta' must be a parameter: L0, A"):
        laws.profile(converged, clean, "delta")
    for factors in ((1.0, 0.5), (0.0, 1.0), ()):
        with pytest.raises(ValueError, match="must ascend and be above 0"):
            laws.profile(converged, clean, "beta", factors=factors)


def test_huber():
    assert_allclose(
        fitting.huber(np.array([0.0, 5e-4, -1e-3, 3e-3])),
        [0, 1.25e-7, 5e-7, 2.5e-6],
    )


@pytest.fixture(scope="module", params=mpl.SIZES)
def on_published(request):
    """The three fits of a size to the published curves."""
    size = request.param
    fits = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", laws.UnidentifiedWarning)
        for procedure in fitting.PROCEDURES:
            warmup = "authors" if procedure == "published" else "paper"
            fits[procedure] = laws.MultiPowerLaw.fit(
                mpl.train(size), procedure, warmup=warmup
            )
    return size, fits


@mpl.needs_curves
def test_the_published_procedure_finds_the_published_parameters(on_published):
    size, fits = on_published
    found = [getattr(fits["published"], name) for name in laws.MultiPowerLaw.PARAMETERS]
    assert_allclose(found, mpl.PUBLISHED[size], rtol=3e-4)
    least = {25: 0.9985, 100: 0.9980}[size]
    assert fits["published"].score(mpl.test(size))["r2"] >= least


@mpl.needs_curves
def test_the_converged_fit_is_closer_to_what_it_was_fitted_to(on_published):
    size, fits = on_published
    assert fits["converged"].fitted.objective <= {25: 1.3e-4, 100: 2.6e-5}[size]
    assert fits["converged"].fitted.unidentified


@mpl.needs_curves
def test_the_default_predicts_better_than_both(on_published):
    size, fits = on_published
    scores = {name: law.score(mpl.test(size)) for name, law in fits.items()}
    own = scores.pop("regularised")
    for other in scores.values():
        assert own["worst_error"] < 0.97 * other["worst_error"]
        assert own["final_error"] < 0.9 * other["final_error"]
    objectives = {name: law.fitted.objective for name, law in fits.items()}
    assert objectives["converged"] < objectives["regularised"]
    assert objectives["regularised"] < objectives["published"]


@mpl.needs_curves
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (25, (3.14776, 0.52561, 0.49872, 378.183, 2.482e-4)),
        (100, (2.77625, 0.60693, 0.44210, 456.870, 2.210e-4)),
    ],
)
def test_the_simple_law_s_optimum(size, expected):
    for procedure in ("published", "converged"):
        law = laws.SimpleLaw.fit(mpl.train(size), procedure)
        found = (*law.parameters.values(), law.fitted.objective)
        assert_allclose(found, expected, rtol=5e-4)
