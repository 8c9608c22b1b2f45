"""merge WORKDIR --recipe=NAME[:KEY=VALUE,...] --out=DIR [--average=NAME]
    [--steps=S,S,...] [--every=K] [--start=S] [--stop=S] [--latest=K] [--evaluate]

Merges snapshots of the run in WORKDIR into the new folder DIR, which every verb reads.
The recipes, of one set of weights (raw, or --average) at the steps that are chosen:

  uniform, linear                       the mean; weights growing with the step
  ema:alpha=0.2                         an exponential average of snapshots
  from_decay:shape=1-sqrt               updates count as if the rate had decayed (WSM)
  quadratic_accurate:shape=linear       the decayed run, to second order (QAM)
  given:coefficients=-1:2               by hand

and of the averages that the run tracked:

  window:start=S,stop=S                 the mean of an interval, from a uniform average
  synthesize:target.name=power,target.sigma_rel=0.07
                                        an average that was not tracked, at the last of
                                        the steps, from all that is stored at them

The steps are --steps, or of all stored ones the multiples of --every in
(--start, --stop], of which the --latest few; from_decay and quadratic_accurate need
even distances, and take final_fraction=F for a decay to F. window takes limit=1e-3, the
largest error from rounding; synthesize takes limit=0.05, the largest error of what it
remembers, and ridge=R, of which more makes smaller coefficients. With --evaluate the
loss on the run's larger validation set is printed, and recorded in DIR for `report`.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from anytime_jax import averaging, training
from anytime_jax.commands import arguments as arguments_lib
from anytime_jax.commands.errors import BadInput
from anytime_jax.training import merging

_CHOICES = ("every", "start", "stop", "latest")
_MOST_LINES = 20


class Arguments(NamedTuple):
    """What was given.

    Attributes:
      workdir: the run's folder.
      recipe: its spec.
      out: the folder to write.
      average: which weights.
      steps: those given, if any.
      choices: `every`, `start`, `stop`, `latest`, those given.
      evaluate: whether to evaluate the merge.
    """

    workdir: str
    recipe: Mapping[str, Any]
    out: pathlib.Path
    average: str
    steps: list[int] | None
    choices: Mapping[str, int]
    evaluate: bool


def run(arguments: Sequence[str]) -> int:
    """Merges.

    Args:
      arguments: those after the verb.

    Returns:
      0.

    Raises:
      BadInput: an argument is not allowed, or a snapshot is not there.
    """
    if {"-h", "--help"} & set(arguments):
        print(f"usage: python -m anytime_jax {__doc__}", end="")
        return 0
    given = parse(arguments)
    try:
        merging.check_out(given.out)
        steps = given.steps
        if given.choices:
            stored = training.stored_steps(given.workdir)
            steps = merging.choose(stored, **given.choices)
        plan = merging.plan(
            given.workdir, given.recipe, steps=steps, weights=given.average
        )
        loss = merging.write(plan, given.out, evaluate=given.evaluate)
    except ValueError as error:
        raise BadInput(error) from error
    except OSError as error:
        raise BadInput(f"--out={given.out} cannot be written: {error}") from error
    print(to_text(plan))
    print()
    if loss is not None:
        print(f"loss              {loss:.4f} nats/token")
    print(f"Wrote step {plan.step} to {given.out}")
    return 0


def to_text(plan: merging.Plan) -> str:
    """Returns the sources of a merge with their coefficients, and how good it is."""
    sizes = sorted((abs(source.coefficient) for source in plan.sources), reverse=True)
    least = sizes[min(len(sizes), _MOST_LINES) - 1]
    lines = [f"{'step':>10}  {'weights':<16} coefficient"]
    lines += [
        f"{source.step:>10}  {source.weights:<16} {source.coefficient:+.6g}"
        for source in plan.sources
        if abs(source.coefficient) >= least
    ]
    smaller = [size for size in sizes if size < least]
    if smaller:
        lines.append(f"{'':>10}  and {len(smaller)} more, up to {smaller[0]:.2g}")
    lines += [""] * bool(plan.quality)
    lines += [f"{name:<17} {value:.3g}" for name, value in plan.quality.items()]
    moments = averaging.moments(plan.kernel())
    lines += [
        "",
        f"mean age          {moments.mean_age:,.1f} updates",
        f"effective samples {moments.effective_samples:,.1f}",
    ]
    return "\n".join(lines)


def parse(arguments: Sequence[str]) -> Arguments:
    """Reads the command line.

    Args:
      arguments: those after the verb.

    Returns:
      `Arguments`.

    Raises:
      BadInput: a flag is not allowed or missing, or there is not one folder.
    """
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    for name in ("recipe", "out"):
        flags.DEFINE_string(name, None, "", flag_values=values)
    flags.DEFINE_string("average", "raw", "", flag_values=values)
    flags.DEFINE_list("steps", None, "", flag_values=values)
    flags.DEFINE_boolean("evaluate", False, "", flag_values=values)
    for name in _CHOICES:
        flags.DEFINE_integer(name, None, "", lower_bound=0, flag_values=values)
    try:
        folders = values(["merge", *arguments])[1:]
    except flags.Error as error:
        raise BadInput(f"{error}; see python -m anytime_jax merge --help") from error
    if len(folders) != 1:
        raise BadInput(f"WORKDIR is given {len(folders)} times, not once: the run")
    if not values.recipe:
        raise BadInput("--recipe=NAME is missing: how to merge, such as uniform")
    if not values.out:
        raise BadInput("--out=DIR is missing: the folder for the merge")
    choices = {name: values[name].value for name in _CHOICES}
    choices = {name: value for name, value in choices.items() if value is not None}
    for name in ("every", "latest"):
        if choices.get(name) == 0:
            raise BadInput(f"--{name}=0 must be at least 1")
    if values.steps is not None and choices:
        raise BadInput(f"--steps and --{next(iter(choices))} exclude each other")
    steps = values.steps
    return Arguments(
        workdir=folders[0],
        recipe=arguments_lib.parse_spec(values.recipe, "--recipe"),
        out=pathlib.Path(values.out),
        average=values.average,
        steps=None if steps is None else arguments_lib.parse_steps(steps, "--steps"),
        choices=choices,
        evaluate=values.evaluate,
    )
