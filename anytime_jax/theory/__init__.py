"""What loss a recipe reaches, computed exactly: no data, no accelerator, seconds.

The objects that a training run is made of, a schedule and averages, go in here too.
Everything is computed in float64 and returned as NumPy arrays: these are programs to
call, not functions to trace inside `jax.jit`.

* `LinearRegression`, `sgd_risk`, `simulate`: the exact risk of SGD and of averages of
  its iterates, and the same by running it; `envelope`, `rank`, `tune`: of a family.
* `convex`, `peaks`: the last iterate's bound for any schedule, and where it puts the
  best peak of another schedule or a longer horizon.
* `adamw_memory`: what AdamW's weights remember of each update.
* `equivalent_schedule`: the decay that an average is, in one dimension.
"""

from anytime_jax.theory import adamw_memory, convex, peaks
from anytime_jax.theory.equivalence import equivalent_schedule
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
    "adamw_memory",
    "convex",
    "envelope",
    "equivalent_schedule",
    "family_risk",
    "optimal_exponent",
    "peaks",
    "predicted_rate",
    "rank",
    "rate_grid",
    "sgd_risk",
    "simulate",
    "tune",
]
