"""The experiment's numbers: those of the code, what they show, and its README."""

import json
import pathlib

import numpy as np
import pytest

from experiments.averaged_weights import run

FOLDER = pathlib.Path(run.__file__).parent
AGES = ("ema100", "ema50", "ema25", "ema12_5", "ema6_25")


@pytest.fixture(scope="module")
def found():
    return json.loads((FOLDER / "results.json").read_text())


def test_stored_numbers_are_those_of_the_code(found, monkeypatch):
    monkeypatch.setattr(run, "LAWS", {"multi_power": run.LAWS["multi_power"]})
    monkeypatch.setattr(run, "AVERAGES", {"ema25": run.AVERAGES["ema25"]})
    data = json.loads((FOLDER / "curves.json").read_text())
    computed = run.compute(data)
    assert computed["steps"] == found["steps"]
    assert computed["measured"]["ema25"] == found["measured"]["ema25"]
    own = computed["laws"]["multi_power"]["predicted"]["ema25"]
    for way, losses in found["laws"]["multi_power"]["predicted"]["ema25"].items():
        # Where the search ends depends on the machine's rounding.
        np.testing.assert_allclose(own[way], losses, atol=2e-3)


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
