"""Where a run starts: its own newest whole snapshot, a branch's, or a fresh model."""

import functools
import os
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import ml_collections

from anytime_jax import averaging
from anytime_jax.training import branches, hosts, recipe, snapshots, state


def start(
    config: ml_collections.ConfigDict,
    recipe: recipe.Recipe,
    workdir: str | os.PathLike,
    like: state.TrainState,
) -> tuple[state.TrainState, int, dict[str, Any]]:
    """Returns the state to go on from.

    1. The run's own newest snapshot that is whole. One that is damaged is named in a
       warning and becomes `STEP.damaged`. Averages that it does not have, because the
       config gained them since, start from its weights.
    2. A branch: weights and optimizer of the named step of another run, and its
       averages if they are taken over. All others start from its weights.
    3. A fresh model.

    Args:
      config: the config.
      recipe: what `recipe.build` made of it.
      workdir: the run's folder.
      like: shapes, dtypes and shardings of the state.

    Returns:
      The state, its step, and what its snapshot says of itself, above all the
      `sequences` consumed until then.

    Raises:
      Damaged: there are snapshots, and none is whole; or that of the branch is not.
      ValueError: a snapshot is of an unknown format, or of another model or optimizer.
    """
    found = _own(config, workdir, like)
    if found:
        return found
    if config.branch.workdir:
        source, step = config.branch.workdir, config.branch.step
        taken = branches.taken_over(config)
        current, meta = _restore(config, source, step, like, taken)
        return current, step, meta
    fresh = jax.jit(
        lambda: state.init(recipe.model, recipe.optimizer, config.seed),
        out_shardings=_layout(like),
    )
    return fresh(), 0, {"sequences": 0}


def _own(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    like: state.TrainState,
) -> tuple[state.TrainState, int, dict[str, Any]] | None:
    """The run's own newest whole snapshot; all processes choose the same."""
    damaged = {}
    while True:
        step, problems = hosts.from_first(
            functools.partial(_choose, workdir, list(damaged.items()))
        )
        damaged = dict(problems)
        if step is None:
            return None
        there = snapshots.stored_weights(workdir, step)
        try:
            current, meta = _restore(config, workdir, step, like, there)
        except snapshots.Damaged as error:
            damaged[step] = str(error)
            continue
        # Only now that there is another one: without any, a run would start afresh.
        hosts.from_first(functools.partial(_set_aside, workdir, damaged, step))
        late = [name for name in config.averages if name not in there]
        if late:
            hosts.say(
                f"not in the snapshot of step {step}, and starting from its weights: "
                f"averages {', '.join(late)}"
            )
        return current, step, meta


def _choose(
    workdir: str | os.PathLike, damaged: list[tuple[int, str]]
) -> tuple[int | None, list[tuple[int, str]]]:
    """As JSON has it, which knows no whole numbers for keys."""
    step, problems = snapshots.newest_whole(workdir, dict(damaged))
    return step, list(problems.items())


def _set_aside(
    workdir: str | os.PathLike, damaged: Mapping[int, str], step: int
) -> None:
    """Orbax would not save a step that is earlier than its latest one."""
    for one, problem in damaged.items():
        name = snapshots.set_aside(workdir, one)
        hosts.say(f"{problem}; it is now {name}, and the run goes on from step {step}")


def _restore(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    step: int,
    like: state.TrainState,
    names: Iterable[str],
) -> tuple[state.TrainState, dict[str, Any]]:
    """A snapshot with some of its averages; the others start from its weights."""
    _, averages = averaging.detach(like.optimizer)
    kept = {name: averages[name] for name in averages if name in names}
    part = like._replace(optimizer=averaging.attach(like.optimizer, kept))
    current, meta = snapshots.restore(workdir, step, part)
    if len(kept) == len(averages):
        return current, meta
    options = {key: value for key, value in config.tracking.items() if key != "every"}
    started = {
        name: averaging.start(current.params, **options)
        for name in averages
        if name not in kept
    }
    _, restored = averaging.detach(current.optimizer)
    optimizer = averaging.attach(current.optimizer, restored | started)
    current = current._replace(optimizer=optimizer)
    return jax.device_put(current, _layout(like)), meta


def _layout(like: state.TrainState) -> state.TrainState:
    return jax.tree.map(lambda leaf: leaf.sharding, like)
