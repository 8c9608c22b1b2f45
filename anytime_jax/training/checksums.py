"""Checksums of arrays: the same on any mesh and on any number of processes."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anytime_jax.training import sharding

Tree = Any

# Odd, so that multiplying by them loses nothing modulo 2^32.
_STRIDE, _START, _MIX = 0x9E3779B2, 0x7FEB352D, 0x846CA68B  # _STRIDE is even

# XLA's CPU backend adds up a few long lines four times as fast as a single one.
_LINES = 16


def checksums(tree: Tree) -> dict[str, str]:
    """Returns the checksum of every leaf.

    With w_i the 32-bit words of a leaf (narrower numbers are widened, wider ones are
    several words) in row-major order, it is the sum modulo 2^32 of

        mix((w_i ^ (w_i >> 16)) * (a i + b)),  mix(x) = (x ^ (x >> 15)) * c,

    a even, b and c odd. Every term is a one-to-one function of its word, so a change
    within one word always shows; any other goes unseen once in 2^32. A sum of integers
    depends on no order, and so not on how a leaf is split over devices.

    Args:
      tree: of arrays.

    Returns:
      Eight hexadecimal digits by the path of the leaf, such as `embedding/table`.

    Example:
      >>> weights = dict(head=np.arange(6, dtype=np.float32).reshape(2, 3))
      >>> checksums(weights)
      {'head': '598062ea'}
      >>> weights["head"][1, 2] += 1e-6
      >>> checksums(weights)
      {'head': 'e3eb10da'}
    """
    sums = {path: _checksum(leaf) for path, leaf in leaves(tree)}
    return {path: f"{int(value):08x}" for path, value in jax.device_get(sums).items()}


def leaves(tree: Tree) -> list[tuple[str, Any]]:
    """Returns the leaves of a tree, each with its name.

    Args:
      tree: the tree.

    Example:
      >>> leaves(dict(head=dict(kernel=1, bias=2)))
      [('head/bias', 2), ('head/kernel', 1)]
    """
    return [(name(path), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]


def name(path: tuple[Any, ...]) -> str:
    """Returns the name of a leaf, such as `embedding/table`.

    Args:
      path: of the leaf, as JAX has it.
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _checksum(leaf: jax.Array | np.ndarray) -> jax.Array:
    if not isinstance(leaf, jax.Array):
        leaf = jax.device_put(leaf, sharding.on_cpu())
    devices = leaf.devices()
    alone = len(devices) == 1 and next(iter(devices)).platform == "cpu"
    return _sum(leaf, in_lines=alone)


@functools.partial(jax.jit, static_argnames="in_lines")
def _sum(leaf: jax.Array, in_lines: bool) -> jax.Array:
    """uint32 []."""
    words = _words(jax.device_put(leaf, jax.memory.Space.Device))
    terms = _terms(words.reshape(-1) if in_lines else words)
    rest = jnp.uint32(0)
    while in_lines and terms.size > _LINES**2:
        # Something is left over on purpose: XLA then keeps the lines, and does not turn
        # all of it into one long line again.
        even = (terms.size - 1) // _LINES * _LINES
        rest = rest + terms[even:].sum(dtype=jnp.uint32)
        terms = terms[:even].reshape(_LINES, -1).sum(0, dtype=jnp.uint32)
    return rest + terms.sum(dtype=jnp.uint32)


def _terms(words: jax.Array) -> jax.Array:
    index, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        along = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        index = index + along * jnp.uint32(stride % 2**32)
        stride = math.prod(words.shape[axis:])
    odd = index * jnp.uint32(_STRIDE) + jnp.uint32(_START)
    mixed = (words ^ (words >> 16)) * odd
    return (mixed ^ (mixed >> 15)) * jnp.uint32(_MIX)


def _words(leaf: jax.Array) -> jax.Array:
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    narrow = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize)
    if narrow:
        return jax.lax.bitcast_convert_type(leaf, narrow).astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, jnp.uint32)
