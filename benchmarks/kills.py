"""Kills runs again and again; a kill counts by what the next start makes of it."""

import contextlib
import pathlib
import signal
import subprocess
from collections.abc import Callable, Iterator

import processes
import remains
import workshop

# Of one run: later ones have to go on from what earlier ones have left.
_MOST = 10


class Kills:
    """Kills at random moments, every second of them inside the write of a snapshot.

    Attributes:
      inside: how many left half a snapshot.
    """

    def __init__(self, shop: workshop.Workshop):
        """Makes none yet.

        Args:
          shop: for the runs.
        """
        self._shop, self._begun, self.inside = shop, 0, 0

    def tries(self, wanted: int) -> Iterator[str]:
        """Yields for every kill what was lost, nothing if empty.

        Args:
          wanted: how many kills; there are fewer if runs end before them.
        """
        done = 0
        for _ in range(wanted):
            problems = self._chain(self._shop.new(), min(_MOST, wanted - done))
            done += len(problems)
            yield from problems
            if done == wanted:
                break

    def _chain(self, workdir: pathlib.Path, most: int) -> list[str]:
        """One run until its end: what was wrong after each of its kills."""
        problems = []
        try:
            while len(problems) < most:
                before = remains.left(workdir)
                process = self._shop.start(workdir)
                with processes.reaped(process):
                    self.inside += self._kill(process, workdir)
                if problems:
                    problems[-1] = self._wrong(before, workdir, process)
                if process.returncode != -signal.SIGKILL:
                    end = self._shop.differs(workdir)
                    break
                problems.append("")
            else:
                end = self._shop.problem(workdir)
        except Exception as error:
            end = f"{type(error).__name__}: {error}"
        return [problem or end for problem in problems] or [end] * bool(end)

    def _wrong(
        self,
        before: remains.Left,
        workdir: pathlib.Path,
        process: subprocess.Popen,
    ) -> str:
        """What a start made of the kill before it, whether it was killed or ended."""
        killed = process.returncode == -signal.SIGKILL
        if process.returncode and not killed:
            return f"the next start ended with {process.returncode}"
        if remains.left(workdir).step < before.step:
            return f"the snapshot of step {before.step} is gone"
        if killed and remains.began(workdir, process.pid) is None:
            # Before it knew where to start, but maybe after it began to tidy up.
            return remains.rewritten(before, workdir, self._shop.kept)
        return self._shop.went_on(before, workdir, process.pid)

    def _kill(self, process: subprocess.Popen, workdir: pathlib.Path) -> bool:
        """Kills a process, if it does not end before; whether inside a write."""
        self._begun += 1
        uniform = self._shop.random.uniform
        if self._begun % 2 == 0:
            passed, pause = self._shop.random.randrange(3), uniform(0.0, 0.2)
            return processes.kill_in_a_write(process, workdir, passed, pause)
        if self._begun % 4 == 1:  # Soon after the loop has begun.
            _wait(process, lambda: remains.began(workdir, process.pid) is not None)
            pause = uniform(0.0, 2.0)
        else:
            pause = uniform(0.0, self._shop.seconds)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(pause)
        processes.kill(process)
        return False


def _wait(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    with contextlib.suppress(RuntimeError):  # It has ended.
        processes.wait_until(process, condition)
