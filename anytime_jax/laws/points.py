"""Measured points as arrays: finite, positive, of one length."""

import math
import numbers
from collections.abc import Callable, Sequence

import numpy as np

Numbers = float | Sequence[float] | np.ndarray


def positive(name: str, values: Numbers, *, ndim: int | None = 1) -> np.ndarray:
    """Returns positive numbers in float64.

    Args:
      name: what an error calls them.
      values: numbers.
      ndim: how many axes they must have; any, if None.

    Returns:
      float64, a copy.

    Raises:
      ValueError: they are no numbers, have other axes, or one of them is not finite
        and above 0: the message names the first.

    Example:
      >>> positive("losses", [3, 2.5])
      array([3. , 2.5])
    """
    array = finite(name, values, ndim=ndim)
    _require(name, array, array > 0, "finite and > 0")
    return array


def finite(name: str, values: Numbers, *, ndim: int | None = 1) -> np.ndarray:
    """Returns finite numbers in float64.

    Args:
      name: what an error calls them.
      values: numbers.
      ndim: how many axes they must have; any, if None.

    Returns:
      float64, a copy.

    Raises:
      ValueError: they are no numbers, have other axes, or one of them is not finite.

    Example:
      >>> finite("losses", [[3, 2.5]], ndim=2)
      array([[3. , 2.5]])
    """
    try:
        array = np.asarray(values)
    except ValueError:  # Rows of different lengths.
        array = np.array(None)
    if array.dtype.kind not in "fiu":
        told = " ".join(repr(values).split())
        raise ValueError(f"{name}={told:.80} must be numbers")
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{name} of shape {array.shape} must have {ndim} axis or axes")
    array = np.array(array, np.float64)
    _require(name, array, np.isfinite(array), "finite")
    return array


def same_length(least: int = 1, **arrays: np.ndarray) -> None:
    """Refuses arrays of different lengths, or with fewer than `least` points.

    Args:
      least: points at the least.
      **arrays: one-dimensional arrays by the names that an error calls them.

    Raises:
      ValueError: as said.
    """
    lengths = {name: len(array) for name, array in arrays.items()}
    told = ", ".join(f"{name} {length}" for name, length in lengths.items())
    if len(set(lengths.values())) > 1:
        raise ValueError(f"numbers of points ({told}) must be the same")
    if min(lengths.values()) < least:
        raise ValueError(f"numbers of points ({told}) must be at least {least}")


def ascending(name: str, values_K: np.ndarray) -> None:
    """Refuses numbers that do not ascend strictly; names the first that does not."""
    for i in np.flatnonzero(np.diff(values_K) <= 0)[:1]:
        raise ValueError(
            f"{name}[{i + 1}]={values_K[i + 1]:g} must be above {name}[{i}]="
            f"{values_K[i]:g}"
        )


def number(
    name: str, value: float, allowed: str, accepts: Callable[[float], bool]
) -> None:
    """Refuses what is not a finite number that `accepts` accepts.

    Args:
      name: what the error calls it.
      value: the number.
      allowed: what it must be, in words.
      accepts: the same as a function.

    Raises:
      ValueError: as said.
    """
    real = isinstance(value, (numbers.Real, np.number)) and not isinstance(value, bool)
    if not (real and math.isfinite(value) and accepts(value)):
        raise ValueError(f"{name}={value!r} must be {allowed}")


def above_zero(**values: float) -> None:
    """Refuses arguments that are not finite and above 0."""
    for name, value in values.items():
        number(name, value, "finite and > 0", lambda x: x > 0)


def _require(name, array, accepted, allowed):
    for index in np.argwhere(~accepted)[:1]:
        place = "".join(f"[{i}]" for i in index)
        raise ValueError(f"{name}{place}={float(array[*index])} must be {allowed}")
