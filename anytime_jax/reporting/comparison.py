"""Every exit of every trunk beside the envelope of the fixed-horizon runs."""

import collections
import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from anytime_jax.reporting import checks
from anytime_jax.reporting import merges as merges_lib
from anytime_jax.reporting import runs as runs_lib
from anytime_jax.reporting.runs import Run

FIXED_HORIZON = "fixed horizon"

# Hoffmann et al., 2022, arXiv 2203.15556: about 20 tokens a parameter.
_TOKENS_PER_PARAMETER = 20


class Loss(NamedTuple):
    """A loss in nats per token: the mean over runs that differ only in their seed.

    Attributes:
      mean: the loss, or the mean of several.
      half_range: half of largest minus smallest; 0 for one run.
      count: how many runs.
    """

    mean: float
    half_range: float
    count: int


@dataclasses.dataclass(frozen=True)
class Point:
    """The envelope at a horizon.

    Attributes:
      loss: the lowest final loss of the fixed-horizon runs that end there.
      runs: the run that has it; several if they differ only in their seed.
    """

    loss: Loss
    runs: tuple[Run, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One exit of one trunk, or one fixed-horizon schedule, at all horizons.

    Attributes:
      group: the trunk, or `fixed horizon`.
      name: `raw`, an average, a merge, a cooldown, an average of a cooldown, or the
        name of a fixed-horizon schedule.
      losses: by horizon in steps; a horizon without a loss is not in it.
      runs: those that the losses are from.
      weights: which of their weights: `raw`, or the name of an average.
    """

    group: str
    name: str
    losses: Mapping[int, Loss]
    runs: tuple[Run, ...]
    weights: str = "raw"

    @property
    def is_exit(self) -> bool:
        """Whether this is an exit, and not a fixed-horizon schedule."""
        return self.group != FIXED_HORIZON

    @property
    def role(self) -> str:
        """That of its runs: `trunk`, `merge`, `branch` or `fixed`."""
        return self.runs[0].role


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The exits of some runs beside their envelope.

    Attributes:
      horizons: from horizon in steps, ascending, to what it is called: `2x`, or
        `500 steps` where that is no multiple of a quarter of 1x.
      rows: trunk by trunk, shortest memory first; the fixed-horizon schedules last.
      envelope: by horizon in steps; a horizon without fixed-horizon runs is not in it.
      names: what the runs are called, shortest ends of their folders.
    """

    horizons: Mapping[int, str]
    rows: tuple[Row, ...]
    envelope: Mapping[int, Point]
    names: Mapping[Run, str]

    def regrets(self, row: Row) -> dict[int, float]:
        """Returns loss minus envelope, where there are both, by horizon in steps."""
        return {
            step: row.losses[step].mean - point.loss.mean
            for step, point in self.envelope.items()
            if step in row.losses
        }

    def worst_regret(self, row: Row) -> float | None:
        """Returns the largest regret over all horizons at which the row has one."""
        regrets = self.regrets(row).values()
        if any(map(math.isnan, regrets)):
            return math.nan
        return max(regrets, default=None)

    def best(self, step: int) -> Row | None:
        """Returns the exit with the lowest loss at a horizon."""
        there = [row for row in self.rows if row.is_exit and step in row.losses]
        there = [row for row in there if math.isfinite(row.losses[step].mean)]
        return min(there, key=lambda row: row.losses[step].mean, default=None)

    def best_overall(self, *, cooldown: bool) -> Row | None:
        """Returns the exit with the lowest worst regret, of those that miss none.

        Args:
          cooldown: whether of the cooldowns, or of the trunks' weights, averages and
            merges.
        """
        rows = [row for row in self.rows if row.is_exit and self.envelope]
        rows = [row for row in rows if (row.role == "branch") == cooldown]
        rows = [row for row in rows if len(self.regrets(row)) == len(self.envelope)]
        rows = [row for row in rows if math.isfinite(self.worst_regret(row))]
        return min(rows, key=self.worst_regret, default=None)


def compare(runs: Sequence[Run]) -> Comparison:
    """Puts every exit beside the best fixed-horizon run at each horizon.

    Only losses on the larger set are compared: of a fixed-horizon run that of its raw
    weights at its end, of a branch those of its raw weights and its own averages there;
    a merge is an exit of the run that it was made from. Runs that differ only in their
    seed count as one, with their mean loss; so do the raw weights of branches that
    differ only in what they average, the first of which counts.

    Args:
      runs: of one model on one data set; a run given twice counts once.

    Returns:
      A `Comparison`.

    Raises:
      ValueError: there is no run, one has not reached a horizon yet, two cannot be
        compared, or two are of one setting and one seed.
    """
    runs = list({run.folder: run for run in runs}.values())
    if not runs:
        raise ValueError("runs=[] must hold at least one run")
    names = runs_lib.names(runs)
    for run in runs:
        checks.check_finished(run, names[run])
        checks.check_comparable(runs[0], run, names)
    for one, other in itertools.combinations(runs, 2):
        checks.check_distinct(one, other, names)

    fixed, envelope = _fixed_horizon([run for run in runs if run.role == "fixed"])
    rows = (*_exits(runs, names), *fixed)
    steps = sorted({step for row in rows for step in row.losses})
    return Comparison(
        horizons={step: horizon_name(runs[0], step) for step in steps},
        rows=rows,
        envelope=dict(sorted(envelope.items())),
        names=names,
    )


def chinchilla(run: Run, step: int) -> float:
    """Returns a step in multiples of 20 tokens per non-embedding parameter.

    Args:
      run: gives tokens per step and parameters.
      step: updates done.
    """
    tokens = step * run.tokens_per_step
    return tokens / (_TOKENS_PER_PARAMETER * run.non_embedding)


def horizon_name(run: Run, step: int) -> str:
    """Returns what a horizon is called: `2x` if it is that to a step, or its steps.

    Args:
      run: gives tokens per step and parameters.
      step: updates done.
    """
    multiple = round(4 * chinchilla(run, step)) / 4
    if multiple and round(multiple * step / chinchilla(run, step)) == step:
        return f"{multiple:g}x"
    return f"{step:,} steps"


def _mean(losses: Sequence[float]) -> Loss:
    half_range = (max(losses) - min(losses)) / 2
    return Loss(math.fsum(losses) / len(losses), half_range, len(losses))


def _fixed_horizon(runs: Sequence[Run]) -> tuple[list[Row], dict[int, Point]]:
    """The best setting of each schedule at each horizon, and the best of all."""
    settings: dict[tuple, list[Run]] = {}
    for run in runs:
        settings.setdefault((run.total_steps, run.setting), []).append(run)
    points: dict[str, dict[int, Point]] = {}
    for (step, _), same in settings.items():
        point = Point(_mean([run.exits["raw"][step] for run in same]), tuple(same))
        of_schedule = points.setdefault(same[0].schedule, {})
        of_schedule[step] = _lower(of_schedule.get(step), point)
    rows, envelope = [], {}
    for schedule, by_step in points.items():
        by_step = dict(sorted(by_step.items()))
        losses = {step: point.loss for step, point in by_step.items()}
        used = tuple(run for point in by_step.values() for run in point.runs)
        rows.append(Row(FIXED_HORIZON, schedule, losses, used))
        for step, point in by_step.items():
            if math.isfinite(point.loss.mean):
                envelope[step] = _lower(envelope.get(step), point)
    return rows, envelope


def _lower(one: Point | None, other: Point) -> Point:
    """The point of lower loss; one that is not finite only against its like."""
    if one is None or not math.isfinite(one.loss.mean):
        return other
    return other if other.loss.mean < one.loss.mean else one


def _exits(runs: Sequence[Run], names: Mapping[Run, str]) -> list[Row]:
    """The exits of every trunk: its weights, their merges, and its branches."""
    branches = [run for run in runs if run.role in ("merge", "branch")]
    trunks: dict[str, list[Run]] = {}
    for run in runs:
        if run.role == "trunk":
            trunks.setdefault(run.setting, []).append(run)
    schedules = [same[0].schedule for same in trunks.values()]
    rows, sources = [], set()
    for same in trunks.values():
        group = same[0].schedule
        if schedules.count(group) > 1:
            group += f" ({', '.join(names[run] for run in same)})"
        for name in dict.fromkeys(name for run in same for name in run.exits):
            rows.append(_pooled(group, name, same, name))
        folders = {run.folder for run in same}
        rows += _off(group, [one for one in branches if one.trunk in folders], names)
        sources |= folders
    # The trunk of a branch or a merge need not be among the runs.
    for source in dict.fromkeys(run.trunk for run in branches):
        if source not in sources:
            same = [run for run in branches if run.trunk == source]
            rows += _off(f"off {source.name}", same, names)
    return rows


def _off(group: str, runs: Sequence[Run], names: Mapping[Run, str]) -> list[Row]:
    """What was made from a trunk's snapshots, merges first."""
    merges = [run for run in runs if run.merge]
    cooldowns = [run for run in runs if not run.merge]
    return _merges(group, merges, names) + _cooldowns(group, cooldowns, names)


def _merges(group: str, merges: Sequence[Run], names: Mapping[Run, str]) -> list[Row]:
    """One row for every recipe and the share of the run that it is about."""
    kinds: dict[str, list[Run]] = {}
    for run in merges:
        kinds.setdefault(merges_lib.label(run.merge), []).append(run)
    rows = []
    for name, same in kinds.items():
        if not _meet(same):
            rows.append(_pooled(group, name, same, "raw"))
            continue
        # There are several at a horizon: of other snapshots.
        parts: dict[str, list[Run]] = {}
        for run in same:
            detailed = merges_lib.label(run.merge, detailed=True)
            parts.setdefault(detailed, []).append(run)
        for one, alike in parts.items():
            if not _meet(alike):
                rows.append(_pooled(group, one, alike, "raw"))
                continue
            # They differ in what has no place in a label, such as their sources.
            rows += [
                _pooled(group, f"{one} ({names[run]})", [run], "raw") for run in alike
            ]
    return rows


def _meet(runs: Sequence[Run]) -> bool:
    """Whether two are off one trunk at one horizon, and so no repetitions."""
    return len({(run.trunk, *run.exits["raw"]) for run in runs}) < len(runs)


def _cooldowns(
    group: str, branches: Sequence[Run], names: Mapping[Run, str]
) -> list[Row]:
    """One row for every kind of cooldown (share, shape, floor), then its averages."""
    kinds: dict[str, list[Run]] = {}
    for run in branches:
        kinds.setdefault(run.setting, []).append(run)
    short = [_cooldown_name(setting, detailed=False) for setting in kinds]
    detailed = len(set(short)) < len(short)
    rows = []
    for setting, same in kinds.items():
        name = _cooldown_name(setting, detailed)
        # The same weights again, if only what is averaged differs.
        first = {(run.trunk, run.seed, run.total_steps): run for run in reversed(same)}
        distinct = [run for run in same if run in first.values()]
        rows.append(_pooled(group, name, distinct, "raw"))
        rows += _averages(group, name, same, names)
    return rows


def _averages(
    group: str, cooldown: str, branches: Sequence[Run], names: Mapping[Run, str]
) -> list[Row]:
    """One row for every average of a kind of cooldown, told apart where need be."""
    kinds: dict[tuple[str, str], list[Run]] = {}
    for run in branches:
        how = dict(run.tracked)
        specs = how.pop("averages")
        for weights in run.exits:
            if weights != "raw":
                key = json.dumps([specs.get(weights), how], sort_keys=True)
                kinds.setdefault((weights, key), []).append(run)
    count = collections.Counter(weights for weights, _ in kinds)
    rows = []
    for (weights, _), same in kinds.items():
        name = f"{cooldown}, {weights}"
        if count[weights] > 1:
            name += f" ({', '.join(names[run] for run in same)})"
        rows.append(_pooled(group, name, same, weights))
    return rows


def _cooldown_name(setting: str, detailed: bool) -> str:
    schedule = json.loads(setting)["schedule"]
    if not detailed:
        return f"cooldown {schedule['steps']}"
    shape = schedule["shape"]
    if isinstance(shape, dict):
        arguments = (str(value) for key, value in shape.items() if key != "name")
        shape = " ".join([shape["name"], *arguments])
    return f"cooldown {schedule['steps']} {shape} to {schedule['final_fraction']:g}"


def _pooled(group: str, name: str, runs: Sequence[Run], key: str) -> Row:
    """The row of an exit of runs that differ only in their seed."""
    by_step: dict[int, list[float]] = {}
    for run in runs:
        for step, loss in run.exits.get(key, {}).items():
            by_step.setdefault(step, []).append(loss)
    losses = {step: _mean(values) for step, values in sorted(by_step.items())}
    return Row(group, name, losses, tuple(runs), key)
