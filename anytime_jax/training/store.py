"""Writing the snapshots that `snapshots` reads."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import orbax.checkpoint as ocp

from anytime_jax.training import snapshots
from anytime_jax.training.state import TrainState

Tree = Any

_LATEST = 2


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
            pathlib.Path(workdir).absolute() / snapshots.FOLDER,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_Preservation(keeps), cleanup_tmp_directories=True
            ),
            handler_registry=_handlers(),
        )

    def save(self, state: TrainState, step: int, meta: Mapping[str, Any]) -> None:
        """Saves in the background; an interruption leaves no half of a snapshot.

        Args:
          state: what to save; it may be donated once this returns.
          step: updates done.
          meta: what else a restart has to know, such as the `sequences` of the training
            data that were consumed; `step` is added.
        """
        trees = snapshots.items(state)
        items = {name: ocp.args.PyTreeSave(tree) for name, tree in trees.items()}
        items["meta"] = ocp.args.JsonSave({**meta, "step": step})
        self._manager.save(step, args=ocp.args.Composite(**items))

    def wait(self) -> None:
        """Waits until everything that was saved is safe on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and releases the folder."""
        self._manager.close()

    def abandon(self) -> None:
        """Releases the folder after a failure."""
        self._manager.close()


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
    folder = pathlib.Path(workdir).absolute() / snapshots.FOLDER
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
