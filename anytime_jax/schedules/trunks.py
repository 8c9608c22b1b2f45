"""Trunks: schedules with no horizon in their arguments, so a run can always go on."""

import jax
import jax.numpy as jnp
import optax

from anytime_jax.schedules import _pieces
from anytime_jax.schedules.cooldowns import Shape, cooldown

__all__ = ["constant", "infinite", "inverse_sqrt", "power_decay", "power_scheduler"]


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
    `stable + (peak - stable) * s(t / cooldown_steps)`, then `stable` for good. These
    are the warmup, the cooldown and the constant phase of the published schedule. Its
    fourth, the exponential annealing to ship a model, is an exit: a `cooldown` of this
    trunk with the shape "exponential", from any count and as often as one likes.

    Args:
      peak: the rate at count `warmup_steps`, above 0.
      stable: the rate from count `warmup_steps + cooldown_steps` on, in [0, peak].
      cooldown_steps: steps from the peak to `stable`; 0 jumps.
      shape: a shape s of `SHAPES`, as for `cooldown`; by default "cosine". Published
        are also "linear" and "inverse_sqrt", whose scale one paper does not state and
        the other's code sets to 10; "exponential" multiplies by
        (stable / peak)^(t / cooldown_steps) and needs `stable` above 0.
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
      >>> annealing = cooldown(schedule, start=300, steps=50, shape="exponential")
      >>> [round(float(annealing(count)), 3) for count in (300, 350)]
      [0.25, 0.025]

    Source: Ibrahim et al., "Simple and Scalable Strategies to Continually Pre-train
    Large Language Models", 2024, arXiv 2403.08763; Singh et al., 2025, arXiv
    2503.02844, with `linear`. A report that the exponent of the annealing is
    (n - N_d) / (t_a + N_d) would have it never reach its end; here it does.
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


def power_scheduler(
    *,
    tokens_per_step: int,
    cap: float = 0.02,
    coefficient: float = 4.0,
    exponent: float = 0.51,
    sequence_length: float = 4096,
    warmup_steps: int = 0,
    warmup_start: float = 0.1,
) -> optax.Schedule:
    """Returns a schedule that falls with a power of the tokens seen, below a cap.

    With n = count * tokens_per_step the tokens seen before an update and
    b = tokens_per_step / sequence_length the batch in sequences, the rate is
    `min(cap, b * coefficient * n^-exponent)`. The tokens of the warmup count: it goes
    up to the rate at count `warmup_steps`. The decay that ends the published schedule,
    exponential over the last tenth, is an exit: a `cooldown` of this trunk.

    Args:
      tokens_per_step: batch size in tokens, above 0.
      cap: the largest rate, above 0; by default 0.02, which is in units of the maximal
        update parametrisation and too large for others.
      coefficient: a in the paper, above 0; by default 4, good from 3 to 5.
      exponent: -b in the paper, above 0; by default 0.51.
      sequence_length: tokens of the sequences in which the law counts a batch, above 0;
        by default the paper's 4096, whatever the length of those of this run.
      warmup_steps: steps of linear warmup; by default 0, none at all. The paper has 1e9
        tokens of it.
      warmup_start: rate at count 0 as a fraction of that at `warmup_steps`; by default
        0.1.

    Returns:
      The schedule, a callable from count to rate.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> schedule = power_scheduler(tokens_per_step=1024 * 4096)
      >>> [f"{schedule(count):.5f}" for count in (0, 6_000, 24_000, 240_000)]
      ['0.02000', '0.02000', '0.01002', '0.00310']

    Source: Shen et al., "Power Scheduler", 2024, arXiv 2408.13359.
    """
    _pieces.require_positive(
        tokens_per_step=tokens_per_step,
        cap=cap,
        coefficient=coefficient,
        exponent=exponent,
        sequence_length=sequence_length,
    )
    batch = tokens_per_step / sequence_length
    # The power law meets the cap here. In these units there is no 0^-exponent at the
    # first count, and no product of tokens to overflow.
    corner = (batch * coefficient / cap) ** (1 / exponent) / tokens_per_step

    def body(t: jax.Array) -> jax.Array:
        steps = t + warmup_steps
        falls = steps >= corner
        return cap * jnp.where(falls, steps / corner, 1) ** -exponent

    return _pieces.warm_up(body, warmup_steps, warmup_start)
