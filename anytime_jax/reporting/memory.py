"""What averages and merges remember, as a table and a picture of their kernels.

Apart from the rest of this room it needs JAX, because averages do.
"""

import os
from collections.abc import Mapping

import numpy as np

from anytime_jax.averaging import kernels as kernels_of
from anytime_jax.reporting import looks

_BINS = 100
_LEVELS = (0.9, 0.5, 0.1)
_NOTE = (
    "initial: the share of the weights it started from; decay 0.9: the share of the "
    "run at which the learning-rate decay that it imitates falls below 0.9."
)


def to_text(kernels: Mapping[str, np.ndarray]) -> str:
    """Returns a table of what each kernel remembers.

    Args:
      kernels: by name, the coefficients of theta_0 ... theta_step.

    Returns:
      A line for each: the step; the mean age and the number of effective samples, with
      their share of the step; the share of the initial weights; and the updates at
      which the decay that it imitates falls below 0.9, 0.5 and 0.1, as a share of the
      step. Below them, what the last columns are.
    """
    width = max(len("average"), *map(len, kernels))
    falls = "".join(f"{f'decay {level}':>11}" for level in _LEVELS)
    lines = [
        f"{'average':<{width}}{'step':>10}{'mean age':>20}{'effective samples':>22}"
        f"{'initial':>10}{falls}"
    ]
    for name, kernel_T1 in kernels.items():
        step = len(kernel_T1) - 1
        age, samples, initial = kernels_of.moments(kernel_T1)
        decay_T = kernels_of.tail_sums(kernel_T1)
        falls = "".join(f"{_fall(decay_T, level):>11.1%}" for level in _LEVELS)
        lines.append(
            f"{name:<{width}}{step:>10,}{age:>12,.1f} {age / step:>7.2%}"
            f"{samples:>14,.1f} {samples / step:>7.2%}{initial:>10.2%}{falls}"
        )
    return "\n".join([*lines, "", _NOTE])


def draw(kernels: Mapping[str, np.ndarray], path: str | os.PathLike) -> None:
    """Draws the kernels, and the learning-rate decays that they imitate.

    On the left the share of the result that comes from each so many updates, as few as
    leave at most a hundred bins; on the right the multiplier with which each update
    counts.

    Args:
      kernels: by name, the coefficients of theta_0 ... theta_step.
      path: the PNG file to write, 1600 x 650 pixels.
    """
    from matplotlib import figure  # Slow to import, and only pictures need it.

    drawing = figure.Figure(figsize=(32 / 3, 13 / 3), dpi=150, layout="constrained")
    left, right = drawing.subplots(1, 2)
    last = max(len(kernel_T1) for kernel_T1 in kernels.values()) - 1
    edges, width = _bins(last)
    for index, (name, kernel_T1) in enumerate(kernels.items()):
        color = looks.LINES[index % len(looks.LINES)]
        dashes = "-" if index < len(looks.LINES) else "--"
        line = dict(color=color, linestyle=dashes, linewidth=1.6, label=name)
        steps = np.arange(len(kernel_T1))
        # The initial weights count with the first updates.
        shares, _ = np.histogram(np.maximum(steps, 1), edges, weights=kernel_T1)
        shares *= width / np.diff(edges)
        left.stairs(shares, edges, baseline=None, **line)
        decay_T = kernels_of.tail_sums(kernel_T1)
        right.plot(steps, np.append(decay_T, 0.0), drawstyle="steps-post", **line)
    each = "update" if width == 1 else f"{width} updates"
    for axes, title, label in (
        (left, "What it remembers", f"share of each {each}"),
        (right, "The decay it imitates", "learning-rate multiplier"),
    ):
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        axes.set_xlabel("update", fontsize=9)
        axes.set_ylabel(label, fontsize=9)
        axes.tick_params(labelsize=9, length=3)
        axes.grid(axis="y", color=looks.GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(fontsize=9, frameon=False, loc="upper left")
    drawing.savefig(path)


def _bins(last: int) -> tuple[np.ndarray, int]:
    """The edges of bins of equal width in updates; the first may be narrower."""
    width = -(-last // _BINS)
    edges = np.arange(last, 0, -width)[::-1] + 0.5
    return np.append(0.5, edges), width


def _fall(decay_T: np.ndarray, level: float) -> float:
    """The share of the updates after which a decay stays below a level."""
    above = np.flatnonzero(decay_T > level - 1e-9)
    return (above[-1] + 1) / len(decay_T) if len(above) else 0.0
