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

    Source: Li et al., 2025, arXiv 2509.19189, appendix B.2.
    """

    PARAMETERS: ClassVar[tuple[str, ...]] = ("L0", "c1", "s", "c2", "c3", "c4", "gamma")
    SHRUNK: ClassVar[tuple[str, ...]] = ("c2", "c3", "c4", "gamma")

    L0: float
    c1: float
    s: float
    c2: float
    c3: float
    c4: float
    gamma: float

    @classmethod
    def features(cls, rates_T, at_P, *, group=1) -> Reductions:
        """Returns what the formula needs: of a fall, the sum up to and with its step.

        Rises are left out.
        """
        falling_T = np.minimum.accumulate(rates_T[: at_P[-1] + 1])
        del falling_T
        found = reductions(rates_T, at_P, warmup=True)
        fall_K = found.drops_K > 0
        found = Reductions(found.sums_P, *(part[fall_K] for part in found[1:]))
        return found

    @staticmethod
    def formula(xp, parameters: Mapping, features: Reductions):
        """Returns the losses."""
        p, f = parameters, features
        return p["L0"] + f.sums_P
