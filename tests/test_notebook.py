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
from grad_cam import METHODS, explore, rendering
from grad_cam.interfaces.notebook import Choice, Explorer, ExplorerState, LatestRequests, state
from grad_cam.interfaces.notebook.widgets import Stopped

pytest.importorskip("ipywidgets")

LIMIT = 60  # seconds no computation here comes near
ROOT = Path(__file__).parents[1]


@pytest.fixture
def photo():
    """A picture with some structure, 64x64."""
    y, x = np.mgrid[0:64, 0:64]
    return Image.fromarray(np.stack([4 * x, 4 * y, 255 - 2 * (x + y)], -1).clip(0, 255).astype(np.uint8))


@pytest.fixture
def explorer(cnn, photo):
    """The explorer of the tiny network, settled and closed afterwards."""
    made = explore(cnn, photo, input_size=64, method="grad_cam")
    assert made.wait(LIMIT)
    yield made
    made.close()


def pixels(explorer):
    return np.asarray(Image.open(io.BytesIO(explorer.picture.value)))


def counted(explorer, monkeypatch):
    """Counts the maps computed from now on."""
    calls = []
    compute = explorer._requests._compute
    monkeypatch.setattr(explorer._requests, "_compute", lambda choice: calls.append(choice) or compute(choice))
    return calls


# -------------------------------------------------------------------------------------------------- LatestRequests


class Gates:
    """A computation that waits to be let through, key by key."""

    def __init__(self, opened=""):
        self.opened = {key: threading.Event() for key in "abc"}
        self.begun = {key: threading.Event() for key in "abc"}
        self.reported, self.runs = [], []
        for key in opened:
            self.opened[key].set()

    def compute(self, key):
        self.runs.append(key)
        self.begun[key].set()
        assert self.opened[key].wait(LIMIT)
        if key == "c":
            raise ValueError("c cannot be computed")
        return {key: key.upper()}

    def report(self, outcome):
        self.reported.append((outcome.status, outcome.key, outcome.value or str(outcome.error or "")))


def test_last_request_wins():
    """A newer request does not queue behind an older one, and the older one's late result is never reported."""
    gates = Gates()
    requests = LatestRequests(gates.compute, gates.report)
    requests.request("a")
    assert gates.begun["a"].wait(LIMIT) and requests.busy and not requests.wait(0.01)
    requests.request("b")
    gates.opened["b"].set()
    assert requests.wait(LIMIT)
    gates.opened["a"].set()
    assert gates.reported == [("busy", "a", ""), ("busy", "b", ""), ("ready", "b", "B")]
    assert gates.runs == ["a", "b"]


def test_known_values_are_reported_at_once():
    """What was computed once is not computed again, also if it came too late to be reported."""
    gates = Gates(opened="abc")
    requests = LatestRequests(gates.compute, gates.report)
    requests.request("a")
    assert requests.wait(LIMIT)
    requests.request("a")
    assert not requests.busy
    assert gates.reported[-1] == ("ready", "a", "A") and gates.runs == ["a"]


def test_failures_are_reported_and_do_not_stick():
    """An error is reported where the value would have been, and the next request works."""
    gates = Gates(opened="abc")
    requests = LatestRequests(gates.compute, gates.report)
    requests.request("c")
    assert requests.wait(LIMIT)
    assert gates.reported[-1] == ("failed", "c", "c cannot be computed")
    requests.request("b")
    assert requests.wait(LIMIT) and gates.reported[-1] == ("ready", "b", "B")


def test_third_request_waits_for_a_thread():
    """With both threads taken, the last request is computed by the first that becomes free."""
    gates = Gates()
    requests = LatestRequests(gates.compute, gates.report)
    requests.request("a")
    assert gates.begun["a"].wait(LIMIT)
    requests.request("c")
    assert gates.begun["c"].wait(LIMIT)
    requests.request("b")
    assert not gates.begun["b"].wait(0.05)
    gates.opened["b"].set()
    gates.opened["c"].set()  # its failure concerns nobody
    assert requests.wait(LIMIT)
    gates.opened["a"].set()
    assert gates.reported == [("busy", "a", ""), ("busy", "c", ""), ("busy", "b", ""), ("ready", "b", "B")]


def test_keys_of_a_group_are_computed_together():
    """Asking for a key whose group is under way waits for that computation and starts no other."""
    begun, go, runs, reported = threading.Event(), threading.Event(), [], []

    def compute(key):
        runs.append(key)
        begun.set()
        assert go.wait(LIMIT)
        return {1: "one", 2: "two"}

    requests = LatestRequests(compute, reported.append, group=lambda key: "all")
    requests.request(1)
    assert begun.wait(LIMIT)
    requests.request(2)
    go.set()
    assert requests.wait(LIMIT)
    assert reported[-1].value == "two" and runs == [1]


def test_closing_ends_the_waiting():
    """A closed one waits for its thread, reports nothing of what was under way and takes no more requests."""
    gates = Gates()
    requests = LatestRequests(gates.compute, gates.report)
    requests.request("a")
    assert gates.begun["a"].wait(LIMIT)
    assert not requests.close(0.05) and requests.closed
    assert requests.wait(LIMIT)
    threading.Timer(0.1, gates.opened["a"].set).start()
    assert requests.close() and gates.opened["a"].is_set()
    requests.request("b")
    assert [status for status, *_ in gates.reported] == ["busy"] and gates.runs == ["a"]


# ----------------------------------------------------------------------------------------------------------- state


UNFIT = {
    "cnn": {"attention_rollout", "gradient_rollout", "le_grad"},
    "vit": {"guided_backprop", "guided_grad_cam"},
}


@pytest.mark.parametrize("model", UNFIT)
@pytest.mark.parametrize("method", METHODS)
def test_every_method(method, model, photo, request):
    """Every method gives in the explorer the map that `explain` gives, or one sentence that says why not."""
    net = request.getfixturevalue(model)
    opened = ExplorerState(net, photo, input_size=64)
    choice = opened.canonical(Choice(next(iter(opened.layers)), method, 3))
    scope = METHODS[method].scope
    assert (choice.layer is None) == (scope != "layer")
    if METHODS[method].gives != "map":
        with pytest.raises(ValueError, match=f"each concept.*explain.*{method}"):
            opened.compute(choice)
        return
    try:
        expected = grad_cam.explain(net, opened._tensor, method=method, layer=choice.layer, target=choice.target)
    except ValueError as error:  # attention without a transformer, guided backpropagation without ReLU
        assert method in UNFIT[model]
        with pytest.raises(type(error)) as raised:
            opened.compute(choice)
        assert str(raised.value) == str(error)
        return
    assert method not in UNFIT[model]
    shown = opened.compute(choice)[choice]
    torch.testing.assert_close(shown.map, expected.map)
    assert shown.layer.name == (choice.layer or expected.layer.name)
    assert opened.render(shown, rendering.Display(0.1, 0.0, 0.5, "bgr")).size == photo.size


# --------------------------------------------------------------------------------------------------------- widgets


def test_opens_with_auto(cnn, photo):
    """The first map is that of auto, whose caption says what it is; with a layer it is Grad-CAM there."""
    made = explore(cnn, photo, input_size=64)
    assert made.wait(LIMIT) and made.method.value == "auto" and made.layer.disabled
    expected = grad_cam.explain(cnn, made.explanation.images, method="auto")
    assert made.explanation.layer == expected.layer and expected.layer.name in made._caption.value
    torch.testing.assert_close(made.explanation.map, expected.map)
    room = {"grad_cam": grad_cam, "model": cnn, "image": photo}
    exec(made.call, room)
    torch.testing.assert_close(room["cam"].explanation.map, expected.map)
    made.method.value = "grad_cam"
    assert made.wait(LIMIT) and not made.layer.disabled
    made.close()
    at = explore(cnn, photo, input_size=64, layer="layer1")
    assert at.wait(LIMIT) and at.explanation.method == "grad_cam"
    at.close()


def test_opens_with_the_prediction(explorer, cnn):
    """The first picture is that of the default layer and the predicted class, over what the model sees."""
    one = explorer.explanation
    assert explorer.layer.value == grad_cam.chain(cnn, 64, depth=4).default_split().name == one.layer.name
    assert explorer.target.value == int(one.logits[0].argmax())
    heat = one.heatmap(threshold=1 / 8, smoothing=rendering.default_smoothing((64, 64)))[0]
    np.testing.assert_array_equal(
        pixels(explorer), np.asarray(rendering.overlay(one.pictures[0], heat, colormap=rendering.Display().colormap))
    )


def test_opens_in_colours_that_get_lighter(explorer):
    """The colours are those of results and of the page, readable without colour; those of `GradCAM` can be chosen."""
    lightness = rendering.palette(explorer.colormap.value).astype(int) @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness) > -1).all() and explorer.colormap.value == rendering.Display().colormap
    assert "bgr" in explorer.colormap.options and f"colormap={explorer.colormap.value!r}" in explorer.call


@pytest.mark.parametrize(
    "control, value",
    [
        ("threshold", 0.6),
        ("smoothing", 0.0),
        ("alpha", 0.2),
        ("colormap", "viridis"),
        ("view", "heatmap"),
        ("view", "signed"),
    ],
)
def test_display_controls_redraw_at_once(explorer, monkeypatch, control, value):
    """A display control changes the picture before it returns, computes nothing, and changes back."""
    calls, before = counted(explorer, monkeypatch), explorer.picture.value
    widget = getattr(explorer, control)
    old, widget.value = widget.value, value
    assert explorer.picture.value != before and not explorer.busy
    widget.value = old
    assert explorer.picture.value == before and not calls


def test_layers_show_their_own_map(explorer, cnn):
    """Every layer of the slider shows the map that `explain` gives there."""
    tensor = explorer.explanation.images
    for name in explorer.layer.options:
        explorer.layer.value = name
        assert explorer.wait(LIMIT)
        expected = grad_cam.explain(cnn, tensor, layer=name)
        assert explorer.explanation.layer.name == name
        torch.testing.assert_close(explorer.explanation.map, expected.map)


def test_layers_come_from_one_pass(explorer, monkeypatch):
    """Once one layer of a gradient method is known, all of them are."""
    explorer.method.value = "layer_cam"
    assert explorer.wait(LIMIT)
    calls = counted(explorer, monkeypatch)
    for name in explorer.layer.options:
        explorer.layer.value = name
        assert not explorer.busy
    assert not calls


@pytest.mark.parametrize("method", ["hires_cam", "ablation_cam", "eigen_cam", "full_grad"])
def test_the_call_makes_the_same_picture(explorer, cnn, photo, method):
    """Running the call that is shown gives the picture that is shown."""
    explorer.method.value = method
    explorer.layer.value = explorer.layer.options[2]
    explorer.target.value = 3
    explorer.threshold.value, explorer.alpha.value, explorer.colormap.value = 0.3, 0.45, "turbo"
    assert explorer.wait(LIMIT)
    made = {"grad_cam": grad_cam, "model": cnn, "image": photo}
    exec(explorer.call, made)
    cam = made["cam"]
    again = rendering.overlay(cam.picture, cam.heatmap, alpha=cam.alpha, colormap=cam.colormap)
    close = np.abs(np.asarray(again, np.int16) - pixels(explorer)) <= 1  # the sweep sums in another order
    assert close.all() and cam.method == method


def test_busy_is_seen_until_the_picture_is_there(explorer, monkeypatch):
    """While a map is computed the status says so, the picture stays, and display controls still work on it."""
    go, begun = threading.Event(), threading.Event()
    compute = explorer._requests._compute

    def slow(choice):
        begun.set()
        assert go.wait(LIMIT)
        return compute(choice)

    monkeypatch.setattr(explorer._requests, "_compute", slow)
    before = explorer.picture.value
    explorer.method.value = "eigen_cam"
    assert begun.wait(LIMIT) and explorer.busy
    assert "Computing Eigen-CAM" in explorer._status.value
    assert "gradcam-busy" in explorer._frame._dom_classes
    assert explorer.picture.value == before
    explorer.threshold.value = 0.5
    assert explorer.picture.value != before and explorer.explanation.method == "grad_cam"
    assert "'grad_cam'" in explorer.call  # what is shown, not what is awaited
    go.set()
    assert explorer.wait(LIMIT)
    assert explorer._status.value == "" and "gradcam-busy" not in explorer._frame._dom_classes
    assert explorer.explanation.method == "eigen_cam"


def test_a_method_that_does_not_fit_says_why(explorer):
    """A failure is written into the explorer, and another choice ends it."""
    explorer.method.value = "attention_rollout"
    assert explorer.wait(LIMIT)
    assert "gradcam-alert" in explorer._status.value and "Attention" in explorer._status.value
    explorer.method.value = "grad_cam"
    assert explorer.wait(LIMIT) and explorer._status.value == ""


def test_class_search(cnn, photo):
    """The search narrows the list, keeps the chosen class, computes nothing, and knows indices."""
    cnn.class_names = ["tabby cat", "tiger cat", "dog", "<b>", "fish", "bird", "catfish"]
    explorer = explore(cnn, photo, input_size=64, target="dog")
    assert explorer.wait(LIMIT)
    order = explorer.explanation.logits[0].argsort(descending=True).tolist()
    assert [value for _, value in explorer.target.options] == order
    assert explorer.target.value == 2
    before = explorer.picture.value
    explorer.search.value = "CAT"
    assert sorted(value for _, value in explorer.target.options) == [0, 1, 6]
    assert explorer.target.value is None and explorer.picture.value == before and not explorer.busy
    explorer.layer.value = explorer.layer.options[0]
    assert explorer.wait(LIMIT) and explorer.explanation.target == (("dog",),)
    explorer.target.value = 6
    assert explorer.wait(LIMIT) and explorer.explanation.target[0][0] == "catfish"
    explorer.search.value = "3"
    assert [value for _, value in explorer.target.options] == [3]
    explorer.target.value = 3
    assert explorer.wait(LIMIT)
    assert "&lt;b&gt;" in explorer._caption.value  # names are text, not markup
    explorer.close()


def test_methods_without_class_or_layer(explorer):
    """Pickers that make no difference are disabled, and choices that differ only there are one."""
    explorer.method.value = "eigen_cam"
    assert explorer.wait(LIMIT) and explorer.target.disabled and not explorer.layer.disabled
    assert "class_idx" not in explorer.call
    explorer.method.value = "full_grad"
    assert explorer.wait(LIMIT) and explorer.layer.disabled and not explorer.target.disabled
    assert "layer_idx" not in explorer.call and "the whole network" in explorer._caption.value
    explorer.layer.value = explorer.layer.options[0]
    assert not explorer.busy


def test_a_target_of_ones_own(cnn, photo):
    """A target that is no class is offered beside the classes."""
    explorer = explore(cnn, photo, input_size=64, target=grad_cam.targets.difference(1, 2))
    assert explorer.wait(LIMIT)
    assert explorer.target.options[0] == ("class 1 rather than class 2", "given")
    assert explorer.target.value == "given" and "class_idx=target" in explorer.call
    before = explorer.picture.value
    explorer.target.value = 1
    assert explorer.wait(LIMIT) and explorer.picture.value != before
    explorer.close()


def test_begins_where_it_is_asked_to(cnn, vit, photo):
    """Layer, method and display settings of the call are those the explorer opens with; layer_idx counts stages."""
    explorer = explore(cnn, photo, layer=5, method="layer_cam", threshold=0.2, alpha=0.4,
                        smoothing=0, colormap="magma", input_size=64)  # fmt: skip
    assert explorer.wait(LIMIT)
    assert (explorer.layer.value, explorer.explanation.method) == ("layer1.1", "layer_cam")
    assert "layer_idx=5" in explorer.call and "smoothing=0" in explorer.call
    explorer.close()
    explorer = explore(vit, photo)
    assert explorer.wait(LIMIT)
    assert explorer.layer.value == "blocks.1"  # the gradient at the last block's patches is zero
    assert "blocks.2" not in explorer.layer.options
    explorer.close()
    explorer = explore(cnn, photo, layers="stages", input_size=64)
    assert "layer1" in explorer.layer.options and "layer1.0" not in explorer.layer.options
    explorer.close()
    explorer = explore(cnn, photo, layers=["layer1.0", "layer2"], input_size=64)
    assert explorer.layer.options == ("layer1.0", "layer2")
    explorer.layer.value = "layer1.0"
    assert explorer.wait(LIMIT) and explorer.explanation.layer.name == "layer1.0"
    explorer.close()


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
        explore(cnn, photo, **{"input_size": 64, **settings})


def test_a_layer_as_numpy_counts_it(cnn, photo):
    """A whole number of numpy is a layer like any other."""
    found, wanted = (explore(cnn, photo, input_size=64, layer=layer) for layer in (np.int64(3), 3))
    assert found.explanation.layer == wanted.explanation.layer


def test_a_model_without_layers_to_show(photo):
    """A model without a spatial layer is refused with the reason."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64 * 64 * 3, 4))
    with pytest.raises(ValueError, match="map"):
        explore(model, photo, input_size=64)


def test_the_extra_is_named(cnn, photo, monkeypatch):
    """Without ipywidgets the error says what to install."""
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match=r"gradcam-layers\[notebook\]"):
        grad_cam.explore(cnn, photo, input_size=64)


def test_closed_in_the_middle(explorer, monkeypatch):
    """An explorer closed while it computes waits for its threads and raises nowhere."""
    go = threading.Event()
    compute = explorer._requests._compute
    monkeypatch.setattr(explorer._requests, "_compute", lambda choice: go.wait(LIMIT) and compute(choice))
    failures = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    explorer.method.value = "ablation_cam"
    running = [t for t in threading.enumerate() if t.name.startswith("grad_cam.explore")]
    threading.Timer(0.1, go.set).start()
    explorer.close()
    assert explorer._requests.close(0)
    for thread in running:
        thread.join(LIMIT)
    assert running and not failures


def test_closing_stops_a_long_computation(explorer, monkeypatch):
    """A method of many steps stops at its next step when the explorer is closed."""
    steps, begun = [], threading.Event()
    real = state.explain

    def slow(*args, progress, **rest):
        for done in range(1000):
            begun.set()
            steps.append(done)
            time.sleep(0.02)
            progress(done, 1000)
        return real(*args, progress=progress, **rest)

    monkeypatch.setattr(state, "explain", slow)
    explorer.method.value = "score_cam"
    assert begun.wait(LIMIT)
    explorer.close()
    assert len(steps) < 1000 and explorer._requests.close(0)


@pytest.mark.parametrize("method", ["grad_cam", "ablation_cam"])
def test_a_script_that_opens_an_explorer_ends_cleanly(method, tmp_path):
    """A plain script may end while the explorer still computes."""
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy, torch, grad_cam\nfrom tests.conftest import TinyNet\n"
        "from PIL import Image\nphoto = Image.fromarray(numpy.zeros((640, 640, 3), numpy.uint8))\n"
        f"grad_cam.explore(TinyNet().eval(), photo, input_size=1024).method.value = {method!r}\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_shown_by_a_notebook(explorer):
    """The object displays as its widget."""
    assert "application/vnd.jupyter.widget-view+json" in explorer._repr_mimebundle_()
    assert bytes(explorer.picture.value[:4]) == b"\x89PNG"


def test_a_chain_counts_its_own_stages(cnn, photo):
    """Given a chain, the slider has its stages, and the call counts layer_idx as the chain does."""
    links = grad_cam.chain(cnn, 64, depth=2)
    explorer = explore(links, photo, input_size=64, layer=len(links) - 3)
    assert explorer.wait(LIMIT)
    name = explorer.layer.value
    made = {"grad_cam": grad_cam, "model": links, "image": photo}
    exec(explorer.call, made)
    assert made["cam"].explanation.layer.name == name == links.names[2]
    torch.testing.assert_close(made["cam"].explanation.map, explorer.explanation.map)
    explorer.close()


def test_lists_keep_the_arrow_keys(explorer):
    """Once the explorer is shown in a browser, its lists ask JupyterLab to leave them the keys."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("browser tests need chromium, which is not installed")
    assert "gradcam-explorer" in explorer.widget._dom_classes
    text = explorer.widget.children[0].value
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_content(
            f'<div class="gradcam-explorer"><div>{text}</div><select size="6"></select></div><select></select>'
        )
        page.wait_for_selector('select[data-lm-suppress-shortcuts="true"]')
        assert page.locator("select[data-lm-suppress-shortcuts]").count() == 1
        browser.close()


def test_names(explorer):
    """`explore` is the name; `inspect` reaches the same and is left out of `import *`, which would hide the module."""
    assert grad_cam.inspect is grad_cam.explore is explore
    assert "explore" in grad_cam.__all__ and "inspect" not in grad_cam.__all__
    assert isinstance(explorer, Explorer)


def test_progress_is_shown_and_stops(explorer):
    """Methods of many steps show how much of the latest request is done, and stop once the explorer is closed."""
    done = Choice("layer2.1", "score_cam", 3)
    explorer._show_progress(done, 1, 4)
    assert explorer._status.value == ""
    explorer._requests.wanted = done
    explorer._show_progress(done, 1, 4)
    assert "25 %" in explorer._status.value
    explorer.close()
    with pytest.raises(Stopped):
        explorer._show_progress(done, 2, 4)
