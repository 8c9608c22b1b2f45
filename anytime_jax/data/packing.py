"""Documents to one flat file of tokens a split, written once and then memory-mapped.

    stream of a split:   end doc end doc end ... doc end

One `end_of_document` token stands before, between and after the documents, so every
token of every document has something to be predicted from.
"""

import collections
import concurrent.futures
import hashlib
import itertools
import json
import multiprocessing
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from anytime_jax.data import cache as cache_lib
from anytime_jax.data import sources, tokenizers

# Part of every fingerprint: a change of the layout or of the split must change it.
FORMAT = 1
SPLITS = ("train", "validation")


def split_of(document: str, validation_fraction: float) -> str:
    """Returns the split of a document, which depends on nothing but its text.

    `blake2b(document) / 2^64 < validation_fraction` sends it to "validation". Hence the
    order of the documents does not matter, documents added later move none of the
    others, and copies of a document are never on both sides.

    Args:
      document: the text.
      validation_fraction: expected share of the documents in validation.

    Example:

      >>> split_of("to be or not to be", 0.01), split_of("to be or not to be", 0.99)
      ('train', 'validation')
    """
    digest = hashlib.blake2b(document.encode(), digest_size=8).digest()
    below = int.from_bytes(digest, "big") < validation_fraction * 2**64
    return "validation" if below else "train"


def pack(
    source: sources.Source,
    tokenizer: tokenizers.Tokenizer,
    *,
    cache: pathlib.Path,
    validation_fraction: float,
    workers: int = 0,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the token streams of both splits, tokenised now or by an earlier call.

    The streams live in `cache / "tokens" / fingerprint`, where the fingerprint covers
    the source, the tokenizer and the rule of the split. The folder appears when it is
    complete: an interrupted call leaves nothing, and calls at the same time agree.

    Args:
      source: where documents come from.
      tokenizer: what makes tokens of them.
      cache: the cache folder.
      validation_fraction: see `split_of`; not used if the source has its own split.
      workers: processes that tokenise; 0 means this one. The tokens are the same for
        any number. A script that asks for workers must start under
        `if __name__ == "__main__":`, as always when Python starts processes.

    Returns:
      `({"train": tokens, "validation": tokens}, record)`: read-only arrays of the
      smallest of uint8, uint16 and uint32 that holds the vocabulary, and what
      config.json should say: `source` and, for each split, `documents`, `bytes` (of
      UTF-8 text), `tokens` and `sha256` (of the file of tokens).

    Raises:
      ValueError: there are no documents, or none for one of the splits.
    """
    own_split = source.splits == SPLITS
    rule = "own split" if own_split else validation_fraction
    folder = (
        cache
        / "tokens"
        / cache_lib.digest([FORMAT, source.fingerprint, tokenizer.fingerprint, rule])
    )
    if not folder.is_dir():
        start = time.monotonic()
        print(f"Tokenising {source.name} into {folder}", file=sys.stderr)
        with cache_lib.complete_folder(folder) as temporary:
            record = _write(source, tokenizer, temporary, validation_fraction, workers)
            (temporary / "tokens.json").write_text(json.dumps(record, indent=2) + "\n")
        counts = [f"{record[split]['tokens']:,} {split}" for split in SPLITS]
        seconds = time.monotonic() - start
        print(
            f"Wrote {' and '.join(counts)} tokens in {seconds:.1f} s", file=sys.stderr
        )
    record = json.loads((folder / "tokens.json").read_text())
    dtype = _dtype(tokenizer)
    return {s: _open(folder / f"{s}.bin", dtype, record[s]) for s in SPLITS}, record


def _write(
    source: sources.Source,
    tokenizer: tokenizers.Tokenizer,
    folder: pathlib.Path,
    validation_fraction: float,
    workers: int,
) -> dict[str, Any]:
    """Writes both streams and returns the record of them."""
    own_split = source.splits == SPLITS
    streams = {s: _Stream(folder / f"{s}.bin", tokenizer) for s in SPLITS}
    try:
        for given in source.splits:
            documents = source.documents(given)
            for document, tokens in _encode_all(documents, tokenizer, workers):
                split = given if own_split else split_of(document, validation_fraction)
                streams[split].add(document, tokens)
    finally:
        for stream in streams.values():
            stream.close()
    counts = {split: streams[split].documents for split in SPLITS}
    if not any(counts.values()):
        raise ValueError(f"data.source={source.name!r} holds no text")
    for split, other in (SPLITS, SPLITS[::-1]):
        if not counts[split] and own_split:
            raise ValueError(
                f"data.source={source.name!r}: split {split!r} has no text"
            )
        if not counts[split]:
            raise ValueError(
                f"data.validation_fraction={validation_fraction} leaves the {split} "
                f"split of data.source={source.name!r} empty (documents: "
                f"{counts[other]}, all in {other}); the split is by document, so give "
                "more documents or another fraction"
            )
    record = {split: streams[split].record() for split in SPLITS}
    return {"source": {"name": source.name, **source.describe()}, **record}


class _Stream:
    """The file of one split while it is written."""

    def __init__(self, path: pathlib.Path, tokenizer: tokenizers.Tokenizer):
        self._file = path.open("wb")
        self._dtype = _dtype(tokenizer)
        self._end = np.array([tokenizer.end_of_document], self._dtype)
        self._sha256 = hashlib.sha256()
        self.documents = self._bytes = self._tokens = 0
        self._append(self._end)

    def add(self, document: str, tokens: np.ndarray):
        self._append(np.asarray(tokens, self._dtype))
        self._append(self._end)
        self.documents += 1
        self._bytes += len(document.encode())

    def _append(self, tokens: np.ndarray):
        content = tokens.tobytes()
        self._file.write(content)
        self._sha256.update(content)
        self._tokens += tokens.size

    def record(self) -> dict[str, Any]:
        return {
            "documents": self.documents,
            "bytes": self._bytes,
            "tokens": self._tokens,
            "sha256": self._sha256.hexdigest(),
        }

    def close(self):
        self._file.close()


def _dtype(tokenizer: tokenizers.Tokenizer) -> np.dtype:
    return np.min_scalar_type(tokenizer.vocab_size - 1).newbyteorder("<")


def _open(path: pathlib.Path, dtype: np.dtype, record: dict[str, Any]) -> np.ndarray:
    if path.stat().st_size != record["tokens"] * dtype.itemsize:
        raise ValueError(
            f"{str(path)!r} has {path.stat().st_size} bytes and should have "
            f"{record['tokens'] * dtype.itemsize}; delete its folder to make it again"
        )
    # Without the memmap class around it, slicing is several times faster.
    return np.asarray(np.memmap(path, dtype, mode="r"))


def _encode_all(
    documents: Iterator[str], tokenizer: tokenizers.Tokenizer, workers: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields every document with its tokens, in order."""
    if not workers:
        for document in documents:
            yield document, tokenizer.encode(document)
        return
    # Not fork: a process in which JAX runs threads must not be forked.
    with concurrent.futures.ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(tokenizer.spec,),
    ) as pool:
        # Not map, which would read all documents into memory at once.
        pending = collections.deque()
        for chunk in iter(lambda: list(itertools.islice(documents, 16)), []):
            pending.append((chunk, pool.submit(_encode, chunk)))
            if len(pending) > 4 * workers:
                chunk, encoded = pending.popleft()
                yield from zip(chunk, encoded.result(), strict=True)
        for chunk, encoded in pending:
            yield from zip(chunk, encoded.result(), strict=True)


_worker_tokenizer: tokenizers.Tokenizer


def _start_worker(spec: str):
    global _worker_tokenizer
    _worker_tokenizer = tokenizers.tokenizer(spec)


def _encode(documents: list[str]) -> list[np.ndarray]:
    return [_worker_tokenizer.encode(document) for document in documents]
