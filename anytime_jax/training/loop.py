"""The training loop: from a config to a trained run on disk."""

import contextlib
import dataclasses
import math
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import tqdm
from jax.experimental import multihost_utils

from anytime_jax import averaging, data
from anytime_jax.training import (
    branches,
    config_file,
    evaluation,
    metrics,
    sharding,
    snapshots,
    starting,
    state,
    step,
    watch,
)
from anytime_jax.training import recipe as recipe_lib


class Preempted(Exception):
    """The run was told to stop, and has saved where it is."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run of which all is checked and nothing is compiled or written."""

    config: ml_collections.ConfigDict
    workdir: str | os.PathLike
    recipe: recipe_lib.Recipe
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
    _check_folder(workdir)
    config = branches.with_averages(config, workdir)
    recipe = recipe_lib.build(config)
    config_file.check_same_run(config, recipe.total_steps, workdir)
    if config.branch.workdir and not snapshots.stored_steps(workdir):
        branches.check_snapshot(config)
    dataset = _load_data(config)
    for run_before in filter(None, (workdir, config.branch.workdir)):
        config_file.check_same_data(dataset.description, run_before)
    return Prepared(config, workdir, recipe, dataset)


def run(prepared: Prepared, writer: Any = None) -> None:
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
    if recipe.total_steps in snapshots.stored_steps(workdir):
        print(f"{workdir} is complete at step {recipe.total_steps}", file=sys.stderr)
        return
    # What was kept for good stays, also when a longer run would keep other steps.
    kept = config_file.kept_steps(workdir)
    resolved = recipe.resolved() | {"data": dataset.description}
    resolved["kept"] = sorted(kept.union(resolved["kept"]))
    config_file.write(config, resolved, workdir)

    train_step, evaluate, like = compile_steps(config, recipe)
    current, start, consumed = starting.start(config, recipe, workdir, like)
    batches = _batches(config, recipe, dataset, start, consumed)
    store = snapshots.Store(workdir, lambda step: step in kept or recipe.keeps(step))
    writer = writer or _writer(workdir, start)
    starts = _starts(config, current, start)
    recorder = _Recorder(prepared, writer, evaluate, start, starts)

    with contextlib.ExitStack() as stack:
        for opened in (store, recorder, batches):
            stack.callback(opened.close)
        sigterm = stack.enter_context(_sigterm())
        pending = None
        for done, tokens_BxL1 in enumerate(batches, start + 1):
            current, outputs = train_step(current, tokens_BxL1)
            # The metrics of the step before this one are fetched only now, so that the
            # devices always have a step to work on.
            if pending:
                recorder.train(*pending)
            pending = done, outputs

            stops = _told_to_stop(sigterm, done) and done < recipe.total_steps
            saves = recipe.saves(done) or stops
            if saves or done in recipe.evaluations:
                recorder.train(*pending)
                pending = None
                recorder.evaluate(done, current.weights())
            if saves:
                # Records first: a restart forgets those later than its snapshot, and
                # cannot bring back those that are missing from before it.
                recorder.flush()
                store.save(current, done, consumed + (done - start) * config.batch_size)
            if stops:
                store.wait()
                raise Preempted(f"stopped by SIGTERM after step {done}, which is saved")


def compile_steps(
    config: ml_collections.ConfigDict, recipe: recipe_lib.Recipe
) -> tuple[Callable, Callable, state.TrainState]:
    """Jits what runs on the devices; each is compiled when it is first called.

    Args:
      config: the config.
      recipe: what `recipe.build` made of it.

    Returns:
      The train step, whose state is donated; the evaluation of one set of weights; and
      the shapes, dtypes and shardings of the state.
    """
    shapes = jax.eval_shape(
        lambda: state.init(recipe.model, recipe.optimizer, config.seed)
    )
    layout = state.place_averages(
        sharding.shardings(recipe.mesh, shapes), config.tracking.memory_kind
    )
    train_step = jax.jit(
        step.make_step(recipe.model, recipe.optimizer, config.accumulation),
        out_shardings=(layout, None),
        donate_argnums=0,
    )
    evaluate = jax.jit(evaluation.make_evaluate(recipe.model))
    like = jax.tree.map(
        lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to),
        shapes,
        layout,
    )
    return train_step, evaluate, like


class _Recorder:
    """Metrics to the writer, progress to the screen, and a stop when they fail."""

    def __init__(
        self,
        prepared: Prepared,
        writer: Any,
        evaluate: Callable,
        start: int,
        starts: dict[str, int],
    ):
        self._config, self._recipe = prepared.config, prepared.recipe
        self._workdir, self._writer, self._evaluate = prepared.workdir, writer, evaluate
        self._validation_NxBxL1 = _validation(prepared)
        self._watch = watch.Watch(
            self._config.evaluation.patience, starts, metrics.read(self._workdir)
        )
        self._bar = tqdm.tqdm(
            initial=start,
            total=self._recipe.total_steps,
            unit="step",
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
            disable=jax.process_index() != 0,
        )
        self._done = self._recorded = start
        self._time = time.perf_counter()

    def train(self, done: int, outputs: dict[str, jax.Array]) -> None:
        """Records a train step; fetching its metrics waits until it has run."""
        values = {f"train/{k}": float(v) for k, v in jax.device_get(outputs).items()}
        if not all(map(math.isfinite, values.values())):
            raise FloatingPointError(self._not_finite(done, values))
        self._advance(done, values["train/loss"])
        if done % self._config.logging.every == 0 or done == self._recipe.total_steps:
            values["train/tokens"] = done * self._recipe.tokens_per_step
            values["time/tokens_per_second"] = self._tokens_per_second()
            self._writer.write_scalars(done, values)

    def evaluate(self, done: int, weights: dict[str, Any]) -> None:
        """Records the losses that are due at a step, the larger set's at horizons."""
        small_NxBxL1 = self._validation_NxBxL1[: self._config.evaluation.batches]
        for key, due, tokens_NxBxL1 in (
            ("eval", self._recipe.evaluations, small_NxBxL1),
            ("horizon", self._recipe.horizons, self._validation_NxBxL1),
        ):
            if done in due:
                losses = evaluation.losses(self._evaluate, weights, tokens_NxBxL1)
                scalars = {f"{key}/loss/{name}": v for name, v in losses.items()}
                if key == "eval":
                    scalars |= self._distances(done, weights)
                self._writer.write_scalars(done, scalars)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
        self._bar.close()

    def _distances(self, done: int, weights: dict[str, Any]) -> dict[str, float]:
        """How far each average is from the weights; says so if it has gone astray."""
        distances = evaluation.distances(weights)
        for warning in self._watch.see(done, distances):
            if jax.process_index() == 0:
                tqdm.tqdm.write(warning, file=sys.stderr)
        return {f"{watch.KEY}{name}": value for name, value in distances.items()}

    def _advance(self, done: int, loss: float) -> None:
        rate = (self._bar.format_dict["rate"] or 0.0) * self._recipe.tokens_per_step
        self._bar.set_postfix_str(f"loss {loss:.3f}, {rate:,.0f} tokens/s", False)
        self._bar.update(done - self._done)
        self._done = done

    def _tokens_per_second(self) -> float:
        """Since it was last asked."""
        now = time.perf_counter()
        steps, seconds = self._done - self._recorded, now - self._time
        self._recorded, self._time = self._done, now
        return steps * self._recipe.tokens_per_step / seconds

    def _not_finite(self, done: int, values: dict[str, float]) -> str:
        shown = ", ".join(
            f"{name} {values[f'train/{name}']}"
            for name in ("loss", "grad_norm", "weight_norm")
        )
        stored = snapshots.stored_steps(self._workdir)
        last = f"step {stored[-1]}" if stored else "not there: none was stored"
        return (
            f"step {done} has {shown}; the last good snapshot of {self._workdir!s} is "
            f"{last}"
        )


def _starts(
    config: ml_collections.ConfigDict, current: state.TrainState, step: int
) -> dict[str, int]:
    """The steps at which the averages started, without those that are frozen."""
    _, averages = averaging.detach(current.optimizer)
    moving = averages.keys() - branches.frozen(config)
    return {name: step - int(averages[name].count) for name in sorted(moving)}


def _writer(workdir: str | os.PathLike, start: int) -> Any:
    if jax.process_index() == 0:
        return metrics.Writer(workdir, resume_step=start)
    return metrics.Silent()


def _check_folder(workdir: str | os.PathLike) -> None:
    """Refuses a folder that cannot be written, without making it."""
    path = pathlib.Path(workdir).absolute()
    there = next(one for one in (path, *path.parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f"workdir={workdir!s}: {there} is no folder one may write to")


def _load_data(config: ml_collections.ConfigDict) -> data.Dataset:
    dataset = data.load(
        **config.data, sequence_length=config.sequence_length, seed=config.seed
    )
    needed = config.evaluation.horizon_batches * config.evaluation.batch_size
    if needed > len(dataset.validation):
        raise ValueError(
            f"evaluation.horizon_batches={config.evaluation.horizon_batches} times "
            f"evaluation.batch_size={config.evaluation.batch_size} must be at most the "
            f"{len(dataset.validation)} sequences of the validation data"
        )
    return dataset


def _validation(prepared: Prepared) -> jax.Array:
    """The fixed validation batches; the smaller set is the first of the larger."""
    config = prepared.config
    batches, rows = config.evaluation.horizon_batches, config.evaluation.batch_size
    tokens = prepared.dataset.validation.batch(0, batches * rows)
    shape = (batches, rows, config.sequence_length + 1)
    return sharding.place_batches(tokens.reshape(shape), prepared.recipe.mesh)


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
