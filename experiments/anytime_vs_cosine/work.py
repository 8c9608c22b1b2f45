"""Doing a job: the run, its branches, its merges, and the loss of every exit."""

import contextlib
import fcntl
import json
import math
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

import jax
import numpy as np

from anytime_jax import training
from anytime_jax.training import config_file, snapshots
from experiments.anytime_vs_cosine import documents as documents_lib
from experiments.anytime_vs_cosine import protocol, selection
from experiments.anytime_vs_cosine.protocol import Job

Tree = Any

_POINTS = 20  # of a curve, at most
_KINDS = ("training", "evaluation")


def execute(job: Job, folder: pathlib.Path, documents: documents_lib.Documents) -> dict:
    """Trains a job's runs, or goes on with them, and evaluates every exit.

    Args:
      job: the job.
      folder: where the runs are; those of the job are in its own folder there.
      documents: the validation set.

    Returns:
      Its result, which JSON can express: the losses of every exit at every horizon,
      also by group of documents, infinite if the run diverged; the curve of the run and
      its averages; and what it took.
    """
    trunk = folder / job.name / "run"
    try:
        with _timed(folder / job.name, "training"):
            _train(job, folder)
    except FloatingPointError as error:
        print(f"{job.name}: {error}", flush=True)
        losses = _diverged(job)
        groups = _each(losses, lambda loss: [loss] * documents_lib.GROUPS)
        return dict(job=vars(job), losses=losses, groups=groups)
    with _timed(folder / job.name, "evaluation"):
        by_group = {
            name: {times: documents.losses(load()) for times, load in loads.items()}
            for name, loads in _exits(job, folder).items()
        }
        curve = _curve(trunk, documents)
    counts_G = documents.counts_G
    resolved = config_file.read(trunk)["resolved"]
    return dict(
        job=vars(job),
        losses=_each(by_group, lambda x_G: round(documents_lib.mean(x_G, counts_G), 6)),
        groups=_each(by_group, lambda x_G: np.round(x_G, 4).tolist()),
        curve=curve,
        parameters=resolved["parameters"],
        tokens_per_step=resolved["tokens_per_step"],
        validation=dict(groups=counts_G.tolist(), documents=documents.documents),
        data=resolved["data"]["train"]["sha256"],
        seconds={kind: _seconds(folder / job.name, kind) for kind in _KINDS},
        versions=config_file.versions(),
    )


@contextlib.contextmanager
def _timed(folder: pathlib.Path, kind: str) -> Iterator[None]:
    """Adds the time to what earlier starts took, also if this one is interrupted."""
    folder.mkdir(parents=True, exist_ok=True)
    before, start = _seconds(folder, kind), time.perf_counter()
    try:
        yield
    finally:
        now = round(before + time.perf_counter() - start, 1)
        (folder / f"{kind}.seconds").write_text(f"{now}\n")


def _seconds(folder: pathlib.Path, kind: str) -> float:
    path = folder / f"{kind}.seconds"
    return float(path.read_text()) if path.exists() else 0.0


def _train(job: Job, folder: pathlib.Path) -> None:
    trunk = folder / job.name / "run"
    training.train(protocol.config(job), trunk)
    for kind, times, branch in _branches(job, folder) if job.cooldowns else ():
        steps = job.horizons[times]
        made = protocol.cooldown_config(job, str(trunk), kind, steps)
        training.train(made, branch)


def _diverged(job: Job) -> dict[str, dict[str, float]]:
    """The losses of a run that has none."""
    exits = ["raw"]
    if job.is_trunk:
        exits += [*selection.AVERAGES, *protocol.MERGES]
    if job.cooldowns:
        exits += protocol.COOLDOWNS
    return {name: {str(times): math.inf for times in job.horizons} for name in exits}


def _branches(
    job: Job, folder: pathlib.Path
) -> Iterator[tuple[str, int, pathlib.Path]]:
    for kind in protocol.COOLDOWNS:
        for times in job.horizons:
            yield kind, times, folder / job.name / f"{kind}_{times}x"


def _exits(job: Job, folder: pathlib.Path) -> dict[str, dict[int, Callable[[], Tree]]]:
    """What loads the weights of every exit, by exit and multiple of 1x."""
    trunk = folder / job.name / "run"
    found: dict[str, dict[int, Callable[[], Tree]]] = {}

    def add(name: str, times: int, function: Callable, *arguments) -> None:
        found.setdefault(name, {})[times] = lambda: function(*arguments)

    for times, steps in job.horizons.items():
        for name in snapshots.stored_weights(trunk, steps):
            add(name, times, training.load, trunk, steps, name)
        if job.is_trunk:
            for name in protocol.MERGES:
                add(name, times, _merged, trunk, name, steps, job.steps(1 / 8))
    if job.cooldowns:
        for kind, times, branch in _branches(job, folder):
            add(kind, times, training.load, branch, job.horizons[times])
    return found


def _merged(trunk: pathlib.Path, name: str, steps: int, every: int) -> Tree:
    """The merge of the last part of the way to a horizon."""
    kind, percent = name.split("_")
    if kind == "window":
        start = steps * (100 - int(percent)) // 100
        recipe = dict(name="window", start=start, stop=steps)
        plan = training.merging.plan(trunk, recipe)
    else:
        count = max(2, steps // every * int(percent) // 100)
        chosen = range(steps - (count - 1) * every, steps + 1, every)
        recipe = dict(name="from_decay", shape="1-sqrt")
        plan = training.merging.plan(trunk, recipe, steps=list(chosen))
    return jax.tree.map(np.asarray, training.merging.merge(plan))


def _each(by_group: dict, function: Callable) -> dict[str, dict[str, Any]]:
    return {
        name: {str(times): function(losses_G) for times, losses_G in of.items()}
        for name, of in by_group.items()
    }


def _curve(trunk: pathlib.Path, documents: documents_lib.Documents) -> dict[str, Any]:
    """The losses on a part of the documents, at snapshots that are log-spaced."""
    stored = np.array(training.stored_steps(trunk))
    ideal = np.geomspace(stored[0], stored[-1], _POINTS)
    nearest = np.abs(np.log(stored / ideal[:, None])).argmin(axis=1)
    steps = sorted({int(step) for step in stored[nearest]})
    losses = {
        name: [
            round(documents.part(training.load(trunk, step, name)), 5) for step in steps
        ]
        for name in snapshots.stored_weights(trunk, steps[-1])
    }
    return dict(steps=steps, losses=losses)


def write(result: dict, path: pathlib.Path) -> None:
    """Writes a result; it is there as a whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, separators=(",", ":")) + "\n")
    partial.replace(path)


def claim(path: pathlib.Path) -> IO[str] | None:
    """Returns what holds a job until it is closed, None if another worker has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def discard(job: Job, folder: pathlib.Path) -> None:
    """Deletes the runs of a job whose result is written."""
    shutil.rmtree(folder / job.name, ignore_errors=True)
