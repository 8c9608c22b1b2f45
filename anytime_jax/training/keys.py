"""Every key that a config has, and what each may hold.

A section with a `name` holds the arguments of the factory of that name, which checks
them itself: see `anytime_jax.specs`.
"""

import copy
import dataclasses
import math
import numbers
import operator
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from anytime_jax.training import durations

# Keys that a config may leave out: those written before they were there do.
DEFAULTS = {"shard_state": False, "nonfinite": {"policy": "stop", "limit": 10}}

_MOST = 2**31 - 1  # JAX counts in int32.
_LONGEST = 100  # characters of a value that a message shows


@dataclasses.dataclass(frozen=True)
class _Rule:
    """What a key may hold, in words and as a predicate."""

    allowed: str
    accepts: Callable[[Any], bool]
    optional: bool = False


def _whole(least: int, most: int = _MOST) -> _Rule:
    def accepts(value):
        try:
            return (
                not isinstance(value, bool) and least <= operator.index(value) <= most
            )
        except TypeError:
            return False

    return _Rule(f"a whole number from {least} to {most}", accepts)


def _one_of(*names: str) -> _Rule:
    def accepts(value):
        return isinstance(value, str) and value in names

    return _Rule(f"one of {', '.join(names)}", accepts)


def _is_finite(value: Any) -> bool:
    try:
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        return number and math.isfinite(value)
    except OverflowError:  # It is whole, and beyond all floats.
        return False


def _are_finite(values: Any) -> bool:
    return isinstance(values, tuple | list) and all(map(_is_finite, values))


def _is_section(value: Any) -> bool:
    return isinstance(value, ml_collections.ConfigDict)


def _optional(rule: _Rule) -> _Rule:
    return dataclasses.replace(rule, optional=True)


_NUMBER = _Rule(
    "a finite number above 0", lambda value: _is_finite(value) and value > 0
)
_AMOUNT = _Rule(
    "a finite number, at least 0", lambda value: _is_finite(value) and value >= 0
)
_AMOUNTS = _Rule("a tuple of finite numbers", _are_finite)
_AXIS = _Rule(
    "a whole number, at least 1, or -1 for all devices that are left",
    lambda value: value != 0 and _whole(-1).accepts(value),
)
_FLAG = _Rule("True or False", lambda value: isinstance(value, bool))
_SPEC = _Rule("a dict(name=..., ...)", _is_section)
_TEXT = _Rule("a string", lambda value: isinstance(value, str))
_TEXT_OR_NONE = _Rule(
    "a string or None", lambda value: value is None or isinstance(value, str)
)

_KEYS = dict(
    seed=_whole(0, 2**32 - 1),
    model=_SPEC,
    data=dict(
        source=_TEXT,
        tokenizer=_TEXT,
        validation_fraction=_optional(_NUMBER),
        text_key=_optional(_TEXT),
        data_dir=_optional(_TEXT_OR_NONE),
        cache=_optional(_TEXT_OR_NONE),
        workers=_optional(_whole(0)),
    ),
    sequence_length=_whole(1),
    batch_size=_whole(1),
    accumulation=_whole(1),
    schedule=_SPEC,
    optimizer=_SPEC,
    clip_norm=_NUMBER,
    averages=_Rule("a dict of averages by name", _is_section),
    tracking=dict(
        every=_whole(1),
        dtype=_TEXT,
        compensated=_FLAG,
        time=_TEXT,
        memory_kind=_TEXT,
    ),
    duration=dict.fromkeys(durations.UNITS, _optional(_AMOUNT)),
    horizons=dict.fromkeys(durations.UNITS, _optional(_AMOUNTS)),
    branch=dict(
        workdir=_TEXT,
        step=_whole(0),
        averages=_one_of("restart", "continue", "freeze"),
        # What `branches.with_averages` says of it.
        trunk=_optional(_Rule("a dict", _is_section)),
    ),
    evaluation=dict(
        points=_whole(1, 10_000),
        batches=_whole(1),
        horizon_batches=_whole(1),
        batch_size=_whole(1),
        patience=_whole(0),
    ),
    snapshots=dict(every=_whole(0), latest_every=_whole(0)),
    logging=dict(every=_whole(1)),
    mesh=dict(data=_AXIS, fsdp=_AXIS, tensor=_AXIS),
    shard_state=_FLAG,
    nonfinite=dict(policy=_one_of("stop", "skip"), limit=_whole(1)),
)


def checked(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns a config that has every key, and in each a value of its kind.

    What a value means for the others, such as a mesh that does not match the devices,
    is checked where it is used.

    Args:
      config: as `configs/tiny.py` documents it; `shard_state` and `nonfinite` may be
        left out.

    Returns:
      The config itself, or, where it left some out, a copy with their defaults.

    Raises:
      ValueError: a key is unknown or missing, or a value is not allowed; the message
        names the key, the value and what is.

    Example:
      >>> checked(ml_collections.ConfigDict(dict(sede=1)))
      Traceback (most recent call last):
      ...
      ValueError: sede=1 is no key of config, which has accumulation, averages, \
batch_size, branch, clip_norm, data, duration, evaluation, horizons, logging, mesh, \
model, nonfinite, optimizer, schedule, seed, sequence_length, shard_state, snapshots, \
tracking
    """
    if _is_section(config) and any(key not in config for key in DEFAULTS):
        config = _completed(config)
    _check_section("", config, _KEYS)
    _check_together(config)
    return config


def _completed(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    completed = copy.deepcopy(config).unlock()
    for key, value in DEFAULTS.items():
        if key not in completed:
            completed[key] = value
    return completed.lock() if config.is_locked else completed


def _check_section(section: str, node: Any, known: Mapping[str, Any]) -> None:
    name, prefix = section or "config", f"{section}." if section else ""
    listed = ", ".join(sorted(known))
    if not _is_section(node):
        raise ValueError(f"{name}={_shown(node)} must be a ConfigDict with {listed}")
    for key in node:
        if key not in known:
            raise ValueError(
                f"{prefix}{key}={_shown(node[key])} is no key of {name}, which has "
                f"{listed}"
            )
    for key, rule in known.items():
        is_section = isinstance(rule, Mapping)
        if key not in node:
            if is_section or not rule.optional:
                raise ValueError(
                    f"{prefix}{key} is missing; configs/tiny.py shows every key"
                )
        elif is_section:
            _check_section(f"{prefix}{key}", node[key], rule)
        elif not rule.accepts(node[key]):
            raise ValueError(
                f"{prefix}{key}={_shown(node[key])} must be {rule.allowed}"
            )


def _check_together(config: ml_collections.ConfigDict) -> None:
    if config.evaluation.batches > config.evaluation.horizon_batches:
        raise ValueError(
            f"evaluation.batches={config.evaluation.batches} must be at most "
            f"evaluation.horizon_batches={config.evaluation.horizon_batches}, of which "
            "they are the first"
        )
    if config.batch_size % config.accumulation:
        raise ValueError(
            f"accumulation={config.accumulation} must divide batch_size="
            f"{config.batch_size}"
        )


def _shown(value: Any) -> str:
    """A value in one line that is not long."""
    value = value.to_dict() if _is_section(value) else value
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
