"""Makes real runs to do harm to, and tells whether they are what they should be."""

import contextlib
import pathlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import processes
import remains

from anytime_jax.training import snapshots


class End(NamedTuple):
    """How a process ended: its number, its exit code, and all that it said."""

    process: int
    code: int
    text: str

    def problem(self, code: int, *words: str) -> str:
        """Returns in which way it did not end as it had to, nothing if it did.

        Args:
          code: that it had to end with.
          *words: that had to be in the last line that it said.
        """
        line = processes.last_line(self.text)
        missing = [word for word in words if word not in line]
        if self.code != code:
            return f"ended with {self.code}, not {code}, and said {line!r}"
        return f"did not say {missing[0]!r} but {line!r}" if missing else ""


class Workshop:
    """Has a run that nothing happened to, and one that was told to stop half way.

    Attributes:
      reference: the folder of the first.
      kept: the steps of its snapshots.
      seconds: that it took.
      random: numbers.
    """

    def __init__(self, folder: pathlib.Path):
        """Makes both runs.

        Args:
          folder: for all runs.
        """
        self._folder, self._count = folder, 0
        self.random = random.Random(0)
        # The runs after the first find everything compiled and take half of its time.
        self._variables = {
            "JAX_COMPILATION_CACHE_DIR": folder / "compiled",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0,
        }
        self._halfway = self.new()
        self._check(self.stop(self._halfway, signal.SIGTERM).problem(143))
        self.reference = self.new()
        began = time.monotonic()
        self._check(self.attempt(self.reference).problem(0))
        self.seconds = time.monotonic() - began
        self.kept = snapshots.stored_steps(self.reference)

    def new(self) -> pathlib.Path:
        """Returns a folder for a run."""
        self._count += 1
        return self._folder / f"run{self._count}"

    def halfway(self, workdir: pathlib.Path | None = None) -> pathlib.Path:
        """Returns a run that was told to stop after half of its steps.

        Args:
          workdir: its folder, None for any.
        """
        workdir = workdir or self.new()
        shutil.copytree(self._halfway, workdir)
        return workdir

    def start(
        self,
        workdir: str | pathlib.Path,
        changes=(),
        script: str = "",
        config: str | pathlib.Path = processes.CONFIG,
        more: Sequence[str] = (),
    ) -> subprocess.Popen:
        """Starts a run, or goes on with it.

        Args:
          workdir: its folder.
          changes: of the config, by dotted key.
          script: Python lines to run before in the same process.
          config: another file.
          more: arguments.
        """
        overrides = processes.OVERRIDES | dict(changes)
        arguments = [*processes.flags(workdir, overrides, config), *more]
        return processes.start(arguments, variables=self._variables, script=script)

    def attempt(self, *arguments, **options) -> End:
        """Starts a run and waits for its end.

        Args:
          *arguments: as for `start`.
          **options: as for `start`.
        """
        return self.ended(self.start(*arguments, **options))

    def ended(self, process: subprocess.Popen) -> End:
        """Waits for the end of a process, which never is a traceback.

        Args:
          process: from `start`.
        """
        [(code, text)] = processes.ended(process)
        if "Traceback" in text:
            raise RuntimeError(text[text.index("Traceback") :])
        return End(process.pid, code, text)

    @contextlib.contextmanager
    def running(self, workdir: pathlib.Path, step: int) -> Iterator[subprocess.Popen]:
        """Starts a run and comes back when it has recorded a step.

        Args:
          workdir: its folder.
          step: updates done.
        """
        process = self.start(workdir)
        with processes.reaped(process):
            condition = partial(processes.recorded, workdir, step)
            processes.wait_until(process, condition)
            yield process

    def stop(self, workdir: pathlib.Path, number: int) -> End:
        """Starts a run and sends it a signal after half of its steps.

        Args:
          workdir: its folder.
          number: of the signal.
        """
        with self.running(workdir, processes.STEPS // 2) as process:
            process.send_signal(number)
            return self.ended(process)

    def problem(
        self, workdir: pathlib.Path, *words: str, damaged: Sequence[int] = ()
    ) -> str:
        """Gives the command again and returns what is wrong then, nothing if empty.

        It has to go on from the newest whole snapshot, to write none a second time,
        and to end as the run that nothing happened to.

        Args:
          workdir: the run's folder.
          *words: that it has to say.
          damaged: the snapshots that may not be whole.
        """
        before = remains.left(workdir)
        if before.damaged != list(damaged):
            return f"the snapshots of {before.damaged} look whole and are not"
        end = self.attempt(workdir)
        missing = [word for word in words if word not in end.text]
        return (
            end.problem(0)
            or self.went_on(before, workdir, end.process)
            or (f"did not say {missing[0]!r}" if missing else "")
            or self.differs(workdir)
        )

    def went_on(self, before: remains.Left, workdir: pathlib.Path, process: int) -> str:
        """Returns `remains.went_on` of a run whose snapshots are the reference's."""
        return remains.went_on(before, workdir, process, self.kept)

    def differs(self, workdir: pathlib.Path) -> str:
        """Returns where a run is not what it would be if nothing had happened to it.

        Args:
          workdir: its folder.
        """
        found = remains.differences(self.reference, workdir)
        return f"differs in {', '.join(found[:3])}" if found else ""

    def survives(self, before: remains.Left, workdir: pathlib.Path) -> str:
        """Returns what is wrong with a run after a process has failed, if anything.

        What was there has to be as it was, and what is there whole; then it goes on.

        Args:
          before: what was there.
          workdir: the run's folder.
        """
        if remains.left(workdir).step < before.step:
            return f"the snapshot of step {before.step} is gone"
        return remains.rewritten(before, workdir, self.kept) or self.problem(workdir)

    def _check(self, problem: str) -> None:
        if problem:
            raise RuntimeError(problem)


@contextlib.contextmanager
def mounted(folder: pathlib.Path, *arguments: str) -> Iterator[None]:
    """Mounts something for as long as the context is open.

    Args:
      folder: where.
      *arguments: of the command mount before it.

    Raises:
      RuntimeError: it is not allowed.
    """
    mount = subprocess.run(
        ["mount", *arguments, str(folder)], capture_output=True, text=True
    )
    if mount.returncode:
        raise RuntimeError(
            f"{mount.stderr.strip()} (`unshare --map-root-user --mount`)"
        )
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def read_only(folder: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """Makes a folder read-only for what is opened from now on.

    Args:
      folder: the folder.
    """
    return mounted(folder, "--bind", "-o", "ro", str(folder))


@contextlib.contextmanager
def filled(folder: pathlib.Path, room: int) -> Iterator[None]:
    """Fills the file system of a folder for as long as the context is open.

    Args:
      folder: the folder.
      room: bytes to leave.
    """
    filler = folder / "filler"
    size = shutil.disk_usage(folder).free - room
    with filler.open("wb") as opened:
        opened.write(bytes(size))
    try:
        yield
    finally:
        filler.unlink()
