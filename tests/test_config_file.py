"""config.json: what it holds, and which runs it lets go on."""

import json
import os

import jax
import numpy as np
import pytest

from anytime_jax import data, training
from anytime_jax.training import config_file, keys
from tests import small

DATA = data.load(source="synthetic", sequence_length=16).description
RESOLVED = dict(
    data=DATA, kept=[6], snapshot_every=5, tokens_per_step=128, total_steps=small.STEPS
)


def write(workdir, variant="constant", **overrides):
    config_file.write(small.config(variant, **overrides), RESOLVED, workdir)


def rewrite(workdir, change):
    """Changes what config.json holds."""
    content = json.loads((workdir / "config.json").read_text())
    change(content)
    (workdir / "config.json").write_text(json.dumps(content))


def other(split):
    """The description of data of which one split is another."""
    return DATA | {split: DATA[split] | dict(sha256="0" * 64)}


def test_the_config_comes_back_with_what_it_came_to(tmp_path):
    write(tmp_path / "run", seed=3)
    content = config_file.read(tmp_path / "run")
    resolved = content.pop("resolved")
    assert content == config_file.to_json(small.config(seed=3))
    assert content["horizons"]["steps"] == [6, 12]
    assert resolved["total_steps"] == small.STEPS
    assert resolved["versions"]["jax"] == jax.__version__
    assert resolved["devices"].startswith("8 x ")


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(ValueError, match=r"holds no run: there is no .*config.json$"):
        config_file.read(tmp_path)
    config_file.check_same_run(small.config(), 12, tmp_path)


@pytest.mark.parametrize(
    "overrides",
    [
        dict(horizons__steps=(6, 24)),
        dict(evaluation__points=7),
        dict(snapshots__every=1),
        dict(logging__every=1),
        dict(mesh__fsdp=2),
        dict(shard_state=True),
        dict(nonfinite=dict(policy="skip", limit=10)),
    ],
    ids=str,
)
def test_what_does_not_change_the_weights_may_change(tmp_path, overrides):
    write(tmp_path)
    assert config_file.check_same_run(small.config(), 12, tmp_path) == []
    now = small.config(**overrides)
    [(key, new, old)] = config_file.check_same_run(now, 12, tmp_path)
    assert key.replace(".", "__").startswith(next(iter(overrides)))
    assert new != old


def test_a_run_goes_on_and_says_with_which_differences(tmp_path, capsys):
    write(tmp_path)
    now = small.config(duration__steps=24, logging__every=1, evaluation__points=7)
    training.prepare(now, tmp_path)
    assert capsys.readouterr().err == (
        "going on with duration.steps=24 (was 12), evaluation.points=7 (was 3), "
        "logging.every=1 (was 2)\n"
    )
    training.prepare(small.config(), tmp_path)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(seed=1), r"run in .*: seed=1 \(was 0\); use its values or another work"),
        (dict(batch_size=16), r": batch_size=16 \(was 8\); use"),
        (dict(clip_norm=2.0), r": clip_norm=2.0 \(was 1.0\); use"),
        (dict(model__width=32), r": model.width=32 \(was 16\); use"),
        (dict(schedule__peak=0.1), r": schedule.peak=0.1 \(was 0.01\); use"),
        (dict(optimizer__b2=0.9), r": optimizer.b2=0.9 \(was 0.99\); use"),
        (dict(tracking__every=2), r": tracking.every=2 \(was 1\); use"),
        (dict(evaluation__batch_size=16), r": evaluation.batch_size=16 \(was 8\)"),
        (dict(branch__step=3), r": branch.step=3 \(was 0\); use"),
        (
            dict(seed=1, logging__every=1, batch_size=16, schedule=dict(name="wsd")),
            r"these differ from the run in .*: batch_size=16 \(was 8\), schedule.name="
            r"'wsd' \(was 'constant'\), schedule.peak=None \(was 0.01\), schedule.warm"
            r"up_steps=None \(was 2\), seed=1 \(was 0\); use its values or another",
        ),
    ],
    ids=str,
)
def test_what_would_make_it_another_run_is_refused(tmp_path, overrides, message):
    write(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        config_file.check_same_run(small.config(**overrides), 12, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_key_that_only_the_run_before_has_is_a_difference(tmp_path):
    write(tmp_path, optimizer=dict(name="adam", eps=1e-6))
    with pytest.raises(ValueError, match=r": optimizer.eps=None \(was 1e-06\); use"):
        now = small.config(optimizer=dict(name="adam"))
        config_file.check_same_run(now, 12, tmp_path)
    rewrite(tmp_path, lambda content: content.update(dropout=0.1))
    with pytest.raises(ValueError, match=r": dropout=None \(was 0.1\), optimizer.b1"):
        config_file.check_same_run(small.config(), 12, tmp_path)


def test_a_run_from_before_a_key_was_there_has_its_default(tmp_path):
    write(tmp_path)
    rewrite(tmp_path, lambda content: [content.pop(key) for key in keys.DEFAULTS])
    assert config_file.check_same_run(small.config(), 12, tmp_path) == []
    now = small.config(shard_state=True)
    changed = config_file.check_same_run(now, 12, tmp_path)
    assert changed == [("shard_state", True, False)]


def test_averages_are_settled_by_the_first_snapshot(tmp_path):
    write(tmp_path)
    config_file.check_same_run(small.config(averages={}), 12, tmp_path)
    for item in ("raw", "optimizer", "average_ema25", "average_uniform", "meta"):
        (tmp_path / "snapshots" / "5" / item).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"averages.ema25.divisor=None \(was 25.0\)"):
        config_file.check_same_run(small.config(averages={}), 12, tmp_path)
    more = small.config().averages.to_dict() | dict(new=dict(name="uniform"))
    config_file.check_same_run(small.config(averages=more), 12, tmp_path)


def test_only_a_trunk_may_change_its_length(tmp_path):
    write(tmp_path / "trunk")
    config_file.check_same_run(small.config(), 24, tmp_path / "trunk")
    write(tmp_path / "cosine", "cosine")
    config_file.check_same_run(small.config("cosine"), 12, tmp_path / "cosine")
    with pytest.raises(
        ValueError, match=r"duration=24 steps .* the 12 of the run .* 'cosine' depends"
    ):
        config_file.check_same_run(small.config("cosine"), 24, tmp_path / "cosine")


def test_a_config_that_json_cannot_express_is_refused_before_anything(tmp_path):
    config = small.config(schedule=dict(name="cooldown", shape=abs))
    with pytest.raises(
        ValueError, match=r"schedule.shape=<built-in .* abs> is something"
    ):
        config_file.check_same_run(config, 12, tmp_path)


def test_numbers_of_numpy_are_numbers(tmp_path):
    config = small.config()
    with config.unlocked(), config.ignore_type():
        config.update(batch_size=np.int64(8), clip_norm=np.float32(0.5))
    content = config_file.to_json(keys.checked(config))
    assert (content["batch_size"], content["clip_norm"]) == (8, 0.5)
    assert json.loads(json.dumps(content)) == content


@pytest.mark.parametrize("version", [3, "2", None])
def test_an_unknown_format_is_refused_with_both_versions(tmp_path, version):
    write(tmp_path)
    assert config_file.read(tmp_path)["resolved"]["format"] == 2
    rewrite(tmp_path, lambda content: content["resolved"].update(format=version))
    message = rf"config.json has format {version!r}; this version .* reads 1 and 2$"
    with pytest.raises(ValueError, match=message):
        config_file.check_same_run(small.config(), 12, tmp_path)
    rewrite(tmp_path, lambda content: content["resolved"].pop("format"))
    assert config_file.check_same_run(small.config(), 12, tmp_path) == []


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"resolved": 3}', b"\xff"])
def test_a_damaged_config_file_is_one_line(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"^\S*config.json is damaged: .*$") as caught:
        config_file.read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        *("averages", "data", "evaluation", "evaluation.batch_size", "tracking.every"),
        *("resolved.total_steps", "resolved.kept", "resolved.data.train"),
    ],
)
def test_a_key_that_is_missing_is_named(tmp_path, key):
    write(tmp_path)

    def change(content):
        *parents, last = key.split(".")
        for parent in parents:
            content = content[parent]
        del content[last]

    rewrite(tmp_path, change)
    message = rf"^{tmp_path}/config.json is damaged: it has no {key}[a-z0-9_.]*$"
    with pytest.raises(ValueError, match=message):
        training.prepare(small.config(), tmp_path)


def test_data_that_are_missing_are_named(tmp_path):
    write(tmp_path)
    rewrite(tmp_path, lambda content: content["resolved"].pop("data"))
    with pytest.raises(ValueError, match=r"is damaged: it has no resolved\.data$"):
        config_file.check_same_data(DATA, tmp_path)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_other_tokens_are_refused(tmp_path, split):
    config_file.check_same_data(DATA, tmp_path)
    write(tmp_path)
    config_file.check_same_data(DATA, tmp_path)
    message = rf"^data: the {split} tokens, of SHA-256 0{{12}}, differ from .* changed$"
    with pytest.raises(ValueError, match=message):
        config_file.check_same_data(other(split), tmp_path)


def test_other_tokens_are_taken_when_told_so(tmp_path, capsys):
    write(tmp_path)
    rewrite(tmp_path, lambda content: content["resolved"].update(data=other("train")))
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match="changed; give --changed_data to go on with"):
        training.prepare(small.config(), tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before
    training.prepare(small.config(), tmp_path, changed_data=True)
    err = capsys.readouterr().err
    assert err.startswith("going on with other tokens: data: the train tokens, of")
    assert err.count("\n") == 1


def test_all_data_that_a_run_has_seen_are_written_down(tmp_path):
    seen = [DATA, DATA, other("train"), other("validation"), other("validation")]
    for description in seen:
        resolved = RESOLVED | dict(data=description)
        config_file.write(small.config(), resolved, tmp_path)
        written = config_file.read(tmp_path)["resolved"]
        assert written["data"] == description
        if description is DATA:
            assert "data_before" not in written
    assert written["data_before"] == [DATA, other("train")]


def test_a_write_that_is_cut_off_leaves_the_old_file(tmp_path, monkeypatch):
    write(tmp_path)
    before = (tmp_path / "config.json").read_text()

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", die)
        patch.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, seed=1)
    assert (tmp_path / "config.json").read_text() == before
    write(tmp_path, seed=1)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_of_several_hosts_only_the_first_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    write(tmp_path / "run")
    assert not (tmp_path / "run").exists()
