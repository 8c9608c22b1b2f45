"""AdamW as an average of its updates: what the weights remember of each batch."""

import math
from typing import NamedTuple

import numpy as np

from anytime_jax.averaging import weights
from anytime_jax.theory import values


class Timescale(NamedTuple):
    """How long AdamW remembers.

    Attributes:
      updates: 1 / (rate * weight_decay); infinite without weight decay.
      fraction: the same as a fraction of the run.
    """

    updates: float
    fraction: float


def coefficients(schedule: values.Rates, weight_decay: float, steps: int) -> np.ndarray:
    """Returns the coefficient of the initial weights and of every update.

    AdamW, `theta_t = (1 - eta_t lambda) theta_{t-1} - eta_t u_t`, is with
    `alpha_t = eta_t lambda` and `x_t = -u_t / lambda` the average
    `theta_t = (1 - alpha_t) theta_{t-1} + alpha_t x_t`. After T = steps updates it is
    `c_0 theta_0 + sum_i c_i x_i` with

        c_i = alpha_i prod_{j=i+1}^T (1 - alpha_j),  c_0 = prod_{j=1}^T (1 - alpha_j)

    which sum to 1. `averaging.moments` tells the mean age and the effective number of
    updates of them.

    Args:
      schedule: eta, a schedule, a number or an array of rates; `values.rates`.
      weight_decay: lambda, decoupled and multiplied by the rate, as in `optax.adamw`.
        Each rate * weight_decay must be in [0, 1].
      steps: updates, T.

    Returns:
      float64 [steps + 1]: c_0, c_1, ..., c_T.

    Raises:
      ValueError: an argument is out of range; the message names the update.

    Example:
      >>> coefficients(0.5, 0.4, 5)
      array([0.32768, 0.08192, 0.1024 , 0.128  , 0.16   , 0.2    ])

    Source: Bergsma et al., "Straight to Zero", 2025, arXiv 2502.15938.
    """
    return values.remembered(_shares(schedule, weight_decay, steps))


def timescale(schedule: values.Rates, weight_decay: float, steps: int) -> Timescale:
    """Returns after how many updates a constant rate has forgotten all but 1/e.

    `tau = 1 / (eta lambda)` updates, or `1 / (eta lambda steps)` of the run, which is
    `B / (eta lambda D)` with a batch of B and D tokens in all. Of a schedule that
    varies it is, as in the papers, the timescale of its highest rate, shorter than that
    of the other rates. What such a run remembers in the end is in `coefficients`.

    Args:
      schedule: eta, a schedule, a number or an array of rates.
      weight_decay: lambda, as for `coefficients`.
      steps: updates of the run.

    Returns:
      `Timescale`.

    Raises:
      ValueError: an argument is out of range; the message names the update.

    Example:
      >>> timescale(1e-3, 0.1, 50_000)
      Timescale(updates=10000.0, fraction=0.2)

    Source: Bergsma et al., 2025, arXiv 2502.15938; Wang and Aitchison, 2024, arXiv
    2405.13698.
    """
    highest = float(np.max(_shares(schedule, weight_decay, steps)))
    updates = 1 / highest if highest else float("inf")
    return Timescale(updates, updates / steps)


def progress_exponent(
    tokens_per_parameter: float,
    timescale_fraction: float,
    *,
    constant: float,
    tokens_exponent: float,
    timescale_exponent: float,
) -> float:
    """Returns the exponent m of `reevaluation_curve` from its law.

    `m = C TPP^mu1 tau^mu2`. The fitted C, mu1 and mu2 were not published.

    Args:
      tokens_per_parameter: TPP, > 0; of a mixture of experts, divided by their number.
      timescale_fraction: tau, > 0, the `fraction` of a `timescale`.
      constant: C, >= 0.
      tokens_exponent: mu1.
      timescale_exponent: mu2.

    Returns:
      m.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> arguments = dict(constant=0.5, tokens_exponent=0.5, timescale_exponent=-1.0)
      >>> progress_exponent(16.0, 0.25, **arguments)
      8.0

    Source: the law of "TREC", 2025, arXiv 2509.25380.
    """
    values.require_positive("tokens_per_parameter", tokens_per_parameter)
    values.require_positive("timescale_fraction", timescale_fraction)
    exponents = dict(
        tokens_exponent=tokens_exponent, timescale_exponent=timescale_exponent
    )
    for name, value in exponents.items():
        values.require_number(name, value, "finite", math.isfinite)
    values.require_number("constant", constant, *_AT_LEAST_0)
    return float(
        constant
        * tokens_per_parameter**tokens_exponent
        * timescale_fraction**timescale_exponent
    )


def reevaluation_curve(
    schedule: values.Rates,
    weight_decay: float,
    steps: int,
    *,
    progress_exponent: float,
    coefficient_exponent: float = 0.5,
) -> np.ndarray:
    """Returns the predicted loss of the final weights on each of the training batches.

    `1 - c(x)^p x^m` up to an affine map, with x = t / steps for update t = 1, 2, ...
    and c the `coefficients` without the initial weights', divided by their maximum. A
    batch that the weights remember well has a low loss; the factor x^m says that early
    updates, made at other weights, are worth less.

    Args:
      schedule: eta, a schedule, a number or an array of rates.
      weight_decay: lambda, as for `coefficients`.
      steps: updates of the run.
      progress_exponent: m, >= 0, to be fitted; `progress_exponent` is its law.
      coefficient_exponent: p, > 0; by default 0.5, the paper's.

    Returns:
      float64 [steps], in [0, 1].

    Raises:
      ValueError: an argument is out of range, or no update is remembered at all.

    Example:
      >>> reevaluation_curve(0.5, 2.0, 4, progress_exponent=1.0)
      array([1., 1., 1., 0.])
      >>> curve = reevaluation_curve(0.1, 1.0, 100, progress_exponent=1.0)
      >>> best_placement(curve)
      99

    Source: "TREC", 2025, arXiv 2509.25380, after a secondary source.
    """
    values.require_number("progress_exponent", progress_exponent, *_AT_LEAST_0)
    values.require_positive("coefficient_exponent", coefficient_exponent)
    remembered_T = coefficients(schedule, weight_decay, steps)[1:]
    highest = np.max(remembered_T)
    if highest == 0:
        raise ValueError(
            f"schedule and weight_decay={weight_decay!r} must have a product above 0"
        )
    progress_T = np.arange(1, steps + 1) / steps
    weight_T = (remembered_T / highest) ** coefficient_exponent
    return 1 - weight_T * progress_T**progress_exponent


def best_placement(curve_T: np.ndarray, length: int = 1) -> int:
    """Returns the update at which the best data should begin.

    Args:
      curve_T: a re-evaluation curve, predicted or measured.
      length: for how many updates the data last; by default 1.

    Returns:
      The count, from 0, of the first of those `length` updates whose mean is lowest.

    Raises:
      ValueError: `length` is not an integer from 1 to the curve's length.

    Example:
      >>> best_placement(np.array([0.9, 0.2, 0.8, 0.3, 0.4]), length=2)
      3
    """
    weights.require_count("length", length, least=1)
    if np.ndim(curve_T) != 1 or length > len(curve_T):
        raise ValueError(
            f"length={length} must be at most that of the curve, whose shape is "
            f"{np.shape(curve_T)}"
        )
    sums_T1 = np.append(0.0, values.running_sums(np.asarray(curve_T, np.float64)))
    return int(np.argmin(sums_T1[length:] - sums_T1[: len(sums_T1) - length]))


_AT_LEAST_0 = ("finite and >= 0", lambda x: 0 <= x < math.inf)


def _shares(schedule: values.Rates, weight_decay: float, steps: int) -> np.ndarray:
    """alpha_t, the share of the newest update."""
    values.require_number("weight_decay", weight_decay, *_AT_LEAST_0)
    shares_T = values.rates(schedule, steps) * weight_decay
    values.require(shares_T, "schedule * weight_decay", "in [0, 1]", shares_T <= 1)
    return shares_T
