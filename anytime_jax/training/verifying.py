"""What a snapshot says of itself, and whether it is so: format, files, contents.

    STEP/meta/files.json    the size of every file, and of most its CRC-32
    STEP/ITEM/_METADATA     the checksum of every array, in Orbax's custom metadata

The list is complete before the snapshot gets its name. Files are checked before Orbax
reads them, because it reads a flipped bit without a word; arrays after it.
"""

import json
import os
import pathlib
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from anytime_jax.training import checksums

Tree = Any

# Of snapshots and of config.json; 1 had neither a list of files nor checksums, and did
# not say so.
FORMAT = 2
READS = (1, 2)

_LIST = "files.json"
# Of arrays: larger files hold little else, and arrays have checksums of their own.
_LARGEST = 1 << 20  # bytes


class Damaged(ValueError):
    """A snapshot is not as it was written."""


def write_list(folder: pathlib.Path) -> None:
    """Lists the files of a snapshot that is complete but for its name.

    Args:
      folder: of the snapshot, with a folder for every item.
    """
    files = {
        str(path.relative_to(folder)): _entry(path)
        for path in sorted(folder.glob("*/**/*"))
        if path.is_file()
    }
    content = {"format": FORMAT, "files": files}
    text = json.dumps({"crc32": _crc32(_text(content)), "content": content})
    (folder / "meta" / _LIST).write_text(text + "\n")


def metadata(tree: Tree) -> dict[str, Any]:
    """Returns the custom metadata of an item.

    Args:
      tree: what is stored in it.
    """
    return {"format": FORMAT, "checksums": checksums.checksums(tree)}


def items(folder: pathlib.Path) -> list[str]:
    """Returns the names of the items that a snapshot has, by its list if there is one.

    Args:
      folder: of the snapshot.

    Raises:
      Damaged: the list is not as it was written.
    """
    files = _listed(folder)
    if files is None:
        return sorted(path.name for path in folder.iterdir() if path.is_dir())
    return sorted({name.split("/")[0] for name in files})


def check_files(folder: pathlib.Path, wanted: Iterable[str]) -> None:
    """Refuses items with a file that is missing or is not as it was written.

    Args:
      folder: of the snapshot; without a list, as old ones are, nothing is compared.
      wanted: the names of the items.

    Raises:
      Damaged: it is so.
      ValueError: the snapshot is of an unknown format.
    """
    wanted = set(wanted)
    for name, entry in (_listed(folder) or {}).items():
        if name.split("/")[0] in wanted:
            _check_file(folder, name, *entry)


def check_whole(folder: pathlib.Path) -> None:
    """Refuses a snapshot with a file that is missing or is not as it was written.

    Args:
      folder: of the snapshot.

    Raises:
      Damaged: it is so.
      ValueError: the snapshot is of an unknown format.
    """
    if not (folder / "meta").is_dir():
        raise damage(folder, "meta is missing")
    check_files(folder, items(folder))


def check_contents(
    folder: pathlib.Path, item: str, tree: Tree, metadata: Mapping[str, Any]
) -> None:
    """Refuses arrays that are not as they were written; all processes call it.

    Args:
      folder: of the snapshot.
      item: the name of the item.
      tree: what was read of it.
      metadata: the item's, from `metadata`.

    Raises:
      Damaged: they are not.
    """
    for path, checksum in checksums.checksums(tree).items():
        written = metadata["checksums"].get(path)
        if checksum != written:
            raise damage(
                folder,
                f"the contents of {item} differ from what was written at {path}: "
                f"checksum {checksum} instead of {written}",
            )


def check_format(folder: pathlib.Path, version: int) -> None:
    """Refuses a format that is not known here.

    Args:
      folder: of the snapshot.
      version: of its format.

    Raises:
      ValueError: it is not known.
    """
    if version not in READS:
        raise ValueError(
            f"{_name(folder)} has format {version!r}; this version of anytime_jax "
            f"reads {' and '.join(map(str, READS))}"
        )


def damage(folder: pathlib.Path, what: str) -> Damaged:
    """Returns the error that tells what is wrong with a snapshot.

    Args:
      folder: of the snapshot.
      what: is wrong, in one line.
    """
    return Damaged(f"{_name(folder)} is damaged: {what}")


def _listed(folder: pathlib.Path) -> dict[str, list] | None:
    """Size and CRC-32 by name; None if the snapshot is too old, or a part of one."""
    path = folder / "meta" / _LIST
    version = _format_in_meta(folder)
    # First, since what a later version writes may look damaged to this one.
    check_format(folder, version)
    if not path.is_file():
        if version > 1:
            raise damage(folder, f"meta/{_LIST} is missing")
        return None
    try:
        found = json.loads(path.read_text())
        content = found["content"]
        whole = found["crc32"] == _crc32(_text(content))
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise damage(folder, f"meta/{_LIST} is not as it was written")
    check_format(folder, content["format"])
    _check_list(folder, content.get("files"))
    return content["files"]


def _check_list(folder: pathlib.Path, files: Any) -> None:
    """Refuses a list that no `write_list` has made; its names stay in the folder."""
    good = isinstance(files, dict)
    for name, entry in files.items() if good else ():
        parts = pathlib.PurePosixPath(name).parts
        good &= len(parts) > 1 and not name.startswith("/") and ".." not in parts
        good &= isinstance(entry, list) and len(entry) == 2
    if not good:
        raise damage(folder, f"meta/{_LIST} is no list of its files")


def _format_in_meta(folder: pathlib.Path) -> int:
    """The format that the item meta names; 1 where it names none, or is not there."""
    path = folder / "meta" / "metadata"  # the name that Orbax gives it
    try:
        return json.loads(path.read_text()).get("format", 1)
    except FileNotFoundError:
        return 1
    except (ValueError, AttributeError) as error:
        raise damage(folder, "meta/metadata is not as it was written") from error


def _entry(path: pathlib.Path) -> list[int | None]:
    size = path.stat().st_size
    arrays = path.parent.name == "d" and size > _LARGEST
    return [size, None if arrays else _crc32(path.read_bytes())]


def _check_file(folder: pathlib.Path, name: str, size: int, crc32: int | None) -> None:
    path = folder / name
    if not path.is_file():
        raise damage(folder, f"{name} is missing")
    if path.stat().st_size != size:
        found = path.stat().st_size
        raise damage(folder, f"{name} has {found:,} of {size:,} bytes")
    if crc32 is not None and _crc32(path.read_bytes()) != crc32:
        raise damage(folder, f"{name} is not as it was written")


def _crc32(content: bytes | str) -> int:
    return zlib.crc32(content.encode() if isinstance(content, str) else content)


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True)


def _name(folder: str | os.PathLike) -> str:
    folder = pathlib.Path(folder)
    return f"the snapshot of step {folder.name} in {folder.parent.parent}"
