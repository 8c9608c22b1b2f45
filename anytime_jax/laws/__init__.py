"""What loss a recipe, a size or an amount of data reaches, from fitted curves.

Everything is computed in float64 and returned as NumPy arrays.

* `Curve`: a measured curve and the rate of each of its steps.
* `MultiPowerLaw`, `AnnealingLaw`, `ForwardMomentumLaw`, `FunctionalScalingLaw` and the
  baseline `SimpleLaw`: from the rates of a run to its loss curve, one interface, `Law`.
* `predict_average`, `equivalent_rates`: the loss of averaged weights under any `Law`.
* `optimal_schedule`, `best_peak`, `final_losses`, `usual_schedules`: what a law says is
  best.
* `profile`, `UnidentifiedWarning`: how surely curves determine a law's parameters;
  `hold_out`: how far a law is off on a curve that it was not fitted to.
* `chinchilla`, `isoflop`, `average_parameters`: laws of sizes and amounts of data.
* `collapse`, `running`, `timescale`: curves of all sizes on one.
"""

from anytime_jax.laws import (
    average_parameters,
    chinchilla,
    collapse,
    isoflop,
    running,
    timescale,
)
from anytime_jax.laws.annealing import AnnealingLaw
from anytime_jax.laws.averaged import equivalent_rates, predict_average
from anytime_jax.laws.curves import Curve
from anytime_jax.laws.fitting import Fitted, UnidentifiedWarning
from anytime_jax.laws.forward_momentum import ForwardMomentumLaw
from anytime_jax.laws.functional_scaling import FunctionalScalingLaw
from anytime_jax.laws.law import Law, average_errors, errors
from anytime_jax.laws.multi_power import MultiPowerLaw
from anytime_jax.laws.optimal import (
    OptimalSchedule,
    final_losses,
    optimal_schedule,
    usual_schedules,
)
from anytime_jax.laws.peaks import best_peak
from anytime_jax.laws.refits import Profile, hold_out, profile
from anytime_jax.laws.simple import SimpleLaw

__all__ = [
    "AnnealingLaw",
    "Curve",
    "Fitted",
    "ForwardMomentumLaw",
    "FunctionalScalingLaw",
    "Law",
    "MultiPowerLaw",
    "OptimalSchedule",
    "Profile",
    "SimpleLaw",
    "UnidentifiedWarning",
    "average_errors",
    "average_parameters",
    "best_peak",
    "chinchilla",
    "collapse",
    "equivalent_rates",
    "errors",
    "final_losses",
    "hold_out",
    "isoflop",
    "optimal_schedule",
    "predict_average",
    "profile",
    "running",
    "timescale",
    "usual_schedules",
]
