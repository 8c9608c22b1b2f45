"""A run of seconds: the tiny config on synthetic data, shrunk further."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from anytime_jax import models
from anytime_jax.training import metrics, snapshots
from configs import tiny

STEPS = 12

_COMPILED = "/jax/core/compile/backend_compile_duration"


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


def stored_weights(workdir, step: int, name: str) -> np.ndarray:
    """Returns all numbers of one set of weights in a snapshot, in one row."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = snapshots.weights_like(workdir, step, name, place)
    restored = jax.device_get(snapshots.restore_weights(workdir, step, name, like))
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(restored)])


def records(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns all records of a run without what a clock says."""
    return [
        {key: value for key, value in record.items() if not key.startswith("time/")}
        for record in metrics.read(workdir)
    ]


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """Lists what XLA compiles, by name, also what its cache has compiled before."""
    names = []

    def listen(event, seconds, **labels):
        if event == _COMPILED:
            names.append(labels["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def bigram(vocab_size: int = 16, width: int = 8) -> models.Model:
    """Returns a model that compiles at once: its logits depend on one token."""

    def init(rng):
        table, head = jax.random.split(rng)
        return {
            "embedding": {"table": jax.random.normal(table, (vocab_size, width))},
            "head": {"kernel": jax.random.normal(head, (width, vocab_size)) / width},
        }

    def apply(params, tokens_BxL):
        return params["embedding"]["table"][tokens_BxL] @ params["head"]["kernel"]

    return models.Model(init, apply, vocab_size)
