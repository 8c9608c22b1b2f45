"""The processes of one run: who speaks and writes for all, and what all agree on."""

import json
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_LONGEST = 1024  # bytes of a message between processes


def is_first() -> bool:
    """Returns whether this process writes and speaks for all."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints a line to stderr, once for all processes.

    Args:
      text: the line.
    """
    if is_first():
        print(text, file=sys.stderr, flush=True)


def from_first(make: Callable[[], Any]) -> Any:
    """Returns what the first process makes, on every process.

    Args:
      make: called on the first process alone; what it returns JSON can express.

    Raises:
      ValueError: `make` raised it; all processes raise the same.

    Example:
      >>> from_first(lambda: [3, 4])
      [3, 4]
    """
    if jax.process_count() == 1:
        return make()
    made = [None, None]
    if is_first():
        try:
            made = [make(), None]
        except ValueError as error:
            made = [None, str(error)]
    value, problem = json.loads(_broadcast(json.dumps(made)))
    if problem is not None:
        raise ValueError(problem)
    return value


def agree(problem: str = "") -> None:
    """Goes on only if no process has a problem; all must call it.

    Args:
      problem: of this process, none if empty.

    Raises:
      ValueError: a process has one; all raise that of the first that does.
    """
    if jax.process_count() > 1:
        digits = np.frombuffer(problem.encode()[:_LONGEST], np.uint8)
        row = np.zeros(_LONGEST, np.uint8)
        row[: digits.size] = digits
        rows = multihost_utils.process_allgather(row)
        texts = [bytes(row).rstrip(b"\0").decode(errors="replace") for row in rows]
        reporting = [n for n, text in enumerate(texts) if text]
        problem = f"process {reporting[0]}: {texts[reporting[0]]}" if reporting else ""
    if problem:
        raise ValueError(problem)


def _broadcast(text: str) -> str:
    """The first process's text."""
    content = np.frombuffer(text.encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(content.size)))
    padded = np.zeros(size, np.uint8)
    if is_first():
        padded[:] = content
    return bytes(multihost_utils.broadcast_one_to_all(padded)).decode()
