"""Averages that were never tracked, from those that were (post-hoc synthesis).

Every stored set of weights is a linear combination of the iterates whose coefficients
are known exactly, so a target average is approached by least squares on coefficients,
without looking at a single weight.
"""

import dataclasses
import math
import numbers
from collections.abc import Callable, Sequence

import numpy as np

from anytime_jax.averaging import kernels, weights, windows

# An error of the weights is worse than one of what is left of their noise.
_ROUNDING = 50
_RIDGES = (0.0, 1e-12, 1e-9, 1e-6)


@dataclasses.dataclass(frozen=True)
class Stored:
    """A set of weights by what it is an average of.

    Attributes:
      average: an `Average`, or a callable from update (>= 1) to mixing weight;
        `latest()` for the raw weights, `tail(start=a)` for the mean of (a, step].
      step: updates done when it was stored.
      every: updates between the ticks of the average.
      start: updates done when the average started, as a copy of the weights.
      tokens: of an update, if the average's time is in tokens, 1 if it is in steps; or
        pairs of a number of updates and the tokens of each.
    """

    average: Callable
    step: int
    every: int = 1
    start: int = 0
    tokens: int | tuple[tuple[int, int], ...] = 1


@dataclasses.dataclass(frozen=True)
class Synthesis:
    """The best combination of what is stored.

    Attributes:
      coefficients: float64, one per stored set of weights; they sum to 1.
      error: distance of the combined kernel to the target's, relative to the norm of
        the target's. For iterates of independent noise this is the relative error of
        the noise in the result; real ones change slowly, and have less.
      condition: ratio of the largest to the smallest singular value of what was solved;
        how much small changes of the kernels can change the coefficients.
      amplification: norm of the coefficients, by which independent rounding errors of
        the stored weights are multiplied.
      rounding: what these errors leave in the result, relative to its norm.
      ridge: with which it was solved.
    """

    coefficients: np.ndarray
    error: float
    condition: float
    amplification: float
    rounding: float
    ridge: float


def synthesize(
    target: Stored | Sequence[float],
    stored: Sequence[Stored],
    *,
    ridge: float | None = None,
    limit: float = 0.05,
    dtype: str = "float32",
) -> Synthesis:
    """Returns the coefficients that best give an average from those that are stored.

    With k_m the kernel of stored weights m, over theta_0 ... theta_step, and r that of
    the target, minimises `|sum_m x_m k_m - r|^2 / |r|^2 + ridge |x|^2` over x that sum
    to 1. The kernels are the exact discrete ones and all is float64; the cost is linear
    in the number of steps, times the square of the number of distinct averages.

    Args:
      target: the average to approach, at a step that has stored weights; or its kernel,
        the coefficients of theta_0 ... theta_step.
      stored: what there is, none of it after the target's step.
      ridge: the variance of errors in the stored weights, relative to that which their
        noise leaves in the target; >= 0. It keeps the coefficients small. None for 0,
        or the first of 1e-12, 1e-9 and 1e-6 for which the rounding is not too large.
      limit: the largest `error` to accept, and 50 times the largest `rounding`;
        `math.inf` accepts all.
      dtype: of the stored weights, "float32", "float64" or "bfloat16".

    Returns:
      A `Synthesis`.

    Raises:
      ValueError: nothing is stored, something is stored after the target's step or at
        a step before its average's start, `ridge` or `dtype` is not allowed, or the
        error or the rounding is above what `limit` allows.

    Example:
      >>> steps = range(100, 1001, 100)
      >>> stored = [
      ...     Stored(weights.power(sigma_rel=sigma_rel), step)
      ...     for sigma_rel in (0.05, 0.10)
      ...     for step in steps
      ... ]
      >>> target = Stored(weights.power(sigma_rel=0.075), 1000)
      >>> f"{synthesize(target, stored).error:.3f}"
      '0.008'

    Source: Karras et al., 2024, arXiv 2312.02696, appendix C, there for power averages
    in continuous time.
    """
    number = isinstance(ridge, numbers.Real) and 0 <= ridge < math.inf
    if not (ridge is None or number):
        raise ValueError(f"ridge={ridge!r} must be at least 0 and finite")
    unit = windows.unit_roundoff(dtype)
    if not stored:
        raise ValueError("stored is empty; there have to be weights to combine")
    _check([*stored, target] if isinstance(target, Stored) else stored)
    last = target.step if isinstance(target, Stored) else len(target) - 1
    late = [one.step for one in stored if one.step > last]
    if late:
        raise ValueError(
            f"stored has step {max(late)}, after the step {last} of the target"
        )
    problem = _reduced(target, stored, last)
    for trial in _RIDGES if ridge is None else (ridge,):
        found = _synthesis(*problem, trial, unit)
        if _ROUNDING * found.rounding <= limit:
            break
    if not found.error <= limit:
        kernel = not isinstance(target, Stored)
        named = "kernel" if kernel else f"{target.average} at step {target.step}"
        raise ValueError(
            f"target={named} is approached with a relative error of {found.error:.3g}, "
            f"above limit={limit!r}; more snapshots or averages, or a target between "
            "them, have less"
        )
    if not _ROUNDING * found.rounding <= limit:
        raise ValueError(
            f"coefficients of norm {found.amplification:.3g} would make rounding of "
            f"{dtype} weights an error of {found.rounding:.3g}, above limit / "
            f"{_ROUNDING} = {limit / _ROUNDING:.3g}; a ridge above {found.ridge!r} has "
            "less"
        )
    return found


def merged_kernel(
    coefficients: Sequence[float], stored: Sequence[Stored]
) -> np.ndarray:
    """Returns what a combination of stored weights remembers.

    Args:
      coefficients: one per stored set of weights.
      stored: what each of them is an average of.

    Returns:
      float64 [1 + the last step]: the coefficients of theta_0 ... theta_step.

    Raises:
      ValueError: something is stored at a step before its average's start.

    Example:
      >>> mean = weights.uniform()
      >>> kernel = merged_kernel([-1, 2], [Stored(mean, 2), Stored(mean, 4)])
      >>> print(kernel.round(12))
      [0.  0.  0.  0.5 0.5]
    """
    _check(stored)
    total = np.zeros(1 + max(one.step for one in stored))
    for coefficient, one in zip(coefficients, stored, strict=True):
        profile, _ = _profile(_shares(one, one.step))
        total[: one.step + 1] += coefficient * profile
    return total


def _check(stored: Sequence[Stored]) -> None:
    for one in stored:
        weights.require_count("start", one.start, least=0)
        weights.require_count("step", one.step, least=one.start)
        weights.require_count("every", one.every, least=1)


def _shares(one: Stored, last: int) -> np.ndarray:
    """The share that theta_i receives at update i, for i = 0 ... last.

    An average starts as a copy, with a share of 1; between ticks the share is 0.
    """
    shares = np.zeros(last + 1)
    shares[one.start] = 1.0
    stops = np.arange(one.every, last - one.start + 1, one.every)
    tokens = kernels.per_update(one.tokens, last)
    shares[one.start + stops] = kernels.shares(one.average, stops, one.every, tokens)
    return shares


def _profile(shares: np.ndarray) -> tuple[np.ndarray, float]:
    """The coefficient of each update of a stretch at its end, and of what was before.

    A product of what later updates keep, as a sum of logarithms.
    """
    with np.errstate(divide="ignore"):
        log_kept = np.log1p(-shares)
    log_later = np.append(np.cumsum(log_kept[:0:-1])[::-1], 0.0)
    return shares * np.exp(log_later), float(np.exp(log_kept.sum()))


def _reduced(
    target: Stored | Sequence[float], stored: Sequence[Stored], last: int
) -> tuple[np.ndarray, np.ndarray]:
    """The kernels and the target in an orthonormal basis of all that they span.

    Between neighbouring stored steps, all snapshots of an average are multiples of one
    profile. So each such stretch needs one short QR decomposition, whose R holds all
    inner products without squaring the condition of the problem.
    """
    ends = sorted({0, last, *(one.step for one in stored)})
    stretches = list(zip([-1, *ends[:-1]], ends, strict=True))
    # An average by all but the step that it was stored at.
    source_M = [dataclasses.replace(one, step=one.start) for one in stored]
    sources = list(dict.fromkeys(source_M))
    tracks = [_track(source, last, stretches) for source in sources]
    if isinstance(target, Stored):
        wanted = _profile(_shares(target, last))[0]
    else:
        wanted = np.asarray(target, np.float64)
    number = {source: index for index, source in enumerate(sources)}
    source_M = [number[source] for source in source_M]
    step_M = np.array([one.step for one in stored])
    rows, wanted_rows = [], []
    scale_M = _scales(tracks, source_M, step_M, ends)
    for index, (begin, end) in enumerate(stretches):
        scales = scale_M[index]
        active = sorted({source_M[m] for m in np.flatnonzero(scales)})
        columns = [tracks[source][index][0] for source in active]
        columns.append(wanted[begin + 1 : end + 1])
        triangle = np.linalg.qr(np.stack(columns, axis=1), mode="r")
        place = {source: column for column, source in enumerate(active)}
        block = np.zeros((len(triangle), len(stored)))
        for m in np.flatnonzero(scales):
            block[:, m] = scales[m] * triangle[:, place[source_M[m]]]
        rows.append(block)
        wanted_rows.append(triangle[:, -1])
    return np.concatenate(rows), np.concatenate(wanted_rows)


def _track(
    one: Stored, last: int, stretches: Sequence[tuple[int, int]]
) -> list[tuple[np.ndarray, float]]:
    shares = _shares(one, last)
    return [_profile(shares[begin + 1 : end + 1]) for begin, end in stretches]


def _scales(
    tracks: Sequence[Sequence[tuple[np.ndarray, float]]],
    source_M: Sequence[int],
    step_M: np.ndarray,
    ends: Sequence[int],
) -> np.ndarray:
    """How much of each stretch's profile is left in each stored kernel, [S, M]."""
    scales = np.zeros((len(ends), len(source_M)))
    for m, (source, step) in enumerate(zip(source_M, step_M, strict=True)):
        left = 1.0
        for index in range(ends.index(step), -1, -1):
            scales[index, m] = left
            left *= tracks[source][index][1]
            if not left:
                break
    return scales


def _synthesis(
    design_QxM: np.ndarray, wanted_Q: np.ndarray, ridge: float, unit: float
) -> Synthesis:
    norm = np.linalg.norm(wanted_Q)
    coefficients, condition = _solve(design_QxM / norm, wanted_Q / norm, ridge)
    error = float(np.linalg.norm(design_QxM @ coefficients - wanted_Q) / norm)
    amplification = float(np.linalg.norm(coefficients))
    return Synthesis(
        coefficients, error, condition, amplification, amplification * unit, ridge
    )


def _solve(
    design_QxM: np.ndarray, wanted_Q: np.ndarray, ridge: float
) -> tuple[np.ndarray, float]:
    """Least squares over coefficients that sum to 1, and the condition of it."""
    count = design_QxM.shape[1]
    equal = np.full(count, 1.0 / count)
    if count == 1:
        return equal, 1.0
    if ridge:
        rows = math.sqrt(ridge) * np.eye(count)
        design_QxM = np.concatenate([design_QxM, rows])
        wanted_Q = np.append(wanted_Q, np.zeros(count))
    # The reflection that swaps the first axis and the direction of equal coefficients:
    # its other columns are an orthonormal basis of the coefficients that sum to 0.
    mirror = np.full(count, count**-0.5)
    mirror[0] -= 1.0
    mirror /= np.linalg.norm(mirror)

    def reflected(rows):
        return rows - 2.0 * np.multiply.outer(rows @ mirror, mirror)

    free_QxM1 = reflected(design_QxM)[:, 1:]
    wanted_Q = wanted_Q - design_QxM @ equal
    solution_M1, _, _, singular = np.linalg.lstsq(free_QxM1, wanted_Q)
    smallest = singular[-1]
    condition = float(singular[0] / smallest) if smallest else math.inf
    return equal + reflected(np.append(0.0, solution_M1)), condition
