"""A long run of a tiny model, which measures itself: see test_soak.py.

python -m tests.soaking WORKDIR STEPS prints a JSON list of [step, bytes of resident
memory, seconds, seconds of processor, programs compiled], one for every record of a
train step.
"""

import ctypes
import json
import os
import pathlib
import sys
import time

import jax

from anytime_jax import training
from anytime_jax.training import metrics
from configs import tiny

_COMPILE = "/jax/core/compile/backend_compile_duration"


class Measured(metrics.Writer):
    """A writer of metrics that notes memory, time and compilations besides."""

    def __init__(self, workdir):
        super().__init__(workdir)
        self.rows, self._compiled = [], 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def write_scalars(self, step, scalars):
        super().write_scalars(step, scalars)
        if "train/loss" in scalars:
            seconds = time.perf_counter(), time.process_time()
            self.rows.append((step, resident(), *seconds, self._compiled))

    def _listen(self, event, seconds, **_):
        self._compiled += event == _COMPILE


def resident():
    """Bytes of resident memory, without what is free and glibc has not given back."""
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def config(steps):
    """One average of every kind, 200 evaluations, 30 snapshots at doubling horizons."""
    made = tiny.get_config()
    made.data.source = "synthetic"
    made.model.update(vocab_size=16, width=8, layers=1, heads=1)
    made.update(sequence_length=8, batch_size=8)
    made.averages = dict(
        age_ema=dict(name="age_ema", divisor=25.0),
        uniform=dict(name="uniform"),
        power=dict(name="power", gamma=6.94),
        polynomial=dict(name="polynomial", eta=3.0),
        ema=dict(name="ema", decay=0.99),
        tail=dict(name="tail", start=steps // 50),
        latest=dict(name="latest"),
    )
    horizons = tuple(steps // 2**n for n in range(10))
    made.horizons.update(chinchilla=(), steps=horizons)
    made.duration.update(chinchilla=0.0, steps=steps)
    made.evaluation.update(points=200, batches=1, horizon_batches=4, batch_size=8)
    made.snapshots.update(every=steps, latest_every=0)
    made.logging.every = steps // 1000
    return made.lock()


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    workdir, steps = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    writer = Measured(workdir)
    training.train(config(steps), workdir, writer)
    print(json.dumps(writer.rows))
