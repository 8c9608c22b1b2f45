"""What further fits say: without a curve, or with another value of a parameter."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from anytime_jax.laws import fitting
from anytime_jax.laws.curves import Curve
from anytime_jax.laws.law import Law

_Law = TypeVar("_Law", bound=Law)


class Profile(NamedTuple):
    """The best fit for each of several values of one parameter.

    Attributes:
      values: of the parameter, float64 [V].
      objective: the sum of the Huber loss over all points, minimised over the other
        parameters, float64 [V]. It is flat where the curves do not tell values apart.
      parameters: of the fits, V of them.
    """

    values: np.ndarray
    objective: np.ndarray
    parameters: list[dict[str, float]]


def hold_out(law: _Law, curves: Sequence[Curve]) -> _Law:
    """Returns a fitted law with its held-out errors in its record.

    Each curve in turn is left out, the law is fitted to the others as it was to all,
    starts and prior included, and predicts the end of the one that is left out. With
    few curves that is harder than what the law of all is for, as each may be the only
    one of its kind; the error of the fit on its own curves is mostly too small.

    Args:
      law: fitted.
      curves: what it was fitted to, two or more.

    Returns:
      The same law, with `fitted.held_out_errors`.

    Raises:
      ValueError: the law was not fitted, the curves are others or too few, or those
        that are left cannot be fitted.

    Example:
      >>> import numpy as np
      >>> from anytime_jax import laws
      >>> true = laws.SimpleLaw(L0=2.0, A=1.0, alpha=0.5, B=10.0)
      >>> steps = np.arange(20, 400, 20)
      >>> tables = [np.linspace(0.03, last, 400) for last in (0.0, 0.01, 0.02)]
      >>> made = [laws.Curve(r, steps, true.predict(r, steps), "one") for r in tables]
      >>> found = laws.hold_out(laws.SimpleLaw.fit(made), made)
      >>> len(found.fitted.held_out_errors), found.fitted.held_out_error < 1e-4
      (3, True)
    """
    curves, record = list(curves), law.fitted
    if record is None:
        raise ValueError(f"law={law!r} must be one that was fitted")
    names = tuple(curve.name for curve in curves)
    points = sum(len(curve.steps) for curve in curves)
    if (names, points) != (record.curves, record.points):
        raise ValueError(
            f"curves={names} of {points} points must be those of the fit, "
            f"{record.curves} of {record.points}"
        )
    if len(curves) < 2:
        raise ValueError(f"curves={names} must be two or more to leave one out")
    given = _given(law)
    problem = fitting.Problem(type(law), curves, law.conventions, given)
    found = []
    for i, curve in enumerate(curves):
        if record.procedure == "published":
            rest = curves[:i] + curves[i + 1 :]
            parameters = law.published(rest, **given, **law.conventions)
        else:
            # The curve has no weight, so that what is compiled serves all of them.
            parameters = problem.best(record.ridge, left_out=i)
        other = dataclasses.replace(law, **parameters)
        found.append(other.errors(curve)["final_error"])
    record = dataclasses.replace(record, held_out_errors=tuple(found))
    return dataclasses.replace(law, fitted=record)


def profile(
    law: Law,
    curves: Sequence[Curve],
    name: str,
    factors: Sequence[float] = (0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 2.0),
) -> Profile:
    """Returns the profile likelihood of a parameter: the best fit at each value.

    Args:
      law: a fitted law. What was given to its fit, not found, stays as it is.
      curves: what it was fitted to.
      name: of the parameter.
      factors: multiples of its fitted value, ascending, all above 0.

    Returns:
      A `Profile`, without ridge, whatever the law was fitted with.

    Raises:
      ValueError: there is no such parameter, it is all that was fitted, or a factor is
        out of range.
    """
    if name not in law.PARAMETERS:
        known = ", ".join(law.PARAMETERS)
        raise ValueError(f"name={name!r} must be a parameter: {known}")
    factors_V = np.asarray(factors, np.float64)
    listed = factors_V.ndim == 1 and len(factors_V) > 0
    if not (listed and factors_V[0] > 0 and (np.diff(factors_V) > 0).all()):
        raise ValueError(f"factors={factors!r} must ascend and be above 0")
    given = _given(law)
    if len(given.keys() | {name}) == len(law.PARAMETERS):
        raise ValueError(f"name={name!r} must not be all that was fitted")
    values = getattr(law, name) * factors_V
    found: dict[int, tuple[float, dict[str, float]]] = {}
    # From the fitted value outwards, each from its neighbour and from the fit.
    nearest = int(np.abs(np.log(factors_V)).argmin())
    order = [*range(nearest, -1, -1), *range(nearest + 1, len(values))]
    for i in order:
        neighbour = found.get(i + 1 if i < nearest else i - 1)
        starts = [law.parameters] + ([neighbour[1]] if neighbour else [])
        fixed = given | {name: values[i]}
        problem = fitting.Problem(type(law), list(curves), law.conventions, fixed)
        runs = [problem.minimise(s | fixed, s | fixed, 0.0) for s in starts]
        found[i] = min(runs, key=lambda run: run[0])
    points = sum(len(curve.steps) for curve in curves)
    objective = [found[i][0] * points * fitting.DELTA**2 for i in range(len(values))]
    return Profile(
        values, np.array(objective), [found[i][1] for i in range(len(values))]
    )


def _given(law: Law) -> dict[str, float]:
    """The parameters that were given to the fit: those found have a standard error."""
    found = law.fitted.standard_errors if law.fitted else law.PARAMETERS
    return {k: v for k, v in law.parameters.items() if k not in found}
