"""The synthetic figure of "Anytime Pretraining", computed exactly.

    python -m experiments.synthetic_figure3.run [--out=FOLDER]

Six problems of 500,000 dimensions, two schedules, 22 multipliers of each, 50,000
samples, the uniform average; once with the target scaled to norm 1, as in the published
file of numbers, and once without, as in the released code. Writes results.json and
figure.png, prints the tables, and where the published file is found (see
experiments/published.py) says how far from it every number is.
"""

import argparse
import json
import pathlib
import time

import numpy as np
from matplotlib import figure, ticker

from anytime_jax import averaging, schedules, theory
from anytime_jax.reporting import looks, tables
from experiments import published

CAPACITIES = (1.1, 1.5, 1.9)
DIMENSION, STEPS, NOISE = 500_000, 50_000, 0.01
SCHEDULES = dict(
    constant=schedules.constant(peak=1.0),
    sqrt=schedules.inverse_sqrt(peak=1.0, offset=1),  # 1 / sqrt(t), t = 1, 2, ...
)
MULTIPLIERS = (
    *(1e-4, 2e-4, 5e-4, 7e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 3e-2, 5e-2, 7.5e-2),
    *(0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 2.0, 3.0, 5.0, 10.0),
)
CHECKPOINTS = (1000, 2000, 3000, 5000, 8000, 10_000, 20_000, 50_000)
# Those of the published curves: evenly spaced in log, and the checkpoints.
PLOTTED = np.union1d(np.geomspace(100, STEPS, 100).round().astype(int), CHECKPOINTS)
PUBLISHED = "anytime/figure3_synthetic_sigma2_0.01.json"


def sweep(problem: theory.LinearRegression, name: str) -> dict:
    """Returns the chosen multiplier of a schedule and its curve.

    Chosen is the smallest mean risk of the average over the checkpoints.
    """
    risk_RxS = theory.sgd_risk(
        problem,
        SCHEDULES[name],
        dict(uniform=averaging.uniform()),
        STEPS,
        record=PLOTTED,
        rates=np.array(MULTIPLIERS) / problem.trace,
    )["uniform"]
    checkpoints = risk_RxS[:, np.isin(PLOTTED, CHECKPOINTS)]
    best = checkpoints.mean(axis=1).argmin()
    return dict(
        multiplier=MULTIPLIERS[best],
        checkpoints=checkpoints[best].tolist(),
        curve=risk_RxS[best].tolist(),
    )


def panels(normalize: bool) -> list[dict]:
    """Returns the six panels: both schedules for b = a and b = 2a at every a."""
    found = []
    for capacity in CAPACITIES:
        for source in (capacity, 2 * capacity):
            problem = theory.LinearRegression(
                capacity=capacity,
                source=source,
                dimension=DIMENSION,
                noise=NOISE,
                normalize=normalize,
            )
            curves = {name: sweep(problem, name) for name in SCHEDULES}
            found.append(dict(capacity=capacity, source=source, **curves))
    return found


def deviations(own: list[dict], published_panels: list[dict]) -> list[str]:
    """Says of each published panel how far its curves are, and what was chosen."""
    lines = []
    for theirs in published_panels:
        a, b = theirs["a"], theirs["b"]
        [panel] = [p for p in own if (p["capacity"], p["source"]) == (a, b)]
        for name in SCHEDULES:
            ratio = np.array(panel[name]["curve"]) / theirs[name]
            off = np.abs(ratio - 1).max()
            multiplier = theirs[f"{name}_lr_multiplier"]
            same = panel[name]["multiplier"] == multiplier
            lines.append(
                f"a={a} b={b} {name}: {len(ratio)} points within {off:.1e}, multiplier "
                + (f"{multiplier:g} as published" if same else "NOT as published")
            )
    return lines


def to_markdown(found: list[dict]) -> str:
    """The chosen multipliers and the risks at the checkpoints."""
    header = ["a", "b", "schedule", "multiplier", *(f"{n:,}" for n in CHECKPOINTS)]
    rows = [
        [
            f"{panel['capacity']:g}",
            f"{panel['source']:g}",
            name,
            f"{panel[name]['multiplier']:g}",
            *(f"{risk:.6g}" for risk in panel[name]["checkpoints"]),
        ]
        for panel in found
        for name in SCHEDULES
    ]
    return tables.markdown_table(header, rows)


def draw(results: dict, path: pathlib.Path) -> None:
    """Six panels a normalisation: risk of the average against samples."""
    drawing = figure.Figure(figsize=(32 / 3, 9.2), dpi=150)
    titles = dict(normalized="target of norm 1", unnormalized="target as it is")
    halves = drawing.subfigures(2, 1)
    for half, (key, title) in zip(halves, titles.items(), strict=True):
        grid = half.subplots(2, 3, sharex=True)
        half.subplots_adjust(0.09, 0.12, 0.99, 0.86, wspace=0.26, hspace=0.3)
        half.text(0.01, 0.95, title, fontsize=12, fontweight="bold")
        for index, panel in enumerate(results[key]):
            axes = grid[index % 2][index // 2]
            for name, color in zip(SCHEDULES, looks.TRUNKS[0], strict=True):
                label = f"{name}, {panel[name]['multiplier']:g} / trace"
                curve = panel[name]["curve"]
                axes.loglog(results["plotted"], curve, color=color, label=label)
            axes.set_title(
                f"a = {panel['capacity']:g}, b = {panel['source']:g}",
                fontsize=looks.FONT,
                loc="left",
            )
            axes.legend(fontsize=looks.FONT - 1.5, frameon=False)
            # Less than a decade needs closer ticks to have two of them.
            low, high = axes.get_ylim()
            subs = (1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 6, 8)
            axes.yaxis.set_major_locator(ticker.LogLocator(subs=subs))
            axes.yaxis.set_major_formatter("{x:.2g}")
            axes.yaxis.set_minor_formatter("")
            looks.plain(axes)
            if index % 2:
                axes.set_xlabel("samples", fontsize=looks.FONT)
        half.supylabel("excess risk of the average", fontsize=looks.FONT)
    drawing.savefig(path)


def main() -> None:
    """Computes, writes, compares."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path(__file__).parent
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = dict(plotted=PLOTTED.tolist(), checkpoints=CHECKPOINTS)
    for key, normalize in dict(normalized=True, unnormalized=False).items():
        start = time.perf_counter()
        results[key] = panels(normalize)
        print(f"{key}: twelve sweeps in {time.perf_counter() - start:.1f} s\n")
        print(to_markdown(results[key]), "\n")
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results, options.out / "figure.png")
    path = published.find(PUBLISHED)
    if path is None:
        print(f"not compared: no {PUBLISHED} (see experiments/published.py)")
        return
    print(
        "\n".join(
            deviations(results["normalized"], json.loads(path.read_text())["panels"])
        )
    )


if __name__ == "__main__":
    main()
