"""Trunks: schedules with no horizon in their arguments, so a run can always go on."""

import jax.numpy as jnp
import optax

from anytime_jax.schedules import _pieces
from anytime_jax.schedules.cooldowns import Shape, cooldown

__all__ = ["constant", "infinite", "inverse_sqrt", "power_decay"]


def constant(
    *, peak: float, warmup_steps: int = 0, warmup_start: float = 0.1
) -> optax.Schedule:
    """Returns a schedule that warms up to `peak` and stays there.

    Args:
      peak: the rate from count `warmup_steps` on.
      warmup_steps: steps of linear warmup to the peak; by default 0, none at all.
      warmup_start: rate at count 0 as a fraction of the peak; by default 0.1.

    Returns:
      The schedule, a callable from count to rate.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> schedule = constant(peak=0.5, warmup_steps=100, warmup_start=0.0)
      >>> [float(schedule(count)) for count in (0, 50, 100, 10**9)]
      [0.0, 0.25, 0.5, 0.5]
    """
    _pieces.require_rate(peak=peak)
    return _pieces.warm_up(lambda t: jnp.full_like(t, peak), warmup_steps, warmup_start)


def inverse_sqrt(
    *, peak: float, offset: float, warmup_steps: int = 0, warmup_start: float = 0.1
) -> optax.Schedule:
    """Returns a schedule that falls with the square root of time.

    With t = count - warmup_steps the rate is `peak * sqrt(offset / (t + offset))`: near
    the peak for t well below `offset`, and like 1 / sqrt(t) well above it.

    Args:
      peak: the rate at count `warmup_steps`.
      offset: the time scale of the decay in steps, above 0; at t = 3 `offset` the rate
        is half the peak. The paper's best is 51200, 4.1 times its shortest horizon.
      warmup_steps: steps of linear warmup to the peak; by default 0, none at all.
      warmup_start: rate at count 0 as a fraction of the peak; by default 0.1.

    Returns:
      The schedule, a callable from count to rate.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> schedule = inverse_sqrt(peak=3e-3, offset=51_200, warmup_steps=5_000)
      >>> [f"{schedule(count):.5f}" for count in (0, 5_000, 100_000, 400_000)]
      ['0.00030', '0.00300', '0.00178', '0.00102']

    Source: Meterez, Nair, Morwani, Pehlevan and Kakade, "Anytime Pretraining", 2026,
    arXiv 2602.03702, as in the authors' code.
    """
    return power_decay(
        peak=peak,
        exponent=0.5,
        offset=offset,
        warmup_steps=warmup_steps,
        warmup_start=warmup_start,
    )


def power_decay(
    *,
    peak: float,
    exponent: float,
    offset: float,
    warmup_steps: int = 0,
    warmup_start: float = 0.1,
) -> optax.Schedule:
    """Returns a schedule that falls with a power of time.

    With t = count - warmup_steps the rate is `peak * (offset / (t + offset))^exponent`.

    Args:
      peak: the rate at count `warmup_steps`.
      exponent: the power, at least 0; 0 is a constant and 0.5 is `inverse_sqrt`.
      offset: the time scale of the decay in steps, above 0.
      warmup_steps: steps of linear warmup to the peak; by default 0, none at all.
      warmup_start: rate at count 0 as a fraction of the peak; by default 0.1.

    Returns:
      The schedule, a callable from count to rate.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> schedule = power_decay(peak=0.5, exponent=1.0, offset=1_000)
      >>> [float(schedule(count)) for count in (0, 1_000, 3_000)]
      [0.5, 0.25, 0.125]

    Source: Meterez et al., "Anytime Pretraining", 2026, arXiv 2602.03702; its theory
    puts the best exponent for a spectrum i^-a and a source exponent b at
    max(1 - a / b, 0).
    """
    _pieces.require_rate(peak=peak, exponent=exponent)
    _pieces.require_positive(offset=offset)
    return _pieces.warm_up(
        lambda t: peak * (offset / (t + offset)) ** exponent,
        warmup_steps,
        warmup_start,
    )


def infinite(
    *,
    peak: float,
    stable: float,
    cooldown_steps: int,
    shape: Shape = "cosine",
    warmup_steps: int = 0,
    warmup_start: float = 0.1,
) -> optax.Schedule:
    """Returns a schedule that cools down from `peak` to `stable` and stays there.

    With t = count - warmup_steps the rate is
    `stable + (peak - stable) * s(t / cooldown_steps)`, then `stable` for good. The
    annealing that ends the published schedule is an exit: a `cooldown` of this trunk.

    Args:
      peak: the rate at count `warmup_steps`, above 0.
      stable: the rate from count `warmup_steps + cooldown_steps` on, in [0, peak].
      cooldown_steps: steps from the peak to `stable`; 0 jumps.
      shape: a shape s of `SHAPES`, as for `cooldown`; by default "cosine".
      warmup_steps: steps of linear warmup to the peak; by default 0, none at all.
      warmup_start: rate at count 0 as a fraction of the peak; by default 0.1.

    Returns:
      The schedule, a callable from count to rate.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> schedule = infinite(peak=0.5, stable=0.25, cooldown_steps=100)
      >>> [round(float(schedule(count)), 3) for count in (0, 50, 100, 10**9)]
      [0.5, 0.375, 0.25, 0.25]

    Source: Ibrahim et al., "Simple and Scalable Strategies to Continually Pre-train
    Large Language Models", 2024, arXiv 2403.08763, phases 1 to 3.
    """
    _pieces.require_positive(peak=peak)
    _pieces.require_rate(stable=stable)
    _pieces.require_order(stable=stable, peak=peak)
    _pieces.require_steps(cooldown_steps=cooldown_steps)
    return cooldown(
        constant(peak=peak, warmup_steps=warmup_steps, warmup_start=warmup_start),
        start=warmup_steps,
        steps=cooldown_steps,
        shape=shape,
        final_fraction=stable / peak,
    )
