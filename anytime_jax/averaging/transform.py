"""Keeps averages of the weights beside any optax optimizer, inside its state."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from anytime_jax.averaging import weights

Tree = Any

_DTYPES = ("float32", "float64")


class AverageState(NamedTuple):
    """One running average of the parameters.

    Attributes:
      value: shaped and sharded like the parameters; float leaves in the tracking dtype.
      count: int32 [], updates seen since this average started.
      compensation: what rounding has lost so far, like `value`; () if not compensated.
    """

    value: Tree
    count: jax.Array
    compensation: Tree


class TrackState(NamedTuple):
    """The state of `track`.

    Attributes:
      inner: the state of the wrapped transformation.
      averages: the running averages by name.
    """

    inner: optax.OptState
    averages: dict[str, AverageState]


def check_name(name: str) -> None:
    """Refuses what cannot be the name of an average.

    Args:
      name: has to match `[a-z][a-z0-9_]*` and not be `raw`, which means the weights
        themselves.

    Raises:
      ValueError: `name` is not such a name.
    """
    matches = isinstance(name, str) and re.fullmatch("[a-z][a-z0-9_]*", name)
    if not matches or name == "raw":
        raise ValueError(
            f"the average's name {name!r} must match [a-z][a-z0-9_]* and not be 'raw'"
        )


def track(
    inner: optax.GradientTransformation,
    averages: Mapping[str, Callable],
    *,
    every: int = 1,
    dtype: str = "float32",
    compensated: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer so that its state also holds averages of the weights.

    After each update, with theta the weights that the update leads to and t the count
    of the average, `a <- a + mass(t - every, t) (theta - a)` whenever `every` divides
    t. The updates are those of `inner`, untouched.

    It sees the weights only if nothing changes the updates after it: it has to be the
    last member of a chain, or better wrap the chain. It ticks once per applied update,
    so it belongs inside `optax.MultiSteps`. (Accumulating gradients with a scan is
    cheaper: `MultiSteps` runs and discards its inner state at every micro-step.)

    Args:
      inner: the optimizer.
      averages: `Average`s, or callables from update (>= 1) to mixing weight, by name.
      every: updates between ticks. The kernel is exact for every value: a tick gives
        the newest weights the share of all updates since the last one.
      dtype: of the averages' float leaves, "float32" or "float64", whatever the
        parameters are. Other leaves hold their newest value.
      compensated: keep what rounding loses beside each average (one more copy each), so
        that a running mean stays right beyond 10^6 updates.

    Returns:
      A transformation whose state is a `TrackState`. Every average starts as a copy of
      the parameters, sharded as they are, with a count of its own.

    Raises:
      ValueError: a name, an average, `every` or `dtype` is not allowed; in `init`,
        `dtype` is "float64" and JAX's x64 mode is off; in `update`, `params` is None.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from anytime_jax import averaging
      >>> tx = averaging.track(optax.sgd(0.5), dict(mean=averaging.uniform()))
      >>> params = jnp.array(1.0)
      >>> state = tx.init(params)
      >>> for _ in range(2):
      ...     updates, state = tx.update(params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> float(params), float(averaging.read(state, "mean"))
      (0.25, 0.375)
    """
    for name, average in averages.items():
        check_name(name)
        if not callable(average):
            raise ValueError(f"averages[{name!r}]={average!r} must be callable")
    weights.require_count("every", every, least=1)
    if dtype not in _DTYPES:
        raise ValueError(f"dtype={dtype!r} must be one of {', '.join(_DTYPES)}")
    inner = optax.with_extra_args_support(inner)
    averages = dict(averages)

    def init(params: Tree) -> TrackState:
        started = {name: start(params, dtype, compensated) for name in averages}
        return TrackState(inner.init(params), started)

    def update(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError(
                "params=None, but averages of the weights need them: call "
                "update(updates, state, params)"
            )
        updates, inner_state = inner.update(updates, state.inner, params, **extra_args)
        newest = _apply(params, updates)
        ticked = {
            name: _tick(state.averages[name], newest, average, every)
            for name, average in averages.items()
        }
        return updates, TrackState(inner_state, ticked)

    return optax.GradientTransformationExtraArgs(init, update)


def start(params: Tree, dtype: str, compensated: bool = False) -> AverageState:
    """Starts an average as a copy of the parameters.

    Args:
      params: any pytree of arrays.
      dtype: of the float leaves of the average.
      compensated: whether to keep a compensation.

    Returns:
      An `AverageState` that shares no buffer with `params`.

    Raises:
      ValueError: `dtype` is "float64" and JAX's x64 mode is off.
    """
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f"dtype={dtype!r} is only allowed with jax_enable_x64")

    def copy(leaf):
        return jnp.array(leaf, dtype=dtype if _is_float(leaf) else None, copy=True)

    def zero(leaf):
        # Under jit zeros_like forgets the sharding of what it is like.
        return leaf - leaf if _is_float(leaf) else jnp.zeros_like(leaf)

    value = jax.tree.map(copy, params)
    compensation = jax.tree.map(zero, value) if compensated else ()
    return AverageState(value, jnp.zeros((), jnp.int32), compensation)


def _apply(params: Tree, updates: Tree) -> Tree:
    """As `optax.apply_updates`, but for PRNG keys and float0 updates too."""

    def apply(leaf, update):
        if _is_key(leaf) or jax.dtypes.float0 == getattr(update, "dtype", None):
            return leaf
        return optax.apply_updates(leaf, update)

    return jax.tree.map(apply, params, updates)


def _tick(
    state: AverageState, newest: Tree, average: Callable, every: int
) -> AverageState:
    count = optax.safe_increment(state.count)

    def mix(state):
        share = (
            average(count)
            if every == 1
            else weights.mass(average, count - every, count)
        )
        return _mix(state, newest, jnp.asarray(share))

    def wait(state):
        return state._replace(value=_follow(state.value, newest))

    if every == 1:
        state = mix(state)
    else:
        state = jax.lax.cond(count % every == 0, mix, wait, state)
    return state._replace(count=count)


def _mix(state: AverageState, newest: Tree, share: jax.Array) -> AverageState:
    def mixed(old, new, lost):
        """The new average and what its rounding loses (Kahan's summation)."""
        if not _is_float(old):
            return jnp.copy(new), lost  # shared, it could not be donated
        new = new.astype(old.dtype)
        step = share.astype(old.dtype) * (new - old) - lost
        # A share of 1 is exact: old + (new - old) may be off by a rounding.
        value = jnp.where(share == 1, new, old + step)
        return value, jnp.where(share == 1, 0, (value - old) - step)

    olds, structure = jax.tree.flatten(state.value)
    news = structure.flatten_up_to(newest)
    compensated = bool(jax.tree.leaves(state.compensation))
    losts = [0] * len(olds)
    if compensated:
        losts = structure.flatten_up_to(state.compensation)
    mixtures = [mixed(*leaves) for leaves in zip(olds, news, losts, strict=True)]
    value, lost = (structure.unflatten(m[i] for m in mixtures) for i in (0, 1))
    return AverageState(value, state.count, lost if compensated else ())


def _follow(value: Tree, newest: Tree) -> Tree:
    """Between ticks, leaves that cannot be averaged follow the weights all the same."""
    return jax.tree.map(
        lambda old, new: old if _is_float(old) else jnp.copy(new), value, newest
    )


def _is_float(leaf) -> bool:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return jnp.issubdtype(dtype, jnp.floating)


def _is_key(leaf) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
