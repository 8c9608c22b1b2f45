"""train --config=FILE[:VARIANT] --workdir=DIR [--config.KEY=VALUE ...]

Trains a run, or goes on with the one in DIR. --config.KEY=VALUE changes any value of
the config, such as --config.schedule.peak=1e-3. On a pod, start it on every host with
--distributed. --changed_data goes on although the tokens are not those of the run.
"""

import sys
from collections.abc import Sequence

import jax
import ml_collections
from absl import flags

from anytime_jax import training
from anytime_jax.commands import config_files
from anytime_jax.commands.errors import BadInput

_STOPPED_BY_SIGTERM = 128 + 15


def run(arguments: Sequence[str]) -> int:
    """Trains a run, or goes on with it.

    Args:
      arguments: those after the verb.

    Returns:
      0; 1 if the loss stopped being finite; 143 if SIGTERM stopped the run.

    Raises:
      BadInput: the arguments or the config are not allowed.
    """
    if {"-h", "--help"} & set(arguments):
        print(f"usage: python -m anytime_jax {__doc__}", end="")
        return 0
    config, workdir, distributed, changed_data = parse(arguments)
    if distributed:
        _join_hosts()
    try:
        prepared = training.prepare(config, workdir, changed_data)
    except ValueError as error:
        raise BadInput(error) from error
    try:
        training.run(prepared)
    except FloatingPointError as error:
        print(f"anytime_jax: {error}", file=sys.stderr)
        return 1
    except training.Preempted as error:
        print(f"anytime_jax: {error}", file=sys.stderr)
        return _STOPPED_BY_SIGTERM
    return 0


def _join_hosts() -> None:
    try:
        jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        raise BadInput(f"--distributed: JAX finds no other hosts: {error}") from error


def parse(
    arguments: Sequence[str],
) -> tuple[ml_collections.ConfigDict, str, bool, bool]:
    """Reads the command line.

    Args:
      arguments: those after the verb.

    Returns:
      The locked config with its overrides, the workdir, whether this is one of several
      hosts, and whether the data may have changed.

    Raises:
      BadInput: a flag, a key or a value is not allowed.
    """

    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_string("workdir", None, "", flag_values=values)
        flags.DEFINE_bool("distributed", False, "", flag_values=values)
        flags.DEFINE_bool("changed_data", False, "", flag_values=values)

    values = config_files.parse("train", arguments, define)
    if not values.workdir:
        raise BadInput("--workdir=DIR is missing: the folder for the run")
    return values.config, values.workdir, values.distributed, values.changed_data
