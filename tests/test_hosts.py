"""Two real processes, as two hosts of a pod, train what one process trains."""

import socket
import subprocess
import sys

import numpy as np
import pytest

from anytime_jax.training import metrics

HOST = """
import sys
import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
if sys.argv[2] != "alone":
    jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))
from anytime_jax import training
from tests import small

training.train(small.config(mesh__fsdp=2), sys.argv[4])
"""


def start(*arguments):
    command = [sys.executable, "-c", HOST, *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finish(*processes):
    for process in processes:
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr


@pytest.mark.slow
def test_two_hosts_train_as_one(tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    finish(start(4, "alone", 0, alone))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    finish(*(start(2, address, rank, together) for rank in (0, 1)))

    for one, other in zip(metrics.read(alone), metrics.read(together), strict=True):
        assert one.keys() == other.keys()
        for key in one:
            if not key.startswith("time/"):
                np.testing.assert_allclose(one[key], other[key], rtol=1e-4)
