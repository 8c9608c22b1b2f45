"""kill -9 at random points of a real process: nothing is lost and nothing changes."""

import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from anytime_jax import models, training
from anytime_jax.training import metrics
from configs import tiny

OVERRIDES = {
    "data.source": "synthetic",
    "model.vocab_size": 16,
    "model.width": 16,
    "model.layers": 2,
    "model.heads": 2,
    "sequence_length": 16,
    "batch_size": 8,
    "duration.chinchilla": 0.0,
    "duration.steps": 100,
    "horizons.chinchilla": (),
    "horizons.steps": (50, 100),
    "evaluation.horizon_batches": 2,
    "snapshots.every": 30,
    "snapshots.latest_every": 13,
    "logging.every": 5,
}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """Of what is compiled: a process that is killed may leave half an entry."""
    with pytest.MonkeyPatch.context() as patch:
        folder = str(tmp_path_factory.mktemp("compiled"))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
        yield


def start(workdir):
    command = [sys.executable, "-m", "anytime_jax", "train"]
    command += ["--config=configs/tiny.py", f"--workdir={workdir}"]
    command += [f"--config.{key}={value}" for key, value in OVERRIDES.items()]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finish(workdir):
    process = start(workdir)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr


def records(workdir):
    return [
        {key: value for key, value in record.items() if not key.startswith("time/")}
        for record in metrics.read(workdir)
    ]


def assert_same_run(one, other):
    assert records(one) == records(other)
    assert training.stored_steps(one)[-1] == training.stored_steps(other)[-1] == 100
    config = tiny.get_config()
    config.update_from_flattened_dict(OVERRIDES)
    model = models.build(config.model.to_dict())
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        jax.eval_shape(model.init, jax.random.key(0)),
    )
    for name in ("raw", *config.averages):
        jax.tree.map(
            np.testing.assert_array_equal,
            training.restore_weights(one, 100, name, like),
            training.restore_weights(other, 100, name, like),
        )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    finish(workdir)
    return workdir


def wait_for_step(process, workdir, step):
    """Waits until a record of this step or a later one is on disk."""
    while process.poll() is None:
        if any(record["step"] >= step for record in metrics.read(workdir)):
            return
        time.sleep(0.02)
    raise AssertionError(f"the run ended before step {step}: {process.stderr.read()}")


def kill_and_finish(reference, workdir, step, delay):
    process = start(workdir)
    wait_for_step(process, workdir, step)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    finish(workdir)
    assert_same_run(workdir, reference)


def test_killed_halfway(uninterrupted, tmp_path):
    kill_and_finish(uninterrupted, tmp_path, step=50, delay=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("point", range(10))
def test_killed_anywhere(uninterrupted, tmp_path, point):
    generator = random.Random(point)
    step, delay = generator.randrange(1, 90), generator.uniform(0.0, 0.2)
    kill_and_finish(uninterrupted, tmp_path, step, delay)


def test_sigterm_exits_with_143_and_one_line(uninterrupted, tmp_path):
    process = start(tmp_path)
    wait_for_step(process, tmp_path, 1)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate()
    assert process.returncode == 143
    last_line = stderr.replace("\r", "\n").strip().split("\n")[-1]
    assert last_line.startswith("anytime_jax: stopped by SIGTERM after step")
    finish(tmp_path)
    assert_same_run(tmp_path, uninterrupted)
