"""The last iterate's bound in convex optimisation, for any schedule.

For a convex loss with minimum at distance D from the first weights and gradients of
norm G_t, the last iterate of SGD with rates eta_t is within the bound Omega of the
minimum. It is no prediction of a loss, but the schedules that it ranks, the peaks that
it prefers and how these move with the horizon agree with those of language models.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.special

from anytime_jax.averaging import weights
from anytime_jax.theory import values


class Terms(NamedTuple):
    """The terms of the bound, which is their sum.

    Attributes:
      initial: `D^2 / (2 S_1)`: how far the weights must go.
      noise: `Q_1 / (2 S_1)`: with `initial`, the bound of the averaged iterate.
      last: what the last iterate has to pay above the average.
    """

    initial: float
    noise: float
    last: float


class BestPeak(NamedTuple):
    """The best multiple of a schedule, and what it reaches.

    Attributes:
      multiplier: of all rates of the schedule.
      bound: the bound of the multiplied schedule.
    """

    multiplier: float
    bound: float


def terms(
    schedule: values.Rates,
    steps: int,
    *,
    distance: float = 1.0,
    gradient_norms: float | Sequence[float] | np.ndarray = 1.0,
) -> Terms:
    """Returns the three terms of the last iterate's bound.

    With `S_k = sum_{t=k}^T eta_t` and `Q_k = sum_{t=k}^T eta_t^2 G_t^2`,

        Omega = D^2 / (2 S_1) + Q_1 / (2 S_1)
                + 1/2 sum_{k=1}^{T-1} (eta_k / S_{k+1}) (Q_k / S_k)

    bounds the loss at the weights that update T starts from. Among long schedules
    linear decay is the lowest but for the last few rates: the exact minimum is below it
    by 4 % at T = 40 and by 1 % at T = 160, and ends on a larger eta_T, which S_k
    rewards and the weights never feel.

    The authors' code holds a schedule as T + 1 rates of which the last is 0, uses the
    first T, and lets the first rate of a cooldown be below the peak. This package's
    `linear`, `cosine` and `wsd` with `final_fraction=0` and `total_steps=steps` give
    the same T rates, without the 0 at the end.

    Args:
      schedule: a schedule, a number or an array of rates; `values.rates`. Rates of 0 at
        the end are left out, for the weights do not move any more.
      steps: updates, T.
      distance: D, that of the first weights from the minimum; by default 1.
      gradient_norms: G_t, one for all updates or one for each; by default 1.

    Returns:
      `Terms`.

    Raises:
      ValueError: an argument is out of range, or all rates are 0.

    Example:
      >>> terms(0.5, 2)
      Terms(initial=0.5, noise=0.25, last=0.25)

    Source: Schaipp et al., "The Surprising Agreement Between Convex Optimization Theory
    and Learning-Rate Scheduling for Large Model Training", 2025, arXiv 2501.18965.
    """
    rates_T = values.rates(schedule, steps)
    norms_T = values.rates(gradient_norms, steps, "gradient_norms")
    values.require_positive("distance", distance)
    return _terms(rates_T, norms_T, distance)


def bound(
    schedule: values.Rates,
    steps: int,
    *,
    distance: float = 1.0,
    gradient_norms: float | Sequence[float] | np.ndarray = 1.0,
) -> float:
    """Returns the last iterate's bound: the sum of `terms`, which see.

    Args:
      schedule: a schedule, a number or an array of rates.
      steps: updates, T.
      distance: D; by default 1.
      gradient_norms: G_t, one for all updates or one for each; by default 1.

    Returns:
      Omega.

    Raises:
      ValueError: an argument is out of range, or all rates are 0.

    Example:
      >>> bound(0.5, 2)
      1.0
    """
    parts = terms(schedule, steps, distance=distance, gradient_norms=gradient_norms)
    return float(sum(parts))


def averaged_bound(
    schedule: values.Rates,
    steps: int,
    *,
    distance: float = 1.0,
    gradient_norms: float | Sequence[float] | np.ndarray = 1.0,
) -> float:
    """Returns the bound of the average of all iterates, weighted by their rates.

    `(D^2 + Q_1) / (2 S_1)`: it knows no cooldown, a constant rate is the best.

    Args:
      schedule: a schedule, a number or an array of rates.
      steps: updates, T.
      distance: D; by default 1.
      gradient_norms: G_t, one for all updates or one for each; by default 1.

    Returns:
      The bound.

    Raises:
      ValueError: an argument is out of range, or all rates are 0.

    Example:
      >>> averaged_bound(0.5, 2)
      0.75
    """
    parts = terms(schedule, steps, distance=distance, gradient_norms=gradient_norms)
    return parts.initial + parts.noise


def best_peak(
    schedule: values.Rates,
    steps: int,
    *,
    distance: float = 1.0,
    gradient_norms: float | Sequence[float] | np.ndarray = 1.0,
) -> BestPeak:
    """Returns the multiple of a schedule whose bound is the lowest.

    With the terms T_1, T_2, T_3, the bound of gamma times the schedule is
    `T_1 / gamma + gamma (T_2 + T_3)`; so `gamma* = sqrt(T_1 / (T_2 + T_3))` and
    `Omega* = 2 sqrt(T_1 (T_2 + T_3))`.

    Args:
      schedule: a schedule, a number or an array of rates. If its peak is 1, the
        multiplier is the best peak.
      steps: updates, T.
      distance: D, to which the multiplier is proportional; by default 1.
      gradient_norms: G_t, one for all updates or one for each; by default 1.

    Returns:
      `BestPeak`.

    Raises:
      ValueError: an argument is out of range, all rates are 0, or all gradients at
        rates above 0 are.

    Example:
      >>> linear = lambda t: 1 - t / 100
      >>> multiplier, omega = best_peak(linear, 100)
      >>> round(multiplier, 6), round(omega, 6)
      (0.097255, 0.203608)
    """
    return _best(
        terms(schedule, steps, distance=distance, gradient_norms=gradient_norms)
    )


def wsd_bound(
    steps: int,
    cooldown_start: int,
    *,
    distance: float = 1.0,
    gradient_norm: float = 1.0,
) -> float:
    """Returns the theorem's bound of a constant rate with a linear cooldown to 0.

    With T = steps, T0 = cooldown_start and harmonic numbers H, at the best peak,

        D G sqrt(4 / (T + T0) [2/3 + (T + 2 T0) / (3 (T + T0)) + H_{T+T0-2}
                 - H_{T-T0+1} - (T - T0) (T0 - 1) / (3 (T - T0 + 2) (T + T0))
                 + 1 / (T - T0)^2 + H_{T-T0-1} / (T - T0 + 1)])

    It is above `best_peak(...).bound`, by a fifth at a cooldown of 20 %, and shows how
    the bound depends on T and T0.

    Args:
      steps: updates, T >= 2.
      cooldown_start: updates before the cooldown, T0, from 1 to `steps - 1`.
      distance: D; by default 1.
      gradient_norm: G; by default 1.

    Returns:
      The bound.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> round(wsd_bound(400, 320), 6)
      0.134204

    Source: Schaipp et al., 2025, arXiv 2501.18965, the theorem on WSD.
    """
    weights.require_count("steps", steps, least=2)
    weights.require_count("cooldown_start", cooldown_start, least=1)
    if cooldown_start >= steps:
        raise ValueError(
            f"cooldown_start={cooldown_start} must be below steps={steps}, by 1 or more"
        )
    values.require_positive("distance", distance)
    values.require_positive("gradient_norm", gradient_norm)
    both, cooled, start = steps + cooldown_start, steps - cooldown_start, cooldown_start
    bracket = (
        2 / 3
        + (both + start) / (3 * both)
        + _harmonic(both - 2)
        - _harmonic(cooled + 1)
        - cooled * (start - 1) / (3 * (cooled + 2) * both)
        + 1 / cooled**2
        + _harmonic(cooled - 1) / (cooled + 1)
    )
    return float(distance * gradient_norm * np.sqrt(4 / both * bracket))


def _terms(rates_T: np.ndarray, norms_T: np.ndarray, distance: float) -> Terms:
    moving = np.flatnonzero(rates_T)
    if len(moving) == 0:
        raise ValueError("schedule must have a rate above 0")
    rates_T = rates_T[: moving[-1] + 1]
    squares_T = (rates_T * norms_T[: len(rates_T)]) ** 2
    sums_T = values.running_sums(rates_T[::-1])[::-1]
    noises_T = values.running_sums(squares_T[::-1])[::-1]
    last = rates_T[:-1] / sums_T[1:] @ (noises_T[:-1] / sums_T[:-1]) / 2
    noise = noises_T[0] / sums_T[0] / 2
    return Terms(float(distance**2 / sums_T[0] / 2), float(noise), float(last))


def _best(parts: Terms) -> BestPeak:
    noise = parts.noise + parts.last
    if noise == 0:
        raise ValueError("gradient_norms must be above 0 where the rates are")
    return BestPeak(
        float(np.sqrt(parts.initial / noise)), float(2 * np.sqrt(parts.initial * noise))
    )


def _harmonic(n: int) -> float:
    return scipy.special.digamma(n + 1) + np.euler_gamma
