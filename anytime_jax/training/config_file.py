"""The file config.json of a run: the whole config as run, and what it came to."""

import importlib.metadata
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import ml_collections

from anytime_jax import schedules
from anytime_jax.training import snapshots

CONFIG_FILE = "config.json"

# What may be different when a run is continued: it changes neither the weights nor
# what a recorded loss means.
MAY_CHANGE = (
    "data",  # Its tokens may not: see check_same_data.
    "duration",
    "horizons",
    "evaluation.points",
    "evaluation.patience",
    "snapshots",
    "logging",
    "mesh",
    "shard_state",
    "nonfinite",
    "tracking.memory_kind",
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


def read_if_there(workdir: str | os.PathLike) -> dict[str, Any] | None:
    """Returns the config.json of a run, None if there is no run.

    Args:
      workdir: the run's folder.
    """
    return read(workdir) if (pathlib.Path(workdir) / CONFIG_FILE).is_file() else None


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
    last, _ = snapshots.newest_whole(workdir)
    if last is not None and not snapshots.has_optimizer(workdir, last):
        raise ValueError(
            f"workdir={workdir!s} is a merge, whose weights have no optimizer state to "
            "go on with: use another workdir"
        )
    # Averages may be added, and start where they are; only then are they settled.
    settled = () if last is None else snapshots.stored_weights(workdir, last)
    for content in (now, before):
        averages = content["averages"].items()
        content["averages"] = {name: a for name, a in averages if name in settled}
    difference = first_difference(now, before, may_change=MAY_CHANGE)
    if difference:
        key, new, old = difference
        raise ValueError(
            f"{key}={new!r} differs from the run in {workdir!s}, which has {old!r}: "
            "use its value or another workdir"
        )
    if last is not None and total_steps < last:
        raise ValueError(
            f"duration={total_steps} steps is less than the {last} that the run "
            f"in {workdir!s} has done"
        )
    length, name = before["resolved"]["total_steps"], config.schedule.name
    if length != total_steps and not schedules.horizon_free(name):
        raise ValueError(
            f"duration={total_steps} steps differs from the {length} of the run in "
            f"{workdir!s}, and its schedule {name!r} depends on it: use its "
            "duration or another workdir"
        )


def first_difference(
    now: Mapping[str, Any], before: Mapping[str, Any], may_change: Iterable[str] = ()
) -> tuple[str, Any, Any] | None:
    """Returns the first value in which two configs differ.

    Args:
      now: a config as JSON holds it.
      before: another one; of keys that only it has, those in sections of `now` count.
      may_change: keys and sections, such as `evaluation.points`, that do not count.

    Returns:
      The key, with dots, and its value in each of the two; None if there is none.
    """
    flat, flat_before = _flat(now), _flat({key: before.get(key) for key in now})
    for key in sorted(flat.keys() | flat_before.keys()):
        sections = [key.rsplit(".", n)[0] for n in range(key.count(".") + 1)]
        if set(sections).isdisjoint(may_change):
            values = flat.get(key), flat_before.get(key)
            if values[0] != values[1]:
                return key, *values
    return None


def kept_steps(workdir: str | os.PathLike) -> set[int]:
    """Returns the steps whose snapshots the run so far has promised to keep for good.

    Args:
      workdir: the run's folder, which may be empty.
    """
    if not (pathlib.Path(workdir) / CONFIG_FILE).exists():
        return set()
    resolved = read(workdir)["resolved"]
    every = resolved["snapshot_every"]
    stored = snapshots.stored_steps(workdir)
    return {*resolved["kept"], *(step for step in stored if step % every == 0)}


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
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    resolved = {**resolved, "versions": versions(), "devices": devices}
    content = to_json(config) | {"resolved": resolved}
    path = pathlib.Path(workdir) / CONFIG_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


def versions() -> dict[str, str]:
    """Returns the versions of the packages that a run depends on."""
    return {name: importlib.metadata.version(name) for name in _VERSIONS}


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    dot = f"{prefix}." if prefix else ""
    return {k: v for key in tree for k, v in _flat(tree[key], f"{dot}{key}").items()}
