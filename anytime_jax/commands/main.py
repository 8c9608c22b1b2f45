"""Picks the verb, and turns what a user did wrong into one line and exit code 2."""

import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from anytime_jax.commands.errors import BadInput

VERBS = {
    "train": "train a run from a config file, or go on with it",
    "schedule": "draw the learning rate of a config against the step",
    "plan": "say what a run needs in memory, time and sending, on any devices",
    "sweep": "list the jobs of a sweep: the command and the price of each",
    "report": "tabulate and plot the exits of runs beside their envelope",
    "merge": "merge snapshots of a run into a new one",
    "evaluate": "print the loss of stored weights",
    "kernel": "print and plot what averages and merges remember",
    "law": "fit loss curves, predict a schedule's, find the best schedule",
}

_FAILED = (1, 130)  # exit codes

_LISTED = "\n".join(f"  {verb:8} {what}" for verb, what in VERBS.items())
_HELP = f"usage: python -m anytime_jax VERB [--help] ...\n\n{_LISTED}"


def process(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one verb, and ends the process with its exit code.

    Args:
      arguments: as for `main`.
    """
    code = main(arguments)
    if code in _FAILED and "anytime_jax.training.hosts" in sys.modules:
        from anytime_jax.training import hosts

        # Python would wait for the threads of a snapshot that failed, and they for each
        # other for minutes. Several processes end their common work first.
        if not hosts.several():
            hosts.leave(code)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Args:
      arguments: those after `python -m anytime_jax`; `sys.argv` by default.

    Returns:
      The exit code: 0; 2 for bad input; 130 after Ctrl-C; what else the verb returns.

    Example:
      >>> main(["tarin"])
      2
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP)
        return 0
    verb, rest = arguments[0], arguments[1:]
    try:
        if verb not in VERBS:
            raise BadInput(f"{verb!r} is no verb; known are {', '.join(VERBS)}")
        return importlib.import_module(f"anytime_jax.commands.{verb}").run(rest)
    except BadInput as error:
        print(f"anytime_jax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nanytime_jax: interrupted", file=sys.stderr)
        return 130
