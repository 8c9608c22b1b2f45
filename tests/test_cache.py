import pathlib

import pytest

from anytime_jax.data import cache


def test_argument_then_environment_then_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ANYTIME_JAX_CACHE", raising=False)
    assert cache.folder() == tmp_path / ".cache" / "anytime_jax"
    monkeypatch.setenv("ANYTIME_JAX_CACHE", str(tmp_path / "environment"))
    assert cache.folder() == tmp_path / "environment"
    assert cache.folder("~/argument") == tmp_path / "argument"
    assert list(tmp_path.iterdir()) == []


def test_relative_folder_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cache.folder(pathlib.Path("here")) == tmp_path / "here"


@pytest.mark.parametrize("below", ["", "a/b"])
def test_file_in_the_way(tmp_path, below):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match=r"data\.cache=.*file'.*not a folder"):
        cache.folder(file / below)


def test_folder_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "a" / "b"
    with cache.complete_folder(target) as temporary:
        (temporary / "file").write_text("content")
        assert not target.exists()
    assert (target / "file").read_text() == "content"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_interruption_leaves_nothing(tmp_path, error):
    target = tmp_path / "target"
    with pytest.raises(error), cache.complete_folder(target) as temporary:
        (temporary / "file").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_the_first_to_finish_wins(tmp_path):
    target = tmp_path / "target"
    with cache.complete_folder(target) as slow:
        (slow / "file").write_text("slow")
        with cache.complete_folder(target) as fast:
            (fast / "file").write_text("fast")
    assert (target / "file").read_text() == "fast"
    assert list(tmp_path.iterdir()) == [target]


def test_failed_rename_is_not_hidden(tmp_path):
    target = tmp_path / "target"
    with pytest.raises(NotADirectoryError), cache.complete_folder(target):
        target.write_text("a file where the folder should go")
    assert list(tmp_path.iterdir()) == [target]


def test_digest_depends_on_every_part():
    values = [["a", 1], ["a", "1"], ["a1"], ["a", 1, None], {"a": 1}]
    assert len({cache.digest(value) for value in values}) == len(values)
    assert cache.digest({"a": 1, "b": 2}) == cache.digest({"b": 2, "a": 1})
