"""One horizon-free run against a cosine run for every horizon, on the tiny config.

    python experiments/every_horizon/run.py --out=demo

Trains the trunk, branches a cooldown off it for every horizon, trains a cosine run for
every horizon, and reports. What is already there is reused or continued.
"""

import argparse
import json
import pathlib
import shlex
import sys

from anytime_jax.commands import main

CONFIG = "configs/tiny.py"
HORIZONS = (1, 2, 4, 8)  # multiples of 20 tokens per parameter
COOLDOWN_FRACTION = 0.2  # of the horizon


def call(*arguments: str) -> None:
    """Runs a verb and shows it as one would type it."""
    print(f"\n$ python -m anytime_jax {shlex.join(arguments)}", flush=True)
    code = main.main(arguments)
    if code:
        sys.exit(code)


def train(variant: str, workdir: pathlib.Path, seed: int, *overrides: str) -> str:
    """Trains one run and returns its folder."""
    call(
        "train",
        f"--config={CONFIG}:{variant}",
        f"--workdir={workdir}",
        *([f"--config.seed={seed}"] if seed else []),
        *overrides,
    )
    return str(workdir)


def every_horizon(folder: pathlib.Path, trunk: str, seed: int) -> list[str]:
    """Trains all runs of one seed and returns their folders."""
    source = folder / "trunk"
    runs = [train(trunk, source, seed)]
    config = json.loads((source / "config.json").read_text())
    for times, horizon in zip(HORIZONS, config["resolved"]["horizons"], strict=True):
        start = horizon * round(10 * (1 - COOLDOWN_FRACTION)) // 10
        cooldown = (
            f"--config.branch.workdir={source}",
            f"--config.branch.step={start}",
            f"--config.schedule.steps={horizon - start}",
        )
        runs.append(train("cooldown", folder / f"cooldown_{times}x", seed, *cooldown))
        duration = f"--config.duration.chinchilla={times}"
        runs.append(train("cosine", folder / f"cosine_{times}x", seed, duration))
    return runs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("demo"))
    parser.add_argument("--trunk", choices=("constant", "inverse_sqrt"))
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    folders = []
    for seed in range(options.seeds):
        folder = options.out / f"seed{seed}" if options.seeds > 1 else options.out
        folders += every_horizon(folder, options.trunk or "constant", seed)
    call("report", *folders, f"--out={options.out / 'report.md'}")
