"""Merges of stored snapshots: their coefficients, and the weighted sum of trees.

Snapshots are ordered from old to new. Each recipe gives float64 coefficients that sum
to 1, and `merge` adds up the trees, one in memory at a time. What follows from averages
that were tracked rather than from raw snapshots is `window` and `synthesize`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anytime_jax.averaging import weights
from anytime_jax.averaging.sums import merge
from anytime_jax.averaging.synthesis import (
    Stored,
    Synthesis,
    merged_kernel,
    synthesize,
)
from anytime_jax.averaging.windows import window, window_error

__all__ = [
    "Stored",
    "Synthesis",
    "ema",
    "from_decay",
    "given",
    "latest",
    "linear",
    "merge",
    "merged_kernel",
    "quadratic_accurate",
    "synthesize",
    "to_decay",
    "uniform",
    "window",
    "window_error",
    "within",
]

Decay = Callable[[jax.Array], Any] | Sequence[float]

_SUM_TOLERANCE = 1e-6


def uniform(n: int) -> np.ndarray:
    """Returns the coefficients of the plain mean of `n` snapshots.

    `c_i = 1 / n`

    Args:
      n: the number of snapshots, >= 1.

    Returns:
      float64 [n], from the oldest to the newest.

    Raises:
      ValueError: `n` is not an integer >= 1.

    Example:
      >>> uniform(4)
      array([0.25, 0.25, 0.25, 0.25])

    Source: SMA of Li et al., 2025, "Model Merging in Pre-training of Large Language
    Models" (PMA), arXiv 2505.12082.
    """
    weights.require_count("n", n, least=1)
    return np.full(n, 1.0 / n)


def linear(n: int) -> np.ndarray:
    """Returns coefficients that grow linearly from the oldest to the newest.

    `c_i = i / (1 + 2 + ... + n)` for i = 1 ... n

    Args:
      n: the number of snapshots, >= 1.

    Returns:
      float64 [n].

    Raises:
      ValueError: `n` is not an integer >= 1.

    Example:
      >>> linear(4)
      array([0.1, 0.2, 0.3, 0.4])

    Source: WMA of PMA, 2025, arXiv 2505.12082.
    """
    weights.require_count("n", n, least=1)
    return np.arange(1, n + 1) * 2.0 / (n * (n + 1))


def ema(n: int, alpha: float = 0.2) -> np.ndarray:
    """Returns the coefficients of an exponential average that starts at the oldest.

    `m_1 = theta_1` and `m_i = alpha theta_i + (1 - alpha) m_{i-1}`, so that
    `c_i = alpha (1 - alpha)^(n-i)`, and the oldest has the rest, `(1 - alpha)^(n-1)`.

    Args:
      n: the number of snapshots, >= 1.
      alpha: share of the newer one, in (0, 1]; 0.2 in PMA's follow-ups and in CMA.

    Returns:
      float64 [n].

    Raises:
      ValueError: `n` is not an integer >= 1 or `alpha` is out of range.

    Example:
      >>> ema(3, alpha=0.5)
      array([0.25, 0.25, 0.5 ])

    Source: PMA, 2025, arXiv 2505.12082; CMA, 2025, arXiv 2511.18903.
    """
    weights.require_count("n", n, least=1)
    number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not (number and 0 < alpha <= 1):
        raise ValueError(f"alpha={alpha!r} must be in (0, 1]")
    coefficients = alpha * (1.0 - alpha) ** np.arange(n - 1.0, -1.0, -1.0)
    coefficients[0] = (1.0 - alpha) ** (n - 1.0)
    return coefficients


def latest(n: int, count: int) -> np.ndarray:
    """Returns the coefficients of the mean of the latest `count` snapshots (LAWA).

    Args:
      n: the number of snapshots, >= 1.
      count: how many of them to average, in 1 ... n.

    Returns:
      float64 [n].

    Raises:
      ValueError: `n` or `count` is out of range.

    Example:
      >>> latest(4, 2)
      array([0. , 0. , 0.5, 0.5])

    Source: Kaddour, 2022, arXiv 2209.14981.
    """
    weights.require_count("n", n, least=1)
    weights.require_count("count", count, least=1)
    if count > n:
        raise ValueError(f"count={count!r} must be at most n={n!r}, the snapshots")
    return np.append(np.zeros(n - count), uniform(count))


def within(steps: Sequence[int], *, start: int, stop: int) -> np.ndarray:
    """Returns the coefficients of the mean of the snapshots in (start, stop] (SWA).

    Args:
      steps: the step of each snapshot.
      start: snapshots of this step and earlier are left out.
      stop: snapshots after this step are left out.

    Returns:
      float64, one for each of `steps`.

    Raises:
      ValueError: no snapshot is in the interval.

    Example:
      >>> within([10, 20, 30, 40], start=10, stop=30)
      array([0. , 0.5, 0.5, 0. ])

    Source: Izmailov et al., 2018, arXiv 1803.05407.
    """
    inside = (np.asarray(steps) > start) & (np.asarray(steps) <= stop)
    if not inside.any():
        raise ValueError(
            f"start={start!r} and stop={stop!r} must have a snapshot between them; "
            f"stored are {', '.join(map(str, steps)) or 'none'}"
        )
    return inside / inside.sum()


def from_decay(decay: Decay, n: int) -> np.ndarray:
    """Returns the coefficients by which updates count as if the rate had decayed.

    With snapshots theta_0 ... theta_k, k = n - 1, and `W_j = decay((j + 1) / n)`:
    `c_0 = 1 - W_0`, `c_i = W_{i-1} - W_i`, `c_k = W_{k-1}`, so that the merge is
    `theta_0 + sum_j W_j (theta_{j+1} - theta_j)`. The updates were recorded along the
    raw path, so this is not what a run with that decay would have given.

    Args:
      decay: the learning-rate multiplier, a callable on [0, 1] that never increases,
        such as `lambda x: 1 - x` (the plain mean), or the n - 1 multipliers themselves.
      n: the number of snapshots, >= 1.

    Returns:
      float64 [n], not negative.

    Raises:
      ValueError: `n` is not an integer >= 1, or the multipliers leave [0, 1] or grow.

    Example:
      >>> from_decay(lambda x: 1 - x**2, 4)
      array([0.0625, 0.1875, 0.3125, 0.4375])

    Source: WSM, 2025, arXiv 2507.17634.
    """
    multipliers_K = _multipliers(decay, n)
    if np.any(np.diff(multipliers_K) > 0):
        raise ValueError(
            f"decay={decay!r} must never increase; its multipliers are "
            f"{_listed(multipliers_K)}"
        )
    return -np.diff(multipliers_K, prepend=1.0, append=0.0)


def to_decay(coefficients: Sequence[float]) -> np.ndarray:
    """Returns the learning-rate multipliers that a merge imitates.

    `W_j = sum_{i > j} c_i`, the inverse of `from_decay`; for any coefficients.

    Args:
      coefficients: n numbers, from the oldest to the newest.

    Returns:
      float64 [n - 1], the multiplier of the updates between neighbours.

    Example:
      >>> to_decay([0.25, 0.25, 0.5])
      array([0.75, 0.5 ])

    Source: WSM, 2025, arXiv 2507.17634.
    """
    return np.cumsum(np.asarray(coefficients, np.float64)[:0:-1])[::-1]


def quadratic_accurate(decay: Decay, n: int) -> np.ndarray:
    """Returns the coefficients that imitate a run with the decayed rate itself (QAM).

    `sum_i c_i z^i = prod_j (1 - W_j + W_j z)` with `W_j = decay((j + 1) / n)`: snapshot
    i counts with the probability of i successes in n - 1 trials of chances W_j. Where
    the loss is quadratic and the updates between snapshots are one step of gradient
    descent, the merge is where that decay would have led; in general it is right to
    second order in the rate, with an error of the third, where that of `from_decay` is
    of the second.

    Args:
      decay: as in `from_decay`, but may increase.
      n: the number of snapshots, >= 1.

    Returns:
      float64 [n], not negative.

    Raises:
      ValueError: `n` is not an integer >= 1, or the multipliers leave [0, 1].

    Example:
      >>> quadratic_accurate(lambda x: 0.5 * x**0, 3)
      array([0.25, 0.5 , 0.25])

    Source: QAM, 2026, "Quadratic-accurate checkpoint merging via sequential
    consistency".
    """
    coefficients = np.ones(1)
    for chance in _multipliers(decay, n):
        coefficients = np.convolve(coefficients, [1.0 - chance, chance])
    return coefficients


def given(coefficients: Sequence[float], n: int) -> np.ndarray:
    """Returns coefficients chosen by hand, checked; they may be negative.

    Args:
      coefficients: n finite numbers that sum to 1, to 1e-6 of the sum of their sizes.
      n: the number of snapshots, >= 1.

    Returns:
      float64 [n].

    Raises:
      ValueError: there are not `n`, one is not finite, or they do not sum to 1.

    Example:
      >>> given([-1, 2], 2)
      array([-1.,  2.])
    """
    weights.require_count("n", n, least=1)
    try:
        checked = np.asarray(coefficients, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"coefficients={coefficients!r} must be {n} numbers, one per snapshot"
        ) from error
    if checked.shape != (n,):
        raise ValueError(
            f"coefficients={_listed(checked)} must be {n} numbers, one per snapshot"
        )
    total = checked.sum()
    if not np.isfinite(total) or not abs(total - 1) <= _SUM_TOLERANCE * max(
        1.0, np.abs(checked).sum()
    ):
        raise ValueError(
            f"coefficients={_listed(checked)} must be finite and sum to 1, not {total}"
        )
    return checked


def _multipliers(decay: Decay, n: int) -> np.ndarray:
    """The n - 1 values of a decay, in float64 whatever the global setting is."""
    weights.require_count("n", n, least=1)
    if callable(decay):
        x_K = np.arange(1, n) / n
        with jax.enable_x64(True):
            values = [float(decay(jnp.asarray(x))) for x in x_K]
        multipliers_K = np.asarray(values, np.float64)
    elif isinstance(decay, str):
        raise ValueError(
            f"decay={decay!r} must be a callable on [0, 1] or {n - 1} multipliers; "
            "recipes take the names of shapes"
        )
    else:
        multipliers_K = np.asarray(decay, np.float64)
    if multipliers_K.shape != (n - 1,):
        raise ValueError(
            f"decay={_listed(multipliers_K)} must be {n - 1} multipliers for n={n}"
        )
    if not np.all((multipliers_K >= 0) & (multipliers_K <= 1)):
        raise ValueError(
            f"decay={decay!r} must be in [0, 1]; its multipliers are "
            f"{_listed(multipliers_K)}"
        )
    return multipliers_K


def _listed(values: np.ndarray) -> str:
    return f"[{', '.join(f'{value:.6g}' for value in np.ravel(values))}]"
