"""Durations with a unit, converted to steps in this one place."""

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
) -> int | tuple[int, ...]:
    """Returns a duration, or a tuple of durations, in steps.

    `chinchilla` counts in multiples of 20 tokens per non-embedding parameter, so that
    `steps = round(20 chinchilla non_embedding / tokens_per_step)`.

    Args:
      key: where the duration stands in the config, for error messages.
      duration: a value, or a tuple of values, under exactly one of `steps`, `tokens`,
        `chinchilla`; 0 and () mean not given.
      tokens_per_step: batch size in tokens.
      non_embedding: parameters of the model without its embedding and head.

    Returns:
      Steps, each at least 1, in the shape of what was given.

    Raises:
      ValueError: not exactly one unit is given, the unit is unknown, or a value is
        negative or less than one step.

    Example:
      >>> to_steps("duration", dict(chinchilla=2.0, steps=0),
      ...          tokens_per_step=1000, non_embedding=25_000)
      1000
    """
    given = {unit: value for unit, value in duration.items() if value not in (0, ())}
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

    def convert(amount):
        if isinstance(amount, bool) or not isinstance(amount, numbers.Real):
            raise ValueError(f"{key}.{unit}={value!r} must hold numbers")
        steps = round(amount * tokens_per_unit / tokens_per_step)
        if steps < 1:
            raise ValueError(
                f"{key}.{unit}={amount!r} is less than one step of {tokens_per_step} "
                "tokens"
            )
        return steps

    if isinstance(value, tuple | list):
        return tuple(convert(amount) for amount in value)
    return convert(value)


def _listed(duration: Mapping[str, Any], units: Any) -> str:
    listed = ", ".join(f"{unit}={duration[unit]!r}" for unit in units)
    return listed or "no value"
