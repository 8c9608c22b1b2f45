"""How fast stored snapshots are merged, beside the disk, and synthesis coefficients.

    python benchmarks/merging.py [--rounds=3] [--folder=DIR]

Merges 16 snapshots of a decoder's 50 million float32 parameters, written as a run
writes them into a temporary folder (3 GB, in DIR; deleted afterwards):

* `read`: the bytes of all its files, one file after the other in blocks of 8 MiB;
* `merge`: `training.merging.plan` and `merge`, in a process of its own that has merged
  two tiny snapshots before, so that nothing is imported or set up in this time;
* `ratio`: the rate of merging in bytes of the files over that of reading, of the same
  round; `processor`, its time on all cores, is what other load changes least; `load`
  is the machine's load average then.

`disk` rows start without the files in the page cache (`posix_fadvise`, which the host
of a virtual machine does not hear of); `cache` rows follow with them in it. `copies` is
the peak resident memory above that after the tiny merge, in copies of the parameters:
VmHWM after a reset through /proc/self/clear_refs, so Linux alone.

Then the coefficients of 64 snapshots x 4 averages over 64,000 steps, by families of
averages; the fastest round counts.
"""

import argparse
import concurrent.futures
import gc
import json
import multiprocessing
import os
import pathlib
import tempfile
import time

import averaging as shapes
import jax
import machine
import numpy as np

from anytime_jax import averaging
from anytime_jax.averaging import merging as coefficients
from anytime_jax.training import merging, store

SNAPSHOTS, BLOCK, STEPS = 16, 8 << 20, 64_000
STATUS, CLEAR = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")
FAMILIES = dict(
    power=[averaging.power(sigma_rel=width) for width in (0.03, 0.05, 0.10, 0.20)],
    age_ema=[averaging.age_ema(divisor=divisor) for divisor in (6.25, 12.5, 25, 50)],
    ema=[averaging.ema(decay=1 - 10.0**-power) for power in (1, 2, 3, 4)],
    polynomial=[averaging.polynomial(eta=eta) for eta in (1, 3, 8, 16)],
)


def write_run(workdir: pathlib.Path, sizes: dict, number: int) -> None:
    """What merging needs of a run, with raw weights that a model could have."""
    rng = np.random.default_rng(0)
    tree = {
        name: 0.02 * rng.standard_normal(shape, np.float32)
        for name, shape in sizes.items()
    }
    for index in range(1, number + 1):
        moved = jax.tree.map(
            lambda leaf, by=1 + index / 100: leaf * np.float32(by), tree
        )
        store.save_weights(workdir, 100 * index, moved, {"sequences": index})
    (workdir / "config.json").write_text(json.dumps({"averages": {}, "resolved": {}}))


def files(workdir: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in workdir.rglob("*") if path.is_file())


def forget(workdir: pathlib.Path) -> None:
    """Takes a folder's files out of the page cache."""
    for path in files(workdir):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(workdir: pathlib.Path) -> float:
    """The seconds of reading all files in order."""
    paths, block = files(workdir), bytearray(BLOCK)
    start = time.perf_counter()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(block):
                pass
    return time.perf_counter() - start


def merge(workdir: pathlib.Path) -> None:
    plan = merging.plan(workdir, dict(name="uniform"))
    jax.block_until_ready(merging.merge(plan))


def merge_measured(
    workdir: pathlib.Path, tiny: pathlib.Path, cached: bool
) -> tuple[float, float, float]:
    """Seconds, those of all cores and peak copies, in a process that did nothing."""
    merge(tiny)
    gc.collect()
    if not cached:
        forget(workdir)
    before = resident("VmRSS")
    CLEAR.write_text("5")
    start, busy = time.perf_counter(), time.process_time()
    merge(workdir)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    return seconds, busy, (resident("VmHWM") - before) / (4 * shapes.PARAMETERS)


def resident(field: str) -> int:
    """Bytes, by the kernel's account of this process."""
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return 1024 * int(lines[field].split()[0])


def apart(function, *arguments):
    """Calls a function in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *arguments).result()


def merges(rounds: int, folder: str | None) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as made:
        workdir, tiny = pathlib.Path(made) / "run", pathlib.Path(made) / "tiny"
        write_run(workdir, shapes.SHAPES, SNAPSHOTS)
        write_run(tiny, dict(tiny=(8, 8)), 2)
        size = sum(path.stat().st_size for path in files(workdir)) / 1e6
        print(
            f"{SNAPSHOTS} snapshots of {shapes.PARAMETERS:,} parameters: {size:,.0f} MB"
        )
        columns = ("from", "read", "merge", "ratio", "processor", "copies", "load")
        print("\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
        for _ in range(rounds):
            for source in ("disk", "cache"):
                if source == "disk":
                    forget(workdir)
                reading = read(workdir)
                merging_, busy, copies = apart(
                    merge_measured, workdir, tiny, source == "cache"
                )
                cells = [source, f"{size / reading:,.0f} MB/s"]
                cells += [f"{size / merging_:,.0f} MB/s", f"{reading / merging_:.2f}"]
                cells += [f"{busy:.1f} s", f"{copies:.2f}", f"{os.getloadavg()[0]:.1f}"]
                print("| " + " | ".join(cells) + " |", flush=True)


def syntheses(rounds: int) -> None:
    columns = ("64 x 4 averages", "coefficients", "error", "condition")
    print("\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    target = coefficients.Stored(averaging.power(sigma_rel=0.075), STEPS)
    for name, family in FAMILIES.items():
        stored = [
            coefficients.Stored(average, STEPS * index // 64)
            for index in range(1, 65)
            for average in family
        ]
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            found = coefficients.synthesize(target, stored)
            seconds.append(time.perf_counter() - start)
        cells = [name, f"{1e3 * min(seconds):.0f} ms"]
        cells += [f"{found.error:.1e}", f"{found.condition:.1e}"]
        print("| " + " | ".join(cells) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where to write; the system's own by default")
    arguments = parser.parse_args()
    print(f"{machine.describe()}; {arguments.rounds} rounds")
    merges(arguments.rounds, arguments.folder)
    syntheses(arguments.rounds)


if __name__ == "__main__":
    main()
