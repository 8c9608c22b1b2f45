"""Loss curves of a known law, as files and as a run, and the verb that reads them."""

import pathlib

import numpy as np

from anytime_jax import averaging, laws, schedules
from anytime_jax.commands import main
from tests import folders

TRUE = laws.MultiPowerLaw(2.0, 0.6, 0.4, 60.0, 1.4, 0.6, 0.55)
RUN = dict(peak=3e-3, warmup_steps=100)
SCHEDULES = dict(
    constant=schedules.constant(**RUN),
    cosine=schedules.cosine(**RUN, total_steps=2000),
    low=schedules.multi_step(**RUN, boundaries=[600], factor=0.1),
)
STEPS = np.arange(0, 2000, 20)
EMA = "age_ema:divisor=25"
# One parameter to fit: no time is spent on it.
FAST = "--law=simple:A=0.6,alpha=0.4,B=20"


def write_csv(path, schedule, steps=STEPS):
    rates = schedules.rates(schedule, 2000)
    found = TRUE.predict(rates, steps)
    rows = zip(steps, rates[steps].tolist(), found.tolist(), strict=True)
    text = "".join(f"{s},{r!r},{loss!r}\n" for s, r, loss in rows)
    path.write_text(f"step,lr,loss\n{text}")
    return path


def write_all(folder) -> list[pathlib.Path]:
    """Writes a csv of each schedule, all in one npz, and a run with an average."""
    paths = [
        write_csv(folder / f"{name}.csv", schedule)
        for name, schedule in SCHEDULES.items()
    ]
    arrays = {}
    for path in paths:
        curve = laws.Curve.from_csv(path)
        arrays |= {
            f"{path.stem}_step": curve.steps,
            f"{path.stem}_lr": curve.rates[curve.steps],
            f"{path.stem}_loss": curve.losses,
        }
    np.savez(folder / "all.npz", **arrays)
    # The helper adds 1/16 to what it writes as eval/loss.
    at = np.array([99, 199, 399])
    raw = TRUE.predict(0.01, at) - 1 / 16
    ema = laws.predict_average(TRUE, 0.01, averaging.age_ema(divisor=25), at) - 1 / 16
    by_step = {
        int(step) + 1: {"raw": float(r), "ema25": float(e)}
        for step, r, e in zip(at, raw, ema, strict=True)
    }
    # This run gained its average later.
    del by_step[100]["ema25"]
    folders.write(folder / "trunk", "constant", by_step, schedule__warmup_steps=0)
    return paths


def run(capsys, *arguments):
    assert main.main(["law", *map(str, arguments)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def fails(capsys, *arguments):
    assert main.main(["law", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    return line.removeprefix("anytime_jax: ")
