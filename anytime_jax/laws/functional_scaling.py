"""The functional scaling law: what a fall brings depends on when it comes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from anytime_jax.laws import simple
from anytime_jax.laws.curves import Curve
from anytime_jax.laws.law import Law
from anytime_jax.laws.reductions import Reductions, in_blocks, peak, reductions


@dataclasses.dataclass(frozen=True)
class FunctionalScalingLaw(Law):
    """A power of the sum of rates, less a gain of each fall that depends on its time.

        L = L0 + c1 T^-s - c2 sum over falls of fall (c3 + T_i^-s) G_i
        G_i = 1 - (1 + c4 (T - T_i))^-gamma

    where T is the sum of the rates of the steps 0 ... t and T_i that up to the fall at
    step i, its own included. Rises count for nothing. It is the form that the authors
    use for language models; their theory is that of regression on features with power
    laws.

    Attributes:
      L0: the loss after any number of steps, in nats.
      c1: of the power.
      s: its exponent.
      c2: nats for each unit by which the rate falls.
      c3: the part of that which does not depend on when it falls.
      c4: how fast the gain comes.
      gamma: the exponent with which it comes.

    Example:
      >>> law = FunctionalScalingLaw(3.0, 0.5, 0.5, 2.0, 1.0, 4.0, 1.0)
      >>> law.predict([0.25, 0.25, 0.25, 0.25], at=[3])
      array([3.5])

    Source: the functional scaling law, 2025, arXiv 2509.19189, appendix B.2; that T_i
    holds the rate of its own step is our reading.
    """

    PARAMETERS: ClassVar[tuple[str, ...]] = ("L0", "c1", "s", "c2", "c3", "c4", "gamma")
    PROGRESS: ClassVar[tuple[str, str]] = ("c1", "s")
    SHRUNK: ClassVar[tuple[str, ...]] = ("c2", "c3", "c4", "gamma")

    # The unseen curves of the multi-power law's authors, 25M and 100M, are predicted
    # best with this one of 1, 5, 30 and 100.
    RIDGE: ClassVar[float] = 1.0

    L0: float
    c1: float
    s: float
    c2: float
    c3: float
    c4: float
    gamma: float

    @classmethod
    def features(cls, rates_T, at_P, *, group=1) -> Reductions:
        """Returns what the formula needs of a schedule."""
        return reductions(rates_T, at_P, warmup=False, rises=False, group=group)

    @staticmethod
    def formula(xp, parameters: Mapping, features: Reductions):
        """Returns the losses."""
        p, f = parameters, features
        falls_K = f.before_K + xp.exp(f.log_rates_K)
        worth_K = f.drops_K * (p["c3"] + falls_K ** -p["s"])
        after_PxK = xp.maximum(f.sums_P[:, None] - falls_K[None, :], 0)
        left_PxK = xp.exp(-p["gamma"] * xp.log1p(p["c4"] * after_PxK))
        gained_P = xp.sum((1 - left_PxK) * worth_K[None, :], axis=1)
        return p["L0"] + p["c1"] * f.sums_P ** -p["s"] - p["c2"] * gained_P

    def _predict(self, rates_T: np.ndarray, at_P: np.ndarray) -> np.ndarray:
        features = self.features(rates_T, at_P)
        return in_blocks(self.formula, self.parameters, features)

    @classmethod
    def starts(cls, curves: Sequence[Curve]) -> list[dict[str, float]]:
        """Returns the simple law's optimum, with several speeds of the gain."""
        found = simple.optimum(curves)
        start = dict(L0=found["L0"], c1=found["A"], s=found["alpha"])
        # A fall in the middle of the curves is worth what it is in the simple law.
        sums = [curve.rates[: curve.steps[-1] + 1].sum() for curve in curves]
        power = float((np.median(sums) / 2) ** -found["alpha"])
        start |= dict(c2=found["B"] / (2 * power), c3=power, gamma=0.5)
        # As fast as in the multi-power law, at a third of the peak.
        speed = (max(peak(curve.rates) for curve in curves) / 3) ** -0.5
        return [start | dict(c4=factor * speed) for factor in (1.0, 0.2, 5.0)]
