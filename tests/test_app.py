"""The web page: what it computes and draws without a browser, and the page itself in a real Chromium."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import os
import re
import socket
import struct
import sys
import threading
import urllib.request
import zlib
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import grad_cam
from grad_cam import METHODS, rendering
from grad_cam.interfaces import web
from grad_cam.interfaces.web import AppError, Limits, fragments, requests, server, updates, views
from grad_cam.interfaces.web import models as web_models
from grad_cam.interfaces.web.drawing import Drawing
from grad_cam.interfaces.web.models import Models, OpenedModel, open_page_model
from grad_cam.interfaces.web.updates import page_update
from grad_cam.interfaces.web.uploads import read
from grad_cam.interfaces.web.views import Computed, Controls, Key, View, view_for
from grad_cam.loading import ImageError

from . import accessibility

# ---------------------------------------------------------------------------------------------------- without a browser


@pytest.fixture
def opened(cnn: nn.Module) -> OpenedModel:
    """The tiny network, opened for the page at 64x64, with names that need escaping."""
    cnn.class_names = ["one", "two", "<b>three</b>", "four", "five", "six", "seven"]  # type: ignore[assignment]
    return open_page_model(cnn, input_size=64)


@pytest.fixture
def photo(picture: Image.Image, tmp_path: Path) -> Path:
    """A picture in a file."""
    path = tmp_path / "a <photo>.png"
    picture.save(path)
    return path


@pytest.fixture
def controls(photo: Path, opened: OpenedModel) -> Controls:
    """What the controls say at first."""
    return Controls(photo, opened.name, 0, None, "grad_cam", ("grad_cam", "eigen_cam"), "layer")


@pytest.fixture
def view(controls: Controls, opened: OpenedModel) -> View:
    """The first view."""
    return view_for(controls, opened)


def shown_map(view: View) -> np.ndarray:
    """The raw map under the slider."""
    assert isinstance(view.result, Computed)
    return view.result.maps[0]


def loaded(opened: OpenedModel, capacity: int = 3) -> Models:
    """The models of a page that was started with this one."""
    first: Future[OpenedModel] = Future()
    first.set_result(opened)
    return Models(opened.name, first, capacity)


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every computation fail the test."""
    for function in ("sweep", "explain"):
        monkeypatch.setattr(views, function, lambda *a, **k: pytest.fail("computed"))


def picture_in(text: str, at: str = "gc-overlay") -> np.ndarray:
    """The pixels of an embedded picture."""
    found = re.search(rf'id="{at}" src="data:image/\w+;base64,([^"]+)"', text)
    assert found is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))))


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_slider_holds_every_layer_with_a_map_and_no_other(kind: str, request: pytest.FixtureRequest) -> None:
    """The layers are those of a sweep, in order of depth; the first shown is where `explain` looks."""
    model = request.getfixturevalue(kind)
    found = open_page_model(model, input_size=64)
    example = torch.randn(1, 3, 64, 64)
    swept = grad_cam.sweep(model, example)
    assert [layer.name for layer in found.layers] == [one.layer.name for one in swept]
    assert [layer.grid for layer in found.layers] == [tuple(one.map.shape[-2:]) for one in swept]
    assert [name for name, _ in found.skipped] == [layer.name for layer, _ in swept.skipped]
    usual = grad_cam.explain(model, example, method="grad_cam")
    again = grad_cam.explain(model, example, layer=found.layers[found.start].name)
    torch.testing.assert_close(again.map, usual.map)


def test_first_view_explains_the_predicted_class_as_explain_does(
    view: View, opened: OpenedModel, cnn: nn.Module
) -> None:
    """The map under the slider and the logits are those of the package's own functions."""
    found = grad_cam.explain(cnn, view.tensor, layer=view.layer.name)
    assert view.controls.position == opened.start and view.target == int(found.logits.argmax())
    np.testing.assert_allclose(view.logits, found.logits[0].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(shown_map(view), found.map[0].numpy(), rtol=1e-4, atol=1e-6)


def test_one_pass_fills_all_layers_and_moving_the_slider_computes_nothing(
    view: View, controls: Controls, opened: OpenedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the maps of a sweep at hand, another layer is only looked up."""
    assert set(view.results) == {Key("grad_cam", layer.name, ()) for layer in opened.layers}
    forbid(monkeypatch)
    moved = view_for(controls._replace(position=0, target=view.target), opened, view)
    assert moved.layer == opened.layers[0]
    assert moved.result is view.results["grad_cam", opened.layers[0].name, ()]


def test_display_controls_draw_the_same_map_again(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threshold, smoothing, opacity, colours and the raw view change the picture, each for itself; no map changes."""
    forbid(monkeypatch)
    changes: tuple[dict[str, Any], ...] = (
        {}, {"threshold": 0.7}, {"smoothing": 9.0}, {"alpha": 0.2}, {"colormap": "gray"}, {"kind": "raw"},
    )  # fmt: skip
    pictures = [
        picture_in(updates.redrawn(view, {"threshold": 0.0, "smoothing": 2.0, **how})["layer"]) for how in changes
    ]
    for i, other in enumerate(pictures):
        assert not any(np.array_equal(one, other) for one in pictures[:i])
    heat = rendering.heatmap(shown_map(view), view.size, 0.0, 2.0)
    wanted = rendering.overlay(view.seen, heat, colormap=rendering.Display.colormap)
    np.testing.assert_array_equal(pictures[0], np.asarray(wanted))


def test_the_raw_view_shows_every_value_as_it_is(view: View) -> None:
    """Each position is one square of one colour, the scale ends are the values, and the values are listed."""
    map = shown_map(view)
    text = fragments.result(view, Drawing.of_controls(kind="raw"))
    pixels = picture_in(text)
    side = 64 // len(map)
    assert len(np.unique(pixels[:side, :side].reshape(-1, 3), axis=0)) == 1
    assert f"{np.abs(map).max():.3g}" in text and text.count("<td>") == map.size
    values = [float(value.replace("−", "-")) for value in re.findall("<td>([^<]+)</td>", text)]
    np.testing.assert_allclose(values, map.ravel(), rtol=6e-3)


def test_new_class_or_method_gives_new_maps(view: View, controls: Controls, opened: OpenedModel) -> None:
    """What the maps depend on makes them anew; names of classes do as well as numbers."""
    assert view.target is not None
    other = (view.target + 1) % 7
    second = view_for(controls._replace(target=other, position=opened.start), opened, view)
    assert second.target == other and second.word == opened.label(other)
    assert not np.allclose(shown_map(second), shown_map(view))
    assert view_for(controls._replace(target=opened.label(other)), opened, view).target == other
    third = view_for(controls._replace(method="eigen_cam", position=opened.start), opened, view)
    assert third.target == view.target and not np.allclose(shown_map(third), shown_map(view))
    with pytest.raises(ValueError, match="out of range"):
        view_for(controls._replace(target=7), opened, view)


def test_options_of_a_method_are_its_own_numbers(view: View, opened: OpenedModel) -> None:
    """A method starts with its defaults, another value computes anew, and the page shows fields for these alone."""
    drawing, find = {}, {opened.name: opened}.__getitem__
    parts = page_update(view, view.controls._replace(method="random_cam", options=()), drawing, find)
    now = parts["view"]
    assert now.controls.options == (0,)
    assert parts["option 0"] == {"label": "seed", "value": 0, "visible": True}
    assert all(parts[f"option {number}"] == {"visible": False} for number in range(1, views.OPTIONS))
    changed = page_update(now, now.controls._replace(options=(5.0,)), drawing, find)
    assert "option 0" not in changed and not np.allclose(shown_map(changed["view"]), shown_map(now))
    want = grad_cam.explain(opened.model, view.tensor, layer=now.layer.name, method="random_cam", seed=5)
    np.testing.assert_allclose(shown_map(changed["view"]), want.map[0].numpy(), rtol=1e-5)
    for wrong in (-1, 10**6, 0.5, "a", True, [1], float("nan")):
        refused = page_update(now, now.controls._replace(options=(wrong,)), drawing, find)  # type: ignore[arg-type]
        assert "seed" in refused["notice"] and refused["option 0"] == {"value": 0}, wrong
    empty = page_update(now, now.controls._replace(options=(None,)), drawing, find)
    assert empty["view"].controls.options == (0,)


def test_every_option_of_every_method_has_a_field_or_is_the_pages_own_affair() -> None:
    """No option is lost: what is no number is how a method is run, not what it computes."""
    for name, method in METHODS.items():
        assert set(method.options) - set(views.option_defaults(name)) <= {"chunk", "progress", "grid", "cost"}, name


def test_the_layer_control_is_there_where_layers_matter(view: View, opened: OpenedModel) -> None:
    """A method of the picture or of the whole network hides the slider; beside methods of a layer it stays."""
    for method, tab, chosen, visible in (
        ("occlusion", "layer", (), False), ("full_grad", "layers", (), False), ("layer_cam", "layer", (), True),
        ("occlusion", "methods", ("grad_cam",), True), ("occlusion", "methods", ("full_grad",), False),
    ):  # fmt: skip
        controls = view.controls._replace(method=method, tab=tab, chosen=chosen)
        parts = page_update(view, controls, {}, lambda name: opened)
        assert parts["along"] == {"visible": visible}, (method, tab)


def test_new_photo_starts_with_its_own_predicted_class(
    view: View, controls: Controls, opened: OpenedModel, tmp_path: Path
) -> None:
    """The class chosen for the last photo is forgotten, the layer is kept."""
    path = tmp_path / "other.png"
    Image.effect_noise((80, 60), 90).convert("RGB").save(path)
    moved = view_for(controls._replace(position=0, target=(view.target + 1) % 7), opened, view)
    new = view_for(moved.controls._replace(photo=path), opened, moved)
    assert new.target == int(new.logits.argmax()) and new.controls.position == 0
    assert not np.array_equal(new.seen, view.seen)


def test_slow_methods_compute_only_what_is_shown_and_tell_their_progress(
    view: View, controls: Controls, opened: OpenedModel
) -> None:
    """A perturbation method explains the layer under the slider, and all of them on the tab of all layers."""
    told: list[tuple[int, int]] = []
    one = view_for(
        controls._replace(method="ablation_cam", target=view.target),
        opened,
        view,
        progress=lambda *done: told.append(done),
    )
    assert [key for key in one.results if key.method == "ablation_cam"] == [Key("ablation_cam", one.layer.name, ())]
    assert told and told[-1][0] == told[-1][1]
    every = view_for(one.controls._replace(tab="layers"), opened, one)
    assert len([key for key in every.results if key.method == "ablation_cam"]) == len(opened.layers)


def test_a_method_that_fails_beside_others_shows_why_in_its_place(
    view: View, controls: Controls, opened: OpenedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One card says what went wrong; the others are drawn."""
    real = views._computed

    def broken(view: View, key: Key, *rest: Any) -> View:
        if key.method == "eigen_cam":
            raise ValueError("no <components>")
        return real(view, key, *rest)

    monkeypatch.setattr(views, "_computed", broken)
    both = view_for(controls._replace(tab="methods", target=view.target), opened, view)
    text = fragments.method_cards(both, Drawing())
    assert "no &lt;components&gt;" in text and text.count("<img") == 1
    answered = page_update(view, view.controls._replace(method="eigen_cam"), {}, lambda name: opened)
    assert "no &lt;components&gt;" in answered["notice"] and answered["method"] == {"value": "grad_cam"}
    assert set(answered) == {"notice", "method"}


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_every_method_is_shown_on_every_tab_or_refused_in_a_sentence(
    kind: str, request: pytest.FixtureRequest, controls: Controls
) -> None:
    """A method of any layer, of the picture or of the whole network has its map and is named after what it is of."""
    found = open_page_model(request.getfixturevalue(kind), input_size=64)
    now = view_for(controls._replace(model=found.name), found)
    refused = set()
    for method, entry in METHODS.items():
        for tab in views.TABS:
            parts = page_update(None, now.controls._replace(method=method, tab=tab), {}, lambda name: found)
            if "view" not in parts:
                said = re.sub("<[^>]+>", "", parts["notice"])
                assert len(said) > 20 and not re.match(r"\w+(Error|Exception)\b", said), (method, tab, said)
                refused.add(method)
                continue
            assert parts["notice"] == "" and parts["view"].controls.method == method, (method, tab)
            # several maps of one layer have the tab of one layer to themselves; elsewhere their place says so
            shown = "<img" if entry.gives == "map" or tab != "layers" else "gc-lack"
            assert shown in parts[tab], (method, tab)
            of_layer = f"<code>{now.layer.name}</code>" in parts["headline"]
            place = " ... " if method == "auto" else "the whole network"  # what is taken has several layers
            assert of_layer == (entry.scope == "layer") != (place in parts["headline"]), method
    chosen = now.controls._replace(tab="methods", chosen=tuple(METHODS))
    cards = page_update(now, chosen, {}, lambda name: found)["methods"]
    concepts = {method for method, entry in METHODS.items() if entry.gives != "map"}
    assert cards.count("<img") == len(METHODS) - len(refused) - len(concepts)
    attention = {"attention_rollout", "gradient_rollout", "le_grad"}
    assert refused == (attention if kind == "cnn" else {"guided_backprop", "guided_grad_cam"})


def test_the_model_is_asked_about_the_map_that_is_shown(view: View, opened: OpenedModel) -> None:
    """The sentence is that of `evidence` for the map shown; it stands under no other layer, class or method."""
    asked = views.with_evidence(view)
    layer, target = view.layer.name, view.target
    e = grad_cam.explain(opened.model, view.tensor, layer=layer, target=target)
    sentence = grad_cam.evidence(opened.model, e).sentence
    text = html.unescape(fragments.result(asked, Drawing()))
    assert sentence in text and sentence not in html.unescape(fragments.result(view, Drawing()))
    for change in ({"position": 1}, {"target": (target + 1) % 7}, {"method": "layer_cam"}):
        other = view_for(asked.controls._replace(**change), opened, asked)
        assert "gc-said" not in fragments.result(other, Drawing())
        back = view_for(asked.controls, opened, other)
        assert ("gc-said" in fragments.result(back, Drawing())) == ("target" not in change)


def test_what_the_model_cannot_be_asked_is_said(view: View, opened: OpenedModel) -> None:
    """Concepts explain no score: there is no button, and asking all the same gives a sentence."""
    concepts = view_for(view.controls._replace(method="deep_feature_factorization"), opened, view)
    assert "only be asked about one map" in updates.evidence_update(concepts, {})["notice"]
    shown = page_update(view, concepts.controls, {}, loaded(opened))
    assert shown["evidence"] == {"visible": False}
    assert page_update(None, view.controls, {}, loaded(opened))["evidence"] == {"visible": True}


def test_concepts_are_shown_side_by_side_each_with_its_name(view: View, opened: OpenedModel) -> None:
    """A method that finds several maps shows all of them, also as the first thing asked for."""
    controls = view.controls._replace(method="deep_feature_factorization", options=())
    for before in (view, None):
        parts = page_update(before, controls, {}, lambda name: opened)
        assert parts["layer"].count("<img") == parts["layer"].count("concept ") // 2 == 5
        assert parts["view"].target == view.target and opened.labels is not None
        assert parts["headline"].count("Deep Feature Factorization") == 1


def test_a_page_that_cannot_be_drawn_says_so(
    view: View, controls: Controls, opened: OpenedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes wrong while the answer is written becomes the notice, as what goes wrong before; so do bad settings."""
    for wrong in ({"colormap": "no colours"}, {"threshold": 7.0}, {"threshold": None}, {"kind": "odd"}):
        for parts in (
            page_update(view, view.controls._replace(position=0), wrong, lambda name: opened),
            updates.redrawn(view, wrong),
        ):
            assert 'role="alert"' in parts["notice"] and "view" not in parts and "layer" not in parts
    monkeypatch.setattr(fragments, "headline", lambda view: 1 / 0)
    parts = page_update(view, view.controls._replace(position=0), {}, lambda name: opened)
    assert "ZeroDivisionError" in parts["notice"] and parts["position"] == {"value": opened.start}


def test_a_newer_request_stops_a_long_computation(view: View, opened: OpenedModel) -> None:
    """What nobody waits for any more ends at its next step, without a message; others go on."""
    latest = requests.Visitors()
    old = view.controls._replace(method="ablation_cam", target=view.target)

    def step(done: int, total: int) -> None:
        latest.check("me", old)

    latest.note("me", old)
    latest.note("another", old._replace(method="eigen_cam"))
    assert "view" in page_update(view, old, {}, lambda name: opened, progress=step)
    for newer in (old._replace(position=0), None):
        latest.note("me", newer)
        assert page_update(view, old, {}, lambda name: opened, progress=step) == {}


def test_answer_changes_only_the_parts_concerned(view: View, controls: Controls, opened: OpenedModel) -> None:
    """A moved slider sends neither the photo nor the list of classes again, and a settled page sends nothing."""
    first = page_update(None, controls, {}, lambda name: opened)
    assert {"view", "seen", "target", "position", "layer", "predictions"} <= set(first)
    assert {part for part in first if not part.startswith("option ")} <= set(updates.CHANGED)
    now = first["view"]
    assert now.controls.target == now.target and first["target"]["value"] == now.target
    assert page_update(now, now.controls, {}, lambda name: opened) == {}
    moved = page_update(now, now.controls._replace(position=1), {}, lambda name: opened)
    assert not {"seen", "photo", "target", "position", "smoothing"} & set(moved) and moved["notice"] == ""
    tab = page_update(now, now.controls._replace(tab="layers"), {}, lambda name: opened)
    assert "layers" in tab and "layer" not in tab and tab["layers"].count("data-pick") == len(opened.layers)


def test_views_of_two_visitors_do_not_mix(controls: Controls, opened: OpenedModel) -> None:
    """Nothing of one visitor's requests is found in the other's view, though the model is shared."""
    first = page_update(None, controls._replace(target=None), {}, lambda name: opened)["view"]
    second = page_update(None, controls._replace(method="eigen_cam", position=0), {}, lambda name: opened)["view"]
    changed = page_update(first, first.controls._replace(target=(first.target + 2) % 7), {}, lambda name: opened)[
        "view"
    ]
    assert (first.controls.method, second.controls.method) == ("grad_cam", "eigen_cam")
    assert second.results.keys().isdisjoint(first.results) and changed.target != first.target == second.target


def test_every_text_from_outside_is_escaped(controls: Controls, opened: OpenedModel) -> None:
    """File names and class names reach the page as text, never as markup."""
    view = view_for(controls, opened)
    view = view_for(controls._replace(target=2, tab="layers"), opened, view)
    texts = [
        fragments.photo(view), fragments.result(view, Drawing()), fragments.headline(view),
        fragments.prediction_bars(view), fragments.layer_cards(view, Drawing()),
        fragments.method_cards(view, Drawing()), fragments.notice("<script>"),
    ]  # fmt: skip
    for text in texts:
        assert "<b>three" not in text and "<photo>" not in text and "<script" not in text
    assert "&lt;b&gt;three&lt;/b&gt;" in texts[2]


def test_downloads_hold_the_picture_shown_and_the_raw_map(view: View) -> None:
    """The .npy file is the raw signed map, bit for bit; both names tell what they are."""
    text = fragments.result(view, Drawing())
    found = re.search(r'download="([^"]+\.npy)" href="data:application/octet-stream;base64,([^"]+)"', text)
    assert found is not None
    np.testing.assert_array_equal(np.load(io.BytesIO(base64.b64decode(found[2]))), shown_map(view))
    assert re.fullmatch(r"[\w.-]+", found[1]) and "grad_cam" in found[1] and view.layer.name in found[1]


def test_a_map_that_speaks_for_nothing_says_so(view: View) -> None:
    """An empty picture carries the reason."""
    key = view.key("grad_cam", view.layer)
    nothing = Computed(-np.ones((1, 4, 4), np.float32), ("one",))
    dark = dataclasses.replace(view, results={**view.results, key: nothing})
    assert "all negative" in fragments.result(dark, Drawing())
    assert "all negative" not in fragments.result(view, Drawing())


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
    content: bytes, words: str, controls: Controls, opened: OpenedModel, tmp_path: Path
) -> None:
    """The page says what is wrong with the file by its name; the server's folders stay private."""
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    limits = Limits(upload=2000, pixels=50_000_000)
    with pytest.raises(ImageError, match=re.escape(words)) as error:
        read(path, limits)
    assert str(tmp_path) not in str(error.value)
    found = page_update(None, controls._replace(photo=path), {}, lambda name: opened, limits=limits)
    assert list(found) == ["notice"] and 'role="alert"' in found["notice"] and str(tmp_path) not in found["notice"]


def test_the_photo_says_how_much_of_it_was_used_and_how_it_was_read(
    controls: Controls, opened: OpenedModel, tmp_path: Path
) -> None:
    """A wide animation: the frame that was read, the part that is used, and the whole with the rest dimmed."""
    frames = [Image.new("RGB", (400, 50), colour) for colour in ("red", "green")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    text = fragments.photo(view_for(controls._replace(photo=tmp_path / "moving.gif"), opened))
    assert "moving.gif has 2 frames: frame 1 was read" in text and str(tmp_path) not in text
    assert "12 % of the photo was used" in text and "the unused part dimmed" in text


def test_a_photo_that_is_gone_asks_for_another_upload(tmp_path: Path) -> None:
    """Uploads are removed after a while; the message says what to do."""
    with pytest.raises(ImageError, match="upload it again"):
        read(tmp_path / "gone.png", Limits())


def test_models_are_opened_once_and_only_a_few_are_kept(opened: OpenedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name opens its model once; the least used is dropped; the first stays."""
    made: list[str] = []

    def fake(name: str) -> Any:
        made.append(name)
        return object()

    monkeypatch.setattr(web_models, "open_page_model", fake)
    models = loaded(opened, capacity=3)
    assert models(opened.name) is opened and models("a") is models("a")
    models("b"), models("a"), models("c"), models("a")
    assert made == ["a", "b", "c"]
    models("b")
    assert made == ["a", "b", "c", "b"] and models(opened.name) is opened


@pytest.mark.parametrize(
    "name",
    ["", "os:system", "package.module:build", "local-dir:/etc", "hf:/etc/passwd", "hf:../x", "hf:a/../b", "a\nb"],
)
def test_names_typed_into_the_page_neither_run_code_nor_read_files(
    name: str, opened: OpenedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the owner of the page may open such a model."""
    monkeypatch.setattr(web_models, "open_page_model", lambda name: pytest.fail("opened"))
    with pytest.raises(AppError):
        loaded(opened)(name)


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
    for made in (fragments.notice(said), fragments._lack(said)):
        assert html.unescape(re.sub("<[^>]+>", "", made)) == (said if shown is None else shown)


def test_unknown_model_is_answered_with_the_closest_names(controls: Controls, opened: OpenedModel) -> None:
    """The message of `loading.load` reaches the page, and the control goes back to the model that is shown."""
    now = page_update(None, controls, {}, loaded(opened))["view"]
    found = page_update(now, now.controls._replace(model="resnet_18"), {}, loaded(opened))
    assert "resnet18" in found.pop("notice") and found == {"model": {"value": opened.name}}


def test_videos_and_volumes_are_refused(tmp_path: Path) -> None:
    """A model of three axes and a file of one are answered with where they can be explained."""
    model = nn.Sequential(nn.Conv3d(3, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(AppError, match="takes videos or volumes.*grad_cam.explain"):
        open_page_model(model)
    (tmp_path / "clip.mp4").write_bytes(b"nothing")
    with pytest.raises(ImageError, match="clip.mp4 is a video or a volume.*grad_cam.explain"):
        read(tmp_path / "clip.mp4", Limits())


def test_a_model_without_any_map_is_refused() -> None:
    """There is nothing to show, and the error says why."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flatten, self.fc, self.out = nn.Flatten(), nn.Linear(3 * 64 * 64, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.fc(self.flatten(x)))

    with pytest.raises(ValueError, match="map"):
        open_page_model(Flat().eval(), input_size=64)


@pytest.mark.parametrize("family", ["ResNet", "ViT", "ConvNext", "Swin"])
def test_hugging_face_classifiers_are_shown(family: str, view: View, opened: OpenedModel) -> None:
    """Their stages are the network and its classifier; the page finds the blocks inside and goes back from there."""
    transformers = pytest.importorskip("transformers")
    small = {
        "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
        "ViT": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64},
        "ConvNext": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
        "Swin": {"embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "image_size": 64},
    }[family]
    config = getattr(transformers, f"{family}Config")(**small, num_labels=5)
    model = getattr(transformers, f"{family}ForImageClassification")(config).eval()
    found = open_page_model(model, input_size=64)
    parts = page_update(view, view.controls._replace(model=found.name), {}, lambda name: found)
    assert len(found.layers) > 1 and "<img" in parts["layer"]
    assert parts["position"]["value"] == found.start and parts["position"]["maximum"] == len(found.layers) - 1
    now = parts["view"]
    assert page_update(now, now.controls, {}, lambda name: found) == {}
    back = page_update(now, view.controls, {}, lambda name: opened)
    assert back["view"].opened is opened and "<img" in back["layer"]
    web.build(model, input_size=64)


def test_vision_transformer_has_its_layers_and_leaves_out_the_dead_one(vit: nn.Module, photo: Path) -> None:
    """Token grids are maps; the last block of a class-token model is listed with its reason instead."""
    found = open_page_model(vit, input_size=64)
    names = [layer.name for layer in found.layers]
    assert "blocks.0" in names and "blocks.2" not in names and "blocks.2" in dict(found.skipped)
    view = view_for(Controls(photo, found.name, 0, None, "grad_cam", (), "layers"), found)
    assert shown_map(view).shape == (4, 4) and "without a map" in fragments.layer_cards(view, Drawing())


def test_a_page_waits_for_its_model_and_other_models_do_not_wait_for_it(
    controls: Controls, opened: OpenedModel
) -> None:
    """While the first model is loading, its requests have a queue of their own."""
    first: Future[OpenedModel] = Future()
    models = Models(opened.name, first, 3)
    assert not models.has(opened.name) and requests.queue_for(None, controls, models) == "models"
    first.set_result(opened)
    assert models.has(opened.name) and requests.queue_for(None, controls, models) == "maps"


def test_requests_that_take_long_have_a_queue_of_their_own(view: View, opened: OpenedModel) -> None:
    """Methods of many passes wait for each other alone; what is computed already is answered at once."""
    models, controls = loaded(opened), view.controls
    assert requests.queue_for(view, controls._replace(method="layer_cam"), models) == "maps"
    slow = controls._replace(method="score_cam", options=(None,))
    assert requests.queue_for(view, slow, models) == "slow" == requests.queue_for(None, slow, models)
    done = view_for(slow, opened, view)
    assert requests.queue_for(done, slow, models) == "maps"
    assert requests.queue_for(done, slow._replace(position=0), models) == "slow"
    assert requests.queue_for(done, slow._replace(target=(view.target or 0) + 1), models) == "slow"
    assert requests.queue_for(view, controls._replace(tab="methods", chosen=("score_cam",)), models) == "slow"
    assert requests.queue_for(done, slow._replace(target="no such class"), models) == "maps"


def test_port_in_use_is_named_and_another_offered() -> None:
    """An explicit port that is taken is an error; without one, the next free port is used."""
    with socket.socket() as taken:
        taken.bind((server.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AppError, match=rf"port {port} .*in use.*--port"):
            server.free_port(server.HOST, port)
    with pytest.raises(AppError, match="65535"):
        server.free_port(server.HOST, 70000)
    with socket.socket() as free:
        free.bind((server.HOST, server.free_port(server.HOST, 0)))


def test_missing_gradio_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(AppError, match=re.escape("gradcam-layers[app]")):
        web.launch("demo", 0, block=False)


# -------------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """A page with a tiny network on a free port, and its address."""
    pytest.importorskip("gradio", reason="the web page needs gradio, which is not installed")
    from .conftest import TinyNet, _settle

    torch.manual_seed(1)
    model = _settle(TinyNet()).eval()
    model.class_names = ["one", "two", "<b>three</b>", "four", "five", "six", "seven"]  # type: ignore[assignment]
    limits = Limits(upload=200_000, pixels=300_000)
    with web.launch(model, 0, input_size=64, limits=limits, block=False) as page:
        yield page.url


class Visitor:
    """One open page, which remembers everything that went wrong in it."""

    def __init__(self, browser: Any, url: str, method: str = "Grad-CAM") -> None:
        self.context = browser.new_context(viewport={"width": 1366, "height": 820}, accept_downloads=True)
        self.page = self.context.new_page()
        self.page.set_default_timeout(90_000)
        self.errors: list[str] = []
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on(
            "request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else self.errors.append(r.url)
        )
        self.page.goto(url)
        self.page.wait_for_selector("#gc-overlay")
        self.settle()
        if method:
            self.choose("gc-method", method)
            self.page.wait_for_selector("#gc-position", state="visible")
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


def test_page_opens_with_auto(browser: Any, served: str) -> None:
    """The first picture is that of auto, which says what it took; the slider of layers comes with Grad-CAM."""
    one = Visitor(browser, served, method="")
    assert one.page.locator("#gc-method input").input_value() == "Automatic"
    assert re.match(r"Automatic: \S.* at ", one.text("#gc-headline p")) and not one.errors
    assert one.page.locator("#gc-position").is_hidden()
    one.choose("gc-method", "Grad-CAM")
    one.page.wait_for_selector("#gc-position", state="visible")
    assert one.text("#gc-headline p").startswith("Grad-CAM at ")
    one.context.close()


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


def test_evidence_stands_under_the_map_that_was_asked_about(visitor: Visitor) -> None:
    """A click asks the model; the sentence goes with the map when the slider moves, and comes back with it."""
    assert visitor.page.locator("#gc-said").count() == 0
    before = visitor.src()
    visitor.page.locator("#gc-evidence").click()
    visitor.page.wait_for_selector("#gc-said")
    assert re.search(r"Removing the marked|Weak evidence", visitor.text("#gc-said")) and visitor.src() == before
    count = float(visitor.page.locator("#gc-position input[type=range]").get_attribute("max"))
    visitor.slide("gc-position", 0)
    visitor.changed(before)
    assert visitor.page.locator("#gc-said").count() == 0
    visitor.slide("gc-position", count)
    visitor.page.wait_for_selector("#gc-said")


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


def test_options_and_layer_control_follow_the_method(visitor: Visitor) -> None:
    """A method brings fields for its numbers, another number another map; where no layer matters there is no slider."""
    page, first = visitor.page, visitor.src()
    assert page.locator(".gc-options input:visible").count() == 0
    visitor.choose("gc-method", "Random CAM")
    before = visitor.changed(first)
    assert page.locator("#gc-option-0").inner_text().strip() == "seed"
    field = page.locator("#gc-option-0 input")
    field.fill("7")
    field.press("Enter")
    visitor.changed(before)
    visitor.choose("gc-method", "FullGrad")
    page.wait_for_selector("#gc-position", state="hidden")
    assert "whole network" in visitor.text("#gc-headline p") and page.locator(".gc-options input:visible").count() == 0
    visitor.choose("gc-method", METHODS["attention_rollout"].title)
    page.wait_for_selector("#gc-notice [role=alert]")
    visitor.settle()
    assert page.locator("#gc-method input").input_value() == "FullGrad"
    visitor.choose("gc-method", "Grad-CAM")
    page.wait_for_function("first => document.querySelector('#gc-overlay').src === first", arg=first)
    assert page.locator("#gc-position").is_visible()


def test_raw_and_signed_views_have_numbers(visitor: Visitor) -> None:
    """The scale says what its ends stand for; the values of a small map are listed."""
    page, first = visitor.page, visitor.src()
    assert re.fullmatch(r"≤ [\d.e−]+\s+[\d.e−]+", visitor.text(".gc-scale").strip())
    page.get_by_role("radio", name="For and against").click()
    signed = visitor.changed(first)
    assert re.fullmatch(r"against −[\d.e−]+\s+[\d.e−]+ for", visitor.text(".gc-scale").strip())
    page.get_by_role("radio", name="Raw map").click()
    visitor.changed(signed)
    ends = [float(end.replace("−", "-")) for end in visitor.text(".gc-scale").split()]
    assert ends[0] == -ends[1] < 0
    page.locator(".gc-numbers summary").click()
    assert page.locator(".gc-table td:visible").count() == 64


def test_while_computing_the_previous_picture_is_marked_as_old(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the result will be stands how far it is, over a pale picture; both go when it is there."""
    page, first, go_on, real = visitor.page, visitor.src(), threading.Event(), views._computed

    def computed(view: View, key: Key, progress: Any) -> View:
        if key.method == "score_cam":
            progress(3, 10)
            assert go_on.wait(60)
        return real(view, key, progress)

    monkeypatch.setattr(views, "_computed", computed)
    visitor.choose("gc-method", "Score-CAM")
    pale = "() => Number(getComputedStyle(document.querySelector('#gc-overlay')).opacity)"
    page.wait_for_function(f"() => ({pale})() < 0.5")
    page.wait_for_selector("#gc-shown [role=progressbar]")
    assert "3/10" in visitor.text("#gc-shown .progress-text") and visitor.src() == first
    go_on.set()
    visitor.changed(first)
    page.wait_for_function(f"() => ({pale})() === 1")


def test_on_a_phone_the_picture_comes_first(visitor: Visitor) -> None:
    """At 390 pixels the explained picture is on the first screen, before the photo, the samples and the controls."""
    visitor.page.set_viewport_size({"width": 390, "height": 844})
    visitor.settle()
    tops = [visitor.page.locator(at).bounding_box()["y"] for at in ("#gc-overlay", "#gc-photo", "#gc-samples")]
    assert tops == sorted(tops) and tops[0] < 400
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390


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
    visitor.page.get_by_role("tab", name="Methods", exact=True).click()
    visitor.page.wait_for_selector("#gc-methods .gc-card img")
    visitor.settle()  # a click on a card that is being replaced would be lost
    assert visitor.page.locator("#gc-methods .gc-card img").count() == 4
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
    assert accessibility.flaws(visitor.page, "#gc-upload") == []  # the field for files is gradio's
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
