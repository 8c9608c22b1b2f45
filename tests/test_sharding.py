"""Meshes of eight devices, the rules, and steps that do not depend on the mesh."""

import dataclasses
import functools
import itertools
import math

import jax
import numpy as np
import optax
import pytest

from anytime_jax import averaging
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
    ("axes", "product"),
    [
        (dict(data=3), ", not to 3"),
        (dict(data=-1, fsdp=3), ""),
        (dict(data=-1, fsdp=-1), ""),
        (dict(data=0), ""),
        (dict(data=-2, fsdp=-4), ""),
        (dict(data=8, fsdp=2), ", not to 16"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(axes, product):
    named = ", ".join(
        f"mesh.{axis}={axes.get(axis, default)}"
        for axis, default in zip(sharding.AXES, (-1, 1, 1), strict=True)
    )
    with pytest.raises(ValueError, match=f"{named} must .* the 8 devices{product}$"):
        sharding.make_mesh(**axes)


def state_shapes(**overrides):
    """The mesh of a config, and the shapes of its state with compensated averages."""
    made = recipe.build(small.config(tracking__compensated=True, **overrides))
    return made.mesh, jax.eval_shape(lambda: state.init(made.model, made.optimizer, 0))


def followers(tree):
    """What is shaped like the parameters in a state: moments, averages, lost bits."""
    _, averages = averaging.detach(tree.optimizer)
    moments = [optax.tree.get(tree.optimizer, name) for name in ("mu", "nu")]
    assert list(averages) == ["ema25", "uniform"]
    values = [[average.value, average.compensation] for average in averages.values()]
    return [*moments, *itertools.chain(*values)]


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_parameters_moments_and_averages_follow_the_rules(mlp):
    mesh, shapes = state_shapes(model__mlp=mlp, mesh__fsdp=2, mesh__tensor=2)
    layout = sharding.shardings(mesh, shapes)
    expected = SPECS | (GATE if mlp == "swiglu" else {})
    assert specs(layout.params) == expected
    for tree in followers(layout):
        assert specs(tree) == expected
    counters = len(jax.tree.leaves(layout)) - 7 * len(expected)
    assert sum(spec == P() for spec in specs(layout).values()) == counters
    gradients = sharding.gradient_shardings(mesh, shapes.params)
    assert specs(gradients) == expected


# Width 16, vocabulary 16, 2 layers, 2 heads of 8, mlp 64: the longest dimension that a
# device has and that the data axis divides.
SPREAD = {
    (8, 1, 1): {
        "embedding/table": P(("tensor", "data"), "fsdp"),
        "layers/attention_norm/scale": P(None, "data"),
        "layers/attention/query/kernel": P(None, ("fsdp", "data"), "tensor", None),
        "layers/attention/output/kernel": P(None, "tensor", None, ("fsdp", "data")),
        "layers/attention/query_norm/scale": P(None, "data"),
        "layers/mlp/up/kernel": P(None, "fsdp", ("tensor", "data")),
        "final_norm/scale": P("data"),
        "head/kernel": P(("fsdp", "data"), "tensor"),
    },
    (2, 2, 2): {
        "embedding/table": P(("tensor", "data"), "fsdp"),
        "layers/attention/query/kernel": P(None, ("fsdp", "data"), "tensor", None),
        "layers/attention/query_norm/scale": P(None, "data"),
        "layers/mlp/up/kernel": P(None, "fsdp", ("tensor", "data")),
    },
    (2, 4, 1): {
        "embedding/table": P(("tensor", "data"), "fsdp"),
        "layers/attention/query/kernel": P(None, "fsdp", "tensor", "data"),
        "layers/attention/output/kernel": P(None, "tensor", "data", "fsdp"),
    },
}


@pytest.mark.parametrize("sizes", SPREAD)
def test_state_is_split_over_data_too_where_data_divides_it(sizes):
    axes = dict(zip(sharding.AXES, sizes, strict=True))
    mesh, shapes = state_shapes(mesh=axes)
    layout = sharding.shardings(mesh, shapes, shard_state=True)
    assert specs(layout.params) == SPECS
    gradients = sharding.gradient_shardings(mesh, shapes.params, shard_state=True)
    assert SPREAD[sizes].items() <= specs(gradients).items()
    for tree in followers(layout):
        assert specs(tree) == specs(gradients)

    def held(layout, shapes):
        return [
            math.prod(to.shard_shape(leaf.shape))
            for to, leaf in zip(*map(jax.tree.leaves, (layout, shapes)), strict=True)
        ]

    # All of this model can be split; counters cannot.
    whole = held(sharding.shardings(mesh, shapes).optimizer, shapes.optimizer)
    parts = held(layout.optimizer, shapes.optimizer)
    for size, part in zip(whole, parts, strict=True):
        assert part == (size if size == 1 else size // sizes[0])


def test_what_data_does_not_divide_stays_as_the_rules_have_it():
    shapes = dict(
        optimizer={
            "head": {"kernel": jax.ShapeDtypeStruct((6, 10), "float32")},
            "scale": jax.ShapeDtypeStruct((3, 12), "float32"),
            "clock": jax.ShapeDtypeStruct((4, 4), "int32"),
            "empty": jax.ShapeDtypeStruct((0, 3), "float32"),
        },
        other=jax.ShapeDtypeStruct((8,), "float32"),
    )
    mesh = sharding.make_mesh(data=4, tensor=2)
    assert specs(sharding.shardings(mesh, shapes, shard_state=True)) == {
        "optimizer/head/kernel": P("fsdp", "tensor"),
        "optimizer/scale": P(None, "data"),
        "optimizer/clock": P(None, None),
        "optimizer/empty": P(None, None),
        "other": P(None),
    }


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


READS = [
    ((1, 1, 8), [(0, 8)]),
    ((2, 2, 2), [(0, 2), (2, 4), (4, 6), (6, 8)]),
    ((2, 1, 4), [(0, 4), (4, 8)]),
]


@pytest.mark.parametrize(("sizes", "expected"), READS)
def test_rows_are_read_for_their_devices_and_once(sizes, expected):
    mesh = sharding.make_mesh(**dict(zip(sharding.AXES, sizes, strict=True)))
    tokens_BxL1 = np.arange(8 * 5, dtype=np.int32).reshape(8, 5)
    asked = []

    def read_rows(rows):
        asked.append((rows.start, rows.stop))
        return tokens_BxL1[rows]

    batch = sharding.place_batch(read_rows, (8, 5), mesh)
    np.testing.assert_array_equal(batch, tokens_BxL1)
    assert sorted(asked) == expected
    like = sharding.batch_like((8, 5), mesh)
    assert (batch.dtype, batch.sharding) == (like.dtype, like.sharding)
    for shard in batch.addressable_shards:
        data, fsdp, _ = np.argwhere(mesh.devices == shard.device)[0]
        start, stop = expected[data * sizes[1] + fsdp]
        np.testing.assert_array_equal(shard.data, tokens_BxL1[start:stop])


@pytest.mark.parametrize(("sizes", "expected"), READS)
def test_rows_of_many_batches_are_read_for_their_devices_and_once(sizes, expected):
    mesh = sharding.make_mesh(**dict(zip(sharding.AXES, sizes, strict=True)))
    tokens_NxBxL1 = np.arange(3 * 8 * 5, dtype=np.int32).reshape(3, 8, 5)
    asked = []

    def read_rows(rows):
        asked.append((rows.start, rows.stop))
        return tokens_NxBxL1.reshape(24, 5)[rows]

    placed = sharding.place_batches(read_rows, (3, 8, 5), mesh)
    np.testing.assert_array_equal(placed, tokens_NxBxL1)
    each = [(8 * n + a, 8 * n + b) for n in range(3) for a, b in expected]
    assert sorted(asked) == each
    rows = {shard.data.shape[1] for shard in placed.addressable_shards}
    assert rows == {8 // len(expected)}


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


def test_two_steps_do_not_depend_on_the_mesh():
    """Moment by moment; a hundred steps on other meshes are in test_meshes."""
    expected_losses, expected = two_steps(sharding.make_mesh(devices=jax.devices()[:1]))
    losses, current = two_steps(sharding.make_mesh(data=1, fsdp=4, tensor=2))
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        current,
        expected,
    )
