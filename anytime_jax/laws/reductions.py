"""What laws see of a schedule: sums of the rates, and where the rate falls."""

from typing import NamedTuple

import numpy as np

# Rates below this count as this: a law asks for their logarithm.
_SMALLEST = 1e-30
# Elements of the largest array in a prediction.
_BLOCK = 2**16


class Reductions(NamedTuple):
    """The falls of a schedule, K of them, and the sums of rates at P recorded steps.

    A fall at step k is from the rate of step k - 1 to that of k.

    Attributes:
      sums_P: of the rates of the steps 0 ... t, at the recorded steps.
      drops_K: by how much the rate falls; negative where it rises.
      log_rates_K: the logarithm of the rate after the fall.
      before_K: sum of the rates of the steps 0 ... k - 1.
    """

    sums_P: np.ndarray
    drops_K: np.ndarray
    log_rates_K: np.ndarray
    before_K: np.ndarray


def warmup_end(rates_T: np.ndarray) -> int:
    """Returns the last step of the warmup: up to it, every rate is above the previous.

    Args:
      rates_T: the rate of every step.

    Returns:
      A step; 0 where there is no warmup.

    Example:
      >>> warmup_end(np.array([0.0, 0.5, 1.0, 1.0, 0.5, 0.75]))
      2
    """
    falls_T = np.flatnonzero(np.diff(rates_T) <= 0)
    return int(falls_T[0]) if len(falls_T) else len(rates_T) - 1


def reductions(
    rates_T: np.ndarray,
    at_P: np.ndarray,
    *,
    warmup: bool,
    rises: bool = True,
    group: int = 1,
) -> Reductions:
    """Returns the falls of a schedule, and its sums at some steps.

    Steps at which the rate does not change take no part, so that a constant stretch
    costs nothing however long it is.

    Args:
      rates_T: the rate of every step, at least up to the last of `at_P`.
      at_P: ascending steps.
      warmup: whether the rises of the warmup are among the falls.
      rises: whether those after it are.
      group: 1 for every fall by itself. Otherwise up to so many neighbouring steps
        between two of `at_P` are taken as one, at their mean place: an approximation,
        for fitting.

    Returns:
      `Reductions`.

    Example:
      >>> rates_T = np.array([0.5, 1, 1, 0.75])
      >>> found = reductions(rates_T, np.array([2, 3]), warmup=False)
      >>> found.sums_P, found.drops_K, found.before_K
      (array([2.5 , 3.25]), array([0.25]), array([2.5]))
    """
    rates_T = rates_T[: at_P[-1] + 1]
    sums_T = np.cumsum(rates_T)
    drops_T = -np.diff(rates_T)
    if not warmup:
        drops_T[: warmup_end(rates_T)] = 0
    if not rises:
        drops_T = np.maximum(drops_T, 0)
    steps_K = np.flatnonzero(drops_T) + 1
    drops_K, before_K = drops_T[steps_K - 1], sums_T[steps_K - 1]
    log_rates_K = np.log(np.maximum(rates_T[steps_K], _SMALLEST))
    if group > 1 and len(steps_K):
        # No group goes across a recorded step, which sees a fall whole or not at all.
        interval_K = np.searchsorted(at_P, steps_K)
        begin_K = np.append(0, at_P)[interval_K] + 1
        key_K = interval_K * len(rates_T) + (steps_K - begin_K) // group
        _, where_K = np.unique(key_K, return_inverse=True)
        share_K = np.abs(drops_K) / np.bincount(where_K, np.abs(drops_K))[where_K]
        drops_K, log_rates_K, before_K = (
            np.bincount(where_K, values_K)
            for values_K in (drops_K, share_K * log_rates_K, share_K * before_K)
        )
    return Reductions(sums_T[at_P], drops_K, log_rates_K, before_K)


def in_blocks(formula, parameters, features: Reductions) -> np.ndarray:
    """Returns what a formula gives, computed for a few steps at a time, in NumPy.

    Each step sees only the falls before it, and the arrays stay in the cache.

    Args:
      formula: of `Law`, for `Reductions`.
      parameters: its parameters.
      features: ascending.
    """
    sums_P, *falls = features
    size = max(1, _BLOCK // max(1, len(features.drops_K)))
    found = []
    for i in range(0, len(sums_P), size):
        block_P = sums_P[i : i + size]
        seen = np.searchsorted(features.before_K, block_P[-1])
        part = Reductions(block_P, *(fall_K[:seen] for fall_K in falls))
        found.append(formula(np, parameters, part))
    return np.concatenate(found)


def peak(rates_T: np.ndarray) -> float:
    """Returns the largest rate."""
    return float(rates_T.max())
