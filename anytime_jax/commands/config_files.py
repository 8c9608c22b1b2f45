"""The flag --config=FILE[:VARIANT] and its overrides, --config.KEY=VALUE."""

import contextlib
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import ml_collections
from absl import flags
from ml_collections import config_flags

from anytime_jax.commands.errors import BadInput


def parse(
    verb: str,
    arguments: Sequence[str],
    define: Callable[[flags.FlagValues], None],
) -> flags.FlagValues:
    """Reads the command line of a verb that has a config.

    Args:
      verb: its name, for messages.
      arguments: those after the verb.
      define: defines the verb's other flags.

    Returns:
      The values of the flags, with the locked config and its overrides as `config`.

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
    line = [verb, *(one for one in arguments if one not in files)]
    for argument in line:
        if argument.lstrip("-").startswith("config."):
            _check_override(config, argument)

    values = flags.FlagValues()
    define(values)
    try:
        # config_flags finds the overrides in sys.argv, and nowhere else.
        with mock.patch.object(sys, "argv", line):
            config_flags.DEFINE_config_dict("config", config, flag_values=values)
            rest = values(line)[1:]
    except flags.Error as error:
        raise BadInput(f"{error}; see python -m anytime_jax {verb} --help") from error
    if rest:
        raise BadInput(f"argument {rest[0]!r} is unknown; all arguments start with --")
    return values


def load_config(name: str) -> ml_collections.ConfigDict:
    """Returns the locked config of a file.

    Args:
      name: FILE or FILE:VARIANT, a Python file with `get_config(variant)`.

    Raises:
      BadInput: there is no such file, or it has no such variant.
    """
    file, _, variant = name.partition(":")
    with _one_line(name):
        get_config = _function(file, "get_config")
        config = get_config(variant) if variant else get_config()
        if isinstance(config, ml_collections.ConfigDict):
            config.to_dict()  # Its values can be read, and its keys be sorted.
    if not isinstance(config, ml_collections.ConfigDict):
        raise BadInput(
            f"--config={name}: get_config returned a {type(config).__name__}, and has "
            "to return a ConfigDict"
        )
    return config.lock()


def load_sweep(file: str) -> Any:
    """Returns what `get_sweep()` of a config file does.

    Args:
      file: a Python file.

    Raises:
      BadInput: there is no such file, or no sweep in it.
    """
    with _one_line(file):
        return _function(file, "get_sweep")()


def _function(file: str, name: str) -> Callable:
    """Runs a config file, and returns one of its functions."""
    if not pathlib.Path(file).is_file():
        raise ValueError(f"there is no file {file}")
    spec = importlib.util.spec_from_file_location("config", file)
    if spec is None:
        raise ValueError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # So that a config can import the ones beside it, as `configs.NAME`.
    root = str(pathlib.Path(file).resolve().parent.parent)
    with mock.patch.object(sys, "path", [root, *sys.path]):
        spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise ValueError(f"{file} has no function {name}")
    return getattr(module, name)


@contextlib.contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Makes one line of whatever a config file raises."""
    try:
        yield
    except ValueError as error:
        raise BadInput(f"--config={name}: {error}") from error
    except (Exception, SystemExit) as error:
        raise BadInput(f"--config={name}: {type(error).__name__}: {error}") from error


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
