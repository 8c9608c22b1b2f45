"""Language models as pairs of pure functions.

A model is `init(rng) -> params` and `apply(params, tokens) -> logits`, with parameters
in plain nested dicts; how it is written, here in Flax NNX, does not show outside.
"""

from collections.abc import Mapping
from typing import Any

from anytime_jax import specs
from anytime_jax.models.decoder import decoder
from anytime_jax.models.model import Model, count_parameters

__all__ = ["Model", "build", "count_parameters", "decoder"]


def build(spec: Mapping[str, Any]) -> Model:
    """Makes the model that a config describes.

    Args:
      spec: `dict(name="decoder", ...)` with the arguments of `decoder`; None counts as
        not given.

    Returns:
      The model.

    Raises:
      ValueError: an unknown name or argument, a missing argument or a refused value.

    Example:
      >>> spec = dict(name="decoder", vocab_size=256, width=32, layers=2, heads=2)
      >>> build(spec).vocab_size
      256
    """
    return specs.call(spec, (decoder,), "model")
