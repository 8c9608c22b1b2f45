"""From a schedule to the rates of a run: what a prediction or a plot starts from."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from anytime_jax.schedules import _pieces

_BLOCK = 16_384

Rates = optax.Schedule | float | Sequence[float] | np.ndarray | jax.Array


def rates(schedule: Rates, steps: int, name: str = "schedule") -> np.ndarray:
    """Returns the rate of each of the first `steps` updates.

    Args:
      schedule: `schedule(0)` ... `schedule(steps - 1)` if it is a callable, be it for
        JAX or for Python's integers only; the same rate for all if it is a number; or a
        one-dimensional array of `steps` rates.
      steps: updates, >= 1.
      name: what an error calls the schedule.

    Returns:
      float64 [steps]. A callable is evaluated in float64, for all counts at once where
      that gives what one call a count gives.

    Raises:
      ValueError: `steps` is not an integer >= 1, there are not `steps` rates, or one of
        them is negative or not finite: the message names the first.

    Example:
      >>> rates(lambda t: 0.5 if t < 2 else 0.25, 4)
      array([0.5 , 0.5 , 0.25, 0.25])
      >>> rates(0.5, 2)
      array([0.5, 0.5])
    """
    _pieces.require("an integer >= 1", _is_count, steps=steps)
    if callable(schedule):
        rates_T = called(schedule, steps)
    else:
        rates_T = array(name, schedule, "a callable, a number or an array of rates")
        rates_T = rates_T if rates_T.ndim else np.full(steps, rates_T)
    if rates_T.shape != (steps,):
        raise ValueError(
            f"{name} of shape {rates_T.shape} must have one rate for each of "
            f"steps={steps} updates"
        )
    require(rates_T, name, "a finite rate, at least 0", rates_T >= 0)
    return rates_T


def require(
    values_T: np.ndarray, name: str, allowed: str, accepted: np.ndarray
) -> None:
    """Refuses values that are not finite or not accepted; names the first of them.

    Args:
      values_T: one value an update.
      name: what the error calls them; the update is given as its count, from 0.
      allowed: what they must be.
      accepted: bool [steps].
    """
    for i in np.flatnonzero(~(np.isfinite(values_T) & accepted))[:1]:
        raise ValueError(f"{name}({i})={float(values_T[i])} must be {allowed}")


def array(name: str, value: ArrayLike, allowed: str) -> np.ndarray:
    """Returns numbers of any shape as a new float64 array, and refuses all else."""
    try:
        found = np.asarray(value)
    except ValueError:  # Rows of different lengths.
        found = np.array(None)
    if not any(jnp.issubdtype(found.dtype, k) for k in (jnp.floating, jnp.integer)):
        raise ValueError(f"{name}={value!r} must be {allowed}")
    return np.array(found, np.float64)


def called(schedule: optax.Schedule, steps: int) -> np.ndarray:
    """Returns what a callable gives for the counts 0 ... steps - 1, in float64.

    One call for all counts, if that gives what one call a count gives.

    Args:
      schedule: for JAX, or for Python's integers only.
      steps: how many.

    Returns:
      float64 [steps], unchecked.
    """
    with jax.enable_x64(True):
        try:
            # Not compiled: compiled, roundings differ from those of single calls.
            blocks = [np.asarray(jax.vmap(schedule)(c)) for c in _blocks(steps)]
            rates_T = np.concatenate(blocks).astype(np.float64)[:steps]
        except Exception:
            # It is not for tracing; what else is wrong with it shows again below.
            return _one_by_one(schedule, range(steps))
        # It may also treat Python's integers in another way than JAX's.
        some = sorted({0, 1 % steps, steps // 3, steps // 2, steps - 1})
        single = _one_by_one(schedule, some)
        one_each = rates_T.shape == (steps,) and single.shape == (len(some),)
        if one_each and np.allclose(
            rates_T[some], single, rtol=1e-9, atol=0.0, equal_nan=True
        ):
            return rates_T
        return _one_by_one(schedule, range(steps))


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and value >= 1


def _blocks(steps: int) -> list[jax.Array]:
    """The counts in blocks of one size, since JAX compiles for every size anew."""
    starts = range(0, steps, _BLOCK)
    counts = [np.arange(start, start + _BLOCK) for start in starts]
    return [jnp.asarray(np.minimum(count, steps - 1)) for count in counts]


def _one_by_one(schedule: optax.Schedule, counts: Sequence[int]) -> np.ndarray:
    return np.array([np.asarray(schedule(t), np.float64) for t in counts])
