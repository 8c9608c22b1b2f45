"""The verb train: its flags, its overrides, its exit codes."""

import jax
import pytest

from anytime_jax import training
from anytime_jax.commands import main, train
from anytime_jax.training import hosts, lock
from benchmarks import processes

CONFIG = "configs/tiny.py"


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the verb in a folder of its own up to the training, which is left out."""
    prepared = []
    monkeypatch.setattr(training, "run", lambda one, profile: prepared.append(one))

    def run(*arguments, workdir=tmp_path / "run"):
        prepared.clear()
        small = ["--config.data.source=synthetic", "--config.evaluation.batch_size=16"]
        code = main.main(
            ["train", f"--config={CONFIG}", f"--workdir={workdir}", *small, *arguments]
        )
        assert not workdir.exists()
        return code, *prepared

    return run


def test_a_run_is_prepared_from_the_file_and_the_overrides(command, tmp_path):
    code, prepared = command(
        "--config.averages.ema25.divisor=12",
        "--config.horizons.chinchilla=1,2",
        "--config.model.remat=true",
        "--config.schedule.peak=1e-3",
        "--config.optimizer.name=adamw",
    )
    config = prepared.config
    assert (code, prepared.workdir) == (0, str(tmp_path / "run"))
    assert config.averages.ema25.to_dict() == dict(name="age_ema", divisor=12.0)
    assert config.horizons.chinchilla == (1.0, 2.0)
    assert config.model.remat is True
    assert config.schedule.peak == 1e-3
    assert config.optimizer.name == "adamw"
    assert config.is_locked


def test_a_variant_and_flags_of_absl():
    arguments = [f"--config={CONFIG}:cosine", "--distributed", "--workdir=a=b"]
    given = train.parse([*arguments, "--changed_data"])
    assert given.config.schedule.name == "cosine"
    assert (given.workdir, given.distributed) == ("a=b", True)
    assert given.changed_data
    given = train.parse(arguments[::2])
    assert not (given.distributed or given.changed_data or given.profile)


def test_help_tells_the_usage(capsys):
    assert main.main(["train", "--help"]) == 0
    usage = "usage: python -m anytime_jax train --config=FILE[:VARIANT] --workdir=DIR"
    assert capsys.readouterr().out.startswith(usage)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "--config.sede=1",
            "--config.sede is unknown; config has accumulation, averages, batch_size",
        ),
        ("-config.sede=1", "--config.sede is unknown; config has accumulation"),
        (
            "--config.model.depth=3",
            "--config.model.depth is unknown; config.model has compute_dtype, heads",
        ),
        ("--config.seed.x=3", "unknown; config.seed has no keys, it is a value"),
        ("--config.seed=one", "--config.seed=one must be of type int, such as 0"),
        ("--config.batch_size=8.5", "batch_size=8.5 must be of type int, such as 16"),
        ("--config.clip_norm=big", "clip_norm=big must be of type float, such as 1.0"),
        ("--config.model.remat=maybe", "model.remat=maybe must be true or false"),
        ("--config.averages=5", "--config.averages=5: "),
        ("--config.seed", "--config.seed has no value; write --config.seed=VALUE"),
        ("--config.seed=-1", "seed=-1 must be a whole number from 0 to 4294967295"),
        ("--config.duration.chinchilla=inf", "duration.chinchilla=inf must be a fini"),
        (
            "--config.model.vocab_size=8",
            "model.vocab_size=8 must be at least the 16 of",
        ),
        (
            "--config.evaluation.horizon_batches=1000",
            "must be at most the 2047 sequenc",
        ),
        ("--distributed=perhaps", "--distributed=perhaps: "),
        ("--coordinator=a:1", "are given together; --processes is missing"),
        ("--process=1", "are given together; --coordinator is missing"),
        ("--heartbeat=0", "--heartbeat=0 must be at least 1 second"),
        ("--wrokdir=x", "Unknown command line flag 'wrokdir'"),
        ("runs/trunk", "argument 'runs/trunk' is unknown; all arguments start with --"),
        ("--workdir=", "--workdir=DIR is missing: the folder for the run"),
        (f"--config={CONFIG}", "--config=FILE[:VARIANT] is given 2 times, not once"),
    ],
)
def test_every_mistake_is_one_line_and_nothing_is_written(
    command, capsys, argument, message
):
    assert command(argument) == (2,)
    out, err = capsys.readouterr()
    assert err.startswith("anytime_jax: ")
    assert err.count("\n") == 1
    assert message in err
    assert out == ""


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            "configs/missing.py",
            "--config=configs/missing.py: there is no file configs/",
        ),
        ("configs", "--config=configs: there is no file configs"),
        (f"{CONFIG}:cosinus", "'cosinus' of configs/tiny.py is unknown; known are con"),
        ("setup.cfg", "--config=setup.cfg: setup.cfg is no Python file"),
        ("setup_like.py", "has no function get_config"),
    ],
)
def test_every_mistake_in_the_file(tmp_path, capsys, config, message):
    if config == "setup_like.py":
        config = tmp_path / config
        config.write_text("x = 1\n")
    assert main.main(["train", f"--config={config}", f"--workdir={tmp_path}/run"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_without_a_config(capsys):
    assert main.main(["train", "--workdir=x"]) == 2
    assert "--config=FILE[:VARIANT] is given 0 times" in capsys.readouterr().err


EARLY_ENDS = [
    (FloatingPointError("step 8 has loss nan"), 1, "step 8 has loss nan"),
    (
        training.Preempted("stopped by SIGTERM after step 8"),
        143,
        "stopped by SIGTERM",
    ),
    (
        training.Preempted("stopped by SIGINT after step 8", 2),
        130,
        "stopped by SIGINT",
    ),
    (lock.InUse("workdir=a is in use"), 2, "workdir=a is in use"),
    (OSError(28, "No space left on device", "a/b"), 1, "a/b: No space left on device"),
    (OSError("a/snapshots: no room for 1 GB"), 1, "a/snapshots: no room for 1 GB"),
    (
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nof 4 GB"),
        1,
        "a device has too little memory (RESOURCE_EXHAUSTED: Out of memory): python -m",
    ),
]


@pytest.fixture
def ending(command, monkeypatch):
    """Runs the verb with a training that ends in an error."""

    def run(error):
        def fail(prepared, profile):
            raise error

        monkeypatch.setattr(training, "run", fail)
        return command()

    return run


@pytest.mark.parametrize(("error", "code", "message"), EARLY_ENDS)
def test_a_run_that_ends_early_says_so_in_a_line(ending, capsys, error, code, message):
    assert ending(error) == (code,)
    err = capsys.readouterr().err
    assert err.startswith(f"anytime_jax: {message}")
    assert err.count("\n") == 1


def test_what_nobody_foresaw_is_a_traceback(ending):
    for error in (KeyError("a"), jax.errors.JaxRuntimeError("INTERNAL: a bug")):
        with pytest.raises(type(error)):
            ending(error)


@pytest.fixture
def several(monkeypatch):
    """Makes this one of two processes; notes how it leaves the other."""
    left = []

    def leave(code, line=""):
        left.append((code, line))
        raise SystemExit(code)

    monkeypatch.setattr(hosts, "leave", leave)
    monkeypatch.setattr(hosts, "agree", lambda problem="": None)
    monkeypatch.setattr(hosts, "check_same", lambda **values: None)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    return left


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            hosts.Lost("another process of this run has ended (a)"),
            1,
            "another process of this run has ended (a); start all processes again to "
            "go on from the start",
        ),
        (OSError("a/snapshots: no room"), 1, "a/snapshots: no room"),
        (KeyError("a"), 1, ""),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_happens_to_one_process_does_not_wait_for_the_other(
    ending, several, capsys, error, code, line
):
    with pytest.raises(SystemExit):
        ending(error)
    assert several == [(code, line)]
    assert ("Traceback" in capsys.readouterr().err) == (line == "")


@pytest.mark.parametrize(("error", "code", "message"), EARLY_ENDS[:4])
def test_what_happens_to_all_processes_one_says(
    ending, several, monkeypatch, capsys, error, code, message
):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert ending(error) == (code,)
    assert capsys.readouterr().err == ""
    assert not several


def test_how_the_others_are_found(command, monkeypatch):
    joined = []
    monkeypatch.setattr(hosts, "join", lambda **given: joined.append(given))
    named = ("--coordinator=tpu-0:8476", "--processes=4", "--process=0")
    for arguments in (("--distributed", "--heartbeat=9"), named, ()):
        assert command(*arguments)[0] == 0
    assert joined == [
        dict(heartbeat=9),
        dict(coordinator="tpu-0:8476", processes=4, process=0, heartbeat=100),
    ]


def test_what_cannot_be_joined_is_one_line(command, monkeypatch, capsys):
    def refuse(**given):
        raise ValueError("--distributed: JAX finds no other processes")

    monkeypatch.setattr(hosts, "join", refuse)
    assert command("--distributed") == (2,)
    told = "anytime_jax: --distributed: JAX finds no other processes\n"
    assert capsys.readouterr().err == told


def test_two_ways_to_find_the_others_are_one_too_many(command, capsys):
    assert command("--distributed", "--process=1") == (2,)
    assert "itself: leave out --process\n" in capsys.readouterr().err


# The folder of snapshots goes after the loop has looked, and before it is written to.
DELETED = """
import shutil
from anytime_jax.training import store
save = store.Store._save

def late(self, trees, step, meta, extra):
    submit = self._manager.save
    def gone(step, args):
        submit(step, args=args)
        shutil.rmtree(self._folder)
    self._manager.save = gone
    save(self, trees, step, meta, extra)

store.Store._save = late
"""


def test_a_folder_that_is_deleted_is_not_made_anew_and_nothing_waits(tmp_path):
    process = processes.start(processes.flags(tmp_path), script=DELETED)
    [(code, text)] = processes.ended(process, timeout=120)
    gone = f"anytime_jax: {tmp_path}/snapshots is gone: it was removed during the run"
    assert code == 1
    assert processes.last_line(text) == gone
    assert "Traceback" not in text
    assert not (tmp_path / "snapshots").exists()
