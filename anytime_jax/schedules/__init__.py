"""Learning-rate schedules: callables from the count of an update to its rate.

Counts start at 0, as in optax: `schedule(0)` is the rate of the first update. A trunk
has no horizon among its arguments, a fixed-horizon schedule has, and `cooldown`
branches off any schedule. `scale_by` makes a gradient transformation of one.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import optax

from anytime_jax import specs
from anytime_jax.schedules import fixed_horizon, trunks
from anytime_jax.schedules.cooldowns import SHAPES, Shape, cooldown
from anytime_jax.schedules.fixed_horizon import cosine, from_values, linear, wsd
from anytime_jax.schedules.transform import ScaleByState, scale_by
from anytime_jax.schedules.trunks import constant, infinite, inverse_sqrt, power_decay

__all__ = [
    "SHAPES",
    "ScaleByState",
    "Shape",
    "build",
    "constant",
    "cooldown",
    "cosine",
    "from_values",
    "horizon_free",
    "infinite",
    "inverse_sqrt",
    "linear",
    "power_decay",
    "scale_by",
    "wsd",
]

_FACTORIES = (
    *(getattr(trunks, name) for name in trunks.__all__),
    *(getattr(fixed_horizon, name) for name in fixed_horizon.__all__),
    cooldown,
)
_NAMES = [factory.__name__ for factory in _FACTORIES]
_TAKES_TOTAL_STEPS = [
    factory.__name__
    for factory in _FACTORIES
    if "total_steps" in inspect.signature(factory).parameters
]


def build(
    spec: Mapping[str, Any] | optax.Schedule, total_steps: int | None = None
) -> optax.Schedule:
    """Makes a schedule from data.

    Args:
      spec: `dict(name=..., ...)` with the name of a factory of this package and its
        arguments, of which None counts as not given. The `trunk` of a `cooldown` is
        again a spec. A callable is a schedule already and is returned as it is.
      total_steps: the length of the run, for a fixed-horizon schedule whose spec has no
        `total_steps`. It is not that of a cooldown's trunk, which belongs to an older
        run: a trunk with a horizon must state it.

    Returns:
      The schedule, a callable from count to rate.

    Raises:
      ValueError: the spec is no dict, its name or an argument is unknown or missing, or
        the factory refuses a value.

    Example:
      >>> schedule = build(dict(name="linear", peak=0.5), total_steps=100)
      >>> float(schedule(50))
      0.25
    """
    if callable(spec):
        return spec
    if not hasattr(spec, "items"):
        raise ValueError(f"schedule={spec!r} must be a dict(name=...) or a callable")
    spec = {k: v for k, v in spec.items() if v is not None}
    name = spec.get("name")
    if name == "cooldown" and "trunk" in spec:
        spec["trunk"] = build(spec["trunk"])
    if name in _TAKES_TOTAL_STEPS:
        spec = {"total_steps": total_steps, **spec}
    return specs.call(spec, _FACTORIES, kind="schedule")


def horizon_free(spec: Mapping[str, Any] | str) -> bool:
    """Returns whether a schedule has no horizon, so that its run can always go on.

    Args:
      spec: a spec as for `build`, or only its name.

    Returns:
      True for the trunks; False for fixed-horizon schedules and for `cooldown`.

    Raises:
      ValueError: the name is unknown.

    Example:
      >>> horizon_free("inverse_sqrt"), horizon_free(dict(name="cosine", peak=3e-3))
      (True, False)
    """
    name = spec if isinstance(spec, str) else spec.get("name")
    if name not in _NAMES:
        known = ", ".join(sorted(_NAMES))
        raise ValueError(f"schedule.name={name!r} is unknown; known are {known}")
    return name in trunks.__all__
