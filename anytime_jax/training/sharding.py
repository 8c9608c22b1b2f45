"""Where arrays live: a mesh of (data, fsdp, tensor), and rules by parameter name.

The same code runs on one device, where every axis has size 1.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
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


def on_cpu() -> jax.sharding.Sharding:
    """Returns the sharding on one CPU device of this process.

    Where JAX_PLATFORMS leaves out the CPU, it is the first device that there is.
    """
    try:
        device, *_ = jax.local_devices(backend="cpu")
    except RuntimeError:
        device, *_ = jax.local_devices()
    return jax.sharding.SingleDeviceSharding(device)


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
    product = int(np.prod(sizes))
    if min(sizes) < 1 or product != len(devices):
        raise ValueError(
            f"mesh.data={data}, mesh.fsdp={fsdp}, mesh.tensor={tensor} must be "
            "positive (one of them may be -1) and multiply to the "
            f"{len(devices)} devices" + (f", not to {product}" * (min(sizes) > 0))
        )
    auto = (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes), AXES, auto, devices=devices)


def shardings(
    mesh: jax.sharding.Mesh, tree: Tree, *, shard_state: bool = False
) -> Tree:
    """Returns the sharding of every leaf of a training state, from the rules.

    With `shard_state` the optimizer and the averages, which are in the branch
    `optimizer` of a state, are split over `data` too (ZeRO, Rajbhandari et al. 2019,
    arXiv 1910.02054, section 5.1). A device then updates its share of the weights and
    gathers the others. A leaf that `data` does not divide stays as the rules have it.

    Args:
      mesh: from `make_mesh`.
      tree: the state's arrays or their shapes.
      shard_state: whether to split optimizer and averages over `data`.

    Returns:
      `NamedSharding`s in the structure of `tree`.

    Raises:
      ValueError: a dimension cannot be split evenly over its mesh axis.
    """
    return _shardings(mesh, tree, "optimizer/" if shard_state else None)


def gradient_shardings(
    mesh: jax.sharding.Mesh, params: Tree, *, shard_state: bool = False
) -> Tree:
    """Returns the shardings of the gradient: those that its optimizer's moments have.

    Args:
      mesh: from `make_mesh`.
      params: the parameters or their shapes.
      shard_state: as for `shardings`.

    Returns:
      `NamedSharding`s in the structure of `params`.

    Raises:
      ValueError: a dimension cannot be split evenly over its mesh axis.
    """
    return _shardings(mesh, params, "" if shard_state else None)


def within(mesh: jax.sharding.Mesh, function: Callable) -> Callable:
    """Returns a function for jit that is traced with a mesh as its context.

    A model that asks for the context (`jax.sharding.get_abstract_mesh`) can say how its
    activations are split over `data`, `fsdp` and `tensor`.

    Args:
      mesh: from `make_mesh`.
      function: to be jitted.
    """

    @functools.wraps(function)
    def traced(*args):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    return traced


def check_batch(key: str, batch_size: int, mesh: jax.sharding.Mesh) -> None:
    """Refuses a batch that cannot be split evenly over the mesh."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % parts:
        raise ValueError(
            f"{key}={batch_size} must be a multiple of the {parts} devices that "
            "mesh.data and mesh.fsdp split it over"
        )


def batch_like(shape: tuple[int, int], mesh: jax.sharding.Mesh) -> jax.ShapeDtypeStruct:
    """Returns the shape, dtype and sharding of a batch of tokens.

    Args:
      shape: of the global batch, (B, L + 1).
      mesh: its `data` and `fsdp` axes split the rows.
    """
    layout = jax.NamedSharding(mesh, jax.P(_ROWS))
    return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=layout)


def place_batch(
    read_rows: Callable[[slice], np.ndarray],
    shape: tuple[int, int],
    mesh: jax.sharding.Mesh,
) -> jax.Array:
    """Returns a global batch, of which every host reads its own rows, and those once.

    Args:
      read_rows: from a slice of rows to their tokens.
      shape: of the global batch.
      mesh: its `data` and `fsdp` axes split the rows.
    """

    # Devices that differ in `tensor` alone have the same rows.
    @functools.cache
    def read(start, stop):
        return read_rows(slice(start, stop))

    return jax.make_array_from_callback(
        shape,
        jax.NamedSharding(mesh, jax.P(_ROWS)),
        lambda index: read(*index[0].indices(shape[0])[:2]),
    )


def place_batches(
    read_rows: Callable[[slice], np.ndarray],
    shape: tuple[int, int, int],
    mesh: jax.sharding.Mesh,
) -> jax.Array:
    """Returns many batches as one global array, read as `place_batch` reads one.

    Args:
      read_rows: from a slice of the rows of all batches, one batch after the other, to
        their tokens.
      shape: (N, B, L + 1), N batches of B rows.
      mesh: its `data` and `fsdp` axes split the rows of each batch.
    """
    batches, rows, _ = shape

    @functools.cache
    def read(start, stop):
        firsts = range(0, batches * rows, rows)
        return np.stack([read_rows(slice(n + start, n + stop)) for n in firsts])

    return jax.make_array_from_callback(
        shape,
        jax.NamedSharding(mesh, jax.P(None, _ROWS)),
        lambda index: read(*index[1].indices(rows)[:2]),
    )


def _shardings(mesh: jax.sharding.Mesh, tree: Tree, spread: str | None) -> Tree:
    """By the rules; over `data` too if the path starts with `spread`."""

    def sharding(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        axes = _axes(name, leaf.ndim)
        for size, axis in zip(leaf.shape, axes, strict=True):
            if axis and size % mesh.shape[axis]:
                raise ValueError(
                    f"mesh.{axis}={mesh.shape[axis]} must divide the dimension {size} "
                    f"of {name}, of shape {leaf.shape}"
                )
        # Not the clocks of averages, a few whole numbers.
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        if spread is not None and name.startswith(spread) and floating:
            axes = _spread(axes, leaf.shape, mesh)
        return jax.NamedSharding(mesh, jax.P(*axes))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def _axes(name: str, rank: int) -> tuple[str | None, ...]:
    for pattern, axes in RULES:
        if len(axes) == rank and re.search(f"(^|/){pattern}$", name):
            return axes
    return (None,) * rank


def _spread(
    axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: jax.sharding.Mesh
) -> tuple[str | tuple[str, str] | None, ...]:
    """Splits over `data` too: the longest dimension on a device that allows it."""
    parts = mesh.shape["data"]
    held = [
        size // (mesh.shape[axis] if axis else 1)
        for size, axis in zip(shape, axes, strict=True)
    ]
    allowed = [d for d, size in enumerate(held) if size and size % parts == 0]
    if parts == 1 or not allowed:
        return axes
    best = max(allowed, key=held.__getitem__)
    both = (axes[best], "data") if axes[best] else "data"
    return (*axes[:best], both, *axes[best + 1 :])
