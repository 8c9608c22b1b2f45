"""Merges of a run's snapshots: which, with what coefficients, and into which folder.

The recipes are those of `merge_recipes`.
"""

import collections
import ctypes
import dataclasses
import gc
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import jax
import numpy as np

from anytime_jax import specs
from anytime_jax.averaging import merging
from anytime_jax.training import (
    config_file,
    merge_recipes,
    metrics,
    sharding,
    snapshots,
    store,
    stored,
)
from anytime_jax.training.merge_recipes import (
    Source,
    choose,
    kernel,
    listed,
    require_steps,
    sources_of,
)

__all__ = [
    "Plan",
    "Source",
    "check_out",
    "choose",
    "kernel",
    "merge",
    "plan",
    "sources_of",
    "write",
]

Tree = Any

# Snapshots being read while one is summed: a leaf is read by one thread.
_AHEAD = 2

# Relative to the largest, a coefficient that is left over from rounding.
_NEGLIGIBLE = 1e-12


@dataclasses.dataclass(frozen=True)
class Plan:
    """A merge of which no weights have been summed yet.

    Attributes:
      workdir: the run's folder.
      recipe: as it was given.
      sources: from the oldest to the newest, those with a coefficient.
      quality: of `window` and `synthesize`: `error`, `condition`, `amplification`.
      span: the last updates that it is about: of a window its width, of snapshots their
        number times their distance; None for one snapshot, and for a synthesis.
    """

    workdir: str
    recipe: Mapping[str, Any]
    sources: tuple[Source, ...]
    quality: Mapping[str, float]
    span: int | None = None

    @property
    def step(self) -> int:
        """The step of the newest snapshot in it."""
        return self.sources[-1].step

    def kernel(self) -> np.ndarray:
        """Returns float64 [step + 1], the coefficients of theta_0 ... theta_step."""
        return kernel(self.sources)

    def to_json(self) -> dict[str, Any]:
        """Returns where the merge comes from; a function in it becomes its repr."""
        content = dataclasses.asdict(self) | {"step": self.step}
        return json.loads(json.dumps(content, default=repr))


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
      ValueError: there is no such run, a step or the weights are not stored, it is
        a merge, or the recipe is unknown or refuses its arguments.
    """
    config = config_file.read(workdir)
    _check_choices(recipe.get("name"), steps, weights)
    steps = _chosen_steps(workdir, steps)
    if "merge" in snapshots.read_meta(workdir, steps[-1]):
        # Its raw weights are no iterate, so what they remember would be wrong.
        raise ValueError(f"{workdir!s} is a merge itself; give the run it comes from")
    run = merge_recipes.Recipes(workdir, config, steps, weights)
    sources, quality = specs.call(recipe, run.all, "recipe")
    least = _NEGLIGIBLE * max(abs(source.coefficient) for source in sources)
    sources = [source for source in sources if abs(source.coefficient) > least]
    sources.sort(key=lambda source: source.step)
    span = _span(recipe, steps)
    return Plan(str(workdir), recipe, tuple(sources), quality, span)


def merge(plan: Plan, place: jax.sharding.Sharding | None = None) -> Tree:
    """Sums the weights of a plan: some leaves of one snapshot in memory at a time.

    Args:
      plan: from `plan`.
      place: the sharding of every leaf; one CPU device by default, whatever the run's
        devices were.

    Returns:
      The merged weights, float32 (or wider, if they are stored so).

    Raises:
      ValueError: the snapshots hold different models.
    """
    place = place or sharding.on_cpu()
    stored = [(plan.workdir, source.step, source.weights) for source in plan.sources]
    likes = [snapshots.weights_like(*one, place) for one in stored]
    for one in stored:
        snapshots.check_weights(*one, likes[-1])
    leaves, structure = jax.tree.flatten(likes[-1])
    coefficients = [source.coefficient for source in plan.sources]
    merged = [None] * len(leaves)
    for group in _groups(leaves):
        parts = merging.merge(_parts(stored, likes, group), coefficients)
        for index, leaf in zip(group, parts, strict=True):
            merged[index] = leaf
        del parts, leaf
    return structure.unflatten(merged)


def write(
    plan: Plan, out: str | os.PathLike, *, evaluate: bool = False
) -> float | None:
    """Merges, and leaves a folder with config.json and the snapshot.

    The folder is as that of a run: its config is that of the source, without averages.
    Where the merge comes from is under `merge` there and in the snapshot's `meta`. It
    appears when all that is in it is complete; what an interruption left beside it,
    under another name, the next try removes.

    Args:
      plan: from `plan`.
      out: the folder, which must not be there.
      evaluate: whether to evaluate the merge on the run's larger validation set, and to
        record it in metrics.jsonl as a run does at a horizon.

    Returns:
      The loss in nats per token, None if it is not evaluated.

    Raises:
      ValueError: `out` is there, the snapshots hold different models, or the run's
        tokens have changed.
    """
    check_out(out)
    if evaluate:
        stored.check_data(plan.workdir)
    out = pathlib.Path(out).absolute()
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        loss = _write(plan, partial, evaluate)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return loss


def check_out(out: str | os.PathLike) -> None:
    """Refuses a folder that is there and not empty, and so nothing is overwritten."""
    path = pathlib.Path(out)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"out={out!s} exists; a merge is written to a new folder")


def _write(plan: Plan, folder: pathlib.Path, evaluate: bool) -> float | None:
    origin = plan.to_json()
    before = snapshots.read_meta(plan.workdir, plan.step)
    meta = {"sequences": before["sequences"], "merge": origin}
    store.save_weights(folder, plan.step, merge(plan), meta)
    config = config_file.read(plan.workdir) | {"averages": {}, "merge": origin}
    text = json.dumps(config, indent=2) + "\n"
    (folder / config_file.CONFIG_FILE).write_text(text)
    if not evaluate:
        return None
    [loss] = stored.evaluate(folder, plan.step).values()
    writer = metrics.Writer(folder)
    writer.write_scalars(plan.step, {"horizon/loss/raw": loss})
    writer.close()
    return loss


def _span(recipe: Mapping[str, Any], steps: Sequence[int]) -> int | None:
    if recipe["name"] == "window":
        return recipe["stop"] - recipe["start"]
    if recipe["name"] == "synthesize" or len(steps) == 1:
        return None
    return round((steps[-1] - steps[0]) * len(steps) / (len(steps) - 1))


def _check_choices(name: str, steps: Sequence[int] | None, weights: str) -> None:
    """Refuses what a recipe that chooses for itself would leave unread."""
    if name in ("window", "synthesize") and weights != "raw":
        raise ValueError(
            f"average={weights!r} is not for {name}, which takes the averages it needs"
        )
    if name == "window" and steps is not None:
        raise ValueError(
            f"steps={listed(steps)} are not for window, which has a start and a stop"
        )


def _chosen_steps(workdir, steps: Sequence[int] | None) -> list[int]:
    if steps is None:
        steps = snapshots.stored_steps(workdir)
    if not steps or list(steps) != sorted(set(steps)):
        raise ValueError(
            f"steps={listed(steps) or 'none'} must be different steps, at least one, "
            "from the oldest to the newest"
        )
    require_steps(workdir, steps)
    return list(steps)


def _groups(leaves: Sequence[jax.ShapeDtypeStruct]) -> list[list[int]]:
    """Leaves of together at least an eighth of the whole: reading has a fixed cost.

    The largest come first, as long as little else is in memory.
    """
    least = sum(leaf.size for leaf in leaves) / 8
    groups, size = [[]], 0
    for index in sorted(range(len(leaves)), key=lambda index: -leaves[index].size):
        if size >= least:
            groups.append([])
            size = 0
        groups[-1].append(index)
        size += leaves[index].size
    return [sorted(group) for group in groups]


def _parts(
    stored: Sequence[tuple], likes: Sequence[Tree], group: Sequence[int]
) -> Iterator[list[jax.Array]]:
    """Some leaves of each snapshot, of which the next ones are read ahead."""
    with futures.ThreadPoolExecutor(_AHEAD) as pool:
        coming = collections.deque()
        for one, like in zip(stored, likes, strict=True):
            coming.append(pool.submit(_read, one, like, group))
            if len(coming) > _AHEAD:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def _trim() -> None:
    """Gives back what was freed; glibc would keep many megabytes for each thread."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _read(one: tuple, like: Tree, group: Sequence[int]) -> list[jax.Array]:
    leaves, structure = jax.tree.flatten(like)
    wanted = [leaf if i in group else ... for i, leaf in enumerate(leaves)]
    part = snapshots.restore_part(*one, structure.unflatten(wanted))
    gc.collect(1)  # What Orbax has read is also in cycles of references.
    _trim()
    return [leaf for leaf in jax.tree.leaves(part) if leaf is not ...]
