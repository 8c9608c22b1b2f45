"""Watches the averages: one that keeps moving away from the weights has gone wrong.

Distances grow in healthy runs too: in proportion to the steps while the weights move
in a straight line, and to their square while a warmup raises the rate as well. What is
unstable grows faster than any power of the steps, or beyond the weights' own norm.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

KEY = "eval/distance/"

_SMALL = 0.01  # relative to the weights, where an average is almost the same as they
_LARGE = 1.0


class Watch:
    """Counts the evaluations in a row in which an average has moved away too fast."""

    def __init__(
        self,
        patience: int,
        starts: Mapping[str, int],
        records: Iterable[Mapping[str, Any]] = (),
    ):
        """Starts from the records of the run so far.

        Args:
          patience: evaluations in a row before a warning; 0 for no warning.
          starts: of the averages to watch by name, the updates done when each started.
          records: of `metrics.read`.
        """
        self._patience, self._starts = patience, dict(starts)
        self._last: dict[str, tuple[int, float]] = {}
        self._grown: dict[str, int] = {}
        for record in records:
            self.see(record["step"], distances_in(record))

    def see(self, step: int, distances: Mapping[str, float]) -> list[str]:
        """Returns a warning for each average that has moved away for too long.

        A distance counts as growing if it is above 1 % of the weights' norm and grows
        faster than the square of the average's age, or if it is above the norm and
        grows.

        Args:
          step: updates done.
          distances: to the weights, relative to their norm, by name.

        Returns:
          One line each, at every `patience` evaluations in a row, and whenever a
          distance is not finite.
        """
        warnings = []
        for name in (name for name in distances if name in self._starts):
            distance = distances[name]
            grows = self._grows(name, step, distance)
            self._grown[name] = self._grown.get(name, 0) + 1 if grows else 0
            self._last[name] = step, distance
            grown = self._grown[name]
            due = self._patience and grown and grown % self._patience == 0
            if due or (self._patience and not math.isfinite(distance)):
                warnings.append(
                    f"step {step}: the average {name} has moved away from the weights "
                    f"for {grown} evaluations in a row; its distance is "
                    f"{distance:.3g} times their norm"
                )
        return warnings

    def _grows(self, name: str, step: int, distance: float) -> bool:
        if name not in self._last:
            return not math.isfinite(distance)
        last_step, last = self._last[name]
        if not math.isfinite(last):
            return not math.isfinite(distance)
        age, last_age = (max(1, s - self._starts[name]) for s in (step, last_step))
        healthy = last if last > _LARGE else last * (age / last_age) ** 2
        # Not "greater": what is not a number has not come closer either.
        return not distance <= max(healthy, _SMALL)


def distances_in(record: Mapping[str, Any]) -> dict[str, float]:
    """Returns the distances in a record, by the average's name."""
    return {
        key.removeprefix(KEY): value
        for key, value in record.items()
        if key.startswith(KEY)
    }
