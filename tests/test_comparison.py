import math

import pytest

from anytime_jax.reporting import comparison, runs
from anytime_jax.reporting.comparison import Loss
from tests import folders


def _compare(*names):
    return comparison.compare([runs.read(name) for name in names])


def _means(row):
    return {step: loss.mean for step, loss in row.losses.items()}


def _row(found, name):
    [row] = [row for row in found.rows if row.name == name]
    return row


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    return _compare(*folders.write_all(tmp_path_factory.mktemp("runs")))


def test_rows_are_the_exits_and_then_the_fixed_horizon_schedules(everything):
    assert [(row.group, row.name) for row in everything.rows] == [
        ("constant", "raw"),
        ("constant", "ema25"),
        ("constant", "uniform"),
        ("constant", "cooldown 20%"),
        ("fixed horizon", "cosine"),
    ]
    assert everything.horizons == {100: "1x", 200: "2x", 400: "4x"}
    assert _means(_row(everything, "ema25")) == {100: 2.75, 200: 2.125, 400: 1.875}
    assert _means(_row(everything, "cooldown 20%")) == {200: 2.1875, 400: 1.8125}


@pytest.mark.parametrize(
    ("name", "regrets", "worst"),
    [
        ("raw", {100: 0.375, 200: 0.25, 400: 0.25}, 0.375),
        ("ema25", {100: 0.125, 200: -0.125, 400: 0.125}, 0.125),
        ("uniform", {100: 0.25, 200: 0.375, 400: 0.75}, 0.75),
        ("cooldown 20%", {200: -0.0625, 400: 0.0625}, 0.0625),
        ("cosine", {100: 0.0, 200: 0.0, 400: 0.0}, 0.0),
    ],
)
def test_regret_is_loss_minus_envelope(everything, name, regrets, worst):
    row = _row(everything, name)
    assert everything.regrets(row) == regrets
    assert everything.worst_regret(row) == worst


def test_best_is_an_exit(everything):
    found = [everything.best(step).name for step in (100, 200, 400)]
    assert found == ["ema25", "ema25", "cooldown 20%"]


def test_best_overall_misses_no_horizon(everything, tmp_path):
    assert everything.best_overall(cooldown=False).name == "ema25"
    assert everything.best_overall(cooldown=True) is None
    names = folders.write_all(tmp_path)
    exit_100 = tmp_path / "exit_100"
    folders.write(exit_100, "cooldown", {100: {"raw": 3.0}}, trunk=names[0])
    found = _compare(*names, exit_100).best_overall(cooldown=True)
    assert found.name == "cooldown 20%"


def test_envelope_is_the_lowest_of_all_settings_and_schedules(tmp_path):
    found = _compare(
        folders.write(tmp_path / "a", "cosine", {100: {"raw": 2.5}}),
        folders.write(tmp_path / "b", "cosine", {100: {"raw": 2.25}}, peak=0.02),
        folders.write(tmp_path / "c", "linear", {100: {"raw": 2.375}}),
        folders.write(tmp_path / "d", "linear", {200: {"raw": 2.0}}),
    )
    assert {row.name: _means(row) for row in found.rows} == {
        "cosine": {100: 2.25},
        "linear": {100: 2.375, 200: 2.0},
    }
    points = found.envelope.items()
    of = {step: [found.names[run] for run in point.runs] for step, point in points}
    assert of == {100: ["b"], 200: ["d"]}
    assert found.worst_regret(_row(found, "linear")) == 0.125
    assert found.best(100) is None


def test_seeds_are_averaged_before_the_envelope_is_taken(tmp_path):
    found = _compare(
        folders.write(tmp_path / "a", "cosine", {100: {"raw": 2.0}}),
        folders.write(tmp_path / "b", "cosine", {100: {"raw": 3.0}}, seed=1),
        folders.write(tmp_path / "c", "cosine", {100: {"raw": 2.375}}, peak=0.02),
    )
    assert found.envelope[100].loss == Loss(2.375, 0.0, 1)


def test_seeds_of_a_trunk_and_of_its_cooldowns_are_one_row(tmp_path):
    names = []
    for seed, shift in enumerate((0.0, 0.25, 0.125)):
        losses = {100: {"raw": 3.0 + shift, "ema25": 2.0}}
        trunk = tmp_path / f"{seed}" / "trunk"
        names.append(folders.write(trunk, "constant", losses, seed=seed))
        cooldown = {100: {"raw": 2.5 - shift}}
        branch = tmp_path / f"{seed}" / "exit"
        folders.write(branch, "cooldown", cooldown, trunk=trunk, seed=seed)
        names.append(branch)
    found = _compare(*names)
    assert [row.name for row in found.rows] == ["raw", "ema25", "cooldown 20%"]
    assert found.rows[0].losses == {100: Loss(3.125, 0.125, 3)}
    assert found.rows[1].losses == {100: Loss(2.0, 0.0, 3)}
    assert found.rows[2].losses == {100: Loss(2.375, 0.125, 3)}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("order", [1, -1])
def test_a_loss_that_is_not_finite_is_neither_best_nor_envelope(tmp_path, bad, order):
    found = _compare(
        folders.write(tmp_path / "t", "constant", {100: {"raw": bad, "ema25": 2.5}}),
        *[
            folders.write(tmp_path / "a", "cosine", {100: {"raw": bad}}),
            folders.write(tmp_path / "b", "cosine", {100: {"raw": 2.0}}, peak=0.02),
            folders.write(tmp_path / "c", "linear", {100: {"raw": bad}}),
        ][::order],
    )
    assert found.envelope[100].loss.mean == 2.0
    assert _means(_row(found, "cosine")) == {100: 2.0}
    assert found.best(100).name == "ema25"
    assert found.best_overall(cooldown=False).name == "ema25"
    assert not math.isfinite(found.worst_regret(_row(found, "raw")))
    assert not math.isfinite(found.worst_regret(_row(found, "linear")))


def test_a_horizon_where_all_runs_diverged_has_no_envelope(tmp_path):
    found = _compare(
        folders.write(tmp_path / "trunk", "constant", folders.TRUNK),
        folders.write(tmp_path / "a", "cosine", {100: {"raw": math.nan}}),
        folders.write(tmp_path / "b", "cosine", {200: {"raw": 2.25}}),
    )
    assert list(found.envelope) == [200]
    assert found.worst_regret(_row(found, "raw")) == 0.25


def test_a_worst_regret_is_nan_wherever_the_nan_is(tmp_path):
    losses = {100: 2.0, 200: math.nan, 400: 1.0}
    trunk = {step: {"raw": loss} for step, loss in losses.items()}
    found = _compare(
        folders.write(tmp_path / "trunk", "constant", trunk),
        *(
            folders.write(tmp_path / f"{step}", "cosine", {step: {"raw": 1.0}})
            for step in losses
        ),
    )
    assert math.isnan(found.worst_regret(_row(found, "raw")))


def test_a_run_given_twice_counts_once(tmp_path, monkeypatch):
    folders.write(tmp_path / "trunk", "constant", folders.TRUNK)
    monkeypatch.chdir(tmp_path)
    found = _compare("trunk", tmp_path / "trunk", "./trunk/../trunk")
    assert found.rows[0].losses[100] == Loss(3.0, 0.0, 1)
    assert list(found.names.values()) == ["trunk"]


def test_the_trunk_of_a_branch_need_not_be_there(tmp_path):
    losses = {100: {"raw": 2.0}}
    found = _compare(
        folders.write(tmp_path / "a", "cooldown", losses, trunk=tmp_path / "gone"),
        folders.write(tmp_path / "other", "constant", folders.TRUNK),
    )
    assert [(row.group, row.name) for row in found.rows][-1] == (
        "off gone",
        "cooldown 20%",
    )


def test_trunks_of_one_schedule_are_told_apart_by_their_folders(tmp_path):
    write = folders.write
    found = _compare(
        write(tmp_path / "a", "constant", folders.TRUNK),
        write(tmp_path / "b", "constant", folders.TRUNK, peak=0.02),
        write(tmp_path / "c", "inverse_sqrt", folders.TRUNK),
        write(tmp_path / "d", "cooldown", {100: {"raw": 2.0}}, trunk=tmp_path / "b"),
    )
    groups = {row.group: row.name for row in found.rows}
    assert groups == {
        "constant (a)": "uniform",
        "constant (b)": "cooldown 20%",
        "inverse_sqrt": "uniform",
    }


def test_cooldowns_of_other_lengths_and_shapes_are_other_exits(tmp_path):
    def cooldown(name, step, **changes):
        losses = {step: {"raw": 2.0}}
        folder = tmp_path / name
        return folders.write(folder, "cooldown", losses, trunk="t", **changes)

    short = cooldown("short", 100, branch__step=90, schedule__steps=10)
    found = _compare(cooldown("a", 100), cooldown("b", 200), short)
    assert {row.name: list(row.losses) for row in found.rows} == {
        "cooldown 20%": [100, 200],
        "cooldown 10%": [100],
    }
    square = cooldown("square", 100, schedule__shape={"name": "power", "exponent": 2})
    found = _compare(tmp_path / "a", square)
    assert [row.name for row in found.rows] == [
        "cooldown 20% 1-sqrt to 0",
        "cooldown 20% power 2 to 0",
    ]


def test_merges_are_exits_of_their_trunk(tmp_path):
    names = folders.write_all(tmp_path)
    wsm, half = dict(name="from_decay", shape="1-sqrt"), dict(span=50)
    window = dict(name="window", start=160, stop=200)
    merge = folders.write_merge
    names += [
        merge(tmp_path / "a", names[0], wsm, 2.5, step=100, **half),
        merge(tmp_path / "b", names[0], wsm, 2.25, step=198, span=99),
        merge(tmp_path / "c", names[0], wsm, 1.625, span=200),
        merge(tmp_path / "d", names[0], wsm, 1.875, span=100),
        merge(tmp_path / "e", names[0], window, 2.0, step=200, span=40),
        merge(tmp_path / "f", tmp_path / "gone", wsm, 2.0, span=200),
    ]
    found = _compare(*names)
    assert [(row.group, row.name, row.role) for row in found.rows] == [
        ("constant", "raw", "trunk"),
        ("constant", "ema25", "trunk"),
        ("constant", "uniform", "trunk"),
        ("constant", "from_decay 1-sqrt, last 50%", "merge"),
        ("constant", "from_decay 1-sqrt, last 25%", "merge"),
        ("constant", "window 20%", "merge"),
        ("constant", "cooldown 20%", "branch"),
        ("off gone", "from_decay 1-sqrt, last 50%", "merge"),
        ("fixed horizon", "cosine", "fixed"),
    ]
    row = found.rows[3]
    assert _means(row) == {100: 2.5, 200: 2.25, 400: 1.625}
    assert found.regrets(row) == {100: -0.125, 200: 0.0, 400: -0.125}
    assert found.worst_regret(row) == 0.0
    assert found.best_overall(cooldown=False) is row
    assert found.best(200).name == "window 20%"


def test_seeds_of_a_merge_are_one_row(tmp_path):
    uniform, names = dict(name="uniform"), []
    for seed, loss in enumerate((2.0, 2.25)):
        trunk = tmp_path / f"{seed}" / "trunk"
        names.append(folders.write(trunk, "constant", folders.TRUNK, seed=seed))
        out = tmp_path / f"{seed}" / "merge"
        names.append(folders.write_merge(out, trunk, uniform, loss, seed=seed))
    merged = [row for row in _compare(*names).rows if row.role == "merge"]
    assert [row.losses for row in merged] == [{400: Loss(2.125, 0.125, 2)}]


def test_merges_of_other_snapshots_at_one_horizon_are_other_exits(tmp_path):
    trunk = folders.write(tmp_path / "trunk", "constant", folders.TRUNK)

    def merge(name, **arguments):
        recipe = dict(name="linear")
        return folders.write_merge(tmp_path / name, trunk, recipe, 2.0, **arguments)

    coarse = merge("coarse", every=40, span=80)
    names = [trunk, coarse, merge("other", step=200, every=20, span=40)]
    # Snapshots at the same share of another horizon are further from each other.
    [row] = [row for row in _compare(*names).rows if row.role == "merge"]
    assert (row.name, list(row.losses)) == ("linear, last 20%", [200, 400])
    found = _compare(*names, merge("fine", every=20, span=80))
    assert {
        row.name: list(row.losses) for row in found.rows if row.role == "merge"
    } == {
        "linear, last 20%, every 40": [400],
        "linear, last 20%, every 20": [200, 400],
    }


@pytest.mark.parametrize(
    ("tokens_per_step", "non_embedding", "step", "name"),
    [
        (100, 500, 100, "1x"),
        (100, 500, 50, "0.5x"),
        (100, 500, 125, "1.25x"),
        (100, 500, 1600, "16x"),
        (100, 500, 101, "101 steps"),
        (100, 500, 10, "10 steps"),
        (100, 500, 12345, "12,345 steps"),
        (1024, 24800, 484, "1x"),  # 484.4 steps
        (1024, 24800, 485, "485 steps"),
        (1024, 24800, 3875, "8x"),
    ],
)
def test_horizons_are_named_as_multiples_if_they_are(
    tmp_path, tokens_per_step, non_embedding, step, name
):
    folder = folders.write(
        tmp_path / "run",
        "cosine",
        {step: {"raw": 2.0}},
        resolved__tokens_per_step=tokens_per_step,
        resolved__parameters={"non_embedding": non_embedding},
    )
    assert _compare(folder).horizons == {step: name}


def test_nothing_cannot_be_compared():
    with pytest.raises(ValueError, match=r"runs=\[\] must hold at least one run"):
        comparison.compare([])


def _cooldown(folder, trunk, losses, choice="restart", specs=None, **changes):
    averages = {name: {"name": "uniform"} for name in losses if name != "raw"}
    changes["averages"] = averages if specs is None else specs
    changes["branch__averages"] = choice
    return folders.write(folder, "cooldown", {100: losses}, trunk=trunk, **changes)


def test_branches_that_differ_in_what_they_average_are_one_cooldown(tmp_path):
    trunk = folders.write(tmp_path / "trunk", "constant", folders.TRUNK)
    averaged = {"raw": 2.0, "ema25": 1.75}
    names = [
        _cooldown(tmp_path / "a", trunk, {"raw": 2.0}),
        _cooldown(tmp_path / "b", trunk, averaged, "continue"),
        _cooldown(tmp_path / "c", trunk, averaged, "freeze"),
        _cooldown(tmp_path / "d", trunk, {"raw": 2.0}, tracking={"every": 4}),
    ]
    for order in (names, names[::-1]):
        rows = [row for row in _compare(trunk, *order).rows if row.role == "branch"]
        assert [(row.name, row.weights) for row in rows] == [
            ("cooldown 20%", "raw"),
            ("cooldown 20%, ema25", "ema25"),
        ]
        assert [row.losses for row in rows] == [
            {100: Loss(2.0, 0.0, 1)},
            {100: Loss(1.75, 0.0, 1)},
        ]
        [run] = rows[0].runs
        assert str(run.folder) == order[0]
        assert str(rows[1].runs[0].folder) == names[1]


def test_averages_of_cooldowns_that_are_not_the_same_are_told_apart(tmp_path):
    trunk = folders.write(tmp_path / "trunk", "constant", folders.TRUNK)
    ema, tail = {"raw": 2.0, "ema25": 1.75}, dict(name="tail", start=90)
    names = [
        _cooldown(tmp_path / "a", trunk, ema),
        _cooldown(tmp_path / "b", trunk, ema | {"ema25": 1.5}, "continue"),
        _cooldown(tmp_path / "c", trunk, ema, specs={"ema25": tail}),
        _cooldown(tmp_path / "d", trunk, {"raw": 2.0, "late": 1.0}, "continue"),
    ]
    rows = [row for row in _compare(trunk, *names).rows if row.role == "branch"]
    assert {row.name: _means(row)[100] for row in rows} == {
        "cooldown 20%": 2.0,
        "cooldown 20%, ema25 (a)": 1.75,
        "cooldown 20%, ema25 (b)": 1.5,
        "cooldown 20%, ema25 (c)": 1.75,
        "cooldown 20%, late": 1.0,
    }


def test_seeds_of_an_average_of_a_cooldown_are_one_row(tmp_path):
    names = []
    for seed, loss in enumerate((1.5, 2.0)):
        trunk = tmp_path / f"{seed}" / "trunk"
        names.append(folders.write(trunk, "constant", folders.TRUNK, seed=seed))
        losses = {"raw": 2.0 + loss, "ema25": loss}
        branch = tmp_path / f"{seed}" / "exit"
        names.append(_cooldown(branch, trunk, losses, "continue", seed=seed))
    losses = {row.name: row.losses for row in _compare(*names).rows}
    assert losses["cooldown 20%"] == {100: Loss(3.75, 0.25, 2)}
    assert losses["cooldown 20%, ema25"] == {100: Loss(1.75, 0.25, 2)}


def test_merges_that_no_label_tells_apart_are_told_apart_by_folder(tmp_path):
    trunk = folders.write(tmp_path / "trunk", "constant", folders.TRUNK)
    target = dict(name="synthesize", target="uniform")
    names = [
        folders.write_merge(tmp_path / name, trunk, target | extra, loss)
        for name, extra, loss in (("a", {}, 2.0), ("b", dict(limit=1), 2.5))
    ]
    rows = [row for row in _compare(trunk, *names).rows if row.role == "merge"]
    assert {row.name: row.losses[400] for row in rows} == {
        "synthesize uniform (a)": Loss(2.0, 0.0, 1),
        "synthesize uniform (b)": Loss(2.5, 0.0, 1),
    }
