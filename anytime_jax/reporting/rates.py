"""The picture of a schedule: learning rate against step."""

import os
from collections.abc import Sequence

import numpy as np

_RATE, _BRANCH, _WARMUP, _HORIZON = "#0072B2", "#D55E00", "#EEF3F7", "#D0D0D0"
_FONT = 9


def draw_rates(
    counts: np.ndarray,
    rates: np.ndarray,
    path: str | os.PathLike,
    *,
    title: str,
    warmup_steps: int = 0,
    branch_step: int = 0,
    horizons: Sequence[int] = (),
) -> None:
    """Draws the learning rates of a run.

    Args:
      counts: ascending counts of updates.
      rates: the learning rate at each of them.
      path: the PNG file to write, 1200 x 600 pixels.
      title: the name of the schedule.
      warmup_steps: the end of the warmup, which is shaded; 0 for none.
      branch_step: where the run left its trunk, from where on the line has another
        colour; 0 for a run from the start.
      horizons: steps to mark.

    Raises:
      ValueError: there are not as many rates as counts.
    """
    from matplotlib import figure  # Slow to import, and only pictures need it.

    if np.shape(rates) != (len(counts),) or not len(counts):
        raise ValueError(
            f"rates of shape {np.shape(rates)} must be one for each of at least one "
            f"count, of which there are {len(counts)}"
        )
    drawing = figure.Figure(figsize=(8, 4), dpi=150)
    axes = drawing.subplots()
    drawing.subplots_adjust(left=0.11, right=0.95, bottom=0.13, top=0.84)
    for horizon in horizons:
        axes.axvline(horizon, color=_HORIZON, linewidth=0.8, zorder=0)
    if warmup_steps:
        axes.axvspan(0, warmup_steps, color=_WARMUP, zorder=0)
        _above(axes, warmup_steps, counts[-1], f"warmup to {warmup_steps:,}", _RATE)
    branch = counts >= branch_step if branch_step else np.zeros(len(counts), bool)
    if branch_step:
        axes.axvline(branch_step, color=_BRANCH, linewidth=0.8, linestyle=(0, (4, 2)))
        _above(axes, branch_step, counts[-1], f"branch at {branch_step:,}", _BRANCH)
    for part, color in ((~branch, _RATE), (branch, _BRANCH)):
        axes.plot(counts[part], rates[part], color=color, linewidth=1.6)
    axes.set_xlim(0, counts[-1] + 1)
    axes.set_ylim(0, 1.06 * rates.max() or 1)
    _finish(axes, title, with_horizons=bool(horizons))
    drawing.savefig(path)


def _above(axes, count: int, last: int, text: str, color: str) -> None:
    """Writes above the axes at a count, on the side that has more room."""
    axes.annotate(
        text,
        xy=(count, 1),
        xytext=(0, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="left" if 2 * count < last else "right",
        color=color,
        fontsize=_FONT,
    )


def _finish(axes, title: str, with_horizons: bool) -> None:
    from matplotlib import ticker

    axes.text(0, 1.1, title, transform=axes.transAxes, fontsize=11, fontweight="bold")
    note = " (vertical lines: horizons)" if with_horizons else ""
    axes.set_xlabel(f"step{note}", fontsize=_FONT)
    axes.set_ylabel("learning rate", fontsize=_FONT)
    axes.xaxis.set_major_locator(ticker.MaxNLocator("auto", integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(labelsize=_FONT, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
