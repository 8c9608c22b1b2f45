"""Snapshots of a run: raw weights, each average and the optimizer as own items.

    WORKDIR/snapshots/STEP/    raw, average_NAME, optimizer, meta; STEP = updates done

Evaluating or merging loads one item and nothing else, on any devices. A merge is a
snapshot too, of raw and meta alone.
"""

import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from anytime_jax import averaging
from anytime_jax.training.state import TrainState

Tree = Any

FOLDER = "snapshots"
# The fields of an average that not every way of tracking has.
_EMPTY = {"compensation": (), "tokens": ()}


def stored_steps(workdir: str | os.PathLike) -> list[int]:
    """Returns the steps that have a complete snapshot, in order.

    Args:
      workdir: a run's folder; one without snapshots has none.
    """
    folder = pathlib.Path(workdir) / FOLDER
    # Orbax writes under a longer name and renames what is complete to the bare step.
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def restore(
    workdir: str | os.PathLike, step: int, like: TrainState
) -> tuple[TrainState, dict[str, Any]]:
    """Restores a state and leaves the folder untouched.

    Args:
      workdir: the run's folder.
      step: one of `stored_steps(workdir)`.
      like: shapes, dtypes and shardings to restore into; its averages decide which are
        read.

    Returns:
      The state, and what the snapshot says of itself, as `read_meta` gives it.

    Raises:
      ValueError: an average of `like` is not in the snapshot.
    """
    wanted = items(like)
    _check_items(workdir, step, wanted)
    read = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
    read["meta"] = ocp.args.JsonRestore()
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        restored = checkpointer.restore(
            _folder(workdir, step), args=ocp.args.Composite(**read)
        )
    averages = {
        _name(item): averaging.AverageState(**{**_EMPTY, **restored[item]})
        for item in wanted
        if item not in ("raw", "optimizer")
    }
    state = TrainState(
        step=jax.device_put(jnp.int32(step), like.step.sharding),
        params=restored["raw"],
        optimizer=averaging.attach(restored["optimizer"], averages),
    )
    return state, restored["meta"]


def has_optimizer(workdir: str | os.PathLike, step: int) -> bool:
    """Returns whether a run can go on from a snapshot, which no merge has.

    Args:
      workdir: the run's folder.
      step: one of `stored_steps(workdir)`.
    """
    return (_folder(workdir, step) / "optimizer").is_dir()


def restore_weights(
    workdir: str | os.PathLike, step: int, name: str, like: Tree
) -> Tree:
    """Restores one set of weights and nothing else.

    Args:
      workdir: the run's folder.
      step: one of `stored_steps(workdir)`.
      name: `raw` or the name of an average.
      like: shapes, dtypes and shardings that the weights shall have.

    Returns:
      The weights.

    Raises:
      ValueError: the snapshot has no such weights, and the message lists what it has;
        or they are of another model.
    """
    check_weights(workdir, step, name, like)
    return restore_part(workdir, step, name, like)


def restore_part(workdir: str | os.PathLike, step: int, name: str, part: Tree) -> Tree:
    """Restores some leaves of one set of weights and reads no other; checks nothing.

    Args:
      workdir: the run's folder.
      step: one of `stored_steps(workdir)`.
      name: `raw` or the name of an average.
      part: shapes, dtypes and shardings; leaves that are not wanted are `...`.

    Returns:
      The weights, with `...` where nothing was wanted.
    """
    target = part if name == "raw" else {"value": part}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        restored = checkpointer.restore(
            _folder(workdir, step) / _item(name),
            args=ocp.args.PyTreeRestore(
                target,
                restore_args=ocp.checkpoint_utils.construct_restore_args(target),
                partial_restore=True,
            ),
        )
    return restored if name == "raw" else restored["value"]


def check_weights(workdir: str | os.PathLike, step: int, name: str, like: Tree) -> None:
    """Refuses weights that are not stored, or are of another model.

    Args:
      workdir: the run's folder.
      step: one of `stored_steps(workdir)`.
      name: `raw` or the name of an average.
      like: the shapes that the weights shall have.

    Raises:
      ValueError: they are not as wanted.
    """
    _check_items(workdir, step, [_item(name)])
    _check_shapes(workdir, step, name, like)


def stored_weights(workdir: str | os.PathLike, step: int) -> list[str]:
    """Returns the names of the weights in a snapshot: `raw`, and then its averages.

    Args:
      workdir: the run's folder.
      step: one of `stored_steps(workdir)`.

    Raises:
      ValueError: there is no such snapshot.
    """
    _check_items(workdir, step, [])
    names = [path.name for path in _folder(workdir, step).iterdir() if path.is_dir()]
    averages = sorted(_name(one) for one in names if one.startswith("average_"))
    return ["raw"] * ("raw" in names) + averages


def weights_like(
    workdir: str | os.PathLike, step: int, name: str, place: jax.sharding.Sharding
) -> Tree:
    """Returns the shapes and dtypes of weights, as they are stored.

    Args:
      workdir: the run's folder.
      step: one of `stored_steps(workdir)`.
      name: `raw` or the name of an average.
      place: the sharding that every leaf shall have.

    Returns:
      What `restore_weights` takes; no model is needed for it.

    Raises:
      ValueError: the snapshot has no such weights.
    """
    _check_items(workdir, step, [_item(name)])
    stored = _metadata(workdir, step, name)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        stored if name == "raw" else stored["value"],
    )


def restore_count(workdir: str | os.PathLike, step: int, name: str) -> int:
    """Returns how many updates an average has seen.

    Args:
      workdir: the run's folder.
      step: one of `stored_steps(workdir)`.
      name: of the average; `raw` has seen every update.

    Raises:
      ValueError: the snapshot has no such average.
    """
    _check_items(workdir, step, [_item(name)])
    if name == "raw":
        return step
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        restored = checkpointer.restore(
            _folder(workdir, step) / _item(name),
            args=ocp.args.PyTreeRestore(
                {"count": 0},
                restore_args={"count": ocp.RestoreArgs(restore_type=int)},
                partial_restore=True,
            ),
        )
    return int(restored["count"])


def read_meta(workdir: str | os.PathLike, step: int) -> dict[str, Any]:
    """Returns what a snapshot says about itself: `step`, `sequences`, maybe `merge`.

    Args:
      workdir: the run's folder.
      step: one of `stored_steps(workdir)`.

    Raises:
      ValueError: there is no such snapshot.
    """
    _check_items(workdir, step, ["meta"])
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        return checkpointer.restore(_folder(workdir, step) / "meta")


def items(state: TrainState) -> dict[str, Tree]:
    """Returns the trees of a state by the name of the item that holds them."""
    optimizer, averages = averaging.detach(state.optimizer)
    trees = {"raw": state.params, "optimizer": optimizer}
    for name, average in averages.items():
        # Orbax does not store what is empty.
        fields = average._asdict()
        trees[_item(name)] = {k: v for k, v in fields.items() if jax.tree.leaves(v)}
    return trees


def _check_items(workdir, step, wanted) -> None:
    folder = _folder(workdir, step)
    if not folder.is_dir():
        raise ValueError(
            f"{workdir!s} has no snapshot of step {step}; stored are "
            f"{', '.join(map(str, stored_steps(workdir))) or 'none'}"
        )
    stored = [path.name for path in folder.iterdir() if path.is_dir()]
    missing = [_name(item) for item in wanted if item not in stored]
    if missing:
        known = sorted(set(map(_name, stored)) - {"optimizer", "meta"})
        raise ValueError(
            f"the snapshot of step {step} in {workdir!s} has no weights "
            f"{', '.join(missing)}; it has {', '.join(known)}"
        )


def _check_shapes(workdir, step, name, like) -> None:
    """Orbax leaves out what is surplus, and gives back `like` for what is missing."""
    stored = _metadata(workdir, step, name)
    actual = _shapes(stored if name == "raw" else stored["value"])
    wanted = _shapes(like)
    for path in sorted(actual.keys() | wanted.keys()):
        if actual.get(path) != wanted.get(path):
            raise ValueError(
                f"weights {name} of step {step} in {workdir!s} have shape "
                f"{actual.get(path)} at {path}, where {wanted.get(path)} is wanted"
            )


def _metadata(workdir, step, name) -> Tree:
    """The tree of an item, with shapes and dtypes in place of arrays."""
    handler = ocp.PyTreeCheckpointHandler()
    return handler.metadata(_folder(workdir, step) / _item(name)).tree


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _folder(workdir: str | os.PathLike, step: int) -> pathlib.Path:
    return pathlib.Path(workdir).absolute() / FOLDER / str(step)


def _item(name: str) -> str:
    return name if name == "raw" else f"average_{name}"


def _name(item: str) -> str:
    return item.removeprefix("average_")
