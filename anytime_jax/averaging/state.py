"""Finds averages inside any nesting of optax states; takes them out and back in."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import optax

from anytime_jax.averaging.transform import AverageState, TrackState, is_on_host

Tree = Any


def read(state: Tree, name: str, like: Tree | None = None) -> Tree:
    """Returns the average called `name`, wherever it is in an optimizer's state.

    Found by type, never by position: through chains, `inject_hyperparams`,
    `MultiSteps`, `masked` and `multi_transform`. Where several masked states hold the
    name, each gives the leaves that it has.

    Args:
      state: any pytree that holds a `TrackState`, usually the optimizer's state.
      name: one of the names that were given to `track`.
      like: the parameters; supplies the dtypes of the result, and the leaves that no
        state tracks because a mask left them out. Without it the result keeps the
        dtype of the average, and `optax.MaskedNode` where nothing is tracked.

    Returns:
      The average, shaped like the parameters, in the memory of the devices.

    Raises:
      ValueError: there is no such average (the message lists those that exist), or two
        states track the same leaf under the same name.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from anytime_jax import averaging
      >>> tx = averaging.track(optax.sgd(0.1), dict(mean=averaging.uniform()))
      >>> state = tx.init(dict(w=jnp.ones(2, jnp.bfloat16)))
      >>> averaging.read(state, "mean")["w"].dtype
      dtype('float32')
    """
    found = list(_track_states(state))
    values = [s.averages[name].value for s in found if name in s.averages]
    if not values:
        known = sorted({known for s in found for known in s.averages})
        raise ValueError(
            f"there is no average {name!r}; known are {', '.join(known) or 'none'}"
        )
    merged = functools.reduce(functools.partial(_merge, name), values)
    if is_on_host(merged):
        merged = jax.device_put(merged, jax.memory.Space.Device)
    if like is None:
        return merged
    return jax.tree.map(
        lambda value, leaf: leaf if _is_hole(value) else _cast(value, leaf),
        merged,
        like,
        is_leaf=_is_hole,
    )


def detach(state: Tree) -> tuple[Tree, dict[str, AverageState]]:
    """Takes the averages out of an optimizer's state, for storing them apart.

    Args:
      state: any pytree that holds at most one `TrackState`.

    Returns:
      The state with its averages emptied, and the averages by name.

    Raises:
      ValueError: there are several states that track averages.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from anytime_jax import averaging
      >>> tx = averaging.track(optax.sgd(0.1), dict(mean=averaging.uniform()))
      >>> rest, averages = averaging.detach(tx.init(jnp.ones(2)))
      >>> list(averages), rest.averages
      (['mean'], {})
    """
    found = _at_most_one(state)
    return attach(state, {}), dict(found.averages) if found else {}


def attach(state: Tree, averages: dict[str, AverageState]) -> Tree:
    """Puts averages into an optimizer's state, in place of those that it holds.

    Args:
      state: any pytree that holds at most one `TrackState`.
      averages: the averages by name.

    Returns:
      The state with these averages.

    Raises:
      ValueError: there are several states that track averages, or none for these.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from anytime_jax import averaging
      >>> tx = averaging.track(optax.sgd(0.1), dict(mean=averaging.uniform()))
      >>> state = tx.init(jnp.ones(2))
      >>> averaging.read(averaging.attach(*averaging.detach(state)), "mean").shape
      (2,)
    """
    if not _at_most_one(state) and averages:
        raise ValueError(
            f"averages={sorted(averages)} have no place in a state without `track`"
        )
    return jax.tree.map(
        lambda node: node._replace(averages=averages) if _is_track(node) else node,
        state,
        is_leaf=_is_track,
    )


def _at_most_one(state: Tree) -> TrackState | None:
    found = list(_track_states(state))
    if len(found) > 1:
        raise ValueError(f"{len(found)} states track averages; at most 1 is allowed")
    return found[0] if found else None


def _track_states(state: Tree) -> Iterator[TrackState]:
    """Every `TrackState` in a pytree, those inside others included."""
    for node in jax.tree.leaves(state, is_leaf=_is_track):
        if _is_track(node):
            yield node
            yield from _track_states(node.inner)


def _merge(name: str, one: Tree, other: Tree) -> Tree:
    """Fills the holes of each tree from the other; either may miss whole subtrees."""
    if _is_hole(one) or _is_hole(other):
        return other if _is_hole(one) else one
    nodes, structure = jax.tree.flatten(one, is_leaf=lambda node: node is not one)
    if jax.tree_util.treedef_is_leaf(structure):
        raise ValueError(
            f"two states track the average {name!r} of the same parameters; give them "
            "different names"
        )
    others = structure.flatten_up_to(other)
    return structure.unflatten(map(functools.partial(_merge, name), nodes, others))


def _cast(value: jax.Array, leaf: jax.Array) -> jax.Array:
    return value.astype(leaf.dtype) if value.dtype != leaf.dtype else value


def _is_track(node) -> bool:
    return isinstance(node, TrackState)


def _is_hole(node) -> bool:
    return isinstance(node, optax.MaskedNode)
