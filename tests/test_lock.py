"""One run in one folder: who has the lock, who waits, who takes over."""

import errno
import json
import os
import socket
import subprocess
import sys
import time

import pytest

from anytime_jax.training import lock

# Holds a folder's lock until it is killed; not ours, so that it starts at once.
HOLDER = """
import fcntl, json, os, sys, time
opened = open(sys.argv[1], "w")
fcntl.flock(opened, fcntl.LOCK_EX)
json.dump(dict(host="here", process=os.getpid(), since="noon", machine=""), opened)
opened.flush()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "_BEAT", 0.01)


@pytest.fixture
def elsewhere(tmp_path):
    """A folder that was left held by a process on another host."""
    holder = dict(host="tpu-3", process=4711, since="noon", machine="tpu-3 boot")
    (tmp_path / lock.FILE).write_text(json.dumps(holder))
    return tmp_path


def test_the_second_is_told_who_has_it(tmp_path):
    with lock.hold(tmp_path / "run"):
        before = (tmp_path / "run" / lock.FILE).read_bytes()
        mine = rf"process {os.getpid()} on host {socket.gethostname()} since 20"
        with (
            pytest.raises(lock.InUse, match=rf"^workdir=.*run is in use by {mine}"),
            lock.hold(tmp_path / "run"),
        ):
            pass
        assert (tmp_path / "run" / lock.FILE).read_bytes() == before
    assert not (tmp_path / "run" / lock.FILE).exists()


def test_it_is_free_again_however_it_ended(tmp_path):
    with pytest.raises(RuntimeError), lock.hold(tmp_path):
        raise RuntimeError
    with lock.hold(tmp_path):
        pass


def test_a_holder_that_is_killed_leaves_it_free(tmp_path, capsys):
    command = [sys.executable, "-c", HOLDER, tmp_path / lock.FILE]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(lock.InUse, match=f"process {holder.pid} on host here since"),
            lock.hold(tmp_path),
        ):
            pass
        holder.kill()
    with lock.hold(tmp_path):
        content = json.loads((tmp_path / lock.FILE).read_text())
        assert content["process"] == os.getpid()


def test_a_file_that_is_still_empty_names_nobody(tmp_path):
    with lock.hold(tmp_path):
        os.truncate(tmp_path / lock.FILE, 0)
        with pytest.raises(lock.InUse, match="by another process: "):
            lock.hold(tmp_path).__enter__()


def test_what_another_host_left_is_taken_over(elsewhere, capsys):
    with lock.hold(elsewhere):
        assert json.loads((elsewhere / lock.FILE).read_text())["host"] != "tpu-3"
    waiting, taking = capsys.readouterr().err.splitlines()
    assert waiting.endswith("4711 on host tpu-3: waiting for a sign of it")
    assert taking.startswith("taking over from process 4711 on host tpu-3, not heard")


def test_what_another_host_still_touches_is_not(elsewhere, monkeypatch):
    watched = elsewhere / lock.FILE
    monkeypatch.setattr(time, "sleep", lambda seconds: os.utime(watched, (7, 7)))
    with pytest.raises(lock.InUse, match="in use by process 4711 on host tpu-3"):
        lock.hold(elsewhere).__enter__()


@pytest.fixture
def lockless(monkeypatch):
    """A file system that has no locks."""

    def none(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)


def test_a_file_system_without_locks_is_watched(tmp_path, lockless):
    with (
        lock.hold(tmp_path),
        pytest.raises(lock.InUse, match=f"by process {os.getpid()} on host"),
    ):
        lock.hold(tmp_path).__enter__()
    with lock.hold(tmp_path):
        pass


def taken_elsewhere(file):
    """Writes what a process on another host would, that has read the same as we."""
    file.write_text(json.dumps(dict(host="tpu-9", process=7, since="noon", machine="")))
    return file.read_bytes()


@pytest.mark.parametrize("how", ["no locks", "locks of one host", "left by another"])
def test_of_two_that_start_at_once_one_has_it(how, request, tmp_path, monkeypatch):
    if how == "no locks":
        request.getfixturevalue("lockless")
    if how == "locks of one host":
        monkeypatch.setattr(lock, "_over_network", lambda descriptor: True)
    if how == "left by another":
        request.getfixturevalue("elsewhere")
        monkeypatch.setattr(lock, "_beats", lambda path: False)
    file, written = tmp_path / lock.FILE, []
    monkeypatch.setattr(
        time, "sleep", lambda seconds: written.append(taken_elsewhere(file))
    )
    with pytest.raises(lock.InUse, match="by process 7 on host tpu-9 since noon"):
        lock.hold(tmp_path).__enter__()
    assert [file.read_bytes()] == written


def test_what_another_host_has_taken_over_stays_its_own(tmp_path):
    with lock.hold(tmp_path):
        theirs = taken_elsewhere(tmp_path / lock.FILE)
    assert (tmp_path / lock.FILE).read_bytes() == theirs


def test_where_locks_work_nobody_waits(tmp_path, monkeypatch):
    def never(seconds):
        raise AssertionError("waited")

    monkeypatch.setattr(lock, "_over_network", lambda descriptor: False)
    monkeypatch.setattr(time, "sleep", never)
    with lock.hold(tmp_path):
        pass


@pytest.mark.parametrize(
    ("kind", "shared"),
    [("ext4", False), ("nfs4", True), ("fuse.gcsfuse", True), ("lustre", True)],
)
def test_file_systems_that_other_hosts_may_have(tmp_path, monkeypatch, kind, shared):
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    (tmp_path / "mounts").write_text(
        "22 27 0:0 / /proc rw,relatime - nfs proc rw\n"
        f"30 27 {number} / /shared rw,relatime shared:1 - {kind} host:/a rw,hard\n"
    )
    monkeypatch.setattr(lock, "_MOUNTS", tmp_path / "mounts")
    with (tmp_path / "file").open("w") as opened:
        assert lock._over_network(opened.fileno()) == shared
    monkeypatch.setattr(lock, "_MOUNTS", tmp_path / "none")
    with (tmp_path / "file").open() as opened:
        assert not lock._over_network(opened.fileno())


def test_it_is_touched_while_it_is_held(tmp_path):
    with lock.hold(tmp_path):
        os.utime(tmp_path / lock.FILE, (0, 0))
        for _ in range(1000):
            if (tmp_path / lock.FILE).stat().st_mtime > 0:
                break
            time.sleep(0.01)
        else:
            raise AssertionError("nobody touched it")


def test_a_file_that_its_last_holder_removed_is_made_again(tmp_path, monkeypatch):
    take, taken = lock._take, []

    def late(path, descriptor):
        content = take(path, descriptor)
        taken.append(descriptor)
        if len(taken) == 1:
            path.unlink()
        return content

    monkeypatch.setattr(lock, "_take", late)
    with lock.hold(tmp_path):
        assert len(taken) == 2
        assert json.loads((tmp_path / lock.FILE).read_text())["process"] == os.getpid()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file" / "run", "/proc/run"):
        with pytest.raises(
            ValueError, match=rf"^workdir={workdir} cannot be written: [^\n]+$"
        ):
            lock.hold(workdir).__enter__()
