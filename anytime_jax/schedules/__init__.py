"""Learning-rate schedules: callables from the count of an update to its rate.

Counts start at 0, as in optax: `schedule(0)` is the rate of the first update. A trunk
has no horizon among its arguments, a fixed-horizon schedule has, and `cooldown`
branches off any schedule. `scale_by` makes a gradient transformation of one,
`rates` a table.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import optax

from anytime_jax import specs
from anytime_jax.schedules import classic, fixed_horizon, refined, trunks, values
from anytime_jax.schedules.classic import cyclic, exponential, multi_step, step_decay
from anytime_jax.schedules.cooldowns import SHAPES, Shape, cooldown
from anytime_jax.schedules.fixed_horizon import (
    cosine,
    linear,
    wsd,
    wsd_simplified,
    wsqd,
)
from anytime_jax.schedules.refined import refined_from_gradient_norms
from anytime_jax.schedules.tables import Rates, rates
from anytime_jax.schedules.transform import ScaleByState, scale_by
from anytime_jax.schedules.trunks import (
    constant,
    infinite,
    inverse_sqrt,
    power_decay,
    power_scheduler,
)
from anytime_jax.schedules.values import from_values

__all__ = [
    "SHAPES",
    "Rates",
    "ScaleByState",
    "Shape",
    "build",
    "constant",
    "cooldown",
    "cosine",
    "cyclic",
    "exponential",
    "from_values",
    "horizon_free",
    "infinite",
    "inverse_sqrt",
    "linear",
    "multi_step",
    "power_decay",
    "power_scheduler",
    "rates",
    "refined_from_gradient_norms",
    "scale_by",
    "step_decay",
    "wsd",
    "wsd_simplified",
    "wsqd",
]

_MODULES = (trunks, fixed_horizon, classic, values, refined)
_FACTORIES = (
    *(getattr(module, name) for module in _MODULES for name in module.__all__),
    cooldown,
)
_ARGUMENTS = {
    factory.__name__: inspect.signature(factory).parameters for factory in _FACTORIES
}


def build(
    spec: Mapping[str, Any] | optax.Schedule,
    total_steps: int | None = None,
    tokens_per_step: int | None = None,
) -> optax.Schedule:
    """Makes a schedule from data.

    Args:
      spec: `dict(name=..., ...)` with the name of a factory of this package and its
        arguments, of which None counts as not given. The `trunk` of a `cooldown` is
        again a spec. A callable is a schedule already and is returned as it is.
      total_steps: the length of the run, for a fixed-horizon schedule whose spec has no
        `total_steps`. It is not that of a cooldown's trunk, which belongs to an older
        run: a trunk with a horizon must state it.
      tokens_per_step: the batch size of the run in tokens, for a schedule in tokens
        whose spec has no `tokens_per_step`; that of a cooldown's trunk too.

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
        spec["trunk"] = build(spec["trunk"], tokens_per_step=tokens_per_step)
    run = dict(total_steps=total_steps, tokens_per_step=tokens_per_step)
    if isinstance(name, str) and name in _ARGUMENTS:
        spec = {k: v for k, v in run.items() if k in _ARGUMENTS[name]} | spec
    return specs.call(spec, _FACTORIES, kind="schedule")


def horizon_free(spec: Mapping[str, Any] | str) -> bool:
    """Returns whether a schedule has no horizon, so that its run can always go on.

    Args:
      spec: a spec as for `build`, or only its name.

    Returns:
      True for the trunks; False for the others, which have a horizon or a time scale
      that is chosen for one.

    Raises:
      ValueError: the name is unknown.

    Example:
      >>> horizon_free("inverse_sqrt"), horizon_free(dict(name="cosine", peak=3e-3))
      (True, False)
    """
    name = spec if isinstance(spec, str) else spec.get("name")
    if not isinstance(name, str) or name not in _ARGUMENTS:
        known = ", ".join(sorted(_ARGUMENTS))
        raise ValueError(f"schedule.name={name!r} is unknown; known are {known}")
    return name in trunks.__all__
