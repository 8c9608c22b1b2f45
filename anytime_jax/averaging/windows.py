"""The mean over any interval, from running means at its two ends."""

import math
from collections.abc import Sequence

import numpy as np

from anytime_jax.averaging import kernels, weights

# What one rounding can change, relatively; bfloat16 is rounded stochastically.
_UNIT_ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53, "bfloat16": 2.0**-8}


def window(
    start: int,
    stop: int,
    *,
    every: int = 1,
    dtype: str = "float32",
    compensated: bool = False,
    distance: float | None = None,
    limit: float = 1e-3,
    tokens: int | Sequence[tuple[int, int]] = 1,
) -> np.ndarray:
    """Returns the coefficients that turn two running means into that of an interval.

    With A(t) the mean of theta_1 ... theta_t, that of (start, stop] is
    `(stop A(stop) - start A(start)) / (stop - start)`; with ticks of `every` updates,
    that between the last ticks not after them.

    Args:
      start: updates in the earlier mean, >= 1.
      stop: updates in the later mean, > start.
      every: updates between the ticks of the mean.
      dtype: of the mean, "float32", "float64" or "bfloat16".
      compensated: whether the mean was tracked with compensation.
      distance: of the weights from the mean, as in `window_error`.
      limit: the largest `window_error` to accept; `math.inf` accepts all.
      tokens: of an update, or pairs of a number of updates and their tokens, if the
        mean's time is in tokens.

    Returns:
      float64 [2], for A(start) and A(stop).

    Raises:
      ValueError: the steps are not in order, or rounding would exceed `limit`.

    Example:
      >>> window(6, 8)
      array([-3.,  4.])
    """
    error = window_error(
        start,
        stop,
        every=every,
        dtype=dtype,
        compensated=compensated,
        distance=distance,
    )
    if not error <= limit:
        raise ValueError(
            f"start={start!r} and stop={stop!r}: rounding of the running means would "
            f"leave a relative error of {error:.1e}, above limit={limit!r}; a wider or "
            "earlier interval, or tracking.compensated, has less"
        )
    updates = kernels.per_update(tokens, stop)
    times_T1 = kernels.times(updates, stop)
    begin, end = (int(times_T1[t // every * every]) for t in (start, stop))
    return np.array([-begin, end]) / (end - begin)


def window_error(
    start: int,
    stop: int,
    *,
    every: int = 1,
    dtype: str = "float32",
    compensated: bool = False,
    distance: float | None = None,
) -> float:
    """Returns the relative error that rounding of the means leaves in a `window`.

    Times its count, a running mean is a sum, and rounding at tick j changes that sum by
    up to j u |A|, u = 2^-24 in float32. What happened before `start` is in both means
    and cancels; the rest is divided by the length of the interval, which leaves up to u
    times the mean tick. That is reached where the steps of the mean, `distance` / j of
    its size, are too small to move it. Where they are well above its resolution the
    roundings are independent, and it is divided by the root of three times the number
    of ticks. A compensated mean is only rounded when it is stored, which leaves
    u (start + stop) / (stop - start).

    Args:
      start: updates in the earlier mean, >= 1.
      stop: updates in the later mean, > start.
      every: updates between the ticks of the mean.
      dtype: of the mean, "float32", "float64" or "bfloat16".
      compensated: whether the mean was tracked with compensation.
      distance: how far the weights are from the mean, relative to its norm; None for
        the worst case.

    Returns:
      The error relative to the mean's norm.

    Raises:
      ValueError: `start`, `stop`, `every`, `dtype` or `distance` is out of range.

    Example:
      >>> f"{window_error(8000, 10000):.1e}"
      '5.4e-04'
    """
    weights.require_count("start", start, least=1)
    weights.require_count("stop", stop, least=1)
    weights.require_count("every", every, least=1)
    if stop // every <= start // every:
        ticks = f" by a tick of every={every!r} updates" if every > 1 else ""
        raise ValueError(f"stop={stop!r} must be above start={start!r}{ticks}")
    if distance is not None and not 0 <= distance < math.inf:
        raise ValueError(f"distance={distance!r} must be at least 0 and finite")
    unit = unit_roundoff(dtype)
    if compensated:
        return unit * (start + stop) / (stop - start)
    ticks = (stop - start) / every
    bound = unit * (start + stop) / (2 * every)
    if distance is None or dtype == "bfloat16":
        return bound
    # Four times the half-step at which updates are lost, below which roundings are not
    # yet independent.
    lost = distance < 4 * unit * stop / every
    return min(distance, bound) if lost else bound / math.sqrt(3 * ticks)


def unit_roundoff(dtype: str) -> float:
    """Returns what one rounding to a dtype can change, relatively.

    Args:
      dtype: "float32", "float64" or "bfloat16", which is rounded stochastically.

    Raises:
      ValueError: `dtype` is another one.

    Example:
      >>> unit_roundoff("bfloat16")
      0.00390625
    """
    if dtype not in _UNIT_ROUNDOFF:
        raise ValueError(f"dtype={dtype!r} must be one of {', '.join(_UNIT_ROUNDOFF)}")
    return _UNIT_ROUNDOFF[dtype]
