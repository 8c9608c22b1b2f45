"""The file config.json of a run: the whole config as run, and what it came to."""

import importlib.metadata
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from anytime_jax import schedules
from anytime_jax.training import keys, snapshots, verifying

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
# What is read of it later, of `resolved` too; other keys are only compared.
_NEEDED = (
    "averages",
    "branch.step",
    "branch.workdir",
    "data",
    "evaluation.batch_size",
    "evaluation.horizon_batches",
    "mesh",
    "model",
    "schedule",
    "seed",
    "sequence_length",
    "tracking.dtype",
    "tracking.every",
    "tracking.time",
    "resolved.kept",
    "resolved.snapshot_every",
    "resolved.tokens_per_step",
    "resolved.total_steps",
)
Difference = tuple[str, Any, Any]  # A key, its value now, and the one before.

_SPLITS = ("train", "validation")
_VERSIONS = ("anytime_jax", "jax", "flax", "optax", "orbax-checkpoint")


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns a config as JSON holds it.

    Args:
      config: the config.

    Raises:
      ValueError: JSON cannot express a value, such as a function.
    """

    def number(value):
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError

    content = config.to_dict()
    for key, value in _flat(content).items():
        try:
            json.dumps(value, default=number)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{key}={value!r} is something that config.json cannot express"
            ) from error
    return json.loads(json.dumps(content, default=number))


def read(workdir: str | os.PathLike) -> dict[str, Any]:
    """Returns the config.json of a run.

    Args:
      workdir: the run's folder.

    Raises:
      ValueError: there is no run in that folder, its config.json is damaged, or it has
        a format that this version does not know.
    """
    path = pathlib.Path(workdir) / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{workdir!s} holds no run: there is no {path}")
    try:
        content = json.loads(path.read_bytes())
        version = content["resolved"].get("format", 1)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: it is not what a run writes") from error
    if version not in verifying.READS:
        raise ValueError(
            f"{path} has format {version!r}; this version of anytime_jax reads "
            f"{' and '.join(map(str, verifying.READS))}"
        )
    _require(content, _NEEDED, path)
    if "data" in content["resolved"]:
        hashes = [f"resolved.data.{split}.sha256" for split in _SPLITS]
        _require(content, hashes, path)
    return content


def read_if_there(workdir: str | os.PathLike) -> dict[str, Any] | None:
    """Returns the config.json of a run, None if there is no run.

    Args:
      workdir: the run's folder.
    """
    return read(workdir) if (pathlib.Path(workdir) / CONFIG_FILE).is_file() else None


def check_same_run(
    config: ml_collections.ConfigDict, total_steps: int, workdir: str | os.PathLike
) -> list[Difference]:
    """Refuses to go on with a run that was started with another config.

    Args:
      config: the config now.
      total_steps: what its duration came to.
      workdir: the run's folder, which may be empty.

    Returns:
      What differs and may.

    Raises:
      ValueError: values differ that would make it another run, or the length of a run
        whose schedule depends on it; or JSON cannot express the config.
    """
    now = to_json(config)
    if not (pathlib.Path(workdir) / CONFIG_FILE).exists():
        return []
    before = keys.DEFAULTS | read(workdir)
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
    refused = differences(now, before, may_change=MAY_CHANGE)
    if refused:
        raise ValueError(
            f"these differ from the run in {workdir!s}: {listed(refused)}; use its "
            "values or another workdir"
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
    return differences(now, before)


def differences(
    now: Mapping[str, Any], before: Mapping[str, Any], may_change: Iterable[str] = ()
) -> list[Difference]:
    """Returns the values in which two configs differ.

    Args:
      now: a config as JSON holds it, or some of its sections.
      before: another one, whose `resolved` does not count.
      may_change: keys and sections, such as `evaluation.points`, that do not count.

    Returns:
      For each, by its key: the key, with dots, and its value in each of the two, None
      for a key that one of them does not have.

    Example:
      >>> differences(dict(mesh=dict(data=2), seed=1), dict(mesh=dict(data=4), seed=1))
      [('mesh.data', 2, 4)]
    """
    flat = _flat(now)
    flat_before = _flat({k: v for k, v in before.items() if k != "resolved"})
    found = []
    for key in sorted(flat.keys() | flat_before.keys()):
        sections = [key.rsplit(".", n)[0] for n in range(key.count(".") + 1)]
        values = flat.get(key), flat_before.get(key)
        if set(sections).isdisjoint(may_change) and values[0] != values[1]:
            found.append((key, *values))
    return found


def listed(found: Sequence[Difference]) -> str:
    """Returns differences in words.

    Args:
      found: from `differences`.

    Example:
      >>> listed([("seed", 1, 0), ("batch_size", 16, 8)])
      'seed=1 (was 0), batch_size=16 (was 8)'
    """
    return ", ".join(f"{key}={now!r} (was {then!r})" for key, now, then in found)


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
    before = read(workdir)
    _require(before, ["resolved.data"], pathlib.Path(workdir) / CONFIG_FILE)
    now, then = _tokens(description), _tokens(before["resolved"]["data"])
    for split in now:
        if now[split] != then[split]:
            raise ValueError(
                f"data: the {split} tokens, of SHA-256 {now[split][:12]}, differ from "
                f"those of the run in {workdir!s}, of SHA-256 {then[split][:12]}: the "
                "source, the tokenizer or the packages of the corpus have changed"
            )


def write(
    config: ml_collections.ConfigDict,
    resolved: Mapping[str, Any],
    workdir: str | os.PathLike,
) -> None:
    """Writes config.json: the config as run, and under `resolved` what it came to.

    Where the tokens are not those of the config.json that it replaces, `data_before`
    keeps the descriptions of all that the run has seen.

    Args:
      config: the config.
      resolved: what its durations came to, and what its data are.
      workdir: the run's folder, made if it is not there.
    """
    if jax.process_index() != 0:
        return
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    resolved = {
        "format": verifying.FORMAT,
        **resolved,
        **_data_before(resolved, workdir),
        "versions": versions(),
        "devices": devices,
    }
    content = to_json(config) | {"resolved": resolved}
    path = pathlib.Path(workdir) / CONFIG_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


def versions() -> dict[str, str]:
    """Returns the versions of the packages that a run depends on."""
    return {name: importlib.metadata.version(name) for name in _VERSIONS}


def _data_before(
    resolved: Mapping[str, Any], workdir: str | os.PathLike
) -> dict[str, list]:
    """What the run's earlier steps have been trained on, if on other tokens."""
    before = (read_if_there(workdir) or {"resolved": {}})["resolved"]
    described = before.get("data_before", [])
    if "data" in before and _tokens(before["data"]) != _tokens(resolved["data"]):
        described = [*described, before["data"]]
    return {"data_before": described} if described else {}


def _tokens(description: Mapping[str, Any]) -> dict[str, str]:
    return {split: description[split]["sha256"] for split in _SPLITS}


def _require(content: Any, needed: Iterable[str], path: pathlib.Path) -> None:
    """Refuses a config.json in which a key with dots is missing."""
    for key in needed:
        node = content
        for part in key.split("."):
            if not isinstance(node, Mapping) or part not in node:
                raise ValueError(f"{path} is damaged: it has no {key}")
            node = node[part]


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    dot = f"{prefix}." if prefix else ""
    return {k: v for key in tree for k, v in _flat(tree[key], f"{dot}{key}").items()}
