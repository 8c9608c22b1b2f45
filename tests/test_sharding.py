"""Meshes of eight devices, the rules, and steps that do not depend on the mesh."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from anytime_jax.training import compiling, recipe, sharding, state
from tests import small

P = jax.P
SPECS = {
    "embedding/table": P("tensor", "fsdp"),
    "layers/attention_norm/scale": P(None, None),
    "layers/attention/query/kernel": P(None, "fsdp", "tensor", None),
    "layers/attention/key/kernel": P(None, "fsdp", "tensor", None),
    "layers/attention/value/kernel": P(None, "fsdp", "tensor", None),
    "layers/attention/query_norm/scale": P(None, None),
    "layers/attention/key_norm/scale": P(None, None),
    "layers/attention/output/kernel": P(None, "tensor", None, "fsdp"),
    "layers/mlp_norm/scale": P(None, None),
    "layers/mlp/up/kernel": P(None, "fsdp", "tensor"),
    "layers/mlp/down/kernel": P(None, "tensor", "fsdp"),
    "final_norm/scale": P(None),
    "head/kernel": P("fsdp", "tensor"),
}
GATE = {"layers/mlp/gate/kernel": P(None, "fsdp", "tensor")}


def specs(layout):
    """The specs of a tree of shardings by the path of the leaf."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.spec
        for path, leaf in jax.tree.leaves_with_path(layout)
    }


@pytest.mark.parametrize(
    ("axes", "sizes"),
    [
        (dict(), (8, 1, 1)),
        (dict(fsdp=2), (4, 2, 1)),
        (dict(data=2, fsdp=-1, tensor=2), (2, 2, 2)),
        (dict(data=1, fsdp=4, tensor=2), (1, 4, 2)),
    ],
)
def test_mesh_shapes(axes, sizes):
    mesh = sharding.make_mesh(**axes)
    assert tuple(mesh.shape.items()) == tuple(zip(sharding.AXES, sizes, strict=True))


@pytest.mark.parametrize(
    "axes",
    [
        dict(data=3),
        dict(data=-1, fsdp=3),
        dict(data=-1, fsdp=-1),
        dict(data=0),
        dict(data=-2, fsdp=-4),
        dict(data=8, fsdp=2),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(axes):
    named = ", ".join(
        f"mesh.{axis}={axes.get(axis, default)}"
        for axis, default in zip(sharding.AXES, (-1, 1, 1), strict=True)
    )
    with pytest.raises(ValueError, match=f"{named} must .* the 8 devices"):
        sharding.make_mesh(**axes)


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_parameters_moments_and_averages_follow_the_rules(mlp):
    made = recipe.build(small.config(model__mlp=mlp, mesh__fsdp=2, mesh__tensor=2))
    shapes = jax.eval_shape(lambda: state.init(made.model, made.optimizer, 0))
    layout = sharding.shardings(made.mesh, shapes)
    expected = SPECS | (GATE if mlp == "swiglu" else {})
    assert specs(layout.params) == expected
    moments = [optax.tree.get(layout.optimizer, name) for name in ("mu", "nu")]
    averages = layout.weights()
    assert list(averages) == ["raw", "ema25", "uniform"]
    for tree in (*moments, *averages.values()):
        assert specs(tree) == expected
    counters = len(jax.tree.leaves(layout)) - 5 * len(expected)
    assert sum(spec == P() for spec in specs(layout).values()) == counters


def test_what_has_another_rank_than_its_rule_is_replicated():
    optimizer = optax.adafactor(0.1, min_dim_size_to_factor=4)
    shapes = jax.eval_shape(lambda: state.init(small.bigram(), optimizer, 0))
    layout = sharding.shardings(sharding.make_mesh(fsdp=2, tensor=2), shapes)
    factored = specs(optax.tree.get(layout.optimizer, "v_row"))
    assert factored == {"embedding/table": P(None), "head/kernel": P(None)}


def test_a_dimension_that_cannot_be_split_is_refused():
    shapes = jax.eval_shape(small.bigram(width=12).init, jax.random.key(0))
    with pytest.raises(
        ValueError, match=r"mesh.fsdp=8 .* 12 of embedding/table, of shape \(16, 12\)"
    ):
        sharding.shardings(sharding.make_mesh(fsdp=8), shapes)


def test_a_batch_that_cannot_be_split_is_refused():
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    sharding.check_batch("batch_size", 12, mesh)
    with pytest.raises(ValueError, match=r"batch_size=10 must be a multiple of the 4"):
        sharding.check_batch("batch_size", 10, mesh)


def test_only_the_rows_of_a_device_are_read_for_it():
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    tokens_BxL1 = np.arange(8 * 5, dtype=np.int32).reshape(8, 5)
    asked = []

    def read_rows(rows):
        asked.append(tokens_BxL1[rows].shape[0])
        return tokens_BxL1[rows]

    batch = sharding.place_batch(read_rows, (8, 5), mesh)
    np.testing.assert_array_equal(batch, tokens_BxL1)
    assert set(asked) == {2}
    for shard in batch.addressable_shards:
        data, fsdp, _ = np.argwhere(mesh.devices == shard.device)[0]
        assert shard.index[0].start == 2 * (2 * data + fsdp)


# Adam's quotient would blow up the rounding of gradients near 0.
CONFIG = small.config(optimizer__eps=1e-3)


@functools.cache
def fresh():
    made = recipe.build(CONFIG)
    init = jax.jit(lambda: state.init(made.model, made.optimizer, CONFIG.seed))
    return jax.device_get(init())


def two_steps(mesh):
    """Losses and state after two steps on a mesh, from the same state and batches."""
    made = dataclasses.replace(recipe.build(CONFIG), mesh=mesh)
    train_step, _, like = compiling.compile_steps(CONFIG, made)
    current = jax.device_put(fresh(), jax.tree.map(lambda leaf: leaf.sharding, like))
    tokens_NxBxL1 = np.random.default_rng(0).integers(16, size=(2, 8, 17))
    losses = []
    for tokens_BxL1 in tokens_NxBxL1.astype(np.int32):
        before = current
        batch = sharding.place_batch(tokens_BxL1.__getitem__, (8, 17), mesh)
        current, metrics = train_step(before, batch)
        losses.append(float(metrics["loss"]))
        # As before, so that nothing is compiled again and every buffer is donated.
        for leaf, to in zip(*map(jax.tree.leaves, (current, like)), strict=True):
            assert leaf.sharding == to.sharding
        # All but the last learning rate, a scalar that no step reads.
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before) if leaf.ndim)
    assert train_step._cache_size() == 1
    return losses, jax.device_get(current)


@pytest.fixture(scope="module")
def on_one_device():
    return two_steps(sharding.make_mesh(devices=jax.devices()[:1]))


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (1, 4, 2)])
def test_a_step_does_not_depend_on_the_mesh(on_one_device, sizes):
    axes = dict(zip(sharding.AXES, sizes, strict=True))
    losses, current = two_steps(sharding.make_mesh(**axes))
    expected_losses, expected = on_one_device
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        current,
        expected,
    )
