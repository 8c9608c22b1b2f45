"""`track` among other transformations, and on the trees of Flax and of plain Python."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from anytime_jax import averaging
from anytime_jax.averaging import read, track

TWO = dict(mean=averaging.uniform(), ema25=averaging.age_ema(divisor=25))


def _step(tx):
    """One update under jit that donates what a training step donates."""

    def step(params, state, grads, **extra_args):
        updates, state = tx.update(grads, state, params, **extra_args)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


def test_what_follows_in_a_chain_is_not_seen():
    first = optax.chain(track(optax.sgd(0.1), TWO), optax.scale(0.5))
    last = track(optax.chain(optax.sgd(0.1), optax.scale(0.5)), TWO)
    for tx, scale in ((first, 0.1), (last, 0.05)):
        updates, state = tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2))
        np.testing.assert_allclose(read(state, "mean"), 1 - scale, rtol=1e-6)
        np.testing.assert_allclose(updates, -0.05, rtol=1e-6)


def test_wraps_and_is_wrapped_by_inject_hyperparams():
    schedule = optax.linear_schedule(1.0, 0.0, 4)
    injected = optax.inject_hyperparams(optax.sgd)(learning_rate=schedule)
    outer = optax.inject_hyperparams(
        lambda learning_rate: track(optax.sgd(learning_rate), TWO)
    )
    expected = 5.0 - np.cumsum([1.0, 0.75, 0.5])
    for tx in (track(injected, TWO), outer(learning_rate=schedule)):
        params, step = jnp.float32(5.0), _step(tx)
        state = tx.init(params)
        for _ in range(3):
            params, state = step(params, state, jnp.float32(1.0))
        assert float(params) == expected[-1]
        np.testing.assert_allclose(read(state, "mean"), expected.mean(), rtol=1e-6)


def test_ticks_once_per_applied_update_inside_multisteps():
    grads = jnp.arange(8.0)
    inside = optax.MultiSteps(track(optax.sgd(0.1), TWO), every_k_schedule=4)
    params, state, step = jnp.float32(1.0), inside.init(jnp.float32(1.0)), _step(inside)
    for grad in grads:
        params, state = step(params, state, grad)
    trajectory = 1.0 - 0.1 * np.cumsum([1.5, 5.5])
    np.testing.assert_allclose(params, trajectory[-1], rtol=1e-6)
    np.testing.assert_allclose(read(state, "mean"), trajectory.mean(), rtol=1e-6)
    assert state.inner_opt_state.averages["mean"].count == 2


def test_gradients_accumulated_by_scan_tick_once():
    tx = track(optax.sgd(0.1), TWO)

    @jax.jit
    def step(params, state, xs):
        def accumulate(total, x):
            return total + jax.grad(lambda w: w * x)(params), None

        total, _ = jax.lax.scan(accumulate, jnp.float32(0.0), xs)
        updates, state = tx.update(total / len(xs), state, params)
        return optax.apply_updates(params, updates), state

    params, state = jnp.float32(1.0), tx.init(jnp.float32(1.0))
    for xs in jnp.arange(8.0).reshape(2, 4):
        params, state = step(params, state, xs)
    assert state.averages["mean"].count == 2
    trajectory = 1.0 - 0.1 * np.cumsum([1.5, 5.5])
    np.testing.assert_allclose(read(state, "mean"), trajectory.mean(), rtol=1e-6)


def test_a_rejected_update_does_not_tick():
    tx = optax.apply_if_finite(track(optax.sgd(0.1), TWO), max_consecutive_errors=5)
    params, state, step = jnp.float32(1.0), tx.init(jnp.float32(1.0)), _step(tx)
    for grad in (1.0, jnp.nan, 1.0):
        params, state = step(params, state, jnp.float32(grad))
    assert state.inner_state.averages["mean"].count == 2
    np.testing.assert_allclose(read(state, "mean"), 0.85, rtol=1e-6)


def test_extra_arguments_reach_the_inner_transformation():
    def update(updates, state, params=None, *, value, **extra_args):
        return jax.tree.map(lambda leaf: -value * leaf, updates), state

    inner = optax.GradientTransformationExtraArgs(lambda params: (), update)
    tx = track(inner, TWO)
    updates, state = tx.update(
        jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2), value=0.25, unknown=1
    )
    np.testing.assert_array_equal(updates, [-0.25, -0.25])
    np.testing.assert_array_equal(read(state, "mean"), [0.75, 0.75])
    # Inner transformations that take none are not given any.
    tx = track(optax.sgd(0.1), TWO)
    tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2), value=0.25)


class _Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x)


def _linen():
    return _Linen().init(jax.random.key(0), jnp.ones((1, 3)))["params"]


def _nnx():
    return nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param)


@pytest.mark.parametrize(
    "make",
    [_linen, _nnx, lambda: jnp.ones(3), lambda: (jnp.ones(3), [None, jnp.zeros(())])],
    ids=["linen", "nnx", "array", "tuple"],
)
@pytest.mark.parametrize("compensated", [False, True])
def test_any_pytree(make, compensated):
    tx = track(optax.sgd(0.5), TWO, compensated=compensated)
    params, state, step = make(), tx.init(make()), _step(tx)
    for _ in range(2):
        params, state = step(params, state, make())
    average = read(state, "mean", like=params)
    assert jax.tree.structure(average) == jax.tree.structure(params)
    # theta_1 = theta_0 / 2 and theta_2 = 0.
    jax.tree.map(
        lambda actual, start: np.testing.assert_allclose(actual, start / 4, atol=1e-7),
        average,
        make(),
    )


def test_an_nnx_module_with_its_integer_state():
    model = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    model.calls = nnx.Variable(jnp.int32(4))
    state_of_model = nnx.state(model)
    tx = track(optax.identity(), TWO)
    updates = jax.tree.map(jnp.ones_like, state_of_model)
    _, state = tx.update(updates, tx.init(state_of_model), state_of_model)
    nnx.update(model, read(state, "mean", like=state_of_model))
    assert model.calls[...] == 5 and model.calls[...].dtype == jnp.int32
    np.testing.assert_array_equal(model.scale[...], 2.0)
