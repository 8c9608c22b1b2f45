"""Merges: published coefficients, exact identities, and sums of trees."""

import math
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anytime_jax import averaging, schedules
from anytime_jax.averaging import merging, sums
from anytime_jax.training import sharding


def _linear(x):
    return 1 - x


def _cosine(x):
    return jnp.cos(jnp.pi * x / 2)


def _one_minus_sqrt(x):
    return 1 - jnp.sqrt(x)


RECIPES = {
    "uniform": merging.uniform,
    "linear": merging.linear,
    "ema": merging.ema,
    "WSM": lambda n: merging.from_decay(_one_minus_sqrt, n),
    "QAM": lambda n: merging.quadratic_accurate(_one_minus_sqrt, n),
    "LAWA": lambda n: merging.latest(n, 1 + n // 2),
    "SWA": lambda n: merging.within(range(n), start=n // 2 - 1, stop=n),
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("n", [1, 2, 3, 17, 256])
def test_coefficients_are_a_mean(recipe, n):
    coefficients = RECIPES[recipe](n)
    assert coefficients.dtype == np.float64
    assert coefficients.shape == (n,)
    assert np.all(coefficients >= 0)
    np.testing.assert_allclose(coefficients.sum(), 1.0, rtol=1e-13)


# Four updates, five snapshots; from the paper of QAM and, for the average, that of CMA.
PUBLISHED = {
    "WSM linear": (merging.from_decay, _linear, [0.2, 0.2, 0.2, 0.2, 0.2]),
    "WSM cosine": (
        merging.from_decay,
        _cosine,
        [0.04894348, 0.14203952, 0.22123174, 0.27876826, 0.30901699],
    ),
    "WSM 1-sqrt": (
        merging.from_decay,
        _one_minus_sqrt,
        [0.4472136, 0.18524194, 0.14214114, 0.11983052, 0.10557281],
    ),
    "QAM linear": (
        merging.quadratic_accurate,
        _linear,
        [0.0384, 0.2464, 0.4304, 0.2464, 0.0384],
    ),
    "QAM cosine": (
        merging.quadratic_accurate,
        _cosine,
        [0.00266244, 0.0680013, 0.33888856, 0.45069345, 0.13975425],
    ),
    "QAM 1-sqrt": (
        merging.quadratic_accurate,
        _one_minus_sqrt,
        [0.19595918, 0.43625123, 0.2931478, 0.06980698, 0.00483481],
    ),
    "CMA": (lambda _, n: merging.ema(n), None, [0.4096, 0.1024, 0.128, 0.16, 0.2]),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_coefficients(name):
    recipe, decay, expected = PUBLISHED[name]
    np.testing.assert_allclose(recipe(decay, 5), expected, atol=5e-9)


def test_published_coefficients_of_six_and_moments():
    six = [0.32768, 0.08192, 0.1024, 0.128, 0.16, 0.2]
    np.testing.assert_allclose(merging.ema(6), six, rtol=1e-12)
    index = np.arange(5)
    for recipe, variance in (
        (merging.from_decay, 2.0),
        (merging.quadratic_accurate, 0.8),
    ):
        coefficients = recipe(_linear, 5)
        np.testing.assert_allclose(coefficients @ index, 2.0, rtol=1e-12)
        spread = coefficients @ (index - 2.0) ** 2
        np.testing.assert_allclose(spread, variance, rtol=1e-12)


def test_decays_of_merges():
    np.testing.assert_allclose(
        merging.from_decay(_linear, 9), merging.uniform(9), rtol=1e-13
    )
    for recipe in RECIPES.values():
        back = merging.from_decay(merging.to_decay(recipe(9)), 9)
        np.testing.assert_allclose(back, recipe(9), atol=1e-15)
    np.testing.assert_array_equal(merging.to_decay([3.0, -1.0, -1.0]), [-2.0, -1.0])


@pytest.mark.parametrize("shape", sorted(set(schedules.SHAPES) - {"exponential"}))
def test_every_cooldown_shape_is_a_merge(shape):
    multipliers = [float(schedules.SHAPES[shape](i / 8)) for i in range(1, 8)]
    coefficients = merging.from_decay(schedules.SHAPES[shape], 8)
    np.testing.assert_allclose(
        merging.to_decay(coefficients), multipliers, rtol=1e-6, atol=1e-7
    )


@pytest.fixture(scope="module")
def descent():
    """Gradient descent on a random quadratic: its snapshots, and the run itself."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    hessian, center = root @ root.T / 6, rng.normal(size=6)
    first = rng.normal(size=6)

    def run(multipliers, rate=0.3):
        path = [first]
        for multiplier in multipliers:
            gradient = hessian @ (path[-1] - center)
            path.append(path[-1] - rate * multiplier * gradient)
        return path

    return run


@pytest.mark.parametrize("n", [2, 5, 40])
def test_qam_is_the_decayed_run_on_a_quadratic(descent, n):
    multipliers = np.random.default_rng(n).uniform(size=n - 1)
    snapshots = descent(np.ones(n - 1))
    merged = merging.merge(snapshots, merging.quadratic_accurate(multipliers, n))
    np.testing.assert_allclose(merged, descent(multipliers)[-1], rtol=0, atol=1e-10)
    # WSM is not, which is why there are two.
    falling = np.sort(multipliers)[::-1]
    other = merging.merge(snapshots, merging.from_decay(falling, n))
    if n > 2:
        assert np.abs(other - descent(falling)[-1]).max() > 1e-4


@pytest.mark.parametrize("n", [2, 5, 40])
def test_wsm_is_its_reweighted_updates(descent, n):
    falling = np.sort(np.random.default_rng(n).uniform(size=n - 1))[::-1]
    snapshots = descent(np.ones(n - 1))
    merged = merging.merge(snapshots, merging.from_decay(falling, n))
    reweighted = snapshots[0] + falling @ np.diff(snapshots, axis=0)
    np.testing.assert_allclose(merged, reweighted, rtol=0, atol=1e-14)


def test_windows_of_snapshots():
    np.testing.assert_array_equal(merging.latest(4, 3), [0, 1 / 3, 1 / 3, 1 / 3])
    inside = merging.within([10, 20, 30, 40], start=10, stop=30)
    np.testing.assert_array_equal(inside, [0, 0.5, 0.5, 0])


@pytest.mark.parametrize("every", [1, 5])
def test_a_window_of_running_means_is_the_mean_of_the_interval(every):
    path = np.random.default_rng(0).normal(size=(300, 4))
    mean = averaging.uniform()
    kernels = [averaging.kernel(mean, t, every=every) for t in (200, 300)]
    means = [kernel @ path[: len(kernel)] for kernel in kernels]
    merged = merging.merge(means, merging.window(200, 300))
    ticks = path[200 + every - 1 : 300 : every]
    np.testing.assert_allclose(merged, ticks.mean(0), atol=1e-13)


@pytest.mark.parametrize(
    ("scale", "systematic"), [(0.3, False), (0.002, True)], ids=["free", "stuck"]
)
def test_the_rounding_error_of_a_window(scale, systematic):
    # Weights of 1 that drift by `scale`, with noise a tenth of it.
    start, stop, rng = 18_000, 20_000, np.random.default_rng(0)
    mean, total = np.ones(64, np.float32), np.zeros(64)
    for t in range(1, stop + 1):
        noise = rng.normal(size=64, scale=scale / 10)
        theta = np.float32(1 + scale * t / stop + noise)
        mean += np.float32(1 / t) * (theta - mean)
        if t == start:
            earlier = mean.copy()
        if t > start:
            total += theta
    exact = total / (stop - start)
    merged = merging.merge([earlier, mean], merging.window(start, stop, limit=1.0))
    error = np.sqrt(np.mean((merged - exact) ** 2)) / np.abs(exact).mean()
    estimate = merging.window_error(start, stop, distance=scale / 2)
    bound = merging.window_error(start, stop)
    np.testing.assert_allclose(bound, 19_000 * 2.0**-24)
    assert error < bound
    assert error < 2 * estimate
    assert error > estimate / 30
    assert (estimate > bound / 10) == systematic


def test_windows_that_rounding_spoils_are_refused():
    with pytest.raises(ValueError, match=r"start=900000 and stop=1000000: .* 5\.7e-02"):
        merging.window(900_000, 1_000_000)
    far = merging.window_error(900_000, 1_000_000, every=100)
    np.testing.assert_allclose(far, 9500 * 2.0**-24)
    expected = [-9.0, 10.0]
    for accepted in (
        dict(limit=math.inf),
        dict(compensated=True),
        dict(every=100),
        dict(dtype="float64"),
        dict(distance=0.5),
    ):
        coefficients = merging.window(900_000, 1_000_000, **accepted)
        np.testing.assert_allclose(coefficients, expected)
    with pytest.raises(ValueError, match=r"above limit=0\.001"):
        merging.window(900_000, 1_000_000, distance=0.01)
    with pytest.raises(ValueError, match=r"above limit=0\.001"):
        merging.window(999_999, 1_000_000 + 100, compensated=True)


def test_merge_sums_trees_and_takes_the_newest_of_the_rest():
    trees = [
        dict(w=np.full((2, 3), value), count=np.int32(index), key=jax.random.key(index))
        for index, value in enumerate([1.0, 2.0, 4.0])
    ]
    merged = merging.merge(iter(trees), [0.5, -0.5, 1.0])
    np.testing.assert_array_equal(merged["w"], np.full((2, 3), 3.5))
    assert merged["count"] == 2
    assert merged["key"] == jax.random.key(2)


def _trees(dtype, as_array, count=8):
    rng = np.random.default_rng(0)
    values = [rng.normal(1.0, 0.1, size=1000).astype(dtype) for _ in range(count)]
    return [dict(w=as_array(value)) for value in values]


@pytest.fixture(params=["cpu", "other"])
def platform(request, monkeypatch):
    """Sums as on CPUs, or as on devices that are slow in float64."""
    if request.param == "other":
        monkeypatch.setattr(sums, "_CpuSum", sums._DeviceSum)


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("as_array", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_merge_is_right_to_float32_whatever_the_trees_are(as_array, dtype):
    trees = _trees(jnp.dtype(dtype), as_array)
    # As large as sharp targets of post-hoc synthesis need, with neighbours cancelling.
    coefficients = np.array([13, -12.5, 12, -12, 7, -6.7, 0.1, 0.1])
    merged = merging.merge(iter(trees), coefficients)["w"]
    exact = sum(
        c * np.asarray(tree["w"]).astype(np.float64)
        for c, tree in zip(coefficients, trees, strict=True)
    )
    assert merged.dtype == np.float32
    assert isinstance(merged, jax.Array) == (as_array is jnp.asarray)
    # One rounding of every term and coefficient, none of the sums.
    bound = 2.0**-23 * np.abs(coefficients).sum()
    assert np.abs(merged - exact).max() < bound
    # The trees are as they were.
    for tree, same in zip(trees, _trees(jnp.dtype(dtype), as_array), strict=True):
        np.testing.assert_array_equal(tree["w"], same["w"])


@pytest.mark.usefixtures("platform")
def test_many_trees_add_up_without_drift():
    value = np.float32(1.1)
    trees = (jnp.full(4, value) for _ in range(4000))
    merged = merging.merge(trees, merging.uniform(4000))
    # A plain float32 sum of these is off by 2e-5.
    np.testing.assert_allclose(np.asarray(merged), value, rtol=1.3e-7)


@pytest.mark.usefixtures("platform")
def test_merge_keeps_shardings_and_shares_no_buffer():
    mesh = sharding.make_mesh(data=2, fsdp=4)
    layout = jax.NamedSharding(mesh, jax.P("fsdp", None))
    trees = [dict(w=jax.device_put(jnp.ones((8, 2)), layout)) for _ in range(2)]
    merged = merging.merge(iter(trees), [0.25, 0.75])
    assert merged["w"].sharding == layout
    alone = merging.merge(iter(trees[:1]), [1.0])
    for tree in trees:
        tree["w"].delete()
    np.testing.assert_array_equal(merged["w"], np.ones((8, 2)))
    np.testing.assert_array_equal(alone["w"], np.ones((8, 2)))
    leaf = np.ones(3)
    assert not np.shares_memory(merging.merge([leaf], [1.0]), leaf)


class _Leaf(np.ndarray):
    """An array of which there can be a weak reference."""


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("as_leaf", [lambda a: a.view(_Leaf), jnp.asarray])
def test_one_tree_is_in_memory_at_a_time(as_leaf):
    alive = []

    def read():
        for value in range(5):
            assert not any(reference() is not None for reference in alive)
            leaf = as_leaf(np.full(3, float(value)))
            alive.append(weakref.ref(leaf))
            tree = [dict(w=leaf)]
            del leaf
            yield tree.pop()

    merged = merging.merge(read(), merging.uniform(5))
    np.testing.assert_allclose(np.asarray(merged["w"]), 2.0, rtol=1e-6)


def test_what_does_not_enter_cannot_spoil_the_sum():
    for as_array in (np.asarray, jnp.asarray):
        trees = [as_array(np.full(2, value)) for value in (math.nan, 1.0, 3.0)]
        merged = merging.merge(trees, merging.latest(3, 2))
        np.testing.assert_array_equal(merged, [2.0, 2.0])


def test_trees_that_do_not_fit_are_refused():
    one, other = dict(w=np.ones(2)), dict(w=np.ones(3))
    for trees, coefficients, message in (
        ([one], [0.5, 0.5], "there are 1 trees for 2 coefficients"),
        ([one] * 3, [0.5, 0.5], "there are more trees than 2 coefficients"),
        ([one, other], [0.5, 0.5], "trees differ in structure or shape"),
        ([one, dict(v=np.ones(2))], [0.5, 0.5], "trees differ in structure or shape"),
        ([one], [math.nan], r"coefficients=\[nan\] must be finite"),
        ([], [], "must be a list of numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            merging.merge(trees, coefficients)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: merging.uniform(0), "n=0 must be an integer >= 1"),
        (lambda: merging.linear(2.5), "n=2.5 must be an integer >= 1"),
        (lambda: merging.ema(3, alpha=0.0), r"alpha=0.0 must be in \(0, 1\]"),
        (lambda: merging.latest(3, 5), "count=5 must be at most n=3"),
        (
            lambda: merging.within([10, 20], start=20, stop=30),
            "start=20 and stop=30 must have a snapshot between them; stored are 10, 20",
        ),
        (
            lambda: merging.from_decay([0.2, 0.4], 3),
            r"must never increase; its multipliers are \[0.2, 0.4\]",
        ),
        (lambda: merging.from_decay([0.5], 3), r"decay=\[0.5\] must be 2 multipliers"),
        (
            lambda: merging.quadratic_accurate(lambda x: 2 * x, 4),
            r"must be in \[0, 1\]; its multipliers are \[0.5, 1, 1.5\]",
        ),
        (
            lambda: merging.quadratic_accurate(lambda x: x / 0, 4),
            r"must be in \[0, 1\]; its multipliers are \[inf, inf, inf\]",
        ),
        (lambda: merging.given([1, 2], 2), r"\[1, 2\] must be finite and sum to 1, no"),
        (lambda: merging.given([1, math.inf], 2), "must be finite and sum to 1"),
        (lambda: merging.given([1], 2), r"coefficients=\[1\] must be 2 numbers"),
        (lambda: merging.window(5, 5), "stop=5 must be above start=5"),
        (lambda: merging.window(0, 5), "start=0 must be an integer >= 1"),
        (lambda: merging.window(2, 5, dtype="int8"), "dtype='int8' must be one of flo"),
        (lambda: merging.window(2, 5, distance=-1.0), "distance=-1.0 must be at least"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_given_coefficients_may_be_negative_and_round():
    np.testing.assert_array_equal(merging.given([-9, 10], 2), [-9.0, 10.0])
    merging.given([0.333333, 0.333333, 0.333334], 3)


def test_a_window_ends_at_ticks():
    """The means at updates 5 and 11 are those of updates 4 and 8."""
    np.testing.assert_allclose(merging.window(5, 11, every=4), [-1, 2])
    with pytest.raises(ValueError, match=r"stop=7 must be above start=6 by a tick of"):
        merging.window(6, 7, every=4)


def test_a_window_in_tokens():
    # Four updates of 8 tokens, then of 16: 32 and 64 tokens.
    tokens = [(4, 8), (100, 16)]
    np.testing.assert_allclose(merging.window(4, 6, tokens=tokens), [-1, 2])


def test_trees_in_the_memory_of_the_host_are_merged_on_the_devices():
    host = jax.memory.Space.Host
    trees = [jax.device_put(dict(w=jnp.full(3, x)), host) for x in (1.0, 3.0)]
    merged = merging.merge(trees, [0.25, 0.75])["w"]
    np.testing.assert_array_equal(merged, 2.5)
    assert merged.sharding.memory_kind == "device"
