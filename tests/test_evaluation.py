"""Evaluation: the mean loss over fixed batches, for every set of weights."""

import itertools

import jax
import numpy as np
import optax
import pytest

from anytime_jax import averaging, models
from anytime_jax.training import evaluation, sharding, state
from tests import small

MODEL = small.bigram()
TOKENS_NxBxL1 = np.random.default_rng(0).integers(16, size=(3, 8, 13)).astype(np.int32)


@pytest.fixture(scope="module")
def evaluate():
    return jax.jit(evaluation.make_evaluate(MODEL))


def slow_loss(params, tokens_NxBxL1):
    """The mean cross-entropy, token by token in float64."""
    table_VxD = np.float64(params["embedding"]["table"])
    logits_VxV = table_VxD @ np.float64(params["head"]["kernel"])
    losses = [
        np.log(np.exp(logits_VxV[token]).sum()) - logits_VxV[token, target]
        for row in np.concatenate(tokens_NxBxL1)
        for token, target in itertools.pairwise(row)
    ]
    return np.mean(losses)


def test_raw_weights_and_averages_on_the_same_batches_in_one_dict(evaluate):
    averages = dict(half=averaging.ema(decay=0.5, debias=False), mean=lambda t: 0.0)
    optimizer = averaging.track(optax.sgd(0.5), averages)
    current = state.init(MODEL, optimizer, 0)
    for _ in range(2):
        grads = jax.tree.map(np.ones_like, current.params)
        _, opt_state = optimizer.update(grads, current.optimizer, current.params)
        current = current._replace(
            params=jax.tree.map(lambda leaf: leaf - 0.5, current.params),
            optimizer=opt_state,
        )
    weights = current.weights()
    losses = evaluation.losses(evaluate, weights, TOKENS_NxBxL1)
    assert list(losses) == ["raw", "half", "mean"]
    assert len(set(losses.values())) == 3
    for name, params in weights.items():
        assert isinstance(losses[name], float)
        np.testing.assert_allclose(
            losses[name], slow_loss(params, TOKENS_NxBxL1), rtol=1e-5
        )


def test_batches_that_are_split_over_devices(evaluate):
    params = MODEL.init(jax.random.key(0))
    mesh = sharding.make_mesh(data=4, fsdp=2)
    rows = TOKENS_NxBxL1.reshape(24, 13)
    split = sharding.place_batches(rows.__getitem__, TOKENS_NxBxL1.shape, mesh)
    assert {shard.data.shape for shard in split.addressable_shards} == {(3, 1, 13)}
    np.testing.assert_allclose(
        evaluate(params, split), slow_loss(params, TOKENS_NxBxL1), rtol=1e-5
    )


@pytest.mark.parametrize("memory_kind", ["device", "pinned_host"])
def test_averages_that_are_split_further_are_evaluated_by_the_same_program(memory_kind):
    mesh = sharding.make_mesh(data=4, fsdp=2)
    params = jax.device_get(MODEL.init(jax.random.key(0)))
    twice = jax.tree.map(lambda leaf: 2 * leaf, params)
    rules, split = (
        sharding.gradient_shardings(mesh, params, shard_state=further)
        for further in (False, True)
    )
    split = jax.tree.map(lambda to: to.with_memory_kind(memory_kind), split)
    weights = dict(
        raw=jax.device_put(params, rules),
        same=jax.device_put(params, split),
        twice=jax.device_put(twice, split),
    )
    # Of its own, so that what is compiled can be counted.
    evaluate = jax.jit(evaluation.make_evaluate(MODEL))
    rows = TOKENS_NxBxL1.reshape(24, 13)
    tokens = sharding.place_batches(rows.__getitem__, TOKENS_NxBxL1.shape, mesh)
    losses = evaluation.losses(evaluate, weights, tokens)
    assert evaluate._cache_size() == 1
    assert losses["same"] == losses["raw"]
    np.testing.assert_allclose(
        losses["twice"], slow_loss(twice, TOKENS_NxBxL1), rtol=1e-5
    )
    assert evaluation.distances(weights) == dict(same=0.0, twice=1.0)


def test_bfloat16_compute_gives_a_float32_loss_near_that_of_float32():
    sizes = dict(vocab_size=16, width=16, layers=1, heads=2)
    exact = models.decoder(**sizes)
    rounded = models.decoder(**sizes, compute_dtype="bfloat16")
    params = jax.jit(exact.init)(jax.random.key(0))
    one, other = (
        jax.jit(evaluation.make_evaluate(model))(params, TOKENS_NxBxL1)
        for model in (exact, rounded)
    )
    assert other.dtype == np.float32
    assert 0 < abs(float(other - one)) < 0.02
