"""The notebook explorer, driven in-process: no browser, no kernel, but the real widgets and threads."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import grad_cam
from grad_cam import rendering
from grad_cam.interfaces import notebook
from grad_cam.interfaces.notebook import LastWins, inspect

pytest.importorskip("ipywidgets")

LIMIT = 60  # seconds no computation here comes near
ROOT = Path(__file__).parents[1]


@pytest.fixture
def photo():
    """A picture with some structure, 64x64."""
    y, x = np.mgrid[0:64, 0:64]
    return Image.fromarray(np.stack([4 * x, 4 * y, 255 - 2 * (x + y)], -1).clip(0, 255).astype(np.uint8))


@pytest.fixture
def inspector(cnn, photo):
    """The explorer of the tiny network, settled and closed afterwards."""
    made = inspect(cnn, photo, input_size=64)
    assert made.wait(LIMIT)
    yield made
    made.close()


def pixels(inspector):
    return np.asarray(Image.open(io.BytesIO(inspector.picture.value)))


def counted(inspector, monkeypatch):
    """Counts the maps computed from now on."""
    calls = []
    compute = inspector._worker._compute
    monkeypatch.setattr(inspector._worker, "_compute", lambda choice: calls.append(choice) or compute(choice))
    return calls


# --------------------------------------------------------------------------------------------------------- LastWins


class Gates:
    """A computation that waits to be let through, key by key."""

    def __init__(self):
        self.opened = {key: threading.Event() for key in "abc"}
        self.begun = {key: threading.Event() for key in "abc"}
        self.told, self.runs = [], []

    def compute(self, key):
        self.runs.append(key)
        self.begun[key].set()
        assert self.opened[key].wait(LIMIT)
        if key == "c":
            raise ValueError("c cannot be computed")
        return {key: key.upper()}

    def tell(self, outcome):
        self.told.append((outcome.status, outcome.key, outcome.value or str(outcome.error or "")))


def test_last_request_wins():
    """A newer request does not queue behind an older one, and the older one's late result is never told."""
    gates = Gates()
    worker = LastWins(gates.compute, gates.tell)
    worker.ask("a")
    assert gates.begun["a"].wait(LIMIT) and worker.busy and not worker.wait(0.01)
    worker.ask("b")
    gates.opened["b"].set()
    assert worker.wait(LIMIT)
    gates.opened["a"].set()
    assert gates.told == [("busy", "a", ""), ("busy", "b", ""), ("ready", "b", "B")]
    assert gates.runs == ["a", "b"]


def test_known_values_are_told_at_once():
    """What was computed once is not computed again, also if it came too late to be told."""
    gates = Gates()
    worker = LastWins(gates.compute, gates.tell)
    for gate in gates.opened.values():
        gate.set()
    worker.ask("a")
    assert worker.wait(LIMIT)
    worker.ask("a")
    assert not worker.busy
    assert gates.told[-1] == ("ready", "a", "A") and gates.runs == ["a"]


def test_failures_are_told_and_do_not_stick():
    """An error is told where the value would have been, and the next request works."""
    gates = Gates()
    worker = LastWins(gates.compute, gates.tell)
    for gate in gates.opened.values():
        gate.set()
    worker.ask("c")
    assert worker.wait(LIMIT)
    assert gates.told[-1] == ("failed", "c", "c cannot be computed")
    worker.ask("b")
    assert worker.wait(LIMIT) and gates.told[-1] == ("ready", "b", "B")


def test_third_request_waits_for_a_thread():
    """With both threads taken, the last request is computed by the first that becomes free."""
    gates = Gates()
    worker = LastWins(gates.compute, gates.tell)
    worker.ahead("a")
    assert gates.begun["a"].wait(LIMIT)
    worker.ahead("c")
    assert gates.begun["c"].wait(LIMIT)
    worker.ask("b")
    assert not gates.begun["b"].wait(0.05)
    gates.opened["b"].set()
    gates.opened["c"].set()  # its failure concerns nobody
    assert worker.wait(LIMIT)
    gates.opened["a"].set()
    assert gates.told == [("busy", "b", ""), ("ready", "b", "B")]


def test_keys_of_a_group_are_computed_together():
    """Asking for a key whose group is under way waits for that computation and starts no other."""
    begun, go, runs, told = threading.Event(), threading.Event(), [], []

    def compute(key):
        runs.append(key)
        begun.set()
        assert go.wait(LIMIT)
        return {1: "one", 2: "two"}

    worker = LastWins(compute, told.append, group=lambda key: "all")
    worker.ask(1)
    assert begun.wait(LIMIT)
    worker.ask(2)
    go.set()
    assert worker.wait(LIMIT)
    assert told[-1].value == "two" and runs == [1]


def test_closing_ends_the_waiting():
    """A closed worker waits for its thread, tells nothing of what was under way and takes no more requests."""
    gates = Gates()
    worker = LastWins(gates.compute, gates.tell)
    worker.ask("a")
    assert gates.begun["a"].wait(LIMIT)
    assert not worker.close(0.05) and worker.stopping.is_set()
    assert worker.wait(LIMIT)
    threading.Timer(0.1, gates.opened["a"].set).start()
    assert worker.close() and gates.opened["a"].is_set()
    worker.ask("b")
    assert [status for status, *_ in gates.told] == ["busy"] and gates.runs == ["a"]


# --------------------------------------------------------------------------------------------------------- widgets


def test_opens_with_the_prediction(inspector, cnn):
    """The first picture is that of the default layer and the predicted class, over what the model sees."""
    one = inspector.explanation
    assert inspector.layer.value == grad_cam.chain(cnn, 64, depth=4).default_split().name == one.layer.name
    assert inspector.target.value == int(one.logits[0].argmax())
    heat = one.heatmap(threshold=1 / 8, smoothing=rendering.default_smoothing((64, 64)))[0]
    np.testing.assert_array_equal(pixels(inspector), np.asarray(rendering.overlay(one.pictures[0], heat)))


@pytest.mark.parametrize(
    "control, value",
    [("threshold", 0.6), ("smoothing", 0.0), ("alpha", 0.2), ("colormap", "viridis"), ("view", "heatmap")],
)
def test_display_controls_redraw_at_once(inspector, monkeypatch, control, value):
    """A display control changes the picture before it returns, computes nothing, and changes back."""
    calls, before = counted(inspector, monkeypatch), inspector.picture.value
    widget = getattr(inspector, control)
    old, widget.value = widget.value, value
    assert inspector.picture.value != before and not inspector.busy
    widget.value = old
    assert inspector.picture.value == before and not calls


def test_layers_show_their_own_map(inspector, cnn):
    """Every layer of the slider shows the map that `explain` gives there."""
    tensor = inspector.explanation.images
    for name in inspector.layer.options:
        inspector.layer.value = name
        assert inspector.wait(LIMIT)
        expected = grad_cam.explain(cnn, tensor, layer=name)
        assert inspector.explanation.layer.name == name
        torch.testing.assert_close(inspector.explanation.map, expected.map)


def test_layers_come_from_one_pass(inspector, monkeypatch):
    """Once one layer of a gradient method is known, all of them are."""
    inspector.method.value = "layer_cam"
    assert inspector.wait(LIMIT)
    calls = counted(inspector, monkeypatch)
    for name in inspector.layer.options:
        inspector.layer.value = name
        assert not inspector.busy
    assert not calls


@pytest.mark.parametrize("method", ["hires_cam", "ablation_cam", "eigen_cam", "full_grad"])
def test_the_call_makes_the_same_picture(inspector, cnn, photo, method):
    """Running the call that is shown gives the picture that is shown."""
    inspector.method.value = method
    inspector.layer.value = inspector.layer.options[2]
    inspector.target.value = 3
    inspector.threshold.value, inspector.alpha.value, inspector.colormap.value = 0.3, 0.45, "turbo"
    assert inspector.wait(LIMIT)
    made = {"grad_cam": grad_cam, "model": cnn, "image": photo}
    exec(inspector.call, made)
    cam = made["cam"]
    again = rendering.overlay(cam.picture, cam.heatmap, alpha=cam.alpha, colormap=cam.colormap)
    close = np.abs(np.asarray(again, np.int16) - pixels(inspector)) <= 1  # the sweep sums in another order
    assert close.all() and cam.method == method


def test_busy_is_seen_until_the_picture_is_there(inspector, monkeypatch):
    """While a map is computed the status says so, the picture stays, and display controls still work on it."""
    go, begun = threading.Event(), threading.Event()
    compute = inspector._worker._compute

    def slow(choice):
        begun.set()
        assert go.wait(LIMIT)
        return compute(choice)

    monkeypatch.setattr(inspector._worker, "_compute", slow)
    before = inspector.picture.value
    inspector.method.value = "eigen_cam"
    assert begun.wait(LIMIT) and inspector.busy
    assert "Computing Eigen-CAM" in inspector._status.value
    assert "gradcam-busy" in inspector._frame._dom_classes
    assert inspector.picture.value == before
    inspector.threshold.value = 0.5
    assert inspector.picture.value != before and inspector.explanation.method == "grad_cam"
    assert "'grad_cam'" in inspector.call  # what is shown, not what is awaited
    go.set()
    assert inspector.wait(LIMIT)
    assert inspector._status.value == "" and "gradcam-busy" not in inspector._frame._dom_classes
    assert inspector.explanation.method == "eigen_cam"


def test_a_method_that_does_not_fit_says_why(inspector):
    """A failure is written into the explorer, and another choice ends it."""
    inspector.method.value = "attention_rollout"
    assert inspector.wait(LIMIT)
    assert "gradcam-alert" in inspector._status.value and "Attention" in inspector._status.value
    inspector.method.value = "grad_cam"
    assert inspector.wait(LIMIT) and inspector._status.value == ""


def test_class_search(cnn, photo):
    """The search narrows the list, keeps the chosen class, computes nothing, and knows indices."""
    cnn.class_names = ["tabby cat", "tiger cat", "dog", "<b>", "fish", "bird", "catfish"]
    inspector = inspect(cnn, photo, input_size=64, target="dog")
    assert inspector.wait(LIMIT)
    order = inspector.explanation.logits[0].argsort(descending=True).tolist()
    assert [value for _, value in inspector.target.options] == order
    assert inspector.target.value == 2
    before = inspector.picture.value
    inspector.search.value = "CAT"
    assert sorted(value for _, value in inspector.target.options) == [0, 1, 6]
    assert inspector.target.value is None and inspector.picture.value == before and not inspector.busy
    inspector.layer.value = inspector.layer.options[0]
    assert inspector.wait(LIMIT) and inspector.explanation.target == [["dog"]]
    inspector.target.value = 6
    assert inspector.wait(LIMIT) and inspector.explanation.target == [["catfish"]]
    inspector.search.value = "3"
    assert [value for _, value in inspector.target.options] == [3]
    inspector.target.value = 3
    assert inspector.wait(LIMIT)
    assert "&lt;b&gt;" in inspector._caption.value  # names are text, not markup
    inspector.close()


def test_methods_without_class_or_layer(inspector):
    """Pickers that make no difference are disabled, and choices that differ only there are one."""
    inspector.method.value = "eigen_cam"
    assert inspector.wait(LIMIT) and inspector.target.disabled and not inspector.layer.disabled
    assert "class_idx" not in inspector.call
    inspector.method.value = "full_grad"
    assert inspector.wait(LIMIT) and inspector.layer.disabled and not inspector.target.disabled
    assert "layer_idx" not in inspector.call and "the whole network" in inspector._caption.value
    inspector.layer.value = inspector.layer.options[0]
    assert not inspector.busy


def test_a_target_of_ones_own(cnn, photo):
    """A target that is no class is offered beside the classes."""
    inspector = inspect(cnn, photo, input_size=64, target=grad_cam.targets.difference(1, 2))
    assert inspector.wait(LIMIT)
    assert inspector.target.options[0] == ("class 1 rather than class 2", "given")
    assert inspector.target.value == "given" and "class_idx=target" in inspector.call
    before = inspector.picture.value
    inspector.target.value = 1
    assert inspector.wait(LIMIT) and inspector.picture.value != before
    inspector.close()


def test_begins_where_it_is_told(cnn, vit, photo):
    """Layer, method and display settings of the call are those the explorer opens with; layer_idx counts stages."""
    inspector = inspect(cnn, photo, layer=5, method="layer_cam", threshold=0.2, alpha=0.4,
                        smoothing=0, colormap="magma", input_size=64)  # fmt: skip
    assert inspector.wait(LIMIT)
    assert (inspector.layer.value, inspector.explanation.method) == ("layer1.1", "layer_cam")
    assert "layer_idx=5" in inspector.call and "smoothing=0" in inspector.call
    inspector.close()
    inspector = inspect(vit, photo)
    assert inspector.wait(LIMIT)
    assert inspector.layer.value == "blocks.1"  # the gradient at the last block's patches is zero
    assert "blocks.2" not in inspector.layer.options
    inspector.close()
    inspector = inspect(cnn, photo, layers="stages", input_size=64)
    assert "layer1" in inspector.layer.options and "layer1.0" not in inspector.layer.options
    inspector.close()
    inspector = inspect(cnn, photo, layers=["layer1.0", "layer2"], input_size=64)
    assert inspector.layer.options == ("layer1.0", "layer2")
    inspector.layer.value = "layer1.0"
    assert inspector.wait(LIMIT) and inspector.explanation.layer.name == "layer1.0"
    inspector.close()


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"method": "grad_kam"}, "grad_cam"),
        ({"method": "deep_feature_factorization"}, "several"),
        ({"layers": "all"}, "blocks"),
        ({"layers": []}, "at least one"),
        ({"threshold": 1.0}, "threshold"),
        ({"smoothing": -1}, "smoothing"),
        ({"alpha": 2}, "alpha"),
        ({"colormap": "viridid"}, "viridis"),
        ({"target": 99}, "0..6"),
        ({"target": grad_cam.targets.top(2)}, "2 maps"),
        ({"layers": ["layer1"], "layer": "layer2"}, "layers="),
    ],
)
def test_wrong_settings(cnn, photo, settings, words):
    """A wrong setting is refused before anything is shown, with words that help."""
    with pytest.raises(ValueError, match=words):
        inspect(cnn, photo, **{"input_size": 64, **settings})


def test_a_layer_as_numpy_counts_it(cnn, photo):
    """A whole number of numpy is a layer like any other."""
    found, wanted = (inspect(cnn, photo, input_size=64, layer=layer) for layer in (np.int64(3), 3))
    assert found.explanation.layer == wanted.explanation.layer


def test_a_model_without_layers_to_show(photo):
    """A model without a spatial layer is refused with the reason."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64 * 64 * 3, 4))
    with pytest.raises(ValueError, match="map"):
        inspect(model, photo, input_size=64)


def test_the_extra_is_named(cnn, photo, monkeypatch):
    """Without ipywidgets the error says what to install."""
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match=r"gradcam-layers\[notebook\]"):
        grad_cam.inspect(cnn, photo, input_size=64)


def test_closed_in_the_middle(inspector, monkeypatch):
    """An explorer closed while it computes waits for its threads and raises nowhere."""
    go = threading.Event()
    compute = inspector._worker._compute
    monkeypatch.setattr(inspector._worker, "_compute", lambda choice: go.wait(LIMIT) and compute(choice))
    failures = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    inspector.method.value = "ablation_cam"
    running = [t for t in threading.enumerate() if t.name == "grad_cam.inspect"]
    threading.Timer(0.1, go.set).start()
    inspector.close()
    assert inspector._worker.close(0)
    for thread in running:
        thread.join(LIMIT)
    assert running and not failures


def test_closing_stops_a_long_computation(inspector, monkeypatch):
    """A method of many steps stops at its next step when the explorer is closed."""
    steps, begun = [], threading.Event()
    real = notebook.explain

    def slow(*args, progress, **rest):
        for done in range(1000):
            begun.set()
            steps.append(done)
            time.sleep(0.02)
            progress(done, 1000)
        return real(*args, progress=progress, **rest)

    monkeypatch.setattr(notebook, "explain", slow)
    inspector.method.value = "score_cam"
    assert begun.wait(LIMIT)
    inspector.close()
    assert len(steps) < 1000 and inspector._worker.close(0)


@pytest.mark.parametrize("method", ["grad_cam", "ablation_cam"])
def test_a_script_that_opens_an_explorer_ends_cleanly(method, tmp_path):
    """A plain script may end while the explorer still computes."""
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy, torch, grad_cam\nfrom tests.conftest import TinyNet\n"
        "from PIL import Image\nphoto = Image.fromarray(numpy.zeros((640, 640, 3), numpy.uint8))\n"
        f"grad_cam.inspect(TinyNet().eval(), photo, input_size=1024).method.value = {method!r}\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_shown_by_a_notebook(inspector):
    """The object displays as its widget."""
    assert "application/vnd.jupyter.widget-view+json" in inspector._repr_mimebundle_()
    assert bytes(inspector.picture.value[:4]) == b"\x89PNG"


def test_a_chain_counts_its_own_stages(cnn, photo):
    """Given a chain, the slider has its stages, and the call counts layer_idx as the chain does."""
    links = grad_cam.chain(cnn, 64, depth=2)
    inspector = inspect(links, photo, input_size=64, layer=len(links) - 3)
    assert inspector.wait(LIMIT)
    name = inspector.layer.value
    made = {"grad_cam": grad_cam, "model": links, "image": photo}
    exec(inspector.call, made)
    assert made["cam"].explanation.layer.name == name == links.names[2]
    torch.testing.assert_close(made["cam"].explanation.map, inspector.explanation.map)
    inspector.close()


def test_lists_keep_the_arrow_keys(inspector):
    """Once the explorer is shown in a browser, its lists ask JupyterLab to leave them the keys."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("browser tests need chromium, which is not installed")
    assert "gradcam-explorer" in inspector.widget._dom_classes
    text = inspector.widget.children[0].value
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_content(
            f'<div class="gradcam-explorer"><div>{text}</div><select size="6"></select></div><select></select>'
        )
        page.wait_for_selector('select[data-lm-suppress-shortcuts="true"]')
        assert page.locator("select[data-lm-suppress-shortcuts]").count() == 1
        browser.close()
