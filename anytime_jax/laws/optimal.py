"""The schedule that a law puts the lowest loss on."""

import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize

from anytime_jax import schedules
from anytime_jax.averaging import weights
from anytime_jax.laws.functional_scaling import FunctionalScalingLaw
from anytime_jax.laws.law import Law
from anytime_jax.laws.multi_power import MultiPowerLaw
from anytime_jax.laws.reductions import Reductions

# Knots of the schedule that is looked for, as fractions of the run after the warmup
# that are left; between them it is linear. The search sees so many blocks of steps
# between two knots.
_LEFT = np.concatenate([[1.0, 0.6], np.geomspace(0.4, 3e-4, 26), [0.0]])
_BLOCKS = 16
_SMALLEST = 1e-30
# Of the default fit and of the converged one, see experiments/multi_power_law.
_TIMES = {MultiPowerLaw: "1.2 to 1.6", FunctionalScalingLaw: "1.0 to 1.7"}


@dataclasses.dataclass(frozen=True, eq=False)
class OptimalSchedule:
    """The schedule of least predicted final loss.

    Attributes:
      schedule: from count to rate, a table.
      rates: the table, float64 [steps].
      loss: predicted for its last step.
      gains: how much lower that is than what is predicted for `cosine` to the floor,
        `linear` to the floor, and the best `wsd`, a constant rate with a linear
        cooldown to the floor.
      caution: which gains are below the law's error, and that the others may be
        overstated.
    """

    schedule: optax.Schedule
    rates: np.ndarray
    loss: float
    gains: Mapping[str, float]
    caution: str


def optimal_schedule(
    law: Law,
    peak: float,
    steps: int,
    floor: float = 0.0,
    *,
    warmup_steps: int = 0,
    warmup_start: float = 0.0,
    law_error: float | None = None,
) -> OptimalSchedule:
    """Returns the schedule that never rises and has the least predicted final loss.

    It is linear between 29 knots that come closer towards the end; their values are
    found by a truncated Newton method.

    Args:
      law: a `MultiPowerLaw` or a `FunctionalScalingLaw`. Of the others the best is one
        fall to the floor, at a moment that their accuracy does not give.
      peak: the rate after the warmup, where the curves of the law have theirs.
      steps: of the run, warmup included.
      floor: the least rate allowed, in [0, peak).
      warmup_steps: of a linear warmup.
      warmup_start: the fraction of the peak that it starts from, in [0, 1].
      law_error: how far off the law's final losses are, in nats. A smaller gain is
        not to be relied on. By default the largest that `hold_out` found; of a law
        without, the largest on its own curves, and the caution says so: on others,
        it may be 2 to 9 times that.

    Returns:
      An `OptimalSchedule`.

    Raises:
      ValueError: an argument is out of range, or the law is another one.

    Example:
      >>> law = MultiPowerLaw(3.0, 0.5, 0.5, 400.0, 1.0, 0.5, 0.5)
      >>> best = optimal_schedule(law, peak=3e-4, steps=2000, law_error=0.01)
      >>> {name: gain > 0 for name, gain in best.gains.items()}
      {'cosine': True, 'linear': True, 'wsd': True}

    Source: the question is that of Luo et al., 2025, arXiv 2503.12811.
    """
    if not isinstance(law, MultiPowerLaw | FunctionalScalingLaw):
        raise ValueError(
            f"law={type(law).__name__} must be a MultiPowerLaw or a "
            "FunctionalScalingLaw: of the others the best schedule is one sudden fall"
        )
    run = dict(warmup_steps=warmup_steps, warmup_start=warmup_start)
    _check(peak, steps, floor, **run)
    if law_error is not None and not 0 <= law_error < math.inf:
        raise ValueError(f"law_error={law_error!r} must be a finite number >= 0")
    ramp_W = _ramp(peak, warmup_steps, warmup_start)
    body_T = _search(law, float(peak), steps - warmup_steps, float(floor), ramp_W)
    rates_T = np.append(ramp_W, body_T)
    loss = float(law.predict(rates_T, steps - 1))
    others = usual_schedules(law, peak, steps, floor, **run)
    losses = final_losses(law, list(others.values()), steps)
    gains = dict(zip(others, (losses - loss).tolist(), strict=True))
    return OptimalSchedule(
        schedules.from_values(values=rates_T),
        rates_T,
        loss,
        gains,
        _caution(law, gains, law_error),
    )


def final_losses(
    law: Law, candidates: Sequence[schedules.Rates], steps: int
) -> np.ndarray:
    """Returns the predicted final loss of each of several schedules.

    Args:
      law: any.
      candidates: schedules, or rates [steps] of each.
      steps: of the run.

    Returns:
      float64 [candidates].

    Raises:
      ValueError: an argument is out of range, or the law does not cover a schedule.

    Example:
      >>> law = MultiPowerLaw(3.0, 0.5, 0.5, 400.0, 1.0, 0.5, 0.5)
      >>> final_losses(law, [3e-4, 2e-4], steps=10_000).round(4)
      array([3.2887, 3.3536])
    """
    weights.require_count("steps", steps, least=1)

    def final_loss(rates: schedules.Rates) -> float:
        return float(law.predict(schedules.rates(rates, steps), steps - 1))

    # NumPy lets go of the interpreter while it computes.
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.array(list(pool.map(final_loss, candidates)))


def _search(
    law: Law, peak: float, steps: int, floor: float, ramp_W: np.ndarray
) -> np.ndarray:
    """The rates after the warmup, [steps]."""
    knots_N = (1 - _LEFT) * (steps - 1)
    # Between which knots a step is, and how far from the first to the second.
    where_T = np.interp(np.arange(steps), knots_N, np.arange(len(knots_N)))
    before_T = np.minimum(where_T.astype(int), len(knots_N) - 2)
    past_T = where_T - before_T
    maps = _maps(knots_N, before_T, past_T)
    with jax.enable_x64(True):
        data = jax.device_put((law.parameters, peak, floor, float(ramp_W.sum()), maps))

        def objective(x_N: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope_N = _final_loss(x_N, *data, law=type(law))
            return 1e3 * float(value), 1e3 * np.array(slope_N)

        # The share of what is left above the floor that is kept from knot to knot.
        start_N = np.where(_LEFT[1:] < 0.2, 2.0, 8.0)
        found = scipy.optimize.minimize(
            objective,
            start_N,
            jac=True,
            # L-BFGS-B comes to the same; its small calls of LAPACK take ten times as
            # long where other processes want the cores that BLAS's threads are on.
            method="TNC",
            bounds=[(-8, 16)] * len(start_N),
            options=dict(maxfun=2000, ftol=1e-8),
        )
    values_N = _values(found.x, peak, floor, np)
    body_T = values_N[before_T] + past_T * np.diff(values_N)[before_T]
    return np.minimum.accumulate(np.clip(body_T, floor, peak))


def _maps(
    knots_N: np.ndarray, before_T: np.ndarray, past_T: np.ndarray
) -> tuple[np.ndarray, ...]:
    """What a law needs of the steps, as sums over the knots.

    The steps between two knots make `_BLOCKS` blocks whose falls are taken as one, at
    their mean place. That moves a loss by about 1e-6, makes the search as fast for any
    count of steps, and lets all runs share one compilation.

    Returns:
      To the falls, the rates after them and the sums before them, [K, N] each, and to
      the sum at the last step, [N].
    """
    count = len(knots_N)
    ends_B = np.interp(
        np.arange((count - 1) * _BLOCKS + 1) / _BLOCKS, range(count), knots_N
    )
    ends_B = np.round(ends_B).astype(int)
    block_T = np.searchsorted(ends_B, np.arange(len(before_T)))
    rates_BxN = np.zeros((len(ends_B), count))
    sums_BxN = np.zeros_like(rates_BxN)
    for knot_T, share_T in ((before_T, 1 - past_T), (before_T + 1, past_T)):
        rates_BxN[np.arange(len(ends_B)), knot_T[ends_B]] += share_T[ends_B]
        np.add.at(sums_BxN, (block_T, knot_T), share_T)
    # A block of a short run may have no steps, and nothing falls in it.
    steps_Kx1 = np.maximum(np.diff(ends_B), 1)[:, None]
    means_KxN = sums_BxN[1:] / steps_Kx1
    sums_BxN = sums_BxN.cumsum(axis=0)
    before_KxN = sums_BxN[:-1] + (steps_Kx1 - 1) / 2 * means_KxN
    return rates_BxN[:-1] - rates_BxN[1:], means_KxN, before_KxN, sums_BxN[-1]


def _values(x_N, peak, floor, xp):
    """The rates at the knots, from the logits of the share that is kept at each."""
    # A product with a triangle compiles sooner than a cumulative one.
    kept_N = xp.exp(-np.tri(len(_LEFT) - 1) @ xp.log1p(xp.exp(-x_N)))
    return floor + (peak - floor) * xp.concatenate([xp.ones(1), kept_N])


@functools.partial(jax.jit, static_argnames="law")
@functools.partial(jax.value_and_grad, argnums=0)
def _final_loss(x_N, parameters, peak, floor, past, maps, *, law):
    values_N = _values(x_N, peak, floor, jnp)
    drops_K, rates_K, before_K, last = (one @ values_N for one in maps)
    features = Reductions(
        past + last[None],
        drops_K,
        jnp.log(jnp.maximum(rates_K, _SMALLEST)),
        past + before_K,
    )
    return law.formula(jnp, parameters, features)[0]


def usual_schedules(
    law: Law,
    peak: float,
    steps: int,
    floor: float = 0.0,
    *,
    warmup_steps: int = 0,
    warmup_start: float = 0.0,
) -> dict[str, np.ndarray]:
    """Returns the rates of what `optimal_schedule` compares its schedule with.

    Args:
      law: says which cooldown of `wsd` is the best.
      peak: the rate after the warmup.
      steps: of the run, warmup included.
      floor: the last rate.
      warmup_steps: of a linear warmup.
      warmup_start: the fraction of the peak that it starts from.

    Returns:
      float64 [steps] each: `cosine`, `linear` and, where one of its cooldowns has a
      step and leaves the warmup as it is, `wsd`.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> law = MultiPowerLaw(3.0, 0.5, 0.5, 400.0, 1.0, 0.5, 0.5)
      >>> found = usual_schedules(law, peak=3e-4, steps=1000)
      >>> {name: float(rates[500].round(5)) for name, rates in found.items()}
      {'cosine': 0.00015, 'linear': 0.00015, 'wsd': 0.0003}
    """
    _check(peak, steps, floor, warmup_steps, warmup_start)
    ramp_W = _ramp(peak, warmup_steps, warmup_start)
    # Those of `schedules.cosine` and `schedules.linear`, without what JAX needs to
    # compile them.
    done_T = np.arange(steps - warmup_steps) / (steps - warmup_steps)
    found = {
        name: np.append(ramp_W, floor + (peak - floor) * share_T)
        for name, share_T in (
            ("cosine", (1 + np.cos(np.pi * done_T)) / 2),
            ("linear", 1 - done_T),
        )
    }
    table_T = np.append(ramp_W, np.full(steps - warmup_steps, peak))
    cooled = []
    for percent in (5, 10, 15, 20, 30, 40):
        length = steps * percent // 100
        if 0 < length <= steps - warmup_steps:
            wsd_T = table_T.copy()
            wsd_T[-length:] += (floor - peak) * np.arange(length) / length
            cooled.append(wsd_T)
    if cooled:
        found["wsd"] = cooled[int(np.argmin(final_losses(law, cooled, steps)))]
    return found


def _check(
    peak: float, steps: int, floor: float, warmup_steps: int, warmup_start: float
) -> None:
    """Refuses a run whose arguments are out of range."""
    weights.require_count("steps", steps, least=2)
    weights.require_count("warmup_steps", warmup_steps, least=0)
    if warmup_steps > steps - 2:
        raise ValueError(
            f"warmup_steps={warmup_steps} must be at most steps - 2 = {steps - 2}"
        )
    if not 0 < peak < math.inf:
        raise ValueError(f"peak={peak!r} must be a finite number > 0")
    if not 0 <= floor < peak:
        raise ValueError(f"floor={floor!r} must be in [0, peak={peak!r})")
    if not 0 <= warmup_start <= 1:
        raise ValueError(f"warmup_start={warmup_start!r} must be in [0, 1]")


def _ramp(peak: float, warmup_steps: int, warmup_start: float) -> np.ndarray:
    """The rates of the warmup."""
    climbed_W = np.arange(warmup_steps) / max(warmup_steps, 1)
    return peak * (warmup_start + (1 - warmup_start) * climbed_W)


def _caution(law: Law, gains: Mapping[str, float], error: float | None) -> str:
    record, found = law.fitted, []
    if error is not None:
        whose = "law_error"
    elif record is None:
        return "how far off the law's final losses are is not known: give law_error"
    elif record.held_out_error is not None:
        error, whose = record.held_out_error, "the law's error on a curve left out"
    else:
        error, whose = record.final_error, "the law's error on its own curves"
        found.append("its error on other curves is not known, see hold_out")
    small = [name for name, gain in gains.items() if gain < error]
    others = [name for name in gains if name not in small]
    if others:
        found.insert(
            0,
            f"the gain over {', '.join(others)} may be overstated: on published curves "
            f"fits of this law put that of WSD over a cosine at {_TIMES[type(law)]} "
            "times what was measured",
        )
    if small:
        found.insert(
            0, f"the gain over {', '.join(small)} is below {whose}, {error:.4f} nats"
        )
    return "; ".join(found)
