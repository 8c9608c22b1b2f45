"""One tick: what enters, how it is rounded, and what is not averaged."""

import jax
import jax.numpy as jnp
import numpy as np

from anytime_jax.averaging import mixing

KEY = jax.random.key(3)


def _round(values):
    return np.asarray(mixing.stochastic_round(values, KEY).astype(jnp.float32))


def test_stochastic_rounding_gives_a_neighbour():
    values = jax.random.normal(jax.random.key(0), (10_000,))
    values = values * 10.0 ** jax.random.uniform(KEY, (10_000,), minval=-20, maxval=20)
    rounded = _round(values)
    # bfloat16 is float32 without its lower 16 bits: neighbours towards and from zero.
    bits = np.asarray(values).view(np.uint32)
    towards = (bits & np.uint32(0xFFFF0000)).view(np.float32)
    away = ((bits & np.uint32(0xFFFF0000)) + np.uint32(0x10000)).view(np.float32)
    assert np.all((rounded == towards) | (rounded == away))
    assert 0.4 < np.mean(rounded == towards) < 0.6


def test_stochastic_rounding_has_no_bias():
    value = 1 + 0.3 * 2**-7  # three tenths of the way from 1 to its neighbour
    rounded = _round(jnp.full(100_000, value))
    # Five standard errors of the mean of so many coins.
    error = 5 * 2**-7 * np.sqrt(0.3 * 0.7 / 100_000)
    np.testing.assert_allclose(np.mean(rounded, dtype=np.float64), value, atol=error)
    np.testing.assert_allclose(_round(-jnp.full(100, 1.5)), -1.5)


def test_what_bfloat16_can_express_stays_as_it_is():
    values = jnp.array([0.0, 1.0, -0.15625, 2.0**100, jnp.inf, -jnp.inf, jnp.nan])
    np.testing.assert_array_equal(_round(values), values)
    every_bit = jax.lax.bitcast_convert_type(jnp.uint32(0xFFFFFFFF), jnp.float32)
    assert np.isnan(_round(every_bit))


def _mix(value, newest, share, compensation=()):
    return mixing.mix(value, compensation, newest, jnp.float32(share), KEY)


def test_a_share_of_1_is_the_newest_weights_exactly():
    value = jax.random.normal(KEY, (1000,)) * 1e4
    newest = jax.random.normal(jax.random.key(1), (1000,))
    mixed, lost = _mix([value], [newest], 1.0, [jnp.ones(1000)])
    np.testing.assert_array_equal(mixed[0], newest)
    np.testing.assert_array_equal(lost[0], 0.0)


def test_a_compensation_holds_what_rounding_lost():
    value, newest = [jnp.float32(1.0)], [jnp.float32(1 + 2.0**-20)]
    mixed, lost = _mix(value, newest, 2.0**-6, [jnp.float32(0.0)])
    assert mixed[0] == 1.0 and lost[0] == -(2.0**-26)
    mixed, lost = _mix(value, newest, 2.0**-6)
    assert mixed[0] == 1.0 and lost == ()


def test_leaves_of_one_average_are_rounded_independently():
    ones = [jnp.ones(1000, jnp.bfloat16)] * 2
    (one, other), _ = _mix(ones, [jnp.full(1000, 1 + 2.0**-7)] * 2, 0.5)
    assert 0.4 < jnp.mean(one == 1) < 0.6
    assert 0.4 < jnp.mean(one == other) < 0.6


def test_between_ticks_only_what_is_no_float_follows():
    value = dict(w=jnp.ones(2), seen=jnp.int32(1))
    newest = dict(w=jnp.zeros(2), seen=jnp.int32(2))
    followed = mixing.follow(value, newest)
    np.testing.assert_array_equal(followed["w"], 1.0)
    assert followed["seen"] == 2
