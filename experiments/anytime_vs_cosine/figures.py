"""The pictures: losses, regrets, which average at which age, and what it all costs."""

import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib import figure

from anytime_jax.reporting import looks
from experiments.anytime_vs_cosine import analysis, paper, selection
from experiments.anytime_vs_cosine.analysis import BETTER, Comparison, spread

TITLES = {
    "cosine": "cosine, tuned for each horizon",
    "linear": "linear to 0, tuned for each horizon",
    "constant_average": "constant + average",
    "inverse_sqrt_average": "1/sqrt + average",
    "constant_merge": "constant + merge of snapshots",
    "inverse_sqrt_merge": "1/sqrt + merge of snapshots",
    "constant_cooldown_10": "constant + cooldown of 10 %",
    "inverse_sqrt_cooldown_10": "1/sqrt + cooldown of 10 %",
    "constant_cooldown_20": "constant + cooldown of 20 %",
    "inverse_sqrt_cooldown_20": "1/sqrt + cooldown of 20 %",
    "constant_raw": "constant, raw weights at the average's peak",
    "inverse_sqrt_raw": "1/sqrt, raw weights at the average's peak",
    analysis.STOPPED: "cosine of the longest run, stopped early",
    analysis.RESTARTED: "cosine, restarted at every horizon",
}
STYLES = {
    "constant_average": dict(color=looks.TRUNKS[0][0], marker="o"),
    "inverse_sqrt_average": dict(color=looks.TRUNKS[1][0], marker="s"),
    "constant_cooldown_10": dict(color=looks.TRUNKS[0][1], marker="^", ls="--"),
    "constant_cooldown_20": dict(color=looks.TRUNKS[0][1], marker="v", ls=":"),
    "constant_raw": dict(color=looks.RAW, marker="o", mfc="none"),
    analysis.STOPPED: dict(color="#882255", marker="x", ls=":"),
    analysis.RESTARTED: dict(color="#AA4499", marker="+", ls=":"),
    "cosine": dict(color=looks.FIXED, marker="D", mfc="none", ls="-."),
    "linear": dict(color=looks.FIXED, marker="d", mfc="none", ls=":"),
    BETTER: dict(color=looks.FIXED, marker="D"),
}


_AVERAGES = ("constant_average", "inverse_sqrt_average")
_REGRETS = (
    *_AVERAGES,
    "constant_cooldown_10",
    "constant_cooldown_20",
    "cosine",
)


def horizons(axes, times: Sequence[int]) -> None:
    """The horizons along the axes."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(times, [f"{multiple}x" for multiple in times])
    axes.minorticks_off()


def losses(comparison: Comparison, path: pathlib.Path) -> None:
    """Figure 1: the loss of averages, the envelope, and cosines that end elsewhere."""
    drawing = figure.Figure(figsize=(7.2, 4.6), dpi=150)
    axes = drawing.subplots()
    drawing.subplots_adjust(0.1, 0.12, 0.98, 0.87)
    shown = ("constant_raw", analysis.STOPPED, analysis.RESTARTED)
    shown = (*shown, "constant_average", "inverse_sqrt_average")
    for name in (*(n for n in shown if n in comparison.methods), BETTER):
        label = TITLES.get(name, "the better of cosine and linear, tuned for each")
        axes.plot(comparison.times, comparison.means(name), label=label, **STYLES[name])
    horizons(axes, comparison.times)
    axes.legend(frameon=False, fontsize=looks.FONT)
    what = f"Loss at every horizon, mean of {len(comparison.seeds)} seeds"
    looks.finish(axes, what, "multiples of Chinchilla's 1x", "nats per byte")
    drawing.savefig(path)


def regrets(comparisons: list[Comparison], path: pathlib.Path) -> None:
    """Figure 2: distance to the envelope, with the spread of the seeds."""
    count = len(comparisons)
    drawing = figure.Figure(figsize=(7.2 if count == 1 else 11, 4.8), dpi=150)
    widths = [len(comparison.times) for comparison in comparisons]
    grid = drawing.subplots(1, count, squeeze=False, width_ratios=widths)
    drawing.subplots_adjust(0.08 if count > 1 else 0.11, 0.27, 0.99, 0.86, wspace=0.14)
    for axes, comparison in zip(grid[0], comparisons, strict=True):
        axes.axhline(0, color=looks.FIXED, lw=1)
        horizons(axes, comparison.times)
        names = _REGRETS if comparison.batch == 1 else _AVERAGES
        for place, name in enumerate(names):
            _errorbars(axes, comparison, name, place - (len(names) - 1) / 2)
        title = f"Loss minus tuned cosine, {comparison.batch} times the batch"
        if comparison.batch == 1:
            title = "Loss minus the better tuned envelope"
            # The paper's methods, with its usual batch.
            label = f"the paper's distances from cosine, at most {paper.BAND} a token"
            style = dict(color=looks.GRID, lw=0, zorder=0, label=label)
            axes.axhspan(-paper.BAND, paper.BAND, **style)
        y = "nats per byte; bars: spread of seeds" if axes is grid[0, 0] else ""
        looks.finish(axes, title, "multiples of Chinchilla's 1x", y)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    place = dict(loc="lower center", ncols=1 + count)
    drawing.legend(handles, labels, frameon=False, fontsize=looks.FONT, **place)
    drawing.savefig(path)


def _errorbars(axes, comparison: Comparison, name: str, place: float) -> None:
    found = [comparison.regrets(name, times) for times in comparison.times]
    # Beside each other, so that the bars can be told apart.
    x = [times * 2 ** (0.06 * place) for times in comparison.times]
    y, sizes = [float(np.mean(one)) for one in found], [spread(one) for one in found]
    label = TITLES[name]
    axes.errorbar(x, y, sizes, label=label, ms=5, capsize=2, lw=1.2, **STYLES[name])


def averages(comparison: Comparison, path: pathlib.Path) -> None:
    """Figure 3: the regret against the divisor f of the average, at each horizon."""
    drawing = figure.Figure(figsize=(9.6, 4.4), dpi=150)
    grid = drawing.subplots(1, 2, sharey=True)
    drawing.subplots_adjust(0.08, 0.13, 0.88, 0.84, wspace=0.06)
    names = [name for name in selection.AVERAGES if name.startswith("ema")]
    divisors = [float(name[3:].replace("_", ".")) for name in names]
    for axes, schedule in zip(grid, ("constant", "inverse_sqrt"), strict=True):
        for index, times in enumerate(comparison.times):
            of = f"{schedule}_average"
            y = [np.mean(comparison.exit_regrets(of, n, times)) for n in names]
            color = looks.LINES[index % len(looks.LINES)]
            axes.plot(divisors, y, "o-", color=color, label=f"{times}x")
            best = int(np.argmin(y))
            axes.plot(divisors[best], y[best], "o", ms=11, mfc="none", color=color)
        axes.axhline(0, color=looks.FIXED, lw=1)
        axes.set_xscale("log", base=2)
        axes.set_xticks(divisors, [f"{divisor:g}" for divisor in divisors])
        axes.minorticks_off()
        title = TITLES[f"{schedule}_average"].split(" +")[0]
        y = "regret, nats per byte" if axes is grid[0] else ""
        looks.finish(axes, title, "f: the half-life is age/f", y)
    handles, labels = grid[0].get_legend_handles_labels()
    drawing.legend(handles, labels, frameon=False, title="horizon", loc="center right")
    drawing.savefig(path)


def costs(rows: list[tuple[str, float, float]], path: pathlib.Path) -> None:
    """Figure 4: tokens for all horizons, without and with tuning, in units of 1x."""
    drawing = figure.Figure(figsize=(7.2, 0.5 * len(rows) + 1.4), dpi=150)
    axes = drawing.subplots()
    drawing.subplots_adjust(0.34, 0.14, 0.98, 0.86)
    for place, (_, plain, tuned) in enumerate(reversed(rows)):
        axes.barh(place + 0.2, plain, 0.36, color=looks.TRUNKS[0][0])
        axes.barh(place - 0.2, tuned, 0.36, color=looks.OTHERS)
        for shift, value in ((0.2, plain), (-0.2, tuned)):
            text = f" {value:.0f}x"
            axes.text(value, place + shift, text, va="center", fontsize=looks.FONT)
    axes.set_yticks(range(len(rows)), [name for name, *_ in reversed(rows)])
    axes.set_xlim(0, 1.08 * max(tuned for *_, tuned in rows))
    title = "Tokens for a model at every horizon"
    x = "multiples of Chinchilla's 1x; dark: once, light: with its tuning"
    looks.finish(axes, title, x, "")
    drawing.savefig(path)
