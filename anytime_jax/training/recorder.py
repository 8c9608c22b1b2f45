"""What a run says while it goes on: its metrics, its progress, its warnings."""

import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import tqdm

from anytime_jax import averaging
from anytime_jax.training import (
    branches,
    evaluation,
    hosts,
    metrics,
    preparing,
    sharding,
    state,
    timing,
    watch,
)


class Recorder:
    """Metrics to the writer, progress to the screen, and a stop when they fail."""

    def __init__(
        self,
        prepared: preparing.Prepared,
        writer: Any,
        evaluate: Callable,
        current: state.TrainState,
        start: int,
        meta: Mapping[str, Any],
        shares: timing.Shares,
    ):
        """Makes the recorder of a run.

        Args:
          prepared: the run.
          writer: of scalars.
          evaluate: the loss of one set of weights, from `compile_steps`.
          current: the state to go on from.
          start: its step.
          meta: what its snapshot says of itself.
          shares: what the time goes into.
        """
        self._config, self._recipe = prepared.config, prepared.recipe
        self._workdir, self._writer, self._evaluate = prepared.workdir, writer, evaluate
        self._shares = shares
        # Updates that were left out: all of the run's, and the latest in a row.
        self.skipped = {"total": 0, "in_a_row": 0} | meta.get("skipped", {})
        self._validation_NxBxL1 = _validation(prepared)
        starts = _starts(self._config, current, start - self.skipped["total"])
        # Only the first process speaks, and the file is its own.
        before = metrics.read(self._workdir) if hosts.is_first() else ()
        self._watch = watch.Watch(self._config.evaluation.patience, starts, before)
        self._bar = tqdm.tqdm(
            initial=start,
            total=self._recipe.total_steps,
            unit="step",
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
            disable=not hosts.is_first(),
        )
        self._done = self._recorded = start
        self._time = time.perf_counter()

    def train(self, done: int, outputs: dict[str, jax.Array]) -> None:
        """Records a train step; fetching its metrics waits until it has run."""
        values = {f"train/{k}": float(v) for k, v in jax.device_get(outputs).items()}
        skipped = values.pop("train/skipped", 0.0) == 1.0
        self._advance(done, values["train/loss"])
        if skipped:
            values = self._skip(done, values)
        elif not all(map(math.isfinite, values.values())):
            raise FloatingPointError(f"step {done} has {_shown(values)}")
        else:
            self.skipped["in_a_row"] = 0
        due = done % self._config.logging.every == 0 or done == self._recipe.total_steps
        if due:
            values["train/tokens"] = done * self._recipe.tokens_per_step
            values["time/tokens_per_second"] = self._tokens_per_second()
            values |= {f"time/{k}": v for k, v in self._shares.take().items()}
        if due or skipped:
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
        """Makes what was recorded safe on disk."""
        self._writer.flush()

    def records(self) -> str | None:
        """Returns what a snapshot has to carry, None if the writer is another one."""
        own = isinstance(self._writer, metrics.Writer | metrics.Silent)
        return self._writer.records() if own else None

    def close(self) -> None:
        """Closes the writer and the progress bar."""
        self._writer.close()
        self._bar.close()

    def _distances(self, done: int, weights: dict[str, Any]) -> dict[str, float]:
        """How far each average is from the weights; says so if it has gone astray."""
        distances = evaluation.distances(weights)
        for warning in self._watch.see(done, distances):
            self._warn(warning)
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

    def _skip(self, done: int, values: dict[str, float]) -> dict[str, float]:
        """Counts an update that was left out; stops at the limit of them in a row."""
        limit = self._config.nonfinite.limit
        self.skipped = {key: count + 1 for key, count in self.skipped.items()}
        if self.skipped["in_a_row"] >= limit:
            raise FloatingPointError(
                f"step {done}: the last {limit} updates were skipped "
                f"(nonfinite.limit={limit}), this one for its {_shown(values)}"
            )
        self._warn(f"step {done} is skipped for its {_shown(values)}")
        finite = {k: value for k, value in values.items() if math.isfinite(value)}
        return finite | {"train/skipped": 1.0}

    def _warn(self, text: str) -> None:
        if hosts.is_first():
            tqdm.tqdm.write(text, file=sys.stderr)


def _shown(values: dict[str, float]) -> str:
    names = ("loss", "grad_norm", "weight_norm")
    return ", ".join(f"{name} {values[f'train/{name}']}" for name in names)


def _starts(
    config: ml_collections.ConfigDict, current: state.TrainState, updates: int
) -> dict[str, int]:
    """The updates after which the averages started, without those that are frozen."""
    _, averages = averaging.detach(current.optimizer)
    moving = averages.keys() - branches.frozen(config)
    return {name: updates - int(averages[name].count) for name in sorted(moving)}


def _validation(prepared: preparing.Prepared) -> jax.Array:
    """The fixed validation batches; the smaller set is the first of the larger."""
    config = prepared.config
    batches, rows = config.evaluation.horizon_batches, config.evaluation.batch_size
    validation = prepared.dataset.validation
    return sharding.place_batches(
        lambda these: validation.batch(0, batches * rows, rows=these),
        (batches, rows, config.sequence_length + 1),
        prepared.recipe.mesh,
    )
