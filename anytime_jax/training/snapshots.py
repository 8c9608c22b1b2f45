"""Snapshots of a run: raw weights, each average and the optimizer as own items.

    WORKDIR/snapshots/STEP/    raw, average_NAME, optimizer, records, meta
    WORKDIR/snapshots/STEP.damaged

STEP is the number of updates done, and records are those of `metrics.jsonl` until then.
Evaluating or merging loads one item and nothing else, on any devices. A merge is a
snapshot too, of raw and meta alone. All that is read is verified, by `verifying`.
"""

import operator
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from anytime_jax import averaging
from anytime_jax.training import checksums, reading, sharding, verifying
from anytime_jax.training.state import TrainState
from anytime_jax.training.verifying import Damaged

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
    there = list(folder.iterdir()) if folder.is_dir() else []
    steps = [path.name for path in there if path.is_dir() and not path.is_symlink()]
    return sorted(int(name) for name in steps if re.fullmatch("0|[1-9][0-9]*", name))


def newest_whole(
    workdir: str | os.PathLike, damaged: Mapping[int, str] | None = None
) -> tuple[int | None, dict[int, str]]:
    """Returns the newest step whose files are all as they were written.

    Args:
      workdir: a run's folder.
      damaged: what is known to be wrong with the snapshots of some steps.

    Returns:
      The step, None if there are no snapshots; and what is wrong with newer ones.

    Raises:
      Damaged: there are snapshots, and none is whole.
      ValueError: a snapshot is of an unknown format.
    """
    damaged = dict(damaged or {})
    for step in reversed(stored_steps(workdir)):
        if step in damaged:
            continue
        try:
            verifying.check_whole(_folder(workdir, step))
        except Damaged as error:
            damaged[step] = str(error)
        else:
            return step, damaged
    if damaged:
        raise Damaged(
            f"no snapshot in {workdir!s} is whole: {damaged[max(damaged)]}; use "
            "another workdir"
        )
    return None, {}


def set_aside(workdir: str | os.PathLike, step: int) -> str:
    """Renames a snapshot, so that it counts no more and nothing of it is lost.

    Args:
      workdir: the run's folder.
      step: one of `stored_steps(workdir)`.

    Returns:
      Its new name.
    """
    folder = _folder(workdir, step)
    # Orbax takes a name that ends in `_STEP` for a snapshot.
    names = [f"{step}.damaged", *(f"{step}.damaged.{n}" for n in range(1, 1000))]
    name = next(name for name in names if not folder.with_name(name).exists())
    folder.rename(folder.with_name(name))
    return name


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
      ValueError: an average of `like` is not in the snapshot, or it is of another
        model, optimizer or format.
      Damaged: what is read is not as it was written.
    """
    wanted = items(like)

    folder = _folder(workdir, step)

    def read():
        _check_items(workdir, step, wanted)
        for item, tree in wanted.items():
            stored = reading.metadata(folder, item).tree
            what = item if item == "optimizer" else f"weights {_name(item)}"
            _check_shapes(workdir, step, what, stored, tree)
        read = {item: reading.read(folder, item, tree) for item, tree in wanted.items()}
        return read, read_meta(workdir, step)

    unverified, meta = reading.on_all_processes(read)
    restored = {
        item: reading.verified(folder, item, tree, wanted[item])
        for item, tree in unverified.items()
    }
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
    return state, meta


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
      Damaged: they are not as they were written.
    """
    check_weights(workdir, step, name, like)
    return restore_part(workdir, step, name, like)


def restore_part(workdir: str | os.PathLike, step: int, name: str, part: Tree) -> Tree:
    """Restores some leaves of one set of weights and reads no other.

    Their contents are verified; that they are there, `check_weights` has to see to.

    Args:
      workdir: the run's folder.
      step: one of `stored_steps(workdir)`.
      name: `raw` or the name of an average.
      part: shapes, dtypes and shardings; leaves that are not wanted are `...`.

    Returns:
      The weights, with `...` where nothing was wanted.
    """
    target = part if name == "raw" else {"value": part}
    folder, item = _folder(workdir, step), _item(name)
    read = reading.read(folder, item, target)
    restored = reading.verified(folder, item, read, target)
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
    stored = reading.metadata(_folder(workdir, step), _item(name)).tree
    part = stored if name == "raw" else stored["value"]
    _check_shapes(workdir, step, f"weights {name}", part, like)


def stored_weights(workdir: str | os.PathLike, step: int) -> list[str]:
    """Returns the names of the weights in a snapshot: `raw`, and then its averages.

    Args:
      workdir: the run's folder.
      step: one of `stored_steps(workdir)`.

    Raises:
      ValueError: there is no such snapshot.
    """
    _check_items(workdir, step, [])
    names = verifying.items(_folder(workdir, step))
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
    stored = reading.metadata(_folder(workdir, step), _item(name)).tree
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
    place = sharding.on_cpu()
    target = {"count": jax.ShapeDtypeStruct((), jnp.int32, sharding=place)}
    folder, item = _folder(workdir, step), _item(name)
    read = reading.read(folder, item, target)
    return int(reading.verified(folder, item, read, target)["count"])


def read_meta(workdir: str | os.PathLike, step: int) -> dict[str, Any]:
    """Returns what a snapshot says about itself: `step`, `sequences`, maybe `merge`.

    Args:
      workdir: the run's folder.
      step: one of `stored_steps(workdir)`.

    Raises:
      ValueError: there is no such snapshot, or it is of an unknown format.
      Damaged: it is not as it was written.
    """
    _check_items(workdir, step, ["meta"])
    meta = reading.read_json(_folder(workdir, step), "meta")
    verifying.check_format(_folder(workdir, step), meta.get("format", 1))
    return meta


def read_records(workdir: str | os.PathLike, step: int) -> str | None:
    """Returns the metrics that a snapshot carries, as the text of `metrics.jsonl`.

    Args:
      workdir: the run's folder.
      step: one of `stored_steps(workdir)`.

    Returns:
      The text until that step; None if the snapshot carries none.

    Raises:
      ValueError: there is no such snapshot.
      Damaged: it is not as it was written.
    """
    _check_items(workdir, step, [])
    if "records" not in verifying.items(_folder(workdir, step)):
        return None
    _check_items(workdir, step, ["records"])
    return reading.read_json(_folder(workdir, step), "records")["text"]


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
    stored = verifying.items(folder)
    missing = [_name(item) for item in wanted if item not in stored]
    if "meta" in missing:  # which every snapshot has
        raise verifying.damage(folder, "meta is missing")
    if missing:
        known = sorted(set(map(_name, stored)) - {"optimizer", "records", "meta"})
        raise ValueError(
            f"the snapshot of step {step} in {workdir!s} has no weights "
            f"{', '.join(missing)}; it has {', '.join(known)}"
        )
    verifying.check_files(folder, wanted)


def _check_shapes(workdir, step, what, stored, like) -> None:
    """Orbax leaves out what is surplus, and gives back `like` for what is missing."""
    actual, wanted = _shapes(stored), _shapes(like)
    for path in sorted(actual.keys() | wanted.keys()):
        if actual.get(path) != wanted.get(path):
            raise ValueError(
                f"{what} of step {step} in {workdir!s} have shape {actual.get(path)} "
                f"at {path}, where {wanted.get(path)} is wanted"
            )


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in checksums.leaves(tree)}


def _folder(workdir: str | os.PathLike, step: int) -> pathlib.Path:
    try:
        name = str(operator.index(step))
    except TypeError:
        name = ""
    if not name.isdecimal():
        raise ValueError(f"step={step!r} must be a whole number, at least 0")
    return pathlib.Path(workdir).absolute() / FOLDER / name


def _item(name: str) -> str:
    return name if name == "raw" else f"average_{name}"


def _name(item: str) -> str:
    return item.removeprefix("average_")
