"""What a run that has not ended says, held against a normalised curve.

The curve of a finished smaller run, or a surrogate of it, gives the final loss of a run
in progress, tells where it leaves its course, and which of a sweep to keep.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
import scipy.optimize

from anytime_jax.averaging import weights
from anytime_jax.laws import points

# The published part of a run that is aligned, and that a surrogate is fitted to.
ALIGNED = (0.25, 0.5)
FITTED = 0.2


class Stopped(NamedTuple):
    """A sweep stopped early.

    Attributes:
      best: the name of the run to keep.
      finals: predicted final loss of every run, by name.
    """

    best: str
    finals: dict[str, float]


def final_loss(
    progress: points.Numbers,
    losses: points.Numbers,
    reference: tuple[points.Numbers, points.Numbers],
    *,
    window: tuple[float, float] = ALIGNED,
    offset: float = 0.0,
) -> float:
    """Returns the final loss at which a partial run lies on a normalised curve.

    "Early-align": with the reference curve l, and the mean over the window,

        log(L(1) - offset) = mean[log(L(x) - offset) - log l(x)]

    Args:
      progress: share of its horizon at which each loss was recorded, ascending, [K].
      losses: of the run so far, [K].
      reference: `(progress, curve)` of a finished run, normalised with the same offset
        (`collapse.normalize`), or of a surrogate; linear between its points.
      window: the shares between which they are aligned; by default 0.25 and 0.5. A
        shorter run needs another one, and the earlier it is the less it says.
      offset: as of `collapse.normalize`; by default 0.

    Returns:
      The predicted final loss.

    Raises:
      ValueError: an argument is out of range, the window holds no record, or the
        reference does not span it.

    Example:
      >>> reference = ([0.1, 0.2, 0.4, 1.0], [2.0, 1.5, 1.25, 1.0])
      >>> round(final_loss([0.2, 0.3, 0.4], [4.5, 4.125, 3.75], reference), 12)
      3.0

    Source: Bergsma et al., "Scaling with Collapse", 2025, arXiv 2509.25087; that the
    distance is one of logarithms is a choice made here.
    """
    progress, losses = _run(progress, losses, offset)
    low, high = points.positive("window", window)
    if not low < high <= 1:
        raise ValueError(f"window={window} must ascend, within (0, 1]")
    inside = (progress >= low) & (progress <= high)
    if not inside.any():
        raise ValueError(f"window={window} must hold a record of the run")
    expected = _reference(reference, progress[inside])
    shift = np.mean(np.log(losses[inside] - offset) - np.log(expected))
    return float(offset + np.exp(shift))


def residuals(
    progress: points.Numbers,
    losses: points.Numbers,
    reference: tuple[points.Numbers, points.Numbers],
    final: float,
    *,
    offset: float = 0.0,
) -> np.ndarray:
    """Returns by what share a run is above its course.

    `r(x) = (L(x) - offset) / ((final - offset) l(x)) - 1`

    Args:
      progress: share of its horizon at which each loss was recorded, ascending, [K].
      losses: of the run so far, [K].
      reference: as of `final_loss`.
      final: the final loss it is headed for: that of `final_loss`, or of another law.
      offset: as of `collapse.normalize`; by default 0.

    Returns:
      float64 [K].

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> reference = ([0.1, 0.2, 0.4, 1.0], [2.0, 1.5, 1.25, 1.0])
      >>> residuals([0.2, 0.4], [4.5, 4.5], reference, 3.0)
      array([0. , 0.2])

    Source: as of `final_loss`.
    """
    progress, losses = _run(progress, losses, offset)
    if not final > offset:
        raise ValueError(f"final={final!r} must be above offset={offset!r}")
    expected = (final - offset) * _reference(reference, progress)
    return (losses - offset) / expected - 1


def first_alarm(
    progress: points.Numbers,
    off_course: points.Numbers,
    limit: float,
    *,
    patience: int = 5,
) -> float | None:
    """Returns where a run is first found to have left its course upwards.

    Args:
      progress: ascending, [K].
      off_course: `residuals` at it, [K].
      limit: above which a residual counts, > 0. A few times the residuals' standard
        deviation over a healthy run serves.
      patience: so many records in a row raise the alarm; by default 5, so that the
        noise of single ones does not.

    Returns:
      The progress of the record that raises it, or None.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> first_alarm([0.2, 0.4, 0.6, 0.8], [0.0, 0.2, 0.2, 0.2], 0.1, patience=2)
      0.6

    Source: Bergsma et al., 2025, arXiv 2509.25087, watch such residuals; the rule is a
    choice made here.
    """
    progress = points.positive("progress", progress)
    off_course = points.finite("off_course", off_course)
    points.same_length(progress=progress, off_course=off_course)
    points.ascending("progress", progress)
    points.above_zero(limit=limit)
    weights.require_count("patience", patience, least=1)
    in_a_row = 0
    for share, residual in zip(progress.tolist(), off_course.tolist(), strict=True):
        in_a_row = in_a_row + 1 if residual > limit else 0
        if in_a_row == patience:
            return share
    return None


def stop_sweep(
    runs: Mapping[str, tuple[points.Numbers, points.Numbers]],
    reference: tuple | Mapping[str, tuple],
    *,
    window: tuple[float, float] = ALIGNED,
    offset: float = 0.0,
) -> Stopped:
    """Returns which run of a sweep to keep, and what each is predicted to reach.

    Args:
      runs: by name, `(progress, losses)` of each run so far.
      reference: as of `final_loss`, one for all, or by name one for each: runs of other
        timescales or tokens per parameter have other curves (`Surrogate`).
      window: as of `final_loss`; by default 0.25 and 0.5.
      offset: as of `collapse.normalize`; by default 0.

    Returns:
      `Stopped`.

    Raises:
      ValueError: there is no run, a reference is missing, or as in `final_loss`.

    Example:
      >>> reference = ([0.1, 0.5, 1.0], [2.0, 1.5, 1.0])
      >>> runs = dict(high=([0.1, 0.3], [6.0, 5.5]), low=([0.1, 0.3], [4.0, 3.5]))
      >>> stop_sweep(runs, reference).best
      'low'

    Source: as of `final_loss`.
    """
    if not runs:
        raise ValueError("runs={} must hold a run or more")
    finals = {}
    for name, (progress, losses) in runs.items():
        own = reference
        if isinstance(reference, Mapping):
            if name not in reference:
                raise ValueError(f"reference must have an entry for run {name!r}")
            own = reference[name]
        finals[name] = final_loss(progress, losses, own, window=window, offset=offset)
    return Stopped(min(finals, key=finals.get), finals)


@dataclasses.dataclass(frozen=True)
class Surrogate:
    """A normalised curve from the schedule, without a finished run.

        l(x) = f(x) / f(1),    f(x) = ((1 + e1) / (x + e1))^m + b (eta(x) + e2)^q

    with the rate eta(x) over its peak. The published b and q follow the timescale and
    the tokens per parameter, `b = b_c tau^b_e` and `q = q_c TPP^q_e`, with constants
    that were not published: `from_constants` needs them, or `fit` gives b and q.

    Args:
      b: weight of the rate, >= 0.
      q: its exponent, > 0.
      m: exponent of the time; by default 0.05.
      e1: by default 0.001.
      e2: by default 0.1.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> Surrogate(b=0.5, q=1.0).predict([0.5, 1.0], [0.5, 0.0]).round(4)
      array([1.2716, 1.    ])

    Source: Bergsma et al., 2025, arXiv 2509.25087.
    """

    b: float
    q: float
    m: float = 0.05
    e1: float = 0.001
    e2: float = 0.1

    def __post_init__(self):
        points.number("b", self.b, "finite and >= 0", lambda x: x >= 0)
        points.above_zero(q=self.q, m=self.m, e1=self.e1, e2=self.e2)

    @classmethod
    def from_constants(
        cls,
        tau: float,
        tokens_per_parameter: float,
        *,
        b_c: float,
        b_e: float,
        q_c: float,
        q_e: float,
    ) -> Self:
        """Returns the surrogate of a timescale and tokens per parameter.

        Args:
          tau: the timescale, > 0; see `timescale.timescale`.
          tokens_per_parameter: TPP > 0.
          b_c: `b = b_c tau^b_e`; not published, and so the others.
          b_e: its exponent.
          q_c: `q = q_c TPP^q_e`.
          q_e: its exponent.

        Returns:
          The surrogate.

        Raises:
          ValueError: an argument is out of range.

        Example:
          >>> Surrogate.from_constants(0.25, 20, b_c=1, b_e=0.5, q_c=2, q_e=0.0)
          Surrogate(b=0.5, q=2.0, m=0.05, e1=0.001, e2=0.1)
        """
        points.above_zero(tau=tau, tokens_per_parameter=tokens_per_parameter)
        return cls(b=b_c * tau**b_e, q=q_c * tokens_per_parameter**q_e)

    @classmethod
    def fit(
        cls, progress: points.Numbers, rates: points.Numbers, curve: points.Numbers
    ) -> Self:
        """Fits b and q to a normalised curve, by least squares of its logarithm.

        Args:
          progress: x, ascending, the last 1, [K]; points before 0.2 do not count.
          rates: over their peak, at these points, in [0, 1], [K].
          curve: normalised without an offset, [K].

        Returns:
          The surrogate with the default constants.

        Raises:
          ValueError: an argument is out of range, or the rates do not change.

        Example:
          >>> x = np.linspace(0.01, 1, 100)
          >>> found = Surrogate.fit(x, 1 - x, Surrogate(b=0.3, q=1.5).predict(x, 1 - x))
          >>> round(found.b, 4), round(found.q, 4)
          (0.3, 1.5)
        """
        progress, curve = _run(progress, curve, 0.0)
        rates = _rates(rates, progress)
        kept = progress >= FITTED
        if np.ptp(rates[kept]) == 0:
            raise ValueError("rates must change after a fifth of the run")

        def off(logs):
            found = cls(*np.exp(logs))
            return np.log(found.predict(progress, rates)[kept] / curve[kept])

        starts = ((b, q) for b in (0.03, 0.3, 3.0) for q in (0.5, 2.0))
        bounds = ([-20, -5], [10, 4])
        found = [
            scipy.optimize.least_squares(off, np.log(start), bounds=bounds)
            for start in starts
        ]
        b, q = np.exp(min(found, key=lambda end: end.cost).x).tolist()
        return cls(b=b, q=q)

    def predict(self, progress: points.Numbers, rates: points.Numbers) -> np.ndarray:
        """Returns the normalised curve.

        Args:
          progress: x in (0, 1], ascending; the last, at which it is 1, must be 1, [K].
          rates: over their peak, at these points, in [0, 1], [K].

        Returns:
          float64 [K].

        Raises:
          ValueError: an argument is out of range.
        """
        progress = points.positive("progress", progress)
        points.ascending("progress", progress)
        if progress[-1] != 1:
            raise ValueError(f"progress={progress[-1]:g} at the end must be 1")
        rates = _rates(rates, progress)
        time = ((1 + self.e1) / (progress + self.e1)) ** self.m
        values = time + self.b * (rates + self.e2) ** self.q
        return values / values[-1]


def _run(progress, losses, offset):
    progress = points.positive("progress", progress)
    losses = points.positive("losses", losses)
    points.same_length(progress=progress, losses=losses)
    points.ascending("progress", progress)
    points.number("offset", offset, "finite", lambda x: True)
    if losses.min() <= offset:
        raise ValueError(f"offset={offset!r} must be below every loss")
    return progress, losses


def _reference(reference, progress):
    where, curve = (points.positive("reference", values) for values in reference)
    points.same_length(2, reference_progress=where, reference_curve=curve)
    points.ascending("reference", where)
    if progress[0] < where[0] or progress[-1] > where[-1]:
        raise ValueError(
            f"reference from {where[0]:g} to {where[-1]:g} must span the progress from "
            f"{progress[0]:g} to {progress[-1]:g}"
        )
    return np.interp(progress, where, curve)


def _rates(rates, progress):
    rates = points.finite("rates", rates)
    points.same_length(rates=rates, progress=progress)
    if rates.min() < 0 or rates.max() > 1:
        raise ValueError(
            f"rates from {rates.min():g} to {rates.max():g} must be in [0, 1]: over "
            "their peak"
        )
    return rates
