"""Tokens per second of the whole training loop against its bare jitted step.

    python benchmarks/train_step.py

Both arms train the same model with the same averages. The loop reads, places and
prefetches batches, fetches and writes metrics and draws its bar; the bare step sees one
batch that is already on the device, and is timed both dispatched ahead and waited for
step by step; the better counts. Evaluations and snapshots lie outside the timed part.
Arms alternate, and the best of each counts. The matrix products are compared with
the machine's own float32 peak, measured in the same run.
"""

import argparse
import tempfile
import time

import jax
import jax.numpy as jnp
import machine

from anytime_jax import training
from anytime_jax.commands import config_files
from anytime_jax.training import compiling, metrics, preparing

MODELS = {
    "tiny": dict(width=32, layers=2, heads=2, batch_size=16, sequence_length=64),
    "small": dict(width=256, layers=4, heads=4, batch_size=8, sequence_length=256),
}
STEPS = {"tiny": 600, "small": 12}
WARM = 0.25  # of the steps, not timed


class Clock(metrics.Writer):
    """The run's own writer, which also notes when each record arrives."""

    def __init__(self, workdir):
        super().__init__(workdir)
        self.times = {}

    def write_scalars(self, step, scalars):
        if "train/loss" in scalars:
            self.times[step] = time.perf_counter()
        super().write_scalars(step, scalars)


def make_config(name):
    """The demo's trunk with another shape, evaluated and saved only at its ends."""
    steps = STEPS[name]
    config = config_files.load_config("configs/tiny.py:cosine")
    config.averages = config_files.load_config("configs/tiny.py").averages
    for key, value in MODELS[name].items():
        setattr(config.model if key in config.model else config, key, value)
    config.schedule.warmup_steps = 0
    config.duration.update(chinchilla=0.0, steps=steps)
    config.horizons.update(chinchilla=(), steps=(steps,))
    config.evaluation.update(points=1, batches=1, horizon_batches=1, batch_size=8)
    config.snapshots.every = 2 * steps
    config.logging.every = max(1, steps // 30)
    return config


def seconds_per_step_of_loop(config):
    """Of `training.run`, without its warm-up and what follows its last record."""
    with tempfile.TemporaryDirectory() as workdir:
        clock = Clock(workdir)
        training.train(config, workdir, clock)
    warm = min(step for step in clock.times if step >= WARM * config.duration.steps)
    last = config.duration.steps
    return (clock.times[last] - clock.times[warm]) / (last - warm)


def seconds_per_step_bare(config, wait):
    """Of the same jitted step: dispatched ahead, or waited for one by one."""
    prepared = preparing.prepare(config, "unused")
    recipe = prepared.recipe
    train_step, _, _ = compiling.compile_steps(config, recipe)
    state = jax.jit(lambda: training.state.init(recipe.model, recipe.optimizer, 0))()
    tokens = jnp.asarray(prepared.dataset.train.batch(0, config.batch_size))
    steps, warm = config.duration.steps, int(WARM * config.duration.steps)
    for step in range(steps):
        if step == warm:
            start = time.perf_counter()
        state, outputs = train_step(state, tokens)
        if wait or step == warm - 1:
            jax.block_until_ready(outputs)
    jax.block_until_ready(state)
    return (time.perf_counter() - start) / (steps - warm)


def peak_gflops(size=2048, repeats=5):
    """Of one float32 matrix product, the best of a few."""
    x = jnp.ones((size, size))
    product = jax.jit(lambda a, b: a @ b)
    product(x, x).block_until_ready()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times) / 1e9


def matmul_flops_per_step(config, parameters):
    """Forward and backward: 6 a token and weight, 12 L D a token and layer."""
    model, length = config.model, config.sequence_length
    head = model.width * model.vocab_size
    weights = parameters["non_embedding"] + head
    attention = 12 * model.layers * length * model.width
    return config.batch_size * length * (6 * weights + attention)


def main(rounds):
    print(machine.describe())
    peak = peak_gflops()
    print(f"float32 peak of a 2048 x 2048 product: {peak:,.0f} GFLOP/s\n")
    header = ("model", "loop tokens/s", "bare tokens/s", "loop/bare", "GFLOP/s", "peak")
    print("{:8} {:>14} {:>14} {:>10} {:>8} {:>6}".format(*header))
    for name in MODELS:
        config = make_config(name)
        bare, whole = [], []
        for _ in range(rounds):
            bare += [seconds_per_step_bare(config, wait) for wait in (False, True)]
            whole.append(seconds_per_step_of_loop(config))
        tokens = config.batch_size * config.sequence_length
        recipe = preparing.prepare(config, "unused").recipe
        speed = matmul_flops_per_step(config, recipe.parameters) / min(bare) / 1e9
        print(
            f"{name:8} {tokens / min(whole):14,.0f} {tokens / min(bare):14,.0f} "
            f"{min(bare) / min(whole):10.3f} {speed:8,.1f} {speed / peak:6.1%}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    main(parser.parse_args().rounds)
