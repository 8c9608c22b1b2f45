"""Snapshots that are cut, flipped or incomplete: noticed, never read as if whole."""

import gc
import json
import pathlib
import re
import shutil
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytime_jax import averaging, training
from anytime_jax.training import metrics, snapshots, state, store, stored, verifying
from tests import small

# A read that fails leaves coroutines of Orbax behind, which complain when they are
# collected: here, and not in a later test of another file.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

STEPS = 12
# Orbax's own notes, which it writes after all else and reads back unchanged or not.
UNLISTED = {"_CHECKPOINT_METADATA", "commit_success.txt"}


@pytest.fixture(autouse=True)
def collected():
    yield
    gc.collect()


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def remove(path):
    path.unlink()


def config(**overrides):
    return small.config(
        duration__steps=STEPS, horizons__steps=(STEPS,), snapshots__every=3, **overrides
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    training.train(config(), workdir)
    return workdir


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A snapshot of two averages, without a run, and the state that is in it."""
    workdir = tmp_path_factory.mktemp("saved")
    averages = dict(ema=averaging.age_ema(divisor=25), mean=averaging.uniform())
    tracked = averaging.track(optax.adam(0.1), averages)
    current = state.init(small.bigram(), tracked, 0)
    current = jax.tree.map(
        lambda leaf: leaf + np.arange(leaf.size, dtype=leaf.dtype).reshape(leaf.shape),
        current,
    )
    opened = store.Store(workdir, keeps=lambda step: True)
    opened.save(current, STEPS, dict(sequences=5), "")
    opened.close()
    return workdir, current


def like(current):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=leaf.sharding
        ),
        current,
    )


def files(workdir, step=STEPS):
    folder = workdir / "snapshots" / str(step)
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def copied(source, to):
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(source, to)
    return to


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("spoil", [cut, flip, remove])
def test_every_file_of_a_snapshot_is_guarded(saved, tmp_path, spoil):
    workdir, current = saved
    spoilt = 0
    for original in files(workdir):
        copy = copied(workdir, tmp_path / "copy")
        path = copy / original.relative_to(workdir)
        if not path.stat().st_size:
            continue
        spoil(path)
        name = str(path.relative_to(copy / "snapshots" / str(STEPS)))
        if name in UNLISTED:
            restored, _ = snapshots.restore(copy, STEPS, like(current))
            assert_same(restored.params, current.params)
            continue
        spoilt += 1
        message = f"the snapshot of step {STEPS} in {copy} is damaged: {name} "
        with pytest.raises(snapshots.Damaged) as caught:
            snapshots.newest_whole(copy)
        assert message in str(caught.value)
        if name.split("/")[0] != "records":
            with pytest.raises(snapshots.Damaged) as caught:
                snapshots.restore(copy, STEPS, like(current))
            assert str(caught.value).startswith(message)
    assert spoilt > 20


def test_a_missing_item_is_missed(saved, tmp_path):
    workdir, current = saved
    for item in ("raw", "average_mean", "optimizer", "meta", "records"):
        copy = copied(workdir, tmp_path / "copy")
        shutil.rmtree(copy / "snapshots" / str(STEPS) / item)
        with pytest.raises(snapshots.Damaged, match=rf"damaged: {item}\S* is missing"):
            snapshots.newest_whole(copy)
        if item != "records":
            with pytest.raises(snapshots.Damaged, match=f"{item}.* is missing"):
                snapshots.restore(copy, STEPS, like(current))
    shutil.rmtree(copy / "snapshots" / str(STEPS))
    (copy / "snapshots" / str(STEPS)).mkdir()
    with pytest.raises(snapshots.Damaged, match="meta is missing"):
        snapshots.newest_whole(copy)


# What Orbax starts in the background fails too, where nothing lists the files.
@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.data())
def test_a_flipped_bit_is_never_read(saved, tmp_path_factory, data):
    """Without the list of files too: contents have checksums of their own."""
    workdir, current = saved
    copy = copied(workdir, tmp_path_factory.getbasetemp() / "flipped")
    original = data.draw(st.sampled_from(files(workdir)))
    path = copy / original.relative_to(workdir)
    content = bytearray(path.read_bytes())
    if not content:
        return
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(
        st.integers(0, 7)
    )
    path.write_bytes(content)
    if data.draw(st.booleans()):
        shutil.rmtree(copy / "snapshots" / str(STEPS) / "meta")
    for name, weights in current.weights().items():
        try:
            read = snapshots.restore_weights(copy, STEPS, name, like(weights))
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            assert_same(read, weights)


def relisted(folder):
    """Lists the files of a snapshot anew, as if it had been written as it is."""
    (folder / "meta" / "files.json").unlink()
    verifying.write_list(folder)


def test_contents_are_verified_where_files_cannot_be(tmp_path):
    """Of files with arrays above a megabyte the list has nothing but the size."""
    generator = np.random.default_rng(0)
    weights = {
        name: jnp.asarray(generator.normal(size=5000), jnp.float32) for name in "uv"
    }
    store.save_weights(tmp_path, STEPS, weights, {})
    inside = np.asarray(weights["v"]).tobytes()[40:80]
    folder = tmp_path / "snapshots" / str(STEPS)
    [path] = [path for path in files(tmp_path) if inside in path.read_bytes()]
    spoilt = inside[:-1] + bytes([inside[-1] ^ 1])
    path.write_bytes(path.read_bytes().replace(inside, spoilt))
    relisted(folder)
    assert snapshots.newest_whole(tmp_path) == (STEPS, {})
    message = (
        f"the snapshot of step {STEPS} in {tmp_path} is damaged: the contents of raw "
        "differ from what was written at v: checksum [0-9a-f]{8} instead of "
        "[0-9a-f]{8}$"
    )
    wanted = like(weights)
    for dtype in ("float32", "bfloat16"):
        as_dtype = jax.tree.map(lambda leaf, to=dtype: leaf.update(dtype=to), wanted)
        with pytest.raises(snapshots.Damaged, match=message):
            snapshots.restore_weights(tmp_path, STEPS, "raw", as_dtype)
    with pytest.raises(snapshots.Damaged, match=message):
        snapshots.restore_part(tmp_path, STEPS, "raw", dict(wanted, u=...))
    part = snapshots.restore_part(tmp_path, STEPS, "raw", dict(wanted, v=...))
    np.testing.assert_array_equal(part["u"], weights["u"])


@pytest.mark.parametrize(
    "files",
    [
        {"meta/../../../secret": [1, None]},
        {"/etc/hostname": [1, None]},
        {"meta": [1, None]},
        {"meta/metadata": 3},
        {"meta/metadata": [1, 2, 3]},
        ["meta/metadata"],
        None,
    ],
)
def test_a_list_that_was_never_written_is_damage(saved, tmp_path, files):
    copy = copied(saved[0], tmp_path / "copy")
    folder = copy / "snapshots" / str(STEPS)
    content = dict(format=2, files=files)
    crc32 = zlib.crc32(json.dumps(content, sort_keys=True).encode())
    path = folder / "meta" / "files.json"
    path.write_text(json.dumps({"crc32": crc32, "content": content}))
    with pytest.raises(snapshots.Damaged, match=r"files.json is no list of its files$"):
        snapshots.stored_weights(copy, STEPS)


def of_format(folder, version):
    """Rewrites a snapshot as one that says it is of another format."""
    for path in (folder / "meta" / "metadata", *folder.glob("*/_METADATA")):
        content = json.loads(path.read_text())
        if path.name == "metadata":
            content["format"] = version
        else:
            content["custom_metadata"]["format"] = version
        path.write_text(json.dumps(content))
    relisted(folder)
    path = folder / "meta" / "files.json"
    content = json.loads(path.read_text())["content"] | {"format": version}
    crc32 = zlib.crc32(json.dumps(content, sort_keys=True).encode())
    path.write_text(json.dumps({"crc32": crc32, "content": content}))


def test_an_unknown_format_is_refused_with_both_versions(saved, finished, tmp_path):
    workdir, current = saved
    copy = copied(workdir, tmp_path / "copy")
    folder = copy / "snapshots" / str(STEPS)
    of_format(folder, 3)
    message = (
        f"the snapshot of step {STEPS} in {copy} has format 3; this version of "
        "anytime_jax reads 1 and 2$"
    )
    readers = [
        lambda: snapshots.newest_whole(copy),
        lambda: snapshots.restore(copy, STEPS, like(current)),
        lambda: snapshots.restore_weights(copy, STEPS, "mean", like(current.params)),
        lambda: snapshots.restore_count(copy, STEPS, "mean"),
        lambda: snapshots.read_meta(copy, STEPS),
        lambda: snapshots.stored_weights(copy, STEPS),
    ]
    for read in readers:
        with pytest.raises(ValueError, match=message) as caught:
            read()
        assert not isinstance(caught.value, snapshots.Damaged)
    # What a later version leaves out is not damage.
    (folder / "meta" / "files.json").unlink()
    with pytest.raises(ValueError, match=message) as caught:
        snapshots.newest_whole(copy)
    assert not isinstance(caught.value, snapshots.Damaged)
    shutil.rmtree(folder / "meta")  # An item alone tells it too.
    for read in readers[2:4]:
        with pytest.raises(ValueError, match=message):
            read()
    # A run refuses it as well, and does not take an earlier one.
    run = copied(finished, tmp_path / "run")
    of_format(run / "snapshots" / str(STEPS), 3)
    before = sorted(run.rglob("*"))
    with pytest.raises(ValueError, match=r"has format 3; .* reads 1 and 2$"):
        training.train(config(), run)
    assert sorted(run.rglob("*")) == before


def as_of_format_1(folder):
    """What is not in the snapshots of older versions."""
    (folder / "meta" / "files.json").unlink()
    shutil.rmtree(folder / "records", ignore_errors=True)
    for path in (folder / "meta" / "metadata", *folder.glob("*/_METADATA")):
        content = json.loads(path.read_text())
        content.pop("format", None)
        content.pop("custom_metadata", None)
        path.write_text(json.dumps(content))


def test_snapshots_of_older_versions_are_read_with_one_line(saved, tmp_path, capsys):
    workdir, current = saved
    copy = copied(workdir, tmp_path / "older")
    as_of_format_1(copy / "snapshots" / str(STEPS))
    assert snapshots.newest_whole(copy) == (STEPS, {})
    restored, meta = snapshots.restore(copy, STEPS, like(current))
    assert_same(restored._replace(step=current.step), current)
    assert meta == dict(step=STEPS, sequences=5)
    assert snapshots.read_records(copy, STEPS) is None
    assert snapshots.restore_count(copy, STEPS, "mean") == int(
        current.optimizer.averages["mean"].count
    )
    assert capsys.readouterr().err == (
        f"{copy}: its snapshots are of an older version, without checksums\n"
    )


def largest(workdir, step, item):
    folder = workdir / "snapshots" / str(step) / item
    return max(
        folder.rglob("*"), key=lambda path: path.is_file() and path.stat().st_size
    )


def listed(workdir):
    return sorted(path.name for path in (workdir / "snapshots").iterdir())


def records(workdir):
    return [
        {key: value for key, value in record.items() if not key.startswith("time/")}
        for record in metrics.read(workdir)
    ]


def assert_ends_as(finished, run):
    for name in ("raw", "ema25", "uniform"):
        np.testing.assert_array_equal(
            small.stored_weights(run, STEPS, name),
            small.stored_weights(finished, STEPS, name),
        )
    assert records(run) == records(finished)
    assert snapshots.newest_whole(run) == (STEPS, {})


def test_a_run_goes_on_from_the_last_snapshot_that_is_whole(finished, tmp_path, capsys):
    run = copied(finished, tmp_path / "run")
    assert snapshots.stored_steps(run) == [3, 6, 9, 10, 12]
    paths = {12: "average_uniform", 10: "optimizer", 9: "raw"}
    paths = {step: largest(run, step, item) for step, item in paths.items()}
    for step, spoil in {12: flip, 10: cut, 9: remove}.items():
        spoil(paths[step])
    training.train(config(), run)
    error = capsys.readouterr().err
    for step, what in {
        12: "is not as it was written",
        10: r"has [\d,]+ of [\d,]+ bytes",
        9: "is missing",
    }.items():
        name = paths[step].relative_to(run / "snapshots" / str(step))
        assert re.search(
            f"the snapshot of step {step} in {run} is damaged: {name} {what}; it is "
            f"now {step}.damaged, and the run goes on from step 6\n",
            error,
        )
        assert f"{step}.damaged" in listed(run)
    assert_ends_as(finished, run)


def test_contents_that_differ_are_noticed_by_a_run(finished, tmp_path, capsys):
    run = copied(finished, tmp_path / "run")
    shutil.rmtree(run / "snapshots" / str(STEPS))
    path = run / "snapshots" / "10" / "optimizer" / "_METADATA"
    content = json.loads(path.read_text())
    sums = content["custom_metadata"]["checksums"]
    key = next(key for key in sums if "/mu/" in key)
    sums[key] = "00000000"
    path.write_text(json.dumps(content))
    relisted(run / "snapshots" / "10")
    # A name that is taken is not overwritten.
    (run / "snapshots" / "10.damaged").mkdir()
    training.train(config(), run)
    error = capsys.readouterr().err
    assert f"the contents of optimizer differ from what was written at {key}" in error
    assert "it is now 10.damaged.1, and the run goes on from step 9\n" in error
    assert {"10", "10.damaged", "10.damaged.1", "12"} <= set(listed(run))
    assert_ends_as(finished, run)


def test_a_run_without_a_whole_snapshot_does_not_start_afresh(finished, tmp_path):
    run = copied(finished, tmp_path / "run")
    for step in snapshots.stored_steps(run):
        remove(largest(run, step, "raw"))
    before = listed(run), (run / "metrics.jsonl").read_text()
    with pytest.raises(
        snapshots.Damaged, match=r"no snapshot in .* is whole: the snapshot of step 12 "
    ):
        training.train(config(), run)
    assert (listed(run), (run / "metrics.jsonl").read_text()) == before


def test_what_only_reads_takes_no_other_snapshot(finished, tmp_path):
    run = copied(finished, tmp_path / "run")
    flip(largest(run, STEPS, "raw"))
    before = listed(run)
    for read in (
        lambda: stored.evaluate(run),
        lambda: training.load(run),
        lambda: training.merging.plan(run, dict(name="uniform")),
    ):
        with pytest.raises(ValueError, match=r"step 12 .* is damaged: raw/"):
            read()
    assert listed(run) == before
    assert stored.evaluate(run, 10, ["raw"])


def test_files_in_place_of_metadata_are_not_run(saved, tmp_path):
    """As a pickled file would be, if anything read one."""
    workdir, current = saved
    copy = copied(workdir, tmp_path / "copy")
    shutil.rmtree(copy / "snapshots" / str(STEPS) / "meta")
    opened = tmp_path / "opened"
    code = b"cpathlib\nPath\n(S'" + bytes(opened) + b"'\ntR."
    (copy / "snapshots" / str(STEPS) / "raw" / "_METADATA").write_bytes(code)
    with pytest.raises(snapshots.Damaged, match="raw cannot be read: "):
        snapshots.restore_weights(copy, STEPS, "raw", like(current.params))
    assert not opened.exists()


def test_names_and_steps_lead_nowhere_else(saved, tmp_path):
    workdir, current = saved
    for step in ("../7", "7/../12", -1, 1.0, None, "١٢"):
        with pytest.raises(ValueError, match=r"step=.* must be a whole number"):
            snapshots.read_meta(workdir, step)
    with pytest.raises(ValueError, match=r"no weights \.\./raw"):
        snapshots.restore_weights(workdir, STEPS, "../raw", like(current.params))
    folder = tmp_path / "snapshots"
    for name in ("3", "012", "+4", "١٢", "12.damaged", "damaged_12", "5_0"):
        (folder / name).mkdir(parents=True)
    (folder / "8").write_text("")
    (folder / "9").symlink_to(pathlib.Path(workdir, "snapshots", str(STEPS)))
    assert snapshots.stored_steps(tmp_path) == [3]


def test_of_64_bits_a_snapshot_is_not_called_damaged(tmp_path):
    with jax.enable_x64(True):
        store.save_weights(tmp_path, 1, dict(w=jnp.arange(3.0)), {})
        place = training.merging.on_cpu()
        wanted = snapshots.weights_like(tmp_path, 1, "raw", place)
        read = snapshots.restore_weights(tmp_path, 1, "raw", wanted)
        assert read["w"].dtype == jnp.float64
    with pytest.raises(ValueError, match="float64 at w, which JAX reads with JAX_ENA"):
        snapshots.restore_weights(tmp_path, 1, "raw", wanted)
