"""Durations: one unit at a time, and what each unit comes to."""

import math

import pytest

from anytime_jax.training import durations

SCALE = dict(tokens_per_step=1000, non_embedding=25_000)


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        (dict(steps=7, tokens=0, chinchilla=0.0), 7),
        (dict(tokens=7_400, steps=None), 7),
        (dict(tokens=7_600), 8),
        (dict(chinchilla=1.0), 500),  # 20 tokens for each of 25,000 parameters
        (dict(chinchilla=0.25), 125),
    ],
)
def test_each_unit(duration, steps):
    assert durations.to_steps("run", duration, **SCALE) == steps


def test_several_durations_as_a_config_or_json_holds_them():
    for empty, given in (((), (0.5, 2.0)), ([], [0.5, 2.0])):
        duration = dict(chinchilla=given, steps=empty, tokens=empty)
        steps = durations.to_steps("horizons", duration, several=True, **SCALE)
        assert steps == (250, 1000)


@pytest.mark.parametrize(
    ("duration", "several", "message"),
    [
        (dict(steps=3, tokens=10), False, r"run has steps=3, tokens=10: give exactly"),
        (dict(steps=0, tokens=0), False, r"run has no value: .* steps, tokens, chin"),
        (dict(steps=3, epochs=2), False, r"run has epochs=2: give exactly one of"),
        (dict(steps=-3), False, r"run.steps=-3 must be at least one step"),
        (dict(tokens=499), False, r"run.tokens=499 .* at least one step of 1000 tok"),
        (dict(steps=(3, -1)), True, r"run.steps=\(3, -1\) must be at least one step"),
        (dict(steps=(3, 4)), False, r"run.steps=\(3, 4\) must be a finite number"),
        (dict(steps=3), True, r"run.steps=3 must be a tuple of finite numbers"),
        (dict(steps=("3",)), True, r"run.steps=\('3',\) must be a tuple of finite"),
        (dict(steps=True), False, r"run.steps=True must be a finite number"),
        (dict(chinchilla=math.inf), False, r"run.chinchilla=inf must be a finite"),
        (dict(chinchilla=math.nan), False, r"run.chinchilla=nan must be a finite"),
    ],
)
def test_errors_name_the_key_and_its_value(duration, several, message):
    with pytest.raises(ValueError, match=message):
        durations.to_steps("run", duration, several=several, **SCALE)
