"""How long a fit of Chinchilla's law from 4500 starts takes, with its intervals.

    python benchmarks/laws_chinchilla.py [--rounds=5]

240 points of a known law with the noise of Epoch's replication (Student's t with 3
degrees of freedom, scale 0.004), as many as there: no published data is needed.
`processor` is the time on all cores, which other load does not lengthen as much.
"""

import argparse
import time
from collections.abc import Callable

import machine
import numpy as np

from anytime_jax.laws import chinchilla

LAW = chinchilla.ChinchillaLaw(A=480.0, B=2100.0, E=1.82, alpha=0.35, beta=0.37)
RESAMPLES = 4000


def points() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sizes, tokens and losses of 240 runs."""
    random = np.random.default_rng(0)
    sizes = np.exp(random.uniform(np.log(5e7), np.log(1.6e10), size=240))
    tokens = np.exp(random.uniform(np.log(1e9), np.log(3e11), size=240))
    off = 0.004 * random.standard_t(3, size=240)
    return sizes, tokens, LAW.predict(sizes, tokens) * np.exp(off)


def timed(function: Callable) -> tuple[float, float, object]:
    """Seconds by the clock, seconds on the processor, and the result."""
    clock, processor = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - clock, time.process_time() - processor, result


def chinchilla_table(rounds: int) -> str:
    """Returns the table: fastest of the rounds for the fit and for its intervals."""
    data = points()
    fits = [timed(lambda: chinchilla.search(*data)) for _ in range(rounds)]
    found = fits[0][2]
    draws = [
        timed(lambda: found.law.bootstrap(*data, resamples=RESAMPLES))
        for _ in range(rounds)
    ]
    lines = ["| | clock | processor | |", "|---|---:|---:|---|"]
    notes = (
        f"{found.reached} of {found.starts} starts reach the lowest objective",
        f"{RESAMPLES} resamples",
    )
    for name, runs, note in zip(
        ("fit", "bootstrap"), (fits, draws), notes, strict=True
    ):
        clock, processor = (min(run[i] for run in runs) for i in range(2))
        lines.append(f"| {name} | {clock:.1f} s | {processor:.1f} s | {note} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"{machine.describe()}; fastest of {rounds} rounds\n")
    print(chinchilla_table(rounds))


if __name__ == "__main__":
    main()
