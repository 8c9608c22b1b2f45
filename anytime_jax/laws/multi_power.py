"""The multi-power law: every fall of the rate pays off by a power law of its own."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from anytime_jax.laws import fitting
from anytime_jax.laws.curves import Curve
from anytime_jax.laws.law import Law
from anytime_jax.laws.reductions import (
    Reductions,
    in_blocks,
    peak,
    reductions,
    warmup_end,
)
from anytime_jax.laws.simple import SimpleLaw, optimum

WARMUPS = ("paper", "authors")
_ORDER = ("L0", "A", "alpha", "B", "C", "beta", "gamma")


@dataclasses.dataclass(frozen=True)
class MultiPowerLaw(Law):
    """A power of the sum of rates, less what each fall of the rate has brought.

        L(t) = L0 + A S(t)^-alpha - B sum over k <= t of (rate(k-1) - rate(k)) G_k(t)
        G_k(t) = 1 - (1 + C rate(k)^-gamma S_k(t))^-beta

    where S(t) sums the rates of the steps 0 ... t and S_k(t) those of k ... t. It is
    for schedules that do not rise after their warmup, at one peak.

    Attributes:
      L0: the loss after any number of steps, in nats.
      A: of the power.
      alpha: its exponent.
      B: nats for each unit by which the rate falls, in the end.
      C: how fast that comes.
      beta: the exponent with which it comes.
      gamma: how much sooner it comes where the rate is large.
      warmup: `paper`, the falls are those after the warmup; or `authors`, its rises
        count as negative ones, as in the authors' code, whose published parameters
        mean that. It adds about B times the peak to every loss, and L0 is lower.

    Example:
      >>> law = MultiPowerLaw(
      ...     *(3.04, 0.525, 0.508, 364.0, 2.07, 0.583, 0.641), warmup="authors"
      ... )
      >>> law.predict(3e-4, at=[8000, 24000]).round(4)
      array([3.3765, 3.2326])

    Source: Luo et al., 2025, arXiv 2503.12811, and their code.
    """

    PARAMETERS: ClassVar[tuple[str, ...]] = _ORDER
    CONVENTIONS: ClassVar[tuple[str, ...]] = ("warmup",)
    SHRUNK: ClassVar[tuple[str, ...]] = ("B", "C", "beta", "gamma")
    # Chosen on the authors' curves of 25M and 100M: from 15 to 45 the unseen ones are
    # predicted better than by the published parameters and by the converged ones, in
    # the worst error and at the end, at both sizes; the sweep is printed by
    # experiments/multi_power_law/ridge.py.
    RIDGE: ClassVar[float] = 30.0

    L0: float
    A: float
    alpha: float
    B: float
    C: float
    beta: float
    gamma: float
    warmup: str = "paper"

    @classmethod
    def check(cls, warmup: str = "paper") -> None:
        """Refuses a warmup convention that is not known."""
        if warmup not in WARMUPS:
            raise ValueError(f"warmup={warmup!r} must be one of {', '.join(WARMUPS)}")

    @classmethod
    def features(cls, rates_T, at_P, *, group=1, warmup="paper") -> Reductions:
        """Returns what the formula needs of a schedule."""
        rates_T = rates_T[: at_P[-1] + 1]
        end = warmup_end(rates_T)
        rises_T = np.diff(rates_T[end:]) > 1e-9 * peak(rates_T)
        for i in np.flatnonzero(rises_T)[:1]:
            raise ValueError(
                f"rates[{end + i + 1}]={rates_T[end + i + 1]} must not be above "
                f"rates[{end + i}]={rates_T[end + i]}: the multi-power law is for "
                "schedules that do not rise after their warmup"
            )
        return reductions(rates_T, at_P, warmup=warmup == "authors", group=group)

    @staticmethod
    def formula(xp, parameters: Mapping, features: Reductions):
        """Returns the losses."""
        p, f = parameters, features
        # A fall after t has no rates to sum: its gain is 0.
        after_PxK = xp.maximum(f.sums_P[:, None] - f.before_K[None, :], 0)
        speed_K = p["C"] * xp.exp(-p["gamma"] * f.log_rates_K)
        left_PxK = xp.exp(-p["beta"] * xp.log1p(speed_K[None, :] * after_PxK))
        gained_P = xp.sum((1 - left_PxK) * f.drops_K[None, :], axis=1)
        return p["L0"] + p["A"] * f.sums_P ** -p["alpha"] - p["B"] * gained_P

    def _predict(self, rates_T: np.ndarray, at_P: np.ndarray) -> np.ndarray:
        features = self.features(rates_T, at_P, warmup=self.warmup)
        return in_blocks(self.formula, self.parameters, features)

    @classmethod
    def starts(cls, curves: Sequence[Curve], *, warmup="paper"):
        """Returns the simple law's optimum, with several shapes of the gain."""
        start = optimum(curves)
        if warmup == "authors":
            height = max(peak(curve.rates) for curve in curves)
            start["L0"] -= min(start["B"] * height, start["L0"] / 2)
        shapes = (
            dict(C=1.0, beta=0.5, gamma=0.5),
            dict(C=2.0, beta=0.6, gamma=0.65),
            dict(C=0.3, beta=0.15, gamma=0.9),
        )
        return [start | shape for shape in shapes]

    @classmethod
    def published(cls, curves: Sequence[Curve], *, warmup="paper"):
        """Returns what the authors' code comes to.

        The simple law's best of 135 starts, then C = 1, beta = gamma = 0.5, then at
        most 200 steps of AdamW on the parameters themselves, weight decay included,
        stopped after 20 without a lower sum of the Huber loss. Two quirks are kept:
        B hardly moves, as a step is at most 0.05; and the parameters that are kept are
        those after the update that follows the lowest sum.
        """
        parameters = SimpleLaw.published(curves) | dict(C=1.0, beta=0.5, gamma=0.5)
        rates_7 = np.array([5e-2, 5e-2, 5e-3, 5e-2, 5e-2, 5e-3, 5e-3])
        direction = optax.chain(
            optax.scale_by_adam(), optax.add_decayed_weights(weight_decay=0.01)
        )
        features = tuple(
            cls.features(c.rates, c.steps, group=fitting.GROUP, warmup=warmup)
            for c in curves
        )
        with jax.enable_x64(True):
            data = jax.device_put((features, tuple(np.log(c.losses) for c in curves)))

            @jax.jit
            def advance(now_7, state):
                value, slope_7 = _sum_and_slope(now_7, *data)
                step_7, state = direction.update(slope_7, state, now_7)
                moved_7 = jnp.maximum(now_7 - rates_7 * step_7, 0)
                return moved_7, state, value, jnp.linalg.norm(slope_7)

            now_7 = jnp.array([parameters[name] for name in _ORDER])
            state, kept_7 = direction.init(now_7), now_7
            least, waited = np.inf, 0
            for _ in range(200):
                now_7, state, value, steepness = advance(now_7, state)
                waited += 1
                if value < least:
                    least, kept_7, waited = float(value), now_7, 0
                if waited >= 20 or steepness < 1e-5:
                    break
            return dict(zip(_ORDER, np.asarray(kept_7).tolist(), strict=True))


@functools.partial(jax.value_and_grad, argnums=0)
def _sum_and_slope(parameters_7, features, log_losses):
    """The sum of the Huber loss over all points, of the parameters themselves."""
    parameters = {name: parameters_7[i] for i, name in enumerate(_ORDER)}
    total = 0.0
    for one, log_losses_P in zip(features, log_losses, strict=True):
        losses_P = MultiPowerLaw.formula(jnp, parameters, one)
        size_P = jnp.abs(jnp.log(losses_P) - log_losses_P)
        inside_P = jnp.minimum(size_P, fitting.DELTA)
        total += jnp.sum(inside_P * (size_P - inside_P / 2))
    return total
