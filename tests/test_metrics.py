"""Metrics on disk: what is written, what a restart forgets, who can stand in."""

import ast
import importlib.util
import inspect
import pathlib

import pytest
from tensorboardX.proto import event_pb2

from anytime_jax.training import metrics


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
