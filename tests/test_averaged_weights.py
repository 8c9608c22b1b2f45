"""The experiment's numbers: those of the code, what they show, and its README."""

import itertools
import json
import pathlib

import numpy as np
import pytest

from anytime_jax.laws import fitting
from experiments.averaged_weights import run

FOLDER = pathlib.Path(run.__file__).parent
AGES = ("ema100", "ema50", "ema25", "ema12_5", "ema6_25")


@pytest.fixture(scope="module")
def found():
    return json.loads((FOLDER / "results.json").read_text())


@pytest.fixture(scope="module")
def data():
    return json.loads((FOLDER / "curves.json").read_text())


def test_a_fit_ends_where_the_stored_one_did(found, data, monkeypatch):
    monkeypatch.setattr(run, "LAWS", {"multi_power": run.LAWS["multi_power"]})
    computed = run.compute(data)
    assert computed["steps"] == found["steps"]
    assert computed["measured"] == found["measured"]
    stored = found["laws"]["multi_power"]["predicted"]
    own = computed["laws"]["multi_power"]["predicted"]
    assert own.keys() == stored.keys() == run.AVERAGES.keys()
    for name, way in itertools.product(run.AVERAGES, run.WAYS):
        # Where the search ends depends on the machine's rounding.
        np.testing.assert_allclose(own[name][way], stored[name][way], atol=2e-3)


@pytest.mark.parametrize("title", run.LAWS)
def test_stored_parameters_are_the_best(found, data, title):
    kind, stored = run.LAWS[title], found["laws"][title]["parameters"]
    raw = [run.curve(one, run.FITTED_FROM) for one in data["raw"]]
    problem = fitting.Problem(kind, raw, {}, {})
    prior = kind.starts(raw)[0]

    def objective(parameters):
        shifts = [np.log(parameters[name] / prior[name]) for name in kind.SHRUNK]
        return problem.value(parameters) + kind.RIDGE * np.square(shifts).sum()

    least = objective(stored)
    for name, factor in itertools.product(kind.PARAMETERS, (0.999, 1.001)):
        assert objective(stored | {name: factor * stored[name]}) > least


@pytest.mark.parametrize("title", run.LAWS)
def test_stored_predictions_are_those_of_the_stored_parameters(found, data, title):
    stored = found["laws"][title]
    law = run.LAWS[title](**stored["parameters"])
    raw = [run.curve(one, run.FITTED_FROM) for one in data["raw"]]
    np.testing.assert_allclose(law.score(raw)["mae"], stored["raw_error"], rtol=1e-6)
    trunk = run.curve(data["raw"][0], run.PREDICTED_FROM)
    for name in run.AVERAGES:
        computed = run.predictions(law, trunk, name)
        assert computed.keys() == stored["predicted"][name].keys() == run.WAYS.keys()
        for way, losses in computed.items():
            expected = stored["predicted"][name][way]
            np.testing.assert_allclose(losses, expected, rtol=1e-9)


def test_laws_of_decays_predict_averages_that_forget(found):
    for law in ("multi_power", "annealing", "functional_scaling"):
        for name in AGES:
            pairs = run.error(found, law, name, "pairs")
            assert pairs < 0.026
            assert pairs < run.error(found, law, name, "ignored") / 2


def test_uniform_is_predicted_better_than_by_ignoring_the_average(found):
    for law in run.LAWS:
        ignored = run.error(found, law, "uniform", "ignored")
        assert run.error(found, law, "uniform", "pairs") < 0.6 * ignored


def test_curves_keep_their_rates_and_steps():
    data = dict(
        name="x", rates=[[0.5, 3], [0.25, 2]], steps=[0, 2, 4], losses=[3.0, 2.0, 1.5]
    )
    late = run.curve(data, 1)
    np.testing.assert_array_equal(late.rates, [0.5, 0.5, 0.5, 0.25, 0.25])
    np.testing.assert_array_equal(late.steps, [2, 4])
    np.testing.assert_array_equal(late.losses, [2.0, 1.5])


def test_tables_of_the_readme_are_those_of_the_results(found):
    text = (FOLDER / "README.md").read_text()
    assert run.errors_to_markdown(found) in text
    assert run.horizons_to_markdown(found) in text
