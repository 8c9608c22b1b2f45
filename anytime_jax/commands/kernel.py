"""kernel WHAT [WHAT ...] [--step=S] [--recipe=NAME:...] [--out=FILE.png]

Prints what averages remember after S updates: mean age, effective samples, and where
the learning-rate decay that they imitate reaches 0.9, 0.5 and 0.1; and plots kernels
and decays into FILE.png. A WHAT is one of

  WORKDIR          a run: all its averages, at its last snapshot or that of --step;
                   with --recipe, the merge that `merge` would write from it
  DIR              a merge
  NAME:KEY=VALUE   any average, such as age_ema:divisor=25, power:sigma_rel=0.1, uniform
                   or tail:start=900; with --step, and ticks of --every updates
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import flags

from anytime_jax import averaging
from anytime_jax.averaging.merging import Stored, merged_kernel
from anytime_jax.commands import arguments as arguments_lib
from anytime_jax.commands.errors import BadInput
from anytime_jax.reporting import memory
from anytime_jax.training import (
    config_file,
    merge_recipes,
    merging,
    snapshots,
    stored,
)


class Arguments(NamedTuple):
    """What was given.

    Attributes:
      what: folders and averages.
      step: updates done, or None.
      every: updates between the ticks of an average that is of no run.
      recipe: of a merge, or None.
      out: the picture to write, or None.
    """

    what: list[str]
    step: int | None
    every: int
    recipe: str | None
    out: pathlib.Path | None


def run(arguments: Sequence[str]) -> int:
    """Shows kernels.

    Args:
      arguments: those after the verb.

    Returns:
      0.

    Raises:
      BadInput: an argument is not allowed, or a folder holds no run.
    """
    if {"-h", "--help"} & set(arguments):
        print(f"usage: python -m anytime_jax {__doc__}", end="")
        return 0
    given = parse(arguments)
    kernels = {}
    try:
        for what in given.what:
            found = _of_folder(what, given) if _is_folder(what) else _of(what, given)
            label = _label(what, given)
            kernels |= {f"{label}{name}": found[name] for name in found}
    except ValueError as error:
        raise BadInput(error) from error
    if not kernels:
        raise BadInput(f"{' '.join(given.what)} has no averages to show")
    if given.out:
        try:
            given.out.parent.mkdir(parents=True, exist_ok=True)
            memory.draw(kernels, given.out)
        except OSError as error:
            raise BadInput(f"--out={given.out} cannot be written: {error}") from error
    print(memory.to_text(kernels))
    if given.out:
        print(f"\nWrote {given.out}")
    return 0


def parse(arguments: Sequence[str]) -> Arguments:
    """Reads the command line.

    Args:
      arguments: those after the verb.

    Returns:
      `Arguments`.

    Raises:
      BadInput: a flag is not allowed, or there is nothing to show.
    """
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    flags.DEFINE_integer("step", None, "", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("every", 1, "", lower_bound=1, flag_values=values)
    for name in ("recipe", "out"):
        flags.DEFINE_string(name, None, "", flag_values=values)
    try:
        what = values(["kernel", *arguments])[1:]
    except flags.Error as error:
        raise BadInput(f"{error}; see python -m anytime_jax kernel --help") from error
    if not what:
        raise BadInput("WHAT is missing: a run, a merge, or an average such as uniform")
    out = pathlib.Path(values.out) if values.out else None
    if out and out.suffix != ".png":
        raise BadInput(f"--out={values.out} must end in .png")
    if values.recipe and not all(map(_is_folder, what)):
        raise BadInput(f"--recipe={values.recipe} needs a run, the folder to merge")
    return Arguments(what, values.step, values.every, values.recipe, out)


def _is_folder(what: str) -> bool:
    return pathlib.Path(what).is_dir() or "/" in what


def _label(what: str, given: Arguments) -> str:
    """Which folder a kernel is of, as short as that can be told."""
    folders = [one for one in given.what if _is_folder(one)]
    if len(given.what) == 1 or what not in folders:
        return ""
    names = [pathlib.Path(one).name for one in folders]
    name = pathlib.Path(what).name
    return f"{name if name and names.count(name) == 1 else what} "


def _of(what: str, given: Arguments) -> dict[str, np.ndarray]:
    """The kernel of an average that is of no run."""
    spec = arguments_lib.parse_spec(what, "WHAT")
    try:
        average = averaging.build({"average": spec})["average"]
    except ValueError as error:
        raise BadInput(
            f"{what} is no folder, and as an average: "
            f"{str(error).removeprefix('averages.')}"
        ) from error
    if given.step is None:
        raise BadInput(f"--step=S is missing: the updates that {what} has seen")
    return {what: merged_kernel([1.0], [Stored(average, given.step, given.every)])}


def _of_folder(folder: str, given: Arguments) -> dict[str, np.ndarray]:
    """The kernels of a run's averages, or that of a merge."""
    config = config_file.read(folder)
    if given.recipe:
        recipe = arguments_lib.parse_spec(given.recipe, "--recipe")
        steps = snapshots.stored_steps(folder)
        steps = merging.choose(steps, stop=given.step)
        return {given.recipe: merging.plan(folder, recipe, steps=steps).kernel()}
    step = stored.last_step(folder) if given.step is None else given.step
    merge = snapshots.read_meta(folder, step).get("merge")
    if merge:
        return {merge["recipe"]["name"]: merging.kernel(merging.sources_of(merge))}
    names = [name for name in snapshots.stored_weights(folder, step) if name != "raw"]
    kernel = functools.partial(merge_recipes.stored_kernel, folder, config, step)
    return {name: kernel(name) for name in names}
