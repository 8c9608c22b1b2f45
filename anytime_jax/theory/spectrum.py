"""Sums over power-law spectra of any dimension, by a few hundred weighted nodes.

Directions whose eigenvalues are close share one state, so a sum over i = 1 ... d of a
function that is smooth in log i needs only a few nodes per factor of e in i.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

# Directions kept as they are, and how far panels of nodes reach in log i.
_LEADING = 32
_PANEL = 1.0
# From here on no run is long enough to move a direction: one node stands for the rest.
FROZEN = 1e20
# Panels of fewer integers are summed as they are, of more as integrals: the midpoint
# rule is off by 1/24 of the derivative's change, relative to the sum 1e-11 from here.
_INTEGERS = 2e5
# B_2k / (2k)! of the Euler-Maclaurin formula.
_BERNOULLI = (1 / 12, -1 / 720, 1 / 30240, -1 / 1209600)
_DIRECT = 64
# Smaller sums have lost digits to the end of the floats' range.
_LEAST = 1e-280


class Spectrum(NamedTuple):
    """Directions that are updated, each standing for `multiplicity` like it.

    Attributes:
      eigenvalues: of the covariance, float64 [N].
      squared_target: squared coordinate of the target along each, float64 [N].
      multiplicity: how many directions of the problem each stands for, float64 [N].
    """

    eigenvalues: np.ndarray
    squared_target: np.ndarray
    multiplicity: np.ndarray


def power_sum(exponent: float, last: float, first: float = 1) -> float:
    """Returns the sum of `i^-exponent` for i = first ... last.

    Terms are added up to 64, or as many as a steep power needs, and the rest by the
    Euler-Maclaurin formula, to rounding.

    Args:
      exponent: any real number.
      last: an integer, or infinity where the sum converges (exponent > 1).
      first: an integer >= 1.

    Returns:
      The sum.

    Example:
      >>> round(power_sum(2.0, math.inf), 12) == round(math.pi**2 / 6, 12)
      True
    """
    # The formula's error is about (|exponent| / 2 pi start)^10. Powers that would need
    # more than 2048 are 0 there.
    last, first = float(last), float(first)  # NumPy's integers have no i^-2.
    terms = max(_DIRECT, min(8 * abs(exponent), 2048))
    stop = int(min(last, max(first, terms) - 1))
    direct = float(np.sum(np.arange(first, stop + 1.0) ** -exponent))
    if last <= stop:
        return direct
    start = float(stop + 1)

    def odd_derivatives(x: float) -> list[float]:
        factors, found = 1.0, []
        for order in range(1, 2 * len(_BERNOULLI)):
            factors *= -(exponent + order - 1)
            if order % 2:
                found.append(factors * x ** (-exponent - order))
        return found

    slope, total = 1 - exponent, math.log(last / start)
    if slope:
        total = start**slope * math.expm1(slope * total) / slope
    total += (start**-exponent + last**-exponent) / 2
    ends = odd_derivatives(start), odd_derivatives(last)
    for factor, low, high in zip(_BERNOULLI, *ends, strict=True):
        total += factor * (high - low)
    return direct + total


def quadrature(
    dimension: float, order: int, leading: float = _LEADING
) -> tuple[np.ndarray, np.ndarray]:
    """Returns nodes i and weights whose weighted sum is the sum over 1 ... dimension.

    The leading directions stand for themselves. The others are cut into panels of one
    unit in log i, each with the Gauss rule of its integers, which is exact for
    polynomials in log i of degree below 2 order.

    Args:
      dimension: d >= 1; what lies beyond 1e20 is left out.
      order: nodes of a panel.
      leading: how many directions stand for themselves.

    Returns:
      (nodes, weights), float64 [N] each. The weights are positive and sum to d; above
      2e5 as nearly as `order` nodes integrate, to 2e-9 at order 4.
    """
    exact = min(leading, dimension)
    logs, weights = [np.log(np.arange(1.0, exact + 1))], [np.ones(int(exact))]
    low, end = exact, min(dimension, FROZEN)
    while low < end:
        high = float(round(low * math.exp(_PANEL)))
        # No sliver is left for a panel of its own.
        high = end if high * math.exp(_PANEL / 4) > end else high
        log_Q, weight_Q = _panel(low, high, order)
        logs.append(log_Q)
        weights.append(weight_Q)
        low = high
    return np.exp(np.concatenate(logs)), np.concatenate(weights)


@functools.lru_cache(maxsize=4096)
def _panel(low: float, high: float, order: int) -> tuple[np.ndarray, np.ndarray]:
    """The Gauss rule, in log i, of the integers low < i <= high."""
    if high <= _INTEGERS:
        points = np.log(np.arange(low + 1, high + 1))
        if len(points) <= order:
            return points, np.ones(len(points))
        return _gauss(points, order)
    nodes, weights = np.polynomial.legendre.leggauss(order)
    start, stop = math.log(low + 0.5), math.log(high + 0.5)
    points = (start + stop) / 2 + (stop - start) / 2 * nodes
    return points, (stop - start) / 2 * weights * np.exp(points)


def _gauss(points: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """The Gauss rule of equal masses at some points: Lanczos, then Golub and Welsch."""
    centre = points.mean()
    basis_QP = np.full((1, len(points)), len(points) ** -0.5)
    jacobi_QQ = np.zeros((order, order))
    for k in range(order):
        following = (points - centre) * basis_QP[k]
        jacobi_QQ[k, k] = following @ basis_QP[k]
        for _ in range(2):  # Once is not enough for orthogonality to rounding.
            following = following - basis_QP.T @ (basis_QP @ following)
        if k + 1 < order:
            norm = np.linalg.norm(following)
            jacobi_QQ[k, k + 1] = jacobi_QQ[k + 1, k] = norm
            basis_QP = np.vstack([basis_QP, following / norm])
    nodes, vectors_QQ = np.linalg.eigh(jacobi_QQ)
    return nodes + centre, len(points) * vectors_QQ[0] ** 2


def power_law(capacity: float, source: float, dimension: float, order: int) -> Spectrum:
    """Returns the nodes of eigenvalues `i^-capacity`, targets `i^-(source - capacity)`.

    Args:
      capacity: a.
      source: b.
      dimension: d, or infinity if a > 1 and b > 1.
      order: nodes of a panel.

    Returns:
      A `Spectrum`. Beyond i = 1e20 one node has the eigenvalues' and the risk's sums.
    """
    nodes, weights = quadrature(dimension, order)
    spectrum = Spectrum(nodes**-capacity, nodes ** (capacity - source), weights)
    if dimension <= FROZEN:
        return spectrum
    trace, risk, second = (
        power_sum(exponent, dimension, FROZEN + 1)
        for exponent in (capacity, source, 2 * capacity)
    )
    mean = second / trace
    rest = Spectrum(*np.array([[mean], [risk / trace], [trace / mean]]))
    return Spectrum(*map(np.append, spectrum, rest))


def errors(
    spectrum: Spectrum, capacity: float, source: float, dimension: float
) -> dict[str, float]:
    """Returns the relative errors of a power law's nodes, by what they sum.

    Compared are the sums of `i^-p` with their closed forms, and those of
    `i^-p exp(-time i^-a)`, which decide what a run of that length leaves, with the sum
    over the integers up to 2e5 and 32 nodes per panel beyond. The times are powers of
    ten up to 1e12, as long as the smallest eigenvalue has not decayed.

    Args:
      spectrum: what is checked.
      capacity: a.
      source: b.
      dimension: d.

    Returns:
      The largest relative error by name: `trace` (p = a), `initial_risk` (p = b),
      `squared_eigenvalues` (p = 2a), `weighted_risk` (p = a + b), and of the decayed
      sums `bias` (p = b) and `variance` (p = 2a).
    """
    eigenvalues_N, target_N, multiplicity_N = spectrum
    variance_N = multiplicity_N * eigenvalues_N**2
    bias_N = multiplicity_N * eigenvalues_N * target_N
    expected, times, bias, variance = _expected(capacity, source, dimension)
    sums = (
        (multiplicity_N * eigenvalues_N).sum(),
        bias_N.sum(),
        variance_N.sum(),
        (bias_N * eigenvalues_N).sum(),
    )
    found = {
        name: abs(total / value - 1)
        for (name, value), total in zip(expected.items(), sums, strict=True)
    }
    left_TxN = np.exp(-np.outer(times, eigenvalues_N))
    for name, each_N, decayed in (
        ("bias", bias_N, bias),
        ("variance", variance_N, variance),
    ):
        # Of a steep target nothing that a float holds is left after long times.
        held = decayed > _LEAST
        found[name] = np.abs((left_TxN @ each_N)[held] / decayed[held] - 1).max()
    return {name: float(error) for name, error in found.items()}


@functools.lru_cache(maxsize=64)
def _expected(capacity: float, source: float, dimension: float):
    """What `errors` compares with: closed forms, times, and both decayed sums."""
    exponents = dict(
        trace=capacity,
        initial_risk=source,
        squared_eigenvalues=2 * capacity,
        weighted_risk=capacity + source,
    )
    closed = {name: power_sum(p, dimension) for name, p in exponents.items()}
    nodes, weights = quadrature(dimension, 32, leading=_INTEGERS)
    times = 10.0 ** np.arange(13)
    times = times[times * nodes[-1] ** -capacity <= 1]
    left_TxN = np.exp(-np.outer(times, nodes**-capacity))
    decayed = []
    for p in (source, 2 * capacity):
        beyond = power_sum(p, dimension, FROZEN + 1) if dimension > FROZEN else 0.0
        decayed.append(left_TxN @ (weights * nodes**-p) + beyond)
    return closed, times, *decayed
