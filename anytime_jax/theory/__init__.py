"""What loss a recipe reaches, computed exactly: no data, no accelerator, seconds.

The objects that a training run is made of, a schedule and averages, go in here too.
Everything is computed in float64 and returned as NumPy arrays.
"""

from anytime_jax.theory.linear_regression import LinearRegression
from anytime_jax.theory.risk import Risk, sgd_risk
from anytime_jax.theory.simulation import Estimate, simulate
from anytime_jax.theory.spectrum import Spectrum
from anytime_jax.theory.tuning import (
    Envelope,
    Setting,
    envelope,
    family_risk,
    optimal_exponent,
    predicted_rate,
    rank,
    rate_grid,
    tune,
)

__all__ = [
    "Envelope",
    "Estimate",
    "LinearRegression",
    "Risk",
    "Setting",
    "Spectrum",
    "envelope",
    "family_risk",
    "optimal_exponent",
    "predicted_rate",
    "rank",
    "rate_grid",
    "sgd_risk",
    "simulate",
    "tune",
]
