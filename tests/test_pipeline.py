import gc
import itertools
import threading

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from anytime_jax.data import pipeline

# Lengths on both sides of the switch between the two ways to permute.
LENGTHS = [1, 2, 50, pipeline._SMALL - 1, pipeline._SMALL, pipeline._SMALL + 1]


class Numbered:
    """Stands in for `Sequences`: sequence i is [i]; remembers what was read."""

    def __init__(self, length):
        self.length = length
        self.read = []

    def __len__(self):
        return self.length

    def take(self, indices_B):
        self.read.extend(indices_B.tolist())
        return indices_B.astype(np.int32)[:, None]


def numbered(length, seed=0):
    return pipeline.Batches(Numbered(length), seed)


@pytest.mark.parametrize("tokens", range(4, 20))
def test_sequences_lose_no_token(tokens):
    stream, length = np.arange(tokens), 3
    sequences = pipeline.Sequences(stream, length)
    rows = [sequences[i] for i in range(len(sequences))]
    targets = np.concatenate([row[1:] for row in rows])
    inputs = np.concatenate([row[:-1] for row in rows])
    assert_array_equal(targets, stream[1 : 1 + targets.size])
    assert_array_equal(inputs, stream[: inputs.size])
    assert 0 <= stream.size - 1 - targets.size < length


def test_sequences_are_int32_copies():
    stream = np.array([250, 251, 252, 253], np.uint8)
    sequences = pipeline.Sequences(stream, 1)
    for tokens in (sequences[1], sequences.take(np.array([1]))[0]):
        assert tokens.dtype == np.int32
        tokens += 100
    assert_array_equal(stream, [250, 251, 252, 253])


def test_sequences_end():
    sequences = pipeline.Sequences(np.arange(10), 4)
    assert len(sequences) == 2
    with pytest.raises(IndexError):
        sequences[2]


def test_sequences_from_a_memory_map(tmp_path):
    np.arange(1000, dtype=np.uint16).tofile(tmp_path / "tokens")
    mapped = np.memmap(tmp_path / "tokens", np.uint16, mode="r")
    batch = pipeline.Sequences(mapped, 8).batch(3, 2)
    assert type(batch) is np.ndarray
    assert_array_equal(batch, [np.arange(24, 33), np.arange(32, 41)])


def test_fixed_order_batches_are_consecutive():
    sequences = pipeline.Sequences(np.arange(41), 4)
    whole = sequences.batch(0, 10)
    assert whole.shape == (10, 5)
    assert_array_equal(whole, [sequences[i] for i in range(10)])
    assert_array_equal(sequences.batch(4, 6), whole[4:])
    assert_array_equal(sequences.batch(4, 6, slice(1, None, 2)), whole[5::2])


def test_fixed_order_refuses_to_repeat():
    sequences = pipeline.Sequences(np.arange(41), 4)
    with pytest.raises(
        ValueError, match=r"start=8 needs 11 sequences and there are 10"
    ):
        sequences.batch(8, 3)


def test_too_few_tokens():
    with pytest.raises(ValueError, match=r"sequence_length=9 needs .* 10 tokens .* 9"):
        pipeline.Sequences(np.arange(9), 9)
    with pytest.raises(ValueError, match="sequence_length=0 must be at least 1"):
        pipeline.Sequences(np.arange(9), 0)


@pytest.mark.parametrize("length", LENGTHS)
def test_every_epoch_is_a_permutation(length):
    batches = numbered(length)
    for epoch in (0, 1, 7):
        order = batches.order(epoch * length, length)
        assert_array_equal(np.sort(order), np.arange(length))


@pytest.mark.parametrize("length", [50, pipeline._SMALL + 1])
def test_epochs_and_seeds_have_their_own_orders(length):
    orders = [
        numbered(length, seed).order(epoch * length, length)
        for seed, epoch in itertools.product(range(2), range(3))
    ]
    for one, other in itertools.combinations(orders, 2):
        # Two random permutations agree in one place on average.
        assert (one == other).sum() < 12


@pytest.mark.parametrize("length", [2000, pipeline._SMALL + 1, 70_000])
def test_the_order_looks_random(length):
    for seed in range(3):
        order = numbered(length, seed).order(0, min(length, 20_000))
        position = np.arange(order.size)
        for one, other in ((order, position), (order[1:], order[:-1])):
            correlation = np.corrcoef(one, other)[0, 1]
            assert abs(correlation) < 4 * order.size**-0.5


def test_the_order_stays_what_it_was():
    # Recorded: a run that is resumed after an update must find the order it began with.
    assert numbered(50, seed=1).order(60, 5).tolist() == [16, 12, 36, 0, 19]
    large = [4768, 14654, 18146, 15908, 63912]
    assert numbered(70_000, seed=1).order(70_010, 5).tolist() == large


@pytest.mark.parametrize("length", [37, pipeline._SMALL + 1])
def test_batch_is_a_pure_function(length):
    starts = [0, 5, length - 3, length, 4 * length + 1, 10**12]
    first = {start: numbered(length).batch(start, 8) for start in starts}
    again = numbered(length)
    for start in reversed(starts):
        assert_array_equal(again.batch(start, 8), first[start])


def test_batch_size_does_not_change_the_order():
    expected = numbered(37).batch(0, 200)
    for sizes in ([1] * 200, [100, 100], [3, 40, 7, 150], [64, 64, 72]):
        consumed, parts, batches = 0, [], numbered(37)
        for size in sizes:
            parts.append(batches.batch(consumed, size))
            consumed += size
        assert_array_equal(np.concatenate(parts), expected)


@pytest.mark.parametrize(
    "rows", [slice(0, 4), slice(4, 8), slice(1, None, 2), np.array([6, 0]), slice(0, 0)]
)
def test_hosts_read_their_rows_and_nothing_else(rows):
    expected = numbered(20).batch(16, 8)[rows]
    batches = numbered(20)
    assert_array_equal(batches.batch(16, 8, rows), expected)
    assert_array_equal(batches.sequences.read, expected[:, 0])


def test_batches_hold_the_tokens_of_the_stream():
    stream = np.random.default_rng(0).integers(0, 50_000, 4001).astype(np.uint16)
    batches = pipeline.Batches(pipeline.Sequences(stream, 40), seed=1)
    tokens_BxL = batches.batch(100, 100)
    assert tokens_BxL.shape == (100, 41)
    assert tokens_BxL.dtype == np.int32
    in_order = tokens_BxL[np.argsort(batches.order(100, 100))]
    assert_array_equal(in_order[:, 1:].ravel(), stream[1:])


def test_bad_batches():
    with pytest.raises(ValueError, match="seed=-1 must not be negative"):
        numbered(5, seed=-1)
    with pytest.raises(ValueError, match="consumed=-1 must not be negative"):
        numbered(5).batch(-1, 2)
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        numbered(5).batch(0, 0)
    with pytest.raises(ValueError, match="start=-1 must not be negative"):
        pipeline.Sequences(np.arange(9), 2).batch(-1, 1)


def workers():
    return [t for t in threading.enumerate() if t.name.startswith("prefetch")]


def assert_thread_ends():
    for thread in workers():
        thread.join(timeout=30)
    assert not workers()


@pytest.mark.parametrize("depth", [1, 2, 5, 100])
def test_prefetch_keeps_the_order(depth):
    results = pipeline.prefetch(lambda x: 10 * x, iter(range(20)), depth)
    assert list(results) == [10 * x for x in range(20)]
    assert_thread_ends()


def test_prefetch_of_nothing():
    assert list(pipeline.prefetch(str, [])) == []


def test_prefetch_works_off_the_main_thread_and_in_one_thread():
    threads = set(pipeline.prefetch(lambda _: threading.get_ident(), range(10)))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("depth", [1, 3])
def test_prefetch_is_ahead_by_its_depth(depth):
    calls, computed = [], threading.Semaphore(0)

    def function(argument):
        calls.append(argument)
        computed.release()
        return argument

    results = pipeline.prefetch(function, itertools.count(), depth)
    for handed_out in range(1, 6):
        next(results)
        for _ in range(1 + depth if handed_out == 1 else 1):
            assert computed.acquire(timeout=30)
        assert calls == list(range(handed_out + depth))
    results.close()
    assert_thread_ends()
    assert len(calls) == 5 + depth


def test_prefetch_raises_where_the_result_would_be():
    def function(argument):
        return 1 // argument

    results = pipeline.prefetch(function, [1, 1, 0, 1], depth=3)
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []
    assert_thread_ends()


def test_prefetch_raises_for_its_arguments_too():
    def arguments():
        yield 1
        yield 2
        raise KeyError("third")

    results = pipeline.prefetch(str, arguments(), depth=3)
    assert [next(results), next(results)] == ["1", "2"]
    with pytest.raises(KeyError, match="third"):
        next(results)
    assert_thread_ends()


@pytest.mark.parametrize("how", ["close", "collect"])
def test_prefetch_stops_its_thread(how):
    results = pipeline.prefetch(lambda x: x, itertools.count(), depth=4)
    next(results)
    assert len(workers()) == 1
    if how == "close":
        results.close()
    del results
    gc.collect()
    assert_thread_ends()


def test_prefetch_starts_nothing_after_it_is_closed():
    calls, closed = [], threading.Event()

    def function(argument):
        calls.append(argument)
        if argument > 0:
            assert closed.wait(timeout=30)

    results = pipeline.prefetch(function, itertools.count(), depth=4)
    next(results)
    results.close()
    closed.set()
    assert_thread_ends()
    assert calls in ([0], [0, 1])


def test_prefetch_depth():
    with pytest.raises(ValueError, match="depth=0 must be at least 1"):
        pipeline.prefetch(str, [], depth=0)
