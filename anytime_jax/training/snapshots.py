"""Snapshots of a run: raw weights, each average and the optimizer as own items.

    WORKDIR/snapshots/STEP/    raw, average_NAME, optimizer, meta; STEP = updates done

Evaluating or merging loads one item and nothing else, on any devices. A merge is a
snapshot too, of raw and meta alone.
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from anytime_jax import averaging
from anytime_jax.training.state import TrainState

Tree = Any

FOLDER = "snapshots"
_LATEST = 2
# The fields of an average that not every way of tracking has.
_EMPTY = {"compensation": (), "tokens": ()}


class Store:
    """Saves the snapshots of one run."""

    def __init__(self, workdir: str | os.PathLike, keeps: Callable[[int], bool]):
        """Opens a run's folder of snapshots, and removes what an interruption left.

        Args:
          workdir: the run's folder.
          keeps: whether the snapshot of a step stays for good; of the others the latest
            two stay.
        """
        self._manager = ocp.CheckpointManager(
            pathlib.Path(workdir).absolute() / FOLDER,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_Preservation(keeps), cleanup_tmp_directories=True
            ),
            handler_registry=_handlers(),
        )

    def save(self, state: TrainState, step: int, sequences: int) -> None:
        """Saves in the background; an interruption leaves no half of a snapshot.

        Args:
          state: what to save; it may be donated once this returns.
          step: updates done.
          sequences: sequences of the training data consumed.
        """
        items = {
            name: ocp.args.PyTreeSave(tree) for name, tree in _items(state).items()
        }
        items["meta"] = ocp.args.JsonSave({"step": step, "sequences": sequences})
        self._manager.save(step, args=ocp.args.Composite(**items))

    def wait(self) -> None:
        """Waits until everything that was saved is safe on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and releases the folder."""
        self._manager.close()


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
) -> tuple[TrainState, int]:
    """Restores a state and leaves the folder untouched.

    Args:
      workdir: the run's folder.
      step: one of `stored_steps(workdir)`.
      like: shapes, dtypes and shardings to restore into; its averages decide which are
        read.

    Returns:
      The state, and the number of sequences consumed.

    Raises:
      ValueError: an average of `like` is not in the snapshot.
    """
    wanted = _items(like)
    _check_items(workdir, step, wanted)
    items = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
    items["meta"] = ocp.args.JsonRestore()
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        restored = checkpointer.restore(
            _folder(workdir, step), args=ocp.args.Composite(**items)
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
    return state, restored["meta"]["sequences"]


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


def save_weights(
    workdir: str | os.PathLike, step: int, weights: Tree, meta: dict[str, Any]
) -> None:
    """Saves a snapshot of weights alone; an interruption leaves no half of it.

    Args:
      workdir: the folder, made if it is not there.
      step: updates done; there must be no snapshot of it.
      weights: what to save as `raw`.
      meta: what JSON can express; `step` is added.
    """
    items = ocp.args.Composite(
        raw=ocp.args.PyTreeSave(weights),
        meta=ocp.args.JsonSave({**meta, "step": step}),
    )
    folder = pathlib.Path(workdir).absolute() / FOLDER
    with ocp.CheckpointManager(folder, handler_registry=_handlers()) as manager:
        manager.save(step, args=items)


class _Preservation:
    """Orbax's policy: keep what stays for good, and the latest two of the rest."""

    def __init__(self, keeps: Callable[[int], bool]):
        self._keeps = keeps

    def should_preserve(self, checkpoints, *, context):
        del context
        rest = [c.step for c in checkpoints if not self._keeps(c.step)]
        recent = rest[-_LATEST:]
        return [self._keeps(c.step) or c.step in recent for c in checkpoints]


def _handlers() -> Any:
    """Of arrays without compression: it halves the speed and spares a few percent."""
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    arrays = ocp.PyTreeCheckpointHandler(use_compression=False)
    registry.add(None, ocp.args.PyTreeSave, arrays)
    registry.add(None, ocp.args.JsonSave, ocp.JsonCheckpointHandler())
    return registry


def _items(state: TrainState) -> dict[str, Tree]:
    """The trees of a state by the name of the item that holds them."""
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
