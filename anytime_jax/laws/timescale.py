"""How long AdamW remembers, and what follows from tokens per parameter.

The weights of AdamW are an average of its updates over the last `1 / (rate decay)`
steps; curves of different sizes collapse if the share of the run that this is, the
timescale, agrees, and so do the schedule's shape and the tokens per parameter.
Published constants are defaults; exponents without a published prefactor need a
reference point.
"""

from typing import NamedTuple

import numpy as np

from anytime_jax.averaging import weights
from anytime_jax.laws import points


class Overtraining(NamedTuple):
    """A model smaller than the best for its loss, trained for longer.

    Attributes:
      size: its parameters over those of the best, k_N.
      data: its tokens over those of the best, k_D.
      compute: k_N k_D.
    """

    size: float
    data: float
    compute: float


def timescale(learning_rate: float, weight_decay: float, steps: int) -> float:
    """Returns the share of the run that AdamW's weights remember.

    `tau = 1 / (eta lambda T) = B / (eta lambda D)`

    Args:
      learning_rate: peak eta, > 0, as it multiplies the decay: adjusted for width where
        the decay is.
      weight_decay: lambda > 0, of AdamW as in optax: the update is
        `-eta (m / sqrt(v) + lambda theta)`.
      steps: T, tokens over batch size.

    Returns:
      tau; above 1 the run never forgets its start.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> timescale(1e-3, 0.1, 50_000)
      0.2

    Source: Bergsma et al., "Scaling with Collapse", 2025, arXiv 2509.25087.
    """
    points.above_zero(learning_rate=learning_rate, weight_decay=weight_decay)
    weights.require_count("steps", steps, least=1)
    return 1 / (learning_rate * weight_decay * steps)


def optimal_timescale(
    tokens_per_parameter: float, *, coefficient: float = 1.084, exponent: float = -0.527
) -> float:
    """Returns the timescale of least loss.

    `tau_opt = 1.084 TPP^-0.527`

    Args:
      tokens_per_parameter: TPP > 0.
      coefficient: by default 1.084.
      exponent: by default -0.527 (published 10 and 90 % points -0.529 and -0.507).

    Returns:
      tau_opt.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> round(optimal_timescale(20), 4)
      0.2236

    Source: Bergsma et al., "Power Lines", 2025, arXiv 2505.13738.
    """
    points.above_zero(
        tokens_per_parameter=tokens_per_parameter, coefficient=coefficient
    )
    points.number("exponent", exponent, "finite", lambda x: True)
    return coefficient * tokens_per_parameter**exponent


def optimal_weight_decay(
    learning_rate: float, steps: int, tokens_per_parameter: float, **constants: float
) -> float:
    """Returns the weight decay whose timescale is the best.

    `lambda_opt = 1 / (tau_opt eta T) = B TPP^0.527 / (1.084 eta D)`

    Args:
      learning_rate: peak eta, > 0.
      steps: T.
      tokens_per_parameter: TPP > 0.
      **constants: `coefficient` and `exponent` of `optimal_timescale`.

    Returns:
      lambda_opt.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> round(optimal_weight_decay(1e-3, 50_000, 20), 5)
      0.08946

    Source: Bergsma et al., 2025, arXiv 2505.13738.
    """
    best = optimal_timescale(tokens_per_parameter, **constants)
    return timescale(learning_rate, best, steps)


def optimal_batch(
    tokens: float,
    *,
    reference_tokens: float,
    reference_batch: float,
    exponent: float = 0.38,
) -> float:
    """Returns the best batch size for an amount of data, from one that is known.

    `B_opt ~ D^0.38`; with `exponent=0.47` the critical one, `B_crit ~ D^0.47`. The
    prefactors are not given here: they depend on the data and the model.

    Args:
      tokens: D > 0.
      reference_tokens: D where the best batch is known, > 0.
      reference_batch: that batch size, > 0, in any unit.
      exponent: by default 0.38 (published 10 and 90 % points 0.367 and 0.391).

    Returns:
      The batch size, in the unit of the reference.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> round(optimal_batch(1e11, reference_tokens=1e9, reference_batch=100), 1)
      575.4

    Source: Bergsma et al., 2025, arXiv 2505.13738.
    """
    points.above_zero(
        tokens=tokens,
        reference_tokens=reference_tokens,
        reference_batch=reference_batch,
    )
    points.number("exponent", exponent, "finite", lambda x: True)
    return reference_batch * (tokens / reference_tokens) ** exponent


def overtraining(
    tokens_per_parameter: float, *, exponent: float = 0.35, optimal: float = 20.0
) -> Overtraining:
    """Returns what a run at given tokens per parameter costs beside the best one.

    Of the same loss, for equal exponents a of parameters and tokens:

        k_D = (2 - k_N^-a)^(-1/a),    k_D / k_N = TPP / TPP_opt,    C / C_opt = k_N k_D

    Args:
      tokens_per_parameter: TPP > 0; below the optimal it is the model that is larger.
      exponent: a; by default 0.35.
      optimal: TPP_opt; by default 20.

    Returns:
      `Overtraining`.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> [round(value, 2) for value in overtraining(234)]
      [0.38, 4.42, 1.67]

    Source: Bergsma et al., 2025, arXiv 2509.25087.
    """
    points.above_zero(
        tokens_per_parameter=tokens_per_parameter, exponent=exponent, optimal=optimal
    )
    # With u = k_N^-a and v = k_D^-a the loss is the same at u + v = 2.
    share = 2 / (1 + (tokens_per_parameter / optimal) ** -exponent)
    size, data = share ** (-1 / exponent), (2 - share) ** (-1 / exponent)
    return Overtraining(size, data, size * data)


def tokens_per_parameter_curve(
    progress: points.Numbers, ratio: float, *, exponent: float = 0.35
) -> np.ndarray:
    """Returns the normalised curve of a run at given tokens per parameter.

    `l(x) = (1 + v^-a x^-a) / (1 + v^-a)`, with `v = TPP / TPP_opt`

    Args:
      progress: x in (0, 1], any shape.
      ratio: v > 0.
      exponent: a; by default 0.35.

    Returns:
      float64, of the same shape.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> tokens_per_parameter_curve([0.25, 1.0], 1.0, exponent=0.5)
      array([1.5, 1. ])

    Source: Bergsma et al., 2025, arXiv 2509.25087.
    """
    progress = points.positive("progress", progress, ndim=None)
    points.above_zero(ratio=ratio, exponent=exponent)
    return (1 + (ratio * progress) ** -exponent) / (1 + ratio**-exponent)


def noisy_quadratic(
    progress: points.Numbers,
    tau: float,
    *,
    curvature: float,
    noise: float,
    start: float,
) -> np.ndarray:
    """Returns the expected loss of an exponential average in a noisy quadratic.

        E[L] = h s^2 / (4 tau) (1 - e^(-2 x / tau)) + h / 2 e^(-2 x / tau) E[theta_0^2]

    Its first term is what the noise leaves, its second what is left of the start.

    Args:
      progress: x >= 0, any shape.
      tau: the timescale, > 0.
      curvature: h > 0.
      noise: variance s^2 >= 0 of an update, in the unit of the run's whole length.
      start: E[theta_0^2] >= 0.

    Returns:
      float64, of the same shape.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> noisy_quadratic([0.0, 1e3], 0.5, curvature=2.0, noise=0.1, start=3.0)
      array([3. , 0.1])

    Source: Bergsma et al., 2025, arXiv 2509.25087.
    """
    progress = points.finite("progress", progress, ndim=None)
    points.above_zero(tau=tau, curvature=curvature)
    for name, value in dict(noise=noise, start=start).items():
        points.number(name, value, "finite and >= 0", lambda x: x >= 0)
    left = np.exp(-2 * progress / tau)
    return curvature * (noise / (4 * tau) * (1 - left) + start / 2 * left)
