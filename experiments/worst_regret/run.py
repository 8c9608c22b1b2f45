"""Which horizon-free schedule and average lose least, whatever the horizon: a map.

    python -m experiments.worst_regret.run [--out=FOLDER] [--shard=I/N]

For every capacity a and source b of a grid, in 10^12 dimensions: every horizon-free
schedule with every average at its one best rate, by its largest risk over horizons of
1x to 1024x (1x = 128 updates), relative to the better of cosine to a tenth and linear
to zero, each tuned for every horizon by itself. What is in FOLDER/results.jsonl is not
computed again; --shard computes each N-th point and reports nothing. Prints the tables
and draws figure.png.
"""

import argparse
import pathlib

import numpy as np
from matplotlib import figure

from anytime_jax import averaging, schedules, theory
from anytime_jax.reporting import looks, tables
from experiments import records

CAPACITIES = (1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
SOURCES = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)
DIMENSION, NOISE, FIRST, DOUBLINGS = 10**12, 1.0, 128, 10
HORIZONS = [FIRST << k for k in range(DOUBLINGS + 1)]
MULTIPLIERS = np.geomspace(1e-4, 10, 51)
RTOL = 1e-6  # Of the quadrature: far below what two rates of the grid differ by.


def _decay(exponent: float, offset: int):
    return schedules.power_decay(peak=1.0, exponent=exponent, offset=offset)


SCHEDULES = {
    "constant": schedules.constant(peak=1.0),
    "t^-1/4, offset 1x": _decay(0.25, FIRST),
    "t^-1/2": _decay(0.5, 1),
    "t^-1/2, offset 1/8x": _decay(0.5, FIRST // 8),
    "t^-1/2, offset 1x": _decay(0.5, FIRST),
    "t^-1/2, offset 4x": _decay(0.5, 4 * FIRST),
    "t^-3/4, offset 1/8x": _decay(0.75, FIRST // 8),
    "t^-3/4, offset 1x": _decay(0.75, FIRST),
}
AVERAGES = dict(
    uniform=averaging.uniform(),
    ema3=averaging.age_ema(divisor=3),
    ema6_25=averaging.age_ema(divisor=6.25),
    ema12_5=averaging.age_ema(divisor=12.5),
    ema25=averaging.age_ema(divisor=25),
)
PAPER = ("constant", "ema25"), ("t^-1/2, offset 4x", "ema25")


def key(capacity: float, source: float) -> str:
    return f"a={capacity:g} b={source:g}"


def compute(capacity: float, source: float) -> dict:
    """Returns every pair at its best rate, and the baseline, for one problem."""
    problem = theory.LinearRegression(
        capacity=capacity, source=source, dimension=DIMENSION, noise=NOISE, rtol=RTOL
    )
    rates = MULTIPLIERS / problem.trace
    fixed = [
        theory.envelope(problem, family, HORIZONS, rates=rates)
        for family in (_cosine, _linear)
    ]
    lowest = np.argmin([envelope.risk for envelope in fixed], axis=0)
    # Only its risks and horizons are used to measure regret.
    baseline = fixed[0]._replace(risk=np.minimum(*(e.risk for e in fixed)))
    settings = theory.rank(
        problem, SCHEDULES, AVERAGES, HORIZONS, baseline=baseline, rates=rates
    )
    return dict(
        capacity=capacity,
        source=source,
        baseline=baseline.risk.tolist(),
        linear_is_lower=[bool(index) for index in lowest],
        edges=int(sum(envelope.at_edge.sum() for envelope in fixed)),
        pairs=[
            dict(
                schedule=setting.schedule,
                average=setting.average,
                multiplier=round(setting.rate * problem.trace, 9),
                at_edge=setting.at_edge,
                regret=setting.regret.round(6).tolist(),
            )
            for setting in settings
        ],
    )


def _cosine(horizon: int):
    return schedules.cosine(peak=1.0, total_steps=horizon, final_fraction=0.1)


def _linear(horizon: int):
    return schedules.linear(peak=1.0, total_steps=horizon)


def worst(record: dict) -> dict[tuple[str, str], float]:
    """The worst ratio of every pair of a problem to the baseline, lowest first."""
    found = {
        (pair["schedule"], pair["average"]): float(np.exp(max(pair["regret"])))
        for pair in record["pairs"]
    }
    return dict(sorted(found.items(), key=lambda item: item[1]))


def safest(found: list[dict]) -> list[tuple[tuple[str, str], float, float]]:
    """Every pair with the largest and median of what it loses to the best pair.

    Over all problems, as a ratio of worst ratios, each at its best rate; best first.
    """
    ratios = [worst(record) for record in found]
    rows = []
    for pair in ratios[0]:
        lost = [ratio[pair] / min(ratio.values()) for ratio in ratios]
        rows.append((pair, max(lost), float(np.median(lost))))
    return sorted(rows, key=lambda row: row[1])


def to_markdown(found: list[dict]) -> str:
    """The winner of every problem, its rate, and how many pairs are within 2 %."""
    header = ["a", "b", "1 - a/b", "schedule", "average", "rate x trace"]
    header += ["worst ratio", "within 2 %", "worst raw"]
    body = []
    for record in found:
        ratio = worst(record)
        best = next(iter(ratio))
        [pair] = [p for p in record["pairs"] if (p["schedule"], p["average"]) == best]
        a, b = record["capacity"], record["source"]
        near = sum(value <= 1.02 * ratio[best] for value in ratio.values()) - 1
        raw = min(value for (_, average), value in ratio.items() if average == "raw")
        edge = " (edge)" if pair["at_edge"] else ""
        body.append(
            [
                f"{a:g}",
                f"{b:g}",
                f"{theory.optimal_exponent(a, b):.2f}",
                *best,
                f"{pair['multiplier']:.2g}{edge}",
                f"{ratio[best]:.2f}",
                str(near),
                f"{raw:.2f}",
            ]
        )
    return tables.markdown_table(header, body)


def safest_to_markdown(found: list[dict]) -> str:
    """The ten pairs that lose least where they lose most, and the paper's two."""
    rows = safest(found)
    chosen = rows[:10] + [row for row in rows[10:] if row[0] in PAPER]
    body = [[*pair, f"{top:.2f}", f"{median:.2f}"] for pair, top, median in chosen]
    header = ["schedule", "average", "largest", "median"]
    return tables.markdown_table(header, body)


def draw(found: list[dict], path: pathlib.Path) -> None:
    """The best pair's worst ratio with its name, and what the safest pair adds."""
    ratios = {(r["capacity"], r["source"]): worst(r) for r in found}
    pair = safest(found)[0][0]
    drawing = figure.Figure(figsize=(32 / 3, 5.6), dpi=150)
    grid = drawing.subplots(1, 2, sharey=True)
    drawing.subplots_adjust(0.055, 0.105, 0.985, 0.88, wspace=0.06)
    best, added = np.full((2, len(SOURCES), len(CAPACITIES)), np.nan)
    for (a, b), ratio in ratios.items():
        x, y = CAPACITIES.index(a), SOURCES.index(b)
        first = next(iter(ratio))
        best[y, x], added[y, x] = ratio[first], ratio[pair] / ratio[first]
        _write(grid[0], x, y, best[y, x], _short(*first))
        _write(grid[1], x, y, added[y, x], "")
    titles = (
        "worst risk / that of runs tuned for the horizon, best pair",
        f"the same for {pair[0]} + {pair[1]}, / the best pair's",
    )
    for axes, shown, title in zip(grid, (best, added), titles, strict=True):
        look = dict(origin="lower", aspect="auto", cmap="RdYlBu_r", vmin=-0.7, vmax=0.7)
        axes.imshow(np.log(shown), **look)
        for factor, dashes in ((1, "-"), (2, (0, (3, 2)))):
            edges = [sum(b <= factor * a for b in SOURCES) - 0.5 for a in CAPACITIES]
            places = np.arange(len(CAPACITIES) + 1) - 0.5
            axes.stairs(edges, places, baseline=None, color="k", linestyle=dashes)
        axes.set_xticks(range(len(CAPACITIES)), [f"{a:g}" for a in CAPACITIES])
        axes.set_yticks(range(len(SOURCES)), [f"{b:g}" for b in SOURCES])
        label = "capacity a (above the lines: b > a, b > 2a)"
        looks.finish(axes, "", label, "")
        axes.set_title(title, fontsize=looks.FONT + 1, loc="left")
    grid[0].set_ylabel("source b", fontsize=looks.FONT)
    drawing.savefig(path)


def _write(axes, x: int, y: int, ratio: float, name: str) -> None:
    """A cell's number and name, legible on what it is drawn."""
    color = "w" if abs(np.log(ratio)) > 0.5 else "k"
    text = f"{ratio:.2f}\n{name}" if name else f"{ratio:.2f}"
    axes.text(x, y, text, ha="center", va="center", fontsize=6.5, color=color)


def _short(schedule: str, average: str) -> str:
    exponent, _, offset = schedule.partition(", offset ")
    return f"{exponent}{' o' + offset if offset else ''}\n{average}"


def main() -> None:
    """Computes what is missing, then reports."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path(__file__).parent
    )
    parser.add_argument("--shard", default="0/1", help="I/N: each N-th point from I on")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.jsonl"
    index, count = map(int, options.shard.split("/"))
    points = [(a, b) for a in CAPACITIES for b in SOURCES]
    for point in points[index::count]:
        if key(*point) not in records.read(path):
            records.append(path, key(*point), compute(*point))
    found = records.read(path)
    if any(key(*point) not in found for point in points) or count > 1:
        return
    records.sort(path)
    found = [found[key(*point)] for point in points]
    print(to_markdown(found), "\n\n" + safest_to_markdown(found))
    draw(found, options.out / "figure.png")


if __name__ == "__main__":
    main()
