"""Measured loss curves, with the rate of every step: what laws are fitted to."""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from anytime_jax import schedules
from anytime_jax.laws import runs

# A fall of the rate by more than this share between two rows is a step, not a slope.
_STEP = 0.05
_COLUMNS = ("step", "lr", "loss")
# Every step has a rate in memory.
_LONGEST = 10**8


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """The losses that a schedule led to.

    A recorded step s is a count, from 0, as schedules have it: the loss at s has seen
    the updates 0 ... s, and so `rates[:s + 1]`.

    Attributes:
      rates: the learning rate of every step, float64 [T].
      steps: the recorded steps, ascending, each below T, int64 [P].
      losses: the loss at each, in nats, float64 [P].
      name: what tables and errors call the curve.

    Raises:
      ValueError: lengths differ, a value is not finite or not positive, steps do not
        ascend, or one lies beyond the schedule.

    Example:
      >>> curve = Curve(rates=[0.1] * 8, steps=[3, 7], losses=[2.5, 2.25], name="flat")
      >>> curve.losses
      array([2.5 , 2.25])
    """

    rates: np.ndarray
    steps: np.ndarray
    losses: np.ndarray
    name: str = "curve"

    def __post_init__(self):
        """Makes arrays of their own of what is given, and checks them."""
        losses_P, steps_P = np.array(self.losses, np.float64), np.array(self.steps)
        if steps_P.ndim != 1 or not len(steps_P) or steps_P.dtype.kind not in "iu":
            raise ValueError(
                f"{self.name}: steps of shape {steps_P.shape} and type {steps_P.dtype} "
                "must be a list of at least one integer"
            )
        if losses_P.shape != steps_P.shape:
            raise ValueError(
                f"{self.name}: losses of shape {losses_P.shape} must have one for each "
                f"of {len(steps_P)} steps"
            )
        for i in np.flatnonzero(~(np.isfinite(losses_P) & (losses_P > 0)))[:1]:
            raise ValueError(
                f"{self.name}: losses[{i}]={losses_P[i]} must be finite and > 0"
            )
        _require_ascending(self.name, steps_P)
        rates_T = np.asarray(self.rates)
        if rates_T.ndim != 1 or not len(rates_T):
            raise ValueError(
                f"{self.name}: rates of shape {rates_T.shape} must be a list of the "
                "rate of every step"
            )
        rates_T = schedules.rates(rates_T, len(rates_T), f"{self.name}: rates")
        if steps_P[-1] >= len(rates_T):
            raise ValueError(
                f"{self.name}: steps[{len(steps_P) - 1}]={steps_P[-1]} must be below "
                f"the {len(rates_T)} steps of the schedule"
            )
        object.__setattr__(self, "rates", rates_T)
        object.__setattr__(self, "steps", steps_P.astype(np.int64))
        object.__setattr__(self, "losses", losses_P)

    @property
    def final_loss(self) -> float:
        """The mean of the losses at its end; see `ending`."""
        return float(self.losses[ending(self.steps)].mean())

    def between(self, first: int, last: int) -> "Curve":
        """Returns the curve with only what was recorded from `first` to `last`.

        Args:
          first: the first step that is kept.
          last: the last one.

        Returns:
          A `Curve` of the same schedule and name.

        Raises:
          ValueError: nothing was recorded there.

        Example:
          >>> curve = Curve(rates=[0.1] * 8, steps=[3, 7], losses=[2.5, 2.25])
          >>> curve.between(0, 5).steps
          array([3])
        """
        kept_P = (self.steps >= first) & (self.steps <= last)
        if not kept_P.any():
            raise ValueError(
                f"first={first} and last={last} must enclose a recorded step of "
                f"{self.name}, which has {self.steps[0]} to {self.steps[-1]}"
            )
        return dataclasses.replace(
            self, steps=self.steps[kept_P], losses=self.losses[kept_P]
        )

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike,
        *,
        rates: schedules.Rates | None = None,
        warmup_steps: int | None = None,
    ) -> "Curve":
        """Reads a curve from a csv with the columns `step`, `lr` and `loss`.

        Args:
          path: the file; its stem is the curve's name.
          rates: the exact rate of every step, an array or a schedule. Without it they
            come from the column `lr`: linear between rows, except that a drop of over
            5 % between neighbours is a step at the later row.
          warmup_steps: without `rates`, the length of the linear warmup from 0 to the
            first row's rate, which then holds up to that row; 0 for none. It may be
            left out where the first row is step 0.

        Returns:
          A `Curve`.

        Raises:
          ValueError: there is no such file or column, a cell is not a number, both
            `rates` and `warmup_steps` are given or neither where one is needed, or the
            curve is not one.
        """
        path = pathlib.Path(path)
        if not path.is_file():
            raise ValueError(f"path={str(path)!r} must be a csv file that exists")
        # Spreadsheets put a mark before the first name.
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines, skipinitialspace=True))
        columns = {}
        for key in _COLUMNS if rates is None else ("step", "loss"):
            if not rows or key not in rows[0]:
                known = ", ".join(map(str, rows[0])) if rows else "no rows"
                raise ValueError(
                    f"{path} must have rows with a column {key!r}; it has {known}"
                )
            columns[key] = [
                _number(path, i, key, row[key]) for i, row in enumerate(rows)
            ]
        return cls._from_columns(path.stem, columns, rates, warmup_steps)

    @classmethod
    def from_npz(
        cls,
        path: str | os.PathLike,
        name: str,
        *,
        rates: schedules.Rates | None = None,
        warmup_steps: int | None = None,
    ) -> "Curve":
        """Reads a curve from an npz with the arrays NAME_step, NAME_lr and NAME_loss.

        Args:
          path: the file.
          name: of the curve, of which a file may hold several.
          rates: as in `from_csv`; then NAME_lr may be missing.
          warmup_steps: as in `from_csv`.

        Returns:
          A `Curve`.

        Raises:
          ValueError: there is no such file or array, or as in `from_csv`.
        """
        path = pathlib.Path(path)
        if not path.is_file():
            raise ValueError(f"path={str(path)!r} must be an npz file that exists")
        columns = {}
        with np.load(path, allow_pickle=False) as stored:
            for key in _COLUMNS if rates is None else ("step", "loss"):
                if f"{name}_{key}" not in stored:
                    known = ", ".join(sorted(stored))
                    raise ValueError(
                        f"{path} has no array {name}_{key}; it has {known}"
                    )
                columns[key] = stored[f"{name}_{key}"]
        return cls._from_columns(name, columns, rates, warmup_steps)

    @classmethod
    def from_metrics(
        cls, path: str | os.PathLike, key: str = "eval/loss/raw"
    ) -> "Curve":
        """Reads a curve from a run of this package.

        The schedule is rebuilt from the run's config.json, for a branch from its
        trunk's too, and held against the rates that were logged. A record of n updates
        done is the curve's step n - 1.

        Args:
          path: the run's folder, or the `metrics.jsonl` in it.
          key: which loss.

        Returns:
          A `Curve` named as the folder.

        Raises:
          ValueError: a file or the key is missing, a file is damaged, or the logged
            rates are not those of the schedule.
        """
        folder = pathlib.Path(path)
        folder = folder.parent if folder.suffix == ".jsonl" else folder
        config, records = runs.read_config(folder), runs.read_records(folder)
        losses = {r["step"] - 1: r[key] for r in records if key in r and r["step"] > 0}
        if not losses:
            known = sorted({name for record in records for name in record} - {"step"})
            raise ValueError(
                f"key={key!r} is not in {folder / 'metrics.jsonl'}; known are "
                f"{', '.join(known) or 'none'}"
            )
        rates_T = runs.read_rates(folder, config)
        for record in records:
            logged, done = record.get("train/learning_rate"), record["step"]
            if logged is None or not 0 < done <= len(rates_T):
                continue
            if not np.isclose(logged, rates_T[done - 1], rtol=1e-4, atol=1e-12):
                raise ValueError(
                    f"{folder}: the rate logged at step {done}, {logged}, must be that "
                    f"of the schedule in config.json, {rates_T[done - 1]}"
                )
        steps = sorted(losses)
        return cls(rates_T, steps, [losses[s] for s in steps], folder.resolve().name)

    @classmethod
    def _from_columns(
        cls,
        name: str,
        columns: Mapping[str, Sequence[float]],
        rates: schedules.Rates | None,
        warmup_steps: int | None,
    ) -> "Curve":
        if rates is not None and warmup_steps is not None:
            raise ValueError(
                f"warmup_steps={warmup_steps!r} must be left out where rates are given"
            )
        steps_P = np.asarray(columns["step"])
        if steps_P.ndim != 1 or not len(steps_P) or steps_P.dtype.kind not in "iuf":
            raise ValueError(
                f"{name}: steps of shape {steps_P.shape} and type {steps_P.dtype} must "
                "be a list of at least one number"
            )
        whole = (steps_P == np.floor(steps_P)) & (steps_P <= _LONGEST)
        for i in np.flatnonzero(~whole)[:1]:
            raise ValueError(
                f"{name}: steps[{i}]={steps_P[i]:g} must be an integer, at most "
                f"{_LONGEST:,}: updates, not tokens"
            )
        steps_P = steps_P.astype(np.int64)
        _require_ascending(name, steps_P)
        if rates is None:
            rates = between_rows(steps_P, columns["lr"], warmup_steps, name)
        elif callable(rates) or np.ndim(rates) == 0:
            rates = schedules.rates(rates, int(steps_P[-1]) + 1, f"{name}: rates")
        return cls(rates, steps_P, columns["loss"], name)


def ending(steps: np.ndarray) -> slice:
    """Returns which of the recorded steps are the end of a curve.

    The last eight, without those before the last tenth of its steps: where records are
    rare or evenly spaced in their logarithms, it is the last one alone.

    Args:
      steps: ascending, at least one, [P].

    Example:
      >>> ending(np.array([50, 99, 199, 399])), ending(np.arange(400))
      (slice(-1, None, None), slice(-8, None, None))
    """
    late = int(np.count_nonzero(np.asarray(steps) > 0.9 * steps[-1]))
    return slice(-min(8, max(1, late)), None)


def between_rows(
    steps: Sequence[int],
    rates: Sequence[float],
    warmup_steps: int | None = None,
    name: str = "curve",
) -> np.ndarray:
    """Returns the rate of every step from those of some.

    Linear between rows, except that a drop of over 5 % between neighbours is a step at
    the later row. Before the first row the rate goes linearly from 0 to the first
    row's over `warmup_steps`, and then holds.

    Args:
      steps: the steps of the rows, ascending, P of them.
      rates: the rate at each, [P].
      warmup_steps: at most the first step; may be left out where that is 0.
      name: what an error calls the curve.

    Returns:
      float64 [last step + 1].

    Raises:
      ValueError: the lengths differ, `warmup_steps` is out of range or missing, or a
        rate is negative or not finite.

    Example:
      >>> between_rows([2, 4, 6], [1.0, 0.98, 0.5], warmup_steps=2)
      array([0.  , 0.5 , 1.  , 0.99, 0.98, 0.98, 0.5 ])
    """
    steps_P, rates_P = np.asarray(steps), np.asarray(rates, np.float64)
    rates_P = schedules.rates(rates_P, len(steps_P), f"{name}: lr")
    first = int(steps_P[0])
    if warmup_steps is None:
        if first > 0:
            raise ValueError(
                f"{name}: warmup_steps must be given, 0 for none: the first row is at "
                f"step {first}"
            )
        warmup_steps = 0
    if not 0 <= warmup_steps <= first:
        raise ValueError(
            f"{name}: warmup_steps={warmup_steps!r} must be from 0 to the first row's "
            f"step, {first}"
        )
    table_T = np.interp(np.arange(steps_P[-1] + 1), steps_P, rates_P)
    for i in np.flatnonzero(rates_P[1:] < (1 - _STEP) * rates_P[:-1]):
        table_T[steps_P[i] : steps_P[i + 1]] = rates_P[i]
    ramp = np.arange(warmup_steps) / max(warmup_steps, 1)
    table_T[:warmup_steps] = rates_P[0] * ramp
    return table_T


def _require_ascending(name: str, steps_P: np.ndarray) -> None:
    if steps_P[0] < 0:
        raise ValueError(f"{name}: steps[0]={steps_P[0]} must be >= 0")
    for i in np.flatnonzero(np.diff(steps_P) <= 0)[:1]:
        raise ValueError(
            f"{name}: steps[{i + 1}]={steps_P[i + 1]} must be above "
            f"steps[{i}]={steps_P[i]}"
        )


def _number(path: pathlib.Path, row: int, key: str, cell: str | None) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: {key}={cell!r} in row {row + 1} must be a number"
        ) from error
