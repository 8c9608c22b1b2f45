"""Merges of a run's snapshots: which, with what coefficients, and into which folder.

A recipe is data, `dict(name=..., ...)`, as a schedule or an average is:

| name                 | arguments                 | merges                          |
|----------------------|---------------------------|---------------------------------|
| `uniform`            |                           | one set of weights at some steps|
| `linear`             |                           | the same                        |
| `ema`                | `alpha`                   | the same                        |
| `given`              | `coefficients`            | the same                        |
| `from_decay`         | `shape`, `final_fraction` | the same, evenly spaced         |
| `quadratic_accurate` | `shape`, `final_fraction` | the same, evenly spaced         |
| `window`             | `start`, `stop`, `limit`  | two running means               |
| `synthesize`         | `target`, `ridge`, `limit`| all averages that were tracked  |
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from anytime_jax import averaging, schedules, specs
from anytime_jax.averaging import merging
from anytime_jax.training import config_file, snapshots

Tree = Any

# Relative to the largest, a coefficient that is left over from rounding.
_NEGLIGIBLE = 1e-12


@dataclasses.dataclass(frozen=True)
class Source:
    """A set of weights that enters a merge.

    Attributes:
      step: of its snapshot.
      weights: `raw` or the name of an average.
      average: its spec, `dict(name=..., ...)`; that of raw weights is `latest`.
      every: updates between the ticks of the average.
      start: updates done when the average started.
      coefficient: how much of it enters.
    """

    step: int
    weights: str
    average: Mapping[str, Any]
    every: int
    start: int
    coefficient: float = 1.0

    def stored(self) -> merging.Stored:
        """Returns what its kernel follows from."""
        average = averaging.build({"average": self.average})["average"]
        return merging.Stored(average, self.step, self.every, self.start)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A merge of which no weights have been summed yet.

    Attributes:
      workdir: the run's folder.
      recipe: as it was given.
      sources: from the oldest to the newest, those with a coefficient.
      quality: of `window` and `synthesize`: `error`, `condition`, `amplification`.
    """

    workdir: str
    recipe: Mapping[str, Any]
    sources: tuple[Source, ...]
    quality: Mapping[str, float]

    @property
    def step(self) -> int:
        """The step of the newest snapshot in it."""
        return self.sources[-1].step

    def kernel(self) -> np.ndarray:
        """Returns float64 [step + 1], the coefficients of theta_0 ... theta_step."""
        return kernel(self.sources)

    def to_json(self) -> dict[str, Any]:
        """Returns where the merge comes from; a function in it becomes its repr."""
        return json.loads(json.dumps(dataclasses.asdict(self), default=repr))


def kernel(sources: Sequence[Source]) -> np.ndarray:
    """Returns the coefficients of theta_0 ... theta_step in a merge, float64.

    Args:
      sources: of a plan, or read back by `sources_of`.
    """
    coefficients = [source.coefficient for source in sources]
    return merging.merged_kernel(coefficients, [source.stored() for source in sources])


def sources_of(merge: Mapping[str, Any]) -> tuple[Source, ...]:
    """Returns the sources of a merge from `read_meta(...)["merge"]`."""
    return tuple(Source(**source) for source in merge["sources"])


def choose(
    steps: Sequence[int],
    *,
    every: int = 1,
    start: int = 0,
    stop: int | None = None,
    latest: int | None = None,
) -> list[int]:
    """Returns the steps to merge: of those in (start, stop] the latest few.

    Args:
      steps: the steps that are stored, in order.
      every: only its multiples; >= 1.
      start: only later ones.
      stop: only up to this one; None for the last.
      latest: how many of them at most; None for all.

    Raises:
      ValueError: none is left, or there are fewer than `latest`.

    Example:
      >>> choose([5, 8, 10, 15, 20], every=5, latest=3)
      [10, 15, 20]
    """
    last = math.inf if stop is None else stop
    chosen = [step for step in steps if start < step <= last and step % every == 0]
    if not chosen or len(chosen) < (latest or 1):
        raise ValueError(
            f"start={start!r}, stop={stop!r}, every={every!r}, latest={latest!r} leave "
            f"{len(chosen)} of the stored steps {_listed(steps)}"
        )
    return chosen[-latest:] if latest else chosen


def plan(
    workdir: str | os.PathLike,
    recipe: Mapping[str, Any],
    *,
    steps: Sequence[int] | None = None,
    weights: str = "raw",
) -> Plan:
    """Plans a merge; of the weights nothing is read but, in a `window`, two.

    Args:
      workdir: the run's folder.
      recipe: one of those above.
      steps: those to merge, from the oldest to the newest; all that are stored by
        default. A `window` has its own.
      weights: which to merge at these steps, `raw` or the name of an average; a
        `window` takes the uniform average and `synthesize` takes all.

    Returns:
      A `Plan`.

    Raises:
      ValueError: there is no such run, a step or the weights are not stored, or the
        recipe is unknown or refuses its arguments.
    """
    config = config_file.read(workdir)
    run = _Run(workdir, config, _chosen_steps(workdir, steps), weights)
    sources, quality = specs.call(recipe, run.recipes, "recipe")
    least = _NEGLIGIBLE * max(abs(source.coefficient) for source in sources)
    sources = [source for source in sources if abs(source.coefficient) > least]
    sources.sort(key=lambda source: source.step)
    return Plan(str(workdir), recipe, tuple(sources), quality)


def merge(plan: Plan, place: jax.sharding.Sharding | None = None) -> Tree:
    """Sums the weights of a plan, one snapshot in memory at a time.

    Args:
      plan: from `plan`.
      place: the sharding of every leaf; one CPU device by default, whatever the run's
        devices were.

    Returns:
      The merged weights, float32.

    Raises:
      ValueError: the snapshots hold different models.
    """
    coefficients = [source.coefficient for source in plan.sources]
    return merging.merge(_trees(plan, place or _on_cpu()), coefficients)


def write(plan: Plan, out: str | os.PathLike) -> None:
    """Merges, and leaves a folder with config.json and the snapshot.

    The folder is as that of a run: its config is that of the source, without averages,
    and the snapshot's `meta` says under `merge` where it comes from.

    Args:
      plan: from `plan`.
      out: the folder, which must not be there.

    Raises:
      ValueError: `out` is there, or the snapshots hold different models.
    """
    check_out(out)
    before = snapshots.read_meta(plan.workdir, plan.step)
    meta = {"sequences": before["sequences"], "merge": plan.to_json()}
    snapshots.save_weights(out, plan.step, merge(plan), meta)
    config = config_file.read(plan.workdir) | {"averages": {}}
    path = pathlib.Path(out) / config_file.CONFIG_FILE
    path.write_text(json.dumps(config, indent=2) + "\n")


def check_out(out: str | os.PathLike) -> None:
    """Refuses a folder that is there and not empty, and so nothing is overwritten."""
    path = pathlib.Path(out)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"out={out!s} exists; a merge is written to a new folder")


class _Run:
    """The recipes for one run: each returns its sources and its quality."""

    def __init__(self, workdir, config, steps: list[int], weights: str):
        self._workdir, self._config = workdir, config
        self._steps, self._weights = steps, weights
        self.recipes = (
            self.uniform,
            self.linear,
            self.ema,
            self.from_decay,
            self.quadratic_accurate,
            self.given,
            self.window,
            self.synthesize,
        )

    def uniform(self):
        return self._merged(merging.uniform(len(self._steps)))

    def linear(self):
        return self._merged(merging.linear(len(self._steps)))

    def ema(self, alpha: float = 0.2):
        return self._merged(merging.ema(len(self._steps), alpha))

    def given(self, coefficients: Sequence[float]):
        return self._merged(merging.given(coefficients, len(self._steps)))

    def from_decay(self, shape: schedules.Shape, final_fraction: float = 0.0):
        return self._decayed(merging.from_decay, shape, final_fraction)

    def quadratic_accurate(self, shape: schedules.Shape, final_fraction: float = 0.0):
        return self._decayed(merging.quadratic_accurate, shape, final_fraction)

    def window(self, start: int, stop: int, limit: float = 1e-3):
        averages = self._config["averages"]
        named = [name for name in averages if averages[name]["name"] == "uniform"]
        if not named:
            raise ValueError(
                f"recipe 'window' needs a uniform average, and {self._workdir!s} "
                f"tracks {_listed(averages) or 'none'}"
            )
        sources = [self._source(step, named[0]) for step in (start, stop)]
        first, last = (source.step - source.start for source in sources)
        if sources[0].start != sources[1].start:
            raise ValueError(
                f"start={start!r} and stop={stop!r}: the average {named[0]} started "
                "anew between them"
            )
        tracking = self._config["tracking"]
        accuracy = {key: tracking[key] for key in ("every", "dtype", "compensated")}
        error = merging.window_error(first, last, **accuracy)
        if error > limit:
            # The worst case does not do; how far the weights are says more.
            accuracy["distance"] = _distance(self._workdir, stop, named[0])
            error = merging.window_error(first, last, **accuracy)
        coefficients = merging.window(first, last, limit=limit, **accuracy)
        return _with(sources, coefficients), {"error": error}

    def synthesize(
        self, target: Mapping[str, Any] | str, ridge: float = 0.0, limit: float = 0.05
    ):
        target = {"name": target} if isinstance(target, str) else target
        if not isinstance(target, Mapping):
            raise ValueError(f"target={target!r} must be dict(name=...) or a name")
        average = averaging.build({"target": target})["target"]
        sources = [
            self._source(step, name)
            for step in self._steps
            for name in snapshots.stored_weights(self._workdir, step)
            if name == "raw" or name in self._config["averages"]
        ]
        stored = [source.stored() for source in sources]
        start = self._config["branch"]["step"]
        wanted = merging.Stored(average, self._steps[-1], start=start)
        found = merging.synthesize(wanted, stored, ridge=ridge, limit=limit)
        reported = ("error", "condition", "amplification")
        quality = {key: getattr(found, key) for key in reported}
        return _with(sources, found.coefficients), quality

    def _merged(self, coefficients):
        sources = [self._source(step, self._weights) for step in self._steps]
        return _with(sources, coefficients), {}

    def _decayed(self, recipe, shape, final_fraction):
        gaps = np.diff(self._steps)
        if len(set(gaps.tolist())) > 1:
            raise ValueError(
                f"steps {_listed(self._steps)} must be evenly spaced, which every=K "
                "chooses"
            )
        n = len(self._steps)
        # Its value at count i is that of the shape at i / n.
        decay = schedules.cooldown(
            lambda count: 1.0,
            start=0,
            steps=n,
            shape=shape,
            final_fraction=final_fraction,
        )
        with jax.enable_x64(True):
            multipliers = [float(decay(count)) for count in range(1, n)]
        return self._merged(recipe(multipliers, n))

    def _source(self, step: int, name: str) -> Source:
        _require_steps(self._workdir, [step])
        count = snapshots.restore_count(self._workdir, step, name)
        if name == "raw":
            return Source(step, name, {"name": "latest"}, every=1, start=0)
        if name not in self._config["averages"]:
            raise ValueError(
                f"weights={name!r} of step {step} are not among the averages of "
                f"{self._workdir!s}: {_listed(self._config['averages']) or 'none'}"
            )
        spec = self._config["averages"][name]
        every = self._config["tracking"]["every"]
        return Source(step, name, spec, every=every, start=step - count)


def _chosen_steps(workdir, steps: Sequence[int] | None) -> list[int]:
    if steps is None:
        steps = snapshots.stored_steps(workdir)
    if not steps or list(steps) != sorted(set(steps)):
        raise ValueError(f"steps {_listed(steps) or 'none'} must be some, in order")
    _require_steps(workdir, steps)
    return list(steps)


def _require_steps(workdir, steps: Sequence[int]) -> None:
    stored = snapshots.stored_steps(workdir)
    for step in steps:
        if step not in stored:
            raise ValueError(
                f"{workdir!s} has no snapshot of step {step!r}; stored are "
                f"{_listed(stored) or 'none'}"
            )


def _trees(plan: Plan, place: jax.sharding.Sharding) -> Iterator[Tree]:
    for source in plan.sources:
        yield _restore(plan.workdir, source.step, source.weights, place)


def _restore(workdir, step: int, name: str, place: jax.sharding.Sharding) -> Tree:
    like = snapshots.weights_like(workdir, step, name, place)
    return snapshots.restore_weights(workdir, step, name, like)


def _on_cpu() -> jax.sharding.Sharding:
    return jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])


def _distance(workdir, step: int, name: str) -> float:
    """The distance of the weights to an average, relative to the average's norm."""
    raw, mean = (_restore(workdir, step, one, _on_cpu()) for one in ("raw", name))
    apart = total = 0.0
    for leaf, center in zip(*map(jax.tree.leaves, (raw, mean)), strict=True):
        center = np.asarray(center, np.float64)
        apart += np.sum((np.asarray(leaf, np.float64) - center) ** 2)
        total += np.sum(center**2)
    return math.sqrt(apart / total)


def _with(sources: Sequence[Source], coefficients: Sequence[float]) -> list[Source]:
    return [
        dataclasses.replace(source, coefficient=float(coefficient))
        for source, coefficient in zip(sources, coefficients, strict=True)
    ]


def _listed(values) -> str:
    return ", ".join(map(str, values))
