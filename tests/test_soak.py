"""A run of 50,000 steps does not grow, and compiles nothing after its beginning."""

import json
import subprocess
import sys

import numpy as np
import pytest

STEPS = 50_000


@pytest.mark.slow
def test_memory_stays_flat_and_nothing_is_compiled_again(tmp_path):
    command = [sys.executable, "-m", "tests.soaking", str(tmp_path), str(STEPS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = np.array(json.loads(done.stdout.splitlines()[-1]))
    assert (len(rows), rows[-1, 0]) == (1000, STEPS)
    tenths_TxRx4 = rows.reshape(10, 100, 4)

    memory_T = tenths_TxRx4[:, :, 1].mean(1)
    seconds_T = np.median(np.diff(tenths_TxRx4[:, :, 2]), axis=1) / (STEPS / 1000)
    print("tenths: memory, MB", (memory_T / 1e6).round(1))
    print("median time of a step, ms", (1e3 * seconds_T).round(2))
    print("last over second:", memory_T[-1] / memory_T[1], seconds_T[-1] / seconds_T[1])
    assert memory_T[-1] <= 1.02 * memory_T[1]

    # The larger evaluation set is met at the first horizon, a tenth.
    compiled = rows[:, 3]
    assert compiled[100] == compiled[-1] > 0
