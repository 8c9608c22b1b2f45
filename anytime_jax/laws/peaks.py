"""The peak that a law puts the lowest loss on, where it knows of peaks."""

import math

import numpy as np
import scipy.optimize

from anytime_jax import schedules
from anytime_jax.laws.annealing import AnnealingLaw
from anytime_jax.laws.forward_momentum import ForwardMomentumLaw
from anytime_jax.laws.law import Law
from anytime_jax.laws.multi_power import MultiPowerLaw
from anytime_jax.laws.simple import SimpleLaw

_COVERED = (
    "needed is a MultiPowerLaw with warmup='paper' and gamma > 2, or a "
    "FunctionalScalingLaw with s > 1 and c3 near 0, fitted to curves of several peaks"
)


def best_peak(
    law: Law,
    schedule: schedules.Rates,
    steps: int,
    *,
    between: tuple[float, float] = (0.1, 10.0),
) -> float:
    """Returns the multiple of a schedule that has the least predicted final loss.

    Laws are fitted at one peak, and nearly all know of nothing that a larger one does
    harm: every multiple lowers their prediction. There is a least only under

    * a `MultiPowerLaw` with `warmup="paper"` and gamma > 2: falls from larger rates
      then pay off too late;
    * a `FunctionalScalingLaw` with s > 1 and c3 near 0: what falls bring then shrinks
      as the sum of the rates grows.

    Curves of one peak do not determine these parameters, so that the answer means
    something only for a law that was fitted to curves of several peaks, and between
    the least and the largest of them: give these as `between`. A law does not know the
    peaks of its curves.

    Args:
      law: one of the two.
      schedule: a schedule, or rates [steps].
      steps: of the run.
      between: the least and the largest multiple that may be the best: peaks of the
        curves, as multiples of that of the schedule.

    Returns:
      The multiple; if the schedule's peak is 1, the best peak.

    Raises:
      ValueError: the law does not cover the peak: it is another one, or its prediction
        falls up to an end of `between`; or another argument is out of range.

    Example:
      >>> law = MultiPowerLaw(2.0, 0.3, 0.4, 300.0, 1e-10, 0.5, gamma=4.0)
      >>> schedule = schedules.cosine(peak=3e-3, total_steps=400)
      >>> round(best_peak(law, schedule, steps=400), 1)
      1.5
    """
    low, high = _ends(between)
    if isinstance(law, AnnealingLaw | SimpleLaw | ForwardMomentumLaw):
        raise ValueError(
            f"law={type(law).__name__} does not cover the peak: the larger the "
            f"schedule, the lower its prediction, without end; {_COVERED}"
        )
    if isinstance(law, MultiPowerLaw) and law.warmup != "paper":
        raise ValueError(
            f"law.warmup={law.warmup!r} does not cover the peak: what it adds to the "
            f"loss for the rise to the peak is no effect of it; {_COVERED}"
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
            f"between={between}; {_COVERED}"
        )
    found = scipy.optimize.minimize_scalar(
        loss, bounds=(grid[best - 1], grid[best + 1]), method="bounded"
    )
    return math.exp(found.x)


def _ends(between: tuple[float, float]) -> tuple[float, float]:
    """The two, refused unless they ascend and are above 0."""
    try:
        low, high = (float(end) for end in between)
    except (TypeError, ValueError):
        low = high = 0.0
    if not 0 < low < high < math.inf:
        raise ValueError(f"between={between!r} must be two ascending numbers above 0")
    return low, high
