"""Time in tokens: as exact as Python's integers, as far as a float can say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anytime_jax.averaging import clock


@pytest.mark.parametrize("largest", [5, 10**5, 2**30])
def test_a_clock_counts_as_integers_do(largest):
    tokens_T = np.random.default_rng(0).integers(1, largest + 1, size=3000)
    ticks_T = np.random.default_rng(1).random(3000) < 0.1

    def step(carry, given):
        tokens, ticks = given
        carry = clock.advance(carry, tokens)
        seen = clock.now(carry), clock.since_tick(carry)
        return jnp.where(ticks, clock.tick(carry), carry), seen

    given = jnp.asarray(tokens_T, jnp.int32), jnp.asarray(ticks_T)
    _, (now_T, since_T) = jax.lax.scan(step, clock.zero(), given)
    total = since = 0
    for index, tokens in enumerate(tokens_T.tolist()):
        total, since = total + tokens, since + tokens
        np.testing.assert_allclose(now_T[index], total, rtol=1.2e-7)
        # As exact as the sum, however much larger the time is than the difference.
        np.testing.assert_allclose(since_T[index], since, rtol=1.2e-7)
        since = 0 if ticks_T[index] else since


def test_a_small_difference_at_a_large_time_is_exact():
    time = clock.tick(clock.zero())
    for _ in range(2000):
        time = clock.advance(time, 2**30)
    time = clock.tick(time)
    assert float(clock.now(time)) == 2000 * 2**30  # beyond 10^12
    assert clock.since_tick(clock.advance(time, 4097)) == 4097


@pytest.mark.parametrize("tokens", [0, -1, 2**30 + 1, 3.5])
def test_a_number_of_tokens_that_is_not_possible(tokens):
    with pytest.raises(
        ValueError, match=f"tokens={tokens} must be an integer between 1 and"
    ):
        clock.check(tokens)


def test_tokens_are_needed():
    with pytest.raises(ValueError, match=r"tokens=None, but .* time is in tokens"):
        clock.check(None)
