"""Cooldowns: how a trunk's rate is brought down before a model is shipped."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from anytime_jax.schedules import _pieces

__all__ = ["SHAPES", "Shape", "cooldown"]

Shape = str | Mapping[str, Any] | Callable[[jax.Array], jax.Array]


def _cosine(x: jax.Array) -> jax.Array:
    return (1 + jnp.cos(jnp.pi * x)) / 2


def _inverse_sqrt(x: jax.Array, scale: float = 10.0) -> jax.Array:
    # 1 - h(x) / h(1) with h(x) = 1 / sqrt(1 + scale x) - 1, without its cancellation,
    # so that it is exactly 1 and 0 at the ends.
    root, last = jnp.sqrt(1 + scale * x), jnp.sqrt(1 + scale)
    return (1 - x) * (last + 1) / (root * (root + last))


# s(x) on [0, 1], except "exponential", which is the multiplier itself. No published
# formula of lowered_linear is known to us; kappa (1 - x) is a reconstruction.
SHAPES = {
    "linear": lambda x: 1 - x,
    "cosine": _cosine,
    "mirror_cosine": lambda x: 2 * (1 - x) - _cosine(x),
    "square": lambda x: 1 - x**2,
    "1-sqrt": lambda x: 1 - jnp.sqrt(x),
    "inverse_sqrt": _inverse_sqrt,
    "exponential": lambda x, final_fraction: final_fraction**x,
    "lowered_linear": lambda x, kappa=0.7: kappa * (1 - x),
    "power": lambda x, exponent=1.5: (1 - x) ** exponent,
}

_CHECKS = {
    "kappa": _pieces.require_fraction,
    "exponent": _pieces.require_positive,
    "scale": _pieces.require_positive,
}


def _named_shape(shape: str | Mapping[str, Any]) -> tuple[str, Callable]:
    """Returns the name and the function of a shape given as a name or a dict."""
    given = dict(shape) if hasattr(shape, "items") else {"name": shape}
    name = given.pop("name", None)
    if not isinstance(name, str) or name not in SHAPES:
        known = ", ".join(SHAPES)
        raise ValueError(f"shape={name!r} must be one of {known}, or a callable")
    arguments = {k: v for k, v in given.items() if v is not None}
    known = [k for k in inspect.signature(SHAPES[name]).parameters if k in _CHECKS]
    for argument, value in arguments.items():
        if argument not in known:
            raise ValueError(
                f"shape.{argument}={value!r} is not an argument of shape {name!r}; "
                f"known are {', '.join(known) or 'none'}"
            )
        _CHECKS[argument](**{f"shape.{argument}": value})
    return name, partial(SHAPES[name], **arguments)


def multiplier(shape: Shape, final_fraction: float) -> Callable:
    """Returns x -> f + (1 - f) s(x), or f^x, with derivative 0 at both ends."""
    inner = _multiplier(shape, final_fraction)

    def decay(x: jax.Array) -> jax.Array:
        # A shape may have an infinite derivative at its ends, which times the clamped
        # clock's 0 would be NaN: outside the open interval x is a constant.
        inside = (x > 0) & (x < 1)
        return jnp.where(
            inside,
            inner(jnp.where(inside, x, 0.5)),
            inner(jax.lax.stop_gradient(x)),
        )

    return decay


def _multiplier(shape: Shape, final_fraction: float) -> Callable:
    """Returns x -> f + (1 - f) s(x), or f^x, with f = final_fraction."""
    _pieces.require_fraction(final_fraction=final_fraction)
    name, s = (None, shape) if callable(shape) else _named_shape(shape)
    if name == "exponential":
        _pieces.require(
            "above 0 for shape 'exponential'",
            lambda f: f > 0,
            final_fraction=final_fraction,
        )
        return partial(s, final_fraction=final_fraction)

    def fraction(x: jax.Array) -> jax.Array:
        remaining = s(x)
        # Exact at both ends: 1 where s is 1 and final_fraction where s is 0.
        return remaining + final_fraction * (1 - remaining)

    return fraction


def cooldown(
    trunk: optax.Schedule,
    *,
    start: int,
    steps: int,
    shape: Shape = "linear",
    final_fraction: float = 0.1,
) -> optax.Schedule:
    """Returns `trunk` up to `start`, then a cooldown from the rate it had there.

    With x = (count - start) / steps and f = final_fraction the rate is `trunk(count)`
    before `start`, `trunk(start) * (f + (1 - f) * s(x))` from there on, and
    `trunk(start) * (f + (1 - f) * s(1))` after the end. The shapes s(x) are

    | name             | s(x)                                                     |
    |------------------|----------------------------------------------------------|
    | `linear`         | 1 - x                                                    |
    | `cosine`         | (1 + cos(pi x)) / 2                                      |
    | `mirror_cosine`  | 2 (1 - x) - cosine                                       |
    | `square`         | 1 - x^2                                                  |
    | `1-sqrt`         | 1 - sqrt(x)                                              |
    | `lowered_linear` | kappa (1 - x), kappa 0.7                                 |
    | `power`          | (1 - x)^exponent, exponent 1.5                           |
    | `inverse_sqrt`   | 1 - h(x) / h(1), h(x) = 1 / sqrt(1 + scale x) - 1, scale 10 |

    and `exponential` multiplies by f^x instead. At the very start and end of the
    cooldown the derivative with respect to the count is 0 for every shape: that of
    `1-sqrt` would be infinite.

    Args:
      trunk: the schedule to leave, a callable from count to rate.
      start: the count at which the cooldown starts.
      steps: its length; 0 jumps to the final rate at `start`.
      shape: a name, a dict such as `dict(name="power", exponent=2.0)` or
        `dict(name="lowered_linear", kappa=0.5)`, or a callable s on [0, 1]; by default
        "linear".
      final_fraction: f, in [0, 1], as a fraction of the rate at `start`; by default 0.1
        as in Anytime Pretraining. Above 0 for `exponential`.

    Returns:
      The schedule, a callable from count to rate.

    Raises:
      ValueError: an argument is out of range, or the shape is unknown.

    Example:
      >>> schedule = cooldown(lambda count: 0.5, start=80, steps=20, final_fraction=0.0)
      >>> [float(schedule(count)) for count in (0, 80, 90, 100, 10**9)]
      [0.5, 0.5, 0.25, 0.0, 0.0]

    Source: Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed
    Training Durations", 2024, arXiv 2405.18392; `lowered_linear` after Dremov et al.,
    2025, arXiv 2508.01483, its formula reconstructed; `inverse_sqrt` after Ibrahim et
    al., 2024, arXiv 2403.08763, its scale after Singh et al., 2025, arXiv 2503.02844.
    """
    if not callable(trunk):
        raise ValueError(f"trunk={trunk!r} must be a callable from count to rate")
    _pieces.require_steps(start=start, steps=steps)
    decay = multiplier(shape, final_fraction)

    def schedule(count: ArrayLike) -> jax.Array:
        x = _pieces.progress(count, start, steps)
        # A shape need not start at 1, so before the start it does not multiply.
        rate = trunk(_pieces.elapsed(count, 0, start))
        return rate * jnp.where(count >= start, decay(x), 1)

    return schedule
