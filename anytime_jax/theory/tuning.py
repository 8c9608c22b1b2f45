"""Which setting serves every horizon, and what separate tuning would reach."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import optax

from anytime_jax import schedules
from anytime_jax.averaging import weights
from anytime_jax.theory import inputs, values
from anytime_jax.theory.linear_regression import LinearRegression
from anytime_jax.theory.risk import sgd_risk

OBJECTIVES = dict(worst=np.max, mean=np.mean)


class Envelope(NamedTuple):
    """The best of separately tuned runs, at each of H horizons.

    Attributes:
      horizons: numbers of updates, int [H].
      risk: of the best rate at each, float64 [H].
      rate: that rate, [H].
      at_edge: whether it is the grid's lowest or highest: the grid is too short,
        bool [H].
    """

    horizons: np.ndarray
    risk: np.ndarray
    rate: np.ndarray
    at_edge: np.ndarray


class Setting(NamedTuple):
    """One schedule, one average and one rate, at all horizons.

    Attributes:
      schedule: its name.
      average: its name, or `raw`.
      rate: the multiplier of the schedule.
      risk: at each horizon, float64 [H].
      regret: `log(risk / baseline)` at each horizon, float64 [H].
      score: the worst or mean regret.
      at_edge: whether the rate is the grid's lowest or highest.
    """

    schedule: str
    average: str
    rate: float
    risk: np.ndarray
    regret: np.ndarray
    score: float
    at_edge: bool


def optimal_exponent(capacity: float, source: float) -> float:
    """Returns the exponent of the schedule t^-exponent that suits every horizon.

    `max(0, 1 - capacity / source)`

    Args:
      capacity: a, > 0.
      source: b, > 0.

    Returns:
      The exponent, in [0, 1).

    Raises:
      ValueError: an argument is not positive.

    Example:
      >>> optimal_exponent(1.5, 3), optimal_exponent(1.5, 1.2)
      (0.5, 0.0)

    Source: Meterez et al., 2026, arXiv 2602.03702, corollary 1.
    """
    values.require_positive("capacity", capacity)
    values.require_positive("source", source)
    return max(0.0, 1 - capacity / source)


def predicted_rate(
    capacity: float, source: float, exponent: float | None = None
) -> float:
    """Returns how fast the averaged risk falls, `risk ~ steps^-predicted_rate`.

    Of a schedule t^-g, directions up to `k ~ steps^((1 - g) / a)` are learned: what is
    left of the target falls as `k^-(b - 1)` and the variance as `k / steps`, so that
    the rate is `min((b - 1) (1 - g) / a, 1 - (1 - g) / a)`. At the optimal exponent
    that is `1 - 1/b` for b >= a and `(b - 1) / a` for b < a.

    Args:
      capacity: a, > 1.
      source: b, > 1.
      exponent: g, in [0, 1); by default the optimal one.

    Returns:
      The rate, where the noise is not small and the average forgets the start.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> predicted_rate(1.5, 4), predicted_rate(2, 1.5)
      (0.75, 0.25)

    Source: corollary 1 as above for the optimal exponent; the others follow from the
    same two terms.
    """
    for name, value in (("capacity", capacity), ("source", source)):
        allowed = "finite and > 1"
        values.require_number(name, value, allowed, lambda x: 1 < x < math.inf)
    if exponent is None:
        exponent = optimal_exponent(capacity, source)
    values.require_number("exponent", exponent, "in [0, 1)", lambda x: 0 <= x < 1)
    learned = (1 - exponent) / capacity
    return min((source - 1) * learned, 1 - learned)


def rate_grid(problem: LinearRegression, count: int = 25) -> np.ndarray:
    """Returns rates from 0.01 to 3 divided by the trace, evenly spaced in log.

    Args:
      problem: a `LinearRegression`.
      count: how many; by default 25, a factor of 1.27 apart.

    Returns:
      float64 [count].

    Raises:
      ValueError: `count` is not an integer >= 1.

    Example:
      >>> problem = LinearRegression(eigenvalues=[2], squared_target=[1], noise=1)
      >>> rate_grid(problem, 3).round(4)
      array([0.005 , 0.0866, 1.5   ])
    """
    weights.require_count("count", count, least=1)
    return np.geomspace(0.01, 3, count) / problem.trace


def family_risk(
    problem: LinearRegression,
    family: Callable[[int], optax.Schedule],
    horizons: Sequence[int],
    rates: Sequence[float],
    batch_size: float | Callable[[int], float] = 1,
) -> np.ndarray:
    """Returns the last-iterate risk of a schedule made for each horizon.

    Args:
      problem: a `LinearRegression`.
      family: from horizon to its schedule.
      horizons: numbers of updates, H of them.
      rates: multipliers of the schedules, R of them.
      batch_size: as in `sgd_risk`.

    Returns:
      float64 [R, H], infinite where a run diverges.

    Raises:
      ValueError: an argument is out of range, or every rate diverges.

    Example:
      >>> from anytime_jax import schedules
      >>> problem = LinearRegression(capacity=2, source=2, dimension=1000, noise=1)
      >>> def linear(horizon):
      ...     return schedules.linear(peak=1.0, total_steps=horizon)
      >>> family_risk(problem, linear, [100, 400], [0.3, 0.1]).round(3)
      array([[0.12 , 0.062],
             [0.157, 0.08 ]])
    """
    runs = (
        sgd_risk(problem, family(horizon), {}, horizon, batch_size, rates=rates)
        for horizon in _ascending(horizons).tolist()
    )
    return np.concatenate([run["raw"] for run in runs], axis=1)


def envelope(
    problem: LinearRegression,
    family: Callable[[int], optax.Schedule],
    horizons: Sequence[int],
    *,
    rates: Sequence[float] | None = None,
    batch_size: float | Callable[[int], float] = 1,
) -> Envelope:
    """Returns the best risk at each horizon of separately trained and tuned runs.

    Args:
      problem: a `LinearRegression`.
      family: from horizon to its schedule, of peak 1.
      horizons: numbers of updates, ascending.
      rates: the peaks tried; by default `rate_grid(problem)`.
      batch_size: as in `sgd_risk`.

    Returns:
      An `Envelope`.

    Raises:
      ValueError: an argument is out of range, or every rate diverges.

    Example:
      >>> from anytime_jax import schedules
      >>> problem = LinearRegression(capacity=2, source=2, dimension=1000, noise=1)
      >>> def cosine(horizon):
      ...     return schedules.cosine(peak=1.0, total_steps=horizon)
      >>> found = envelope(problem, cosine, [100, 400])
      >>> found.at_edge.tolist()
      [False, False]
    """
    rates = rate_grid(problem) if rates is None else inputs.multipliers(rates)
    risk_RxH = family_risk(problem, family, horizons, rates, batch_size)
    best_H = risk_RxH.argmin(axis=0)
    return Envelope(
        _ascending(horizons),
        risk_RxH.min(axis=0),
        rates[best_H],
        _at_edge(rates[best_H], rates),
    )


def rank(
    problem: LinearRegression,
    schedule_family: Mapping[str, optax.Schedule],
    averages: Mapping[str, Callable],
    horizons: Sequence[int],
    *,
    objective: str = "worst",
    baseline: Envelope | None = None,
    rates: Sequence[float] | None = None,
    batch_size: float | Callable[[int], float] = 1,
) -> list[Setting]:
    """Returns every schedule with every average at its one best rate, best first.

    Args:
      problem: a `LinearRegression`.
      schedule_family: names to horizon-free schedules of peak 1.
      averages: names to averages; the raw weights, `raw`, compete too.
      horizons: numbers of updates, ascending.
      objective: `worst` or `mean` regret over the horizons, which the rate minimises.
      baseline: what the regret is measured from; by default the `envelope` of
        `schedules.cosine`, to a tenth of its peak.
      rates: the multipliers tried; by default `rate_grid(problem)`.
      batch_size: as in `sgd_risk`.

    Returns:
      A list of `Setting`, by ascending score.

    Raises:
      ValueError: an argument is out of range, or every rate diverges.

    Example:
      >>> from anytime_jax import averaging, schedules
      >>> problem = LinearRegression(capacity=2, source=2, dimension=1000, noise=1)
      >>> family = dict(constant=schedules.constant(peak=1.0))
      >>> averages = dict(ema6_25=averaging.age_ema(divisor=6.25))
      >>> for setting in rank(problem, family, averages, [100, 200, 400]):
      ...     print(setting.average, setting.regret.round(2))
      ema6_25 [ 0.   -0.03 -0.07]
      raw [0.28 0.32 0.38]
    """
    if objective not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise ValueError(f"objective={objective!r} must be one of {known}")
    allowed = "names to horizon-free schedules"
    values.require_mapping("schedule_family", schedule_family, allowed)
    if not schedule_family:
        raise ValueError("schedule_family must name at least one schedule")
    horizons = _ascending(horizons)
    rates = rate_grid(problem) if rates is None else inputs.multipliers(rates)
    if baseline is None:
        choices = dict(rates=rates, batch_size=batch_size)
        baseline = envelope(problem, _cosine, horizons, **choices)
    if not np.array_equal(baseline.horizons, horizons):
        raise ValueError(
            f"baseline.horizons={baseline.horizons.tolist()} must be "
            f"horizons={horizons.tolist()}"
        )
    settings = []
    for name, schedule in schedule_family.items():
        run = (problem, schedule, averages, int(horizons[-1]), batch_size)
        for average, risk_RxH in sgd_risk(*run, record=horizons, rates=rates).items():
            regret_RxH = np.log(risk_RxH / baseline.risk)
            score_R = OBJECTIVES[objective](regret_RxH, axis=1)
            best = score_R.argmin()
            rate, score = float(rates[best]), float(score_R[best])
            chosen = rate, risk_RxH[best], regret_RxH[best], score
            at_edge = bool(_at_edge(rate, rates))
            settings.append(Setting(name, average, *chosen, at_edge))
    return sorted(settings, key=lambda setting: setting.score)


def tune(
    problem: LinearRegression,
    schedule_family: Mapping[str, optax.Schedule],
    averages: Mapping[str, Callable],
    horizons: Sequence[int],
    **choices,
) -> Setting:
    """Returns the one setting of smallest worst or mean regret over the horizons.

    Args:
      problem: as in `rank`, and so are the others.
      schedule_family: names to horizon-free schedules of peak 1.
      averages: names to averages.
      horizons: numbers of updates, ascending.
      **choices: `objective`, `baseline`, `rates` and `batch_size` of `rank`.

    Returns:
      The first of `rank`.

    Raises:
      ValueError: as in `rank`.

    Example:
      >>> from anytime_jax import averaging, schedules
      >>> problem = LinearRegression(capacity=1.5, source=3, dimension=10**4, noise=1)
      >>> family = dict(
      ...     constant=schedules.constant(peak=1.0),
      ...     sqrt=schedules.inverse_sqrt(peak=1.0, offset=64),
      ... )
      >>> averages = dict(ema6_25=averaging.age_ema(divisor=6.25))
      >>> best = tune(problem, family, averages, [256, 512, 1024, 2048, 4096, 8192])
      >>> best.schedule, best.average
      ('sqrt', 'ema6_25')
    """
    return rank(problem, schedule_family, averages, horizons, **choices)[0]


def _cosine(horizon: int) -> optax.Schedule:
    return schedules.cosine(peak=1.0, total_steps=horizon, final_fraction=0.1)


def _ascending(horizons: Sequence[int]) -> np.ndarray:
    found = np.asarray(horizons)
    if found.ndim != 1 or not len(found):
        raise ValueError(f"horizons={horizons!r} must be numbers of updates")
    for horizon in found.tolist():
        weights.require_count("horizons", horizon, least=1)
    if (np.diff(found) <= 0).any():
        raise ValueError(f"horizons={found.tolist()} must ascend")
    return found


def _at_edge(rate: np.ndarray | float, rates: np.ndarray) -> np.ndarray:
    return (rate == rates.min()) | (rate == rates.max())
