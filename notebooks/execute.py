"""Runs the notebook in a fresh kernel, and keeps what it prints and draws.

    python notebooks/execute.py

To be run, from the repository, when a code cell has changed: the notebook also keeps a
hash of the code that its outputs are of.
"""

import hashlib
import os
import pathlib
from collections.abc import Mapping

import nbclient
import nbformat
from traitlets import config

NOTEBOOK = pathlib.Path(__file__).parent / "anytime.ipynb"
# Seconds for a cell, and for the kernel to remove its temporary folder at the end.
_TIMEOUT = 600


def execute(
    notebook: nbformat.NotebookNode, env: Mapping[str, str] | None = None
) -> None:
    """Runs all cells, in place, beside the notebook's file.

    Args:
      notebook: what `nbformat.read` returns.
      env: environment variables for the kernel, beside those of this process.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell has failed.
    """
    client = nbclient.NotebookClient(
        notebook,
        timeout=_TIMEOUT,
        config=config.Config(KernelManager={"shutdown_wait_time": _TIMEOUT}),
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(NOTEBOOK.parent)}},
    )
    client.execute(env={**os.environ, **(env or {})})


def code_hash(notebook: nbformat.NotebookNode) -> str:
    """Returns the SHA-256 of the code cells, which outputs are of."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


def main() -> None:
    """Renews the outputs of the notebook."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    execute(notebook)
    notebook.metadata["outputs_of"] = code_hash(notebook)
    notebook.metadata.language_info = {"name": "python"}  # not which version
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
