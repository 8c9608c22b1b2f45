"""The table of keys: what each may hold, and what is said of what it may not."""

import re

import ml_collections
import numpy as np
import pytest

from anytime_jax.training import keys
from configs import anytime_150m, anytime_300m, tiny
from tests import small

WHOLE = (
    "batch_size",
    "sequence_length",
    "accumulation",
    "tracking.every",
    "evaluation.points",
    "evaluation.batches",
    "evaluation.horizon_batches",
    "evaluation.batch_size",
    "logging.every",
    "nonfinite.limit",
)
FROM_0 = (
    "seed",
    "branch.step",
    "evaluation.patience",
    "snapshots.every",
    "snapshots.latest_every",
)
UNITS = ("steps", "tokens", "chinchilla")
SECTIONS = (
    "data",
    "tracking",
    "duration",
    "horizons",
    "branch",
    "evaluation",
    "snapshots",
    "logging",
    "mesh",
    "nonfinite",
)


def changed(*path_and_value):
    """The small config with one key changed, or, without a value, left out."""
    path, *value = path_and_value
    return change(small.config(), path, *value)


def change(config, path, *value):
    content = config.to_dict()
    *parents, last = path.split(".")
    node = content
    for parent in parents:
        node = node[parent]
    if value:
        node[last] = value[0]
    else:
        del node[last]
    return ml_collections.ConfigDict(content)


def refuses(config, message):
    with pytest.raises(ValueError, match=message) as caught:
        keys.checked(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", [tiny, anytime_150m, anytime_300m])
def test_every_variant_of_every_config_is_allowed_and_stays_as_it_is(module):
    for variant in module.VARIANTS:
        config = module.get_config(variant)
        assert keys.checked(config) is config


@pytest.mark.parametrize("key", [*WHOLE, *FROM_0])
def test_whole_numbers(key):
    least = 1 if key in WHOLE else 0
    most = {"seed": 2**32 - 1, "evaluation.points": 10_000}.get(key, 2**31 - 1)
    bad = (least - 1, most + 1, 2.0, 2.5, True, False, None, "8", np.inf, (1,), {}, [])
    for value in bad:
        shown = re.escape(repr(value))
        refuses(
            changed(key, value), f"^{key}={shown} must be a whole number from {least} "
        )
    good = changed(key, np.int64(8))
    if key not in ("accumulation", "evaluation.batches"):
        assert keys.checked(good) is good


@pytest.mark.parametrize("key", ["mesh.data", "mesh.fsdp", "mesh.tensor"])
def test_axes_of_the_mesh(key):
    for value in (0, -2, 2.0, "8", None, True):
        refuses(changed(key, value), rf"^{key}={value!r} must be .*at least 1, or -1 ")
    for value in (-1, 1, 8):
        keys.checked(changed(key, value))


@pytest.mark.parametrize("key", ["clip_norm", "duration.steps", "duration.chinchilla"])
def test_numbers(key):
    for value in (float("nan"), float("inf"), "1", None, True, 10**400, (1,), -1.0):
        refuses(changed(key, value), rf"^{key}=\S+ must be a finite number")
    for value in (1, 2.5, np.float32(0.5)):
        keys.checked(changed(key, value))


@pytest.mark.parametrize("key", ["horizons.steps", "horizons.chinchilla"])
def test_tuples_of_numbers(key):
    for value in (12, None, "12", ("a",), (float("nan"),), (True,), {}, (None, 3)):
        refuses(changed(key, value), rf"^{key}=.* must be a tuple of finite numbers")
    for value in ((), [], (1, 2.5), [3]):
        keys.checked(changed(key, value))


@pytest.mark.parametrize(
    ("key", "good", "allowed"),
    [
        ("shard_state", True, "True or False"),
        ("tracking.compensated", True, "True or False"),
        ("nonfinite.policy", "skip", "one of stop, skip"),
        ("branch.averages", "freeze", "one of restart, continue, freeze"),
        ("branch.workdir", "runs/trunk", "a string"),
        ("data.source", "corpus", "a string"),
        ("data.tokenizer", "bytes", "a string"),
        ("tracking.dtype", "bfloat16", "a string"),
    ],
)
def test_flags_and_names(key, good, allowed):
    for value in (
        3,
        None,
        1.0,
        [],
        ["stop"],
        {},
        *(["yes"] if " or" in allowed else []),
    ):
        refuses(changed(key, value), rf"^{key}=.* must be {allowed}")
    keys.checked(changed(key, good))


@pytest.mark.parametrize("key", ["model", "schedule", "optimizer", "averages"])
def test_sections_of_factories(key):
    for value in (5, None, "adam", [], ()):
        refuses(changed(key, value), rf"^{key}=.* must be a dict")
    keys.checked(changed(key, dict(name="anything", whatever=object())))


@pytest.mark.parametrize("key", SECTIONS)
def test_sections(key):
    for value in (5, None, "all", ()):
        refuses(changed(key, value), rf"^{key}=.* must be a ConfigDict with [a-z_]+")
    refuses(
        changed(f"{key}.x", 3), rf"^{key}.x=3 is no key of {key}, which has [a-z_]+"
    )


def test_every_key_has_to_be_there():
    config = tiny.get_config()
    optional = {
        *("data.validation_fraction", "shard_state", "nonfinite"),
        *(
            f"{section}.{unit}"
            for section in ("duration", "horizons")
            for unit in UNITS
        ),
    }
    for key, value in config.items():
        inner = value if key in SECTIONS else {}
        for path in (key, *(f"{key}.{last}" for last in inner)):
            if path in optional:
                keys.checked(change(tiny.get_config(), path))
            else:
                refuses(
                    change(tiny.get_config(), path),
                    rf"^{path} is missing; configs/tiny.py shows every key$",
                )


def test_what_older_configs_do_not_have_gets_its_default():
    config = changed("shard_state")
    del config.nonfinite
    made = keys.checked(config.lock())
    assert made == small.config()
    assert made.is_locked and not {"shard_state", "nonfinite"} & set(config)
    refuses(changed("nonfinite.limit"), "^nonfinite.limit is missing")


def test_keys_that_need_each_other():
    refuses(
        small.config(evaluation__batches=3), "^evaluation.batches=3 must be at most"
    )
    refuses(small.config(accumulation=3), "^accumulation=3 must divide batch_size=8$")


def test_values_are_shown_in_one_line_that_is_not_long():
    refuses(changed("seed", {"a": {"b": 1}}), r"^seed={'a': {'b': 1}} must be a whole")
    refuses(changed("seed", np.eye(9)), r"^seed=array\(.{94}\.\.\. must be a whole")
    refuses(changed("seed", "\n"), r"^seed='\\n' must be a whole")


@pytest.mark.parametrize("config", [None, 5, {}, small.config().to_dict()])
def test_a_config_is_a_config_dict(config):
    refuses(config, "^config=.* must be a ConfigDict with accumulation, averages, ")
