"""The processes of one run: how they meet, who speaks, and what they agree on."""

import contextlib
import hashlib
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_LONGEST = 1024  # bytes of a message between processes
_CARRIED = {kind.__name__: kind for kind in (ValueError, OSError)}


class Lost(Exception):
    """Another process of the run has ended, and this one cannot go on alone."""


def join(
    coordinator: str = "",
    processes: int = 0,
    process: int = -1,
    *,
    wait: int = 300,
    heartbeat: int = 100,
) -> None:
    """Joins the other processes of a run; to be called before anything else of JAX.

    Without arguments JAX finds the others: through SLURM, Open MPI, Cloud TPU or
    Kubernetes.

    Args:
      coordinator: HOST:PORT of process 0, which opens that port; the others have to
        reach it.
      processes: how many there are.
      process: which one this is, from 0.
      wait: seconds to wait for the others. Then this process ends with one line on
        stderr and exit code 2.
      heartbeat: seconds without a sign of a process until the others end.

    Raises:
      ValueError: an argument is not allowed, or JAX finds no others.
    """
    given, what, others = {}, "--distributed", "all processes"
    if (coordinator, processes, process) != ("", 0, -1):
        _check(coordinator, processes, process)
        given = dict(coordinator_address=coordinator, num_processes=processes)
        given["process_id"] = process
        what, others = f"--coordinator={coordinator}", f"all {processes} processes"

    def give_up():
        leave(2, f"{what}: not {others} came within {wait} s")

    # JAX would abort with a stack of C++.
    watch = threading.Timer(wait, give_up)
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=wait + 60,
            heartbeat_timeout_seconds=heartbeat,
        )
    except ValueError as error:
        raise ValueError(
            f"{what}: JAX finds no other processes through SLURM, Open MPI, Cloud TPU "
            "or Kubernetes; give --coordinator, --processes and --process to each"
        ) from error
    except RuntimeError as error:
        raise ValueError(f"{what}: {' '.join(str(error).split())}") from error
    finally:
        watch.cancel()


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
      OSError: likewise.

    Example:
      >>> from_first(lambda: [3, 4])
      [3, 4]
    """
    if jax.process_count() == 1:
        return make()
    made, problem = [None, None, None], None
    if is_first():
        try:
            made[0] = make()
        except tuple(_CARRIED.values()) as error:
            problem = error
            kind = ValueError if isinstance(error, ValueError) else OSError
            made[1:] = kind.__name__, str(error)
    value, kind, text = json.loads(_broadcast(json.dumps(made)))
    if kind is not None:
        raise problem or _CARRIED[kind](text)
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


def check_same(**values: Any) -> None:
    """Refuses to go on if the processes were given different things; all must call it.

    Args:
      **values: what JSON can express, by the name that a message gives it.

    Raises:
      ValueError: a value differs; all processes raise the same.

    Example:
      >>> check_same(seed=0, batch_size=16)
    """
    if jax.process_count() == 1:
        return
    # The names first: rows of different lengths could not even be compared.
    for compared in ({"what they were given": sorted(values)}, values):
        names = sorted(compared)
        rows = multihost_utils.process_allgather(
            np.stack([_digest(compared[name]) for name in names])
        )
        for process, row in enumerate(rows):
            differs = np.any(row != rows[0], axis=1)
            if differs.any():
                raise ValueError(
                    f"{names[int(differs.argmax())]} of process {process} differs from "
                    "that of process 0: all need the same command, files and packages"
                )


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Raises `Lost` where this process notices that another one has ended."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or "RESOURCE_EXHAUSTED" in str(error):
            raise
        reason = _first_line(error)
        raise Lost(f"another process of this run has ended ({reason})") from error


def several() -> bool:
    """Returns whether this process is one of several, without starting a backend."""
    return jax.distributed.is_initialized()


def leave(code: int, line: str = "") -> None:
    """Ends this process at once, without waiting for others that may be gone.

    Args:
      code: the exit code.
      line: what to say on stderr before.
    """
    if line:
        print(f"anytime_jax: {line}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _check(coordinator: str, processes: int, process: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 2**16):
        raise ValueError(f"--coordinator={coordinator} must be HOST:PORT of process 0")
    if processes < 1:
        raise ValueError(f"--processes={processes} must be at least 1")
    if not 0 <= process < processes:
        raise ValueError(
            f"--process={process} must be at least 0 and below --processes={processes}"
        )
    if process == 0:
        try:
            # JAX would wait for others on a port that it did not get.
            socket.create_server(("", int(port))).close()
        except OSError as error:
            raise ValueError(
                f"--coordinator={coordinator}: process 0 cannot open port {port}: "
                f"{error.strerror}"
            ) from error


def _broadcast(text: str) -> str:
    """The first process's text."""
    content = np.frombuffer(text.encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(content.size)))
    padded = np.zeros(size, np.uint8)
    if is_first():
        padded[:] = content
    return bytes(multihost_utils.broadcast_one_to_all(padded)).decode()


def _digest(value: Any) -> np.ndarray:
    text = json.dumps(value, sort_keys=True)
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]
