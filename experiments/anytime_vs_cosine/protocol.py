"""What is trained: the grid on seed 0, and what is chosen from it on other seeds."""

import dataclasses
from collections.abc import Iterable

import ml_collections

from configs import small

TOKENS_PER_STEP = 1024
BETA2 = 0.98
TRUNKS = ("constant", "inverse_sqrt")
ENVELOPE = ("cosine", "linear")

# The paper's batch of 4096 sequences instead of 256: 1x is 782 steps of which 500 warm
# up, and its longest run is 16x.
LARGE = 16
_LARGE_WARMUP = 500 / 782

# Of a horizon, in percent; 10 is the paper's, 20 the better one of Haegele et al.
COOLDOWNS = {
    "cooldown_10": dict(percent=10, shape="linear", final_fraction=0.1),
    "cooldown_20": dict(percent=20, shape="1-sqrt", final_fraction=0.0),
}
# What could be to blame where averages lose, in units of 1x: tried on seed 0 alone.
VARIATIONS = {
    "constant_warmup_0.1": dict(warmup_steps=0.1),
    "constant_warmup_1": dict(warmup_steps=1.0),
    "inverse_sqrt_warmup_0.1": dict(warmup_steps=0.1),
    "inverse_sqrt_warmup_1": dict(warmup_steps=1.0),
    "inverse_sqrt_offset_1": dict(offset=1.0),
    "linear_warmup_1": dict(warmup_steps=1.0),
}
MERGES = ("window_10", "window_20", "wsm_12", "wsm_25", "wsm_50")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is varied.

    Attributes:
      times: the horizons, in multiples of 1x, ascending.
      peaks: to begin with, by batch in multiples of the usual one; a factor 2 apart.
      extends: whether to go on beyond the peaks while the best one is at their edge.
      other_beta2: what is tried at the peaks that are best for an average, and with
        the better of the longest runs of a fixed horizon.
      variations: of `VARIATIONS`, tried there too.
      seeds: those that nothing is chosen on; everything is chosen on seed 0.
      steps_1x: the steps of 1x with the usual batch.
    """

    times: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    peaks: tuple[tuple[int, tuple[float, ...]], ...] = (
        (1, (5e-3, 1e-2, 2e-2, 4e-2)),
        (LARGE, (1e-2, 2e-2, 4e-2, 8e-2)),
    )
    extends: bool = True
    other_beta2: tuple[float, ...] = (0.95, 0.99)
    variations: tuple[str, ...] = tuple(VARIATIONS)
    seeds: tuple[int, ...] = (1, 2, 3)
    steps_1x: int = small.STEPS_1X

    @property
    def batches(self) -> list[int]:
        """In multiples of the usual one."""
        return [batch for batch, _ in self.peaks]

    def horizons(self, batch: int) -> tuple[int, ...]:
        """Returns the horizons with a batch, in multiples of 1x."""
        return self.times if batch == 1 else self.times[:-1]

    def envelope(self, batch: int) -> tuple[str, ...]:
        """Returns the fixed-horizon schedules; with a large batch the paper's alone."""
        return ENVELOPE if batch == 1 else ENVELOPE[:1]


FULL = Protocol()
QUICK = Protocol(
    times=(1, 2),
    peaks=((1, (2e-2,)),),
    extends=False,
    other_beta2=(),
    variations=(),
    seeds=(1,),
    steps_1x=48,
)


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
      steps_1x: the steps of 1x with the usual batch.
      variation: one of `VARIATIONS`, or none.
    """

    schedule: str
    times: int
    peak: float
    beta2: float
    batch: int = 1
    seed: int = 0
    cooldowns: bool = False
    steps_1x: int = small.STEPS_1X
    variation: str = ""

    @property
    def name(self) -> str:
        """What its folder and its result are called."""
        batch = f"_batch{self.batch}" if self.batch > 1 else ""
        cooldowns = "_cooldowns" if self.cooldowns else ""
        size = f"_of{self.steps_1x}" if self.steps_1x != small.STEPS_1X else ""
        run = f"{self.variation or self.schedule}_{self.times}x{size}_{self.peak:g}"
        return f"{run}_{self.beta2:g}{batch}{cooldowns}_seed{self.seed}"

    @property
    def setting(self) -> "Job":
        """The same with seed 0 and without cooldowns."""
        return dataclasses.replace(self, seed=0, cooldowns=False)

    @property
    def usual(self) -> "Job":
        """The same without what is a check: another beta2, a variation."""
        return dataclasses.replace(self, beta2=BETA2, variation="")

    @property
    def is_trunk(self) -> bool:
        """Whether it has averages, and branches."""
        return self.schedule in TRUNKS

    def steps(self, times: float) -> int:
        """Returns the steps of so many times 1x."""
        return round(times * self.steps_1x / self.batch)

    @property
    def horizons(self) -> dict[int, int]:
        """From multiples of 1x to steps, up to its length."""
        known = [times for times in FULL.times if times <= self.times]
        return {times: self.steps(times) for times in known}

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
    made.accumulation = job.batch  # the same gradient, from what a cache holds
    made.optimizer.b2 = job.beta2
    made.duration.steps = job.steps(job.times)
    made.horizons.steps = tuple(job.horizons.values())
    made.logging.every = max(1, made.logging.every // job.batch)
    points = max(1, made.duration.steps // 32)
    made.evaluation.points = min(made.evaluation.points, points)
    schedule = made.schedule
    schedule.peak = job.peak
    # All that the schedule says in steps becomes shorter with 1x.
    for key in ("warmup_steps", "offset", "period"):
        if key in schedule:
            steps = schedule[key] * job.steps(1) / small.STEPS_1X
            schedule[key] = steps if key == "offset" else round(steps)
    for key, units in VARIATIONS.get(job.variation, {}).items():
        schedule[key] = type(schedule[key])(units * job.steps(1))
    if job.batch > 1:
        schedule.warmup_steps = round(_LARGE_WARMUP * job.steps(1))
    if job.is_trunk:
        made.snapshots.every = job.steps(1 / 8)
    else:  # for its curve, and for what an interruption would lose
        made.snapshots.every = max(1, made.duration.steps // 16)
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
    made.optimizer.b2 = job.beta2
    made.schedule = dict(name="cooldown", steps=steps - start, **spec)
    made.branch.update(workdir=trunk, step=start)
    made.horizons.steps = (steps,)
    made.evaluation.points = 1
    return made


def grid(plan: Protocol, batch: int) -> list[Job]:
    """Returns the runs to begin with, all of seed 0.

    Args:
      plan: what is varied.
      batch: in multiples of the usual one.
    """
    times, peaks = plan.horizons(batch), dict(plan.peaks)[batch]

    def job(schedule: str, length: int, peak: float, cooldowns: bool = False) -> Job:
        made = Job(schedule, length, peak, BETA2, batch, cooldowns=cooldowns)
        return dataclasses.replace(made, steps_1x=plan.steps_1x)

    trunks = [job(s, times[-1], peak, batch == 1) for s in TRUNKS for peak in peaks]
    fixed = [
        job(s, length, peak)
        for s in plan.envelope(batch)
        for length in times
        for peak in peaks
    ]
    return longest_first(trunks + fixed)


def longest_first(jobs: Iterable[Job]) -> list[Job]:
    """Returns jobs in an order in which several workers end at about the same time."""
    return sorted(jobs, key=lambda job: (-job.cost, job))
