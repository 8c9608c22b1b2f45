"""Where a run starts: its own latest snapshot, a branch's, or a fresh model."""

import os
from collections.abc import Iterable
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

    1. The run's own latest snapshot. Averages that it does not have, because the config
       gained them since, start from its weights.
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
    """
    stored = snapshots.stored_steps(workdir)
    if stored:
        step = stored[-1]
        there = snapshots.stored_weights(workdir, step)
        late = [name for name in config.averages if name not in there]
        if late:
            hosts.say(
                f"not in the snapshot of step {step}, and starting from its weights: "
                f"averages {', '.join(late)}"
            )
        current, meta = _restore(config, workdir, step, like, there)
        return current, step, meta
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
