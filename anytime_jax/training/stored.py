"""The loss of weights that are on disk, on the run's own validation data."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from anytime_jax import data, models
from anytime_jax.training import config_file, evaluation, sharding, snapshots

Tree = Any


def evaluate(
    workdir: str | os.PathLike,
    step: int | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, float]:
    """Returns the loss of stored weights, one set of them in memory at a time.

    On the larger set, as a run evaluates its horizons. The devices are those of the
    run's mesh if it fits, and otherwise as many as the batch can be split over.

    Args:
      workdir: the folder of a run or of a merge.
      step: of the snapshot; the last one by default.
      names: `raw` and names of averages; all that are in the snapshot by default.

    Returns:
      Nats per token by name.

    Raises:
      ValueError: there is no such run, snapshot or weights, or the run's tokens have
        changed.
    """
    config = config_file.read(workdir)
    step = last_step(workdir) if step is None else step
    there = snapshots.stored_weights(workdir, step)
    names = there if names is None else names
    unknown = [name for name in names if name not in there]
    if unknown:
        raise ValueError(
            f"the snapshot of step {step} in {workdir!s} has no weights "
            f"{', '.join(unknown)}; it has {', '.join(there)}"
        )
    model = models.build(config["model"])
    mesh = _mesh(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    like = jax.tree.map(
        lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to),
        shapes,
        sharding.shardings(mesh, shapes),
    )
    tokens_NxBxL1 = _validation(config, mesh, workdir)
    loss = jax.jit(sharding.within(mesh, evaluation.make_evaluate(model)))
    return {
        name: float(
            loss(snapshots.restore_weights(workdir, step, name, like), tokens_NxBxL1)
        )
        for name in names
    }


def load(
    workdir: str | os.PathLike, step: int | None = None, average: str = "raw"
) -> Tree:
    """Returns stored weights as plain arrays, on any machine and without its devices.

    Only the item that holds them is read, and it is verified.

    Args:
      workdir: the folder of a run or of a merge.
      step: of the snapshot; the last one by default.
      average: `raw` or the name of an average.

    Returns:
      Nested dicts of `np.ndarray` in the dtype that is stored, which a jitted `apply`
      takes; they are not to be written to.

    Raises:
      ValueError: there is no such run, snapshot or average.
      Damaged: the weights are not as they were written.

    Example (after `make demo`):

        params = training.load("demo/trunk", average="uniform")
        model = models.build(json.load(open("demo/trunk/config.json"))["model"])
        logits_BxLxV = jax.jit(model.apply)(params, tokens_BxL)
    """
    step = last_step(workdir) if step is None else step
    like = snapshots.weights_like(workdir, step, average, sharding.on_cpu())
    weights = snapshots.restore_weights(workdir, step, average, like)
    return jax.tree.map(np.asarray, weights)


def check_data(workdir: str | os.PathLike) -> None:
    """Refuses a run whose tokens have changed.

    Args:
      workdir: the folder of a run or of a merge.

    Raises:
      ValueError: they have.
    """
    _dataset(config_file.read(workdir), workdir)


def last_step(workdir: str | os.PathLike) -> int:
    """Returns the step of the last snapshot.

    Args:
      workdir: the folder of a run or of a merge.

    Raises:
      ValueError: there is none, or no run.
    """
    config_file.read(workdir)
    stored = snapshots.stored_steps(workdir)
    if not stored:
        raise ValueError(f"{workdir!s} has no snapshot yet")
    return stored[-1]


def _validation(
    config: Mapping[str, Any], mesh: jax.sharding.Mesh, workdir: str | os.PathLike
) -> jax.Array:
    length, dataset = config["sequence_length"], _dataset(config, workdir)
    batches = config["evaluation"]["horizon_batches"]
    rows = config["evaluation"]["batch_size"]
    return sharding.place_batches(
        lambda these: dataset.validation.batch(0, batches * rows, rows=these),
        (batches, rows, length + 1),
        mesh,
    )


def _dataset(config: Mapping[str, Any], workdir: str | os.PathLike) -> data.Dataset:
    length = config["sequence_length"]
    dataset = data.load(**config["data"], sequence_length=length, seed=config["seed"])
    config_file.check_same_data(dataset.description, workdir)
    return dataset


def _mesh(config: Mapping[str, Any]) -> jax.sharding.Mesh:
    for mesh in _meshes(config):
        parts = mesh.shape["data"] * mesh.shape["fsdp"]
        if config["evaluation"]["batch_size"] % parts == 0:
            return mesh
    raise AssertionError("one device always fits")


def _meshes(config: Mapping[str, Any]) -> Iterator[jax.sharding.Mesh]:
    with contextlib.suppress(ValueError):  # of other devices than these
        yield sharding.make_mesh(**config["mesh"])
    for count in range(jax.device_count(), 0, -1):
        yield sharding.make_mesh(devices=jax.devices()[:count])
