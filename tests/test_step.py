"""One update: its loss, its accumulation, what it applies and what it reports."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from anytime_jax import averaging, models
from anytime_jax.training import recipe, sharding, state, step
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


def batches_with_a_bad_one():
    """Three batches; of the second a target is no token, and so the loss is NaN."""
    rng = np.random.default_rng(1)
    batches = rng.integers(16, size=(3, 8, 13)).astype(np.int32)
    batches[1, 3, 5] = 16
    return list(batches)


TRACKING = [
    dict(),
    dict(every=2, compensated=True),
    dict(every=2, memory_kind="pinned_host"),
    dict(time="tokens"),
]


@pytest.mark.parametrize("tracking", TRACKING, ids=str)
def test_a_skipped_update_changes_nothing_but_the_step(tracking):
    averages = dict(mean=averaging.uniform(), ema25=averaging.age_ema(divisor=25))
    config = small.config(tracking=small.config().tracking.to_dict() | tracking)
    optimizer = recipe.make_optimizer(config, lambda count: 0.1 / (1 + count), averages)
    train_step = jax.jit(step.make_step(MODEL, optimizer, 2, skip_nonfinite=True))

    def train(batches):
        current, metrics = jax.jit(lambda: state.init(MODEL, optimizer, 0))(), []
        for tokens_BxL1 in batches:
            current, outputs = train_step(current, tokens_BxL1)
            metrics.append(jax.device_get(outputs))
        return current, metrics

    first, bad, last = batches_with_a_bad_one()
    current, metrics = train([first, bad, bad, last])
    expected, expected_metrics = train([first, last])
    assert (int(current.step), int(expected.step)) == (4, 2)
    # Weights, moments, averages and all counts, bit by bit.
    jax.tree.map(np.testing.assert_array_equal, current[1:], expected[1:])
    assert int(averaging.detach(current.optimizer)[1]["mean"].count) == 2
    assert [values["skipped"] for values in metrics] == [0, 1, 1, 0]
    assert [metrics[0], metrics[3]] == expected_metrics
    assert np.isnan(metrics[1]["loss"])
    assert metrics[1]["learning_rate"] == metrics[0]["learning_rate"]
    assert metrics[1]["weight_norm"] == metrics[0]["weight_norm"]
    assert train_step._cache_size() == 1


def steep():
    """A model whose loss is finite at the start and whose gradient is not."""

    def init(rng):
        return MODEL.init(rng) | {"zero": jnp.zeros((1, 1, 16))}

    def apply(params, tokens_BxL):
        return MODEL.apply(params, tokens_BxL) + jnp.sqrt(params["zero"])

    return models.Model(init, apply, 16)


@pytest.mark.parametrize("skips", [False, True])
def test_a_gradient_that_is_not_finite_is_skipped_or_seen_in_the_metrics(skips):
    model, optimizer = steep(), make(dict(name="sgd"))
    start = state.init(model, optimizer, 0)
    made = step.make_step(model, optimizer, skip_nonfinite=skips)
    current, metrics = jax.jit(made)(start, TOKENS_BxL1)
    assert np.isfinite(metrics["loss"])
    assert not np.isfinite(metrics["grad_norm"])
    assert metrics.get("skipped") == (1 if skips else None)
    assert np.isfinite(metrics["weight_norm"]) == skips
    same = jax.tree.map(np.array_equal, current.params, start.params)
    assert all(jax.tree.leaves(same)) == skips


def test_gradients_and_what_follows_them_get_their_layout():
    mesh = sharding.make_mesh(data=4, fsdp=2)
    optimizer = make(dict(name="adam", eps=1e-3))
    start = state.init(MODEL, optimizer, 0)
    layout = sharding.gradient_shardings(mesh, start.params, shard_state=True)
    batch = sharding.place_batch(TOKENS_BxL1.__getitem__, (8, 13), mesh)
    start = jax.device_put(start, jax.NamedSharding(mesh, jax.P()))
    # With no other layout given, that of the gradient reaches the moments.
    train_step = jax.jit(step.make_step(MODEL, optimizer, gradient_layout=layout))
    current, metrics = train_step(start, batch)
    for name in ("mu", "nu"):
        moments = optax.tree.get(current.optimizer, name)
        for leaf, to in zip(*map(jax.tree.leaves, (moments, layout)), strict=True):
            assert leaf.sharding.is_equivalent_to(to, leaf.ndim)
    [_, expected], [expected_metrics] = states(optimizer, 1)
    assert_close(current, expected, rtol=1e-4, atol=1e-6)
    assert_close(metrics, expected_metrics, rtol=1e-5)
