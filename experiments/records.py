"""Finished units of an experiment, one JSON line each, so that it can be resumed."""

import json
import pathlib


def read(path: pathlib.Path) -> dict[str, dict]:
    """Returns the finished units by their key; a line cut short is left out."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # Interrupted while it was written.
            continue
        found[record["key"]] = record
    return found


def append(path: pathlib.Path, key: str, record: dict) -> None:
    """Adds a finished unit. Several processes may do so at once."""
    line = json.dumps(dict(key=key, **record)) + "\n"
    if path.exists() and not path.read_text().endswith("\n"):
        line = "\n" + line  # What was cut short stays a line of its own.
    with path.open("a") as file:
        file.write(line)


def sort(path: pathlib.Path) -> None:
    """Puts the units in the order of their keys, each once."""
    lines = [json.dumps(record) + "\n" for _, record in sorted(read(path).items())]
    path.write_text("".join(lines))
