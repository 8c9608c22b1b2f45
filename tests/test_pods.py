"""The commands of docs/ and of the README are such that the command line takes them."""

import fnmatch
import pathlib
import re
import shlex

import pytest

from anytime_jax.commands import main, plan, sweep, train

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXT = "\n".join(page.read_text() for page in PAGES)
README = (ROOT / "README.md").read_text()
# A list of YAML, or a line of a shell with its continuations.
COMMAND = re.compile(r"python[, ]+-m[, ]+anytime_jax[, ]+((?:[^\n]*[\\,]\n)*[^\n]*)")


def commands(*verbs, text):
    """Those with one of these verbs, all by default: their words after anytime_jax."""
    found = []
    for match in COMMAND.finditer(text):
        line = re.sub(r"\\\n|,\s|\]", " ", match[1])
        words = shlex.split(re.split(r"[>&|`]", line)[0])
        if not verbs or words[0] in verbs:
            found.append(words)
    return found


def test_there_are_commands_for_every_way():
    verbs = [verb for verb, *_ in commands(text=TEXT)]
    assert verbs.count("train") >= 7
    assert {"train", "plan", "sweep"} <= set(verbs) <= set(main.VERBS)
    assert {verb for verb, *_ in commands(text=README)} == set(main.VERBS)


@pytest.mark.parametrize(
    "arguments", commands("train", text=TEXT + README), ids=" ".join
)
def test_each_run_parses(arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    given = train.parse(arguments[1:])
    assert given.workdir
    assert "://" not in given.workdir


@pytest.mark.parametrize(
    "arguments", commands("plan", "sweep", text=TEXT + README), ids=" ".join
)
def test_each_plan_and_sweep_parses(arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    verb, *rest = arguments
    given = dict(plan=plan, sweep=sweep)[verb].parse(rest)
    if verb == "sweep" and given.only != "*":
        jobs = sweep.sweep_jobs.read(given.file, given.workdir, given.overrides).jobs
        assert any(fnmatch.fnmatchcase(job.name, given.only) for job in jobs)


@pytest.mark.parametrize("key", re.findall(r"`(?:--)?config\.((?!json)[a-z_.]+)", TEXT))
def test_each_key_of_a_config_is_there(key):
    node = train.parse([f"--config={ROOT}/configs/tiny.py", "--workdir=a"]).config
    for part in key.split("."):
        node = node[part]


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), target
