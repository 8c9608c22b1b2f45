"""The file config.json of a run: the whole config as run, and what it came to."""

import importlib.metadata
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from anytime_jax import schedules
from anytime_jax.training import snapshots

CONFIG_FILE = "config.json"

# What may be different when a run is continued: it does not change the weights.
_MAY_CHANGE = (
    "data",  # Its tokens may not: see check_same_data.
    "duration",
    "horizons",
    "evaluation",
    "snapshots",
    "logging",
    "mesh",
)
_VERSIONS = ("anytime_jax", "jax", "flax", "optax", "orbax-checkpoint")


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns a config as JSON holds it.

    Args:
      config: the config.

    Raises:
      ValueError: JSON cannot express a value, such as a function.
    """

    def refuse(value):
        raise ValueError(f"config holds {value!r}, which config.json cannot express")

    return json.loads(json.dumps(config.to_dict(), default=refuse))


def read(workdir: str | os.PathLike) -> dict[str, Any]:
    """Returns the config.json of a run.

    Args:
      workdir: the run's folder.

    Raises:
      ValueError: there is no run in that folder.
    """
    path = pathlib.Path(workdir) / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{workdir!s} holds no run: there is no {path}")
    return json.loads(path.read_text())


def check_same_run(
    config: ml_collections.ConfigDict, total_steps: int, workdir: str | os.PathLike
) -> None:
    """Refuses to go on with a run that was started with another config.

    Args:
      config: the config now.
      total_steps: what its duration came to.
      workdir: the run's folder, which may be empty.

    Raises:
      ValueError: a value differs that would make it another run, or the length of a
        run whose schedule depends on it; or JSON cannot express the config.
    """
    now = to_json(config)
    if not (pathlib.Path(workdir) / CONFIG_FILE).exists():
        return
    before = read(workdir)
    for key in now:
        if key not in _MAY_CHANGE and before.get(key) != now[key]:
            raise ValueError(
                f"{key}={now[key]!r} differs from the run in {workdir!s}, which has "
                f"{before.get(key)!r}: use its value or another workdir"
            )
    stored = snapshots.stored_steps(workdir)
    if stored and total_steps < stored[-1]:
        raise ValueError(
            f"duration={total_steps} steps is less than the {stored[-1]} that the run "
            f"in {workdir!s} has done"
        )
    length, name = before["resolved"]["total_steps"], config.schedule.name
    if length != total_steps and not schedules.horizon_free(name):
        raise ValueError(
            f"duration={total_steps} steps differs from the {length} of the run in "
            f"{workdir!s}, and its schedule {name!r} depends on it: use its "
            "duration or another workdir"
        )


def check_same_data(description: Mapping[str, Any], workdir: str | os.PathLike) -> None:
    """Refuses to go on with a run, or to branch off one, on other tokens.

    Args:
      description: of the data now, with the SHA-256 of each split.
      workdir: the run's folder, which may be empty.

    Raises:
      ValueError: the tokens differ.
    """
    if not (pathlib.Path(workdir) / CONFIG_FILE).exists():
        return
    before = read(workdir)["resolved"]["data"]
    for split in ("train", "validation"):
        now, then = description[split]["sha256"], before[split]["sha256"]
        if now != then:
            raise ValueError(
                f"data: the {split} tokens, of SHA-256 {now[:12]}, differ from those "
                f"of the run in {workdir!s}, of SHA-256 {then[:12]}: the source, the "
                "tokenizer or the packages of the corpus have changed"
            )


def write(
    config: ml_collections.ConfigDict,
    resolved: Mapping[str, Any],
    workdir: str | os.PathLike,
) -> None:
    """Writes config.json: the config as run, and under `resolved` what it came to.

    Args:
      config: the config.
      resolved: what its durations came to, and what its data are.
      workdir: the run's folder, made if it is not there.
    """
    if jax.process_index() != 0:
        return
    versions = {name: importlib.metadata.version(name) for name in _VERSIONS}
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    resolved = {**resolved, "versions": versions, "devices": devices}
    content = to_json(config) | {"resolved": resolved}
    path = pathlib.Path(workdir) / CONFIG_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)
