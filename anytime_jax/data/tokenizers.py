"""Tokenizers: text to numbers and back.

A tokenizer is named by a string: `bytes`, `sentencepiece:PATH` (a .model file) or
`huggingface:PATH` (a tokenizer.json file). The last two need the packages of the same
name, which `pip install 'anytime_jax[tokenizers]'` brings.
"""

import hashlib
import importlib
import pathlib
from typing import Any, Protocol

import numpy as np

# How tokenizers in the Hugging Face format spell the end of a document.
END_OF_DOCUMENT_NAMES = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|eos|>",
    "[EOS]",
    "[SEP]",
)


class Tokenizer(Protocol):
    """What the data pipeline asks of a tokenizer.

    Attributes:
      spec: the string that makes this tokenizer again.
      vocab_size: tokens lie in [0, vocab_size).
      end_of_document: the token between documents; no text encodes to it.
      fingerprint: digits that change when the encoding changes.
    """

    spec: str
    vocab_size: int
    end_of_document: int
    fingerprint: str

    def encode(self, text: str) -> np.ndarray:
        """Returns the tokens of one document, without `end_of_document`."""
        ...

    def decode(self, tokens: np.ndarray) -> str:
        """Returns the text of tokens."""
        ...


def tokenizer(spec: str) -> Tokenizer:
    """Makes the tokenizer that a config string names.

    Args:
      spec: `"bytes"`, `"sentencepiece:PATH"` or `"huggingface:PATH"`.

    Raises:
      ValueError: the string is not one of these, the file is missing or not of that
        kind, its package is not installed, or no token can end a document.

    Example:

      >>> tokenizer("bytes").encode("né").tolist()
      [110, 195, 169]
    """
    kind, _, path = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if spec == "bytes":
        return Bytes()
    if kind == "sentencepiece" and path:
        return SentencePiece(path)
    if kind == "huggingface" and path:
        return HuggingFace(path)
    raise ValueError(
        f"data.tokenizer={spec!r} is unknown; known are 'bytes', 'sentencepiece:PATH' "
        "and 'huggingface:PATH'"
    )


class Bytes:
    """Tokens are the bytes of the UTF-8 text, and 0 (NUL) ends a document.

    NUL characters inside a document are dropped: they carry no text, and so 0 always
    means the end.
    """

    spec = "bytes"
    vocab_size = 256
    end_of_document = 0
    fingerprint = "bytes"

    def encode(self, text: str) -> np.ndarray:
        """Returns uint8 tokens."""
        return np.frombuffer(text.replace("\0", "").encode(), np.uint8)

    def decode(self, tokens: np.ndarray) -> str:
        """Returns the text; bytes that are not UTF-8 become U+FFFD."""
        return np.asarray(tokens, np.uint8).tobytes().decode("utf-8", errors="replace")


class SentencePiece:
    """A SentencePiece model (Kudo and Richardson, 2018, arXiv 1808.06226).

    Its end-of-sentence piece ends a document. The model normalises text as it was
    trained to, so `decode` need not return all white space.

    Args:
      path: a .model file.
    """

    def __init__(self, path: str):
        self.spec = f"sentencepiece:{path}"
        content = _read(self.spec, path)
        package = _package(self.spec, "sentencepiece")
        try:
            self._model = package.SentencePieceProcessor()
            self._model.LoadFromSerializedProto(content)
        except Exception as error:
            raise _unreadable(self.spec, "SentencePiece model", error) from error
        self.vocab_size = self._model.get_piece_size()
        self.end_of_document = self._model.eos_id()
        if self.end_of_document < 0:
            raise ValueError(
                f"data.tokenizer={self.spec!r} has no end-of-sentence piece to put "
                "between documents; train it with eos_id >= 0"
            )
        self.fingerprint = f"sentencepiece-{hashlib.sha256(content).hexdigest()}"

    def encode(self, text: str) -> np.ndarray:
        """Returns int32 tokens."""
        return np.asarray(self._model.encode(text, out_type=int), np.int32)

    def decode(self, tokens: np.ndarray) -> str:
        """Returns the text."""
        return self._model.decode(np.asarray(tokens).tolist())


class HuggingFace:
    """A tokenizer of the Hugging Face `tokenizers` package.

    The first of `END_OF_DOCUMENT_NAMES` in its vocabulary ends a document. Text that
    spells a special token is encoded as ordinary text; truncation and padding that the
    file asks for are switched off, because they would lose or invent tokens.

    Args:
      path: a tokenizer.json file.
    """

    def __init__(self, path: str):
        self.spec = f"huggingface:{path}"
        content = _read(self.spec, path)
        package = _package(self.spec, "tokenizers")
        try:
            self._model = package.Tokenizer.from_str(content.decode())
        except Exception as error:
            raise _unreadable(self.spec, "tokenizer.json", error) from error
        self._model.no_truncation()
        self._model.no_padding()
        self._model.encode_special_tokens = True
        # Not get_vocab_size(): the numbers of added tokens may leave gaps.
        vocabulary = self._model.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values()) + 1
        names = [name for name in END_OF_DOCUMENT_NAMES if name in vocabulary]
        if not names:
            raise ValueError(
                f"data.tokenizer={self.spec!r} has no token that ends a document; "
                f"known names are {', '.join(END_OF_DOCUMENT_NAMES)}"
            )
        self.end_of_document = vocabulary[names[0]]
        self.fingerprint = f"huggingface-{hashlib.sha256(content).hexdigest()}"

    def encode(self, text: str) -> np.ndarray:
        """Returns int32 tokens."""
        ids = self._model.encode(text, add_special_tokens=False).ids
        return np.asarray(ids, np.int32)

    def decode(self, tokens: np.ndarray) -> str:
        """Returns the text, without special tokens."""
        return self._model.decode(np.asarray(tokens).tolist())


def _read(spec: str, path: str) -> bytes:
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise ValueError(
            f"data.tokenizer={spec!r}: there is no file {str(file.absolute())!r}"
        )
    return file.read_bytes()


def _package(spec: str, name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"data.tokenizer={spec!r} needs the package {name!r}; "
            "pip install 'anytime_jax[tokenizers]'"
        ) from error


def _unreadable(spec: str, kind: str, error: Exception) -> ValueError:
    first_line = str(error).partition("\n")[0]
    return ValueError(f"data.tokenizer={spec!r} is not a {kind}: {first_line}")
