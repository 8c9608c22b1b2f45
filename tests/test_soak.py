"""A run of 50,000 steps does not grow, and compiles nothing after its beginning."""

import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from orbax.checkpoint._src.serialization import tensorstore_utils

from anytime_jax.training import store

STEPS = 50_000


def test_a_snapshot_asks_nothing_of_tensorstore_that_stays_in_memory(
    tmp_path, monkeypatch
):
    asked = []
    report = "experimental_collect_matching_metrics"
    monkeypatch.setattr(tensorstore, report, lambda *args: asked.append(args) or [])
    tensorstore_utils.print_ts_debug_data("key", [])
    assert asked
    asked.clear()
    store.save_weights(tmp_path, 1, {"weights": jnp.ones(3)}, {})
    assert asked == []


@pytest.mark.slow
def test_memory_stays_flat_and_nothing_is_compiled_again(tmp_path):
    command = [sys.executable, "-m", "tests.soaking", str(tmp_path), str(STEPS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = np.array(json.loads(done.stdout.splitlines()[-1]))
    assert (len(rows), rows[-1, 0]) == (1000, STEPS)
    tenths_TxRx4 = rows.reshape(10, 100, 4)

    # TensorStore (0.1.86) leaks a little with every array that Orbax writes, which
    # comes to some 0.3 MB for each of these snapshots.
    memory_T = tenths_TxRx4[:, :, 1].mean(1)
    seconds_T = np.median(np.diff(tenths_TxRx4[:, :, 2]), axis=1) / (STEPS / 1000)
    print("tenths: memory, MB", (memory_T / 1e6).round(1))
    print("median time of a step, ms", (1e3 * seconds_T).round(2))
    print("last over second:", memory_T[-1] / memory_T[1], seconds_T[-1] / seconds_T[1])
    assert memory_T[-1] <= 1.02 * memory_T[1]

    # The larger evaluation set is met at the first horizon, a tenth.
    compiled = rows[:, 3]
    assert compiled[100] == compiled[-1] > 0
