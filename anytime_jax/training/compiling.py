"""What runs on the devices: the train step and the evaluation, with their layouts."""

from collections.abc import Callable

import jax
import ml_collections

from anytime_jax.training import evaluation, sharding, state, step
from anytime_jax.training import recipe as recipe_lib


def compile_steps(
    config: ml_collections.ConfigDict, recipe: recipe_lib.Recipe
) -> tuple[Callable, Callable, state.TrainState]:
    """Jits what runs on the devices; each is compiled when it is first called.

    Args:
      config: the config.
      recipe: what `recipe.build` made of it.

    Returns:
      The train step, whose state is donated; the evaluation of one set of weights; and
      the shapes, dtypes and shardings of the state.
    """
    shapes = jax.eval_shape(
        lambda: state.init(recipe.model, recipe.optimizer, config.seed)
    )
    layout = state.place_averages(
        sharding.shardings(recipe.mesh, shapes), config.tracking.memory_kind
    )
    train_step = jax.jit(
        step.make_step(recipe.model, recipe.optimizer, config.accumulation),
        out_shardings=(layout, None),
        donate_argnums=0,
    )
    evaluate = jax.jit(evaluation.make_evaluate(recipe.model))
    like = jax.tree.map(
        lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to),
        shapes,
        layout,
    )
    return train_step, evaluate, like
