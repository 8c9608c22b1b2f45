"""Robust fits of `log loss = log(exp(a - alpha x) + exp(b - beta y) + exp(e))`.

Many fits at once, from many starts or with many weights of the points: one damped
Newton step of all of them is a few matrix products. The parameters of a fit are
`a, b, e, alpha, beta` in this order.
"""

from typing import NamedTuple

import numpy as np

# One step works on so many fits at once: their arrays stay in the processor's cache.
_BLOCK = 128
_MOST_DAMPING = 1e12
# Descents that end within this factor of the lowest objective are taken to the end.
_NEAR = 1.5
_SAME = 1e-6
# The parts (first term, second, constant) that hold parameter i, and its factor.
_PARTS = (0, 1, 2, 0, 1)
_FACTORS = ("one", "one", "one", "x", "y")


class Fits(NamedTuple):
    """Where S descents ended.

    Attributes:
      parameters: `a, b, e, alpha, beta` of each, float64 [S, 5].
      objective: sum of Huber losses, float64 [S].
      steps: damped steps that each took, those refused included, int [S].
    """

    parameters: np.ndarray
    objective: np.ndarray
    steps: np.ndarray


class Points:
    """Measured points, as a fit needs them.

    Args:
      x: log of what the first term falls with, [K].
      y: log of what the second term falls with, [K].
      log_losses: [K].
      delta: where the Huber loss of a residual turns from quadratic to linear.
    """

    def __init__(self, x, y, log_losses, delta):
        self.center = np.array([x.mean(), y.mean()])
        self.x, self.y = x - self.center[0], y - self.center[1]
        self.log_losses, self.delta = log_losses, delta
        one = np.ones_like(x)
        self.factors = dict(one=one, x=-self.x, y=-self.y)

    def centered(self, parameters_Sx5: np.ndarray) -> np.ndarray:
        """Shifts a and b to points centred at 0, which makes steps of good size."""
        found = np.array(parameters_Sx5, np.float64)
        found[:, :2] -= found[:, 3:] * self.center
        return found

    def uncentered(self, parameters_Sx5: np.ndarray) -> np.ndarray:
        """Undoes `centered`."""
        found = np.array(parameters_Sx5, np.float64)
        found[:, :2] += found[:, 3:] * self.center
        return found

    def residuals(self, parameters_Sx5: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns residuals [S, K] and the terms' shares of the sum [3, S, K]."""
        a, b, e, alpha, beta = parameters_Sx5.T[:, :, None]
        parts = np.empty((3, len(parameters_Sx5), len(self.x)))
        parts[0] = a - alpha * self.x[None]
        parts[1] = b - beta * self.y[None]
        parts[2] = e
        largest = parts.max(axis=0)
        np.exp(parts - largest, out=parts)
        total = parts.sum(axis=0)
        parts /= total
        return np.log(total) + largest - self.log_losses[None], parts

    def jacobian(self, parameters_5: np.ndarray) -> np.ndarray:
        """Returns the derivatives of the residuals of one fit, [K, 5]."""
        _, parts = self.residuals(parameters_5[None])
        columns = zip(_PARTS, _FACTORS, strict=True)
        return np.stack([parts[p, 0] * self.factors[f] for p, f in columns], axis=1)

    def huber(self, residuals: np.ndarray) -> np.ndarray:
        """Returns the Huber loss of each residual."""
        size = np.abs(residuals)
        linear = self.delta * (size - self.delta / 2)
        return np.where(size <= self.delta, residuals**2 / 2, linear)

    def expand(self, parameters_Sx5, weights_SxK, exact):
        """Returns objective [S], gradient [S, 5] and curvature [S, 5, 5].

        With p_i the shares and psi the derivative of the Huber loss, the derivative by
        a parameter of part i is `sum psi p_i f_i`, and the second one
        `sum (w - psi) p_i p_j f_i f_j + [i = j] psi p_i f_i f_j`, where w = 1 inside
        delta and 0 outside. Unless `exact`, the curvature is the positive one of
        iteratively reweighted least squares: w = psi / residual, and nothing else.
        """
        residuals, parts = self.residuals(parameters_Sx5)
        objective = (weights_SxK * self.huber(residuals)).sum(axis=1)
        slope = weights_SxK * np.clip(residuals, -self.delta, self.delta)
        if exact:
            inner = weights_SxK * (np.abs(residuals) <= self.delta) - slope
        else:
            size = np.maximum(np.abs(residuals), self.delta)
            inner = weights_SxK * self.delta / size
        gradient = np.empty((len(objective), 5))
        curvature = np.empty((len(objective), 5, 5))
        sloped = slope * parts
        for i in range(5):
            gradient[:, i] = sloped[_PARTS[i]] @ self.factors[_FACTORS[i]]
        for first in range(3):
            left = inner * parts[first]
            for second in range(first, 3):
                product = left * parts[second]
                if exact and first == second:
                    product += sloped[first]
                self._place(curvature, product, first, second)
        return objective, gradient, curvature

    def _place(self, curvature, product_SxK, first, second):
        for i in (k for k in range(5) if _PARTS[k] == first):
            for j in (k for k in range(5) if _PARTS[k] == second):
                factor = self.factors[_FACTORS[i]] * self.factors[_FACTORS[j]]
                curvature[:, i, j] = curvature[:, j, i] = product_SxK @ factor


def descend(
    points: Points,
    starts_Sx5: np.ndarray,
    weights_SxK: np.ndarray | None = None,
    *,
    exact: bool = False,
    steps: int = 200,
    tolerance: float = 1e-9,
) -> Fits:
    """Goes down from every start by damped Newton steps.

    Each start has its own damping; a step that does not lower its objective is refused
    and tried again shorter. A start is done when a step lowers its objective by less
    than `tolerance` of it, or when no step lowers it.

    Args:
      points: what is fitted.
      starts_Sx5: `a, b, e, alpha, beta` of each start.
      weights_SxK: how often each point counts in each fit; by default once.
      exact: the objective's own second derivatives, which end a descent quickly, and
        not the reweighted ones, which survive a bad start.
      steps: at the most.
      tolerance: relative.

    Returns:
      `Fits`.
    """
    found = Fits(
        points.centered(starts_Sx5),
        np.empty(len(starts_Sx5)),
        np.zeros(len(starts_Sx5), int),
    )
    for begin in range(0, len(starts_Sx5), _BLOCK):
        rows = slice(begin, begin + _BLOCK)
        ones = np.ones((1, len(points.x)))
        weights = ones if weights_SxK is None else weights_SxK[rows]
        block = Fits(*(field[rows] for field in found))
        weights = np.broadcast_to(weights, (len(block.objective), len(points.x)))
        _descend_block(points, block, weights, exact, steps, tolerance)
    return found._replace(parameters=points.uncentered(found.parameters))


def lowest(points: Points, starts_Sx5: np.ndarray) -> tuple[np.ndarray, float, int]:
    """Returns the lowest end of all descents, and how many starts reach it.

    All starts are descended until a step gains less than 1e-5 of the objective or 100
    steps are done; those within half of the lowest objective are taken to the end.

    Args:
      points: what is fitted.
      starts_Sx5: `a, b, e, alpha, beta` of each start.

    Returns:
      Its parameters [5], its objective, and the number of starts that end within a
      millionth of it.
    """
    rough = descend(points, starts_Sx5, steps=100, tolerance=1e-5)
    near = rough.objective <= _NEAR * rough.objective.min()
    ended = descend(points, rough.parameters[near], exact=True, tolerance=1e-13)
    best = ended.objective.argmin()
    least = float(ended.objective[best])
    # The last number: of points that follow the law exactly.
    reached = ended.objective <= least * (1 + _SAME) + 1e-18
    return ended.parameters[best], least, int(reached.sum())


def resampled(
    points: Points, parameters_5: np.ndarray, resamples: int, seed: int
) -> np.ndarray:
    """Returns the fits to points drawn from the points, each from the same start.

    Args:
      points: what is fitted.
      parameters_5: the start.
      resamples: how often as many points as there are are drawn with replacement, R.
      seed: of the draws.

    Returns:
      float64 [R, 5].
    """
    count = len(points.x)
    draws = np.random.default_rng(seed).multinomial(
        count, np.full(count, 1 / count), size=resamples
    )
    starts = np.tile(parameters_5, (resamples, 1))
    near = descend(points, starts, draws, tolerance=1e-5)
    return descend(
        points, near.parameters, draws, exact=True, tolerance=1e-12
    ).parameters


def covariance(points: Points, centered_5: np.ndarray) -> np.ndarray | None:
    """Returns the sandwich covariance of a fit.

    With the derivatives J_i of the residual r_i, psi that of the Huber loss, and
    `w = max(delta, median |r|)`,

        H = (delta / w) sum_{|r_i| <= w} J_i J_i'
        covariance = H^-1 (sum_i psi(r_i)^2 J_i J_i') H^-1

    Args:
      points: what was fitted.
      centered_5: the fit, with a and b of centred points.

    Returns:
      float64 [5, 5], or None if the points near the fit do not determine it.

    Source: Powell's estimate of H, as in Koenker, "Quantile Regression", 2005, 3.4.
    """
    [residuals], _ = points.residuals(centered_5[None])
    jacobian_Kx5 = points.jacobian(centered_5)
    psi = np.clip(residuals, -points.delta, points.delta)
    width = max(points.delta, np.median(np.abs(residuals)))
    inside_Kx5 = jacobian_Kx5[np.abs(residuals) <= width]
    if np.linalg.matrix_rank(inside_Kx5) < 5:
        return None
    curvature = points.delta / width * inside_Kx5.T @ inside_Kx5
    root_5xK = np.linalg.solve(curvature, (jacobian_Kx5 * psi[:, None]).T)
    return root_5xK @ root_5xK.T


def _descend_block(points, found, weights_SxK, exact, steps, tolerance):
    """Writes the ends of the descents over their starts."""
    left = np.arange(len(found.objective))
    at = found.parameters.copy()
    objective, gradient, curvature = points.expand(at, weights_SxK, exact)
    damping = np.full(len(left), 1e-2)
    for _ in range(steps):
        scale = np.abs(np.einsum("sii->si", curvature))
        scale += 1e-12 * scale.max(axis=1, keepdims=True) + 1e-300
        damped = curvature + (damping[:, None] * scale)[:, :, None] * np.eye(5)
        step = -np.linalg.solve(damped, gradient[:, :, None])[:, :, 0]
        # A shift by more than this in a logarithm is never meant.
        step /= np.maximum(1, np.abs(step).max(axis=1, keepdims=True) / 5)
        tried = points.expand(at + step, weights_SxK[left], exact)
        gain = objective - tried[0]
        better = gain > 0
        at[better] += step[better]
        done = better & (gain <= tolerance * objective) & (damping <= 1)
        damping = np.where(better, damping * 0.2, damping * 5)
        objective[better] = tried[0][better]
        gradient[better], curvature[better] = tried[1][better], tried[2][better]
        damping = np.maximum(damping, 1e-9)
        done |= damping > _MOST_DAMPING
        found.steps[left] += 1
        found.parameters[left], found.objective[left] = at, objective
        if done.all():
            return
        keep = ~done
        left, at, damping = left[keep], at[keep], damping[keep]
        objective, gradient, curvature = (
            values[keep] for values in (objective, gradient, curvature)
        )
