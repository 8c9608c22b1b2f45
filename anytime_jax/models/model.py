"""What a model is to the rest of the package: two pure functions."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Model:
    """A language model as a pair of pure functions.

    Both can be jitted, differentiated and traced by `jax.eval_shape`.

    Attributes:
      init: makes the parameters from a PRNG key: nested dicts of float32 arrays.
      apply: maps parameters and integer tokens [B, L] to next-token logits [B, L, V] in
        float32; the logits at a position depend on the tokens up to it.
      vocab_size: V; tokens are in [0, V).
    """

    init: Callable[[jax.Array], Params]
    apply: Callable[[Params, jax.Array], jax.Array]
    vocab_size: int


def count_parameters(params: Mapping[str, Any]) -> dict[str, int]:
    """Counts the parameters in and outside the vocabulary's two matrices.

    Args:
      params: what `Model.init` returns, as arrays or as their shapes.

    Returns:
      `embedding`, the size of the token embedding and the untied head, `2 V D`, and
      `non_embedding`, the size of everything else, which is what the paper's model
      names count.

    Raises:
      ValueError: `params` has no embedding or no head.

    Example:
      >>> import jax
      >>> from anytime_jax import models
      >>> model = models.decoder(vocab_size=32128, width=1024, layers=12, heads=16)
      >>> count_parameters(jax.eval_shape(model.init, jax.random.key(0)))
      {'embedding': 65798144, 'non_embedding': 151022080}
    """
    for part in ("embedding", "head"):
        if part not in params:
            raise ValueError(f"params has {sorted(params)}; it needs {part!r}")
    embedding = _size(params["embedding"]) + _size(params["head"])
    return dict(embedding=embedding, non_embedding=_size(params) - embedding)


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
