"""Are the losses of averaged weights predicted by laws that saw only raw ones?

    python -m experiments.averaged_weights.run
    python -m experiments.averaged_weights.run --runs=demo    # after `make demo`

Fits every law to the raw losses of a trunk and of the cooldowns that branch off it, and
predicts the losses of its averages along the trunk, at six horizons. With --runs it
reads them from the runs of experiments/every_horizon and keeps them in curves.json;
without, from there. Prints the tables, writes results.json and draws figure.png.
"""

import argparse
import itertools
import json
import pathlib
import warnings

import numpy as np
from matplotlib import figure

from anytime_jax import averaging, laws
from anytime_jax.reporting import looks, tables

AVERAGES = dict(
    ema100=averaging.age_ema(divisor=100),
    ema50=averaging.age_ema(divisor=50),
    ema25=averaging.age_ema(divisor=25),
    ema12_5=averaging.age_ema(divisor=12.5),
    ema6_25=averaging.age_ema(divisor=6.25),
    uniform=averaging.uniform(),
)
LAWS = dict(
    multi_power=laws.MultiPowerLaw,
    annealing=laws.AnnealingLaw,
    functional_scaling=laws.FunctionalScalingLaw,
    simple=laws.SimpleLaw,
)
# Before, a run of 3,875 steps is still in its first fall, which no law is about.
FITTED_FROM, PREDICTED_FROM = 150, 400
WAYS = dict(
    ignored="averaging ignored",
    equivalent="equivalent schedule",
    pairs="and the sum over pairs",
)


def collect(folder: pathlib.Path) -> dict:
    """Returns the curves of a trunk, its averages and its cooldowns, as data."""
    trunk = folder / "constant"
    branches = sorted(folder.glob("constant_cooldown_*"))
    curves = [laws.Curve.from_metrics(path) for path in (trunk, *branches)]
    raw = [
        dict(
            name=curve.name,
            rates=[[r, len(list(same))] for r, same in itertools.groupby(curve.rates)],
            steps=curve.steps.tolist(),
            losses=curve.losses.tolist(),
        )
        for curve in curves
    ]
    averages = {
        name: laws.Curve.from_metrics(trunk, f"eval/loss/{name}").losses.tolist()
        for name in AVERAGES
    }
    return dict(raw=raw, averages=averages)


def curve(data: dict, begin: int) -> laws.Curve:
    """The curve of what `collect` wrote, from a step on."""
    rates, counts = zip(*data["rates"], strict=True)
    late = np.array(data["steps"]) >= begin
    steps, losses = np.array(data["steps"])[late], np.array(data["losses"])[late]
    return laws.Curve(np.repeat(rates, counts), steps, losses, data["name"])


def predictions(law: laws.Law, trunk: laws.Curve, name: str) -> dict[str, np.ndarray]:
    """The losses of an average along the trunk, predicted in three ways."""
    average, at = AVERAGES[name], trunk.steps
    equivalent = [
        law.predict(laws.equivalent_rates(trunk.rates, average, step + 1), [step])[0]
        for step in at.tolist()
    ]
    return dict(
        ignored=law.predict(trunk.rates, at),
        equivalent=np.array(equivalent),
        pairs=laws.predict_average(law, trunk.rates, average, at),
    )


def compute(data: dict) -> dict:
    """Returns the laws' parameters, and their predictions beside what was measured."""
    raw = [curve(one, FITTED_FROM) for one in data["raw"]]
    trunk = curve(data["raw"][0], PREDICTED_FROM)
    measured = {
        name: losses[-len(trunk.steps) :] for name, losses in data["averages"].items()
    }
    found = dict(steps=trunk.steps.tolist(), measured=measured, laws={})
    for title, kind in LAWS.items():
        with warnings.catch_warnings():
            # That no curve tells some of the gain's parameters apart is expected here.
            warnings.simplefilter("ignore", laws.UnidentifiedWarning)
            law = kind.fit(raw)
        found["laws"][title] = dict(
            parameters=law.parameters,
            raw_error=law.score(raw)["mae"],
            predicted={
                name: {
                    way: losses.tolist()
                    for way, losses in predictions(law, trunk, name).items()
                }
                for name in AVERAGES
            },
        )
    return found


def error(found: dict, law: str, average: str, way: str) -> float:
    """The mean size of the error over the horizons, in nats."""
    predicted = np.array(found["laws"][law]["predicted"][average][way])
    return float(np.abs(predicted - found["measured"][average]).mean())


def errors_to_markdown(found: dict) -> str:
    """The mean errors of every law, average and way."""
    header = ["law", "prediction", *AVERAGES, "raw, fitted"]
    body = [
        [
            law,
            title,
            *(f"{error(found, law, name, way):.4f}" for name in AVERAGES),
            f"{found['laws'][law]['raw_error']:.4f}",
        ]
        for law in LAWS
        for way, title in WAYS.items()
    ]
    return tables.markdown_table(header, body)


def horizons_to_markdown(found: dict, law: str = "multi_power") -> str:
    """Measured losses, and how far one law's prediction is off at each horizon."""
    header = ["average", "", *(f"step {step + 1:,}" for step in found["steps"])]
    body = []
    for name in AVERAGES:
        measured = np.array(found["measured"][name])
        predicted = np.array(found["laws"][law]["predicted"][name]["pairs"])
        body.append([name, "measured", *(f"{loss:.4f}" for loss in measured)])
        off = [f"{value:+.4f}" for value in predicted - measured]
        body.append([name, "predicted - measured", *off])
    return tables.markdown_table(header, body)


def draw(found: dict, path: pathlib.Path, law: str = "multi_power") -> None:
    """Measured losses of every average as dots, and predictions as lines."""
    drawing = figure.Figure(figsize=(32 / 3, 5.6), dpi=150)
    grid = drawing.subplots(2, 3, sharex=True, sharey=True).ravel()
    drawing.subplots_adjust(0.06, 0.16, 0.99, 0.94, wspace=0.06, hspace=0.2)
    steps = np.array(found["steps"]) + 1
    styles = dict(
        ignored=(looks.RAW, (0, (4, 2))),
        equivalent=(looks.TRUNKS[0][1], "-"),
        pairs=(looks.TRUNKS[0][0], "-"),
    )
    for axes, name in zip(grid, AVERAGES, strict=True):
        axes.plot(steps, found["measured"][name], "ko", label="measured")
        for way, (color, dashes) in styles.items():
            losses = found["laws"][law]["predicted"][name][way]
            label = WAYS[way]
            axes.plot(steps, losses, color=color, linestyle=dashes, label=label)
        axes.set_xscale("log")
        axes.set_xticks([500, 1000, 2000, 4000], ["500", "1000", "2000", "4000"])
        axes.minorticks_off()
        axes.set_title(name, fontsize=looks.FONT + 1, loc="left")
        looks.plain(axes)
    for axes in grid[3:]:
        axes.set_xlabel("updates", fontsize=looks.FONT)
    for axes in grid[::3]:
        axes.set_ylabel("loss of the average", fontsize=looks.FONT)
    handles, labels = grid[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="lower center", ncols=4, frameon=False)
    drawing.savefig(path)


def main() -> None:
    """Reads, fits, predicts, reports."""
    here = pathlib.Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=here)
    parser.add_argument("--runs", type=pathlib.Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    stored = options.out / "curves.json"
    if options.runs:
        stored.write_text(json.dumps(collect(options.runs)) + "\n")
    elif not stored.exists():
        stored = here / "curves.json"
    found = compute(json.loads(stored.read_text()))
    (options.out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    print(errors_to_markdown(found), "\n\n" + horizons_to_markdown(found))
    draw(found, options.out / "figure.png")


if __name__ == "__main__":
    main()
