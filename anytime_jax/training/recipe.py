"""From a config, which is data, to everything that a run is made of.

All of it is checked here, before anything is compiled or written.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from anytime_jax import averaging, data, models, schedules
from anytime_jax.training import branches, durations, keys, sharding, state

# Weights on an old value, which must fade.
_DECAYS = ("b1", "b2", "b3", "decay", "momentum")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A run, ready to be compiled.

    Attributes:
      model: the pair of pure functions.
      optimizer: the optax transformation, tracking included.
      mesh: the devices.
      parameters: `dict(embedding=, non_embedding=)`, numbers of parameters.
      tokens_per_step: batch size in tokens.
      start_step: updates done before the first of this run; not 0 in a branch.
      total_steps: updates done at its end, those before the branch included.
      horizons: steps at which the model is evaluated on the larger set and kept; the
        last step is one of them.
      evaluations: steps at which the model is evaluated on the smaller set.
      branch_starts: in a trunk, the steps for cooldowns to branch off, 0.8 and 0.9 of
        each horizon.
      snapshot_every: steps between snapshots that are kept for good.
      latest_every: steps between those of which only the latest two are kept, 0 for
        none.
    """

    model: models.Model
    optimizer: optax.GradientTransformationExtraArgs
    mesh: jax.sharding.Mesh
    parameters: Mapping[str, int]
    tokens_per_step: int
    start_step: int
    total_steps: int
    horizons: tuple[int, ...]
    evaluations: tuple[int, ...]
    branch_starts: tuple[int, ...]
    snapshot_every: int
    latest_every: int

    def keeps(self, step: int) -> bool:
        """Returns whether the snapshot of a step is kept for good."""
        marked = step in self.horizons or step in self.branch_starts
        return marked or step % self.snapshot_every == 0

    def saves(self, step: int) -> bool:
        """Returns whether a snapshot is taken after a step."""
        latest = self.latest_every and step % self.latest_every == 0
        return self.keeps(step) or bool(latest)

    def resolved(self) -> dict[str, Any]:
        """Returns what the config's durations came to, for config.json."""
        return dict(
            parameters=dict(self.parameters),
            tokens_per_step=self.tokens_per_step,
            start_step=self.start_step,
            total_steps=self.total_steps,
            horizons=list(self.horizons),
            kept=sorted({*self.horizons, *self.branch_starts}),
            snapshot_every=self.snapshot_every,
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a config says about the course of a run: how long, at which rates.

    Attributes:
      model, parameters, tokens_per_step, start_step, total_steps, horizons: as in
        `Recipe`.
      schedule: the learning rate by count.
    """

    model: models.Model
    parameters: Mapping[str, int]
    tokens_per_step: int
    schedule: optax.Schedule
    start_step: int
    total_steps: int
    horizons: tuple[int, ...]


def plan(
    config: ml_collections.ConfigDict,
    *,
    model: models.Model | None = None,
    trunk: Mapping[str, Any] | None = None,
) -> Plan:
    """Plans a run from its config, whatever its data, optimizer and devices.

    Args:
      config: as `configs/tiny.py` documents it.
      model: what `config.model` makes, if it is there already.
      trunk: for a branch, what the config.json of its trunk will say; what it says by
        default.

    Returns:
      A `Plan`.

    Raises:
      ValueError: a value is not allowed; the message names its key, the value and what
        is.
    """
    config = keys.checked(config)
    model = model or models.build(config.model.to_dict())
    parameters = models.count_parameters(jax.eval_shape(model.init, jax.random.key(0)))
    tokens_per_step = config.batch_size * config.sequence_length
    scale = dict(
        tokens_per_step=tokens_per_step, non_embedding=parameters["non_embedding"]
    )
    spec, start_step, total_steps = _run_length(config, scale, trunk)
    schedule = schedules.build(spec, total_steps, tokens_per_step)
    horizons = durations.to_steps("horizons", config.horizons, several=True, **scale)
    horizons = {h for h in horizons if start_step < h < total_steps} | {total_steps}
    return Plan(
        model=model,
        parameters=parameters,
        tokens_per_step=tokens_per_step,
        schedule=schedule,
        start_step=start_step,
        total_steps=total_steps,
        horizons=tuple(sorted(horizons)),
    )


def build(config: ml_collections.ConfigDict) -> Recipe:
    """Builds a run from its config, and checks it against its data.

    Args:
      config: as `configs/tiny.py` documents it.

    Returns:
      A `Recipe`.

    Raises:
      ValueError: a value is not allowed; the message names its key, the value and what
        is.
    """
    config = keys.checked(config)
    made = assemble(config)
    check_evaluation(config, made.mesh)
    vocab_size = data.check(**config.data, sequence_length=config.sequence_length)
    if vocab_size > made.model.vocab_size:
        raise ValueError(
            f"model.vocab_size={made.model.vocab_size} must be at least the "
            f"{vocab_size} of the data, of data.source={config.data.source!r} and "
            f"data.tokenizer={config.data.tokenizer!r}"
        )
    return made


def assemble(
    config: ml_collections.ConfigDict, devices: list[jax.Device] | None = None
) -> Recipe:
    """Builds a run from its config, whatever its data.

    Args:
      config: as `configs/tiny.py` documents it.
      devices: those of the mesh; all by default.

    Returns:
      A `Recipe`, whose train step can be compiled; `check_evaluation` is still to be
      done.

    Raises:
      ValueError: as for `build`.
    """
    config = keys.checked(config)
    made = plan(config)
    mesh = sharding.make_mesh(**config.mesh, devices=devices)
    part = config.batch_size // config.accumulation
    sharding.check_batch("batch_size / accumulation", part, mesh)
    averages = averaging.build(config.averages.to_dict())
    averages |= dict.fromkeys(branches.frozen(config))
    optimizer = make_optimizer(config, made.schedule, averages)
    _check_state(config, made.model, optimizer, mesh)

    return Recipe(
        model=made.model,
        optimizer=optimizer,
        mesh=mesh,
        parameters=made.parameters,
        tokens_per_step=made.tokens_per_step,
        start_step=made.start_step,
        total_steps=made.total_steps,
        horizons=made.horizons,
        evaluations=_log_spaced(
            made.start_step + 1, made.total_steps, config.evaluation.points
        ),
        latest_every=config.snapshots.latest_every,
        **kept(config, made),
    )


def kept(config: ml_collections.ConfigDict, made: Plan) -> dict[str, Any]:
    """Returns which snapshots are kept for good, beside those of the horizons.

    Args:
      config: of a run.
      made: its plan.

    Returns:
      `branch_starts` and `snapshot_every`, as in `Recipe`.
    """
    starts = set()
    if schedules.horizon_free(config.schedule.name):
        starts = {h * tenths // 10 for h in made.horizons for tenths in (8, 9)}
    quarter = durations.TOKENS_PER_PARAMETER * made.parameters["non_embedding"] / 4
    every = config.snapshots.every or max(1, round(quarter / made.tokens_per_step))
    return dict(branch_starts=tuple(sorted(starts)), snapshot_every=every)


def check_evaluation(
    config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh
) -> None:
    """Refuses batches of the evaluation that cannot be split evenly over the mesh."""
    sharding.check_batch("evaluation.batch_size", config.evaluation.batch_size, mesh)


def make_optimizer(
    config: ml_collections.ConfigDict,
    schedule: optax.Schedule,
    averages: Mapping[str, averaging.Average | None],
) -> optax.GradientTransformationExtraArgs:
    """Makes the optimizer: clipping, the optax optimizer by name, the averages.

    Args:
      config: its `optimizer`, `clip_norm` and `tracking` are used.
      schedule: the learning rate.
      averages: by name; None for one that stays as it is.

    Returns:
      The transformation, whose state records the learning rate that was applied.

    Raises:
      ValueError: optax has no such optimizer, or it has not these arguments.
    """
    options = config.optimizer.to_dict()
    name = options.pop("name", None)
    factory = getattr(optax, str(name), None)
    arguments = inspect.signature(factory).parameters if callable(factory) else {}
    if "learning_rate" not in arguments:
        raise ValueError(
            f"optimizer.name={name!r} is not an optax optimizer with a learning rate, "
            "such as adam, adamw, lion, sgd"
        )
    static = [argument for argument in arguments if argument != "learning_rate"]
    for key, value in options.items():
        if key not in static:
            raise ValueError(
                f"optimizer.{key}={value!r} is not an argument of {name}; known are "
                f"{', '.join(static)}"
            )
        _check_option(key, value, arguments[key].default)
    inject = optax.inject_hyperparams(factory, static_args=static)
    inner = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        inject(learning_rate=schedule, **options),
    )
    try:
        return averaging.track(inner, averages, **config.tracking)
    except ValueError as error:
        raise ValueError(_named(error, config)) from error


def _check_option(key: str, value: Any, default: Any) -> None:
    """Refuses an optimizer's argument that is of another kind than its default."""
    number = isinstance(value, float | int) and not isinstance(value, bool)
    if value is None:
        return
    if isinstance(default, bool):
        good, allowed = isinstance(value, bool), "True or False"
    elif key in _DECAYS:
        good, allowed = number and 0 <= value < 1, "a number, at least 0 and below 1"
    elif number or isinstance(default, float | int):
        good, allowed = number and abs(value) < math.inf, "a finite number"
    else:
        return
    if not good:
        raise ValueError(f"optimizer.{key}={value!r} must be {allowed}")


def _log_spaced(first: int, last: int, points: int) -> tuple[int, ...]:
    """Different steps from first to last, log-spaced as far as whole numbers allow."""
    points = min(points, last - first + 1)
    steps, ideal = [first - 1], np.geomspace(first, last, points).tolist()
    for index, step in enumerate(ideal, 1):
        steps.append(min(max(steps[-1] + 1, round(step)), last - (points - index)))
    return tuple(steps[1:])


def _run_length(
    config: ml_collections.ConfigDict,
    scale: Mapping[str, int],
    trunk: Mapping[str, Any] | None,
) -> tuple[dict[str, Any], int, int]:
    """The schedule's spec, the first and the last step, those of a branch included."""
    spec = config.schedule.to_dict()
    branching = bool(config.branch.workdir)
    if branching != (spec.get("name") == "cooldown"):
        raise ValueError(
            f"branch.workdir={config.branch.workdir!r} and schedule.name="
            f"{spec.get('name')!r}: a branch has the schedule 'cooldown', and a "
            "cooldown has a branch.workdir to start from"
        )
    if not branching and (config.branch.step or config.branch.averages != "restart"):
        raise ValueError(
            f"branch={config.branch.to_dict()!r} needs the workdir of a trunk, and is "
            "left as it is in a run that is no branch"
        )
    if not branching:
        return spec, 0, durations.to_steps("duration", config.duration, **scale)
    return branches.plan(config, trunk)


def _named(error: Exception, config: ml_collections.ConfigDict) -> str:
    """The message, with the section of the option that it starts with."""
    option = str(error).partition("=")[0]
    return f"tracking.{error}" if option in config.tracking else str(error)


def _check_state(config, model, optimizer, mesh) -> None:
    """Traces the first update, so that what cannot be built or split is said now."""
    try:
        shapes = jax.eval_shape(lambda: state.init(model, optimizer, seed=0))
        update = functools.partial(optimizer.update, tokens=1)
        jax.eval_shape(update, shapes.params, shapes.optimizer, shapes.params)
    except Exception as error:  # Any: it is here that optax meets its options.
        message = _named(error, config)
        if not message.startswith("tracking."):
            options, [first, *_] = config.optimizer.to_dict(), message.splitlines()
            kind = type(error).__name__
            message = f"optimizer={options!r} cannot be used: {kind}: {first}"
        raise ValueError(message) from error
    sharding.shardings(mesh, shapes)
