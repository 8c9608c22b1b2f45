"""Counts what runs survive: kill -9, signals, damaged files, full disks, bad numbers.

    python benchmarks/faults.py [--kills=50] [--tries=5] [--only=NAME] [--folder=DIR]

Every try is a real process, `python -m anytime_jax train` of a run of 100 steps with
six averages. A try has survived if the process ended as it should (its exit code, one
last line on stderr that says what was wrong), if no snapshot that was there has been
touched, and if the same command then goes on from the newest one that is whole and ends
with records, weights, averages and optimizer bit for bit those of a run that nothing
happened to. Exits with 1 if anything was lost, or if fewer than a fifth of the kills
were inside a write.

A full disk and a read-only folder need mounts: be root, or have a namespace of your own
by `unshare --map-root-user --mount python benchmarks/faults.py`.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import sys
import tempfile
import zlib
from collections.abc import Callable

import bad_numbers
import kills
import machine
import processes
import remains
import workshop

from anytime_jax.training import snapshots

_ONE_MORE_AVERAGE = """
from configs import tiny
def get_config():
    config = tiny.get_config()
    config.averages.late = dict(name="age_ema", divisor=10.0)
    return config
"""
# What is said of a snapshot that finds no room, with what it needs.
_NEED = (
    r"the snapshot of step \d+, (which needs|of) [\d.]+ [kMG]B.*earlier ones are who"
)
Workshop = workshop.Workshop


# Each makes one try, of which it is told the number, and returns what was lost, nothing
# if empty.


def signals(shop: Workshop, number: int) -> str:
    """SIGTERM and SIGINT after half of the steps."""
    told = (signal.SIGTERM, signal.SIGINT)[number % 2]
    workdir = shop.new()
    end = shop.stop(workdir, told)
    step = remains.left(workdir).step
    words = f"stopped by {told.name} after step {step}, which is saved"
    return end.problem(128 + told, words) or shop.problem(workdir)


def truncated(shop: Workshop, number: int) -> str:
    """A file of the newest snapshot is cut to half."""
    return _damaged(shop, lambda path: os.truncate(path, path.stat().st_size // 2))


def flipped(shop: Workshop, number: int) -> str:
    """One bit of a file of the newest snapshot is another."""

    def flip(path: pathlib.Path) -> None:
        content = bytearray(path.read_bytes())
        bit = shop.random.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)

    return _damaged(shop, flip)


def missing(shop: Workshop, number: int) -> str:
    """A file of the newest snapshot is gone."""
    return _damaged(shop, pathlib.Path.unlink)


def _damaged(shop: Workshop, harm: Callable[[pathlib.Path], None]) -> str:
    workdir = shop.halfway()
    previous, step = snapshots.stored_steps(workdir)[-2:]
    newest = remains.snapshot(workdir, step)
    sizes = {path: path.stat().st_size for path in newest.glob("*/**/*")}
    # Large files first: they are what is most likely to be hit.
    files = [path for path in sizes if path.is_file() and sizes[path]]
    [path] = shop.random.choices(files, [sizes[path] for path in files])
    harm(path)
    name = path.relative_to(newest)
    problem = shop.problem(
        workdir,
        f"the snapshot of step {step} in {workdir} is damaged: {name} ",
        f"it is now {step}.damaged, and the run goes on from step {previous}\n",
        damaged=[step],
    )
    return f"{name}: {problem}" if problem else ""


def full_disk(shop: Workshop, number: int) -> str:
    """A disk with too little room for a snapshot, from the start on or suddenly."""
    newest = remains.snapshot(shop.reference, processes.STEPS)
    size = sum(512 * path.stat().st_blocks for path in newest.rglob("*"))
    # A run sees at once that there is less than its arrays need, and only in the middle
    # of the writing that there is no room for the rest.
    share = ((0.1, 0.5), (0.65, 0.9))[number // 2 % 2]
    room = int(size * shop.random.uniform(*share))
    disk = shop.new()
    disk.mkdir()
    with workshop.mounted(disk, "-t", "tmpfs", "-o", "size=64m", "none"):
        workdir = disk / "run"
        if number % 2:
            with shop.running(workdir, 30) as process:
                process.send_signal(signal.SIGSTOP)  # or it would write meanwhile
                before = remains.left(workdir)
                with workshop.filled(disk, room):
                    process.send_signal(signal.SIGCONT)
                    end = shop.ended(process)
        else:
            before = remains.left(shop.halfway(workdir))
            with workshop.filled(disk, room):
                end = shop.attempt(workdir)
        problem = end.problem(1, f"{workdir}/snapshots: ") or _need(end)
        problem = problem or shop.survives(before, workdir)
        return f"{room} of {size} bytes: {problem}" if problem else ""


def _need(end: workshop.End) -> str:
    line = processes.last_line(end.text)
    return "" if re.search(_NEED, line) else f"does not name the need: {line}"


def read_only(shop: Workshop, number: int) -> str:
    """A run's folder that cannot be written, from the start on or suddenly."""
    if number % 2:
        workdir = shop.new()
        with shop.running(workdir, 30) as process, workshop.read_only(workdir):
            before = remains.left(workdir)
            end = shop.ended(process)
        problem = end.problem(1, f"{workdir}/snapshots: ") or _need(end)
    else:
        workdir = shop.halfway()
        before = remains.left(workdir)
        with workshop.read_only(workdir):
            end = shop.attempt(workdir)
        problem = end.problem(2, f"workdir={workdir}", "no folder one may write to")
    return problem or shop.survives(before, workdir)


def deleted(shop: Workshop, number: int) -> str:
    """The folder of snapshots is gone while the run goes on; later it is back."""
    workdir = shop.new()
    folder, away = workdir / snapshots.FOLDER, workdir / "deleted"
    with shop.running(workdir, 30) as process:
        before = remains.left(workdir)
        folder.rename(away)  # at once, whatever is being written
        end = shop.ended(process)
    problem = end.problem(1, f"{folder} is gone")
    if problem and folder.exists():
        # It was in the middle of a write, some parts of which bring the folder back.
        problem = end.problem(1, f"{folder}: ") or _need(end)
    if not problem and snapshots.stored_steps(workdir):
        problem = "half a snapshot has the name of a whole one"
    if problem:
        return problem
    shutil.rmtree(folder, ignore_errors=True)
    away.rename(folder)
    return shop.survives(before, workdir)


def twice(shop: Workshop, number: int) -> str:
    """A second process in the folder of a run."""
    workdir = shop.new()
    with shop.running(workdir, 13) as first:
        # It holds the folder, and cannot end before the second has come so far.
        first.send_signal(signal.SIGSTOP)
        before = remains.listing(workdir)
        second = shop.attempt(workdir)
        after = remains.listing(workdir)
        first.send_signal(signal.SIGCONT)
        end = shop.ended(first)
    words = f"in use by process {first.pid} on host {socket.gethostname()} since"
    return (
        second.problem(2, f"workdir={workdir}", words)
        or "the second has written" * (before != after)
        or end.problem(0)
        or shop.differs(workdir)
    )


# What may not change is refused with both values; what may is accepted, and said.
_REFUSED = {
    "model.width": (64, 32),
    "seed": (1, 0),
    "averages.ema25.divisor": (20.0, 25.0),
    "batch_size": (8, 16),
}
_ACCEPTED = {
    "averages.late": None,
    "duration.steps": 120,
    "evaluation.points": 5,
    "logging.every": 7,
}


def changed(shop: Workshop, number: int) -> str:
    """Another model, order or average; then another cadence or end, or one more."""
    workdir = shop.halfway()
    key, (now, then) = list(_REFUSED.items())[number % len(_REFUSED)]
    before = remains.listing(workdir)
    words = "these differ from the run in", f"{key}={now!r} (was {then!r})"
    problem = shop.attempt(workdir, {key: now}).problem(2, *words)
    if not problem and remains.listing(workdir) != before:
        problem = f"{key} was refused, and something written"
    key, value = list(_ACCEPTED.items())[number % len(_ACCEPTED)]
    return problem or _accepted(shop, workdir, key, value)


def _accepted(shop: Workshop, workdir: pathlib.Path, key: str, value) -> str:
    """It goes on, and what has not changed ends as it would have."""
    before = remains.left(workdir)
    if value is None:
        config = shop.new().with_suffix(".py")
        config.write_text(_ONE_MORE_AVERAGE)
        end = shop.attempt(workdir, config=config)
        said = f"not in the snapshot of step {before.step}, and starting from its "
        said += "weights: averages late\n"
    else:
        end = shop.attempt(workdir, {key: value})
        said = f"going on with {key}={value!r} (was "
    problem = end.problem(0) or shop.went_on(before, workdir, end.process)
    if problem or said not in end.text:
        return problem or f"did not say {said!r}"
    runs = shop.reference, workdir
    one, other = (remains.leaves(remains.snapshot(r, processes.STEPS)) for r in runs)
    found = [name for name in one if one[name] != other.get(name)]
    if value is None and "average_late/count" not in other:
        found.append("no average late")
    return f"{key}: differs in {found[:3]}" if found else ""


def unknown_format(shop: Workshop, number: int) -> str:
    """A snapshot written by a version to come."""
    workdir = shop.halfway()
    newest = remains.snapshot(workdir, snapshots.stored_steps(workdir)[-1])
    path = newest / "meta" / "files.json"
    content = json.loads(path.read_text())["content"] | {"format": 99}
    crc32 = zlib.crc32(json.dumps(content, sort_keys=True).encode())
    path.write_text(json.dumps({"crc32": crc32, "content": content}))
    before = remains.listing(workdir)
    problem = shop.attempt(workdir).problem(2, "format 99", "reads 1 and 2")
    return problem or "was written" * (before != remains.listing(workdir))


def other_corpus(shop: Workshop, number: int) -> str:
    """One letter of a text has changed, be it for training or for validation."""
    workdir, texts = shop.new(), shop.new()
    texts.mkdir()
    for one in range(20):  # documents
        (texts / f"{one}.txt").write_text(f"{one} of a text that is long\n" * 300)
    changes = {"data.source": f"files:{texts}/*.txt", "model.vocab_size": 256}
    changes |= {"data.validation_fraction": 0.3}
    changes |= {"duration.steps": 20, "horizons.steps": (10, 20)}
    problem = shop.attempt(workdir, changes).problem(0)
    path = texts / f"{shop.random.randrange(20)}.txt"
    path.write_text(path.read_text().replace("long", "lone", 1))
    changes["duration.steps"] = 30
    before, listing = remains.left(workdir), remains.listing(workdir)
    refused = shop.attempt(workdir, changes)
    problem = problem or refused.problem(2, " tokens", "differ", "--changed_data")
    if problem or remains.listing(workdir) != listing:
        return problem or "was refused, and something written"
    end = shop.attempt(workdir, changes, more=["--changed_data"])
    return end.problem(0) or remains.went_on(before, workdir, end.process, [20, 30])


def cut_metrics(shop: Workshop, number: int) -> str:
    """metrics.jsonl ends in the middle of a line, early or late."""
    workdir = shop.halfway()
    path = workdir / "metrics.jsonl"
    os.truncate(path, shop.random.randrange(path.stat().st_size))
    step = remains.left(workdir).step
    words = f"{path} was cut or damaged; restored from the snapshot of step {step}\n"
    return shop.problem(workdir, words)


FAULTS = {
    "SIGTERM, SIGINT": signals,
    "newest snapshot truncated": truncated,
    "newest snapshot bit-flipped": flipped,
    "newest snapshot misses a file": missing,
    "disk full": full_disk,
    "workdir read-only": read_only,
    "snapshot folder deleted": deleted,
    "two runs in one workdir": twice,
    "loss not finite, stop": bad_numbers.stops,
    "loss not finite, skip": bad_numbers.skips,
    "config changed": changed,
    "unknown snapshot format": unknown_format,
    "corpus changed": other_corpus,
    "metrics.jsonl cut": cut_metrics,
}
_KILL = "kill -9"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--folder", type=pathlib.Path)
    arguments = parser.parse_args()
    print(
        machine.describe(),
        "\n\n| fault | tries | survived | lost |\n|---|---:|---:|---:|",
    )
    good = True
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        shop = Workshop(pathlib.Path(folder))
        if arguments.only in _KILL:
            good &= _killed(shop, arguments.kills)
        for name, fault in FAULTS.items():
            if arguments.only in name:
                tries = range(arguments.tries)
                good &= _row(name, [_tried(fault, shop, one) for one in tries])
    return 0 if good else 1


def _killed(shop: Workshop, wanted: int) -> bool:
    """Whether there were as many kills as wanted, a fifth in writes, and none lost."""
    counted = kills.Kills(shop)
    problems = list(counted.tries(wanted))
    good = _row(f"{_KILL}, {counted.inside} of them inside a write", problems)
    return good and len(problems) == wanted and counted.inside >= wanted / 5


def _tried(fault: Callable[[Workshop, int], str], shop: Workshop, number: int) -> str:
    """A try that fails in whatever way is lost, and the others go on."""
    try:
        return fault(shop, number)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _row(name: str, problems: list[str]) -> bool:
    bad = [problem for problem in problems if problem]
    row = name, len(problems), len(problems) - len(bad), len(bad)
    print("|", " | ".join(map(str, row)), "|", flush=True)
    for problem in bad:
        print(f"{name}: {problem}", file=sys.stderr)
    return not bad


if __name__ == "__main__":
    sys.exit(main())
