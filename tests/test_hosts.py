"""Two real processes, as two hosts of a pod, train what one process trains."""

import collections
import json
import shutil
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from anytime_jax import training
from anytime_jax.training import hosts, metrics, snapshots
from benchmarks import processes
from tests import small

STEPS, DEATH, LONG = 12, 16, 400
OPTIONS = dict(
    mesh__fsdp=2,
    horizons__steps=(STEPS // 2, STEPS),
    snapshots__every=5,
    logging__every=1,
)
CONFIG = f"""
from tests import small

def get_config():
    return small.config(duration__steps={LONG}, **{OPTIONS!r})
"""
# Programs of these processes need not be fast.
QUICKLY = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
# Notes the numbers of the sequences that a process reads, and sends it a signal when it
# comes to some step. JAX needs a second to hear it.
WATCHED = """
import os, time
from anytime_jax.data import pipeline

order = pipeline.Batches.order
notes, step, number, pause = {notes!r}, {step}, {number}, {pause}

def watched(self, consumed, batch_size, rows=slice(None)):
    numbers = range(consumed, consumed + batch_size)[rows]
    with open(notes, "a") as opened:
        print(*numbers, file=opened)
    if consumed // batch_size == step:
        os.kill(os.getpid(), number)
        time.sleep(pause)
    return order(self, consumed, batch_size, rows)

pipeline.Batches.order = watched
"""

Pair = collections.namedtuple("Pair", "workdir codes texts rows")


def run_pair(folder, workdir, breaks, number, pause=0.0, by_slurm=False):
    """Two processes of four devices, of which the second is sent a signal."""
    file = folder / "configs" / "run.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(CONFIG)
    flags = processes.flags(workdir, {}, file)
    named, variables = processes.named(processes.address(), 2), ({}, {})
    if by_slurm:
        named, variables = (["--distributed"],) * 2, processes.slurm(2)
    notes = [folder / f"rows_{process}" for process in (0, 1)]
    started = [
        processes.start(
            [*flags, *named[process], "--heartbeat=20"],
            devices=4,
            variables=variables[process] | QUICKLY,
            script=WATCHED.format(
                notes=str(notes[process]),
                step=breaks if process == 1 else -1,
                number=int(number),
                pause=pause,
            ),
        )
        for process in (0, 1)
    ]
    codes, texts = zip(*processes.ended(*started), strict=True)
    rows = [
        [int(one) for one in note.read_text().split()] if note.exists() else []
        for note in notes
    ]
    return Pair(workdir, codes, texts, rows)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes of eight devices."""
    workdir = tmp_path_factory.mktemp("alone")
    training.train(small.config(duration__steps=STEPS, **OPTIONS), workdir)
    return workdir


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Two processes that SLURM started, of which the second is killed."""
    folder = tmp_path_factory.mktemp("killed")
    return run_pair(folder, folder / "run", DEATH, signal.SIGKILL, by_slurm=True)


@pytest.fixture(scope="module")
def stopped(killed, tmp_path_factory):
    """The two started again, until one of them hears SIGTERM."""
    folder = tmp_path_factory.mktemp("stopped")
    workdir = shutil.copytree(killed.workdir, folder / "run")
    return run_pair(folder, workdir, DEATH, signal.SIGTERM, pause=2)


def until(workdir, step, copy):
    """A copy of a run as it was when it had stored a step."""
    shutil.copytree(workdir, copy)
    for later in snapshots.stored_steps(copy):
        if later > step:
            shutil.rmtree(copy / "snapshots" / str(later))
    return copy


def losses(workdir):
    """Losses by step and name, without evaluations: their steps depend on the end."""
    return {
        (record["step"], key): value
        for record in metrics.read(workdir)
        for key, value in record.items()
        if record["step"] <= STEPS and key.startswith(("train/loss", "horizon/loss"))
    }


def assert_same(workdir, alone):
    found, wanted = losses(workdir), losses(alone)
    assert found.keys() == wanted.keys()
    assert len(found) == STEPS + 2 * 3
    for key in wanted:
        np.testing.assert_allclose(found[key], wanted[key], rtol=1e-5, err_msg=key)
    for name in ("raw", "ema25", "uniform"):
        weights, twins = (
            small.stored_weights(run, STEPS, name) for run in (workdir, alone)
        )
        difference = np.linalg.norm(weights - twins) / np.linalg.norm(twins)
        assert difference < 1e-5, name


@pytest.mark.slow
def test_two_train_as_one(alone, stopped):
    assert_same(stopped.workdir, alone)


@pytest.mark.slow
def test_each_reads_its_own_part_of_every_batch(killed):
    first, second = (set(rows) for rows in killed.rows)
    batch = small.config().batch_size
    assert len(killed.rows[0]) == len(first)
    assert first.isdisjoint(second)
    read = sorted(first | second)
    assert read[: DEATH * batch] == list(range(DEATH * batch))
    for start in range(0, DEATH * batch, batch):
        assert len(first & {*range(start, start + batch)}) == batch // 2


@pytest.mark.slow
def test_when_one_is_killed_the_other_says_so_and_ends(killed):
    assert killed.codes == (1, -signal.SIGKILL)
    stored = snapshots.stored_steps(killed.workdir)
    assert 6 <= stored[-1] <= DEATH
    line = processes.last_line(killed.texts[0])
    assert line.startswith("anytime_jax: another process of this run has ended (")
    assert line.endswith(
        f"start all processes again to go on from step {stored[-1]} of {killed.workdir}"
    )
    assert "Traceback" not in killed.texts[0]


@pytest.mark.slow
def test_started_again_they_go_on_and_stop_together(killed, stopped):
    assert stopped.codes == (143, 143)
    before = snapshots.stored_steps(killed.workdir)[-1]
    last = snapshots.stored_steps(stopped.workdir)[-1]
    assert before <= STEPS < last < LONG
    line = f"anytime_jax: stopped by SIGTERM after step {last}, which is saved in "
    assert processes.last_line(stopped.texts[0]).startswith(line)
    first_rows = min(map(min, stopped.rows))
    assert first_rows == before * small.config().batch_size


@pytest.mark.slow
def test_only_the_first_writes_and_speaks(stopped):
    assert "step/s" in stopped.texts[0]
    assert "step/s" not in stopped.texts[1]
    assert "anytime_jax" not in stopped.texts[1]
    steps = [r["step"] for r in metrics.read(stopped.workdir) if "train/loss" in r]
    assert steps == list(range(1, snapshots.stored_steps(stopped.workdir)[-1] + 1))
    # Of each start one.
    assert len(list((stopped.workdir / "tensorboard").iterdir())) == 2


@pytest.mark.slow
def test_one_process_goes_on_with_what_two_began(alone, stopped, tmp_path):
    workdir = until(stopped.workdir, 6, tmp_path / "run")
    training.train(small.config(duration__steps=STEPS, **OPTIONS), workdir)
    assert_same(workdir, alone)


@pytest.mark.slow
def test_two_processes_go_on_with_what_one_began(alone, tmp_path):
    workdir = until(alone, 6, tmp_path / "run")
    pair = run_pair(tmp_path, workdir, DEATH, signal.SIGTERM, pause=2)
    assert pair.codes == (143, 143)
    assert_same(workdir, alone)


@pytest.mark.slow
def test_when_the_first_is_killed_the_others_end(tmp_path):
    (tmp_path / "configs").mkdir()
    file = tmp_path / "configs" / "run.py"
    file.write_text(CONFIG.replace(f"{LONG}", "4000"))
    flags = processes.flags(tmp_path / "run", {}, file)
    first, second = (
        processes.start([*flags, *named, "--heartbeat=10"], devices=2)
        for named in processes.named(processes.address(), 2)
    )
    with processes.reaped(first, second):
        wanted = tmp_path / "run" / "snapshots" / "20"
        processes.wait_until(first, wanted.is_dir)
        processes.kill(first)
        [(code, text)] = processes.ended(second)
    assert code != 0
    # JAX may be faster than we are.
    assert "another process of this run has ended" in text or "task died" in text


@pytest.mark.slow
def test_they_refuse_together(tmp_path):
    flags = processes.flags(tmp_path / "run")
    for other, message in (
        ("--config.seed=1", "config.seed of process 1 differs from that of process 0"),
        ("--config.batch_size=0", "process 1: batch_size=0"),
    ):
        named = processes.named(processes.address(), 2)
        started = [
            processes.start([*flags, *named[0]]),
            processes.start([*flags, *named[1], other]),
        ]
        (code, text), (other_code, other_text) = processes.ended(*started)
        assert (code, other_code) == (2, 2)
        assert processes.last_line(text).startswith(f"anytime_jax: {message}")
        assert "anytime_jax" not in other_text
    assert not (tmp_path / "run").exists()


@pytest.fixture
def other(monkeypatch):
    """Makes this the second of two processes, the first of which sends some rows."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    sent = []
    monkeypatch.setattr(
        multihost_utils, "process_allgather", lambda row: np.stack([sent.pop(0), row])
    )
    monkeypatch.setattr(
        multihost_utils, "broadcast_one_to_all", lambda value: sent.pop(0)
    )
    return sent


def test_what_one_reports_all_raise(other):
    other.append(np.zeros(1024, np.uint8))
    hosts.agree()
    other.append(np.zeros(1024, np.uint8))
    with pytest.raises(ValueError, match=r"^process 1: no room$"):
        hosts.agree("no room")
    reported = np.zeros(1024, np.uint8)
    reported[:4] = np.frombuffer("näh".encode(), np.uint8)
    other.append(reported)
    with pytest.raises(ValueError, match=r"^process 0: näh$"):
        hosts.agree()


def test_what_differs_is_named(other):
    names, others = hosts._digest(["data", "seed"]), hosts._digest(["data"])
    digests = [hosts._digest(value) for value in ({"train": "ab"}, 0)]
    other[:] = [names[None], np.stack(digests)]
    hosts.check_same(seed=0, data={"train": "ab"})
    other[:] = [names[None], np.stack(digests)]
    with pytest.raises(ValueError, match=r"^seed of process 1 differs from that of pr"):
        hosts.check_same(seed=1, data={"train": "ab"})
    other[:] = [others[None]]
    with pytest.raises(ValueError, match=r"^what they were given of process 1 differs"):
        hosts.check_same(seed=0, data={"train": "ab"})


@pytest.mark.parametrize(
    ("made", "error"),
    [
        ([[3, None], None, None], None),
        ([None, "ValueError", "it is in use"], ValueError),
        ([None, "OSError", "runs: Read-only file system"], OSError),
    ],
)
def test_what_the_first_makes_all_have(other, made, error):
    content = np.frombuffer(json.dumps(made).encode(), np.uint8)
    other[:] = [np.int32(content.size), content]

    def never():
        raise AssertionError("only the first process makes it")

    if error:
        with pytest.raises(error, match=f"^{made[2]}$"):
            hosts.from_first(never)
    else:
        assert hosts.from_first(never) == made[0]


@pytest.mark.parametrize(
    "text",
    [
        "UNKNOWN: Gloo all-reduce failed: Connection reset by peer",
        "FAILED_PRECONDITION: Buffer Definition Event: Error dispatching computation: "
        "Gloo all-reduce failed: [gloo/pair.cc:547] Connection closed by peer [1]:22",
        "UNAVAILABLE: Failed to send RPC to coordination service.",
        "DEADLINE_EXCEEDED: Barrier timed out. Id: a::0.",
        "INTERNAL: Barrier failed because service is shutting down. Barrier_id: a::0",
        "ABORTED: a task missed its heartbeat timeout.",
        "INTERNAL: NCCL operation ncclGroupEnd() failed: remote process exited or "
        "there was a network error",
    ],
)
def test_a_dead_peer_is_lost(other, text):
    with (
        pytest.raises(hosts.Lost, match=r"has ended \(.*\)$") as caught,
        hosts.together(),
    ):
        raise jax.errors.JaxRuntimeError(f"{text}\nmore")
    assert f"({text[:200]})" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "RESOURCE_EXHAUSTED: Out of memory",
        "INTERNAL: Mosaic failed to compile TPU kernel: barrier semaphore is not used",
        "INTERNAL: during context [pre-optimization]: RET_CHECK failure",
        "INVALID_ARGUMENT: 'opt-barrier' has the wrong shape\nconnection closed",
        "UNIMPLEMENTED: skip connections\nUNAVAILABLE",
    ],
)
def test_what_is_wrong_here_is_nobodys_end(other, text):
    with pytest.raises(jax.errors.JaxRuntimeError) as caught, hosts.together():
        raise jax.errors.JaxRuntimeError(text)
    assert str(caught.value) == text


def test_alone_nobody_is_lost():
    with pytest.raises(jax.errors.JaxRuntimeError), hosts.together():
        raise jax.errors.JaxRuntimeError("UNKNOWN")


@pytest.fixture
def joined(monkeypatch):
    """What JAX was asked to join."""
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **a: asked.append(a))
    return asked


def test_without_arguments_jax_finds_the_others(joined):
    hosts.join(heartbeat=7, wait=20)
    assert joined == [dict(initialization_timeout=80, heartbeat_timeout_seconds=7)]


def test_with_arguments_it_is_told(joined):
    hosts.join("tpu-0:8476", 4, 3)
    [asked] = joined
    assert asked["coordinator_address"] == "tpu-0:8476"
    assert (asked["num_processes"], asked["process_id"]) == (4, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tpu-0", 2, 0), r"^--coordinator=tpu-0 must be HOST:PORT"),
        (("", 2, 0), r"^--coordinator= must be HOST:PORT"),
        (("tpu-0:99999", 2, 0), r"^--coordinator=tpu-0:99999 must be HOST:PORT"),
        (("tpu-0:80", 0, 0), r"^--processes=0 must be at least 1"),
        (
            ("tpu-0:80", 2, 2),
            r"^--process=2 must be .* below --processes=2",
        ),
        (("tpu-0:80", 2, -1), r"^--process=-1 must be at least 0"),
    ],
)
def test_what_cannot_be_joined(joined, arguments, message):
    with pytest.raises(ValueError, match=message):
        hosts.join(*arguments)
    assert not joined


def test_a_port_that_is_in_use(joined):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ValueError, match=f"open port {port}: Address already in use"
        ):
            hosts.join(f"localhost:{port}", 2, 0)
    assert not joined


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ValueError("coordinator_address should"),
            "JAX finds no other processes throu",
        ),
        (
            RuntimeError("must be called before\nmore"),
            "^--distributed: must be called b",
        ),
    ],
)
def test_what_jax_refuses(monkeypatch, error, message):
    def refuse(**arguments):
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    with pytest.raises(ValueError, match=message):
        hosts.join()


def test_others_that_do_not_come_are_not_waited_for():
    line = "from anytime_jax.training import hosts; hosts.join({!r}, 2, 0, wait=1)"
    address = processes.address()
    ended = subprocess.run(
        [sys.executable, "-c", line.format(address)],
        cwd=processes.ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 2
    told = f"anytime_jax: --coordinator={address}: not all 2 processes came within 1 s"
    assert processes.last_line(ended.stderr) == told
