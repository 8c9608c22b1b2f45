"""The weighted sum of trees, of which one is in memory at a time."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anytime_jax.averaging.transform import is_on_host

Tree = Any


def merge(trees: Iterable[Tree], coefficients: Sequence[float]) -> Tree:
    """Returns the weighted sum of trees, of which one is in memory at a time.

    Leaves that are NumPy arrays are summed in float64; JAX arrays where they are,
    sharded as they are: in float64 on CPUs, elsewhere in float32 (or wider, if they
    are) with Kahan's compensation. With the tree being added that makes three copies in
    memory. Leaves that are not of float type are those of the last tree.

    Args:
      trees: from the oldest to the newest; an iterator is read as it goes.
      coefficients: one per tree; a tree whose coefficient is 0 does not enter.

    Returns:
      The sum: float32, or the dtype of the leaves where that is wider.

    Raises:
      ValueError: there are more or fewer trees than coefficients, a coefficient is not
        finite, or the trees differ in structure or shape.

    Example:
      >>> trees = (dict(w=np.full(2, value)) for value in (1.0, 3.0))
      >>> merge(trees, [0.5, 0.5])
      {'w': array([2., 2.])}
    """
    coefficients = np.asarray(coefficients, np.float64)
    if coefficients.ndim != 1 or not len(coefficients):
        raise ValueError(f"coefficients={coefficients!r} must be a list of numbers")
    if not np.all(np.isfinite(coefficients)):
        raise ValueError(f"coefficients={coefficients.tolist()} must be finite")
    iterator = iter(trees)
    total = None
    for number, coefficient in enumerate(coefficients.tolist()):
        # No name holds the tree while the next one is read.
        total = _add(total, _next(iterator, number, len(coefficients)), coefficient)
    if next(iterator, None) is not None:
        raise ValueError(f"there are more trees than {len(coefficients)} coefficients")
    sums, structure = total
    for index, leaf_sum in enumerate(sums):
        sums[index] = leaf_sum.result()
    return structure.unflatten(sums)


class _Newest:
    """The sum of a leaf that cannot be averaged: the newest."""

    def __init__(self, leaf):
        self.leaf, self.shape = leaf, np.shape(leaf)

    def add(self, leaf, coefficient):
        self.leaf = leaf

    def result(self):
        return jnp.copy(self.leaf) if isinstance(self.leaf, jax.Array) else self.leaf


class _HostSum:
    """The sum of a leaf in float64, on the host."""

    def __init__(self, leaf):
        self.shape, self.dtype = leaf.shape, np.promote_types(leaf.dtype, np.float32)
        self.sum = np.zeros(leaf.shape)

    def add(self, leaf, coefficient):
        if coefficient:
            self.sum += coefficient * leaf.astype(np.float64)

    def result(self):
        return self.sum.astype(self.dtype, copy=False)


class _CpuSum:
    """The sum of a leaf in float64, where the leaf is.

    XLA makes one loop of it on a CPU, and of compensation four and a copy.
    """

    def __init__(self, leaf):
        self.shape, self.dtype = leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)
        with jax.enable_x64(True):
            self.sum = jnp.zeros(leaf.shape, jnp.float64, device=leaf.sharding)

    def add(self, leaf, coefficient):
        if coefficient:
            with jax.enable_x64(True):
                self.sum = _add_double(self.sum, leaf, np.float64(coefficient))
            # What is under way would hold this tree while the next one is read.
            self.sum.block_until_ready()

    def result(self):
        with jax.enable_x64(True):
            return self.sum.astype(self.dtype)


@functools.partial(jax.jit, donate_argnums=0)
def _add_double(total, leaf, coefficient):
    return total + coefficient * leaf.astype(total.dtype)


class _DeviceSum:
    """The compensated sum of a leaf, where the leaf is."""

    def __init__(self, leaf):
        self.shape, dtype = leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)
        zeros = functools.partial(jnp.zeros, leaf.shape, dtype, device=leaf.sharding)
        self.sum, self.lost = zeros(), zeros()

    def add(self, leaf, coefficient):
        if coefficient:
            self.sum, self.lost = _add_compensated(
                self.sum, self.lost, leaf, coefficient
            )
            # What is under way would hold this tree while the next one is read.
            self.sum.block_until_ready()

    def result(self):
        return self.sum


@functools.partial(jax.jit, donate_argnums=(0, 1))
def _add_compensated(total, lost, leaf, coefficient):
    term = jnp.asarray(coefficient, total.dtype) * leaf.astype(total.dtype) - lost
    new = total + term
    return new, (new - total) - term


def _add(total, tree: Tree, coefficient: float):
    """Adds a tree to the sums of its leaves, which start with the first one."""
    if is_on_host(tree):
        tree = jax.device_put(tree, jax.memory.Space.Device)
    leaves, structure = jax.tree.flatten(tree)
    if total is None:
        total = [_start(leaf) for leaf in leaves], structure
    sums, first = total
    shapes = [tuple(np.shape(leaf)) for leaf in leaves]
    if structure != first or shapes != [leaf_sum.shape for leaf_sum in sums]:
        raise ValueError(
            f"trees differ in structure or shape: {structure} of {shapes} after "
            f"{first} of {[leaf_sum.shape for leaf_sum in sums]}"
        )
    for leaf_sum, leaf in zip(sums, leaves, strict=True):
        leaf_sum.add(leaf, coefficient)
    return total


def _start(leaf):
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.floating):
        return _Newest(leaf)
    if not isinstance(leaf, jax.Array):
        return _HostSum(leaf)
    on_cpu = all(device.platform == "cpu" for device in leaf.sharding.device_set)
    return _CpuSum(leaf) if on_cpu else _DeviceSum(leaf)


def _next(iterator: Iterator[Tree], number: int, wanted: int) -> Tree:
    for tree in iterator:
        return tree
    raise ValueError(f"there are {number} trees for {wanted} coefficients")
