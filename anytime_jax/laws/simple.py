"""The law that knows of annealing only where the rate is now: a baseline."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import scipy.optimize

from anytime_jax.laws import fitting
from anytime_jax.laws.curves import Curve
from anytime_jax.laws.law import Law

_ORDER = ("L0", "A", "alpha", "B")
# What two groups of authors ask of L-BFGS-B; that nothing is negative, of one of them.
POSITIVE = ((0, np.inf),) * 4
OPTIONS = dict(ftol=1e-9, gtol=1e-6)


class Features(NamedTuple):
    """Sums of the rates, and how far the rate is below its peak, at P steps."""

    sums_P: np.ndarray
    below_P: np.ndarray


@dataclasses.dataclass(frozen=True)
class SimpleLaw(Law):
    """A power of the sum of rates, and the present rate.

    `L(t) = L0 + A S(t)^-alpha - B (peak - rate(t))`, where S(t) is the sum of the rates
    of the steps 0 ... t and the peak is the largest of them.

    It is the baseline that a law of annealing has to beat, and where fits of those
    start from. A fall of the rate has its whole effect at once.

    Attributes:
      L0: the loss after any number of steps, in nats.
      A: of the power.
      alpha: its exponent.
      B: nats for each unit of the rate.

    Example:
      >>> law = SimpleLaw(L0=3.0, A=0.5, alpha=0.5, B=100.0)
      >>> law.predict([0.25, 0.25, 0.5, 0.499], at=[2, 3])
      array([3.5       , 3.30838444])

    Source: the first stage of the fit of Luo et al., 2025, arXiv 2503.12811.
    """

    PARAMETERS: ClassVar[tuple[str, ...]] = _ORDER

    L0: float
    A: float
    alpha: float
    B: float

    @classmethod
    def features(cls, rates_T, at_P, *, group: int = 1) -> Features:
        """Returns what the formula needs of a schedule."""
        rates_T = rates_T[: at_P[-1] + 1]
        peaks_T = np.maximum.accumulate(rates_T)
        return Features(np.cumsum(rates_T)[at_P], (peaks_T - rates_T)[at_P])

    @staticmethod
    def formula(xp, parameters: Mapping, features: Features):
        """Returns the losses."""
        p = parameters
        power_P = p["A"] * features.sums_P ** -p["alpha"]
        return p["L0"] + power_P - p["B"] * features.below_P

    @classmethod
    def starts(cls, curves: Sequence[Curve]) -> list[dict[str, float]]:
        """Returns starts at several limits below the least loss."""
        peak = max(curve.rates.max() for curve in curves)
        found = []
        for gap in (0.02, 0.1, 0.3):
            limit, A, alpha = power_start(curves, gap)
            found.append(dict(L0=limit, A=A, alpha=alpha, B=0.1 / peak))
        return found

    @classmethod
    def published(cls, curves: Sequence[Curve]) -> dict[str, float]:
        """Returns the best of 135 runs of L-BFGS-B from a grid of starts."""
        options = OPTIONS | dict(maxiter=100_000)
        best_4 = least([_points(curves)], grid(curves), POSITIVE, **options)
        return dict(zip(_ORDER, best_4.tolist(), strict=True))


def grid(curves: Sequence[Curve], limits: int = 5) -> np.ndarray:
    """Returns the starts of the authors' fit, around the curves' least loss and power.

    Args:
      curves: at least two different points, all together.
      limits: how many values of L0, from 0.2 below the least loss to 0.2 above; of A,
        alpha and B there are three each.

    Returns:
      float64 [27 limits, 4], in the order of `PARAMETERS`.
    """
    lowest = min(curve.losses.min() for curve in curves)
    _, A, alpha = power_start(curves, 0.01)
    # The authors have 100 ... 1000 at a peak of 3e-4.
    peak = max(curve.rates.max() for curve in curves)
    axes = (
        lowest + np.linspace(-0.2, 0.2, limits),
        A + np.linspace(-0.1, 0.1, 3),
        alpha + np.linspace(-0.1, 0.1, 3),
        np.linspace(0.03, 0.3, 3) / peak,
    )
    return np.array(list(itertools.product(*axes)))


def least(
    parts: Sequence[tuple[np.ndarray, ...]],
    starts_Sx4: np.ndarray,
    bounds: Sequence[tuple[float, float]],
    *,
    raw: bool = False,
    **options: float,
) -> np.ndarray:
    """Returns the best of several runs of L-BFGS-B on `L0 + A S^-alpha - B below`.

    The sum over all points of the Huber loss of the residuals, in the parameters
    themselves, with exact slopes.

    Args:
      parts: of each curve S, below and the logarithms of the losses, or with `raw` the
        losses.
      starts_Sx4: L0, A, alpha and B of each; they are moved into the bounds.
      bounds: of the four.
      raw: whether residuals are those of the losses rather than of their logarithms.
      **options: of L-BFGS-B.

    Returns:
      L0, A, alpha and B, float64 [4].
    """
    points = map(np.concatenate, zip(*parts, strict=True))
    arguments = (*points, raw)
    runs = [
        scipy.optimize.minimize(
            _sum_and_slope,
            start_4,
            args=arguments,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options=options,
        )
        for start_4 in np.clip(starts_Sx4, *np.transpose(bounds))
    ]
    return min(runs, key=lambda run: run.fun).x


def optimum(curves: Sequence[Curve]) -> dict[str, float]:
    """Returns the parameters that a fit without ridge converges to, sooner than it.

    Args:
      curves: at least one.
    """
    points, scale = _points(curves), 1e4

    def objective(log_4: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope_4 = _sum_and_slope(np.exp(log_4), *points)
        return scale * value, scale * slope_4 * np.exp(log_4)

    runs = []
    for start in SimpleLaw.starts(curves):
        log_4 = np.log([start[name] for name in _ORDER])
        runs.append(
            scipy.optimize.minimize(
                objective,
                log_4,
                jac=True,
                # As close as L-BFGS-B; its small calls of LAPACK take 30 times as long,
                # as the threads of BLAS wait for each other.
                method="TNC",
                bounds=np.stack([log_4 - 3, log_4 + 3], axis=1),
                options=dict(maxfun=3000, ftol=1e-10, xtol=1e-12, gtol=1e-12),
            )
        )
    best = np.exp(min(runs, key=lambda run: run.fun).x)
    return dict(zip(_ORDER, best.tolist(), strict=True))


def power_start(curves: Sequence[Curve], gap: float) -> tuple[float, float, float]:
    """Returns a limit, a factor and an exponent that fit the losses roughly.

    Args:
      curves: at least two different points, all together.
      gap: the limit is so far below the least loss.

    Raises:
      ValueError: there is only one point.
    """
    sums, _, log_losses = _points(curves)
    losses = np.exp(log_losses)
    if len(np.unique(sums)) < 2:
        raise ValueError("curves must have at least two different recorded steps")
    limit = max(losses.min() - gap, losses.min() / 10)
    slope, intercept = np.polyfit(np.log(sums), np.log(losses - limit), 1)
    return float(limit), float(np.exp(intercept)), float(max(-slope, 0.01))


def _points(curves: Sequence[Curve]) -> tuple[np.ndarray, ...]:
    """Sums of rates, distances from the peak and log losses of all curves."""
    features = [SimpleLaw.features(curve.rates, curve.steps) for curve in curves]
    losses = np.concatenate([curve.losses for curve in curves])
    return *map(np.concatenate, zip(*features, strict=True)), np.log(losses)


def _sum_and_slope(
    parameters_4: np.ndarray,
    sums: np.ndarray,
    below: np.ndarray,
    measured: np.ndarray,
    raw: bool = False,
) -> tuple[float, np.ndarray]:
    """The sum of the Huber loss over all points, of the parameters themselves."""
    L0, A, alpha, B = parameters_4
    power = sums**-alpha
    losses = L0 + A * power - B * below
    positive = np.maximum(losses, 1e-3)
    residuals = (losses if raw else np.log(positive)) - measured
    pull = np.clip(residuals, -fitting.DELTA, fitting.DELTA)
    pull = pull if raw else pull / positive
    by_alpha = -A * power * np.log(sums)
    slope_4 = [pull.sum(), pull @ power, pull @ by_alpha, -pull @ below]
    return fitting.huber(residuals).sum(), np.array(slope_4)
