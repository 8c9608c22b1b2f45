"""Durations with a unit, converted to steps in this one place."""

import math
import numbers
from collections.abc import Mapping
from typing import Any

UNITS = ("steps", "tokens", "chinchilla")

# Hoffmann et al., 2022, arXiv 2203.15556: about 20 tokens a parameter.
TOKENS_PER_PARAMETER = 20


def to_steps(
    key: str,
    duration: Mapping[str, Any],
    *,
    tokens_per_step: int,
    non_embedding: int,
    several: bool = False,
) -> int | tuple[int, ...]:
    """Returns a duration, or a tuple of durations, in steps.

    `chinchilla` counts in multiples of 20 tokens per non-embedding parameter, so that
    `steps = round(20 chinchilla non_embedding / tokens_per_step)`.

    Args:
      key: where the duration stands in the config, for error messages.
      duration: a number, or a tuple of numbers if `several`, under exactly one of
        `steps`, `tokens`, `chinchilla`; 0 and () mean not given.
      tokens_per_step: batch size in tokens.
      non_embedding: parameters of the model without its embedding and head.
      several: whether these are several durations.

    Returns:
      Steps, each at least 1; a tuple of them if `several`.

    Raises:
      ValueError: not exactly one unit is given, the unit is unknown, or a value is
        not a finite number or less than one step.

    Example:
      >>> to_steps("duration", dict(chinchilla=2.0, steps=0),
      ...          tokens_per_step=1000, non_embedding=25_000)
      1000
    """
    given = {unit: value for unit, value in duration.items() if value}
    unknown = sorted(set(duration) - set(UNITS))
    if unknown or len(given) != 1:
        raise ValueError(
            f"{key} has {_listed(duration, unknown or given)}: give exactly one of "
            f"{', '.join(UNITS)}, and 0 or () for the others"
        )
    [(unit, value)] = given.items()
    tokens_per_unit = {
        "steps": tokens_per_step,
        "tokens": 1,
        "chinchilla": TOKENS_PER_PARAMETER * non_embedding,
    }[unit]

    amounts = value if several else (value,)
    if not isinstance(amounts, tuple | list) or not all(map(_is_finite, amounts)):
        wanted = "a tuple of finite numbers" if several else "a finite number"
        raise ValueError(f"{key}.{unit}={value!r} must be {wanted}")
    steps = [round(amount * tokens_per_unit / tokens_per_step) for amount in amounts]
    if min(steps) < 1 or max(steps) >= 2**31:
        raise ValueError(
            f"{key}.{unit}={value!r} must be at least one step of {tokens_per_step} "
            "tokens, and less than 2^31 steps"
        )
    return tuple(steps) if several else steps[0]


def _is_finite(amount: Any) -> bool:
    number = isinstance(amount, numbers.Real) and not isinstance(amount, bool)
    return number and math.isfinite(amount)


def _listed(duration: Mapping[str, Any], units: Any) -> str:
    listed = ", ".join(f"{unit}={duration[unit]!r}" for unit in units)
    return listed or "no value"
