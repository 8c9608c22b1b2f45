"""The decoder-only Transformer of the paper, in Flax NNX.

Capitals in shape suffixes: B batch, L length, D width, H heads, K head size, F hidden
width of the MLP, V vocabulary, N layers.

The parameters of all layers are stacked, N on the leading axis:

    embedding/table                            [V, D]
    layers/attention_norm/scale                [N, D]
    layers/attention/query|key|value/kernel    [N, D, H, K]
    layers/attention/query_norm|key_norm/scale [N, K]
    layers/attention/output/kernel             [N, H, K, D]
    layers/mlp_norm/scale                      [N, D]
    layers/mlp/up|gate/kernel                  [N, D, F], gate with swiglu
    layers/mlp/down/kernel                     [N, F, D]
    final_norm/scale                           [D]
    head/kernel                                [D, V]
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from anytime_jax.models.model import Model, Params

_NORMS = {"layernorm": nnx.LayerNorm, "rmsnorm": nnx.RMSNorm}
_MLPS = ("gelu", "swiglu")
_DTYPES = ("float32", "bfloat16")
_NORM_EPSILON = 1e-5  # OLMo's
_ROWS = ("data", "fsdp")  # the axes of a mesh that a batch may be split over

Rotation = tuple[jax.Array, jax.Array]  # cosines and sines, [1, L, 1, K/2] each


def decoder(
    *,
    vocab_size: int,
    width: int,
    layers: int,
    heads: int,
    mlp_width: int | None = None,
    norm: str = "layernorm",
    mlp: str = "gelu",
    rope_base: float = 10000.0,
    compute_dtype: str = "float32",
    remat: bool = False,
) -> Model:
    """Makes a decoder-only Transformer.

    With x the token embeddings, every layer adds two branches to the residual stream,

        x <- x + attention(norm(x)),    x <- x + mlp(norm(x)),

    and the logits are `norm(x) @ head`. There are no biases and no dropout. Queries and
    keys are normed per head, with one scale [K] for all heads of a layer, then turned
    by their position: RoPE in the half-split form, where entry i of the first half is
    paired with entry i of the second, and the pair turns by `rope_base^(-2i/K)` radians
    per position. `mlp` is `gelu`, that is `gelu(x up) down` with the exact erf, or
    `swiglu`, that is `(silu(x gate) * (x up)) down`.

    Initial weights are normal, cut at three standard deviations. The standard deviation
    before the cut (after it, 0.987 of that) is, in layer l = 0, 1, ...:

        1/sqrt(D)              embedding, query, key, value, up, gate, head
        1/sqrt(2 D (l + 1))    attention output
        1/sqrt(2 F (l + 1))    down

    Norms start at scale 1 and have epsilon 1e-5. Parameters are float32. Norms, RoPE,
    the softmax and the logits are float32 for every compute dtype.

    Args:
      vocab_size: V. A token outside [0, V) makes its whole sequence's logits NaN.
      width: D, of the residual stream; a multiple of 2 * heads.
      layers: N.
      heads: H, each of size K = width / heads.
      mlp_width: F; by default 4 * width for gelu, and for swiglu 8/3 * width rounded up
        to a multiple of 64, which has about the same number of parameters.
      norm: `layernorm` (with a scale, without a bias) or `rmsnorm`.
      mlp: `gelu` or `swiglu`.
      rope_base: the base of the rotation frequencies, above 1.
      compute_dtype: `float32` or `bfloat16`, of residual stream and matrix products.
      remat: keep only every layer's input for the backward pass, and compute the rest
        again: less memory for about a third more arithmetic.

    Returns:
      The model. Its `apply` raises ValueError unless tokens are integers [B, L] and
      the parameters have this model's names and shapes.

    Raises:
      ValueError: a size is not a positive integer, the head size is not an even
        integer, a name is unknown, or `rope_base` is not above 1.

    Example:
      >>> model = decoder(vocab_size=256, width=32, layers=2, heads=2)
      >>> params = jax.eval_shape(model.init, jax.random.key(0))
      >>> params["layers"]["attention"]["query"]["kernel"].shape
      (2, 32, 2, 16)
      >>> tokens = jax.ShapeDtypeStruct((4, 64), jnp.int32)
      >>> jax.eval_shape(model.apply, params, tokens).shape
      (4, 64, 256)

    Source: Meterez et al. 2026, arXiv 2602.03702, whose model and whose "mitchell"
    initialisation are OLMo's (Groeneveld et al. 2024, arXiv 2402.00838). RoPE: Su et
    al. 2021, arXiv 2104.09864. QK-norm: Dehghani et al. 2023, arXiv 2302.05442.
    RMSNorm: Zhang and Sennrich 2019, arXiv 1910.07467. SwiGLU: Shazeer 2020, arXiv
    2002.05202.
    """
    if mlp_width is None:
        _check_positive(width=width)
        mlp_width = 4 * width if mlp == "gelu" else 64 * math.ceil(width / 24)
    config = _Config(
        vocab_size=vocab_size,
        width=width,
        layers=layers,
        heads=heads,
        mlp_width=mlp_width,
        norm=norm,
        mlp=mlp,
        rope_base=rope_base,
        compute_dtype=compute_dtype,
        remat=remat,
    )
    abstract = nnx.eval_shape(lambda: _Decoder(config, nnx.Rngs(0)))
    graph, state = nnx.split(abstract)
    shapes = _shapes(nnx.to_pure_dict(state))

    def init(rng: jax.Array) -> Params:
        module = _Decoder(config, nnx.Rngs(params=rng))
        return nnx.to_pure_dict(nnx.state(module))

    def apply(params: Params, tokens_BxL: jax.Array) -> jax.Array:
        _check_tokens(tokens_BxL)
        # Merging goes by the order of the leaves and would not notice.
        _check_shapes(_shapes(params), shapes)
        return nnx.merge(graph, params)(tokens_BxL)

    return Model(init=init, apply=apply, vocab_size=vocab_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Config:
    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    norm: str
    mlp: str
    rope_base: float
    compute_dtype: str
    remat: bool

    def __post_init__(self):
        _check_name("norm", self.norm, _NORMS)
        _check_name("mlp", self.mlp, _MLPS)
        _check_name("compute_dtype", self.compute_dtype, _DTYPES)
        sizes = ("vocab_size", "width", "layers", "heads", "mlp_width")
        _check_positive(**{size: getattr(self, size) for size in sizes})
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width={self.width} must be a multiple of 2 * heads = "
                f"{2 * self.heads}, because the head size must be even"
            )
        if not 1 < self.rope_base < math.inf:
            raise ValueError(f"rope_base={self.rope_base} must be above 1 and finite")
        if not isinstance(self.remat, bool):
            raise ValueError(f"remat={self.remat!r} must be True or False")

    @property
    def head_size(self) -> int:
        return self.width // self.heads


class _Decoder(nnx.Module):
    def __init__(self, c: _Config, rngs: nnx.Rngs):
        def make_block(layer, key):
            return _Block(c, layer, nnx.Rngs(params=key))

        self.config = c
        self.embedding = _Embedding(c, rngs)
        keys_N = jax.random.split(rngs.params(), c.layers)
        self.layers = nnx.vmap(make_block)(jnp.arange(c.layers), keys_N)
        self.final_norm = _norm(c, c.width, c.compute_dtype, rngs)
        self.head = nnx.Linear(
            c.width,
            c.vocab_size,
            use_bias=False,
            dtype=c.compute_dtype,
            preferred_element_type=jnp.float32,
            kernel_init=_truncated_normal(c.width),
            rngs=rngs,
        )

    def __call__(self, tokens_BxL: jax.Array) -> jax.Array:
        c = self.config
        rotation = _rotation(tokens_BxL.shape[1], c.head_size, c.rope_base)
        block, stacked_params = nnx.split(self.layers)

        def run_layer(x_BxLxD, params):
            return _split(nnx.merge(block, params)(x_BxLxD, rotation), *_ROWS), None

        if c.remat:
            # The two computations of a layer are in different loops, where the compiler
            # cannot merge them; barriers against that would only cost time.
            run_layer = jax.checkpoint(run_layer, prevent_cse=False)
        x_BxLxD = _split(self.embedding(tokens_BxL), *_ROWS)
        x_BxLxD, _ = jax.lax.scan(run_layer, x_BxLxD, stacked_params)
        return self.head(self.final_norm(x_BxLxD))


class _Embedding(nnx.Module):
    def __init__(self, c: _Config, rngs: nnx.Rngs):
        shape = (c.vocab_size, c.width)
        init = _truncated_normal(c.width)
        self.table = nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.dtype = c.compute_dtype

    def __call__(self, tokens_BxL: jax.Array) -> jax.Array:
        # By default JAX would clamp a token that is too large and wrap a negative one.
        x_BxLxD = (
            _split(self.table[...], "tensor")
            .at[tokens_BxL]
            .get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        )
        return x_BxLxD.astype(self.dtype)


class _Block(nnx.Module):
    def __init__(self, c: _Config, layer: jax.Array, rngs: nnx.Rngs):
        self.attention_norm = _norm(c, c.width, c.compute_dtype, rngs)
        self.attention = _Attention(c, layer, rngs)
        self.mlp_norm = _norm(c, c.width, c.compute_dtype, rngs)
        self.mlp = _MLP(c, layer, rngs)

    def __call__(self, x_BxLxD: jax.Array, rotation: Rotation) -> jax.Array:
        x_BxLxD += self.attention(self.attention_norm(x_BxLxD), rotation)
        return x_BxLxD + self.mlp(self.mlp_norm(x_BxLxD))


class _Attention(nnx.Module):
    def __init__(self, c: _Config, layer: jax.Array, rngs: nnx.Rngs):
        def split_heads() -> nnx.LinearGeneral:
            return nnx.LinearGeneral(
                c.width,
                (c.heads, c.head_size),
                use_bias=False,
                dtype=c.compute_dtype,
                kernel_init=_truncated_normal(c.width),
                rngs=rngs,
            )

        self.query = split_heads()
        self.key = split_heads()
        self.value = split_heads()
        self.query_norm = _norm(c, c.head_size, jnp.float32, rngs)
        self.key_norm = _norm(c, c.head_size, jnp.float32, rngs)
        self.output = nnx.LinearGeneral(
            (c.heads, c.head_size),
            c.width,
            axis=(-2, -1),
            use_bias=False,
            dtype=c.compute_dtype,
            kernel_init=_truncated_normal(2 * c.width * (layer + 1)),
            rngs=rngs,
        )
        self.dtype = c.compute_dtype

    def __call__(self, x_BxLxD: jax.Array, rotation: Rotation) -> jax.Array:
        query_BxLxHxK = _rotate(self.query_norm(self.query(x_BxLxD)), rotation)
        key_BxLxHxK = _rotate(self.key_norm(self.key(x_BxLxD)), rotation)
        mixed_BxLxHxK = jax.nn.dot_product_attention(
            query_BxLxHxK.astype(self.dtype),
            key_BxLxHxK.astype(self.dtype),
            self.value(x_BxLxD),
            is_causal=True,
        )
        return self.output(mixed_BxLxHxK)


class _MLP(nnx.Module):
    def __init__(self, c: _Config, layer: jax.Array, rngs: nnx.Rngs):
        def linear(inputs: int, outputs: int, fan_in: int | jax.Array) -> nnx.Linear:
            return nnx.Linear(
                inputs,
                outputs,
                use_bias=False,
                dtype=c.compute_dtype,
                kernel_init=_truncated_normal(fan_in),
                rngs=rngs,
            )

        self.gated = c.mlp == "swiglu"
        self.up = linear(c.width, c.mlp_width, c.width)
        if self.gated:
            self.gate = linear(c.width, c.mlp_width, c.width)
        self.down = linear(c.mlp_width, c.width, 2 * c.mlp_width * (layer + 1))

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        up_BxLxF = self.up(x_BxLxD)
        if self.gated:
            return self.down(jax.nn.silu(self.gate(x_BxLxD)) * up_BxLxF)
        return self.down(jax.nn.gelu(up_BxLxF, approximate=False))


def _split(x: jax.Array, *axes: str) -> jax.Array:
    """Splits the leading dimension over those axes of the context's mesh, and no other.

    Left alone, the compiler splits the width of activations as that of the weights, and
    then reduces activations in every product instead of gathering its weights.
    """
    mesh = jax.sharding.get_abstract_mesh()
    there = tuple(axis for axis in axes if axis in mesh.auto_axes)
    return x if not there else jax.lax.with_sharding_constraint(x, jax.P(there))


def _norm(c: _Config, size: int, dtype: Any, rngs: nnx.Rngs) -> nnx.Module:
    options = dict(use_bias=False) if c.norm == "layernorm" else {}
    return _NORMS[c.norm](
        size, epsilon=_NORM_EPSILON, dtype=dtype, rngs=rngs, **options
    )


def _truncated_normal(fan_in: int | jax.Array) -> jax.nn.initializers.Initializer:
    std = 1 / jnp.sqrt(fan_in)
    return jax.nn.initializers.truncated_normal(std, lower=-3.0, upper=3.0)


def _rotation(length: int, head_size: int, base: float) -> Rotation:
    exponents = jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size
    positions = jnp.arange(length, dtype=jnp.float32)
    angles = jnp.outer(positions, base**-exponents)[None, :, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def _rotate(x_BxLxHxK: jax.Array, rotation: Rotation) -> jax.Array:
    cos, sin = rotation
    first, second = jnp.split(x_BxLxHxK, 2, axis=-1)
    turned = first * cos - second * sin, second * cos + first * sin
    return jnp.concatenate(turned, axis=-1)


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree.leaves_with_path(params)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): jnp.shape(leaf)
        for path, leaf in leaves
    }


def _check_shapes(actual: dict[str, tuple], expected: dict[str, tuple]) -> None:
    for name in sorted(actual.keys() | expected.keys()):
        if actual.get(name) != expected.get(name):
            raise ValueError(
                f"params has shape {actual.get(name)} at {name}, where this model has "
                f"{expected.get(name)}"
            )


def _check_tokens(tokens_BxL: jax.Array) -> None:
    shape, dtype = jnp.shape(tokens_BxL), jnp.result_type(tokens_BxL)
    if len(shape) != 2 or not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(f"tokens={dtype}{list(shape)} must be integers [B, L]")


def _check_name(argument: str, value: str, known: Iterable[str]) -> None:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{argument}={value!r} must be one of {', '.join(known)}")


def _check_positive(**sizes: int) -> None:
    for argument, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{argument}={value!r} must be a positive integer")
