import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from anytime_jax.models.decoder import _rotate, _rotation, decoder
from anytime_jax.training import collectives, sharding

B, L, V, D, H, N = 3, 12, 32, 16, 2, 3
SIZES = dict(vocab_size=V, width=D, layers=N, heads=H)
VARIANTS = [
    dict(norm="layernorm", mlp="gelu", rope_base=10000.0),
    dict(norm="rmsnorm", mlp="swiglu", rope_base=50.0),
]


class Case:
    """A model with generic parameters, tokens, and one compiled function for all."""

    def __init__(self, params=None, **options):
        self.model = decoder(**SIZES, **options)
        if params is None:
            params = _generic(jax.jit(self.model.init)(jax.random.key(0)))
        self.params = params
        self.tokens_BxL = jax.random.randint(jax.random.key(1), (B, L), 0, V)
        run = jax.jit(jax.value_and_grad(self._loss, has_aux=True))
        self.compiled = run.lower(self.params, self.tokens_BxL).compile()

    def _loss(self, params, tokens_BxL):
        logits_BxLxV = self.model.apply(params, tokens_BxL)
        losses_BxL = jax.nn.logsumexp(logits_BxLxV, -1) - logits_BxLxV[:, :, 0]
        return jnp.mean(losses_BxL), logits_BxLxV

    def run(self, **changes):
        """Returns loss, logits and gradients, after changes of parameters or tokens."""
        tokens_BxL = changes.pop("tokens_BxL", self.tokens_BxL)
        results = self.compiled({**self.params, **changes}, tokens_BxL)
        (loss, logits_BxLxV), grads = jax.device_get(results)
        return loss, logits_BxLxV, grads


def _generic(params):
    """Moves the norms' scales away from 1, where they could be forgotten."""

    rng = np.random.default_rng(0)

    def move(path, leaf):
        if path[-1].key != "scale":
            return leaf
        return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)

    return jax.tree.map_with_path(move, params)


@pytest.fixture(scope="module")
def case():
    return Case()


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda v: v["mlp"])
def variant(request, case):
    if request.param is VARIANTS[0]:
        return case, request.param
    return Case(**request.param), request.param


def _names(params):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(params)
    }


def _assert_trees_close(actual, expected, **tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **tolerance), actual, expected
    )


# The twin: float64, one sequence, one layer, one head and one query at a time, with
# positions as rotations in the complex plane.


def _twin(params, tokens_BxL, *, norm, mlp, rope_base):
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def normed(x, scale):
        if norm == "layernorm":
            x = x - x.mean()
        return scale * x / np.sqrt(np.mean(x**2) + 1e-5)

    def turned(x, position):
        half = len(x) // 2
        frequencies = np.array([rope_base ** (-i / half) for i in range(half)])
        z = (x[:half] + 1j * x[half:]) * np.exp(1j * position * frequencies)
        return np.concatenate([z.real, z.imag])

    def attention(layer, x):
        rows = [normed(row, layer["attention_norm"]["scale"]) for row in x]
        a = layer["attention"]
        out = np.zeros_like(x)
        for h in range(H):
            query, key, value = (
                np.array([row @ a[part]["kernel"][:, h] for row in rows])
                for part in ("query", "key", "value")
            )
            for i in range(len(x)):
                q = turned(normed(query[i], a["query_norm"]["scale"]), i)
                keys = [normed(k, a["key_norm"]["scale"]) for k in key[: i + 1]]
                scores = [q @ turned(k, j) for j, k in enumerate(keys)]
                weights = scipy.special.softmax(np.array(scores) / np.sqrt(len(q)))
                out[i] += weights @ value[: i + 1] @ a["output"]["kernel"][h]
        return out

    def hidden(layer, x):
        up = x @ layer["mlp"]["up"]["kernel"]
        if mlp == "gelu":
            return up * scipy.stats.norm.cdf(up)
        gate = x @ layer["mlp"]["gate"]["kernel"]
        return up * gate * scipy.special.expit(gate)

    logits = []
    for tokens in np.asarray(tokens_BxL):
        x = p["embedding"]["table"][tokens]
        for n in range(N):
            layer = jax.tree.map(lambda leaf, n=n: leaf[n], p["layers"])
            x = x + attention(layer, x)
            rows = np.array([normed(row, layer["mlp_norm"]["scale"]) for row in x])
            x = x + hidden(layer, rows) @ layer["mlp"]["down"]["kernel"]
        rows = np.array([normed(row, p["final_norm"]["scale"]) for row in x])
        logits.append(rows @ p["head"]["kernel"])
    return np.array(logits)


def test_forward_agrees_with_a_float64_twin(variant):
    case, options = variant
    expected_BxLxV = _twin(case.params, case.tokens_BxL, **options)
    _, actual_BxLxV, _ = case.run()
    assert actual_BxLxV.dtype == jnp.float32
    np.testing.assert_allclose(actual_BxLxV, expected_BxLxV, rtol=1e-4, atol=1e-5)


def test_no_gradient_reaches_later_positions(case):
    # With a different token at every position, a row of the table is a position; the
    # embedding and the head are separate, so nothing else reads it.
    weights_V = jax.random.normal(jax.random.key(2), (V,))

    def scores(table):
        params = {**case.params, "embedding": dict(table=table)}
        return case.model.apply(params, jnp.arange(L)[None])[0] @ weights_V

    table_VxD = case.params["embedding"]["table"]
    sensitivity_LxV = np.abs(jax.jit(jax.jacrev(scores))(table_VxD)).max(axis=-1)
    reached = np.tril(np.ones((L, V), bool))
    assert np.all(sensitivity_LxV[~reached] == 0)
    assert np.all(sensitivity_LxV[reached] > 1e-6)


def test_rope_makes_attention_a_function_of_distance():
    length, head_size = 20, 16
    query, key = np.random.default_rng(0).normal(size=(2, head_size)).astype(np.float32)
    rotation = _rotation(length, head_size, 100.0)

    def everywhere(x):
        x_BxLxHxK = jnp.broadcast_to(x, (1, length, 1, head_size))
        return np.asarray(_rotate(x_BxLxHxK, rotation))[0, :, 0]

    scores_LxL = everywhere(query) @ everywhere(key).T
    for distance in range(-length + 1, length):
        diagonal = np.diagonal(scores_LxL, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-4)
    np.testing.assert_allclose(scores_LxL[0, 0], query @ key, rtol=1e-5)
    assert np.std(scores_LxL[0]) > 0.5
    norms = np.linalg.norm(everywhere(query), axis=-1)
    np.testing.assert_allclose(norms, np.linalg.norm(query), rtol=1e-5)


def test_layers_run_in_the_order_of_the_leading_axis(case):
    """A layer that adds nothing can be left out."""
    layers = case.params["layers"]
    attention, mlp = layers["attention"], layers["mlp"]
    silent = {
        **layers,
        "attention": {
            **attention,
            "output": dict(kernel=attention["output"]["kernel"].at[1].set(0)),
        },
        "mlp": {**mlp, "down": dict(kernel=mlp["down"]["kernel"].at[1].set(0))},
    }
    _, actual, _ = case.run(layers=silent)

    shorter = decoder(**{**SIZES, "layers": N - 1})
    without = jax.tree.map(lambda leaf: jnp.delete(leaf, 1, axis=0), layers)
    params = {**case.params, "layers": without}
    expected = jax.jit(shorter.apply)(params, case.tokens_BxL)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_scanned_layers_equal_unrolled_ones(case):
    with jax.disable_jit():  # in which a scan is a Python loop
        unrolled = case.model.apply(case.params, case.tokens_BxL)
    _, scanned, _ = case.run()
    np.testing.assert_allclose(scanned, unrolled, rtol=1e-5, atol=1e-6)


def test_remat_changes_memory_and_nothing_else(case):
    remat = Case(case.params, remat=True)
    loss, _, grads = case.run()
    remat_loss, _, remat_grads = remat.run()
    np.testing.assert_allclose(remat_loss, loss, rtol=1e-6)
    _assert_trees_close(remat_grads, grads, rtol=1e-4, atol=1e-6)
    memory, remat_memory = (
        c.compiled.memory_analysis().temp_size_in_bytes for c in (case, remat)
    )
    assert remat_memory < 0.7 * memory


def test_bfloat16_compute_keeps_parameters_and_logits_in_float32(case):
    half = Case(case.params, compute_dtype="bfloat16")
    initial = jax.eval_shape(half.model.init, jax.random.key(0))
    loss, logits, grads = half.run()
    exact_loss, exact_logits, exact_grads = case.run()
    dtypes = {x.dtype for x in jax.tree.leaves((initial, loss, logits, grads))}
    assert dtypes == {jnp.dtype("float32")}
    np.testing.assert_allclose(loss, exact_loss, rtol=5e-3)
    error = np.abs(logits - exact_logits).max() / np.std(exact_logits)
    assert 1e-3 < error < 1e-1  # that of bfloat16's 8 bits, neither less nor more
    for name, grad in _names(grads).items():
        exact_grad = _names(exact_grads)[name]
        error = np.linalg.norm(grad - exact_grad) / np.linalg.norm(exact_grad)
        assert error < 0.1, name


@pytest.mark.parametrize(("mlp", "F"), [("gelu", 4 * D), ("swiglu", 64)])
@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_parameter_names_and_shapes(mlp, F, norm):
    params = jax.eval_shape(
        decoder(**SIZES, mlp=mlp, norm=norm).init, jax.random.key(0)
    )
    K = D // H
    expected = {
        "embedding/table": (V, D),
        "layers/attention_norm/scale": (N, D),
        "layers/attention/query/kernel": (N, D, H, K),
        "layers/attention/key/kernel": (N, D, H, K),
        "layers/attention/value/kernel": (N, D, H, K),
        "layers/attention/query_norm/scale": (N, K),
        "layers/attention/key_norm/scale": (N, K),
        "layers/attention/output/kernel": (N, H, K, D),
        "layers/mlp_norm/scale": (N, D),
        "layers/mlp/up/kernel": (N, D, F),
        "layers/mlp/down/kernel": (N, F, D),
        "final_norm/scale": (D,),
        "head/kernel": (D, V),
    }
    if mlp == "swiglu":
        expected["layers/mlp/gate/kernel"] = (N, D, F)
    assert {name: leaf.shape for name, leaf in _names(params).items()} == expected
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(("width", "F"), [(24, 64), (26, 128), (384, 1024)])
def test_default_width_of_swiglu(width, F):
    model = decoder(vocab_size=4, width=width, layers=1, heads=1, mlp="swiglu")
    params = jax.eval_shape(model.init, jax.random.key(0))
    assert params["layers"]["mlp"]["up"]["kernel"].shape == (1, width, F)


@pytest.fixture(scope="module")
def initial():
    """Parameters large enough for statistics, V, D, H, N, F = 256, 64, 4, 4, 192."""
    model = decoder(
        vocab_size=256, width=64, layers=4, heads=4, mlp="swiglu", mlp_width=192
    )
    return model.init, jax.jit(model.init)(jax.random.key(3))


def test_initial_standard_deviations_and_bound(initial):
    def check(sample, fan_in, name):
        z = np.asarray(sample).ravel() * np.sqrt(fan_in)
        assert 2.7 < np.abs(z).max() <= 3.0001, name
        assert np.abs(z.mean()) < 5 / np.sqrt(z.size), name
        expected_std = scipy.stats.truncnorm(-3, 3).std()
        np.testing.assert_allclose(z.std(), expected_std, rtol=0.05, err_msg=name)

    names = _names(initial[1])
    check(names.pop("embedding/table"), 64, "embedding")
    check(names.pop("head/kernel"), 64, "head")
    for name, stacked in names.items():
        for layer, leaf in enumerate(stacked):
            if name.endswith("scale"):
                assert np.all(leaf == 1), name
            elif name == "layers/attention/output/kernel":
                check(leaf, 2 * 64 * (layer + 1), name)
            elif name == "layers/mlp/down/kernel":
                check(leaf, 2 * 192 * (layer + 1), name)
            else:
                check(leaf, 64, name)


def test_initial_weights_are_independent(initial):
    kernels = [
        np.asarray(leaf).ravel()[: 64 * 64]
        for name, stacked in _names(initial[1]).items()
        if name.endswith(("kernel", "table"))
        for leaf in (stacked if name.startswith("layers") else [stacked])
    ]
    assert len(kernels) == 2 + 4 * 7
    correlations = np.corrcoef(kernels)
    np.fill_diagonal(correlations, 0)
    assert np.abs(correlations).max() < 6 / np.sqrt(64 * 64)


def test_init_is_a_pure_function_of_the_key(initial):
    init, params = initial
    _assert_trees_close(init(jax.random.key(3)), params, rtol=1e-6)
    other = jax.jit(init)(jax.random.key(4))
    assert np.abs(other["head"]["kernel"] - params["head"]["kernel"]).max() > 0.1
    abstract = jax.eval_shape(init, jax.random.key(3))
    assert jax.tree.map(jnp.shape, abstract) == jax.tree.map(jnp.shape, params)


def test_a_token_outside_the_vocabulary_is_loud(case):
    tokens_BxL = case.tokens_BxL.at[0, 0].set(V).at[1, 0].set(-1)
    _, logits_BxLxV, _ = case.run(tokens_BxL=tokens_BxL)
    assert np.all(np.isnan(logits_BxLxV[:2]))
    assert np.all(np.isfinite(logits_BxLxV[2:]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(width=18, heads=4), "width=18 must be a multiple of 2 \\* heads = 8"),
        (dict(width=12, heads=4), "width=12 must be .* the head size must be even"),
        (dict(norm="batchnorm"), "norm='batchnorm' .* layernorm, rmsnorm"),
        (dict(mlp="relu"), "mlp='relu' must be one of gelu, swiglu"),
        (dict(compute_dtype="float16"), "compute_dtype='float16' .* bfloat16"),
        (dict(vocab_size=0), "vocab_size=0 must be a positive integer"),
        (dict(layers=1.5), "layers=1.5 must be a positive integer"),
        (dict(heads=True), "heads=True must be a positive integer"),
        (dict(mlp_width=-1), "mlp_width=-1 must be a positive integer"),
        (dict(rope_base=1.0), "rope_base=1.0 must be above 1"),
        (dict(rope_base=float("nan")), "rope_base=nan must be above 1"),
        (dict(remat="yes"), "remat='yes' must be True or False"),
    ],
)
def test_refused_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message) as error:
        decoder(**{**SIZES, **change})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros(L, np.int32), r"tokens=int32\[12\] must be integers \[B, L\]"),
        (np.zeros((B, L), np.float32), r"tokens=float32\[3, 12\] must be integers"),
    ],
)
def test_refused_tokens(case, tokens, message):
    with pytest.raises(ValueError, match=message):
        case.model.apply(case.params, tokens)


def test_parameters_of_another_model_are_refused(case):
    # Same number of leaves and same shapes but for one name.
    params = {**case.params, "output": case.params["head"]}
    del params["head"]
    with pytest.raises(ValueError, match="shape None at head/kernel"):
        case.model.apply(params, case.tokens_BxL)
    deeper = decoder(**{**SIZES, "layers": N + 1})
    params = jax.eval_shape(deeper.init, jax.random.key(0))
    with pytest.raises(ValueError, match=r"\(4, 16, 2, 8\) at layers.*\(3, 16, "):
        jax.eval_shape(case.model.apply, params, case.tokens_BxL)


def test_on_a_mesh_that_splits_the_weights_they_are_gathered_and_nothing_else_is_sent():
    model = decoder(**SIZES)
    mesh = sharding.make_mesh(data=2, fsdp=4)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(
        lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to),
        shapes,
        sharding.shardings(mesh, shapes),
    )
    run = jax.jit(sharding.within(mesh, model.apply))
    compiled = run.lower(params, sharding.batch_like((32, 16), mesh)).compile()
    sent = collectives.sent(collectives.collectives(compiled.as_text()))
    weights = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    assert sent.keys() == {"all-gather"}
    assert sent["all-gather"][1] <= weights * 3 / 4
    assert jax.tree.leaves(compiled.output_shardings)[0].spec == jax.P(("data", "fsdp"))
