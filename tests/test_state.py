"""The state before the first update, and the sets of weights that it holds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from anytime_jax import averaging, models
from anytime_jax.training import sharding, state
from tests import small

AVERAGES = dict(ema25=averaging.age_ema(divisor=25), mean=averaging.uniform())
MODEL = models.decoder(vocab_size=16, width=16, layers=2, heads=2)
OPTIMIZER = averaging.track(optax.adam(0.1), AVERAGES)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module")
def initial():
    return jax.jit(lambda: state.init(MODEL, OPTIMIZER, 0))()


def test_every_set_of_weights_starts_as_the_models_and_has_its_own_buffers(initial):
    weights = initial.weights()
    assert list(weights) == ["raw", "ema25", "mean"]
    params = jax.jit(MODEL.init)(jax.random.key(0))
    buffers = set()
    for tree in weights.values():
        assert_same(tree, params)
        buffers |= {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)}
    # Shared buffers could not be donated.
    assert len(buffers) == 3 * len(jax.tree.leaves(params))
    assert initial.step.dtype == jnp.int32
    assert initial.step == 0


def test_without_averages_there_are_the_raw_weights():
    shapes = jax.eval_shape(lambda: state.init(MODEL, optax.adam(0.1), 0))
    assert list(shapes.weights()) == ["raw"]


def test_the_same_values_on_every_mesh(initial):
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    layout = sharding.shardings(mesh, jax.eval_shape(lambda: initial))
    split = jax.jit(lambda: state.init(MODEL, OPTIMIZER, 0), out_shardings=layout)()
    assert_same(split, initial)


def test_another_seed_gives_other_weights():
    model = small.bigram()
    seeds = [state.init(model, optax.sgd(0.1), seed).params for seed in (0, 1)]
    assert_same(seeds[1], model.init(jax.random.key(1)))
    zero, one = (params["head"]["kernel"] for params in seeds)
    assert not np.array_equal(zero, one)
