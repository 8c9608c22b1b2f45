from fractions import Fraction

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax import schedules
from anytime_jax.theory import values


def test_rates_are_those_of_the_schedules():
    assert values.rates is schedules.rates


def test_running_sums():
    random = np.random.default_rng(0)
    for count in (0, 1, 2, 5, 64, 65):
        numbers = random.normal(size=count)
        exact = np.cumsum([Fraction(number) for number in numbers])
        assert_allclose(values.running_sums(numbers), exact.astype(float), 1e-13)
    sums = values.running_sums(np.array([1.0, -np.inf, 1.0, 1.0, 1.0]))
    assert_array_equal(sums, [1] + [-np.inf] * 4)


def test_running_sums_of_a_million_equal_numbers():
    count = 10**6
    exact = float(Fraction(0.1) * count)
    assert abs(values.running_sums(np.full(count, 0.1))[-1] / exact - 1) < 1e-14
    assert abs(np.cumsum(np.full(count, 0.1))[-1] / exact - 1) > 1e-12
