"""The rates and the losses of a run of this package, from what it left on disk."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from anytime_jax import schedules


def read_config(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the config of a run as it ran.

    Args:
      folder: of the run.

    Raises:
      ValueError: there is none, or it is damaged.
    """
    path = folder / "config.json"
    config = _json(path, _text(path))
    for key in ("schedule", "resolved"):
        if not isinstance(config.get(key), dict):
            raise ValueError(f"{path} is not that of a run: it has no {key}")
    for key in ("total_steps", "tokens_per_step"):
        if key not in config["resolved"]:
            raise ValueError(f"{path} is not that of a run: it has no resolved.{key}")
    return config


def read_records(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the records of a run; a last line that was cut off is left out.

    Args:
      folder: of the run.

    Raises:
      ValueError: there are none, or one is damaged.
    """
    path = folder / "metrics.jsonl"
    found = [_json(path, line) for line in _text(path).split("\n")[:-1]]
    for i, record in enumerate(found):
        if type(record.get("step")) is not int:
            raise ValueError(f"{path} is damaged: line {i + 1} has no step")
    return found


def read_rates(folder: pathlib.Path, config: Mapping[str, Any]) -> np.ndarray:
    """Returns the rates of all updates of a run, those before a branch included.

    Args:
      folder: of the run.
      config: its config.

    Returns:
      float64 [total_steps].

    Raises:
      ValueError: the trunk of a branch is not where the config says.
    """
    spec, branch = dict(config["schedule"]), config.get("branch") or {}
    if branch.get("workdir"):
        trunk = _trunk_config(folder, branch["workdir"])
        spec |= dict(trunk=_schedule(trunk["schedule"], trunk), start=branch["step"])
    total = config["resolved"]["total_steps"]
    return schedules.rates(_schedule(spec, config), total, f"{folder}: schedule")


def _trunk_config(folder: pathlib.Path, workdir: str) -> dict[str, Any]:
    try:
        return read_config(pathlib.Path(workdir))
    except ValueError as error:
        raise ValueError(
            f"{folder}: branch.workdir={workdir!r} must be its trunk, from the folder "
            f"in which both were trained: {error}"
        ) from error


def _schedule(spec: Mapping[str, Any], config: Mapping[str, Any]):
    resolved = config["resolved"]
    return schedules.build(spec, resolved["total_steps"], resolved["tokens_per_step"])


def _text(path: pathlib.Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path.parent} holds no run: there is no {path}")
    return path.read_text()


def _json(path: pathlib.Path, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: {text:.40} must be an object")
    return found
