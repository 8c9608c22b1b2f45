"""Everything that can be wrong with a run, checked before anything is written."""

import dataclasses
import os
import pathlib

import jax
import ml_collections

from anytime_jax import data
from anytime_jax.training import branches, config_file, hosts, keys, snapshots
from anytime_jax.training import recipe as recipe_lib


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run of which all is checked and nothing is compiled or written."""

    config: ml_collections.ConfigDict
    workdir: str | os.PathLike
    recipe: recipe_lib.Recipe
    dataset: data.Dataset


def prepare(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    changed_data: bool = False,
) -> Prepared:
    """Checks everything that can be wrong with a run, and opens its data.

    Several processes go on only if none of them finds anything and all have the same.

    Args:
      config: as `configs/tiny.py` documents it.
      workdir: the run's folder, which is only read.
      changed_data: whether to go on with a run, or to branch off one, although its
        tokens are not those that it was trained on.

    Returns:
      What `run` takes.

    Raises:
      ValueError: one line that names the key, its value and what is allowed.
    """
    prepared, problem = None, None
    try:
        prepared = _prepare(config, workdir, changed_data)
    except ValueError as error:
        problem = error
    if problem and jax.process_count() == 1:
        raise problem
    hosts.agree(str(problem or ""))
    given = config_file.to_json(prepared.config).items()
    hosts.check_same(
        **{f"config.{key}": value for key, value in given},
        data=prepared.dataset.description,
        versions=config_file.versions(),
        workdir=os.fspath(workdir),
    )
    return prepared


def _prepare(
    config: ml_collections.ConfigDict, workdir: str | os.PathLike, changed_data: bool
) -> Prepared:
    _check_address("workdir", workdir)
    _check_folder(workdir)
    config = keys.checked(config)
    _check_address("branch.workdir", config.branch.workdir)
    config = branches.with_averages(config, workdir)
    recipe = recipe_lib.build(config)
    changed = config_file.check_same_run(config, recipe.total_steps, workdir)
    if config.branch.workdir and not snapshots.stored_steps(workdir):
        branches.check_snapshot(config)
    dataset = _load_data(config)
    for run_before in filter(None, (workdir, config.branch.workdir)):
        _check_data(dataset, run_before, changed_data)
    if changed:
        hosts.say(f"going on with {config_file.listed(changed)}")
    return Prepared(config, workdir, recipe, dataset)


def _check_address(key: str, folder: str | os.PathLike) -> None:
    """Refuses an address, of which `pathlib` would make a local folder on each host."""
    if "://" in str(folder):
        raise ValueError(
            f"{key}={folder!s} must be a folder in a file system that all processes "
            "share, such as one where the bucket is mounted"
        )


def _check_folder(workdir: str | os.PathLike) -> None:
    """Refuses a folder that cannot be written, without making it."""
    path = pathlib.Path(workdir).absolute()
    there = next(one for one in (path, *path.parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f"workdir={workdir!s}: {there} is no folder one may write to")


def _check_data(
    dataset: data.Dataset, run_before: str | os.PathLike, changed: bool
) -> None:
    try:
        config_file.check_same_data(dataset.description, run_before)
    except ValueError as error:
        if not changed:
            raise ValueError(
                f"{error}; give --changed_data to go on with other tokens"
            ) from error
        hosts.say(f"going on with other tokens: {error}")


def _load_data(config: ml_collections.ConfigDict) -> data.Dataset:
    dataset = data.load(
        **config.data, sequence_length=config.sequence_length, seed=config.seed
    )
    needed = config.evaluation.horizon_batches * config.evaluation.batch_size
    if needed > len(dataset.validation):
        raise ValueError(
            f"evaluation.horizon_batches={config.evaluation.horizon_batches} times "
            f"evaluation.batch_size={config.evaluation.batch_size} must be at most the "
            f"{len(dataset.validation)} sequences of the validation data"
        )
    return dataset
