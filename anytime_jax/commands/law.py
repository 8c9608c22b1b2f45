"""law fit | predict | best-schedule ...

Predicts the loss of a schedule before it is trained, from the curves of a few runs:

  law fit CURVES... --out=law.json     fits a law of the loss curve to measured curves
  law predict law.json ...             predicts the loss curve of any other schedule,
                                       and of averaged weights along it
  law best-schedule law.json ...       finds the schedule of least predicted final loss

Each has its own --help. A law holds for one model, batch size and peak rate.
"""

import importlib
from collections.abc import Sequence

from anytime_jax.commands.errors import BadInput

_ACTIONS = {
    "fit": "law_fit",
    "predict": "law_predict",
    "best-schedule": "law_best_schedule",
}


def run(arguments: Sequence[str]) -> int:
    """Runs one of the verb's actions.

    Args:
      arguments: those after the verb.

    Returns:
      0.

    Raises:
      BadInput: an argument is not allowed, or a file is not what it has to be.
    """
    action, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if action in ("-h", "--help"):
        print(f"usage: python -m anytime_jax {__doc__}", end="")
        return 0
    if action not in _ACTIONS:
        raise BadInput(
            f"law {action!r} is not known; after law comes one of {', '.join(_ACTIONS)}"
        )
    module = importlib.import_module(f"anytime_jax.commands.{_ACTIONS[action]}")
    if {"-h", "--help"} & set(rest):
        print(f"usage: python -m anytime_jax {module.__doc__}", end="")
        return 0
    return module.run(rest)
