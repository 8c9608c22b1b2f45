"""Loss curves of all sizes on one curve, and how near to it they are.

Divided by its final loss, each run of a well-chosen ladder of sizes gives the same
curve. What is left, the spread, may be smaller than the noise of seeds.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize

from anytime_jax.averaging import weights
from anytime_jax.laws import points


class EndPoints(NamedTuple):
    """`irreducible + coefficient compute^-exponent`, of the runs' final losses.

    Attributes:
      irreducible: the offset that `normalize` takes.
      coefficient: > 0.
      exponent: > 0.
      objective: mean Huber loss of the log residuals.
    """

    irreducible: float
    coefficient: float
    exponent: float
    objective: float


class Collapse(NamedTuple):
    """Normalised curves of R runs at G common points of progress.

    Attributes:
      progress: x in (0, 1], [G].
      curves: normalised, [R, G].
      spread: `Delta(x) = Std[l] / E[l]` over all runs, [G].
      floor: the noise of seeds `sigma(x)`, [G]; NaN if no group has two runs.
      onset: from where on the spread is below the floor; None where it nowhere is.
    """

    progress: np.ndarray
    curves: np.ndarray
    spread: np.ndarray
    floor: np.ndarray
    onset: float | None


def progress_grid(count: int = 200) -> np.ndarray:
    """Returns `1/count, 2/count, ..., 1`, float64 [count].

    Args:
      count: >= 2; by default 200.

    Raises:
      ValueError: `count` is not an integer >= 2.

    Example:
      >>> progress_grid(4)
      array([0.25, 0.5 , 0.75, 1.  ])
    """
    weights.require_count("count", count, least=2)
    return np.arange(1, count + 1) / count


def on_grid(
    times: points.Numbers,
    losses: points.Numbers,
    horizon: float,
    progress: points.Numbers,
) -> np.ndarray:
    """Returns a curve at given shares of its horizon, linear between its records.

    Args:
      times: when the losses were recorded, ascending, in any unit, [K].
      losses: [K].
      horizon: when the run counts as finished, in the same unit; a record at or after
        it must exist, and later ones are left out.
      progress: shares of the horizon, in (0, 1], ascending, [G].

    Returns:
      float64 [G].

    Raises:
      ValueError: an argument is out of range, or the records do not span the progress.

    Example:
      >>> on_grid([0, 10, 20], [4.0, 2.0, 1.0], 20, [0.25, 0.5, 1.0])
      array([3., 2., 1.])
    """
    times, losses = points.finite("times", times), points.finite("losses", losses)
    points.same_length(2, times=times, losses=losses)
    points.ascending("times", times)
    points.above_zero(horizon=horizon)
    progress = _progress(progress)
    # The last record may be a rounding before the horizon.
    if horizon * progress[-1] > times[-1] * (1 + 1e-9):
        raise ValueError(
            f"times[{len(times) - 1}]={times[-1]:g} must not be before the progress "
            f"{progress[-1]:g} of horizon={horizon:g}"
        )
    if horizon * progress[0] < times[0]:
        raise ValueError(
            f"times[0]={times[0]:g} must not be after the progress {progress[0]:g} of "
            f"horizon={horizon:g}"
        )
    return np.interp(horizon * progress, times, losses)


def normalize(losses: points.Numbers, offset: float = 0.0) -> np.ndarray:
    """Returns curves over their last value, both less an offset.

    `l(x) = (L(x) - offset) / (L(1) - offset)`

    Args:
      losses: at common points of progress of which the last is 1, [..., G].
      offset: below every last loss; that of `fit_end_points` in Qiu et al., and by
        default 0, as in Bergsma et al.

    Returns:
      float64, of the same shape; its last values are 1.

    Raises:
      ValueError: a loss is not finite, or a last one is not above the offset.

    Example:
      >>> normalize([4.0, 3.0, 2.0], offset=1.0)
      array([3., 2., 1.])

    Source: Qiu et al., "Scaling Collapse Reveals Universal Dynamics", 2025, arXiv
    2507.02119; Bergsma et al., "Scaling with Collapse", 2025, arXiv 2509.25087.
    """
    losses = points.finite("losses", losses, ndim=None)
    points.number("offset", offset, "finite", lambda x: True)
    if losses.ndim == 0 or (losses[..., -1:] <= offset).any():
        raise ValueError(f"offset={offset!r} must be below the last loss of every run")
    return (losses - offset) / (losses[..., -1:] - offset)


def spread(curves_RxG: points.Numbers) -> np.ndarray:
    """Returns the spread of normalised curves.

    `Delta(x) = Std[l(x)] / E[l(x)]`, over all runs, of all sizes and seeds.

    Args:
      curves_RxG: normalised, R >= 2.

    Returns:
      float64 [G].

    Raises:
      ValueError: there is only one.

    Example:
      >>> spread([[3.0, 1.0], [5.0, 1.0]])
      array([0.25, 0.  ])

    Source: Qiu et al., 2025, arXiv 2507.02119.
    """
    curves = points.finite("curves_RxG", curves_RxG, ndim=2)
    points.same_length(2, curves_RxG=curves)
    return curves.std(axis=0) / curves.mean(axis=0)


def noise_floor(
    losses_RxG: points.Numbers, groups: Sequence, offset: float = 0.0
) -> np.ndarray:
    """Returns the noise of seeds, averaged over the sizes.

    `sigma(x) = E_p[Std_w[L - offset] / E_w[L - offset]]`, seeds w of size p

    Args:
      losses_RxG: not normalised, at common points of progress.
      groups: what the runs of one size have in common, such as the size, [R]; groups
        of one run are left out.
      offset: as of `normalize`; by default 0.

    Returns:
      float64 [G]; NaN if no group has two runs.

    Raises:
      ValueError: there are not as many groups as runs.

    Example:
      >>> noise_floor([[3.0, 2.0], [5.0, 2.0], [9.0, 1.0]], ["small", "small", "large"])
      array([0.25, 0.  ])

    Source: Qiu et al., 2025, arXiv 2507.02119.
    """
    losses = points.finite("losses_RxG", losses_RxG, ndim=2) - offset
    points.same_length(losses_RxG=losses, groups=groups)
    places = {group: [] for group in groups}
    for i, group in enumerate(groups):
        places[group].append(i)
    noises = [
        losses[own].std(axis=0) / losses[own].mean(axis=0)
        for own in places.values()
        if len(own) > 1
    ]
    return np.mean(noises, axis=0) if noises else np.full(losses.shape[1], np.nan)


def onset(
    progress: points.Numbers, spread_G: points.Numbers, floor_G: points.Numbers
) -> float | None:
    """Returns from where on the spread is below the noise floor: supercollapse.

    Not counting the last point, where every normalised curve is 1. Where the two are
    close, a finer grid finds more crossings and a later onset.

    Args:
      progress: ascending, in (0, 1], [G].
      spread_G: as of `spread`.
      floor_G: as of `noise_floor`.

    Returns:
      The first point from which on the spread is below the floor; None if it is not at
      the last but one, or there is no floor.

    Raises:
      ValueError: the lengths differ.

    Example:
      >>> onset([0.25, 0.5, 0.75, 1.0], [0.4, 0.1, 0.1, 0.0], [0.2, 0.2, 0.2, 0.2])
      0.5

    Source: Qiu et al., 2025, arXiv 2507.02119.
    """
    progress = _progress(progress)
    spread_G, floor_G = (np.asarray(x, np.float64) for x in (spread_G, floor_G))
    points.same_length(2, progress=progress, spread_G=spread_G, floor_G=floor_G)
    above = np.flatnonzero(~(spread_G < floor_G)[:-1])
    first = above[-1] + 1 if len(above) else 0
    return float(progress[first]) if first < len(progress) - 1 else None


def collapse(
    runs: Sequence[tuple[points.Numbers, points.Numbers]],
    horizons: points.Numbers,
    groups: Sequence,
    *,
    offset: float = 0.0,
    progress: points.Numbers | None = None,
) -> Collapse:
    """Returns the normalised curves of runs, their spread and the noise of seeds.

    Args:
      runs: `(times, losses)` of each, as of `on_grid`, R >= 2.
      horizons: when each counts as finished, [R].
      groups: the size of each, [R].
      offset: as of `normalize`; by default 0.
      progress: common points, the last of which is 1; by default 1/200 ... 1.

    Returns:
      `Collapse`.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> times = np.arange(1, 201)
      >>> runs = [(times, 2 + scale / times) for scale in (1.0, 1.0, 3.0)]
      >>> found = collapse(runs, [200.0] * 3, ["a", "a", "b"], offset=2.0)
      >>> bool(found.spread.max() < 1e-12)
      True

    Source: as of `onset`.
    """
    horizons = points.positive("horizons", horizons)
    points.same_length(2, runs=runs, horizons=horizons, groups=groups)
    progress = progress_grid() if progress is None else _progress(progress)
    if progress[-1] != 1:
        raise ValueError(f"progress[{len(progress) - 1}]={progress[-1]:g} must be 1")
    losses_RxG = np.stack(
        [
            on_grid(times, losses, float(horizon), progress)
            for (times, losses), horizon in zip(runs, horizons, strict=True)
        ]
    )
    curves_RxG = normalize(losses_RxG, offset)
    spread_G = spread(curves_RxG)
    floor_G = noise_floor(losses_RxG, groups, offset)
    start = onset(progress, spread_G, floor_G)
    return Collapse(progress, curves_RxG, spread_G, floor_G, start)


def fit_end_points(
    compute: points.Numbers, losses: points.Numbers, *, delta: float = 1e-3
) -> EndPoints:
    """Fits the final losses of a ladder; its offset is what `normalize` takes.

    Minimises the mean Huber loss of `log(L0 + a c^-b) - log L` with 0 <= L0 < min L,
    from 12 starts. A fit to means over seeds finds another offset than one to runs.

    Args:
      compute: c of each size, in any unit, three different ones or more, [K].
      losses: final loss of each, [K].
      delta: of the Huber loss; by default 1e-3.

    Returns:
      `EndPoints`.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> compute = np.geomspace(1, 1000, 7)
      >>> found = fit_end_points(compute, 0.5 + 0.3 * compute**-0.2)
      >>> [round(value, 6) for value in found[:3]]
      [0.5, 0.3, 0.2]

    Source: Qiu et al., 2025, arXiv 2507.02119.
    """
    compute = points.positive("compute", compute)
    losses = points.positive("losses", losses)
    points.same_length(3, compute=compute, losses=losses)
    points.above_zero(delta=delta)
    if len(set(compute.tolist())) < 3:
        raise ValueError("compute must have three different values or more")
    logs, lowest = np.log(compute), losses.min()
    middle = logs.mean()

    def parts(values):
        share, excess, exponent = values
        return share * lowest, np.exp(excess - exponent * (logs - middle))

    def residuals(values):
        return (np.log(sum(parts(values))) - np.log(losses)) / delta

    def jacobian(values):
        level, falling = parts(values)
        columns = [np.full_like(logs, lowest), falling, falling * (middle - logs)]
        return np.stack(columns, axis=1) / (level + falling)[:, None] / delta

    best = None
    for share, exponent in itertools.product((0, 0.5, 0.9, 0.97), (0.05, 0.2, 0.6)):
        excess = np.log(np.median(losses) - share * lowest)
        found = scipy.optimize.least_squares(
            residuals,
            (share, excess, exponent),
            jacobian,
            bounds=([0, -np.inf, 0], [1 - 1e-12, np.inf, np.inf]),
            loss="huber",
            x_scale=(0.1, 0.1, 0.1),
            **dict.fromkeys(("xtol", "ftol", "gtol"), 1e-12),
        )
        if best is None or found.cost < best.cost:
            best = found
    share, excess, exponent = best.x.tolist()
    return EndPoints(
        irreducible=float(share * lowest),
        coefficient=float(np.exp(excess + exponent * middle)),
        exponent=exponent,
        objective=float(best.cost * delta**2 / len(losses)),
    )


def closed_form(progress: points.Numbers, exponent: float, ratio: float) -> np.ndarray:
    """Returns the curve on which runs of a sum of power laws collapse.

    Runs of `L0 + A t^-mu + B p^-nu` up to `t*`, where `t*^mu` is proportional to
    `p^nu`, all give, less L0,

        l(x) = (r x^-mu + 1) / (r + 1),    r = A t*^-mu / (B p^-nu)

    At the horizons of least loss for a compute in proportion to `t p`, `r = nu / mu`.

    Args:
      progress: x in (0, 1], [G].
      exponent: mu > 0, of the time.
      ratio: r > 0, of what falls in time to what is due to the size, at the end.

    Returns:
      float64 [G].

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> closed_form([0.25, 1.0], exponent=0.5, ratio=1.0)
      array([1.5, 1. ])

    Source: Qiu et al., 2025, arXiv 2507.02119.
    """
    points.above_zero(exponent=exponent, ratio=ratio)
    return (ratio * _progress(progress) ** -exponent + 1) / (ratio + 1)


def _progress(progress) -> np.ndarray:
    progress = points.positive("progress", progress)
    points.same_length(progress=progress)
    points.ascending("progress", progress)
    if progress[-1] > 1:
        raise ValueError(f"progress={progress[-1]:g} must be in (0, 1]")
    return progress
