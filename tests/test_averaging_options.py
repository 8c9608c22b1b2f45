"""The options of `track`: bfloat16, time in tokens, the memory of the host, None."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from anytime_jax import averaging
from anytime_jax.averaging import kernel, read, track

CLOSED = {
    "uniform": averaging.uniform(),
    "ema25": averaging.age_ema(divisor=25),
    "power": averaging.power(gamma=2.5),
    "ema": averaging.ema(decay=0.99),
    "biased": averaging.ema(decay=0.99, debias=False),
    "tail": averaging.tail(start=40),
    "latest": averaging.latest(),
}
STEPS = 30


def _run(tx, initial, trajectory_TxP, tokens_T=None):
    """The state after parameters have gone through a trajectory."""

    def body(state, given):
        params, newest, tokens = given
        extra = {} if tokens_T is None else {"tokens": tokens}
        _, state = tx.update(newest - params, state, params, **extra)
        return state, None

    before_TxP = jnp.concatenate([initial[None], trajectory_TxP[:-1]])
    tokens = jnp.ones(len(before_TxP), jnp.int32) if tokens_T is None else tokens_T
    scan = jax.jit(lambda state, xs: jax.lax.scan(body, state, xs)[0])
    return scan(tx.init(initial), (before_TxP, trajectory_TxP, jnp.asarray(tokens)))


def _trajectory(steps=STEPS, size=5):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(steps, size)).cumsum(axis=0), jnp.float32)


@pytest.mark.parametrize("every", [1, 4])
def test_in_tokens_a_change_of_the_batch_size_leaves_the_kernel_exact(every):
    """As if every update were as many updates of one token, at the same weights."""
    tokens_T = np.repeat([2, 4, 7], STEPS // 3)
    trajectory_TxP, initial = _trajectory(), jnp.full(5, 9.0)
    tx = track(optax.identity(), CLOSED, every=every, time="tokens")
    state = _run(tx, initial, trajectory_TxP, tokens_T)
    last = STEPS // every * every
    # A tick stands for all updates since the one before.
    ticks = np.arange(STEPS)[:last] // every * every + every - 1
    seen = np.repeat(np.asarray(trajectory_TxP, np.float64)[ticks], tokens_T[:last], 0)
    for name, average in CLOSED.items():
        expected = np.full(5, 9.0)
        for t, theta in enumerate(seen, 1):
            expected = expected + float(average(t)) * (theta - expected)
        np.testing.assert_allclose(read(state, name), expected, rtol=2e-5, atol=2e-6)

        coefficients = kernel(average, STEPS, every=every, tokens=tokens_T)
        applied = coefficients @ np.asarray(trajectory_TxP, np.float64)
        applied += (1 - coefficients.sum()) * 9.0
        np.testing.assert_allclose(read(state, name), applied, rtol=2e-5, atol=2e-6)


def test_in_tokens_scale_free_averages_do_not_depend_on_the_batch_size():
    for name in ("uniform", "power"):
        np.testing.assert_allclose(
            kernel(CLOSED[name], STEPS, tokens=4096), kernel(CLOSED[name], STEPS)
        )
    # A fixed half-life in tokens is another one in updates.
    per_token = averaging.ema(decay=0.5 ** (1 / 4096))
    halves = kernel(averaging.ema(decay=0.5), STEPS)
    np.testing.assert_allclose(kernel(per_token, STEPS, tokens=4096), halves)


def test_time_in_tokens_goes_far_beyond_32_bits():
    steps, tokens = 2000, 2**30  # 2 * 10^12 in all
    trajectory_TxP = _trajectory(steps)
    averages = {name: CLOSED[name] for name in ("uniform", "ema25", "power")}
    averages["tail"] = averaging.tail(start=2**40)
    tx = track(optax.identity(), averages, time="tokens")
    state = _run(tx, jnp.zeros(5), trajectory_TxP, np.full(steps, tokens, np.int32))
    for name, average in averages.items():
        coefficients = kernel(average, steps, tokens=tokens)
        expected = coefficients @ np.asarray(trajectory_TxP, np.float64)
        np.testing.assert_allclose(read(state, name), expected, rtol=1e-4, atol=1e-4)


def test_tokens_are_asked_for_and_reach_the_inner_transformation():
    def update(updates, state, params=None, *, tokens=0):
        return updates, state + tokens

    inner = optax.GradientTransformationExtraArgs(lambda params: jnp.int32(0), update)
    tx = track(inner, dict(mean=averaging.uniform()), time="tokens")
    params = jnp.ones(2)
    state = tx.init(params)
    with pytest.raises(ValueError, match=r"tokens=None, .* call update\(.*tokens=numb"):
        tx.update(params, state, params)
    _, state = tx.update(params, state, params, tokens=7)
    assert state.inner == 7
    # Steps do not need them, and do not mind them.
    _, state = track(inner, {}).update(params, state, params, tokens=7)
    assert state.inner == 14


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(dtype="float16"), "dtype='float16' must be one of float32, float64"),
        (dict(time="epochs"), "time='epochs' must be one of steps, tokens"),
        (dict(memory_kind="disk"), "memory_kind='disk' must be one of device, pinned_"),
        (
            dict(dtype="bfloat16", compensated=True),
            "compensated=True and dtype='bfloat16' take the memory of dtype='float32'",
        ),
    ],
    ids=str,
)
def test_options_that_are_not_allowed(options, message):
    for make in (
        lambda: track(optax.sgd(0.1), dict(mean=averaging.uniform()), **options),
        lambda: averaging.start(jnp.ones(2), **options),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize("average", [averaging.polynomial(eta=3), lambda t: 1 / t])
def test_time_in_tokens_needs_a_closed_form(average):
    with pytest.raises(ValueError, match=r"averages\['mean'\]=.* has no closed form"):
        track(optax.sgd(0.1), dict(mean=average), time="tokens")


def test_bfloat16_averages_move_and_have_no_bias():
    """Where plain bfloat16 stays at its start."""
    steps, size = 6000, 400
    rng = np.random.default_rng(0)
    trajectory_TxP = jnp.asarray(1 + 0.05 * rng.normal(size=(steps, size)), jnp.float32)
    slow = dict(slow=averaging.ema(decay=0.999, debias=False), mean=averaging.uniform())
    tx = track(optax.identity(), slow, dtype="bfloat16")
    state = _run(tx, jnp.full(size, 0.5), trajectory_TxP)
    for name in slow:
        average = read(state, name)
        assert average.dtype == jnp.bfloat16
        exact = kernel(slow[name], steps) @ np.asarray(trajectory_TxP, np.float64)
        exact += (1 - kernel(slow[name], steps).sum()) * 0.5
        errors = np.asarray(average, np.float64) - exact
        # Roundings are undone as fast as the weights move away, and so their variance
        # is about the distance times half the step of bfloat16 below 1.
        expected = np.sqrt(0.04 * 2.0**-8 / 2)
        assert expected / 3 < np.std(errors) < 3 * expected
        assert abs(np.mean(errors)) < 5 * np.std(errors) / np.sqrt(size)


def test_the_noise_of_bfloat16_can_be_repeated_and_is_an_averages_own():
    trajectory_TxP, initial = _trajectory(size=1000), jnp.zeros(1000)
    two = dict(one=averaging.uniform(), other=averaging.uniform())
    states = [
        _run(track(optax.identity(), some, dtype="bfloat16"), initial, trajectory_TxP)
        for some in (two, two, dict(other=averaging.uniform()))
    ]
    np.testing.assert_array_equal(read(states[0], "one"), read(states[1], "one"))
    np.testing.assert_array_equal(read(states[0], "other"), read(states[2], "other"))
    assert np.mean(read(states[0], "one") == read(states[0], "other")) < 0.9


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("every", [1, 3])
def test_averages_on_the_host_are_those_on_the_devices(jitted, every):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    shard, replicate = (
        jax.NamedSharding(mesh, jax.P(*axes)) for axes in (["data"], [])
    )
    params = dict(
        w=jax.device_put(jnp.linspace(-1, 2, 16), shard),
        n=jax.device_put(jnp.arange(8), shard),
    )
    grads = dict(w=jnp.linspace(3, -1, 16), n=jnp.ones(8, jnp.int32))
    averages = dict(ema25=CLOSED["ema25"], kept=None)
    options = dict(every=every, compensated=True)
    results = {}
    for kind in ("device", "pinned_host"):
        tx = track(optax.identity(), averages, memory_kind=kind, **options)
        state, own = tx.init(params), params
        at_start = jax.tree.map(
            lambda leaf: leaf.sharding if leaf.ndim else replicate, state.averages
        )
        update = tx.update
        if jitted:
            layout = optax.EmptyState(), at_start
            update = jax.jit(
                tx.update,
                donate_argnums=1,
                out_shardings=(None, averaging.TrackState(*layout)),
            )
        for _ in range(5):
            updates, state = update(grads, state, own)
            own = optax.apply_updates(own, updates)
        for average in state.averages.values():
            for leaf in jax.tree.leaves((average.value, average.compensation)):
                assert leaf.sharding.memory_kind == kind
        assert read(state, "ema25")["w"].sharding == shard
        assert read(state, "ema25")["w"].sharding.memory_kind == "device"
        results[kind] = jax.device_get(read(state, "ema25"))
        np.testing.assert_array_equal(read(state, "kept")["w"], params["w"])
    np.testing.assert_array_equal(results["device"]["w"], results["pinned_host"]["w"])
    np.testing.assert_array_equal(results["pinned_host"]["n"], np.arange(8) + 5)


def test_a_backend_without_such_a_memory_says_so(monkeypatch):
    class Device:
        def addressable_memories(self):
            return [type("Memory", (), dict(kind="device"))]

    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    with pytest.raises(ValueError, match="'pinned_host' is not a memory of this back"):
        averaging.start(jnp.ones(2), memory_kind="pinned_host")


def test_none_keeps_an_average_as_it_is():
    before = track(optax.sgd(0.5), dict(mean=averaging.uniform()))
    params = jnp.array([1.0, 2.0])
    _, state = before.update(params, before.init(params), params)
    after = track(optax.sgd(0.5), dict(mean=None, new=averaging.uniform()))
    start = dict(state.averages, new=averaging.start(params))
    _, later = after.update(params, averaging.attach(state, start), params)
    jax.tree.map(
        np.testing.assert_array_equal, later.averages["mean"], state.averages["mean"]
    )
    np.testing.assert_array_equal(read(later, "new"), [0.5, 1.0])
