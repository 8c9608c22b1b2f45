"""Starts real runs as processes of their own, and ends them.

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
    process: subprocess.Popen,
    workdir: str | os.PathLike,
    passed: int = 0,
    pause: float = 0.0,
) -> bool:
    """Kills a process while it writes a snapshot.

    Args:
      process: from `start`, just now.
      workdir: the run's folder.
      passed: how many writes to let pass before.
      pause: seconds between the begin of a write and the kill.

    Returns:
      Whether half a snapshot is there that was not before; False if the write was
      faster or the run ended.
    """
    # What an earlier kill has left stays until the run removes it and may come back.
    old, new = half_written(workdir), set()
    while process.poll() is None:
        there = half_written(workdir)
        old &= there
        new |= there - old
        if len(new) > passed:
            time.sleep(pause)
            kill(process)
            return bool(half_written(workdir) & new)
        time.sleep(0.001)
    process.communicate()
    return False


def half_written(workdir: str | os.PathLike) -> set[str]:
    """Returns the names of snapshots that are being written, or were at a run's end.

    Args:
      workdir: the run's folder.
    """
    folder = pathlib.Path(workdir) / snapshots.FOLDER
    names = os.listdir(folder) if folder.is_dir() else []
    return {name for name in names if _TEMPORARY in name}
