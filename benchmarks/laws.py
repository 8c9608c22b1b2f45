"""What predicting, fitting and optimising cost.

    python benchmarks/laws.py [--rounds=3]

* `fit`: the multi-power law by the default procedure, from three csv files to
  parameters, in a process that has compiled nothing before it;
* `hold out`: the error at the end of each of the three by a fit to the other two, after
  that;
* `optimal`: the best schedule of 24,000 steps under the published parameters, the
  first call with its compilation, and the next;
* `score`: the predicted final losses of 1000 schedules of 100,000 steps.

The curves of the first are those of the law's authors where they are found (see
experiments/published.py), and made by the law otherwise. Other work on the machine
shows; rounds are printed one by one.
"""

import argparse
import pathlib
import sys
import tempfile
import time
import warnings

import jax
import machine
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from anytime_jax import laws
from experiments.multi_power_law import curves

LAW = laws.MultiPowerLaw(*curves.PARAMETERS[25])


def files() -> dict[str, pathlib.Path]:
    """Returns a csv for each of the three training curves."""
    if curves.folder() is not None:
        return {
            name: curves.folder() / "csv_25" / f"{name}.csv" for name in curves.TRAIN
        }
    folder = pathlib.Path(tempfile.mkdtemp())
    made = {}
    for name in curves.TRAIN:
        rates = curves.rates(name)
        steps = np.arange(curves.WARMUP, len(rates), 128)
        table = np.stack([steps, rates[steps], LAW.predict(rates, steps)], axis=1)
        made[name] = folder / f"{name}.csv"
        np.savetxt(made[name], table, "%.10g", ",", header="step,lr,loss", comments="")
    return made


def read(paths: dict[str, pathlib.Path]) -> list[laws.Curve]:
    """Returns the curves of the files."""
    return [
        laws.Curve.from_csv(path, rates=curves.rates(name))
        for name, path in paths.items()
    ]


def candidates(count: int, steps: int) -> list[np.ndarray]:
    """Returns schedules that fall at every step, the worst case, of many powers."""
    left = 1 - np.arange(steps) / steps
    return [3e-4 * left ** (0.5 + 2 * i / count) for i in range(count)]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore", laws.UnidentifiedWarning)
    print(machine.describe(), "\n")
    print("| what | seconds | of processor | result |\n|---|---:|---:|---|")
    paths = files()
    for _ in range(options.rounds):
        jax.clear_caches()
        _row("fit", lambda: _fit(paths))
    law = laws.MultiPowerLaw.fit(read(paths))
    for _ in range(options.rounds):
        _row("hold out", lambda: _hold_out(law, read(paths)))
    for when in ("first", "again"):
        _row(f"optimal, {when}", _optimal)
    made = candidates(100, 100_000)
    for _ in range(options.rounds):
        _row("score 1000 x 100,000", lambda: _score(made))


def _fit(paths: dict[str, pathlib.Path]) -> str:
    law = laws.MultiPowerLaw.fit(read(paths))
    return f"objective {law.fitted.objective:.3e}"


def _hold_out(law: laws.Law, measured: list[laws.Curve]) -> str:
    record = laws.hold_out(law, measured).fitted
    return f"{record.held_out_error:.4f} nats, its own {record.final_error:.4f}"


def _optimal() -> str:
    found = laws.optimal_schedule(
        LAW, curves.PEAK, 24_000, warmup_steps=curves.WARMUP, law_error=0.01
    )
    return f"loss {found.loss:.5f}"


def _score(made: list[np.ndarray]) -> str:
    # The same hundred ten times: a thousand would take 800 MB.
    best = min(laws.final_losses(LAW, made, 100_000).min() for _ in range(10))
    return f"least {best:.4f}"


def _row(what: str, call) -> None:
    start, used = time.perf_counter(), time.process_time()
    result = call()
    seconds, used = time.perf_counter() - start, time.process_time() - used
    print(f"| {what} | {seconds:.2f} | {used:.2f} | {result} |", flush=True)


if __name__ == "__main__":
    main()
