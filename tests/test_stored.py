"""Weights that are loaded without the run's devices."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from anytime_jax import models, training
from anytime_jax.training import sharding, snapshots
from tests import small

LOAD = """
import sys
import jax, numpy as np
from anytime_jax import training
assert jax.device_count() == 1
for name in ("raw", "uniform"):
    params = training.load(sys.argv[1], 12, name)
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(params)
    }
    np.savez(sys.argv[2] + "/" + name, **leaves)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    training.train(small.config(), workdir)
    return workdir


def test_what_eight_devices_wrote_is_loaded_on_one(finished, tmp_path):
    """In a process that has a single device and that nobody told of the run's."""
    command = [sys.executable, "-c", LOAD, str(finished), str(tmp_path)]
    environment = dict(JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="1", PYTHONPATH=".")
    subprocess.run(command, check=True, env=environment)
    for name in ("raw", "uniform"):
        params = training.load(finished, average=name)
        leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(params)]
        stored = small.stored_weights(finished, small.STEPS, name)
        np.testing.assert_array_equal(np.concatenate(leaves), stored)
        with np.load(tmp_path / f"{name}.npz", allow_pickle=False) as loaded:
            assert loaded["embedding/table"].dtype == np.float32
            jax.tree.map_with_path(
                lambda path, leaf, loaded=loaded: np.testing.assert_array_equal(
                    loaded[jax.tree_util.keystr(path, simple=True, separator="/")], leaf
                ),
                params,
            )


def test_they_are_plain_and_a_model_takes_them(finished):
    params = training.load(finished, 6, "ema25")

    def is_plain(tree):
        if type(tree) is dict:
            return all(map(is_plain, tree.values()))
        return type(tree) is np.ndarray

    assert is_plain(params)
    config = json.loads((finished / "config.json").read_text())
    tokens_BxL = np.zeros((2, 16), np.int32)
    logits_BxLxV = jax.jit(models.build(config["model"]).apply)(params, tokens_BxL)
    assert logits_BxLxV.shape == (2, 16, 16)
    assert np.isfinite(logits_BxLxV).all()


def test_without_a_cpu_the_first_device_there_is_loads_them(finished, monkeypatch):
    """As with JAX_PLATFORMS=tpu, which leaves out the CPU."""
    wanted = training.load(finished, 6, "ema25")
    there, asked = jax.local_devices(), []

    def local_devices(*, backend=None):
        asked.append(backend)
        if backend == "cpu":
            raise RuntimeError("Unknown backend cpu. Available backends are ['tpu']")
        return there[3:]

    monkeypatch.setattr(jax, "local_devices", local_devices)
    assert sharding.on_cpu().device_set == {there[3]}
    jax.tree.map(
        np.testing.assert_array_equal, training.load(finished, 6, "ema25"), wanted
    )
    assert snapshots.restore_count(finished, 6, "ema25") == 6
    assert asked == 3 * ["cpu", None]


def test_what_is_not_there_is_refused(finished, tmp_path):
    for arguments, message in (
        ((finished, 7), r"no snapshot of step 7; stored are 4, 5, 6, 9, 10, 12$"),
        ((finished, 6, "ema"), r"no weights ema; it has ema25, raw, uniform$"),
        ((tmp_path,), r"holds no run"),
        ((tmp_path, 6), r"no snapshot of step 6; stored are none$"),
    ):
        with pytest.raises(ValueError, match=message):
            training.load(*arguments)
