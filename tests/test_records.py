"""Finished units of an experiment survive interruptions and several writers."""

from experiments import published, records


def test_what_is_appended_is_read_in_the_order_of_keys_after_sorting(tmp_path):
    path = tmp_path / "results.jsonl"
    assert records.read(path) == {}
    for key in ("b", "a"):
        records.append(path, key, dict(value=[1, 2.5]))
    assert list(records.read(path)) == ["b", "a"]
    records.sort(path)
    assert list(records.read(path)) == ["a", "b"]
    assert records.read(path)["b"] == dict(key="b", value=[1, 2.5])


def test_a_line_cut_short_is_computed_again_and_harms_no_other(tmp_path):
    path = tmp_path / "results.jsonl"
    records.append(path, "a", dict(value=1))
    records.append(path, "b", dict(value=2))
    path.write_text(path.read_text()[:-5])
    assert list(records.read(path)) == ["a"]
    records.append(path, "b", dict(value=3))
    assert records.read(path)["b"]["value"] == 3
    records.sort(path)
    assert len(path.read_text().splitlines()) == 2


def test_published_files_are_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYTIME_DATA", str(tmp_path))
    assert published.find("some/file.csv") is None
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "file.csv").write_text("")
    assert published.find("some/file.csv") == tmp_path / "some" / "file.csv"
