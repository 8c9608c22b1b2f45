"""Time in tokens, as a jitted step can count it: beyond int32, exactly.

A time is int32 [2], multiples of 2^24 and the rest: 2^55 tokens fit, and each half is
exact in float32. A clock is int32 [2, 2], the time now and that of the last tick.
"""

import jax
import jax.numpy as jnp
import numpy as np

_WORD = 2**24
_MOST = 2**30  # tokens in one update, so that no sum overflows


def check(tokens: int | jax.Array | None) -> None:
    """Refuses what cannot be the number of tokens of an update.

    Args:
      tokens: may be traced, and is then trusted.

    Raises:
      ValueError: it is missing or out of range.
    """
    if tokens is None:
        raise ValueError(
            "tokens=None, but the averages' time is in tokens: call "
            "update(updates, state, params, tokens=number)"
        )
    if isinstance(tokens, jax.core.Tracer):
        return
    integer = np.ndim(tokens) == 0 and np.issubdtype(np.result_type(tokens), np.integer)
    if not (integer and 1 <= tokens <= _MOST):
        raise ValueError(f"tokens={tokens!r} must be an integer between 1 and {_MOST}")


def zero() -> jax.Array:
    """Returns a clock before the first update."""
    return jnp.zeros((2, 2), jnp.int32)


def advance(clock: jax.Array, tokens: int | jax.Array) -> jax.Array:
    """Returns the clock after some more tokens, without a tick."""
    (high, low), ticked = clock
    low = low + jnp.asarray(tokens, jnp.int32)
    return jnp.stack([jnp.stack([high + low // _WORD, low % _WORD]), ticked])


def tick(clock: jax.Array) -> jax.Array:
    """Returns the clock after a tick."""
    return jnp.stack([clock[0], clock[0]])


def now(clock: jax.Array) -> jax.Array:
    """Returns the time, float []."""
    return _to_float(clock[0])


def since_tick(clock: jax.Array) -> jax.Array:
    """Returns the time since the last tick, float []; of differences, not of sums."""
    return _to_float(clock[0] - clock[1])


def _to_float(time: jax.Array) -> jax.Array:
    high, low = time.astype(jnp.result_type(float))
    return high * _WORD + low
