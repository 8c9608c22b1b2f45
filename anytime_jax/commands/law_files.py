"""What the actions of the verb law read and write: curves, laws, and whole files."""

import csv
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from anytime_jax import averaging, laws
from anytime_jax.commands import arguments as arguments_lib
from anytime_jax.commands.errors import BadInput
from anytime_jax.laws import reductions

# Peaks that differ by a larger share are different.
_SAME_PEAK = 0.01
# The last record of a run is a little before its end.
_NEAR = 0.01


class Measured(NamedTuple):
    """A curve and where it comes from.

    Attributes:
      curve: only what was recorded from `--begin` on.
      folder: of the run, or None for one from another file.
    """

    curve: laws.Curve
    folder: pathlib.Path | None


class Fit(NamedTuple):
    """A law and what it was fitted to.

    Attributes:
      law: with its record.
      curves: for each a dict with `name`, `peak`, and `first_step` and `last_step`, the
        range of the recorded steps.
      key: which losses of runs they are.
    """

    law: laws.Law
    curves: list[dict[str, Any]]
    key: str


def parse(
    action: str, arguments: Sequence[str], define: Callable[[flags.FlagValues], None]
) -> tuple[flags.FlagValues, list[str]]:
    """Reads the command line of an action.

    Args:
      action: its name, for messages.
      arguments: those after it.
      define: defines its flags.

    Returns:
      The values of the flags, and the other arguments.

    Raises:
      BadInput: a flag is not allowed.
    """
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    define(values)
    try:
        return values, values([action, *arguments])[1:]
    except flags.Error as error:
        message = f"{error}; see python -m anytime_jax law {action} --help"
        raise BadInput(message) from error


def define_curves(values: flags.FlagValues) -> None:
    """Defines the flags that say how curves are read."""
    flags.DEFINE_string("key", "eval/loss/raw", "", flag_values=values)
    flags.DEFINE_integer("begin", None, "", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("warmup_steps", None, "", lower_bound=0, flag_values=values)


def path_of(values: flags.FlagValues, name: str, *suffixes: str) -> pathlib.Path | None:
    """Returns the file that a flag names, if it is given.

    Args:
      values: of the flags.
      name: of the flag.
      *suffixes: those that are allowed.

    Raises:
      BadInput: the file has another suffix.
    """
    if not values[name].value:
        return None
    path = pathlib.Path(values[name].value)
    if path.suffix not in suffixes:
        raise BadInput(f"--{name}={path} must end in {' or '.join(suffixes)}")
    return path


def read_curves(paths: Sequence[str], values: flags.FlagValues) -> list[Measured]:
    """Reads measured curves.

    Args:
      paths: csv files, npz files, run folders or the metrics.jsonl in them.
      values: of the flags of `define_curves`.

    Returns:
      The curves from `--begin` on, by default from the end of their warmups, each under
      a name of its own.

    Raises:
      BadInput: a file is no curve, or there is nothing from `--begin` on.
    """
    found: list[tuple[str, Measured]] = []
    for path in paths:
        try:
            found += _read(path, values)
        except (ValueError, EOFError, OSError, csv.Error, zipfile.BadZipFile) as error:
            message = str(error)
            raise BadInput(
                message if path in message else f"{path}: {message}"
            ) from error
    if values.warmup_steps is not None and all(one.folder for _, one in found):
        raise BadInput(
            f"--warmup_steps={values.warmup_steps} is for csv and npz files; a run has "
            "its own in config.json"
        )
    names = [one.curve.name for _, one in found]
    longer = [text for text, _ in found]
    for text in longer:
        if longer.count(text) > 1:
            raise BadInput(f"CURVES has {text} more than once")
    curves = []
    for text, one in found:
        name = one.curve.name if names.count(one.curve.name) == 1 else text
        curves.append(Measured(_begun(one.curve, name, values.begin), one.folder))
    return curves


def build_averages(texts: Sequence[str]) -> dict[str, averaging.Average]:
    """Makes averages of what `--average` was given.

    Args:
      texts: specs.

    Returns:
      The averages by their specs.

    Raises:
      BadInput: one is not an average, or is given twice.
    """
    found = {}
    for text in texts:
        if text in found:
            raise BadInput(f"--average={text} is given more than once")
        spec = arguments_lib.parse_spec(text, "--average")
        try:
            found[text] = averaging.build({"average": spec})["average"]
        except ValueError as error:
            message = str(error).removeprefix("averages.")
            raise BadInput(f"--average={text}: {message}") from error
    return found


def to_json(law: laws.Law, curves: Sequence[laws.Curve], key: str) -> str:
    """Returns a law as text, with what it was fitted to.

    Args:
      law: fitted to the curves.
      curves: named apart.
      key: which of a run's losses the curves have.
    """
    data = law.to_dict()
    # JSON has no infinite numbers.
    errors = data["fitted"]["standard_errors"]
    data["fitted"]["standard_errors"] = {
        name: error if math.isfinite(error) else None for name, error in errors.items()
    }
    data["key"] = key
    data["curves"] = [
        dict(
            name=curve.name,
            peak=float(curve.rates.max()),
            first_step=int(curve.steps[0]),
            last_step=int(curve.steps[-1]),
        )
        for curve in curves
    ]
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def read_law(path: str | os.PathLike) -> Fit:
    """Reads what `to_json` was written to.

    Args:
      path: the file.

    Raises:
      BadInput: it is not there, or is something else.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise BadInput(f"there is no file {path}; law fit writes one")
    try:
        data = json.loads(path.read_text())
        errors = data["fitted"]["standard_errors"]
        data["fitted"]["standard_errors"] = {
            name: math.inf if error is None else error for name, error in errors.items()
        }
        curves = [
            dict(
                name=str(one["name"]),
                peak=float(one["peak"]),
                first_step=int(one["first_step"]),
                last_step=int(one["last_step"]),
            )
            for one in data["curves"]
        ]
        if not curves:
            raise ValueError("it has no curves")
        return Fit(laws.Law.from_dict(data), curves, str(data["key"]))
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        # The law's own message repeats all of the data.
        kind = f"{type(error).__name__} {error}"[:100]
        message = f"{path} is not what law fit writes: {kind}"
        raise BadInput(message) from error


def cautions(fit: Fit, rates_T: np.ndarray, at_P: np.ndarray, what: str) -> list[str]:
    """Returns in which way a prediction is beyond what the law was fitted to.

    Args:
      fit: the law and its curves.
      rates_T: the rates that are predicted for.
      at_P: the steps.
      what: is predicted.

    Returns:
      A sentence for each.
    """
    found = []
    peak, at = float(rates_T.max()), (int(at_P.min()), int(at_P.max()))
    peaks = [one["peak"] for one in fit.curves]
    low, high = min(peaks), max(peaks)
    if not low * (1 - _SAME_PEAK) <= peak <= high * (1 + _SAME_PEAK):
        known = f"{low:g}" if differ(peaks) == "" else f"{low:g} to {high:g}"
        found.append(
            f"{what} has a peak of {peak:g}, and the law was fitted at {known}: it "
            "does not know what another peak does"
        )
    first = min(one["first_step"] for one in fit.curves)
    last = max(one["last_step"] for one in fit.curves)
    if at[1] > (1 + _NEAR) * last:
        found.append(
            f"{what} goes to step {at[1]:,}, and the curves of the law end at "
            f"{last:,}: beyond, it extrapolates"
        )
    if at[0] < first:
        found.append(
            f"{what} is predicted from step {at[0]:,}, and the curves of the law begin "
            f"at {first:,}"
        )
    return found


def differ(peaks: Sequence[float]) -> str:
    """Returns the range of peaks as text if they are not one, and else nothing."""
    low, high = min(peaks), max(peaks)
    return f"{low:g} to {high:g}" if high > (1 + _SAME_PEAK) * low else ""


def label(fit: Fit) -> str:
    """Returns the law's name and what it was fitted to, for a headline."""
    names = [one["name"] for one in fit.curves]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" * (len(names) > 3))
    return f"{name_of(type(fit.law))}, fitted to {shown}"


def name_of(law: type) -> str:
    """Returns the name of a class in snake_case, without Law.

    Example:
      >>> name_of(laws.MultiPowerLaw)
      'multi_power'
    """
    words = law.__name__.removesuffix("Law")
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in words).strip("_")


def write(
    files: Mapping[pathlib.Path | None, Callable[[pathlib.Path], object]],
) -> None:
    """Writes all files or none, each under another name first.

    Args:
      files: for each what writes it to a given path; None for no file.

    Raises:
      BadInput: one cannot be written.
    """
    partials = {
        path: path.with_name(f".partial.{os.getpid()}.{path.name}")
        for path in files
        if path
    }
    try:
        for path, partial in partials.items():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.is_dir():
                    raise IsADirectoryError(f"{path} is a folder")
                files[path](partial)
            except OSError as error:
                raise BadInput(f"{path} cannot be written: {error}") from error
        for path, partial in partials.items():
            partial.replace(path)
    finally:
        for partial in partials.values():
            if partial.exists():
                partial.unlink()


def tell_written(*paths: pathlib.Path | None) -> None:
    """Prints which files there are now; None for no file."""
    written = [str(path) for path in paths if path]
    if written:
        print(f"\nWrote {' and '.join(written)}")


def _read(text: str, values: flags.FlagValues) -> list[tuple[str, Measured]]:
    """The curves of one argument, each with a text that tells it from all others."""
    path = pathlib.Path(text)
    if path.is_dir() or path.suffix == ".jsonl":
        folder = path.parent if path.suffix == ".jsonl" else path
        curve = laws.Curve.from_metrics(folder, values.key)
        return [(str(folder), Measured(curve, folder))]
    run = dict(warmup_steps=values.warmup_steps)
    if path.suffix == ".csv":
        return [(text, Measured(laws.Curve.from_csv(path, **run), None))]
    if path.suffix != ".npz" or not path.is_file():
        raise BadInput(
            f"{text} must be a csv or npz file, a run's folder or its metrics.jsonl"
        )
    with np.load(path, allow_pickle=False) as stored:
        names = [key.removesuffix("_loss") for key in stored if key.endswith("_loss")]
    if not names:
        raise BadInput(f"{text} has no curves, arrays NAME_step, NAME_lr and NAME_loss")
    return [
        (f"{text}:{name}", Measured(laws.Curve.from_npz(path, name, **run), None))
        for name in names
    ]


def _begun(curve: laws.Curve, name: str, begin: int | None) -> laws.Curve:
    """The curve from a step on, under a name."""
    first = reductions.warmup_end(curve.rates) if begin is None else begin
    if first > curve.steps[-1]:
        given = "the end of its warmup" if begin is None else "--begin"
        raise BadInput(
            f"{name}: {given}, step {first}, must be at most its last recorded step, "
            f"{curve.steps[-1]}"
        )
    begun = curve.between(first, int(curve.steps[-1]))
    if not begun.rates[: begun.steps[0] + 1].any():
        raise BadInput(
            f"{name}: the rate is 0 up to step {begun.steps[0]}, and --begin must be a "
            "step after a rate above 0"
        )
    return laws.Curve(begun.rates, begun.steps, begun.losses, name)
