"""kill -9 of real processes, and what else ends them: nothing is lost or changes."""

import functools
import random
import signal
import time

import pytest

from anytime_jax.training import snapshots
from benchmarks import processes, remains


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """Of what is compiled: a process that is killed may leave half an entry."""
    with pytest.MonkeyPatch.context() as patch:
        folder = str(tmp_path_factory.mktemp("compiled"))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
        yield


# Sends the process that reads the batch of some step a signal.
INTERRUPTED = """
import os, signal
from anytime_jax.data import pipeline

whole = pipeline.Batches.batch

def batch(self, first, size, **rest):
    if first // size == {step}:
        os.kill(os.getpid(), signal.SIGINT)
    return whole(self, first, size, **rest)

pipeline.Batches.batch = batch
"""


def start(workdir, script=""):
    return processes.start(processes.flags(workdir), script=script)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    processes.finish(start(workdir))
    return workdir


def assert_goes_on(workdir, uninterrupted):
    """From the newest snapshot that is whole, and not from the start again."""
    before = remains.left(workdir)
    assert not before.damaged
    process = start(workdir)
    processes.finish(process)
    kept = snapshots.stored_steps(uninterrupted)
    assert remains.went_on(before, workdir, process.pid, kept) == ""
    assert remains.differences(workdir, uninterrupted) == []


def test_ended_in_every_way_and_started_again(uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    process = start(workdir)
    with processes.reaped(process):
        processes.wait_until(process, lambda: processes.recorded(workdir, 13))
        # It holds the folder, and stands still so that it cannot end meanwhile.
        process.send_signal(signal.SIGSTOP)
        before = remains.listing(workdir)
        [(code, text)] = processes.ended(start(workdir))
        assert code == 2
        line = f"anytime_jax: workdir={workdir} is in use by process {process.pid} on "
        assert processes.last_line(text).startswith(line)
        assert "Traceback" not in text
        assert remains.listing(workdir) == before
        processes.kill(process)

    # A write can be faster than the eye.
    assert any(processes.kill_in_a_write(start(workdir), workdir) for _ in range(8))

    last = snapshots.stored_steps(workdir)[-1]
    process = start(workdir, INTERRUPTED.format(step=last + 5))
    [(code, text)] = processes.ended(process)
    assert code == 130, text
    assert remains.began(workdir, process.pid) == last
    stopped = snapshots.stored_steps(workdir)[-1]
    assert last < stopped < processes.STEPS
    line = f"anytime_jax: stopped by SIGINT after step {stopped}, which is saved in "
    assert processes.last_line(text).startswith(line)

    assert_goes_on(workdir, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("chain", range(3))
def test_killed_anywhere_again_and_again(uninterrupted, tmp_path, chain):
    generator = random.Random(chain)
    for _ in range(4):
        before = remains.left(tmp_path)
        process = start(tmp_path)
        is_there = functools.partial(
            processes.recorded, tmp_path, generator.randrange(1, 90)
        )
        with processes.reaped(process):
            try:
                processes.wait_until(process, is_there)
            except RuntimeError:  # It was as good as done.
                break
            time.sleep(generator.uniform(0.0, 0.2))
            processes.kill(process)
        assert remains.began(tmp_path, process.pid) in (None, before.step)
    assert_goes_on(tmp_path, uninterrupted)
