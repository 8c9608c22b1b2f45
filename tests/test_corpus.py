import base64
import configparser
import hashlib
import importlib.metadata
import pathlib
import re
import subprocess
import sys

import pytest

from anytime_jax.data import corpus

ROOT = pathlib.Path(__file__).parents[1]


def install(site, name="toy-pack", version="1.0", files=None, record=True):
    """Puts a distribution into a folder, with a RECORD like pip's."""
    if files is None:
        files = {
            "toy/b.py": b"b = 2\r\n",
            "toy/a.py": "ä = 1\n".encode(),
            "toy/copy_of_b.py": b"b = 2\r\n",
            "toy/empty.py": b"",
            "toy/latin.py": b"# \xe9\n",
            "toy/data.txt": b"not Python",
            "../bin/script.py": b"#!/somewhere/python\n",
        }
    lines = ["toy/missing.py,,"]
    for path, content in files.items():
        file = site / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
        lines.append(f"{path},sha256={digest.decode().rstrip('=')},{len(content)}")
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    if record:
        (info / "RECORD").write_text("\n".join(lines) + "\n")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    site = tmp_path / "site"
    install(site)
    monkeypatch.syspath_prepend(site)
    return ("toy-pack",)


def documents(builder):
    examples = builder.as_data_source("train")
    return {e["path"].decode(): e["text"].decode() for e in examples}


def test_packages_are_required_and_pinned():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    required = setup["options"]["install_requires"].split()
    required = {re.split("[<>=]", requirement)[0] for requirement in required}
    assert set(corpus.PACKAGES) <= required

    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split()
    )
    pinned = {re.sub("[-_.]+", "-", name).lower() for name in pinned}
    assert {name.lower() for name in corpus.PACKAGES} <= pinned
    assert sorted(corpus.PACKAGES, key=str.lower) == list(corpus.PACKAGES)


def test_every_package_has_python_files():
    for package in corpus.PACKAGES:
        files = corpus.files(package)
        assert len(files) > 10
        assert files == sorted(files)
        assert {file.suffix for file in files} == {".py"}


def test_scripts_of_the_environment_are_left_out(toy):
    assert [str(file) for file in corpus.files(*toy)] == [
        "toy/a.py",
        "toy/b.py",
        "toy/copy_of_b.py",
        "toy/empty.py",
        "toy/latin.py",
        "toy/missing.py",
    ]


@pytest.mark.parametrize("name", ["no-such-package", "unlisted"])
def test_package_without_files(tmp_path, monkeypatch, name):
    install(tmp_path, "unlisted", record=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=f"needs the package '{name}'"):
        corpus.files(name)


def test_prepare_drops_what_is_no_text_and_repeats(toy, tmp_path, capsys):
    builder = corpus.prepare(tmp_path / "cache", toy)
    # Line ends stay as they are in the file.
    expected = {"toy/a.py": "ä = 1\n", "toy/b.py": "b = 2\r\n"}
    assert documents(builder) == expected
    contents = [text.encode() for text in expected.values()]
    digests = b"".join(hashlib.sha256(content).digest() for content in contents)
    assert dict(builder.info.metadata) == {
        "documents": 2,
        "bytes": sum(map(len, contents)),
        "sha256": hashlib.sha256(digests).hexdigest(),
    }
    output = capsys.readouterr()
    assert output.out == ""
    assert "Prepared 2 documents" in output.err
    assert "%" not in output.err


def test_prepare_is_done_once(toy, tmp_path, capsys, monkeypatch):
    first = corpus.prepare(tmp_path / "cache", toy)
    capsys.readouterr()
    monkeypatch.delattr(corpus.PythonSource, "_generate_examples")
    second = corpus.prepare(tmp_path / "cache", toy)
    assert capsys.readouterr() == ("", "")
    assert documents(second) == documents(first)
    assert dict(second.info.metadata) == dict(first.info.metadata)


def test_interruption_leaves_nothing(toy, tmp_path, monkeypatch):
    def interrupted(builder):
        yield "one", {"path": "one", "text": "one"}
        raise KeyboardInterrupt

    cache = tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(corpus.PythonSource, "_generate_examples", interrupted)
        with pytest.raises(KeyboardInterrupt):
            corpus.prepare(cache, toy)
    assert list((cache / "corpus").iterdir()) == []
    assert len(documents(corpus.prepare(cache, toy))) == 2


def test_two_processes_at_the_same_time(toy, tmp_path):
    program = (
        f"import sys, pathlib; sys.path.insert(0, {str(tmp_path / 'site')!r});"
        "from anytime_jax.data import corpus;"
        "sys.stdin.readline();"
        f"builder = corpus.prepare(pathlib.Path({str(tmp_path / 'cache')!r}), {toy});"
        "print(len(builder.as_data_source('train')))"
    )
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True
        )
        for _ in range(2)
    ]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[0] for process in processes] == ["2\n", "2\n"]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(list((tmp_path / "cache" / "corpus").iterdir())) == 1


def test_fingerprint_is_of_versions_and_contents(tmp_path, monkeypatch):
    prints = []
    for number, (version, content) in enumerate(
        [("1.0", b"a"), ("1.0", b"a"), ("1.1", b"a"), ("1.0", b"b")]
    ):
        site = tmp_path / str(number)
        install(site, version=version, files={"toy/a.py": content})
        with monkeypatch.context() as patch:
            patch.syspath_prepend(site)
            assert corpus.distributions(("toy-pack",)) == [f"toy-pack=={version}"]
            prints.append(corpus.fingerprint(("toy-pack",)))
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_real_package_against_a_walk_over_its_folder(tmp_path):
    builder = corpus.prepare(tmp_path, ("tqdm",))
    folder = importlib.metadata.distribution("tqdm").locate_file("tqdm")
    walked = {path.read_bytes() for path in folder.rglob("*.py")} - {b""}
    assert {text.encode() for text in documents(builder).values()} == walked
    assert builder.info.metadata["documents"] == len(walked)
    assert builder.info.metadata["bytes"] == sum(map(len, walked))
