"""What the exact risk of a run costs: by nodes, averages, steps and dimension.

    python benchmarks/theory.py [--rounds=3]

Each number is a whole call of `theory.sgd_risk`, compiled before: rates and mixing
weights of every update, the recursion, the risks. Rounds are interleaved and the
fastest of each counts.

* nodes x averages: updates per second of 50,000, one rate, an array of nodes;
* steps: the same with 224 nodes and 2 averages from 10^4 to 10^6 updates;
* dimension: the same problem, a = 1.5 and b = 3, from 10^4 to 10^12, with the nodes
  that it takes, and the time to make them when nothing is cached;
* a million updates with 6 averages and 400 nodes.
"""

import argparse
import time

import machine
import numpy as np

from anytime_jax import averaging, schedules
from anytime_jax.theory import LinearRegression, sgd_risk, spectrum

STEPS = 50_000
NODES = (100, 200, 400, 800, 1600)
NUMBERS = (0, 1, 2, 4, 6, 8)
LENGTHS = (10**4, 10**5, 10**6)
DIMENSIONS = (10**4, 10**6, 10**8, 10**10, 10**12)
AVERAGES = dict(
    uniform=averaging.uniform(),
    ema6_25=averaging.age_ema(divisor=6.25),
    ema12_5=averaging.age_ema(divisor=12.5),
    ema25=averaging.age_ema(divisor=25),
    ema50=averaging.age_ema(divisor=50),
    ema100=averaging.age_ema(divisor=100),
    power=averaging.power(sigma_rel=0.1),
    ema=averaging.ema(decay=0.999),
)


def with_nodes(count: int) -> LinearRegression:
    """A problem of `count` directions, each by itself."""
    i = np.arange(1.0, count + 1)
    return LinearRegression(eigenvalues=i**-1.5, squared_target=i**-1.5, noise=1)


def law(dimension: float) -> LinearRegression:
    return LinearRegression(capacity=1.5, source=3, dimension=dimension, noise=1)


def seconds(problem: LinearRegression, number: int, steps: int) -> float:
    """One whole call."""
    averages = dict(list(AVERAGES.items())[:number])
    trunk = schedules.inverse_sqrt(peak=0.5 / problem.trace, offset=128)
    start = time.perf_counter()
    sgd_risk(problem, trunk, averages, steps, record=[steps // 10, steps])
    return time.perf_counter() - start


def fastest(runs: dict, rounds: int) -> dict:
    """The fastest of interleaved rounds of `seconds(*run)`, by the run's name."""
    for problem, number, _ in runs.values():
        seconds(problem, number, 10)  # Compiles.
    found = dict.fromkeys(runs, np.inf)
    for _ in range(rounds):
        for name, run in runs.items():
            found[name] = min(found[name], seconds(*run))
    return found


def nodes_and_averages(rounds: int):
    runs = {(n, k): (with_nodes(n), k, STEPS) for k in NUMBERS for n in NODES}
    found = fastest(runs, rounds)
    _row(
        "averages", *(f"{n} nodes" for n in NODES), "ns a state and update, 1600 nodes"
    )
    _row(*["---:"] * (len(NODES) + 2))
    for k in NUMBERS:
        rates = [f"{STEPS / found[n, k]:,.0f}" for n in NODES]
        # The raw weights are one state a node, an average is two.
        each = found[NODES[-1], k] / (STEPS * NODES[-1] * (1 + 2 * k))
        _row(k, *rates, f"{1e9 * each:.2f}")


def lengths(rounds: int):
    problem = law(10**12)
    found = fastest({steps: (problem, 2, steps) for steps in LENGTHS}, rounds)
    _row("steps", "seconds", "updates/s")
    _row(*["---:"] * 3)
    for steps, best in found.items():
        _row(f"{steps:,}", f"{best:.3f}", f"{steps / best:,.0f}")


def dimensions(rounds: int):
    problems, made = {}, dict.fromkeys(DIMENSIONS, np.inf)
    for dimension in DIMENSIONS * rounds:
        # Else what one problem has made would serve the next.
        spectrum._panel.cache_clear()
        start = time.perf_counter()
        problems[dimension] = law(dimension)
        _ = problems[dimension].spectrum
        made[dimension] = min(made[dimension], time.perf_counter() - start)
    found = fastest({d: (problems[d], 2, STEPS) for d in DIMENSIONS}, rounds)
    _row("dimension", "nodes", "quadrature error", "made in", "updates/s")
    _row(*["---:"] * 5)
    for dimension in DIMENSIONS:
        problem, rate = problems[dimension], f"{STEPS / found[dimension]:,.0f}"
        nodes, error = len(problem.spectrum.eigenvalues), problem.quadrature_error
        start = f"{made[dimension]:.2f} s"
        _row(f"10^{round(np.log10(dimension))}", nodes, f"{error:.1e}", start, rate)


def _row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(f"{machine.describe()}; fastest of {rounds} rounds\n")
    for table in (nodes_and_averages, lengths, dimensions):
        table(rounds)
        print()
    million = fastest({"million": (with_nodes(400), 6, 10**6)}, min(2, rounds))
    print(f"10^6 updates, 6 averages, 400 nodes: {million['million']:.1f} s")


if __name__ == "__main__":
    main()
