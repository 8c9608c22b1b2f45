"""What runs must be like to be put beside each other."""

from collections.abc import Mapping
from typing import Any

from anytime_jax.reporting.runs import Run


def check_finished(run: Run, name: str) -> None:
    """Refuses a run without a loss to compare.

    Args:
      run: any.
      name: what it is called.

    Raises:
      ValueError: it is a merge that was not evaluated, or has not reached a horizon.
    """
    if run.exits:
        return
    if run.merge:
        raise ValueError(f"{name} is a merge without a loss: make it with --evaluate")
    horizons = run.config["resolved"]["horizons"]
    horizon = min(horizons) if run.role == "trunk" else run.total_steps
    raise ValueError(
        f"{name} has not reached a horizon yet: the first is step {horizon}, and its "
        f"last record is of step {run.last_step}"
    )


def check_comparable(one: Run, other: Run, names: Mapping[Run, str]) -> None:
    """Refuses runs whose losses at a step do not mean the same.

    Args:
      one: any run.
      other: another one.
      names: what they are called.

    Raises:
      ValueError: what was measured, or on what, differs.
    """
    for what, value in _measure(one).items():
        if _measure(other)[what] != value:
            raise ValueError(
                f"{names[one]} and {names[other]} cannot be compared: {what} is "
                f"{value!r} in the first and {_measure(other)[what]!r} in the second"
            )


def check_distinct(one: Run, other: Run, names: Mapping[Run, str]) -> None:
    """Refuses two runs that would pass for two seeds, and are of one.

    Branches that differ only in what they average may both be there.

    Args:
      one: any run.
      other: another one.
      names: what they are called.

    Raises:
      ValueError: they are of one setting and one seed, and meet at a horizon.
    """
    if one.merge or other.merge or one.seed != other.seed:
        return
    if (one.setting, one.trunk) != (other.setting, other.trunk):
        return
    if not _horizons(one) & _horizons(other):
        return
    same_start = one.config["branch"]["step"] == other.config["branch"]["step"]
    if one.role == "branch" and same_start and one.tracked != other.tracked:
        return
    raise ValueError(
        f"{names[one]} and {names[other]} are both runs of one setting and "
        f"seed={one.seed}: give one of them, or other seeds"
    )


def _measure(run: Run) -> dict[str, Any]:
    """What must be the same for two losses to be comparable."""
    resolved, evaluation = run.config["resolved"], run.config["evaluation"]
    return {
        "resolved.parameters": resolved["parameters"],
        "resolved.tokens_per_step": resolved["tokens_per_step"],
        "resolved.data.validation": resolved["data"]["validation"],
        "sequence_length": run.config["sequence_length"],
        "evaluation.batch_size": evaluation["batch_size"],
        "evaluation.horizon_batches": evaluation["horizon_batches"],
    }


def _horizons(run: Run) -> set[int]:
    return {step for losses in run.exits.values() for step in losses}
