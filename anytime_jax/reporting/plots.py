"""The picture of a comparison: loss curves on the left, regrets on the right."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anytime_jax.reporting import dots, looks
from anytime_jax.reporting.comparison import Comparison, Row

_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)))


class _Style(NamedTuple):
    """How a row is drawn, whether among the curves, and whether inside the scale."""

    label: str
    color: str
    width: float
    dashes: Any
    marker: str = "o"
    curve: bool = True
    scales: bool = True


class _Label(NamedTuple):
    """A text at the right of a panel, for the end of a line."""

    text: str
    color: str
    x: float
    y: float


def draw(comparison: Comparison, path: str | os.PathLike) -> None:
    """Draws loss against tokens, and the regret of the exits at every horizon.

    The curves are of the small set, which is evaluated often; the regrets are of the
    larger set, as in the tables. Without an envelope it is the distance to the best
    exit at the same horizon, and without an exit or a second fixed-horizon schedule it
    is left out.

    Averages of cooldowns are only among the dots of a picture with merges.

    With merges the curves, with the snapshots along their axis, are above the regrets,
    and these are a dot for each exit in a panel for each horizon.

    Args:
      comparison: from `compare`.
      path: the PNG file to write, 1600 pixels wide; 650 high, or with merges as high as
        its rows need.
    """
    from matplotlib import figure  # Slow to import, and only pictures need it.

    styles = _styles(comparison)
    if any(row.role == "merge" for row in comparison.rows):
        top, bottom = 4.2, dots.height(comparison)
        drawing = figure.Figure(figsize=(32 / 3, top + bottom), dpi=150)
        above, below = drawing.subfigures(2, 1, height_ratios=(top, bottom))
        axes = above.add_axes((0.065, 0.125, 0.81, 0.715))
        _curves(axes, comparison, styles, snapshots=True)
        dots.draw(below, comparison, _lines(comparison, comparison.rows))
        drawing.savefig(path)
        return
    lines = _lines(comparison, styles)
    drawing = figure.Figure(figsize=(32 / 3, 13 / 3), dpi=150)
    grid = drawing.add_gridspec(
        1,
        2 if lines else 1,
        left=0.065,
        right=0.875 if lines else 0.97,
        bottom=0.125,
        top=0.84,
        wspace=0.48,
    )
    _curves(drawing.add_subplot(grid[0]), comparison, styles)
    if lines:
        _regrets(drawing.add_subplot(grid[1]), comparison, styles, lines)
    drawing.savefig(path)


def _styles(comparison: Comparison) -> dict[Row, _Style]:
    """The rows to draw; with several trunks only the chosen exits of each."""
    exits = [row for row in comparison.rows if row.is_exit]
    groups = list(dict.fromkeys(row.group for row in exits))
    styles = {}
    for number, group in enumerate(groups):
        rows = [row for row in exits if row.group == group and _has_line(row)]
        average, cooldown = looks.TRUNKS[number % len(looks.TRUNKS)]
        # After three trunks the colours come again, each with other dashes.
        turn = (number + number // len(looks.TRUNKS)) % len(_DASHES)
        dashes = _DASHES[turn] if len(groups) > 1 else "-"
        own = [row for row in rows if row.role == "trunk"]
        averages = [row for row in own if row.name != "raw"]
        chosen = _chosen(comparison, averages)
        for row in rows:
            label = row.name if len(groups) == 1 else f"{group}\n{row.name}"
            if row.role == "branch":
                style = _Style(label, cooldown, 1.2, dashes, marker="D")
            elif row is chosen:
                style = _Style(label, average, 2.6, dashes)
            elif row not in averages:
                style = _Style(label, looks.RAW, 1.6, dashes)
            elif len(groups) == 1:
                is_longest = row is averages[-1]
                style = _Style(
                    label, looks.OTHERS, 1.2, dashes, curve=is_longest, scales=False
                )
            else:
                continue
            styles[row] = style
    fixed = [row for row in comparison.rows if not row.is_exit]
    for row, dashes in zip(fixed, (*_DASHES, *"-" * len(fixed)), strict=False):
        styles[row] = _Style(row.name, looks.FIXED, 0.8, dashes)
    return styles


def _has_line(row: Row) -> bool:
    """Neither a merge nor an average of a cooldown."""
    return row.role == "trunk" or (row.role == "branch" and row.weights == "raw")


def _chosen(comparison: Comparison, averages: Sequence[Row]) -> Row | None:
    """The average to set off: the paper's, or else the one of lowest last loss."""
    for row in averages:
        if row.name == "ema25":
            return row
    last = max(comparison.horizons)
    there = [row for row in averages if last in row.losses]
    there = [row for row in there if math.isfinite(row.losses[last].mean)]
    return min(there, key=lambda row: row.losses[last].mean, default=None)


def _distances(comparison: Comparison, row: Row) -> list[float]:
    """Loss minus envelope, or minus the best exit, at the horizons on the right."""
    if comparison.envelope:
        regrets = comparison.regrets(row)
    else:
        best = {step: comparison.best(step) for step in comparison.horizons}
        regrets = {
            step: row.losses[step].mean - best[step].losses[step].mean
            for step in row.losses
            if best[step]
        }
    steps = comparison.envelope or comparison.horizons
    return [regrets.get(step, math.nan) for step in steps]


def _lines(comparison: Comparison, rows: Iterable[Row]) -> dict[Row, list[float]]:
    """The distances of the rows that have any to show."""
    lines = {row: _distances(comparison, row) for row in rows}
    return {row: line for row, line in lines.items() if _says_something(row, line)}


def _says_something(row: Row, line: Sequence[float]) -> bool:
    """Not for a fixed-horizon schedule that is the envelope wherever it has a loss."""
    finite = [value for value in line if math.isfinite(value)]
    return bool(finite) and (row.is_exit or max(finite) > 0)


def _curves(
    axes,
    comparison: Comparison,
    styles: Mapping[Row, _Style],
    snapshots: bool = False,
) -> None:
    """Loss against tokens, from a little before the first horizon."""
    first, last = min(comparison.horizons), max(comparison.horizons)
    begin = min(0.45 * first, last / 20)
    envelope = {run for point in comparison.envelope.values() for run in point.runs}
    shown, labels = [], []
    for row, style in styles.items():
        ends = row.role != "trunk"
        for run in row.runs if style.curve else ():
            curve = run.curves.get("raw" if ends else row.name, {})
            points = [(x, y) for x, y in curve.items() if math.isfinite(y)]
            if not points:
                continue
            x, y = np.array(points).T
            tokens = x * run.tokens_per_step
            axes.plot(tokens, y, **_line(style))
            if style.scales:
                shown += list(y[x >= begin])
            if not ends and run is row.runs[0]:
                labels.append(_Label(style.label, style.color, tokens[-1], y[-1]))
            if ends and x[-1] == run.total_steps and (row.is_exit or run in envelope):
                end = dict(color=style.color, clip_on=False, zorder=6 + row.is_exit)
                axes.plot(tokens[-1], y[-1], **_end(style.marker), **end)
    axes.set_ylim(*looks.limits([*shown, *(label.y for label in labels)]))
    _token_axes(axes, comparison, begin)
    _write(axes, labels)
    looks.finish(
        axes, "Loss while training", "tokens", "loss on the small set, nats/token"
    )
    ticks = snapshots and _snapshots(axes, comparison)
    _legend(axes, styles, bool(envelope), ticks)


def _snapshots(axes, comparison: Comparison) -> bool:
    """Ticks at the bottom for the snapshots of the trunks; whether there are any."""
    trunks = [run for run in comparison.names if run.role == "trunk"]
    ticks = {step * run.tokens_per_step for run in trunks for step in run.snapshots}
    low, high = axes.get_xlim()
    ticks = [tick for tick in ticks if low <= tick <= high]
    foot = axes.get_xaxis_transform()
    axes.vlines(ticks, 0, 0.035, color=looks.RAW, linewidth=0.8, transform=foot)
    return bool(ticks)


def _token_axes(axes, comparison: Comparison, begin: float) -> None:
    """Tokens below, horizons above."""
    from matplotlib import ticker

    steps = list(comparison.horizons)
    tokens_per_step = next(iter(comparison.names)).tokens_per_step
    end = 1.03 * steps[-1]
    axes.set_xscale("log")
    axes.set_xlim(begin * tokens_per_step, end * tokens_per_step)
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: looks.short(value))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    top = axes.secondary_xaxis("top")
    top.xaxis.set_minor_locator(ticker.NullLocator())
    places = np.log(steps) / math.log(end / begin)
    texts = looks.legible(places, comparison.horizons.values())
    top.set_xticks([step * tokens_per_step for step in steps], texts)
    looks.plain(top)
    for step in steps:
        axes.axvline(step * tokens_per_step, color=looks.GRID, linewidth=0.8, zorder=0)


def _regrets(
    axes,
    comparison: Comparison,
    styles: Mapping[Row, _Style],
    lines: Mapping[Row, list[float]],
) -> None:
    """Distance to the envelope, or to the best exit, against the horizon."""
    labels, scale = [], [0.0]
    for row, line in lines.items():
        style, y = styles[row], np.array(line)
        at = np.flatnonzero(np.isfinite(y))
        size = 5.5 if style.width > 2 or style.marker == "D" else 3.5
        axes.plot(at, y[at], marker=style.marker, markersize=size, **_line(style))
        labels.append(_Label(style.label, style.color, at[-1], y[at[-1]]))
        if style.scales:
            scale += list(y[at])
    if comparison.envelope:
        steps, title = comparison.envelope, "Regret: loss minus envelope"
        labels.append(_Label("envelope", looks.FIXED, len(steps) - 1, 0.0))
        unit = "regret, nats/token"
    else:
        steps, title = comparison.horizons, "Distance to the best exit"
        unit = "loss minus best, nats/token"
    axes.axhline(0, color=looks.FIXED, linewidth=1.2, zorder=1)
    axes.set_xlim(-0.2, len(steps) - 0.8)
    axes.set_ylim(*looks.limits(scale))
    places = np.arange(len(steps)) / max(len(steps) - 0.6, 1)
    texts = looks.legible(places, [comparison.horizons[step] for step in steps])
    axes.set_xticks(range(len(steps)), texts)
    axes.grid(axis="y", color=looks.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    _write(axes, labels)
    looks.finish(axes, title, "horizon", unit)


def _write(axes, labels: Sequence[_Label]) -> None:
    """Names the lines at the right, an arrow for one that is off the scale."""
    low, high = axes.get_ylim()
    height = axes.get_window_extent().height / axes.figure.dpi * 72
    ends = [min((label.y - low) / (high - low), 1.0) for label in labels]
    gaps = [
        1.25 * looks.FONT / height * (1 + label.text.count("\n")) for label in labels
    ]
    for label, end, at in zip(labels, ends, looks.apart(ends, gaps), strict=True):
        above = bool(label.y > high)
        axes.annotate(
            label.text + " ↑" * above,
            xy=(label.x, low + end * (high - low)),
            xytext=(1.05, at),
            textcoords="axes fraction",
            color=label.color,
            fontsize=looks.FONT,
            fontweight="bold" if label.color in np.ravel(looks.TRUNKS) else "normal",
            linespacing=1.0,
            va="center",
            arrowprops=None
            if above
            else dict(arrowstyle="-", color=label.color, linewidth=0.6, shrinkA=1),
            annotation_clip=False,
        )


def _legend(
    axes, styles: Mapping[Row, _Style], envelope: bool, snapshots: bool
) -> None:
    """What has no name beside it: the runs that end, the envelope, and snapshots."""
    from matplotlib import lines

    handles = []
    for row, style in styles.items():
        if row.is_exit and row.role == "branch":
            label = style.label.replace("\n", " ")
            handles.append((label, style.color, style.dashes, style.marker))
        elif not row.is_exit:
            handles.append((f"{style.label} runs", style.color, style.dashes, ""))
    if envelope:
        handles.append(("envelope", looks.FIXED, "none", "o"))
    if snapshots:
        handles.append(("snapshots of the trunk", looks.RAW, "none", "|"))
    if handles:
        axes.legend(
            handles=[
                lines.Line2D(
                    [],
                    [],
                    label=label,
                    color=color,
                    linestyle=dashes,
                    linewidth=1,
                    **_end(marker),
                )
                for label, color, dashes, marker in handles
            ],
            loc="upper right",
            fontsize=looks.FONT,
            frameon=True,
            edgecolor="none",
            framealpha=0.85,
        )


def _line(style: _Style) -> dict[str, Any]:
    return dict(
        color=style.color,
        linewidth=style.width,
        linestyle=style.dashes,
        zorder=2 + style.width,
    )


def _end(marker: str) -> dict[str, Any]:
    """The marker at the end of a run; a diamond can be seen on the envelope's disc."""
    if marker == "|":
        return dict(marker=marker, markersize=8.5)
    size = 5.0 if marker == "D" else 8.5
    return dict(
        marker=marker, markersize=size, markeredgecolor="white", markeredgewidth=0.7
    )
