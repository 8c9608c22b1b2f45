"""The interface that every law has: fit, predict, score, and to and from JSON."""

import abc
import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from anytime_jax import schedules
from anytime_jax.laws import fitting
from anytime_jax.laws.curves import Curve, ending


@dataclasses.dataclass(frozen=True)
class Law(abc.ABC):
    """A formula from the rates of a run to its losses, and values of its parameters.

    A law says what the loss is at step t after updates with the rates of steps
    0 ... t; steps count from 0, as in `Curve`. It holds for the model, the data, the
    batch size and the peak rate of the curves that it was fitted to, and for the raw
    weights, not for averages.

    Attributes:
      fitted: how the parameters were found; None for a law that was not fitted.
    """

    PARAMETERS: ClassVar[tuple[str, ...]]
    # Coefficient and exponent of the term that falls with the sum of the rates.
    PROGRESS: ClassVar[tuple[str, str]] = ("A", "alpha")
    CONVENTIONS: ClassVar[tuple[str, ...]] = ()
    # Those that a regularised fit holds near its start.
    SHRUNK: ClassVar[tuple[str, ...]] = ()
    RIDGE: ClassVar[float] = 0.0
    # Parameters that the published procedure does not fit, and what they are there.
    CHOSEN: ClassVar[Mapping[str, float]] = {}

    fitted: fitting.Fitted | None = dataclasses.field(
        default=None, kw_only=True, compare=False, repr=False
    )

    def __post_init__(self):
        """Refuses parameters that are not finite or are negative."""
        for name in self.PARAMETERS:
            value = getattr(self, name)
            number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not (number and 0 <= value < math.inf):
                raise ValueError(f"{name}={value!r} must be a finite number >= 0")
            object.__setattr__(self, name, float(value))
        self.check(**self.conventions)

    @property
    def parameters(self) -> dict[str, float]:
        """The parameters by name."""
        return {name: getattr(self, name) for name in self.PARAMETERS}

    @property
    def conventions(self) -> dict[str, Any]:
        """What is chosen rather than fitted, by name."""
        return {name: getattr(self, name) for name in self.CONVENTIONS}

    @classmethod
    def check(cls, **conventions: Any) -> None:
        """Refuses conventions that the law does not know."""
        del conventions  # A law without any has nothing to refuse.

    @classmethod
    @abc.abstractmethod
    def features(
        cls, rates_T: np.ndarray, at_P: np.ndarray, *, group: int = 1, **conventions
    ) -> tuple[np.ndarray, ...]:
        """Returns what the formula needs of a schedule, whatever the parameters.

        Args:
          rates_T: the rate of every step, at least up to the last of `at_P`.
          at_P: ascending steps.
          group: above 1, a law may approximate, taking so many falls of the rate as
            one; 1 is exact.
          **conventions: of the law.
        """

    @staticmethod
    @abc.abstractmethod
    def formula(xp, parameters: Mapping[str, ArrayLike], features) -> ArrayLike:
        """Returns the losses [P], in NumPy or JAX as `xp` is."""

    @classmethod
    @abc.abstractmethod
    def starts(cls, curves: Sequence[Curve], **conventions) -> list[dict[str, float]]:
        """Returns parameters to start a fit from; the first are those of the ridge."""

    @classmethod
    def published(cls, curves: Sequence[Curve], **choices) -> dict[str, float]:
        """Returns the parameters that the authors' own procedure gives.

        Args:
          curves: at least one.
          **choices: conventions of the law, and what `CHOSEN` names.
        """
        raise ValueError(
            f"procedure='published' must be 'converged' or 'regularised' for "
            f"{cls.__name__}: no procedure of its authors is recorded"
        )

    @classmethod
    def fit(
        cls,
        curves: Sequence[Curve],
        procedure: str = "regularised",
        *,
        ridge: float | None = None,
        fixed: Mapping[str, float] | None = None,
        **conventions: Any,
    ) -> Self:
        """Fits the law to measured curves.

        Args:
          curves: of one model, batch size and peak rate; schedules of at least two
            kinds, as with one of them not all parameters can be told apart.
          procedure: `regularised`, the least of mean Huber loss of log residuals plus
            a ridge that holds the parameters in `SHRUNK` near their start, in log (a
            law without any is `converged`, and its record says so);
            `converged`, the same without ridge, which fits closer and extrapolates
            worse; or `published`, what the law's authors do.
          ridge: the weight of the ridge; by default `RIDGE` of the law.
          fixed: parameters, by name, that keep a given value, not all; with
            `published`, only those that the authors choose, such as the memory of
            `AnnealingLaw`.
          **conventions: fields of the law that are chosen rather than fitted.

        Returns:
          The law, whose `fitted` says how well and how surely.

        Raises:
          ValueError: an argument is unknown or out of range, or the law does not cover
            a curve's schedule.

        Warns:
          UnidentifiedWarning: the curves do not determine a parameter.
        """
        return fitting.fit(cls, curves, procedure, ridge, fixed or {}, conventions)

    def predict(self, rates: schedules.Rates, at: ArrayLike) -> np.ndarray:
        """Returns the predicted losses.

        Args:
          rates: the rate of every step, or a schedule, or one rate for all steps.
          at: the steps to predict for, from 0, in any order and shape.

        Returns:
          float64, of the shape of `at`.

        Raises:
          ValueError: a step is no integer or beyond the rates, a rate is not one, or
            the law does not cover the schedule.
        """
        at = np.asarray(at)
        if at.dtype.kind not in "iu" or at.size == 0 or at.min() < 0:
            raise ValueError(f"at={at!r} must be integers >= 0, at least one")
        at_P, where = np.unique(at, return_inverse=True)
        rates_T = self._table(rates, int(at_P[-1]))
        if not rates_T[: at_P[0] + 1].any():
            raise ValueError(
                f"at={at_P[0]} must be a step after a rate above 0: a law says nothing "
                "of the loss before the first update"
            )
        return self._predict(rates_T, at_P)[where].reshape(at.shape)

    def errors(self, curve: Curve) -> dict[str, float]:
        """Returns how far the prediction of a curve is off; see `errors`.

        Args:
          curve: a measured curve.

        Returns:
          The values of `score` for this curve alone, with the sign of `final_error`.
        """
        predicted = self.predict(curve.rates, curve.steps)
        return errors(predicted, curve.losses, curve.steps)

    def score(self, curves: Sequence[Curve]) -> dict[str, float]:
        """Returns how far predictions are off, averaged over curves.

        Args:
          curves: measured curves.

        Returns:
          `dict(r2=, mae=, rmse=, pred_error=, worst_error=, final_error=)`, the means
          over the curves of what `errors` gives, of `final_error` without its sign.

        Raises:
          ValueError: there is no curve.
        """
        return average_errors([self.errors(curve) for curve in curves])

    def to_dict(self) -> dict[str, Any]:
        """Returns the law as data for JSON."""
        return {
            "law": type(self).__name__,
            "parameters": self.parameters,
            "conventions": self.conventions,
            "fitted": dataclasses.asdict(self.fitted) if self.fitted else None,
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Law":
        """Makes the law that `to_dict` was asked for.

        Args:
          data: what it returned.

        Returns:
          A law of the class that is named in the data.

        Raises:
          ValueError: there is no such law, or a part is missing.
        """
        known = {law.__name__: law for law in Law.__subclasses__()}
        parts = {"law", "parameters", "conventions", "fitted"}
        whole = isinstance(data, Mapping) and parts <= set(data)
        if not whole or data["law"] not in list(known):
            raise ValueError(
                f"data={data!r} must be what Law.to_dict returned, with law= one "
                f"of {', '.join(sorted(known))}"
            )
        record = data["fitted"]
        law = known[data["law"]]
        try:
            if record:
                # JSON knows no tuples.
                tuples = {k: tuple(v) for k, v in record.items() if isinstance(v, list)}
                record = fitting.Fitted(**{**record, **tuples})
            return law(**data["parameters"], **data["conventions"], fitted=record)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"data={data!r} must be what Law.to_dict returned: {error}"
            ) from error

    def _predict(self, rates_T: np.ndarray, at_P: np.ndarray) -> np.ndarray:
        """The losses at ascending steps."""
        features = self.features(rates_T, at_P, **self.conventions)
        return self.formula(np, self.parameters, features)

    def _table(self, rates: schedules.Rates, last: int) -> np.ndarray:
        """The rate of every step, at least up to the last."""
        if callable(rates) or np.ndim(rates) == 0:
            return schedules.rates(rates, last + 1, "rates")
        rates_T = schedules.rates(rates, len(rates), "rates")
        if last >= len(rates_T):
            raise ValueError(
                f"at={last} must be below the {len(rates_T)} steps of the rates"
            )
        return rates_T


def errors(
    predicted: ArrayLike, losses: ArrayLike, steps: ArrayLike | None = None
) -> dict[str, float]:
    """Returns how far predictions are off.

    Args:
      predicted: losses [P].
      losses: measured ones, [P].
      steps: where they were recorded, ascending, [P]. Without them the last eight
        points are the end.

    Returns:
      `r2` 1 - sum of squared errors / sum of squared deviations from the mean (NaN for
      losses that are all equal); `mae` mean absolute error; `rmse` root of the mean
      square; `pred_error` and `worst_error` mean and largest absolute error as a share
      of the loss; and `final_error` the mean error, with its sign, at the end: of the
      last eight points, without those before the last tenth of the steps. Too high is
      positive.

    Example:
      >>> found = errors([2.5, 2.0], [2.0, 2.5])
      >>> found["r2"], found["mae"], found["worst_error"], found["final_error"]
      (-3.0, 0.5, 0.25, 0.0)
    """
    losses_P = np.asarray(losses, np.float64)
    error_P = np.asarray(predicted, np.float64) - losses_P
    variation = np.sum((losses_P - losses_P.mean()) ** 2)
    share_P = np.abs(error_P) / losses_P
    end = slice(-8, None) if steps is None else ending(steps)
    return dict(
        r2=float(1 - np.sum(error_P**2) / variation) if variation else math.nan,
        mae=float(np.abs(error_P).mean()),
        rmse=float(np.sqrt(np.mean(error_P**2))),
        pred_error=float(share_P.mean()),
        worst_error=float(share_P.max()),
        final_error=float(error_P[end].mean()),
    )


def average_errors(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the means of several `errors`, of `final_error` without its sign.

    Args:
      found: at least one.

    Returns:
      One value for each key.

    Raises:
      ValueError: there are none.
    """
    if not found:
        raise ValueError("curves must hold at least one curve")
    means = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
    final = float(np.mean([abs(one["final_error"]) for one in found]))
    return means | dict(final_error=final)
