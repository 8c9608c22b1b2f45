"""Sparse pre-training: the loss follows the average of the active parameters.

A run that prunes its weights while it trains has, at each step, some active parameters.
Its final loss is that of a dense run whose size is their average over the run.
"""

import dataclasses
from typing import Self

import numpy as np

from anytime_jax.averaging import weights
from anytime_jax.laws import points
from anytime_jax.laws.chinchilla import ChinchillaLaw, Optimum


@dataclasses.dataclass(frozen=True)
class AverageParameterLaw:
    """`L = E + A mean(N)^-alpha + B D^-beta`, mean(N) over the steps of the run.

    Reduces to `ChinchillaLaw` for dense runs. The authors' coefficients are not known;
    fit it, or give the law of dense runs.

    Args:
      dense: the law of dense runs.

    Raises:
      ValueError: `dense` is not a `ChinchillaLaw`.

    Example:
      >>> dense = ChinchillaLaw(A=400.0, B=2000.0, E=1.8, alpha=0.35, beta=0.37)
      >>> law = AverageParameterLaw(dense)
      >>> pruning = GeometricPruning(start=4_100, end=16_600, sparsity=0.6)
      >>> size = pruning.average_parameters(70e6, steps=26_800)
      >>> round(size / 70e6, 4), round(float(law.predict(size, 2e9)), 4)
      (0.6105, 3.3775)

    Source: Jin et al., "The Journey Matters: Average Parameter Count over Pre-training
    Unifies Sparse and Dense Scaling Laws", 2025, arXiv 2501.12486.
    """

    dense: ChinchillaLaw

    def __post_init__(self):
        if not isinstance(self.dense, ChinchillaLaw):
            raise ValueError(f"dense={self.dense!r} must be a ChinchillaLaw")

    @classmethod
    def fit(
        cls,
        average_parameters: points.Numbers,
        tokens: points.Numbers,
        losses: points.Numbers,
        *,
        delta: float = 1e-3,
        starts: np.ndarray | None = None,
    ) -> Self:
        """Fits the law to final losses of dense and sparse runs.

        Args:
          average_parameters: mean of the active parameters of each run, [K].
          tokens: D of each, [K].
          losses: final loss of each in nats, [K].
          delta: of the Huber loss; by default 1e-3.
          starts: as of `ChinchillaLaw.fit`.

        Returns:
          The law.

        Raises:
          ValueError: as in `ChinchillaLaw.fit`.
        """
        fitted = ChinchillaLaw.fit(
            average_parameters, tokens, losses, delta=delta, starts=starts
        )
        return cls(fitted)

    def predict(
        self, average_parameters: points.Numbers, tokens: points.Numbers
    ) -> np.ndarray:
        """Returns the final loss of runs, sparse or dense.

        Args:
          average_parameters: mean of the active parameters, > 0, any shape.
          tokens: D > 0, of a shape that broadcasts with it.

        Returns:
          float64, in nats.

        Raises:
          ValueError: a number is not finite and above 0.
        """
        return self.dense.predict(average_parameters, tokens)

    def optimum(self, flops: points.Numbers, *, flops_per: float = 6.0) -> Optimum:
        """Returns the best average size and tokens for a compute budget.

        As `ChinchillaLaw.optimum`: the compute of a run is that of its average size.

        Args:
          flops: C > 0, any shape.
          flops_per: FLOPs for each active parameter and token; by default 6.

        Returns:
          `Optimum`, of which `parameters` are averages.

        Raises:
          ValueError: an argument is out of range.
        """
        return self.dense.optimum(flops, flops_per=flops_per)


@dataclasses.dataclass(frozen=True)
class GeometricPruning:
    """A schedule of pruning that keeps the same share at every event.

    Events are at `start, start + every, ...` up to `end`, n of them; after event i,
    counted from 0, the share of the prunable weights that is kept is

        (1 - sparsity)^((i + 1) / n)

    so that the last one leaves `1 - sparsity`. An event acts before its step: step t,
    counted from 0, trains with what the events at or before t leave.

    Args:
      start: step of the first event, >= 0.
      end: step of the last one; `end - start` is a multiple of `every`.
      sparsity: share of the weights that is pruned in the end, in [0, 1).
      every: steps between events; by default 100.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> pruning = GeometricPruning(start=100, end=300, sparsity=0.875)
      >>> pruning.density([0, 99, 100, 250, 300, 10_000])
      array([1.   , 1.   , 0.5  , 0.25 , 0.125, 0.125])

    Source: as of `AverageParameterLaw`; the authors' code.
    """

    start: int
    end: int
    sparsity: float
    every: int = 100

    def __post_init__(self):
        weights.require_count("start", self.start, least=0)
        weights.require_count("every", self.every, least=1)
        weights.require_count("end", self.end, least=self.start)
        points.number("sparsity", self.sparsity, "in [0, 1)", lambda x: 0 <= x < 1)
        if (self.end - self.start) % self.every:
            raise ValueError(
                f"end={self.end} must be start={self.start} plus a multiple of "
                f"every={self.every}"
            )

    @property
    def events(self) -> int:
        """How often weights are pruned: n."""
        return (self.end - self.start) // self.every + 1

    def density(self, step: points.Numbers) -> np.ndarray:
        """Returns the share of the prunable weights that a step trains with.

        Args:
          step: counted from 0, any shape.

        Returns:
          float64, of the same shape.

        Raises:
          ValueError: a step is not finite.
        """
        step = points.finite("step", step, ndim=None)
        done = np.clip((step - self.start) // self.every + 1, 0, self.events)
        return (1 - self.sparsity) ** (done / self.events)

    def mean_density(self, steps: int) -> float:
        """Returns the mean density over the first `steps` steps.

        Args:
          steps: >= 1; beyond `end` is what stays.

        Returns:
          The mean of `density(0) ... density(steps - 1)`.

        Raises:
          ValueError: `steps` is not an integer >= 1.

        Example:
          >>> GeometricPruning(start=2, end=2, sparsity=0.5).mean_density(4)
          0.75
        """
        return self._spent(steps) / steps

    def average_parameters(
        self, prunable: float, *, steps: int, others: float = 0.0
    ) -> float:
        """Returns the mean of the active parameters over a run.

        Args:
          prunable: parameters that are pruned, when none is, > 0.
          steps: of the run, >= 1.
          others: parameters that never are (embeddings, norms), >= 0; by default 0.

        Returns:
          `others + prunable mean_density(steps)`.

        Raises:
          ValueError: an argument is out of range.

        Example:
          >>> pruning = GeometricPruning(start=2, end=2, sparsity=0.5)
          >>> pruning.average_parameters(100, steps=4, others=10)
          85.0
        """
        points.above_zero(prunable=prunable)
        points.number("others", others, "finite and >= 0", lambda x: x >= 0)
        return others + prunable * self.mean_density(steps)

    def compute_share(self, step: int, steps: int) -> float:
        """Returns the share of a run's compute that is spent before a step.

        Of the compute of prunable weights, which is in proportion to their density.

        Args:
          step: from 0 to `steps`.
          steps: of the run, >= 1.

        Returns:
          The share, in [0, 1].

        Raises:
          ValueError: an argument is out of range.

        Example:
          >>> GeometricPruning(start=2, end=2, sparsity=0.5).compute_share(2, 4)
          0.6666666666666666
        """
        weights.require_count("step", step, least=0)
        if step > steps:
            raise ValueError(f"step={step} must be at most steps={steps}")
        return (self._spent(step) if step else 0.0) / self._spent(steps)

    def _spent(self, steps: int) -> float:
        """Sum of the densities of the first steps, in one term for each event."""
        weights.require_count("steps", steps, least=1)
        times = self.start + self.every * np.arange(self.events)
        edges = np.clip([0, *times, max(steps, times[-1])], 0, steps)
        densities = self.density([-1, *times])
        return float(np.diff(edges) @ densities)
