"""From results to numbers: losses by method, horizon and seed, and their regrets."""

import csv
import dataclasses
import json
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.anytime_vs_cosine import documents, protocol, selection
from experiments.anytime_vs_cosine.protocol import Job, Protocol

# At each horizon the fixed-horizon schedule that was the better one on seed 0.
BETTER = "envelope"
STOPPED, RESTARTED = "cosine_stopped", "cosine_restarted"


@dataclasses.dataclass(frozen=True)
class Method:
    """What is compared, the same for all seeds.

    Attributes:
      name: `constant_average` and the like, a fixed-horizon schedule, `STOPPED` or
        `RESTARTED`.
      jobs: its run as it would be with seed 0, by multiple of 1x.
      exit: which of the run's losses.
    """

    name: str
    jobs: Mapping[int, Job]
    exit: str = "raw"

    @property
    def setting(self) -> str:
        """Its choices, in words."""
        peaks = [f"{job.peak:g}" for job in self.jobs.values()]
        if len(set(peaks)) > 1:
            return "peaks " + ", ".join(peaks)
        beta2 = next(iter(self.jobs.values())).beta2
        return f"{self.exit}, peak {peaks[0]}, beta2 {beta2:g}"


class Comparison:
    """All methods at one batch, on the seeds that nothing was chosen on.

    Attributes:
      batch: in multiples of the usual one.
      times: the horizons, in multiples of 1x.
      seeds: those of which everything is there.
      methods: by name.
    """

    def __init__(self, results: Mapping[Job, dict], plan: Protocol, batch: int):
        """Chooses on seed 0, and reads the other seeds.

        Args:
          results: from `run.read`.
          plan: what was varied.
          batch: in multiples of the usual one.
        """
        self._results = {
            (job.setting, job.seed, job.cooldowns): r for job, r in results.items()
        }
        _check_same(results, "data")
        # One set to choose by, another to report on.
        self._counts_G = {}
        for reported in (False, True):
            part = {job: r for job, r in results.items() if (job.seed > 0) == reported}
            if validation := _check_same(part, "validation"):
                self._counts_G[reported] = np.array(validation["groups"])
        self.batch = batch
        self.times = plan.horizons(batch)
        self.steps_1x = plan.steps_1x
        losses = selection.losses(results)
        self.methods = {m.name: m for m in self._methods(losses)}
        self._better = selection.tuned(losses, protocol.ENVELOPE, batch)
        self.seeds = [seed for seed in plan.seeds if self._complete(seed)]

    def _methods(self, losses: selection.Results) -> list[Method]:
        found = []
        for schedule in protocol.ENVELOPE:
            if jobs := selection.tuned(losses, [schedule], self.batch):
                found.append(Method(schedule, jobs))
        for (schedule, family), chosen in selection.methods(losses, self.batch).items():
            jobs = dict.fromkeys(self.times, chosen.job.setting)
            found.append(Method(f"{schedule}_{family}", jobs, chosen.exit))
        # The schedules themselves, at what was chosen for their averages.
        for schedule in protocol.TRUNKS:
            jobs = dict.fromkeys(self.times, _run(found, f"{schedule}_average"))
            found.append(Method(f"{schedule}_raw", jobs))
        longest = _run(found, "cosine", self.times[-1])
        found.append(Method(STOPPED, dict.fromkeys(self.times, longest)))
        if self.batch == 1:
            restarts = dataclasses.replace(longest, schedule="restarts")
            found.append(Method(RESTARTED, dict.fromkeys(self.times, restarts)))
        return found

    def _complete(self, seed: int) -> bool:
        try:
            for method in self.methods.values():
                for times in self.times:
                    self.loss(method.name, times, seed)
        except KeyError:
            return False
        return True

    def result(self, job: Job, seed: int, name: str = "raw") -> dict:
        """Returns that of the run with or without cooldowns, whichever has the exit.

        Args:
          job: the run of seed 0.
          seed: of the run that is wanted.
          name: the exit.
        """
        for cooldowns in (True, False):
            result = self._results.get((job.setting, seed, cooldowns))
            if result and name in result["losses"]:
                return result
        raise KeyError(f"{job.name}, seed {seed}: {name}")

    def _at(self, kind: str, name: str, times: int, seed: int):
        if name == BETTER:
            name = self._better[times].schedule
        method = self.methods[name]
        result = self.result(method.jobs[times], seed, method.exit)
        return result[kind][method.exit][str(times)]

    def loss(self, name: str, times: int, seed: int) -> float:
        """Returns the loss of a method, or of the `BETTER` envelope."""
        return self._at("losses", name, times, seed)

    def means(self, name: str) -> list[float]:
        """Returns the mean loss over seeds of a method at every horizon."""
        return [
            float(np.mean([self.loss(name, times, seed) for seed in self.seeds]))
            for times in self.times
        ]

    def regrets(self, name: str, times: int, against: str = BETTER) -> list[float]:
        """Returns loss minus the envelope's, seed by seed.

        Args:
          name: of the method.
          times: the horizon.
          against: `BETTER`, or `cosine` for the paper's envelope.
        """
        return [
            self.loss(name, times, seed) - self.loss(against, times, seed)
            for seed in self.seeds
        ]

    def standard_error(
        self,
        name: str,
        times: int,
        against: str = BETTER,
        seeds: Sequence[int] | None = None,
    ) -> float:
        """Returns that of the mean regret over documents, NaN if one diverged.

        Args:
          name: of the method.
          times: the horizon.
          against: `BETTER`, or `cosine` for the paper's envelope.
          seeds: those of the mean, by default all that are reported.
        """
        seeds = self.seeds if seeds is None else seeds
        losses_SxG, other_SxG = (
            np.array([self._at("groups", of, times, seed) for seed in seeds])
            for of in (name, against)
        )
        if not (np.isfinite(losses_SxG).all() and np.isfinite(other_SxG).all()):
            return math.nan
        differences_G = np.mean(losses_SxG - other_SxG, axis=0)
        return documents.standard_error(differences_G, self._counts_G[seeds[0] > 0])

    def exit_regrets(self, name: str, other: str, times: int) -> list[float]:
        """Returns the regrets of another exit of the run of a method."""
        job = self.methods[name].jobs[times]
        return [
            self.result(job, seed, other)["losses"][other][str(times)]
            - self.loss(BETTER, times, seed)
            for seed in self.seeds
        ]


def _check_same(results: Mapping[Job, dict], kind: str) -> Any:
    """Returns what all results have, None if none has it."""
    found = {json.dumps(r[kind]) for r in results.values() if kind in r}
    if len(found) > 1:
        raise ValueError(f"results are from different {kind}: {found}")
    return json.loads(found.pop()) if found else None


def _run(methods: list[Method], name: str, times: int = 1) -> Job:
    """Returns the run of a method at a horizon."""
    [method] = [method for method in methods if method.name == name]
    return method.jobs[times]


def spread(values: list[float]) -> float:
    """Returns the standard deviation over seeds, 0 of one, NaN if one diverged."""
    if not np.isfinite(values).all():
        return math.nan
    return statistics.stdev(values) if len(values) > 1 else 0.0


def write_csv(comparisons: list[Comparison], path: pathlib.Path) -> None:
    """Writes a row for each batch, horizon and seed, as the paper's released table."""
    names = list(dict.fromkeys(n for c in comparisons for n in c.methods))
    columns = ["batch", "horizon", "step", "tokens", "seed", *names]
    columns += [f"delta_{name}" for name in names if name != "cosine"]
    columns += [f"regret_{name}" for name in names]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for comparison in comparisons:
            for times in comparison.times:
                for seed in comparison.seeds:
                    writer.writerow(_row(comparison, times, seed))


def _row(comparison: Comparison, times: int, seed: int) -> dict[str, object]:
    step = times * comparison.steps_1x
    row = dict(
        batch=comparison.batch * protocol.TOKENS_PER_STEP,
        horizon=f"{times}x",
        step=step // comparison.batch,
        tokens=step * protocol.TOKENS_PER_STEP,
        seed=seed,
    )
    losses = {name: comparison.loss(name, times, seed) for name in comparison.methods}
    deltas = {
        f"delta_{name}": f"{loss - losses['cosine']:.6f}"
        for name, loss in losses.items()
        if name != "cosine"
    }
    best = comparison.loss(BETTER, times, seed)
    regrets = {f"regret_{name}": f"{loss - best:.6f}" for name, loss in losses.items()}
    return (
        row | {name: f"{loss:.6f}" for name, loss in losses.items()} | deltas | regrets
    )
