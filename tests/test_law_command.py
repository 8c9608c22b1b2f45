"""The verb law: what it fits, predicts, finds, writes and refuses."""

import csv
import json
import pathlib

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax import averaging, laws, schedules
from anytime_jax.commands import law_files, law_fit, main
from anytime_jax.reporting import losses
from tests import folders
from tests.measured import (
    EMA,
    FAST,
    RUN,
    SCHEDULES,
    STEPS,
    fails,
    run,
    write_all,
    write_csv,
)


def rows_of(path):
    with pathlib.Path(path).open(newline="") as lines:
        return list(csv.reader(lines))


def csvs(folder):
    return [laws.Curve.from_csv(folder / f"{name}.csv") for name in SCHEDULES]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with three curves, a run with an average, and a law: law.json."""
    folder = tmp_path_factory.mktemp("given")
    paths = write_all(folder)
    out = folder / "law.json"
    assert main.main(["law", "fit", *map(str, paths), f"--out={out}"]) == 0
    return folder


@pytest.fixture(scope="module")
def law(given):
    return laws.Law.from_dict(json.loads((given / "law.json").read_text()))


def test_fit_writes_the_law_and_what_it_was_fitted_to(given, tmp_path, capsys):
    out, plot = tmp_path / "new" / "law.json", tmp_path / "new" / "fit.png"
    paths = [given / f"{name}.csv" for name in SCHEDULES]
    printed = run(capsys, "fit", *paths, f"--out={out}", f"--plot={plot}")
    data = json.loads(out.read_text())
    assert data["curves"] == [
        dict(name=name, peak=pytest.approx(3e-3), first_step=100, last_step=1980)
        for name in SCHEDULES
    ]
    assert data["key"] == "eval/loss/raw"
    found = laws.Law.from_dict(data)
    curves = [laws.Curve.from_csv(path).between(100, 2000) for path in paths]
    expected = laws.hold_out(laws.MultiPowerLaw.fit(curves), curves)
    assert found == expected
    assert found.fitted == expected.fitted
    lines = printed.splitlines()
    assert lines[0] == "multi_power, regularised with a ridge of 30, 3 curves, 285 " + (
        "points"
    )
    values = {line.split()[0]: line.split()[1] for line in lines[3:10]}
    assert_allclose(
        [float(values[name]) for name in found.PARAMETERS],
        list(found.parameters.values()),
        rtol=1e-5,
    )
    error = found.fitted.standard_errors["alpha"]
    [line] = [line for line in lines if line.startswith("alpha ")]
    assert line.endswith(f"{found.alpha * error:.2g} ({error:.1%})")
    for curve in curves:
        [line] = [line for line in lines if line.startswith(f"{curve.name} ")]
        assert line.split()[1:4] == ["100", "to", "1,980"]
        scores = [float(cell) for cell in line.split()[4:]]
        assert_allclose(scores, list(found.errors(curve).values()), atol=1e-5)
    begin = lines.index("Of a fit to the other curves, final:") + 1
    held_out = [line.split() for line in lines[begin : begin + 3]]
    assert [name for _, name in held_out] == list(SCHEDULES)
    errors = [float(error) for error, _ in held_out]
    assert_allclose(errors, found.fitted.held_out_errors, atol=1e-5)
    assert lines[-1] == f"Wrote {out} and {plot}"
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in out.parent.iterdir()) == ["fit.png", "law.json"]


def test_an_npz_has_all_its_curves(given, law, tmp_path, capsys):
    out = tmp_path / "law.json"
    run(capsys, "fit", given / "all.npz", f"--out={out}")
    fit = law_files.read_law(out)
    assert [one["name"] for one in fit.curves] == list(SCHEDULES)
    assert fit.law == law


@pytest.mark.parametrize("file", ["", "metrics.jsonl"])
def test_a_run_is_a_curve(given, tmp_path, capsys, file):
    out = tmp_path / "law.json"
    key = "--key=eval/loss/ema25"
    simple = "--law=simple:L0=2,A=0.6"
    arguments = [given / "trunk" / file, key, simple, f"--out={out}"]
    printed = run(capsys, "fit", *arguments)
    data = json.loads(out.read_text())
    assert data["key"] == "eval/loss/ema25"
    assert data["curves"] == [
        dict(name="trunk", peak=0.01, first_step=199, last_step=399)
    ]
    # A constant rate says nothing of B, and two points little of the rest.
    assert data["fitted"]["standard_errors"]["B"] is None
    assert "B" in data["fitted"]["unidentified"]
    assert "\nCaution: the curves do not determine " in printed
    assert "\nCaution: how far off the law is on another curve takes two " in printed
    assert "inf (inf%), not determined" in printed
    # Nor does it stop the law from being read: the run, at the law's own key.
    score = run(capsys, "predict", out, given / "trunk").splitlines()[3].split()
    assert score[1:4] == ["199", "to", "399"]
    assert law_files.read_law(out).law.fitted.standard_errors["B"] == np.inf


@pytest.mark.parametrize("name", sorted(set(law_fit.LAWS) - {"multi_power"}))
def test_every_law_can_be_fitted(given, tmp_path, capsys, name):
    out = tmp_path / "law.json"
    printed = run(capsys, "fit", given / "all.npz", f"--law={name}", f"--out={out}")
    ridge = law_fit.LAWS[name].SHRUNK
    assert printed.startswith(f"{name}, {'regularised' if ridge else 'converged'}")
    assert type(law_files.read_law(out).law) is law_fit.LAWS[name]


def test_laws_are_those_of_the_interface():
    assert set(law_fit.LAWS.values()) == set(laws.Law.__subclasses__())
    assert "forward_momentum" in law_fit.LAWS


def test_choices_and_given_parameters_come_after_a_colon(given, tmp_path, capsys):
    out = tmp_path / "law.json"
    given_law = "--law=annealing:memory=200,warmup=constant"
    printed = run(capsys, "fit", given / "all.npz", given_law, f"--out={out}")
    found = law_files.read_law(out).law
    assert (found.memory, found.warmup) == (200.0, "constant")
    [line] = [line for line in printed.splitlines() if line.startswith("memory ")]
    assert line.split() == ["memory", "200", "given"]


def test_the_ridge_and_profiles_are_those_of_the_interface(given, tmp_path, capsys):
    out = tmp_path / "law.json"
    arguments = ["--law=multi_power:C=1,gamma=0.5,B=60", "--ridge=2", f"--out={out}"]
    profiles = ["--profile=beta", "--profile=L0"]
    printed = run(capsys, "fit", given / "all.npz", *arguments, *profiles)
    assert printed.startswith("multi_power, regularised with a ridge of 2, 3 curves,")
    found = law_files.read_law(out).law
    assert (found.fitted.ridge, found.C) == (2.0, 1.0)
    lines = printed.splitlines()
    for name in ("beta", "L0"):
        begin = lines.index(
            f"{name:>12}  objective without ridge, with the best others"
        )
        table = np.array([line.split() for line in lines[begin + 1 : begin + 8]], float)
        assert_allclose(table[3, 0], getattr(found, name), rtol=1e-5)
        assert table[:, 1].argmin() == 3
    # The others were not all that was not given: B stays where it was put.
    curves = [one.between(100, 2000) for one in csvs(given)]
    least = laws.profile(found, curves, "beta", factors=(1.0,))
    assert least.parameters[0]["B"] == 60.0
    zero = run(capsys, "fit", given / "all.npz", FAST, "--ridge=0", f"--out={out}")
    assert zero.startswith("simple, converged, 3 curves")


def test_what_was_recorded_before_begin_is_left_out(given, tmp_path, capsys):
    out = tmp_path / "law.json"
    arguments = [FAST, "--begin=505", f"--out={out}"]
    run(capsys, "fit", given / "all.npz", *arguments)
    assert {one["first_step"] for one in law_files.read_law(out).curves} == {520}


def test_warmup_steps_are_for_files_that_begin_later(tmp_path, capsys):
    file, out = tmp_path / "late.csv", tmp_path / "law.json"
    write_csv(file, SCHEDULES["cosine"], STEPS[STEPS >= 200])
    message = fails(capsys, "fit", file, f"--out={out}")
    assert "warmup_steps must be given, 0 for none: the first row is at" in message
    arguments = [FAST, "--warmup_steps=100", f"--out={out}"]
    assert "200 to 1,980" in run(capsys, "fit", file, *arguments)


def test_different_peaks_are_warned_of(given, tmp_path, capsys):
    arguments = [given / "cosine.csv", given / "trunk", FAST]
    printed = run(capsys, "fit", *arguments, f"--out={tmp_path / 'law.json'}")
    assert "Caution: the curves have peaks from 0.003 to 0.01, and a law is" in printed


def test_predict_a_schedule_and_its_averages(given, law, tmp_path, capsys):
    spec = "wsd:peak=3e-3,warmup_steps=100,cooldown_fraction=0.2"
    out, plot = tmp_path / "curve.csv", tmp_path / "curve.png"
    printed = run(
        capsys,
        *("predict", given / "law.json", f"--schedule={spec}", "--steps=1500"),
        *(f"--average={EMA}", "--average=uniform", f"--out={out}", f"--plot={plot}"),
    )
    schedule = schedules.wsd(**RUN, cooldown_fraction=0.2, total_steps=1500)
    rates = schedules.rates(schedule, 1500)
    header, *rows = rows_of(out)
    assert header == ["step", "lr", "loss", EMA, "uniform"]
    steps = np.array([int(row[0]) for row in rows])
    assert (steps[0], steps[-1]) == (100, 1499)
    assert (np.diff(steps) > 0).all()
    # Even in their logarithms at first.
    assert 80 < len(steps) < 150
    columns = np.array(rows, np.float64).T[1:]
    assert_array_equal(columns[0], rates[steps])
    assert_array_equal(columns[1], law.predict(rates, steps))
    for column, average in (
        (columns[2], averaging.age_ema(divisor=25)),
        (columns[3], averaging.uniform()),
    ):
        expected = laws.predict_average(law, rates, average, steps)
        assert_allclose(column, expected, rtol=1e-12)
    first, _, _, names, *table = printed.splitlines()
    assert first == f"{spec}, 1,500 steps"
    assert names.split() == ["step", "learning", "rate", "raw", EMA, "uniform"]
    last = table[11].split()
    assert last[0] == "1,499"
    assert_allclose([float(cell) for cell in last[1:]], columns[:, -1], atol=5e-5)
    assert f"off by up to {law.fitted.final_error:.4f} nats" in printed
    assert f"left out by up to {law.fitted.held_out_error:.4f}." in printed
    assert "Caution" not in printed
    assert printed.splitlines()[-1] == f"Wrote {out} and {plot}"
    assert plot.read_bytes().startswith(b"\x89PNG")
    # It can be read as a curve.
    curve = laws.Curve.from_csv(out, rates=schedule)
    assert law.errors(curve)["mae"] < 1e-6


def test_predict_warns_beyond_what_it_was_fitted_to(given, capsys):
    spec = "--schedule=linear:peak=6e-3,total_steps=4000"
    printed = run(capsys, "predict", given / "law.json", spec)
    assert "linear:peak=6e-3,total_steps=4000, 4,000 steps" in printed
    cautions = [line for line in printed.splitlines() if line.startswith("Caution")]
    assert cautions == [
        "Caution: the schedule has a peak of 0.006, and the law was fitted at 0.003: "
        "it does not know what another peak does.",
        "Caution: the schedule goes to step 3,999, and the curves of the law end at "
        "1,980: beyond, it extrapolates.",
    ]
    assert "Wrote" not in printed
    short = "--schedule=constant:peak=3e-3"
    printed = run(capsys, "predict", given / "law.json", short, "--steps=50")
    assert "is predicted from step 0, and the curves of the law begin at 100" in printed


def test_predict_measured_curves(given, law, tmp_path, capsys):
    out, plot = tmp_path / "curves.csv", tmp_path / "curves.png"
    printed = run(
        capsys,
        *("predict", given / "law.json", given / "low.csv", given / "trunk"),
        *(f"--average={EMA}", "--average=tail:start=50", f"--out={out}"),
        f"--plot={plot}",
    )
    low = laws.Curve.from_csv(given / "low.csv").between(100, 2000)
    trunk = laws.Curve.from_metrics(given / "trunk")
    lines = {" ".join(line.split()[:-9]): line for line in printed.splitlines()}
    for name, curve in (("low", low), ("trunk", trunk)):
        scores = [float(cell) for cell in lines[name].split()[-6:]]
        assert_allclose(scores, list(law.errors(curve).values()), atol=1e-5)
    # The run tracked one of the averages, from its second record on.
    measured = laws.Curve.from_metrics(given / "trunk", "eval/loss/ema25")
    average = averaging.age_ema(divisor=25)
    predicted = laws.predict_average(law, measured.rates, average, measured.steps)
    scores = [float(cell) for cell in lines[f"trunk {EMA}"].split()[-6:]]
    expected = laws.errors(predicted, measured.losses, measured.steps)
    assert_allclose(scores, list(expected.values()), atol=1e-5)
    assert "199 to 399" in lines[f"trunk {EMA}"]
    unknown = printed.partition("and not measured:\n")[2].split("\n\n")[0]
    assert [line.split(" ", 1)[1].strip() for line in unknown.splitlines()] == [
        f"low {EMA}",
        "low tail:start=50",
        "trunk tail:start=50",
    ]
    assert "Caution: trunk has a peak of 0.01, and the law was fitted at" in printed
    assert "Caution: low" not in printed
    header, *rows = rows_of(out)
    names = [EMA, "tail:start=50"]
    assert header == ["curve", "step", "lr", "loss", "predicted", *names]
    assert len(rows) == len(low.steps) + 3
    assert rows[-1][:2] == ["trunk", "399"]
    assert float(rows[-1][4]) == law.predict(0.01, 399)
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["continue", "restart"])
def test_a_branch_that_continues_an_average_is_compared(given, tmp_path, capsys, kind):
    trunk = given / "trunk"
    taken = dict(averages=["ema25"], tokens_per_step=100)
    branch = dict(workdir=str(trunk), step=320, averages=kind, trunk=taken)
    specs = dict(ema25=dict(name="age_ema", divisor=25.0), own=dict(name="uniform"))
    losses = {400: dict(raw=1.75, ema25=1.5, own=1.75)}
    made = dict(trunk=trunk, branch=branch, averages=specs)
    folders.write(tmp_path / "exit", "cooldown", losses, **made)
    averages = f"--average={EMA}", "--average=uniform"
    printed = run(capsys, "predict", given / "law.json", tmp_path / "exit", *averages)
    unknown = printed.partition("and not measured:\n")[2].split("\n\n")[0]
    names = [line.split(" ", 1)[1].strip() for line in unknown.splitlines()]
    compared = kind == "continue"
    assert names == ["exit uniform"] if compared else [f"exit {EMA}", "exit uniform"]
    lines = [line for line in printed.splitlines() if line.startswith(f"exit {EMA}")]
    assert len(lines) == compared


def test_curves_of_one_name_are_told_apart(given, tmp_path, capsys):
    other = tmp_path / "low.csv"
    write_csv(other, SCHEDULES["low"])
    first = given / "low.csv"
    printed = run(capsys, "predict", given / "law.json", first, other)
    assert f"\n{first} " in printed and f"\n{other} " in printed


def test_the_best_schedule(given, law, tmp_path, capsys):
    found = {}
    for suffix in ("json", "csv"):
        out, plot = tmp_path / f"best.{suffix}", tmp_path / f"{suffix}.png"
        printed = run(
            capsys,
            *("best-schedule", given / "law.json", "--peak=3e-3", "--steps=1200"),
            *("--floor=1e-4", "--warmup_steps=100", f"--out={out}", f"--plot={plot}"),
        )
        assert plot.read_bytes().startswith(b"\x89PNG")
        assert printed.splitlines()[-1] == f"Wrote {out} and {plot}"
        found[suffix] = out
    best = laws.optimal_schedule(law, 3e-3, 1200, 1e-4, warmup_steps=100)
    data = json.loads(found["json"].read_text())
    rates = schedules.rates(schedules.build(data["schedule"]), 1200)
    # A schedule in a config computes in float32 at worst.
    assert_allclose(rates, best.rates, rtol=1e-6, atol=1e-12)
    assert data["loss"] == best.loss and data["caution"] == best.caution
    assert data["gains"] == best.gains
    header, *rows = rows_of(found["csv"])
    assert header == ["step", "lr"]
    assert_array_equal(np.array(rows, np.float64).T, [np.arange(1200), best.rates])
    for name, gain in best.gains.items():
        cells = f"{best.loss + gain:.4f} {gain:.4f}"
        [line] = [x for x in printed.splitlines() if x.startswith(f"{name} ")]
        assert " ".join(line.split()[1:]) == cells
    assert (f"Caution: {best.caution}." in printed) == bool(best.caution)
    half = 100 + np.flatnonzero(best.rates[100:] < 0.5 * 3e-3)[0]
    [line] = [x for x in printed.splitlines() if "below 0.5 of the peak" in x]
    assert line.split()[0] == f"{half:,}"


def test_the_best_schedule_is_cautious(given, capsys, tmp_path):
    data = json.loads((given / "law.json").read_text())
    data["fitted"]["held_out_errors"] = [0.0, -10.0, 1.0]
    (tmp_path / "law.json").write_text(json.dumps(data))
    arguments = ["best-schedule", tmp_path / "law.json", "--peak=1", "--steps=3000"]
    printed = run(capsys, *arguments)
    assert (
        "\nCaution: the gain over cosine, linear, wsd is below the law's error on a "
        "curve left out, 10.0000 nats.\n"
    ) in printed
    assert "has a peak of 1, and the law was fitted at 0.003" in printed
    assert "goes to step 2,999" in printed


@pytest.mark.parametrize("action", ["fit", "predict", "best-schedule"])
def test_every_action_has_its_own_help(action, capsys):
    printed = run(capsys, action, "--help")
    assert printed.startswith(f"usage: python -m anytime_jax law {action} ")


def test_files_are_written_all_or_none(given, tmp_path, capsys, monkeypatch):
    out, plot = tmp_path / "law.json", tmp_path / "fit.png"
    out.write_text("before")

    def full(*_, **__):
        raise OSError("no space left")

    arguments = ["fit", given / "low.csv", FAST, f"--out={out}"]
    with monkeypatch.context() as patch:
        patch.setattr(losses, "draw_fits", full)
        message = fails(capsys, *arguments, f"--plot={plot}")
    assert message == f"{plot} cannot be written: no space left"
    assert out.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["law.json"]
    run(capsys, *arguments)
    assert json.loads(out.read_text())["law"] == "SimpleLaw"


def test_a_law_that_does_not_cover_best_schedules(given, tmp_path, capsys):
    out = tmp_path / "law.json"
    run(capsys, "fit", given / "all.npz", FAST, f"--out={out}")
    arguments = [out, "--peak=3e-3", "--steps=9", f"--out={tmp_path / 'b.json'}"]
    message = fails(capsys, "best-schedule", *arguments)
    assert message.startswith("law=SimpleLaw must be a MultiPowerLaw or a Functional")
    assert [path.name for path in tmp_path.iterdir()] == ["law.json"]
