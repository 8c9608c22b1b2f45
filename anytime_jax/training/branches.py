"""A run that branches off another one: what it takes from it, and whether it may."""

import copy
import os
from collections.abc import Mapping
from typing import Any

import ml_collections

from anytime_jax import schedules
from anytime_jax.training import config_file, snapshots

_FOREVER = 2**31 - 1  # updates

# What has to be as in the trunk: the weights and the optimizer's state go on.
_SAME = ("model", "optimizer", "sequence_length", "seed")


def plan(
    config: ml_collections.ConfigDict, trunk: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], int, int]:
    """Plans a branch: a cooldown that starts from the trunk's rate.

    Args:
      config: with `branch.workdir`.
      trunk: what the config.json there will say; what it says by default.

    Returns:
      The schedule's spec with its trunk, the first and the last step, those before the
      branch included.

    Raises:
      ValueError: it cannot go on from that run, or its length is not as it should be.
    """
    source = _source(config, trunk)
    start, steps = config.branch.step, config.schedule.get("steps")
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"schedule.steps={steps!r} must be a whole number, at least 1")
    if any(config.duration.values()):
        raise ValueError(
            f"duration={config.duration.to_dict()!r} must be left at 0 in a branch, "
            "whose length is schedule.steps"
        )
    resolved = source["resolved"]
    before = schedules.build(
        source["schedule"], resolved["total_steps"], resolved["tokens_per_step"]
    )
    spec = config.schedule.to_dict() | dict(trunk=before, start=start)
    return spec, start, start + steps


def check_snapshot(config: ml_collections.ConfigDict) -> None:
    """Refuses a branch from a step that the trunk has not stored whole.

    Args:
      config: with `branch.workdir`.

    Raises:
      ValueError: there is no such snapshot, or it is a merge.
    """
    source, step = config.branch.workdir, config.branch.step
    stored = snapshots.stored_steps(source)
    if step not in stored:
        raise ValueError(
            f"branch.step={step!r} has no snapshot in branch.workdir={source!r}; "
            f"stored are {', '.join(map(str, stored)) or 'none'}"
        )
    if not snapshots.has_optimizer(source, step):
        raise ValueError(
            f"branch.workdir={source!r} is a merge, whose weights have no optimizer "
            "state to go on with: branch off a run"
        )


def with_averages(
    config: ml_collections.ConfigDict, workdir: str | os.PathLike
) -> ml_collections.ConfigDict:
    """Returns a branch's config with the averages that it takes over from its trunk.

    With `branch.averages` "continue" or "freeze" these are the ones in the trunk's
    snapshot, beside those of the config itself; with "restart" there are none.
    `branch.trunk` tells which they are, and how many tokens an update took there.

    Args:
      config: of any run.
      workdir: its folder; a branch that has started keeps what it took then, whatever
        has become of its trunk.

    Returns:
      The config, with all of its averages.

    Raises:
      ValueError: they were tracked in another way.
    """
    choice, source = config.branch.averages, config.branch.workdir
    if not source or choice == "restart":
        return config
    before = config_file.read_if_there(workdir)
    if before and "trunk" in before["branch"]:
        trunk, averages = before["branch"]["trunk"], before["averages"]
    else:
        trunk, averages = _trunk(config), config_file.read(source)["averages"]
    taken, own = {n: averages[n] for n in trunk["averages"]}, config.averages.to_dict()
    for name in own.keys() & taken.keys():
        if own[name] != taken[name]:
            raise ValueError(
                f"averages.{name}={own[name]!r} differs from that of branch.workdir="
                f"{source!r}, which branch.averages={choice!r} takes over: "
                f"{taken[name]!r}"
            )
    config = copy.deepcopy(config).unlock()
    config.averages = taken | own
    config.branch.trunk = trunk
    return config.lock()


def taken_over(config: Mapping[str, Any]) -> set[str]:
    """Returns the names of the averages that a branch takes over from its trunk.

    Args:
      config: from `with_averages`, or from its config.json.
    """
    if not config["branch"]["workdir"] or config["branch"]["averages"] == "restart":
        return set()
    return set(config["branch"]["trunk"]["averages"])


def frozen(config: Mapping[str, Any]) -> set[str]:
    """Returns the names of the averages that a branch keeps as they are.

    Args:
      config: from `with_averages`, or from its config.json.
    """
    return taken_over(config) if config["branch"]["averages"] == "freeze" else set()


def tokens_per_update(
    config: Mapping[str, Any], start: int
) -> int | tuple[tuple[int, int], ...]:
    """Returns the time that an average of a run counts for each update.

    Args:
      config: the run's config.json.
      start: updates done when it started.

    Returns:
      1 if time is in steps; the tokens of an update, or, if the batch size changed at
      the branch, pairs of a number of updates and their tokens.
    """
    if config["tracking"]["time"] == "steps":
        return 1
    own, branch = config["resolved"]["tokens_per_step"], config["branch"]
    before = branch["step"] - start
    then = branch["trunk"]["tokens_per_step"] if before > 0 else own
    return own if own == then else ((before, then), (_FOREVER, own))


def _source(
    config: ml_collections.ConfigDict, trunk: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    """The trunk's config.json; it has to be a run that this one can go on from."""
    workdir = config.branch.workdir
    source = config_file.read(workdir) if trunk is None else trunk
    now = {key: config_file.to_json(config)[key] for key in _SAME}
    _refuse_difference(now, source, workdir)
    if source["branch"]["workdir"]:
        raise ValueError(
            f"branch.workdir={workdir!r} is a branch itself; give its trunk, "
            f"{source['branch']['workdir']!r}"
        )
    return source


def _trunk(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What a branch that starts takes over; it has to track in the same way."""
    workdir = config.branch.workdir
    source = config_file.read(workdir)
    now = {"tracking": config_file.to_json(config)["tracking"]}
    _refuse_difference(now, source, workdir)
    check_snapshot(config)
    stored = snapshots.stored_weights(workdir, config.branch.step)
    return dict(
        averages=[name for name in stored if name != "raw"],
        tokens_per_step=source["resolved"]["tokens_per_step"],
    )


def _refuse_difference(now, source, workdir) -> None:
    found = config_file.differences(
        now,
        {key: source.get(key) for key in now},
        may_change=config_file.MAY_CHANGE,
    )
    if found:
        raise ValueError(
            f"these differ from branch.workdir={workdir!r}: {config_file.listed(found)}"
        )
