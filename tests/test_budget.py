"""What is planned against real arrays, formulas, and what a compiler makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anytime_jax.training import budget, compiling, step
from anytime_jax.training import state as state_lib
from tests import small

MESHES = ((8, 1, 1), (2, 2, 2), (1, 8, 1))


def plan(sizes=(8, 1, 1), **overrides):
    data, fsdp, tensor = sizes
    mesh = dict(mesh__data=data, mesh__fsdp=fsdp, mesh__tensor=tensor)
    return budget.Budget(small.config(**mesh, **overrides), jax.devices())


@pytest.mark.parametrize("sizes", MESHES)
@pytest.mark.parametrize("shard_state", [False, True])
def test_state_bytes_are_those_of_real_arrays(sizes, shard_state):
    made = plan(sizes, shard_state=shard_state, tracking__compensated=True)
    _, _, like = compiling.compile_steps(made.config, made.recipe)
    real = jax.tree.map(
        lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding),
        like,
    )

    def held(tree):
        return sum(
            shard.data.nbytes
            for leaf in jax.tree.leaves(tree)
            for shard in leaf.addressable_shards
            if shard.device == jax.devices()[0]
        )

    found = made.memory()
    optimizer, averages = state_lib.averaging.detach(real.optimizer)
    assert found.parameters == held(real.params)
    assert found.optimizer == held((real.step, optimizer))
    assert found.averages == {name: held(one) for name, one in averages.items()}
    assert found.state == held(real)
    # A compensation is a second copy.
    copies = 2 / 8 if shard_state else 2
    assert max(found.averages.values()) > copies * found.parameters


@pytest.mark.parametrize(
    "overrides",
    [
        dict(sequence_length=24),
        dict(
            model__mlp="swiglu",
            model__norm="rmsnorm",
            model__heads=1,
            batch_size=24,
            accumulation=3,
        ),
    ],
)
def test_activations_are_what_a_real_backward_pass_keeps(overrides):
    made = plan(model__compute_dtype="bfloat16", **overrides)
    model, length = made.recipe.model, made.config.sequence_length
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    tokens = jnp.zeros((1, length + 1), jnp.int32)  # one row a device

    @jax.jit
    def run(params, tokens):
        return jax.vjp(lambda params: step.loss(model, params, tokens), params)

    weights = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(params)}
    _, backward = run(params, tokens)
    kept = {leaf.unsafe_buffer_pointer(): leaf for leaf in jax.tree.leaves(backward)}
    expected = sum(kept[one].nbytes for one in kept if one not in weights)
    assert made.memory().activations == expected


def test_what_is_kept_is_split_over_tensor_by_heads_hidden_units_and_vocabulary():
    made = plan((4, 1, 2), batch_size=28, model__vocab_size=64)
    R, L, N, D, H, K, F, V = 28 // 4, 16, 2, 16, 2, 8, 64, 64
    T = R * L
    # Of each norm: input, centered and normed input, output, and four statistics.
    norm = (4 * D + 4) * T + D
    # Of query and key: products, their norms, turned; then value and output.
    heads = (10 * H * K + 2 * 4 * H) * T
    # Exponentials and probabilities, their maximum and sum; and the mask of the logits.
    probabilities = 2 * H * R * L * L + 2 * H * T
    mask = H * R * L * L * (4 + 1)
    hidden = 4 * F * T  # up, erf, its cumulative distribution, down's input
    whole = 4 * (N * (2 * norm + 2 * K) + norm + L * K + 3 * T + 1) + T
    split = 4 * (N * (heads + probabilities + hidden) + V * T) + mask
    assert made.memory().activations == whole + split // 2


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_flops_are_those_of_the_formula(remat, accumulation):
    made = plan((4, 1, 2), model__remat=remat, accumulation=accumulation)
    T, L, N, D, F, V = 8 * 16, 16, 2, 16, 64, 16
    weights, scores = N * (4 * D * D + 2 * D * F), 2 * N * L * D
    expected = 6 * (weights + V * D + scores) * T
    if remat:  # the layers once more, but for their last product
        expected += 2 * (weights - N * D * F + scores) * T
    assert made.flops == expected


def test_a_loop_of_unknown_length_is_refused():
    def apply(params, tokens):
        logits = small.bigram().apply(params, tokens)
        return jax.lax.while_loop(
            lambda x: x[0, 0, 0] > 0, lambda x: x @ jnp.eye(16), logits
        )

    jaxpr = jax.make_jaxpr(apply)(
        small.bigram().init(jax.random.key(0)), jnp.zeros((1, 4), jnp.int32)
    )
    with pytest.raises(ValueError, match="a loop of unknown length"):
        budget._flops(jaxpr.jaxpr)


def test_meshes_are_all_that_divide_the_run():
    made = plan()
    found = [tuple(mesh.shape.values()) for mesh in made.meshes()]
    # Two heads; eight rows.
    assert found == [
        *((8, 1, 1), (4, 2, 1), (2, 4, 1), (1, 8, 1)),
        *((4, 1, 2), (2, 2, 2), (1, 4, 2)),
    ]
    states = [made.memory(mesh).state for mesh in made.meshes()]
    assert states[:4] == sorted(states[:4], reverse=True)


def test_what_an_average_moves():
    made = plan(tracking__every=4)
    weights, average = made.memory().parameters, made.memory().averages["ema25"]
    assert made.moved_bytes()["ema25"] == (weights + 2 * average) / 4
    spread = plan(shard_state=True)
    assert spread.moved_bytes()["ema25"] < 1.2 * (weights + 2 * average) / 8


def test_averages_on_the_host_take_none_of_the_device():
    there, here = plan(tracking__memory_kind="pinned_host").memory(), plan().memory()
    assert there.averages == here.averages
    assert there.total == here.total - sum(here.averages.values())


@pytest.fixture(scope="module")
def compiled():
    """What is planned and compiled, on meshes that split only rows."""
    wide = dict(model__width=64, sequence_length=32, batch_size=32)
    made = [plan(sizes, **wide) for sizes in ((8, 1, 1), (1, 8, 1))]
    return [(one, one.compile()) for one in made]


def test_the_compiler_holds_the_same_state(compiled):
    for made, found in compiled:
        batch = 4 * 33 * 4
        # What is overwritten before it is read is no argument.
        assert 0 <= made.memory().state + batch - found.state <= 8
        assert found.total == found.state + found.temporaries


def test_a_gradient_is_reduced_once(compiled):
    made, found = compiled[0]
    _, size = found.sent["all-reduce"]
    gradient = 2 * 7 / 8 * made.memory().gradient
    assert gradient <= size < 1.001 * gradient + 1000


def test_devices_of_fsdp_have_their_own_rows(compiled):
    """Left alone the compiler would split the weights, and not the rows."""
    (_, data), (_, fsdp) = compiled
    assert fsdp.temporaries < 1.5 * data.temporaries
