"""train --config=FILE[:VARIANT] --workdir=DIR [--config.KEY=VALUE ...]
             [--distributed | --coordinator=HOST:PORT --processes=N --process=I]
             [--heartbeat=SECONDS] [--changed_data] [--profile]

Trains a run, or goes on with the one in DIR. --config.KEY=VALUE changes any value of
the config, such as --config.schedule.peak=1e-3. On several hosts, start it on every one
of them: with --distributed JAX finds the others, through SLURM, Open MPI, Cloud TPU or
Kubernetes; elsewhere name process 0's address, their number, and which one this is.
When one has been silent for --heartbeat seconds (100), the others end. --changed_data
goes on although the tokens are not those of the run; --profile writes a trace of five
steps into DIR.
"""

import logging
import sys
import traceback
from collections.abc import Sequence

import jax
from absl import flags
from absl import logging as absl_logging

from anytime_jax import training
from anytime_jax.commands import config_files
from anytime_jax.commands.errors import BadInput, one_line
from anytime_jax.training import hosts


def run(arguments: Sequence[str]) -> int:
    """Trains a run, or goes on with it.

    Args:
      arguments: those after the verb.

    Returns:
      0; 1 if the loss stopped being finite, the folder could not be written, memory ran
      out or another process was lost; 130 or 143 if SIGINT or SIGTERM stopped the run.

    Raises:
      BadInput: the arguments or the config are not allowed, or the run is in use.
    """
    if {"-h", "--help"} & set(arguments):
        print(f"usage: python -m anytime_jax {__doc__}", end="")
        return 0
    given = parse(arguments)
    # Orbax logs tracebacks of what ends as one line here, and so does TensorStore.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _silence_late_writes
    if given.distributed or given.coordinator:
        _join(given)
    try:
        return _train(given)
    except BadInput:
        # All processes have it, and one line is enough.
        if hosts.is_first():
            raise
        return 2
    except (Exception, KeyboardInterrupt) as error:
        if jax.process_count() == 1:
            raise
        # The others have not failed, and the end of Python would wait for them.
        if isinstance(error, KeyboardInterrupt):
            hosts.leave(130, "interrupted")
        traceback.print_exc()
        hosts.leave(1)


def _silence_late_writes(unraisable) -> None:
    """Drops what writes say that end after Orbax has given up all of a snapshot."""
    if "Event loop is closed" not in str(unraisable.exc_value):
        sys.__unraisablehook__(unraisable)


def parse(arguments: Sequence[str]) -> flags.FlagValues:
    """Reads the command line.

    Args:
      arguments: those after the verb.

    Returns:
      The flags' values by name, above all the locked `config` with its overrides.

    Raises:
      BadInput: a flag, a key or a value is not allowed.
    """

    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_string("workdir", None, "", flag_values=values)
        flags.DEFINE_bool("distributed", False, "", flag_values=values)
        flags.DEFINE_string("coordinator", None, "", flag_values=values)
        flags.DEFINE_integer("processes", None, "", flag_values=values)
        flags.DEFINE_integer("process", None, "", flag_values=values)
        flags.DEFINE_integer("heartbeat", 100, "", flag_values=values)
        flags.DEFINE_bool("changed_data", False, "", flag_values=values)
        flags.DEFINE_bool("profile", False, "", flag_values=values)

    values = config_files.parse("train", arguments, define)
    if not values.workdir:
        raise BadInput("--workdir=DIR is missing: the folder for the run")
    if values.heartbeat < 1:
        raise BadInput(f"--heartbeat={values.heartbeat} must be at least 1 second")
    _check_processes(values)
    return values


def _check_processes(values: flags.FlagValues) -> None:
    named = ("coordinator", "processes", "process")
    missing = [name for name in named if values[name].value in (None, "")]
    if len(missing) == len(named):
        return
    if values.distributed:
        given = next(name for name in named if name not in missing)
        raise BadInput(
            f"--distributed finds the other processes itself: leave out --{given}"
        )
    if missing:
        raise BadInput(
            "--coordinator, --processes and --process are given together; "
            f"--{missing[0]} is missing"
        )


def _join(given: flags.FlagValues) -> None:
    named = {}
    if given.coordinator:
        named = {
            name: given[name].value for name in ("coordinator", "processes", "process")
        }
    try:
        hosts.join(**named, heartbeat=given.heartbeat)
    except ValueError as error:
        raise BadInput(error) from error


def _train(given: flags.FlagValues) -> int:
    """Trains, and tells in one line what ended it early."""
    try:
        prepared = training.prepare(given.config, given.workdir, given.changed_data)
        training.run(prepared, profile=given.profile)
        return 0
    except ValueError as error:
        # Of the config, or of what is in the folder; all processes raise the same.
        raise BadInput(error) from error
    except training.Preempted as error:
        hosts.say(f"anytime_jax: {error}")
        return 128 + error.signal
    except FloatingPointError as error:
        hosts.say(f"anytime_jax: {error}")
        return 1
    except (hosts.Lost, jax.errors.JaxRuntimeError, OSError) as error:
        line = _explained(error, given.workdir)
    if jax.process_count() > 1:
        # What happened to one process; no other is waited for.
        hosts.leave(1, line)
    print(f"anytime_jax: {line}", file=sys.stderr)
    return 1


def _explained(error: Exception, workdir: str) -> str:
    if isinstance(error, hosts.Lost):
        stored = training.stored_steps(workdir)
        where = f"from step {stored[-1]} of {workdir}" if stored else "from the start"
        return f"{error}; start all processes again to go on {where}"
    if isinstance(error, jax.errors.JaxRuntimeError):
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise error
        return (
            f"a device has too little memory ({one_line(error)}): python -m "
            "anytime_jax plan shows what needs how much"
        )
    return one_line(error)
