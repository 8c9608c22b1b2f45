"""The commands of docs/ are such that the command line takes them."""

import pathlib
import re
import shlex

import pytest

from anytime_jax.commands import main, train

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXT = "\n".join(page.read_text() for page in PAGES)
# A list of YAML, or a line of a shell with its continuations.
COMMAND = re.compile(r"python[, ]+-m[, ]+anytime_jax[, ]+((?:[^\n]*[\\,]\n)*[^\n]*)")


def commands():
    for found in COMMAND.finditer(TEXT):
        line = re.sub(r"\\\n|,\s|\]", " ", found[1])
        words = shlex.split(re.split(r"[>&|']", line)[0])
        yield words[0], [word for word in words[1:] if word != "`"]


def test_there_are_commands_for_every_way():
    verbs = [verb for verb, _ in commands()]
    assert verbs.count("train") >= 7
    assert set(verbs) <= set(main.VERBS) | {"plan"}


@pytest.mark.parametrize(
    "arguments", [rest for verb, rest in commands() if verb == "train"], ids=" ".join
)
def test_each_parses(arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    given = train.parse(arguments)
    assert given.workdir
    assert "://" not in given.workdir


@pytest.mark.parametrize("key", re.findall(r"`(?:--)?config\.((?!json)[a-z_.]+)", TEXT))
def test_each_key_of_a_config_is_there(key):
    node = train.parse([f"--config={ROOT}/configs/tiny.py", "--workdir=a"]).config
    for part in key.split("."):
        node = node[part]


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), target
