import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax import schedules

WARMUP = 6
ARGUMENTS = {
    "step_decay": dict(peak=0.3, every=7, factor=0.6),
    "multi_step": dict(peak=0.3, boundaries=[10, 11, 30], factor=0.6),
    "exponential": dict(peak=0.3, half_life=4.5),
    "cyclic": dict(peak=0.3, period=5, growth=3, final_fraction=0.2),
}


def walk(count):
    """Restarts by hand: the steps since the last one, and the cycle's length."""
    past, length = count, 5
    while past >= length:
        past, length = past - length, length * 3
    return past / length


BODIES = {  # slow twins in float64: clock after the warmup -> fraction of the peak
    "step_decay": lambda t: 0.6 ** sum(n <= t for n in range(7, t + 1, 7)),
    "multi_step": lambda t: 0.6 ** sum(n <= t + WARMUP for n in (10, 11, 30)),
    "exponential": lambda t: math.exp(-math.log(2) * t / 4.5),
    "cyclic": lambda t: 0.2 + 0.8 * (1 + math.cos(math.pi * walk(t))) / 2,
}


@pytest.mark.parametrize("name", BODIES)
def test_follows_its_formula(name):
    schedule = getattr(schedules, name)(**ARGUMENTS[name], warmup_steps=WARMUP)
    counts = np.array([*range(80), 199, 200, 201])
    ramp = [0.1 + 0.9 * min(c / WARMUP, 1) for c in counts.tolist()]
    expected = [
        0.3 * r * BODIES[name](max(c - WARMUP, 0))
        for c, r in zip(counts.tolist(), ramp, strict=True)
    ]
    assert_allclose(schedule(counts), expected, rtol=2e-6)
    assert_allclose(jax.jit(schedule)(counts), expected, rtol=2e-6)
    with jax.enable_x64(True):
        assert_allclose(schedule(counts), expected, rtol=1e-12)


def test_every_drop_is_at_its_boundary():
    by_step = schedules.step_decay(peak=1.0, every=30, factor=0.5, warmup_steps=10)
    by_list = schedules.multi_step(
        peak=1.0, boundaries=[40, 70, 100], factor=0.5, warmup_steps=10
    )
    counts = np.arange(130)
    assert_array_equal(by_step(counts), by_list(counts))
    drops = np.flatnonzero(np.diff(by_step(counts)[10:])) + 11
    assert_array_equal(drops, [40, 70, 100])


def test_agrees_with_optax():
    counts = np.array([*range(99), 10**6])
    ours = schedules.step_decay(peak=0.3, every=7, factor=0.6)
    theirs = optax.exponential_decay(0.3, 7, 0.6, staircase=True)
    assert_allclose(ours(counts), theirs(jnp.asarray(counts)), rtol=1e-5)
    ours = schedules.exponential(peak=0.3, half_life=7)
    theirs = optax.exponential_decay(0.3, 7, 0.5)
    assert_allclose(ours(counts), theirs(jnp.asarray(counts)), rtol=1e-5)
    ours = schedules.cyclic(peak=0.3, period=10)
    theirs = optax.cosine_decay_schedule(0.3, 10)
    assert_allclose(ours(counts[:99]), theirs(counts[:99] % 10), rtol=1e-5, atol=1e-8)


def test_counts_and_cycles_beyond_float32_are_exact():
    far = 2**24 + 1  # float32 has no 2**24 + 1
    drop = jax.jit(schedules.step_decay(peak=1.0, every=far, factor=0.5))
    assert_array_equal(drop(jnp.array([far - 1, far])), [1, 0.5])
    for growth, starts in ((1, 2 * far), (2, 3 * far)):
        cycles = schedules.cyclic(peak=1.0, period=far, growth=growth, shape="linear")
        counts = np.array([far - 1, far, starts - 1, starts, 2**31 - 1])
        for read in (cycles, jax.jit(cycles)):
            rates = np.asarray(read(counts))
            assert_array_equal(rates[[1, 3]], 1)
            assert np.all(rates[[0, 2]] < 1e-6)
            assert 0 < rates[4] < 1


@pytest.mark.parametrize("growth", [1, 2, 5])
def test_every_cycle_is_the_first_one_stretched(growth):
    schedule = schedules.cyclic(peak=1.0, period=4, growth=growth, shape="square")
    start, length = 0, 4
    for _ in range(8):
        x = np.array([0, 0.25, 0.5, 0.75])
        counts = (start + x * length).astype(int)
        assert_allclose(schedule(counts), 1 - x**2, rtol=1e-6)
        start, length = start + length, length * growth


def test_derivative_of_a_traced_factor_and_half_life():
    def rate(factor, count):
        return schedules.step_decay(peak=1.0, every=10, factor=factor)(count)

    with jax.debug_nans(True):
        assert jax.grad(rate)(0.5, 5) == 0
        assert_allclose(jax.grad(rate)(0.5, 35), 3 * 0.5**2)
        assert jax.grad(rate)(0.0, 5) == 0

    def halving(half_life):
        return schedules.exponential(peak=1.0, half_life=half_life)(10)

    # d/dh 2^(-10/h) = 2^(-10/h) ln 2 * 10 / h^2
    assert_allclose(jax.grad(halving)(5.0), 0.25 * math.log(2) * 0.4, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("step_decay", dict(every=0), "every=0 must be a finite number above 0"),
        ("step_decay", dict(every=2.5), "every=2.5 must be an integer in"),
        ("step_decay", dict(factor=1.5), r"factor=1.5 must be a number in \[0, 1\]"),
        ("multi_step", dict(factor=-1), r"factor=-1 must be a number in \[0, 1\]"),
        (
            "multi_step",
            dict(boundaries=[3, 2]),
            r"boundaries\[1\]=2 must be above boundaries\[0\]=3",
        ),
        (
            "multi_step",
            dict(warmup_steps=11),
            r"warmup_steps=11 must be at most boundaries\[0\]=10",
        ),
        ("exponential", dict(half_life=0), "half_life=0 must be a finite number above"),
        ("cyclic", dict(period=0), "period=0 must be a finite number above 0"),
        ("cyclic", dict(growth=0), "growth=0 must be a finite number above 0"),
        ("cyclic", dict(growth=1.5), "growth=1.5 must be an integer in"),
        ("cyclic", dict(shape="hat"), "shape='hat' must be one of linear"),
        ("cyclic", dict(final_fraction=2), "final_fraction=2 must be a number in"),
    ],
)
def test_errors_name_the_argument_and_the_value(name, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        getattr(schedules, name)(**(ARGUMENTS[name] | changes))
    assert "\n" not in str(error.value)
