"""Metrics on disk: what is written, what a restart forgets, who can stand in."""

import ast
import importlib.util
import inspect
import pathlib

import pytest
from tensorboardX.proto import event_pb2

from anytime_jax.training import metrics, store


def write(workdir, steps, resume_step=0):
    writer = metrics.Writer(workdir, resume_step)
    for step in steps:
        writer.write_scalars(step, {"loss": 1 / step, "eval/loss/raw": float(step)})
    writer.close()


def steps(workdir):
    return [record["step"] for record in metrics.read(workdir)]


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / "run", [1, 3])
    assert metrics.read(tmp_path / "run") == [
        {"step": 1, "loss": 1.0, "eval/loss/raw": 1.0},
        {"step": 3, "loss": 1 / 3, "eval/loss/raw": 3.0},
    ]
    assert metrics.read(tmp_path) == []


def test_a_restart_forgets_what_is_later_than_its_snapshot(tmp_path):
    write(tmp_path, [2, 4, 6, 8])
    write(tmp_path, [6, 7], resume_step=4)
    assert steps(tmp_path) == [2, 4, 6, 7]
    write(tmp_path, [1])
    assert steps(tmp_path) == [1]


def test_a_last_line_that_was_cut_off_does_not_count(tmp_path):
    write(tmp_path, [2, 4])
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 5, "lo')
    assert steps(tmp_path) == [2, 4]
    write(tmp_path, [5], resume_step=4)
    assert steps(tmp_path) == [2, 4, 5]


def test_every_way_to_damage_the_file_is_repaired_from_a_snapshot(tmp_path, capsys):
    write(tmp_path / "whole", [2, 4, 6, 8])
    text = (tmp_path / "whole" / "metrics.jsonl").read_text()
    lines = text.splitlines(keepends=True)
    carried = "".join(lines[:3])
    starts = [sum(map(len, lines[:n])) for n in range(4)]
    cuts = {0, 1, *starts, *(start - 1 for start in starts[1:])}
    cuts |= {start + 10 for start in starts}
    damaged = {cut: text[:cut] for cut in cuts} | {
        "line": lines[0] + "{\n" + "".join(lines[2:]),
        "lost": "".join(lines[1:]),
        "twice": lines[0] + text,
        "other value": text.replace("0.25", "0.75"),
        "no record": "[1]\n" + text,
        "no step": '{"loss": 1.0}\n' + text,
        "bytes": "\ud800" + text,
        "gone": None,
    }
    path = tmp_path / "metrics.jsonl"
    for name, content in damaged.items():
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content.encode(errors="surrogatepass"))
        metrics.Writer(tmp_path, 6, carried).close()
        assert path.read_text() == carried, name
        assert ("was cut or damaged" in capsys.readouterr().err) == (
            name not in (*starts[3:], starts[3] + 10)
        ), name
    # What is later than the snapshot goes without a word, as ever.
    path.write_text(text)
    metrics.Writer(tmp_path, 6, carried).close()
    assert (path.read_text(), capsys.readouterr().err) == (carried, "")


def test_a_line_in_the_middle_that_is_no_record_is_named(tmp_path):
    write(tmp_path, [2, 4, 6])
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    for line in ('{"step": 4, "lo\n', "7\n", '{"loss": 2.0}\n', "\n"):
        path.write_text(lines[0] + line + lines[2])
        for use in (metrics.read, metrics.Writer):
            with pytest.raises(
                ValueError, match=rf"^{path} is damaged: line 2 is no record$"
            ):
                use(tmp_path)


def test_what_a_snapshot_carries_is_the_text_of_the_file(tmp_path):
    writer = metrics.Writer(tmp_path)
    writer.write_scalars(1, {"loss": float("nan")})
    text = writer.records()
    assert (
        text
        == (tmp_path / "metrics.jsonl").read_text()
        == ('{"step": 1, "loss": NaN}\n')
    )
    writer.close()
    metrics.Writer(tmp_path, 1, text).close()
    assert (tmp_path / "metrics.jsonl").read_text() == text
    assert metrics.Silent().records() == ""


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "metrics.jsonl").mkdir(parents=True)
    (tmp_path / "board").mkdir()
    (tmp_path / "board" / "tensorboard").write_text("")
    for workdir, path in {
        tmp_path / "file": "file",
        tmp_path / "file" / "run": "file/run",
        tmp_path / "folder": "folder/metrics.jsonl",
        tmp_path / "board": "board/tensorboard",
    }.items():
        with pytest.raises(
            store.Unwritable, match=rf"^{tmp_path}/{path} cannot be written: [^\n]+$"
        ):
            metrics.Writer(workdir)


def test_a_full_disk_is_named(tmp_path):
    """/dev/full takes nothing, once the file's own buffer is written out."""
    (tmp_path / "tensorboard").mkdir()
    writer = metrics.Writer(tmp_path)
    writer._file.close()
    message = r"metrics.jsonl cannot be written: No space left on device$"
    with pathlib.Path("/dev/full").open("a") as writer._file:
        writer.write_scalars(1, {"loss": 1.0})
        for method in (writer.flush, writer.records, writer.close):
            with pytest.raises(store.Unwritable, match=message):
                method()
    assert writer._file.closed


def test_flushed_records_are_on_disk_while_the_writer_is_open(tmp_path):
    writer = metrics.Writer(tmp_path)
    writer.write_scalars(1, {"loss": 1.0})
    writer.flush()
    assert steps(tmp_path) == [1]
    writer.close()


def test_tensorboard_gets_the_same_scalars(tmp_path):
    write(tmp_path, [1, 4])
    [path] = (tmp_path / "tensorboard").iterdir()
    content, found = path.read_bytes(), {}
    while content:
        # A record is its length, a checksum, the event and another checksum.
        length = int.from_bytes(content[:8], "little")
        event = event_pb2.Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
        for value in event.summary.value:
            found[event.step, value.tag] = value.simple_value
    assert found == {
        (1, "loss"): 1.0,
        (1, "eval/loss/raw"): 1.0,
        (4, "loss"): 0.25,
        (4, "eval/loss/raw"): 4.0,
    }


@pytest.mark.parametrize("writer", [metrics.Writer, metrics.Silent])
def test_the_methods_are_those_of_clus_writers(writer):
    # Importing clu.metric_writers would import TensorFlow, so its source is read.
    [folder] = importlib.util.find_spec("clu").submodule_search_locations
    source = pathlib.Path(folder, "metric_writers", "interface.py").read_text()
    arguments = {
        node.name: [argument.arg for argument in node.args.args]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
    }
    for method in ("write_scalars", "flush", "close"):
        own = list(inspect.signature(getattr(writer, method)).parameters)
        assert own == arguments[method]
