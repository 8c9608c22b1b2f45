"""The best size for each compute budget, read off runs of equal compute.

Every budget has runs of several sizes; the best size is where a curve through their
losses is lowest, and the best sizes are a power of the budget. No form of the loss is
assumed, and the tokens follow from the budget.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import scipy.interpolate

from anytime_jax.averaging import weights
from anytime_jax.laws import points

Method = Literal["akima", "parabola"]


class Best(NamedTuple):
    """The lowest point of one isoFLOP curve.

    Attributes:
      size: where it is.
      loss: the curve's value there.
      at_edge: the curve is lowest at its smallest or largest size, so that the best
        size may be beyond.
    """

    size: float
    loss: float
    at_edge: bool


class PowerLaw(NamedTuple):
    """`y = coefficient x^exponent`, by least squares in logarithms.

    Attributes:
      exponent: the slope.
      coefficient: y at x = 1.
      r2: share of the variance of log y that the law explains; NaN if y is constant.
    """

    exponent: float
    coefficient: float
    r2: float

    def __call__(self, x: points.Numbers) -> np.ndarray:
        """Returns y for x > 0."""
        return self.coefficient * points.positive("x", x, ndim=None) ** self.exponent


class Isoflop(NamedTuple):
    """The best sizes of F budgets, and the power law through them.

    Attributes:
      flops: budgets, ascending, [F].
      sizes: the best size at each, [F].
      losses: its loss, [F].
      at_edge: where a curve is lowest at its end; the law leaves these out, bool [F].
      law: best size as a power of the budget.
    """

    flops: np.ndarray
    sizes: np.ndarray
    losses: np.ndarray
    at_edge: np.ndarray
    law: PowerLaw


class Resampled(NamedTuple):
    """How far the exponent moves with the noise of the losses.

    Attributes:
      exponents: of each resample with three or more budgets left, float64 [R].
      interval: percentiles that hold the middle `level` of them.
      size_spreads: standard deviation of the log of the best size, at each budget; NaN
        where the curve is lowest at an end in more than half of the resamples, [F].
    """

    exponents: np.ndarray
    interval: tuple[float, float]
    size_spreads: np.ndarray


def best_size(
    sizes: points.Numbers,
    losses: points.Numbers,
    *,
    method: Method = "akima",
    grid: int = 25,
) -> Best:
    """Returns the lowest point of the curve through runs of equal compute.

    `akima` interpolates log loss in log size and takes the lowest of `grid` points for
    each gap between sizes, evenly spaced in log size over all; `parabola` fits one to
    the losses in log size and takes its vertex.

    Args:
      sizes: parameters of each run, in any order, [K]; of equal ones the lowest loss
        counts. At least three different ones.
      losses: loss of each, [K].
      method: `akima` or `parabola`; by default `akima`.
      grid: points for each gap, of `akima`; by default 25.

    Returns:
      `Best`. A parabola whose vertex is beyond the sizes, or that has no lowest point,
      gives the end that is lower, with `at_edge`.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> best = best_size([1e7, 1e8, 1e9], [3.0, 2.5, 3.0], method="parabola")
      >>> round(best.size), best.loss, best.at_edge
      (100000000, 2.5, False)

    Source: Porian et al., "Resolving Discrepancies in Compute-Optimal Scaling of
    Language Models", 2024, arXiv 2406.19146; the parabola: Hoffmann et al., 2022,
    arXiv 2203.15556, approach 2.
    """
    _check(method, grid)
    _, sizes, losses, runs = _runs(np.ones(np.shape(sizes)), sizes, losses)
    kept = runs[1.0]
    [inside], [size], [loss] = _lowest(sizes[kept], losses[None, kept], method, grid)
    return Best(float(size), float(loss), not inside)


def power_law(
    x: points.Numbers, y: points.Numbers, importance: points.Numbers | None = None
) -> PowerLaw:
    """Returns the straight line through log x and log y, by least squares.

    Args:
      x: > 0, at least two different ones, [K].
      y: > 0, [K].
      importance: weight of each point, > 0, [K]; by default equal.

    Returns:
      `PowerLaw`; its R^2 does not weigh the points.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> law = power_law([1, 10, 100], [2, 20, 200])
      >>> round(law.exponent, 12), round(law.coefficient, 12), round(law.r2, 12)
      (1.0, 2.0, 1.0)
    """
    x, y = points.positive("x", x), points.positive("y", y)
    points.same_length(2, x=x, y=y)
    importance = np.ones_like(x) if importance is None else importance
    importance = points.positive("importance", importance)
    points.same_length(2, x=x, importance=importance)
    if np.ptp(x) == 0:
        raise ValueError("x must have two different values or more")
    u, v = np.log(x), np.log(y)
    u_mean, v_mean = (np.average(values, weights=importance) for values in (u, v))
    slope = (
        importance @ ((u - u_mean) * (v - v_mean)) / (importance @ (u - u_mean) ** 2)
    )
    off = v - v_mean - slope * (u - u_mean)
    total = np.sum((v - v.mean()) ** 2)
    r2 = 1 - np.sum(off**2) / total if total > 0 else np.nan
    return PowerLaw(float(slope), float(np.exp(v_mean - slope * u_mean)), float(r2))


def fit(
    flops: points.Numbers,
    sizes: points.Numbers,
    losses: points.Numbers,
    *,
    method: Method = "akima",
    grid: int = 25,
) -> Isoflop:
    """Returns the best size at every budget and the power law through them.

    Args:
      flops: the budget of each run, [K]; runs of equal compute have equal ones.
      sizes: its parameters, [K].
      losses: its loss, [K].
      method: as of `best_size`; by default `akima`.
      grid: as of `best_size`; by default 25.

    Returns:
      `Isoflop`, of F budgets.

    Raises:
      ValueError: an argument is out of range, a budget has fewer than three sizes, or
        fewer than two budgets have their best size inside their sizes.

    Example:
      >>> sizes = np.geomspace(1e6, 1e10, 21)
      >>> flops = np.repeat([1e18, 1e20, 1e22], 21)
      >>> off = np.log(np.tile(sizes, 3) / flops**0.5 * 10)
      >>> found = fit(flops, np.tile(sizes, 3), 2 + off**2, method="parabola")
      >>> [round(best) for best in found.sizes], round(found.law.exponent, 6)
      ([100000000, 1000000000, 10000000000], 0.5)

    Source: as of `best_size`.
    """
    flops, sizes, losses, runs = _runs(flops, sizes, losses)
    _check(method, grid)
    found = [
        _lowest(sizes[kept], losses[None, kept], method, grid) for kept in runs.values()
    ]
    inside, best, least = (
        np.concatenate(values) for values in zip(*found, strict=True)
    )
    budgets = np.array(list(runs))
    if inside.sum() < 2:
        raise ValueError(
            f"sizes must reach beyond the best one at two budgets or more, not at "
            f"{inside.sum()} of {len(inside)}"
        )
    law = power_law(budgets[inside], best[inside])
    return Isoflop(budgets, best, least, ~inside, law)


def bootstrap(
    flops: points.Numbers,
    sizes: points.Numbers,
    losses: points.Numbers,
    noise: float | Sequence[float] | np.ndarray,
    *,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
    method: Method = "akima",
    grid: int = 25,
) -> Resampled:
    """Fits again with the noise of seeds added to the losses.

    Every resample adds independent normal noise to every loss; a budget whose curve is
    then lowest at an end is left out of that resample's power law.

    Args:
      flops: the budget of each run, [K].
      sizes: its parameters, [K].
      losses: its loss, [K].
      noise: standard deviation of the loss between seeds, > 0: one for all runs, or one
        for each, [K]. By default the authors' code has 0.005 nats.
      resamples: R; by default 200.
      level: share of the resamples in the interval; by default 0.95.
      seed: of the noise; by default 0.
      method: as of `best_size`; by default `akima`.
      grid: as of `best_size`; by default 25.

    Returns:
      `Resampled`.

    Raises:
      ValueError: an argument is out of range, or no resample has three budgets left.

    Source: as of `best_size`.
    """
    flops, sizes, losses, runs = _runs(flops, sizes, losses)
    _check(method, grid)
    weights.require_count("resamples", resamples, least=2)
    points.number("level", level, "between 0 and 1", lambda x: 0 < x < 1)
    noise = points.positive("noise", noise, ndim=None)
    if noise.shape not in ((), losses.shape):
        raise ValueError(
            f"noise of shape {noise.shape} must be one number or {len(losses)}"
        )
    random = np.random.default_rng(seed)
    drawn_RxK = losses + noise * random.normal(size=(resamples, len(losses)))
    drawn_RxK = np.maximum(drawn_RxK, 1e-3 * losses)  # They have a logarithm.
    found_RxF = []
    for kept in runs.values():
        inside, best, _ = _lowest(sizes[kept], drawn_RxK[:, kept], method, grid)
        found_RxF.append(np.where(inside, best, np.nan))
    found_RxF = np.stack(found_RxF, axis=1)
    budgets = np.array(list(runs))
    exponents = [
        power_law(budgets[kept], row[kept]).exponent
        for row in found_RxF
        if (kept := np.isfinite(row)).sum() >= 3
    ]
    if not exponents:
        raise ValueError(
            "flops must have three budgets with a best size inside or more"
        )
    ends = np.percentile(exponents, (50 * (1 - level), 50 * (1 + level)))
    spreads = [
        np.std(np.log(column[kept]), ddof=1)
        if (kept := np.isfinite(column)).mean() >= 0.5 and kept.sum() > 1
        else np.nan
        for column in found_RxF.T
    ]
    return Resampled(np.array(exponents), tuple(ends.tolist()), np.array(spreads))


def smooth(
    values: points.Numbers, *, width: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    """Averages a curve over windows that are proportional to the time since its start.

    The mean of values i - h ... i + h, where `h = floor(width i)`, shorter at the end.

    Args:
      values: evenly spaced in time, [K].
      width: by default 0.05.

    Returns:
      (positions, means): where the middle of each window is, as an index into the
      values, and its mean, both float64 [K].

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> positions, means = smooth([4.0, 2.0, 3.0, 1.0], width=0.5)
      >>> positions, means
      (array([0. , 1. , 2. , 2.5]), array([4., 2., 2., 2.]))

    Source: Porian et al., 2024, arXiv 2406.19146, with a width of 0.05.
    """
    values = points.finite("values", values)
    points.same_length(values=values)
    points.number("width", width, "in [0, 1)", lambda x: 0 <= x < 1)
    index = np.arange(len(values))
    half = np.floor(width * index).astype(int)
    low, high = index - half, np.minimum(index + half, len(values) - 1)
    # About the mean: sums of large numbers would lose the digits of small windows.
    center = values.mean()
    sums = np.append(0.0, np.cumsum(values - center))
    means = center + (sums[high + 1] - sums[low]) / (high + 1 - low)
    return (low + high) / 2, means


def _lowest(sizes_K, losses_RxK, method, grid):
    """Whether the lowest point is inside, its size and its loss, each [R]."""
    u_K, rows = np.log(sizes_K), np.arange(len(losses_RxK))
    ends = losses_RxK[:, [0, -1]].argmin(axis=1)
    edge = sizes_K[[0, -1]][ends], losses_RxK[:, [0, -1]][rows, ends]
    if method == "akima":
        fine_G = np.linspace(u_K[0], u_K[-1], (len(u_K) - 1) * grid)
        curve = scipy.interpolate.Akima1DInterpolator(u_K, np.log(losses_RxK), axis=1)
        values_RxG = curve(fine_G)
        index = values_RxG.argmin(axis=1)
        inside = (index > 0) & (index < len(fine_G) - 1)
        found = np.exp(fine_G[index]), np.exp(values_RxG[rows, index])
    else:
        middle, half = (u_K[0] + u_K[-1]) / 2, (u_K[-1] - u_K[0]) / 2
        scaled_K = (u_K - middle) / half
        level, slope, bend = np.polynomial.polynomial.polyfit(scaled_K, losses_RxK.T, 2)
        vertex = np.clip(-slope / (2 * np.where(bend > 0, bend, 1.0)), -1, 1)
        inside = (bend > 0) & (np.abs(vertex) < 1)
        found = np.exp(middle + half * vertex), level + slope * vertex / 2
    size, loss = (np.where(inside, *both) for both in zip(found, edge, strict=True))
    return inside, size, loss


def _runs(flops, sizes, losses):
    """Arrays, and for each budget its runs: sizes ascend, of equal ones the best."""
    given = dict(flops=flops, sizes=sizes, losses=losses)
    given = {name: points.positive(name, values) for name, values in given.items()}
    points.same_length(3, **given)
    flops, sizes, losses = given.values()
    runs = {}
    order = np.lexsort((losses, sizes, flops))
    for budget in np.unique(flops):
        own = order[flops[order] == budget]
        kept = own[np.append(True, np.diff(sizes[own]) > 0)]
        if len(kept) < 3:
            raise ValueError(
                f"sizes at flops={budget:g} must have three different values or more"
            )
        runs[float(budget)] = kept
    return flops, sizes, losses, runs


def _check(method, grid):
    if method not in ("akima", "parabola"):
        raise ValueError(f"method={method!r} must be 'akima' or 'parabola'")
    weights.require_count("grid", grid, least=2)
