"""sweep --config=FILE --list[=commands] [--only=GLOB] [--workdir=ROOT] [--devices=N]
    [--hardware=NAME [--utilisation=0.4]] [--config.KEY=VALUE ...]

Lists the jobs of the sweep in a config file: the command that trains each, its tokens,
its FLOPs and its hours, and what all of them come to. Nothing is launched. Every
command has been read as `train` will, and the run been planned. --list=commands prints
only the commands, one a line, for a shell. --only=GLOB lists the jobs whose names match
it, such as 'wsd-*'; ROOT is the folder of their folders, and --config.KEY=VALUE goes
into every command. Hours are those of the speed that the config file states for a
device, or, with --hardware (a100, h100, v4, v5e, v5p or v6e), of its peak arithmetic
times --utilisation; N devices are taken to be N times as fast.
"""

import fnmatch
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from absl import flags

from anytime_jax.commands import config_files, sweep_jobs
from anytime_jax.commands.errors import BadInput
from anytime_jax.commands.sweep_jobs import Job
from anytime_jax.training.hardware import HARDWARE

_HEAD = f"{'10^9 tokens':>13}{'FLOPs':>11}{'hours':>11}"


class Arguments(NamedTuple):
    """What was given.

    Attributes:
      file: the config file.
      listing: table or commands.
      only: a pattern for the names of jobs.
      workdir: the folder of all jobs; None for that of the sweep.
      devices: how many a job has.
      hardware: its name, None for the speed that the sweep states.
      utilisation: the share of the hardware's peak.
      overrides: `--config.KEY=VALUE` for all jobs.
    """

    file: str
    listing: str
    only: str
    workdir: str | None
    devices: int
    hardware: str | None
    utilisation: float
    overrides: tuple[str, ...]


class Speed(NamedTuple):
    """How long a job takes.

    Attributes:
      tokens: per second on all devices, or None.
      flops: per second on all devices, where `tokens` is None.
      text: where that comes from.
    """

    tokens: float | None
    flops: float | None
    text: str

    def hours(self, jobs: Iterable[Job]) -> float:
        """Returns the hours of jobs that run one after the other."""
        if self.tokens is not None:
            return sum(job.tokens for job in jobs) / self.tokens / 3600
        return sum(job.flops for job in jobs) / self.flops / 3600


def run(arguments: Sequence[str]) -> int:
    """Lists a sweep.

    Args:
      arguments: those after the verb.

    Returns:
      0.

    Raises:
      BadInput: the arguments or the sweep are not allowed.
    """
    if {"-h", "--help"} & set(arguments):
        print(f"usage: python -m anytime_jax {__doc__}", end="")
        return 0
    given = parse(arguments)
    sweep = sweep_jobs.read(given.file, given.workdir, given.overrides)
    jobs = [job for job in sweep.jobs if fnmatch.fnmatchcase(job.name, given.only)]
    if not jobs:
        raise BadInput(
            f"--only={given.only} matches no job; the first of {len(sweep.jobs)} is "
            f"named {sweep.jobs[0].name}"
        )
    if given.listing == "commands":
        print("\n".join(job.to_text() for job in jobs))
    else:
        print(to_text(jobs, speed(sweep, given), given.file))
    return 0


def parse(arguments: Sequence[str]) -> Arguments:
    """Reads the command line.

    Args:
      arguments: those after the verb.

    Returns:
      `Arguments`.

    Raises:
      BadInput: a flag, a key or a value is not allowed.
    """

    def define(values: flags.FlagValues) -> None:
        listings = ["table", "commands"]
        flags.DEFINE_enum("list", None, listings, "", flag_values=values)
        flags.DEFINE_string("only", "*", "", flag_values=values)
        flags.DEFINE_string("workdir", None, "", flag_values=values)
        flags.DEFINE_integer("devices", 1, "", lower_bound=1, flag_values=values)
        flags.DEFINE_enum("hardware", None, list(HARDWARE), "", flag_values=values)
        flags.DEFINE_float("utilisation", None, "", flag_values=values)

    words = ["--list=table" if word == "--list" else word for word in arguments]
    values = config_files.parse("sweep", words, define)
    [name] = [word for word in words if word.startswith("--config=")]
    file, _, variant = name.removeprefix("--config=").partition(":")
    if variant:
        raise BadInput(f"{name}: a sweep has variants of its own; give --config={file}")
    if not values.list:
        raise BadInput("--list is missing: a sweep is only listed, nothing is launched")
    share = values.utilisation
    if share is not None and not values.hardware:
        raise BadInput(f"--utilisation={share} needs --hardware=NAME")
    share = 0.4 if share is None else share
    if not 0 < share <= 1:
        raise BadInput(f"--utilisation={share} must be above 0 and at most 1")
    return Arguments(
        file=file,
        listing=values.list,
        only=values.only,
        workdir=values.workdir,
        devices=values.devices,
        hardware=values.hardware,
        utilisation=share,
        overrides=tuple(
            f"--{word.lstrip('-')}"
            for word in words
            if word.lstrip("-").startswith("config.")
        ),
    )


def speed(sweep: sweep_jobs.Sweep, given: Arguments) -> Speed:
    """Returns how fast a job is trained.

    Args:
      sweep: as read.
      given: the command line.

    Raises:
      BadInput: nothing is known about it.
    """
    count = given.devices
    devices = f"{count} device{'s' * (count > 1)}"
    if given.hardware:
        peak = HARDWARE[given.hardware].flops
        return Speed(
            tokens=None,
            flops=count * given.utilisation * peak,
            text=f"{devices} at {given.utilisation:.3g} of the {peak / 1e12:,.0f} "
            f"bfloat16 TFLOP/s of {given.hardware}",
        )
    if sweep.tokens_per_second is None:
        raise BadInput(
            "--hardware=NAME is missing, as the sweep states no tokens_per_second"
        )
    return Speed(
        tokens=count * sweep.tokens_per_second,
        flops=None,
        text=f"{devices} at {sweep.tokens_per_second:,.0f} tokens/s ({sweep.source})",
    )


def to_text(jobs: Sequence[Job], speed: Speed, file: str) -> str:
    """Returns the table, the totals, and what the trunks save.

    Args:
      jobs: those to list.
      speed: how fast they are.
      file: the config file.
    """
    title = [f"{file}: {len(jobs)} jobs", f"hours: of the steps alone, on {speed.text}"]
    parts = [title, _table(jobs, speed), _totals(jobs, speed)]
    for size in sorted({job.batch_size for job in jobs}):
        parts.append(_compared([job for job in jobs if job.batch_size == size], speed))
    return "\n\n".join("\n".join(part) for part in parts if part)


def _table(jobs: Sequence[Job], speed: Speed) -> list[str]:
    afters = [f"{job.after} at {job.start_step}" if job.after else "" for job in jobs]
    wide = max(len(job.name) for job in jobs)
    also = max(len("can start after"), *map(len, afters))
    head = f"{'job':<{wide}}{'steps':>9}{_HEAD}  {'can start after':<{also}}  command"
    return [head] + [
        f"{job.name:<{wide}}{job.steps:>9,}{_costs([job], speed)}  {after:<{also}}  "
        f"{job.to_text()}"
        for job, after in zip(jobs, afters, strict=True)
    ]


def _costs(jobs: Sequence[Job], speed: Speed) -> str:
    tokens, flops = sum(job.tokens for job in jobs), sum(job.flops for job in jobs)
    return f"{tokens / 1e9:13,.3f}{flops:11.3e}{_hours(speed.hours(jobs)):>11}"


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 1 else f"{hours:.2g}"


def _totals(jobs: Sequence[Job], speed: Speed) -> list[str]:
    groups = {}
    for job in jobs:
        groups.setdefault(_group(job), []).append(job)
    groups["all"] = jobs
    wide = max(map(len, groups))
    return [f"{'total':<{wide}}{'jobs':>9}{_HEAD}"] + [
        f"{name:<{wide}}{len(found):>9,}{_costs(found, speed)}"
        for name, found in groups.items()
    ]


def _group(job: Job) -> str:
    """What a job is added up with."""
    names = dict(
        trunk=f"{job.schedule} trunks",
        branch="branches",
        envelope=f"{job.schedule} envelope",
    )
    return f"batch of {job.batch_size}, {names[job.kind]}"


def _compared(jobs: Sequence[Job], speed: Speed) -> list[str]:
    """What one trunk costs beside an envelope, with one setting each and with all."""
    trunks = [job for job in jobs if job.kind == "trunk"]
    envelope = [job for job in jobs if job.kind == "envelope"]
    if not trunks or not envelope:
        return []
    longest = max(trunks, key=lambda job: job.steps)
    one_each = sorted(
        {job.steps: job for job in envelope}.values(), key=lambda job: job.steps
    )
    shortest, *_ = (job.steps for job in one_each)
    times = [f"{job.steps / shortest:.3g}" for job in one_each]
    spent = sum(job.steps for job in one_each)
    names = " or ".join(dict.fromkeys(job.schedule for job in envelope))
    lines = [
        f"batch of {longest.batch_size}, one setting: one trunk of {longest.steps:,} "
        f"steps, {_price([longest], speed)}",
        f"  one {names} run for each of {len(one_each)} horizons, "
        f"{_price(one_each, speed)}: {_ratio(one_each, [longest])} times as much",
        f"  ({' + '.join(times)} = {spent / shortest:.4g} times {shortest:,} steps, "
        f"against {longest.steps / shortest:.4g})",
        f"batch of {longest.batch_size}, all settings: {len(envelope)} {names} "
        f"runs, {_price(envelope, speed)}",
    ]
    for name in dict.fromkeys(job.schedule for job in trunks):
        tuned = [job for job in trunks if job.schedule == name]
        lines.append(
            f"  {_ratio(envelope, tuned)} times as much as {len(tuned)} {name} trunks, "
            f"{_price(tuned, speed)}"
        )
    return lines


def _price(jobs: Sequence[Job], speed: Speed) -> str:
    tokens = sum(job.tokens for job in jobs) / 1e9
    return f"{tokens:,.1f} billion tokens, {_hours(speed.hours(jobs))} hours"


def _ratio(jobs: Sequence[Job], others: Sequence[Job]) -> str:
    return f"{sum(job.steps for job in jobs) / sum(job.steps for job in others):.3g}"
