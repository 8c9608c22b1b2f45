"""Where the best peak goes: to another schedule, and to a longer horizon.

All of it follows from `convex.best_peak`. Distance and gradient norm, which no one
knows, cancel: only the ratio of two best peaks is used.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from anytime_jax.averaging import weights
from anytime_jax.schedules import Shape, cooldowns
from anytime_jax.theory import convex, values

_SCAN = np.linspace(0.0, 1.0, 33)


class Extension(NamedTuple):
    """How to go on to a longer horizon without another peak.

    Attributes:
      value: the cooldown fraction, or the factor of the drop.
      mismatch: the relative excess of the extended schedule's best peak over that of
        the base run: 0, unless no value in [0, 1] gives the same.
    """

    value: float
    mismatch: float


def transfer(
    peak: float,
    source: values.Rates,
    target: values.Rates,
    steps: int,
    target_steps: int | None = None,
) -> float:
    """Returns the best peak of a schedule, from that found for another one.

    `peak * gamma*(target) / gamma*(source)`: distance and gradient norm, unknown in
    practice, cancel.

    Args:
      peak: the best multiple of `source`, found by experiment.
      source: a schedule, a number or an array of rates, for `steps` updates.
      target: another one, for `target_steps` updates.
      steps: updates of the source.
      target_steps: updates of the target; by default as many.

    Returns:
      The best multiple of `target`.

    Raises:
      ValueError: an argument is out of range, or all rates are 0.

    Example:
      >>> linear, constant = lambda t: 1 - t / 400, 1.0
      >>> round(transfer(1e-3, constant, linear, 400), 6)
      0.002727
    """
    values.require_positive("peak", peak)
    target_steps = steps if target_steps is None else target_steps
    found = convex.best_peak(source, steps).multiplier
    return peak * convex.best_peak(target, target_steps).multiplier / found


def longer_cooldown(
    trunk: values.Rates,
    base_steps: int,
    steps: int,
    *,
    cooldown_fraction: float = 0.2,
    shape: Shape = "linear",
    final_fraction: float = 0.0,
) -> Extension:
    """Returns the cooldown fraction that keeps the base run's peak the best one.

    The best peak falls with the horizon and grows with the cooldown. This is the
    shortest cooldown of `steps` updates whose best peak is that of `base_steps` updates
    with `cooldown_fraction`, so that the trunk of the base run can be continued.
    Distance and gradient norm cancel. The published values are the best of 33 fractions
    0.028 apart, or 0.019 with a trunk of 1/sqrt(t).

    Args:
      trunk: the rates without a cooldown: a schedule, a number, or an array for `steps`
        updates.
      base_steps: updates of the base run.
      steps: updates of the longer run.
      cooldown_fraction: the cooldown's share of the base run; by default 0.2.
      shape: a shape of `schedules.SHAPES`, as for `schedules.cooldown`; by default
        "linear".
      final_fraction: where the cooldown ends; by default 0.

    Returns:
      `Extension`, the fraction of `steps` to cool down for. If there is none with the
      same best peak, that of a scan in steps of 1/32 which comes closest.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> round(longer_cooldown(1.0, 4_000, 8_000).value, 3)
      0.633

    Source: Schaipp et al., 2025, arXiv 2501.18965, on extending the horizon.
    """
    trunk_T, cool, goal = _base(
        trunk, base_steps, steps, cooldown_fraction, shape, final_fraction
    )
    return _matched(lambda fraction: cool(trunk_T, fraction), goal, _SCAN)


def single_drop(
    trunk: values.Rates,
    base_steps: int,
    steps: int,
    *,
    cooldown_fraction: float = 0.2,
    shape: Shape = "linear",
    final_fraction: float = 0.0,
) -> Extension:
    """Returns the one drop of the rate that keeps the base run's peak the best one.

    The trunk goes on from the start of the base run's cooldown at rho times its rate,
    and ends with a cooldown of the same fraction of `steps`. This is the mildest drop,
    the highest rho, with which the best peak of `steps` updates is that of
    `base_steps`. The published values are the best of 33 factors 0.025 apart.

    Args:
      trunk: the rates without a cooldown: a schedule, a number, or an array for `steps`
        updates.
      base_steps: updates of the base run.
      steps: updates of the longer run.
      cooldown_fraction: the cooldown's share of both runs; by default 0.2.
      shape: a shape of `schedules.SHAPES`, as for `schedules.cooldown`; by default
        "linear".
      final_fraction: where the cooldown ends; by default 0.

    Returns:
      `Extension`, the factor rho. If there is none with the same best peak, that of a
      scan in steps of 1/32 which comes closest.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> round(single_drop(1.0, 4_000, 8_000).value, 3)
      0.533

    Source: Schaipp et al., 2025, arXiv 2501.18965, on extending the horizon.
    """
    trunk_T, cool, goal = _base(
        trunk, base_steps, steps, cooldown_fraction, shape, final_fraction
    )
    dropped_T = np.arange(steps) >= base_steps - round(cooldown_fraction * base_steps)

    def extended(factor: float) -> np.ndarray:
        return cool(np.where(dropped_T, factor * trunk_T, trunk_T), cooldown_fraction)

    return _matched(extended, goal, _SCAN[:0:-1])


@dataclasses.dataclass(frozen=True)
class RateCurve:
    """The final loss as a function of the peak: `A / gamma + B gamma + C`.

    Attributes:
      inverse: A.
      linear: B.
      constant: C.
    """

    inverse: float
    linear: float
    constant: float

    def predict(self, peaks: float | Sequence[float] | np.ndarray) -> np.ndarray:
        """Returns the loss at each of the peaks, in their shape."""
        peaks = np.asarray(peaks, np.float64)
        return self.inverse / peaks + self.linear * peaks + self.constant

    @property
    def best(self) -> float:
        """The peak of the lowest loss, sqrt(A / B); NaN if the curve has no minimum."""
        if self.inverse <= 0 or self.linear <= 0:
            return float("nan")
        return float(np.sqrt(self.inverse / self.linear))


def fit_rate_curve(
    peaks: Sequence[float] | np.ndarray, losses: Sequence[float] | np.ndarray
) -> RateCurve:
    """Fits the final loss as a function of the peak, by linear least squares.

    The bound has the form `A / gamma + B gamma`; a constant is added. With `best` of
    the result and `transfer`, a sweep for one schedule gives the peak of another.

    Args:
      peaks: above 0, at least three different ones.
      losses: as many.

    Returns:
      `RateCurve`.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> peaks = np.array([0.5, 1.0, 2.0, 4.0])
      >>> round(fit_rate_curve(peaks, 2 / peaks + 0.5 * peaks + 3).best, 6)
      2.0

    Source: Schaipp et al., 2025, arXiv 2501.18965, on transferring the rate.
    """
    peaks_N = values.array("peaks", peaks, "an array of numbers")
    losses_N = values.array("losses", losses, "an array of numbers")
    if peaks_N.ndim != 1 or len(np.unique(peaks_N)) < 3:
        raise ValueError(f"peaks={peaks!r} must be at least three different numbers")
    if losses_N.shape != peaks_N.shape:
        raise ValueError(
            f"losses of shape {losses_N.shape} must be as many as the {len(peaks_N)} "
            "peaks"
        )
    values.require(peaks_N, "peaks", "finite and > 0", peaks_N > 0)
    values.require(losses_N, "losses", "finite", np.isfinite(losses_N))
    unit = np.exp(np.mean(np.log(peaks_N)))  # Both columns are then of order 1.
    columns = [unit / peaks_N, peaks_N / unit, np.ones(len(peaks_N))]
    inverse, linear, constant = np.linalg.lstsq(np.stack(columns, 1), losses_N)[0]
    return RateCurve(float(inverse * unit), float(linear / unit), float(constant))


def _multiplier(rates_T: np.ndarray) -> float:
    return convex.best_peak(rates_T, len(rates_T)).multiplier


def _base(
    trunk: values.Rates,
    base_steps: int,
    steps: int,
    cooldown_fraction: float,
    shape: Shape,
    final_fraction: float,
) -> tuple[np.ndarray, Callable, float]:
    """The trunk's rates, (trunk's rates, fraction) -> cooled, and the base's peak."""
    weights.require_count("base_steps", base_steps, least=1)
    weights.require_count("steps", steps, least=base_steps)
    values.require_number(
        "cooldown_fraction", cooldown_fraction, "in [0, 1]", lambda x: 0 <= x <= 1
    )
    trunk_T = values.rates(trunk, steps, "trunk")
    decay = jax.jit(cooldowns.multiplier(shape, final_fraction))

    def cool(rates_T: np.ndarray, fraction: float) -> np.ndarray:
        # As schedules.cooldown, but that it may start between two updates.
        length = fraction * len(rates_T)
        past_T = np.arange(len(rates_T)) - (len(rates_T) - length)
        held = np.interp(-past_T[0], np.arange(len(rates_T)), rates_T)
        progress_T = np.clip(past_T / max(length, 1e-9), 0.0, 1.0)
        with jax.enable_x64(True):
            decay_T = np.asarray(decay(jnp.asarray(progress_T)))
        return np.where(past_T < 0, rates_T, held * decay_T)

    return trunk_T, cool, _multiplier(cool(trunk_T[:base_steps], cooldown_fraction))


def _matched(extended: Callable, goal: float, candidates: np.ndarray) -> Extension:
    """The first value with the best peak `goal`, else the candidate closest to it."""

    def mismatch(value: float) -> float:
        return _multiplier(extended(value)) / goal - 1

    tried = []
    for value in candidates.tolist():
        tried.append((value, mismatch(value)))
        if len(tried) > 1 and np.sign(tried[-1][1]) != np.sign(tried[-2][1]):
            value = scipy.optimize.brentq(mismatch, tried[-2][0], value, xtol=1e-9)
            return Extension(value, mismatch(value))
    return Extension(*min(tried, key=lambda pair: abs(pair[1])))
