"""law predict FILE.json (--schedule=SPEC --steps=N | CURVES...) [--average=SPEC ...]
    [--out=FILE.csv] [--plot=FILE.png] [--key=eval/loss/raw] [--begin=STEP]
    [--warmup_steps=W]

Predicts with the law in FILE.json, which `law fit` wrote, either the loss curve of a
schedule or those of runs that were measured, to be compared.

--schedule is NAME:KEY=VALUE,KEY=VALUE, such as wsd:peak=3e-4,warmup_steps=2000 or
cosine:peak=3e-4,final_fraction=0.1, and --steps the length of its run. The prediction
begins where the warmup ends. CURVES, --key, --begin and --warmup_steps are those of
`law fit`.

--average, as often as wanted, such as age_ema:divisor=25 or uniform, predicts the loss
of such an average of the run's weights too. If a run in CURVES tracked that average
from its start, or as a branch with branch.averages=continue its trunk's, it is compared
as well. FILE.csv gets the columns step, lr and loss, and one for each average; with
CURVES the columns curve, step, lr, loss, predicted and one for each average.
"""

import csv
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from absl import flags

from anytime_jax import averaging, laws, schedules
from anytime_jax.commands import arguments as arguments_lib
from anytime_jax.commands import law_files, law_fit
from anytime_jax.commands.errors import BadInput
from anytime_jax.laws import reductions
from anytime_jax.reporting import losses

RAW = "raw"
_ROWS, _POINTS = 12, 64
_DRAWN = 20_000
_LONGEST = 10**8


def run(arguments: Sequence[str]) -> int:
    """Predicts.

    Args:
      arguments: those after the action.

    Returns:
      0.

    Raises:
      BadInput: an argument is not allowed, or the law does not cover a schedule.
    """
    values, paths = law_files.parse("predict", arguments, _define)
    if not paths:
        raise BadInput("FILE.json is missing: the law, which law fit writes")
    out = law_files.path_of(values, "out", ".csv")
    plot = law_files.path_of(values, "plot", ".png")
    if bool(values.schedule) == bool(paths[1:]):
        raise BadInput("one of --schedule=SPEC and CURVES must be given, not both")
    for name in ("steps", "begin", "warmup_steps"):
        of_schedule = name == "steps"
        if values[name].value is not None and of_schedule != bool(values.schedule):
            other = "--schedule" if of_schedule else "CURVES"
            raise BadInput(f"--{name}={values[name].value} is for {other}")
    if out and any(out.resolve() == pathlib.Path(one).resolve() for one in paths):
        raise BadInput(f"--out={out} is one of CURVES")
    fit = law_files.read_law(paths[0])
    if not values["key"].present:
        values.key = fit.key
    averages = law_files.build_averages(values.average)
    try:
        if values.schedule:
            text, rows, draw = _of_schedule(fit, averages, values)
        else:
            measured = law_files.read_curves(paths[1:], values)
            text, rows, draw = _of_curves(fit, averages, measured, values.key)
    except ValueError as error:
        raise BadInput(error) from error
    law_files.write({out: lambda path: _write_csv(path, rows), plot: draw})
    print(text)
    law_files.tell_written(out, plot)
    return 0


def _of_schedule(
    fit: law_files.Fit,
    averages: Mapping[str, averaging.Average],
    values: flags.FlagValues,
):
    """The text, the rows of the csv, and what draws the picture."""
    rates_T = schedule_rates(values.schedule, values.steps)
    begin = reductions.warmup_end(rates_T)
    known = min(one["first_step"] for one in fit.curves)
    begin = known if begin < known < len(rates_T) - 1 else begin
    shown = _logarithmic(begin, len(rates_T), _ROWS)
    evenly = np.linspace(begin, len(rates_T) - 1, _POINTS).astype(int)
    at = [shown, _logarithmic(begin, len(rates_T), _POINTS), evenly]
    at_P = np.unique(np.concatenate(at))
    found = predict(fit.law, rates_T, averages, at_P)
    lines = [f"{values.schedule}, {len(rates_T):,} steps", law_files.label(fit), ""]
    widths = [max(10, len(name) + 2) for name in found]
    names = "".join(f"{n:>{w}}" for n, w in zip(found, widths, strict=True))
    lines.append(f"{'step':>10}{'learning rate':>15}{names}")
    for step in shown:
        i = np.searchsorted(at_P, step)
        cells = (f"{f[i]:>{w}.4f}" for f, w in zip(found.values(), widths, strict=True))
        lines.append(f"{step:>10,}{rates_T[step]:>15.6g}{''.join(cells)}")
    lines += ["", _own_error(fit.law)]
    lines += _as_lines(law_files.cautions(fit, rates_T, at_P, "the schedule"))
    columns = dict(step=at_P, lr=rates_T[at_P], loss=found.pop(RAW), **found)
    rows = [list(columns), *zip(*(c.tolist() for c in columns.values()), strict=True)]
    drawn = {RAW: (at_P, columns["loss"])} | {n: (at_P, found[n]) for n in found}
    steps = thinned(len(rates_T))
    name = values.schedule.partition(":")[0]

    def draw(path: pathlib.Path) -> None:
        rates = {name: (steps, rates_T[steps])}
        title = f"{name}, predicted by the {law_files.name_of(type(fit.law))} law"
        losses.draw_predictions(drawn, rates, path, title=title)

    return "\n".join(lines), rows, draw


def _of_curves(
    fit: law_files.Fit,
    averages: Mapping[str, averaging.Average],
    measured: Sequence[law_files.Measured],
    key: str,
):
    """The text, the rows of the csv, and what draws the picture."""
    scores, scored, lines, cautions = {}, [], {}, []
    rows = [["curve", "step", "lr", "loss", "predicted", *averages]]
    unknown = []
    for one in measured:
        curve = one.curve
        found = predict(fit.law, curve.rates, averages, curve.steps)
        at = (curve.steps, curve.rates[curve.steps], curve.losses, *found.values())
        columns = (column.tolist() for column in at)
        rows += [[curve.name, *row] for row in zip(*columns, strict=True)]
        cautions += law_files.cautions(fit, curve.rates, curve.steps, curve.name)
        for name, predicted_P in found.items():
            label = curve.name if name == RAW else f"{curve.name} {name}"
            truth = curve if name == RAW else _tracked(one, averages[name], key)
            if truth is None:
                lines[label] = losses.Line(curve.steps, predicted_P)
                unknown.append(f"{predicted_P[-1]:.4f}  {label}")
                continue
            # A run may have gained an average later.
            known_P = predicted_P[np.isin(curve.steps, truth.steps)]
            lines[label] = losses.Line(truth.steps, known_P, truth.losses)
            scores[label] = laws.errors(known_P, truth.losses, truth.steps)
            scored.append(truth)
    text = [law_files.label(fit), "", law_fit.score_table(scores, scored)]
    if unknown:
        text += ["", "Predicted at the last step, and not measured:", *unknown]
    text += _as_lines(cautions)

    def draw(path: pathlib.Path) -> None:
        title = f"Predicted by the {law_files.name_of(type(fit.law))} law"
        losses.draw_fits(lines, path, title=title)

    return "\n".join(text), rows, draw


def predict(
    law: laws.Law,
    rates_T: np.ndarray,
    averages: Mapping[str, averaging.Average],
    at_P: np.ndarray,
) -> dict[str, np.ndarray]:
    """Returns the predicted losses of the raw weights and of averages, by name.

    Args:
      law: any.
      rates_T: of every step.
      averages: by name.
      at_P: steps.
    """
    found = {RAW: law.predict(rates_T, at_P)}
    for name, average in averages.items():
        found[name] = laws.predict_average(law, rates_T, average, at_P)
    return found


def schedule_rates(text: str, steps: int | None) -> np.ndarray:
    """Returns the rate of every step of a schedule.

    Args:
      text: its spec.
      steps: of the run; None for the `total_steps` of the spec.

    Raises:
      BadInput: the spec is no schedule, or its length is not known.
    """
    spec = arguments_lib.parse_spec(text, "--schedule")
    steps = spec.get("total_steps") if steps is None else steps
    if steps is None:
        raise BadInput(f"--steps=N is missing: the length of a run with {text}")
    if type(steps) is not int or not 0 < steps <= _LONGEST:
        raise BadInput(
            f"--schedule={text}: total_steps={steps!r} must be an integer from 1 to "
            f"{_LONGEST}"
        )
    try:
        return schedules.rates(schedules.build(spec, steps), steps)
    except (ValueError, TypeError) as error:
        raise BadInput(f"--schedule={text}: {error}") from error


def thinned(steps: int) -> np.ndarray:
    """Returns as many steps as a picture can show."""
    return np.unique(np.linspace(0, steps - 1, _DRAWN).astype(int))


def _logarithmic(begin: int, steps: int, points: int) -> np.ndarray:
    """Steps from `begin` to the last one, evenly in their logarithms."""
    return np.unique(np.geomspace(begin + 1, steps, points).round().astype(int)) - 1


def _tracked(
    one: law_files.Measured, average: averaging.Average, key: str
) -> laws.Curve | None:
    """The measured curve of an average, if it is one of all of the run's weights."""
    if one.folder is None or not key.endswith("/raw"):
        return None
    config = json.loads((one.folder / "config.json").read_text())
    specs, branch = config.get("averages") or {}, config.get("branch") or {}
    if branch.get("workdir"):
        if branch.get("averages") != "continue":
            return None
        specs = {name: specs[name] for name in branch["trunk"]["averages"]}
    for name, other in averaging.build(specs).items():
        if other == average:
            other_key = f"{key.removesuffix('raw')}{name}"
            curve = laws.Curve.from_metrics(one.folder, other_key)
            both = np.isin(curve.steps, one.curve.steps)
            return dataclasses.replace(
                curve, steps=curve.steps[both], losses=curve.losses[both]
            )
    return None


def _own_error(law: laws.Law) -> str:
    record = law.fitted
    own = (
        "At the ends of the curves that it was fitted to the law is off by up to "
        f"{record.final_error:.4f} nats"
    )
    if record.held_out_error is None:
        return f"{own}; on others by more."
    return f"{own}, of curves left out by up to {record.held_out_error:.4f}."


def _as_lines(cautions: Sequence[str]) -> list[str]:
    return [line for one in cautions for line in ("", f"Caution: {one}.")]


def _write_csv(path: pathlib.Path, rows: Sequence[Sequence]) -> None:
    with path.open("w", newline="") as lines:
        csv.writer(lines, lineterminator="\n").writerows(rows)


def _define(values: flags.FlagValues) -> None:
    law_files.define_curves(values)
    flags.DEFINE_integer("steps", None, "", 2, _LONGEST, flag_values=values)
    flags.DEFINE_multi_string("average", [], "", flag_values=values)
    for name in ("schedule", "out", "plot"):
        flags.DEFINE_string(name, None, "", flag_values=values)
