import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax import schedules

POSITIONS, VALUES = [3, 5, 10], [0.1, 0.5, 0.2]
COUNTS = np.array([*range(-2, 14), 10**9])


def test_reads_its_table():
    table = [0.1, 0.3, 0.2, 0.7]
    schedule = schedules.from_values(values=table)
    counts = np.array([-5, 0, 1, 2, 3, 4, 10**9])
    expected = np.array(table, np.float32)[[0, 0, 1, 2, 3, 3, 3]]
    for read in (schedule, jax.jit(schedule), jax.vmap(schedule)):
        assert_array_equal(read(counts), expected)
        assert_array_equal(read(jnp.asarray(counts)), expected)
    assert [float(schedule(c)) for c in counts.tolist()] == expected.tolist()
    assert schedule(1.9) == np.float32(0.3)


def test_round_trips_any_schedule():
    cosine = schedules.cosine(peak=0.3, total_steps=50, warmup_steps=10)
    table = schedules.from_values(values=cosine(np.arange(51)))
    counts = np.array([*range(-1, 53), 10**9])
    assert_array_equal(table(counts), cosine(counts))


def test_keeps_its_own_copy():
    values = np.ones(3)
    schedule = schedules.from_values(values=values)
    values[:] = 5
    assert schedule(0) == 1


def test_is_differentiable_in_its_table():
    def total(values_T):
        return jnp.sum(schedules.from_values(values=values_T)(jnp.arange(6)))

    gradient_T = jax.jit(jax.grad(total))(jnp.ones(4))
    assert_allclose(gradient_T, [1, 1, 1, 3])
    assert jax.grad(schedules.from_values(values=[1.0, 2.0]))(0.5) == 0


def held(count):
    return VALUES[sum(p <= count for p in POSITIONS[1:])]


def straight(count):
    if count <= 3 or count >= 10:
        return VALUES[0] if count <= 3 else VALUES[2]
    if count < 5:
        return 0.1 + 0.4 * (count - 3) / 2
    return 0.5 - 0.3 * (count - 5) / 5


@pytest.mark.parametrize(("interpolate", "twin"), [(False, held), (True, straight)])
def test_values_at_positions(interpolate, twin):
    schedule = schedules.from_values(
        values=VALUES, positions=POSITIONS, interpolate=interpolate
    )
    expected = [twin(int(count)) for count in COUNTS]
    for read in (schedule, jax.jit(schedule), jax.vmap(schedule)):
        assert_allclose(read(COUNTS), expected, rtol=1e-6)
        assert_allclose(read(jnp.asarray(COUNTS)), expected, rtol=1e-6)
    # The table's own values are exact, from either side of NumPy and JAX.
    for read in (schedule, jax.jit(schedule)):
        assert_array_equal(read(np.array(POSITIONS)), np.float32(VALUES))
    fractions = np.array([2.5, 4.5, 7.25, 11.5])
    expected = [twin(count) for count in fractions]
    assert_allclose(schedule(fractions), expected, rtol=1e-6)
    assert_allclose(schedule(jnp.asarray(fractions)), expected, rtol=1e-6)


def test_interpolates_between_every_count_without_positions():
    schedule = schedules.from_values(values=[0.1, 0.5, 0.2], interpolate=True)
    counts = np.array([-1.0, 0.0, 0.25, 1.0, 1.5, 2.0, 7.0])
    expected = [0.1, 0.1, 0.2, 0.5, 0.35, 0.2, 0.2]
    assert_allclose(schedule(counts), expected, rtol=1e-6)
    assert_allclose(jax.jit(schedule)(counts), expected, rtol=1e-6)


def test_positions_beyond_float32_are_exact():
    far = 2**24 + 1  # float32 has no 2**24 + 1
    schedule = schedules.from_values(
        values=[0.0, 1.0], positions=[far, far + 4], interpolate=True
    )
    counts = np.arange(far - 1, far + 6)
    expected = [0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert_array_equal(schedule(counts), expected)
    assert_array_equal(jax.jit(schedule)(counts), expected)


def test_an_interpolated_table_is_differentiable():
    def rate(values_T, count):
        return schedules.from_values(
            values=values_T, positions=POSITIONS, interpolate=True
        )(count)

    values_T = jnp.asarray(VALUES)
    gradient = jax.jit(jax.grad(rate))
    assert_allclose(gradient(values_T, 4), [0.5, 0.5, 0])
    assert_allclose(gradient(values_T, 6), [0, 0.8, 0.2], rtol=1e-6)
    assert_allclose(gradient(values_T, 99), [0, 0, 1])
    slope = jax.vmap(jax.grad(rate, argnums=1), in_axes=(None, 0))
    counts_C = jnp.array([1.0, 4.0, 5.0, 7.0, 11.0])
    assert_allclose(slope(values_T, counts_C), [0, 0.2, -0.06, -0.06, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([1, 2], "positions, 2 of them, must be as many as the 3 values"),
        ([], r"positions=\[\] must hold at least one count"),
        (5, "positions=5 must be a sequence of counts"),
        ("123", "positions='123' must be a sequence of counts"),
        ([0, 4, 4], r"positions\[2\]=4 must be above positions\[1\]=4"),
        ([-1, 2, 3], r"positions\[0\]=-1 must be an integer in \[0, 2\*\*31\)"),
        ([0.5, 2, 3], r"positions\[0\]=0.5 must be an integer"),
    ],
)
def test_errors_about_positions(positions, message):
    with pytest.raises(ValueError, match=message) as error:
        schedules.from_values(values=VALUES, positions=positions)
    assert "\n" not in str(error.value)


def test_interpolate_is_a_bool():
    with pytest.raises(ValueError, match="interpolate='linear' must be True or False"):
        schedules.from_values(values=VALUES, interpolate="linear")


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
def test_errors_about_values(values, message):
    with pytest.raises(ValueError, match=message) as error:
        schedules.from_values(values=values)
    assert "\n" not in str(error.value)
