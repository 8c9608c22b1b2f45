"""Loss curves predicted from measured ones: fit a law, predict any other schedule.

Everything is computed in float64 and returned as NumPy arrays.

* `Curve`: a measured curve and the rate of each of its steps.
* `MultiPowerLaw`, `SimpleLaw`: laws of one interface, `Law`.
* `profile`, `UnidentifiedWarning`: how surely curves determine a law's parameters.
"""

from anytime_jax.laws.curves import Curve
from anytime_jax.laws.fitting import Fitted, Profile, UnidentifiedWarning, profile
from anytime_jax.laws.law import Law, average_errors, errors
from anytime_jax.laws.multi_power import MultiPowerLaw
from anytime_jax.laws.simple import SimpleLaw

__all__ = [
    "Curve",
    "Fitted",
    "Law",
    "MultiPowerLaw",
    "Profile",
    "SimpleLaw",
    "UnidentifiedWarning",
    "average_errors",
    "errors",
    "profile",
]
