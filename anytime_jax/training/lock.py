"""One run in one folder: a second one is told who has it.

The lock is the kernel's, which drops it however a process ends. Where the folder is
shared between hosts and their file system has no such locks, the holder also touches
the file every few seconds, and another host watches it for a while before it takes
over.
"""

import contextlib
import datetime
import errno
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from anytime_jax.training import hosts

FILE = "run.lock"

_BEAT = 10.0  # seconds between touches
_WATCHED = 3  # beats after which a holder on another host counts as gone
_GLANCE = 0.1  # seconds between looks for a file that is to come
_BOOT = pathlib.Path("/proc/sys/kernel/random/boot_id")


class InUse(ValueError):
    """Another run has the folder."""


@contextlib.contextmanager
def hold(workdir: str | os.PathLike) -> Iterator[None]:
    """Holds a run's folder for as long as the context is open.

    Reading a run needs no lock.

    Args:
      workdir: the run's folder, made if it is not there.

    Raises:
      InUse: another process holds it; the message tells which and since when.
      ValueError: the folder cannot be written.
    """
    path = pathlib.Path(workdir) / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"workdir={workdir!s} cannot be written: {reason}") from error
    ended = threading.Event()
    beats = threading.Thread(target=_beat, args=(descriptor, ended), daemon=True)
    beats.start()
    try:
        yield
    finally:
        ended.set()
        beats.join()
        # Before the lock is dropped: later it could be another run's file.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def check_shared(workdir: str | os.PathLike, wait: float = 60.0) -> None:
    """Refuses a folder that is not the one whose lock the first process holds.

    Args:
      workdir: the run's folder.
      wait: seconds until the file has to be seen; network file systems take some.

    Raises:
      ValueError: the file is not there; all processes raise the same.
    """
    path = pathlib.Path(workdir) / FILE
    for _ in range(int(wait / _GLANCE)):
        if path.exists():
            break
        time.sleep(_GLANCE)
    hosts.agree(
        ""
        if path.exists()
        else f"workdir={workdir!s} must be a folder that all processes share, and the "
        f"{FILE} of process 0 is not there"
    )


def _acquire(path: pathlib.Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _take(path, descriptor)
            # A holder that ended in between has removed the file that was opened here.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _take(path: pathlib.Path, descriptor: int) -> None:
    """Locks an open file and writes who did, unless another has it."""
    import fcntl  # Not on Windows, where only reading a run can be of use.

    locked = True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUse(_in_use(path)) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        locked = False
    holder = _read(path)
    if holder and (holder.get("machine") != _machine() or not locked):
        who = f"process {holder.get('process')} on host {holder.get('host')}"
        hosts.say(f"{path.parent} was in use by {who}: waiting for a sign of it")
        if _beats(path):
            raise InUse(_in_use(path))
        hosts.say(f"taking over from {who}, not heard of for {_WATCHED * _BEAT:g} s")
    content = dict(
        host=socket.gethostname(),
        process=os.getpid(),
        since=datetime.datetime.now(datetime.UTC).isoformat(" ", "seconds"),
        machine=_machine(),
    )
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(content).encode(), 0)
    os.fsync(descriptor)


def _in_use(path: pathlib.Path) -> str:
    holder = _read(path)
    who = "another process"
    if holder:
        who = (
            f"process {holder['process']} on host {holder['host']} "
            f"since {holder['since']}"
        )
    return (
        f"workdir={path.parent} is in use by {who}: wait until it ends, or use another "
        "workdir"
    )


def _read(path: pathlib.Path) -> dict[str, Any]:
    """Who holds a file, nothing if it is still empty."""
    try:
        return json.loads(path.read_text())
    except (ValueError, FileNotFoundError):
        return {}


def _machine() -> str:
    """Tells kernels apart, also those of hosts that have the same name."""
    boot = _BOOT.read_text().strip() if _BOOT.exists() else ""
    return f"{socket.gethostname()} {boot}"


def _beat(descriptor: int, ended: threading.Event) -> None:
    while not ended.wait(_BEAT):
        # A file system that is out of reach for a while is no reason to stop.
        with contextlib.suppress(OSError):
            os.utime(descriptor)


def _beats(path: pathlib.Path) -> bool:
    """Whether another host touches the file."""
    first = _touched(path)
    for _ in range(_WATCHED):
        time.sleep(_BEAT)
        if _touched(path) != first:
            return True
    return False


def _touched(path: pathlib.Path) -> int | None:
    """When it was, as a fresh opening tells: NFS may remember older answers."""
    try:
        with path.open() as opened:
            return os.fstat(opened.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None
