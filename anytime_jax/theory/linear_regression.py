"""Gaussian linear regression whose spectrum and target are power laws, or given."""

import dataclasses
import functools
import math

import numpy as np
import scipy.optimize
from jax.typing import ArrayLike

from anytime_jax.theory import spectrum, values
from anytime_jax.theory.spectrum import Spectrum

_ORDERS = range(4, 49, 2)
_EXPANDED = 10**6
# The smallest eigenvalue may have so many zeros that its square is still a float.
_DIGITS = 150


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LinearRegression:
    """Streaming least squares on Gaussian inputs, in the eigenbasis of the inputs.

    `x ~ N(0, diag(lambda))`, `y = <x, target> + epsilon`, `epsilon ~ N(0, noise)`;
    training starts at 0. The spectrum is a power law, `lambda_i = i^-capacity` and
    `lambda_i target_i^2 = i^-source` for i = 1 ... dimension, or two arrays.

    A power law is represented by a few hundred weighted nodes, whatever its dimension;
    their number grows until `quadrature_error` is at most `rtol`.

    Args:
      capacity: a, > 0; larger is a spectrum that falls faster. The smallest eigenvalue
        must be at least 1e-150, which allows a = 7.5 in any dimension.
      source: b, > 0; larger is an easier target, with more of it in the leading
        directions.
      dimension: d, an integer >= 1, or `math.inf` if a > 1 and b > 1.
      noise: sigma^2 of the labels, >= 0.
      normalize: whether the target is scaled to norm 1.
      rtol: of the quadrature, in [1e-12, 1).
      eigenvalues: instead of the first three, the spectrum itself, [d], >= 0.
      squared_target: with them, the squared coordinates of the target, [d], >= 0.

    Raises:
      ValueError: an argument is missing or out of its range, or not both arrays are
        given; or the nodes do not reach `rtol`.

    Example:
      >>> problem = LinearRegression(capacity=2, source=2, dimension=10**12, noise=1)
      >>> round(problem.trace, 9) == round(math.pi**2 / 6, 9)
      True
      >>> len(problem.spectrum.eigenvalues) < 400
      True

    Source: the setting of Meterez et al., 2026, arXiv 2602.03702, section 3.
    """

    capacity: float | None = None
    source: float | None = None
    dimension: float | None = None
    noise: float
    normalize: bool = False
    rtol: float = 1e-8
    eigenvalues: ArrayLike | None = None
    squared_target: ArrayLike | None = None

    def __post_init__(self):
        require = values.require_number
        require("noise", self.noise, "finite and >= 0", lambda x: 0 <= x < math.inf)
        require("rtol", self.rtol, "in [1e-12, 1)", lambda x: 1e-12 <= x < 1)
        if not isinstance(self.normalize, bool):
            raise ValueError(f"normalize={self.normalize!r} must be True or False")
        law = (self.capacity, self.source, self.dimension)
        arrays = (self.eigenvalues, self.squared_target)
        if all(x is None for x in arrays) and all(x is not None for x in law):
            self._check_law()
        elif all(x is not None for x in arrays) and all(x is None for x in law):
            self._check_arrays()
        else:
            names = "capacity", "source", "dimension", "eigenvalues", "squared_target"
            given = [
                n for n, x in zip(names, law + arrays, strict=True) if x is not None
            ]
            raise ValueError(
                f"{', '.join(given) or 'nothing'} given: a problem is capacity, source "
                "and dimension, or eigenvalues and squared_target"
            )

    def _check_law(self) -> None:
        for name in ("capacity", "source"):
            value = getattr(self, name)
            values.require_positive(name, value)
            if self.dimension == math.inf and value <= 1:
                raise ValueError(
                    f"{name}={value!r} must be > 1 in infinite dimension: the sum of "
                    f"i^-{name} diverges"
                )
        values.require_number(
            "dimension",
            self.dimension,
            "an integer >= 1, or math.inf",
            lambda x: x == math.inf or (x >= 1 and x == int(x)),
        )
        digits = math.log10(min(self.dimension, spectrum.FROZEN))
        if self.capacity * digits > _DIGITS:
            raise ValueError(
                f"capacity={self.capacity!r} must be <= {_DIGITS / digits:g} in "
                f"dimension={self.dimension:g}, or eigenvalues are below 1e-{_DIGITS}"
            )
        norm = self.source - self.capacity
        if self.normalize and self.dimension == math.inf and norm <= 1:
            raise ValueError(
                f"normalize=True with source - capacity = {norm:g}: in infinite "
                "dimension the target has a norm only if that is > 1"
            )

    def _check_arrays(self) -> None:
        shapes = {}
        for name in ("eigenvalues", "squared_target"):
            array = values.array(name, getattr(self, name), "an array of numbers")
            shapes[name] = array.shape
            if array.ndim != 1 or not array.size:
                raise ValueError(f"{name} of shape {array.shape} must be [d], d >= 1")
            for i in np.flatnonzero(~(np.isfinite(array) & (array >= 0)))[:1]:
                raise ValueError(f"{name}[{i}]={array[i]} must be finite and >= 0")
            object.__setattr__(self, name, array)
        if len(set(shapes.values())) > 1:
            raise ValueError(f"{shapes} must be one and the same shape")
        for name in ("eigenvalues", "squared_target")[: 1 + self.normalize]:
            if not getattr(self, name).any():
                raise ValueError(f"{name} must not be all zero")

    @functools.cached_property
    def _law(self) -> tuple[Spectrum, dict[str, float]]:
        """The nodes of a power law, target not normalized, and their errors."""
        law = self.capacity, self.source, self.dimension
        for order in _ORDERS:
            nodes = spectrum.power_law(*law, order)
            errors = spectrum.errors(nodes, *law)
            if max(errors.values()) <= self.rtol:
                return nodes, errors
        name = max(errors, key=errors.get)
        raise ValueError(
            f"rtol={self.rtol:g} is not reached with {order} nodes for each factor of "
            f"e: {name} is off by {errors[name]:.1e}"
        )

    @functools.cached_property
    def spectrum(self) -> Spectrum:
        """The nodes that stand for all directions."""
        if self.eigenvalues is not None:
            ones = np.ones(len(self.eigenvalues))
            made = Spectrum(self.eigenvalues, self.squared_target, ones)
            norm = self.squared_target.sum()
        else:
            made = self._law[0]
            norm = spectrum.power_sum(self.source - self.capacity, self.dimension)
        if not self.normalize:
            return made
        return made._replace(squared_target=made.squared_target / norm)

    def expanded(self) -> "LinearRegression":
        """Returns the same problem with every direction by itself: brute force.

        Raises:
          ValueError: the dimension is above a million.
        """
        if self.eigenvalues is not None:
            return self
        if self.dimension > _EXPANDED:
            raise ValueError(
                f"dimension={self.dimension:g} must be <= {_EXPANDED} for every "
                "direction to be held by itself"
            )
        i = np.arange(1.0, self.dimension + 1)
        return LinearRegression(
            eigenvalues=i**-self.capacity,
            squared_target=i ** (self.capacity - self.source),
            noise=self.noise,
            normalize=self.normalize,
        )

    @property
    def quadrature_error(self) -> float:
        """The largest relative error of the nodes' sums, see `spectrum.errors`."""
        return 0.0 if self.eigenvalues is not None else max(self._law[1].values())

    @property
    def trace(self) -> float:
        """`sum_i lambda_i`."""
        return float(self.spectrum.multiplicity @ self.spectrum.eigenvalues)

    @property
    def initial_risk(self) -> float:
        """`sum_i lambda_i target_i^2 / 2`, the excess risk before the first update."""
        eigenvalues, squared_target, multiplicity = self.spectrum
        return float(multiplicity @ (eigenvalues * squared_target)) / 2

    def critical_rate(self, batch_size: float = 1) -> float:
        """Returns the largest constant rate at which the risk stays bounded.

        The smaller root of S(rate) = 1, `S = sum_i (rate lambda_i / B) / (2 - (1 + 1/B)
        rate lambda_i)`. Below it the risk tends to `noise S / (1 - S) / 2`.

        Args:
          batch_size: B >= 1; infinity is gradient descent.

        Returns:
          The rate.

        Example:
          >>> problem = LinearRegression(eigenvalues=[1], squared_target=[1], noise=0)
          >>> problem.critical_rate(), problem.critical_rate(math.inf)
          (0.6666666666666666, 2.0)
        """
        values.require_number("batch_size", batch_size, ">= 1", lambda x: x >= 1)
        eigenvalues, _, multiplicity = self.spectrum
        scaled, inverse = eigenvalues / eigenvalues.max(), 1 / batch_size
        limit = 2 / (1 + inverse)

        def margin(rate: float) -> float:
            left = 2 - (1 + inverse) * rate * scaled
            if left.min() <= 0:
                return 1.0
            return float(multiplicity @ (rate * inverse * scaled / left)) - 1

        if batch_size < math.inf:
            limit = scipy.optimize.brentq(margin, 0, limit, xtol=1e-15, rtol=1e-15)
        return float(limit / eigenvalues.max())
