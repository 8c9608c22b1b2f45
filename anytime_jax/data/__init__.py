"""Data: text to packed batches of tokens, without a network and without TensorFlow.

    source -> documents -> tokenizer -> one flat file a split -> sequences -> batches

`load` does all of it and `Batches.batch` is a pure function of (seed, sequences
consumed, batch size). Everything here is NumPy; training puts batches on devices.
"""

import dataclasses
import hashlib
import inspect
import operator
import os
from typing import Any

import numpy as np

from anytime_jax.data import cache as cache_lib
from anytime_jax.data import packing, sources, synthetic, tokenizers
from anytime_jax.data.pipeline import Batches, Sequences, prefetch

__all__ = ["Batches", "Dataset", "Sequences", "check", "load", "prefetch"]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Data ready for training.

    Attributes:
      train: shuffled batches without end.
      validation: sequences in a fixed order.
      vocab_size: tokens lie in [0, vocab_size).
      entropy: the least next-token loss that a model can have on average, in nats per
        token, where it is known: for the synthetic source.
      description: what config.json should say about the data: source, tokenizer,
        and documents, bytes, tokens and SHA-256 of each split. Does not depend on the
        cache folder; JSON can express it.
    """

    train: Batches
    validation: Sequences
    vocab_size: int
    entropy: float | None
    description: dict[str, Any]


def load(
    *,
    source: str = "corpus",
    tokenizer: str = "bytes",
    sequence_length: int,
    seed: int = 0,
    validation_fraction: float = 0.01,
    text_key: str = "text",
    data_dir: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    workers: int = 0,
) -> Dataset:
    """Loads a data set; what has to be prepared is prepared once and kept in the cache.

    Args:
      source: `"corpus"` (the Python source of the installed packages), `"files:GLOB"`
        (*.txt, one document a file; *.jsonl, one document a line), `"tfds:NAME"` (a
        data set already prepared as array_record) or `"synthetic"` (a Markov chain over
        16 symbols with known entropy; it needs no tokenizer, cache or file).
      tokenizer: `"bytes"`, `"sentencepiece:PATH"` or `"huggingface:PATH"`.
      sequence_length: targets per sequence, L; batches have L + 1 columns.
      seed: of the order of the training sequences.
      validation_fraction: share of the documents that goes to validation, chosen by a
        hash of their text; not used by a source that has its own validation split.
      text_key: the key of the text in jsonl lines and TFDS examples.
      data_dir: where TFDS data sets are looked for; None means TFDS's own folder.
      cache: folder for prepared data; None means `ANYTIME_JAX_CACHE`, and if that is
        not set `~/.cache/anytime_jax`.
      workers: processes that tokenise; 0 means this one. See `packing.pack`.

    Returns:
      A `Dataset`.

    Raises:
      ValueError: see `check`; or the data hold no text, text that is not UTF-8, nothing
        for one of the splits, or fewer tokens than one sequence.

    Example:

      >>> dataset = load(source="synthetic", sequence_length=64)
      >>> dataset.train.batch(0, 16).shape, dataset.vocab_size
      ((16, 65), 16)
    """
    arguments = dict(locals())
    text_source, text_tokenizer, folder = _resolve(**arguments)
    if text_source is None:
        return _synthetic(sequence_length, seed)
    tokens, record = packing.pack(
        text_source,
        text_tokenizer,
        cache=folder,
        validation_fraction=validation_fraction,
        workers=workers,
    )
    description = {
        **record,
        "tokenizer": {"name": tokenizer, "fingerprint": text_tokenizer.fingerprint},
        "validation_fraction": validation_fraction,
    }
    return _dataset(
        tokens, sequence_length, seed, text_tokenizer.vocab_size, None, description
    )


def check(**arguments: Any) -> int:
    """Checks the arguments of `load` in well under a second, and writes nothing.

    Args:
      **arguments: as for `load`, with the same defaults.

    Returns:
      The size of the vocabulary that the data will have.

    Raises:
      ValueError: an argument is unknown, a number is out of range, a name is unknown, a
        file or a prepared data set is not there, or a package is missing. The message
        names the argument and its value, as `data.ARGUMENT=VALUE` where configs have
        it under `data`.

    Example:

      >>> check(source="synthetic", sequence_length=0)
      Traceback (most recent call last):
      ...
      ValueError: sequence_length=0 must be a whole number, at least 1
    """
    signature = inspect.signature(load)
    for name, value in arguments.items():
        if name not in signature.parameters:
            raise ValueError(
                f"data.{name}={value!r} is not an argument; known are "
                f"{', '.join(signature.parameters)}"
            )
    bound = signature.bind(**arguments)
    bound.apply_defaults()
    _, text_tokenizer, _ = _resolve(**bound.arguments)
    return (text_tokenizer or synthetic.random_chain()).vocab_size


def _resolve(
    *,
    source: str,
    tokenizer: str,
    sequence_length: int,
    seed: int,
    validation_fraction: float,
    text_key: str,
    data_dir: str | None,
    cache: str | os.PathLike[str] | None,
    workers: int,
) -> tuple:
    """Checks everything; returns source, tokenizer and cache, or Nones if synthetic."""
    _whole("sequence_length", sequence_length, 1)
    _whole("seed", seed, 0)
    _whole("data.workers", workers, 0)
    number = isinstance(validation_fraction, int | float | np.number)
    if not number or not 0 < validation_fraction < 1:
        raise ValueError(
            f"data.validation_fraction={validation_fraction!r} must be a number above "
            "0 and below 1"
        )
    if not isinstance(text_key, str) or not text_key:
        raise ValueError(f"data.text_key={text_key!r} must be the name of a key")
    if source == "synthetic":
        return None, None, None
    folder = cache_lib.folder(cache)
    text_tokenizer = tokenizers.tokenizer(tokenizer)
    text_source = sources.source(
        source, cache=folder, text_key=text_key, data_dir=data_dir
    )
    return text_source, text_tokenizer, folder


def _whole(name: str, value: Any, least: int):
    try:
        good = operator.index(value) >= least and not isinstance(value, bool)
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"{name}={value!r} must be a whole number, at least {least}")


def _synthetic(sequence_length: int, seed: int) -> Dataset:
    chain, tokens = synthetic.streams()
    record = {
        split: {"tokens": len(array), "sha256": hashlib.sha256(array).hexdigest()}
        for split, array in tokens.items()
    }
    description = {"source": {"name": "synthetic"}, **record}
    return _dataset(
        tokens, sequence_length, seed, chain.vocab_size, chain.entropy_rate, description
    )


def _dataset(
    tokens: dict[str, np.ndarray],
    sequence_length: int,
    seed: int,
    vocab_size: int,
    entropy: float | None,
    description: dict[str, Any],
) -> Dataset:
    """Cuts the streams into sequences."""
    sequences = {}
    for split, stream in tokens.items():
        try:
            sequences[split] = Sequences(stream, sequence_length)
        except ValueError as error:
            name = description["source"]["name"]
            raise ValueError(
                f"{error} in the {split} split of data.source={name!r}"
            ) from None
    return Dataset(
        train=Batches(sequences["train"], seed),
        validation=sequences["validation"],
        vocab_size=vocab_size,
        entropy=entropy,
        description={**description, "vocab_size": vocab_size, "entropy": entropy},
    )
