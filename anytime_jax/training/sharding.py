"""Where arrays live: a mesh of (data, fsdp, tensor), and rules by parameter name.

The same code runs on one device, where every axis has size 1.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

Tree = Any

AXES = ("data", "fsdp", "tensor")
_ROWS = ("data", "fsdp")

# The first rule whose pattern ends a leaf's path gives the mesh axis of each of its
# dimensions; N, the stacked layers, is never split. What no rule names, or what has
# another rank (the factored moments of Adafactor, counters), is replicated. Optimizer
# moments and averages have the parameter's name at the end of their path, and so its
# sharding.
RULES = (
    ("embedding/table", ("tensor", "fsdp")),
    ("attention/(query|key|value)/kernel", (None, "fsdp", "tensor", None)),
    ("attention/output/kernel", (None, "tensor", None, "fsdp")),
    ("mlp/(up|gate)/kernel", (None, "fsdp", "tensor")),
    ("mlp/down/kernel", (None, "tensor", "fsdp")),
    ("head/kernel", ("fsdp", "tensor")),
)


def make_mesh(
    *, data: int = -1, fsdp: int = 1, tensor: int = 1, devices: list | None = None
) -> jax.sharding.Mesh:
    """Makes the mesh of devices.

    Args:
      data: devices along which only the batch is split; -1 takes all that are left.
      fsdp: devices along which the batch and the parameters are split.
      tensor: devices along which the model's inner dimensions are split.
      devices: the devices to use; all by default.

    Returns:
      A mesh with axes `data`, `fsdp` and `tensor`.

    Raises:
      ValueError: the axes do not multiply to the number of devices.

    Example:
      >>> dict(make_mesh(devices=jax.devices()[:1]).shape)
      {'data': 1, 'fsdp': 1, 'tensor': 1}
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor]
    known = int(np.prod([size for size in sizes if size != -1]))
    if sizes.count(-1) == 1 and known > 0 and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if min(sizes) < 1 or int(np.prod(sizes)) != len(devices):
        raise ValueError(
            f"mesh.data={data}, mesh.fsdp={fsdp}, mesh.tensor={tensor} must be "
            "positive (one of them may be -1) and multiply to the "
            f"{len(devices)} devices"
        )
    auto = (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes), AXES, auto, devices=devices)


def shardings(mesh: jax.sharding.Mesh, tree: Tree) -> Tree:
    """Returns the sharding of every leaf of a training state, from the rules.

    Args:
      mesh: from `make_mesh`.
      tree: the state's arrays or their shapes.

    Returns:
      `NamedSharding`s in the structure of `tree`.

    Raises:
      ValueError: a dimension cannot be split evenly over its mesh axis.
    """

    def sharding(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        axes = _axes(name, leaf.ndim)
        for size, axis in zip(leaf.shape, axes, strict=True):
            if axis and size % mesh.shape[axis]:
                raise ValueError(
                    f"mesh.{axis}={mesh.shape[axis]} must divide the dimension {size} "
                    f"of {name}, of shape {leaf.shape}"
                )
        return jax.NamedSharding(mesh, jax.P(*axes))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def check_batch(key: str, batch_size: int, mesh: jax.sharding.Mesh) -> None:
    """Refuses a batch that cannot be split evenly over the mesh."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % parts:
        raise ValueError(
            f"{key}={batch_size} must be a multiple of the {parts} devices that "
            "mesh.data and mesh.fsdp split it over"
        )


def place_batch(
    read_rows: Callable[[slice], np.ndarray],
    shape: tuple[int, int],
    mesh: jax.sharding.Mesh,
) -> jax.Array:
    """Returns a global batch, of which every host reads only its own rows.

    Args:
      read_rows: from a slice of rows to their tokens.
      shape: of the global batch.
      mesh: its `data` and `fsdp` axes split the rows.
    """
    layout = jax.NamedSharding(mesh, jax.P(_ROWS))
    return jax.make_array_from_callback(
        shape, layout, lambda index: read_rows(index[0])
    )


def place_batches(tokens_NxBxL1: np.ndarray, mesh: jax.sharding.Mesh) -> jax.Array:
    """Returns many batches, known to every host, as one global array split by rows."""
    layout = jax.NamedSharding(mesh, jax.P(None, _ROWS))
    return jax.make_array_from_callback(
        tokens_NxBxL1.shape, layout, lambda index: tokens_NxBxL1[index]
    )


def _axes(name: str, rank: int) -> tuple[str | None, ...]:
    for pattern, axes in RULES:
        if len(axes) == rank and re.search(f"(^|/){pattern}$", name):
            return axes
    return (None,) * rank
