"""Three views of the same recipes: exact theory, a law of the loss curve, the runs.

    python -m experiments.anytime_vs_cosine.views [--results=DIR] [--out=DIR]

Theory: SGD in linear regression with the capacity a, the source b and the noise of a
grid that fit best. What is fitted is the loss of the averages and of the fixed-horizon
schedules at every horizon, `floor + scale risk`, with the rates tuned there as they are
here: one for a trunk, one for every horizon of a fixed-horizon schedule. Laws: fitted
to the raw losses of all runs on their way; they have seen no average. The envelope of
a view is the better of its own two schedules at each horizon; that of training is the
one that was better on seed 0. Writes views.json and draws views.png, with the law that
is least off.
"""

import argparse
import itertools
import json
import pathlib
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import figure

from anytime_jax import averaging, laws, theory, training
from anytime_jax.reporting import looks, tables
from experiments.anytime_vs_cosine import figures, protocol, run
from experiments.anytime_vs_cosine.analysis import BETTER, Comparison
from experiments.anytime_vs_cosine.protocol import Job

CAPACITIES = (1.05, 1.1, 1.15, 1.2, 1.3, 1.45, 1.6)
SOURCES = (1.3, 1.4, 1.5, 1.6, 1.7, 1.8)
NOISES = (0.03, 0.1, 0.3, 1.0)
DIMENSION = 10**9
LAWS = dict(
    multi_power=laws.MultiPowerLaw,
    annealing=laws.AnnealingLaw,
    functional_scaling=laws.FunctionalScalingLaw,
    simple=laws.SimpleLaw,
)
# A sixth apart: with larger steps the best one moves risks by what is to be shown.
MULTIPLIERS = np.geomspace(0.05, 2, 24)
FITTED = ("constant_average", "inverse_sqrt_average")
METHODS = (*FITTED, "constant_raw", "inverse_sqrt_raw", *protocol.ENVELOPE)
_TOP = 0.042  # of the picture
# Before, a run is still in its first fall, which no law is about.
FITTED_FROM = protocol.FULL.steps_1x // 2


def measured(comparison: Comparison) -> dict[str, list[float]]:
    """Returns the mean loss of every method at every horizon, and the envelope's."""
    return {name: comparison.means(name) for name in (*METHODS, BETTER)}


def _average(comparison: Comparison, schedule: str) -> averaging.Average:
    """The average that was chosen for a trunk."""
    method = comparison.methods[f"{schedule}_average"]
    config = protocol.config(method.jobs[comparison.times[-1]])
    return averaging.build({"it": config.averages[method.exit].to_dict()})["it"]


def _unit(job: Job):
    """The schedule of a run with a peak of 1."""
    config = protocol.config(job)
    config.schedule.peak = 1.0
    return training.plan(config).schedule


def risks(comparison: Comparison, problem: theory.LinearRegression) -> dict:
    """Returns the exact risks of the methods, each at its best rates."""
    rates = MULTIPLIERS / problem.trace
    steps = [times * comparison.steps_1x for times in comparison.times]

    def run_of(job: Job, record: list[int], **averages) -> dict[str, np.ndarray]:
        return theory.sgd_risk(
            problem, _unit(job), averages, record[-1], record=record, rates=rates
        )

    found = {}
    for schedule in protocol.ENVELOPE:
        jobs = comparison.methods[schedule].jobs.values()
        pairs = zip(jobs, steps, strict=True)
        ends = [run_of(job, [end])["raw"][:, -1] for job, end in pairs]
        found[schedule] = np.min(ends, axis=1)
    found[BETTER] = np.minimum(*found.values())
    for schedule in protocol.TRUNKS:
        job = comparison.methods[f"{schedule}_average"].jobs[comparison.times[-1]]
        both = run_of(job, steps, average=_average(comparison, schedule))
        # As in the runs: the rate of the smallest worst regret, and its raw weights.
        worst = (both["average"] - found[BETTER]).max(axis=1)
        best = int(np.nanargmin(np.where(np.isfinite(worst), worst, np.nan)))
        found[f"{schedule}_average"] = both["average"][best]
        found[f"{schedule}_raw"] = both["raw"][best]
    return found


def fit_theory(comparison: Comparison, losses: Mapping[str, list[float]]) -> dict:
    """Returns the problem of the grid that fits the losses best, and what it says."""
    names = [*FITTED, *protocol.ENVELOPE]
    wanted = np.concatenate([losses[name] for name in names])
    best, tried = {}, []
    for a, b, noise in itertools.product(CAPACITIES, SOURCES, NOISES):
        problem = theory.LinearRegression(
            capacity=a, source=b, dimension=DIMENSION, noise=noise, rtol=1e-5
        )
        found = risks(comparison, problem)
        risk = np.concatenate([found[name] for name in names])
        design = np.stack([np.ones_like(risk), risk], axis=1)
        (floor, scale), *_ = np.linalg.lstsq(design, wanted, rcond=None)
        error = float(np.sqrt(np.mean((design @ [floor, scale] - wanted) ** 2)))
        tried.append((a, b, noise, error))
        if scale > 0 and error < best.get("error", np.inf):
            fitted = {k: (floor + scale * v).tolist() for k, v in found.items()}
            errors = {
                name: np.subtract(fitted[name], losses[name]).tolist()
                for name in METHODS
            }
            best = dict(
                a=a,
                b=b,
                noise=noise,
                floor=float(floor),
                scale=float(scale),
                error=error,
                losses=fitted,
                errors=errors,
            )
    return best | dict(tried=tried)


def learning_rates(job: Job) -> np.ndarray:
    """Returns the learning rate of every update of a run."""
    schedule = training.plan(protocol.config(job)).schedule
    return np.asarray(schedule(np.arange(job.steps(job.times))), np.float64)


def curve(comparison: Comparison, job: Job, name: str = "raw") -> laws.Curve:
    """Returns the losses of a run on its way, mean of the seeds, and its rates.

    Args:
      comparison: with the run.
      job: the run of seed 0.
      name: `raw` or an average.
    """
    curves = [comparison.result(job, seed)["curve"] for seed in comparison.seeds]
    # A curve counts from 0; a record says how many updates were done.
    steps = np.array(curves[0]["steps"]) - 1
    losses = np.mean([curve["losses"][name] for curve in curves], axis=0)
    late = steps >= FITTED_FROM
    return laws.Curve(learning_rates(job), steps[late], losses[late], job.name)


def fit_law(comparison: Comparison, kind: type[laws.Law]) -> dict:
    """Returns what a law that saw the raw losses of all runs says.

    Args:
      comparison: with the runs.
      kind: the law.
    """
    trunks = [
        comparison.methods[f"{schedule}_average"].jobs[comparison.times[-1]]
        for schedule in protocol.TRUNKS
    ]
    fixed = [
        job
        for name in protocol.ENVELOPE
        for job in comparison.methods[name].jobs.values()
    ]
    curves = [curve(comparison, job) for job in trunks + fixed]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", laws.UnidentifiedWarning)
        law = kind.fit(curves)
    ends = {times: times * comparison.steps_1x - 1 for times in comparison.times}
    found = {}
    for name in protocol.ENVELOPE:
        jobs = comparison.methods[name].jobs
        pairs = [(learning_rates(jobs[t]), end) for t, end in ends.items()]
        found[name] = [float(law.predict(rates, end)) for rates, end in pairs]
    found[BETTER] = np.minimum(*found.values()).tolist()
    for schedule, job in zip(protocol.TRUNKS, trunks, strict=True):
        rates, average = learning_rates(job), _average(comparison, schedule)
        found[f"{schedule}_raw"] = law.predict(rates, [*ends.values()]).tolist()
        averaged = laws.predict_average(law, rates, average, [*ends.values()])
        found[f"{schedule}_average"] = averaged.tolist()
    errors = law_errors(comparison, law)
    return dict(parameters=law.parameters, losses=found, errors=errors)


def law_errors(comparison: Comparison, law: laws.Law) -> dict[str, list[float]]:
    """Returns what a law says minus what was measured, about each horizon.

    Where a curve was measured nearest to it, on the documents of curves.

    Args:
      comparison: with the runs.
      law: fitted to curves.
    """
    found = {}
    ends = np.array([times * comparison.steps_1x - 1 for times in comparison.times])
    for schedule in protocol.TRUNKS:
        method = comparison.methods[f"{schedule}_average"]
        job, average = method.jobs[comparison.times[-1]], _average(comparison, schedule)
        for name, exit_name in (("average", method.exit), ("raw", "raw")):
            made = curve(comparison, job, exit_name)
            near = np.abs(np.log(made.steps / ends[:, None])).argmin(axis=1)
            at = made.steps[near]
            if exit_name == "raw":
                predicted = law.predict(made.rates, at)
            else:
                predicted = laws.predict_average(law, made.rates, average, at)
            found[f"{schedule}_{name}"] = (predicted - made.losses[near]).tolist()
    for name in protocol.ENVELOPE:
        jobs = comparison.methods[name].jobs.values()
        curves = [curve(comparison, job) for job in jobs]
        found[name] = [
            float(law.predict(made.rates, made.steps[-1:])[0] - made.losses[-1])
            for made in curves
        ]
    return found


def _views(found: Mapping[str, dict]) -> dict[str, dict[str, list[float]]]:
    """What theory and laws are off by."""
    views = {"exact theory": found["theory"], **found["laws"]}
    return {view.replace("_", " "): of["errors"] for view, of in views.items()}


def errors_to_markdown(found: Mapping[str, dict]) -> str:
    """The losses of theory and laws minus those of training."""
    header = ["view", "method", *(f"{times}x" for times in protocol.FULL.times)]
    body = [
        [view, figures.TITLES[name], *(f"{error:+.4f}" for error in errors)]
        for view, of in _views(found).items()
        for name, errors in of.items()
    ]
    return tables.markdown_table(header, body)


def problems_to_markdown(found: Mapping[str, dict]) -> str:
    """How well the theory fits with each capacity and source, at its best noise."""
    least: dict[float, dict[float, float]] = {}
    for a, b, _, error in found["theory"]["tried"]:
        row = least.setdefault(a, {})
        row[b] = min(error, row.get(b, np.inf))
    header = ["a", *(f"b = {b:g}" for b in least[min(least)])]
    body = [[f"{a:g}", *(f"{e:.4f}" for e in of.values())] for a, of in least.items()]
    return tables.markdown_table(header, body, left=1)


def misfit(errors: Sequence[float]) -> float:
    """Returns the root mean square of errors at the horizons from 2x on.

    At 1x, where another peak is best, laws are far off.

    Args:
      errors: at every horizon.
    """
    return float(np.sqrt(np.mean(np.square(errors[1:]))))


def _total(errors: Mapping[str, list[float]]) -> float:
    return float(np.sqrt(np.mean([misfit(of) ** 2 for of in errors.values()])))


def misfits_to_markdown(found: Mapping[str, dict]) -> str:
    """The root mean squares, over the horizons from 2x on, of the same."""
    names = dict(
        constant_average="constant + average",
        inverse_sqrt_average="1/sqrt + average",
        constant_raw="constant, raw",
        inverse_sqrt_raw="1/sqrt, raw",
        cosine="cosine",
        linear="linear",
    )
    body = [
        [view, *(f"{misfit(of[name]):.4f}" for name in names)]
        for view, of in _views(found).items()
    ]
    return tables.markdown_table(["view", *names.values()], body, left=1)


def to_markdown(found: Mapping[str, dict]) -> str:
    """All tables of the views."""
    problem = found["theory"]
    constants = ("a", "b", "noise", "floor", "scale")
    what = ", ".join(f"{name} {problem[name]:.4g}" for name in constants)
    return "\n".join(
        [
            f"## Theory and laws minus training\n\nTheory: {what}.\n",
            "Root mean squares of what is fitted, at the best noise:\n",
            problems_to_markdown(found),
            "",
            errors_to_markdown(found),
            "\nRoot mean squares from 2x on:\n",
            misfits_to_markdown(found),
            "",
        ]
    )


def draw(times: Sequence[int], found: Mapping[str, dict], path: pathlib.Path) -> None:
    """The regrets of every method in the three views."""
    drawing = figure.Figure(figsize=(11, 4.2), dpi=150)
    grid = drawing.subplots(1, 3, sharey=True)
    drawing.subplots_adjust(0.07, 0.14, 0.99, 0.82, wspace=0.06)
    problem = found["theory"]
    title, law = next(iter(found["laws"].items()))
    views = {
        f"exact theory, a = {problem['a']:g}, b = {problem['b']:g}": problem,
        f"{title.replace('_', ' ')} law, of raw losses": law,
        "training": found["training"],
    }
    for axes, (title, view) in zip(grid, views.items(), strict=True):
        losses = view["losses"]
        for name in (*FITTED, *protocol.ENVELOPE):
            y = np.subtract(losses[name], losses[BETTER])
            style = figures.STYLES[name]
            axes.plot(times, y, label=figures.TITLES[name], **style)
        axes.axhline(0, color=looks.FIXED, lw=1)
        figures.horizons(axes, times)
        y = "loss minus that of the better envelope" if axes is grid[0] else ""
        looks.finish(axes, title, "multiples of Chinchilla's 1x", y)
        # Laws are far off at 1x, where the best peak is another.
        first = np.subtract(losses[FITTED[0]], losses[BETTER])[0]
        if first > _TOP:
            text = f" averages at {times[0]}x: {first:+.2f}"
            axes.text(times[1], _TOP, text, va="top", fontsize=looks.FONT)
    grid[0].set_ylim(-0.032, _TOP)
    grid[2].legend(frameon=False, fontsize=looks.FONT, loc="lower right")
    drawing.savefig(path)


def main() -> None:
    """Fits, compares, draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=pathlib.Path, default=run.RESULTS)
    parser.add_argument("--out", type=pathlib.Path, default=run.HERE)
    options = parser.parse_args()
    results = run.read(options.results)
    comparison = Comparison(results, protocol.FULL, 1)
    losses = measured(comparison)
    fits = {title: fit_law(comparison, kind) for title, kind in LAWS.items()}
    best_first = sorted(fits, key=lambda title: _total(fits[title]["errors"]))
    found = dict(
        training=dict(losses=losses),
        theory=fit_theory(comparison, losses),
        laws={title: fits[title] for title in best_first},
    )
    (options.out / "views.json").write_text(json.dumps(found, indent=1) + "\n")
    print(errors_to_markdown(found))
    for name, grid in dict(a=CAPACITIES, b=SOURCES, noise=NOISES).items():
        value = found["theory"][name]
        edge = ", at the edge" if value in (grid[0], grid[-1]) else ""
        print(f"{name} = {value:g} of {', '.join(map(str, grid))}{edge}")
    draw(comparison.times, found, options.out / "views.png")


if __name__ == "__main__":
    main()
