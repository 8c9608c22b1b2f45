"""One horizon-free run against a run of a fixed horizon for every horizon.

    python experiments/every_horizon/run.py --out=demo
    python experiments/every_horizon/run.py --out=runs/every_horizon --seeds 0 1 2 \
        --baselines cosine linear --tune

Trains the trunk, branches a cooldown off it for every horizon, trains the baselines for
every horizon, and reports. What is already there is reused or continued.
"""

import argparse
import json
import pathlib
import shlex
import sys

import jax

from anytime_jax.commands import main

CONFIG = "configs/tiny.py"
HORIZONS = (1, 2, 4, 8)  # multiples of 20 tokens per parameter
COOLDOWN_FRACTION = 0.2  # of the horizon
GRID = (3e-3, 1e-2, 3e-2)
# The best of the grid at each horizon, with seed 0; see README.md.
PEAKS = {
    "cosine": {1: 3e-2, 2: 3e-2, 4: 1e-2, 8: 1e-2},
    "linear": {1: 3e-2, 2: 3e-2, 4: 1e-2, 8: 1e-2},
}


def call(*arguments: str) -> None:
    """Runs a verb and shows it as one would type it."""
    print(f"\n$ python -m anytime_jax {shlex.join(arguments)}", flush=True)
    code = main.main(arguments)
    if code:
        sys.exit(code)


def train(variant: str, workdir: pathlib.Path, **overrides) -> str:
    """Trains one run and returns its folder."""
    given = {key.replace("__", "."): value for key, value in overrides.items()}
    call(
        "train",
        f"--config={CONFIG}:{variant}",
        f"--workdir={workdir}",
        *(f"--config.{key}={value}" for key, value in given.items() if value),
    )
    return str(workdir)


def train_exits(folder: pathlib.Path, trunk: str, seed: int) -> list[str]:
    """Trains the trunk and its cooldowns."""
    source = folder / trunk
    runs = [train(trunk, source, seed=seed)]
    resolved = json.loads((source / "config.json").read_text())["resolved"]
    for times, horizon in zip(HORIZONS, resolved["horizons"], strict=True):
        start = horizon * round(10 * (1 - COOLDOWN_FRACTION)) // 10
        runs.append(
            train(
                "cooldown",
                folder / f"{trunk}_cooldown_{times}x",
                seed=seed,
                branch__workdir=source,
                branch__step=start,
                schedule__steps=horizon - start,
            )
        )
    return runs


def train_baseline(folder: pathlib.Path, name: str, seed: int, tune: bool) -> list[str]:
    """Trains a fixed-horizon schedule for every horizon, over the grid or its best."""
    return [
        train(
            name,
            folder / f"{name}_{times}x_{peak:g}",
            seed=seed,
            duration__chinchilla=times,
            schedule__peak=peak,
        )
        for times in HORIZONS
        for peak in (GRID if tune else (PEAKS[name][times],))
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("demo"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--trunks", nargs="+", default=["constant"])
    parser.add_argument("--baselines", nargs="+", default=["cosine"])
    parser.add_argument("--tune", action="store_true", help="the grid, on seed 0")
    options = parser.parse_args()
    # What the runs have in common, such as their evaluation, is compiled once.
    jax.config.update("jax_compilation_cache_dir", str(options.out / ".compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    folders = []
    for seed in options.seeds:
        folder = options.out / f"seed{seed}" if len(options.seeds) > 1 else options.out
        for trunk in options.trunks:
            folders += train_exits(folder, trunk, seed)
        for name in options.baselines:
            folders += train_baseline(folder, name, seed, options.tune and seed == 0)
    call("report", *folders, f"--out={options.out / 'report.md'}")
