"""The experiment's map: whole, of this code, and what its README says."""

import pathlib

import numpy as np
import pytest

from anytime_jax import theory
from experiments import records
from experiments.worst_regret import run

FOLDER = pathlib.Path(run.__file__).parent


@pytest.fixture(scope="module")
def found():
    stored = records.read(FOLDER / "results.jsonl")
    return [stored[run.key(a, b)] for a in run.CAPACITIES for b in run.SOURCES]


def test_every_pair_is_there_for_every_problem(found):
    pairs = {(s, a) for s in run.SCHEDULES for a in ("raw", *run.AVERAGES)}
    for record in found:
        assert {(p["schedule"], p["average"]) for p in record["pairs"]} == pairs
        assert all(len(pair["regret"]) == len(run.HORIZONS) for pair in record["pairs"])
        assert record["edges"] == 0


def test_stored_numbers_are_those_of_the_code(found, monkeypatch):
    monkeypatch.setattr(run, "SCHEDULES", {"constant": run.SCHEDULES["constant"]})
    monkeypatch.setattr(run, "AVERAGES", {"ema6_25": run.AVERAGES["ema6_25"]})
    computed = run.compute(3.0, 1.5)
    [stored] = [r for r in found if (r["capacity"], r["source"]) == (3.0, 1.5)]
    np.testing.assert_allclose(computed["baseline"], stored["baseline"], rtol=1e-9)
    assert len(computed["pairs"]) == 2
    for pair in computed["pairs"]:
        names = pair["schedule"], pair["average"]
        [same] = [p for p in stored["pairs"] if (p["schedule"], p["average"]) == names]
        assert pair == same


def test_the_winner_follows_the_optimal_exponent(found):
    """A rank correlation, without ties broken: not one problem at a time."""
    exponent = {"constant": 0.0, "t^-1/4": 0.25, "t^-1/2": 0.5, "t^-3/4": 0.75}
    chosen = [next(iter(run.worst(r)))[0].partition(",")[0] for r in found]
    optimal = [theory.optimal_exponent(r["capacity"], r["source"]) for r in found]
    correlation = np.corrcoef([exponent[name] for name in chosen], optimal)[0, 1]
    assert correlation > 0.8


def test_the_worst_is_over_horizons_and_pairs_are_sorted():
    pairs = [
        dict(schedule="a", average="raw", regret=[0.0, np.log(3)]),
        dict(schedule="b", average="ema", regret=[np.log(2), -1.0]),
    ]
    ratio = run.worst(dict(pairs=pairs))
    assert list(ratio) == [("b", "ema"), ("a", "raw")]
    assert list(ratio.values()) == pytest.approx([2, 3])
    other = run.worst(dict(pairs=[dict(pairs[0], regret=[0.0, 0.0]), pairs[1]]))
    assert list(other) == [("a", "raw"), ("b", "ema")]
    flat = dict(pairs=[dict(pair, regret=[0.0]) for pair in pairs])
    rows = run.safest([dict(pairs=pairs), flat, flat])
    # b is the best of the first problem, and as good as a in the others.
    assert rows == [(("b", "ema"), 1.0, 1.0), (("a", "raw"), pytest.approx(1.5), 1.0)]


def test_tables_of_the_readme_are_those_of_the_results(found):
    text = (FOLDER / "README.md").read_text()
    assert run.to_markdown(found) in text
    assert run.safest_to_markdown(found) in text
