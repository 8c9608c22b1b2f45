"""Compares what runs leave on disk, and tells whether one went on or began anew.

Runs are deterministic: one that lost everything and began anew ends bit for bit like
one that went on. What tells them apart is where a process started, and that snapshots
which were there have not been written a second time.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from anytime_jax.training import metrics, snapshots


@dataclasses.dataclass(frozen=True)
class Left:
    """What there is of a run when no process is at work on it.

    Attributes:
      step: of the newest whole snapshot, 0 without any.
      damaged: steps of newer ones that are not whole.
      files: of all whole snapshots; each with what changes if it is written again.
    """

    step: int
    damaged: Sequence[int]
    files: Mapping[pathlib.Path, tuple[int, ...]]


def left(workdir: str | os.PathLike) -> Left:
    """Returns what there is of a run.

    Args:
      workdir: the run's folder.
    """
    step, damaged = snapshots.newest_whole(workdir)
    files = {
        path: _identity(path)
        for one in snapshots.stored_steps(workdir)
        if one not in damaged
        for path in snapshot(workdir, one).rglob("*")
        if path.is_file()
    }
    return Left(step or 0, sorted(damaged), files)


def rewritten(before: Left, workdir: str | os.PathLike, kept: Sequence[int]) -> str:
    """Returns what is wrong with snapshots that were there before, nothing if empty.

    Args:
      before: what was there.
      workdir: the run's folder.
      kept: steps of the snapshots that a run keeps; others may be gone.
    """
    folders = [snapshot(workdir, step) for step in kept]
    for path, identity in before.files.items():
        if any(path.is_relative_to(folder) for folder in folders):
            if not path.is_file():
                return f"{path} is gone"
            if _identity(path) != identity:
                return f"{path} was written again"
    return ""


def began(workdir: str | os.PathLike, process: int) -> int | None:
    """Returns the step that a process began at, by the name of its event file.

    Args:
      workdir: the run's folder.
      process: its number.

    Returns:
      The step; None if the process ended before it knew, or had nothing to do.
    """
    paths = sorted(pathlib.Path(workdir, "tensorboard").glob(f"events.*.{process}"))
    return int(paths[-1].name.split(".")[-2]) if paths else None


def went_on(
    before: Left, workdir: str | os.PathLike, process: int, kept: Sequence[int]
) -> str:
    """Returns in which way a process did not go on from the newest snapshot.

    Args:
      before: what was there when it was started.
      workdir: the run's folder.
      process: its number.
      kept: steps of the snapshots that the run has when it is complete.

    Returns:
      Nothing if it did.
    """
    step = began(workdir, process)
    if step != before.step and before.step != kept[-1]:
        return f"began at step {step}, not {before.step}"
    return rewritten(before, workdir, kept)


def snapshot(workdir: str | os.PathLike, step: int) -> pathlib.Path:
    """Returns the folder of a snapshot.

    Args:
      workdir: the run's folder.
      step: updates done.
    """
    return pathlib.Path(workdir) / snapshots.FOLDER / str(step)


def listing(workdir: str | os.PathLike) -> dict[pathlib.Path, tuple[int, ...]]:
    """Returns all files of a folder, each with what changes if it is written.

    Args:
      workdir: the folder.
    """
    return {path: _identity(path) for path in pathlib.Path(workdir).rglob("*")}


def records(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns all records of a run without what a clock says.

    Args:
      workdir: the run's folder.
    """
    return [
        {key: value for key, value in record.items() if not key.startswith("time/")}
        for record in metrics.read(workdir)
    ]


def differences(one: str | os.PathLike, other: str | os.PathLike) -> list[str]:
    """Returns where two runs differ: in records, in any bit of their last snapshots.

    Args:
      one: a run's folder.
      other: another's.
    """
    found = [] if records(one) == records(other) else ["metrics.jsonl"]
    steps = [snapshots.stored_steps(workdir) for workdir in (one, other)]
    if steps[0] != steps[1]:
        return [*found, f"snapshots {steps[0]} and {steps[1]}"]
    last = steps[0][-1]
    metas = [snapshots.read_meta(run, last) for run in (one, other)]
    if metas[0] != metas[1]:
        found.append(f"meta {metas[0]} and {metas[1]}")
    arrays, others = (leaves(snapshot(run, last)) for run in (one, other))
    names = sorted(arrays.keys() | others.keys())
    return found + [name for name in names if arrays.get(name) != others.get(name)]


def leaves(snapshot: pathlib.Path) -> dict[str, bytes]:
    """Returns every array of a snapshot by item and path, whatever the items are.

    Args:
      snapshot: its folder.
    """
    return dict(_leaves(snapshot))


def _leaves(snapshot: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    handler = ocp.PyTreeCheckpointHandler()
    for item in sorted(path.parent for path in snapshot.glob("*/_METADATA")):
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
            handler.metadata(item).tree,
        )
        tree = handler.restore(
            item,
            args=ocp.args.PyTreeRestore(
                like, restore_args=ocp.checkpoint_utils.construct_restore_args(like)
            ),
        )
        for path, leaf in jax.tree.leaves_with_path(tree):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            yield f"{item.name}/{name}", np.asarray(leaf).tobytes()


def _identity(path: pathlib.Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
