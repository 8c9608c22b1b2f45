import subprocess
import sys

from anytime_jax import reporting
from anytime_jax.commands import main
from tests import folders

# A package of the same name whose __init__ does not import jax: what is left is what
# the command and the room import by themselves.
_ALONE = """
import sys, types, pathlib
package = types.ModuleType("anytime_jax")
package.__path__ = [sys.argv[1]]
sys.modules["anytime_jax"] = package
from anytime_jax.commands import report
print(*(name for name in ("jax", "matplotlib") if name in sys.modules), sep=",")
report.run(sys.argv[2:])
print(*(name for name in ("jax", "matplotlib.pyplot") if name in sys.modules), sep=",")
"""


def _fails(capsys, *arguments):
    assert main.main(["report", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    return line.removeprefix("anytime_jax: ")


def test_report_prints_the_table_and_writes_two_files(tmp_path, capsys):
    names = folders.write_all(tmp_path / "runs")
    out = tmp_path / "new" / "report.md"
    assert main.main(["report", *names, f"--out={out}"]) == 0
    comparison = reporting.compare([reporting.read(name) for name in names])
    table = reporting.to_text(comparison)
    picture = out.with_suffix(".png")
    expected = f"{table}\n\nWrote {out} and {picture}\n"
    assert capsys.readouterr().out == expected
    assert out.read_text() == reporting.to_report(comparison, "report.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "report.md",
        "report.png",
    ]


def test_a_trunk_given_by_a_relative_path_is_that_of_its_branch(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    losses = {400: {"raw": 1.5}}
    folders.write(tmp_path / "trunk", "constant", folders.TRUNK)
    folders.write(tmp_path / "exit", "cooldown", losses, trunk="./trunk")
    assert main.main(["report", "--out=report.md", "exit", "trunk/"]) == 0
    group, *rows = capsys.readouterr().out.splitlines()[1:6]
    assert group == "constant"
    assert rows[-1].split() == ["cooldown", "20%", "-", "-", "1.5000*"]


def test_help(capsys):
    assert main.main(["report", "--help"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "usage: python -m anytime_jax report DIR [DIR ...] --out=FILE.md"


def test_what_is_wrong_with_the_arguments_is_said_in_a_line(tmp_path, capsys):
    trunk = folders.write(tmp_path / "trunk", "constant", folders.TRUNK)
    out = tmp_path / "report.md"
    assert _fails(capsys).startswith("DIR is missing")
    assert _fails(capsys, f"--out={out}").startswith("DIR is missing")
    assert _fails(capsys, trunk).startswith("--out=FILE.md is missing")
    assert _fails(capsys, trunk, "--out=a.txt") == "--out=a.txt must end in .md"
    assert "'color'" in _fails(capsys, trunk, f"--out={out}", "--color=red")
    assert not out.exists()


def test_what_is_wrong_with_the_folders_is_said_in_a_line(tmp_path, capsys):
    trunk = folders.write(tmp_path / "trunk", "constant", folders.TRUNK)
    begun = folders.write(tmp_path / "begun", "cosine", {}, total_steps=100)
    out = f"--out={tmp_path / 'report.md'}"
    line = _fails(capsys, trunk, tmp_path, out)
    assert line == f"{tmp_path} holds no run: there is no {tmp_path}/config.json"
    assert _fails(capsys, trunk, begun, out) == (
        "begun has not reached a horizon yet: the first is step 100, and its last "
        "record is of step 1"
    )
    assert not (tmp_path / "report.md").exists()


def test_a_report_that_cannot_be_written_is_said_in_a_line(tmp_path, capsys):
    trunk = folders.write(tmp_path / "trunk", "constant", folders.TRUNK)
    (tmp_path / "file").write_text("")
    line = _fails(capsys, trunk, f"--out={tmp_path / 'file' / 'report.md'}")
    assert "report.md cannot be written: " in line


def test_the_command_needs_no_jax_and_leaves_pyplot_alone(tmp_path):
    names = folders.write_all(tmp_path)
    package = main.__file__.rsplit("/", 2)[0]
    out = f"--out={tmp_path / 'report.md'}"
    done = subprocess.run(
        [sys.executable, "-c", _ALONE, package, *names, out],
        capture_output=True,
        text=True,
        check=True,
    )
    first, *_, last = done.stdout.split("\n")[:-1]
    assert (first, last) == ("", "")
    assert "Wrote" in done.stdout


def test_two_runs_of_one_seed_are_refused_in_a_line_and_help_says_so(tmp_path, capsys):
    one = folders.write(tmp_path / "one", "constant", folders.TRUNK)
    two = folders.write(tmp_path / "two", "constant", folders.TRUNK)
    assert _fails(capsys, one, two, f"--out={tmp_path / 'report.md'}") == (
        "one and two are both runs of one setting and seed=0: give one of them, or "
        "other seeds"
    )
    assert main.main(["report", "-h"]) == 0
    assert "Two of one seed are\nrefused" in capsys.readouterr().out
