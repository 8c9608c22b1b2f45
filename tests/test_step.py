"""One update: its loss, its accumulation, what it applies and what it reports."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from anytime_jax import averaging, models
from anytime_jax.training import recipe, state, step
from tests import small

MODEL = small.bigram()
TOKENS_BxL1 = np.random.default_rng(0).integers(16, size=(8, 13)).astype(np.int32)
NO_CLIPPING = 1e9


def make(optimizer, schedule=lambda count: 0.1, clip_norm=NO_CLIPPING, averages=None):
    config = small.config(optimizer=optimizer, clip_norm=clip_norm)
    return recipe.make_optimizer(config, schedule, averages or {})


def states(optimizer, updates, accumulation=1):
    """The states and the metrics of some updates, all on the same batch."""
    current = state.init(MODEL, optimizer, 0)
    train_step = jax.jit(step.make_step(MODEL, optimizer, accumulation))
    found, metrics = [current], []
    for _ in range(updates):
        current, outputs = train_step(current, TOKENS_BxL1)
        found.append(current)
        metrics.append(jax.device_get(outputs))
    return found, metrics


def assert_close(one, other, **tolerances):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **tolerances), one, other
    )


def test_the_loss_of_uniform_logits_is_the_log_of_the_vocabulary():
    flat = models.Model(
        MODEL.init, lambda params, tokens: jnp.zeros((*tokens.shape, 16)), 16
    )
    np.testing.assert_allclose(step.loss(flat, {}, TOKENS_BxL1), np.log(16), rtol=1e-6)


def test_the_loss_predicts_each_next_token():
    params = jax.tree.map(np.float64, MODEL.init(jax.random.key(0)))
    total = 0.0
    for row in TOKENS_BxL1:
        for token, target in itertools.pairwise(row):
            logits = params["embedding"]["table"][token] @ params["head"]["kernel"]
            total -= logits[target] - np.log(np.exp(logits).sum())
    expected = total / (8 * 12)
    actual = step.loss(MODEL, MODEL.init(jax.random.key(0)), TOKENS_BxL1)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("accumulation", [2, 8])
def test_accumulation_is_one_big_batch(accumulation):
    # Adam's quotient would blow up the rounding of gradients near 0.
    optimizer = make(dict(name="adam", eps=1e-3), clip_norm=0.1)
    whole, metrics = states(optimizer, 3)
    parts, metrics_of_parts = states(optimizer, 3, accumulation)
    assert_close(parts[-1], whole[-1], rtol=1e-4, atol=1e-6)
    assert_close(metrics_of_parts, metrics, rtol=1e-5)
    assert parts[-1].step == 3


def test_the_learning_rate_in_the_metrics_was_applied():
    optimizer = make(dict(name="sgd"), schedule=lambda count: 0.25 * (count + 1))
    found, metrics = states(optimizer, 3)
    assert [values["learning_rate"] for values in metrics] == [0.25, 0.5, 0.75]
    gradient = jax.jit(jax.grad(lambda params: step.loss(MODEL, params, TOKENS_BxL1)))
    for before, after, values in zip(found, found[1:], metrics, strict=False):
        rate, grads = values["learning_rate"], gradient(before.params)
        moved = jax.tree.map(lambda p, g, rate=rate: p - rate * g, before.params, grads)
        assert_close(after.params, moved, rtol=1e-5, atol=1e-6)


def test_the_gradient_norm_is_that_before_clipping():
    [free, after_free], [free_metrics] = states(make(dict(name="sgd")), 1)
    [clipped, after], [metrics] = states(make(dict(name="sgd"), clip_norm=1e-2), 1)
    distance = optax.tree.norm(optax.tree.sub(after.params, clipped.params))
    unclipped = optax.tree.norm(optax.tree.sub(after_free.params, free.params))
    assert metrics["grad_norm"] == free_metrics["grad_norm"] > 1e-2
    np.testing.assert_allclose(unclipped, 0.1 * metrics["grad_norm"], rtol=1e-4)
    np.testing.assert_allclose(distance, 0.1 * 1e-2, rtol=1e-3)


@pytest.mark.parametrize(
    "optimizer",
    [
        dict(name="sgd", momentum=0.9),
        dict(name="adamw", weight_decay=1e-3),
        dict(name="lion", b1=0.9),
        dict(name="adafactor", min_dim_size_to_factor=4),
    ],
    ids=lambda optimizer: optimizer["name"],
)
def test_optimizers_of_optax_train_by_name(optimizer):
    averages = dict(mean=averaging.uniform())
    found, metrics = states(make(optimizer, lambda count: 0.02, 1.0, averages), 12)
    assert metrics[-1]["loss"] < metrics[0]["loss"] - 0.05
    # The averages are those of the weights after each update.
    mean = jax.tree.map(
        lambda *leaves: np.mean(leaves, axis=0), *(one.params for one in found[1:])
    )
    assert_close(found[-1].weights()["mean"], mean, rtol=1e-4, atol=1e-6)
