import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from anytime_jax import schedules

PEAK, WARMUP, TOTAL = 0.3, 10, 50
RUN = dict(peak=PEAK, total_steps=TOTAL, warmup_steps=WARMUP)
COUNTS = np.array([*range(-1, TOTAL + 3), TOTAL + 10**9])


def twin(body, counts):
    """The rate by hand, in float64: warmup from 10 %, then body(count) * PEAK."""
    return [
        PEAK * (0.1 + 0.9 * max(c, 0) / WARMUP)
        if c < WARMUP
        else PEAK * body(min(c, TOTAL))
        for c in counts.tolist()
    ]


def half_cosine(count, floor):
    x = (count - WARMUP) / (TOTAL - WARMUP)
    return floor + (1 - floor) * (1 + math.cos(math.pi * x)) / 2


def straight(count, floor):
    return 1 - (1 - floor) * (count - WARMUP) / (TOTAL - WARMUP)


def branch(count, floor, fraction):
    start = TOTAL - round(fraction * TOTAL)
    return 1.0 if count < start else 1 - (1 - floor) * (count - start) / (TOTAL - start)


@pytest.mark.parametrize(
    ("name", "arguments", "body"),
    [
        ("cosine", {}, lambda c: half_cosine(c, 0.1)),
        ("cosine", dict(final_fraction=0.0), lambda c: half_cosine(c, 0.0)),
        ("linear", {}, lambda c: straight(c, 0.0)),
        ("linear", dict(final_fraction=0.25), lambda c: straight(c, 0.25)),
        ("wsd", {}, lambda c: branch(c, 0.1, 0.1)),
        (
            "wsd",
            dict(cooldown_fraction=0.3, final_fraction=0.0),
            lambda c: branch(c, 0.0, 0.3),
        ),
        ("wsd", dict(cooldown_fraction=0.8), lambda c: branch(c, 0.1, 0.8)),
    ],
)
def test_follows_its_formula(name, arguments, body):
    schedule = getattr(schedules, name)(**RUN, **arguments)
    expected = twin(body, COUNTS)
    assert_allclose(schedule(COUNTS), expected, rtol=1e-5, atol=3e-8)
    with jax.enable_x64(True):
        rates = schedule(COUNTS)
    assert rates.dtype == jnp.float64
    assert_allclose(rates, expected, rtol=1e-13, atol=1e-16)


def test_cosine_crosses_the_published_milestones():
    # Where a cosine with a floor of 10 % crosses peak / 2, / 4 and / 8.
    schedule = schedules.cosine(peak=1.0, total_steps=1_000)
    rates = schedule(np.array([535, 732, 893]))
    assert_allclose(rates, [1 / 2, 1 / 4, 1 / 8], rtol=2e-3)


@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize("final_fraction", [0.0, 0.5, 1.0])
def test_the_final_rate_is_exact_and_held(name, final_fraction):
    schedule = getattr(schedules, name)(
        peak=1.0, total_steps=50, final_fraction=final_fraction, warmup_steps=7
    )
    assert schedule(50) == schedule(51) == schedule(10**9) == final_fraction


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
@pytest.mark.parametrize("total_steps", [0, 10])
def test_warmup_as_long_as_the_run_ends_at_the_final_rate(name, total_steps):
    changes = dict(cooldown_fraction=0.0) if name == "wsd" else {}
    schedule = getattr(schedules, name)(
        peak=0.3,
        total_steps=total_steps,
        final_fraction=0.2,
        warmup_steps=total_steps,
        **changes,
    )
    if total_steps:
        assert_allclose(schedule(9), 0.3 * (0.1 + 0.9 * 0.9), rtol=1e-6)
    for count in (total_steps, total_steps + 1, 10**9):
        assert_allclose(schedule(count), 0.06, rtol=1e-6)


def test_wsd_is_constant_with_a_cooldown_of_the_whole_runs_fraction():
    schedule = schedules.wsd(
        **RUN, cooldown_fraction=0.3, shape="1-sqrt", final_fraction=0.0
    )
    by_hand = schedules.cooldown(
        schedules.constant(peak=PEAK, warmup_steps=WARMUP),
        start=35,
        steps=15,
        shape="1-sqrt",
        final_fraction=0.0,
    )
    assert_allclose(schedule(COUNTS), by_hand(COUNTS))
    assert schedule(35) > schedule(36)


def test_wsd_rounds_its_cooldown_to_the_nearest_step():
    # 0.29 * 100 is 28.999999999999996 in floating point.
    schedule = schedules.wsd(peak=1.0, total_steps=100, cooldown_fraction=0.29)
    assert schedule(71) == 1.0
    assert schedule(72) < 1.0


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
def test_never_rises_after_the_warmup(name):
    rates_C = getattr(schedules, name)(**RUN)(np.arange(WARMUP, TOTAL + 5))
    assert np.all(np.diff(rates_C) <= 0)
    assert rates_C[0] == np.float32(PEAK)


def test_from_values_reads_its_table():
    table = [0.1, 0.3, 0.2, 0.7]
    schedule = schedules.from_values(values=table)
    counts = np.array([-5, 0, 1, 2, 3, 4, 10**9])
    expected = np.array(table, np.float32)[[0, 0, 1, 2, 3, 3, 3]]
    for read in (schedule, jax.jit(schedule), jax.vmap(schedule)):
        np.testing.assert_array_equal(read(counts), expected)
        np.testing.assert_array_equal(read(jnp.asarray(counts)), expected)
    assert [float(schedule(c)) for c in counts.tolist()] == expected.tolist()
    assert schedule(1.9) == np.float32(0.3)


def test_from_values_round_trips_any_schedule():
    cosine = schedules.cosine(**RUN)
    table = schedules.from_values(values=cosine(np.arange(TOTAL + 1)))
    np.testing.assert_array_equal(table(COUNTS), cosine(COUNTS))


def test_from_values_keeps_its_own_copy():
    values = np.ones(3)
    schedule = schedules.from_values(values=values)
    values[:] = 5
    assert schedule(0) == 1


def test_from_values_is_differentiable_in_its_table():
    def total(values_T):
        return jnp.sum(schedules.from_values(values=values_T)(jnp.arange(6)))

    gradient_T = jax.jit(jax.grad(total))(jnp.ones(4))
    assert_allclose(gradient_T, [1, 1, 1, 3])
    assert jax.grad(schedules.from_values(values=[1.0, 2.0]))(0.5) == 0


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "cosine",
            dict(warmup_steps=51),
            "warmup_steps=51 must be at most total_steps=50",
        ),
        ("cosine", dict(total_steps=-1), "total_steps=-1 must be an integer in"),
        ("cosine", dict(total_steps=50.0), "total_steps=50.0 must be an integer in"),
        ("cosine", dict(total_steps=None), "total_steps=None must be an integer in"),
        ("cosine", dict(final_fraction=2), r"final_fraction=2 must be .* in \[0, 1\]"),
        ("cosine", dict(peak="a"), "peak='a' must be a finite number"),
        (
            "linear",
            dict(warmup_steps=51),
            "warmup_steps=51 must be at most total_steps=50",
        ),
        ("linear", dict(warmup_start=-1), "warmup_start=-1 must be a number in"),
        (
            "linear",
            dict(final_fraction=True),
            "final_fraction=True must be a number in",
        ),
        (
            "wsd",
            dict(cooldown_fraction=1.5),
            "cooldown_fraction=1.5 must be a number in",
        ),
        (
            "wsd",
            dict(cooldown_fraction=0.9),
            "warmup_steps=10 and cooldown_fraction=0.9 must fit in total_steps=50",
        ),
        ("wsd", dict(shape="hat"), "shape='hat' must be one of"),
        (
            "wsd",
            dict(shape="exponential", final_fraction=0),
            "final_fraction=0 must be",
        ),
    ],
)
def test_errors_name_the_argument_and_the_value(name, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        getattr(schedules, name)(**(RUN | changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"values of shape \(0,\) .* must be a one-dimensional table"),
        (3e-3, r"values of shape \(\) .* must be a one-dimensional table"),
        (np.ones((2, 2)), r"values of shape \(2, 2\) .* must be"),
        ([True, False], "type bool must be a one-dimensional table of at least one"),
        (["a"], "must be a one-dimensional table of at least one number"),
        ([1.0, math.nan, -1.0], r"values\[1\]=nan must be a finite number, at least 0"),
        (jnp.array([1.0, -2.0]), r"values\[1\]=-2.0 must be a finite number"),
    ],
)
def test_from_values_errors(values, message):
    with pytest.raises(ValueError, match=message) as error:
        schedules.from_values(values=values)
    assert "\n" not in str(error.value)
