"""A hundred steps on meshes of eight devices against the same steps on one."""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import numpy as np
import pytest

from anytime_jax import averaging, data, training
from anytime_jax.training import (
    collectives,
    compiling,
    metrics,
    recipe,
    sharding,
    state,
    stored,
)
from tests import small

STEPS = 100
ALONE = (1, 1, 1)
SPLIT = "shard_state"  # optimizer and averages over data too
MESHES = [
    (8, 1, 1),
    pytest.param((2, 4, 1), marks=pytest.mark.slow),
    (2, 2, 2),
    pytest.param((1, 1, 8), marks=pytest.mark.slow),
    pytest.param((2, 2, 2, SPLIT), marks=pytest.mark.slow),
]


class Run(NamedTuple):
    """What a mesh made of the same start and the same batches.

    Attributes:
      losses: float64 [T].
      path: float64 [T + 1, P], the raw weights from the start on.
      averages: float64 [P] by name, after the last step.
      compiled: the names of what was compiled for the steps.
      sent: what the compiled step sends, by kind.
    """

    losses: np.ndarray
    path: np.ndarray
    averages: dict[str, np.ndarray]
    compiled: list[str]
    sent: dict[str, tuple[int, int]]


def config(mesh, **overrides):
    return small.config(
        model__width=32,
        model__heads=8,
        # Adam divides by the size of the gradient, and so blows up the rounding of
        # those near 0.
        optimizer__eps=1e-6,
        shard_state=SPLIT in mesh,
        **(dict(averages__power=dict(name="power", gamma=1.0)) | overrides),
    )


def lower(mesh, **overrides):
    """The recipe, the lowered train step and the state's shapes and shardings."""
    made = config(mesh, **overrides)
    sizes = dict(zip(sharding.AXES, mesh, strict=False))
    devices = jax.devices()[: math.prod(sizes.values())]
    built = dataclasses.replace(
        recipe.build(made), mesh=sharding.make_mesh(**sizes, devices=devices)
    )
    train_step, _, like = compiling.compile_steps(made, built)
    return built, train_step.lower(like, compiling.batch_like(made, built)), like


@functools.cache
def fresh():
    """The state at the start, on the host."""
    made = config(ALONE)
    built = recipe.build(made)
    init = jax.jit(lambda: state.init(built.model, built.optimizer, made.seed))
    return jax.device_get(init())


@functools.cache
def batches():
    """The tokens of all steps, int32 [T, B, L + 1]."""
    made = config(ALONE)
    dataset = data.load(**made.data, sequence_length=16, seed=made.seed)
    size = made.batch_size
    return np.stack([dataset.train.batch(n * size, size) for n in range(STEPS)])


def flat(tree):
    return np.concatenate(
        [np.ravel(np.float64(leaf)) for leaf in jax.tree.leaves(tree)]
    )


def norm_of_difference(one, other):
    return np.linalg.norm(one - other) / np.linalg.norm(other)


@pytest.fixture(scope="module")
def compilations():
    """The names of what XLA compiles, as it does."""
    with small.compilations() as names:
        yield names


@pytest.fixture(scope="module")
def run(compilations):
    @functools.cache
    def run(mesh):
        built, lowered, like = lower(mesh)
        layout = jax.tree.map(lambda leaf: leaf.sharding, like)
        current = jax.device_put(fresh(), layout)
        compilations.clear()
        train_step = lowered.compile()
        losses, path = [], [flat(fresh().params)]
        for tokens_BxL1 in batches():
            batch = sharding.place_batch(
                tokens_BxL1.__getitem__, tokens_BxL1.shape, built.mesh
            )
            current, metrics = train_step(current, batch)
            losses.append(float(metrics["loss"]))
            path.append(flat(jax.device_get(current.params)))
            if len(losses) in (1, STEPS):
                assert jax.tree.map(lambda leaf: leaf.sharding, current) == layout
        averages = jax.device_get(current.weights())
        del averages["raw"]
        return Run(
            losses=np.array(losses),
            path=np.stack(path),
            averages={name: flat(tree) for name, tree in averages.items()},
            compiled=list(compilations),
            sent=collectives.sent(collectives.collectives(train_step.as_text())),
        )

    return run


@pytest.mark.parametrize("mesh", MESHES)
def test_a_mesh_trains_what_one_device_trains(run, mesh):
    one, other = run(ALONE), run(mesh)
    np.testing.assert_allclose(other.losses[:20], one.losses[:20], rtol=1e-5)
    assert one.losses[-1] < one.losses[0] - 0.5
    assert norm_of_difference(other.path[-1], one.path[-1]) < 1e-4
    assert list(other.averages) == ["ema25", "power", "uniform"]
    for name, average in other.averages.items():
        assert norm_of_difference(average, one.averages[name]) < 1e-4


@pytest.mark.parametrize("mesh", [ALONE, *MESHES])
def test_an_average_is_its_kernel_applied_to_the_weights_of_its_run(run, mesh):
    found = run(mesh)
    for name, average in averaging.build(config(ALONE).averages.to_dict()).items():
        kernel = averaging.kernel(average, STEPS)
        expected = kernel @ found.path[1:] + (1 - kernel.sum()) * found.path[0]
        rounding = np.finfo(np.float32).eps
        assert norm_of_difference(found.averages[name], expected) < 4 * rounding


@pytest.mark.parametrize("mesh", [ALONE, *MESHES])
def test_the_step_is_compiled_once(run, mesh):
    assert run(mesh).compiled == ["jit(train_step)"]


@pytest.mark.parametrize("mesh", MESHES)
def test_tracking_sends_nothing(run, mesh):
    sent = run(mesh).sent
    assert sent["all-reduce"] > (0, 0)
    _, lowered, _ = lower(mesh, averages={})
    # The collectives are chosen before LLVM, which takes half of the time.
    plain = lowered.compile({"xla_backend_optimization_level": 0}).as_text()
    assert collectives.sent(collectives.collectives(plain)) == sent


@pytest.mark.slow
def test_a_run_goes_on_with_its_state_split_and_ends_as_without(tmp_path):
    def train(folder, steps, **overrides):
        training.train(
            small.config(
                optimizer__eps=1e-6,
                duration__steps=steps,
                horizons__steps=(steps,),
                **overrides,
            ),
            tmp_path / folder,
        )

    train("whole", 12)
    train("split", 6)
    train("split", 12, shard_state=True, mesh__fsdp=2)
    for name in ("raw", "ema25", "uniform"):
        one, other = (
            small.stored_weights(tmp_path / folder, 12, name)
            for folder in ("whole", "split")
        )
        assert norm_of_difference(other, one) < 1e-4
    last = metrics.read(tmp_path / "whole")[-1], metrics.read(tmp_path / "split")[-1]
    for key, value in last[0].items():
        if key.startswith("horizon/"):
            np.testing.assert_allclose(last[1][key], value, rtol=1e-5)
    again = stored.evaluate(tmp_path / "split")
    np.testing.assert_allclose(again["ema25"], last[1]["horizon/loss/ema25"], rtol=1e-5)
