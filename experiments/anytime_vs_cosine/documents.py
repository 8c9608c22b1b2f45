"""The loss on groups of validation documents, the same for every set of weights.

A document is in one group, so the groups differ as independent draws of documents do,
and 64 numbers for each evaluation give the standard error of any difference.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from anytime_jax import data, models

SEQUENCES = 8192  # to choose by, evenly spaced: a document counts by its length
MOST = 16  # sequences of a document, to report: long ones would outweigh all others
_PART = 4  # every so many batches, for curves
GROUPS = 64
_BATCH = 64  # sequences
_END = 0  # of a document, in the bytes tokenizer

Tree = Any


class Documents:
    """The validation set, by group of documents.

    Attributes:
      tokens_NxBxL1: batches of sequences.
      of_NxBxL: the group of every target.
      counts_G: the targets of every group.
      documents: how many documents they are from.
    """

    def __init__(self, config: Any, sequences: int = SEQUENCES, most: int = 0):
        """Reads it.

        Args:
          config: of any run.
          sequences: how many, evenly spaced over the set.
          most: of a document, evenly spaced in it; 0 for `sequences` instead.
        """
        dataset = data.load(
            **config.data, sequence_length=config.sequence_length, seed=config.seed
        )
        validation = dataset.validation
        whole_NxL1 = validation.batch(0, len(validation))
        # A token belongs to the document whose end comes next, its end included.
        ends_NxL = whole_NxL1[:, 1:] == _END
        before_NxL = np.cumsum(ends_NxL).reshape(ends_NxL.shape) - ends_NxL
        if most:
            chosen = _capped(before_NxL[:, 0], most)
            sequences = len(chosen) // _BATCH * _BATCH
            chosen = chosen[_spaced(len(chosen), sequences)]
        else:
            chosen = _spaced(len(validation), sequences)
        self.documents = len(np.unique(before_NxL[chosen]))
        of_NxL = before_NxL[chosen] % GROUPS
        self.counts_G = np.bincount(of_NxL.ravel(), minlength=GROUPS)
        shape = (sequences // _BATCH, _BATCH, -1)
        self.tokens_NxBxL1 = jnp.asarray(whole_NxL1[chosen]).reshape(shape)
        self.of_NxBxL = jnp.asarray(of_NxL).reshape(shape)
        model = models.build(config.model.to_dict())
        self._sums = jax.jit(functools.partial(_sums, model))

    def part(self, params: Tree) -> float:
        """Returns the mean loss on a part of the set, in nats per token.

        Args:
          params: the weights.
        """
        tokens_NxBxL1, of_NxBxL = self.tokens_NxBxL1[::_PART], self.of_NxBxL[::_PART]
        sums_G = np.asarray(self._sums(params, tokens_NxBxL1, of_NxBxL), np.float64)
        return float(sums_G.sum() / of_NxBxL.size)

    def losses(self, params: Tree) -> np.ndarray:
        """Returns the mean loss of each group, in nats per token.

        Args:
          params: the weights.
        """
        sums_G = np.asarray(
            self._sums(params, self.tokens_NxBxL1, self.of_NxBxL), np.float64
        )
        return sums_G / self.counts_G


def _spaced(count: int, wanted: int) -> np.ndarray:
    return np.linspace(0, count, wanted, endpoint=False).astype(int)


def _capped(of_N: np.ndarray, most: int) -> np.ndarray:
    """Of the sequences of every document at most so many."""
    starts = np.flatnonzero(np.diff(of_N, prepend=-1))
    lengths = np.diff(starts, append=len(of_N))
    return np.concatenate(
        [
            start + _spaced(length, min(length, most))
            for start, length in zip(starts, lengths, strict=True)
        ]
    )


def mean(losses_G: np.ndarray, counts_G: np.ndarray) -> float:
    """Returns the loss per token."""
    return float(np.dot(losses_G, counts_G) / counts_G.sum())


def standard_error(differences_G: np.ndarray, counts_G: np.ndarray) -> float:
    """Returns the standard error of a mean difference per token, over documents.

    Documents, not tokens, are what was drawn: that of a ratio of sums over groups.

    Args:
      differences_G: of the losses of each group.
      counts_G: their tokens.
    """
    count = len(counts_G)
    apart_G = counts_G * (differences_G - mean(differences_G, counts_G))
    variance = count / (count - 1) * np.sum(apart_G**2)
    return float(np.sqrt(variance) / counts_G.sum())


def _sums(model, params, tokens_NxBxL1, of_NxBxL) -> jax.Array:
    """The summed loss of each group."""

    def add(total_G, batch):
        tokens_BxL1, of_BxL = batch
        logits_BxLxV = model.apply(params, tokens_BxL1[:, :-1])
        losses_BxL = optax.losses.softmax_cross_entropy_with_integer_labels(
            logits_BxLxV, tokens_BxL1[:, 1:]
        )
        return total_G.at[of_BxL].add(losses_BxL), None

    total_G, _ = jax.lax.scan(add, jnp.zeros(GROUPS), (tokens_NxBxL1, of_NxBxL))
    return total_G
