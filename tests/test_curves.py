import json
import math
import re

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax import laws, schedules
from anytime_jax.laws import curves
from tests import folders


def write_csv(path, rows, header="step,lr,loss"):
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_curve_holds_arrays_of_its_own():
    rates, steps, losses = np.full(8, 0.5), np.array([3, 7]), np.array([2.5, 2.25])
    curve = laws.Curve(rates, steps, losses, "flat")
    rates[0], steps[0], losses[0] = 9, 9, 9
    assert_array_equal(curve.rates, np.full(8, 0.5))
    assert_array_equal(curve.steps, [3, 7])
    assert_array_equal(curve.losses, [2.5, 2.25])
    assert (curve.rates.dtype, curve.losses.dtype) == (np.float64, np.float64)
    assert curve.steps.dtype == np.int64


def test_final_loss_is_the_mean_of_the_last_eight_in_the_last_tenth():
    losses = np.arange(20.0, 0.0, -1.0)
    curve = laws.Curve(np.ones(20), np.arange(20), losses)
    assert curve.final_loss == np.mean([2, 1])
    late = laws.Curve(np.ones(1000), np.arange(980, 1000), losses)
    assert late.final_loss == np.mean([8, 7, 6, 5, 4, 3, 2, 1])


def test_the_end_of_a_curve_is_not_most_of_it():
    steps = np.array([184, 284, 440, 680, 1050, 1623, 2508, 3874])
    curve = laws.Curve(np.ones(3875), steps, np.arange(8.0, 0.0, -1.0))
    assert curve.final_loss == 1.0
    assert curve.between(0, 300).final_loss == 7.0
    assert curve.between(0, 200).final_loss == 8.0


def test_between_keeps_the_schedule():
    curve = laws.Curve(np.arange(9.0), [1, 4, 8], [3.0, 2.0, 1.0], "c")
    part = curve.between(4, 8)
    assert_array_equal(part.steps, [4, 8])
    assert_array_equal(part.losses, [2.0, 1.0])
    assert_array_equal(part.rates, curve.rates)
    assert part.name == "c"
    with pytest.raises(ValueError, match="first=5 and last=7 must enclose a recorded"):
        curve.between(5, 7)


RATES, STEPS, LOSSES = [0.1] * 5, [1, 3], [2.0, 1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(losses=[2.0]), r"c: losses of shape \(1,\) must have one for each of 2"),
        (dict(losses=[2.0, math.nan]), r"c: losses\[1\]=nan must be finite and > 0"),
        (dict(losses=[0.0, 1.0]), r"c: losses\[0\]=0.0 must be finite and > 0"),
        (dict(steps=[3, 3]), r"c: steps\[1\]=3 must be above steps\[0\]=3"),
        (dict(steps=[3, 1]), r"c: steps\[1\]=1 must be above steps\[0\]=3"),
        (dict(steps=[-1, 1]), r"c: steps\[0\]=-1 must be >= 0"),
        (dict(steps=[1, 5]), r"c: steps\[1\]=5 must be below the 5 steps of the sche"),
        (dict(steps=[1.0, 2.0]), r"c: steps of shape \(2,\) and type float64 must be"),
        (dict(steps=[], losses=[]), r"c: steps of shape \(0,\)"),
        (dict(rates=[0.1, math.nan, 1, 1]), r"c: rates\(1\)=nan must be a finite rate"),
        (dict(rates=[0.1, -1, 1, 1]), r"c: rates\(1\)=-1.0 must be a finite rate"),
        (dict(rates=[[0.1] * 5]), r"c: rates of shape \(1, 5\) must be a list"),
        (dict(rates=0.1), r"c: rates of shape \(\) must be a list"),
    ],
)
def test_what_is_no_curve(change, message):
    arguments = dict(rates=RATES, steps=STEPS, losses=LOSSES, name="c") | change
    with pytest.raises(ValueError, match=message) as error:
        laws.Curve(**arguments)
    assert "\n" not in str(error.value)


def test_rates_between_rows():
    table = curves.between_rows([4, 8, 10, 12], [1.0, 0.96, 0.5, 0.6], warmup_steps=2)
    expected = [0, 0.5, 1, 1, 1, 0.99, 0.98, 0.97, 0.96, 0.96, 0.5, 0.55, 0.6]
    assert_allclose(table, expected, rtol=1e-15)
    # A fall of exactly 5 % is still a slope.
    assert_allclose(curves.between_rows([0, 2], [1.0, 0.95])[1], 0.975, rtol=1e-15)
    assert_array_equal(curves.between_rows([3], [0.5], 0), [0.5] * 4)


def test_the_rates_of_a_rich_csv_are_those_of_its_schedule():
    schedule = schedules.linear(
        peak=0.3, total_steps=200, warmup_steps=10, warmup_start=0.0, final_fraction=0.9
    )
    exact = schedules.rates(schedule, 200)
    rows = np.arange(10, 200, 7)
    rows = np.append(rows, 199)
    assert_allclose(curves.between_rows(rows, exact[rows], 10), exact, rtol=1e-12)


def test_a_csv_of_a_spreadsheet(tmp_path):
    path = tmp_path / "sheet.csv"
    path.write_text("step, lr, loss\n0, 0.5, 3.25\n2, 0.5, 3.0\n", "utf-8-sig")
    assert_array_equal(laws.Curve.from_csv(path).losses, [3.25, 3.0])


def test_from_csv(tmp_path):
    path = write_csv(tmp_path / "wsd.csv", [(2, 0.5, 3.25), (4, 0.25, 3.125)])
    curve = laws.Curve.from_csv(path, warmup_steps=2)
    assert curve.name == "wsd"
    assert_array_equal(curve.rates, [0, 0.25, 0.5, 0.5, 0.25])
    assert_array_equal(curve.steps, [2, 4])
    assert_array_equal(curve.losses, [3.25, 3.125])
    given = laws.Curve.from_csv(path, rates=[0.5] * 7)
    assert_array_equal(given.rates, [0.5] * 7)
    # A schedule is one for as many steps as were recorded, and needs no column `lr`.
    path = write_csv(tmp_path / "c.csv", [(2, 3.25), (4, 3.125)], "step,loss")
    schedule = schedules.linear(peak=0.5, total_steps=10)
    exact = schedules.rates(schedule, 5)
    assert_array_equal(laws.Curve.from_csv(path, rates=schedule).rates, exact)
    assert_array_equal(laws.Curve.from_csv(path, rates=0.5).rates, [0.5] * 5)


@pytest.mark.parametrize(
    ("rows", "header", "arguments", "message"),
    [
        ([(2, 1, 3)], "step,lr,nats", dict(), "must have rows with a column 'loss'"),
        ([], "step,lr,loss", dict(), "must have rows with a column 'step'"),
        ([(2, 1, "x")], "step,lr,loss", dict(), "loss='x' in row 1 must be a number"),
        ([(2, 1)], "step,lr,loss", dict(), "loss=None in row 1 must be a number"),
        ([(2, 1, "nan")], "step,lr,loss", dict(rates=0.1), r"losses\[0\]=nan"),
        ([(2.5, 1, 3)], "step,lr,loss", dict(), r"steps\[0\]=2.5 must be an integer"),
        ([(2, 1, 3)], "step,lr,loss", dict(), "warmup_steps must be given, 0 for none"),
        ([(2, 1, 3)], "step,lr,loss", dict(warmup_steps=3), "warmup_steps=3 must be "),
        ([(2, -1, 3)], "step,lr,loss", dict(warmup_steps=0), r"lr\(0\)=-1.0 must be"),
        (
            [(2, 1, 3)],
            "step,lr,loss",
            dict(rates=0.1, warmup_steps=0),
            "warmup_steps=0 must be left out where rates are given",
        ),
        (
            [(5, 1, 3)],
            "step,lr,loss",
            dict(rates=[0.1] * 5),
            r"steps\[0\]=5 must be below the 5 steps of the schedule",
        ),
        (
            [(2, 1, 3), (1, 1, 3)],
            "step,lr,loss",
            dict(warmup_steps=0),
            r"steps\[1\]=1 must be above steps\[0\]=2",
        ),
    ],
)
def test_errors_about_csv(tmp_path, rows, header, arguments, message):
    path = write_csv(tmp_path / "c.csv", rows, header)
    with pytest.raises(ValueError, match=message) as error:
        laws.Curve.from_csv(path, **arguments)
    assert "\n" not in str(error.value)


def test_missing_files(tmp_path):
    with pytest.raises(ValueError, match="must be a csv file that exists"):
        laws.Curve.from_csv(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="must be an npz file that exists"):
        laws.Curve.from_npz(tmp_path / "none.npz", "wsd")
    with pytest.raises(ValueError, match=r"holds no run: there is no .*config.json"):
        laws.Curve.from_metrics(tmp_path)


def test_from_npz(tmp_path):
    path = tmp_path / "curves.npz"
    arrays = dict(wsd_step=[0, 1, 3], wsd_lr=[1.0, 1.0, 0.5], wsd_loss=[4.0, 3.0, 2.0])
    np.savez(path, **arrays, other_step=[0])
    curve = laws.Curve.from_npz(path, "wsd")
    assert (curve.name, curve.final_loss) == ("wsd", 2.0)
    assert_array_equal(curve.rates, [1, 1, 1, 0.5])
    assert_array_equal(laws.Curve.from_npz(path, "wsd", rates=0.5).rates, [0.5] * 4)
    with pytest.raises(ValueError, match="has no array other_lr; it has other_step, w"):
        laws.Curve.from_npz(path, "other")


def run(folder, **changes):
    # Its writer logs the peak at the first step, so there is no warmup.
    return folders.write(
        folder, "constant", folders.TRUNK, schedule__warmup_steps=0, **changes
    )


def test_from_metrics_counts_updates_done(tmp_path):
    folder = run(tmp_path / "trunk")
    for path in (folder, tmp_path / "trunk" / "metrics.jsonl"):
        curve = laws.Curve.from_metrics(path)
        assert curve.name == "trunk"
        assert_array_equal(curve.steps, [99, 199, 399])
        assert_array_equal(curve.losses, [3.0625, 2.5625, 2.0625])
    assert_array_equal(curve.rates, schedules.rates(schedules.constant(peak=0.01), 400))
    other = laws.Curve.from_metrics(folder, key="horizon/loss/ema25")
    assert_array_equal(other.losses, [2.75, 2.125, 1.875])
    with pytest.raises(ValueError, match=r"key='eval' is not in .*; known are eval"):
        laws.Curve.from_metrics(folder, key="eval")


def test_from_metrics_knows_the_trunk_of_a_branch(tmp_path):
    trunk = run(tmp_path / "trunk")
    losses = {400: {"raw": 1.8125}}
    folder = folders.write(tmp_path / "exit", "cooldown", losses, trunk=trunk)
    curve = laws.Curve.from_metrics(folder)
    rates = schedules.rates(schedules.constant(peak=0.01), 400)
    rates[320:] *= 1 - np.sqrt(np.arange(80) / 80)
    assert_allclose(curve.rates, rates, rtol=1e-12)
    (tmp_path / "trunk" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"trunk holds no run: there is no .*config"):
        laws.Curve.from_metrics(folder)


def test_from_metrics_holds_the_schedule_against_what_was_logged(tmp_path):
    folder = run(tmp_path / "trunk")
    path = tmp_path / "trunk" / "metrics.jsonl"
    line = json.dumps({"step": 50, "train/learning_rate": 0.02})
    path.write_text(path.read_text() + line + "\n")
    message = "the rate logged at step 50, 0.02, must be that of the schedule"
    with pytest.raises(ValueError, match=message):
        laws.Curve.from_metrics(folder)


def test_from_metrics_leaves_out_a_line_that_was_cut_off(tmp_path):
    folder = run(tmp_path / "trunk")
    path = tmp_path / "trunk" / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 4')
    assert len(laws.Curve.from_metrics(folder).steps) == 3
    for line in ('{"step": 4', "3", '{"eval/loss/raw": 2.5}'):
        path.write_text(f"{line}\n{whole}")
        with pytest.raises(ValueError, match=re.escape(f"{path} is damaged: ")):
            laws.Curve.from_metrics(folder)
    config = tmp_path / "trunk" / "config.json"
    config.write_text("{}")
    with pytest.raises(ValueError, match="is not that of a run: it has no schedule"):
        laws.Curve.from_metrics(folder)
    config.write_text('{"schedule": {"name": "constant"}, "resolved": {}}')
    with pytest.raises(ValueError, match=r"it has no resolved\.total_steps"):
        laws.Curve.from_metrics(folder)


def test_the_global_flag_is_left_alone(tmp_path):
    run(tmp_path / "trunk")
    laws.Curve.from_metrics(tmp_path / "trunk")
    assert not jax.config.jax_enable_x64
