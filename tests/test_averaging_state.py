"""Finding averages in nested optimizer states, and taking them out and back in."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from anytime_jax import averaging
from anytime_jax.averaging import attach, detach, read, track

TWO = dict(mean=averaging.uniform(), ema25=averaging.age_ema(divisor=25))


def _params():
    return dict(a=dict(u=jnp.ones(2), v=jnp.zeros(3)), b=jnp.full(2, 4.0))


def _nestings():
    tracked = track(optax.sgd(0.1), TWO)
    injected = optax.inject_hyperparams(lambda rate: track(optax.sgd(rate), TWO))
    return {
        "alone": tracked,
        "chain": optax.chain(optax.clip(1.0), optax.chain(tracked)),
        "injected": injected(rate=0.1),
        "multisteps": optax.MultiSteps(tracked, 1).gradient_transformation(),
        "masked": optax.masked(tracked, True),
        "finite": optax.apply_if_finite(tracked, 3),
        "labelled": optax.multi_transform(dict(x=tracked), "x"),
        "tracked": track(tracked, dict(other=averaging.latest())),
        "all": optax.MultiSteps(
            optax.chain(optax.masked(injected(rate=0.1), True)), 1
        ).gradient_transformation(),
    }


@pytest.mark.parametrize("name", _nestings())
def test_read_finds_an_average_in_any_nesting(name):
    tx = _nestings()[name]
    _, state = tx.update(_params(), tx.init(_params()), _params())
    expected = jax.tree.map(lambda leaf: 0.9 * leaf, _params())
    actual = read(state, "mean")
    if name == "chain":  # the clipping is seen, as it should be
        expected = dict(expected, b=jnp.full(2, 3.9))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), actual, expected
    )


def test_like_supplies_dtypes_and_fills_what_a_mask_left_out():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), _params())
    mask = dict(a=dict(u=True, v=False), b=False)
    tx = optax.masked(track(optax.sgd(0.1), TWO), mask)
    state = tx.init(params)
    bare = read(state, "mean")
    assert isinstance(bare["b"], optax.MaskedNode)
    assert bare["a"]["u"].dtype == jnp.float32
    like = jax.tree.map(lambda leaf: leaf + 7, params)
    full = read(state, "mean", like=like)
    assert jax.tree.map(lambda leaf: leaf.dtype.name, full) == jax.tree.map(
        lambda leaf: "bfloat16", params
    )
    np.testing.assert_array_equal(full["a"]["u"], [1, 1])  # the average
    np.testing.assert_array_equal(full["a"]["v"], [7, 7, 7])  # the hole
    np.testing.assert_array_equal(full["b"], [11, 11])


@pytest.mark.parametrize(
    "labels",
    [
        dict(a=dict(u="x", v="y"), b="x"),
        dict(a="x", b="y"),  # a whole subtree is missing from one of the two
        dict(a="y", b="x"),
    ],
)
def test_disjoint_masked_states_are_merged(labels):
    tx = optax.multi_transform(
        dict(x=track(optax.sgd(0.1), TWO), y=track(optax.sgd(0.2), TWO)), labels
    )
    _, state = tx.update(_params(), tx.init(_params()), _params())
    rates = dict(x=0.1, y=0.2)
    merged = read(state, "mean")
    assert jax.tree.structure(merged) == jax.tree.structure(_params())
    jax.tree.map(
        lambda label, average, leaves: jax.tree.map(
            lambda x, y: np.testing.assert_allclose(
                x, (1 - rates[label]) * y, rtol=1e-6
            ),
            average,
            leaves,
        ),
        labels,
        merged,
        _params(),
    )


def test_a_group_without_averages_is_a_hole_that_like_fills():
    tx = optax.multi_transform(
        dict(x=track(optax.sgd(0.1), TWO), frozen=optax.set_to_zero()),
        dict(a="x", b="frozen"),
    )
    state = tx.init(_params())
    assert isinstance(read(state, "mean")["b"], optax.MaskedNode)
    np.testing.assert_array_equal(read(state, "mean", like=_params())["b"], [4, 4])


def test_two_averages_of_the_same_parameters_under_one_name_are_refused():
    inner = track(optax.sgd(0.1), dict(mean=averaging.uniform()))
    overlapping = optax.chain(
        optax.masked(inner, dict(a=True, b=False)),
        optax.masked(inner, dict(a=dict(u=True, v=False), b=True)),
    )
    for tx in (track(inner, TWO), overlapping):
        with pytest.raises(ValueError, match="two states track the average 'mean'"):
            read(tx.init(_params()), "mean")
    # Another name in the same nesting is no match.
    assert read(track(inner, TWO).init(_params()), "ema25")["b"].shape == (2,)


@pytest.mark.parametrize(
    ("tx", "known"),
    [
        (
            track(track(optax.sgd(0.1), TWO), dict(z=averaging.latest())),
            "ema25, mean, z",
        ),
        (optax.adam(0.1), "none"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(tx, known):
    with pytest.raises(ValueError, match=f"no average 'ema'; known are {known}$"):
        read(tx.init(_params()), "ema")


def test_reading_leaves_the_accumulator_alone():
    tx = track(optax.sgd(0.1), TWO)
    state = tx.init(_params())
    read(state, "mean", like=jax.tree.map(lambda x: x.astype(jnp.bfloat16), _params()))
    assert all(
        leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(read(state, "mean"))
    )


def test_detached_averages_can_be_attached_and_training_goes_on_the_same():
    tx = optax.chain(optax.clip(1.0), track(optax.adam(0.1), TWO, compensated=True))

    @jax.jit
    def step(params, state):
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    params, state = step(_params(), tx.init(_params()))
    rest, averages = detach(state)
    assert set(averages) == {"mean", "ema25"}
    assert averages["mean"].count == 1
    sizes = [len(jax.tree.leaves(tree)) for tree in (state, rest, averages)]
    assert sizes[0] == sizes[1] + sizes[2] and sizes[2] == 2 * (3 + 3 + 1)
    back = attach(rest, jax.tree.map(np.asarray, averages))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, step(params, back), step(params, state))


def test_a_state_without_averages_detaches_nothing_and_attaches_nothing():
    state = optax.adam(0.1).init(_params())
    rest, averages = detach(state)
    assert averages == {}
    assert jax.tree.structure(attach(rest, averages)) == jax.tree.structure(state)
    detached = track(optax.sgd(0.1), TWO).init(_params()).averages
    with pytest.raises(ValueError, match=r"averages=\['ema25', 'mean'\] have no place"):
        attach(state, detached)


def test_several_tracking_states_cannot_be_told_apart_by_detach():
    state = track(track(optax.sgd(0.1), TWO), dict(z=averaging.latest())).init(
        _params()
    )
    with pytest.raises(ValueError, match="2 states track averages; at most 1"):
        detach(state)
    with pytest.raises(ValueError, match="2 states track averages; at most 1"):
        attach(state, dict(state.averages))
