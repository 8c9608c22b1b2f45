"""Supercollapse of published ladders of widths, with decayed and with constant rates.

    python -m experiments.collapse.run [--out=FOLDER]

Needs the published runs (see experiments/published.py). For the chess and the MLP
ladder, decayed linearly or at a constant rate: fits the irreducible loss to the mean
final losses, normalises the curves, and holds their spread against the noise of seeds.
Then each ladder's larger sizes are predicted from their first half and the smallest
size's curve. Writes results.json and figure.png and prints the tables.
"""

import argparse
import json
import pathlib

import numpy as np
from matplotlib import cm, figure

from anytime_jax.laws import collapse, running
from anytime_jax.reporting import looks, tables
from experiments import published
from experiments.collapse import ladders

LADDERS = ("chess", "mlp", "chess_const", "mlp_const")
AT = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
GRIDS = (50, 100, 200, 400)


def measure(ladder: ladders.Ladder) -> tuple[dict, collapse.Collapse]:
    """Returns the statistics of a ladder, and its normalised curves."""
    ends = collapse.fit_end_points(*ladder.mean_finals())
    sizes = ladder.sizes.tolist()
    onsets, recorded = {}, {}
    last_R = ladder.recorded_finals() - ends.irreducible
    for count in GRIDS:
        found = collapse.collapse(
            ladder.runs,
            ladder.horizons,
            sizes,
            offset=ends.irreducible,
            progress=collapse.progress_grid(count),
        )
        onsets[str(count)] = found.onset
        # The same curves, divided by the last record instead.
        at_end_R = ladder.finals - ends.irreducible
        curves_RxG = found.curves * (at_end_R / last_R)[:, None]
        spread_G = collapse.spread(curves_RxG)
        recorded[str(count)] = collapse.onset(found.progress, spread_G, found.floor)
    found = collapse.collapse(
        ladder.runs, ladder.horizons, sizes, offset=ends.irreducible
    )
    at = np.searchsorted(found.progress, np.array(AT) - 1e-9)
    seeded = np.isfinite(found.floor).all()
    return dict(
        runs=len(sizes),
        end_points=ends._asdict(),
        spread=found.spread[at].tolist(),
        floor=found.floor[at].tolist() if seeded else None,
        onset=onsets,
        onset_over_last_record=recorded,
    ), found


def align(ladder: ladders.Ladder, offset: float) -> dict:
    """Relative errors of the final losses that the first half of a run predicts."""
    smallest = ladder.sizes == ladder.sizes.min()
    grid = collapse.progress_grid()
    curves = np.stack(
        [
            collapse.on_grid(*run, float(horizon), grid)
            for run, horizon in zip(ladder.runs, ladder.horizons, strict=True)
        ]
    )
    reference = (grid, collapse.normalize(curves[smallest].mean(axis=0), offset))
    part = grid <= running.ALIGNED[1]
    errors = [
        running.final_loss(grid[part], curve[part], reference, offset=offset)
        / curve[-1]
        - 1
        for curve in curves[~smallest]
    ]
    return dict(
        runs=len(errors),
        mean_error=float(np.mean(errors)),
        worst_error=float(np.max(np.abs(errors))),
        seed_noise=float(
            np.mean(
                [
                    curves[ladder.sizes == size, -1].std()
                    / curves[ladder.sizes == size, -1].mean()
                    for size in np.unique(ladder.sizes)
                ]
            )
        ),
    )


def spread_table(results: dict) -> str:
    """Spread and noise at a few points, and where the one falls below the other."""
    header = ["ladder", "", *(f"x = {x:g}" for x in AT), "onset", "on other grids"]
    body = []
    for name, found in results.items():
        onset = found["onset"]
        others = ", ".join(_share(onset[str(n)]) for n in GRIDS if n != 200)
        cells = [f"{value:.2e}" for value in found["spread"]]
        body.append([name, "spread", *cells, _share(onset["200"]), others])
        noise = found["floor"] or ["-"] * len(AT)
        cells = [x if isinstance(x, str) else f"{x:.2e}" for x in noise]
        body.append([name, "noise of seeds", *cells, "", ""])
    return tables.markdown_table(header, body)


def end_table(results: dict) -> str:
    """End points, and what the first half of a run says about its end."""
    header = ["ladder", "runs", "irreducible", "coefficient", "exponent"]
    header += ["error of half a run: mean", "worst", "offset 0: mean", "worst"]
    body = []
    for name, found in results.items():
        ends = found["end_points"]
        row = [name, str(found["runs"]), f"{ends['irreducible']:.4f}"]
        row += [f"{ends['coefficient']:.4f}", f"{ends['exponent']:.4f}"]
        for kind in ("with_offset", "without_offset"):
            aligned = found["aligned"][kind]
            row.append(f"{100 * aligned['mean_error']:+.2f} %")
            row.append(f"{100 * aligned['worst_error']:.2f} %")
        body.append(row)
    return tables.markdown_table(header, body)


def draw(kept: dict, path: pathlib.Path) -> None:
    """Normalised curves above, spread and noise of seeds below."""
    drawing = figure.Figure(figsize=(13, 6.6), dpi=150)
    grid = drawing.subplots(2, 4, sharex="row")
    drawing.subplots_adjust(0.055, 0.08, 0.99, 0.9, wspace=0.28, hspace=0.42)
    for column, (name, (ladder, found)) in enumerate(kept.items()):
        top, bottom = grid[:, column]
        order = {size: i for i, size in enumerate(np.unique(ladder.sizes))}
        for size, curve in zip(ladder.sizes, found.curves, strict=True):
            color = cm.viridis(0.9 * order[size] / max(1, len(order) - 1))
            top.plot(found.progress, curve, color=color, linewidth=0.6)
        low, high = found.curves[:, 10:].min(), found.curves[:, 10:].max()
        top.set_ylim(low - 0.02 * (high - low), high)
        top.set_yscale("log")
        top.yaxis.set_major_formatter("{x:g}")
        top.yaxis.set_minor_formatter("{x:g}")
        top.tick_params(which="minor", labelsize=looks.FONT - 2)
        title = name.replace("_const", ", constant rate")
        looks.finish(top, title, "share of the run", "normalised loss" * (column == 0))
        bottom.semilogy(
            found.progress[:-1],
            found.spread[:-1],
            color=looks.TRUNKS[0][0],
            label="spread of all runs",
        )
        if np.isfinite(found.floor).all():
            bottom.semilogy(
                found.progress[:-1],
                found.floor[:-1],
                color=looks.TRUNKS[0][1],
                label="noise of seeds",
            )
        if found.onset:
            how = dict(color=looks.RAW, linewidth=1, linestyle="--")
            bottom.axvline(found.onset, **how, label="onset")
        bottom.set_ylim(1e-4, 5e-2)
        looks.finish(bottom, "", "share of the run", "relative" * (column == 0))
        if column == 0:
            bottom.legend(fontsize=looks.FONT - 1, frameon=False)
    drawing.savefig(path)


def _share(onset: float | None) -> str:
    return "-" if onset is None else f"{onset:.4g}"


def main() -> None:
    """Measures, writes, prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path(__file__).parent
    )
    options = parser.parse_args()
    paths = {name: published.find(f"supercollapse/{name}.npz") for name in LADDERS}
    if None in paths.values():
        raise SystemExit("no supercollapse (see experiments/published.py)")
    options.out.mkdir(parents=True, exist_ok=True)
    results, kept = {}, {}
    for name, path in paths.items():
        ladder = ladders.read(path)
        results[name], found = measure(ladder)
        offset = results[name]["end_points"]["irreducible"]
        results[name]["aligned"] = dict(
            with_offset=align(ladder, offset), without_offset=align(ladder, 0.0)
        )
        kept[name] = (ladder, found)
    print(spread_table(results), "\n")
    print(end_table(results))
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(kept, options.out / "figure.png")


if __name__ == "__main__":
    main()
