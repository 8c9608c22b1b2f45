"""Where documents come from: a config string names a source of text.

    corpus       the Python source of the installed packages, see `corpus.py`
    files:GLOB   *.txt, one document a file; *.jsonl, one document a line
    tfds:NAME    a TFDS data set that is already prepared as array_record

(The fourth string that `load` knows, `synthetic`, has tokens and no text: see
`synthetic.py`.) A source is cheap to make, writes nothing then, and yields its
documents in the same order every time. Documents without text are dropped.
"""

import glob
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, Protocol

from anytime_jax.data import cache as cache_lib


class Source(Protocol):
    """What packing asks of a source.

    Attributes:
      name: the config string, for messages and config.json.
      fingerprint: digits that change when the documents change, cheap to compute.
      splits: `("train", "validation")`, or `("train",)` when the validation documents
        have to be taken out of the training split.
    """

    name: str
    fingerprint: str
    splits: tuple[str, ...]

    def documents(self, split: str) -> Iterator[str]:
        """Yields the documents of a split, none of them empty."""
        ...

    def describe(self) -> dict[str, Any]:
        """Returns what config.json should say about the data; JSON can express it."""
        ...


def source(
    spec: str,
    *,
    cache: pathlib.Path,
    text_key: str = "text",
    data_dir: str | None = None,
) -> Source:
    """Makes the source that a config string names.

    Args:
      spec: `"corpus"`, `"files:GLOB"` or `"tfds:NAME"`.
      cache: the cache folder, where the corpus is prepared when its documents are read.
      text_key: the key of the text in a jsonl line or in a TFDS example.
      data_dir: where TFDS data sets are looked for; None means TFDS's own folder.

    Raises:
      ValueError: the string is not one of these, or what it names is not there.

    Example:

      >>> source("files:/no/*.txt", cache=pathlib.Path("unused"))
      Traceback (most recent call last):
      ...
      ValueError: data.source='files:/no/*.txt' matches no file
    """
    kind, colon, name = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if spec == "corpus":
        return Corpus(cache)
    if kind == "files" and name:
        return Files(name, text_key)
    if kind == "tfds" and name:
        return TfdsDataset(name, text_key, data_dir)
    if kind in ("files", "tfds") and colon:
        raise ValueError(
            f"data.source={spec!r} names nothing after the colon; write "
            "'files:GLOB' or 'tfds:NAME'"
        )
    raise ValueError(
        f"data.source={spec!r} is unknown; known are 'corpus', 'files:GLOB', "
        "'tfds:NAME' and 'synthetic'"
    )


class Corpus:
    """The built-in corpus; prepared when its documents are first read."""

    name = "corpus"
    splits = ("train",)

    def __init__(self, cache: pathlib.Path):
        # Not at the top: TFDS takes a third of a second and most sources do without.
        from anytime_jax.data import corpus

        self._corpus = corpus
        self._cache = cache
        self.fingerprint = corpus.fingerprint()

    def documents(self, split: str) -> Iterator[str]:
        """Yields one document for every file."""
        yield from _texts(self._corpus.prepare(self._cache), split, "text", self.name)

    def describe(self) -> dict[str, Any]:
        """Returns the corpus's size and hash, and the versions it was made from."""
        metadata = dict(self._corpus.prepare(self._cache).info.metadata)
        return {**metadata, "distributions": self._corpus.distributions()}


class Files:
    """Text files that a pattern matches, in the order of their paths.

    Args:
      pattern: a path or a glob, in which `**` stands for any number of folders.
      text_key: the key of the text in the lines of .jsonl files.
    """

    splits = ("train",)

    def __init__(self, pattern: str, text_key: str):
        self.name = f"files:{pattern}"
        self._text_key = text_key
        path = os.path.expanduser(pattern)
        # A file may have brackets in its name.
        matches = [path] if os.path.isfile(path) else glob.glob(path, recursive=True)
        self._paths = sorted(os.path.abspath(p) for p in matches if os.path.isfile(p))
        if not self._paths:
            raise ValueError(
                f"data.source={self.name!r} matches no file"
                + ("" if os.path.isabs(pattern) else f" in {os.getcwd()!r}")
            )
        for path in self._paths:
            if not path.endswith((".txt", ".jsonl")):
                raise ValueError(
                    f"data.source={self.name!r} matches {path!r}; files must end in "
                    ".txt (one document a file) or .jsonl (one document a line)"
                )
        stats = [(path, os.stat(path)) for path in self._paths]
        self.fingerprint = cache_lib.digest(
            [text_key, [(path, s.st_size, s.st_mtime_ns) for path, s in stats]]
        )

    def documents(self, split: str) -> Iterator[str]:
        """Yields one document for every .txt file and every line of a .jsonl file."""
        del split
        for path in self._paths:
            where = f"data.source={self.name!r}: {path}"
            if path.endswith(".jsonl"):
                yield from self._lines(path, where)
            elif text := _decode(pathlib.Path(path).read_bytes(), where):
                yield text

    def _lines(self, path: str, where: str) -> Iterator[str]:
        offset = 0
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                text = _decode(line, where, offset)
                offset += len(line)
                if text.strip():
                    text = self._value(text, f"{where}, line {number}")
                    if text:
                        yield text

    def _value(self, line: str, where: str) -> str:
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{where} is not JSON: {error.msg} at column {error.colno}"
            ) from None
        if not isinstance(record, dict) or self._text_key not in record:
            found = (
                sorted(record) if isinstance(record, dict) else type(record).__name__
            )
            raise ValueError(
                f"{where} has no key data.text_key={self._text_key!r}; found {found}"
            )
        text = record[self._text_key]
        if not isinstance(text, str):
            raise ValueError(
                f"{where} has {text!r:.80} under data.text_key={self._text_key!r}, "
                "which is not a string"
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            # JSON can spell half of a surrogate pair, which no UTF-8 text contains.
            raise ValueError(
                f"{where} has an unpaired surrogate, {text[error.start]!r}, at "
                f"character {error.start} of its text"
            ) from None
        return text

    def describe(self) -> dict[str, Any]:
        """Returns the number of files."""
        return {"files": len(self._paths)}


class TfdsDataset:
    """A TFDS data set that is on disk as array_record; nothing is ever downloaded.

    Its `validation` split is used when there is one.

    Args:
      name: as TFDS writes it: `lm1b`, `wikipedia/20230601.en`, `my_data:1.0.0`.
      text_key: the feature that holds the text.
      data_dir: the folder that holds data sets; None means `TFDS_DATA_DIR` or
        `~/tensorflow_datasets`, and any folder registered with TFDS.
    """

    def __init__(self, name: str, text_key: str, data_dir: str | None):
        import tensorflow_datasets as tfds

        self.name = f"tfds:{name}"
        self._text_key = text_key
        data_dir = data_dir and os.path.expanduser(data_dir)
        self._builder = builder = _find(tfds, self.name, name, data_dir)
        if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
            raise ValueError(
                f"data.source={self.name!r} is stored as "
                f"{builder.info.file_format.value} in {str(builder.data_dir)!r}; "
                "prepare it with file_format='array_record'"
            )
        features = sorted(getattr(builder.info.features, "keys", list)())
        if text_key not in features:
            raise ValueError(
                f"data.text_key={text_key!r} is not a feature of {self.name!r}; its "
                f"features are {', '.join(features)}"
            )
        if "train" not in builder.info.splits:
            raise ValueError(
                f"data.source={self.name!r} has no split 'train'; its splits are "
                f"{', '.join(sorted(builder.info.splits))}"
            )
        has_validation = "validation" in builder.info.splits
        self.splits = ("train", "validation") if has_validation else ("train",)
        infos = [builder.info.splits[split] for split in self.splits]
        # Sizes of array_record files are rounded up, the numbers of bytes are not.
        counts = [(s.name, s.num_examples, s.num_bytes) for s in infos]
        stats = [(path.name, path.stat()) for s in infos for path in s.filepaths]
        self.fingerprint = cache_lib.digest(
            [
                [builder.info.full_name, text_key, counts],
                [(name, stat.length, int(stat.mtime)) for name, stat in stats],
            ]
        )

    def documents(self, split: str) -> Iterator[str]:
        """Yields the text of every example."""
        yield from _texts(self._builder, split, self._text_key, self.name)

    def describe(self) -> dict[str, Any]:
        """Returns the full name, with configuration and version."""
        return {"full_name": self._builder.info.full_name}


def _find(tfds: Any, spec: str, name: str, data_dir: str | None) -> Any:
    """Returns a read-only builder of a prepared data set."""
    folders = [str(p) for p in tfds.core.utils.file_utils.list_data_dirs(data_dir)]
    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise ValueError(
            f"data.source={spec!r} is not prepared in {', '.join(folders)}; prepare it "
            "there with file_format='array_record', or set data.data_dir (a data set "
            "with configurations needs one in its name: NAME/CONFIG)"
        ) from None
    except ValueError as error:
        first_line = str(error).partition("\n")[0]
        raise ValueError(
            f"data.source={spec!r} cannot be read: {first_line}"
        ) from error


def _texts(builder: Any, split: str, key: str, name: str) -> Iterator[str]:
    """Yields the texts of a TFDS split that are not empty."""
    records = builder.as_data_source(split)
    for start in range(0, len(records), 256):
        # In blocks, which takes half the time of one by one.
        block = range(start, min(start + 256, len(records)))
        for number, example in zip(block, records.__getitems__(block), strict=True):
            text = example[key]
            # Stored text comes back as bytes; TFDS's mock data as str.
            if isinstance(text, bytes):
                text = _decode(text, f"data.source={name!r}: {split} example {number}")
            if not isinstance(text, str):
                raise ValueError(
                    f"data.text_key={key!r} of data.source={name!r} holds "
                    f"{type(text).__name__}, not text"
                )
            if text:
                yield text


def _decode(content: bytes, where: str, offset: int = 0) -> str:
    """Decodes UTF-8, or says at which byte of the file it is not UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where} is not UTF-8 at byte {offset + error.start} "
            f"(0x{content[error.start]:02x}); convert it to UTF-8"
        ) from None
