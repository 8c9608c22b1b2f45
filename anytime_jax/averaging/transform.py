"""Keeps averages of the weights beside any optax optimizer, inside its state."""

import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from anytime_jax.averaging import clock, mixing, weights

Tree = Any

_DTYPES = ("float32", "float64", "bfloat16")
_TIMES = ("steps", "tokens")
_MEMORY_KINDS = ("device", "pinned_host")


class AverageState(NamedTuple):
    """One running average of the parameters.

    Attributes:
      value: shaped and sharded like the parameters; float leaves in the tracking dtype.
      count: int32 [], updates seen since this average started.
      compensation: what rounding has lost so far, like `value`; () if not compensated.
      tokens: int32 [2, 2], tokens seen since this average started, as `clock` has
        them; () if time is in steps.
    """

    value: Tree
    count: jax.Array
    compensation: Tree
    tokens: jax.Array | tuple[()]


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
    averages: Mapping[str, Callable | None],
    *,
    every: int = 1,
    dtype: str = "float32",
    compensated: bool = False,
    time: str = "steps",
    memory_kind: str = "device",
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer so that its state also holds averages of the weights.

    After each update, with theta the weights that the update leads to and t the time
    since the average started, `a <- a + mass(s, t) (theta - a)` whenever `every`
    divides the number of updates, s being the time of the tick before. The updates are
    those of `inner`, untouched.

    It sees the weights only if nothing changes the updates after it: it has to be the
    last member of a chain, or better wrap the chain. It ticks once per applied update,
    so it belongs inside `optax.MultiSteps`. (Accumulating gradients with a scan is
    cheaper: `MultiSteps` runs and discards its inner state at every micro-step.)

    Args:
      inner: the optimizer.
      averages: `Average`s, or callables from update (>= 1) to mixing weight, by name;
        None keeps an average as it is.
      every: updates between ticks. The kernel is exact for every value: a tick gives
        the newest weights the share of all updates since the last one.
      dtype: of the averages' float leaves, "float32", "float64" or "bfloat16", whatever
        the parameters are. Other leaves hold their newest value. bfloat16 is rounded
        stochastically: without bias, but the noise of many roundings adds up, for slow
        averages to about 1 % of a weight. It follows from the name and the count, so
        that a run can be repeated.
      compensated: keep what rounding loses beside each average (one more copy each), so
        that a running mean stays right beyond 10^6 updates.
      time: "steps", or "tokens", which `update(..., tokens=number)` is then told for
        every update, <= 2^30 of them. The averages are then functions of the tokens
        seen, and remember the same stretch of them whatever the batch size does.
      memory_kind: where the averages are between ticks, "device", or "pinned_host" for
        the memory of the host, which a tick copies them from and to: choose `every`
        so that this does not matter.

    Returns:
      A transformation whose state is a `TrackState`. Every average starts as a copy of
      the parameters, sharded as they are, with a count of its own.

    Raises:
      ValueError: a name, an average or an option is not allowed; `compensated` with
        bfloat16 (float32 takes the same memory and is better); tokens and an average
        whose `mass` has no closed form; in `init`, `dtype` is "float64" and JAX's x64
        mode is off, or the backend has no such memory; in `update`, `params` is None,
        or `tokens` where they are needed.

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
    weights.require_count("every", every, least=1)
    options = dict(
        dtype=dtype, compensated=compensated, time=time, memory_kind=memory_kind
    )
    _check_options(**options)
    for name, average in averages.items():
        check_name(name)
        _check_average(name, average, time)
    inner = optax.with_extra_args_support(inner)
    averages = dict(averages)

    def init(params: Tree) -> TrackState:
        started = {name: start(params, **options) for name in averages}
        return TrackState(inner.init(params), started)

    def update(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError(
                "params=None, but averages of the weights need them: call "
                "update(updates, state, params)"
            )
        if time == "tokens":
            clock.check(extra_args.get("tokens"))
        updates, inner_state = inner.update(updates, state.inner, params, **extra_args)
        newest = _apply(params, updates)
        ticked = dict(state.averages)
        for name, average in averages.items():
            if average is not None:
                counted = _count(state.averages[name], extra_args.get("tokens"))
                ticked[name] = _tick(counted, newest, average, every, _seed(name))
        return updates, TrackState(inner_state, ticked)

    return optax.GradientTransformationExtraArgs(init, update)


def start(
    params: Tree,
    *,
    dtype: str = "float32",
    compensated: bool = False,
    time: str = "steps",
    memory_kind: str = "device",
) -> AverageState:
    """Starts an average as a copy of the parameters.

    Args:
      params: any pytree of arrays.
      dtype: of the float leaves of the average, as in `track`.
      compensated: whether to keep a compensation.
      time: "steps" or "tokens".
      memory_kind: "device" or "pinned_host".

    Returns:
      An `AverageState` that shares no buffer with `params`.

    Raises:
      ValueError: an option is not allowed, `dtype` is "float64" and JAX's x64 mode is
        off, or the backend has no such memory.
    """
    _check_options(dtype, compensated, time, memory_kind)
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f"dtype={dtype!r} is only allowed with jax_enable_x64")
    there = [memory.kind for memory in jax.devices()[0].addressable_memories()]
    if memory_kind not in there:
        raise ValueError(
            f"memory_kind={memory_kind!r} is not a memory of this backend, "
            f"{jax.default_backend()}, which has {', '.join(there)}"
        )

    def copy(leaf):
        floating = mixing.is_float(leaf)
        return jnp.array(leaf, dtype=dtype if floating else None, copy=True)

    def zero(leaf):
        # Under jit zeros_like forgets the sharding of what it is like.
        return leaf - leaf if mixing.is_float(leaf) else jnp.zeros_like(leaf)

    value = jax.tree.map(copy, params)
    state = AverageState(
        value=value,
        count=jnp.zeros((), jnp.int32),
        compensation=jax.tree.map(zero, value) if compensated else (),
        tokens=clock.zero() if time == "tokens" else (),
    )
    on_host = memory_kind == "pinned_host"
    return move(state, jax.memory.Space.Host) if on_host else state


def move(state: AverageState, space: jax.memory.Space) -> AverageState:
    """Moves what is large in an average to the devices' memory or to the host's.

    Args:
      state: of an average.
      space: `jax.memory.Space.Device` or `jax.memory.Space.Host`.

    Returns:
      The average there, sharded as it was.
    """
    value, compensation = jax.device_put((state.value, state.compensation), space)
    return state._replace(value=value, compensation=compensation)


def is_on_host(tree: Tree) -> bool:
    """Returns whether arrays, traced or not, are in the memory of the host."""
    host = jax.memory.Space.Host
    return any(jax.typeof(leaf).memory_space == host for leaf in jax.tree.leaves(tree))


def _check_options(dtype: str, compensated: bool, time: str, memory_kind: str) -> None:
    for name, value, allowed in (
        ("dtype", dtype, _DTYPES),
        ("time", time, _TIMES),
        ("memory_kind", memory_kind, _MEMORY_KINDS),
    ):
        if value not in allowed:
            raise ValueError(f"{name}={value!r} must be one of {', '.join(allowed)}")
    if compensated and dtype == "bfloat16":
        raise ValueError(
            "compensated=True and dtype='bfloat16' take the memory of dtype='float32', "
            "which is better: choose that"
        )


def _check_average(name: str, average: Callable | None, time: str) -> None:
    if average is None:
        return
    if not callable(average):
        raise ValueError(f"averages[{name!r}]={average!r} must be callable or None")
    closed = isinstance(average, weights.Average) and average.share is not None
    if time == "tokens" and not closed:
        raise ValueError(
            f"averages[{name!r}]={average!s} has no closed form of its mass, which "
            "time='tokens' needs; polynomial and plain callables count steps only"
        )


def _apply(params: Tree, updates: Tree) -> Tree:
    """As `optax.apply_updates`, but for PRNG keys and float0 updates too."""

    def apply(leaf, update):
        if _is_key(leaf) or jax.dtypes.float0 == getattr(update, "dtype", None):
            return leaf
        return optax.apply_updates(leaf, update)

    return jax.tree.map(apply, params, updates)


def _count(state: AverageState, tokens: jax.Array | None) -> AverageState:
    state = state._replace(count=optax.safe_increment(state.count))
    if isinstance(state.tokens, tuple):
        return state
    return state._replace(tokens=clock.advance(state.tokens, tokens))


def _tick(
    state: AverageState, newest: Tree, average: Callable, every: int, seed: int
) -> AverageState:
    """Mixes if it is time to; what is on the host is copied only then."""
    on_host = is_on_host(state.value)

    def mix(state):
        state = move(state, jax.memory.Space.Device) if on_host else state
        # Of a fixed kind, so that the user's default changes nothing.
        key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), state.count)
        share = jnp.asarray(_share(state, average, every))
        value, compensation = mixing.mix(
            state.value, state.compensation, newest, share, key
        )
        state = state._replace(value=value, compensation=compensation)
        if not isinstance(state.tokens, tuple):
            state = state._replace(tokens=clock.tick(state.tokens))
        return move(state, jax.memory.Space.Host) if on_host else state

    def wait(state):
        following = mixing.follow(state.value, newest)
        state = state._replace(value=following)
        return move(state, jax.memory.Space.Host) if on_host else state

    if every == 1:
        return mix(state)
    return jax.lax.cond(state.count % every == 0, mix, wait, state)


def _share(state: AverageState, average: Callable, every: int) -> jax.Array:
    """Of the newest weights, for all the time since the last tick."""
    if not isinstance(state.tokens, tuple):
        return average.share(clock.since_tick(state.tokens), clock.now(state.tokens))
    if every == 1:
        return average(state.count)
    return weights.mass(average, state.count - every, state.count)


def _seed(name: str) -> int:
    """Of an average's own noise, which no other average changes."""
    return zlib.crc32(name.encode())


def _is_key(leaf) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
