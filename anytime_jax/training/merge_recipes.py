"""Recipes of merges: from data and a run to sources with their coefficients.

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
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from anytime_jax import averaging, schedules
from anytime_jax.averaging import merging
from anytime_jax.training import branches, sharding, snapshots


@dataclasses.dataclass(frozen=True)
class Source:
    """A set of weights that enters a merge.

    Attributes:
      step: of its snapshot.
      weights: `raw` or the name of an average.
      average: its spec, `dict(name=..., ...)`; that of raw weights is `latest`.
      every: updates between the ticks of the average.
      start: updates done when the average started.
      tokens: of an update, or pairs of a number of updates and their tokens, if the
        average's time is in tokens; else 1.
      coefficient: how much of it enters.
    """

    step: int
    weights: str
    average: Mapping[str, Any]
    every: int
    start: int
    tokens: int | Sequence[Sequence[int]] = 1
    coefficient: float = 1.0

    def stored(self) -> merging.Stored:
        """Returns what its kernel follows from."""
        average = averaging.build({"average": self.average})["average"]
        tokens = self.tokens
        if not isinstance(tokens, int):
            tokens = tuple(map(tuple, tokens))
        return merging.Stored(average, self.step, self.every, self.start, tokens)


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
        given = dict(every=(every, 1), start=(start, 0), stop=(stop, None))
        limits = [f"{key}={value}" for key, (value, no) in given.items() if value != no]
        raise ValueError(
            f"latest={latest or 1} must be at most {len(chosen)}, which is what "
            f"{', '.join(limits) or 'there'} {'leave' if limits else 'is'} of the "
            f"stored steps {listed(steps) or 'none'}"
        )
    return chosen[-latest:] if latest else chosen


class Recipes:
    """The recipes for one run: each returns its sources and its quality.

    The coefficients are those of `averaging.merging`.

    Attributes:
      all: the recipes, for `specs.call`.
    """

    def __init__(self, workdir, config, steps: list[int], weights: str):
        self._workdir, self._config = workdir, config
        self._steps, self._weights = steps, weights
        self.all = (
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
        """The plain mean."""
        return self._merged(merging.uniform(len(self._steps)))

    def linear(self):
        """Weights that grow with the index."""
        return self._merged(merging.linear(len(self._steps)))

    def ema(self, alpha: float = 0.2):
        """An exponential average."""
        return self._merged(merging.ema(len(self._steps), alpha))

    def given(self, coefficients: Sequence[float]):
        """Coefficients by hand."""
        return self._merged(merging.given(coefficients, len(self._steps)))

    def from_decay(self, shape: schedules.Shape, final_fraction: float = 0.0):
        """Updates count as if the rate had decayed (WSM)."""
        return self._decayed(merging.from_decay, shape, final_fraction)

    def quadratic_accurate(self, shape: schedules.Shape, final_fraction: float = 0.0):
        """Imitates the decayed run (QAM)."""
        return self._decayed(merging.quadratic_accurate, shape, final_fraction)

    def window(self, start: int, stop: int, limit: float = 1e-3):
        """The mean of (start, stop], from a uniform average at both."""
        averages = self._config["averages"]
        kept = branches.frozen(self._config)
        named = [
            name
            for name in averages
            if averages[name]["name"] == "uniform" and name not in kept
        ]
        if not named:
            raise ValueError(
                f"recipe 'window' needs a uniform average, and {self._workdir!s} "
                f"tracks {listed(averages) or 'none'}"
            )
        sources = [self._source(step, named[0]) for step in (start, stop)]
        if sources[0].start != sources[1].start:
            raise ValueError(
                f"start={start!r} and stop={stop!r}: the average {named[0]} started "
                "anew between them"
            )
        first, last = (source.step - source.start for source in sources)
        tracking = self._config["tracking"]
        accuracy = {key: tracking[key] for key in ("every", "dtype", "compensated")}
        error = merging.window_error(first, last, **accuracy)
        if error > limit:
            # The worst case does not do; how far the weights are says more.
            accuracy["distance"] = _distance(self._workdir, stop, named[0])
            error = merging.window_error(first, last, **accuracy)
        tokens = sources[1].stored().tokens
        coefficients = merging.window(
            first, last, limit=limit, tokens=tokens, **accuracy
        )
        return _with(sources, coefficients), {"error": error}

    def synthesize(
        self,
        target: Mapping[str, Any] | str,
        ridge: float | None = None,
        limit: float = 0.05,
    ):
        """An average that was not tracked, at the last of the steps."""
        target = {"name": target} if isinstance(target, str) else target
        if not isinstance(target, Mapping):
            raise ValueError(f"target={target!r} must be dict(name=...) or a name")
        try:
            average = averaging.build({"target": target})["target"]
        except ValueError as error:
            raise ValueError(str(error).removeprefix("averages.")) from error
        sources = [
            self._source(step, name)
            for step in self._steps
            for name in snapshots.stored_weights(self._workdir, step)
            if name == "raw" or name in self._config["averages"]
            if name not in branches.frozen(self._config)
        ]
        stored = [source.stored() for source in sources]
        begin = first_step(self._config)
        tokens = branches.tokens_per_update(self._config, begin)
        wanted = merging.Stored(average, self._steps[-1], start=begin, tokens=tokens)
        dtype = self._config["tracking"]["dtype"]
        found = merging.synthesize(
            wanted, stored, ridge=ridge, limit=limit, dtype=dtype
        )
        reported = ("error", "condition", "amplification", "rounding", "ridge")
        quality = {key: getattr(found, key) for key in reported}
        return _with(sources, found.coefficients), quality

    def _source(self, step, name):
        return stored_source(self._workdir, self._config, step, name)

    def _merged(self, coefficients):
        sources = [self._source(step, self._weights) for step in self._steps]
        return _with(sources, coefficients), {}

    def _decayed(self, recipe, shape, final_fraction):
        n = len(self._steps)
        # Its value at count i is that of the shape at i / n.
        decay = schedules.cooldown(
            lambda count: 1.0,
            start=0,
            steps=n,
            shape=shape,
            final_fraction=final_fraction,
        )
        if len(set(np.diff(self._steps).tolist())) > 1:
            raise ValueError(
                f"steps={listed(self._steps)} must be evenly spaced; every=K chooses "
                "such"
            )
        with jax.enable_x64(True):
            multipliers = [float(decay(count)) for count in range(1, n)]
        return self._merged(recipe(multipliers, n))


def stored_source(workdir, config: Mapping[str, Any], step: int, name: str) -> Source:
    """Returns stored weights by name; they have to be there.

    Args:
      workdir: the run's folder.
      config: its config.json.
      step: of the snapshot.
      name: `raw` or the name of an average.

    Raises:
      ValueError: they are not there, or no average of the run is called so, or it was
        frozen, or updates were skipped.
    """
    require_steps(workdir, [step])
    count = snapshots.restore_count(workdir, step, name)
    if name == "raw":
        return Source(step, name, {"name": "latest"}, every=1, start=0)
    _require_all_updates(workdir, step, name)
    if name not in config["averages"]:
        raise ValueError(
            f"weights={name!r} of step {step} are not among the averages of "
            f"{workdir!s}: {listed(config['averages']) or 'none'}"
        )
    if name in branches.frozen(config):
        raise ValueError(
            f"the average {name!r} of {workdir!s} was frozen where it branched off; "
            f"take it from {config['branch']['workdir']!r}"
        )
    return _tracked_source(config, step, name, step - count)


def stored_kernel(
    workdir: str | os.PathLike, config: Mapping[str, Any], step: int, name: str
) -> np.ndarray:
    """Returns what stored weights remember, float64 [step + 1].

    Args:
      workdir: the run's folder.
      config: its config.json.
      step: of the snapshot.
      name: `raw` or the name of an average, which may be frozen.

    Raises:
      ValueError: as for `stored_source`.
    """
    if name not in branches.frozen(config):
        return kernel([stored_source(workdir, config, step, name)])
    # All is as it was where the branch started.
    last = config["branch"]["step"]
    _require_all_updates(workdir, step, name)
    count = snapshots.restore_count(workdir, step, name)
    source = _tracked_source(config, last, name, last - count)
    return np.append(kernel([source]), np.zeros(step - last))


def _tracked_source(config, step: int, name: str, start: int) -> Source:
    return Source(
        step,
        name,
        config["averages"][name],
        every=config["tracking"]["every"],
        start=start,
        tokens=branches.tokens_per_update(config, start),
    )


def first_step(config: Mapping[str, Any]) -> int:
    """Returns the step from which on a run's averages can know the weights."""
    branch = config["branch"]
    branches_off = branch["workdir"] and branch["averages"] != "continue"
    return branch["step"] if branches_off else 0


def require_steps(workdir: str | os.PathLike, steps: Sequence[int]) -> None:
    """Refuses steps that have no snapshot."""
    stored = snapshots.stored_steps(workdir)
    for step in steps:
        if step not in stored:
            raise ValueError(
                f"{workdir!s} has no snapshot of step {step!r}; stored are "
                f"{listed(stored) or 'none'}"
            )


def _require_all_updates(workdir, step: int, name: str) -> None:
    """Refuses an average whose ticks are not those that steps would tell."""
    skipped = snapshots.read_meta(workdir, step).get("skipped", {"total": 0})["total"]
    if skipped:
        raise ValueError(
            f"the average {name!r} of step {step} in {workdir!s} does not follow from "
            f"the steps, of which {skipped} were skipped (config.nonfinite): use raw"
        )


def _distance(workdir, step: int, name: str) -> float:
    """The distance of the weights to an average, relative to the average's norm."""
    stored = [(workdir, step, one) for one in ("raw", name)]
    raw, mean = (
        snapshots.restore_weights(*one, snapshots.weights_like(*one, sharding.on_cpu()))
        for one in stored
    )
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


def listed(values: Iterable[Any]) -> str:
    """Returns values for a message."""
    return ", ".join(map(str, values))
