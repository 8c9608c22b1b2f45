"""The training loop: from a config to a trained run on disk."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
from jax.experimental import multihost_utils

from anytime_jax import data
from anytime_jax.training import (
    compiling,
    config_file,
    hosts,
    metrics,
    preparing,
    recorder,
    sharding,
    snapshots,
    starting,
)
from anytime_jax.training import recipe as recipe_lib
from anytime_jax.training import store as store_lib


class Preempted(Exception):
    """The run was told to stop, and has saved where it is."""


def train(
    config: ml_collections.ConfigDict, workdir: str | os.PathLike, writer: Any = None
) -> None:
    """Trains a run, or goes on with it where it was interrupted.

    What is in `workdir` decides where it starts; a run that is complete is left alone.
    On the same number of devices an interrupted run ends bit for bit as an
    uninterrupted one.

    Args:
      config: as `configs/tiny.py` documents it.
      workdir: the run's folder, made if it is not there.
      writer: a `clu.metric_writers.MetricWriter`, or None for `metrics.jsonl` and
        TensorBoard files in `workdir`.

    Raises:
      ValueError: the config is not allowed, or `workdir` holds a run that it cannot
        continue.
      FloatingPointError: the loss or the gradient stopped being finite.
      Preempted: SIGTERM arrived; the state is saved.
      Unwritable: something cannot be written.
    """
    run(preparing.prepare(config, workdir), writer)


def run(prepared: preparing.Prepared, writer: Any = None) -> None:
    """Runs what was prepared, and nothing if it is complete.

    Args:
      prepared: from `prepare`.
      writer: as for `train`.

    Raises:
      FloatingPointError: as for `train`.
      Preempted: as for `train`.
    """
    config, workdir = prepared.config, prepared.workdir
    recipe, dataset = prepared.recipe, prepared.dataset
    if snapshots.newest_whole(workdir)[0] == recipe.total_steps:
        hosts.say(f"{workdir} is complete at step {recipe.total_steps}")
        return
    # What was kept for good stays, also when a longer run would keep other steps.
    kept = config_file.kept_steps(workdir)
    resolved = recipe.resolved() | {"data": dataset.description}
    resolved["kept"] = sorted(kept.union(resolved["kept"]))
    config_file.write(config, resolved, workdir)

    train_step, evaluate, like = compiling.compile_steps(config, recipe)
    current, start, meta = starting.start(config, recipe, workdir, like)
    consumed = meta["sequences"]
    batches = _batches(config, recipe, dataset, start, consumed)
    store = store_lib.Store(workdir, lambda step: step in kept or recipe.keeps(step))
    writer = writer or _writer(workdir, start)
    record = recorder.Recorder(prepared, writer, evaluate, current, start)

    with contextlib.ExitStack() as stack:
        for opened in (store, record, batches):
            stack.callback(opened.close)
        sigterm = stack.enter_context(_sigterm())
        pending = None
        for done, tokens_BxL1 in enumerate(batches, start + 1):
            current, outputs = train_step(current, tokens_BxL1)
            # The metrics of the step before this one are fetched only now, so that the
            # devices always have a step to work on.
            if pending:
                record.train(*pending)
            pending = done, outputs

            stops = _told_to_stop(sigterm, done) and done < recipe.total_steps
            saves = recipe.saves(done) or stops
            if saves or done in recipe.evaluations:
                record.train(*pending)
                pending = None
                record.evaluate(done, current.weights())
            if saves:
                # Records first: a restart forgets those later than its snapshot, and
                # cannot bring back those that are missing from before it.
                record.flush()
                sequences = consumed + (done - start) * config.batch_size
                meta = dict(sequences=sequences)
                store.save(current, done, meta, record.records())
            if stops:
                store.wait()
                raise Preempted(f"stopped by SIGTERM after step {done}, which is saved")


def _writer(workdir: str | os.PathLike, start: int) -> Any:
    if not hosts.is_first():
        return metrics.Silent()
    own = start in snapshots.stored_steps(workdir)
    records = snapshots.read_records(workdir, start) if own else None
    return metrics.Writer(workdir, resume_step=start, records=records)


def _batches(
    config, recipe: recipe_lib.Recipe, dataset: data.Dataset, start: int, consumed: int
) -> Iterator[jax.Array]:
    """The training batches from `consumed` sequences on, made off the main thread."""
    shape = (config.batch_size, config.sequence_length + 1)

    def make(first):
        return sharding.place_batch(
            lambda rows: dataset.train.batch(first, config.batch_size, rows=rows),
            shape,
            recipe.mesh,
        )

    stop = consumed + (recipe.total_steps - start) * config.batch_size
    return data.prefetch(make, range(consumed, stop, config.batch_size))


def _told_to_stop(sigterm: threading.Event, done: int) -> bool:
    """Whether to stop after this step; all hosts of a pod say the same."""
    if jax.process_count() == 1:
        return sigterm.is_set()
    return multihost_utils.reached_preemption_sync_point(done)


@contextlib.contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, so that the loop can save before it stops."""
    event = threading.Event()
    main_thread = threading.current_thread() is threading.main_thread()
    if jax.process_count() > 1 or not main_thread:
        # On several hosts JAX listens itself; only a main thread may handle signals.
        yield event
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)
