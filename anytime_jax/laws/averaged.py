"""The loss of averaged weights, from a law that was fitted to raw ones."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from anytime_jax import averaging, schedules
from anytime_jax.averaging import weights
from anytime_jax.laws.law import Law

# Neighbouring weights of an average are taken together, in groups of about equal share.
_GROUPS = 512


def equivalent_rates(
    rates: schedules.Rates, average: Callable, updates: int
) -> np.ndarray:
    """Returns the rates whose last weights are about an average of a run's.

    The average after T updates is `theta_0 - sum_i W_i u_i`, with `W_i` the share of
    the weights from theta_i on (`averaging.implied_decay`): update i counts as if its
    rate had been `W_i` times what it was. So an average is a decay to zero, and another
    one at every horizon.

    Args:
      rates: of the run: a schedule, a number or an array of at least `updates` rates.
      average: an `Average`, or a callable from update (>= 1) to mixing weight.
      updates: T, updates done, >= 1.

    Returns:
      float64 [updates].

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> equivalent_rates(0.5, averaging.uniform(), 4)
      array([0.5  , 0.375, 0.25 , 0.125])

    Source: the multiplier is that of WSM, 2025, arXiv 2507.17634, which turns decays
    into merges of snapshots.
    """
    weights.require_count("updates", updates, least=1)
    rates_T = rates if callable(rates) else np.asarray(rates)
    if not callable(rates) and rates_T.ndim == 1:
        rates_T = rates_T[:updates]
    rates_T = schedules.rates(rates_T, updates, "rates")
    return rates_T * averaging.implied_decay(average, updates)


def predict_average(
    law: Law, rates: schedules.Rates, average: Callable, at: ArrayLike
) -> np.ndarray:
    """Returns the predicted losses of averaged weights along a run.

    The law's prediction for the `equivalent_rates` of each horizon, with one term
    corrected. What those rates leave of the start is the law's `A S^-alpha` at the mean
    of the sums S_j of the iterates j that are in the average with shares p_j. But the
    error of an average is the mean of errors, and its loss their product:

        A sum_jk p_j p_k ((S_j + S_k) / 2)^-alpha

    exactly so for a quadratic whose directions give `A S^-alpha` for raw weights. For
    an average that forgets, the two are the same; for `uniform` they are not.

    A law knows nothing of the time before the first update: the share that the initial
    weights have counts as that of the first.

    Args:
      law: fitted to curves of raw weights, cooldowns or cosine runs among them: what
        averaging gains is read off what decays gained.
      rates: of the run that the average is of: a schedule, a number or an array.
      average: an `Average`, or a callable from update (>= 1) to mixing weight.
      at: steps, from 0, in any order and shape; at step t the average has seen t + 1
        updates.

    Returns:
      float64, of the shape of `at`.

    Raises:
      ValueError: an argument is out of range, or the law does not cover the schedule.

    Example:
      >>> from anytime_jax import laws
      >>> law = laws.MultiPowerLaw(
      ...     L0=3.0, A=0.5, alpha=0.5, B=400.0, C=1.0, beta=0.5, gamma=0.5
      ... )
      >>> raw = law.predict(3e-4, [10_000])
      >>> ema25 = averaging.age_ema(divisor=25)
      >>> (raw - predict_average(law, 3e-4, ema25, [10_000])).round(3)
      array([0.045])
    """
    at = np.asarray(at)
    if at.dtype.kind not in "iu" or at.size == 0 or at.min() < 0:
        raise ValueError(f"at={at!r} must be integers >= 0, at least one")
    at_P, where = np.unique(at, return_inverse=True)
    found_P = [_at_horizon(law, rates, average, int(step) + 1) for step in at_P]
    return np.array(found_P)[where].reshape(at.shape)


def _at_horizon(
    law: Law, rates: schedules.Rates, average: Callable, updates: int
) -> float:
    """The loss of the average after so many updates."""
    decayed_T = equivalent_rates(rates, average, updates)
    last = np.array([updates - 1])
    loss = law.predict(decayed_T, last)[0]
    features = law.features(decayed_T, last, **law.conventions)
    size, exponent = (law.parameters[name] for name in law.PROGRESS)
    rates_T = equivalent_rates(rates, averaging.latest(), updates)
    raw = law.features(rates_T, last, **law.conventions).sums_P[0]
    # A law may count warmup as if it had been at the peak.
    sums_T = np.cumsum(rates_T) + (raw - rates_T.sum())
    left = _pairs(averaging.kernel(average, updates), sums_T, exponent)
    return loss + size * (left - features.sums_P[0] ** -exponent)


def _pairs(share_T: np.ndarray, sums_T: np.ndarray, exponent: float) -> float:
    """The mean of ((S_j + S_k) / 2)^-exponent over all pairs of iterates."""
    share_T = share_T.copy()
    begin = int(np.argmax(sums_T > 0))
    share_T[begin] += 1.0 - share_T.sum() + share_T[:begin].sum()
    share_T, sums_T = share_T[begin:], sums_T[begin:]
    group_T = np.floor(np.cumsum(share_T) * _GROUPS * (1 - 1e-12))
    starts_G = np.flatnonzero(np.diff(group_T, prepend=-1) > 0)
    share_G = np.add.reduceat(share_T, starts_G)
    kept_G = share_G > 0
    sums_G = np.add.reduceat(share_T * sums_T, starts_G)[kept_G] / share_G[kept_G]
    mean_GxG = (sums_G[:, None] + sums_G[None, :]) / 2
    return float(share_G[kept_G] @ mean_GxG**-exponent @ share_G[kept_G])
