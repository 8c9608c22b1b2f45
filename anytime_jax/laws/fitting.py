"""Fits of laws: Huber loss of log residuals, in the logarithms of the parameters.

    mean over all points of huber(log loss - log prediction) / delta^2
      + ridge sum over SHRUNK of log(parameter / start)^2

with delta = 1e-3 is minimised by L-BFGS-B from several starts, with gradients by
automatic differentiation. For this alone, laws take neighbouring falls of the rate as
one, which moves a prediction by about 1e-5; predictions and scores are exact.
"""

import dataclasses
import functools
import math
import numbers
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from anytime_jax.laws.curves import Curve

DELTA = 1e-3
GROUP = 32
PROCEDURES = ("regularised", "converged", "published")

# A parameter whose logarithm has a larger standard error is not identified.
_UNIDENTIFIED = 0.5
_BOX = 3.0
_DIFFERENCE = 1e-4


class UnidentifiedWarning(UserWarning):
    """The curves that a law was fitted to do not determine one of its parameters."""


@dataclasses.dataclass(frozen=True)
class Fitted:
    """How the parameters of a law were found.

    Attributes:
      procedure: of `Law.fit`; without a ridge, "regularised" is "converged".
      ridge: the weight of the ridge, 0 for none.
      objective: sum over all points of the Huber loss of the log residuals, exact.
      curves: names of the curves.
      points: their recorded points, all together.
      final_error: the largest error, without sign, at the end of a curve, in nats; see
        `Law.score`.
      standard_errors: by name, of the logarithm of the parameter, and so its relative
        error; infinite where the curves say nothing. From Gauss-Newton, with residuals
        that may be correlated over a tenth of a curve; what the ridge adds counts.
      unidentified: the parameters that the curves alone leave open: without the ridge,
        the standard error of the logarithm is above 0.5.
      held_out_errors: for each curve the error, with its sign, at its end by a fit to
        the others, in nats; empty unless `hold_out` found them.
    """

    procedure: str
    ridge: float
    objective: float
    curves: tuple[str, ...]
    points: int
    final_error: float
    standard_errors: dict[str, float]
    unidentified: tuple[str, ...]
    held_out_errors: tuple[float, ...] = ()

    def __post_init__(self):
        """Refuses what is no number where one is needed: files are edited by hand.

        Raises:
          TypeError: one is not.
        """
        given = dict(ridge=self.ridge, objective=self.objective, points=self.points)
        given |= dict(final_error=self.final_error) | self.standard_errors
        given |= {
            f"held_out_errors[{i}]": v for i, v in enumerate(self.held_out_errors)
        }
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise TypeError(f"{name}={value!r} must be a number")

    @property
    def held_out_error(self) -> float | None:
        """The largest of `held_out_errors`, without sign; None if there are none."""
        return max(map(abs, self.held_out_errors), default=None)


def huber(residuals: np.ndarray) -> np.ndarray:
    """Returns r^2 / 2 up to |r| = 1e-3 = delta, then delta (|r| - delta / 2).

    Args:
      residuals: of logarithms.

    Example:
      >>> huber(np.array([1e-3, -2e-3])) / 1e-6
      array([0.5, 1.5])
    """
    inside = np.minimum(np.abs(residuals), DELTA)
    return inside * (np.abs(residuals) - inside / 2)


def fit(
    law: type,
    curves: Sequence[Curve],
    procedure: str,
    ridge: float | None,
    fixed: Mapping[str, float],
    conventions: Mapping[str, Any],
):
    """Fits a law: see `Law.fit`, which calls this."""
    curves = list(curves)
    if not curves:
        raise ValueError("curves must hold at least one curve")
    if procedure not in PROCEDURES:
        raise ValueError(f"procedure={procedure!r} must be one of {PROCEDURES}")
    if ridge is not None and not (0 <= ridge < math.inf and procedure == "regularised"):
        raise ValueError(
            f"ridge={ridge!r} must be a finite number >= 0, and be left out unless "
            f"procedure='regularised'"
        )
    unknown = [name for name in fixed if name not in law.PARAMETERS]
    unknown += [name for name in conventions if name not in law.CONVENTIONS]
    if unknown:
        known = ", ".join((*law.PARAMETERS, *law.CONVENTIONS))
        raise ValueError(f"{unknown[0]} must be a field of {law.__name__}: {known}")
    law.check(**conventions)
    for name, value in fixed.items():
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not (number and 0 <= value < math.inf):
            raise ValueError(f"fixed[{name!r}]={value!r} must be a finite number >= 0")
    if len(fixed) == len(law.PARAMETERS):
        raise ValueError(f"fixed={dict(fixed)!r} must leave a parameter to be fitted")
    if ridge and not law.SHRUNK:
        raise ValueError(
            f"ridge={ridge!r} must be left out for {law.__name__}: it has no parameter "
            "that a ridge holds"
        )
    ridge = law.RIDGE if ridge is None else ridge
    ridge = ridge if procedure == "regularised" and law.SHRUNK else 0.0
    if published := procedure == "published":
        if set(fixed) - set(law.CHOSEN):
            allowed = " but ".join(("nothing", *law.CHOSEN))
            raise ValueError(
                f"fixed={dict(fixed)!r} must hold {allowed} for 'published'"
            )
        fixed = {**law.CHOSEN, **fixed}
    problem = Problem(law, curves, conventions, fixed)
    if published:
        parameters = law.published(curves, **fixed, **conventions)
    else:
        parameters = problem.best(ridge)
        procedure = "regularised" if ridge else "converged"
    return _with_record(problem, parameters, procedure, ridge)


class Problem:
    """A law, curves and what is fixed: an objective of the other parameters."""

    def __init__(
        self,
        law: type,
        curves: Sequence[Curve],
        conventions: Mapping[str, Any],
        fixed: Mapping[str, float],
    ):
        """Computes what the formula needs of each curve.

        Args:
          law: the class.
          curves: at least one.
          conventions: of the law.
          fixed: values of some parameters.
        """
        self.law, self.curves, self.conventions = law, curves, dict(conventions)
        self.fixed = {name: float(value) for name, value in fixed.items()}
        self.free = tuple(n for n in law.PARAMETERS if n not in fixed)
        self.features = tuple(
            law.features(c.rates, c.steps, group=GROUP, **conventions) for c in curves
        )
        self.log_losses = tuple(np.log(curve.losses) for curve in curves)

    def best(self, ridge: float, left_out: int | None = None) -> dict[str, float]:
        """Returns the parameters of least objective, of all starts.

        Args:
          ridge: its weight.
          left_out: the index of a curve that takes no part.
        """
        curves = [c for i, c in enumerate(self.curves) if i != left_out]
        starts = [s | self.fixed for s in self.law.starts(curves, **self.conventions)]
        found = [self.minimise(one, starts[0], ridge, left_out) for one in starts]
        return min(found, key=lambda one: one[0])[1]

    def minimise(
        self,
        start: Mapping[str, float],
        prior: Mapping[str, float],
        ridge: float,
        left_out: int | None = None,
    ) -> tuple[float, dict[str, float]]:
        """Returns the least objective found from a start, and its parameters.

        Args:
          start: all parameters, above 0; each stays within a factor of e^3.
          prior: where the ridge is centred.
          ridge: its weight.
          left_out: the index of a curve that takes no part.
        """
        names, law = self.free, self.law
        counts_C = tuple(float(i != left_out) for i in range(len(self.curves)))
        start_F, prior_F = (np.log([p[n] for n in names]) for p in (start, prior))
        weights_F = np.array([ridge * (name in law.SHRUNK) for name in names])
        with jax.enable_x64(True):
            data = (self.fixed, self.features, self.log_losses, counts_C)
            data = jax.device_put(data)

            def objective(shift_F: np.ndarray) -> tuple[float, np.ndarray]:
                value, slope_F = _value_and_slope(
                    start_F + shift_F, prior_F, weights_F, *data, law=law, names=names
                )
                return float(value), np.array(slope_F)

            found = scipy.optimize.minimize(
                objective,
                np.zeros(len(names)),
                jac=True,
                method="L-BFGS-B",
                bounds=[(-_BOX, _BOX)] * len(names),
                options=dict(maxiter=1000, ftol=1e-11, gtol=1e-7),
            )
        values = np.exp(start_F + found.x)
        return float(found.fun), self.fixed | dict(
            zip(names, values.tolist(), strict=True)
        )

    def value(self, parameters: Mapping[str, float]) -> float:
        """Returns the mean over all points of huber / delta^2, without ridge."""
        formula = self.law.formula
        residuals = [
            np.log(formula(np, parameters, features)) - log_losses
            for features, log_losses in zip(self.features, self.log_losses, strict=True)
        ]
        return float(huber(np.concatenate(residuals)).mean() / DELTA**2)

    def certainty(
        self, parameters: Mapping[str, float], ridge: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the standard errors of the logarithms, with the ridge and without.

        Of an M-estimator: inverse curvature, times the variance of the slope, times
        inverse curvature. The slopes of points of one curve may be correlated over a
        tenth of it, with Bartlett's weights.

        Args:
          parameters: all of them.
          ridge: the weight of the ridge.

        Returns:
          Two arrays, float64 [free parameters].
        """
        curvature_FxF, spread_FxF, inside = 0.0, 0.0, 0
        for features, log_losses_P in zip(self.features, self.log_losses, strict=True):
            slope_PxF = self._slopes(parameters, features)
            log_P = np.log(self.law.formula(np, parameters, features))
            residual_P = log_P - log_losses_P
            inside += np.count_nonzero(np.abs(residual_P) < DELTA)
            curvature_FxF += slope_PxF.T @ slope_PxF
            score_PxF = np.clip(residual_P, -DELTA, DELTA)[:, None] * slope_PxF
            spread_FxF += _long_run(score_PxF)
        points = sum(map(len, self.log_losses))
        curvature_FxF *= max(inside, 1) / points
        shrunk_F = np.array([name in self.law.SHRUNK for name in self.free])
        added_FxF = np.diag(2 * ridge * DELTA**2 * points * shrunk_F)
        return tuple(
            _deviations(curvature_FxF + extra, spread_FxF) for extra in (added_FxF, 0.0)
        )

    def _slopes(self, parameters: Mapping[str, float], features) -> np.ndarray:
        """The derivatives of log losses by log parameters, [P, F]."""
        columns = []
        for name in self.free:
            up, down = (
                self.law.formula(
                    np, {**parameters, name: parameters[name] * np.exp(h)}, features
                )
                for h in (_DIFFERENCE, -_DIFFERENCE)
            )
            columns.append(np.log(up / down) / (2 * _DIFFERENCE))
        return np.stack(columns, axis=1)


def _long_run(score_PxF: np.ndarray) -> np.ndarray:
    """The variance of the sum of correlated rows."""
    total_FxF = score_PxF.T @ score_PxF
    lags = len(score_PxF) // 10
    for lag in range(1, lags + 1):
        shifted_FxF = score_PxF[lag:].T @ score_PxF[:-lag]
        total_FxF += (1 - lag / (lags + 1)) * (shifted_FxF + shifted_FxF.T)
    return total_FxF


def _deviations(curvature_FxF: np.ndarray, spread_FxF: np.ndarray) -> np.ndarray:
    """Roots of the diagonal of C^-1 S C^-1; infinite where C is singular."""
    scale_F = np.sqrt(np.diag(curvature_FxF))
    seen_F = scale_F > 0
    found_F = np.full(len(scale_F), np.inf)
    scale_S = scale_F[seen_F]
    scaled_SxS = curvature_FxF[np.ix_(seen_F, seen_F)] / np.outer(scale_S, scale_S)
    values_S, vectors_SxS = np.linalg.eigh(scaled_SxS)
    kept_S = values_S > 1e-12
    inverse_SxS = (vectors_SxS[:, kept_S] / values_S[kept_S]) @ vectors_SxS[:, kept_S].T
    spread_SxS = spread_FxF[np.ix_(seen_F, seen_F)] / np.outer(scale_S, scale_S)
    variance_S = np.diag(inverse_SxS @ spread_SxS @ inverse_SxS)
    # What has a part in a direction without curvature is not determined either.
    open_S = (vectors_SxS[:, ~kept_S] ** 2).sum(axis=1) > 1e-6
    found_F[seen_F] = np.where(
        open_S, np.inf, np.sqrt(np.maximum(variance_S, 0)) / scale_S
    )
    return found_F


def _with_record(
    problem: Problem, parameters: Mapping[str, float], procedure: str, ridge: float
):
    """The law with its record; warns of what the curves leave open."""
    law = problem.law(**parameters, **problem.conventions)
    residuals = [
        np.log(law.predict(curve.rates, curve.steps) / curve.losses)
        for curve in problem.curves
    ]
    errors_F, alone_F = problem.certainty(parameters, ridge)
    unidentified = tuple(
        name
        for name, error in zip(problem.free, alone_F, strict=True)
        if not error <= _UNIDENTIFIED
    )
    record = Fitted(
        procedure=procedure,
        ridge=ridge,
        objective=float(huber(np.concatenate(residuals)).sum()),
        curves=tuple(curve.name for curve in problem.curves),
        points=sum(map(len, residuals)),
        final_error=max(
            abs(law.errors(curve)["final_error"]) for curve in problem.curves
        ),
        standard_errors=dict(zip(problem.free, errors_F.tolist(), strict=True)),
        unidentified=unidentified,
    )
    if unidentified:
        names = ", ".join(record.curves)
        warnings.warn(
            f"{problem.law.__name__}: the curves {names} do not determine "
            f"{', '.join(unidentified)}",
            UnidentifiedWarning,
            stacklevel=4,
        )
    return dataclasses.replace(law, fitted=record)


def _log_losses(log_F, fixed, features, law, names):
    free = {name: jnp.exp(log_F[i]) for i, name in enumerate(names)}
    # A trial step may lead to losses that are not positive.
    return jnp.log(jnp.maximum(law.formula(jnp, free | fixed, features), DELTA))


@functools.partial(jax.jit, static_argnames=("law", "names"))
@functools.partial(jax.value_and_grad, argnums=0)
def _value_and_slope(
    log_F, prior_F, weights_F, fixed, features, log_losses, counts_C, *, law, names
):
    total = points = 0.0
    for one, log_losses_P, count in zip(features, log_losses, counts_C, strict=True):
        log_P = _log_losses(log_F, fixed, one, law, names)
        size_P = jnp.abs(log_P - log_losses_P) / DELTA
        inside_P = jnp.minimum(size_P, 1.0)
        total += count * jnp.sum(inside_P * (size_P - inside_P / 2))
        points += count * len(log_losses_P)
    return total / points + jnp.sum(weights_F * (log_F - prior_F) ** 2)
