"""The jobs of a sweep: the command of each, checked, and what it trains."""

import collections
import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from anytime_jax import averaging, models, schedules
from anytime_jax.commands import config_files, train
from anytime_jax.commands.errors import BadInput
from anytime_jax.training import budget, config_file, recipe

_TRAIN = ("python", "-m", "anytime_jax", "train")


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
      name: its folder below that of the sweep.
      command: the words that train it.
      schedule: the name of its schedule.
      after: the name of the trunk that a branch goes on after, else None.
      start_step: updates done before the first of its own.
      total_steps: updates done at its end.
      batch_size: sequences per step.
      tokens_per_step: their tokens.
      flops_per_step: of the matrix products in a step, as `plan` prints them.

    Example:
      >>> job = Job(name="exit", command=("python", "-m", "anytime_jax", "a folder"),
      ...           schedule="cooldown", after="trunk", start_step=90, total_steps=100,
      ...           batch_size=2, tokens_per_step=512, flops_per_step=10**9)
      >>> job.kind, job.steps, job.tokens
      ('branch', 10, 5120)
      >>> print(job.to_text())
      python -m anytime_jax 'a folder'
    """

    name: str
    command: tuple[str, ...]
    schedule: str
    after: str | None
    start_step: int
    total_steps: int
    batch_size: int
    tokens_per_step: int
    flops_per_step: int

    @property
    def steps(self) -> int:
        """Updates of its own."""
        return self.total_steps - self.start_step

    @property
    def tokens(self) -> int:
        """Tokens that it trains on itself."""
        return self.steps * self.tokens_per_step

    @property
    def flops(self) -> int:
        """Those of its own steps."""
        return self.steps * self.flops_per_step

    @property
    def kind(self) -> str:
        """What it is in the experiment: trunk, branch or envelope."""
        if self.after is not None:
            return "branch"
        return "trunk" if schedules.horizon_free(self.schedule) else "envelope"

    def to_text(self) -> str:
        """Returns the command as a shell reads it."""
        return shlex.join(self.command)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep.

    Attributes:
      jobs: a trunk comes before its branches.
      tokens_per_second: of one device, measured; None if nobody has.
      source: who measured it, and on what.
    """

    jobs: tuple[Job, ...]
    tokens_per_second: float | None
    source: str


def read(file: str, workdir: str | None, overrides: Sequence[str]) -> Sweep:
    """Reads the sweep of a config file, and checks every job of it.

    Args:
      file: a Python file with `get_sweep()`, as configs/anytime_150m.py has it.
      workdir: the folder of all jobs; that of the sweep by default.
      overrides: words `--config.KEY=VALUE` for all jobs.

    Returns:
      A `Sweep`.

    Raises:
      BadInput: the file has no sweep, or a job of it could not be trained.
    """
    found = config_files.load_sweep(file)
    try:
        entries = [_Entry(**entry) for entry in found["jobs"]]
        root = (workdir or found["workdir"]).rstrip("/")
        measured = found.get("tokens_per_second")
        if not entries or not (measured is None or 0 < measured < math.inf):
            raise BadInput(
                f"--config={file}: get_sweep returned {len(entries)} jobs and "
                f"tokens_per_second={measured!r}, and both have to be above 0"
            )
    except (AttributeError, KeyError, TypeError) as error:
        raise BadInput(
            f"--config={file}: get_sweep has to return what configs/anytime_150m.py "
            f"documents ({type(error).__name__}: {error})"
        ) from error
    names = collections.Counter(entry.name for entry in entries)
    if len(names) < len(entries):
        [(name, times), *_] = names.most_common(1)
        raise BadInput(f"--config={file}: {times} jobs are named {name}")
    maker = _Maker(file, root, overrides)
    jobs = tuple(map(maker.make, entries))
    return Sweep(jobs, measured, found.get("source", ""))


class _Entry(NamedTuple):
    """A job as a config file has it."""

    name: str
    variant: str
    overrides: Mapping[str, Any]
    after: str | None = None


class _Maker:
    """Makes jobs, and remembers the trunks that branches will go on after."""

    def __init__(self, file: str, root: str, overrides: Sequence[str]):
        self._file, self._root, self._overrides = file, root, overrides
        self._trunks: dict[str, tuple[ml_collections.ConfigDict, recipe.Plan]] = {}
        self._models: list[tuple[dict[str, Any], models.Model]] = []
        self._flops: dict[tuple[models.Model, int, int], int] = {}

    def make(self, entry: _Entry) -> Job:
        """Makes one job, whose command is read as `train` will read it."""
        command = self._command(entry)
        try:
            config = train.parse(command[len(_TRAIN) :]).config
            made = self._plan(config, entry.after)
        except (BadInput, ValueError) as error:
            what = f"--config={self._file}: job {entry.name}"
            raise BadInput(f"{what}: {error}") from error
        if entry.after is None:
            self._trunks[entry.name] = config, made
        return Job(
            name=entry.name,
            command=command,
            schedule=config.schedule.name,
            after=entry.after,
            start_step=made.start_step,
            total_steps=made.total_steps,
            batch_size=config.batch_size,
            tokens_per_step=made.tokens_per_step,
            flops_per_step=self._flops_per_step(made, config),
        )

    def _command(self, entry: _Entry) -> tuple[str, ...]:
        given = {key: _text(value) for key, value in entry.overrides.items()}
        if entry.after is not None:
            given["branch.workdir"] = f"{self._root}/{entry.after}"
        for word in self._overrides:
            key = word.partition("=")[0].removeprefix("--config.")
            if key in given:
                raise BadInput(f"{word}: job {entry.name} of the sweep sets that key")
        return (
            *_TRAIN,
            f"--config={self._file}:{entry.variant}",
            f"--workdir={self._root}/{entry.name}",
            *(f"--config.{key}={value}" for key, value in given.items()),
            *self._overrides,
        )

    def _plan(self, config: ml_collections.ConfigDict, after: str | None):
        """The plan of a job; a branch's needs no folder of its trunk."""
        trunk = None
        if after is not None:
            if after not in self._trunks:
                raise ValueError(f"after={after!r} must be a trunk listed before it")
            trunk = _as_written(*self._trunks[after])
            _check_start(config.branch.step, *self._trunks[after])
        model = self._model(config.model.to_dict())
        made = recipe.plan(config, model=model, trunk=trunk)
        averages = averaging.build(config.averages.to_dict())
        recipe.make_optimizer(config, made.schedule, averages)
        return made

    def _model(self, spec: dict[str, Any]) -> models.Model:
        """The model of a spec, the same for the same."""
        for known, model in self._models:
            if known == spec:
                return model
        self._models.append((spec, models.build(spec)))
        return self._models[-1][1]

    def _flops_per_step(self, made: recipe.Plan, config) -> int:
        size = made.model, config.batch_size, config.sequence_length
        if size not in self._flops:
            self._flops[size] = budget.matmul_flops(*size)
        return self._flops[size]


def _text(value: Any) -> str:
    """A value as it stands after `--config.KEY=`."""
    if isinstance(value, tuple | list) and value:
        return ",".join(map(str, value))  # In no need of quotes.
    return str(value)


def _as_written(config: ml_collections.ConfigDict, made: recipe.Plan) -> dict[str, Any]:
    """What of a trunk's config.json its branches ask for."""
    resolved = dict(total_steps=made.total_steps, tokens_per_step=made.tokens_per_step)
    return config_file.to_json(config) | dict(resolved=resolved)


def _check_start(start: int, config, made: recipe.Plan) -> None:
    """Refuses a branch from a step that its trunk does not keep."""
    steps = recipe.kept(config, made)
    marked = {*steps["branch_starts"], *made.horizons}
    regular = 0 < start <= made.total_steps and start % steps["snapshot_every"] == 0
    if start not in marked and not regular:
        raise ValueError(f"branch.step={start} is no step that its trunk keeps")
