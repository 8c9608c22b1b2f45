import numpy as np
import pytest
from matplotlib import axes

from anytime_jax.reporting import memory


def _steps(monkeypatch, tmp_path, kernels):
    """What is drawn as steps: values and edges, by name."""
    drawn, stairs = {}, axes.Axes.stairs

    def keep(self, values, edges, **how):
        drawn[how["label"]] = values, edges
        return stairs(self, values, edges, **how)

    monkeypatch.setattr(axes.Axes, "stairs", keep)
    memory.draw(kernels, tmp_path / "kernel.png")
    assert (tmp_path / "kernel.png").read_bytes().startswith(b"\x89PNG")
    return drawn


@pytest.mark.parametrize("last", [1, 7, 100, 101, 160, 199, 1234])
def test_a_smooth_kernel_is_no_saw_tooth(monkeypatch, tmp_path, last):
    flat_T1 = np.append(0.0, np.full(last, 1 / last))
    rising_T1 = np.arange(last + 1.0) / (last * (last + 1) / 2)
    kernels = {"flat": flat_T1, "rising": rising_T1}
    drawn = _steps(monkeypatch, tmp_path, kernels)
    values, edges = drawn["flat"]
    np.testing.assert_allclose(values, values[-1])
    widths = np.diff(edges)
    assert (edges[0], edges[-1]) == (0.5, last + 0.5)
    assert len(widths) <= 100
    assert (widths[1:] == widths[-1]).all()
    assert 1 <= widths[0] <= widths[-1]
    assert (widths == widths.round()).all()
    assert (np.diff(drawn["rising"][0]) > 0).all()


def test_all_of_a_kernel_is_drawn(monkeypatch, tmp_path):
    kernel_T1 = np.random.default_rng(0).dirichlet(np.ones(151))
    values, edges = _steps(monkeypatch, tmp_path, {"some": kernel_T1})["some"]
    assert values @ (np.diff(edges) / np.diff(edges)[-1]) == pytest.approx(1)
    # The initial weights count with the first updates.
    assert values[0] == pytest.approx(kernel_T1[:3].sum())


def test_the_table_says_what_its_last_columns_are():
    header, line, empty, note = memory.to_text({"one": np.full(5, 0.2)}).splitlines()
    assert header.split()[-7:-6] == ["initial"]
    assert line.split()[0] == "one"
    assert empty == ""
    assert note.startswith("initial: the share of the weights it started from; decay ")
