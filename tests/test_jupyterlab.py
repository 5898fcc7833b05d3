"""The explorer in a real JupyterLab and browser: it renders, sliders change it, the class list takes the arrow keys."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="JupyterLab is driven with a notebook, which needs nbformat")
pytest.importorskip("ipywidgets", reason="the explorer needs ipywidgets, which is not installed")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
START = 60  # seconds JupyterLab may take to answer
WAIT = 60_000  # milliseconds the page may take for anything
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync")  # fmt: skip
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CELL = """\
import numpy, torch, grad_cam
from PIL import Image
from tests.conftest import TinyNet
torch.manual_seed(1)
model = TinyNet().eval()
model.class_names = ["tabby", "tiger cat", "dog", "fish", "bird", "catfish", "horse"]
y, x = numpy.mgrid[0:64, 0:96]
photo = Image.fromarray(numpy.stack([4 * x, 4 * y, 255 - 2 * (x + y)], -1).clip(0, 255).astype(numpy.uint8))
explorer = grad_cam.explore(model, photo, input_size=64)
explorer
"""
PIXELS = """() => {
    const img = document.querySelector('.gradcam-picture img'), canvas = document.createElement('canvas');
    if (!img || !img.complete || !img.naturalWidth || document.querySelector('.gradcam-busy')) return '';
    [canvas.width, canvas.height] = [img.naturalWidth, img.naturalHeight];
    canvas.getContext('2d').drawImage(img, 0, 0);
    return canvas.toDataURL();
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a notebook with one cell in a JupyterLab of its own, without the user's settings."""
    if importlib.util.find_spec("jupyterlab") is None:
        pytest.skip("JupyterLab is not installed")
    home = tmp_path_factory.mktemp("jupyterlab")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (home / "work").mkdir()
    nbformat.write(book, home / "work" / "explorer.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    settings = {"HOME": home, "PYTHONPATH": ROOT, "JUPYTER_NO_CONFIG": "1", "IPYTHONDIR": home / "ipython"}
    settings |= {f"JUPYTER_{kind}_DIR": home / kind for kind in ("CONFIG", "DATA", "RUNTIME")}
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={home / 'work'}",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    log = home / "log.txt"
    with log.open("wb") as file:
        server = subprocess.Popen(
            command, env={**os.environ, **{k: str(v) for k, v in settings.items()}}, stdout=file, stderr=file
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/api?token={token}", server, log)
        yield f"http://127.0.0.1:{port}/lab/tree/explorer.ipynb?token={token}&reset"
    finally:
        server.terminate()
        server.wait(START)


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = monotonic() + START
    while monotonic() < end and server.poll() is None:
        with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(url, timeout=5):
            return
        sleep(0.3)
    pytest.fail(f"JupyterLab does not answer: {log.read_text(errors='replace')[-2000:]}")


@pytest.fixture(scope="module")
def page(lab: str) -> Iterator[Any]:
    """The notebook, its cell run, with the explorer's picture shown."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright")
    if CHROMIUM is None:
        pytest.skip("browser tests need chromium, which is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(WAIT)
        page.goto(lab)
        page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.click()
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(state="attached")
        page.keyboard.press("Shift+Enter")
        shown(page, "Automatic")
        yield page
        browser.close()


def changed(page: Any, before: str) -> str:
    """The picture once it is another one than before."""
    other = f"before => {{ const now = ({PIXELS})(); return now === before ? '' : now; }}"
    return str(page.wait_for_function(other, arg=before).json_value())


def shown(page: Any, method: str) -> str:
    """The picture of a method, once its caption names it and nothing is computed any more."""
    page.locator(".gradcam-text", has_text=f"— {method}").first.wait_for()
    return str(page.wait_for_function(PIXELS).json_value())


def choose(page: Any, method: str) -> str:
    """Chooses a method; returns its picture."""
    page.locator(".gradcam-explorer select:not([size])").first.select_option(label=method)
    return shown(page, method)


def test_renders(page: Any) -> None:
    """The picture, its caption, all controls and the code are there, side by side, without an error."""
    explorer = page.locator(".gradcam-explorer")
    for label in ("Layer", "Method", "Class", "Threshold", "Smoothing", "Opacity", "Colours"):
        assert explorer.locator(".widget-label", has_text=label).first.is_visible()
    assert "Grad-CAM" in explorer.inner_text() and "grad_cam.GradCAM(" in explorer.locator("pre").inner_text()
    assert "smoothing" not in explorer.locator("pre").inner_text()  # no slider has moved
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    assert "67 % of the photo was used" in explorer.inner_text() and explorer.locator(".gradcam-used img").is_visible()
    image = explorer.locator(".gradcam-picture img").bounding_box()
    select = explorer.locator("select").first.bounding_box()
    assert image["width"] > 200 and image["x"] + image["width"] <= select["x"]


def test_the_layer_slider_comes_with_a_method_of_layers(page: Any) -> None:
    """Opened with auto the slider cannot be moved, and a line says what to choose; with Grad-CAM it can."""
    before, slider = shown(page, "Automatic"), page.locator(".gradcam-explorer .noUi-target").first
    assert slider.get_attribute("disabled") is not None
    assert "Grad-CAM, have layers to choose" in page.locator(".gradcam-explorer").inner_text()
    assert choose(page, "Grad-CAM") != before
    assert slider.get_attribute("disabled") is None
    assert "layers to choose" not in page.locator(".gradcam-explorer").inner_text()


@pytest.mark.parametrize("place, name", [(0, "layer"), (1, "threshold"), (3, "opacity")])
def test_sliders_change_the_picture(page: Any, place: int, name: str) -> None:
    """A step of a slider with the keyboard gives another picture, and the step back the first one."""
    before = choose(page, "Grad-CAM")
    handle = page.locator(".gradcam-explorer .noUi-handle").nth(place)
    handle.focus()
    steps, there, back = (1, "ArrowLeft", "ArrowRight") if name == "layer" else (4, "ArrowRight", "ArrowLeft")
    for _ in range(steps):
        page.keyboard.press(there)
    after = changed(page, before)
    for _ in range(steps):
        page.keyboard.press(back)
    page.wait_for_function(f"before => ({PIXELS})() === before", arg=before)
    assert after != before


def test_the_class_list_takes_the_arrow_keys(page: Any) -> None:
    """With the class list focused the arrows choose a class, and JupyterLab stays at its cell."""
    page.keyboard.press("Escape")
    before = choose(page, "Grad-CAM")
    cell = page.locator(".jp-Notebook .jp-Cell.jp-mod-active").get_attribute("data-windowed-list-index")
    chosen = page.locator(".gradcam-explorer select[size]")
    first = chosen.evaluate("list => list.selectedIndex")
    chosen.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    changed(page, before)
    assert chosen.evaluate("list => list.selectedIndex") == first + 2
    assert chosen.evaluate("list => document.activeElement === list")
    assert page.locator(".jp-Notebook .jp-Cell.jp-mod-active").get_attribute("data-windowed-list-index") == cell
    label = chosen.evaluate("list => list.selectedOptions[0].text").split("  ·  ")[0]
    assert label in page.locator(".gradcam-explorer").inner_text()
