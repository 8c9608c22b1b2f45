"""The loss of the raw weights and of every average, on the same fixed batches."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from anytime_jax import averaging
from anytime_jax.models import Model
from anytime_jax.training import step

Tree = Any


def make_evaluate(model: Model) -> Callable[[Tree, jax.Array], jax.Array]:
    """Makes the evaluation of one set of weights, still to be jitted.

    Args:
      model: the model.

    Returns:
      A function (params, tokens_NxBxL1) -> mean cross-entropy over all N batches.
    """

    def evaluate(params, tokens_NxBxL1):
        def add(total, tokens_BxL1):
            return total + step.loss(model, params, tokens_BxL1), None

        total, _ = jax.lax.scan(add, jnp.zeros(()), tokens_NxBxL1)
        return total / tokens_NxBxL1.shape[0]

    return evaluate


def losses(
    evaluate: Callable[[Tree, jax.Array], jax.Array],
    weights: dict[str, Tree],
    tokens_NxBxL1: jax.Array,
) -> dict[str, float]:
    """Returns the loss of each set of weights, under its own name.

    Args:
      evaluate: from `make_evaluate`, jitted.
      weights: parameters by name; all are evaluated in the dtypes and the layout of
        `raw`, one set of them at a time.
      tokens_NxBxL1: the batches, which every set of weights sees alike.

    Returns:
      Nats per token by name.
    """
    # All are under way before the first is waited for, but not those on the host.
    values = {}
    for name, params in _placed(weights):
        cast = jax.tree.map(
            lambda leaf, raw: leaf.astype(raw.dtype), params, weights["raw"]
        )
        values[name] = evaluate(cast, tokens_NxBxL1)
        if averaging.is_on_host(weights[name]):
            values[name].block_until_ready()
    return {name: float(value) for name, value in values.items()}


def distances(weights: dict[str, Tree]) -> dict[str, float]:
    """Returns how far each average is from the raw weights, relative to their norm.

    Args:
      weights: parameters by name, `raw` and the averages.

    Returns:
      `|average - raw| / |raw|` by the average's name.
    """
    raw = weights["raw"]
    values = {name: _distance(params, raw) for name, params in _placed(weights)}
    return {name: float(values[name]) for name in values if name != "raw"}


@jax.jit
def _distance(params: Tree, raw: Tree) -> jax.Array:
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, raw))
    return optax.tree.norm(optax.tree.sub(*wide)) / optax.tree.norm(wide[1])


def _placed(weights: dict[str, Tree]) -> Iterator[tuple[str, Tree]]:
    """Sets of weights by name, each on the devices and split as `raw` is."""
    raw = weights["raw"]
    layout = jax.tree.map(lambda leaf: leaf.sharding, raw)
    for name, params in weights.items():
        if averaging.is_on_host(params):
            params = jax.device_put(params, jax.memory.Space.Device)
        # Averages may be split further; a program would be compiled for each way.
        if not _split_alike(params, raw):
            params = jax.jit(_same, out_shardings=layout)(params)
        yield name, params


def _split_alike(params: Tree, raw: Tree) -> bool:
    pairs = zip(*map(jax.tree.leaves, (params, raw)), strict=True)
    return all(a.sharding.is_equivalent_to(b.sharding, b.ndim) for a, b in pairs)


def _same(tree: Tree) -> Tree:
    return tree
