"""Averages as schedules: from an update, counted from 1, to its mixing weight."""

import dataclasses
import math
import numbers
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Number = Any  # a Python number, a NumPy array, or a JAX array (traced or not)

# Harmonic numbers are summed term by term up to here and by their expansion beyond it.
_DIRECT_TERMS = 16


@dataclasses.dataclass(frozen=True)
class Average:
    """A running average, defined by how much of the newest weights enters at update t.

    `a_t = a_{t-1} + w_t (theta_t - a_{t-1})`, with `w_t = average(t)` in [0, 1] and
    `a_0` the initial parameters. Made by the factories of this module, which see.

    Attributes:
      name: the factory's name.
      arguments: the factory's arguments, as (name, value) pairs.
      weight: `t -> w_t` for t >= 1.
      share: `(length, stop) -> 1 - prod_{stop - length < i <= stop} (1 - w_i)`, or None
        where only the product itself gives it. By length, because the difference of two
        large times is lost in float32.
    """

    name: str
    arguments: tuple[tuple[str, float], ...]
    weight: Callable[[Number], Number] = dataclasses.field(repr=False, compare=False)
    share: Callable[[Number, Number], Number] | None = dataclasses.field(
        repr=False, compare=False
    )

    def __call__(self, t: Number) -> Number:
        """Returns the mixing weight of the newest parameters at update `t` >= 1."""
        return self.weight(t)

    def mass(self, start: Number, stop: Number) -> Number:
        """Returns the share that the newest weights receive for (start, stop].

        `1 - prod_{start < i <= stop} (1 - w_i)`: what the newest parameters get when
        they stand for all updates of the interval, as in tracking every k updates.

        Args:
          start: updates done at the last tick, >= 0; or any other measure of time, such
            as the tokens seen.
          stop: the same at this tick, > start.

        Returns:
          The share in [0, 1]: float64 for NumPy and Python arguments, JAX's default
          float for JAX arrays.

        Example:
          >>> float(uniform().mass(90, 100))
          0.1
        """
        if self.share is None:
            return _product_mass(self.weight, start, stop)
        return self.share(stop - start, stop)

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments)
        return f"{self.name}({arguments})"


def latest() -> Average:
    """Makes the average that is no average: the newest weights.

    `w_t = 1`

    Returns:
      An `Average`.

    Example:
      >>> float(latest()(7))
      1.0
    """
    return Average("latest", (), _one, _one)


def uniform() -> Average:
    """Makes the mean of all weights so far, theta_1 to theta_t (Polyak-Ruppert).

    `w_t = 1 / t` and `mass(start, stop) = (stop - start) / stop`

    Returns:
      An `Average`.

    Example:
      >>> float(uniform()(4))
      0.25

    Source: Polyak and Juditsky, 1992, "Acceleration of stochastic approximation by
    averaging"; Ruppert, 1988.
    """
    return Average(
        "uniform",
        (),
        lambda t: _one(t) / t,
        lambda length, stop: length * _one(length, stop) / stop,
    )


def age_ema(*, divisor: float) -> Average:
    """Makes an exponential average whose half-life is the age of the run / `divisor`.

    `w_t = 1 - 2^(-divisor / t)` and, with harmonic numbers H,
    `mass(start, stop) = 1 - 2^(-divisor (H_stop - H_start))`

    It remembers about as `power(gamma=divisor ln 2 - 1)` does: the coefficient of
    theta_i grows like `i^gamma`.

    Args:
      divisor: f of the paper's EMA-f, > 0; 25 is its choice, a half-life of 4 % of the
        age. The authors' code divides by t + 1 rather than t, a difference that is
        gone after a few hundred updates.

    Returns:
      An `Average`.

    Raises:
      ValueError: `divisor` is not positive and finite.

    Example:
      >>> float(age_ema(divisor=25)(25))
      0.5

    Source: Meterez et al., 2026, arXiv 2602.03702, and its released code.
    """
    _require("divisor", divisor, lambda value: value > 0, "positive and finite")
    rate = divisor * math.log(2)
    return Average(
        "age_ema",
        (("divisor", divisor),),
        lambda t: -_numpy(t).expm1(-rate * _one(t) / t),
        lambda length, stop: (
            -_numpy(length, stop).expm1(-rate * _harmonic_difference(length, stop))
        ),
    )


def power(*, gamma: float | None = None, sigma_rel: float | None = None) -> Average:
    """Makes the average that remembers theta_i in proportion to about `i^gamma`.

    `w_t = 1 - (1 - 1/t)^(gamma + 1)` and
    `mass(start, stop) = 1 - (start / stop)^(gamma + 1)`, so that the coefficient of
    theta_i is exactly `(i^(gamma+1) - (i-1)^(gamma+1)) / t^(gamma+1)`.

    Args:
      gamma: the exponent, > -1; 0 is `uniform()`.
      sigma_rel: instead of `gamma`, the standard deviation of the remembered position
        relative to the age, in (0, 12^-1/2); 0.05 and 0.10 are EDM2's.

    Returns:
      An `Average`.

    Raises:
      ValueError: not exactly one of the two is given, or it is out of range.

    Example:
      >>> float(power(gamma=1)(2))
      0.75

    Source: Karras et al., 2024, arXiv 2312.02696, equations 2 and 127; the inverse of
    sigma_rel is appendix C.
    """
    if (gamma is None) == (sigma_rel is None):
        raise ValueError(
            f"gamma={gamma!r} and sigma_rel={sigma_rel!r}: give exactly one of the two"
        )
    if gamma is None:
        widths = "in (0, 12^-1/2 = 0.288675)"
        _require("sigma_rel", sigma_rel, lambda value: 0 < value < 12**-0.5, widths)
        argument = ("sigma_rel", sigma_rel)
        gamma = _gamma_of_sigma_rel(sigma_rel)
    else:
        _require("gamma", gamma, lambda value: value > -1, "above -1 and finite")
        argument = ("gamma", gamma)

    def share(length, stop):
        xp, one = _numpy(length, stop), _one(length, stop)
        # log1p(-1), for the whole past, is -inf as it should be.
        with np.errstate(divide="ignore"):
            return -xp.expm1((gamma + 1) * xp.log1p(-length * one / stop))

    return Average("power", (argument,), lambda t: share(1, t), share)


def polynomial(*, eta: float) -> Average:
    """Makes the polynomial-decay average of Shamir and Zhang.

    `w_t = (1 + eta) / (t + eta)`; the coefficient of theta_i grows like `i^eta`.

    Args:
      eta: >= 0; 0 is `uniform()`, 3 a usual choice.

    Returns:
      An `Average`, whose `mass` is the product of its definition, so that its cost
      grows with the length of the interval.

    Raises:
      ValueError: `eta` is negative or not finite.

    Example:
      >>> float(polynomial(eta=3)(5))
      0.5

    Source: Shamir and Zhang, 2013, "Stochastic gradient descent for non-smooth
    optimization", section 4.
    """
    _require("eta", eta, lambda value: value >= 0, "at least 0 and finite")
    return Average(
        "polynomial",
        (("eta", eta),),
        lambda t: (1 + eta) * _one(t) / (t + eta),
        None,
    )


def ema(*, decay: float, debias: bool = True) -> Average:
    """Makes the exponential average of constant decay.

    `w_t = (1 - decay) / (1 - decay^t)` debiased, so that the initial parameters have no
    share, or `1 - decay`. With n = stop - start, `mass(start, stop)` is
    `(1 - decay^n) / (1 - decay^stop)`, or `1 - decay^n`.

    Args:
      decay: weight on the old average, in [0, 1); 0 is `latest()`.
      debias: whether the initial parameters are forgotten at once.

    Returns:
      An `Average`.

    Raises:
      ValueError: `decay` is out of range.

    Example:
      >>> float(ema(decay=0.5)(2))
      0.6666666666666666
    """
    _require("decay", decay, lambda value: 0 <= value < 1, "in [0, 1)")
    if not isinstance(debias, bool):
        raise ValueError(f"debias={debias!r} must be True or False")
    log_decay = math.log(decay) if decay else -math.inf

    def share(length, stop):
        xp, one = _numpy(length, stop), _one(length, stop)
        fresh = -xp.expm1(length * one * log_decay)
        if not debias:
            return fresh
        # Compiled, the quotient of equals may be a rounding above 1.
        return xp.minimum(one, fresh / -xp.expm1(stop * one * log_decay))

    arguments = (("decay", decay), ("debias", debias))
    return Average("ema", arguments, lambda t: share(1, t), share)


def tail(*, start: int) -> Average:
    """Makes the mean of all weights after update `start`.

    `w_t = 1` for t <= start, then `1 / (t - start)`

    Args:
      start: the number of updates to leave out, >= 0.

    Returns:
      An `Average`.

    Raises:
      ValueError: `start` is not an integer >= 0.

    Example:
      >>> [float(tail(start=10)(t)) for t in (9, 11, 12)]
      [1.0, 1.0, 0.5]

    Source: Jain et al., 2018, arXiv 1610.03774.
    """
    require_count("start", start, least=0)

    def share(length, stop):
        xp = _numpy(length, stop)
        # A float, which tokens are, may be larger than any int32.
        floating = jnp.issubdtype(jnp.result_type(stop), jnp.floating)
        # Up to `start` the interval counts as one update, whose weight is 1.
        remembered = xp.maximum(stop - (float(start) if floating else start), 1)
        return xp.minimum(length, remembered) * _one(length, stop) / remembered

    return Average("tail", (("start", start),), lambda t: share(1, t), share)


def mass(average: Callable[[Number], Number], start: Number, stop: Number) -> Number:
    """Returns `average.mass(start, stop)`, for plain callables `t -> w_t` too.

    Args:
      average: an `Average` or a callable from update (>= 1) to mixing weight.
      start: updates done at the last tick.
      stop: updates done at this tick.

    Returns:
      `1 - prod_{start < i <= stop} (1 - w_i)`.

    Example:
      >>> float(mass(lambda t: 0.5, 3, 5))
      0.75
    """
    if isinstance(average, Average):
        return average.mass(start, stop)
    return _product_mass(average, start, stop)


def _product_mass(
    weight: Callable[[Number], Number], start: Number, stop: Number
) -> Number:
    """The share from its definition, and never as 1 minus a product: m + (1 - m) w_i.

    Under tracing this is a loop of `stop - start` scalar steps.
    """
    if not _is_jax(start, stop):
        share = np.float64(0.0)
        for t in range(int(start) + 1, int(stop) + 1):
            share += (1.0 - share) * np.float64(weight(t))
        return share

    def body(t, share):
        return share + (1 - share) * jnp.asarray(weight(t), share.dtype)

    zero = jnp.zeros((), jnp.result_type(float))
    return jax.lax.fori_loop(start + 1, stop + 1, body, zero)


def _harmonic_difference(length: Number, stop: Number) -> Number:
    """H_stop - H_(stop - length), exact to rounding in the type of the arguments.

    Terms up to 1/16 are summed; beyond, with u = 1/start and v = 1/stop, the expansion
    `log(stop/start) - (u-v)/2 + (u^2-v^2)/12 - (u^4-v^4)/120 + ...` (Abramowitz and
    Stegun, 6.3.18) is differenced term by term, so that nothing cancels.
    """
    xp, one = _numpy(length, stop), _one(length, stop)
    start = stop - length
    direct = 0 * one
    for i in range(1, _DIRECT_TERMS + 1):
        direct = direct + xp.where((start < i) & (i <= stop), one / i, 0 * one)
    low, high = xp.maximum(start, _DIRECT_TERMS), xp.maximum(stop, _DIRECT_TERMS)
    length = xp.where(start < _DIRECT_TERMS, high - low, length) * one
    u, v = one / low, one / high
    first = length * u * v
    second = first * (u + v)
    fourth = second * (u**2 + v**2)
    sixth = second * (u**4 + u**2 * v**2 + v**4)
    eighth = fourth * (u**4 + v**4)
    expansion = xp.log1p(length * u) - first / 2 + second / 12 - fourth / 120
    return direct + expansion + sixth / 252 - eighth / 240


def _gamma_of_sigma_rel(sigma_rel: float) -> float:
    """The exponent of a relative width: the largest root of Karras et al.'s cubic."""
    inverse_square = sigma_rel**-2
    roots = np.roots([1, 7, 16 - inverse_square, 12 - inverse_square])
    return float(roots.real.max())


def _is_jax(*values: Number) -> bool:
    return any(isinstance(value, jax.Array) for value in values)


def _numpy(*values: Number):
    return jnp if _is_jax(*values) else np


def _one(*values: Number) -> Number:
    """1 in the float type that goes with the values, and in their shape."""
    shape = np.broadcast_shapes(*map(np.shape, values))
    if _is_jax(*values):
        return jnp.ones(shape, jnp.result_type(float))
    return np.ones(shape)[()]


def require_count(name: str, value: int, least: int) -> None:
    """Refuses what is not an integer of at least `least`."""
    integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not (integer and value >= least):
        raise ValueError(f"{name}={value!r} must be an integer >= {least}")


def _require(
    name: str, value: float, allows: Callable[[float], bool], allowed: str
) -> None:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    # A whole number may be beyond all floats, where isfinite raises.
    if not (number and abs(value) <= sys.float_info.max and allows(value)):
        raise ValueError(f"{name}={value!r} must be {allowed}")
