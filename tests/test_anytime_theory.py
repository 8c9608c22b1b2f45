"""The experiment's numbers: the reference ones, the theory's, and those of the code."""

import pathlib

import numpy as np
import pytest

from anytime_jax import theory
from experiments import records
from experiments.anytime_theory import run

FOLDER = pathlib.Path(run.__file__).parent


@pytest.fixture(scope="module")
def found():
    return records.read(FOLDER / "results.jsonl")


# Ratios to the tuned cosine envelope from an independent simulation, two decimals.
RATIOS = {
    ("equal", "constant", "raw"): "1.28 1.31 1.34 1.39 1.44 1.50",
    ("equal", "constant", "tail_half"): ".97 .95 .92 .89 .85 .81",
    ("equal", "constant", "ema6_25"): ".96 .94 .91 .88 .85 .81",
    ("equal", "constant", "ema25"): "1.07 1.05 1.02 .99 .95 .91",
    ("equal", "t^-1/2", "tail_half"): "1.23 1.25 1.29 1.37 1.45 1.55",
    ("equal", run.WSD, "raw"): "1.12 1.11 1.10 1.09 1.07 1.04",
    ("easy", "constant", "raw"): "2.40 1.73 1.48 1.57 2.02 2.90",
    ("easy", "constant", "tail_half"): "1.30 1.04 .96 .98 1.08 1.25",
    ("easy", "t^-1/4", "tail_half"): "1.14 1.04 .98 .95 .94 .95",
    ("easy", "t^-1/2", "tail_half"): "1.19 1.18 1.18 1.17 1.16 1.14",
    ("easy", "shifted 1/sqrt", "tail_half"): "1.02 .98 .98 .97 .97 .96",
    ("easy", "shifted 1/sqrt", "ema6_25"): "1.04 .98 .96 .94 .93 .91",
    ("easy", run.WSD, "raw"): "1.97 1.47 1.30 1.31 1.51 1.86",
    ("hard", "constant", "tail_half"): ".98 .94 .90 .86 .83 .79",
}


@pytest.mark.parametrize(("name", "schedule", "average"), RATIOS)
def test_ratios_of_the_reference(found, name, schedule, average):
    record = found[f"small {name}"]
    ratio = run.risks(record)[schedule, average] / record["envelope"]
    expected = [float(text) for text in RATIOS[name, schedule, average].split()]
    # Two rounded decimals, and the count at which a schedule's clock starts.
    np.testing.assert_allclose(ratio, expected, atol=0.0125)


def test_ratios_at_the_ends_of_the_reference(found):
    easy, hard = found["small easy"], found["small hard"]
    fast = run.risks(easy)["t^-3/4", "tail_half"] / easy["envelope"]
    slow = run.risks(hard)["t^-1/2", "tail_half"] / hard["envelope"]
    np.testing.assert_allclose(fast[[0, -1]], [2.07, 4.23], atol=0.0125)
    np.testing.assert_allclose(slow[[0, -1]], [1.21, 1.55], atol=0.0125)


@pytest.mark.parametrize("name", ["equal", "hard"])
def test_without_an_easy_target_constant_rates_win(found, name):
    for study in ("small", "large"):
        last = {
            row: risk[-1] for row, risk in run.risks(found[f"{study} {name}"]).items()
        }
        constant = last["constant", "ema6_25"]
        for schedule in ("t^-1/4", "t^-1/2", "t^-3/4", "shifted 1/sqrt"):
            others = [last[schedule, a] for a in (*run.averages(5), "raw")]
            assert constant < min(others)


def test_with_an_easy_target_only_one_over_sqrt_serves_every_horizon(found):
    record = found["small easy"]
    log_ratio = {
        row: np.log(risk / record["envelope"])
        for row, risk in run.risks(record).items()
        if row[1] == "tail_half"
    }
    spread = {row[0]: np.ptp(ratio) for row, ratio in log_ratio.items()}
    assert max(spread["t^-1/2"], spread["shifted 1/sqrt"]) < 0.1
    assert min(spread["constant"], spread["t^-1/4"], spread["t^-3/4"]) > 0.15
    constant = log_ratio["constant", "tail_half"]
    assert 0 < constant.argmin() < len(constant) - 1
    assert (np.diff(constant[constant.argmin() :]) > 0).all()
    assert (np.diff(log_ratio["t^-3/4", "tail_half"]) > 0).all()


def test_without_averages_nothing_horizon_free_keeps_up(found):
    for name in run.PROBLEMS:
        record = found[f"small {name}"]
        for (schedule, average), risk in run.risks(record).items():
            if average == "raw" and schedule != run.WSD:
                assert (risk / record["envelope"]).max() > 1.25


@pytest.mark.parametrize("name", run.PROBLEMS)
@pytest.mark.parametrize("average", ["tail_half", "ema6_25", "ema25"])
def test_slopes_are_the_predicted_ones(found, name, average):
    record = found[f"large {name}"]
    assert len(record["horizons"]) == 13
    optimal = theory.optimal_exponent(*run.PROBLEMS[name])
    for schedule, exponent in run.EXPONENTS.items():
        last = run.slopes(run.risks(record)[schedule, average])[-3:]
        predicted = -theory.predicted_rate(*run.PROBLEMS[name], exponent)
        np.testing.assert_allclose(
            last, predicted, atol=0.03 if exponent == optimal else 0.06
        )


def test_nothing_horizon_free_in_the_large_study_is_at_the_end_of_its_grid(found):
    for name in run.PROBLEMS:
        record = found[f"large {name}"]
        assert not any(record["envelope_at_edge"])
        assert not any(row[4] for row in record["rows"])


def test_stored_numbers_are_those_of_the_code(found):
    stored = found["small hard"]
    computed = run.compute(run.STUDIES["small"], *run.PROBLEMS["hard"])
    np.testing.assert_allclose(computed["envelope"], stored["envelope"], rtol=1e-9)
    expected = run.risks(stored)
    for row, risk in run.risks(computed).items():
        np.testing.assert_allclose(risk, expected[row], rtol=1e-9)


@pytest.mark.parametrize("name", run.PROBLEMS)
def test_a_row_of_the_large_study_is_that_of_the_code(found, name):
    """Up to 16x, at the stored rate."""
    capacity, source = run.PROBLEMS[name]
    problem = theory.LinearRegression(
        capacity=capacity,
        source=source,
        dimension=run.STUDIES["large"].dimension,
        noise=1,
    )
    record = found[f"large {name}"]
    [row] = [row for row in record["rows"] if row[:2] == ["t^-1/2", "ema6_25"]]
    risk = theory.sgd_risk(
        problem,
        run.SCHEDULES["t^-1/2"],
        dict(ema6_25=run.averages(12)["ema6_25"]),
        record["horizons"][4],
        record=record["horizons"][:5],
        rates=[row[2] / problem.trace],
    )["ema6_25"][0]
    np.testing.assert_allclose(risk, row[3][:5], rtol=1e-9)


def test_the_halves_of_all_horizons_are_one_average():
    weight = run.halves(2)
    average, seen = 0.0, {}
    for t in range(1, 4 * run.FIRST + 1):
        average += weight(t) * (t - average)
        seen[t] = average
    for horizon in (run.FIRST, 2 * run.FIRST, 4 * run.FIRST):
        mean = np.mean(range(horizon // 2 + 1, horizon + 1))
        assert seen[horizon] == pytest.approx(mean, rel=1e-12)
    assert weight(4 * run.FIRST + 1) == 1.0


def test_tables_of_the_readme_are_those_of_the_results(found):
    text = (FOLDER / "README.md").read_text()
    for key in found:
        assert run.to_markdown(found[key]) in text
    assert run.slopes_to_markdown(found) in text
    for line in run.checks(found):
        assert line in text
