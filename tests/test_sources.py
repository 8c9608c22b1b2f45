import contextlib
import io
import json
import os

import numpy as np
import pytest
import tensorflow_datasets as tfds

from anytime_jax.data import sources


class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A TFDS builder of the given splits: {name: [text, ...]}."""

    name = "tiny"
    VERSION = tfds.core.Version("1.0.0")
    code_path = None

    def __init__(self, *, splits, **kwargs):
        self.splits = splits
        super().__init__(**kwargs)

    def _info(self):
        text, number = tfds.features.Text(), tfds.features.Scalar(np.int64)
        features = tfds.features.FeaturesDict({"text": text, "number": number})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.splits}

    def _generate_examples(self, split):
        for number, text in enumerate(self.splits[split]):
            yield number, {"text": text, "number": number}


def prepare(folder, file_format="array_record", **splits):
    with contextlib.redirect_stdout(io.StringIO()):
        tfds.display_progress_bar(False)
        builder = Tiny(splits=splits, data_dir=folder, file_format=file_format)
        builder.download_and_prepare()


def source(spec, tmp_path, **options):
    return sources.source(spec, cache=tmp_path / "cache", **options)


def documents(spec, tmp_path, split="train", **options):
    return list(source(spec, tmp_path, **options).documents(split))


def write_lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_text_files_are_documents_in_the_order_of_their_paths(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "b.txt").write_bytes("zwei\r\nlines ä".encode())
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "below" / "c.txt").write_text("three")
    (tmp_path / "below" / "folder.txt").mkdir()
    found = documents(f"files:{tmp_path}/**/*.txt", tmp_path)
    assert found == ["one", "zwei\r\nlines ä", "three"]
    found = source(f"files:{tmp_path}/*.txt", tmp_path)
    assert found.splits == ("train",)
    assert found.describe() == {"files": 3}


def test_patterns_may_be_relative_and_names_may_look_like_patterns(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "wiki[en].txt").write_text("brackets")
    assert documents("files:wiki[en].txt", tmp_path) == ["brackets"]
    assert documents("files:~/*.txt", tmp_path) == ["brackets"]


def test_json_lines_are_documents(tmp_path):
    path = tmp_path / "a.jsonl"
    write_lines(path, {"text": "one\n"}, {"text": ""}, {"text": "zwei", "id": 2})
    path.write_text(path.read_text() + "\n   \n" + '{"text": "\\u00e4"}')
    assert documents(f"files:{path}", tmp_path) == ["one\n", "zwei", "ä"]


def test_key_of_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    write_lines(path, {"content": "one", "text": "not this"})
    assert documents(f"files:{path}", tmp_path, text_key="content") == ["one"]


def test_fingerprint_of_files_changes_with_them(tmp_path):
    path, pattern = tmp_path / "a.txt", f"files:{tmp_path}/*.txt"

    def fingerprint(**options):
        return source(pattern, tmp_path, **options).fingerprint

    path.write_text("one")
    os.utime(path, ns=(0, 0))
    prints = [fingerprint()]
    assert fingerprint() == prints[0]
    os.utime(path, ns=(0, 1))
    prints.append(fingerprint())
    path.write_text("longer")
    os.utime(path, ns=(0, 0))
    prints.append(fingerprint())
    (tmp_path / "b.txt").touch()
    os.utime(tmp_path / "b.txt", ns=(0, 0))
    prints.append(fingerprint())
    prints.append(fingerprint(text_key="other"))
    assert len(set(prints)) == len(prints)


def test_files_that_match_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        source("files:no/*.txt", tmp_path)
    assert str(error.value) == (
        f"data.source='files:no/*.txt' matches no file in {str(tmp_path)!r}"
    )
    with pytest.raises(ValueError, match=r"matches no file$"):
        source(f"files:{tmp_path}/missing.txt", tmp_path)


def test_files_of_another_kind(tmp_path):
    (tmp_path / "a.csv").touch()
    with pytest.raises(
        ValueError, match=r"matches '.*a\.csv'; files must end in \.txt"
    ):
        source(f"files:{tmp_path}/*", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"good\n\xff", r"a\.txt is not UTF-8 at byte 5 \(0xff\)"),
        ("a.txt", "ä".encode("utf-16"), r"a\.txt is not UTF-8 at byte 0 \(0xff\)"),
        ("a.txt", b"cut \xc3", r"a\.txt is not UTF-8 at byte 4 \(0xc3\)"),
        (
            "a.jsonl",
            b'{"text": "one"}\n{"text": "\xe4"}\n',
            r"a\.jsonl is not UTF-8 at byte 26 \(0xe4\)",
        ),
        ("a.jsonl", b'{"text": 1\n', r"a\.jsonl, line 1 is not JSON: .* at column"),
        ("a.jsonl", b"\n\nnull\n", r"line 3 has no key .*'text'; found NoneType"),
        ("a.jsonl", b'{"b": 1, "a": 2}', r"text_key='text'; found \['a', 'b'\]"),
        ("a.jsonl", b'{"text": 7}', r"has 7 under data\.text_key='text', which is not"),
        ("a.jsonl", b'{"text": "x\\ud800"}', r"unpaired surrogate, '\\ud800', at .* 1"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"data\.source='files:.*{message}") as error:
        documents(f"files:{path}", tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spec", ["", "Corpus", "corpus:x", "http://x", None, 5, ["a"]])
def test_unknown_sources(tmp_path, spec):
    with pytest.raises(
        ValueError, match=r"data\.source=.* is unknown; known are 'corpu"
    ):
        source(spec, tmp_path)


@pytest.mark.parametrize("spec", ["files:", "tfds:"])
def test_sources_without_a_name(tmp_path, spec):
    with pytest.raises(ValueError, match=f"data.source='{spec}' names nothing after"):
        source(spec, tmp_path)


def test_tfds_that_is_prepared(tmp_path):
    prepare(tmp_path, train=["one", "", "zwei ä"], test=["unused"])
    found = source("tfds:tiny", tmp_path, data_dir=str(tmp_path))
    assert found.splits == ("train",)
    assert sorted(found.documents("train")) == ["one", "zwei ä"]
    assert found.describe() == {"full_name": "tiny/1.0.0"}
    by_version = documents("tfds:tiny:1.0.0", tmp_path, data_dir=str(tmp_path))
    assert sorted(by_version) == ["one", "zwei ä"]


def test_tfds_with_a_validation_split_and_many_examples(tmp_path):
    texts = [f"text {i}" for i in range(600)]
    prepare(tmp_path, train=texts, validation=["v"])
    found = source("tfds:tiny", tmp_path, data_dir=str(tmp_path))
    assert found.splits == ("train", "validation")
    assert sorted(found.documents("train")) == sorted(texts)
    assert list(found.documents("train")) == list(found.documents("train"))
    assert list(found.documents("validation")) == ["v"]


def test_tfds_in_its_own_folder(tmp_path, monkeypatch):
    prepare(tmp_path, train=["one"])
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    home = f"~/{tmp_path.name}"
    assert documents("tfds:tiny", tmp_path, data_dir=home) == ["one"]
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    assert documents("tfds:tiny", tmp_path) == ["one"]


def test_tfds_mock_text_is_not_bytes(tmp_path):
    class Mock:
        def as_data_source(self, split):
            return self

        def __len__(self):
            return 2

        def __getitems__(self, indices):
            return [{"text": f"mock {index}"} for index in indices]

    assert list(sources._texts(Mock(), "train", "text", "x")) == ["mock 0", "mock 1"]


def test_fingerprint_of_tfds_changes_with_the_data(tmp_path):
    prints = []
    for number, splits in enumerate(
        [{"train": ["a"]}, {"train": ["bb"]}, {"train": ["a"], "validation": ["a"]}]
    ):
        folder = tmp_path / str(number)
        prepare(folder, **splits)
        for file in folder.rglob("*"):
            os.utime(file, (0, 0))
        found = [source("tfds:tiny", tmp_path, data_dir=str(folder)) for _ in range(2)]
        assert found[0].fingerprint == found[1].fingerprint
        prints.append(found[0].fingerprint)
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    "name", ["tiny", "tiny:2.0.0", "lm1b", "wikipedia/20230601.en"]
)
def test_tfds_is_never_downloaded(tmp_path, name):
    prepare(tmp_path / "else", train=["one"])
    folder = tmp_path / ("else" if ":" in name else "data")
    with pytest.raises(ValueError) as error:
        source(f"tfds:{name}", tmp_path, data_dir=str(folder))
    expected = (
        f"data.source='tfds:{name}' is not prepared in {folder}; prepare it there"
    )
    assert str(error.value).startswith(expected)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


def test_tfds_names_that_are_no_names(tmp_path):
    with pytest.raises(ValueError, match=r"data\.source='tfds:a b' cannot be read: "):
        source("tfds:a b", tmp_path, data_dir=str(tmp_path))


def test_tfds_in_another_format(tmp_path):
    prepare(tmp_path, train=["one"])
    info = tmp_path / "tiny" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match=r"stored as tfrecord in .*'array_record'"):
        source("tfds:tiny", tmp_path, data_dir=str(tmp_path))


def test_tfds_features(tmp_path):
    prepare(tmp_path, train=["one"])
    options = {"data_dir": str(tmp_path)}
    with pytest.raises(ValueError, match=r"text_key='words' .* are number, text"):
        source("tfds:tiny", tmp_path, text_key="words", **options)
    with pytest.raises(ValueError, match=r"text_key='number' .* holds int, not text"):
        documents("tfds:tiny", tmp_path, text_key="number", **options)


def test_tfds_without_a_train_split(tmp_path):
    prepare(tmp_path, test=["one"])
    with pytest.raises(ValueError, match=r"no split 'train'; its splits are test"):
        source("tfds:tiny", tmp_path, data_dir=str(tmp_path))


def test_tfds_that_is_not_utf8(tmp_path):
    prepare(tmp_path, train=[b"\xff"])
    with pytest.raises(
        ValueError, match=r"tiny': train example 0 is not UTF-8 at byte 0"
    ):
        documents("tfds:tiny", tmp_path, data_dir=str(tmp_path))
