"""What every schedule is made of: checked arguments, a clamped clock, a warmup ramp.

Schedules are products of pieces on local clocks. A clock is clamped to its piece, so a
piece is never evaluated outside its domain and has nothing to mask: no NaN appears, in
values or derivatives. Where two pieces meet, the derivative with respect to the count
is the one from the right; only the two ends of a cooldown have 0 instead.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike


def require(allowed: str, accepts: Callable[[Any], bool], **values: Any) -> None:
    """Raises ValueError unless each value is a finite number that `accepts` accepts."""
    for name, value in values.items():
        if isinstance(value, jax.core.Tracer):
            continue  # It has no value yet.
        number = value.item() if getattr(value, "ndim", None) == 0 else value
        # A whole number may be beyond all floats, where isfinite raises.
        finite = type(number) in (int, float) and abs(number) <= sys.float_info.max
        if not (finite and accepts(number)):
            raise ValueError(f"{name}={value!r} must be {allowed}")


def require_rate(**values: Any) -> None:
    require("a finite number, at least 0", lambda v: v >= 0, **values)


def require_positive(**values: Any) -> None:
    require("a finite number above 0", lambda v: v > 0, **values)


def require_fraction(**values: Any) -> None:
    require("a number in [0, 1]", lambda v: 0 <= v <= 1, **values)


def require_steps(**values: Any) -> None:
    # optax counts in int32.
    require(
        "an integer in [0, 2**31)",
        lambda v: isinstance(v, int) and 0 <= v < 2**31,
        **values,
    )


def require_ascending(**values: Any) -> None:
    """Raises ValueError unless each value is a table of ascending counts, not empty."""
    for name, counts in values.items():
        if not isinstance(counts, Sequence | np.ndarray) or isinstance(counts, str):
            raise ValueError(f"{name}={counts!r} must be a sequence of counts")
        if len(counts) == 0:
            raise ValueError(f"{name}={counts!r} must hold at least one count")
        for i, count in enumerate(counts):
            require_steps(**{f"{name}[{i}]": count})
            if i and counts[i - 1] >= count:
                raise ValueError(
                    f"{name}[{i}]={count} must be above {name}[{i - 1}]={counts[i - 1]}"
                )


def require_order(**values: Any) -> None:
    """Raises ValueError if the first of two named values exceeds the second."""
    (low_name, low), (high_name, high) = values.items()
    if isinstance(low, jax.core.Tracer) or isinstance(high, jax.core.Tracer):
        return
    if low > high:
        raise ValueError(f"{low_name}={low} must be at most {high_name}={high}")


def as_float(value: ArrayLike) -> jax.Array:
    """Returns `value` in the default float type: float32, or float64 under x64."""
    return jnp.asarray(value, jnp.result_type(float))


def elapsed(count: ArrayLike, start: int, limit: int | None = None) -> ArrayLike:
    """Returns count - start clamped to [0, limit], an integer if the count is one."""
    # Integers stay integers because float32 does not hold all of them above 2^24, and
    # NumPy's stay in NumPy because JAX's int32 does not hold those from 2^31 on.
    xp = jnp if isinstance(count, jax.Array) else np
    start = start if xp is jnp else np.int64(start)
    past = xp.where(count >= start, count - start, 0)
    return past if limit is None else xp.where(past < limit, past, limit)


def progress(count: ArrayLike, start: int, steps: int) -> jax.Array:
    """Returns (count - start) / steps clamped to [0, 1]; with no steps, 0 then 1."""
    if steps == 0:
        return as_float(count >= start)
    past = elapsed(count, start)
    # Compiled, a division by a constant is a product with its rounded inverse, which
    # can miss 1 at the end from either side: 1 - x would be negative, or not quite 0.
    return jnp.where(past < steps, as_float(past) / steps, 1)


def passed(count: ArrayLike, bounds: Sequence[int]) -> ArrayLike:
    """Returns how many of the ascending `bounds` are at most `count`."""
    # In NumPy for a NumPy count, as in `elapsed`; and the number is not differentiated.
    if not isinstance(count, jax.Array):
        return np.searchsorted(np.asarray(bounds, np.int64), count, side="right")
    count = jax.lax.stop_gradient(count)
    return jnp.searchsorted(jnp.asarray(bounds), count, side="right")


def warm_up(
    body: Callable[[jax.Array], jax.Array], warmup_steps: int, warmup_start: float
) -> optax.Schedule:
    """Returns count -> ramp(count) * body(max(count - warmup_steps, 0))."""
    require_steps(warmup_steps=warmup_steps)
    require_fraction(warmup_start=warmup_start)

    def schedule(count: ArrayLike) -> jax.Array:
        rate = body(as_float(elapsed(count, warmup_steps)))
        if warmup_steps == 0:
            return rate
        x = progress(count, 0, warmup_steps)
        return (x + warmup_start * (1 - x)) * rate

    return schedule
