"""Tries of the benchmark of faults with losses that are not numbers."""

import processes
import remains
from workshop import Workshop

from anytime_jax.training import metrics, snapshots

# Tokens that the model has no entry for make a loss that is not a number.
_NOT_A_NUMBER = """
from anytime_jax.data import pipeline
whole = pipeline.Batches.batch
def batch(self, first, size, **rest):
    tokens = whole(self, first, size, **rest)
    if first // size in {steps!r}:
        tokens[:] = 1 << 20
    return tokens
pipeline.Batches.batch = batch
"""


def stops(shop: Workshop, number: int) -> str:
    """A loss that is not a number, policy stop."""
    workdir, step = shop.new(), shop.random.randrange(20, processes.STEPS)
    end = shop.attempt(workdir, script=_NOT_A_NUMBER.format(steps={step}))
    last = max(one for one in _saved(shop) if one <= step)
    words = f"the last good snapshot of {workdir} is step {last}"
    return end.problem(1, f"step {step + 1} has loss nan", words) or shop.survives(
        remains.left(workdir), workdir
    )


def _saved(shop: Workshop) -> set[int]:
    """The steps that runs save after, whether they keep it or not."""
    every = processes.OVERRIDES["snapshots.latest_every"]
    return {*range(every, processes.STEPS, every), *shop.kept}


def skips(shop: Workshop, number: int) -> str:
    """Losses that are not numbers, policy skip: allowed, or too many in a row."""
    policy = {"nonfinite.policy": "skip", "nonfinite.limit": 3}
    return (_few_skips if number % 2 else _too_many_skips)(shop, policy)


def _few_skips(shop: Workshop, policy: dict) -> str:
    """One or two of them leave weights and averages as they are."""
    workdir, first = shop.new(), shop.random.randrange(20, processes.STEPS - 5)
    after = first + shop.random.randrange(1, 3)
    # Snapshots right before and right after, which stay.
    policy = policy | {"horizons.steps": (first, after, processes.STEPS)}
    steps = set(range(first, after))
    end = shop.attempt(workdir, policy, _NOT_A_NUMBER.format(steps=steps))
    if problem := end.problem(0):
        return problem
    one, other = (remains.leaves(remains.snapshot(workdir, s)) for s in (first, after))
    moved = [k for k in one if not k.startswith("optimizer") and one[k] != other.get(k)]
    if moved:
        return f"steps {steps} moved {moved[:3]}"
    skipped = [r["step"] - 1 for r in metrics.read(workdir) if "train/skipped" in r]
    last = processes.STEPS
    counts = {
        name: snapshots.restore_count(workdir, last, name)
        for name in snapshots.stored_weights(workdir, last)
        if name != "raw"
    }
    ticks = last - len(steps)
    if skipped != sorted(steps) or len(counts) < 6 or set(counts.values()) != {ticks}:
        return f"skipped {skipped}, not {steps}; averages ticked {counts}"
    return ""


def _too_many_skips(shop: Workshop, policy: dict) -> str:
    limit = policy["nonfinite.limit"]
    # Without a snapshot between them, which would not be of a run without skips.
    firsts = range(20, processes.STEPS - limit)
    steps = [set(range(first, first + limit)) for first in firsts]
    bad = shop.random.choice([s for s in steps if not s & _saved(shop) - {min(s)}])
    workdir = shop.new()
    end = shop.attempt(workdir, policy, _NOT_A_NUMBER.format(steps=bad))
    last = max(one for one in _saved(shop) if one <= min(bad))
    words = f"step {max(bad) + 1}: the last {limit} updates were skipped"
    good = f"the last good snapshot of {workdir} is step {last}"
    return end.problem(1, words, good) or shop.survives(remains.left(workdir), workdir)
