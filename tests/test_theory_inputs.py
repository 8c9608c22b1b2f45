"""What a run of SGD is told: both kinds of callables, and all that is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax import averaging
from anytime_jax.theory import inputs


def test_gives_one_value_an_update():
    averages = dict(
        half=averaging.uniform(),
        table=lambda t: [1.0, 0.25, 0.5][t - 1],
        none=lambda t: 0,
    )
    schedule = optax.piecewise_constant_schedule(0.5, {2: 0.5})
    each = inputs.per_update(schedule, averages, 3, lambda t: 2 ** (t + 1))
    assert_array_equal(each.rate_T, [0.5, 0.5, 0.25])
    assert_array_equal(each.inverse_batch_T, [0.5, 0.25, 0.125])
    expected = [[1, 1, 0], [1 / 2, 0.25, 0], [1 / 3, 0.5, 0]]
    assert_allclose(each.weight_TxK, expected, rtol=1e-15)
    assert {x.dtype for x in each} == {np.dtype(np.float64)}


def test_no_average_is_allowed():
    each = inputs.per_update(0.1, {}, 5, math.inf)
    assert each.weight_TxK.shape == (5, 0)
    assert_array_equal(each.inverse_batch_T, 0)
    assert_array_equal(each.rate_T, 0.1)


@pytest.mark.parametrize(
    "average",
    [
        averaging.age_ema(divisor=6.25),
        lambda t: 1 - 2 ** (-6.25 / t),
        lambda t: -np.expm1(-6.25 * np.log(2) / t),
        lambda t: -jnp.expm1(-6.25 * jnp.log(2.0) / t),
        jax.jit(lambda t: 1 - jnp.exp2(-6.25 / t)),
    ],
)
def test_averages_are_asked_in_float64(average):
    weight_TxK = inputs.per_update(0.1, dict(one=average), 300, 1).weight_TxK
    expected = [1 - 2 ** (-6.25 / t) for t in range(1, 301)]
    assert_allclose(weight_TxK[:, 0], expected, rtol=1e-13)
    assert not jax.config.jax_enable_x64


def test_weights_near_0_are_exact():
    """1 minus something near 1 would be wrong by 1e-10 here."""
    weight_TxK = inputs.per_update(
        0.1, dict(power=averaging.power(gamma=0.5)), 10**6, 1
    ).weight_TxK
    x = 1e-6  # 1 - (1 - x)^1.5
    assert_allclose(weight_TxK[-1, 0], 1.5 * x - 0.375 * x**2 - x**3 / 16, rtol=1e-14)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(steps=0), "steps=0 must be an integer >= 1"),
        (dict(steps=2.0), "steps=2.0 must be an integer >= 1"),
        (dict(schedule=-0.5), "schedule(0)=-0.5 must be a finite rate, at least 0"),
        (
            dict(schedule=lambda t: 0.1 / (2 - t) if t != 2 else math.inf),
            "schedule(2)=inf must be a finite rate, at least 0",
        ),
        (
            dict(schedule=[0.1, 0.2]),
            "schedule of shape (2,) must have one rate for each of steps=3 updates",
        ),
        (
            dict(schedule="fast"),
            "schedule='fast' must be a callable, a number or an array of rates",
        ),
        (dict(batch_size=0.5), "batch_size=0.5 must be >= 1"),
        (dict(batch_size=-math.inf), "batch_size=-inf must be >= 1"),
        (dict(batch_size=math.nan), "batch_size=nan must be >= 1"),
        (
            dict(batch_size=None),
            "batch_size=None must be a Python or NumPy number, >= 1",
        ),
        (
            dict(batch_size=[1, 2, 4]),
            "batch_size=[1, 2, 4] must be a Python or NumPy number, >= 1",
        ),
        (dict(batch_size=lambda t: 2 - t), "batch_size=0 at count 2 must be >= 1"),
        (
            dict(averages=averaging.uniform()),
            "averages=Average(name='uniform', arguments=()) must map names to averages",
        ),
        (
            dict(averages=dict(raw=averaging.uniform())),
            "averages: the name 'raw' is that of the weights themselves",
        ),
        (
            dict(averages=dict(slow=0.1)),
            "averages['slow']=0.1 must be an average, or a callable from update to "
            "mixing weight",
        ),
        (
            dict(averages=dict(odd=lambda t: t - 0.5)),
            "averages['odd']: its weight at update 2, 1.5, must be in [0, 1]",
        ),
        (
            dict(averages=dict(good=averaging.uniform(), odd=lambda t: -0.25)),
            "averages['odd']: its weight at update 1, -0.25, must be in [0, 1]",
        ),
        (
            dict(averages=dict(odd=lambda t: math.nan)),
            "averages['odd']: its weight at update 1, nan, must be in [0, 1]",
        ),
    ],
)
def test_refuses_bad_runs(change, message):
    run = dict(schedule=0.1, averages={}, steps=3, batch_size=1) | change
    with pytest.raises(ValueError) as caught:
        inputs.per_update(**run)
    assert str(caught.value) == message


def test_records():
    assert_array_equal(inputs.records(None, 7), [7])
    assert_array_equal(inputs.records([5, 0, 7, 5], 7), [5, 0, 7, 5])
    assert_array_equal(inputs.records(range(3), 2), [0, 1, 2])
    for dtype in (np.uint8, np.int32, np.uint64):
        assert inputs.records(np.array([200], dtype), 200).dtype == np.int64


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "record=[] must be numbers of updates, integers, at least one"),
        (3, "record=3 must be numbers of updates, integers, at least one"),
        ([1.0], "record=[1.0] must be numbers of updates, integers, at least one"),
        ([[1]], "record=[[1]] must be numbers of updates, integers, at least one"),
        ([True], "record=[True] must be numbers of updates, integers, at least one"),
        ([1, 8, 9], "record: 8 must be from 0 to steps=7"),
        ([1, -1], "record: -1 must be from 0 to steps=7"),
    ],
)
def test_refuses_bad_records(record, message):
    with pytest.raises(ValueError) as caught:
        inputs.records(record, 7)
    assert str(caught.value) == message


def test_multipliers():
    found = inputs.multipliers([0, 1, 3])
    assert_array_equal(found, [0.0, 1.0, 3.0])
    assert found.dtype == np.float64


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ([], "rates=[] must be multipliers, at least one"),
        (2.0, "rates=2.0 must be multipliers, at least one"),
        (["a"], "rates=['a'] must be multipliers, at least one"),
        ([0.1, -0.5], "rates: -0.5 must be finite and >= 0"),
        ([math.inf], "rates: inf must be finite and >= 0"),
        ([math.nan], "rates: nan must be finite and >= 0"),
    ],
)
def test_refuses_bad_multipliers(rates, message):
    with pytest.raises(ValueError) as caught:
        inputs.multipliers(rates)
    assert str(caught.value) == message
