"""The verb plan: what it prints, and one line for every mistake."""

import re
import subprocess
import sys

import jax
import pytest

from anytime_jax.commands import main
from anytime_jax.training import budget, hardware
from configs import anytime_150m

NOWHERE = "--config.data.source=files:/nowhere/*.txt"
EIGHT = ("--devices=8", NOWHERE)


@pytest.fixture(autouse=True, scope="module")
def devices():
    """JAX has started, and has the devices of these tests."""
    return jax.devices()


def printed(capsys, *arguments):
    assert main.main(["plan", *arguments]) == 0
    return capsys.readouterr().out


def rows(text, title):
    """The lines of the table with a title, split at two spaces or more."""
    table = next(part for part in text.split("\n\n") if part.startswith(title))
    return [re.split(r"  +", line.strip()) for line in table.splitlines()[1:]]


def test_a_plan_needs_neither_data_nor_devices(capsys):
    text = printed(
        *(capsys, "--config=configs/anytime_150m.py", "--devices=8", "--no-compile"),
        *("--mesh=2x4x1", "--hardware=v5e", NOWHERE),
    )
    config = anytime_150m.get_config()
    config.mesh.update(data=2, fsdp=4)
    made = budget.Budget(config, jax.devices())
    found, v5e = made.memory(), hardware.HARDWARE["v5e"]

    assert text.startswith("8 devices, data 2 x fsdp 4 x tensor 1\n\nparameters ")
    assert "  151,022,080, and 65,798,144 of the vocabulary\n" in text
    assert (
        f" 262,144, 32,768 on each device\n{'FLOPs a step':<16}3.288e+14, 4.11" in text
    )
    least = made.flops / 8 / v5e.flops
    assert f"at least {1e3 * least:.0f} ms at the 197 bfloat16 TFLOP/s of v5e" in text

    table = {name: size for name, size, *_ in rows(text, "GB on each device  ")[:8]}
    sizes = dict(parameters=found.parameters, averages=sum(found.averages.values()))
    sizes |= dict(state=found.state, activations=found.activations, total=found.total)
    for name, size in sizes.items():
        assert table[name] == f"{size / 1e9:.3f}"
    # 256 rows on 8 devices: attention alone is 800 MB a row.
    assert "does not fit in 16 GB" in text

    [average] = [
        row for row in rows(text, "GB on each device ") if row[0] == "ema25"
    ] or [row for row in rows(text, "MB on each device ") if row[0] == "ema25"]
    moved = made.moved_bytes()["ema25"] / v5e.bandwidth
    assert float(average[3]) == pytest.approx(1e3 * moved, rel=0.01)
    assert average[4] == f"{moved / least:.1%}"
    assert "no mesh fits in 16 GB; the smallest" in text
    assert "train would refuse" not in text


def test_meshes_that_fit(capsys):
    arguments = "--config=configs/tiny.py", "--no-compile", *EIGHT
    text = printed(capsys, *arguments)
    table = rows(text, "meshes that fit in 80 GB, MB on each device")
    assert [row[:3] for row in table[1:8]] == [
        *(["8", "1", "1"], ["4", "2", "1"], ["2", "4", "1"], ["1", "8", "1"]),
        *(["4", "1", "2"], ["2", "2", "2"], ["1", "4", "2"]),
    ]
    assert [row[-1] == "this one" for row in table[1:8]] == [True] + 6 * [False]
    arguments = *arguments, "--memory=0.0022"
    text = printed(capsys, *arguments)
    table = rows(text, "meshes that fit in 0.0022 GB, MB on each device")
    assert [row[:3] for row in table[1:-1]] == [["2", "4", "1"], ["1", "8", "1"]]
    assert table[-1][0].endswith("--config.shard_state=true, with which 2 more fit")
    small = printed(capsys, *arguments, "--config.shard_state=true")
    assert "does not fit" not in small
    table = rows(small, "meshes that fit in 0.0022 GB, MB on each device")
    assert [row[:3] for row in table[1:]] == [
        *(["8", "1", "1"], ["4", "2", "1"], ["2", "4", "1"], ["1", "8", "1"]),
    ]
    assert "shard_state" not in small


def test_a_compiled_plan(capsys, monkeypatch):
    sent = {"all-reduce": (43, 2_500_000), "all-gather": (1200, 1_000)}
    compiled = budget.Compiled(state=500_000, temporaries=9_000_000, sent=sent)
    monkeypatch.setattr(budget.Budget, "compile", lambda self: compiled)
    assert main.main(["plan", "--config=configs/tiny.py:cosine", *EIGHT]) == 0
    text, err = capsys.readouterr()
    assert err == "anytime_jax: compiling the step for 8 simulated devices\n"
    title, *_ = text.split("\n\n")[2].splitlines()
    assert re.split(r"  +", title) == ["MB on each device", "counted", "CPU compiler"]
    table = {row[0]: row[2:] for row in rows(text, "MB on each device")}
    assert table["state"] == ["0.500"] and table["temporaries"] == ["9.000"]
    assert table["total"] == ["9.500", "fits in 80 GB"]
    assert rows(text, "MB sent by each") == [
        ["all-reduce", "2.500", "43"],
        ["all-gather", "0.001", "1,200"],
    ]
    # The cosine run has no averages, and the last table is that of the meshes.
    assert [part.split()[0] for part in text.split("\n\n")[2:]] == [
        "MB",
        "MB",
        "meshes",
    ]


@pytest.mark.parametrize("temporaries", [0, 9_000_000])
def test_what_fits_is_told_by_the_larger_total(capsys, monkeypatch, temporaries):
    compiled = budget.Compiled(state=500_000, temporaries=temporaries, sent={})
    monkeypatch.setattr(budget.Budget, "compile", lambda self: compiled)
    arguments = (capsys, "--config=configs/tiny.py:cosine", *EIGHT)
    [total] = [row for row in rows(printed(*arguments), "MB on") if row[0] == "total"]
    counted, compilers = map(float, total[1:3])
    assert (compilers > counted) == (temporaries > 0)
    for memory in sorted([counted, compilers]):
        text = printed(*arguments, f"--memory={(memory + 0.01) / 1000}")
        [total] = [row for row in rows(text, "MB on") if row[0] == "total"]
        fits = memory == max(counted, compilers)
        assert total[3].startswith("fits in" if fits else "does not fit in")
        assert ("the compiler's is larger" in text) == (temporaries > 0)


def test_what_only_train_would_refuse_is_said_at_the_end(capsys):
    text = printed(
        *(capsys, "--config=configs/tiny.py:cosine", *EIGHT, "--no-compile"),
        "--config.evaluation.batch_size=4",
    )
    assert text.endswith(
        "\n\ntrain would refuse this: evaluation.batch_size=4 must be a multiple of "
        "the 8 devices that mesh.data and mesh.fsdp split it over\n"
    )


def test_averages_on_the_host(capsys):
    text = printed(
        *(capsys, "--config=configs/tiny.py", "--devices=1", "--no-compile", NOWHERE),
        "--config.tracking.memory_kind=pinned_host",
    )
    assert "on the host, and not in the sums" in text
    assert " ms" not in text.split("\n\n")[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--devices=N is missing: how many devices to plan for"),
        (["--devices=0"], "--devices=0: "),
        (["--devices=9"], "--devices=9 must be at most 8, because JAX has started in"),
        (["--devices=8", "--mesh=8x1"], "--mesh=8x1 must be DATAxFSDPxTENSOR, such as"),
        (["--devices=8", "--mesh=4x1x1"], "mesh.data=4, mesh.fsdp=1, mesh.tensor=1 mu"),
        (["--devices=8", "--mesh=1x1x8"], "mesh.tensor=8 must divide the dimension 2 "),
        (["--devices=8", "--memory=0"], "--memory=0.0 must be above 0, in GB"),
        (["--devices=8", "--memory=nan"], "--memory=nan must be above 0, in GB"),
        (["--devices=8", "--hardware=h900"], "value should be one of <a100|h100|v4|v5"),
        (["--devices=8", "--config.seed=-1"], "seed=-1 must "),
        (["--devices=8", "--workdir=runs/x"], "Unknown command line flag 'workdir'"),
        (
            ["--devices=8", "--config.batch_size=4"],
            "batch_size / accumulation=4 must be a multiple of the 8 devices",
        ),
    ],
)
def test_every_mistake_of_plan_is_one_line(capsys, arguments, message):
    assert main.main(["plan", "--config=configs/tiny.py", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert message in line


@pytest.mark.slow
@pytest.mark.parametrize("name", ["anytime_150m", "anytime_300m"])
def test_the_papers_models_on_256_devices(name):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "anytime_jax", "plan"),
            *(f"--config=configs/{name}.py", "--devices=256", "--mesh=32x8x1"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    state = dict((row[0], row) for row in rows(done.stdout, "GB on each device"))[
        "state"
    ]
    assert state[1] == state[2]
    assert {"all-reduce", "all-gather"} <= {
        row[0] for row in rows(done.stdout, "GB sent by each")
    }
