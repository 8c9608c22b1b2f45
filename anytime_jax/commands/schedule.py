"""schedule --config=FILE[:VARIANT] --out=FILE.png [--steps=N] [--config.KEY=VALUE ...]

Draws the learning rate of a run against its steps, and prints it where something
happens. --steps=N draws a run of N steps, whatever the duration in the config.
--config.KEY=VALUE changes any value of the config, such as --config.schedule.peak=1e-3.
"""

import pathlib
from collections.abc import Sequence

import ml_collections
import numpy as np
from absl import flags

from anytime_jax import reporting, training
from anytime_jax.commands import config_files
from anytime_jax.commands.errors import BadInput

# More than a picture has columns, so that a short cooldown of a long run is drawn.
_POINTS = 100_000


def run(arguments: Sequence[str]) -> int:
    """Draws the learning rate of a run.

    Args:
      arguments: those after the verb.

    Returns:
      0.

    Raises:
      BadInput: the arguments or the config are not allowed.
    """
    if {"-h", "--help"} & set(arguments):
        print(f"usage: python -m anytime_jax {__doc__}", end="")
        return 0
    config, out = parse(arguments)
    try:
        plan = training.plan(config)
    except ValueError as error:
        raise BadInput(error) from error
    name, last = config.schedule.name, plan.total_steps - 1
    warmup_steps = config.schedule.get("warmup_steps") or 0
    counts = np.linspace(0, last, min(plan.total_steps, _POINTS)).astype(int)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        reporting.draw_rates(
            counts,
            np.asarray(plan.schedule(counts)),
            out,
            title=name,
            warmup_steps=min(warmup_steps, last),
            branch_step=plan.start_step,
            horizons=plan.horizons,
        )
    except OSError as error:
        raise BadInput(f"--out={out} cannot be written: {error}") from error

    print(f"{name}, {plan.total_steps} steps of {plan.tokens_per_step} tokens\n")
    print(f"{'count':>10}  {'learning rate':>13}")
    for count, what in _landmarks(plan, warmup_steps):
        print(f"{count:10}  {float(plan.schedule(count)):13.6g}  {what}")
    print(f"\nWrote {out}")
    return 0


def parse(arguments: Sequence[str]) -> tuple[ml_collections.ConfigDict, pathlib.Path]:
    """Reads the command line.

    Args:
      arguments: those after the verb.

    Returns:
      The locked config with its overrides, and the file to write.

    Raises:
      BadInput: a flag, a key or a value is not allowed.
    """

    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_string("out", None, "", flag_values=values)
        flags.DEFINE_integer("steps", None, "", lower_bound=1, flag_values=values)

    values = config_files.parse("schedule", arguments, define)
    if not values.out:
        raise BadInput("--out=FILE.png is missing: the picture to write")
    out = pathlib.Path(values.out)
    if out.suffix != ".png":
        raise BadInput(f"--out={values.out} must end in .png")
    config = values.config
    if values.steps:
        if config.branch.workdir:
            raise BadInput(
                f"--steps={values.steps} is not for a branch, whose length is "
                "--config.schedule.steps"
            )
        with config.unlocked():
            config.duration = dict(steps=values.steps)
    return config, out


def _landmarks(plan: training.Plan, warmup_steps: int) -> list[tuple[int, str]]:
    """The counts at which something happens, in order, and what."""
    marks = [(0, "first update")]
    if 0 < warmup_steps < plan.total_steps:
        marks.append((warmup_steps, "end of the warmup"))
    if plan.start_step:
        marks.append((plan.start_step, "first update of the branch"))
    for horizon in plan.horizons:
        marks.append((horizon - 1, f"last update before step {horizon}"))
    return sorted(marks)
