"""Results of experiments/anytime_vs_cosine that nothing was trained for."""

import math
import zlib

import numpy as np

from experiments.anytime_vs_cosine import documents, protocol, selection
from experiments.anytime_vs_cosine.protocol import Job


def loss_of(job: Job, name: str, times: int) -> float:
    """A loss with one best peak for everything: 1e-2, a grid point."""
    exits = dict(raw=0.05, uniform=0.3, ema25=0.0, cooldown_10=0.01, cooldown_20=0.02)
    exit_loss = exits.get(name, 0.03) if job.is_trunk else 0.0
    # Cosine is the better one at 1x, linear later.
    linear = 0.001 if times > 1 else 0.006
    schedule = dict(cosine=0.002, linear=linear, restarts=0.04).get(job.schedule, 0.0)
    # Before its end a run of a fixed horizon is worse.
    early = 0.1 if not job.is_trunk and times < job.times else 0.0
    tuning = 0.01 * math.log2(job.peak / 1e-2) ** 2 + abs(job.beta2 - 0.98)
    noise = 1e-3 * math.sin(7 * job.seed + times + (job.schedule == "cosine"))
    large = 0.02 * (job.batch > 1)
    rest = exit_loss + schedule + early + tuning + noise + large
    return 2 + 0.5 / math.sqrt(times) + rest


def groups_of(job: Job, name: str, times: str, loss: float) -> list[float]:
    """Losses of groups whose mean is a loss."""
    seed = zlib.crc32(f"{job.name} {name} {times}".encode())
    apart = np.random.default_rng(seed).normal(0, 0.01, documents.GROUPS)
    return (loss + apart - apart.mean()).tolist()


def result_of(job: Job) -> dict:
    """What `work.execute` would return."""
    exits = ["raw"]
    if job.is_trunk:
        exits += [*selection.AVERAGES, *protocol.MERGES]
        exits += list(protocol.COOLDOWNS) * job.cooldowns
    losses = {
        name: {str(times): loss_of(job, name, times) for times in job.horizons}
        for name in exits
    }
    groups = {
        name: {times: groups_of(job, name, times, loss) for times, loss in of.items()}
        for name, of in losses.items()
    }
    validation = dict(groups=[100] * documents.GROUPS, documents=800)
    found = dict(
        losses=losses,
        groups=groups,
        validation=validation,
        data="ab",
        seconds=dict(training=job.cost),
    )
    return dict(job=vars(job), **found)


def done(plan, rule=result_of):
    """All results of a protocol, made phase by phase."""
    results = {}
    while True:
        wanted = selection.wanted(selection.losses(results), plan)
        new = [job for job in wanted if job not in results]
        if not new:
            return results
        results |= {job: rule(job) for job in new}
