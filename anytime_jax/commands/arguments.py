"""What several verbs read from the command line in the same way."""

from typing import Any

from anytime_jax.commands.errors import BadInput


def parse_spec(text: str, what: str) -> dict[str, Any]:
    """Reads a spec: NAME[:KEY=VALUE,KEY=VALUE,...].

    Args:
      text: such as `ema:alpha=0.2`. A dot in a key makes a spec inside the spec, such
        as `shape.name=power,shape.exponent=2`; a colon in a value separates numbers of
        a list, such as `coefficients=-1:2`.
      what: the argument, for the message.

    Returns:
      `dict(name=..., ...)`.

    Raises:
      BadInput: an entry is not KEY=VALUE, or a key is given twice.

    Example:
      >>> parse_spec("from_decay:shape=1-sqrt,final_fraction=0.1", "--recipe")
      {'name': 'from_decay', 'shape': '1-sqrt', 'final_fraction': 0.1}
    """
    name, _, rest = text.partition(":")
    spec = {"name": name}
    for entry in filter(None, rest.split(",")):
        key, equals, value = entry.partition("=")
        *sections, last = key.split(".")
        node = spec
        for section in sections:
            node = node.setdefault(section, {})
        if not equals or not isinstance(node, dict) or last in node or not last:
            raise BadInput(
                f"{what}={text}: {entry!r} must be KEY=VALUE, each key once; write "
                "NAME:KEY=VALUE,KEY=VALUE"
            )
        node[last] = _value(value)
    return spec


def parse_steps(values: list[str], what: str) -> list[int]:
    """Reads a list of steps.

    Args:
      values: the texts between commas.
      what: the argument, for the message.

    Raises:
      BadInput: one is not a whole number.

    Example:
      >>> parse_steps(["100", "200"], "--steps")
      [100, 200]
    """
    if not values or not all(value.isdecimal() for value in values):
        raise BadInput(f"{what}={','.join(values)} must be steps, such as 100,200")
    return [int(value) for value in values]


def _value(text: str) -> Any:
    if ":" in text:
        return [_value(part) for part in text.split(":")]
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
