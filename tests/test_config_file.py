"""config.json: what it holds, and which runs it lets go on."""

import json
import os

import jax
import pytest

from anytime_jax.training import config_file
from tests import small

RESOLVED = dict(total_steps=small.STEPS)


def write(workdir, variant="constant", **overrides):
    config_file.write(small.config(variant, **overrides), RESOLVED, workdir)


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
    ],
    ids=str,
)
def test_what_does_not_change_the_weights_may_change(tmp_path, overrides):
    write(tmp_path)
    config_file.check_same_run(small.config(**overrides), 12, tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(seed=1), r"seed=1 differs from the run in .*, which has 0: use its"),
        (dict(batch_size=16), r"batch_size=16 differs .* which has 8"),
        (dict(clip_norm=2.0), r"clip_norm=2.0 differs .* which has 1.0"),
        (dict(model__width=32), r"model.width=32 differs .* which has 16"),
        (dict(schedule__peak=0.1), r"schedule.peak=0.1 differs"),
        (dict(optimizer__b2=0.9), r"optimizer.b2=0.9 differs"),
        (dict(tracking__every=2), r"tracking.every=2 differs"),
        (dict(evaluation__batch_size=16), r"evaluation.batch_size=16 differs"),
        (dict(branch__step=3), r"branch.step=3 differs"),
    ],
    ids=str,
)
def test_what_would_make_it_another_run_is_refused(tmp_path, overrides, message):
    write(tmp_path)
    with pytest.raises(ValueError, match=message):
        config_file.check_same_run(small.config(**overrides), 12, tmp_path)


def test_averages_are_settled_by_the_first_snapshot(tmp_path):
    write(tmp_path)
    config_file.check_same_run(small.config(averages={}), 12, tmp_path)
    for item in ("raw", "optimizer", "average_ema25", "average_uniform", "meta"):
        (tmp_path / "snapshots" / "5" / item).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"averages.ema25.divisor=None .* has 25.0"):
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
    with pytest.raises(ValueError, match=r"<built-in function abs>, which config.json"):
        config_file.check_same_run(config, 12, tmp_path)


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
