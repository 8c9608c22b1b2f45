"""Where one horizon-free run keeps up with tuned cosine runs, by the exact theory.

    python -m experiments.anytime_theory.run [--out=FOLDER] [--only=KEY]

Three problems (b = a, b = 2a, b < a), in 20,000 dimensions over horizons 1x to 32x
and in 10^12 over 1x to 4096x, 1x being 512 updates. Every horizon-free schedule has one
rate for all horizons, the one of smallest mean log-risk; the cosine schedule, to a
tenth of its peak, is tuned for every horizon by itself. What is in FOLDER/results.jsonl
is not computed again; --only computes one key of it. Prints the tables and the checks
and draws figure.png.
"""

import argparse
import pathlib
from typing import NamedTuple

import numpy as np
from matplotlib import figure

from anytime_jax import averaging, schedules, theory
from anytime_jax.reporting import looks, tables
from experiments import records

FIRST = 512  # updates of 1x
PROBLEMS = dict(equal=(1.5, 1.5), easy=(1.5, 3.0), hard=(2.0, 1.5))  # a, b
TITLES = dict(equal="b = a", easy="b = 2a", hard="b < a")


class Study(NamedTuple):
    """How large, how long, and which rates, as multiples of 1 / trace."""

    dimension: int
    doublings: int
    multipliers: np.ndarray


STUDIES = dict(
    small=Study(20_000, 5, np.geomspace(0.01, 3, 25)),
    large=Study(10**12, 12, np.geomspace(5e-4, 10, 35)),
)
SCHEDULES = {
    "constant": schedules.constant(peak=1.0),
    "t^-1/4": schedules.power_decay(peak=1.0, exponent=0.25, offset=1),
    "t^-1/2": schedules.power_decay(peak=1.0, exponent=0.5, offset=1),
    "t^-3/4": schedules.power_decay(peak=1.0, exponent=0.75, offset=1),
    "shifted 1/sqrt": schedules.inverse_sqrt(peak=1.0, offset=128),
}
EXPONENTS = {"constant": 0.0, "t^-1/4": 0.25, "t^-1/2": 0.5, "t^-3/4": 0.75}
WSD = "WSD, 10 % to 0.1"


def halves(doublings: int):
    """Returns the mean over the second half of every horizon, all in one average.

    The horizons are powers of two apart, so one half ends before the next begins.
    """

    def weight(t: int) -> float:
        horizon = FIRST
        while horizon < t:
            horizon *= 2
        past = t - horizon // 2
        return 1 / past if past > 0 and horizon <= FIRST << doublings else 1.0

    return weight


def averages(doublings: int) -> dict:
    return dict(
        tail_half=halves(doublings),
        ema6_25=averaging.age_ema(divisor=6.25),
        ema25=averaging.age_ema(divisor=25),
        uniform=averaging.uniform(),
    )


def horizons(study: Study) -> list[int]:
    return [FIRST << k for k in range(study.doublings + 1)]


def compute(study: Study, capacity: float, source: float) -> dict:
    """Returns the envelope, and every schedule with every average at its one rate."""
    problem = theory.LinearRegression(
        capacity=capacity, source=source, dimension=study.dimension, noise=1.0
    )
    steps, rates = horizons(study), study.multipliers / problem.trace
    envelope = theory.envelope(problem, _cosine, steps, rates=rates)
    choices = dict(objective="mean", baseline=envelope, rates=rates)
    settings = theory.rank(
        problem, SCHEDULES, averages(study.doublings), steps, **choices
    )
    wsd_RxH = theory.family_risk(problem, _wsd, steps, rates)
    best = np.log(wsd_RxH).mean(axis=1).argmin()
    rows = [
        (s.schedule, s.average, s.rate * problem.trace, s.risk.tolist(), s.at_edge)
        for s in settings
    ]
    edge = bool(best in (0, len(rates) - 1))
    rows.append((WSD, "raw", study.multipliers[best], wsd_RxH[best].tolist(), edge))
    return dict(
        horizons=steps,
        nodes=len(problem.spectrum.eigenvalues),
        envelope=envelope.risk.tolist(),
        envelope_multipliers=(envelope.rate * problem.trace).tolist(),
        envelope_at_edge=envelope.at_edge.tolist(),
        rows=rows,
    )


def _cosine(horizon: int):
    return schedules.cosine(peak=1.0, total_steps=horizon, final_fraction=0.1)


def _wsd(horizon: int):
    return schedules.wsd(
        peak=1.0,
        total_steps=horizon,
        cooldown_fraction=0.1,
        shape="linear",
        final_fraction=0.1,
    )


def risks(record: dict) -> dict[tuple[str, str], np.ndarray]:
    """The risks at the horizons by (schedule, average)."""
    return {(row[0], row[1]): np.array(row[3]) for row in record["rows"]}


def slopes(risk_H: np.ndarray) -> np.ndarray:
    """d log risk / d log updates over each doubling."""
    return np.diff(np.log2(risk_H))


def to_markdown(record: dict) -> str:
    """Risk over that of the cosine envelope, and the last three slopes."""
    times = [f"{horizon // FIRST}x" for horizon in record["horizons"]]
    header = ["schedule", "average", "rate x trace", *times, "last slopes"]
    body = []
    for schedule, average, multiplier, risk, at_edge in sorted(record["rows"]):
        ratio = np.array(risk) / record["envelope"]
        last = " ".join(f"{slope:.3f}" for slope in slopes(np.array(risk))[-3:])
        edge = " (edge)" if at_edge else ""
        cells = [f"{value:.2f}" for value in ratio]
        body.append([schedule, average, f"{multiplier:.3g}{edge}", *cells, last])
    return tables.markdown_table(header, body)


def checks(found: dict[str, dict]) -> list[str]:
    """What the theory predicts, and whether it holds."""
    lines = []
    for name in PROBLEMS:
        if f"small {name}" in found:
            lines += _orderings(name, found[f"small {name}"])
    return lines


def slopes_to_markdown(found: dict[str, dict]) -> str:
    """The last three slopes of the large study beside the predicted rates."""
    measured = ("tail_half", "ema6_25", "ema25")
    body = []
    for name, (capacity, source) in PROBLEMS.items():
        optimal = theory.optimal_exponent(capacity, source)
        for schedule, exponent in EXPONENTS.items():
            predicted = -theory.predicted_rate(capacity, source, exponent)
            cells = [f"{predicted:.3f}"]
            for average in measured:
                last = slopes(risks(found[f"large {name}"])[schedule, average])[-3:]
                text = ", ".join(f"{slope:.3f}" for slope in last)
                near = np.abs(last - predicted).max() <= 0.03
                if exponent == optimal:
                    text = f"**{text}**" if near else f"{text} (not within 0.03)"
                cells.append(text)
            body.append([TITLES[name], schedule, *cells])
    return tables.markdown_table(["problem", "schedule", "predicted", *measured], body)


def _orderings(name: str, record: dict) -> list[str]:
    """The acceptance checks of one problem of the small study."""
    envelope, found = np.array(record["envelope"]), risks(record)
    ratio = {row: risk / envelope for row, risk in found.items()}

    def best(schedule: str) -> float:
        return min(r[-1] for (s, a), r in ratio.items() if s == schedule and a != "raw")

    raw = min(np.max(r) for (s, a), r in ratio.items() if a == "raw" and s != WSD)
    lines = [f"{TITLES[name]}: best worst ratio without averaging {raw:.2f}"]
    if name != "easy":
        decaying = min(best(schedule) for schedule in SCHEDULES if schedule[0] == "t")
        lines.append(
            f"{TITLES[name]}: at the largest horizon constant + average "
            f"{best('constant'):.2f}, t^-g + average at best {decaying:.2f}"
        )
        return lines
    spread = {
        schedule: np.ptp(np.log(ratio[schedule, "tail_half"])) for schedule in SCHEDULES
    }
    constant = ratio["constant", "tail_half"]
    lines.append(
        "b = 2a: spread of log ratio over horizons, + tail_half: "
        + ", ".join(f"{schedule} {value:.2f}" for schedule, value in spread.items())
    )
    lines.append(
        f"b = 2a: constant + tail_half from {constant[0]:.2f} over "
        f"{constant.min():.2f} to {constant[-1]:.2f}"
    )
    return lines


def draw(found: dict[str, dict], path: pathlib.Path) -> None:
    """Above, risk over the envelope's; below, slopes and what they tend to."""
    lines = {
        ("constant", "raw"): (looks.RAW, "-"),
        ("constant", "ema6_25"): ("#0072B2", "-"),
        ("t^-1/4", "ema6_25"): ("#009E73", "-"),
        ("t^-1/2", "ema6_25"): ("#D55E00", "-"),
        ("t^-3/4", "ema6_25"): ("#AA4499", "-"),
        ("shifted 1/sqrt", "ema6_25"): ("#E69F00", "-"),
        (WSD, "raw"): (looks.FIXED, (0, (4, 2))),
    }
    drawing = figure.Figure(figsize=(32 / 3, 7.2), dpi=150)
    grid = drawing.subplots(2, 3, sharex=True)
    drawing.subplots_adjust(0.065, 0.16, 0.99, 0.92, wspace=0.2, hspace=0.22)
    for column, name in enumerate(PROBLEMS):
        record = found[f"large {name}"]
        times = np.array(record["horizons"]) / FIRST
        above, below = grid[:, column]
        above.axhline(1, color=looks.GRID, zorder=0)
        for row, (color, dashes) in lines.items():
            style = dict(color=color, linestyle=dashes, label=" + ".join(row))
            risk = risks(record)[row]
            above.loglog(times, risk / record["envelope"], **style)
            if row != (WSD, "raw"):
                below.semilogx(times[1:] / 2**0.5, slopes(risk), **style)
        predicted = -theory.predicted_rate(*PROBLEMS[name])
        below.axhspan(predicted - 0.03, predicted + 0.03, color=looks.GRID, zorder=0)
        capacity, source = PROBLEMS[name]
        title = f"{TITLES[name]} (a = {capacity:g}, b = {source:g})"
        above.set_title(title, fontsize=looks.FONT + 1, loc="left")
        above.set_ylim(0.5, 8)
        above.set_yticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
        above.minorticks_off()
        below.set_ylim(-0.85, 0)
        below.set_xticks([1, 10, 100, 1000], ["1x", "10x", "100x", "1000x"])
        below.minorticks_off()
        below.set_xlabel("horizon, 1x = 512 updates", fontsize=looks.FONT)
        for axes in (above, below):
            looks.plain(axes)
    grid[0][0].set_ylabel("risk / that of tuned cosine", fontsize=looks.FONT)
    grid[1][0].set_ylabel("slope; band: optimal rate ± 0.03", fontsize=looks.FONT)
    handles, labels = grid[0][0].get_legend_handles_labels()
    drawing.legend(
        handles, labels, loc="lower center", ncols=4, frameon=False, fontsize=looks.FONT
    )
    drawing.savefig(path)


def main() -> None:
    """Computes what is missing, then reports."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path(__file__).parent
    )
    keys = [f"{study} {name}" for study in STUDIES for name in PROBLEMS]
    parser.add_argument("--only", choices=keys)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.jsonl"
    for key in [options.only] if options.only else keys:
        study, name = key.split()
        if key not in records.read(path):
            records.append(path, key, compute(STUDIES[study], *PROBLEMS[name]))
    found = records.read(path)
    for key in keys:
        if key in found:
            print(f"{key}: {found[key]['nodes']} nodes\n\n{to_markdown(found[key])}\n")
    print("\n".join(checks(found)))
    if all(f"large {name}" in found for name in PROBLEMS):
        print("\n" + slopes_to_markdown(found))
        records.sort(path)
        draw(found, options.out / "figure.png")


if __name__ == "__main__":
    main()
