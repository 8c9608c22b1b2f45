"""The arithmetic of one tick: the newest weights enter an average, leaf by leaf."""

from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def mix(
    value: Tree, compensation: Tree, newest: Tree, share: jax.Array, key: jax.Array
) -> tuple[Tree, Tree]:
    """Moves an average towards the newest weights: `a <- a + share (theta - a)`.

    Args:
      value: the average; float leaves of bfloat16 are rounded stochastically.
      compensation: what rounding has lost so far, like `value`; () if not compensated.
      newest: the weights; leaves that are not of float type become the average's.
      share: float []; 1 makes the average equal to the weights.
      key: of the noise of stochastic rounding.

    Returns:
      The new average and compensation.
    """
    olds, structure = jax.tree.flatten(value)
    news = structure.flatten_up_to(newest)
    compensated = bool(jax.tree.leaves(compensation))
    losts = structure.flatten_up_to(compensation) if compensated else [0] * len(olds)
    mixed = [
        _mix_leaf(*leaves, share, key, index)
        for index, leaves in enumerate(zip(olds, news, losts, strict=True))
    ]
    value, lost = (structure.unflatten(leaf[i] for leaf in mixed) for i in (0, 1))
    return value, lost if compensated else ()


def follow(value: Tree, newest: Tree) -> Tree:
    """Between ticks, leaves that cannot be averaged follow the weights all the same."""
    return jax.tree.map(
        lambda old, new: old if is_float(old) else jnp.copy(new), value, newest
    )


def stochastic_round(values: jax.Array, key: jax.Array) -> jax.Array:
    """Rounds float32 to bfloat16, up or down at random, so that the mean is exact.

    bfloat16 keeps the upper 16 bits; a uniform number of 16 bits is added below them
    before they are cut. What bfloat16 can express stays as it is.

    Args:
      values: float32, any shape.
      key: of the random bits.

    Returns:
      bfloat16, one of the two neighbours of each value.

    Example:
      >>> values = jnp.full(10_000, 1 + 2.0**-9)  # neighbours: 1 and 1 + 2^-7
      >>> rounded = stochastic_round(values, jax.random.key(0))
      >>> print(jnp.mean(rounded == 1).round(2))
      0.75

    Source: used for bfloat16 training by Zamirai et al., 2020, arXiv 2010.06192.
    """
    noise = jax.random.bits(key, values.shape, jnp.uint16).astype(jnp.uint32)
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32) + noise
    upper = (bits >> 16).astype(jnp.uint16)
    rounded = jax.lax.bitcast_convert_type(upper, jnp.bfloat16)
    return jnp.where(jnp.isfinite(values), rounded, values.astype(jnp.bfloat16))


def is_float(leaf: Any) -> bool:
    """Returns whether a leaf can be averaged."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return jnp.issubdtype(dtype, jnp.floating)


def _mix_leaf(old, new, lost, share, key, index):
    """The new average of a leaf and what its rounding loses (Kahan's summation)."""
    if not is_float(old):
        return jnp.copy(new), lost  # shared, it could not be donated
    if old.dtype == jnp.bfloat16:
        wide = old.astype(jnp.float32)
        mixed, _ = _mix_leaf(wide, new, lost, share, key, index)
        return stochastic_round(mixed, jax.random.fold_in(key, index)), lost
    new = new.astype(old.dtype)
    step = share.astype(old.dtype) * (new - old) - lost
    # A share of 1 is exact: old + (new - old) may be off by a rounding.
    value = jnp.where(share == 1, new, old + step)
    return value, jnp.where(share == 1, 0, (value - old) - step)
