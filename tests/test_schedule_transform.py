import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.dtypes import float0
from numpy.testing import assert_allclose, assert_array_equal

from anytime_jax import schedules

RATES = np.array([0.5, 0.25, 2.0, 0.125], np.float32)
TABLE = schedules.from_values(values=RATES)


@pytest.fixture(scope="module")
def transform():
    """scale_by of the table, with its update compiled once."""
    tx = schedules.scale_by(TABLE)
    return optax.GradientTransformation(tx.init, jax.jit(tx.update))


def test_before_the_first_update_the_rate_is_that_of_count_zero(transform):
    state = transform.init(jnp.ones(3))
    assert state._fields == ("count", "learning_rate")
    assert (int(state.count), float(state.learning_rate)) == (0, 0.5)


def test_what_is_logged_is_what_was_applied(transform):
    state = transform.init(jnp.ones(2))
    gradient_D = jnp.array([1.0, -4.0])
    for i, rate in enumerate(RATES):
        updates_D, state = transform.update(gradient_D, state)
        assert state.learning_rate == rate
        assert state.count == i + 1
        assert_array_equal(updates_D, -rate * gradient_D)


def test_equals_optax_scale_by_learning_rate():
    schedule = schedules.cosine(peak=3e-3, total_steps=5, warmup_steps=2)
    ours, theirs = schedules.scale_by(schedule), optax.scale_by_learning_rate(schedule)
    gradients = {"w": jnp.linspace(-1, 1, 7), "b": jnp.float32(2.0)}
    our_state, their_state = ours.init(gradients), theirs.init(gradients)
    for _ in range(6):
        our_updates, our_state = ours.update(gradients, our_state)
        their_updates, their_state = theirs.update(gradients, their_state)
        jax.tree.map(assert_array_equal, our_updates, their_updates)


def test_state_keeps_its_types_so_that_scan_can_carry_it():
    tx = schedules.scale_by(schedules.inverse_sqrt(peak=0.5, offset=3, warmup_steps=2))

    def step(state, gradient_D):
        updates_D, state = tx.update(gradient_D, state)
        return state, (updates_D, state.learning_rate)

    state = tx.init(jnp.ones(2))
    state, (updates_TxD, rates_T) = jax.lax.scan(step, state, jnp.ones((5, 2)))
    assert (state.count.dtype, state.count.shape) == (jnp.int32, ())
    assert (state.learning_rate.dtype, state.learning_rate.shape) == (jnp.float32, ())
    assert not state.count.weak_type and not state.learning_rate.weak_type
    assert state.count == 5
    assert_array_equal(updates_TxD, -np.stack([rates_T, rates_T], axis=1))


def test_init_works_on_abstract_parameters(transform):
    params = jax.ShapeDtypeStruct((3,), jnp.bfloat16)
    state = jax.eval_shape(transform.init, params)
    assert (state.count.dtype, state.count.shape) == (jnp.int32, ())
    assert (state.learning_rate.dtype, state.learning_rate.shape) == (jnp.float32, ())


def test_bfloat16_updates_stay_bfloat16_and_are_rounded_once():
    tx = schedules.scale_by(lambda count: 3e-3)  # bfloat16 has 0.0030059814
    gradient_D = jnp.linspace(1, 2, 129, dtype=jnp.bfloat16)
    updates_D, state = tx.update(gradient_D, tx.init(gradient_D))
    assert updates_D.dtype == jnp.bfloat16
    assert state.learning_rate == np.float32(3e-3)
    exact_D = -np.float32(3e-3) * np.asarray(gradient_D, np.float32)
    assert_array_equal(updates_D, exact_D.astype(jnp.bfloat16))
    rounded_rate_D = -jnp.bfloat16(3e-3) * gradient_D
    assert np.any(np.asarray(updates_D) != np.asarray(rounded_rate_D))


def test_mixed_types_and_shapes_are_kept(transform):
    gradients = {
        "half": jnp.ones((2, 3), jnp.float16),
        "scalar": jnp.float32(1),
        "complex": jnp.full(2, 1j),
        "masked": optax.MaskedNode(),
        "none": None,
    }
    updates, _ = transform.update(gradients, transform.init(gradients))
    assert jax.tree.structure(updates) == jax.tree.structure(gradients)
    jax.tree.map(lambda u, g: assert_array_equal(u, -g / 2), updates, gradients)
    types = jax.tree.map(lambda u: u.dtype, updates)
    assert types == jax.tree.map(lambda g: g.dtype, gradients)


def test_integer_parameters_do_not_move(transform):
    params = {"w": jnp.ones(2), "n": jnp.array([7, 8])}
    for n in (jnp.array([300, -300]), np.zeros(2, float0)):
        gradients = {"w": jnp.ones(2), "n": n}
        updates, _ = schedules.scale_by(TABLE).update(gradients, transform.init(params))
        assert updates["n"].dtype == n.dtype
        if n.dtype != float0:
            new_params = optax.apply_updates(params, updates)
            assert_array_equal(new_params["n"], params["n"])


def test_last_in_a_chain():
    schedule = schedules.linear(peak=0.5, total_steps=4)
    tx = optax.chain(optax.trace(decay=0.9), schedules.scale_by(schedule))
    params_D = jnp.array([1.0, 2.0])
    state, momentum_D, twin_D = tx.init(params_D), 0.0, np.array([1.0, 2.0])
    for count in range(4):
        updates_D, state = tx.update(params_D, state, params_D)
        params_D = optax.apply_updates(params_D, updates_D)
        momentum_D = 0.9 * momentum_D + twin_D
        twin_D = twin_D - 0.5 * (1 - count / 4) * momentum_D
        assert_allclose(params_D, twin_D, rtol=1e-5)
    rate = optax.tree_utils.tree_get(state, "learning_rate")
    assert rate == np.float32(0.5 * (1 - 3 / 4))


def test_ticks_once_per_applied_update_inside_multi_steps():
    tx = optax.MultiSteps(schedules.scale_by(TABLE), every_k_schedule=2)
    state, update = tx.init(jnp.ones(1)), jax.jit(tx.update)
    applied = []
    for _ in range(4):
        updates_D, state = update(jnp.ones(1), state)
        applied.append(float(updates_D[0]))
    assert applied == [0, -0.5, 0, -0.25]
    assert state.inner_opt_state.count == 2
    assert state.inner_opt_state.learning_rate == 0.25


def test_the_count_saturates(transform):
    last = 2**31 - 1
    state = schedules.ScaleByState(jnp.int32(last), jnp.float32(0))
    _, state = transform.update(jnp.ones(1), state)
    assert state.count == last
    assert state.learning_rate == RATES[-1]


def test_the_state_can_be_donated_without_touching_the_schedule():
    rate = jnp.float32(0.5)
    state = schedules.scale_by(lambda count: rate).init(jnp.ones(1))
    consume = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    consume(state)
    assert state.learning_rate.is_deleted()
    assert not rate.is_deleted()


def test_float64_is_logged_as_applied_and_float32_updates_stay_so():
    with jax.enable_x64(True):
        tx = schedules.scale_by(lambda count: 1e-3)
        gradients = {"f64": jnp.ones(1, jnp.float64), "f32": jnp.ones(1, jnp.float32)}
        updates, state = tx.update(gradients, tx.init(gradients))
        assert updates["f32"].dtype == jnp.float32
        assert updates["f64"][0] == -state.learning_rate == -1e-3


def test_a_schedule_must_be_callable():
    with pytest.raises(ValueError, match=r"schedule=0.003 must be a callable"):
        schedules.scale_by(3e-3)
