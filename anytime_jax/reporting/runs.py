"""What a run left on disk, and what it has to say at a horizon.

Only `config.json` and `metrics.jsonl` are read, and the names of the snapshots, so that
runs can be reported where they cannot be trained.
"""

import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

TRUNKS = ("constant", "inverse_sqrt", "power_decay", "infinite", "power_scheduler")

# What may differ between runs that are repetitions of each other. The length of a run
# is not in it: runs are only ever put together at the same step.
_NOT_IN_SETTING = (
    "branch",
    "duration",
    "evaluation",
    "horizons",
    "logging",
    "mesh",
    "resolved",
    "seed",
    "snapshots",
)

_TRACKED = ("averages", "tracking")

_NEEDED = (
    "averages",
    "branch.step",
    "branch.workdir",
    "data.source",
    "evaluation.batch_size",
    "evaluation.horizon_batches",
    "model.name",
    "resolved.data.validation",
    "resolved.devices",
    "resolved.horizons",
    "resolved.parameters.non_embedding",
    "resolved.tokens_per_step",
    "resolved.total_steps",
    "resolved.versions",
    "schedule.name",
    "seed",
    "sequence_length",
)
_NEEDED_IN_MERGE = (
    "merge.quality",
    "merge.recipe.name",
    "merge.sources",
    "merge.span",
    "merge.step",
    "merge.workdir",
)

# A merge is made of what is stored, and that need not be the horizon itself.
_AT_HORIZON = 0.99


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A run, as it is on disk.

    Attributes:
      folder: where it is, with nothing relative left in it.
      config: its config.json.
      last_step: updates done at its last record; 0 if it has none.
      curves: by name of the weights (`raw`, `ema25`, ...), the loss on the small set by
        step, in nats per token.
      losses: the same on the larger set, at horizons. These are the ones to compare.
      snapshots: the steps that have one, in order.
    """

    folder: pathlib.Path
    config: Mapping[str, Any]
    last_step: int
    curves: Mapping[str, Mapping[int, float]]
    losses: Mapping[str, Mapping[int, float]]
    snapshots: tuple[int, ...] = ()

    @property
    def schedule(self) -> str:
        """The name of the schedule."""
        return self.config["schedule"]["name"]

    @property
    def seed(self) -> int:
        """The seed."""
        return self.config["seed"]

    @property
    def total_steps(self) -> int:
        """Updates done at the end, those before a branch included."""
        return self.config["resolved"]["total_steps"]

    @property
    def tokens_per_step(self) -> int:
        """Batch size in tokens."""
        return self.config["resolved"]["tokens_per_step"]

    @property
    def non_embedding(self) -> int:
        """Parameters of the model without its embedding and head."""
        return self.config["resolved"]["parameters"]["non_embedding"]

    @property
    def merge(self) -> Mapping[str, Any] | None:
        """What a merge is made of; None if it is none."""
        return self.config.get("merge")

    @property
    def trunk(self) -> pathlib.Path | None:
        """The folder of the run that a branch or a merge is of; None for neither."""
        source = (self.merge or self.config["branch"])["workdir"]
        return pathlib.Path(source).resolve() if source else None

    @property
    def role(self) -> str:
        """`trunk`, `merge`, `branch` or `fixed`."""
        if self.merge:
            return "merge"
        if self.trunk:
            return "branch"
        return "trunk" if self.schedule in TRUNKS else "fixed"

    @property
    def exits(self) -> dict[str, dict[int, float]]:
        """By name, the losses by step that the run contributes to a comparison.

        A trunk gives all its weights at all horizons; a merge its weights at the
        horizon that it is for, which may be up to a hundredth after its last snapshot;
        every other run gives its raw weights at its end, and nothing before; and a
        branch its averages there too, unless they are frozen: those are the trunk's.
        """
        if self.role == "trunk":
            names = sorted(self.losses, key=self._memory)
            return {name: dict(self.losses[name]) for name in names}
        if self.merge:
            end = {self._horizon(k): v for k, v in self._raw().items()}
            return {"raw": end} if end else {}
        step = self.total_steps
        if step not in self._raw():
            return {}
        names = ["raw"]
        if self.role == "branch" and self.averages_kind != "freeze":
            names = sorted(self.losses, key=self._memory)
        ends = {name: self.losses[name] for name in names}
        return {name: {step: end[step]} for name, end in ends.items() if step in end}

    @property
    def averages_kind(self) -> str:
        """What a branch does with its trunk's averages; "restart" in older runs."""
        return self.config["branch"].get("averages", "restart")

    @property
    def tracked(self) -> dict[str, Any]:
        """What the run was given that leaves its raw weights as they are."""
        given = {key: self.config.get(key) for key in _TRACKED}
        return given | {"branch.averages": self.averages_kind}

    @functools.cached_property
    def setting(self) -> str:
        """What the run was given, but for its seed and length, as a key to group by.

        What a branch or a merge tracks is not in it either: its weights are the same.
        """
        kept = {k: v for k, v in self.config.items() if k not in _NOT_IN_SETTING}
        if self.trunk:
            kept = {k: v for k, v in kept.items() if k not in _TRACKED}
            # A cooldown is the same at another horizon if it takes the same share.
            share = self.total_steps - self.config["branch"]["step"]
            percent = round(100 * share / self.total_steps)
            kept["schedule"] = {**kept["schedule"], "steps": f"{percent}%"}
        return json.dumps(kept, sort_keys=True)

    def _horizon(self, step: int) -> int:
        """The horizon that a merge is for; its own step if none is near."""
        horizons = self.config["resolved"]["horizons"]
        near = [one for one in horizons if _AT_HORIZON * one <= step <= one]
        return min(near, default=step)

    def _raw(self) -> Mapping[int, float]:
        return self.losses.get("raw", {})

    def _memory(self, name: str) -> tuple[float, str]:
        if name == "raw":
            return -1.0, name
        spec = self.config["averages"].get(name, {})
        return mean_age(spec, self.total_steps), name


def read(workdir: str | os.PathLike) -> Run:
    """Reads a run.

    Args:
      workdir: the run's folder. The run need not be complete, and a last line of
        `metrics.jsonl` that was cut off is left out.

    Returns:
      A `Run`.

    Raises:
      ValueError: the folder holds no run, or a file in it is damaged.
    """
    folder = pathlib.Path(workdir)
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no run: there is no {path}")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    is_merge = isinstance(config, dict) and "merge" in config
    for key in (*_NEEDED, *(_NEEDED_IN_MERGE if is_merge else ())):
        node = config
        for part in key.split("."):
            if not isinstance(node, dict) or part not in node:
                raise ValueError(f"{path} is not that of a run: it has no {key}")
            node = node[part]
    records = _records(folder / "metrics.jsonl")
    return Run(
        folder=folder.resolve(),
        config=config,
        last_step=max((record["step"] for record in records), default=0),
        curves=_series(records, "eval/loss/"),
        losses=_series(records, "horizon/loss/"),
        snapshots=_snapshots(folder / "snapshots"),
    )


def mean_age(spec: Mapping[str, Any], steps: int) -> float:
    """Returns how old what an average remembers is, as a fraction of the run so far.

    An average that remembers theta_i in proportion to i^gamma has mean age
    1 / (gamma + 2); `age_ema` has gamma = divisor ln 2 - 1.

    Args:
      spec: `dict(name=..., ...)`, as in the config.
      steps: length of the run.

    Returns:
      A number from 0, the newest weights, to 1, which an unknown average gets.

    Example:
      >>> mean_age(dict(name="uniform"), steps=1000)
      0.5
    """
    match {key: value for key, value in spec.items() if value is not None}:
        case {"name": "latest"}:
            return 0.0
        case {"name": "uniform"}:
            return 1 / 2
        case {"name": "age_ema", "divisor": divisor}:
            return 1 / (divisor * math.log(2) + 1)
        case {"name": "power", "gamma": gamma}:
            return 1 / (gamma + 2)
        case {"name": "power", "sigma_rel": sigma_rel}:
            # Karras et al., 2023, arXiv 2312.02696, appendix C, solved for gamma:
            # sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)).
            share = sigma_rel**-2
            gamma = np.roots([1, 7, 16 - share, 12 - share]).real.max()
            return 1 / (float(gamma) + 2)
        case {"name": "polynomial", "eta": eta}:
            return 1 / (eta + 2)
        case {"name": "ema", "decay": decay}:
            return min(1 / ((1 - decay) * steps), 1 / 2) if decay < 1 else 1.0
        case {"name": "tail", "start": start}:
            return max(steps - start, 0) / (2 * steps)
    return 1.0


def names(runs: Sequence[Run]) -> dict[Run, str]:
    """Returns the shortest ends of the runs' folders that tell them apart.

    Args:
      runs: in different folders.

    Returns:
      A name for each run: its folder's, with as many parents as are needed.
    """
    parts = {run: run.folder.parts for run in runs}
    found = {}
    for run, mine in parts.items():
        length = 1
        while any(
            other[-length:] == mine[-length:] and other != mine
            for other in parts.values()
        ):
            length += 1
        found[run] = "/".join(mine[-length:])
    return found


def _records(path: pathlib.Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    # What follows the last newline is nothing, or a line that was cut off.
    lines = path.read_text(errors="replace").split("\n")[:-1]
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _snapshots(folder: pathlib.Path) -> tuple[int, ...]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return tuple(sorted(int(name) for name in names if name.isdecimal()))


def _series(records: list[dict], prefix: str) -> dict[str, dict[int, float]]:
    """By what follows the prefix, values by step in ascending order."""
    series: dict[str, dict[int, float]] = {}
    for record in sorted(records, key=lambda record: record["step"]):
        for key, value in record.items():
            if key.startswith(prefix):
                series.setdefault(key.removeprefix(prefix), {})[record["step"]] = value
    return series
