"""Metrics on disk: one JSON line per record, and the same for TensorBoard."""

import json
import os
import pathlib
from collections.abc import Mapping

FILE = "metrics.jsonl"


class Writer:
    """Writes scalars to `metrics.jsonl` and `tensorboard/` in a run's folder.

    Has the methods of `clu.metric_writers.MetricWriter` that training calls, so that
    one of those can stand in its place.
    """

    def __init__(self, workdir: str | os.PathLike, resume_step: int = 0):
        """Opens the files, forgetting what was recorded after `resume_step`.

        Args:
          workdir: the run's folder, made if it is not there.
          resume_step: updates done in the snapshot that the run goes on from.
        """
        import tensorboardX  # Slow to import, and only writers need it.

        workdir = pathlib.Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        self._path = workdir / FILE
        _truncate(self._path, resume_step)
        self._file = self._path.open("a")
        self._tensorboard = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=resume_step + 1
        )

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends one record.

        Args:
          step: updates done.
          scalars: values by key.
        """
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        for key, value in scalars.items():
            self._tensorboard.add_scalar(key, value, step)

    def flush(self) -> None:
        """Makes all records safe on disk: a snapshot must not be ahead of them."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._tensorboard.flush()

    def close(self) -> None:
        """Flushes and closes the files."""
        self.flush()
        self._file.close()
        self._tensorboard.close()


class Silent:
    """Writes nothing, for all but the first process of a run on several hosts."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def read(workdir: str | os.PathLike) -> list[dict]:
    """Returns the records of a run, leaving out a last line that was cut off.

    Args:
      workdir: the run's folder.

    Returns:
      One dict per record, each with its `step`; none if there is no file.
    """
    path = pathlib.Path(workdir) / FILE
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


def _truncate(path: pathlib.Path, step: int) -> None:
    """Keeps the records up to `step`; the file is replaced whole or not at all."""
    if not path.exists():
        return
    kept = [record for record in read(path.parent) if record["step"] <= step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))
    temporary.replace(path)
