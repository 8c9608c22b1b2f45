"""The published ladders of widths as runs: see experiments/published.py."""

import pathlib
from typing import NamedTuple

import numpy as np


class Ladder(NamedTuple):
    """Runs of all sizes and seeds.

    Attributes:
      runs: `(compute, losses)` of each.
      horizons: the compute of its compute-optimal end.
      sizes: number of parameters.
      finals: loss at the horizon.
    """

    runs: list[tuple[np.ndarray, np.ndarray]]
    horizons: np.ndarray
    sizes: np.ndarray
    finals: np.ndarray

    def mean_finals(self) -> tuple[np.ndarray, np.ndarray]:
        """Horizon and mean final loss of each size."""
        own = [self.sizes == size for size in np.unique(self.sizes)]
        return tuple(
            np.array([values[kept].mean() for kept in own])
            for values in (self.horizons, self.finals)
        )

    def recorded_finals(self) -> np.ndarray:
        """The last loss that each run recorded up to its horizon, not interpolated."""
        last = [
            # The compute of a record may be a rounding above the horizon.
            losses[compute <= horizon * (1 + 1e-9)][-1]
            for (compute, losses), horizon in zip(self.runs, self.horizons, strict=True)
        ]
        return np.array(last)


def read(path: pathlib.Path) -> Ladder:
    """Reads the ladder that a file of published runs holds."""
    with np.load(path) as found:
        sizes = found["meta_num_params"]
        runs = [
            (found[f"run{i}_compute"], found[f"run{i}_test_loss"])
            for i in range(len(sizes))
        ]
        return Ladder(runs, found["meta_opt_C"], sizes, found["meta_opt_L"])
