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
    split = dict(shard_state=config.shard_state)
    layout = state.place_averages(
        sharding.shardings(recipe.mesh, shapes, **split), config.tracking.memory_kind
    )
    made = step.make_step(
        recipe.model,
        recipe.optimizer,
        config.accumulation,
        gradient_layout=sharding.gradient_shardings(
            recipe.mesh, shapes.params, **split
        ),
        skip_nonfinite=config.nonfinite.policy == "skip",
    )
    train_step = jax.jit(
        sharding.within(recipe.mesh, made),
        out_shardings=(layout, None),
        donate_argnums=0,
    )
    evaluate = jax.jit(
        sharding.within(recipe.mesh, evaluation.make_evaluate(recipe.model))
    )
    like = jax.tree.map(
        lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to),
        shapes,
        layout,
    )
    return train_step, evaluate, like


def batch_like(
    config: ml_collections.ConfigDict, recipe: recipe_lib.Recipe
) -> jax.ShapeDtypeStruct:
    """Returns shape, dtype and sharding of the training batches, to compile ahead for.

    `train_step.lower(like, batch_like(config, recipe)).compile()` is the train step for
    these and nothing else: it refuses what would compile it again.

    Args:
      config: the config.
      recipe: what `recipe.build` made of it.
    """
    shape = (config.batch_size, config.sequence_length + 1)
    return sharding.batch_like(shape, recipe.mesh)
