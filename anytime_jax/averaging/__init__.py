"""Averages of the weights, kept beside any optax optimizer.

An average is a schedule too: from update, counted from 1, to the mixing weight of the
newest parameters. `track` keeps any number of them inside an optimizer's state, `read`
takes one out, and `kernel` says exactly what it remembers. `merging` combines what was
stored into the averages that were not tracked.
"""

from collections.abc import Mapping
from typing import Any

from anytime_jax import specs
from anytime_jax.averaging import merging
from anytime_jax.averaging.kernels import (
    Moments,
    effective_samples,
    implied_decay,
    kernel,
    mean_age,
    moments,
    tail_sums,
)
from anytime_jax.averaging.state import attach, detach, read
from anytime_jax.averaging.transform import (
    AverageState,
    TrackState,
    check_name,
    is_on_host,
    start,
    track,
)
from anytime_jax.averaging.weights import (
    Average,
    age_ema,
    ema,
    latest,
    mass,
    polynomial,
    power,
    tail,
    uniform,
)

_FACTORIES = (latest, uniform, age_ema, power, polynomial, ema, tail)

__all__ = [
    "Average",
    "AverageState",
    "Moments",
    "TrackState",
    "age_ema",
    "attach",
    "build",
    "check_name",
    "detach",
    "effective_samples",
    "ema",
    "implied_decay",
    "is_on_host",
    "kernel",
    "latest",
    "mass",
    "mean_age",
    "merging",
    "moments",
    "polynomial",
    "power",
    "read",
    "start",
    "tail",
    "tail_sums",
    "track",
    "uniform",
]


def build(averages: Mapping[str, Mapping[str, Any]]) -> dict[str, Average]:
    """Turns data into averages.

    Args:
      averages: by name, `dict(name=FACTORY, ...)` with the factory's arguments.

    Returns:
      The averages by name.

    Raises:
      ValueError: a name, a factory or an argument is not allowed; the message names it
        and lists what is.

    Example:
      >>> print(*build(dict(ema25=dict(name="age_ema", divisor=25))).values())
      age_ema(divisor=25)
    """
    for name in averages:
        check_name(name)
    return {
        name: specs.call(spec, _FACTORIES, f"averages.{name}")
        for name, spec in averages.items()
    }
