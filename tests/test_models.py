import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anytime_jax import models

SPEC = dict(name="decoder", vocab_size=16, width=8, layers=1, heads=2)


def _shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0))


def test_build_passes_every_argument_on():
    arguments = dict(mlp_width=24, norm="rmsnorm", mlp="swiglu", remat=True)
    model = models.build({**SPEC, **arguments})
    assert isinstance(model, models.Model)
    assert model.vocab_size == 16
    assert _shapes(model)["layers"]["mlp"]["gate"]["kernel"].shape == (1, 8, 24)


def test_build_treats_none_as_not_given():
    model = models.build(dict(SPEC, mlp_width=None, rope_base=None))
    assert _shapes(model)["layers"]["mlp"]["up"]["kernel"].shape == (1, 8, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(name="encoder"), "model.name='encoder' is unknown; known are decoder"),
        (dict(depth=3), "model.depth=3 is not an argument of decoder"),
        (dict(width=None), "model 'decoder' needs model.width"),
        (dict(norm="batchnorm"), "model 'decoder': norm='batchnorm' must be one of"),
    ],
)
def test_build_names_what_it_refuses(change, message):
    with pytest.raises(ValueError, match=message) as error:
        models.build({**SPEC, **change})
    assert "\n" not in str(error.value)


def test_parameters_are_plain_dicts_of_arrays():
    def check(node):
        if type(node) is dict:
            return [leaf for child in node.values() for leaf in check(child)]
        return [node]

    params = jax.jit(models.build(SPEC).init)(jax.random.key(0))
    leaves = check(params)
    assert len(leaves) == len(jax.tree.leaves(params)) == 13
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_a_model_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        models.build(SPEC).vocab_size = 3


def test_count_parameters_adds_up_by_hand():
    params = dict(
        embedding=dict(table=np.zeros((7, 3))),
        layers=dict(mlp=dict(up=np.zeros((2, 3, 5))), scale=np.zeros((2, 3))),
        final_norm=dict(scale=np.zeros(3)),
        head=dict(kernel=np.zeros((3, 7))),
    )
    counts = models.count_parameters(params)
    assert counts == dict(embedding=7 * 3 + 3 * 7, non_embedding=2 * 15 + 2 * 3 + 3)


@pytest.mark.parametrize(
    ("layers", "non_embedding", "total"),
    # In millions. The paper prints 151 and 216, then 301 and 368.
    [(12, 151.0, 216.8), (24, 302.0, 367.8)],
)
def test_count_parameters_of_the_paper(layers, non_embedding, total):
    model = models.decoder(vocab_size=32128, width=1024, layers=layers, heads=16)
    counts = models.count_parameters(_shapes(model))
    assert round(counts["non_embedding"] / 1e6, 1) == non_embedding
    assert round(sum(counts.values()) / 1e6, 1) == total
    assert all(type(count) is int for count in counts.values())


def test_count_parameters_refuses_other_trees():
    with pytest.raises(ValueError, match="it needs 'head'"):
        models.count_parameters(dict(embedding=np.zeros(3)))
