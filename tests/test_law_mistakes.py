"""What the verb law refuses: one line, exit code 2, nothing written."""

import pathlib

import numpy as np
import pytest

from anytime_jax.commands import main
from tests.measured import FAST, fails, write_all

MULTI_POWER = "--law=multi_power:A=0.6,alpha=0.4,B=60,C=1.4,beta=0.6,gamma=0.55"


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with three curves, a run, and a law: law.json."""
    folder = tmp_path_factory.mktemp("given")
    arguments = [*map(str, write_all(folder)), MULTI_POWER]
    assert main.main(["law", "fit", *arguments, f"--out={folder / 'law.json'}"]) == 0
    return folder


def files(folder):
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size)
        for path in pathlib.Path(folder).rglob("*")
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "law '' is not known; after law comes one of fit, predict, best-schedule"),
        (["fti"], "law 'fti' is not known; after law comes one of fit, predict, best-"),
        (["fit", "--out=OUT.json"], "CURVES is missing: csv or npz files, or folders"),
        (["fit", "CSV"], "--out=FILE.json is missing: the law to write"),
        (["fit", "CSV", "--out=OUT.csv"], "OUT.csv must end in .json"),
        (["fit", "CSV", "--out=OUT.json", "--plot=a.pdf"], "a.pdf must end in .png"),
        (
            ["fit", "CSV", "--color=1"],
            "Unknown command line flag 'color'; see pyth",
        ),
        (
            ["fit", "CSV", "--out=OUT.json", "--law=cubic"],
            "--law=cubic: 'cubic' is unknown; known are annealing, forward_momentum, "
            "functional_scaling, multi_power, simple",
        ),
        (
            ["fit", "CSV", "--out=OUT.json", "--law=simple:B=-1"],
            "--law=simple:B=-1: B=-1 must be a number above 0",
        ),
        (
            ["fit", "CSV", "--out=OUT.json", f"{FAST},L0=2"],
            "--law=simple:A=0.6,alpha=0.4,B=20,L0=2 must leave a parameter to be fit",
        ),
        (
            ["fit", "CSV", "--out=OUT.json", "--law=simple:b=1"],
            "b must be a field of SimpleLaw: L0, A, alpha, B",
        ),
        (
            ["fit", "CSV", "--out=OUT.json", "--law=annealing:warmup=none"],
            "warmup='none' must be one of ramp, constant",
        ),
        (
            ["fit", "CSV", "--out=OUT.json", "--law=forward_momentum:every=x"],
            "every='x' must be",
        ),
        (
            ["fit", "CSV", "--out=OUT.json", "--law=simple:procedure=converged"],
            "procedure must be a field of SimpleLaw: L0, A, alpha, B",
        ),
        (
            ["fit", "CSV", "--out=OUT.json", "--procedure=best"],
            "procedure='best' must be one of",
        ),
        (
            [
                "fit",
                "CSV",
                "--out=OUT.json",
                "--law=functional_scaling",
                "--procedure=published",
            ],
            "procedure='published' must be 'converged' or 'regularised' for Functional",
        ),
        (["fit", "NONE.csv", "--out=OUT.json"], "NONE.csv' must be a csv file that ex"),
        (
            ["fit", "NONE.npz", "--out=OUT.json"],
            "NONE.npz must be a csv or npz file, a",
        ),
        (["fit", "NONE", "--out=OUT.json"], "NONE must be a csv or npz file, a run's"),
        (["fit", "FOLDER", "--out=OUT.json"], "holds no run: there is no"),
        (["fit", "BAD.npz", "--out=OUT.json"], "BAD.npz: "),
        (["fit", "BAD.csv", "--out=OUT.json"], "must have rows with a column 'step'"),
        (["fit", "EMPTY.npz", "--out=OUT.json"], "EMPTY.npz has no curves, arrays NAM"),
        (["fit", "HALF.npz", "--out=OUT.json"], "HALF.npz has no array a_step; it has"),
        (["fit", "NOTHING.npz", "--out=OUT.json"], "a: steps of shape (0,) and type"),
        (["fit", "BLANK.npz", "--out=OUT.json"], "BLANK.npz: No data left in file"),
        (
            ["fit", "LONG.csv", "--out=OUT.json"],
            "LONG: steps[1]=1e+15 must be an integer, at most 100,000,000: updates",
        ),
        (
            ["fit", "NAMES.csv", "--out=OUT.json"],
            "must have rows with a column 'step'; it has Step, LR, loss",
        ),
        (
            ["fit", "CSV", "--out=OUT.json", "--ridge=inf"],
            "ridge=inf must be a finite number >= 0",
        ),
        (["fit", "RUN", "--out=OUT.json", "--key=loss"], "key='loss' is not in"),
        (["fit", "CSV", "CSV", "--out=OUT.json"], "low.csv more than once"),
        (
            ["fit", "CSV", "--begin=5000", "--out=OUT.json"],
            "low: --begin, step 5000, must be at most its last recorded step, 1980",
        ),
        (["fit", "CSV", "--begin=-1", "--out=OUT.json"], "--begin=-1"),
        (
            ["fit", "ZERO.csv", "--begin=0", "--out=OUT.json"],
            "ZERO: the rate is 0 up to step 0, and --begin must be a step after a rate",
        ),
        (
            ["fit", "RUN", "--warmup_steps=5", "--out=OUT.json"],
            "--warmup_steps=5 is for csv and npz files; a run has its own in config",
        ),
        (
            ["fit", "CSV", "--warmup_steps=5", "--out=OUT.json"],
            "low: warmup_steps=5 must be from 0 to the first row's step, 0",
        ),
        (["fit", "CYCLE.csv", "--out=OUT.json"], "do not rise after their warmup"),
        (["fit", "CSV", FAST, "--out=BAD.csv/l.json"], "cannot be written: "),
        (["predict"], "FILE.json is missing: the law, which law fit writes"),
        (["predict", "LAW"], "one of --schedule=SPEC and CURVES must be given, not bo"),
        (["predict", "LAW", "CSV", "--schedule=constant"], "must be given, not both"),
        (["predict", "NONE", "CSV"], "there is no file "),
        (["predict", "BAD.csv", "CSV"], "BAD.csv is not what law fit writes: JSON"),
        (["predict", "LIST.json", "CSV"], "LIST.json is not what law fit writes: Type"),
        (["predict", "LAW", "CSV", "--steps=9"], "--steps=9 is for --schedule"),
        (
            ["predict", "LAW", "--schedule=constant:peak=1", "--begin=9"],
            "--begin=9 is for CURVES",
        ),
        (
            ["predict", "LAW", "--schedule=constant:peak=1"],
            "--steps=N is missing: the length of a run with constant:peak=1",
        ),
        (
            ["predict", "LAW", "--schedule=cosine:peak=1,total_steps=1e3"],
            "total_steps=1000.0 must be an integer from 1 to 100000000",
        ),
        (
            ["predict", "LAW", "--schedule=cosin:peak=1", "--steps=9"],
            "--schedule=cosin:peak=1: schedule.name='cosin' is unknown; known are con",
        ),
        (
            ["predict", "LAW", "--schedule=cosine:peak", "--steps=9"],
            "--schedule=cosine:peak: 'peak' must be KEY=VALUE",
        ),
        (
            ["predict", "LAW", "--schedule=cosine:peak=a", "--steps=9"],
            "--schedule=cosine:peak=a: schedule 'cosine': peak='a' must be",
        ),
        (
            ["predict", "LAW", "--schedule=cosine:peak=1", "--steps=1000000000"],
            "--steps=1000000000",
        ),
        (
            ["predict", "LAW", "--schedule=constant:peak=0", "--steps=9"],
            "must be a step after a rate above 0",
        ),
        (["predict", "LAW", "CYCLE.csv"], "do not rise after their warmup"),
        (["predict", "LAW", "CSV", "--average=mean"], "average.name='mean' is unknown"),
        (
            ["predict", "LAW", "CSV", "--average=uniform", "--average=uniform"],
            "--average=uniform is given more than once",
        ),
        (["predict", "LAW", "CSV", "--out=CSV"], "low.csv is one of CURVES"),
        (["predict", "LAW", "CSV", "--out=a.png"], "--out=a.png must end in .csv"),
        (["predict", "LAW", "CSV", "--plot=PLOTS.png"], "PLOTS.png is a folder"),
        (["best-schedule"], "FILE.json is given 0 times, not once: the law"),
        (["best-schedule", "LAW", "--steps=9"], "--peak=P is missing"),
        (["best-schedule", "LAW", "--peak=1"], "--steps=N is missing"),
        (
            ["best-schedule", "LAW", "--peak=0", "--steps=9"],
            "peak=0.0 must be a finite number > 0",
        ),
        (
            ["best-schedule", "LAW", "--peak=1", "--steps=9", "--floor=2"],
            "floor=2.0 must be in [0, peak=1.0)",
        ),
        (
            ["best-schedule", "LAW", "--peak=1", "--steps=9", "--warmup_steps=8"],
            "warmup_steps=8 must be at most steps - 2 = 7",
        ),
        (
            ["best-schedule", "LAW", "--peak=1", "--steps=9", "--out=LAW"],
            "law.json is the law itself",
        ),
        (
            ["best-schedule", "LAW", "--peak=1", "--steps=9", "--out=a.txt"],
            "--out=a.txt must end in .json or .csv",
        ),
    ],
)
def test_every_mistake_is_one_line(given, tmp_path, capsys, arguments, message):
    (tmp_path / "BAD.csv").write_text("not a curve\n")
    (tmp_path / "BAD.npz").write_text("not an archive\n")
    (tmp_path / "LIST.json").write_text("[1]\n")
    np.savez(tmp_path / "EMPTY.npz", a=np.ones(2))
    np.savez(tmp_path / "HALF.npz", a_loss=np.ones(2), a_lr=np.ones(2))
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "PLOTS.png").mkdir()
    np.savez(tmp_path / "NOTHING.npz", **{f"a_{k}": [] for k in ("step", "lr", "loss")})
    (tmp_path / "BLANK.npz").write_bytes(b"")
    (tmp_path / "LONG.csv").write_text("step,lr,loss\n0,0.1,3\n1e15,0.1,2\n")
    (tmp_path / "NAMES.csv").write_text("Step,LR,loss\n0,0.1,3\n")
    cyclic = "".join(f"{s},{0.1 + 0.05 * (s % 3)},{9 - s / 9}\n" for s in range(9))
    (tmp_path / "CYCLE.csv").write_text(f"step,lr,loss\n{cyclic}")
    (tmp_path / "ZERO.csv").write_text("step,lr,loss\n0,0,9\n1,0.1,8\n2,0.1,7\n")
    places = dict(LAW=given / "law.json", RUN=given / "trunk", CSV=given / "low.csv")
    names = ("BAD", "LIST", "EMPTY", "HALF", "FOLDER", "PLOTS", "CYCLE", "ZERO")
    names += ("NONE", "OUT", "NOTHING", "BLANK", "LONG", "NAMES")
    for name in names:
        arguments = [one.replace(name, str(tmp_path / name)) for one in arguments]
    for name, path in places.items():
        parts = [one.split("=") for one in arguments]
        arguments = [
            "=".join(str(path) if p == name else p for p in one) for one in parts
        ]
    before = files(tmp_path) | files(given)
    assert message in fails(capsys, *arguments)
    assert files(tmp_path) | files(given) == before
