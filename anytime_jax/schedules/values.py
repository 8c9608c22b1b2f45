"""Schedules that are tables of rates."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from anytime_jax.schedules import _pieces

__all__ = ["from_values"]


def from_values(
    *,
    values: Sequence[float] | np.ndarray | jax.Array,
    positions: Sequence[int] | np.ndarray | None = None,
    interpolate: bool = False,
) -> optax.Schedule:
    """Returns a schedule that reads its rates from a table.

    The rate at count `positions[i]` is `values[i]`. Between two positions it is the
    value at the first of them, or with `interpolate` on the straight line between
    them; before the first position it is the first value, after the last the last. A
    held value has derivative 0 with respect to the count; that with respect to a traced
    table is exact.

    Args:
      values: rates: a one-dimensional table, not empty.
      positions: the counts at which the values stand, ascending integers, as many as
        there are values; by default 0, 1, 2, ...
      interpolate: whether rates between positions are on straight lines; by default
        they are held.

    Returns:
      The schedule, a callable from count to rate.

    Raises:
      ValueError: the table has another shape, a rate is negative or not finite, or the
        positions do not ascend or are not as many as the values.

    Example:
      >>> schedule = from_values(values=[0.5, 1.0, 0.25])
      >>> [float(schedule(count)) for count in (0, 1, 2, 10**9)]
      [0.5, 1.0, 0.25, 0.25]
      >>> schedule = from_values(values=[0, 1], positions=[10, 20], interpolate=True)
      >>> [float(schedule(count)) for count in (0, 10, 15, 20, 10**9)]
      [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    table = _checked(values)
    if not isinstance(interpolate, bool):
        raise ValueError(f"interpolate={interpolate!r} must be True or False")
    if positions is not None:
        _pieces.require_ascending(positions=positions)
        if len(positions) != len(table):
            raise ValueError(
                f"positions, {len(positions)} of them, must be as many as the "
                f"{len(table)} values"
            )
    counts = np.arange(len(table)) if positions is None else np.array(positions)
    steps = np.append(np.diff(counts), 1)  # The last value holds: any length will do.

    def schedule(count: ArrayLike) -> jax.Array:
        if positions is None:
            index = _pieces.elapsed(count, 0, len(table) - 1).astype(int)
        else:
            index = (_pieces.passed(count, counts) - 1).clip(0)
        held = _pieces.as_float(_entry(table, index))
        if not interpolate:
            return held
        after = _entry(table, (index + 1).clip(None, len(table) - 1))
        length = _entry(steps, index)
        past = _pieces.elapsed(count, _entry(counts, index), length)
        x = _pieces.as_float(past) / _pieces.as_float(length)
        return held + x * (_pieces.as_float(after) - held)

    return schedule


def _checked(
    values: Sequence[float] | np.ndarray | jax.Array,
) -> np.ndarray | jax.Array:
    """Returns the rates as an array of their own, if they are rates."""
    table = values if isinstance(values, jax.Array) else np.array(values)
    numeric = any(jnp.issubdtype(table.dtype, k) for k in (jnp.floating, jnp.integer))
    if table.ndim != 1 or len(table) == 0 or not numeric:
        raise ValueError(
            f"values of shape {table.shape} and type {table.dtype} must be a "
            "one-dimensional table of at least one number"
        )
    if not isinstance(table, jax.core.Tracer):
        rates = np.asarray(table, float)
        for i in np.flatnonzero(~(np.isfinite(rates) & (rates >= 0)))[:1]:
            _pieces.require_rate(**{f"values[{i}]": float(rates[i])})
    return table


def _entry(table: np.ndarray | jax.Array, index: ArrayLike) -> ArrayLike:
    """Returns table[index], in JAX if the index is there."""
    return jnp.asarray(table)[index] if isinstance(index, jax.Array) else table[index]
