"""The watch: silent over a healthy run, loud over an average that has gone astray."""

import numpy as np
import pytest

from anytime_jax.training import watch

# Steps of the tiny config's evaluations, and distances of two averages in its trunk.
STEPS = [9, 14, 21, 32, 50, 77, 120, 185, 285, 441, 681, 1051, 1624, 2509, 3875]
EMA100 = [0, 0, 0, 1, 2, 6, 11, 15, 22, 29, 33, 35, 36, 35, 32]  # thousandths
UNIFORM = [20, 36, 62, 104, 149, 190, 248, 292, 334, 365, 385, 402, 432, 460, 454]
HEALTHY = dict(ema100=np.array(EMA100) / 1000, uniform=np.array(UNIFORM) / 1000)


def watched(patience, records=()):
    """A watch of averages that started with the run."""
    return watch.Watch(
        patience, dict.fromkeys(["ema100", "uniform", "ema25", "a"], 0), records
    )


def seen(watched, steps, **distances):
    """All warnings over a course of evaluations."""
    return [
        line
        for index, step in enumerate(steps)
        for line in watched.see(step, {n: d[index] for n, d in distances.items()})
    ]


def test_a_healthy_run_is_never_warned_of():
    assert seen(watched(1), STEPS, **HEALTHY) == []


def test_what_moves_with_the_steps_is_healthy_and_faster_than_their_square_is_not():
    steps = np.arange(10, 200, 10)
    assert seen(watched(1), steps, a=1e-5 * steps**1.9) == []
    assert len(seen(watched(1), steps, a=1e-5 * steps**2.1)) > 10


def test_warns_at_every_patience_evaluations_in_a_row():
    steps = range(100, 1000, 100)
    # Comes closer once, at 500.
    distances = [0.01, 0.1, 0.5, 2.0, 1.5, 1.6, 1.7, 1.8, 1.9]
    lines = seen(watched(2), steps, ema25=distances)
    assert [line.split(":")[0] for line in lines] == [
        "step 300",
        "step 700",
        "step 900",
    ]
    assert lines[0] == (
        "step 300: the average ema25 has moved away from the weights for 2 evaluations "
        "in a row; its distance is 0.5 times their norm"
    )
    assert seen(watched(0), steps, ema25=distances) == []


@pytest.mark.parametrize("distance", [np.nan, np.inf])
def test_what_is_not_finite_is_said_at_once(distance):
    (line,) = watched(5).see(1, dict(ema25=distance))
    assert f"its distance is {distance} times" in line


def test_goes_on_from_the_records_of_the_run():
    records = [
        {"step": 100, "eval/distance/a": 0.1},
        {"step": 150, "train/loss": 1.0},
        {"step": 200, "eval/distance/a": 0.6, "eval/loss/a": 2.0},
    ]
    assert len(watched(2, records).see(300, dict(a=2.0))) == 1
    assert watched(2).see(300, dict(a=2.0)) == []


def test_an_average_that_started_late_has_an_age_of_its_own():
    ages = np.arange(1, 60, 5)
    late = watch.Watch(2, dict(a=600))
    assert seen(late, 600 + ages, a=1e-4 * ages**1.9) == []
    assert seen(watched(2), 600 + ages, a=1e-4 * ages**1.9)


def test_what_is_not_to_be_watched_is_not():
    assert seen(watch.Watch(1, {}), [1, 2, 3], frozen=[0.1, 2.0, 30.0]) == []


def test_what_is_finite_again_has_come_closer():
    lines = seen(watched(1), [1, 2, 3], a=[0.1, np.nan, 0.5])
    assert [line.split(":")[0] for line in lines] == ["step 2"]
