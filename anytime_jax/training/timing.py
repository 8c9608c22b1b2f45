"""What the time of a run goes into, in shares of it and in a trace of a few steps."""

import contextlib
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax

from anytime_jax.training import hosts

FOLDER = "profile"

_SKIPPED = 5  # steps before the trace: the first ones are unlike the others
_TRACED = 5

_Item = TypeVar("_Item")


class Shares:
    """How the time of the loop is shared out.

    `data` is the wait for a batch, `evaluation` the losses and distances, `snapshot`
    what the loop stands still for (a snapshot is written beside the next steps), and
    `step` all the rest.

    Example:
      >>> ticks = iter([0.0, 1.0, 2.0, 8.0])
      >>> shares = Shares(clock=lambda: next(ticks))
      >>> with shares("data"):
      ...     pass
      >>> shares.take()
      {'step': 0.875, 'data': 0.125, 'evaluation': 0.0, 'snapshot': 0.0}
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        """Starts to count.

        Args:
          clock: seconds.
        """
        self._clock = clock
        self._begin()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Counts the time that the context is open.

        Args:
          name: `data`, `evaluation` or `snapshot`.
        """
        start = self._clock()
        try:
            yield
        finally:
            self._seconds[name] += self._clock() - start

    def timed(self, name: str, items: Iterable[_Item]) -> Iterator[_Item]:
        """Yields the items, and counts the wait for each.

        Args:
          name: as for a context.
          items: to yield.
        """
        iterator = iter(items)
        while True:
            with self(name):
                item = next(iterator, iterator)
            if item is iterator:
                return
            yield item

    def take(self) -> dict[str, float]:
        """Returns the shares since it was last called; they add up to 1."""
        seconds, start = self._seconds, self._start
        self._begin()
        passed = max(self._start - start, sum(seconds.values())) or 1.0
        shares = {name: spent / passed for name, spent in seconds.items()}
        return {"step": max(0.0, 1.0 - sum(shares.values()))} | shares

    def _begin(self) -> None:
        self._start = self._clock()
        self._seconds = dict.fromkeys(("data", "evaluation", "snapshot"), 0.0)


class Profile:
    """Traces a few steps of a run with `jax.profiler`, on the first process.

    The trace is in WORKDIR/profile, for `xprof` or TensorBoard's profile plugin.
    """

    def __init__(self, workdir: str | os.PathLike, start: int, stop: int, wanted: bool):
        """Plans the trace.

        Args:
          workdir: the run's folder.
          start: the step that the run goes on from.
          stop: its last step.
          wanted: False for no trace.
        """
        self._folder = pathlib.Path(workdir) / FOLDER
        self._first = start + _SKIPPED + 1
        self._last = start + _SKIPPED + _TRACED
        self._possible = wanted and self._last <= stop
        self._running = False
        if wanted and not self._possible:
            hosts.say(
                f"--profile needs {_SKIPPED + _TRACED} steps and there are "
                f"{stop - start}: nothing is traced"
            )

    def before(self, step: int) -> None:
        """Begins at the first step to trace.

        Args:
          step: that is about to be dispatched.
        """
        if step == self._first and self._possible and hosts.is_first():
            jax.profiler.start_trace(self._folder)
            self._running = True

    def after(self, step: int, outputs: Any) -> None:
        """Ends after the last step to trace.

        Args:
          step: that was dispatched.
          outputs: of it, which are waited for.
        """
        if step == self._last and self._running:
            jax.block_until_ready(outputs)
            self.close()
            hosts.say(f"steps {self._first} to {self._last} are in {self._folder}")

    def close(self) -> None:
        """Ends a trace that is still running."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
