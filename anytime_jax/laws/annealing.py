"""The annealing law: the rate's falls pay off through a momentum."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anytime_jax.laws import simple
from anytime_jax.laws.curves import Curve
from anytime_jax.laws.law import Law
from anytime_jax.laws.reductions import warmup_end

WARMUPS = ("ramp", "constant")


class Features(NamedTuple):
    """What the law needs of a schedule with K changes of the rate, at P steps.

    Attributes:
      sums_P: of the rates up to each step.
      gaps_P: steps since the recorded step before, the first one since step -1.
      drops_K: by how much the rate falls, negative where it rises.
      left_K: steps from the fall to the next recorded step.
      interval_K: the index of that.
    """

    sums_P: np.ndarray
    gaps_P: np.ndarray
    drops_K: np.ndarray
    left_K: np.ndarray
    interval_K: np.ndarray


@dataclasses.dataclass(frozen=True)
class AnnealingLaw(Law):
    """A power of the sum of rates, less the area under a momentum of its falls.

        L(t) = L0 + A S1(t)^-alpha - C S2(t)
        S1 = sum of the rates of the steps 0 ... t
        S2 = sum over i <= t of m_i,   m_i = lambda m_{i-1} + rate(i-1) - rate(i)

    with lambda = 1 - 1 / memory. Schedules may rise again. More steps at a rate of 0
    lower the prediction still, and so does every larger peak: use it to rank realistic
    schedules of one peak.

    Attributes:
      L0: the loss after any number of steps, in nats.
      A: of the power.
      alpha: its exponent.
      C: nats for each unit of the area.
      memory: how many steps the momentum goes back, >= 1; 1000 is lambda = 0.999.
      warmup: `ramp`, the rates are what they are, and the rises of the warmup count;
        or `constant`, the authors', the warmup counts as steps at the peak, and before
        its end as steps at the rate that it has reached.

    Example:
      >>> law = AnnealingLaw(L0=3.0, A=0.5, alpha=0.5, C=2.0, memory=2.0)
      >>> law.predict([0.25, 0.25, 0.5, 0.0], at=[1, 3])
      array([3.70710678, 3.25      ])

    Source: Tissue et al., 2024, arXiv 2408.11029.
    """

    PARAMETERS: ClassVar[tuple[str, ...]] = ("L0", "A", "alpha", "C", "memory")
    CONVENTIONS: ClassVar[tuple[str, ...]] = ("warmup",)
    CHOSEN: ClassVar[Mapping[str, float]] = dict(memory=1000.0)

    L0: float
    A: float
    alpha: float
    C: float
    memory: float = 1000.0
    warmup: str = "ramp"

    def __post_init__(self):
        """Refuses what is out of range."""
        super().__post_init__()
        if self.memory < 1:
            raise ValueError(f"memory={self.memory!r} must be at least 1 step")

    @property
    def momentum(self) -> float:
        """Lambda."""
        return 1 - 1 / self.memory

    @classmethod
    def check(cls, warmup: str = "ramp") -> None:
        """Refuses a warmup convention that is not known."""
        if warmup not in WARMUPS:
            raise ValueError(f"warmup={warmup!r} must be one of {', '.join(WARMUPS)}")

    @classmethod
    def features(cls, rates_T, at_P, *, group=1, warmup="ramp") -> Features:
        """Returns what the formula needs of a schedule; it is exact for any `group`."""
        rates_T = rates_T[: at_P[-1] + 1]
        end = warmup_end(rates_T) if warmup == "constant" else 0
        level_T = np.append(np.full(end, rates_T[end]), rates_T[end:])
        # A step of the warmup does not know the peak to come.
        own_P = (at_P + 1) * rates_T[at_P]
        sums_P = np.where(at_P < end, own_P, np.cumsum(level_T)[at_P])
        drops_T = -np.diff(level_T)
        steps_K = np.flatnonzero(drops_T) + 1
        interval_K = np.searchsorted(at_P, steps_K)
        return Features(
            sums_P,
            np.diff(at_P, prepend=-1).astype(np.float64),
            drops_T[steps_K - 1],
            (at_P[interval_K] - steps_K).astype(np.float64),
            interval_K,
        )

    @staticmethod
    def formula(xp, parameters: Mapping, features: Features):
        """Returns the losses."""
        p = parameters
        area_P = areas(xp, p["memory"], features)
        return p["L0"] + p["A"] * features.sums_P ** -p["alpha"] - p["C"] * area_P

    @classmethod
    def starts(cls, curves: Sequence[Curve], *, warmup="ramp"):
        """Returns the simple law's optimum, with several lengths of the memory."""
        found = simple.optimum(curves)
        # In the end, a fall is worth B in the one law and C * memory in the other.
        worth = found.pop("B")
        return [
            found | dict(C=worth / memory, memory=memory)
            for memory in (1000.0, 300.0, 100.0)
        ]

    @classmethod
    def published(cls, curves: Sequence[Curve], *, memory=1000.0, warmup="ramp"):
        """Returns what the authors do, as far as it is known.

        The best of 81 runs of L-BFGS-B (ftol 1e-9, gtol 1e-6) from a grid of three
        values each of L0, A, alpha and C, on the Huber loss (1e-3) of the log residuals
        of what was recorded after the warmup. The memory is not fitted: 1000 is theirs,
        and `fixed=dict(memory=...)` of `fit` another. With `warmup="constant"` the
        warmup is theirs too.

        Where their grid lies is not known: here it is that of `SimpleLaw.published`
        with three values of L0, C being B over the memory. Nor are their bounds, here
        that no parameter is negative, nor whether theirs is a sum, as here, or a mean.
        Their slopes are differences over 1e-8, these exact.

        Raises:
          ValueError: a curve was recorded before the end of its warmup.
        """
        parts = []
        for curve in curves:
            end = warmup_end(curve.rates)
            if curve.steps[0] < end:
                raise ValueError(
                    f"{curve.name}: steps[0]={curve.steps[0]} must be at least {end}, "
                    "the end of the warmup, for procedure='published'"
                )
            one = cls.features(curve.rates, curve.steps, warmup=warmup)
            parts.append((one.sums_P, areas(np, memory, one), np.log(curve.losses)))
        starts_Sx4 = simple.grid(curves, limits=3)
        starts_Sx4[:, 3] /= max(memory, 1)
        found_4 = simple.least(parts, starts_Sx4, simple.POSITIVE, **simple.OPTIONS)
        order = ("L0", "A", "alpha", "C")
        return dict(zip(order, found_4.tolist(), strict=True), memory=memory)


def areas(xp, memory, features: Features):
    """Returns S2 at the recorded steps, in one pass over the changes of the rate.

    From one recorded step to the next, n later, the momentum m that is there adds
    `m (lambda + ... + lambda^n)`, and a fall d that n steps are left for
    `d (1 + ... + lambda^n)`.

    Args:
      xp: NumPy or JAX's.
      memory: 1 / (1 - lambda).
      features: of `AnnealingLaw`.

    Returns:
      [P].
    """
    f = features
    # At a memory of 1 the momentum is gone at once: -log(lambda) must stay finite.
    rate = -xp.log1p(-1 / xp.maximum(memory, 1 + 1e-9))
    keep_K, keep_P = xp.exp(-rate * f.left_K), xp.exp(-rate * f.gaps_P)
    lasting = xp.exp(-rate)
    # 1 + ... + lambda^n = (1 - lambda^(n + 1)) memory
    gained_K = f.drops_K * (1 - keep_K * lasting) * memory
    carried_P = lasting * (1 - keep_P) * memory
    points = len(f.gaps_P)
    if xp is jnp:
        held_P = jax.ops.segment_sum(f.drops_K * keep_K, f.interval_K, points)
        new_P = jax.ops.segment_sum(gained_K, f.interval_K, points)

        def advance(state, step):
            momentum, area = state
            keep, carried, held, new = step
            area = area + momentum * carried + new
            return (momentum * keep + held, area), area

        start = (jnp.zeros(()), jnp.zeros(()))
        return jax.lax.scan(advance, start, (keep_P, carried_P, held_P, new_P))[1]
    held_P = np.bincount(f.interval_K, f.drops_K * keep_K, points)
    new_P = np.bincount(f.interval_K, gained_K, points)
    momentum = area = 0.0
    found_P = np.empty(points)
    for i in range(points):
        area += momentum * carried_P[i] + new_P[i]
        momentum = momentum * keep_P[i] + held_P[i]
        found_P[i] = area
    return found_P
