"""Nothing that is read is executed: no pickle, no eval, anywhere in the package."""

import ast
import pathlib
import pickle

import numpy as np
import pytest

import anytime_jax
from anytime_jax import laws
from anytime_jax.training import config_file

ROOT = pathlib.Path(anytime_jax.__file__).parent

# Modules whose files or messages can run code when they are read.
MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle"}
MODULES |= {"joblib", "torch"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load"}


def unsafe(source):
    """The lines of a program that could run what they read, and why."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = {name.name.split(".")[0] for name in node.names}
            found += [(node.lineno, name) for name in names & MODULES]
        if isinstance(node, ast.ImportFrom):
            name = (node.module or "").split(".")[0]
            found += [(node.lineno, name)] if name in MODULES else []
        if isinstance(node, ast.Call) and is_unsafe(node):
            found.append((node.lineno, ast.unparse(node.func)))
    return found


def is_unsafe(call):
    called = ast.unparse(call.func)
    given = {word.arg: ast.unparse(word.value) for word in call.keywords}
    unpickles = given.get("allow_pickle", "False") != "False"
    if called in ("np.load", "numpy.load", "jnp.load"):
        unpickles = given.get("allow_pickle") != "False"
    return called in CALLS or unpickles or given.get("shell", "False") != "False"


def test_the_package_runs_nothing_that_it_reads():
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 80
    found = {
        (str(path.relative_to(ROOT)), *problem)
        for path in files
        for problem in unsafe(path.read_text())
    }
    assert found == set()


def test_config_files_alone_are_programs():
    executing = [
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if "exec_module" in path.read_text()
    ]
    assert executing == ["commands/config_files.py"]
    readme = (ROOT.parent / "README.md").read_text()
    assert "A config is a Python file and is run as such" in " ".join(readme.split())


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("import pickle", "pickle"),
        ("from dill import loads", "dill"),
        ("import a, marshal.b as c", "marshal"),
        ("eval('1')", "eval"),
        ("exec(text)", "exec"),
        ("np.load(path)", "np.load"),
        ("np.load(path, allow_pickle=True)", "np.load"),
        ("jnp.load(path)", "jnp.load"),
        ("jnp.save(path, a, allow_pickle=True)", "jnp.save"),
        ("subprocess.run(line, shell=True)", "subprocess.run"),
        ("__import__(name)", "__import__"),
    ],
)
def test_the_search_finds_what_it_looks_for(line, named):
    assert (1, named) in unsafe(line)


def test_the_search_lets_the_rest_pass():
    assert unsafe("np.load(path, allow_pickle=False)\nre.compile('x')\n") == []
    assert unsafe("jax.jit(f).lower(x).compile()\nmodel.eval()\n") == []


class Bomb:
    """Unpickling it would leave a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_files_that_would_do_something_when_unpickled_are_refused(tmp_path):
    done = tmp_path / "done"
    bomb = pickle.dumps(Bomb(done))
    (tmp_path / config_file.CONFIG_FILE).write_bytes(bomb)
    (tmp_path / "whole.npz").write_bytes(bomb)
    columns = {f"a_{key}": np.array([Bomb(done)]) for key in ("step", "lr", "loss")}
    np.savez(tmp_path / "inside.npz", **columns)
    with pytest.raises(ValueError, match=r"config.json is damaged"):
        config_file.read(tmp_path)
    for name in ("whole", "inside"):
        with pytest.raises(ValueError, match="pickle"):
            laws.Curve.from_npz(tmp_path / f"{name}.npz", "a")
    assert not done.exists()
    pickle.loads(bomb)
    assert done.exists()
