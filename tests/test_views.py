"""Theory, law and training beside each other: each view finds what is known there."""

import dataclasses
import json

import numpy as np
import pytest

from anytime_jax import averaging, laws, theory
from experiments.anytime_vs_cosine import analysis, protocol, run, views
from tests import pretended, trained

PLAN = dataclasses.replace(protocol.FULL, peaks=((1, (5e-3, 1e-2, 2e-2)),), seeds=(1,))
PARAMETERS = dict(L0=1.4, A=1.16, alpha=0.4, B=11.0, C=0.5, beta=0.5, gamma=0.8)


def result_of(job):
    """With a curve that obeys a law, where curves are read and the law has a say."""
    if job.schedule == "restarts" or job.seed == 0:
        return pretended.result_of(job)
    law = laws.MultiPowerLaw(**PARAMETERS)
    rates = views.learning_rates(job)
    steps = np.unique(np.geomspace(96, len(rates), 16).astype(int))
    raw = law.predict(rates, steps - 1)
    losses = dict(raw=raw.tolist())
    if job.is_trunk:
        average = averaging.age_ema(divisor=25)
        found = laws.predict_average(law, rates, average, steps - 1)
        losses["ema25"] = (found + 0.125).tolist()
    curve = dict(steps=steps.tolist(), losses=losses)
    return pretended.result_of(job) | dict(curve=curve)


@pytest.fixture(scope="module")
def comparison():
    return analysis.Comparison(pretended.done(PLAN, result_of), PLAN, 1)


def test_a_curve_counts_updates_as_a_law_does(comparison):
    job = comparison.methods["cosine"].jobs[4]
    found = views.curve(comparison, job)
    law = laws.MultiPowerLaw(**PARAMETERS)
    np.testing.assert_allclose(
        law.predict(found.rates, found.steps), found.losses, rtol=1e-9
    )
    assert found.steps[-1] == 4 * 768 - 1
    assert found.steps[0] >= views.FITTED_FROM


def test_a_law_comes_near_the_one_that_made_the_losses(comparison):
    found = views.fit_law(comparison, laws.MultiPowerLaw)["losses"]
    law = laws.MultiPowerLaw(**PARAMETERS)
    for name in protocol.ENVELOPE:
        for times, loss in zip(comparison.times, found[name], strict=True):
            rates = views.learning_rates(comparison.methods[name].jobs[times])
            expected = law.predict(rates, [len(rates) - 1])[0]
            # Not to rounding, for the ridge.
            assert loss == pytest.approx(expected, abs=0.02), (name, times)
    # A decay without a decay: the average is below its trunk.
    assert np.all(np.less(found["constant_average"], found["constant_raw"]))


def test_what_a_law_is_off_by_is_measured_on_its_curves(comparison):
    errors = views.law_errors(comparison, laws.MultiPowerLaw(**PARAMETERS))
    assert errors.keys() == set(views.METHODS)
    for name, values in errors.items():
        expected = -0.125 if "average" in name else 0.0
        assert values == pytest.approx([expected] * 6, abs=1e-6), name


def test_the_problem_that_made_the_losses_is_found(comparison, monkeypatch):
    for name, values in dict(
        CAPACITIES=(1.6,), SOURCES=(1.8, 1.5), NOISES=(0.1,), DIMENSION=10**4
    ).items():
        monkeypatch.setattr(views, name, values)
    problem = theory.LinearRegression(
        capacity=1.6, source=1.5, dimension=10**4, noise=0.1, rtol=1e-5
    )
    made = views.risks(comparison, problem)
    losses = {name: (1.3 + 4.0 * risk).tolist() for name, risk in made.items()}
    found = views.fit_theory(comparison, losses)
    assert (found["a"], found["b"], found["noise"]) == (1.6, 1.5, 0.1)
    assert (found["floor"], found["scale"]) == pytest.approx((1.3, 4.0), rel=1e-6)
    assert found["error"] < 1e-6
    assert [row[:3] for row in found["tried"]] == [(1.6, b, 0.1) for b in (1.8, 1.5)]
    assert found["tried"][0][3] > found["tried"][1][3] == found["error"]
    for name in views.METHODS:
        np.testing.assert_allclose(found["losses"][name], losses[name], rtol=1e-6)
        assert np.abs(found["errors"][name]).max() < 1e-5


def test_the_picture_has_all_views(comparison, tmp_path):
    losses = {name: [2.0] * 6 for name in (*views.METHODS, analysis.BETTER)}
    view = dict(a=1.5, b=2.0, losses=losses)
    found = dict(theory=view, laws=dict(simple=view), training=view)
    views.draw(comparison.times, found, tmp_path / "views.png")
    assert (tmp_path / "views.png").stat().st_size > 10_000


# What the repository says.


@pytest.fixture(scope="module")
def stored():
    return json.loads((run.HERE / "views.json").read_text())


def test_stored_losses_are_those_of_the_results(stored):
    found = views.measured(trained.comparison())
    assert found.keys() == stored["training"]["losses"].keys()
    for name, losses in found.items():
        assert stored["training"]["losses"][name] == pytest.approx(losses, abs=1e-12)


@pytest.mark.parametrize("title", views.LAWS)
def test_stored_errors_of_a_law_are_those_of_its_parameters(stored, title):
    law = views.LAWS[title](**stored["laws"][title]["parameters"])
    found = views.law_errors(trained.comparison(), law)
    assert found.keys() == stored["laws"][title]["errors"].keys()
    for name, errors in found.items():
        expected = stored["laws"][title]["errors"][name]
        assert errors == pytest.approx(expected, abs=1e-6)


def test_stored_losses_of_the_theory_are_those_of_its_problem(stored):
    kept = stored["theory"]
    problem = theory.LinearRegression(
        capacity=kept["a"],
        source=kept["b"],
        dimension=views.DIMENSION,
        noise=kept["noise"],
        rtol=1e-5,
    )
    for name, risks in views.risks(trained.comparison(), problem).items():
        found = kept["floor"] + kept["scale"] * np.array(risks)
        assert found == pytest.approx(kept["losses"][name], abs=1e-6)


def test_the_stored_problem_is_the_best_and_the_laws_are_in_order(stored):
    kept = stored["theory"]
    a, b, noise, error = min(kept["tried"], key=lambda row: row[3])
    assert (a, b, noise, error) == tuple(kept[k] for k in ("a", "b", "noise", "error"))
    errors = [
        np.array([*of["errors"].values()])[:, 1:] for of in stored["laws"].values()
    ]
    sizes = [np.linalg.norm(one) for one in errors]
    assert sizes == sorted(sizes)


def test_the_readme_has_what_each_view_is_off_by(stored):
    table = views.misfits_to_markdown(stored)
    assert table in (run.HERE / "README.md").read_text()
