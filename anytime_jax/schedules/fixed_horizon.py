"""Schedules with a horizon: what horizon-free runs are measured against."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from anytime_jax.schedules import _pieces
from anytime_jax.schedules.cooldowns import Shape, cooldown, multiplier
from anytime_jax.schedules.trunks import constant, inverse_sqrt

__all__ = ["cosine", "linear", "wsd", "wsd_simplified", "wsqd"]


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
    trunk = constant(peak=peak, warmup_steps=warmup_steps, warmup_start=warmup_start)
    return _cooled_at_the_end(
        trunk, total_steps, cooldown_fraction, shape, final_fraction, warmup_steps
    )


def wsqd(
    *,
    peak: float,
    offset: float,
    total_steps: int,
    cooldown_fraction: float,
    shape: Shape = "linear",
    final_fraction: float = 0.0,
    warmup_steps: int = 0,
    warmup_start: float = 0.1,
) -> optax.Schedule:
    """Returns a warmup-square-root-decay schedule: `inverse_sqrt`, then a cooldown.

    It is `inverse_sqrt` with a `cooldown`, from the rate reached there, over the last
    `round(cooldown_fraction * total_steps)` steps.

    Args:
      peak: the rate at count `warmup_steps`.
      offset: the time scale of the 1 / sqrt(t) phase in steps, above 0. The paper's
        rate of update t = 1, 2, ... is c / sqrt(t + T0) with T0 the length of the pilot
        runs, which is `offset=T0 + 1`.
      total_steps: the length of the run, warmup and cooldown included.
      cooldown_fraction: the cooldown's share of `total_steps`, in [0, 1]. The paper's
        is not known to us. With 0 the rate jumps at `total_steps`.
      shape: a shape of `SHAPES`, as for `cooldown`; by default "linear".
      final_fraction: the final rate as a fraction of that at the start of the cooldown,
        in [0, 1]; by default 0.
      warmup_steps: steps of linear warmup to the peak; by default 0, none at all.
      warmup_start: rate at count 0 as a fraction of the peak; by default 0.1.

    Returns:
      The schedule, a callable from count to rate.

    Raises:
      ValueError: an argument is out of range, or warmup and cooldown overlap.

    Example:
      >>> schedule = wsqd(peak=1.0, offset=20, total_steps=100, cooldown_fraction=0.4)
      >>> [float(schedule(count)) for count in (0, 60, 80, 100, 10**9)]
      [1.0, 0.5, 0.25, 0.0, 0.0]

    Source: "WSqD", 2026, arXiv 2607.10959, after a secondary source, which does not say
    whether time counts from the end of the warmup; here it does.
    """
    trunk = inverse_sqrt(
        peak=peak, offset=offset, warmup_steps=warmup_steps, warmup_start=warmup_start
    )
    return _cooled_at_the_end(
        trunk, total_steps, cooldown_fraction, shape, final_fraction, warmup_steps
    )


def _cooled_at_the_end(
    trunk: optax.Schedule,
    total_steps: int,
    cooldown_fraction: float,
    shape: Shape,
    final_fraction: float,
    warmup_steps: int,
) -> optax.Schedule:
    """Returns the trunk with a cooldown over the last fraction of all steps."""
    _pieces.require_steps(warmup_steps=warmup_steps, total_steps=total_steps)
    _pieces.require_fraction(cooldown_fraction=cooldown_fraction)
    cooldown_steps = round(float(cooldown_fraction) * int(total_steps))
    if warmup_steps + cooldown_steps > total_steps:
        raise ValueError(
            f"warmup_steps={warmup_steps} and cooldown_fraction={cooldown_fraction} "
            f"must fit in total_steps={total_steps}"
        )
    return cooldown(
        trunk,
        start=total_steps - cooldown_steps,
        steps=cooldown_steps,
        shape=shape,
        final_fraction=final_fraction,
    )


def wsd_simplified(
    *,
    peak: float,
    ends: Sequence[int],
    cooldown_fraction: float = 0.1,
    shape: Shape = "linear",
    final_fraction: float = 0.1,
    warmup_steps: int = 0,
    warmup_start: float = 0.1,
) -> optax.Schedule:
    """Returns a schedule with a cooldown before each of several horizons (WSD-S).

    It is `constant`, except over the `round(cooldown_fraction * end)` steps before
    each end, where it cools down as `wsd(total_steps=end)` does. At an end it is back
    at the peak without another warmup, and after the last end it stays there: the run
    goes on from the cooled model. An end that is added later changes no rate before its
    own cooldown.

    Args:
      peak: the rate from count `warmup_steps` on, outside the cooldowns.
      ends: the horizons, ascending counts from the start of the run; after update
        number `end` the model is cooled.
      cooldown_fraction: a cooldown's share of the steps up to its end, in [0, 1]; by
        default 0.1. With 0 there is none.
      shape: a shape of `SHAPES`, as for `cooldown`; by default "linear".
      final_fraction: the rate that a cooldown leads to as a fraction of the peak, in
        [0, 1]; by default 0.1.
      warmup_steps: steps of linear warmup to the peak; by default 0, none at all.
      warmup_start: rate at count 0 as a fraction of the peak; by default 0.1.

    Returns:
      The schedule, a callable from count to rate.

    Raises:
      ValueError: an argument is out of range, or a cooldown starts before the warmup or
        the cooldown before it has ended.

    Example:
      >>> schedule = wsd_simplified(peak=1.0, ends=[100, 200], final_fraction=0.0)
      >>> [float(schedule(count)) for count in (0, 95, 100, 180, 190, 200, 10**9)]
      [1.0, 0.5, 1.0, 1.0, 0.5, 1.0, 1.0]

    Source: Wen et al., "Understanding Warmup-Stable-Decay Learning Rates", 2024, arXiv
    2410.05192. The paper's shape and share of the cooldowns are not known to us: the
    defaults are those of `wsd`.
    """
    trunk = constant(peak=peak, warmup_steps=warmup_steps, warmup_start=warmup_start)
    _pieces.require_ascending(ends=ends)
    _pieces.require_fraction(cooldown_fraction=cooldown_fraction)
    decay = multiplier(shape, final_fraction)
    lengths = [round(float(cooldown_fraction) * int(end)) for end in ends]
    starts = [end - length for end, length in zip(ends, lengths, strict=True)]
    for start, free in zip(starts, [warmup_steps, *ends], strict=False):
        if start < free:
            raise ValueError(
                f"cooldown_fraction={cooldown_fraction} starts a cooldown at {start}, "
                f"which must be at least {free}: warmup_steps={warmup_steps} and "
                f"ends={list(ends)}"
            )
    pieces = np.array([starts, lengths])

    def schedule(count: ArrayLike) -> jax.Array:
        index = _pieces.passed(count, ends).clip(None, len(ends) - 1)
        xp = jnp if isinstance(index, jax.Array) else np
        start, length = xp.asarray(pieces)[:, index]
        cools = (count >= start) & (count < start + length)
        past = _pieces.elapsed(count, start, length)
        # A cooldown of no steps never comes to use this.
        x = _pieces.as_float(past) / _pieces.as_float(xp.maximum(length, 1))
        return trunk(count) * jnp.where(cools, decay(x), 1)

    return schedule
