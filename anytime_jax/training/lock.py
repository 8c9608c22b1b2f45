"""One run in one folder: a second one is told who has it.

The lock is the kernel's, which drops it however a process ends. Where the folder is
shared between hosts and their file system has no such locks, or only within a host,
the holder also touches the file every few seconds, and another host watches it for a
while before it takes over. Of two that take it at once, the one that wrote last has it.
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
import uuid
from collections.abc import Iterator
from typing import Any

from anytime_jax.training import hosts

FILE = "run.lock"

_BEAT = 10.0  # seconds between touches
_WATCHED = 3  # beats after which a holder on another host counts as gone
_GLANCE = 0.1  # seconds between looks for a file that is to come
_BOOT = pathlib.Path("/proc/sys/kernel/random/boot_id")
_MOUNTS = pathlib.Path("/proc/self/mountinfo")
# Types of file systems that other hosts may have too; their locks may not reach there.
_NETWORK = ("nfs", "fuse", "lustre", "gpfs", "ceph", "beegfs", "cifs", "smb", "9p")


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
        descriptor, content = _acquire(path)
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
        # Before the lock is dropped: later it could be another run's file. It is one
        # already if another host heard nothing of this one for a while.
        with contextlib.suppress(OSError):
            if path.read_bytes() == content:
                path.unlink()
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


def _acquire(path: pathlib.Path) -> tuple[int, bytes]:
    """The open file, and what was written into it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            content = _take(path, descriptor)
            # A holder that ended in between has removed the file that was opened here.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor, content
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _take(path: pathlib.Path, descriptor: int) -> bytes:
    """Locks an open file and writes who did, unless another has it."""
    locked = _lock(path, descriptor)
    holder = _read(path)
    left = bool(holder) and (holder.get("machine") != _machine() or not locked)
    if left:
        who = f"process {holder.get('process')} on host {holder.get('host')}"
        hosts.say(f"{path.parent} was in use by {who}: waiting for a sign of it")
        if _beats(path):
            raise InUse(_in_use(path))
        hosts.say(f"taking over from {who}, not heard of for {_WATCHED * _BEAT:g} s")
    content = _write(descriptor)
    if left or not locked or _over_network(descriptor):
        # Another host may have done all this at the same time.
        time.sleep(_BEAT)
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() != content:
                raise InUse(_in_use(path))
    return content


def _lock(path: pathlib.Path, descriptor: int) -> bool:
    """Whether the file system has locks; raises if another process has this one."""
    import fcntl  # Not on Windows, where only reading a run can be of use.

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUse(_in_use(path)) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        return False
    return True


def _write(descriptor: int) -> bytes:
    """Writes who holds a file; no two writings are the same."""
    holder = dict(
        host=socket.gethostname(),
        process=os.getpid(),
        since=datetime.datetime.now(datetime.UTC).isoformat(" ", "seconds"),
        machine=_machine(),
        id=uuid.uuid4().hex,
    )
    content = json.dumps(holder).encode()
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)
    os.fsync(descriptor)
    return content


def _over_network(descriptor: int) -> bool:
    """Whether an open file is on a file system that other hosts may have as well."""
    device = os.fstat(descriptor).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    lines = _MOUNTS.read_text().splitlines() if _MOUNTS.exists() else []
    mounts = [line.split() for line in lines]
    return any(
        mount[2] == number and mount[mount.index("-") + 1].startswith(_NETWORK)
        for mount in mounts
    )


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
