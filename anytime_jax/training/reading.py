"""One item of a snapshot: read as it is stored, and verified."""

import contextlib
import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp

from anytime_jax.training import checksums, hosts, verifying

Tree = Any

_METADATA = "_METADATA"  # the name that Orbax gives it


def metadata(folder: pathlib.Path, item: str) -> Any:
    """Returns the tree of an item with shapes and dtypes in place of its arrays.

    Args:
      folder: of the snapshot.
      item: the name of the item.

    Returns:
      It, with the checksums in its `custom_metadata`.

    Raises:
      Damaged: it cannot be read.
      ValueError: it is of an unknown format.
    """
    with _damage(folder, item):
        # Without this file Orbax would guess what is there.
        found = (folder / item / _METADATA).stat()
        read = _metadata(folder / item, (found.st_ino, found.st_mtime_ns))
    verifying.check_format(folder, (read.custom_metadata or {}).get("format", 1))
    return read


def read(folder: pathlib.Path, item: str, like: Tree) -> Tree:
    """Reads some of an item, in the dtypes that are stored; each process reads alone.

    Args:
      folder: of the snapshot.
      item: the name of the item.
      like: shapes and shardings; leaves that are not wanted are `...` or left out.

    Returns:
      The arrays, with `...` where nothing was wanted.

    Raises:
      Damaged: they cannot be read.
      ValueError: they are of 64 bits, and JAX is set to 32.
    """
    dtypes = {
        path: leaf.dtype for path, leaf in checksums.leaves(metadata(folder, item).tree)
    }

    def as_stored(path, leaf):
        if leaf is ...:
            return leaf
        dtype = dtypes[checksums.name(path)]
        if jax.dtypes.canonicalize_dtype(dtype) != dtype:
            raise ValueError(
                f"{folder / item} holds {dtype} at {checksums.name(path)}, which JAX "
                "reads with JAX_ENABLE_X64=1"
            )
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)

    target = jax.tree.map_with_path(as_stored, like)
    handler = ocp.PyTreeCheckpointHandler()
    # Not through a Checkpointer, which waits for all processes when it has read.
    with _damage(folder, item), contextlib.closing(handler):
        return handler.restore(
            folder / item,
            args=ocp.args.PyTreeRestore(
                target,
                restore_args=ocp.checkpoint_utils.construct_restore_args(target),
                partial_restore=True,
            ),
        )


def verified(folder: pathlib.Path, item: str, tree: Tree, like: Tree) -> Tree:
    """Returns what was read if it is as it was written; all processes call it.

    Args:
      folder: of the snapshot; of an old one, without checksums, one line is said.
      item: the name of the item.
      tree: from `read`.
      like: the dtypes that it shall have.

    Raises:
      Damaged: it is not.
    """
    written = metadata(folder, item).custom_metadata
    if written:
        there = {path: leaf for path, leaf in checksums.leaves(tree) if leaf is not ...}
        verifying.check_contents(folder, item, there, written)
    else:
        _say_unchecked(folder.parent.parent)
    return jax.tree.map(
        lambda leaf, to: leaf if to is ... else _cast(leaf, to.dtype), tree, like
    )


def read_json(folder: pathlib.Path, item: str) -> dict[str, Any]:
    """Returns an item that JSON holds.

    Args:
      folder: of the snapshot.
      item: the name of the item.

    Raises:
      Damaged: it cannot be read.
    """
    with _damage(folder, item):
        return json.loads((folder / item / "metadata").read_text())


def on_all_processes(read: Callable[[], Any]) -> Any:
    """Returns what each process reads; where it fails on one, it fails on all.

    Args:
      read: what reads, without waiting for others.

    Raises:
      Damaged: a process has raised it.
      ValueError: a process has raised it.
    """
    problem, made = None, None
    try:
        made = read()
    except ValueError as error:
        problem = error
    if jax.process_count() > 1:
        damaged = isinstance(problem, verifying.Damaged)
        hosts.agree("" if damaged or problem is None else str(problem))
        try:
            hosts.agree(str(problem) if damaged else "")
        except ValueError as error:
            raise verifying.Damaged(str(error)) from problem
    if problem:
        raise problem
    return made


@functools.lru_cache(maxsize=256)
def _metadata(path: pathlib.Path, version: tuple[int, int]) -> Any:
    """Kept, as it opens every array and is needed for each part that is read."""
    del version
    return ocp.PyTreeCheckpointHandler().metadata(path)


@functools.cache
def _say_unchecked(workdir: str | os.PathLike) -> None:
    hosts.say(f"{workdir}: its snapshots are of an older version, without checksums")


@contextlib.contextmanager
def _damage(folder: pathlib.Path, item: str) -> Iterator[None]:
    """Makes one line of what Orbax raises where an item is damaged."""
    try:
        yield
    except (PermissionError, MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        # A flipped bit in Orbax's notes may raise anything.
        reason = str(error).split("\n")[0][:200]
        raise verifying.damage(folder, f"{item} cannot be read: {reason}") from error


def _cast(leaf: jax.Array, dtype: Any) -> jax.Array:
    return leaf if leaf.dtype == dtype else leaf.astype(dtype)
