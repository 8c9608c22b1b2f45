"""Every exit of one run, at every horizon.

    python -m experiments.every_exit.run --out=demo
    python -m experiments.every_exit.run --out=runs/every_exit --seeds 0 1 2
    python -m experiments.every_exit.run --out=runs/merges --trunk=runs/trunk

Trains what `experiments/every_horizon/run.py --out=...` trains: the trunk, a cooldown
and a cosine run for every horizon. Then merges the trunk's snapshots in every way at
every horizon, evaluates the merges, and reports in OUT/exits.md and OUT/exits.png. What
is already there is reused or continued. With --trunk nothing is trained: only that run
is merged and reported.
"""

import argparse
import json
import pathlib

import jax

from experiments.every_horizon import run as every_horizon

WINDOWS = (10, 20)  # percent of the horizon
SPANS = (25, 50)
RECIPES = {
    "uniform": "uniform",  # LAWA
    "from_decay": "from_decay:shape=1-sqrt",  # WSM
    "quadratic_accurate": "quadratic_accurate:shape=1-sqrt",  # QAM
}
SIGMAS = (0.07, 0.12)  # between the tracked ema25, ema12_5 and ema6_25


def merge_all(trunk: pathlib.Path, out: pathlib.Path) -> list[str]:
    """Merges a trunk's snapshots in every way at every horizon; returns the folders."""
    resolved = json.loads((trunk / "config.json").read_text())["resolved"]
    every = resolved["snapshot_every"]
    folders = []

    def merge(name: str, horizon: int, recipe: str, *choice: str) -> None:
        folder = out / f"{trunk.name}_{name}_{horizon}"
        folders.append(str(folder))
        if not folder.exists():  # A merge is there as a whole or not at all.
            flags = (f"--recipe={recipe}", *choice, f"--out={folder}", "--evaluate")
            every_horizon.call("merge", str(trunk), *flags)

    for percent in WINDOWS:
        for horizon in resolved["horizons"]:
            start = horizon * (100 - percent) // 100
            recipe = f"window:start={start},stop={horizon}"
            merge(f"window_{percent}", horizon, recipe)
    for name, recipe in RECIPES.items():
        for percent in SPANS:
            for horizon in resolved["horizons"]:
                count = horizon // every * percent // 100
                if count > 1:  # One snapshot is no merge.
                    choice = (
                        f"--every={every}",
                        f"--stop={horizon}",
                        f"--latest={count}",
                    )
                    merge(f"{name}_{percent}", horizon, recipe, *choice)
    for sigma_rel in SIGMAS:
        for horizon in resolved["horizons"]:
            recipe = f"synthesize:target.name=power,target.sigma_rel={sigma_rel}"
            merge(f"power_{sigma_rel}", horizon, recipe, f"--steps={horizon}")
    return folders


def main() -> None:
    """Trains, merges and reports."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("demo"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--trunk", type=pathlib.Path, help="a run to merge")
    options = parser.parse_args()
    # What the runs have in common, such as their evaluation, is compiled once.
    jax.config.update("jax_compilation_cache_dir", str(options.out / ".compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    folders = []
    if options.trunk:
        folders = [str(options.trunk), *merge_all(options.trunk, options.out)]
    for seed in () if options.trunk else options.seeds:
        folder = options.out / f"seed{seed}" if len(options.seeds) > 1 else options.out
        folders += every_horizon.train_exits(folder, "constant", seed)
        folders += every_horizon.train_baseline(folder, "cosine", seed, tune=False)
        folders += merge_all(folder / "constant", folder)
    every_horizon.call("report", *folders, f"--out={options.out / 'exits.md'}")


if __name__ == "__main__":
    main()
