"""One update of the weights."""

import functools
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
    model: Model,
    optimizer: optax.GradientTransformation,
    accumulation: int = 1,
    *,
    gradient_layout: Tree | None = None,
    skip_nonfinite: bool = False,
) -> Callable[[TrainState, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """Makes the train step, a pure function still to be jitted.

    Args:
      model: the model.
      optimizer: the optimizer, from `recipe.make_optimizer`.
      accumulation: the number of parts that a batch is split into and whose gradients
        are averaged one after the other.
      gradient_layout: shardings of the gradient, those of the optimizer's moments and
        of the averages; None leaves them to the compiler, which may choose others and
        then has to gather moments and averages.
      skip_nonfinite: whether to leave out an update whose loss or gradient norm is not
        finite. Weights, optimizer and averages, their counts included, then stay as
        they are, and only `step` moves on.

    Returns:
      A function (state, tokens_BxL1) -> (state, metrics), with float32 metrics `loss`,
      `grad_norm` (before clipping), `weight_norm` (after the update) and
      `learning_rate` (as applied); with `skip_nonfinite` also `skipped`, 0 or 1.
    """

    def update(grads, params, optimizer_state, tokens):
        updates, optimizer_state = optimizer.update(
            grads, optimizer_state, params, tokens=tokens
        )
        return optax.apply_updates(params, updates), optimizer_state

    def train_step(state, tokens_BxL1):
        value, grads = _gradient(model, state.params, tokens_BxL1, accumulation)
        if gradient_layout is not None:
            grads = jax.lax.with_sharding_constraint(grads, gradient_layout)
        rows, columns = tokens_BxL1.shape
        run = functools.partial(update, tokens=rows * (columns - 1))
        before = grads, state.params, state.optimizer
        metrics = dict(loss=value, grad_norm=optax.tree.norm(grads))
        if skip_nonfinite:
            finite = jnp.isfinite(value) & jnp.isfinite(metrics["grad_norm"])
            # No `where`, which would read and write every average at every step.
            params, optimizer_state = jax.lax.cond(
                finite, run, lambda grads, *kept: kept, *before
            )
            metrics["skipped"] = 1.0 - finite
        else:
            params, optimizer_state = run(*before)
        metrics["weight_norm"] = optax.tree.norm(params)
        metrics["learning_rate"] = optax.tree.get(optimizer_state, "hyperparams")[
            "learning_rate"
        ]
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
