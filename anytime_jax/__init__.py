"""Train without knowing for how long, and take a good model out at any time.

`schedules` (step -> learning rate) and `averaging` (step -> mixing weight) are useful
alone and start at once; the other rooms are imported on first use.
"""

import importlib

from anytime_jax import averaging, schedules

_ON_FIRST_USE = ("data", "laws", "models", "reporting", "theory", "training")

__all__ = ["averaging", "schedules", *_ON_FIRST_USE]


def __getattr__(name: str):
    if name in _ON_FIRST_USE:
        return importlib.import_module(f"anytime_jax.{name}")
    raise AttributeError(f"module 'anytime_jax' has no attribute {name!r}")
