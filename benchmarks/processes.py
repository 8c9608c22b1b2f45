"""Starts real runs as processes of their own, ends them, and compares what they leave.

For the tests of faults and for the benchmark that counts them.
"""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from anytime_jax.training import metrics, snapshots

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = "configs/tiny.py"

# A run of 100 steps that compiles in seconds, with all averages of the tiny config.
STEPS = 100
OVERRIDES = {
    "data.source": "synthetic",
    "model.vocab_size": 16,
    "duration.chinchilla": 0.0,
    "duration.steps": STEPS,
    "horizons.chinchilla": (),
    "horizons.steps": (50, STEPS),
    "evaluation.horizon_batches": 2,
    "snapshots.every": 30,
    "snapshots.latest_every": 13,
    "logging.every": 5,
}

_TEMPORARY = ".orbax-checkpoint-tmp"


def flags(
    workdir: str | os.PathLike,
    overrides: Mapping[str, Any] = OVERRIDES,
    config: str | os.PathLike = CONFIG,
) -> list[str]:
    """Returns the arguments of the verb train.

    Args:
      workdir: the run's folder.
      overrides: of the config, by dotted key.
      config: its file.
    """
    changes = [f"--config.{key}={value}" for key, value in overrides.items()]
    return [f"--config={config}", f"--workdir={workdir}", *changes]


def start(
    arguments: Sequence[str],
    *,
    devices: int = 1,
    variables: Mapping[str, object] | None = None,
    script: str = "",
) -> subprocess.Popen:
    """Starts `python -m anytime_jax train` on simulated CPU devices.

    Args:
      arguments: those after the verb.
      devices: of this process.
      variables: of its environment, beside this one's own.
      script: Python lines to run before the command in the same process.

    Returns:
      The process, whose stderr is a pipe of text.
    """
    lines = f"{script}\nfrom anytime_jax.commands import main\n"
    lines += f"main.process(['train', *{list(map(str, arguments))!r}])"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": str(ROOT),
    }
    for name, value in (variables or {}).items():
        environment[name] = str(value)
    return subprocess.Popen(
        [sys.executable, "-c", lines],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,  # Gloo speaks there.
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(*processes: subprocess.Popen, timeout: float = 300) -> list[tuple[int, str]]:
    """Waits for processes, and leaves none behind.

    Args:
      *processes: from `start`.
      timeout: seconds for each.

    Returns:
      The exit code and stderr of each.
    """
    with reaped(*processes):
        texts = [process.communicate(timeout=timeout)[1] for process in processes]
        return [
            (process.returncode, text)
            for process, text in zip(processes, texts, strict=True)
        ]


@contextlib.contextmanager
def reaped(*processes: subprocess.Popen) -> Iterator[None]:
    """Kills what is still running when the context ends.

    Args:
      *processes: from `start`.
    """
    try:
        yield
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()


def finish(*processes: subprocess.Popen) -> list[str]:
    """Waits for processes that have to succeed.

    Args:
      *processes: from `start`.

    Returns:
      The stderr of each.

    Raises:
      RuntimeError: one has failed; the message is what it said.
    """
    results = ended(*processes)
    for code, text in results:
        if code:
            raise RuntimeError(f"exit code {code}: {text}")
    return [text for _, text in results]


def last_line(text: str) -> str:
    """Returns the last line of stderr, after which the progress bar wrote nothing.

    Args:
      text: all of it.
    """
    return text.replace("\r", "\n").strip().split("\n")[-1]


def address() -> str:
    """Returns a HOST:PORT of this machine that is free now."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def named(coordinator: str, processes: int) -> list[list[str]]:
    """Returns the flags by which each process finds the others.

    Args:
      coordinator: from `address`.
      processes: how many.
    """
    common = [f"--coordinator={coordinator}", f"--processes={processes}"]
    return [[*common, f"--process={process}"] for process in range(processes)]


def slurm(processes: int) -> list[dict[str, str]]:
    """Returns the variables that SLURM would set for each process of a job.

    Args:
      processes: how many.
    """
    # JAX makes the port from the job's number.
    port = int(address().rpartition(":")[2])
    common = {
        "SLURM_JOB_ID": str(port),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(processes),
    }
    return [
        common | {"SLURM_PROCID": str(process), "SLURM_LOCALID": str(process)}
        for process in range(processes)
    ]


def wait_until(
    process: subprocess.Popen, condition: Callable[[], bool], pause: float = 0.02
) -> None:
    """Waits for something that a running process will do.

    Args:
      process: from `start`.
      condition: whether it has.
      pause: seconds between two looks.

    Raises:
      RuntimeError: it ended before.
    """
    while not condition():
        if process.poll() is not None:
            raise RuntimeError(
                f"ended with {process.returncode}: {process.stderr.read()}"
            )
        time.sleep(pause)


def recorded(workdir: str | os.PathLike, step: int) -> bool:
    """Returns whether a record of this step or a later one is on disk.

    Args:
      workdir: the run's folder.
      step: updates done.
    """
    return any(record["step"] >= step for record in metrics.read(workdir))


def kill(process: subprocess.Popen) -> None:
    """Kills a process as nothing can be prevented from: kill -9.

    Args:
      process: from `start`.
    """
    process.send_signal(signal.SIGKILL)
    process.communicate()


def kill_in_a_write(
    process: subprocess.Popen, workdir: str | os.PathLike, after: int = 0
) -> bool:
    """Kills a process while it writes a snapshot.

    Args:
      process: from `start`.
      workdir: the run's folder.
      after: only the snapshots of later steps count.

    Returns:
      Whether half a snapshot is there; False if the write was faster or the run ended.
    """
    while process.poll() is None:
        if any(step > after for step in half_written(workdir)):
            kill(process)
            return any(step > after for step in half_written(workdir))
        time.sleep(0.001)
    process.communicate()
    return False


def half_written(workdir: str | os.PathLike) -> list[int]:
    """Returns the steps of snapshots that are being written, or were when a run ended.

    Args:
      workdir: the run's folder.
    """
    folder = pathlib.Path(workdir) / snapshots.FOLDER
    names = os.listdir(folder) if folder.is_dir() else []
    return [int(name.split(".")[0]) for name in names if _TEMPORARY in name]


def records(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns all records of a run without what a clock says.

    Args:
      workdir: the run's folder.
    """
    return [
        {key: value for key, value in record.items() if not key.startswith("time/")}
        for record in metrics.read(workdir)
    ]


def differences(one: str | os.PathLike, other: str | os.PathLike) -> list[str]:
    """Returns where two runs differ: in records, in any bit of their last snapshots.

    Args:
      one: a run's folder.
      other: another's.
    """
    found = [] if records(one) == records(other) else ["metrics.jsonl"]
    steps = [snapshots.stored_steps(workdir) for workdir in (one, other)]
    if steps[0] != steps[1]:
        return [*found, f"snapshots {steps[0]} and {steps[1]}"]
    last = [
        pathlib.Path(run) / snapshots.FOLDER / str(steps[0][-1]) for run in (one, other)
    ]
    metas = [snapshots.read_meta(run, steps[0][-1]) for run in (one, other)]
    if metas[0] != metas[1]:
        found.append(f"meta {metas[0]} and {metas[1]}")
    leaves, others = (dict(_leaves(folder)) for folder in last)
    different = [
        name
        for name in sorted(leaves.keys() | others.keys())
        if name not in leaves
        or name not in others
        or leaves[name].tobytes() != others[name].tobytes()
    ]
    return found + different


def _leaves(snapshot: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every array of a snapshot by item and path, whatever the items are."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    handler = ocp.PyTreeCheckpointHandler()
    for item in sorted(path.parent for path in snapshot.glob("*/_METADATA")):
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
            handler.metadata(item).tree,
        )
        tree = handler.restore(
            item,
            args=ocp.args.PyTreeRestore(
                like, restore_args=ocp.checkpoint_utils.construct_restore_args(like)
            ),
        )
        for path, leaf in jax.tree.leaves_with_path(tree):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            yield f"{item.name}/{name}", np.asarray(leaf)
