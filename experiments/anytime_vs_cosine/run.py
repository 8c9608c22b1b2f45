"""One run with averages against runs tuned for every horizon, 1x to 32x Chinchilla.

    python -m experiments.anytime_vs_cosine.run --workers=2   # hours, on 2 cores
    python -m experiments.anytime_vs_cosine.run --list        # what is left to do
    python -m experiments.anytime_vs_cosine.run --quick       # a smoke test

Every finished job is a file in results/, and is not done again; an interrupted one goes
on where it was. Machines that share nothing take parts by --only=GLOB, of names, or by
--shard=I/N, and copy their results together; what is to be done on other seeds follows
from the results of seed 0 and is known when these are there.
"""

import argparse
import fnmatch
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import zlib

import jax

from anytime_jax import training
from experiments.anytime_vs_cosine import documents as documents_lib
from experiments.anytime_vs_cosine import protocol, selection, work
from experiments.anytime_vs_cosine.protocol import Job

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results"
_PATIENCE = 10.0  # seconds between looks at what other workers have done


def read(folder: pathlib.Path) -> dict[Job, dict]:
    """Returns the results that are there, by job."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text())
        found[Job(**result["job"])] = result
    return found


def pending(options: argparse.Namespace) -> list[Job]:
    """Returns the jobs that are this machine's and not done."""
    results = read(options.results)
    wanted = selection.wanted(selection.losses(results), options.plan)
    index, count = map(int, options.shard.split("/"))
    # By name, so that it does not depend on what is done already.
    return [
        job
        for job in wanted
        if job not in results
        and zlib.crc32(job.name.encode()) % count == index - 1
        and fnmatch.fnmatch(job.name, options.only)
    ]


def decided(options: argparse.Namespace) -> bool:
    """Returns whether the jobs of other seeds are known, at every batch."""
    wanted = selection.wanted(selection.losses(read(options.results)), options.plan)
    return {job.batch for job in wanted if job.seed} == set(options.plan.batches)


def do(options: argparse.Namespace) -> None:
    """Does jobs until none is left; those of other workers may lead to more."""
    # What the runs have in common, such as their evaluation, is compiled once.
    jax.config.update("jax_compilation_cache_dir", str(options.out / ".compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if options.discard:  # What was interrupted between its result and this.
        for job in read(options.results):
            work.discard(job, options.out)
    while jobs := pending(options):
        for job in jobs:
            if claim := work.claim(options.out / "claims" / job.name):
                with claim:
                    _do(job, options)
                break
        else:
            time.sleep(_PATIENCE)


@functools.cache
def _documents(reported: bool, quick: bool) -> documents_lib.Documents:
    """The validation set to report on, or the one to choose by."""
    config = protocol.config(protocol.grid(protocol.FULL, 1)[0])
    if quick:
        return documents_lib.Documents(config, sequences=512)
    if reported:
        return documents_lib.Documents(config, most=documents_lib.MOST)
    return documents_lib.Documents(config)


def _do(job: Job, options: argparse.Namespace) -> None:
    path = options.results / f"{job.name}.json"
    if path.exists():  # Done between the list and the claim.
        return
    start = time.perf_counter()
    documents = _documents(job.seed > 0, options.quick)
    work.write(work.execute(job, options.out, documents), path)
    if options.discard:
        work.discard(job, options.out)
    print(f"{job.name}: {(time.perf_counter() - start) / 60:.1f} minutes", flush=True)


def work_together(options: argparse.Namespace) -> int:
    """Starts workers, each on a core of its own, and waits for them."""
    # The last of a flag that is given twice counts.
    arguments = [*sys.argv[1:], "--workers=1"]
    command = [sys.executable, "-m", "experiments.anytime_vs_cosine.run", *arguments]
    cores = sorted(os.sched_getaffinity(0))
    processes = [
        subprocess.Popen(
            command,
            preexec_fn=lambda i=i: os.sched_setaffinity(0, {cores[i % len(cores)]}),
        )
        for i in range(options.workers)
    ]

    told: list[int] = []
    # Ctrl-C reaches the workers by itself.
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while any(process.poll() is None for process in processes):
        # Again and again: a run that has just done its last step does not hear of it.
        for process in processes if told else ():
            process.send_signal(told[0])
        time.sleep(1.0)
    return next((process.returncode for process in processes if process.returncode), 0)


def _end(*_: object) -> None:
    """Ends a worker that is told to stop outside of training, and is told once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + signal.SIGTERM)


def parse() -> argparse.Namespace:
    """Returns the options, with what follows from them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, default="runs/anytime_vs_cosine")
    parser.add_argument("--results", type=pathlib.Path, help="here by default")
    parser.add_argument("--only", default="*", help="names of jobs, as a glob")
    parser.add_argument("--shard", default="1/1", help="I/N: the Ith of N parts")
    parser.add_argument("--workers", type=int, default=1, help="each on its own core")
    parser.add_argument("--discard", action="store_true", help="runs that are done")
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    parser.add_argument("--list", action="store_true", help="say what is left to do")
    options = parser.parse_args()
    index, _, count = options.shard.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        parser.error(f"--shard={options.shard} is not I/N with 1 <= I <= N")
    options.plan = protocol.QUICK if options.quick else protocol.FULL
    options.out = options.out.absolute() / ("quick" if options.quick else "")
    if not options.results:
        options.results = options.out / "results" if options.quick else RESULTS
    return options


def main() -> int:
    """Does what is left to do."""
    options = parse()
    options.results.mkdir(parents=True, exist_ok=True)
    if options.list:
        jobs = pending(options)
        for job in jobs:
            print(f"{job.name:48} {job.cost:6.1f}")
        print(f"{len(jobs)} jobs, {sum(job.cost for job in jobs):.0f} times 1x")
        if not decided(options):
            print("and other seeds: of what is chosen when these are done")
    elif options.workers > 1:
        return work_together(options)
    else:
        # Outside of training too, so that the time that was taken is written.
        signal.signal(signal.SIGTERM, _end)
        try:
            do(options)
        except training.Preempted as stopped:
            print(stopped, file=sys.stderr)
            return 128 + stopped.signal
    return 0


if __name__ == "__main__":
    sys.exit(main())
