import json
import pathlib

import numpy as np
import pytest

from anytime_jax import averaging, data, schedules
from anytime_jax.commands import config_files
from anytime_jax.reporting import runs
from anytime_jax.schedules import fixed_horizon, trunks
from anytime_jax.training import config_file, metrics, recipe
from tests import folders

ROOT = pathlib.Path(__file__).parents[1]


def test_read_separates_the_two_sets_and_the_weights(tmp_path):
    run = runs.read(folders.write(tmp_path / "trunk", "constant", folders.TRUNK))
    assert run.folder == tmp_path / "trunk"
    assert run.losses["ema25"] == {100: 2.75, 200: 2.125, 400: 1.875}
    assert run.curves["ema25"] == {100: 2.8125, 200: 2.1875, 400: 1.9375}
    assert set(run.losses) == set(run.curves) == {"raw", "ema25", "uniform"}
    assert (run.schedule, run.seed, run.role) == ("constant", 0, "trunk")
    assert (run.total_steps, run.last_step) == (400, 400)
    assert (run.tokens_per_step, run.non_embedding) == (100, 500)


@pytest.mark.parametrize(
    "rest", ['{"step": 500, "horizon/loss/ra', '{"step": 500, "horizon/loss/raw": 1.0}']
)
def test_a_last_line_without_its_end_is_not_read(tmp_path, rest):
    folder = folders.write(tmp_path / "trunk", "constant", folders.TRUNK)
    with open(tmp_path / "trunk" / "metrics.jsonl", "a") as file:
        file.write(rest)
    run = runs.read(folder)
    assert run.last_step == 400
    assert run.losses["raw"] == {100: 3.0, 200: 2.5, 400: 2.0}


def test_a_run_without_records_can_be_read(tmp_path):
    folder = folders.write(tmp_path / "trunk", "constant", {}, total_steps=400)
    (tmp_path / "trunk" / "metrics.jsonl").unlink()
    run = runs.read(folder)
    assert (run.last_step, run.losses, run.exits) == (0, {}, {})


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", None, "run holds no run: there is no .*config.json"),
        ("config.json", "{", "config.json is damaged: Expecting"),
        ("config.json", "[]", "config.json is not that of a run: it has no averages"),
        ("metrics.jsonl", '{"st\n{"step": 1}\n', "metrics.jsonl is damaged: "),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, file, text, message):
    folder = folders.write(tmp_path / "run", "constant", folders.TRUNK)
    path = tmp_path / "run" / file
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        runs.read(folder)
    assert "\n" not in str(error.value)


def test_a_config_without_a_needed_key_is_named(tmp_path):
    folder = folders.write(tmp_path / "run", "constant", folders.TRUNK)
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    del config["resolved"]["tokens_per_step"]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"it has no resolved\.tokens_per_step"):
        runs.read(folder)


def test_a_fixed_horizon_run_gives_its_raw_weights_at_its_end_only(tmp_path):
    losses = {100: {"raw": 3.0, "ema25": 2.0}, 200: {"raw": 2.5, "ema25": 2.25}}
    run = runs.read(folders.write(tmp_path / "done", "cosine", losses))
    assert run.role == "fixed"
    assert run.exits == {"raw": {200: 2.5}}
    folder = folders.write(tmp_path / "begun", "cosine", losses, total_steps=400)
    assert runs.read(folder).exits == {}


def test_a_branch_knows_its_trunk_from_a_relative_path(tmp_path, monkeypatch):
    losses = {400: {"raw": 1.75}}
    folder = folders.write(tmp_path / "exit", "cooldown", losses, trunk="runs/../trunk")
    monkeypatch.chdir(tmp_path)
    run = runs.read(folder)
    assert run.role == "branch"
    assert run.trunk == tmp_path / "trunk"
    assert run.exits == {"raw": {400: 1.75}}


@pytest.mark.parametrize(
    ("step", "horizon"), [(400, 400), (396, 400), (395, 395), (198, 200), (150, 150)]
)
def test_a_merge_is_an_exit_at_the_horizon_just_after_it(tmp_path, step, horizon):
    folder = folders.write_merge(
        tmp_path / "m", tmp_path / "trunk", dict(name="uniform"), 2.0, step=step
    )
    run = runs.read(folder)
    assert (run.role, run.trunk) == ("merge", tmp_path / "trunk")
    assert run.merge["recipe"] == {"name": "uniform"}
    assert run.exits == {"raw": {horizon: 2.0}}


def test_a_merge_that_does_not_say_of_what_is_named(tmp_path):
    trunk = tmp_path / "trunk"
    folders.write_merge(tmp_path / "m", trunk, dict(name="uniform"), 2.0)
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    del config["merge"]["recipe"]["name"]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"it has no merge\.recipe\.name"):
        runs.read(tmp_path / "m")


def test_snapshots_are_the_folders_that_are_complete(tmp_path):
    folder = folders.write(tmp_path / "trunk", "constant", folders.TRUNK)
    assert runs.read(folder).snapshots == ()
    for name in ("200", "1000", "50", "300.orbax-checkpoint-tmp"):
        (tmp_path / "trunk" / "snapshots" / name).mkdir(parents=True)
    assert runs.read(folder).snapshots == (50, 200, 1000)


def test_exits_are_in_order_of_memory(tmp_path):
    losses = {100: dict.fromkeys(("uniform", "ema12_5", "ema100", "ema25", "raw"), 2.0)}
    run = runs.read(folders.write(tmp_path / "trunk", "constant", losses))
    assert list(run.exits) == ["raw", "ema100", "ema25", "ema12_5", "uniform"]


@pytest.mark.parametrize(
    "spec",
    [
        dict(name="latest"),
        dict(name="uniform"),
        dict(name="age_ema", divisor=6.25),
        dict(name="age_ema", divisor=100),
        dict(name="power", gamma=3.0, sigma_rel=None),
        dict(name="power", sigma_rel=0.1),
        dict(name="polynomial", eta=3.0),
        dict(name="ema", decay=0.99),
        dict(name="tail", start=600),
    ],
    ids=str,
)
def test_mean_age_is_that_of_the_average_itself(spec):
    steps = 1000
    [average] = averaging.build({"a": spec}).values()
    exact = averaging.mean_age(average, steps) / steps
    np.testing.assert_allclose(runs.mean_age(spec, steps), exact, atol=2e-3)


def test_an_unknown_average_comes_last():
    assert runs.mean_age(dict(name="mine"), 1000) > runs.mean_age(
        dict(name="age_ema", divisor=0.1), 1000
    )


def test_trunks_are_the_schedules_without_a_horizon():
    assert set(trunks.__all__) <= set(runs.TRUNKS)
    assert not set(fixed_horizon.__all__) & set(runs.TRUNKS)
    assert all(map(schedules.horizon_free, trunks.__all__))


def test_setting_is_the_same_for_other_seeds_and_lengths_only(tmp_path):
    def setting(name, **changes):
        folder = folders.write(tmp_path / name, "constant", folders.TRUNK, **changes)
        return runs.read(folder).setting

    first = setting("first")
    assert first == setting("seed", seed=3)
    assert first == setting("longer", total_steps=800)
    assert first != setting("peak", peak=0.02)
    assert first != setting("average", averages__ema25__divisor=24.0)


def test_setting_of_a_cooldown_is_its_share_not_its_steps(tmp_path):
    def setting(name, step, **changes):
        losses = {step: {"raw": 2.0}}
        folder = tmp_path / name
        folders.write(folder, "cooldown", losses, trunk="trunk", **changes)
        return runs.read(folder).setting

    assert setting("a", 100) == setting("b", 200) == setting("c", 402)
    assert setting("d", 100, branch__step=90) != setting("e", 100)
    assert setting("f", 100, schedule__shape="linear") != setting("g", 100)


def test_names_have_as_many_parents_as_tell_runs_apart(tmp_path):
    made = ["a/trunk", "b/trunk", "a/cosine"]
    found = [
        runs.read(folders.write(tmp_path / name, "constant", folders.TRUNK))
        for name in made
    ]
    assert list(runs.names(found).values()) == ["a/trunk", "b/trunk", "cosine"]


def test_what_training_writes_is_what_is_read(tmp_path):
    config = config_files.load_config(f"{ROOT}/configs/tiny.py")
    config.data.source = "synthetic"
    config.horizons.update(chinchilla=(), steps=(6,))
    config.duration.update(chinchilla=0.0, steps=12)
    built = recipe.build(config)
    dataset = data.load(**config.data, sequence_length=64)
    resolved = built.resolved() | {"data": dataset.description}
    config_file.write(config, resolved, tmp_path)
    writer = metrics.Writer(tmp_path)
    writer.write_scalars(6, {"eval/loss/ema25": 2.5})
    writer.write_scalars(6, {"horizon/loss/raw": 3.0, "horizon/loss/ema25": 2.0})
    writer.close()
    run = runs.read(tmp_path)
    assert run.exits == {"raw": {6: 3.0}, "ema25": {6: 2.0}}
    assert run.curves == {"ema25": {6: 2.5}}
    assert (run.role, run.total_steps) == ("trunk", 12)
    assert run.tokens_per_step == built.tokens_per_step == 1024
    assert run.non_embedding == built.parameters["non_embedding"]


def test_a_branch_gives_its_averages_unless_they_are_frozen(tmp_path):
    losses = {100: {"raw": 3.0, "ema25": 1.0}, 200: {"raw": 2.0, "ema25": 1.5}}

    def exits(name, **changes):
        folder = tmp_path / name
        folders.write(folder, "cooldown", losses, trunk="trunk", **changes)
        return runs.read(folder).exits

    both = {"raw": {200: 2.0}, "ema25": {200: 1.5}}
    assert exits("old") == both
    assert exits("continue", branch__averages="continue") == both
    assert exits("freeze", branch__averages="freeze") == {"raw": {200: 2.0}}
    assert exits("begun", total_steps=400) == {}


def test_setting_of_a_branch_is_without_what_it_tracks(tmp_path):
    def setting(name, schedule, **changes):
        folder = tmp_path / name
        folders.write(folder, schedule, {100: {"raw": 2.0}}, **changes)
        return runs.read(folder).setting

    tracked = dict(averages={"a": {"name": "uniform"}}, tracking={"every": 2})
    cooldown = setting("a", "cooldown", trunk="t")
    tracked |= dict(branch__averages="freeze", trunk="t")
    assert setting("b", "cooldown", **tracked) == cooldown
    trunk = setting("c", "constant", tracking={"every": 1})
    assert trunk != setting("d", "constant", tracking={"every": 2})
