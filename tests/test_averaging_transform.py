"""`track`: what it averages, how exactly, and what it leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from anytime_jax import averaging
from anytime_jax.averaging import kernel, read, track

AVERAGES = {
    "latest": averaging.latest(),
    "uniform": averaging.uniform(),
    "ema6_25": averaging.age_ema(divisor=6.25),
    "ema100": averaging.age_ema(divisor=100),
    "power": averaging.power(sigma_rel=0.2),
    "polynomial": averaging.polynomial(eta=3),
    "ema": averaging.ema(decay=0.9),
    "biased": averaging.ema(decay=0.9, debias=False),
    "tail": averaging.tail(start=20),
    "callable": lambda t: 9 / (9 + t),
}
TWO = dict(mean=averaging.uniform(), ema25=averaging.age_ema(divisor=25))


def _params():
    return dict(kernel=jnp.linspace(-1, 2, 6).reshape(2, 3), bias=jnp.float32(0.3))


def _step(tx):
    """One update under jit that donates what a training step donates."""

    def step(params, state, grads, **extra_args):
        updates, state = tx.update(grads, state, params, **extra_args)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


def _copy(tree):
    return jax.tree.map(jnp.copy, tree)


def _assert_trees_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.fixture(scope="module", params=[1, 3, 10])
def run(request):
    """61 updates of every average, and the trajectory that they saw."""
    every = request.param
    rng = np.random.default_rng(0)
    grads = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=(61, *leaf.shape)), jnp.float32),
        _params(),
    )
    tx = track(optax.sgd(0.1), AVERAGES, every=every)

    def step(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    initial = (_params(), tx.init(_params()))
    (_, state), trajectory = jax.jit(lambda c, g: jax.lax.scan(step, c, g))(
        initial, grads
    )
    return every, state, jax.tree.map(np.asarray, trajectory)


@pytest.mark.parametrize("name", AVERAGES)
def test_tracked_average_is_the_kernel_applied_to_the_trajectory(run, name):
    every, state, trajectory = run
    coefficients = kernel(AVERAGES[name], 61, every=every)

    def expected(initial, leaves):
        average = np.tensordot(coefficients, leaves.astype(np.float64), 1)
        return average + (1 - coefficients.sum()) * np.asarray(initial, np.float64)

    jax.tree.map(
        lambda actual, wanted: np.testing.assert_allclose(actual, wanted, atol=1e-6),
        read(state, name),
        jax.tree.map(expected, _params(), trajectory),
    )
    assert state.averages[name].count == 61


def test_uniform_is_the_mean_of_the_trajectory(run):
    every, state, trajectory = run
    # Every tick stands for the updates since the last one: the ticks count alike.
    ticks = jax.tree.map(lambda leaves: leaves[every - 1 :: every], trajectory)
    jax.tree.map(
        lambda actual, leaves: np.testing.assert_allclose(
            actual, np.mean(leaves, axis=0, dtype=np.float64), atol=1e-6
        ),
        read(state, "uniform"),
        ticks,
    )


@pytest.mark.parametrize("compensated", [False, True])
@pytest.mark.parametrize("every", [1, 3])
def test_rate_0_leaves_every_average_equal_to_the_parameters(every, compensated):
    tx = track(optax.sgd(0.0), AVERAGES, every=every, compensated=compensated)
    params, state, step = _params(), tx.init(_params()), _step(tx)
    with jax.debug_nans(True):
        for _ in range(4):
            params, state = step(params, state, _params())
    for name in AVERAGES:
        _assert_trees_equal(read(state, name), _params())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_averages_the_post_update_weights_and_leaves_updates_alone(dtype):
    # So many that old + (new - old) would be a rounding off somewhere.
    keys = jax.random.split(jax.random.key(0))
    params, grads = (dict(w=jax.random.normal(key, (1000,), dtype)) for key in keys)
    inner = optax.adamw(0.7, weight_decay=0.1)
    tx = track(inner, dict(newest=averaging.latest()), every=2)
    state, expected_state = tx.init(params), inner.init(params)
    for _ in range(2):
        expected, expected_state = inner.update(grads, expected_state, params)
        updates, state = tx.update(grads, state, params)
        _assert_trees_equal(updates, expected)
        _assert_trees_equal(state.inner, expected_state)
        params = optax.apply_updates(params, updates)
    # bfloat16 weights are averaged as they are rounded, in float32.
    assert read(state, "newest")["w"].dtype == jnp.float32
    _assert_trees_equal(read(state, "newest", like=params), params)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("jitted", [False, True])
def test_donation_works_whatever_the_leaves(jitted, every):
    """No two buffers of parameters and averages are ever the same one."""
    params = dict(
        _params(), steps=jnp.int32(3), flag=jnp.array(True), key=jax.random.key(7)
    )
    inner = optax.masked(optax.sgd(0.1), jax.tree.map(_is_float, params))
    tx = track(inner, TWO, every=every, compensated=True)

    def step(params, state):
        # As jax.grad(allow_int=True) has it: float0 for what has no gradient.
        grads = jax.tree.map(
            lambda leaf: leaf if _is_float(leaf) else np.zeros((), jax.dtypes.float0),
            params,
        )
        updates, state = tx.update(grads, state, params)
        params = jax.tree.map(
            lambda leaf, update: leaf + update if _is_float(leaf) else leaf,
            params,
            updates,
        )
        return params, state

    state = (jax.jit(tx.init) if jitted else tx.init)(params)
    if not jitted:
        params, state = step(params, state)
    step = jax.jit(step, donate_argnums=(0, 1))
    for _ in range(3):
        given = [leaf for leaf in jax.tree.leaves(state.averages) if _is_float(leaf)]
        params, state = step(params, state)
        assert all(leaf.is_deleted() for leaf in given)
    # Whatever else uses and donates them together may do so.
    if not jitted:
        params, state = step.__wrapped__(params, state)
    params, state = jax.jit(_copy, donate_argnums=0)((params, state))
    _assert_trees_equal(read(state, "mean")["steps"], 3)
    assert read(state, "mean")["flag"]
    assert jax.random.key_data(read(state, "mean")["key"])[1] == 7


def _is_float(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.floating)


@pytest.mark.parametrize("every", [1, 3])
def test_leaves_that_are_not_floats_follow_the_newest(every):
    """Between ticks as well, and with integer updates as well."""
    params = dict(w=jnp.ones(2), seen=jnp.int32(0), on=jnp.array(False))
    tx = track(optax.identity(), TWO, every=every, compensated=True)
    state, update = tx.init(params), jax.jit(tx.update)
    for seen in range(1, 5):
        # The flag and the key change outside the optimizer.
        params = dict(params, on=jnp.array(seen % 2 == 1), key=jax.random.key(seen))
        if seen == 1:
            state = tx.init(params)
        grads = dict(w=jnp.ones(2), seen=jnp.int32(1), on=jnp.array(False))
        grads["key"] = np.zeros((), jax.dtypes.float0)
        updates, state = update(grads, state, params)
        params = dict(params, w=params["w"] + 1, seen=params["seen"] + updates["seen"])
        average = read(state, "ema25")
        assert average["seen"] == seen and average["seen"].dtype == jnp.int32
        assert average["on"] == (seen % 2 == 1) and average["on"].dtype == jnp.bool
        assert jax.random.key_data(average["key"])[1] == seen


@pytest.mark.parametrize("kind", ["auto", "explicit"])
@pytest.mark.parametrize("jitted", [False, True])
def test_state_keeps_the_parameters_sharding(kind, jitted):
    axis_type = dict(auto=jax.sharding.AxisType.Auto, explicit=None)[kind]
    axis_types = None if axis_type is None else (axis_type,) * 2
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=axis_types)
    shard = jax.NamedSharding(mesh, jax.P("data", "model"))
    replicate = jax.NamedSharding(mesh, jax.P(None))
    params = dict(
        w=jax.device_put(jnp.ones((8, 4), jnp.bfloat16), shard),
        b=jax.device_put(jnp.ones(3), replicate),
        n=jax.device_put(jnp.ones((8, 4), jnp.int32), shard),
    )
    tx = track(optax.sgd(0.1), TWO, every=2, compensated=True)
    init = jax.jit(tx.init) if jitted else tx.init
    with jax.set_mesh(mesh):
        state = init(params)
        for average in state.averages.values():
            for tree in (average.value, average.compensation):
                assert tree["w"].sharding == shard
                assert tree["b"].sharding.is_fully_replicated
            assert average.value["n"].sharding == shard
        before = jax.tree.map(_signature, (params, state))
        params, state = _step(tx)(params, state, _copy(params))
        params, state = _step(tx)(params, state, _copy(params))
    assert jax.tree.map(_signature, (params, state)) == before


def _signature(leaf):
    # The count of an eager init is on one device before it meets the mesh.
    sharding = leaf.sharding if leaf.ndim else None
    return str((leaf.shape, leaf.dtype, leaf.weak_type, sharding))


def test_init_and_update_can_be_traced_without_arrays():
    tx = track(optax.adam(0.1), TWO, every=2, compensated=True)
    shapes = jax.eval_shape(tx.init, _params())
    _, after = jax.eval_shape(tx.update, _params(), shapes, _params())
    signatures = [
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
        for tree in (shapes, after, tx.init(_params()))
    ]
    assert signatures[0] == signatures[1] == signatures[2]


def test_bfloat16_parameters_get_float32_averages_that_move():
    params = dict(w=jnp.full(3, 0.5, jnp.bfloat16))
    slow = dict(slow=averaging.ema(decay=0.9999, debias=False))
    tx = track(optax.sgd(-0.5), slow)
    state, step = tx.init(params), _step(tx)
    for _ in range(20):
        params, state = step(params, state, jax.tree.map(jnp.ones_like, params))
    average = read(state, "slow")["w"]
    assert average.dtype == jnp.float32
    trajectory = 0.5 + 0.5 * np.arange(1, 21)
    coefficients = kernel(slow["slow"], 20)
    expected = coefficients @ trajectory + (1 - coefficients.sum()) * 0.5
    # In bfloat16 it would have stayed at 0.5.
    np.testing.assert_allclose(average, expected, rtol=1e-6)
    assert read(state, "slow", like=params)["w"].dtype == jnp.bfloat16


def test_compensated_averages_stay_right_where_float32_does_not():
    """The published measurement: plain float32 is off by 4e-2 after 4e6 updates."""
    steps = 4_000_000

    def theta(t):
        return 1 + 0.1 * t / steps + 0.05 * (t % 2)

    txs = [track(optax.identity(), TWO, compensated=flag) for flag in (False, True)]

    @jax.jit
    def run(states):
        def body(t, states):
            return [
                tx.update(theta(t), state, jnp.float32(0.0))[1]
                for tx, state in zip(txs, states, strict=True)
            ]

        return jax.lax.fori_loop(1, steps + 1, body, states)

    plain, compensated = run([tx.init(jnp.float32(1.0)) for tx in txs])
    trajectory = theta(np.arange(1, steps + 1))
    for name, average in TWO.items():
        expected = kernel(average, steps) @ trajectory
        np.testing.assert_allclose(read(compensated, name), expected, rtol=1e-6)
    error = abs(read(plain, "mean") - trajectory.mean())
    np.testing.assert_allclose(error, 4e-2, rtol=0.1)


def test_float64_averages_need_and_use_x64():
    tx = track(optax.sgd(0.1), TWO, dtype="float64")
    with pytest.raises(ValueError, match="dtype='float64' is only allowed with"):
        tx.init(_params())
    with jax.enable_x64(True):
        params = dict(w=jnp.ones(2, jnp.float32))
        _, state = tx.update(params, tx.init(params), params)
        assert read(state, "mean")["w"].dtype == jnp.float64


@pytest.mark.parametrize(
    ("averages", "arguments", "message"),
    [
        (dict(raw=averaging.uniform()), {}, "the average's name 'raw' must match"),
        ({"EMA": averaging.uniform()}, {}, "name 'EMA' must match"),
        ({"a/b": averaging.uniform()}, {}, "name 'a/b' must match"),
        ({3: averaging.uniform()}, {}, "name 3 must match"),
        (dict(ema=0.999), {}, r"averages\['ema'\]=0.999 must be callable"),
        (TWO, dict(every=0), "every=0 must be an integer >= 1"),
        (TWO, dict(every=2.0), "every=2.0 must be an integer"),
    ],
)
def test_bad_arguments_are_named_in_one_line(averages, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        track(optax.sgd(0.1), averages, **arguments)
    assert "\n" not in str(error.value)


def test_parameters_are_needed():
    tx = track(optax.sgd(0.1), TWO)
    with pytest.raises(ValueError, match="params=None"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
