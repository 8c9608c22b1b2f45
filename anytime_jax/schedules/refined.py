"""Schedules refined from the gradient norms of an earlier run."""

from collections.abc import Sequence

import jax
import numpy as np
import optax
from jax.typing import ArrayLike

from anytime_jax.schedules import _pieces
from anytime_jax.schedules.values import from_values

__all__ = ["refined_from_gradient_norms"]

# As many as the authors resample to. It bounds the work of the median filter, and what
# a compiled schedule holds.
_POINTS = 10_000


def refined_from_gradient_norms(
    *,
    norms: Sequence[float] | np.ndarray,
    peak: float,
    total_steps: int | None = None,
    power: float = 1.0,
    smoothing: float = 0.1,
    discard: int = 2,
) -> optax.Schedule:
    """Returns the schedule that the gradient norms of an earlier run suggest.

    With G_1 ... G_T the smoothed norms and w_t = G_t^-power the rate of update t is
    `w_t * (w_{t+1} + ... + w_T)` scaled so that its largest value is `peak`. The last
    rate is 0, and equal norms give a straight line down to it. Warmup comes by itself
    where the norms are large at first.

    The norms may be those of any evenly spaced updates of a run of any length; the
    schedule is stretched to `total_steps`. Smoothing is a median filter, which repeats
    the first norm on the left and mirrors the norms on the right. More than 10,000
    norms are first resampled to that many.

    Args:
      norms: the norms in the order of the run, finite and above 0: for Adam and its
        like the l1 norms of the gradients, for SGD the l2 norms. What a log holds for
        steps that were skipped, such as infinities, has to be left out.
      peak: the largest rate.
      total_steps: the length of the new run; by default as many steps as norms. From
        that count on the rate is 0.
      power: 1 for Adam and its like, the default; 2 for SGD.
      smoothing: the width of the median filter as a fraction of the norms, in [0, 1];
        by default 0.1. Of n norms it takes
        2 floor(floor(smoothing n) / 2) + 1 at a time; 0 is no filter.
      discard: norms left out at either end; by default 2. At least 2 must be left.

    Returns:
      The schedule, a callable from count to rate.

    Raises:
      ValueError: an argument is out of range, or too few norms are left.

    Example:
      >>> schedule = refined_from_gradient_norms(
      ...     norms=[1.0, 2.0, 1.0, 0.5, 1.0], peak=1.0, power=2.0, discard=0)
      >>> [round(float(schedule(count)), 3) for count in range(6)]
      [1.0, 0.24, 0.8, 0.64, 0.0, 0.0]

    Source: Defazio, Cutkosky, Mehta and Mishchenko, "When, Why and How Much? Adaptive
    Learning Rate Scheduling by Refinement", 2023, arXiv 2310.07831, the closed form;
    smoothing and defaults as in the authors' code.
    """
    _pieces.require_rate(peak=peak)
    _pieces.require_positive(power=power)
    _pieces.require_fraction(smoothing=smoothing)
    _pieces.require_steps(discard=discard)
    norms_N = _checked(norms, discard)
    total_steps = len(norms) if total_steps is None else total_steps
    _pieces.require_steps(total_steps=total_steps)
    _pieces.require_positive(total_steps=total_steps)

    norms_N = _smoothed(_resampled(norms_N, min(len(norms_N), _POINTS)), smoothing)
    # Only ratios matter, and those to the smallest norm are at most 1.
    weights_N = (norms_N.min() / norms_N) ** power
    tails_N = np.append(np.cumsum(weights_N[:0:-1])[::-1], 0.0)
    rates_N = weights_N * tails_N
    # Integer counts, each its own as there are no more of them than steps.
    counts_M = np.linspace(0, total_steps - 1, min(total_steps, _POINTS)).round()
    places_M = counts_M / max(total_steps - 1, 1)
    rates_M = np.interp(places_M, np.linspace(0, 1, len(rates_N)), rates_N)
    table = from_values(
        values=rates_M / rates_N.max(),
        positions=counts_M.astype(int),
        interpolate=True,
    )

    def schedule(count: ArrayLike) -> jax.Array:
        return peak * table(count)

    return schedule


def _checked(norms: Sequence[float] | np.ndarray, discard: int) -> np.ndarray:
    """Returns the norms that are not discarded, if they are norms and enough."""
    norms_N = np.asarray(norms)
    if norms_N.ndim != 1 or norms_N.dtype.kind not in "fiu":
        raise ValueError(
            f"norms of shape {norms_N.shape} and type {norms_N.dtype} must be a "
            "one-dimensional table of numbers"
        )
    norms_N = norms_N.astype(float)
    for i in np.flatnonzero(~(np.isfinite(norms_N) & (norms_N > 0)))[:1]:
        _pieces.require_positive(**{f"norms[{i}]": float(norms_N[i])})
    if len(norms_N) < 2 * discard + 2:
        raise ValueError(
            f"norms, {len(norms_N)} of them, must be at least {2 * discard + 2} with "
            f"discard={discard}"
        )
    return norms_N[discard : len(norms_N) - discard]


def _resampled(values_N: np.ndarray, points: int) -> np.ndarray:
    """Returns so many values at even distances along the line through the values."""
    places_P = np.linspace(0, len(values_N) - 1, points)
    return np.interp(places_P, np.arange(len(values_N)), values_N)


def _smoothed(norms_N: np.ndarray, smoothing: float) -> np.ndarray:
    """Returns the medians of windows around each norm."""
    half = int(smoothing * len(norms_N)) // 2
    padded = np.pad(np.pad(norms_N, (half, 0), "edge"), (0, half), "reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    return np.median(windows, axis=-1)
