"""Metrics on disk: one JSON line per record, and the same for TensorBoard."""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Iterator, Mapping

from anytime_jax.training import hosts
from anytime_jax.training.store import writing

FILE = "metrics.jsonl"


class Writer:
    """Writes scalars to `metrics.jsonl` and `tensorboard/` in a run's folder.

    Has the methods of `clu.metric_writers.MetricWriter` that training calls, so that
    one of those can stand in its place.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        resume_step: int = 0,
        records: str | None = None,
    ):
        """Opens the files, forgetting what was recorded after `resume_step`.

        Args:
          workdir: the run's folder, made if it is not there.
          resume_step: updates done in the snapshot that the run goes on from.
          records: what the file has to hold until then, if the snapshot carries it.

        Raises:
          Unwritable: a file cannot be written; so do the methods.
          ValueError: a line is no record, and there are no `records` to replace it.
        """
        folder = pathlib.Path(workdir)
        self._path = folder / FILE
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with writing(self._path):
            _cut(self._path, resume_step, records)
        self._tensorboard = _TensorBoard(folder / "tensorboard", resume_step)
        with writing(self._path):
            self._file = self._path.open("a")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends one record.

        Args:
          step: updates done.
          scalars: values by key.
        """
        with writing(self._path):
            self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        self._tensorboard.write_scalars(step, scalars)

    def flush(self) -> None:
        """Makes all records safe on disk: a snapshot must not be ahead of them."""
        with writing(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
        self._tensorboard.flush()

    def records(self) -> str:
        """Returns the text of `metrics.jsonl`, for a snapshot to carry."""
        self.flush()
        return self._path.read_text()

    def close(self) -> None:
        """Flushes and closes the files."""
        try:
            self.flush()
        finally:
            with contextlib.closing(self._tensorboard), writing(self._path):
                self._file.close()


class Silent:
    """Writes nothing, for all but the first process of a run on several hosts."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""

    def records(self) -> str:
        """Returns nothing, as what the first process writes is carried."""
        return ""

    def close(self) -> None:
        """Does nothing."""


class _TensorBoard:
    """Writes an event file, and not in a thread: its errors would be lost."""

    def __init__(self, folder: pathlib.Path, resume_step: int):
        # Slow to import, and only writers need it.
        from tensorboardX import event_file_writer
        from tensorboardX.proto import event_pb2, summary_pb2

        self._folder, self._events, self._summaries = folder, event_pb2, summary_pb2
        with writing(folder):
            folder.mkdir(exist_ok=True)
            # Its own name is the second, and two starts can be in the same one.
            suffix = f".{resume_step}.{os.getpid()}"
            self._file = event_file_writer.EventsWriter(str(folder / "events"), suffix)
        # What is later than that step was not done, for TensorBoard.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(resume_step + 1, session_log=start)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        values = [
            self._summaries.Summary.Value(tag=key, simple_value=value)
            for key, value in scalars.items()
        ]
        self._write(step, summary=self._summaries.Summary(value=values))

    def flush(self) -> None:
        with writing(self._folder):
            self._file.flush()

    def close(self) -> None:
        with writing(self._folder):
            self._file.close()

    def _write(self, step: int, **content) -> None:
        event = self._events.Event(wall_time=time.time(), step=step, **content)
        with writing(self._folder):
            self._file.write_event(event)


def read(workdir: str | os.PathLike) -> list[dict]:
    """Returns the records of a run, leaving out a last line that was cut off.

    Args:
      workdir: the run's folder.

    Returns:
      One dict per record, each with its `step`; none if there is no file.

    Raises:
      ValueError: a line before the last one is no record.
    """
    path = pathlib.Path(workdir) / FILE
    records = list(_lines(path))
    for number, (_, record) in enumerate(records, 1):
        if record is None:
            raise ValueError(f"{path!s} is damaged: line {number} is no record")
    return [record for _, record in records]


def _lines(path: pathlib.Path) -> Iterator[tuple[str, dict | None]]:
    """Whole lines, each with its record, None if it is damaged."""
    text = path.read_bytes().decode(errors="replace") if path.exists() else ""
    for line in text.split("\n")[:-1]:
        try:
            record = json.loads(line)
            yield line + "\n", record if isinstance(record["step"], int) else None
        except (ValueError, TypeError, KeyError):
            yield line + "\n", None


def _cut(path: pathlib.Path, step: int, records: str | None) -> None:
    """Leaves the records up to `step`; the file is replaced whole or not at all."""
    if records is None:
        kept = [record for record in read(path.parent) if record["step"] <= step]
        wanted = "".join(json.dumps(record) + "\n" for record in kept)
    else:
        there = [line for line, record in _lines(path) if _until(record, step)]
        wanted = records
        if "".join(there) != wanted:
            hosts.say(
                f"{path} was cut or damaged; restored from the snapshot of step {step}"
            )
    if path.exists() or wanted:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(wanted)
        temporary.replace(path)


def _until(record: dict | None, step: int) -> bool:
    """A damaged line counts, so that it shows."""
    return record is None or record["step"] <= step
