"""The flag --config and its overrides, as any verb reads them."""

import pathlib
import sys

import pytest
from absl import flags

from anytime_jax.commands import config_files, errors, main

CONFIG = "--config=configs/tiny.py:linear"


def parse(*arguments, verb="walk"):
    def define(values):
        flags.DEFINE_integer("pace", 3, "", flag_values=values)

    return config_files.parse(verb, arguments, define)


def test_the_verbs_own_flags_stand_beside_the_config(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest", "--config.seed=9"])
    values = parse("--pace=5", CONFIG, "--config.schedule.peak=0.5")
    assert values.pace == 5
    assert (values.config.schedule.name, values.config.schedule.peak) == ("linear", 0.5)
    assert values.config.is_locked and values.config.seed == 0
    assert parse(CONFIG).pace == 3
    assert sys.argv == ["pytest", "--config.seed=9"]


def test_a_flag_of_another_verb_is_refused_with_the_way_to_help():
    with pytest.raises(errors.BadInput, match=r"'workdir'.*anytime_jax walk --help"):
        parse(CONFIG, "--workdir=x")


def test_a_config_imports_those_beside_it(tmp_path):
    folder = tmp_path / "configs_of_mine"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "base.py").write_text("SEED = 7\n")
    (folder / "other.py").write_text(
        "import ml_collections\n"
        "from configs_of_mine import base\n"
        "def get_config():\n"
        "    return ml_collections.ConfigDict(dict(seed=base.SEED))\n"
    )
    before = list(sys.path)
    assert config_files.load_config(str(folder / "other.py")).seed == 7
    assert sys.path == before


def test_a_config_in_the_root_of_the_file_system(tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text(
        "import ml_collections, sys\n"
        "ROOT = sys.path[0]\n"
        "def get_config():\n"
        "    return ml_collections.ConfigDict(dict(root=ROOT))\n"
    )
    before = list(sys.path)
    monkeypatch.setattr(pathlib.Path, "resolve", lambda self: pathlib.Path("/mine.py"))
    assert config_files.load_config(str(file)).root == "/"
    assert sys.path == before


@pytest.mark.parametrize("where", ["", "def get_config():\n    "])
def test_a_config_that_exits_is_refused(tmp_path, capsys, where):
    file = tmp_path / "mine.py"
    file.write_text(f"{where}raise SystemExit('no data here')\n")
    assert main.main(["train", f"--config={file}", "--workdir=runs/x"]) == 2
    assert capsys.readouterr().err == (
        f"anytime_jax: --config={file}: SystemExit: no data here\n"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{5: 3, 'seed': 1}", "TypeError: '<' not supported"),
        ("dict(seed=config_dict.required_placeholder(int))", "RequiredValueError: "),
    ],
)
def test_a_config_that_cannot_be_read_is_refused(tmp_path, content, message):
    file = tmp_path / "mine.py"
    file.write_text(
        "from ml_collections import config_dict\n"
        f"def get_config():\n    return config_dict.ConfigDict({content})\n"
    )
    with pytest.raises(errors.BadInput, match=f"^--config=.*mine.py: {message}"):
        config_files.load_config(str(file))
