"""The web page: what it computes and draws without a browser, and the page itself in a real Chromium."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import os
import re
import shutil
import socket
import struct
import sys
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import grad_cam
from grad_cam import rendering
from grad_cam.interfaces import app
from grad_cam.interfaces.app import AppError, Asked, Display, Limits, Models, View, answer, look, open_model, read
from grad_cam.loading import ImageError

# ---------------------------------------------------------------------------------------------------- without a browser


@pytest.fixture
def opened(cnn: nn.Module) -> app.Opened:
    """The tiny network, opened for the page at 64x64, with names that need escaping."""
    cnn.class_names = ["one", "two", "<b>three</b>", "four", "five", "six", "seven"]  # type: ignore[assignment]
    return open_model(cnn, input_size=64)


@pytest.fixture
def photo(picture: Image.Image, tmp_path: Path) -> Path:
    """A picture in a file."""
    path = tmp_path / "a <photo>.png"
    picture.save(path)
    return path


@pytest.fixture
def asked(photo: Path, opened: app.Opened) -> Asked:
    """What the controls say at first."""
    return Asked(
        photo, opened.name, "Blocks", opened.start["Blocks"], None, "grad_cam", ("grad_cam", "eigen_cam"), "layer"
    )


@pytest.fixture
def view(asked: Asked, opened: app.Opened) -> View:
    """The first look."""
    return look(asked, opened)


def picture_in(text: str, at: str = "gc-overlay") -> np.ndarray:
    """The pixels of an embedded picture."""
    found = re.search(rf'id="{at}" src="data:image/\w+;base64,([^"]+)"', text)
    assert found is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))))


def test_slider_holds_every_layer_with_a_map_and_no_other(opened: app.Opened) -> None:
    """The rungs of both scales are the cuts with a grid, in order of depth; the start is where `explain` looks."""
    for scale, links in opened.chains.items():
        names = [rung.name for rung in opened.rungs[scale]]
        assert names == [s.name for s in links.stages[:-1] if s.layout is not None and not s.note]
        assert names[opened.start[scale]] == links.default_split().name
    assert len(opened.rungs["Blocks"]) > len(opened.rungs["Stages"])
    assert {name for name, _ in opened.skipped["Stages"]} >= {"pool"}


def test_first_look_explains_the_predicted_class_as_explain_does(
    view: View, opened: app.Opened, cnn: nn.Module
) -> None:
    """The map under the slider and the logits are those of the package's own functions."""
    found = grad_cam.explain(cnn, view.tensor, layer=view.rung.name)
    assert view.target == int(found.logits.argmax())
    np.testing.assert_allclose(view.logits, found.logits[0].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(view.map, found.map[0].numpy(), rtol=1e-4, atol=1e-6)
    assert view.probabilities.sum() == pytest.approx(1)


def test_one_pass_fills_all_layers_and_moving_the_slider_computes_nothing(
    view: View, asked: Asked, opened: app.Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the maps of a sweep at hand, another layer is only looked up."""
    assert {key for key in view.maps} == {("grad_cam", rung.layer_idx) for rung in view.rungs}
    for function in ("sweep", "explain"):
        monkeypatch.setattr(app, function, lambda *a, **k: pytest.fail("computed"))
    moved = look(asked._replace(position=0, target=view.target), opened, view)
    assert moved.rung == view.rungs[0] and moved.map is view.maps["grad_cam", view.rungs[0].layer_idx]


def test_display_controls_draw_the_same_map_again(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threshold, smoothing, opacity and colours change the picture, each for itself, and compute no map."""
    for function in ("sweep", "explain", "settle"):
        monkeypatch.setattr(app, function, lambda *a, **k: pytest.fail("computed"))
    plain = Display(0.0, 2.0)
    pictures = [
        picture_in(app.redraw(view, how)["layer"])
        for how in (
            plain,
            Display(0.7, 2.0),
            Display(0.0, 9.0),
            Display(0.0, 2.0, 0.2),
            Display(0.0, 2.0, colormap="gray"),
        )
    ]
    for other in pictures[1:]:
        assert not np.array_equal(pictures[0], other)
    wanted = rendering.overlay(view.seen, rendering.heatmap(view.map, view.size, 0.0, 2.0))
    np.testing.assert_array_equal(pictures[0], np.asarray(wanted))


def test_new_class_method_or_scale_gives_new_maps(view: View, asked: Asked, opened: app.Opened) -> None:
    """What the maps depend on makes them anew; names of classes do as well as numbers."""
    other = (view.target + 1) % 7
    second = look(asked._replace(target=other), opened, view)
    assert second.target == other and second.word == opened.label(other)
    assert not np.allclose(second.map, view.map)
    assert look(asked._replace(target=opened.label(other)), opened, view).target == other
    third = look(asked._replace(method="eigen_cam", target=view.target), opened, view)
    assert third.method == "eigen_cam" and not np.allclose(third.map, view.map)
    coarse = look(asked._replace(scale="Stages", target=view.target), opened, view)
    assert coarse.position == opened.start["Stages"] and coarse.target == view.target
    with pytest.raises(ValueError, match="out of range"):
        look(asked._replace(target=7), opened, view)


def test_new_photo_starts_with_its_own_predicted_class(
    view: View, asked: Asked, opened: app.Opened, tmp_path: Path
) -> None:
    """The class chosen for the last photo is forgotten, the layer is kept."""
    path = tmp_path / "other.png"
    Image.effect_noise((80, 60), 90).convert("RGB").save(path)
    moved = look(asked._replace(position=0, target=(view.target + 1) % 7), opened, view)
    new = look(moved.asked._replace(photo=path), opened, moved)
    assert new.target == int(new.logits.argmax()) and new.position == 0
    assert not np.array_equal(new.seen, view.seen)


def test_slow_methods_compute_only_what_is_shown_and_tell_their_progress(
    view: View, asked: Asked, opened: app.Opened
) -> None:
    """A perturbation method explains the layer under the slider, and all of them on the tab of all layers."""
    told: list[tuple[int, int]] = []
    one = look(
        asked._replace(method="ablation_cam", target=view.target),
        opened,
        view,
        progress=lambda *done: told.append(done),
    )
    assert [key for key in one.maps if key[0] == "ablation_cam"] == [("ablation_cam", one.rung.layer_idx)]
    assert told and told[-1][0] == told[-1][1]
    every = look(one.asked._replace(tab="layers"), opened, one)
    assert len([key for key in every.maps if key[0] == "ablation_cam"]) == len(every.rungs)


def test_a_method_that_fails_beside_others_shows_why_in_its_place(
    view: View, asked: Asked, opened: app.Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One card says what went wrong; the others are drawn."""
    real = app._explained

    def broken(view: View, method: str, *rest: Any) -> View:
        if method == "eigen_cam":
            raise ValueError("no <components>")
        return real(view, method, *rest)

    monkeypatch.setattr(app, "_explained", broken)
    both = look(asked._replace(tab="methods", target=view.target), opened, view)
    text = app.methods_html(both, Display())
    assert "no &lt;components&gt;" in text and text.count("<img") == 1
    answered = answer(view, asked._replace(method="eigen_cam"), Display(), lambda name: opened)
    assert "no &lt;components&gt;" in answered["notice"] and answered["method"] == {"value": "grad_cam"}
    assert set(answered) == {"notice", "method"}


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_every_method_is_shown_on_every_tab_or_refused_in_a_sentence(
    kind: str, request: pytest.FixtureRequest, asked: Asked
) -> None:
    """A method of any layer, of the picture or of the whole network has its map and is named after what it is of."""
    found = open_model(request.getfixturevalue(kind), input_size=64)
    now = look(asked._replace(model=found.name, position=1), found)
    refused = set()
    for method in app.shown_methods():
        for tab in app.TABS:
            parts = answer(None, now.asked._replace(method=method, tab=tab), Display(), lambda name: found)
            if parts["notice"]:
                assert "view" not in parts and "did not work" not in parts["notice"], (method, tab)
                refused.add(method)
                continue
            assert "<img" in parts[tab] and parts["view"].method == method, (method, tab)
            of_layer = now.rung.name in parts["headline"]
            assert of_layer != ("the whole network" in parts["headline"]), method
    chosen = now.asked._replace(tab="methods", chosen=tuple(app.shown_methods()))
    cards = answer(now, chosen, Display(), lambda name: found)["methods"]
    assert cards.count("<img") == len(app.shown_methods()) - len(refused)
    attention = {"attention_rollout", "gradient_rollout", "le_grad"}
    assert refused == (attention if kind == "cnn" else {"guided_backprop", "guided_grad_cam"})
    concepts = answer(now, now.asked._replace(method="deep_feature_factorization"), Display(), lambda name: found)
    assert "choose one of grad_cam" in concepts["notice"]


def test_a_page_that_cannot_be_drawn_says_so(
    view: View, asked: Asked, opened: app.Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes wrong while the answer is written becomes the notice, as what goes wrong before; so do bad settings."""
    for wrong in (Display(colormap="no colours"), Display(threshold=7.0), Display(threshold=None)):  # type: ignore
        for parts in (
            answer(view, asked._replace(position=0), wrong, lambda name: opened),
            app.restyled(view, wrong),
        ):
            assert 'role="alert"' in parts["notice"] and "view" not in parts and "layer" not in parts
    monkeypatch.setattr(app, "headline_html", lambda view: 1 / 0)
    parts = answer(view, asked._replace(position=0), Display(), lambda name: opened)
    assert "ZeroDivisionError" in parts["notice"] and parts["position"] == {"value": view.position}


def test_a_newer_wish_stops_a_long_computation(view: View, opened: app.Opened) -> None:
    """What nobody waits for any more ends at its next step, without a message; others go on."""
    wishes = app.LatestRequests()
    old = view.asked._replace(method="ablation_cam", target=view.target)

    def step(done: int, total: int) -> None:
        wishes.check("me", old)

    wishes.note("me", old)
    wishes.note("another", old._replace(method="eigen_cam"))
    assert "view" in answer(view, old, Display(), lambda name: opened, progress=step)
    for newer in (old._replace(position=0), None):
        wishes.note("me", newer)
        assert answer(view, old, Display(), lambda name: opened, progress=step) == {}


def test_answer_changes_only_the_parts_concerned(view: View, asked: Asked, opened: app.Opened) -> None:
    """A moved slider sends neither the photo nor the list of classes again, and a settled page sends nothing."""
    first = answer(None, asked, Display(), lambda name: opened)
    assert {"view", "seen", "target", "position", "layer", "predictions"} <= set(first) <= set(app.CHANGED)
    now = first["view"]
    assert now.asked.target == now.target and first["target"]["value"] == now.target
    assert answer(now, now.asked, Display(), lambda name: opened) == {}
    moved = answer(now, now.asked._replace(position=1), Display(), lambda name: opened)
    assert not {"seen", "photo", "target", "position", "smoothing"} & set(moved) and moved["notice"] == ""
    tab = answer(now, now.asked._replace(tab="layers"), Display(), lambda name: opened)
    assert "layers" in tab and "layer" not in tab and tab["layers"].count("data-pick") == len(now.rungs)


def test_views_of_two_visitors_do_not_mix(asked: Asked, opened: app.Opened) -> None:
    """Nothing of one visitor's wishes is found in the other's view, though the model is shared."""
    first = answer(None, asked._replace(target=None), Display(), lambda name: opened)["view"]
    second = answer(None, asked._replace(method="eigen_cam", position=0), Display(), lambda name: opened)["view"]
    changed = answer(first, first.asked._replace(target=(first.target + 2) % 7), Display(), lambda name: opened)["view"]
    assert (first.method, second.method) == ("grad_cam", "eigen_cam")
    assert second.maps.keys().isdisjoint(first.maps) and changed.target != first.target == second.target


def test_every_text_from_outside_is_escaped(asked: Asked, opened: app.Opened) -> None:
    """File names and class names reach the page as text, never as markup."""
    view = look(asked, opened)
    view = look(asked._replace(target=2, tab="layers"), opened, view)
    texts = [
        app.photo_html(view), app.overlay_html(view, Display()), app.headline_html(view), app.predictions_html(view),
        app.layers_html(view, Display()), app.methods_html(view, Display()), app.notice_html("<script>"),
    ]  # fmt: skip
    for text in texts:
        assert "<b>three" not in text and "<photo>" not in text and "<script" not in text
    assert "&lt;b&gt;three&lt;/b&gt;" in texts[2]


def test_downloads_hold_the_picture_shown_and_the_raw_map(view: View) -> None:
    """The .npy file is the raw signed map, bit for bit; both names tell what they are."""
    text = app.overlay_html(view, Display())
    found = re.search(r'download="([^"]+\.npy)" href="data:application/octet-stream;base64,([^"]+)"', text)
    assert found is not None
    np.testing.assert_array_equal(np.load(io.BytesIO(base64.b64decode(found[2]))), view.map)
    assert re.fullmatch(r"[\w.-]+", found[1]) and "grad_cam" in found[1] and view.rung.name in found[1]


def test_a_map_that_speaks_for_nothing_says_so(view: View) -> None:
    """An empty picture carries the reason."""
    key = (view.method, view.rung.layer_idx)
    dark = dataclasses.replace(view, maps={**view.maps, key: -np.ones((4, 4), np.float32)})
    assert "all negative" in app.overlay_html(dark, Display()) and "all negative" not in app.overlay_html(
        view, Display()
    )


@pytest.mark.parametrize(
    ("probability", "words"), [(0.0, "0 %"), (0.001, "< 1 %"), (0.36, "36 %"), (0.999, "> 99 %"), (1.0, "100 %")]
)
def test_percent_never_rounds_to_certainty(probability: float, words: str) -> None:
    """Only what is certain is called 0 % or 100 %."""
    assert app.percent(probability) == words


# ------------------------------------------------------------------------------------------------------------ bad input


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"this is no picture", "bad.png"),
        (png_header(9000, 9000), "9000 × 9000"),
        (png_header(60000, 60000), "bad.png"),
        (b"0" * 3000, "MB"),
    ],
    ids=["empty", "text", "too many pixels", "bomb", "too many bytes"],
)
def test_bad_files_become_a_message_that_hides_where_they_lie(
    content: bytes, words: str, asked: Asked, opened: app.Opened, tmp_path: Path
) -> None:
    """The page says what is wrong with the file by its name; the server's folders stay private."""
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    limits = Limits(upload=2000, pixels=50_000_000)
    with pytest.raises(ImageError, match=re.escape(words)) as error:
        read(path, limits)
    assert str(tmp_path) not in str(error.value)
    found = answer(None, asked._replace(photo=path), Display(), lambda name: opened, limits=limits)
    assert list(found) == ["notice"] and 'role="alert"' in found["notice"] and str(tmp_path) not in found["notice"]


def test_a_photo_that_is_gone_asks_for_another_upload(tmp_path: Path) -> None:
    """Uploads are removed after a while; the message says what to do."""
    with pytest.raises(ImageError, match="upload it again"):
        read(tmp_path / "gone.png", Limits())


def test_models_are_opened_once_and_only_a_few_are_kept(opened: app.Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name opens its model once; the least used is dropped; the first stays."""
    made: list[str] = []

    def fake(name: str) -> Any:
        made.append(name)
        return object()

    monkeypatch.setattr(app, "open_model", fake)
    models = Models(opened, capacity=3)
    assert models(opened.name) is opened and models("a") is models(" a ")
    models("b"), models("a"), models("c"), models("a")
    assert made == ["a", "b", "c"]
    models("b")
    assert made == ["a", "b", "c", "b"] and models(opened.name) is opened


@pytest.mark.parametrize(
    "name",
    ["", "os:system", "package.module:build", "local-dir:/etc", "hf:/etc/passwd", "hf:../x", "hf:a/../b", "a\nb"],
)
def test_names_typed_into_the_page_neither_run_code_nor_read_files(
    name: str, opened: app.Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the owner of the page may open such a model."""
    monkeypatch.setattr(app, "open_model", lambda name: pytest.fail("opened"))
    with pytest.raises(AppError):
        Models(opened)(name)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("cannot read /home/owner/.cache/hub/model.bin (No such file)", "cannot read model.bin (No such file)"),
        ("see '/tmp/a/b.png', '/etc/passwd'", "see 'b.png', 'passwd'"),
        (r"see C:\Users\owner\x.png", "see x.png"),
        ("type torchvision/NAME or hf:OWNER/NAME, https://huggingface.co/a/b", None),
        ("1/2 or 3 / 4, a/b/c", None),
    ],
)
def test_messages_name_files_without_their_folders(said: str, shown: str | None) -> None:
    """Where the server keeps things is its own affair, whoever wrote the message; names with a slash stay."""
    for made in (app.notice_html(said), app._lack(said)):
        assert html.unescape(re.sub("<[^>]+>", "", made)) == (said if shown is None else shown)


def test_unknown_model_is_answered_with_the_closest_names(asked: Asked, opened: app.Opened) -> None:
    """The message of `loading.load` reaches the page, and the control goes back to the model that is shown."""
    now = answer(None, asked, Display(), Models(opened))["view"]
    found = answer(now, now.asked._replace(model="resnet_18"), Display(), Models(opened))
    assert "resnet18" in found.pop("notice") and found == {"model": {"value": opened.name}}


def test_a_model_without_any_map_is_refused() -> None:
    """There is nothing to show, and the error says why."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flatten, self.fc, self.out = nn.Flatten(), nn.Linear(3 * 64 * 64, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.fc(self.flatten(x)))

    with pytest.raises(ValueError, match="map"):
        open_model(Flat().eval(), input_size=64)


@pytest.mark.parametrize("family", ["ResNet", "ViT", "ConvNext", "Swin"])
def test_hugging_face_classifiers_are_shown_at_the_scale_that_has_maps(
    family: str, view: View, asked: Asked, opened: app.Opened
) -> None:
    """Their stages are the network and its classifier; the page offers the blocks, and refuses the stages in words."""
    transformers = pytest.importorskip("transformers")
    small = {
        "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
        "ViT": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64},
        "ConvNext": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
        "Swin": {"embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "image_size": 64},
    }[family]
    config = getattr(transformers, f"{family}Config")(**small, num_labels=5)
    model = getattr(transformers, f"{family}ForImageClassification")(config).eval()
    found = open_model(model, input_size=64)
    assert list(found.rungs) == list(found.chains) == ["Blocks"] and found.skipped["Stages"]
    old = view.asked._replace(scale="Stages", target=view.target)
    coarse = dataclasses.replace(look(old, opened, view), asked=old)
    parts = answer(coarse, old._replace(model=found.name), Display(), lambda name: found)
    assert parts["scale"] == {"choices": ["Blocks"], "value": "Blocks"} and "<img" in parts["layer"]
    now = parts["view"]
    assert answer(now, now.asked, Display(), lambda name: found) == {}
    refused = answer(now, now.asked._replace(scale="Stages"), Display(), lambda name: found)
    assert "choose Blocks" in refused["notice"] and refused["scale"] == {"value": "Blocks"}
    assert answer(now, old, Display(), lambda name: opened)["scale"]["choices"] == ["Blocks", "Stages"]
    app.build(model, input_size=64)


def test_vision_transformer_has_its_layers_and_leaves_out_the_dead_one(vit: nn.Module, photo: Path) -> None:
    """Token grids are maps; the last block of a class-token model is listed with its reason instead."""
    found = open_model(vit, input_size=64)
    names = [rung.name for rung in found.rungs["Blocks"]]
    assert "blocks.0" in names and "blocks.2" not in names and "blocks.2" in dict(found.skipped["Blocks"])
    view = look(Asked(photo, found.name, "Blocks", 0, None, "grad_cam", (), "layers"), found)
    assert view.map.shape == (4, 4) and "without a map" in app.layers_html(view, Display())


def test_single_output_is_a_sigmoid() -> None:
    """A binary model with one logit has a probability, not 100 %."""
    assert app.probabilities(np.array([0.0], np.float32))[0] == pytest.approx(0.5)


def test_port_in_use_is_named_and_another_offered() -> None:
    """An explicit port that is taken is an error; without one, the next free port is used."""
    with socket.socket() as taken:
        taken.bind((app.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AppError, match=rf"port {port} .*in use.*--port"):
            app.free_port(app.HOST, port)
    with pytest.raises(AppError, match="65535"):
        app.free_port(app.HOST, 70000)
    with socket.socket() as free:
        free.bind((app.HOST, app.free_port(app.HOST, 0)))


def test_missing_gradio_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(AppError, match=re.escape("gradcam-layers[app]")):
        app.launch("demo", 0, block=False)


# -------------------------------------------------------------------------------------------------------- in a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """A page with a tiny network on a free port, and its address."""
    pytest.importorskip("gradio", reason="the web page needs gradio, which is not installed")
    from .conftest import TinyNet, _settle

    torch.manual_seed(1)
    model = _settle(TinyNet()).eval()
    model.class_names = ["one", "two", "<b>three</b>", "four", "five", "six", "seven"]  # type: ignore[assignment]
    limits = Limits(upload=200_000, pixels=300_000)
    with app.launch(model, 0, input_size=64, limits=limits, block=False) as page:
        yield page.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real Chromium without a window."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="browser tests need playwright, which is not installed"
    )
    if CHROMIUM is None:
        pytest.skip("browser tests need chromium, which is not installed")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield started
        started.close()


class Visitor:
    """One open page, which remembers everything that went wrong in it."""

    def __init__(self, browser: Any, url: str) -> None:
        self.context = browser.new_context(viewport={"width": 1366, "height": 820}, accept_downloads=True)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.errors: list[str] = []
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on(
            "request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else self.errors.append(r.url)
        )
        self.page.goto(url)
        self.page.wait_for_selector("#gc-overlay")
        self.settle()

    def settle(self) -> None:
        """Waits until nothing is computed and the picture has stayed the same for a moment."""
        self.page.wait_for_function(
            """() => new Promise((done) => {
              const now = () => document.querySelector('main').innerHTML;
              const first = now();
              setTimeout(() => done(first === now()), 400);
            })"""
        )

    def src(self, selector: str = "#gc-overlay") -> str:
        return self.page.locator(selector).first.get_attribute("src")

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def changed(self, before: str, selector: str = "#gc-overlay") -> str:
        """Waits for another picture and returns it."""
        self.page.wait_for_function(
            "([selector, before]) => document.querySelector(selector)?.src !== before", arg=[selector, before]
        )
        self.settle()
        return self.src(selector)

    def slide(self, slider: str, value: float) -> None:
        """Sets a slider as a mouse would: input events, then a change."""
        self.page.locator(f"#{slider} input[type=range]").evaluate(
            """(input, value) => {
              input.value = value;
              for (const kind of ['input', 'change']) input.dispatchEvent(new Event(kind, { bubbles: true }));
              input.dispatchEvent(new PointerEvent('pointerup', { bubbles: true }));
            }""",
            value,
        )

    def choose(self, dropdown: str, option: str) -> None:
        field = self.page.locator(f"#{dropdown} input").first
        field.click()
        self.page.get_by_role("option", name=option, exact=True).first.click()

    def upload(self, path: Path) -> None:
        self.page.locator("#gc-upload input[type=file]").set_input_files(str(path))


@pytest.fixture
def visitor(browser: Any, served: str) -> Iterator[Visitor]:
    """A visitor who leaves without an error in the console and without a request to another server."""
    one = Visitor(browser, served)
    yield one
    one.context.close()
    assert one.errors == []


def test_page_shows_a_sample_at_once(visitor: Visitor) -> None:
    """It opens with an explained photo, predictions and the layer in words."""
    assert visitor.src().startswith("data:image/png") and visitor.src("#gc-photo").startswith("data:image/")
    assert visitor.page.locator(".gc-bar").count() == 5
    assert "of" in visitor.text("#gc-layer") and visitor.text("#gc-headline h2")
    assert visitor.page.locator("#gc-notice").inner_text().strip() == ""


def test_every_display_control_changes_the_picture_and_not_the_map(visitor: Visitor) -> None:
    """Sliders and colours draw anew; the raw map to download stays what it was."""
    raw = visitor.page.locator("#gc-save-map").get_attribute("href")
    seen = [visitor.src()]
    for slider, value in (("gc-threshold", 0.8), ("gc-smoothing", 0), ("gc-alpha", 0.2)):
        visitor.slide(slider, value)
        seen.append(visitor.changed(seen[-1]))
    visitor.choose("gc-colormap", "Viridis")
    seen.append(visitor.changed(seen[-1]))
    assert len(set(seen)) == 5
    assert visitor.page.locator("#gc-save-map").get_attribute("href") == raw


def test_layer_slider_class_and_method_change_the_picture(visitor: Visitor) -> None:
    """Each gives another map, told in words; going back gives the first picture again."""
    first, where = visitor.src(), visitor.text("#gc-layer")
    visitor.slide("gc-position", 1)
    visitor.changed(first)
    assert visitor.text("#gc-layer") != where
    count = visitor.page.locator("#gc-position input[type=range]").get_attribute("max")
    visitor.slide("gc-position", float(count))
    before = visitor.src()
    visitor.page.locator(".gc-bar").nth(2).click()
    visitor.page.wait_for_selector('.gc-bar:nth-child(3)[aria-pressed="true"]')
    other = visitor.changed(before)
    name = visitor.page.locator(".gc-bar").nth(2).locator(".gc-name").inner_text()
    assert visitor.text("#gc-headline h2").startswith(name)
    visitor.choose("gc-method", "Eigen-CAM")
    visitor.changed(other)
    assert "Eigen-CAM" in visitor.text("#gc-headline p") and "whatever the class" in visitor.text("#gc-advice")
    visitor.choose("gc-method", "Grad-CAM")
    visitor.page.wait_for_function("other => document.querySelector('#gc-overlay').src === other", arg=other)


def test_slow_methods_arrive_by_way_of_their_own_queue(visitor: Visitor) -> None:
    """Methods of many passes are shown like the others, also when chosen a second time; the last choice wins."""
    first = visitor.src()
    for method in ("Score-CAM", "RISE"):
        visitor.choose("gc-method", method)
        visitor.page.wait_for_function(
            "name => document.querySelector('#gc-headline p')?.innerText.startsWith(name)", arg=method
        )
        assert visitor.changed(first) != first
        visitor.choose("gc-method", "Grad-CAM")
        visitor.page.wait_for_function("first => document.querySelector('#gc-overlay').src === first", arg=first)
    visitor.choose("gc-method", "Ablation-CAM")
    visitor.choose("gc-method", "LayerCAM")
    visitor.changed(first)
    assert "LayerCAM" in visitor.text("#gc-headline p")


def test_upload_replaces_the_photo(visitor: Visitor, photo: Path) -> None:
    """An uploaded picture is shown as the model sees it, with predictions of its own; a sample can be taken again."""
    before = visitor.src("#gc-photo"), visitor.src()
    visitor.upload(photo)
    visitor.changed(before[0], "#gc-photo")
    assert visitor.src() != before[1]
    visitor.page.locator('#gc-samples [data-pick="cat"]').click()
    visitor.page.wait_for_function("src => document.querySelector('#gc-photo').src === src", arg=before[0])


def test_a_bad_file_gives_a_message_and_leaves_the_picture(visitor: Visitor, tmp_path: Path, photo: Path) -> None:
    """No stack trace, no path of the server; the next good file clears the message."""
    bad = tmp_path / "broken.png"
    bad.write_bytes(b"this is no picture")
    before = visitor.src()
    visitor.upload(bad)
    visitor.page.wait_for_selector("#gc-notice [role=alert]")
    message = visitor.text("#gc-notice")
    assert "broken.png" in message and "/" not in message and "Traceback" not in message and visitor.src() == before
    large = tmp_path / "large.png"
    large.write_bytes(png_header(900, 900))
    visitor.upload(large)
    visitor.page.wait_for_function("() => document.querySelector('#gc-notice').innerText.includes('900 × 900')")
    visitor.slide("gc-position", 0)
    visitor.changed(before)
    before = visitor.src()
    visitor.upload(photo)
    visitor.page.wait_for_selector("#gc-notice [role=alert]", state="detached")
    visitor.changed(before)


def test_a_wrong_model_name_gives_a_message_and_goes_back(visitor: Visitor) -> None:
    """The page goes on with the model it has."""
    before = visitor.src()
    field = visitor.page.locator("#gc-model input").first
    name = field.input_value()
    field.click()
    field.fill("package.module:build")
    field.press("Enter")
    visitor.page.wait_for_selector("#gc-notice [role=alert]")
    visitor.settle()
    assert field.input_value() == name and visitor.src() == before
    visitor.slide("gc-position", 0)
    visitor.changed(before)
    assert visitor.page.locator("#gc-notice [role=alert]").count() == 0


def test_all_layers_and_methods_side_by_side(visitor: Visitor) -> None:
    """The gallery has every layer and moves the slider on a click; a click on a method chooses it."""
    count = int(visitor.page.locator("#gc-position input[type=range]").get_attribute("max")) + 1
    visitor.page.get_by_role("tab", name="All layers").click()
    visitor.page.wait_for_selector("#gc-layers .gc-card")
    assert visitor.page.locator("#gc-layers .gc-card img").count() == count
    before = visitor.src("#gc-layers img")
    visitor.slide("gc-alpha", 0.1)
    visitor.changed(before, "#gc-layers img")
    visitor.page.locator("#gc-layers .gc-card").first.click()
    visitor.page.wait_for_selector('#gc-layers .gc-card:first-child[aria-pressed="true"]')
    assert f"1 of {count}" in visitor.text("#gc-layer")
    visitor.page.get_by_role("tab", name="Methods side by side").click()
    visitor.page.wait_for_selector("#gc-methods .gc-card img")
    visitor.settle()  # a click on a card that is being replaced would be lost
    assert visitor.page.locator("#gc-methods .gc-card img").count() == len(app.COMPARED)
    visitor.page.locator("#gc-methods .gc-card").last.click()
    visitor.page.wait_for_selector('#gc-methods .gc-card:last-child[aria-pressed="true"]')
    visitor.page.get_by_role("tab", name="One layer").click()
    visitor.settle()
    assert "Eigen-CAM" in visitor.text("#gc-headline p")


def test_downloads_arrive(visitor: Visitor) -> None:
    """The picture is the one shown, the raw map opens with numpy."""
    with visitor.page.expect_download() as picture:
        visitor.page.locator("#gc-save-picture").click()
    shown = base64.b64decode(visitor.src().partition(",")[2])
    assert Path(picture.value.path()).read_bytes() == shown and picture.value.suggested_filename.endswith(".png")
    with visitor.page.expect_download() as raw:
        visitor.page.locator("#gc-save-map").click()
    found = np.load(raw.value.path())
    assert found.ndim == 2 and found.dtype == np.float32 and raw.value.suggested_filename.endswith(".npy")


def test_two_visitors_do_not_mix(visitor: Visitor, browser: Any, served: str, photo: Path) -> None:
    """Each browser sees its own photo, class and layer, and a closed one leaves the other at work."""
    other = Visitor(browser, served)
    mine = visitor.src(), visitor.src("#gc-photo"), visitor.text("#gc-layer")
    other.upload(photo)
    other.changed(mine[1], "#gc-photo")
    other.slide("gc-position", 0)
    other.page.wait_for_function("() => document.querySelector('#gc-layer').innerText.includes('1 of')")
    other.context.close()
    assert (visitor.src(), visitor.src("#gc-photo"), visitor.text("#gc-layer")) == mine
    visitor.slide("gc-alpha", 0.3)
    assert visitor.changed(mine[0]) != mine[0] and visitor.src("#gc-photo") == mine[1]
    assert other.errors == []


def test_page_has_names_for_all_it_shows_and_fits_small_windows(visitor: Visitor) -> None:
    """Pictures have alternative texts, buttons have names, and nothing is wider than the window."""
    assert visitor.page.locator("img:not([alt])").count() == 0
    assert visitor.page.locator("img[alt='']").count() == 0
    for width in (1366, 1024, 400):
        visitor.page.set_viewport_size({"width": width, "height": 800})
        visitor.settle()
        assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width


def test_page_needs_no_other_server(served: str) -> None:
    """Its first text asks for no font, script or style from elsewhere."""
    with urllib.request.urlopen(served) as answered:
        text = answered.read().decode()
    assert not re.findall(r"""<(?:script|link)[^>]+(?:src|href)=["']?(?:https?:)?//""", text)
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
