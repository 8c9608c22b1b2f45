"""Chinchilla's law as replicated by Epoch, and Porian et al.'s exponents.

    python -m experiments.chinchilla.run [--out=FOLDER]

Needs the published points (see experiments/published.py). Fits the law to the 240
points of the replication and to all 245, from 4500 starts each, with 4000 bootstrap
resamples; fits the exponent of the best size to the stored best sizes of Porian et al.
and again to the isoFLOP points that they come from. Writes results.json and figure.png
and prints the tables.
"""

import argparse
import csv
import dataclasses
import json
import math
import pathlib
import time

import numpy as np
from matplotlib import figure

from anytime_jax.laws import chinchilla, isoflop
from anytime_jax.reporting import looks, tables
from experiments import published

EPOCH = "chinchilla_epoch/svg_extracted_data.csv"
PORIAN = "porian/isoflop_points.csv"
EXCLUDED, RESAMPLES = 5, 4000  # the highest losses; as in the replication
GOLDEN = 1.018274e-3
# The compute of the model of that name, and logs of the first fit's parameters.
COMPUTE = 5.76e23
HOFFMANN = (6.0073404, 6.0179186, 0.5267228, 0.33917084, 0.2849083)
KEYS = ("dataset", "hparams", "warmup", "decay", "param_count")


def epoch_points(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns sizes, tokens and losses."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    sizes, flops, losses = (
        np.array([float(row[name]) for row in rows])
        for name in ("Model Size", "Training FLOP", "loss")
    )
    return sizes, flops / (6 * sizes), losses


def fit(data: tuple, resamples: int) -> dict:
    """Fits the law and says how sure it is."""
    start = time.perf_counter()
    found = chinchilla.search(*data)
    seconds = time.perf_counter() - start
    drawn = found.law.bootstrap(*data, resamples=resamples)
    best = found.law.optimum(COMPUTE)
    print(f"{len(data[0])} points: {found.starts} starts in {seconds:.1f} s")
    return dict(
        points=len(data[0]),
        parameters=dataclasses.asdict(found.law),
        exponent=found.law.exponent,
        objective=found.objective,
        starts=found.starts,
        reached=found.reached,
        interval=drawn.interval,
        bootstrap_error=drawn.standard_error,
        sandwich_error=found.law.standard_errors(*data),
        optimum=dict(
            flops=COMPUTE,
            parameters=float(best.parameters),
            tokens=float(best.tokens),
            tokens_per_parameter=float(best.tokens_per_parameter),
            loss=float(best.loss),
        ),
    )


def score_of_hoffmann(data: tuple) -> dict:
    """What the parameters of the first fit reach on the same points."""
    *logs, alpha, beta = HOFFMANN
    A, B, E = (math.exp(value) for value in logs)
    law = chinchilla.ChinchillaLaw(A=A, B=B, E=E, alpha=alpha, beta=beta)
    ratio = law.optimum(COMPUTE).tokens_per_parameter
    return dict(
        objective=law.objective(*data),
        exponent=law.exponent,
        tokens_per_parameter=float(ratio),
    )


def porian(folder: pathlib.Path) -> list[dict]:
    """Exponents from stored best sizes and from the points, and the published one."""
    rows = {}
    for name in ("optimal_pairs", "isoflop_points", "fit_results"):
        rows[name] = {}
        with (folder / f"{name}.csv").open() as file:
            for row in csv.DictReader(file):
                if row.get("n", "1") and row.get("kind", "basic") == "basic":
                    key = tuple(row[k] for k in KEYS)
                    rows[name].setdefault(key, []).append(row)
    found = []
    for key, pairs in rows["optimal_pairs"].items():
        [theirs] = rows["fit_results"][key]
        flops, sizes = ([float(row[k]) for row in pairs] for k in ("flops", "n"))
        stored = isoflop.power_law(flops, sizes)
        runs = [
            [float(row[k]) for row in rows["isoflop_points"][key]]
            for k in ("flops", "n", "loss")
        ]
        akima, parabola = (isoflop.fit(*runs, method=m) for m in ("akima", "parabola"))
        noise = isoflop.bootstrap(*runs, 0.005)
        found.append(
            dict(zip(KEYS, key, strict=True))
            | dict(
                published=float(theirs["n_exponent"]),
                published_r2=float(theirs["n_r2"]),
                stored=stored._asdict(),
                akima=akima.law._asdict(),
                akima_budgets=int((~akima.at_edge).sum()),
                akima_interval=noise.interval,
                parabola=parabola.law._asdict(),
                parabola_budgets=int((~parabola.at_edge).sum()),
            )
        )
    return found


def law_table(fits: dict[str, dict]) -> str:
    """Both fits, with their 95 % intervals."""
    header = ["", *(f"{name} ({found['points']})" for name, found in fits.items())]
    body = []
    for name in (*chinchilla.NAMES, "exponent"):
        cells = [name]
        for found in fits.values():
            value = (found["parameters"] | dict(exponent=found["exponent"]))[name]
            low, high = found["interval"][name]
            cells.append(f"{value:.5g} [{low:.4g}, {high:.4g}]")
        body.append(cells)
    rows = {
        "objective": lambda found: f"{found['objective']:.9f}",
        "starts that reach it": lambda found: (
            f"{found['reached']} of {found['starts']}"
        ),
        "tokens per parameter at 5.76e23": lambda found: (
            f"{found['optimum']['tokens_per_parameter']:.1f}"
        ),
    }
    body += [[name, *map(cell, fits.values())] for name, cell in rows.items()]
    return tables.markdown_table(header, body)


def porian_table(found: list[dict]) -> str:
    """The exponents beside the published ones."""
    header = ["data", "setting", "published", "R^2", "stored best sizes", "from the"]
    header[-1] += " points, Akima"
    header += ["95 % with noise .005", "parabola"]
    body = [
        [
            row["dataset"],
            " ".join(row[k] for k in KEYS[1:]),
            f"{row['published']:.3f}",
            f"{row['published_r2']:.4f}",
            f"{row['stored']['exponent']:.3f} ({row['stored']['r2']:.4f})",
            f"{row['akima']['exponent']:.3f} ({row['akima']['r2']:.4f})",
            "[{:.3f}, {:.3f}]".format(*row["akima_interval"]),
            f"{row['parabola']['exponent']:.3f} ({row['parabola_budgets']})",
        ]
        for row in found
    ]
    return tables.markdown_table(header, body)


def draw(results: dict, path: pathlib.Path) -> None:
    """Parameters with intervals, the best split of compute, and Porian's exponents."""
    drawing = figure.Figure(figsize=(13, 4.2), dpi=150)
    left, middle, right = drawing.subplots(1, 3)
    drawing.subplots_adjust(0.065, 0.14, 0.985, 0.86, wspace=0.32)
    colors = dict(zip(("without 5", "all"), looks.TRUNKS[0], strict=True))
    names = (*chinchilla.NAMES, "exponent")
    base = results["fits"]["without 5"]
    center = base["parameters"] | dict(exponent=base["exponent"])
    for shift, (label, found) in zip(
        (0.13, -0.13), results["fits"].items(), strict=True
    ):
        values = found["parameters"] | dict(exponent=found["exponent"])
        for place, name in enumerate(names):
            low, high = (end / center[name] for end in found["interval"][name])
            at = len(names) - place + shift
            left.plot([low, high], [at, at], color=colors[label], linewidth=2)
            left.plot(
                values[name] / center[name],
                at,
                "o",
                color=colors[label],
                label=f"{found['points']} points" if place == 0 else None,
            )
    left.set_xscale("log")
    left.set_yticks(range(len(names), 0, -1), names)
    left.legend(fontsize=looks.FONT - 1, frameon=False)
    looks.finish(left, "Parameters and 95 %", "over the fit to 240 points", "")
    flops = np.geomspace(1e18, 1e26, 50)
    for label, found in results["fits"].items():
        law = chinchilla.ChinchillaLaw(**found["parameters"])
        middle.loglog(
            flops,
            law.optimum(flops).tokens_per_parameter,
            color=colors[label],
            label=f"{found['points']} points",
        )
    middle.axhline(20, color=looks.RAW, linewidth=1, linestyle="--", label="20")
    middle.yaxis.set_major_formatter("{x:g}")
    middle.yaxis.set_minor_formatter("{x:g}")
    middle.tick_params(axis="y", which="minor", labelsize=looks.FONT - 2)
    middle.legend(fontsize=looks.FONT - 1, frameon=False)
    looks.finish(middle, "Best tokens per parameter", "FLOPs of training", "D / N")
    chosen = [row for row in results.get("porian", []) if row["dataset"] == "rw"]
    for place, row in enumerate(reversed(chosen)):
        low, high = row["akima_interval"]
        right.plot([low, high], [place, place], color=looks.OTHERS, linewidth=2)
        right.plot(row["akima"]["exponent"], place, "o", color=looks.TRUNKS[0][0])
        right.plot(row["published"], place, "|", color=looks.FIXED, markersize=12)
    labels = [" ".join(row[k] for k in KEYS[1:]) for row in reversed(chosen)]
    right.set_yticks(range(len(chosen)), labels)
    looks.finish(
        right, "Exponent of the best size", "RefinedWeb; bar: published; dot: ours", ""
    )
    right.tick_params(axis="y", labelsize=looks.FONT - 3)
    box = right.get_position()
    right.set_position([box.x0 + 0.055, box.y0, box.width - 0.055, box.height])
    drawing.savefig(path)


def main() -> None:
    """Fits, writes, prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path(__file__).parent
    )
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    options = parser.parse_args()
    paths = [published.find(name) for name in (EPOCH, PORIAN)]
    if None in paths:
        raise SystemExit(f"no {EPOCH} and {PORIAN} (see experiments/published.py)")
    options.out.mkdir(parents=True, exist_ok=True)
    data = epoch_points(paths[0])
    kept = np.sort(np.argsort(data[2])[:-EXCLUDED])
    fewer = tuple(values[kept] for values in data)
    results = dict(
        fits={
            "without 5": fit(fewer, options.resamples),
            "all": fit(data, options.resamples),
        },
        hoffmann=score_of_hoffmann(fewer),
        porian=porian(paths[1].parent),
    )
    off = results["fits"]["without 5"]["objective"] - GOLDEN
    print(f"objective minus {GOLDEN:g}: {off:.1e}\n")
    print(law_table(results["fits"]), "\n")
    print(f"Hoffmann's parameters: {results['hoffmann']}\n")
    print(porian_table(results["porian"]))
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results, options.out / "figure.png")


if __name__ == "__main__":
    main()
