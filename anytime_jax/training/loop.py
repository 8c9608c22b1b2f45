"""The training loop: from a config to a trained run on disk."""

import contextlib
import dataclasses
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
import tqdm

from anytime_jax import averaging, data
from anytime_jax.training import (
    config_file,
    evaluation,
    metrics,
    recipe,
    sharding,
    snapshots,
    state,
    step,
)


class Preempted(Exception):
    """The run was told to stop, and has saved where it is."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run of which all is checked and nothing is compiled or written."""

    config: ml_collections.ConfigDict
    workdir: str | os.PathLike
    recipe: recipe.Recipe
    dataset: data.Dataset


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
    """
    run(prepare(config, workdir), writer)


def prepare(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> Prepared:
    """Checks everything that can be wrong with a run, and opens its data.

    Args:
      config: as `configs/tiny.py` documents it.
      workdir: the run's folder, which is only read.

    Returns:
      What `run` takes.

    Raises:
      ValueError: one line that names the key, its value and what is allowed.
    """
    built = recipe.build(config)
    config_file.check_same_run(config, built.total_steps, workdir)
    return Prepared(config, workdir, built, _load_data(config))


def run(prepared: Prepared, writer: Any = None) -> None:
    """Runs what was prepared; see `train`."""
    config, workdir, dataset = prepared.config, prepared.workdir, prepared.dataset
    run = prepared.recipe
    if run.total_steps in snapshots.stored_steps(workdir):
        return
    config_file.write(config, run.resolved() | {"data": dataset.description}, workdir)

    shapes = jax.eval_shape(lambda: state.init(run.model, run.optimizer, config.seed))
    layout = sharding.shardings(run.mesh, shapes)
    train_step = jax.jit(
        step.make_step(run.model, run.optimizer, config.accumulation),
        out_shardings=(layout, None),
        donate_argnums=0,
    )
    evaluate = jax.jit(evaluation.make_evaluate(run.model))
    validation_NxBxL1 = _validation(config, run, dataset)
    small_NxBxL1 = validation_NxBxL1[: config.evaluation.batches]

    store = snapshots.Store(workdir, keeps=run.keeps)
    current, start, consumed = _start(config, run, workdir, shapes, layout)
    writer = writer or _writer(workdir, start)
    bar = tqdm.tqdm(
        initial=start, total=run.total_steps, unit="step", mininterval=0.5, leave=False
    )
    batches = _batches(config, run, dataset, consumed, steps=run.total_steps - start)

    def log(done, outputs):
        """Fetches the metrics of a step; that waits until the step has run."""
        values = {f"train/{k}": float(v) for k, v in jax.device_get(outputs).items()}
        if not all(map(math.isfinite, values.values())):
            raise FloatingPointError(_not_finite(done, values, workdir))
        if done % config.logging.every == 0 or done == run.total_steps:
            speed = clock.tokens_per_second(done)
            values |= {"train/tokens": done * run.tokens_per_step}
            writer.write_scalars(done, values | {"time/tokens_per_second": speed})
            bar.set_postfix_str(
                f"loss {values['train/loss']:.3f}, {speed:,.0f} tokens/s", refresh=False
            )
        bar.update(done - bar.n)

    def evaluate_all(done):
        for key, due, tokens in (
            ("eval", run.evaluations, small_NxBxL1),
            ("horizon", run.horizons, validation_NxBxL1),
        ):
            if done in due:
                losses = evaluation.losses(evaluate, current.weights(), tokens)
                writer.write_scalars(
                    done, {f"{key}/loss/{name}": v for name, v in losses.items()}
                )

    clock = _Clock(start, run.tokens_per_step)
    with contextlib.closing(store), contextlib.closing(writer), bar, _sigterm() as stop:
        pending = None
        for done, tokens_BxL1 in enumerate(batches, start + 1):
            current, outputs = train_step(current, tokens_BxL1)
            # The metrics of the step before this one are fetched only now, so that the
            # devices always have a step to work on.
            if pending:
                log(*pending)
            pending = done, outputs

            saves = run.saves(done) or stop.is_set()
            if saves or done in run.evaluations:
                log(*pending)
                pending = None
                evaluate_all(done)
            if saves:
                # Records first: a restart forgets those later than its snapshot, and
                # cannot bring back those that are missing from before it.
                writer.flush()
                store.save(current, done, consumed + (done - start) * config.batch_size)
            if stop.is_set() and done < run.total_steps:
                store.wait()
                raise Preempted(f"stopped by SIGTERM after step {done}, which is saved")


class _Clock:
    """Tokens per second since it was last asked."""

    def __init__(self, step: int, tokens_per_step: int):
        self._step, self._time = step, time.perf_counter()
        self._tokens_per_step = tokens_per_step

    def tokens_per_second(self, step: int) -> float:
        now = time.perf_counter()
        tokens = (step - self._step) * self._tokens_per_step
        speed = tokens / (now - self._time)
        self._step, self._time = step, now
        return speed


def _writer(workdir: str | os.PathLike, start: int) -> Any:
    if jax.process_index() == 0:
        return metrics.Writer(workdir, resume_step=start)
    return metrics.Silent()


def _load_data(config: ml_collections.ConfigDict) -> data.Dataset:
    dataset = data.load(
        **config.data, sequence_length=config.sequence_length, seed=config.seed
    )
    if dataset.vocab_size > config.model.vocab_size:
        raise ValueError(
            f"model.vocab_size={config.model.vocab_size} is less than the "
            f"{dataset.vocab_size} of data.tokenizer={config.data.tokenizer!r}"
        )
    needed = config.evaluation.horizon_batches * config.evaluation.batch_size
    if needed > len(dataset.validation):
        raise ValueError(
            f"evaluation.horizon_batches={config.evaluation.horizon_batches} times "
            f"evaluation.batch_size={config.evaluation.batch_size} must be at most the "
            f"{len(dataset.validation)} sequences of the validation data"
        )
    return dataset


def _validation(config, run: recipe.Recipe, dataset: data.Dataset) -> jax.Array:
    """The fixed validation batches; the smaller set is the first of the larger."""
    batches, rows = config.evaluation.horizon_batches, config.evaluation.batch_size
    tokens = dataset.validation.batch(0, batches * rows)
    shape = (batches, rows, config.sequence_length + 1)
    return sharding.place_batches(tokens.reshape(shape), run.mesh)


def _batches(
    config, run: recipe.Recipe, dataset: data.Dataset, consumed: int, steps: int
) -> Iterator[jax.Array]:
    """The training batches from `consumed` sequences on, made off the main thread."""
    shape = (config.batch_size, config.sequence_length + 1)

    def make(first):
        return sharding.place_batch(
            lambda rows: dataset.train.batch(first, config.batch_size, rows=rows),
            shape,
            run.mesh,
        )

    stop = consumed + steps * config.batch_size
    return data.prefetch(make, range(consumed, stop, config.batch_size))


def _start(
    config: ml_collections.ConfigDict,
    run: recipe.Recipe,
    workdir: str | os.PathLike,
    shapes: state.TrainState,
    layout: state.TrainState,
) -> tuple[state.TrainState, int, int]:
    """The state to go on from, its step, and the sequences consumed until then.

    1. The run's own latest snapshot.
    2. A branch: weights and optimizer of the named step of another run, whose averages
       stay behind; those of the branch start from its first weights.
    3. A fresh model.
    """
    like = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=where
        ),
        shapes,
        layout,
    )
    stored = snapshots.stored_steps(workdir)
    if stored:
        current, consumed = snapshots.restore(workdir, stored[-1], like)
        return current, stored[-1], consumed
    if config.branch.workdir:
        source, first = config.branch.workdir, config.branch.step
        bare = like._replace(optimizer=averaging.attach(like.optimizer, {}))
        current, consumed = snapshots.restore(source, first, bare)
        averages = {
            name: averaging.start(
                current.params, config.tracking.dtype, config.tracking.compensated
            )
            for name in config.averages
        }
        optimizer = averaging.attach(current.optimizer, averages)
        return current._replace(optimizer=optimizer), first, consumed
    start = jax.jit(
        lambda: state.init(run.model, run.optimizer, config.seed), out_shardings=layout
    )
    return start(), 0, 0


def _not_finite(done: int, values: dict[str, float], workdir) -> str:
    stored = snapshots.stored_steps(workdir)
    last = (
        f"the last good snapshot is step {stored[-1]}" if stored else "none is stored"
    )
    return (
        f"step {done} has loss {values['train/loss']} and gradient norm "
        f"{values['train/grad_norm']}; {last} of {workdir!s}"
    )


@contextlib.contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, so that the loop can save before it stops."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # Only the main thread may handle signals.
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)
