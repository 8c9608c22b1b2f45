"""What an average remembers, exactly: its coefficients and their moments."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from anytime_jax.averaging import weights


class Moments(NamedTuple):
    """What there is to say about a kernel in a few numbers.

    Attributes:
      mean_age: in updates, `sum_i p_i (steps - i)`.
      effective_samples: `1 / sum_i p_i^2`, the factor by which an average of
        independent noise reduces its variance.
      initial: the share of the initial parameters, p_0.
    """

    mean_age: float
    effective_samples: float
    initial: float


def moments(kernel_T1: np.ndarray) -> Moments:
    """Returns the moments of any kernel, of an average or of a merge.

    Args:
      kernel_T1: the coefficients of theta_0 ... theta_steps, which sum to 1.

    Returns:
      `Moments`.

    Example:
      >>> moments(np.array([0.0, 0.5, 0.5]))
      Moments(mean_age=0.5, effective_samples=2.0, initial=0.0)
    """
    ages = np.arange(len(kernel_T1) - 1, -1, -1)
    return Moments(
        mean_age=float(kernel_T1 @ ages),
        effective_samples=float(1.0 / (kernel_T1 @ kernel_T1)),
        initial=float(kernel_T1[0]),
    )


def tail_sums(kernel_T1: np.ndarray) -> np.ndarray:
    """Returns the learning-rate multiplier that any kernel imitates, per update.

    Args:
      kernel_T1: the coefficients of theta_0 ... theta_steps.

    Returns:
      float64 [steps]; see `implied_decay`.

    Example:
      >>> tail_sums(np.array([0.0, 0.5, 0.5]))
      array([1. , 0.5])
    """
    return np.cumsum(kernel_T1[::-1])[::-1][1:]


def kernel(
    average: Callable,
    steps: int,
    *,
    every: int = 1,
    tokens: int | Sequence[int] = 1,
) -> np.ndarray:
    """Returns the coefficient of each of theta_1 ... theta_steps in an average.

    With ticks at every, 2 every, ... and `m_j` the mass of tick j, the coefficient of
    the weights at tick j is `m_j prod_{l > j} (1 - m_l)`; between ticks it is 0. What
    is missing from a sum of 1 is the share of the initial parameters.

    Args:
      average: an `Average`, or a callable from update (>= 1) to mixing weight.
      steps: updates done, >= 1; the average is the one at the last tick not after it.
      every: updates between ticks.
      tokens: of an average whose time is in tokens, those of an update, or of each of
        the updates; 1 counts updates.

    Returns:
      float64 [steps].

    Raises:
      ValueError: `steps`, `every` or `tokens` is not an integer >= 1, or there are not
        `steps` of the latter.

    Example:
      >>> kernel(weights.power(gamma=1), 3)
      array([0.11111111, 0.33333333, 0.55555556])
    """
    weights.require_count("steps", steps, least=1)
    weights.require_count("every", every, least=1)
    stops = np.arange(every, steps + 1, every)
    masses = shares(average, stops, every, tokens)
    coefficients = np.zeros(steps)
    # The product over later ticks, as a sum of logarithms: log1p(-1) is -inf, and a
    # share of 1 does erase all that came before.
    with np.errstate(divide="ignore"):
        log_kept = np.log1p(-masses)
    log_later = np.append(np.cumsum(log_kept[:0:-1])[::-1], 0.0)[: len(stops)]
    coefficients[stops - 1] = masses * np.exp(log_later)
    return coefficients


def mean_age(average: Callable, steps: int, *, every: int = 1) -> float:
    """Returns the mean age, in updates, of the weights in an average.

    `sum_i p_i (steps - i)`, where the initial parameters count with i = 0.

    Args:
      average: an `Average`, or a callable from update (>= 1) to mixing weight.
      steps: updates done.
      every: updates between ticks.

    Returns:
      The mean age at update `steps`.

    Example:
      >>> round(mean_age(weights.uniform(), 101), 6)
      50.0
    """
    return moments(_whole(average, steps, every)).mean_age


def effective_samples(average: Callable, steps: int, *, every: int = 1) -> float:
    """Returns how many equally weighted iterates have the same noise.

    `1 / sum_i p_i^2`, the initial parameters included: the factor by which an average
    of independent noise reduces its variance.

    Args:
      average: an `Average`, or a callable from update (>= 1) to mixing weight.
      steps: updates done.
      every: updates between ticks.

    Returns:
      A number between 1 and steps + 1.

    Example:
      >>> round(effective_samples(weights.uniform(), 100), 6)
      100.0
    """
    return moments(_whole(average, steps, every)).effective_samples


def implied_decay(average: Callable, steps: int, *, every: int = 1) -> np.ndarray:
    """Returns the learning-rate multiplier that an average imitates.

    With `theta_t = theta_0 - sum_{i <= t} u_i`, the average is
    `theta_0 - sum_i W_i u_i` with `W_i = sum_{j >= i} p_j`: update i counts as if its
    rate had been multiplied by W_i. Exact in weight space; as a statement about
    training it is first-order, since the updates were taken along the raw path.

    Args:
      average: an `Average`, or a callable from update (>= 1) to mixing weight.
      steps: updates done.
      every: updates between ticks.

    Returns:
      float64 [steps], the multiplier of each update.

    Example:
      >>> implied_decay(weights.uniform(), 4)
      array([1.  , 0.75, 0.5 , 0.25])

    Source: WSM, 2025, arXiv 2507.17634, where it turns decays into merges of snapshots.
    """
    return tail_sums(_whole(average, steps, every))


def shares(
    average: Callable,
    stops: np.ndarray,
    every: int,
    tokens: int | Sequence[int] = 1,
) -> np.ndarray:
    """Returns the share of the newest weights at each tick, float64.

    Args:
      average: an `Average`, or a callable from update (>= 1) to mixing weight.
      stops: int [ticks], the update of each tick.
      every: updates between ticks.
      tokens: of an update, or of each of the updates.
    """
    times_T1 = times(tokens, int(stops[-1]) if len(stops) else 0)
    begins, ends = times_T1[stops - every], times_T1[stops]
    if isinstance(average, weights.Average):
        if average.share is not None:
            return np.asarray(average.mass(begins, ends), np.float64)
        if isinstance(tokens, int) and tokens == 1:
            return _products(average, begins, every)
    intervals = zip(begins.tolist(), ends.tolist(), strict=True)
    product = [weights.mass(average, begin, end) for begin, end in intervals]
    return np.asarray(product, np.float64)


def _products(average: weights.Average, begins: np.ndarray, every: int) -> np.ndarray:
    """The share from its definition, for all intervals of `every` updates at once."""
    share = np.zeros(len(begins))
    for update in range(1, every + 1):
        share += (1.0 - share) * average(begins + update)
    return share


def per_update(
    tokens: int | Sequence[tuple[int, int]], updates: int
) -> int | np.ndarray:
    """Returns the tokens of each update, from pairs of updates and their tokens.

    Args:
      tokens: of every update, or such pairs, of which the last may count too many.
      updates: how many there are.

    Example:
      >>> per_update([(2, 8), (99, 16)], 4)
      array([ 8,  8, 16, 16])
    """
    if isinstance(tokens, int):
        return tokens
    made = [np.full(min(count, updates), size) for count, size in tokens]
    return np.concatenate(made)[:updates]


def times(tokens: int | Sequence[int], steps: int) -> np.ndarray:
    """Returns the time at 0 ... steps updates.

    Args:
      tokens: of every update, or of each.
      steps: the number of updates.

    Raises:
      ValueError: `tokens` are not positive integers, or fewer than `steps`.
    """
    if isinstance(tokens, int | np.integer):
        weights.require_count("tokens", tokens, least=1)
        return np.arange(steps + 1) * int(tokens)
    tokens = np.asarray(tokens)
    integer = tokens.ndim == 1 and np.issubdtype(tokens.dtype, np.integer)
    if not integer or len(tokens) < steps or not np.all(tokens >= 1):
        raise ValueError(
            f"tokens, {tokens.dtype} of shape {tokens.shape}, must be a positive "
            f"integer, or one for each of the {steps} updates"
        )
    return np.append(0, np.cumsum(tokens[:steps]))


def _whole(average: Callable, steps: int, every: int) -> np.ndarray:
    """The kernel with the share of the initial parameters before it."""
    coefficients = kernel(average, steps, every=every)
    return np.append(1.0 - coefficients.sum(), coefficients)
