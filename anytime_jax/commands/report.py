"""report DIR [DIR ...] --out=FILE.md

Tabulates and plots the exits of the runs in the DIRs beside their envelope, the best
fixed-horizon run at each horizon. A merge (made with `merge --evaluate`) is an exit of
its run, and so are a cooldown and the averages that it tracked, but for frozen ones.
Prints the table, and writes FILE.md with the picture beside it, FILE.png.

Runs that differ only in their seed are one row, with their mean. Two of one seed are
refused, but for cooldowns that differ only in what they average: their weights are the
same, and those of the first count.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from anytime_jax import reporting
from anytime_jax.commands.errors import BadInput


def run(arguments: Sequence[str]) -> int:
    """Reports on runs.

    Args:
      arguments: those after the verb.

    Returns:
      0.

    Raises:
      BadInput: an argument is not allowed, a folder holds no run that has reached a
        horizon, two runs cannot be compared, or two are of one setting and one seed.
    """
    if {"-h", "--help"} & set(arguments):
        print(f"usage: python -m anytime_jax {__doc__}", end="")
        return 0
    folders, out = parse(arguments)
    try:
        comparison = reporting.compare([reporting.read(folder) for folder in folders])
    except ValueError as error:
        raise BadInput(error) from error
    picture = out.with_suffix(".png")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        reporting.draw(comparison, picture)
        out.write_text(reporting.to_report(comparison, picture.name))
    except OSError as error:
        raise BadInput(f"--out={out} cannot be written: {error}") from error
    print(reporting.to_text(comparison))
    print(f"\nWrote {out} and {picture}")
    return 0


def parse(arguments: Sequence[str]) -> tuple[list[str], pathlib.Path]:
    """Reads the command line.

    Args:
      arguments: those after the verb.

    Returns:
      The folders of the runs, and the file to write.

    Raises:
      BadInput: a flag is not allowed or missing, or there is no folder.
    """
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    flags.DEFINE_string("out", None, "", flag_values=values)
    try:
        folders = values(["report", *arguments])[1:]
    except flags.Error as error:
        raise BadInput(f"{error}; see python -m anytime_jax report --help") from error
    if not folders:
        raise BadInput("DIR is missing: the folders of the runs to report")
    if not values.out:
        raise BadInput("--out=FILE.md is missing: the report to write")
    out = pathlib.Path(values.out)
    if out.suffix != ".md":
        raise BadInput(f"--out={values.out} must end in .md")
    return folders, out
