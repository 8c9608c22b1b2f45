"""What training changes: the step, the weights and the optimizer's state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from anytime_jax import averaging
from anytime_jax.models import Model

Tree = Any


class TrainState(NamedTuple):
    """The state of a run.

    Attributes:
      step: int32 [], updates done.
      params: the raw weights.
      optimizer: the optimizer's state, which holds the averages of the weights.
    """

    step: jax.Array
    params: Tree
    optimizer: optax.OptState

    def weights(self) -> dict[str, Tree]:
        """Returns every set of weights to evaluate: `raw`, and the averages by name."""
        _, averages = averaging.detach(self.optimizer)
        return {"raw": self.params} | {
            name: average.value for name, average in averages.items()
        }


def place_averages(layout: TrainState, memory_kind: str) -> TrainState:
    """Returns the shardings of a state with its averages in some memory.

    Args:
      layout: the shardings of a state.
      memory_kind: "device" or "pinned_host", as `averaging.track` has it.
    """
    if memory_kind == "device":
        return layout
    optimizer, averages = averaging.detach(layout.optimizer)

    def place(tree):
        return jax.tree.map(lambda leaf: leaf.with_memory_kind(memory_kind), tree)

    placed = {
        name: average._replace(
            value=place(average.value), compensation=place(average.compensation)
        )
        for name, average in averages.items()
    }
    return layout._replace(optimizer=averaging.attach(optimizer, placed))


def init(
    model: Model, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """Returns the state before the first update; meant to be jitted or traced."""
    params = model.init(jax.random.key(seed))
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
