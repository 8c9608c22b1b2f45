"""A run of seconds: the tiny config on synthetic data, shrunk further."""

import ml_collections

from configs import tiny

STEPS = 12


def config(variant: str = "constant", **overrides) -> ml_collections.ConfigDict:
    """Returns the config; overrides are written `section__key=value`."""
    made = tiny.get_config(variant)
    made.data.source = "synthetic"
    made.model.update(vocab_size=16, width=16, layers=2, heads=2)
    made.update(sequence_length=16, batch_size=8)
    made.schedule.update(warmup_steps=2) if variant != "cooldown" else None
    made.evaluation.update(points=3, batches=1, horizon_batches=2, batch_size=8)
    for name in set(made.averages) - {"ema25", "uniform"}:
        del made.averages[name]
    made.snapshots.update(every=5, latest_every=0)
    made.logging.every = 2
    made.horizons.update(chinchilla=(), steps=(STEPS // 2, STEPS))
    made.duration.update(chinchilla=0.0, steps=0 if variant == "cooldown" else STEPS)
    for key, value in overrides.items():
        *parents, last = key.split("__")
        node = made
        for parent in parents:
            node = node[parent]
        node[last] = value
    return made.lock()
