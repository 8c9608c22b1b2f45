"""Turns data, `dict(name=..., argument=...)`, into a call of that factory."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def call(spec: Mapping[str, Any], factories: Iterable[Callable], kind: str) -> Any:
    """Calls the factory that `spec` names with the spec's other entries.

    Args:
      spec: a mapping with a `name` and keyword arguments for the factory of that name;
        an argument that is None counts as not given.
      factories: the functions to choose from.
      kind: what the factories make, for error messages.

    Returns:
      What the factory returns.

    Raises:
      ValueError: `spec` is no mapping, its name is unknown, an argument is unknown or
        missing, or the factory refuses a value. The message lists what is known.
    """
    if not hasattr(spec, "items"):
        raise ValueError(f"{kind}={spec!r} must be a dict(name=..., ...)")
    by_name = {factory.__name__: factory for factory in factories}
    name = spec.get("name")
    if not isinstance(name, str) or name not in by_name:
        raise ValueError(
            f"{kind}.name={name!r} is unknown; known are {', '.join(sorted(by_name))}"
        )
    parameters = inspect.signature(by_name[name]).parameters
    arguments = {k: v for k, v in spec.items() if k != "name" and v is not None}
    for argument in arguments:
        if argument not in parameters:
            raise ValueError(
                f"{kind}.{argument}={arguments[argument]!r} is not an argument of "
                f"{name}; known are {', '.join(parameters) or 'none'}"
            )
    for argument, parameter in parameters.items():
        if parameter.default is parameter.empty and argument not in arguments:
            raise ValueError(f"{kind} {name!r} needs {kind}.{argument}")
    try:
        return by_name[name](**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{kind} {name!r}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError) as error:
        # Arithmetic with what is no number, or is beyond all floats.
        raise ValueError(f"{kind} {name!r}: {type(error).__name__}: {error}") from error
