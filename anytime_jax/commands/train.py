"""train --config=FILE[:VARIANT] --workdir=DIR [--config.KEY=VALUE ...]

Trains a run, or goes on with the one in DIR. --config.KEY=VALUE changes any value of
the config, such as --config.schedule.peak=1e-3. On a pod, start it on every host with
--distributed.
"""

import importlib.util
import pathlib
import sys
from collections.abc import Sequence
from unittest import mock

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

from anytime_jax import training
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
    config, workdir, distributed = parse(arguments)
    if distributed:
        _join_hosts()
    try:
        prepared = training.prepare(config, workdir)
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


def parse(arguments: Sequence[str]) -> tuple[ml_collections.ConfigDict, str, bool]:
    """Reads the command line.

    Args:
      arguments: those after the verb.

    Returns:
      The locked config with its overrides, the workdir, and whether this is one of
      several hosts.

    Raises:
      BadInput: a flag, a key or a value is not allowed.
    """
    files = [one for one in arguments if one.startswith("--config=")]
    if len(files) != 1:
        raise BadInput(
            f"--config=FILE[:VARIANT] is given {len(files)} times, not once (its = is "
            "needed)"
        )
    config = load_config(files[0].removeprefix("--config="))
    line = ["train", *(one for one in arguments if one not in files)]
    for argument in line:
        if argument.lstrip("-").startswith("config."):
            _check_override(config, argument)

    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    flags.DEFINE_bool("distributed", False, "", flag_values=values)
    try:
        # config_flags finds the overrides in sys.argv, and nowhere else.
        with mock.patch.object(sys, "argv", line):
            config_flags.DEFINE_config_dict("config", config, flag_values=values)
            rest = values(line)[1:]
    except flags.Error as error:
        raise BadInput(f"{error}; see python -m anytime_jax train --help") from error
    if rest:
        raise BadInput(f"argument {rest[0]!r} is unknown; all arguments start with --")
    if not values.workdir:
        raise BadInput("--workdir=DIR is missing: the folder for the run")
    return values.config, values.workdir, values.distributed


def load_config(name: str) -> ml_collections.ConfigDict:
    """Returns the locked config of a file.

    Args:
      name: FILE or FILE:VARIANT, a Python file with `get_config(variant)`.

    Raises:
      BadInput: there is no such file, or it has no such variant.
    """
    file, _, variant = name.partition(":")
    if not pathlib.Path(file).is_file():
        raise BadInput(f"--config={name}: there is no file {file}")
    spec = importlib.util.spec_from_file_location("config", file)
    if spec is None:
        raise BadInput(f"--config={name}: {file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # So that a config can import the ones beside it, as `configs.NAME`.
    root = str(pathlib.Path(file).resolve().parents[1])
    try:
        with mock.patch.object(sys, "path", [root, *sys.path]):
            spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ValueError(f"{file} has no function get_config")
        config = module.get_config(variant) if variant else module.get_config()
    except ValueError as error:
        raise BadInput(f"--config={name}: {error}") from error
    except Exception as error:
        raise BadInput(f"--config={name}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise BadInput(
            f"--config={name}: get_config returned a {type(config).__name__}, and has "
            "to return a ConfigDict"
        )
    return config.lock()


def _check_override(config: ml_collections.ConfigDict, argument: str) -> None:
    """Refuses a key that is not there, or a value of another type, in plain words."""
    key, equals, text = argument.lstrip("-").removeprefix("config.").partition("=")
    if not equals:
        raise BadInput(f"{argument} has no value; write {argument}=VALUE")
    node = config
    for depth, part in enumerate(parts := key.split(".")):
        if not isinstance(node, ml_collections.ConfigDict) or part not in node:
            known = (
                ", ".join(node) if isinstance(node, ml_collections.ConfigDict) else ""
            )
            parent = ".".join(["config", *parts[:depth]])
            raise BadInput(
                f"--config.{key} is unknown; {parent} has "
                f"{known or 'no keys, it is a value'}"
            )
        node = node[part]
    if type(node) is bool and text.lower() not in ("true", "false", "1", "0"):
        raise BadInput(f"--config.{key}={text} must be true or false")
    if type(node) in (int, float):
        try:
            type(node)(text)
        except ValueError as error:
            kind = type(node).__name__
            raise BadInput(
                f"--config.{key}={text} must be of type {kind}, such as {node!r}"
            ) from error
