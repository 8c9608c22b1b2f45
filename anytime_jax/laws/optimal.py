"""The schedule, and the peak, that a law puts the lowest loss on."""

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
from anytime_jax.laws.annealing import AnnealingLaw
from anytime_jax.laws.forward_momentum import ForwardMomentumLaw
from anytime_jax.laws.functional_scaling import FunctionalScalingLaw
from anytime_jax.laws.law import Law
from anytime_jax.laws.multi_power import MultiPowerLaw
from anytime_jax.laws.reductions import Reductions
from anytime_jax.laws.simple import SimpleLaw

# Knots of the schedule that is looked for, as fractions of the run after the warmup
# that are left; between them it is linear.
_LEFT = np.concatenate([[1.0, 0.6], np.geomspace(0.4, 3e-4, 26), [0.0]])
_SMALLEST = 1e-30


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
      caution: why the gain should not be relied on; empty if nothing is known.
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
    found by L-BFGS-B.

    Args:
      law: a `MultiPowerLaw` or a `FunctionalScalingLaw`. Of the others the best is one
        fall to the floor, at a moment that their accuracy does not give.
      peak: the rate after the warmup, where the curves of the law have theirs.
      steps: of the run, warmup included.
      floor: the least rate allowed, in [0, peak).
      warmup_steps: of a linear warmup.
      warmup_start: the fraction of the peak that it starts from, in [0, 1].
      law_error: how far off the law's final losses are, in nats. A smaller gain is
        not to be relied on. By default the largest of the curves that it was fitted
        to; on the published others, laws without ridge are off by 2 to 9 times that.

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
    run = dict(warmup_steps=warmup_steps, warmup_start=warmup_start)
    if not 0 <= warmup_start <= 1:
        raise ValueError(f"warmup_start={warmup_start!r} must be in [0, 1]")
    if law_error is not None and not 0 <= law_error < math.inf:
        raise ValueError(f"law_error={law_error!r} must be a finite number >= 0")
    climbed_W = np.arange(warmup_steps) / max(warmup_steps, 1)
    ramp_W = peak * (warmup_start + (1 - warmup_start) * climbed_W)
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


def best_peak(
    law: Law,
    schedule: schedules.Rates,
    steps: int,
    *,
    between: tuple[float, float] = (0.1, 10.0),
) -> float:
    """Returns the multiple of a schedule that has the least predicted final loss.

    Most laws are fitted at one peak and know of nothing that a larger one does harm:
    every multiple beyond the last lowers their prediction. Then there is no answer,
    and this says so.

    Args:
      law: any.
      schedule: a schedule, or rates [steps].
      steps: of the run.
      between: the least and the largest multiple that may be the best.

    Returns:
      The multiple; if the schedule's peak is 1, the best peak.

    Raises:
      ValueError: the law does not cover the peak: its prediction falls up to an end of
        `between`.
    """
    low, high = between
    if not 0 < low < high < math.inf:
        raise ValueError(f"between={between!r} must be two ascending numbers above 0")
    if isinstance(law, AnnealingLaw | SimpleLaw | ForwardMomentumLaw):
        raise ValueError(
            f"law={type(law).__name__} does not cover the peak: the larger the "
            "schedule, the lower its prediction, without end"
        )
    rates_T = schedules.rates(schedule, steps)

    def loss(log_multiple: float) -> float:
        return float(law.predict(math.exp(log_multiple) * rates_T, steps - 1))

    grid = np.linspace(math.log(low), math.log(high), 25)
    losses = [loss(x) for x in grid]
    best = int(np.argmin(losses))
    if best in (0, len(grid) - 1):
        raise ValueError(
            f"law={type(law).__name__} does not cover the peak: its prediction falls "
            f"up to the multiple {math.exp(grid[best]):.4g} at the end of "
            f"between={between}"
        )
    found = scipy.optimize.minimize_scalar(
        loss, bounds=(grid[best - 1], grid[best + 1]), method="bounded"
    )
    return math.exp(found.x)


def _search(
    law: Law, peak: float, steps: int, floor: float, ramp_W: np.ndarray
) -> np.ndarray:
    """The rates after the warmup, [steps]."""
    knots_N = (1 - _LEFT) * (steps - 1)
    past = float(ramp_W.sum())
    # Between which knots a step is, and how far from the first to the second.
    where_T = np.interp(np.arange(steps), knots_N, np.arange(len(knots_N)))
    before_T = np.minimum(where_T.astype(int), len(knots_N) - 2)
    place_2xT = before_T, where_T - before_T
    with jax.enable_x64(True):
        data = jax.device_put((law.parameters, peak, floor, past, place_2xT))

        def objective(x_N: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope_N = _final_loss(x_N, *data, law=type(law))
            return 1e3 * float(value), 1e3 * np.array(slope_N)

        # The share of what is left above the floor that is kept from knot to knot.
        start_N = np.where(_LEFT[1:] < 0.2, 2.0, 8.0)
        found = scipy.optimize.minimize(
            objective,
            start_N,
            jac=True,
            method="L-BFGS-B",
            bounds=[(-8, 16)] * len(start_N),
            options=dict(maxiter=200, ftol=1e-9, gtol=1e-6),
        )
        body_T = np.array(_body(found.x, peak, floor, place_2xT, np))
    return np.minimum.accumulate(np.clip(body_T, floor, peak))


def _body(x_N, peak, floor, place_2xT, xp):
    """Rates from the logits of the share that is kept at every knot."""
    kept_N = xp.cumprod(1 / (1 + xp.exp(-x_N)))
    values_N = floor + (peak - floor) * xp.concatenate([xp.ones(1), kept_N])
    before_T, past_T = place_2xT
    return values_N[before_T] + past_T * xp.diff(values_N)[before_T]


@functools.partial(jax.jit, static_argnames="law")
@functools.partial(jax.value_and_grad, argnums=0)
def _final_loss(x_N, parameters, peak, floor, past, place_2xT, *, law):
    rates_T = _body(x_N, peak, floor, place_2xT, jnp)
    sums_T = past + jnp.cumsum(rates_T)
    features = _features(rates_T, sums_T)
    return law.formula(jnp, parameters, features)[0]


def _features(rates_T, sums_T):
    """Those of `reductions` at the last step, with every step's fall."""
    return Reductions(
        sums_T[-1:],
        rates_T[:-1] - rates_T[1:],
        jnp.log(jnp.maximum(rates_T[1:], _SMALLEST)),
        sums_T[:-1],
    )


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

    Example:
      >>> law = MultiPowerLaw(3.0, 0.5, 0.5, 400.0, 1.0, 0.5, 0.5)
      >>> found = usual_schedules(law, peak=3e-4, steps=1000)
      >>> {name: float(rates[500].round(5)) for name, rates in found.items()}
      {'cosine': 0.00015, 'linear': 0.00015, 'wsd': 0.0003}
    """
    run = dict(warmup_steps=warmup_steps, warmup_start=warmup_start)
    made = dict(peak=peak, total_steps=steps, final_fraction=floor / peak, **run)
    found = {
        "cosine": schedules.rates(schedules.cosine(**made), steps),
        "linear": schedules.rates(schedules.linear(**made), steps),
    }
    table_T = schedules.rates(schedules.constant(peak=peak, **run), steps)
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


def _caution(law: Law, gains: Mapping[str, float], error: float | None) -> str:
    if error is None and law.fitted is None:
        return "how far off the law's final losses are is not known: give law_error"
    error = law.fitted.final_error if error is None else error
    small = [name for name, gain in gains.items() if gain < error]
    if not small:
        return ""
    return (
        f"the gain over {', '.join(small)} is below the law's own error in final "
        f"losses, {error:.4f} nats"
    )
