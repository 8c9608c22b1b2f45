"""The experiment's numbers: the published ones, and what the repository holds."""

import json
import pathlib

import numpy as np
import pytest

from anytime_jax import theory
from experiments import published
from experiments.synthetic_figure3 import run

FOLDER = pathlib.Path(run.__file__).parent


@pytest.fixture(scope="module")
def stored():
    return json.loads((FOLDER / "results.json").read_text())


def test_published_panels_are_met(stored):
    path = published.find(run.PUBLISHED)
    if path is None:
        pytest.skip(f"no {run.PUBLISHED}")
    theirs = json.loads(path.read_text())["panels"]
    assert len(theirs) == 4
    for panel in theirs:
        assert panel["plot_steps"] == stored["plotted"] == run.PLOTTED.tolist()
        [own] = [
            own
            for own in stored["normalized"]
            if (own["capacity"], own["source"]) == (panel["a"], panel["b"])
        ]
        for name in run.SCHEDULES:
            np.testing.assert_allclose(own[name]["curve"], panel[name], rtol=1e-6)
            assert own[name]["multiplier"] == panel[f"{name}_lr_multiplier"]
    lines = run.deviations(stored["normalized"], theirs)
    assert len(lines) == 8
    assert all(line.endswith("as published") for line in lines)
    assert not any("NOT" in line for line in lines)


def test_a_deviation_is_said(stored):
    first = stored["normalized"][0]
    theirs = dict(a=1.1, b=1.1, constant_lr_multiplier=1, sqrt_lr_multiplier=0.02)
    for name in run.SCHEDULES:
        theirs[name] = (np.array(first[name]["curve"]) * 1.01).tolist()
    constant, sqrt = run.deviations(stored["normalized"], [theirs])
    assert "within 9.9e-03" in constant
    assert "NOT as published" in constant
    assert "NOT" not in sqrt


def test_stored_numbers_are_those_of_the_code(stored):
    """One sweep of either normalization, in full."""
    for key, index, normalize in (("normalized", 3, True), ("unnormalized", 4, False)):
        panel = stored[key][index]
        problem = theory.LinearRegression(
            capacity=panel["capacity"],
            source=panel["source"],
            dimension=run.DIMENSION,
            noise=run.NOISE,
            normalize=normalize,
        )
        found = run.sweep(problem, "sqrt")
        assert found["multiplier"] == panel["sqrt"]["multiplier"]
        np.testing.assert_allclose(found["curve"], panel["sqrt"]["curve"], rtol=1e-9)


def test_tables_of_the_readme_are_those_of_the_results(stored):
    text = (FOLDER / "README.md").read_text()
    for key in ("normalized", "unnormalized"):
        assert run.to_markdown(stored[key]) in text
