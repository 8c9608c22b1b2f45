"""Snapshots: what is on disk, what comes back on other devices, what stays."""

import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from anytime_jax import averaging
from anytime_jax.training import sharding, snapshots, state, store, verifying
from tests import small

MODEL = small.bigram()
AVERAGES = dict(ema25=averaging.age_ema(divisor=25), mean=averaging.uniform())
ONE = sharding.make_mesh(devices=jax.devices()[:1])
EIGHT = sharding.make_mesh(data=2, fsdp=2, tensor=2)


def like(mesh, optimizer=None, averages=AVERAGES, **tracking):
    """Shapes, dtypes and shardings of a state."""
    optimizer = optimizer or optax.adam(0.1)
    tracked = averaging.track(optimizer, averages, **tracking)
    shapes = jax.eval_shape(lambda: state.init(MODEL, tracked, 0))
    return jax.tree.map(
        lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to),
        shapes,
        sharding.shardings(mesh, shapes),
    )


def filled(shapes, seed=0):
    """A state of these shapes of which no two leaves are the same."""
    generator = np.random.default_rng(seed)

    def fill(leaf):
        values = generator.normal(scale=100.0, size=leaf.shape).astype(leaf.dtype)
        return jax.device_put(values, leaf.sharding)

    return jax.tree.map(fill, shapes)


def save(workdir, current, step=7, sequences=56):
    opened = store.Store(workdir, keeps=lambda step: True)
    opened.save(current, step, dict(sequences=sequences))
    opened.close()


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def listing(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def saved():
    return filled(like(EIGHT))._replace(step=jnp.int32(7))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, saved):
    folder = tmp_path_factory.mktemp("run")
    save(folder, saved)
    return folder


def test_every_set_of_weights_is_one_item_and_nothing_is_stored_twice(workdir, saved):
    folder = workdir / "snapshots" / "7"
    items = {path.name for path in folder.iterdir() if path.is_dir()}
    assert items == {"raw", "average_ema25", "average_mean", "optimizer", "meta"}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        stored = {
            item: len(
                jax.tree.leaves(checkpointer.metadata(folder / item).item_metadata)
            )
            for item in items - {"meta"}
        }
    weights = len(jax.tree.leaves(saved.params))
    counted = weights + 1  # an average's own count
    moments = 2 * weights + 1
    assert stored == {
        "raw": weights,
        "average_ema25": counted,
        "average_mean": counted,
        "optimizer": moments,
    }


@pytest.mark.parametrize(
    "mesh", [ONE, EIGHT, sharding.make_mesh(fsdp=8)], ids=["one", "same", "other"]
)
def test_the_same_values_on_any_mesh(workdir, saved, mesh):
    before = listing(workdir)
    wanted = like(mesh)
    restored, meta = snapshots.restore(workdir, 7, wanted)
    assert meta == {"step": 7, "sequences": 56, "format": 2}
    assert_same(restored, saved)
    for leaf, to in zip(*map(jax.tree.leaves, (restored, wanted)), strict=True):
        assert (leaf.sharding, leaf.dtype) == (to.sharding, to.dtype)
    assert listing(workdir) == before


def test_the_averages_to_read_are_those_of_like(workdir, saved):
    restored, _ = snapshots.restore(workdir, 7, like(ONE, averages={}))
    assert list(restored.weights()) == ["raw"]
    assert_same(restored.params, saved.params)
    more = AVERAGES | dict(ema100=averaging.age_ema(divisor=100))
    with pytest.raises(
        ValueError, match=r"step 7 .* has no weights ema100; it has ema25, mean, raw$"
    ):
        snapshots.restore(workdir, 7, like(ONE, averages=more))


@pytest.mark.parametrize("name", ["raw", "mean"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_set_of_weights_needs_no_other_item(workdir, saved, tmp_path, name, dtype):
    item = "raw" if name == "raw" else f"average_{name}"
    copied = tmp_path / "snapshots" / "7"
    shutil.copytree(workdir / "snapshots" / "7" / item, copied / item)
    wanted = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding),
        like(ONE).params,
    )
    restored = snapshots.restore_weights(tmp_path, 7, name, wanted)
    assert_same(
        restored, jax.tree.map(lambda a: a.astype(dtype), saved.weights()[name])
    )


def test_weights_that_are_not_there_are_refused(workdir):
    with pytest.raises(ValueError, match=r"no weights ema1; it has ema25, mean, raw$"):
        snapshots.restore_weights(workdir, 7, "ema1", like(ONE).params)
    with pytest.raises(ValueError, match=r"no snapshot of step 8; stored are 7$"):
        snapshots.restore_weights(workdir, 8, "raw", like(ONE).params)
    with pytest.raises(ValueError, match=r"no snapshot of step 8; stored are none$"):
        snapshots.restore(workdir / "nothing", 8, like(ONE))


@pytest.mark.parametrize("name", ["raw", "mean"])
def test_weights_of_another_model_are_refused(workdir, name):
    params = like(ONE).params
    for wanted, message in (
        (
            dict(params, gate=params["head"]),
            r"shape None at gate/kernel, where \(8, 16",
        ),
        (dict(head=params["head"]), r"shape \(16, 8\) at embedding/table, where None"),
        (
            jax.eval_shape(small.bigram(width=24).init, jax.random.key(0)),
            r"shape \(16, 8\) at embedding/table, where \(16, 24\) is wanted",
        ),
    ):
        with pytest.raises(ValueError, match=f"weights {name} of step 7 .* {message}"):
            snapshots.restore_weights(workdir, 7, name, wanted)


def test_only_complete_snapshots_are_stored_steps(tmp_path):
    assert snapshots.stored_steps(tmp_path) == []
    for name in ("10", "9", "11.orbax-checkpoint-tmp-0", "notes"):
        (tmp_path / "snapshots" / name).mkdir(parents=True)
    assert snapshots.stored_steps(tmp_path) == [9, 10]


def test_of_what_is_not_kept_the_latest_two_stay(tmp_path):
    current = filled(like(ONE, averages={}))
    opened = store.Store(tmp_path, keeps=lambda step: step % 4 == 0)
    for step in range(1, 7):
        opened.save(current, step, dict(sequences=0))
    opened.close()
    assert snapshots.stored_steps(tmp_path) == [4, 5, 6]
    # Opened again, the store still knows what it may remove.
    opened = store.Store(tmp_path, keeps=lambda step: step % 4 == 0)
    for step in (7, 8):
        opened.save(current, step, dict(sequences=0))
    opened.close()
    assert snapshots.stored_steps(tmp_path) == [4, 6, 7, 8]


def small_state():
    return filled(like(ONE, averages={}))


def test_a_step_before_the_latest_is_refused(tmp_path):
    """Orbax saves nothing then, and says nothing."""
    save(tmp_path, small_state())
    opened = store.Store(tmp_path, keeps=lambda step: True)
    for step in (5, 7):
        with pytest.raises(ValueError, match=f"step={step} must be above 7, the lat"):
            opened.save(small_state(), step, {})
    opened.close()
    assert snapshots.stored_steps(tmp_path) == [7]


def test_records_are_carried(workdir, tmp_path):
    assert snapshots.read_records(workdir, 7) is None
    opened = store.Store(tmp_path, keeps=lambda step: True)
    text = '{"step": 1, "loss": NaN}\n'
    opened.save(small_state(), 1, {}, text)
    opened.save(small_state(), 2, {}, "")
    opened.close()
    assert snapshots.read_records(tmp_path, 1) == text
    assert snapshots.read_records(tmp_path, 2) == ""
    assert snapshots.stored_weights(tmp_path, 1) == ["raw"]


def test_without_room_nothing_is_written(tmp_path, monkeypatch):
    save(tmp_path, small_state(), step=3)
    opened = store.Store(tmp_path, keeps=lambda step: True)
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(store.Unwritable) as caught:
        opened.save(small_state(), 4, {})
    opened.abandon()
    assert str(caught.value) == (
        f"{tmp_path}/snapshots: no room for the snapshot of step 4, which needs "
        "3.08 kB where 1.00 kB are free; earlier ones are whole"
    )
    assert listing_names(tmp_path) == ["3"]


def listing_names(workdir):
    return sorted(path.name for path in (workdir / "snapshots").iterdir())


def test_a_folder_that_is_removed_is_named(tmp_path):
    opened = store.Store(tmp_path, keeps=lambda step: True)
    opened.save(small_state(), 1, {})
    opened.wait()
    opened.check()
    shutil.rmtree(tmp_path / "snapshots")
    gone = rf"^{tmp_path}/snapshots is gone: it was removed during the run$"
    with pytest.raises(store.Unwritable, match=gone):
        opened.check()
    with pytest.raises(store.Unwritable, match=gone):
        opened.save(small_state(), 2, {})
    opened.abandon()


def test_nothing_is_written_before_all_is_handed_over(tmp_path, monkeypatch):
    opened = store.Store(tmp_path, keeps=lambda step: True)
    submit, found = opened._manager.save, []

    def watched(step, args):
        submit(step, args=args)
        time.sleep(0.2)
        found.extend((tmp_path / "snapshots").iterdir())

    monkeypatch.setattr(opened._manager, "save", watched)
    opened.save(small_state(), 1, {})
    opened.close()
    assert found == []
    assert snapshots.stored_steps(tmp_path) == [1]


def test_what_is_said_of_a_snapshot_is_what_it_was(tmp_path):
    opened = store.Store(tmp_path, keeps=lambda step: True)
    meta = dict(skipped=dict(in_a_row=1))
    opened.save(small_state(), 1, meta)
    meta["skipped"]["in_a_row"] = 0
    opened.close()
    assert snapshots.read_meta(tmp_path, 1)["skipped"] == dict(in_a_row=1)


def test_a_save_that_is_interrupted_holds_nothing_up(tmp_path, monkeypatch):
    opened = store.Store(tmp_path, keeps=lambda step: True)
    submit = opened._manager.save

    def interrupted(step, args):
        submit(step, args=args)
        raise KeyboardInterrupt

    monkeypatch.setattr(opened._manager, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened.save(small_state(), 1, {})
    opened.abandon()
    assert snapshots.stored_steps(tmp_path) == [1]


def test_a_folder_that_was_made_anew_is_named(tmp_path, monkeypatch):
    opened = store.Store(tmp_path, keeps=lambda step: True)
    opened.save(small_state(), 1, {})
    opened.wait()

    def late(folder):  # The end of a write, after all before it was deleted.
        shutil.rmtree(tmp_path / "snapshots" / "1")

    monkeypatch.setattr(verifying, "write_list", late)
    opened.save(small_state(), 2, {})
    with pytest.raises(store.Unwritable, match=r"/snapshots is gone: it was removed"):
        opened.wait()
    opened.abandon()


def test_what_fails_in_the_background_is_found_out(tmp_path, monkeypatch):
    save(tmp_path, small_state(), step=3)
    opened = store.Store(tmp_path, keeps=lambda step: True)

    def fail(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(verifying, "write_list", fail)
    opened.save(small_state(), 4, {})
    with pytest.raises(store.Unwritable) as caught:
        while True:
            opened.check()
            time.sleep(0.01)
    opened.check()  # It is said once.
    opened.close()
    assert str(caught.value) == (
        f"{tmp_path}/snapshots: the snapshot of step 4, of 3.08 kB, cannot be written: "
        "[Errno 28] No space left on device; earlier ones are whole"
    )
    assert snapshots.newest_whole(tmp_path) == (3, {})


def test_an_old_snapshot_that_cannot_be_removed_ends_nothing(
    tmp_path, monkeypatch, capsys
):
    opened = store.Store(tmp_path, keeps=lambda step: False)
    for step in (1, 2):
        opened.save(small_state(), step, {})
    opened.wait()

    def fail(path, *arguments, **options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(shutil, "rmtree", fail)
    opened.save(small_state(), 3, {})
    opened.wait()
    assert (
        f"{tmp_path}/snapshots: older snapshots stay: [Errno 30] Read-only file system"
        in capsys.readouterr().err
    )
    monkeypatch.undo()
    opened.save(small_state(), 4, {})
    opened.close()
    assert snapshots.newest_whole(tmp_path) == (4, {})


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", "/proc/run"):
        with pytest.raises(
            store.Unwritable, match=rf"^{workdir}/snapshots cannot be written: [^\n]+$"
        ):
            store.Store(workdir, keeps=lambda step: True)


def test_what_is_saved_may_be_donated_at_once(tmp_path):
    current = jax.tree.map(jnp.copy, filled(like(EIGHT)))  # in XLA's own buffers
    spoil = jax.jit(
        lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0
    )
    opened = store.Store(tmp_path, keeps=lambda step: True)
    opened.save(current, 1, dict(sequences=0))
    spoil(current)
    opened.close()
    restored, _ = snapshots.restore(tmp_path, 1, like(ONE))
    expected = filled(like(EIGHT))
    assert_same(restored._replace(step=expected.step), expected)


@pytest.mark.parametrize(
    ("optimizer", "tracking"),
    [
        (optax.sgd(0.1, momentum=0.9), dict(compensated=True)),
        (optax.adafactor(0.1, min_dim_size_to_factor=4), {}),
        (optax.inject_hyperparams(optax.adam)(lambda count: 0.1), {}),
        (optax.sgd(0.1), {}),
    ],
    ids=["momentum and compensation", "adafactor", "injected adam", "no state"],
)
def test_optimizer_states_come_back(tmp_path, optimizer, tracking):
    shapes = like(EIGHT, optimizer, **tracking)
    current = filled(shapes)
    save(tmp_path, current)
    restored, _ = snapshots.restore(tmp_path, 7, like(ONE, optimizer, **tracking))
    assert_same(restored._replace(step=current.step), current)


def test_a_run_without_averages_has_no_such_items(tmp_path):
    save(tmp_path, filled(like(ONE, averages={})))
    folder = tmp_path / "snapshots" / "7"
    items = {path.name for path in folder.iterdir() if path.is_dir()}
    assert items == {"raw", "optimizer", "meta"}
