import hashlib
import json
import os

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from anytime_jax.data import packing, pipeline, tokenizers

DOCUMENTS = [f"document {i}: " + "wörter " * (i % 7) for i in range(200)]
BYTES = tokenizers.tokenizer("bytes")


class Listed:
    """A source of the given documents, one list a split."""

    name = "listed"

    def __init__(self, fingerprint="listed", **splits):
        self.fingerprint = fingerprint
        self.splits = tuple(splits)
        self._documents = splits

    def documents(self, split):
        yield from self._documents[split]

    def describe(self):
        return {"lists": len(self.splits)}


class Words:
    """A tokenizer with a vocabulary of any size: the length of each word."""

    spec = "words"
    end_of_document = 0

    def __init__(self, vocab_size):
        self.vocab_size = vocab_size
        self.fingerprint = f"words {vocab_size}"

    def encode(self, text):
        return np.array([len(word) for word in text.split()])


def pack(cache, source=None, tokenizer=BYTES, validation_fraction=0.2, **options):
    source = source or Listed(train=DOCUMENTS)
    return packing.pack(
        source,
        tokenizer,
        cache=cache,
        validation_fraction=validation_fraction,
        **options,
    )


def documents_of(stream):
    """Cuts a byte stream at its ends of documents."""
    parts = bytes(stream.astype(np.uint8)).split(b"\0")
    assert parts[0] == parts[-1] == b""
    return [part.decode() for part in parts[1:-1]]


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_every_document_is_in_one_stream_whole_and_in_order(tmp_path):
    tokens, _ = pack(tmp_path)
    train, validation = (documents_of(tokens[split]) for split in packing.SPLITS)
    assert train == [d for d in DOCUMENTS if d in set(train)]
    assert validation == [d for d in DOCUMENTS if d not in set(train)]


@pytest.mark.parametrize("length", [1, 7, 64])
def test_packing_predicts_every_token_of_every_document_once(tmp_path, length):
    stream = pack(tmp_path)[0]["train"]
    sequences = pipeline.Sequences(stream, length)
    targets = np.concatenate([sequences[i][1:] for i in range(len(sequences))])
    everything = b"".join(d.encode() + b"\0" for d in documents_of(stream))
    assert bytes(targets.tolist()) == everything[: targets.size]
    assert len(everything) - targets.size < length


def test_record_counts_what_was_written(tmp_path):
    tokens, record = pack(tmp_path)
    assert record["source"] == {"name": "listed", "lists": 1}
    for split in packing.SPLITS:
        documents = documents_of(tokens[split])
        assert record[split] == {
            "documents": len(documents),
            "bytes": sum(len(d.encode()) for d in documents),
            "tokens": tokens[split].size,
            "sha256": hashlib.sha256(tokens[split].tobytes()).hexdigest(),
        }
    assert json.loads(json.dumps(record)) == record


@pytest.mark.parametrize(
    ("vocab_size", "itemsize"), [(2, 1), (256, 1), (257, 2), (65536, 2), (65537, 4)]
)
def test_tokens_take_as_little_room_as_they_can(tmp_path, vocab_size, itemsize):
    tokens, record = pack(tmp_path, tokenizer=Words(vocab_size))
    (binary,) = tmp_path.glob("tokens/*/train.bin")
    assert binary.stat().st_size == itemsize * record["train"]["tokens"]
    assert tokens["train"].dtype.itemsize == itemsize
    assert not tokens["train"].flags.writeable


def test_large_tokens_survive(tmp_path):
    source = Listed(train=["a" * 70_000 + " b"], validation=["c"])
    tokens, _ = pack(tmp_path, source, Words(100_000))
    assert_array_equal(tokens["train"], [0, 70_000, 1, 0])


def test_split_does_not_depend_on_the_other_documents():
    splits = [packing.split_of(document, 0.2) for document in DOCUMENTS]
    assert set(splits) == set(packing.SPLITS)
    more = [packing.split_of(d, 0.3) for d in DOCUMENTS]
    # A larger fraction takes more documents and gives none back.
    pairs = set(zip(splits, more, strict=True))
    assert pairs == {
        ("train", "train"),
        ("train", "validation"),
        ("validation", "validation"),
    }


def test_split_is_independent_of_order_and_disjoint(tmp_path):
    forward, _ = pack(tmp_path, Listed("forward", train=DOCUMENTS))
    doubled = Listed("doubled", train=DOCUMENTS[::-1] + DOCUMENTS)
    backward, _ = pack(tmp_path, doubled)
    for split in packing.SPLITS:
        assert set(documents_of(forward[split])) == set(documents_of(backward[split]))
    train, validation = (set(documents_of(backward[s])) for s in packing.SPLITS)
    assert not train & validation
    assert train | validation == set(DOCUMENTS)


def test_split_has_the_asked_fraction():
    number, fraction = 20_000, 0.03
    splits = [packing.split_of(str(i), fraction) for i in range(number)]
    found = splits.count("validation") / number
    assert abs(found - fraction) < 5 * (fraction * (1 - fraction) / number) ** 0.5


def test_own_validation_split_is_kept(tmp_path):
    source = Listed(train=["a", "b", "c"], validation=["d", "a"])
    tokens, _ = pack(tmp_path, source, validation_fraction=0.999)
    assert documents_of(tokens["train"]) == ["a", "b", "c"]
    assert documents_of(tokens["validation"]) == ["d", "a"]


def test_second_call_reads_the_cache(tmp_path, capsys):
    class Unreadable(Listed):
        def documents(self, split):
            raise AssertionError("the documents were read again")

    first, record = pack(tmp_path)
    assert "Tokenising listed" in capsys.readouterr().err
    second, again = pack(tmp_path, Unreadable(train=[]))
    assert capsys.readouterr() == ("", "")
    assert again == record
    for split in packing.SPLITS:
        assert_array_equal(first[split], second[split])


def test_whatever_changes_the_tokens_changes_the_folder(tmp_path):
    variants = [
        {},
        {"source": Listed("other", train=DOCUMENTS)},
        {"tokenizer": Words(300)},
        {"validation_fraction": 0.3},
        {"source": Listed(train=DOCUMENTS, validation=DOCUMENTS)},
    ]
    for number, variant in enumerate(variants, 1):
        pack(tmp_path, **variant)
        assert len(list((tmp_path / "tokens").iterdir())) == number
    pack(tmp_path)
    assert len(list((tmp_path / "tokens").iterdir())) == len(variants)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_interruption_leaves_nothing_and_can_be_repeated(tmp_path, error):
    class Interrupted(Listed):
        def documents(self, split):
            yield from DOCUMENTS[:100]
            raise error

    with pytest.raises(error):
        pack(tmp_path, Interrupted(train=[]))
    assert list((tmp_path / "tokens").iterdir()) == []
    tokens, _ = pack(tmp_path)
    total = sum(len(documents_of(tokens[split])) for split in packing.SPLITS)
    assert total == len(DOCUMENTS)


def test_two_at_the_same_time_agree(tmp_path):
    inner = []

    class Overtaken(Listed):
        def documents(self, split):
            yield from DOCUMENTS[:100]
            inner.append(pack(tmp_path))
            yield from DOCUMENTS[100:]

    tokens, record = pack(tmp_path, Overtaken(train=[]))
    assert record == inner[0][1]
    assert_array_equal(tokens["train"], inner[0][0]["train"])
    assert len(list((tmp_path / "tokens").iterdir())) == 1


def test_workers_make_the_same_tokens(tmp_path):
    alone, record = pack(tmp_path / "alone")
    together, same = pack(tmp_path / "together", workers=2)
    assert same == record
    for split in packing.SPLITS:
        assert_array_equal(alone[split], together[split])


def test_damaged_file(tmp_path):
    pack(tmp_path)
    (binary,) = tmp_path.glob("tokens/*/train.bin")
    os.truncate(binary, 10)
    with pytest.raises(ValueError, match=r"train\.bin' has 10 bytes and should have"):
        pack(tmp_path)


@pytest.mark.parametrize(
    ("source", "fraction", "message"),
    [
        (Listed(train=[]), 0.1, r"data\.source='listed' holds no text"),
        (Listed(train=[], validation=[]), 0.1, r"data\.source='listed' holds no text"),
        (
            Listed(train=["one"]),
            1e-9,
            r"data\.validation_fraction=1e-09 leaves the validation .*documents: 1",
        ),
        (
            Listed(train=["one", "two"]),
            1 - 1e-9,
            r"data\.validation_fraction=0\.999999999 leaves the train .*documents: 2",
        ),
        (
            Listed(train=["one"], validation=[]),
            0.1,
            r"data\.source='listed': split 'validation' has no text",
        ),
    ],
)
def test_an_empty_split_is_an_error(tmp_path, source, fraction, message):
    with pytest.raises(ValueError, match=message):
        pack(tmp_path, source, validation_fraction=fraction)
    assert files(tmp_path) == []
