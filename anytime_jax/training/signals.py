"""SIGTERM and SIGINT: the loop hears of them and saves before it stops."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils


class Stop:
    """Whether the run was told to stop.

    Attributes:
      signal: what told it; SIGTERM if another process was told.
    """

    def __init__(self):
        self.signal = signal.SIGTERM
        self._told = False
        self._asked = 0

    def told(self, done: int) -> bool:
        """Returns whether to stop after a step; all processes return the same.

        Args:
          done: updates done; of several processes, each has to ask after every update.
        """
        if jax.process_count() == 1:
            return self._told
        # JAX agrees on a number above all that any process has asked for, which is 1 if
        # the signal came before the first step: so none may be left out.
        numbers = range(self._asked + 1, done + 1)
        self._asked = done
        return any([*map(multihost_utils.reached_preemption_sync_point, numbers)])

    def _tell(self, number: int, frame: object) -> None:
        self.signal, self._told = signal.Signals(number), True
        if number == signal.SIGINT:
            # Whoever presses Ctrl-C again does not want to wait.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if jax.process_count() > 1:
                # This one JAX listens to, and tells all processes of it.
                os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Listens to SIGTERM and SIGINT for as long as the context is open.

    A second SIGINT interrupts at once. Outside the main thread nothing is listened to.

    Example:
      >>> with stopping() as stop:
      ...     os.kill(os.getpid(), signal.SIGINT)
      ...     stop.told(1), stop.signal.name
      (True, 'SIGINT')
    """
    stop = Stop()
    heard = {signal.SIGINT, signal.SIGTERM}
    if jax.process_count() > 1:
        heard = {signal.SIGINT}
    if threading.current_thread() is not threading.main_thread():
        heard = set()
    before = {number: signal.signal(number, stop._tell) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
