"""Where published numbers are read from: they are no part of the repository."""

import os
import pathlib

_BESIDE = pathlib.Path(__file__).parents[2] / "shared" / "data"


def find(name: str) -> pathlib.Path | None:
    """Returns a published file, or None where there is none.

    Args:
      name: its path in the folder that the environment variable ANYTIME_DATA names; by
        default `shared/data` beside the repository.
    """
    path = pathlib.Path(os.environ.get("ANYTIME_DATA", _BESIDE)) / name
    return path if path.exists() else None
