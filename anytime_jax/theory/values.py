"""What every theory starts from: checked numbers, rates, and exact running sums."""

import math
import numbers
from collections.abc import Callable, Mapping

import numpy as np

from anytime_jax.schedules.tables import Rates, array, called, rates, require

__all__ = [
    "Rates",
    "array",
    "called",
    "rates",
    "remembered",
    "require",
    "require_mapping",
    "require_number",
    "require_positive",
    "running_sums",
]


def require_number(
    name: str, value: float, allowed: str, accepts: Callable[[float], bool]
) -> None:
    """Refuses what is not a number that `accepts` accepts."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise ValueError(
            f"{name}={value!r} must be a Python or NumPy number, {allowed}"
        )
    if not accepts(value):
        raise ValueError(f"{name}={value!r} must be {allowed}")


def require_positive(name: str, value: float) -> None:
    """Refuses what is not a finite number above 0."""
    require_number(name, value, "finite and > 0", lambda x: 0 < x < math.inf)


def require_mapping(name: str, value: Mapping, allowed: str) -> None:
    """Refuses what is not a mapping."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name}={value!r} must map {allowed}")


def running_sums(values_T: np.ndarray) -> np.ndarray:
    """Returns the cumulative sums, with an error that hardly grows with their number.

    One after the other, a million equal numbers lose five digits: every rounding goes
    the same way. Here sums of about sqrt(T) numbers are summed.

    Args:
      values_T: numbers; -inf is allowed.

    Returns:
      float64 [T].

    Example:
      >>> running_sums(np.array([1.0, 2.0, 4.0]))
      array([1., 3., 7.])
    """
    count = len(values_T)
    width = max(1, int(np.ceil(np.sqrt(count))))
    padded = np.append(values_T, np.zeros(-count % width))
    sums_RC = np.cumsum(padded.reshape(-1, width), axis=1)
    before_R = np.append(0.0, np.cumsum(sums_RC[:-1, -1]))
    return (sums_RC + before_R[:, None]).ravel()[:count]


def remembered(shares_T: np.ndarray) -> np.ndarray:
    """Returns how much of each of T + 1 values is left, mixed in one after the other.

    `c_i = share_i prod_{j > i} (1 - share_j)`, with 1 for the share of the first.

    Args:
      shares_T: of the newest value at each update, in [0, 1].

    Returns:
      float64 [T + 1], which sum to 1.

    Example:
      >>> remembered(np.array([1.0, 0.5]))
      array([0. , 0.5, 0.5])
    """
    # log1p(-1) is -inf, and a share of 1 does erase all that came before.
    with np.errstate(divide="ignore"):
        kept_T = np.log1p(-shares_T)
    later_T1 = np.append(running_sums(kept_T[::-1])[::-1], 0.0)
    return np.append(1.0, shares_T) * np.exp(later_T1)
