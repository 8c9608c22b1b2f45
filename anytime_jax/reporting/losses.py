"""Pictures of predicted loss curves, beside measured ones or beside their schedules."""

import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from anytime_jax.reporting import looks

_WIDE = dict(linewidth=3.5, alpha=0.35, solid_capstyle="round")
_THIN = dict(linewidth=1.2)


class Line(NamedTuple):
    """A predicted loss curve.

    Attributes:
      steps: ascending, [P].
      predicted: the loss at each, [P].
      measured: the same, or None where it was not.
    """

    steps: np.ndarray
    predicted: np.ndarray
    measured: np.ndarray | None = None


def draw_fits(
    lines: Mapping[str, Line], path: str | os.PathLike, *, title: str
) -> None:
    """Draws measured losses wide, predicted ones thin, and how far they are apart.

    The left panel leaves out what is above the losses after a tenth of the longest
    curve; the right one leaves out differences that are over twice as large as 90 % of
    those of every line.

    Args:
      lines: by name, at least one.
      path: the PNG file to write, 1600 x 650 pixels.
      title: above the left panel.

    Raises:
      ValueError: there is no line, or one has not as many losses as steps.
    """
    drawing, left, right = _panels()
    _check({name: one[:2] for name, one in lines.items()})
    _check({name: one[::2] for name, one in lines.items() if one[2] is not None})
    for index, (name, one) in enumerate(lines.items()):
        how = _style(index)
        if one.measured is not None:
            left.plot(one.steps, one.measured, color=how["color"], **_WIDE)
            right.plot(one.steps, one.predicted - one.measured, **how, **_THIN)
        left.plot(one.steps, one.predicted, label=name, **how, **_THIN)
    shown = [(one.steps, part) for one in lines.values() for part in one[1:]]
    _loss_limits(left, [pair for pair in shown if pair[1] is not None], 0.1)
    right.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    off = [
        np.abs(one[1] - one[2]) for one in lines.values() if one.measured is not None
    ]
    if off:
        # By line, so that none is left out altogether.
        most = max(min(size.max(), 2 * np.quantile(size, 0.9)) for size in off) or 1e-3
        right.set_ylim(-1.06 * most, 1.06 * most)
    _finish(left, title, "loss: measured wide, predicted thin")
    _finish(right, "Prediction - measurement", "nats")
    left.legend(fontsize=looks.FONT - 1, frameon=False, loc="upper right")
    drawing.savefig(path)


def draw_predictions(
    losses: Mapping[str, tuple[np.ndarray, np.ndarray]],
    rates: Mapping[str, tuple[np.ndarray, np.ndarray]],
    path: str | os.PathLike,
    *,
    title: str,
) -> None:
    """Draws predicted losses, and the learning rates that they are of.

    The left panel leaves out what is above the losses after a fifth of the run. Names
    that are in both have one colour.

    Args:
      losses: by name, steps and the loss at each.
      rates: by name, steps and the learning rate at each.
      path: the PNG file to write, 1600 x 650 pixels.
      title: above the left panel.

    Raises:
      ValueError: there is nothing to draw, or not as many values as steps.
    """
    drawing, left, right = _panels()
    _check(losses)
    _check(rates)
    names = list(losses) + [name for name in rates if name not in losses]
    for axes, pairs in ((left, losses), (right, rates)):
        for name, (steps, values) in pairs.items():
            how = _style(names.index(name)) if name in losses else dict(color="0.25")
            axes.plot(steps, values, label=name, linewidth=1.6, **how)
    _loss_limits(left, list(losses.values()), 0.2)
    right.set_ylim(0, 1.06 * max(np.max(values) for _, values in rates.values()) or 1)
    right.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _finish(left, title, "predicted loss")
    _finish(right, "Schedule", "learning rate")
    left.legend(fontsize=looks.FONT - 1, frameon=False, loc="upper right")
    if set(rates) - set(losses) and len(rates) > 1:
        right.legend(fontsize=looks.FONT - 1, frameon=False, loc="lower left")
    drawing.savefig(path)


def _panels():
    from matplotlib import figure  # Slow to import, and only pictures need it.

    drawing = figure.Figure(figsize=(32 / 3, 13 / 3), dpi=150, layout="constrained")
    return drawing, *drawing.subplots(1, 2)


def _style(index: int) -> dict:
    dashes = "-" if index < len(looks.LINES) else "--"
    return dict(color=looks.LINES[index % len(looks.LINES)], linestyle=dashes)


def _check(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    for name, (steps, values) in pairs.items():
        if np.shape(values) != np.shape(steps) or not len(steps):
            raise ValueError(
                f"{name}: values of shape {np.shape(values)} must be one for each of "
                f"at least one step, of which there are {len(steps)}"
            )


def _loss_limits(
    axes, pairs: list[tuple[np.ndarray, np.ndarray]], early: float
) -> None:
    """From the least loss to the largest after a share of the longest curve."""
    if not pairs:
        raise ValueError("lines must hold at least one")
    begin = early * max(steps[-1] for steps, _ in pairs)
    late = [values[np.asarray(steps) >= begin] for steps, values in pairs]
    late = [values for values in late if len(values)]
    axes.set_ylim(*looks.limits(np.concatenate(late)))


def _finish(axes, title: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("step", fontsize=looks.FONT)
    axes.set_ylabel(y, fontsize=looks.FONT)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="y", color=looks.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    looks.plain(axes)
