"""Checksums of arrays, against a twin in whole numbers; what they see, and where."""

import functools
import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytime_jax.training import checksums, sharding

WHOLE = 2**32


def term(word, index):
    """What one word adds, in Python's whole numbers."""
    mixed = (word ^ word >> 16) * (index * 0x9E3779B2 + 0x7FEB352D) % WHOLE
    return (mixed ^ mixed >> 15) * 0x846CA68B


def twin(array):
    """The docstring's sum, word by word."""
    size = array.dtype.itemsize
    words = np.ravel(array).view({1: "u1", 2: "<u2"}.get(size, "<u4"))
    total = sum(term(word, index) for index, word in enumerate(words.tolist()))
    return f"{total % WHOLE:08x}"


def one(array):
    return checksums.checksums(array)[""]


def normal(shape, dtype="float32", seed=0):
    values = np.random.default_rng(seed).normal(scale=10.0, size=shape)
    return values.astype(dtype)


ARRAYS = {
    "matrix": normal((3, 4)),
    "stack": normal((3, 5, 7)),
    "vector of several passes": normal(5003),
    "rows without a rest": normal((16, 16, 16)),
    "bfloat16": normal((3, 4), ml_dtypes.bfloat16),
    "float16": normal(9, "float16"),
    "float8": normal((3, 4), ml_dtypes.float8_e4m3fn),
    "int32": normal((2, 3), "int32"),
    "uint32": np.arange(2**32 - 5, 2**32, dtype="uint32"),
    "int8": normal((4, 3), "int8"),
    "bool": normal((5, 5)) > 0,
    "scalar": np.float32(-1.5),
    "count": np.int32(12),
    "empty": normal((0, 3)),
    "not a number": np.array([np.nan, -np.nan, np.inf, -0.0], "float32"),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_it_is_the_sum_that_the_docstring_says(array):
    expected = twin(np.asarray(array))
    assert one(array) == expected
    assert one(jnp.asarray(array)) == expected


def test_of_64_bits_there_are_two_words():
    array = normal((3, 4), "float64")
    with jax.enable_x64(True):
        assert one(array) == one(jnp.asarray(array)) == twin(array)


@pytest.mark.parametrize("sizes", [dict(data=8), dict(data=2, fsdp=2, tensor=2)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_the_same_on_every_mesh(sizes, dtype):
    mesh = sharding.make_mesh(**sizes)
    array = normal((4, 16, 24), dtype)
    for spec in (jax.P(), jax.P(None, "fsdp", "tensor"), jax.P("tensor", "data")):
        placed = jax.device_put(array, jax.NamedSharding(mesh, spec))
        assert one(placed) == twin(array)


def test_it_is_the_same_in_the_memory_of_the_host():
    array = normal((8, 8))
    mesh = sharding.make_mesh(fsdp=8)
    on_host = jax.NamedSharding(mesh, jax.P("fsdp"), memory_kind="pinned_host")
    assert one(jax.device_put(array, on_host)) == twin(array)


def test_leaves_are_called_by_their_path():
    tree = dict(layers=(dict(kernel=np.ones(2, "float32")), np.int32(3)))
    assert list(checksums.checksums(tree)) == ["layers/0/kernel", "layers/1"]
    assert checksums.checksums(dict(none=None)) == {}


@functools.cache
def weights():
    array = normal((40, 30))
    return array, twin(array)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.integers(0, 1199), st.integers(1, 2**32 - 1))
def test_no_change_of_one_word_goes_unseen(index, change):
    array, checksum = weights()
    changed = array.copy()
    changed.reshape(-1).view("u4")[index] ^= np.uint32(change)
    assert one(changed) != checksum


def test_two_flips_of_the_same_bit_do_not_cancel():
    """Two signs, above all: in a sum of odd multiples of words they always would."""
    words = weights()[0].reshape(-1).view("u4")[:60].tolist()
    unseen = 0
    for bit in range(32):
        changes = [
            term(word ^ 1 << bit, index) - term(word, index)
            for index, word in enumerate(words)
        ]
        pairs = itertools.combinations(changes, 2)
        unseen += sum((one + other) % WHOLE == 0 for one, other in pairs)
    assert unseen == 0


def test_other_changes_are_seen():
    array, checksum = weights()
    swapped, negated, zeroed = (array.copy() for _ in range(3))
    swapped[[3, 17]] = array[[17, 3]]
    negated[:2] *= -1
    zeroed.reshape(-1)[512:1024] = 0
    for changed in (swapped, negated, zeroed, array.T, array.reshape(30, 40)[::-1]):
        assert one(np.ascontiguousarray(changed)) != checksum
    assert one(array[:-1]) != checksum
