"""law best-schedule FILE.json --peak=P --steps=N [--floor=F] [--warmup_steps=W]
    [--out=FILE.json|FILE.csv] [--plot=FILE.png]

Finds the schedule that never rises after its warmup and has the least final loss under
the law in FILE.json, which `law fit` wrote; it must be a multi_power or a
functional_scaling one. --peak is best the one of the curves that it was fitted to;
--floor is the least rate allowed, by default 0.

Prints what it gains over a cosine and a straight line to the floor and over the best of
several constant rates with a linear cooldown, and a caution that says which of these
gains are less than the law is off on curves left out of its fit, and that the others
may be overstated. --out gets the rate of every step: as json under `schedule` what a
config takes for one, as csv the columns step and lr.
"""

import csv
import json
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags

from anytime_jax import laws
from anytime_jax.commands import law_files, law_predict
from anytime_jax.commands.errors import BadInput
from anytime_jax.laws import reductions
from anytime_jax.reporting import losses

_LEVELS = (0.9, 0.5, 0.1)
_POINTS = 200


def run(arguments: Sequence[str]) -> int:
    """Finds the best schedule.

    Args:
      arguments: those after the action.

    Returns:
      0.

    Raises:
      BadInput: an argument is not allowed, or the law is another one.
    """
    values, paths = law_files.parse("best-schedule", arguments, _define)
    if len(paths) != 1:
        raise BadInput(f"FILE.json is given {len(paths)} times, not once: the law")
    for name, what in (("peak", "P"), ("steps", "N")):
        if values[name].value is None:
            raise BadInput(f"--{name}={what} is missing")
    out = law_files.path_of(values, "out", ".json", ".csv")
    plot = law_files.path_of(values, "plot", ".png")
    if out and out.resolve() == pathlib.Path(paths[0]).resolve():
        raise BadInput(f"--out={out} is the law itself")
    fit = law_files.read_law(paths[0])
    run = dict(warmup_steps=values.warmup_steps)
    try:
        best = laws.optimal_schedule(
            fit.law, values.peak, values.steps, values.floor, **run
        )
    except ValueError as error:
        raise BadInput(error) from error
    write = _write_csv if out and out.suffix == ".csv" else _write_json
    law_files.write(
        {
            out: lambda path: write(best, path),
            plot: lambda path: _draw(fit, best, values, path),
        }
    )
    print(to_text(fit, best, values.peak, values.warmup_steps))
    law_files.tell_written(out, plot)
    return 0


def to_text(
    fit: law_files.Fit, best: laws.OptimalSchedule, peak: float, warmup_steps: int
) -> str:
    """Returns the loss, the gains and the shape of the best schedule.

    Args:
      fit: the law and its curves.
      best: what was found.
      peak: the rate after the warmup.
      warmup_steps: of the run.
    """
    steps = len(best.rates)
    lines = [
        f"the best schedule of {steps:,} steps with a peak of {peak:g}",
        law_files.label(fit),
        "",
        f"predicted final loss {best.loss:.4f}",
        "",
        f"{'instead of':<12}{'loss':>10}{'gain':>10}",
    ]
    for name, gain in best.gains.items():
        lines.append(f"{name:<12}{best.loss + gain:>10.4f}{gain:>10.4f}")
    lines += ["", f"{'step':>10}  {'learning rate':>13}"]
    for level in _LEVELS:
        below = np.flatnonzero(best.rates[warmup_steps:] < level * peak)
        if len(below):
            step = warmup_steps + int(below[0])
            lines.append(
                f"{step:>10,}  {best.rates[step]:>13.6g}  below {level:g} of the peak, "
                f"after {step / steps:.1%} of the run"
            )
    lines.append(f"{steps - 1:>10,}  {best.rates[-1]:>13.6g}  last update")
    cautions = [best.caution] if best.caution else []
    last = np.array([steps - 1])
    cautions += law_files.cautions(fit, best.rates, last, "the schedule")
    return "\n".join(lines + [x for one in cautions for x in ("", f"Caution: {one}.")])


def _draw(
    fit: law_files.Fit,
    best: laws.OptimalSchedule,
    values: flags.FlagValues,
    path: pathlib.Path,
) -> None:
    """Draws it beside what it is compared with."""
    steps = len(best.rates)
    others = laws.usual_schedules(
        fit.law, values.peak, steps, values.floor, warmup_steps=values.warmup_steps
    )
    begin = reductions.warmup_end(best.rates)
    at_P = np.unique(np.linspace(max(begin, 1), steps - 1, _POINTS).astype(int))
    drawn, rates = {}, {}
    for name, rates_T in {"best": best.rates, **others}.items():
        predicted_P = fit.law.predict(rates_T, at_P)
        label = f"{name}, {predicted_P[-1]:.4f}"
        drawn[label] = at_P, predicted_P
        shown = law_predict.thinned(steps)
        rates[label] = shown, rates_T[shown]
    title = f"The best schedule under the {law_files.name_of(type(fit.law))} law"
    losses.draw_predictions(drawn, rates, path, title=title)


def _write_json(best: laws.OptimalSchedule, path: pathlib.Path) -> None:
    data = dict(
        schedule=dict(name="from_values", values=best.rates.tolist()),
        loss=best.loss,
        gains=dict(best.gains),
        caution=best.caution,
    )
    path.write_text(json.dumps(data, allow_nan=False) + "\n")


def _write_csv(best: laws.OptimalSchedule, path: pathlib.Path) -> None:
    with path.open("w", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(["step", "lr"])
        writer.writerows(enumerate(best.rates.tolist()))


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_float("peak", None, "", flag_values=values)
    flags.DEFINE_float("floor", 0.0, "", flag_values=values)
    flags.DEFINE_integer("steps", None, "", 2, 10**7, flag_values=values)
    flags.DEFINE_integer("warmup_steps", 0, "", lower_bound=0, flag_values=values)
    for name in ("out", "plot"):
        flags.DEFINE_string(name, None, "", flag_values=values)
