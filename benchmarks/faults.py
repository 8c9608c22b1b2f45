"""Counts what runs survive: kill -9, signals, damaged files, full disks, bad numbers.

    python benchmarks/faults.py [--kills=50] [--tries=5] [--only=NAME] [--folder=DIR]

Every try is a real process, `python -m anytime_jax train` of a run of 100 steps with
six averages. A try has survived if the process ended as it should (its exit code, one
last line on stderr that says what was wrong) and if the same command then ends with
records, weights, averages and optimizer bit for bit those of a run that nothing
happened to. Exits with 1 if anything was lost.
"""

import argparse
import itertools
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial

import machine
import processes

from anytime_jax.training import metrics, snapshots

# What stops a process in the middle: a row of tokens that the model has no entry for.
_NOT_A_NUMBER = """
from anytime_jax.data import pipeline
whole = pipeline.Batches.batch
def batch(self, first, size, **rest):
    tokens = whole(self, first, size, **rest)
    if first // size in {steps!r}:
        tokens[:] = 1 << 20
    return tokens
pipeline.Batches.batch = batch
"""
_SMALL_DISK = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
"""


class Workshop:
    """Makes runs to do harm to, and tells whether they are what they should be."""

    def __init__(self, folder: pathlib.Path):
        self._folder, self._count = folder, 0
        self.inside = 0  # kills within a write
        self.random = random.Random(0)
        self.reference = self.new()
        processes.finish(processes.start(processes.flags(self.reference)))
        self._halfway = self.new()
        code, text = self.stop(self._halfway, signal.SIGTERM)
        if code != 143:
            raise RuntimeError(f"SIGTERM ended a run with {code}: {text}")

    def new(self) -> pathlib.Path:
        """A folder for a run."""
        self._count += 1
        return self._folder / f"run{self._count}"

    def halfway(self) -> pathlib.Path:
        """A run that was told to stop after half of its steps."""
        workdir = self.new()
        shutil.copytree(self._halfway, workdir)
        return workdir

    def stop(self, workdir: pathlib.Path, number: int) -> tuple[int, str]:
        """Starts a run and signals it after half of its steps: code and last line."""
        process = processes.start(processes.flags(workdir))
        half = processes.STEPS // 2
        processes.wait_until(process, partial(processes.recorded, workdir, half))
        process.send_signal(number)
        return self.ended(process)

    def ended(self, process) -> tuple[int, str]:
        """The exit code of a process and the last line that it said."""
        [(code, text)] = processes.ended(process)
        if "Traceback" in text:
            raise RuntimeError(text)
        return code, processes.last_line(text)

    def attempt(self, workdir, changes=(), script="", more=()) -> tuple[int, str]:
        """The exit code and the last line of a run, with changes of its config."""
        overrides = processes.OVERRIDES | dict(changes)
        arguments = [*processes.flags(workdir, overrides), *more]
        return self.ended(processes.start(arguments, script=script))

    def goes_on(self, workdir: pathlib.Path) -> str:
        """What is wrong with a run after the command was given again."""
        code, line = self.attempt(workdir)
        if code:
            return f"the next start ended with {code}: {line}"
        found = processes.differences(self.reference, workdir)
        return f"differs in {', '.join(found[:3])}" if found else ""

    def refused(self, code: int, line: str, wanted: int, *words: str) -> str:
        """What is wrong with the end of a process that had to be refused."""
        missing = [word for word in words if word not in line]
        if code != wanted or missing:
            return f"ended with {code}, not {wanted}, and said {line!r}"
        return ""


# Each yields, for every try, what was lost, nothing if empty.


def kill(shop: Workshop, tries: int) -> Iterator[str]:
    """Five runs, each killed again and again, every second time inside a write."""
    chains = min(5, tries)
    for chain in range(chains):
        workdir, kills = shop.new(), len(range(chain, tries, chains))
        for one in range(kills):
            process = processes.start(processes.flags(workdir))
            with processes.reaped(process):
                if one % 2:
                    shop.inside += processes.kill_in_a_write(process, workdir)
                    continue
                _started(process, workdir)
                time.sleep(shop.random.uniform(0, 0.3))
                if process.poll() is None:
                    processes.kill(process)
        yield from [shop.goes_on(workdir)] * kills


def _started(process, workdir: pathlib.Path) -> None:
    """Waits for a new record, or the end."""
    known = len(metrics.read(workdir))
    while process.poll() is None and len(metrics.read(workdir)) <= known:
        time.sleep(0.005)


def signals(shop: Workshop, tries: int) -> Iterator[str]:
    """SIGTERM and SIGINT after half of the steps."""
    for one in range(tries):
        number = (signal.SIGTERM, signal.SIGINT)[one % 2]
        workdir = shop.new()
        end = shop.stop(workdir, number)
        words = f"stopped by {number.name} after step", "which is saved"
        yield shop.refused(*end, 128 + number, *words) or shop.goes_on(workdir)


def truncated(shop: Workshop, tries: int) -> Iterator[str]:
    """A file of the newest snapshot is cut to half."""
    yield from _damaged(shop, tries, lambda path: os.truncate(path, _size(path) // 2))


def flipped(shop: Workshop, tries: int) -> Iterator[str]:
    """One bit of a file of the newest snapshot is another."""

    def flip(path: pathlib.Path) -> None:
        content = bytearray(path.read_bytes())
        bit = shop.random.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)

    yield from _damaged(shop, tries, flip)


def missing(shop: Workshop, tries: int) -> Iterator[str]:
    """A file of the newest snapshot is gone."""
    yield from _damaged(shop, tries, pathlib.Path.unlink)


def _damaged(
    shop: Workshop, tries: int, harm: Callable[[pathlib.Path], None]
) -> Iterator[str]:
    for _ in range(tries):
        workdir = shop.halfway()
        step = snapshots.stored_steps(workdir)[-1]
        newest = workdir / snapshots.FOLDER / str(step)
        files = [path for path in newest.glob("*/**/*") if path.is_file()]
        # Large files first: they are what is most likely to be hit.
        weights = [_size(path) + 1 for path in files]
        [path] = shop.random.choices(files, weights)
        harm(path)
        process = processes.start(processes.flags(workdir))
        [(code, text)] = processes.ended(process)
        said = f"step {step}" in text and path.name in text
        found = processes.differences(shop.reference, workdir) if code == 0 else [text]
        yield "" if not found and said else f"{path.name}: {said=}, {found[:3]}"


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size


def full_disk(shop: Workshop, tries: int) -> Iterator[str]:
    """No file may grow beyond a size, which is the half of a snapshot's largest."""
    largest = max(_size(p) for p in shop.reference.glob("snapshots/*/*/**/*"))
    for one in range(tries):
        workdir = shop.new() if one % 2 else shop.halfway()
        script = _SMALL_DISK.format(size=int(largest * shop.random.uniform(0.2, 0.8)))
        end = shop.attempt(workdir, script=script)
        yield shop.refused(*end, 1, str(workdir)) or shop.goes_on(workdir)


def read_only(shop: Workshop, tries: int) -> Iterator[str]:
    """A folder in which nothing can be made."""
    for _ in range(tries):
        words = "workdir=/proc/anytime_jax", "cannot be written"
        yield shop.refused(*shop.attempt("/proc/anytime_jax"), 2, *words)


def deleted(shop: Workshop, tries: int) -> Iterator[str]:
    """The folder of snapshots is deleted while the run goes on."""
    for _ in range(tries):
        workdir = shop.new()
        process = processes.start(processes.flags(workdir))
        with processes.reaped(process):
            processes.wait_until(process, partial(processes.recorded, workdir, 30))
            folder = workdir / snapshots.FOLDER
            folder.rename(workdir / "deleted")  # at once, whatever is being written
            end = shop.ended(process)
        yield shop.refused(*end, 1, str(folder)) or "is back" * folder.exists()


def twice(shop: Workshop, tries: int) -> Iterator[str]:
    """A second process in the folder of a run."""
    for _ in range(tries):
        workdir = shop.new()
        first = processes.start(processes.flags(workdir))
        with processes.reaped(first):
            processes.wait_until(first, partial(processes.recorded, workdir, 1))
            end = shop.attempt(workdir)
            words = "in use by process", str(first.pid)
            yield shop.refused(*end, 2, *words) or "".join(processes.finish(first)[1:])
            if found := processes.differences(shop.reference, workdir):
                yield f"the first differs in {found[:3]}"


def stops(shop: Workshop, tries: int) -> Iterator[str]:
    """A loss that is not a number, policy stop."""
    for _ in range(tries):
        workdir, step = shop.new(), shop.random.randrange(20, processes.STEPS)
        script = _NOT_A_NUMBER.format(steps={step})
        end = shop.attempt(workdir, script=script)
        words = f"step {step + 1} has loss nan", "last good snapshot"
        yield shop.refused(*end, 1, *words) or shop.goes_on(workdir)


def skips(shop: Workshop, tries: int) -> Iterator[str]:
    """Losses that are not numbers, policy skip: one, and more in a row than allowed."""
    policy = {"nonfinite.policy": "skip", "nonfinite.limit": 3}
    for one in range(tries):
        workdir, step = shop.new(), shop.random.randrange(20, processes.STEPS - 5)
        steps = {step} if one % 2 else set(range(step, step + 3))
        end = shop.attempt(workdir, policy, _NOT_A_NUMBER.format(steps=steps))
        if one % 2:
            yield "" if end[0] == 0 else f"ended with {end}"
        else:
            yield shop.refused(*end, 1, "3 updates", "last good snapshot")


def changed(shop: Workshop, tries: int) -> Iterator[str]:
    """Another config on resume: the model, the batches, an average; the cadence."""
    refused = {
        "seed": 1,
        "batch_size": 8,
        "model.width": 64,
        "averages.ema25.divisor": 20.0,
    }
    everything = itertools.cycle([*refused.items(), ("logging.every", 7)])
    for key, value in itertools.islice(everything, tries):
        workdir = shop.halfway()
        end = shop.attempt(workdir, {key: value})
        if key in refused:
            yield shop.refused(*end, 2, key) or shop.goes_on(workdir)
        else:
            yield "" if end[0] == 0 else f"ended with {end}"


def unknown_format(shop: Workshop, tries: int) -> Iterator[str]:
    """A snapshot written by a version to come."""
    for _ in range(tries):
        workdir = shop.halfway()
        newest = workdir / snapshots.FOLDER / str(snapshots.stored_steps(workdir)[-1])
        path = newest / "meta" / "files.json"
        content = json.loads(path.read_text())["content"] | {"format": 99}
        text = json.dumps(content, sort_keys=True)
        path.write_text(
            json.dumps({"crc32": zlib.crc32(text.encode()), "content": content})
        )
        yield shop.refused(*shop.attempt(workdir), 2, "format 99", "reads 1 and 2")


def other_corpus(shop: Workshop, tries: int) -> Iterator[str]:
    """The text that a run is trained on has changed."""
    for _ in range(tries):
        workdir, text = shop.new(), shop.new().with_suffix(".txt")
        lines = [f"line {i} of a text that is long enough\n\n" for i in range(4000)]
        text.write_text("".join(lines))
        changes = {"data.source": f"files:{text}", "model.vocab_size": 256}
        changes |= {"data.validation_fraction": 0.3}
        changes |= {"duration.steps": 20, "horizons.steps": (10, 20)}
        code, line = shop.attempt(workdir, changes)
        text.write_text("".join(reversed(lines)))
        changes["duration.steps"] = 30
        end = shop.attempt(workdir, changes)
        after = shop.attempt(workdir, changes, more=["--changed_data"])
        words = "train tokens", "differ"
        yield (
            (line if code else "")
            or shop.refused(*end, 2, *words)
            or (f"--changed_data: {after}" if after[0] else "")
        )


def cut_metrics(shop: Workshop, tries: int) -> Iterator[str]:
    """metrics.jsonl ends in the middle of a line, early or late."""
    for _ in range(tries):
        workdir = shop.halfway()
        path = workdir / "metrics.jsonl"
        os.truncate(path, shop.random.randrange(_size(path)))
        yield shop.goes_on(workdir)


FAULTS = {
    "kill -9": kill,
    "SIGTERM, SIGINT": signals,
    "newest snapshot truncated": truncated,
    "newest snapshot bit-flipped": flipped,
    "newest snapshot misses a file": missing,
    "disk full": full_disk,
    "workdir read-only": read_only,
    "snapshot folder deleted": deleted,
    "two runs in one workdir": twice,
    "loss not finite, stop": stops,
    "loss not finite, skip": skips,
    "config changed": changed,
    "unknown snapshot format": unknown_format,
    "corpus changed": other_corpus,
    "metrics.jsonl cut": cut_metrics,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--folder", type=pathlib.Path)
    arguments = parser.parse_args()
    wanted = [name for name in FAULTS if arguments.only in name]
    print(
        machine.describe(),
        "\n\n| fault | tries | survived | lost |\n|---|---:|---:|---:|",
    )
    lost = 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        shop = Workshop(pathlib.Path(folder))
        for name in wanted:
            tries = arguments.kills if name == "kill -9" else arguments.tries
            problems = list(FAULTS[name](shop, tries))
            bad = [problem for problem in problems if problem]
            lost += len(bad)
            if name == "kill -9":
                name += f", {shop.inside} of them inside a write"
            row = name, len(problems), len(problems) - len(bad), len(bad)
            print("|", " | ".join(map(str, row)), "|", flush=True)
            for problem in bad:
                print(f"{name}: {problem}", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
