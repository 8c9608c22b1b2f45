"""Any invalid config is one line that names the key, before any file is written.

The table of kinds here is the test's own, so that what the code would take for valid
and is not fails too.
"""

import contextlib
import io
import math

import hypothesis
import ml_collections
import pytest
from hypothesis import strategies as st

from anytime_jax import training
from anytime_jax.commands import main
from tests import small

# Of other types than a config has them, whatever the key.
NOTHINGS = (None, "", [], {}, (), b"8")
NO_NUMBERS = (*NOTHINGS, "8", "high", True, False, math.nan, math.inf, -math.inf, (8,))
BEYOND = (2**63, -(10**30), 10**400)
BAD = {
    "whole": (*NO_NUMBERS, *BEYOND, 0, -1, -8, 8.0, 2.5, 1e300),
    "whole or 0": (*NO_NUMBERS, *BEYOND, -1, -8, 0.0, 2.5, 1e300),
    "axis": (*NO_NUMBERS, *BEYOND, 0, -2, 1.0, 3, 16),
    "size": (*(v for v in NO_NUMBERS if v is not None), -(10**30), 0, -1, 8.0, 2.5),
    "above 0": (*NO_NUMBERS, 10**400, 0, 0.0, -1.0),
    "rate": (*NO_NUMBERS, 10**400, -1.0),
    "decay": (*NO_NUMBERS, 10**400, -0.5, 1.0, 1, 1.5),
    "steps": (*NO_NUMBERS, 10**400, 1e300, -1, 2**31, 0.1, 0),
    "amount": (*NO_NUMBERS, 10**400, -1, -2.0, 3),
    "tuple": (None, 5, "6", (-1,), ("a",), (None,), (math.nan,), (0, 3), {}, True),
    "other tuple": (None, 5, "6", (1.0,), ("a",), (math.nan,), {}, True),
    "flag": (*NOTHINGS, "no", "yes", 0, 1, 1.0),
    "optional flag": (*NOTHINGS[1:], "no", "yes", 0, 1, 1.0),
    "name": (*NOTHINGS, 5, True, "adamm", "__doc__", "chain", math.nan),
    "optional name": (*NOTHINGS[1:], 5, True, "adamm", "__doc__", math.nan),
    "source": (*NOTHINGS, 5, "web", "files:", "files:/nowhere/*.txt", "tfds:"),
    "string": (None, 5, [], {}, (), b"8", math.nan, True),
    "path": (None, 5, [], {}, b"8", math.nan, True, "gs://b/run", "runs/nowhere"),
    "section": (*NOTHINGS[:3], 5, "all", (1,), math.nan, True),
}
KINDS = {
    "seed": "whole or 0",
    "model": "section",
    "model.name": "name",
    "model.vocab_size": "size",
    "model.width": "size",
    "model.layers": "size",
    "model.heads": "size",
    "model.norm": "optional name",
    "model.mlp": "optional name",
    "model.compute_dtype": "optional name",
    "model.remat": "optional flag",
    "data": "section",
    "data.source": "source",
    "data.tokenizer": "string",
    "data.validation_fraction": "decay",
    "sequence_length": "whole",
    "batch_size": "whole",
    "accumulation": "whole",
    "schedule": "section",
    "schedule.name": "name",
    "schedule.peak": "rate",
    "schedule.warmup_steps": "whole or 0",
    "optimizer": "section",
    "optimizer.name": "name",
    "optimizer.b1": "decay",
    "optimizer.b2": "decay",
    "clip_norm": "above 0",
    "averages": "section",
    "averages.ema25": "section",
    "averages.ema25.name": "name",
    "averages.ema25.divisor": "above 0",
    "averages.uniform.name": "name",
    "tracking": "section",
    "tracking.every": "whole",
    "tracking.dtype": "name",
    "tracking.compensated": "flag",
    "tracking.time": "name",
    "tracking.memory_kind": "name",
    "duration": "section",
    "duration.steps": "steps",
    "duration.tokens": "amount",
    "duration.chinchilla": "amount",
    "horizons": "section",
    "horizons.steps": "tuple",
    "horizons.tokens": "other tuple",
    "horizons.chinchilla": "other tuple",
    "branch": "section",
    "branch.workdir": "path",
    "branch.step": "whole or 0",
    "branch.averages": "name",
    "evaluation": "section",
    "evaluation.points": "whole",
    "evaluation.batches": "whole",
    "evaluation.horizon_batches": "whole",
    "evaluation.batch_size": "whole",
    "evaluation.patience": "whole or 0",
    "snapshots": "section",
    "snapshots.every": "whole or 0",
    "snapshots.latest_every": "whole or 0",
    "logging": "section",
    "logging.every": "whole",
    "mesh": "section",
    "mesh.data": "axis",
    "mesh.fsdp": "axis",
    "mesh.tensor": "axis",
    "shard_state": "flag",
    "nonfinite": "section",
    "nonfinite.policy": "name",
    "nonfinite.limit": "whole",
}
# What a config may leave out, and what its factories have defaults for.
OPTIONAL = {
    *("shard_state", "nonfinite", "data.validation_fraction", "averages.ema25"),
    *("model.norm", "model.mlp", "model.compute_dtype", "model.remat"),
    *("optimizer.b1", "optimizer.b2", "schedule.warmup_steps"),
    *("duration.tokens", "duration.chinchilla"),
    *("horizons.tokens", "horizons.chinchilla"),
}
# None is a value that was not given: the factory's default.
NONE_IS_ALLOWED = {key for key in OPTIONAL if key.startswith(("model", "schedule"))}


def test_the_table_has_every_key():
    def keys(tree, prefix=""):
        for key, value in tree.items():
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from keys(value, f"{prefix}{key}.")

    assert set(KINDS) | {"averages.uniform"} == set(keys(small.config().to_dict()))


@st.composite
def invalid(draw):
    """The name of a key, and the small config, as a dict, with that key wrong."""
    key = draw(st.sampled_from(sorted(KINDS)))
    content = small.config().to_dict()
    *parents, last = key.split(".")
    node = content
    for parent in parents:
        node = node[parent]
    ways = ["value", "value", "value", "misspelt"]
    way = draw(st.sampled_from(ways if key in OPTIONAL else [*ways, "missing"]))
    if way == "missing":
        del node[last]
    elif way == "misspelt":
        at = draw(st.integers(0, len(last) - 1))
        wrong = last[:at] + last[at] + last[at:]
        # In a section of its own the average's name is free.
        hypothesis.assume(parents != ["averages"])
        node[wrong] = node.pop(last)
        # Without its name a section has no arguments to check.
        key = key if last == "name" else ".".join([*parents, wrong])
    else:
        values = [
            v for v in BAD[KINDS[key]] if v is not None or key not in NONE_IS_ALLOWED
        ]
        node[last] = draw(st.sampled_from(values))
    return key, content


def names(message, key):
    """Whether a message names a key: its own name, and its section's."""
    section, last = key.split(".")[0], key.split(".")[-1]
    return section in message and last in message


FIXED = dict(derandomize=True, deadline=None, database=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with nothing in it, that of the cache included."""
    folder = tmp_path_factory.mktemp("nothing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANYTIME_JAX_CACHE", str(folder / "cache"))
        yield folder


@hypothesis.settings(max_examples=300, **FIXED)
@hypothesis.given(wrong=invalid())
def test_an_invalid_config_is_one_line_that_names_the_key(folder, wrong):
    key, content = wrong
    with pytest.raises(ValueError) as caught:
        training.prepare(ml_collections.ConfigDict(content), folder / "run")
    assert "\n" not in str(caught.value)
    assert names(str(caught.value), key), caught.value
    assert list(folder.iterdir()) == []


@hypothesis.settings(max_examples=20, **FIXED)
@hypothesis.given(wrong=invalid())
def test_through_the_command_too(folder, tmp_path_factory, wrong):
    key, content = wrong
    file = tmp_path_factory.mktemp("config") / "wrong.py"
    file.write_text(
        "from math import inf, nan\n"
        "import ml_collections\n"
        f"def get_config():\n    return ml_collections.ConfigDict({content!r})\n"
    )
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main.main(["train", f"--config={file}", f"--workdir={folder}/run"])
    assert (code, out.getvalue()) == (2, "")
    message = err.getvalue()
    assert message.startswith("anytime_jax: ") and message.count("\n") == 1
    assert "Traceback" not in message and names(message, key), message
    assert list(folder.iterdir()) == []
