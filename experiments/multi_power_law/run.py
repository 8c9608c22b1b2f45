"""Every law on the multi-power law's published curves: fit on three, test on six.

    python -m experiments.multi_power_law.run [--out=FOLDER]

Needs the curves (see experiments/published.py). Reproduces the published metrics, fits
every law by every procedure it has, puts trivial baselines beside them, looks for the
best schedule, and writes results.json and figure.png.
"""

import argparse
import json
import pathlib
import time
import warnings

import numpy as np
from matplotlib import figure

from anytime_jax import laws
from anytime_jax.reporting import looks, tables
from experiments.multi_power_law import curves

FITS = {
    "multi-power, published": (
        laws.MultiPowerLaw,
        dict(procedure="published", warmup="authors"),
    ),
    "multi-power, converged": (laws.MultiPowerLaw, dict(procedure="converged")),
    "multi-power, default": (laws.MultiPowerLaw, {}),
    "annealing": (laws.AnnealingLaw, {}),
    "annealing, memory 1000": (laws.AnnealingLaw, dict(fixed=dict(memory=1000.0))),
    "annealing, constant warmup": (laws.AnnealingLaw, dict(warmup="constant")),
    "annealing, published": (
        laws.AnnealingLaw,
        dict(procedure="published", warmup="constant"),
    ),
    "functional scaling, converged": (
        laws.FunctionalScalingLaw,
        dict(procedure="converged"),
    ),
    "functional scaling, default": (laws.FunctionalScalingLaw, {}),
    "forward momentum": (laws.ForwardMomentumLaw, {}),
    "forward momentum, published": (
        laws.ForwardMomentumLaw,
        dict(procedure="published"),
    ),
    "simple": (laws.SimpleLaw, {}),
}
GIVEN, DEFAULT = "multi-power, parameters as published", "multi-power, default"
KEYS = ("r2", "mae", "rmse", "pred_error", "worst_error", "final_error")
HEADER = ("R2", "MAE", "RMSE", "PredE", "WorstE", "final")
DRAWN = ("cosine_24000", "wsd_20000_24000", "wsdcon_3")
COLORS = ("#0072b2", "#d55e00", "#009e73")
ENDS = ("cosine_24000", "wsd_20000_24000", "wsdld_20000_24000", "cosine_72000")


def baselines(measured: dict[str, laws.Curve]) -> dict[str, dict[str, float]]:
    """Returns the errors of predictions without any law, averaged over the test curves.

    `mean of the others`: at every step, the mean of all other curves that go so far;
    `constant rate`: the curve of the constant rate. Steps between records are
    interpolated; a curve's part that nothing else covers is left out.

    Args:
      measured: the nine curves.
    """
    found = {"mean of the other curves": [], "the constant rate's curve": []}
    for name in curves.TEST:
        curve = measured[name]
        others = [one for key, one in measured.items() if key != name]
        constant = [one for one in others if one.name == "constant_72000"]
        flat = constant or [measured["constant_24000"]]
        for key, group in zip(found, (others, flat), strict=True):
            read = [
                np.interp(curve.steps, one.steps, one.losses, np.nan, np.nan)
                for one in group
            ]
            read_CxP = np.array(read)
            covered_P = np.isfinite(read_CxP).any(axis=0)
            predicted_P = np.nanmean(read_CxP[:, covered_P], axis=0)
            truth = curve.losses[covered_P], curve.steps[covered_P]
            found[key].append(laws.errors(predicted_P, *truth))
    return {key: laws.average_errors(each) for key, each in found.items()}


def study(size: int) -> dict:
    """Returns all numbers of a size.

    Args:
      size: in millions of parameters.
    """
    measured = curves.load(size)
    train, test = ([measured[name] for name in names] for names in curves.SPLIT)
    given = laws.MultiPowerLaw(*curves.PARAMETERS[size], warmup="authors")
    found = {GIVEN: (given, 0.0)}
    for name, (law, choices) in FITS.items():
        start = time.perf_counter()
        fitted = law.fit(train, **choices)
        found[name] = fitted, time.perf_counter() - start
    default = found[DEFAULT][0]
    gap = measured[ENDS[0]].final_loss - measured[ENDS[1]].final_loss
    rows = {}
    for name, (law, seconds) in found.items():
        final = {key: law.errors(measured[key])["final_error"] for key in ENDS}
        rows[name] = law.to_dict() | dict(
            seconds=round(seconds, 2),
            train=law.score(train),
            test=law.score(test),
            final=final,
            gap=gap + final[ENDS[0]] - final[ENDS[1]],
        )
    return dict(
        laws=rows,
        baselines=baselines(measured),
        gap=gap,
        profiles={
            name: profile(default, train, name) for name in ("B", "C", "beta", "gamma")
        },
        schedules=best(
            size, default, max(abs(e) for e in rows[DEFAULT]["final"].values())
        ),
        curves={name: drawn(default, measured[name]) for name in DRAWN},
    )


def profile(law: laws.Law, train: list[laws.Curve], name: str) -> dict:
    """Returns the profile of a parameter: the objective without ridge at each value."""
    found = laws.profile(law, train, name, factors=(0.5, 0.7, 1.0, 1.4, 2.0))
    return dict(values=found.values.tolist(), objective=found.objective.tolist())


def drawn(law: laws.Law, curve: laws.Curve) -> dict:
    """Returns a measured curve and its prediction."""
    predicted = law.predict(curve.rates, curve.steps)
    return dict(
        steps=curve.steps.tolist(),
        losses=curve.losses.tolist(),
        predicted=predicted.tolist(),
    )


def best(size: int, default: laws.Law, error: float) -> dict:
    """Returns the best schedule of 24,000 steps under two sets of parameters.

    Args:
      size: in millions of parameters.
      default: the law of the default fit.
      error: how far off it is at the end of a curve.
    """
    published_law = laws.MultiPowerLaw(*curves.PARAMETERS[size])
    ramp = np.linspace(0, curves.PEAK, curves.WARMUP)
    path = curves.folder() / "optimized_schedules" / f"{size}.npy"
    shipped = np.append(ramp, np.load(path))
    found = {"shipped": float(published_law.predict(shipped, 23_999))}
    for name, law in {GIVEN: published_law, DEFAULT: default}.items():
        start = time.perf_counter()
        made = laws.optimal_schedule(
            law, curves.PEAK, 24_000, warmup_steps=curves.WARMUP, law_error=error
        )
        found[name] = dict(
            seconds=round(time.perf_counter() - start, 2),
            loss=made.loss,
            gains=dict(made.gains),
            caution=made.caution,
            rates=made.rates[:: curves.WARMUP // 20].tolist(),
        )
    return found


def to_markdown(results: dict) -> str:
    """All laws and baselines side by side, on the six test curves."""
    header = ["size", "law", *HEADER, "train objective", "predicted gap"]
    rows = []
    for size, found in results.items():
        for name, one in found["laws"].items():
            fitted = one["fitted"]
            objective = f"{fitted['objective']:.3e}" if fitted else ""
            cells = [f"{one['test'][key]:.5f}" for key in KEYS]
            rows.append([f"{size}M", name, *cells, objective, f"{one['gap']:.4f}"])
        for name, score in found["baselines"].items():
            cells = [f"{score[key]:.5f}" for key in KEYS]
            rows.append([f"{size}M", name, *cells, "", ""])
        rows.append([f"{size}M", "measured", *[""] * 7, f"{found['gap']:.4f}"])
    return tables.markdown_table(header, rows)


def draw(results: dict, path: pathlib.Path) -> None:
    """A row a size: measured and predicted curves, their errors, the best schedule."""
    drawing = figure.Figure(figsize=(11, 6.4), dpi=150, layout="constrained")
    grid = drawing.subplots(len(results), 3)
    for row, (size, found) in zip(grid, results.items(), strict=True):
        for name, color in zip(DRAWN, COLORS, strict=True):
            one = found["curves"][name]
            losses, predicted = np.array(one["losses"]), np.array(one["predicted"])
            row[0].plot(one["steps"], losses, color=color, alpha=0.35, linewidth=3)
            row[0].plot(one["steps"], predicted, color=color, linewidth=1, label=name)
            row[1].plot(one["steps"], predicted - losses, color=color, linewidth=1)
        for name, color in zip((GIVEN, DEFAULT), COLORS[1:], strict=True):
            rates = np.array(found["schedules"][name]["rates"])
            steps = np.arange(len(rates)) * (curves.WARMUP // 20)
            row[2].plot(steps, rates / curves.PEAK, color=color, label=name)
        least = min(min(one["losses"]) for one in found["curves"].values())
        row[0].set_ylim(least - 0.05, least + 0.6)
        row[1].set_ylim(-0.025, 0.025)
        row[1].axhline(0, color="0.6", linewidth=0.8)
        titles = ("loss: measured wide, predicted thin", "prediction - measurement")
        for axes, title in zip(row, (*titles, "best schedule / peak"), strict=True):
            axes.set_title(f"{size}M, {title}", fontsize=looks.FONT, loc="left")
            axes.set_xlabel("steps", fontsize=looks.FONT)
            looks.plain(axes)
        for axes in (row[0], row[2]):
            axes.legend(fontsize=looks.FONT - 1.5, frameon=False)
    drawing.savefig(path)


def main() -> None:
    """Fits, compares, writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path(__file__).parent
    )
    options = parser.parse_args()
    if curves.folder() is None:
        parser.exit(1, "there is no mpl folder: see experiments/published.py\n")
    options.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", laws.UnidentifiedWarning)
    results = {str(size): study(size) for size in curves.SIZES}
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results, options.out / "figure.png")
    print(to_markdown(results))
    for size, found in results.items():
        for name in (GIVEN, DEFAULT):
            one = found["schedules"][name]
            gains = ", ".join(f"{k} {v:.4f}" for k, v in one["gains"].items())
            print(
                f"\n{size}M, best schedule, {name}: {one['loss']:.5f} in "
                f"{one['seconds']} s; gain over {gains}; {one['caution']}"
            )
        print(f"{size}M, shipped schedule: {found['schedules']['shipped']:.7f}")
        for name, one in found["profiles"].items():
            pairs = zip(one["values"], one["objective"], strict=True)
            print(
                f"{size}M, profile of {name}:",
                ", ".join(f"{v:.3g}: {o:.2e}" for v, o in pairs),
            )


if __name__ == "__main__":
    main()
