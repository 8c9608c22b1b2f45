"""Schedules from before anyone asked for no horizon: steps, exponentials, restarts.

None has a horizon among its arguments, yet each has a time scale that is chosen for a
run's length, and so they count as schedules with one.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from anytime_jax.schedules import _pieces
from anytime_jax.schedules.cooldowns import Shape, multiplier
from anytime_jax.schedules.trunks import constant

__all__ = ["cyclic", "exponential", "multi_step", "step_decay"]


def step_decay(
    *,
    peak: float,
    every: int,
    factor: float = 0.1,
    warmup_steps: int = 0,
    warmup_start: float = 0.1,
) -> optax.Schedule:
    """Returns a schedule that drops by the same factor every so many steps.

    With t = count - warmup_steps the rate is `peak * factor^floor(t / every)`.

    Args:
      peak: the rate at count `warmup_steps`.
      every: steps from one drop to the next, at least 1.
      factor: what a drop multiplies the rate by, in [0, 1]; by default 0.1.
      warmup_steps: steps of linear warmup to the peak; by default 0, none at all.
      warmup_start: rate at count 0 as a fraction of the peak; by default 0.1.

    Returns:
      The schedule, a callable from count to rate.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> schedule = step_decay(peak=1.0, every=30, factor=0.5)
      >>> [float(schedule(count)) for count in (0, 29, 30, 60, 10**9)]
      [1.0, 1.0, 0.5, 0.25, 0.0]
    """
    trunk = constant(peak=peak, warmup_steps=warmup_steps, warmup_start=warmup_start)
    _pieces.require_steps(every=every)
    _pieces.require_positive(every=every)
    _pieces.require_fraction(factor=factor)

    def schedule(count: ArrayLike) -> jax.Array:
        drops = _pieces.elapsed(count, warmup_steps) // every
        return trunk(count) * _power(factor, drops)

    return schedule


def multi_step(
    *,
    peak: float,
    boundaries: Sequence[int],
    factor: float = 0.1,
    warmup_steps: int = 0,
    warmup_start: float = 0.1,
) -> optax.Schedule:
    """Returns a schedule that drops by the same factor at given counts.

    After the warmup the rate is `peak * factor^k` with k the number of boundaries that
    are at most the count. For other rates at the boundaries see `from_values`.

    Args:
      peak: the rate from count `warmup_steps` to the first boundary.
      boundaries: the counts, from the start of the run and ascending, from which on
        the rate is lower.
      factor: what a drop multiplies the rate by, in [0, 1]; by default 0.1.
      warmup_steps: steps of linear warmup to the peak; by default 0, none at all.
      warmup_start: rate at count 0 as a fraction of the peak; by default 0.1.

    Returns:
      The schedule, a callable from count to rate.

    Raises:
      ValueError: an argument is out of range, or the warmup is longer than up to the
        first boundary.

    Example:
      >>> schedule = multi_step(peak=1.0, boundaries=[30, 40], factor=0.5)
      >>> [float(schedule(count)) for count in (0, 29, 30, 40, 10**9)]
      [1.0, 1.0, 0.5, 0.25, 0.25]
    """
    trunk = constant(peak=peak, warmup_steps=warmup_steps, warmup_start=warmup_start)
    _pieces.require_ascending(boundaries=boundaries)
    _pieces.require_order(
        **{"warmup_steps": warmup_steps, "boundaries[0]": boundaries[0]}
    )
    _pieces.require_fraction(factor=factor)
    boundaries = np.array(boundaries)

    def schedule(count: ArrayLike) -> jax.Array:
        return trunk(count) * _power(factor, _pieces.passed(count, boundaries))

    return schedule


def exponential(
    *, peak: float, half_life: float, warmup_steps: int = 0, warmup_start: float = 0.1
) -> optax.Schedule:
    """Returns a schedule that halves again and again, smoothly.

    With t = count - warmup_steps the rate is `peak * 2^(-t / half_life)`. For one that
    ends at a given rate see `cooldown` with the shape "exponential".

    Args:
      peak: the rate at count `warmup_steps`.
      half_life: the steps in which the rate halves, above 0.
      warmup_steps: steps of linear warmup to the peak; by default 0, none at all.
      warmup_start: rate at count 0 as a fraction of the peak; by default 0.1.

    Returns:
      The schedule, a callable from count to rate.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> schedule = exponential(peak=1.0, half_life=100)
      >>> [float(schedule(count)) for count in (0, 100, 200, 10**9)]
      [1.0, 0.5, 0.25, 0.0]
    """
    _pieces.require_rate(peak=peak)
    _pieces.require_positive(half_life=half_life)
    return _pieces.warm_up(
        lambda t: peak * 0.5 ** (t / half_life), warmup_steps, warmup_start
    )


def cyclic(
    *,
    peak: float,
    period: int,
    growth: int = 1,
    shape: Shape = "cosine",
    final_fraction: float = 0.0,
    warmup_steps: int = 0,
    warmup_start: float = 0.1,
) -> optax.Schedule:
    """Returns a schedule that goes down from `peak` again and again (warm restarts).

    Cycle i = 0, 1, ... has `period * growth^i` steps, and with x the part of it that is
    over and f = final_fraction the rate is `peak * (f + (1 - f) * s(x))`. The first
    cycle starts at count `warmup_steps`, without another warmup at later ones.

    Args:
      peak: the rate at the start of every cycle.
      period: the steps of the first cycle, at least 1.
      growth: how many times longer than the one before each cycle is, an integer, at
        least 1; by default 1.
      shape: a shape s of `SHAPES`, as for `cooldown`; by default "cosine".
      final_fraction: the rate that a cycle leads to as a fraction of the peak, in
        [0, 1]; by default 0.
      warmup_steps: steps of linear warmup to the peak; by default 0, none at all.
      warmup_start: rate at count 0 as a fraction of the peak; by default 0.1.

    Returns:
      The schedule, a callable from count to rate.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> schedule = cyclic(peak=1.0, period=10, growth=2)
      >>> [round(float(schedule(count)), 3) for count in (0, 5, 10, 20, 30)]
      [1.0, 0.5, 1.0, 0.5, 1.0]

    Source: Loshchilov and Hutter, "SGDR", 2017, arXiv 1608.03983, equation 5.
    """
    trunk = constant(peak=peak, warmup_steps=warmup_steps, warmup_start=warmup_start)
    _pieces.require_steps(period=period, growth=growth)
    _pieces.require_positive(period=period, growth=growth)
    decay = multiplier(shape, final_fraction)
    starts, lengths = [0], [period]
    while growth > 1 and starts[-1] + lengths[-1] < 2**31:
        starts.append(starts[-1] + lengths[-1])
        lengths.append(lengths[-1] * growth)
    # The last of growing cycles has no end that a count in int32 could reach.
    pieces = np.array([starts, np.minimum(lengths, 2**31 - 1)])

    def schedule(count: ArrayLike) -> jax.Array:
        t = _pieces.elapsed(count, warmup_steps)
        index = _pieces.passed(t, starts) - 1
        xp = jnp if isinstance(index, jax.Array) else np
        start, length = xp.asarray(pieces)[:, index]
        past = (t - start) % length
        return trunk(count) * decay(_pieces.as_float(past) / _pieces.as_float(length))

    return schedule


def _power(factor: float, drops: ArrayLike) -> jax.Array:
    """Returns factor^drops, with a derivative by the factor only."""
    # An integer power has no NaN in its derivative where the factor is 0.
    number = jax.lax.stop_gradient(drops).clip(None, 2**30).astype(int)
    return _pieces.as_float(factor) ** number
