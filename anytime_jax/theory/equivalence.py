"""Averages as decays: the schedule whose last iterate is an average."""

from collections.abc import Callable

import numpy as np

from anytime_jax import averaging
from anytime_jax.theory import inputs, values


def equivalent_schedule(
    average: averaging.Average | Callable, rate: values.Rates, steps: int
) -> np.ndarray:
    """Returns the rates of the run whose last iterate is the average of another run.

    For one weight and the loss `E (w - x)^2 / 2`, SGD is
    `w_t = (1 - eta_t) w_{t-1} + eta_t x_t`. With the kernel p of the average, its
    weight on x_k is `a_k = eta_k A_k` with `A_k = p_k + (1 - eta_{k+1}) A_{k+1}`, and
    that on w_0 is `a_0 = p_0 + (1 - eta_1) A_1`. A run with the rates

        a_k / (a_0 + a_1 + ... + a_k)

    has the same weights on the same samples in its last iterate: averaging is a
    schedule that decays by itself. The identity is exact for one weight. With several
    curvatures the rates depend on each of them, and no schedule does it for all.

    Args:
      average: an `Average`, or a callable from update (>= 1) to mixing weight. In it
        theta_t is w_t, after t updates, and w_0 is the initial parameter; the mean of
        w_0 ... w_t too is `lambda t: 1 / (t + 1)`.
      rate: eta, the rate of the averaged run times its curvature, in (0, 1]: a number,
        an array of `steps` rates or a schedule.
      steps: updates of either run, >= 1.

    Returns:
      float64 [steps], in [0, 1]; `schedules.from_values` makes a schedule of it. Where
      a_0 ... a_k are all 0 (below 1e-308), any rate will do: it is that of the averaged
      run.

    Raises:
      ValueError: a rate is not in (0, 1] or a mixing weight not in [0, 1], or there
        are not `steps` rates.

    Example:
      >>> equivalent_schedule(averaging.latest(), 0.5, 3)
      array([0.5, 0.5, 0.5])
      >>> equivalent_schedule(averaging.uniform(), 1.0, 4).round(4)
      array([1.    , 0.5   , 0.3333, 0.25  ])

    Source: the statement is in Meterez et al., "Anytime Pretraining", 2026, arXiv
    2602.03702; these rates are derived here.
    """
    rates_T = values.rates(rate, steps, "rate")
    allowed = (rates_T > 0) & (rates_T <= 1)
    values.require(rates_T, "rate", "in (0, 1]", allowed)
    weight_T = inputs.mixing_weights("average", average, steps)
    kernel_T1 = values.remembered(weight_T)
    left_T = _later_share(kernel_T1[1:], rates_T)
    samples_T = rates_T * left_T
    initial = kernel_T1[0] + (1 - rates_T[0]) * left_T[0]
    # Sums of positive numbers: nothing cancels, not even where they are tiny.
    sums_T = values.running_sums(np.append(initial, samples_T))[1:]
    return np.divide(samples_T, sums_T, out=rates_T, where=sums_T > 0)


def _later_share(kernel_T: np.ndarray, rates_T: np.ndarray) -> np.ndarray:
    """A_k, how much of the iterate w_k is in the average, through all later ones."""
    left, lefts = 0.0, []
    kept = np.append(1 - rates_T[1:], 0.0)
    for share, keep in zip(kernel_T[::-1].tolist(), kept[::-1].tolist(), strict=True):
        left = share + keep * left
        lefts.append(left)
    return np.array(lefts[::-1])
