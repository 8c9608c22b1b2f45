"""The gradient transformation of a schedule."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

__all__ = ["ScaleByState", "scale_by"]


class ScaleByState(NamedTuple):
    """State of `scale_by`."""

    count: jax.Array  # int32 []: updates done
    learning_rate: jax.Array  # float32 [] (float64 under x64): the last update's rate


def scale_by(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Makes the transformation that multiplies updates by minus a schedule's rate.

    Update number t, counted from 0, becomes `-schedule(t) * update`. The product is
    computed in the wider of the two types and rounded once, to the update's own type: a
    rate rounded to bfloat16 first would be wrong by up to 0.4 % in the same direction
    for every weight. Updates that are not floats (those of integer parameters) become
    zeros, and None stays None.

    Args:
      schedule: a callable from count to rate.

    Returns:
      An `optax.GradientTransformation` whose state is a `ScaleByState`: the number of
      updates done and the rate of the last one, so that what is logged is what was
      applied. Before the first update the rate is `schedule(0)`.

    Raises:
      ValueError: `schedule` is not callable.

    Example:
      >>> optimizer = optax.chain(optax.scale_by_adam(), scale_by(lambda count: 0.5))
      >>> state = optimizer.init(jnp.zeros(3))
      >>> updates, state = optimizer.update(jnp.ones(3), state)
      >>> int(state[1].count), float(state[1].learning_rate)
      (1, 0.5)
    """
    if not callable(schedule):
        raise ValueError(f"schedule={schedule!r} must be a callable from count to rate")

    def rate_at(count: jax.Array) -> jax.Array:
        # A copy: the state may be donated, the schedule's own buffers may not.
        return jnp.array(schedule(count), jnp.result_type(float))

    def init(params: optax.Params) -> ScaleByState:
        del params
        count = jnp.zeros([], jnp.int32)
        return ScaleByState(count, rate_at(count))

    def update(
        updates: optax.Updates, state: ScaleByState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScaleByState]:
        del params
        rate = rate_at(state.count)

        def scale(update: jax.Array) -> jax.Array:
            if not jnp.issubdtype(update.dtype, jnp.inexact):
                return jnp.zeros_like(update)
            return (-rate * update).astype(update.dtype)

        updates = jax.tree.map(scale, updates)
        return updates, ScaleByState(optax.safe_increment(state.count), rate)

    return optax.GradientTransformation(init, update)
