"""evaluate WORKDIR [--step=S] [--average=NAME,...]

Prints the loss of the weights in a snapshot of WORKDIR, a run or a merge, on the larger
validation set: of the last snapshot and of all its weights, or of those named, where
raw are the weights themselves.
"""

from collections.abc import Sequence

from absl import flags

from anytime_jax import training
from anytime_jax.commands.errors import BadInput
from anytime_jax.training import stored


def run(arguments: Sequence[str]) -> int:
    """Evaluates stored weights.

    Args:
      arguments: those after the verb.

    Returns:
      0.

    Raises:
      BadInput: an argument is not allowed, or the snapshot or weights are not there.
    """
    if {"-h", "--help"} & set(arguments):
        print(f"usage: python -m anytime_jax {__doc__}", end="")
        return 0
    workdir, step, names = parse(arguments)
    try:
        step = stored.last_step(workdir) if step is None else step
        losses = training.evaluate(workdir, step, names)
    except ValueError as error:
        raise BadInput(error) from error
    print(f"{workdir}, step {step}, loss in nats/token")
    for name, loss in losses.items():
        print(f"{name:<16} {loss:.4f}")
    return 0


def parse(arguments: Sequence[str]) -> tuple[str, int | None, list[str] | None]:
    """Reads the command line.

    Args:
      arguments: those after the verb.

    Returns:
      The folder, the step and the names of the weights, None where not given.

    Raises:
      BadInput: a flag is not allowed, or there is not one folder.
    """
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    flags.DEFINE_integer("step", None, "", lower_bound=0, flag_values=values)
    flags.DEFINE_list("average", None, "", flag_values=values)
    try:
        folders = values(["evaluate", *arguments])[1:]
    except flags.Error as error:
        raise BadInput(f"{error}; see python -m anytime_jax evaluate --help") from error
    if len(folders) != 1:
        raise BadInput(f"WORKDIR is given {len(folders)} times, not once: the run")
    return folders[0], values.step, values.average or None
