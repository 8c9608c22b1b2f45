"""Loss curves of trained runs, raw and averaged, of experiments/anytime_vs_cosine.

Means over the reported seeds, of runs of 24,576 updates at a peak of 0.01.
"""

import functools

from anytime_jax import laws
from experiments.anytime_vs_cosine import analysis, protocol, run, views

SCHEDULES = ("constant", "inverse_sqrt", "cosine", "linear")


@functools.cache
def comparison() -> analysis.Comparison:
    """All methods at the usual batch."""
    return analysis.Comparison(run.read(run.RESULTS), protocol.FULL, 1)


@functools.cache
def curve(schedule: str, exit_name: str = "raw") -> laws.Curve:
    """The losses on the way of a run, from half of its 1x on."""
    name = f"{schedule}_average" if schedule in protocol.TRUNKS else schedule
    job = comparison().methods[name].jobs[comparison().times[-1]]
    return views.curve(comparison(), job, exit_name)
