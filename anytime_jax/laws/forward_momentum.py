"""The forward and momentum law: sums over the rows of a log, normalised as in Adam."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from anytime_jax.averaging import weights
from anytime_jax.laws import simple
from anytime_jax.laws.curves import Curve
from anytime_jax.laws.law import Law
from anytime_jax.laws.reductions import warmup_end

WARMUPS = ("ramp", "constant")
# Of the authors' fit.
BOUNDS = dict(L0=(1.1, 8), A=(1e-3, 10), alpha=(0.1, 10), C=(0, 10))
_BETA1, _BETA2, _SCALE, _TINY = 0.9, 0.999, 1e5, 1e-8


class Features(NamedTuple):
    """The forward effect S and the annealing momentum M at P steps."""

    sums_P: np.ndarray
    momenta_P: np.ndarray


@dataclasses.dataclass(frozen=True)
class ForwardMomentumLaw(Law):
    """A power of the forward effect, less a sum of normalised falls of the rate.

        L = L0 + A S^-alpha - C M
        S_i = S_{i-1} + rate_i every,   M_i = M_{i-1} + m_i / (sqrt(v_i) + 1e-8)

    where i are the rows of a log with a row every `every` steps, at the steps
    `every - 1`, `2 every - 1`, ..., m and v are Adam's moments (0.9, 0.999, with the
    correction of their start) of the falls `(rate_{i-1} - rate_i) every`, and v is
    1e5 times Adam's, and 1e-8 more. Between rows S and M are linear; the row after the
    last step that is asked for has the rate of that step.

    M depends on `every`: predict with the one that the law was fitted with. For models
    of one size the authors' term of the size is part of L0.

    Attributes:
      L0: the loss after any number of steps, in nats.
      A: of the power.
      alpha: its exponent.
      C: nats for each unit of M.
      every: steps between rows.
      warmup: `ramp`, the rates are what they are; or `constant`, the warmup counts as
        steps at the peak, so that its rises are no part of v, and before its end as
        steps at the rate that it has reached. Which one the authors' logs mean is not
        known; on measured curves the ramp is the better.

    Example:
      >>> law = ForwardMomentumLaw(3.0, 0.5, 0.5, 2.0, every=2)
      >>> law.predict([0.25] * 4, at=[1, 3])
      array([3.70710678, 3.5       ])

    Source: Wang et al., 2025, arXiv 2512.13705, and their code; where the rows are,
    and what is between them, is ours.
    """

    PARAMETERS: ClassVar[tuple[str, ...]] = ("L0", "A", "alpha", "C")
    CONVENTIONS: ClassVar[tuple[str, ...]] = ("every", "warmup")

    L0: float
    A: float
    alpha: float
    C: float
    every: int = 128
    warmup: str = "ramp"

    @classmethod
    def check(cls, every: int = 128, warmup: str = "ramp") -> None:
        """Refuses conventions that are not known."""
        weights.require_count("every", every, least=1)
        if warmup not in WARMUPS:
            raise ValueError(f"warmup={warmup!r} must be one of {', '.join(WARMUPS)}")

    @classmethod
    def features(cls, rates_T, at_P, *, group=1, every=128, warmup="ramp"):
        """Returns what the formula needs of a schedule; it is exact for any `group`."""
        rates_T = rates_T[: at_P[-1] + 1]
        end = warmup_end(rates_T) if warmup == "constant" else 0
        level_T = np.append(np.full(end, rates_T[end]), rates_T[end:])
        # The last row may be after the last step: the rate stays until then.
        rows = -(-(int(at_P[-1]) + 1) // every)
        steps_R = np.arange(1, rows + 1) * every - 1
        rates_R = level_T[np.minimum(steps_R, at_P[-1])]
        falls_R = -np.diff(rates_R, prepend=rates_R[0]) * every
        first = second = total = 0.0
        momenta_R = np.empty(rows)
        for i, fall in enumerate(falls_R, 1):
            first = _BETA1 * first + (1 - _BETA1) * fall
            second = _BETA2 * second + (1 - _BETA2) * fall**2
            spread = _SCALE * second / (1 - _BETA2**i) + _TINY
            total += first / (1 - _BETA1**i) / (np.sqrt(spread) + _TINY)
            momenta_R[i - 1] = total
        # Before the first row nothing has happened: step -1.
        rows_R1 = np.append(-1, steps_R)
        sums_P, momenta_P = (
            np.interp(at_P, rows_R1, np.append(0, values_R))
            for values_R in (np.cumsum(rates_R * every), momenta_R)
        )
        # A step of the warmup does not know the peak to come.
        own_P = (at_P + 1) * rates_T[at_P]
        return Features(
            np.where(at_P < end, own_P, sums_P), np.where(at_P < end, 0, momenta_P)
        )

    @staticmethod
    def formula(xp, parameters: Mapping, features: Features):
        """Returns the losses."""
        p, f = parameters, features
        return p["L0"] + p["A"] * f.sums_P ** -p["alpha"] - p["C"] * f.momenta_P

    @classmethod
    def starts(cls, curves: Sequence[Curve], **conventions) -> list[dict[str, float]]:
        """Returns the simple law's optimum, with C of the same final gain."""
        found = simple.optimum(curves)
        worth = found.pop("B")
        largest = max(
            abs(cls.features(c.rates, c.steps[-1:], **conventions).momenta_P[0])
            for c in curves
        )
        gains = max(worth * (c.rates.max() - c.rates[c.steps[-1]]) for c in curves)
        C = gains / largest if gains > 0 and largest > 0 else 1.0
        return [found | dict(C=factor * C) for factor in (1.0, 0.2)]

    @classmethod
    def published(cls, curves: Sequence[Curve], **conventions) -> dict[str, float]:
        """Returns what the authors' code comes to, as far as it is known.

        L-BFGS-B with at most 1000 iterations on the sum of the Huber loss of the
        residuals of the losses themselves, not of their logarithms, with L0 in 1.1 ...
        8, A in 0.001 ... 10, alpha in 0.1 ... 10 and C in 0 ... 10.

        Where they start from is not known: here from where the other procedures do,
        moved into the bounds; the better one is kept. Nor are their tolerances, here
        SciPy's own, nor whether theirs is a sum or a mean, which stops sooner. On the
        curves of `experiments/multi_power_law` the sum leads to one optimum from
        everywhere, the mean does not.
        """
        parts = []
        for curve in curves:
            one = cls.features(curve.rates, curve.steps, **conventions)
            parts.append((*one, curve.losses))
        starts_Sx4 = [list(s.values()) for s in cls.starts(curves, **conventions)]
        bounds = tuple(BOUNDS.values())
        found_4 = simple.least(parts, starts_Sx4, bounds, raw=True, maxiter=1000)
        return dict(zip(cls.PARAMETERS, found_4.tolist(), strict=True))
