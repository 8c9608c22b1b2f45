"""What is trained: the grid on seed 0, and what is chosen from it on other seeds."""

import dataclasses
from collections.abc import Iterable

import ml_collections

from configs import small

TIMES = (1, 2, 4, 8, 16, 32)  # the horizons, in multiples of 1x
BETA2 = 0.98
OTHER_BETA2 = (0.95, 0.99)
PEAKS = (5e-3, 1e-2, 2e-2, 4e-2)  # to begin with; extended while the best is an edge
TRUNKS = ("constant", "inverse_sqrt")
ENVELOPE = ("cosine", "linear")
SEEDS = (1, 2, 3)

# The paper's batch of 4096 sequences instead of 256: 1x is 782 steps of which 500 warm
# up, and its longest run is 16x.
LARGE = 16
LARGE_TIMES = TIMES[:-1]
LARGE_PEAKS = (1e-2, 2e-2, 4e-2, 8e-2)
LARGE_WARMUP = 500 / 782

# Of a horizon, in percent; 10 is the paper's, 20 the better one of Haegele et al.
COOLDOWNS = {
    "cooldown_10": dict(percent=10, shape="linear", final_fraction=0.1),
    "cooldown_20": dict(percent=20, shape="1-sqrt", final_fraction=0.0),
}
MERGES = ("window_10", "window_20", "wsm_25", "wsm_50")


@dataclasses.dataclass(frozen=True, order=True)
class Job:
    """A run, with the exits that are taken from it.

    Attributes:
      schedule: a variant of configs/small.py.
      times: its length in multiples of 1x.
      peak: the peak of its learning rate.
      beta2: of Adam.
      batch: its batch in multiples of the usual one.
      seed: of initialisation and of the order of the data.
      cooldowns: whether to branch cooldowns off it.
    """

    schedule: str
    times: int
    peak: float
    beta2: float = BETA2
    batch: int = 1
    seed: int = 0
    cooldowns: bool = False

    @property
    def name(self) -> str:
        """What its folder and its result are called."""
        batch = f"_batch{self.batch}" if self.batch > 1 else ""
        cooldowns = "_cooldowns" if self.cooldowns else ""
        return (
            f"{self.schedule}_{self.times}x_{self.peak:g}_{self.beta2:g}{batch}"
            f"{cooldowns}_seed{self.seed}"
        )

    @property
    def setting(self) -> "Job":
        """The same with seed 0 and without cooldowns."""
        return dataclasses.replace(self, seed=0, cooldowns=False)

    @property
    def is_trunk(self) -> bool:
        """Whether it has averages, and branches."""
        return self.schedule in TRUNKS

    @property
    def steps_1x(self) -> int:
        """The steps of 1x."""
        return small.STEPS_1X // self.batch

    @property
    def horizons(self) -> dict[int, int]:
        """From multiples of 1x to steps, up to its length."""
        return {times: times * self.steps_1x for times in TIMES if times <= self.times}

    @property
    def cost(self) -> float:
        """Tokens that it trains on, in units of 1x."""
        percents = [spec["percent"] for spec in COOLDOWNS.values()]
        share = sum(percents) / 100 if self.cooldowns else 0.0
        return self.times + share * sum(self.horizons)


def config(job: Job) -> ml_collections.ConfigDict:
    """Returns the config of a run."""
    made = small.get_config(job.schedule)
    made.seed = job.seed
    made.batch_size *= job.batch
    made.optimizer.b2 = job.beta2
    made.schedule.peak = job.peak
    made.duration.steps = job.times * job.steps_1x
    made.horizons.steps = tuple(job.horizons.values())
    if job.is_trunk:
        made.snapshots.every = job.steps_1x // 8
    else:  # what is needed after an interruption, and the horizons
        made.snapshots.update(every=made.duration.steps, latest_every=job.steps_1x)
    if job.batch > 1:
        made.schedule.warmup_steps = round(LARGE_WARMUP * job.steps_1x)
        if "offset" in made.schedule:
            made.schedule.offset /= job.batch
        made.logging.every = max(1, made.logging.every // job.batch)
    return made


def cooldown_config(
    job: Job, trunk: str, kind: str, steps: int
) -> ml_collections.ConfigDict:
    """Returns the config of a branch off the run in the folder `trunk`.

    Args:
      job: the run.
      trunk: its folder.
      kind: one of `COOLDOWNS`.
      steps: the horizon at which the branch ends.
    """
    spec = dict(COOLDOWNS[kind])
    start = steps * (100 - spec.pop("percent")) // 100
    made = small.get_config("cooldown")
    made.seed = job.seed
    made.batch_size *= job.batch
    made.optimizer.b2 = job.beta2
    made.schedule = dict(name="cooldown", steps=steps - start, **spec)
    made.branch.update(workdir=trunk, step=start)
    made.horizons.steps = (steps,)
    made.evaluation.points = 1
    return made


def grid(batch: int = 1) -> list[Job]:
    """Returns the runs to begin with, all of seed 0."""
    peaks, times = (PEAKS, TIMES) if batch == 1 else (LARGE_PEAKS, LARGE_TIMES)
    trunks = [
        Job(schedule, times[-1], peak, batch=batch, cooldowns=batch == 1)
        for schedule in TRUNKS
        for peak in peaks
    ]
    envelope = ENVELOPE if batch == 1 else ENVELOPE[:1]
    fixed = [
        Job(schedule, length, peak, batch=batch)
        for schedule in envelope
        for length in times
        for peak in peaks
    ]
    return longest_first(trunks + fixed)


def longest_first(jobs: Iterable[Job]) -> list[Job]:
    """Returns jobs in an order in which several workers end at about the same time."""
    return sorted(jobs, key=lambda job: (-job.cost, job))
