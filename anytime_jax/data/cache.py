"""The cache folder, and folders inside it that exist complete or not at all."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator
from typing import Any


def folder(cache: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Returns the cache folder, without making it.

    Args:
      cache: a path; None means the environment variable `ANYTIME_JAX_CACHE`, and if
        that is not set `~/.cache/anytime_jax`.

    Raises:
      ValueError: the path, or the nearest folder above it that exists, is not a folder
        that can be written to.
    """
    path = cache or os.environ.get("ANYTIME_JAX_CACHE") or "~/.cache/anytime_jax"
    path = pathlib.Path(path).expanduser().absolute()
    existing = next(p for p in (path, *path.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(
            f"data.cache={str(path)!r} cannot be used: {str(existing)!r} is not a "
            "folder that this process may write to"
        )
    return path


def digest(identity: Any) -> str:
    """Returns 32 hexadecimal digits that identify a value that JSON can express.

    Example:

      >>> digest(["jax", "0.10.2"]) == digest(["jax", "0.10.3"])
      False
    """
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@contextlib.contextmanager
def complete_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary folder that is renamed to `path` when the block succeeds.

    When the block is interrupted or fails, nothing stays behind. When another process
    made `path` in the meantime its folder is kept, so any number of processes can
    prepare the same data at the same time and all end with the same, whole, folder.

    Args:
      path: the folder to make; its parents are made too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}-{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
