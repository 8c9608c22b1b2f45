"""The README's Python lines run as they stand, and its links lead somewhere."""

import pathlib
import re

import jax.numpy as jnp

ROOT = pathlib.Path(__file__).parents[1]


def blocks():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def test_the_lines_for_a_training_loop_run():
    names = {}
    exec(blocks()[0], names)
    average, raw = names["weights"]["weights"], names["params"]["weights"]
    # The weights rise from 0 towards 1 and their average lags behind.
    assert jnp.all((average > 0) & (average < raw) & (raw < 1))


def test_the_lines_for_the_theory_run(capsys):
    assert len(blocks()) == 2
    exec(blocks()[1], {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 6
    text = (ROOT / "README.md").read_text()
    assert "".join(f"    {line}\n" for line in printed) in text


def test_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    targets = re.findall(r"\]\((?!https:)([^)#]+)\)", text)
    assert len(targets) > 10
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert not missing
