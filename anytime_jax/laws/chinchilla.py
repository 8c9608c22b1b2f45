"""The loss of a size and an amount of data, and the best of both for a compute budget.

`L(N, D) = A N^-alpha + B D^-beta + E`, fitted as in approach 3 of Hoffmann et al. with
the corrections of Epoch's replication: the sum of Huber losses and not their mean, from
a grid of starts, each descended until it stands still.
"""

import dataclasses
import itertools
from typing import NamedTuple, Self

import numpy as np

from anytime_jax.averaging import weights
from anytime_jax.laws import points, three_terms

NAMES = ("A", "B", "E", "alpha", "beta")
# Hoffmann et al.'s grid: a, b, e, alpha, beta. 6 x 6 x 5 x 5 x 5 = 4500 starts.
GRID = (
    np.arange(0, 26, 5.0),
    np.arange(0, 26, 5.0),
    np.arange(-1, 1.1, 0.5),
    np.arange(0, 2.1, 0.5),
    np.arange(0, 2.1, 0.5),
)


class Optimum(NamedTuple):
    """The best size and amount of data for a compute budget.

    Attributes:
      parameters: N, like the budgets.
      tokens: D.
      loss: what the law predicts for them.
    """

    parameters: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray

    @property
    def tokens_per_parameter(self) -> np.ndarray:
        """D / N."""
        return self.tokens / self.parameters


class Search(NamedTuple):
    """What a search from many starts found.

    Attributes:
      law: the one of least objective.
      objective: its sum of Huber losses.
      starts: how many starts were descended.
      reached: how many of them ended within a millionth of `objective`; the others
        ended higher, most of them where a term or an exponent has vanished.
    """

    law: "ChinchillaLaw"
    objective: float
    starts: int
    reached: int


class Bootstrap(NamedTuple):
    """How far a fit moves when its points are drawn again.

    Attributes:
      samples: by name, the parameter in each of R resamples, float64 [R]. `exponent` is
        beta / (alpha + beta), that of the best size.
      interval: by name, the percentiles that hold the middle `level` of the samples.
      standard_error: by name, the standard deviation of the samples.
    """

    samples: dict[str, np.ndarray]
    interval: dict[str, tuple[float, float]]
    standard_error: dict[str, float]


@dataclasses.dataclass(frozen=True)
class ChinchillaLaw:
    """`L(N, D) = A N^-alpha + B D^-beta + E`, in nats; N parameters, D tokens.

    Args:
      A: size of the term of the parameters, > 0.
      B: size of the term of the tokens, > 0.
      E: irreducible loss, >= 0.
      alpha: exponent of the parameters, > 0.
      beta: exponent of the tokens, > 0.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> hoffmann = ChinchillaLaw(A=406.4, B=410.7, E=1.69, alpha=0.34, beta=0.28)
      >>> round(float(hoffmann.predict(70e9, 1.4e12)), 4)
      1.9366

    Source: Hoffmann et al., "Training Compute-Optimal Large Language Models", 2022,
    arXiv 2203.15556, section 3.3; Besiroglu et al., "Chinchilla Scaling: A Replication
    Attempt", 2024, arXiv 2404.10102.
    """

    A: float
    B: float
    E: float
    alpha: float
    beta: float

    def __post_init__(self):
        for name in ("A", "B", "alpha", "beta"):
            points.above_zero(**{name: getattr(self, name)})
        points.number("E", self.E, "finite and >= 0", lambda x: x >= 0)

    @classmethod
    def fit(
        cls,
        parameters: points.Numbers,
        tokens: points.Numbers,
        losses: points.Numbers,
        *,
        delta: float = 1e-3,
        starts: np.ndarray | None = None,
    ) -> Self:
        """Fits the law to final losses; the law of `search`, which see.

        Args:
          parameters: N of each run, [K].
          tokens: D of each run, [K].
          losses: final loss of each run in nats, [K].
          delta: of the Huber loss; by default 1e-3.
          starts: `log A, log B, log E, alpha, beta` of each start, [S, 5]; by default
            the 4500 of Hoffmann et al.

        Returns:
          The law.

        Raises:
          ValueError: as in `search`.

        Example:
          >>> law = ChinchillaLaw(A=400.0, B=2000.0, E=1.8, alpha=0.35, beta=0.37)
          >>> sizes = np.repeat([1e8, 3e8, 1e9], 3)
          >>> tokens = np.tile([2e9, 6e9, 2e10], 3)
          >>> losses = law.predict(sizes, tokens)
          >>> start = [[5.0, 5.0, 0.5, 0.5, 0.5]]
          >>> fitted = ChinchillaLaw.fit(sizes, tokens, losses, starts=start)
          >>> round(fitted.E, 3), round(fitted.alpha, 3)
          (1.8, 0.35)
        """
        return search(parameters, tokens, losses, delta=delta, starts=starts).law

    def predict(self, parameters: points.Numbers, tokens: points.Numbers) -> np.ndarray:
        """Returns the loss of sizes and amounts of data.

        Args:
          parameters: N > 0, any shape.
          tokens: D > 0, of a shape that broadcasts with it.

        Returns:
          float64, in nats.

        Raises:
          ValueError: a number is not finite and above 0.

        Example:
          >>> law = ChinchillaLaw(A=2.0, B=3.0, E=1.0, alpha=0.5, beta=1.0)
          >>> law.predict(4.0, [1, 3])
          array([5., 3.])
        """
        parameters = points.positive("parameters", parameters, ndim=None)
        tokens = points.positive("tokens", tokens, ndim=None)
        return self.A * parameters**-self.alpha + self.B * tokens**-self.beta + self.E

    def objective(
        self,
        parameters: points.Numbers,
        tokens: points.Numbers,
        losses: points.Numbers,
        *,
        delta: float = 1e-3,
    ) -> float:
        """Returns what `fit` minimises: the sum of Huber losses of log residuals.

        Args:
          parameters, tokens, losses, delta: as of `fit`.

        Returns:
          The sum.

        Raises:
          ValueError: an argument is out of range.

        Example:
          >>> law = ChinchillaLaw(A=2.0, B=3.0, E=1.0, alpha=0.5, beta=1.0)
          >>> law.objective([4.0], [3.0], [3.0])
          0.0
        """
        data = _points(parameters, tokens, losses, delta, least=1)
        residuals, _ = data.residuals(data.centered(self._logs()[None]))
        return float(data.huber(residuals).sum())

    def optimum(self, flops: points.Numbers, *, flops_per: float = 6.0) -> Optimum:
        """Returns the size and the tokens of least loss for a compute budget.

        With `k N D = C`, where k is `flops_per`, and
        `G = (alpha A / (beta B))^(1 / (alpha + beta))`,

            N = G (C / k)^(beta / (alpha + beta))
            D = (C / k)^(alpha / (alpha + beta)) / G

        Args:
          flops: C > 0, any shape.
          flops_per: FLOPs of training for each parameter and token; by default 6.

        Returns:
          `Optimum`, with arrays of the shape of `flops`.

        Raises:
          ValueError: an argument is out of range.

        Example:
          >>> law = ChinchillaLaw(A=2.0, B=2.0, E=1.0, alpha=0.5, beta=0.5)
          >>> law.optimum(600.0)
          Optimum(parameters=array(10.), tokens=array(10.), loss=array(2.26491106))
        """
        flops = points.positive("flops", flops, ndim=None)
        points.above_zero(flops_per=flops_per)
        both = self.alpha + self.beta
        # In logarithms: a ratio of large powers may leave float64.
        balance = np.log(self.alpha * self.A / (self.beta * self.B)) / both
        product = np.log(flops / flops_per)
        sizes = np.asarray(np.exp(balance + product * self.exponent))
        tokens = np.asarray(np.exp(product * (1 - self.exponent) - balance))
        return Optimum(sizes, tokens, np.asarray(self.predict(sizes, tokens)))

    @property
    def exponent(self) -> float:
        """That of compute in the best size: beta / (alpha + beta)."""
        return self.beta / (self.alpha + self.beta)

    def standard_errors(
        self,
        parameters: points.Numbers,
        tokens: points.Numbers,
        losses: points.Numbers,
        *,
        delta: float = 1e-3,
    ) -> dict[str, float]:
        """Returns the standard errors of a fit by the sandwich formula.

        Right for many points: on the 240 of Epoch's replication it gives 0.015 for
        alpha and for beta, where `bootstrap` gives 0.015 and 0.020.

        Args:
          parameters, tokens, losses: those that the law was fitted to, [K].
          delta: of the fit's Huber loss; by default 1e-3.

        Returns:
          By name: A, B, E, alpha, beta and `exponent`; infinite if the points do not
          determine all parameters.

        Raises:
          ValueError: an argument is out of range.
        """
        data = _points(parameters, tokens, losses, delta, least=5)
        at = data.centered(self._logs()[None])
        covariance = three_terms.covariance(data, at[0])
        if covariance is None:
            return dict.fromkeys((*NAMES, "exponent"), np.inf)
        shift = np.eye(5)
        shift[:2, 3:] = np.diag(data.center)  # a and b are those of centred points.
        both = self.alpha + self.beta
        exponent = np.array([0, 0, 0, -self.beta, self.alpha]) / both**2
        factors = np.diag([self.A, self.B, self.E, 1, 1]) @ shift
        rows = np.vstack([factors, exponent])
        errors = np.sqrt(np.einsum("ri,ij,rj->r", rows, covariance, rows))
        return dict(zip((*NAMES, "exponent"), errors.tolist(), strict=True))

    def bootstrap(
        self,
        parameters: points.Numbers,
        tokens: points.Numbers,
        losses: points.Numbers,
        *,
        resamples: int = 1000,
        level: float = 0.95,
        seed: int = 0,
        delta: float = 1e-3,
    ) -> Bootstrap:
        """Fits the law again to points drawn from the points, and says how it moves.

        Each fit starts from this law, which is to be that of all points: a resample
        whose best fit is far from it, across a barrier, is counted as the one nearby.

        Args:
          parameters, tokens, losses: those that the law was fitted to, [K].
          resamples: how often K points are drawn, with replacement; by default 1000.
          level: share of the resamples in the intervals; by default 0.95.
          seed: of the draws; by default 0.
          delta: of the Huber loss; by default 1e-3.

        Returns:
          `Bootstrap`.

        Raises:
          ValueError: an argument is out of range.
        """
        weights.require_count("resamples", resamples, least=2)
        points.number("level", level, "between 0 and 1", lambda x: 0 < x < 1)
        data = _points(parameters, tokens, losses, delta, least=5)
        found = three_terms.resampled(data, self._logs(), resamples, seed)
        found[:, :3] = np.exp(found[:, :3])
        samples = dict(zip(NAMES, found.T, strict=True))
        samples["exponent"] = samples["beta"] / (samples["alpha"] + samples["beta"])
        ends = (50 * (1 - level), 50 * (1 + level))
        return Bootstrap(
            samples,
            {k: tuple(np.percentile(v, ends).tolist()) for k, v in samples.items()},
            {name: float(np.std(values, ddof=1)) for name, values in samples.items()},
        )

    def _logs(self) -> np.ndarray:
        # E = 0 has no logarithm, and no loss is that near to E.
        sizes = np.maximum([self.A, self.B, self.E], 1e-300)
        return np.array([*np.log(sizes), self.alpha, self.beta])


def search(
    parameters: points.Numbers,
    tokens: points.Numbers,
    losses: points.Numbers,
    *,
    delta: float = 1e-3,
    starts: np.ndarray | None = None,
) -> Search:
    """Fits the law from many starts and says how many of them agree.

    Minimises, over a = log A, b = log B, e = log E, alpha and beta,

        sum_i Huber(log(exp(a - alpha log N_i) + exp(b - beta log D_i) + exp(e))
                    - log L_i)

    by damped Newton steps from every start, first those of reweighted least squares:
    until a step gains less than 1e-5 of the objective, or 100 steps. The starts within
    half of the lowest objective are taken to the end.

    Args:
      parameters, tokens, losses, delta: as of `ChinchillaLaw.fit`; five runs or more.
      starts: `log A, log B, log E, alpha, beta` of each start, [S, 5]; by default the
        4500 of Hoffmann et al.

    Returns:
      `Search`.

    Raises:
      ValueError: an argument is out of range; there are fewer than three sizes or three
        amounts of data; or the best fit has a vanished term or an exponent not above 0,
        so that the points do not follow the law.

    Example:
      >>> law = ChinchillaLaw(A=400.0, B=2000.0, E=1.8, alpha=0.35, beta=0.37)
      >>> sizes = np.repeat([1e8, 3e8, 1e9], 3)
      >>> tokens = np.tile([2e9, 6e9, 2e10], 3)
      >>> start = [[5.0, 5.0, 0.5, 0.5, 0.5]]
      >>> found = search(sizes, tokens, law.predict(sizes, tokens), starts=start)
      >>> found.starts, found.reached
      (1, 1)

    Source: as of `ChinchillaLaw`.
    """
    data = _points(parameters, tokens, losses, delta, least=5)
    for name, values in dict(parameters=data.x, tokens=data.y).items():
        if len(np.unique(values)) < 3:
            raise ValueError(f"{name} must have three different values or more")
    if starts is None:
        starts = np.array(list(itertools.product(*GRID)))
    starts = points.finite("starts", starts, ndim=2)
    if starts.shape[1] != 5 or not len(starts):
        raise ValueError(f"starts of shape {starts.shape} must be [S, 5]")
    best, lowest, reached = three_terms.lowest(data, starts)
    a, b, e, alpha, beta = best.tolist()
    if min(alpha, beta) <= 0 or max(a, b) > 700 or min(a, b) < -700:
        raise ValueError(
            f"losses do not follow the law: the best fit has log A={a:.4g}, "
            f"log B={b:.4g}, alpha={alpha:.4g}, beta={beta:.4g}"
        )
    A, B, E = np.exp([a, b, e]).tolist()
    law = ChinchillaLaw(A=A, B=B, E=E, alpha=alpha, beta=beta)
    return Search(law, lowest, len(starts), reached)


def _points(parameters, tokens, losses, delta, least) -> three_terms.Points:
    given = dict(parameters=parameters, tokens=tokens, losses=losses)
    given = {name: points.positive(name, values) for name, values in given.items()}
    points.same_length(least, **given)
    points.above_zero(delta=delta)
    return three_terms.Points(*(np.log(values) for values in given.values()), delta)
