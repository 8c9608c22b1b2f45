"""The notebook runs in a fresh kernel, and what it says of its results holds for them.

The outputs that it comes with are those of its code.
"""

import json
import math
import pathlib
import re

import nbformat
import pytest

from notebooks import execute

ROOT = pathlib.Path(__file__).parents[1]
HORIZONS = ("400", "800")
RENEW = "run python notebooks/execute.py"
# Asked of the kernel when all cells have run.
QUESTION = """
import json

import anytime_jax

print(json.dumps(dict(
    losses={
        row.name: {step: loss.mean for step, loss in row.losses.items()}
        for row in comparison.rows
    },
    distances=distances,
    files=[anytime_jax.__file__, tiny.__file__],
    runs=str(runs),
    devices=[device.platform for device in jax.devices()],
)))
"""


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(execute.NOTEBOOK, as_version=4)


@pytest.fixture(scope="module", params=[pytest.param("run", marks=pytest.mark.slow)])
def executed(committed, tmp_path_factory):
    """The notebook run in a fresh kernel, and what that answers; it is slow."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.from_dict(committed)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    notebook.cells.append(nbformat.v4.new_code_cell(QUESTION))
    before = files_beside()
    with pytest.MonkeyPatch.context() as patch:
        # Its inline pictures, and nothing of a reader's own settings or folders.
        patch.delenv("MPLBACKEND", raising=False)
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "jupyter"))
        execute.execute(
            notebook,
            {
                "ANYTIME_JAX_CACHE": str(folder / "cache"),
                "IPYTHONDIR": str(folder / "ipython"),
                "JAX_PLATFORMS": "cpu",
                "PYTHONPATH": str(ROOT),
                "TMPDIR": str(folder),
            },
        )
    assert files_beside() == before
    [answer] = notebook.cells.pop().outputs
    return notebook, json.loads(answer.text)


@pytest.fixture(scope="module")
def losses(executed):
    """By exit, the loss at each horizon."""
    return executed[1]["losses"]


def files_beside():
    folder = execute.NOTEBOOK.parent
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """What a cell has printed and drawn."""
    return sorted(output.get("name") or sorted(output.data) for output in cell.outputs)


def test_it_runs_this_code_and_leaves_nothing(executed):
    _, answer = executed
    package, config = map(pathlib.Path, answer["files"])
    assert package.parents[1] == ROOT
    assert config.resolve() == ROOT / "configs" / "tiny.py"
    assert answer["devices"] == ["cpu"]
    assert not pathlib.Path(answer["runs"]).exists()


def test_nothing_is_installed_where_the_package_is(executed):
    notebook, _ = executed
    [install] = [cell for cell in code_cells(notebook) if "%pip" in cell.source]
    assert install.execution_count == 1
    assert not install.outputs


def test_every_exit_has_a_loss_at_every_horizon(losses):
    assert sorted(losses) == [
        "cooldown 20%",
        "ema12_5",
        "ema25",
        "from_decay 1-sqrt, last 20%",
        "quadratic_accurate 1-sqrt, last 20%",
        "raw",
        "synthesize age_ema(divisor=18.0)",
        "uniform",
        "window 20%",
    ]
    for by_step in losses.values():
        assert tuple(by_step) == HORIZONS
        first, last = by_step.values()
        assert 1.0 < last < first < math.log(256)


@pytest.mark.parametrize("horizon", HORIZONS)
def test_the_picture_shows_what_is_said_of_it(losses, horizon):
    at = {name: by_step[horizon] for name, by_step in losses.items()}
    cooldown, raw, uniform = (at.pop(x) for x in ("cooldown 20%", "raw", "uniform"))
    assert cooldown < raw - 0.05
    assert uniform > raw
    for name, loss in at.items():
        # More than a third of the way from the raw weights to the cooldown.
        assert loss < raw - (raw - cooldown) / 3, name
        assert loss > cooldown - 0.03, name


@pytest.mark.parametrize("horizon", HORIZONS)
def test_merges_are_where_they_should_be(losses, horizon):
    at = {name: by_step[horizon] for name, by_step in losses.items()}
    # An average of a memory between two that were tracked.
    neighbours = at["ema12_5"], at["ema25"]
    synthesized = at["synthesize age_ema(divisor=18.0)"]
    assert min(neighbours) - 0.01 < synthesized < max(neighbours) + 0.01
    # A mean of all weights of the last fifth has less noise than one of a few of them.
    assert at["window 20%"] < at["from_decay 1-sqrt, last 20%"]
    assert at["window 20%"] < at["quadratic_accurate 1-sqrt, last 20%"]


def test_the_average_in_ones_own_loop_is_nearer_to_the_optimum(executed):
    distances = executed[1]["distances"]
    assert 0.0 < distances["ema25"] < 0.9 * distances["raw"]


def test_the_outputs_it_comes_with_are_of_its_code(committed):
    assert committed.metadata.outputs_of == execute.code_hash(committed), RENEW
    cells = code_cells(committed)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    drawn = [cell for cell in cells if ["image/png", "text/plain"] in kinds(cell)]
    assert len(drawn) == 2


def test_the_outputs_it_comes_with_are_those_of_a_run(committed, executed):
    cells, fresh_cells = code_cells(committed), code_cells(executed[0])
    for cell, fresh in zip(cells, fresh_cells, strict=True):
        assert kinds(cell) == kinds(fresh), RENEW
    shown, fresh = (printed_numbers(one) for one in (committed, executed[0]))
    assert len(fresh) == 20
    # Elsewhere sums are rounded in another order, and training magnifies it.
    assert shown == pytest.approx(fresh, abs=0.05)


def printed_numbers(notebook):
    """Returns all numbers with three decimals, which are losses and distances."""
    text = "".join(
        output.text
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.get("name") == "stdout"
    )
    return [float(number) for number in re.findall(r"\d\.\d{3}\b", text)]


def test_it_comes_without_warnings_and_paths_of_a_machine(committed):
    for cell in code_cells(committed):
        for output in cell.outputs:
            assert "execution" not in cell.metadata
            lines = output.get("text", "").splitlines()
            if output.get("name") == "stderr":
                assert lines
                assert all(line.startswith("100%|") for line in lines), lines
            assert not any(re.search(r"(?<![\w.])/\w+/", line) for line in lines)
