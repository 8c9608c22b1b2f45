"""What other code for averaging weights gets wrong, one test for each defect.

Found by reading the projects named; each test says what happens there, and would fail
on a copy of that code.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from anytime_jax import averaging
from anytime_jax.averaging import kernel, kernels, merging, read, track
from anytime_jax.training import evaluation, snapshots, state, store, watch
from tests import small

MEAN = dict(mean=averaging.uniform())


def _train(tx, params, steps, rate=0.1):
    """Steps of different gradients; returns the trajectory and the last state."""
    state, trajectory = tx.init(params), []
    update = jax.jit(tx.update)
    for step in range(steps):
        grads = rate * jnp.cos(jnp.arange(params.size) + step)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        trajectory.append(np.asarray(params, np.float64))
    return np.stack(trajectory), state


def test_reading_an_average_in_bfloat16_leaves_it_in_float32():
    """schedules-and-scaling: evaluation casts the accumulator itself, for good."""
    params = jnp.linspace(0.9, 1.1, 7)
    _, state = _train(track(optax.sgd(1.0), MEAN), params, 3)
    before = np.asarray(read(state, "mean"))
    cast = read(state, "mean", like=params.astype(jnp.bfloat16))
    assert cast.dtype == jnp.bfloat16
    assert read(state, "mean").dtype == jnp.float32
    np.testing.assert_array_equal(read(state, "mean"), before)


def test_power_averages_have_the_width_asked_for_whatever_the_interval():
    """ema-pytorch: beta of one step at every 10th; asked for 0.10 it gives 0.297."""
    steps = 4000
    positions = np.arange(1, steps + 1) / steps
    for every in (1, 10, 100):
        coefficients = kernel(averaging.power(sigma_rel=0.10), steps, every=every)
        center = coefficients @ positions
        width = np.sqrt(coefficients @ (positions - center) ** 2)
        np.testing.assert_allclose(width, 0.10, rtol=0.03)


def test_a_longer_interval_does_not_lengthen_the_memory():
    """NeMo, Lightning, ema-pytorch: no beta^k, so k changes the horizon k-fold."""
    for average in (averaging.ema(decay=0.999), averaging.age_ema(divisor=25)):
        ages = [kernels.mean_age(average, 6000, every=every) for every in (1, 10, 50)]
        np.testing.assert_allclose(ages[1:], ages[0], rtol=0.2)
        # The coefficients of whole intervals are those of their updates together.
        fine = kernel(average, 6000).reshape(-1, 50).sum(axis=1)
        coarse = kernel(average, 6000, every=50)[49::50]
        np.testing.assert_allclose(coarse, fine, rtol=1e-9, atol=1e-300)


def test_weights_follow_a_traced_count():
    """levanter: a Python branch and float() on the step, which is traced under jit."""
    for average in (
        averaging.age_ema(divisor=25),
        averaging.ema(decay=0.9),
        averaging.tail(start=3),
    ):
        under_jit = jax.jit(jax.vmap(average))(jnp.arange(1, 9))
        alone = [float(average(t)) for t in range(1, 9)]
        np.testing.assert_allclose(under_jit, alone, rtol=1e-6)


def test_the_mean_of_the_latest_is_a_mean_from_the_first_on_and_does_not_drift():
    """plainLM: p / k added to the whole first checkpoint; sliding sums drift."""
    rng = np.random.default_rng(0)
    trees = [rng.normal(size=3) * 10.0**scale for scale in (8, 8, 0, 0, 0)]
    for n in range(1, 6):
        count = min(n, 3)
        merged = merging.merge(trees[:n], merging.latest(n, count))
        np.testing.assert_allclose(merged, np.mean(trees[n - count : n], axis=0))


def test_decays_are_not_truncated():
    """algoperf: int(beta) makes 0.9 a 0, which averages nothing."""
    (average,) = averaging.build(dict(a=dict(name="ema", decay=0.9))).values()
    np.testing.assert_allclose(kernel(average, 60)[-2] / kernel(average, 60)[-1], 0.9)


def test_what_is_kept_shares_no_memory_with_the_weights():
    """LAWA: .cpu() of CPU tensors aliases the weights; queues are class attributes."""
    params = jnp.ones(5)
    txs = [track(optax.sgd(0.1), MEAN) for _ in range(2)]
    states = [tx.init(params) for tx in txs]
    buffers = [read(state, "mean").unsafe_buffer_pointer() for state in states]
    assert len({params.unsafe_buffer_pointer(), *buffers}) == 3
    tree = np.ones(5)
    merged = merging.merge([tree], [1.0])
    tree[:] = 7.0
    np.testing.assert_array_equal(merged, 1.0)


def test_a_merge_holds_weights_and_nothing_of_the_optimizer(tmp_path):
    """OLMo-core: the merge averages the optimizer's tensors too, unless told not to."""
    store.save_weights(tmp_path, 3, dict(w=jnp.ones(2)), dict(sequences=0))
    assert snapshots.stored_weights(tmp_path, 3) == ["raw"]
    assert not snapshots.has_optimizer(tmp_path, 3)


def test_the_weights_after_the_update_are_averaged():
    """praxis, init2winit: those before it, one step behind."""
    tx = track(optax.sgd(1.0), MEAN)
    trajectory, state = _train(tx, jnp.linspace(0.0, 1.0, 5), 4)
    np.testing.assert_allclose(read(state, "mean"), trajectory.mean(0), atol=1e-6)


def test_an_average_with_its_sign_flipped_is_warned_of():
    """ai-toolkit: the shadow grew twelvefold in 250 steps, and nothing watched it."""
    flipped = track(optax.sgd(0.1), dict(shadow=lambda t: -0.02))
    params = jnp.array([1.0, -2.0])
    state = flipped.init(params)
    step = jax.jit(lambda params, state, grads: flipped.update(grads, state, params))
    watched, lines = watch.Watch(3, dict(shadow=0)), []
    for t in range(1, 401):
        grads = params - 1 + 0.5 * jnp.sin(jnp.float32(t))
        updates, state = step(params, state, grads)
        params = optax.apply_updates(params, updates)
        if t % 40 == 0:
            weights = dict(raw=params, shadow=read(state, "shadow"))
            lines += watched.see(t, evaluation.distances(weights))
    assert lines and "the average shadow has moved away" in lines[0]


def test_every_average_has_a_key_of_its_own_and_starts_as_the_weights():
    """anytime-training, once: one metric for all of them, and other first weights."""
    averages = {f"ema{f}": averaging.age_ema(divisor=f) for f in (25, 50)} | MEAN
    model = small.bigram()
    first = state.init(model, track(optax.sgd(0.1), averages), seed=0)
    weights = first.weights()
    assert list(weights) == ["raw", *sorted(averages)]
    for tree in weights.values():
        jax.tree.map(np.testing.assert_array_equal, tree, first.params)
    tokens = np.zeros((1, 2, 5), np.int32)
    evaluate = jax.jit(evaluation.make_evaluate(model))
    assert list(evaluation.losses(evaluate, weights, tokens)) == list(weights)


def test_a_slow_average_does_not_start_from_zero():
    """init2winit: zeros, and no correction: the first average is 0.001 of a weight."""
    slow = dict(
        debiased=averaging.ema(decay=0.999),
        copied=averaging.ema(decay=0.999, debias=False),
    )
    trajectory, state = _train(track(optax.sgd(1.0), slow), jnp.full(4, 100.0), 1)
    for name in slow:
        np.testing.assert_allclose(read(state, name), trajectory[-1], rtol=2e-3)
