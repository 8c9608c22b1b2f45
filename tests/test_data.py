import ast
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from anytime_jax import data
from anytime_jax.data import corpus

FOLDER = pathlib.Path(data.__file__).parent


@pytest.fixture
def texts(tmp_path):
    """A pattern that matches a few hundred documents."""
    lines = [json.dumps({"text": f"document {i} " * (1 + i % 5)}) for i in range(300)]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    return f"files:{tmp_path}/*.jsonl"


def test_files_end_to_end(texts, tmp_path):
    dataset = data.load(source=texts, sequence_length=16, cache=tmp_path / "cache")
    assert dataset.vocab_size == 256
    assert dataset.entropy is None
    assert dataset.train.batch(0, 4).shape == (4, 17)
    description = dataset.description
    tokens = description["train"]["tokens"]
    sequences = dataset.train.sequences
    assert len(sequences) == (tokens - 1) // 16
    counts = [description[split]["documents"] for split in ("train", "validation")]
    assert sum(counts) == 300
    text = bytes(np.concatenate([sequences[i][1:] for i in range(5)]).tolist())
    assert text.startswith(b"document 0 \0document 1 document 1 \0")


def test_validation_batches_are_in_order(texts, tmp_path):
    dataset = data.load(
        source=texts,
        sequence_length=8,
        validation_fraction=0.3,
        cache=tmp_path / "cache",
    )
    tokens = dataset.description["validation"]["tokens"]
    assert len(dataset.validation) == (tokens - 1) // 8
    batch = dataset.validation.batch(2, 3)
    assert_array_equal(batch[1:, 0], batch[:-1, -1])
    with pytest.raises(ValueError, match="sequences and there are"):
        dataset.validation.batch(0, 10**6)


def test_seed_reorders_training_alone(texts, tmp_path):
    options = dict(source=texts, sequence_length=8, cache=tmp_path / "cache")
    one, other, again = (data.load(seed=seed, **options) for seed in (0, 1, 0))
    assert_array_equal(one.train.batch(0, 50), again.train.batch(0, 50))
    assert (one.train.batch(0, 50) != other.train.batch(0, 50)).any()
    assert_array_equal(one.validation.batch(0, 2), other.validation.batch(0, 2))
    assert one.description == other.description


def test_description_goes_into_config_json_and_knows_no_cache(texts, tmp_path):
    loaded = [
        data.load(source=texts, sequence_length=8, cache=tmp_path / name)
        for name in ("here", "there", "there")
    ]
    first, second, third = (json.dumps(dataset.description) for dataset in loaded)
    assert first == second == third
    assert "there" not in second
    description = loaded[0].description
    assert description["source"] == {"name": texts, "files": 1}
    assert description["tokenizer"] == {"name": "bytes", "fingerprint": "bytes"}
    assert description["vocab_size"] == 256
    for split in ("train", "validation"):
        assert set(description[split]) == {"documents", "bytes", "tokens", "sha256"}


def test_corpus_end_to_end(tmp_path, monkeypatch):
    for function in (corpus.prepare, corpus.fingerprint, corpus.distributions):
        monkeypatch.setattr(function, "__defaults__", (("tqdm", "clu"),))
    dataset = data.load(sequence_length=64, cache=tmp_path, validation_fraction=0.1)
    origin = dataset.description["source"]
    splits = [dataset.description[split] for split in ("train", "validation")]
    assert origin["name"] == "corpus"
    assert origin["documents"] == sum(split["documents"] for split in splits)
    assert origin["bytes"] == sum(split["bytes"] for split in splits)
    assert [name.partition("==")[0] for name in origin["distributions"]] == [
        "clu",
        "tqdm",
    ]
    monkeypatch.setattr(corpus, "prepare", None)
    again = data.load(sequence_length=64, cache=tmp_path, validation_fraction=0.1)
    assert again.description == dataset.description


def test_synthetic_needs_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ANYTIME_JAX_CACHE", "/dev/null/nowhere")
    dataset = data.load(source="synthetic", sequence_length=32, seed=3)
    tokens = dataset.train.batch(0, 64)
    assert dataset.vocab_size == 16
    assert set(np.unique(tokens)) == set(range(16))
    assert 0.5 < dataset.entropy < np.log(16)
    assert json.loads(json.dumps(dataset.description)) == dataset.description
    assert dataset.description["entropy"] == dataset.entropy
    assert list(tmp_path.iterdir()) == []


def test_cache_from_the_environment(texts, tmp_path, monkeypatch):
    monkeypatch.setenv("ANYTIME_JAX_CACHE", str(tmp_path / "cache"))
    data.load(source=texts, sequence_length=8)
    assert len(list((tmp_path / "cache" / "tokens").glob("*/train.bin"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sequence_length": 0}, r"^sequence_length=0 must be a whole number, at lea"),
        ({"sequence_length": 2.0}, r"^sequence_length=2\.0 must be a whole number"),
        ({"sequence_length": True}, r"^sequence_length=True must be a whole number"),
        ({"seed": -1}, r"^seed=-1 must be a whole number, at least 0"),
        ({"seed": None}, r"^seed=None must be a whole number"),
        ({"workers": -2}, r"^data\.workers=-2 must be a whole number, at least 0"),
        ({"validation_fraction": 0}, r"^data\.validation_fraction=0 must be a number"),
        ({"validation_fraction": 1.0}, r"^data\.validation_fraction=1\.0 must be a"),
        ({"validation_fraction": "1%"}, r"^data\.validation_fraction='1%' must be a"),
        (
            {"validation_fraction": float("nan")},
            r"^data\.validation_fraction=nan must be a number",
        ),
        ({"text_key": ""}, r"^data\.text_key='' must be the name of a key"),
        ({"source": "no"}, r"^data\.source='no' is unknown"),
        ({"source": "files:/no/file.txt"}, r"^data\.source='files:/no/file\.txt' mat"),
        ({"source": "tfds:no", "data_dir": "/no"}, r"^data\.source='tfds:no' is not"),
        ({"tokenizer": "no"}, r"^data\.tokenizer='no' is unknown"),
        ({"tokenizer": "huggingface:/no"}, r"there is no file '/no'$"),
        ({"cache": "/dev/null"}, r"^data\.cache='/dev/null' cannot be used"),
    ],
)
@pytest.mark.parametrize("function", [data.check, data.load])
def test_bad_arguments(function, arguments, message, texts, tmp_path):
    cache = tmp_path / "cache"
    good = dict(source=texts, sequence_length=8, cache=cache)
    with pytest.raises(ValueError, match=message) as error:
        function(**{**good, **arguments})
    assert "\n" not in str(error.value)
    assert not cache.exists()


def test_unknown_arguments():
    with pytest.raises(
        ValueError, match=r"^data\.sauce='corpus' is not an argument; kno"
    ):
        data.check(sauce="corpus", sequence_length=8)


@pytest.mark.parametrize("source", ["texts", "corpus", "synthetic"])
def test_check_writes_nothing(source, texts, tmp_path):
    source = texts if source == "texts" else source
    before = sorted(tmp_path.rglob("*"))
    vocab_size = data.check(source=source, sequence_length=8, cache=tmp_path / "c")
    assert vocab_size == (16 if source == "synthetic" else 256)
    assert sorted(tmp_path.rglob("*")) == before


def test_text_shorter_than_a_sequence(texts, tmp_path):
    options = dict(source=texts, cache=tmp_path / "cache")
    with pytest.raises(ValueError, match=r"sequence_length=1000000 .* train split of"):
        data.load(sequence_length=10**6, **options)
    with pytest.raises(ValueError, match=r"sequence_length=5000 .* validation split"):
        data.load(sequence_length=5000, **options)


def test_imports_neither_jax_nor_another_room():
    allowed = sys.stdlib_module_names | {"numpy", "grain", "tensorflow_datasets"}
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            else:
                continue
            for name in names:
                top, *below = name.split(".")
                assert top in allowed or (top == "anytime_jax" and below[0] == "data")


def test_importing_is_light():
    program = (
        "import sys, anytime_jax.data as data;"
        "data.load(source='synthetic', sequence_length=8);"
        "print([n for n in ('grain', 'tensorflow_datasets', 'tensorflow', 'tokenizers',"
        "'sentencepiece') if n in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
