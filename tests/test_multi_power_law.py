import csv
import json
import pathlib

import numpy as np
import pytest
from numpy.testing import assert_allclose

from anytime_jax import laws
from anytime_jax.laws import forward_momentum
from experiments.multi_power_law import curves, run
from tests import mpl

FOLDER = pathlib.Path(run.__file__).parent
RESULTS = json.loads((FOLDER / "results.json").read_text())


@mpl.needs_curves
def test_the_schedules_are_those_of_the_files():
    for name in curves.TRAIN + curves.TEST:
        with (curves.folder() / "csv_100" / f"{name}.csv").open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        steps = [int(row["step"]) for row in rows]
        rates = [float(row["lr"]) for row in rows]
        assert_allclose(curves.rates(name)[steps], rates, atol=1e-18, rtol=0)


@mpl.needs_curves
def test_a_file_alone_comes_close_to_its_schedule():
    law = laws.MultiPowerLaw(*mpl.PUBLISHED[25])
    for name in ("cosine_24000", "wsd_20000_24000", "wsdcon_3"):
        path = curves.folder() / "csv_25" / f"{name}.csv"
        curve = laws.Curve.from_csv(path, warmup_steps=curves.WARMUP)
        exact = law.predict(curves.rates(name), curve.steps)
        found = law.predict(curve.rates, curve.steps)
        assert_allclose(found, exact, atol=5e-3, rtol=0)


@mpl.needs_curves
@pytest.mark.parametrize("size", mpl.SIZES)
def test_the_recorded_laws_have_the_recorded_scores(size):
    recorded = RESULTS[str(size)]["laws"]
    assert set(recorded) == {run.GIVEN, *run.FITS}
    for one in recorded.values():
        law = laws.Law.from_dict(one)
        score = law.score(mpl.test(size))
        for key, value in one["test"].items():
            assert_allclose(score[key], value, rtol=1e-6)
    # Trivial baselines, too.
    found = run.baselines(mpl.load(size))
    for name, score in RESULTS[str(size)]["baselines"].items():
        assert found[name] == pytest.approx(score)


def test_the_readme_holds_the_recorded_table():
    text = (FOLDER / "README.md").read_text()
    for line in run.to_markdown(RESULTS).splitlines():
        assert line in text


def test_the_default_is_better_than_both_in_the_record():
    for found in RESULTS.values():
        own, *others = (
            found["laws"][name]["test"]
            for name in (run.DEFAULT, run.GIVEN, "multi-power, converged")
        )
        for other in others:
            for key in ("worst_error", "final_error"):
                assert own[key] < other[key]


def test_what_the_readme_says_of_the_published_annealing_and_forward_laws():
    for found in RESULTS.values():
        rows = found["laws"]
        own = rows["annealing, published"]
        assert own["parameters"]["memory"] == 1000
        assert own["test"]["r2"] < rows["annealing, constant warmup"]["test"]["r2"]
        ratio = own["test"]["worst_error"] / rows[run.DEFAULT]["test"]["worst_error"]
        assert 2.25 < ratio < 4.85
        forward = rows["forward momentum, published"]
        flat = found["baselines"]["the constant rate's curve"]
        assert forward["test"]["r2"] < flat["r2"]
        for name, (low, high) in forward_momentum.BOUNDS.items():
            assert low < forward["parameters"][name] < high


def test_baselines_of_curves_that_are_easy():
    def curve(name, losses):
        return laws.Curve(np.full(72_000, 1e-4), [10, 20], losses, name)

    names = curves.TRAIN + curves.TEST
    same = {name: curve(name, [3.0, 2.5]) for name in names}
    assert run.baselines(same)["mean of the other curves"]["mae"] == 0
    same["constant_72000"] = curve("constant_72000", [3.5, 3.0])
    found = run.baselines(same)
    # Five test curves against it, and it against the shorter one.
    assert_allclose(found["the constant rate's curve"]["mae"], 0.5)
    assert_allclose(found["mean of the other curves"]["mae"], (5 * 0.0625 + 0.5) / 6)
