"""The training loop: from a config to a trained run on disk."""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections

from anytime_jax import data
from anytime_jax.training import (
    compiling,
    config_file,
    hosts,
    lock,
    metrics,
    preparing,
    recorder,
    sharding,
    signals,
    snapshots,
    starting,
    timing,
)
from anytime_jax.training import recipe as recipe_lib
from anytime_jax.training import store as store_lib


class Preempted(Exception):
    """The run was told to stop, and has saved where it is.

    Attributes:
      signal: the number of the signal that told it.
    """

    def __init__(self, message: str, number: int = signal.SIGTERM):
        """Makes the exception.

        Args:
          message: one line.
          number: of the signal.
        """
        super().__init__(message)
        self.signal = number


def train(
    config: ml_collections.ConfigDict, workdir: str | os.PathLike, writer: Any = None
) -> None:
    """Trains a run, or goes on with it where it was interrupted.

    What is in `workdir` decides where it starts; a run that is complete is left alone.
    On the same number of devices an interrupted run ends bit for bit as an
    uninterrupted one.

    Args:
      config: as `configs/tiny.py` documents it.
      workdir: the run's folder, made if it is not there; all processes share it.
      writer: a `clu.metric_writers.MetricWriter`, or None for `metrics.jsonl` and
        TensorBoard files in `workdir`.

    Raises:
      ValueError: the config is not allowed, or `workdir` holds a run that it cannot
        continue.
      FloatingPointError: the loss or the gradient stopped being finite, or was not for
        too many updates in a row where such are skipped.
      Preempted: SIGTERM or SIGINT arrived; the state is saved.
      store.Unwritable: something cannot be written.
      hosts.Lost: another process has ended.
    """
    run(preparing.prepare(config, workdir), writer)


def run(
    prepared: preparing.Prepared, writer: Any = None, *, profile: bool = False
) -> None:
    """Runs what was prepared, and nothing if it is complete.

    Args:
      prepared: from `prepare`.
      writer: as for `train`.
      profile: whether to write a trace of a few steps into `workdir`.

    Raises:
      lock.InUse: another process is at work in `workdir`.
      FloatingPointError: as for `train`.
      Preempted: as for `train`.
      store.Unwritable: as for `train`.
      hosts.Lost: as for `train`.
    """
    with hosts.together(), signals.stopping() as stop, contextlib.ExitStack() as held:
        if _is_complete(prepared):
            return
        hosts.from_first(lambda: held.enter_context(lock.hold(prepared.workdir)))
        lock.check_shared(prepared.workdir)
        # Another run may have completed it before the lock was free.
        if not _is_complete(prepared):
            _run(prepared, writer, stop, profile)


def _is_complete(prepared: preparing.Prepared) -> bool:
    total_steps = prepared.recipe.total_steps
    complete = hosts.from_first(
        lambda: snapshots.newest_whole(prepared.workdir)[0] == total_steps
    )
    if complete:
        hosts.say(f"{prepared.workdir} is complete at step {total_steps}")
    return complete


def _run(
    prepared: preparing.Prepared, writer: Any, stop: signals.Stop, profile: bool
) -> None:
    config, workdir = prepared.config, prepared.workdir
    recipe, dataset = prepared.recipe, prepared.dataset
    # What was kept for good stays, also when a longer run would keep other steps.
    kept = config_file.kept_steps(workdir)
    resolved = recipe.resolved() | {"data": dataset.description}
    resolved["kept"] = sorted(kept.union(resolved["kept"]))

    train_step, evaluate, like = compiling.compile_steps(config, recipe)
    current, start, meta = starting.start(config, recipe, workdir, like)
    # Not before it is sure that the run can go on so.
    config_file.write(config, resolved, workdir)
    # Ahead, so that what would be compiled a second time is refused.
    train_step = train_step.lower(like, compiling.batch_like(config, recipe)).compile()
    consumed = meta["sequences"]
    batches = _batches(config, recipe, dataset, start, consumed)
    writer = writer or _writer(workdir, start)
    shares = timing.Shares()
    record = recorder.Recorder(prepared, writer, evaluate, current, start, meta, shares)
    trace = timing.Profile(workdir, start, recipe.total_steps, profile)
    store = store_lib.Store(workdir, lambda step: step in kept or recipe.keeps(step))

    with _ending(workdir, store, record, batches, trace):
        pending = None
        for done, tokens_BxL1 in enumerate(shares.timed("data", batches), start + 1):
            trace.before(done)
            current, outputs = train_step(current, tokens_BxL1)
            trace.after(done, outputs)
            # The metrics of the step before this one are fetched only now, so that the
            # devices always have a step to work on.
            if pending:
                record.train(*pending)
            pending = done, outputs
            if done % config.logging.every == 0:
                store.check()

            stops = stop.told(done) and done < recipe.total_steps
            saves = recipe.saves(done) or stops
            if saves or done in recipe.evaluations:
                record.train(*pending)
                pending = None
                with shares("evaluation"):
                    record.evaluate(done, current.weights())
            if saves:
                with shares("snapshot"):
                    # Records first: a restart forgets those later than its snapshot,
                    # and cannot bring back those that are missing from before it.
                    record.flush()
                    sequences = consumed + (done - start) * config.batch_size
                    meta = dict(sequences=sequences, skipped=record.skipped)
                    store.save(current, done, meta, record.records())
            if stops:
                store.wait()
                raise Preempted(
                    f"stopped by {stop.signal.name} after step {done}, which is saved "
                    f"in {workdir!s}; the same command goes on",
                    stop.signal,
                )


@contextlib.contextmanager
def _ending(workdir, store, record, batches, trace) -> Iterator[None]:
    """Ends what runs beside the loop; after a failure without waiting for others."""
    failed = None
    try:
        try:
            yield
        except (Preempted, FloatingPointError) as error:
            # All processes raise these, after the same step.
            failed = error
        for ended in (trace, batches, record, store):
            ended.close()
    except BaseException as error:
        for ended in (trace, batches, record):
            # What went wrong first is what has to be told.
            with contextlib.suppress(Exception):
                ended.close()
        store.abandon(wait=isinstance(error, Exception))
        raise
    if isinstance(failed, FloatingPointError):
        # Only now is the last one written.
        stored = snapshots.stored_steps(workdir)
        last = f"step {stored[-1]}" if stored else "not there: none was stored"
        raise FloatingPointError(
            f"{failed}; the last good snapshot of {workdir!s} is {last}"
        )
    if failed:
        raise failed


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
