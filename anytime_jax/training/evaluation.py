"""The loss of the raw weights and of every average, on the same fixed batches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

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
      weights: parameters by name.
      tokens_NxBxL1: the batches, which every set of weights sees alike.

    Returns:
      Nats per token by name.
    """
    # All are under way before the first is waited for.
    values = {name: evaluate(params, tokens_NxBxL1) for name, params in weights.items()}
    return {name: float(value) for name, value in values.items()}
