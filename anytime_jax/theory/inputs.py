"""What a run of SGD is told: rates, batch sizes, mixing weights, when to record."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from anytime_jax.averaging import kernels
from anytime_jax.theory import values


class PerUpdate(NamedTuple):
    """What each of T updates is made with, float64, for K averages."""

    rate_T: np.ndarray
    inverse_batch_T: np.ndarray
    weight_TxK: np.ndarray


def per_update(
    schedule: values.Rates,
    averages: Mapping[str, Callable],
    steps: int,
    batch_size: float | Callable[[int], float],
) -> PerUpdate:
    """Returns the rate, 1 / batch size and mixing weights of every update.

    Args:
      schedule: a callable from count to rate, a number, or the rates.
      averages: names to averages.
      steps: how many updates.
      batch_size: a number >= 1, infinity included, or a callable from count to it.

    Returns:
      A `PerUpdate`.

    Raises:
      ValueError: an argument is out of range.
    """
    rate_T = values.rates(schedule, steps)
    inverse_T = np.empty(steps)
    inverse_T[:] = 1 / _batch_sizes(batch_size, steps)
    values.require_mapping("averages", averages, "names to averages")
    if "raw" in averages:
        raise ValueError("averages: the name 'raw' is that of the weights themselves")
    weight_TxK = np.zeros((steps, len(averages)))
    for index, (name, average) in enumerate(averages.items()):
        weight_TxK[:, index] = mixing_weights(f"averages[{name!r}]", average, steps)
    return PerUpdate(rate_T, inverse_T, weight_TxK)


def records(record: Sequence[int] | None, steps: int) -> np.ndarray:
    """Returns the recorded numbers of updates, by default the last one alone.

    Args:
      record: numbers of updates.
      steps: the largest allowed.

    Raises:
      ValueError: there are none, or they are not integers from 0 to `steps`.
    """
    if record is None:
        return np.array([steps])
    found = np.asarray(record)
    if found.ndim != 1 or not len(found) or not np.issubdtype(found.dtype, np.integer):
        raise ValueError(
            f"record={record!r} must be numbers of updates, integers, at least one"
        )
    for updates in found[(found < 0) | (found > steps)][:1]:
        raise ValueError(f"record: {updates} must be from 0 to steps={steps}")
    return found.astype(np.int64)


def multipliers(rates: Sequence[float]) -> np.ndarray:
    """Returns the multipliers of a schedule.

    Args:
      rates: numbers.

    Raises:
      ValueError: there are none, or one is negative or not finite.
    """
    allowed = "multipliers, at least one"
    found = values.array("rates", rates, allowed)
    if found.ndim != 1 or not len(found):
        raise ValueError(f"rates={rates!r} must be {allowed}")
    for rate in found[~(np.isfinite(found) & (found >= 0))][:1]:
        raise ValueError(f"rates: {rate} must be finite and >= 0")
    return found


def mixing_weights(name: str, average: Callable, steps: int) -> np.ndarray:
    """Returns an average's mixing weight at each update, float64 [steps].

    Args:
      name: what an error calls the average.
      average: an `Average`, or a callable from update (>= 1) to mixing weight.
      steps: how many updates.

    Raises:
      ValueError: it is not callable, or a weight is not in [0, 1].
    """
    if not callable(average):
        raise ValueError(
            f"{name}={average!r} must be an average, or a callable from update to "
            "mixing weight"
        )
    with jax.enable_x64(True):  # For callables that compute with JAX.
        weight_T = kernels.shares(average, np.arange(1, steps + 1), every=1)
    for t in np.flatnonzero(~((weight_T >= 0) & (weight_T <= 1)))[:1]:
        raise ValueError(
            f"{name}: its weight at update {t + 1}, {weight_T[t]}, must be in [0, 1]"
        )
    return weight_T


def _batch_sizes(batch_size: float | Callable, steps: int) -> np.ndarray:
    if callable(batch_size):
        sizes_T = values.called(batch_size, steps)
        for t in np.flatnonzero(~(sizes_T >= 1))[:1]:
            raise ValueError(f"batch_size={sizes_T[t]:g} at count {t} must be >= 1")
        return sizes_T
    values.require_number("batch_size", batch_size, ">= 1", lambda x: x >= 1)
    return np.full(steps, batch_size, np.float64)
