"""Writing the snapshots that `snapshots` reads."""

import contextlib
import copy
import errno
import os
import pathlib
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint._src.path import atomicity
from orbax.checkpoint._src.serialization import tensorstore_utils

from anytime_jax.training import hosts, snapshots, verifying
from anytime_jax.training.state import TrainState

Tree = Any

_LATEST = 2


class Unwritable(OSError):
    """Something of a run cannot be written; in one line, what and why."""


class Store:
    """Saves the snapshots of one run."""

    def __init__(self, workdir: str | os.PathLike, keeps: Callable[[int], bool]):
        """Opens a run's folder of snapshots, and removes what an interruption left.

        Args:
          workdir: the run's folder.
          keeps: whether the snapshot of a step stays for good; of the others the latest
            two stay.

        Raises:
          Unwritable: the folder cannot be made.
        """
        _spare_memory()
        self._folder = pathlib.Path(workdir).absolute() / snapshots.FOLDER
        self._step, self._need, self._saving = 0, 0, False  # of the last save
        self._before: list[int] = []  # the steps stored before it
        self._handed_over = threading.Event()
        with writing(self._folder):
            self._manager = ocp.CheckpointManager(
                self._folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=_Preservation(keeps),
                    cleanup_tmp_directories=True,
                    temporary_path_class=_starting_after(self._handed_over),
                    async_options=ocp.AsyncOptions(
                        post_finalization_callback=self._list_files
                    ),
                ),
                handler_registry=_handlers(),
            )

    def save(
        self,
        state: TrainState,
        step: int,
        meta: Mapping[str, Any],
        records: str | None = None,
    ) -> None:
        """Saves in the background; an interruption leaves no half of a snapshot.

        Args:
          state: what to save; it may be donated once this returns.
          step: updates done, more than in any snapshot that is there.
          meta: what else a restart has to know, such as the `sequences` of the training
            data that were consumed; `step` and `format` are added.
          records: the text of `metrics.jsonl` until this step, None to carry none; on
            all processes or on none.

        Raises:
          Unwritable: there is no room for it, the folder is gone, or the snapshot
            before it could not be written.
          ValueError: there is a snapshot of this step or of a later one.
        """
        extra = {} if records is None else {"records": {"text": records}}
        self._save(snapshots.items(state), step, meta, extra)

    def _save(
        self,
        trees: Mapping[str, Tree],
        step: int,
        meta: Mapping[str, Any],
        extra: Mapping[str, Any],
    ) -> None:
        self.wait()
        self._step = step
        self._need = sum(leaf.nbytes for leaf in jax.tree.leaves(trees))
        self._check_folder()
        self._before = snapshots.stored_steps(self._folder.parent)
        latest = self._manager.latest_step()
        if latest is not None and step <= latest:  # Orbax would save nothing.
            raise ValueError(f"step={step} must be above {latest}, the latest snapshot")
        # It is written later, when the caller may have changed what is in it.
        meta = copy.deepcopy({**meta, "step": step})
        args = _items(trees, meta, extra)
        self._handed_over.clear()
        with self._explained():
            try:
                self._manager.save(step, args=args)
            finally:
                self._handed_over.set()
        self._saving = True

    def check(self) -> None:
        """Finds out what has gone wrong in the background, without waiting.

        Raises:
          Unwritable: a snapshot could not be written, or the folder is gone.
        """
        if not self._saving:
            self._check_there()
        elif not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Waits until everything that was saved is safe on disk.

        Raises:
          Unwritable: it could not be written.
        """
        if not self._saving:
            return
        self._saving = False
        with self._explained():
            self._manager.wait_until_finished()
        stored = snapshots.stored_steps(self._folder.parent)
        self._check_there(stored if hosts.is_first() else None)
        # Elsewhere a network file system may show it later.
        if hosts.is_first() and self._step not in stored:
            raise self._unwritable("it is not there after it was written")

    def close(self) -> None:
        """Waits, and releases the folder.

        Raises:
          Unwritable: what was saved could not be written.
        """
        try:
            self.wait()
        except BaseException:
            self.abandon()
            raise
        try:
            self._manager.close()
        except jax.errors.JaxRuntimeError:  # such as another process that has ended
            raise
        except Exception as error:
            # All that was saved is there; it is the removal of older ones.
            hosts.say(f"{self._folder}: older snapshots stay: {_line(error)}")

    def abandon(self, wait: bool = True) -> None:
        """Releases the folder after a failure, which it does not repeat.

        Args:
          wait: whether what is being written may be finished.
        """
        self._handed_over.set()  # An interrupt may have come just before.
        # Of several processes each would wait for the others, which may be gone.
        if wait and jax.process_count() == 1:
            with contextlib.suppress(Exception):
                self._manager.close()

    def _list_files(self) -> None:
        """Called when all of a snapshot is written and it gets its name next."""
        if hosts.is_first():
            [unnamed] = self._folder.glob(f"{self._step}.orbax-checkpoint-tmp*")
            verifying.write_list(unnamed)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except jax.errors.JaxRuntimeError:  # such as another process that has ended
            raise
        except Exception as error:
            # What follows a snapshot that is whole is the removal of older ones.
            if self._step in snapshots.stored_steps(self._folder.parent):
                hosts.say(f"{self._folder}: older snapshots stay: {_line(error)}")
                return
            self._check_there(snapshots.stored_steps(self._folder.parent))
            self._check_folder()
            raise self._unwritable(_line(error)) from error

    def _check_folder(self) -> None:
        self._check_there()
        free = shutil.disk_usage(self._folder).free
        if free < self._need:
            raise Unwritable(
                f"{self._folder}: no room for the snapshot of step {self._step}, which "
                f"needs {_bytes(self._need)} where {_bytes(free)} are free; earlier "
                "ones are whole"
            )

    def _check_there(self, stored: Sequence[int] | None = None) -> None:
        """Refuses to go on without the folder, or with all of `_before` missing."""
        # What was still being written may have made the folder anew.
        emptied = (
            stored is not None and self._before and not {*self._before} & {*stored}
        )
        if emptied or not self._folder.is_dir():
            raise Unwritable(f"{self._folder} is gone: it was removed during the run")

    def _unwritable(self, reason: str) -> Unwritable:
        return Unwritable(
            f"{self._folder}: the snapshot of step {self._step}, of "
            f"{_bytes(self._need)}, cannot be written: {reason}; earlier ones are "
            "whole"
        )


def save_weights(
    workdir: str | os.PathLike, step: int, weights: Tree, meta: dict[str, Any]
) -> None:
    """Saves a snapshot of weights alone; an interruption leaves no half of it.

    Args:
      workdir: the folder, made if it is not there.
      step: updates done; there must be no snapshot of it.
      weights: what to save as `raw`.
      meta: what JSON can express; `step` and `format` are added.

    Raises:
      Unwritable: it cannot be written.
    """
    store = Store(workdir, keeps=lambda step: True)
    store._save({"raw": weights}, step, meta, {})
    store.close()


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Names a file or a folder when writing it fails.

    Args:
      path: of the file or folder.

    Raises:
      Unwritable: an OSError was raised.
    """
    try:
        yield
    except Unwritable:
        raise
    except OSError as error:
        reason = error.strerror or _line(error)
        raise Unwritable(f"{path!s} cannot be written: {reason}") from error


class _Preservation:
    """Orbax's policy: keep what stays for good, and the latest two of the rest."""

    def __init__(self, keeps: Callable[[int], bool]):
        self._keeps = keeps

    def should_preserve(self, checkpoints, *, context):
        del context
        rest = [c.step for c in checkpoints if not self._keeps(c.step)]
        recent = rest[-_LATEST:]
        return [self._keeps(c.step) or c.step in recent for c in checkpoints]


def _starting_after(event: threading.Event) -> type:
    """Orbax's folder for what is not whole yet, made only after an event.

    Nothing is written before its folder is there. Otherwise the first items are written
    while the loop still hands over the others, and it waits for cores and locks that
    their writing holds: two to three times as long.
    """

    class Folder(atomicity.AtomicRenameTemporaryPath):
        async def create(self, *args, **kwargs):
            event.wait()
            parent = self.get_final().parent
            if not parent.exists():  # Orbax would make it anew.
                reason = os.strerror(errno.ENOENT)
                raise FileNotFoundError(errno.ENOENT, reason, str(parent))
            return await super().create(*args, **kwargs)

    return Folder


def _items(
    trees: Mapping[str, Tree], meta: dict[str, Any], extra: Mapping[str, Any]
) -> ocp.args.Composite:
    arrays = {
        item: ocp.args.PyTreeSave(tree, custom_metadata=verifying.metadata(tree))
        for item, tree in trees.items()
    }
    texts = {**extra, "meta": meta | {"format": verifying.FORMAT}}
    return ocp.args.Composite(
        **arrays, **{item: ocp.args.JsonSave(text) for item, text in texts.items()}
    )


def _spare_memory() -> None:
    """Keeps Orbax from asking TensorStore how many bytes it has written, for its log.

    It asks twice for every item, and TensorStore (0.1.80 to 0.1.86, the newest) never
    frees what it answers: most of a megabyte for every snapshot of nine items.
    """
    tensorstore_utils.get_tensorstore_raw_bytes = lambda direction: None


def _handlers() -> Any:
    """Of arrays without compression: it halves the speed and spares a few percent."""
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    arrays = ocp.PyTreeCheckpointHandler(use_compression=False)
    registry.add(None, ocp.args.PyTreeSave, arrays)
    registry.add(None, ocp.args.JsonSave, ocp.JsonCheckpointHandler())
    return registry


def _line(error: Exception) -> str:
    """What has many lines and paths in TensorStore's words, in the system's."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    return (str(error) or type(error).__name__).split("\n")[0][:200]


def _bytes(size: int) -> str:
    for power, unit in ((9, "GB"), (6, "MB")):
        if size >= 10**power:
            return f"{size / 10**power:.2f} {unit}"
    return f"{size / 1000:.2f} kB"
