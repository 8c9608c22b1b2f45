"""Schedules with a horizon: what horizon-free runs are measured against."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from anytime_jax.schedules import _pieces
from anytime_jax.schedules.cooldowns import Shape, cooldown
from anytime_jax.schedules.trunks import constant

__all__ = ["cosine", "from_values", "linear", "wsd"]


def cosine(
    *,
    peak: float,
    total_steps: int,
    final_fraction: float = 0.1,
    warmup_steps: int = 0,
    warmup_start: float = 0.1,
) -> optax.Schedule:
    """Returns a schedule that follows half a cosine from `peak` to its floor.

    With x = (count - warmup_steps) / (total_steps - warmup_steps) and
    f = final_fraction the rate is `peak * (f + (1 - f) * (1 + cos(pi x)) / 2)`, and
    `peak * f` after the end.

    Args:
      peak: the rate at count `warmup_steps`.
      total_steps: the length of the run, warmup included.
      final_fraction: the final rate as a fraction of the peak, in [0, 1]; by default
        0.1 as in Anytime Pretraining.
      warmup_steps: steps of linear warmup to the peak; by default 0, none at all.
      warmup_start: rate at count 0 as a fraction of the peak; by default 0.1.

    Returns:
      The schedule, a callable from count to rate.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> schedule = cosine(peak=1.0, total_steps=100, final_fraction=0.0)
      >>> [round(float(schedule(count)), 3) for count in (0, 50, 100, 10**9)]
      [1.0, 0.5, 0.0, 0.0]

    Source: Loshchilov and Hutter, "SGDR", 2017, arXiv 1608.03983, equation 5.
    """
    _pieces.require_steps(warmup_steps=warmup_steps, total_steps=total_steps)
    _pieces.require_order(warmup_steps=warmup_steps, total_steps=total_steps)
    return cooldown(
        constant(peak=peak, warmup_steps=warmup_steps, warmup_start=warmup_start),
        start=warmup_steps,
        steps=total_steps - warmup_steps,
        shape="cosine",
        final_fraction=final_fraction,
    )


def linear(
    *,
    peak: float,
    total_steps: int,
    final_fraction: float = 0.0,
    warmup_steps: int = 0,
    warmup_start: float = 0.1,
) -> optax.Schedule:
    """Returns a schedule that goes straight from `peak` to its floor (D2Z).

    With x = (count - warmup_steps) / (total_steps - warmup_steps) and
    f = final_fraction the rate is `peak * (f + (1 - f) * (1 - x))`, and `peak * f`
    after the end.

    Args:
      peak: the rate at count `warmup_steps`.
      total_steps: the length of the run, warmup included.
      final_fraction: the final rate as a fraction of the peak, in [0, 1]; by default 0.
      warmup_steps: steps of linear warmup to the peak; by default 0, none at all.
      warmup_start: rate at count 0 as a fraction of the peak; by default 0.1.

    Returns:
      The schedule, a callable from count to rate.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> schedule = linear(peak=1.0, total_steps=100)
      >>> [float(schedule(count)) for count in (0, 25, 100, 10**9)]
      [1.0, 0.75, 0.0, 0.0]

    Source: Bergsma et al., "Straight to Zero", 2025, arXiv 2502.15938.
    """
    _pieces.require_steps(warmup_steps=warmup_steps, total_steps=total_steps)
    _pieces.require_order(warmup_steps=warmup_steps, total_steps=total_steps)
    return cooldown(
        constant(peak=peak, warmup_steps=warmup_steps, warmup_start=warmup_start),
        start=warmup_steps,
        steps=total_steps - warmup_steps,
        shape="linear",
        final_fraction=final_fraction,
    )


def wsd(
    *,
    peak: float,
    total_steps: int,
    cooldown_fraction: float = 0.1,
    shape: Shape = "linear",
    final_fraction: float = 0.1,
    warmup_steps: int = 0,
    warmup_start: float = 0.1,
) -> optax.Schedule:
    """Returns a warmup-stable-decay schedule: constant at `peak`, then a cooldown.

    It is `constant` with a `cooldown` over the last
    `round(cooldown_fraction * total_steps)` steps.

    Args:
      peak: the rate from count `warmup_steps` to the start of the cooldown.
      total_steps: the length of the run, warmup and cooldown included.
      cooldown_fraction: the cooldown's share of `total_steps`, in [0, 1]; by default
        0.1. With 0 the rate jumps at `total_steps`.
      shape: a shape of `SHAPES`, as for `cooldown`; by default "linear".
      final_fraction: the final rate as a fraction of the peak, in [0, 1]; by default
        0.1. The defaults of shape and fractions are those of Anytime Pretraining.
      warmup_steps: steps of linear warmup to the peak; by default 0, none at all.
      warmup_start: rate at count 0 as a fraction of the peak; by default 0.1.

    Returns:
      The schedule, a callable from count to rate.

    Raises:
      ValueError: an argument is out of range, or warmup and cooldown overlap.

    Example:
      >>> schedule = wsd(peak=1.0, total_steps=100, final_fraction=0.0)
      >>> [float(schedule(count)) for count in (0, 90, 95, 100, 10**9)]
      [1.0, 1.0, 0.5, 0.0, 0.0]

    Source: Hu et al., "MiniCPM", 2024, arXiv 2404.06395; Hägele et al., 2024, arXiv
    2405.18392.
    """
    _pieces.require_steps(warmup_steps=warmup_steps, total_steps=total_steps)
    _pieces.require_fraction(cooldown_fraction=cooldown_fraction)
    cooldown_steps = round(float(cooldown_fraction) * int(total_steps))
    if warmup_steps + cooldown_steps > total_steps:
        raise ValueError(
            f"warmup_steps={warmup_steps} and cooldown_fraction={cooldown_fraction} "
            f"must fit in total_steps={total_steps}"
        )
    return cooldown(
        constant(peak=peak, warmup_steps=warmup_steps, warmup_start=warmup_start),
        start=total_steps - cooldown_steps,
        steps=cooldown_steps,
        shape=shape,
        final_fraction=final_fraction,
    )


def from_values(*, values: Sequence[float] | np.ndarray | jax.Array) -> optax.Schedule:
    """Returns a schedule that reads its rates from a table.

    The rate at count i is `values[i]`, and the last value after the end. Between
    integers a float count reads the value before it, so that the derivative with
    respect to the count is 0; that with respect to a traced table is exact.

    Args:
      values: rates at counts 0, 1, 2, ...: a one-dimensional table, not empty.

    Returns:
      The schedule, a callable from count to rate.

    Raises:
      ValueError: the table has another shape, or a rate is negative or not finite.

    Example:
      >>> schedule = from_values(values=[0.5, 1.0, 0.25])
      >>> [float(schedule(count)) for count in (0, 1, 2, 10**9)]
      [0.5, 1.0, 0.25, 0.25]
    """
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

    def schedule(count: ArrayLike) -> jax.Array:
        index = _pieces.elapsed(count, 0, len(table) - 1).astype(int)
        if isinstance(index, jax.Array):
            return _pieces.as_float(table)[index]
        return _pieces.as_float(table[index])

    return schedule
