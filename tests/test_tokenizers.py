import io
import sys

import numpy as np
import pytest
import sentencepiece
import tokenizers as huggingface
from numpy.testing import assert_array_equal

from anytime_jax.data import tokenizers

TEXT = "def add(a, b):\n    return a + b  # Grüße, 東京 🎉\n"


@pytest.fixture(scope="module")
def sentencepiece_content():
    def train(**options):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["to be or not to be", "that is the question"] * 9),
            model_writer=model,
            vocab_size=32,
            model_type="bpe",
            minloglevel=2,
            **options,
        )
        return model.getvalue()

    return train


def huggingface_tokenizer(**vocabulary):
    vocabulary = {"to": 0, "be": 1, "or": 2, "not": 3, "?": 4} | vocabulary
    model = huggingface.Tokenizer(huggingface.models.WordLevel(vocabulary, "?"))
    model.pre_tokenizer = huggingface.pre_tokenizers.Whitespace()
    return model


@pytest.mark.parametrize("text", [TEXT, "", "\x7f\x80߿ࠀ￿\U0010ffff"])
def test_bytes_are_utf8(text):
    tokenizer = tokenizers.tokenizer("bytes")
    tokens = tokenizer.encode(text)
    assert bytes(tokens.tolist()) == text.encode()
    assert tokenizer.decode(tokens) == text
    assert tokenizer.decode(tokens.astype(np.int32)) == text
    assert tokenizer.vocab_size == 256


def test_bytes_keep_the_end_of_document_apart():
    tokenizer = tokenizers.tokenizer("bytes")
    tokens = tokenizer.encode("a\0b\0")
    assert tokenizer.end_of_document not in tokens
    assert tokenizer.decode(tokens) == "ab"


def test_bytes_decode_what_a_model_may_say():
    assert tokenizers.tokenizer("bytes").decode(np.array([104, 255, 105])) == "h\ufffdi"


def test_sentencepiece(tmp_path, sentencepiece_content):
    path = tmp_path / "tiny.model"
    path.write_bytes(sentencepiece_content())
    tokenizer = tokenizers.tokenizer(f"sentencepiece:{path}")
    tokens = tokenizer.encode("to be or not")
    assert tokenizer.vocab_size == 32
    assert tokens.dtype == np.int32
    assert tokens.size > 1
    assert 0 <= tokens.min() <= tokens.max() < 32
    assert tokenizer.end_of_document not in tokens
    assert tokenizer.decode(tokens) == "to be or not"


def test_sentencepiece_without_an_end(tmp_path, sentencepiece_content):
    path = tmp_path / "endless.model"
    path.write_bytes(sentencepiece_content(eos_id=-1))
    with pytest.raises(ValueError, match="no end-of-sentence piece"):
        tokenizers.tokenizer(f"sentencepiece:{path}")


def test_huggingface(tmp_path):
    path = tmp_path / "tokenizer.json"
    huggingface_tokenizer(**{"</s>": 5}).save(str(path))
    tokenizer = tokenizers.tokenizer(f"huggingface:{path}")
    tokens = tokenizer.encode("to be or not to be")
    assert_array_equal(tokens, [0, 1, 2, 3, 0, 1])
    assert tokens.dtype == np.int32
    assert tokenizer.decode(tokens) == "to be or not to be"
    assert (tokenizer.vocab_size, tokenizer.end_of_document) == (6, 5)


def test_huggingface_loses_and_invents_nothing(tmp_path):
    path = tmp_path / "tokenizer.json"
    model = huggingface_tokenizer(**{"<eos>": 5})
    model.add_special_tokens(["<eos>"])
    model.post_processor = huggingface.processors.TemplateProcessing(
        single="<eos> $A <eos>", special_tokens=[("<eos>", 5)]
    )
    model.enable_truncation(2)
    model.enable_padding(length=9)
    model.save(str(path))
    tokenizer = tokenizers.tokenizer(f"huggingface:{path}")
    assert_array_equal(tokenizer.encode("to be or not"), [0, 1, 2, 3])
    assert tokenizer.end_of_document not in tokenizer.encode("to be <eos> or not")


def test_huggingface_vocabulary_with_gaps(tmp_path):
    path = tmp_path / "tokenizer.json"
    huggingface_tokenizer(**{"<|endoftext|>": 1000}).save(str(path))
    tokenizer = tokenizers.tokenizer(f"huggingface:{path}")
    assert (tokenizer.vocab_size, tokenizer.end_of_document) == (1001, 1000)


def test_huggingface_without_an_end(tmp_path):
    path = tmp_path / "tokenizer.json"
    huggingface_tokenizer().save(str(path))
    with pytest.raises(ValueError, match=r"no token that ends a document.*endoftext"):
        tokenizers.tokenizer(f"huggingface:{path}")


def test_fingerprint_is_of_the_content(tmp_path, sentencepiece_content):
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    for path, end in ((one, "</s>"), (two, "</s>"), (other, "<eos>")):
        huggingface_tokenizer(**{end: 5}).save(str(path))
    prints = [tokenizers.tokenizer(f"huggingface:{p}").fingerprint for p in (one, two)]
    prints.append(tokenizers.tokenizer(f"huggingface:{other}").fingerprint)
    prints.append(tokenizers.tokenizer("bytes").fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    "spec",
    ["byte", "bytes:x", "sentencepiece", "sentencepiece:", "gpt2:x", "", None, 3],
)
def test_unknown_names(spec):
    with pytest.raises(ValueError, match=r"data\.tokenizer=.* is unknown; known are"):
        tokenizers.tokenizer(spec)


@pytest.mark.parametrize("kind", ["sentencepiece", "huggingface"])
def test_missing_file(tmp_path, kind):
    spec = f"{kind}:{tmp_path / 'none'}"
    with pytest.raises(ValueError, match=r"data\.tokenizer=.*there is no file"):
        tokenizers.tokenizer(spec)


@pytest.mark.parametrize("kind", ["sentencepiece", "huggingface"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe nonsense", b"{}"])
def test_file_of_another_kind(tmp_path, kind, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"data\.tokenizer=.* is not a ") as error:
        tokenizers.tokenizer(f"{kind}:{path}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "package"),
    [("sentencepiece", "sentencepiece"), ("huggingface", "tokenizers")],
)
def test_missing_package(tmp_path, monkeypatch, kind, package):
    path = tmp_path / "file"
    path.touch()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ValueError, match=rf"needs the package '{package}'; pip install"
    ):
        tokenizers.tokenizer(f"{kind}:{path}")
