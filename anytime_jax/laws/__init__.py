"""Loss curves predicted from measured ones: fit a law, predict any other schedule.

Everything is computed in float64 and returned as NumPy arrays.

* `Curve`: a measured curve and the rate of each of its steps.
* `MultiPowerLaw`, `AnnealingLaw`, `ForwardMomentumLaw`, `FunctionalScalingLaw` and the
  baseline `SimpleLaw`: laws of one interface, `Law`.
* `optimal_schedule`, `best_peak`, `final_losses`: what a law says is best.
* `profile`, `UnidentifiedWarning`: how surely curves determine a law's parameters.
"""

from anytime_jax.laws.annealing import AnnealingLaw
from anytime_jax.laws.curves import Curve
from anytime_jax.laws.fitting import Fitted, Profile, UnidentifiedWarning, profile
from anytime_jax.laws.forward_momentum import ForwardMomentumLaw
from anytime_jax.laws.functional_scaling import FunctionalScalingLaw
from anytime_jax.laws.law import Law, average_errors, errors
from anytime_jax.laws.multi_power import MultiPowerLaw
from anytime_jax.laws.optimal import (
    OptimalSchedule,
    best_peak,
    final_losses,
    optimal_schedule,
)
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
    "best_peak",
    "errors",
    "final_losses",
    "optimal_schedule",
    "profile",
]
