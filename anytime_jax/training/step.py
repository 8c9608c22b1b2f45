"""One update of the weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from anytime_jax.models import Model
from anytime_jax.training.state import TrainState

Tree = Any


def loss(model: Model, params: Tree, tokens_BxL1: jax.Array) -> jax.Array:
    """Returns the mean cross-entropy of the next token, in nats.

    Args:
      model: the model.
      params: its parameters.
      tokens_BxL1: int [B, L + 1]; the first L are inputs, the last L targets.

    Returns:
      float32 [].
    """
    logits_BxLxV = model.apply(params, tokens_BxL1[:, :-1])
    losses_BxL = optax.softmax_cross_entropy_with_integer_labels(
        logits_BxLxV, tokens_BxL1[:, 1:]
    )
    return losses_BxL.mean()


def make_step(
    model: Model, optimizer: optax.GradientTransformation, accumulation: int = 1
) -> Callable[[TrainState, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """Makes the train step, a pure function still to be jitted.

    Args:
      model: the model.
      optimizer: the optimizer, from `recipe.make_optimizer`.
      accumulation: the number of parts that a batch is split into and whose gradients
        are averaged one after the other.

    Returns:
      A function (state, tokens_BxL1) -> (state, metrics), with float32 metrics `loss`,
      `grad_norm` (before clipping), `weight_norm` (after the update) and
      `learning_rate` (as applied).
    """

    def train_step(state, tokens_BxL1):
        value, grads = _gradient(model, state.params, tokens_BxL1, accumulation)
        rows, columns = tokens_BxL1.shape
        updates, optimizer_state = optimizer.update(
            grads, state.optimizer, state.params, tokens=rows * (columns - 1)
        )
        params = optax.apply_updates(state.params, updates)
        metrics = dict(
            loss=value,
            grad_norm=optax.tree.norm(grads),
            weight_norm=optax.tree.norm(params),
            learning_rate=optax.tree.get(optimizer_state, "hyperparams")[
                "learning_rate"
            ],
        )
        return TrainState(state.step + 1, params, optimizer_state), metrics

    return train_step


def _gradient(
    model: Model, params: Tree, tokens_BxL1: jax.Array, accumulation: int
) -> tuple[jax.Array, Tree]:
    gradient = jax.value_and_grad(lambda params, tokens: loss(model, params, tokens))
    if accumulation == 1:
        return gradient(params, tokens_BxL1)
    # Part i takes every accumulation-th row, so that each part stays split over all
    # devices as the batch is.
    rows, length = tokens_BxL1.shape
    parts = tokens_BxL1.reshape(rows // accumulation, accumulation, length)

    def add(total, tokens):
        return jax.tree.map(jnp.add, total, gradient(params, tokens)), None

    shape = jax.eval_shape(gradient, params, parts[:, 0])
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape)
    total, _ = jax.lax.scan(add, zero, parts.swapaxes(0, 1))
    return jax.tree.map(lambda leaf: leaf / accumulation, total)
