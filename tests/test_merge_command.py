"""The verbs merge, evaluate and kernel: what they print, write and refuse."""

import functools

import jax
import numpy as np
import pytest

from anytime_jax import averaging, data, training
from anytime_jax.averaging import merging
from anytime_jax.commands import kernel, main
from anytime_jax.reporting import memory
from anytime_jax.training import (
    config_file,
    metrics,
    recipe,
    snapshots,
    state,
    store,
    stored,
)
from tests import small

STEPS = (4, 8, 12)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The folder of a run that was never trained: weights of step, on one device."""
    folder = tmp_path_factory.mktemp("runs") / "trunk"
    config = small.config()
    built = recipe.build(config)
    first = state.init(built.model, built.optimizer, 0)
    dataset = data.load(**config.data, sequence_length=config.sequence_length)
    resolved = built.resolved() | {"data": dataset.description}
    config_file.write(config, resolved, folder)
    opened = store.Store(folder, keeps=lambda step: True)
    for step in STEPS:
        _, averages = averaging.detach(first.optimizer)
        averages = {
            name: average._replace(count=np.int32(step))
            for name, average in averages.items()
        }
        scaled = jax.tree.map(
            functools.partial(np.multiply, np.float32(step)), first.params
        )
        optimizer = averaging.attach(first.optimizer, averages)
        current = state.TrainState(np.int32(step), scaled, optimizer)
        opened.save(current, step, dict(sequences=step * 8))
        opened.wait()
    opened.close()
    return folder


def _table(workdir, step):
    like = snapshots.weights_like(
        workdir, step, "raw", jax.sharding.SingleDeviceSharding(jax.devices()[0])
    )
    weights = snapshots.restore_weights(workdir, step, "raw", like)
    return np.asarray(jax.tree.leaves(weights)[0])


def _fails(capsys, *arguments):
    assert main.main([*map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    return line.removeprefix("anytime_jax: ")


def test_merge_writes_a_folder_that_evaluate_reads(workdir, tmp_path, capsys):
    out = tmp_path / "new" / "merged"
    recipe_given = "--recipe=from_decay:shape=power,shape.exponent=2"
    # shape= and shape.exponent= are two forms of one argument
    assert "'shape.exponent=2' must be KEY=VALUE" in _fails(
        capsys, "merge", workdir, recipe_given, f"--out={out}"
    )
    recipe_given = "--recipe=from_decay:shape.name=power,shape.exponent=2.0"
    assert main.main(["merge", str(workdir), recipe_given, f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    coefficients = merging.from_decay(lambda x: (1 - x) ** 2, 3)
    for step, coefficient in zip(STEPS, coefficients, strict=True):
        assert f"{step:>10}  raw              {coefficient:+.6g}" in printed
    age = coefficients @ (12 - np.array(STEPS))
    assert f"mean age          {age:,.1f} updates" in printed
    assert printed.endswith(f"\nWrote step 12 to {out}\n")
    exact = sum(
        coefficient * np.float64(_table(workdir, step))
        for step, coefficient in zip(STEPS, coefficients, strict=True)
    )
    np.testing.assert_allclose(_table(out, 12), exact, rtol=1e-6)

    assert main.main(["evaluate", str(out)]) == 0
    first, line = capsys.readouterr().out.splitlines()
    assert first == f"{out}, step 12, loss in nats/token"
    assert line == f"{'raw':<16} {training.evaluate(out)['raw']:.4f}"

    assert main.main(["kernel", str(out)]) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row[:3] == ["from_decay", "12", f"{age:,.1f}"]


def test_an_evaluated_merge_is_in_the_report(workdir, tmp_path, capsys):
    out = tmp_path / "merged"
    arguments = ["merge", str(workdir), "--recipe=uniform", f"--out={out}"]
    assert main.main([*arguments, "--evaluate"]) == 0
    printed = capsys.readouterr().out
    exact = training.evaluate(out)["raw"]
    loss = f"{exact:.4f}"
    expected = f"\n\nloss              {loss} nats/token\nWrote step 12 to {out}\n"
    assert printed.endswith(expected)
    assert metrics.read(out) == [{"step": 12, "horizon/loss/raw": exact}]
    report = tmp_path / "report.md"
    assert main.main(["report", str(out), f"--out={report}"]) == 0
    group, row = capsys.readouterr().out.splitlines()[1:3]
    assert group == f"off {workdir.name}"
    assert row.split() == ["uniform,", "last", "100%", f"{loss}*"]
    assert "uniform, last 100%" in report.read_text()
    assert "exists; a merge is written to a new" in _fails(
        capsys, *arguments, "--evaluate"
    )


@pytest.mark.parametrize("at", ["save_weights", "evaluate"])
def test_an_interruption_leaves_nothing_and_can_be_tried_again(
    workdir, tmp_path, monkeypatch, at
):
    plan = training.merging.plan(workdir, dict(name="uniform"))
    out = tmp_path / "m"
    monkeypatch.setattr(stored, "evaluate", lambda *_: {"raw": 2.0})
    module = dict(save_weights=store, evaluate=stored)[at]
    original = getattr(module, at)

    def interrupted(*arguments):
        original(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(module, at, interrupted)
        training.merging.write(plan, out, evaluate=True)
    assert list(tmp_path.iterdir()) == []
    # A process that was killed has no time to tidy up.
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(module, at, interrupted)
        broken.setattr(training.merging.shutil, "rmtree", lambda *_, **__: None)
        training.merging.write(plan, out, evaluate=True)
    assert [path.name for path in tmp_path.iterdir()] == [".m.partial"]
    assert training.merging.write(plan, out, evaluate=True) == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert snapshots.stored_steps(out) == [12]
    assert metrics.read(out) == [{"step": 12, "horizon/loss/raw": 2.0}]


def test_a_merge_without_a_loss_is_not_in_a_report(workdir, tmp_path, capsys):
    out = tmp_path / "merged"
    arguments = [str(workdir), "--recipe=uniform", f"--out={out}"]
    assert main.main(["merge", *arguments]) == 0
    capsys.readouterr()
    message = _fails(capsys, "report", out, f"--out={tmp_path / 'report.md'}")
    assert message == "merged is a merge without a loss: make it with --evaluate"


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        ([], (4, 8, 12)),
        (["--latest=2"], (8, 12)),
        (["--start=4", "--stop=8"], (8,)),
        (["--every=8"], (8,)),
        (["--steps=4,12"], (4, 12)),
    ],
)
def test_merge_chooses_steps(workdir, tmp_path, capsys, flags, steps):
    out = tmp_path / "merged"
    arguments = [str(workdir), "--recipe=uniform", f"--out={out}", *flags]
    assert main.main(["merge", *arguments, "--average=uniform"]) == 0
    capsys.readouterr()
    assert snapshots.stored_steps(out) == [steps[-1]]
    merge = snapshots.read_meta(out, steps[-1])["merge"]
    sources = training.merging.sources_of(merge)
    assert tuple(source.step for source in sources) == steps
    assert {source.weights for source in sources} == {"uniform"}


def test_merge_tells_how_good_a_synthesis_is(workdir, tmp_path, capsys):
    target = "target.name=age_ema,target.divisor=25"
    arguments = [str(workdir), f"--recipe=synthesize:{target}", "--stop=8"]
    assert main.main(["merge", *arguments, f"--out={tmp_path / 'merged'}"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n{key}" in printed for key in ("error", "condition", "amplification"))
    # What is only rounding is not read, not written and not shown.
    assert printed.count("  ema25 ") == 1
    assert "         8  ema25            +1" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "WORKDIR is given 0 times, not once: the run"),
        (["RUN", "RUN"], "WORKDIR is given 2 times, not once: the run"),
        (["RUN", "--out=OUT"], "--recipe=NAME is missing"),
        (["RUN", "--recipe=uniform"], "--out=DIR is missing"),
        (
            ["RUN", "--recipe=uniform", "--out=RUN"],
            "exists; a merge is written to a new",
        ),
        (["RUN", "--recipe=mean", "--out=OUT"], "recipe.name='mean' is unknown; known"),
        (["RUN", "--recipe=ema:alpha", "--out=OUT"], "'alpha' must be KEY=VALUE, each"),
        (["RUN", "--recipe=ema:alpha=2", "--out=OUT"], "alpha=2 must be in (0, 1]"),
        (["RUN", "--recipe=ema:alpha=a", "--out=OUT"], "alpha='a' must be in (0, 1]"),
        (
            ["RUN", "--recipe=uniform", "--out=OUT", "--steps=5"],
            "no snapshot of step 5;",
        ),
        (
            ["RUN", "--recipe=uniform", "--out=OUT", "--steps=x"],
            "--steps=x must be ste",
        ),
        (["RUN", "--recipe=uniform", "--out=OUT", "--every=0"], "--every=0 must be at"),
        (
            ["RUN", "--recipe=uniform", "--out=OUT", "--steps=4", "--latest=1"],
            "--steps and --latest exclude each other",
        ),
        (
            ["RUN", "--recipe=window:start=4,stop=8", "--out=OUT", "--latest=2"],
            "steps=8, 12 are not for window, which has a start and a stop",
        ),
        (
            ["RUN", "--recipe=window:start=4,stop=8", "--out=OUT", "--average=ema25"],
            "average='ema25' is not for window, which takes the averages it needs",
        ),
        (
            ["RUN", "--recipe=uniform:alpha=3", "--out=OUT"],
            "of uniform; known are none",
        ),
        (
            ["RUN", "--recipe=uniform", "--out=OUT", "--latest=9"],
            "latest=9 must be at most 3, which is what there is of",
        ),
        (
            ["RUN", "--recipe=uniform", "--out=OUT", "--average=em"],
            "no weights em; it h",
        ),
        (["NONE", "--recipe=uniform", "--out=OUT"], "holds no run"),
        (["RUN", "--recipe=uniform", "--out=FILE/out"], "cannot be written: "),
        (
            ["RUN", "--recipe=given:coefficients=1:1:1", "--out=OUT"],
            "sum to 1, not 3.0",
        ),
        (["RUN", "--recipe=given:coefficients=1", "--out=OUT"], "must be 3 numbers"),
        (
            ["RUN", "--recipe=given:coefficients=a:b:c", "--out=OUT"],
            "must be 3 numbers",
        ),
        (
            ["RUN", "--recipe=window:start=a,stop=8", "--out=OUT"],
            "no snapshot of step 'a'",
        ),
        (
            ["RUN", "--recipe=window:start=8,stop=4", "--out=OUT"],
            "stop=4 must be above",
        ),
        (
            ["RUN", "--recipe=synthesize:target=mean", "--out=OUT"],
            "target.name='mean' is",
        ),
        (
            ["RUN", "--recipe=synthesize:target=5", "--out=OUT"],
            "target=5 must be dict(",
        ),
        (["RUN", "--color=red"], "Unknown command line flag 'color'"),
    ],
)
def test_every_mistake_of_merge_is_one_line(
    workdir, tmp_path, capsys, arguments, message
):
    file, out = tmp_path / "file", tmp_path / "out"
    file.write_text("")
    for name, path in dict(RUN=workdir, OUT=out, FILE=file, NONE=tmp_path).items():
        arguments = [argument.replace(name, str(path)) for argument in arguments]
    assert message in _fails(capsys, "merge", *arguments)
    assert not out.exists()


def test_evaluate_takes_a_step_and_names(workdir, capsys):
    arguments = [str(workdir), "--step=8", "--average=ema25,raw"]
    assert main.main(["evaluate", *arguments]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"{workdir}, step 8, loss in nats/token"
    losses = training.evaluate(workdir, 8)
    assert lines == [f"{name:<16} {losses[name]:.4f}" for name in ("ema25", "raw")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "WORKDIR is given 0 times"),
        (["NONE"], "holds no run"),
        (["RUN", "--step=5"], "has no snapshot of step 5; stored are 4, 8, 12"),
        (["RUN", "--step=five"], "--step=five"),
        (["RUN", "--average=ema1"], "has no weights ema1; it has raw, ema25, uniform"),
    ],
)
def test_every_mistake_of_evaluate_is_one_line(
    workdir, tmp_path, capsys, arguments, message
):
    for name, path in dict(RUN=workdir, NONE=tmp_path).items():
        arguments = [argument.replace(name, str(path)) for argument in arguments]
    assert message in _fails(capsys, "evaluate", *arguments)


def test_kernel_shows_any_average_beside_those_of_a_run(workdir, tmp_path, capsys):
    out = tmp_path / "new" / "kernel.png"
    arguments = [str(workdir), "tail:start=3", "--step=12", f"--out={out}"]
    assert main.main(["kernel", *arguments]) == 0
    printed = capsys.readouterr().out
    header, *rows, _, note, _, last = printed.splitlines()
    names = ["trunk ema25", "trunk uniform", "tail:start=3"]
    assert [row[: len(name)] for row, name in zip(rows, names, strict=True)] == names
    assert header.split()[:3] == ["average", "step", "mean"]
    assert rows[2].removeprefix(names[2]).split() == [
        *("12", "4.0", "33.33%", "9.0", "75.00%", "0.00%"),
        *("33.3%", "66.7%", "100.0%"),
    ]
    assert note.startswith("initial: ")
    assert last == f"Wrote {out}"
    assert out.read_bytes().startswith(b"\x89PNG")


def test_kernel_shows_a_merge_before_it_is_made(workdir, capsys):
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    assert main.main(["kernel", str(workdir), "--recipe=uniform"]) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row[:5] == ["uniform", "12", "4.0", "33.33%", "3.0"]
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "WHAT is missing"),
        (["uniform"], "--step=S is missing: the updates that uniform has seen"),
        (["uniform", "--step=0"], "--step=0"),
        (
            ["mean", "--step=9"],
            "mean is no folder, and as an average: average.name='mean' is unknown",
        ),
        (["power:gamma=-3", "--step=9"], "gamma=-3 must be above -1"),
        (["uniform", "--step=9", "--out=a.pdf"], "--out=a.pdf must end in .png"),
        (["uniform", "--step=9", "--recipe=ema"], "--recipe=ema needs a run"),
        (["uniform", "--step=9", "--out=FILE/a.png"], "a.png cannot be written: "),
        (["NONE"], "holds no run"),
        (["NONE/none"], "holds no run"),
        (["RUN", "--recipe=median"], "recipe.name='median' is unknown"),
    ],
)
def test_every_mistake_of_kernel_is_one_line(
    workdir, tmp_path, capsys, arguments, message
):
    file = tmp_path / "file"
    file.write_text("")
    for name, path in dict(RUN=workdir, FILE=file, NONE=tmp_path).items():
        arguments = [argument.replace(name, str(path)) for argument in arguments]
    assert message in _fails(capsys, "kernel", *arguments)


def test_the_decay_of_a_merge_may_rise_and_fall():
    # Update 3 has been undone: a kernel with a negative coefficient.
    kernel_T1 = np.array([0.0, 0.5, -0.5, 0.0, 1.0])
    row = memory.to_text({"merge": kernel_T1}).splitlines()[1].split()
    assert row == [
        "merge",
        "4",
        "0.5",
        "12.50%",
        "0.7",
        "16.67%",
        "0.00%",
        *["100.0%"] * 3,
    ]


def test_a_text_is_read_into_a_spec():
    parse = kernel.arguments_lib.parse_spec
    assert parse("uniform", "x") == dict(name="uniform")
    assert parse("a:b=1,c=2.5,d=e-f,g=true", "x") == dict(
        name="a", b=1, c=2.5, d="e-f", g=True
    )
    assert parse("a:b.name=c,b.d=1e-3,e=-1:2", "x") == dict(
        name="a", b=dict(name="c", d=1e-3), e=[-1, 2]
    )
