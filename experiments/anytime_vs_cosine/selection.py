"""From results to what to train next: larger grids, and the choice for other seeds.

What is chosen depends on the results of seed 0 alone.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.anytime_vs_cosine import protocol
from experiments.anytime_vs_cosine.protocol import Job, Protocol

# From the job to the losses of its exits by multiples of 1x.
Results = Mapping[Job, Mapping[str, Mapping[int, float]]]

AVERAGES = ("ema6_25", "ema12_5", "ema25", "ema50", "ema100", "uniform", "power10")
FAMILIES = {
    "average": AVERAGES,
    "merge": protocol.MERGES,
    "cooldown_10": ("cooldown_10",),
    "cooldown_20": ("cooldown_20",),
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """An anytime method with all of its choices: a run and one exit from it."""

    job: Job
    exit: str


def losses(results: Mapping[Job, dict]) -> Results:
    """Returns the losses of results as they are stored, horizons as numbers."""
    return {
        job: {
            name: {int(times): loss for times, loss in of.items()}
            for name, of in result["losses"].items()
        }
        for job, result in results.items()
    }


def tried(results: Mapping[Job, Any], schedule: str, batch: int = 1) -> list[Job]:
    """Returns the runs of seed 0 to choose from; checks are none of them.

    Args:
      results: the results.
      schedule: theirs.
      batch: in multiples of the usual one.
    """
    wanted = (schedule, batch, 0)
    return [
        job
        for job in results
        if job == job.usual and (job.schedule, job.batch, job.seed) == wanted
    ]


def tuned(results: Results, schedules: Iterable[str], batch: int) -> dict[int, Job]:
    """Returns the best fixed-horizon run of seed 0 at each horizon.

    Args:
      results: the results.
      schedules: those to choose from.
      batch: in multiples of the usual one.
    """
    best: dict[int, tuple[float, Job]] = {}
    for job in (job for s in schedules for job in tried(results, s, batch)):
        pair = results[job]["raw"][job.times], job
        best[job.times] = min(best.get(job.times, pair), pair)
    return {times: job for times, (_, job) in sorted(best.items())}


def envelope(
    results: Results, schedules: Iterable[str], batch: int
) -> dict[int, float]:
    """Returns the lowest loss of fixed-horizon runs of seed 0 at each horizon."""
    runs = tuned(results, schedules, batch)
    return {times: results[job]["raw"][times] for times, job in runs.items()}


def choose(
    results: Results, schedule: str, family: str, batch: int = 1
) -> tuple[Setting, float]:
    """Returns the setting of smallest worst regret on seed 0, and this regret.

    Args:
      results: the results.
      schedule: of the trunk.
      family: one of `FAMILIES`.
      batch: in multiples of the usual one.
    """
    ranked = worst_regrets(results, schedule, FAMILIES[family], batch)
    setting = min(ranked, key=ranked.get)
    return setting, ranked[setting]


def worst_regrets(
    results: Results, schedule: str, exits: Iterable[str], batch: int = 1
) -> dict[Setting, float]:
    """Returns the worst regret of every setting, against the better envelope.

    Args:
      results: the results.
      schedule: of the trunk.
      exits: those to try.
      batch: in multiples of the usual one.
    """
    best = envelope(results, protocol.ENVELOPE, batch)
    found = {}
    for job in tried(results, schedule, batch):
        losses = results[job]
        for name in exits:
            if set(best) <= set(losses.get(name, {})):
                regrets = [losses[name][times] - best[times] for times in best]
                found[Setting(job, name)] = max(regrets)
    return found


def wanted(results: Results, plan: Protocol) -> list[Job]:
    """Returns the jobs that can be done now, those that are done included.

    First the grid; then its extension, as long as an optimum is at its edge; then, as
    checks, other beta2 and variations at the chosen peaks; then what is chosen, on
    other seeds. Each is there once.

    Args:
      results: the results.
      plan: what is varied.
    """
    return [job for batch in plan.batches for job in _of_batch(results, plan, batch)]


def _of_batch(results: Results, plan: Protocol, batch: int) -> list[Job]:
    jobs = protocol.grid(plan, batch)
    if not set(jobs) <= set(results):
        return jobs
    extension = _extension(results, batch) if plan.extends else []
    done = [job for job in results if (job.batch, job.seed) == (batch, 0)]
    if extension:
        return _once(jobs, done, protocol.longest_first(extension))
    checks = [] if batch > 1 else _checks(results, plan)
    if not set(checks) <= set(results):
        return _once(jobs, done, checks)
    return _once(jobs, done, _other_seeds(results, plan, batch))


def _once(*jobs: Iterable[Job]) -> list[Job]:
    return list(dict.fromkeys(itertools.chain(*jobs)))


def _extension(results: Results, batch: int) -> list[Job]:
    """The next peak wherever the best one is the largest or the smallest tried."""
    found = []
    for schedule in protocol.ENVELOPE:
        for job in tuned(results, [schedule], batch).values():
            found += _beyond(results, job)
    for schedule in protocol.TRUNKS:
        for family in families(batch):
            setting, _ = choose(results, schedule, family, batch)
            found += _beyond(results, setting.job)
    return list(dict.fromkeys(found))


def _beyond(results: Results, best: Job) -> list[Job]:
    peaks = [
        job.peak for job in results if dataclasses.replace(job, peak=best.peak) == best
    ]
    if best.peak == max(peaks):
        return [dataclasses.replace(best, peak=2 * best.peak)]
    if best.peak == min(peaks):
        return [dataclasses.replace(best, peak=best.peak / 2)]
    return []


def families(batch: int) -> list[str]:
    """Returns the kinds of exits of a batch: with the usual one cooldowns too."""
    return list(FAMILIES) if batch == 1 else ["average", "merge"]


def _checks(results: Results, plan: Protocol) -> list[Job]:
    """Other beta2 and variations, of the trunks and of the best of the longest runs."""
    checked = [choose(results, s, "average")[0].job.setting for s in protocol.TRUNKS]
    checked.append(tuned(results, protocol.ENVELOPE, 1)[plan.times[-1]])
    found = []
    for job in checked:
        found += [dataclasses.replace(job, beta2=value) for value in plan.other_beta2]
        found += [
            dataclasses.replace(job, variation=name)
            for name in plan.variations
            if name.startswith(job.schedule)
        ]
    return found


def methods(results: Results, batch: int = 1) -> dict[tuple[str, str], Setting]:
    """Returns the setting of every anytime method, by trunk and family."""
    return {
        (schedule, family): choose(results, schedule, family, batch)[0]
        for schedule in protocol.TRUNKS
        for family in families(batch)
    }


def _other_seeds(results: Results, plan: Protocol, batch: int) -> list[Job]:
    """What is chosen on seed 0, on the others."""
    settings = list(methods(results, batch).values())
    cooled = {one.job.setting for one in settings if "cooldown" in one.exit}
    runs = dict.fromkeys(one.job.setting for one in settings)
    chosen = [dataclasses.replace(job, cooldowns=job in cooled) for job in runs]
    for schedule in protocol.ENVELOPE:
        chosen += tuned(results, [schedule], batch).values()
    if batch == 1:
        longest = tuned(results, ["cosine"], batch)[plan.times[-1]]
        chosen.append(dataclasses.replace(longest, schedule="restarts"))
    jobs = [
        dataclasses.replace(job, seed=seed) for job in chosen for seed in plan.seeds
    ]
    return protocol.longest_first(jobs)
