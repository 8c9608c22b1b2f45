"""How long a run waits for its snapshots, and what restoring one average reads.

    python benchmarks/snapshots.py [--millions 10 50] [--rounds=3] [--folder=DIR]

The state has adam's two moments and six averages of N million float32 parameters: nine
copies, which `training.store` writes into a temporary folder (in DIR; deleted
afterwards). A step updates all of it, and its state is donated.

* `whole`: a synchronous save, until the snapshot is on disk;
* `blocked`: what the loop waits in `Store.save`, as a share of it, of which `own` is
  processor time of the loop's thread, the rest being waits for other threads, above all
  those that compute checksums: nothing is written before all of it is handed over;
* `checksums`: the time that these take when they are computed alone, as a share;
* `behind`: how much later the steps beside the writing are done than they would be
  without it, as a share. On a CPU they share its cores, and the writer reads the memory
  of the state in place, so that the first of them has to copy what is donated;
* `read`: bytes read to restore one average (/proc/self/io, so Linux alone), in sizes of
  the average, and of the whole snapshot.

All rounds are printed after one that is not; the medians are the last row.
"""

import argparse
import gc
import os
import pathlib
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import machine
import optax

from anytime_jax import averaging
from anytime_jax.training import checksums, snapshots, state, store

AVERAGES = {
    f"ema{divisor}": averaging.age_ema(divisor=divisor) for divisor in (6, 12, 25)
} | {
    "uniform": averaging.uniform(),
    "power": averaging.power(gamma=1.0),
    "tail": averaging.polynomial(eta=3),
}
WIDTH = 1000
COLUMNS = ("parameters", "state", "whole", "blocked", "own", "checksums", "behind")


def make(millions: int):
    """The first state, and a step that updates every number of it."""
    optimizer = averaging.track(optax.adam(1e-3), AVERAGES)
    shapes = [(WIDTH, WIDTH)] * millions

    @jax.jit
    def start():
        keys = jax.random.split(jax.random.key(0), len(shapes))
        params = [
            jax.random.normal(key, shape)
            for key, shape in zip(keys, shapes, strict=True)
        ]
        return state.TrainState(jnp.int32(0), params, optimizer.init(params))

    def step(current):
        grads = jax.tree.map(jnp.sin, current.params)
        updates, inner = optimizer.update(grads, current.optimizer, current.params)
        params = optax.apply_updates(current.params, updates)
        return state.TrainState(current.step + 1, params, inner)

    return start(), jax.jit(step, donate_argnums=0)


def seconds(function, *arguments):
    """Its result and the seconds until it is there."""
    start = time.perf_counter()
    made = jax.block_until_ready(function(*arguments))
    return made, time.perf_counter() - start


def bytes_read() -> int:
    lines = pathlib.Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def restored(workdir: pathlib.Path, number: int, name: str) -> tuple[float, float]:
    """Bytes read to restore one average, in its own and in the snapshot's size."""
    folder = workdir / snapshots.FOLDER / str(number)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    before = bytes_read()
    like = snapshots.weights_like(workdir, number, name, place)
    jax.block_until_ready(snapshots.restore_weights(workdir, number, name, like))
    read = bytes_read() - before
    return read / size(folder / f"average_{name}"), read / size(folder)


def size(folder: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(millions: int, rounds: int, folder: str | None) -> None:
    current, step = make(millions)
    nbytes = sum(leaf.nbytes for leaf in jax.tree.leaves(current))
    found = []
    with tempfile.TemporaryDirectory(dir=folder) as made:
        workdir = pathlib.Path(made)
        opened = store.Store(workdir, keeps=lambda number: False)
        for number in range(rounds + 1):
            current, _ = seconds(step, current)
            plain = []
            for _ in range(5):
                current, took = seconds(step, current)
                plain.append(took)
            plain = statistics.median(plain)
            _, summing = seconds(checksums.checksums, snapshots.items(current))

            start = time.perf_counter()
            opened.save(current, 10 * number + 1, {})
            opened.wait()
            whole = time.perf_counter() - start

            start, busy = time.perf_counter(), time.thread_time()
            opened.save(current, 10 * number + 2, {})
            busy = time.thread_time() - busy
            blocked = time.perf_counter() - start
            steps = 0
            while opened._manager.is_saving_in_progress():
                current, _ = seconds(step, current)
                steps += 1
            beside = time.perf_counter() - start - blocked
            opened.wait()
            behind = beside - steps * plain
            own, all_ = restored(workdir, 10 * number + 2, "uniform")
            gc.collect()
            if number:
                shares = [x / whole for x in (blocked, busy, summing, behind)]
                found.append((whole, shares, own, all_))
                show(millions, nbytes, found[-1])
        opened.close()
    shares = zip(*(shares for _, shares, _, _ in found), strict=True)
    show(
        millions,
        nbytes,
        (
            statistics.median(whole for whole, *_ in found),
            [statistics.median(share) for share in shares],
            *found[-1][2:],
        ),
    )


def show(millions: int, nbytes: int, values) -> None:
    whole, shares, own, all_ = values
    cells = [f"{millions}M", f"{nbytes / 1e9:.2f} GB", f"{whole:.2f} s"]
    cells += [f"{100 * value:.0f} %" for value in shares]
    cells += [f"{own:.2f} x, {100 * all_:.0f} %", f"{os.getloadavg()[0]:.1f}"]
    print("| " + " | ".join(cells) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where to write; the system's own by default")
    arguments = parser.parse_args()
    print(f"{machine.describe()}; {arguments.rounds} rounds")
    columns = (*COLUMNS, "read", "load")
    print("\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for millions in arguments.millions:
        measure(millions, arguments.rounds, arguments.folder)


if __name__ == "__main__":
    main()
