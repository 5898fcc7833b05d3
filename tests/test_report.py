"""The report: what the file holds, and what a browser makes of it."""

from __future__ import annotations

import dataclasses
import html
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from grad_cam import explain, sweep, targets
from grad_cam.errors import GradCamError
from grad_cam.rendering import Display
from grad_cam.rendering import report as module
from grad_cam.rendering.report import (
    Report,
    ReportError,
    ReportImage,
    ReportLayer,
    ReportPrediction,
    report_html,
    report_of,
    write_report,
)

from . import accessibility

EVIL = '</script><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>{{js}}'
H, W = 48, 64
SETTINGS = [field.name for field in dataclasses.fields(Display)]


def _layers() -> list[ReportLayer]:
    return [
        ReportLayer(4, "stem", "Conv2d", (8, 24, 32), "NCHW", (24, 32)),
        ReportLayer(3, "layer1", "Block", (8, 6, 8), "NCHW", (6, 8)),
        ReportLayer(2, "layer2", "Block", (16, 3, 4), "NCHW", (3, 4)),
        ReportLayer(1, "pool", "Pool", (16,), "", None, "Pooled to one vector."),
    ]


def _maps(seed: int) -> list[NDArray[np.float64] | None]:
    generator = np.random.default_rng(seed)
    shapes = [layer.grid for layer in _layers()]
    return [None if shape is None else 1e-6 * generator.normal(size=shape) for shape in shapes]


def _report(**changes: Any) -> Report:
    """Two pictures of one colour each, which JPEG keeps; two classes; maps of both signs."""
    images = []
    for number, (name, colour) in enumerate([("one.jpg", 200), ("two.jpg", 40)]):
        picture = np.full((H, W, 3), colour, np.uint8)
        predictions = [ReportPrediction(281, "tabby", 0.75), ReportPrediction(7, "cock", 0.125)]
        maps = [_maps(10 * number + 1), _maps(10 * number + 2)]
        images.append(ReportImage(name, picture, predictions, ["tabby", "cock"], maps))
    settings: dict[str, Any] = {
        "model": "tiny", "method": "Grad-CAM", "layers": _layers(), "images": images, "call": "grad_cam.sweep(model)",
        "versions": {"torch": "2.0"},
    }  # fmt: skip
    shown = {"threshold": 0.0, "colormap": "bgr"}
    shown |= {name: changes.pop(name) for name in SETTINGS if name in changes}
    return Report(**{**settings, "display": Display(**shown), **changes})


def _data(text: str) -> dict[str, Any]:
    """The numbers in the file."""
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


# ------------------------------------------------------------------------------------------------------------ the file


def test_file_is_self_contained() -> None:
    """Nothing is fetched: no address but data, and a policy that forbids the rest."""
    text = report_html(_report())
    assert "{{" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"""(src|href)="(?!data:)""", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))
    assert "http://" not in text and "https://" not in text
    assert "default-src 'none'" in html.unescape(text)


@pytest.mark.parametrize(("bits", "tolerance"), [(16, 2e-5), (8, 5e-3)])
def test_stored_maps(bits: int, tolerance: float) -> None:
    """A stored map is the raw one but for rounding, each sign in its own unit; zero and signs stay."""
    import base64

    raw = np.random.default_rng(0).normal(size=(5, 7)) * np.where(np.arange(7) % 2, 1e-9, 30.0)
    raw[2, 3] = 0
    raw = np.where(raw > 0, raw * 1e-6, raw)
    found = module._map(raw, bits, None)
    assert found is not None
    whole = np.frombuffer(base64.b64decode(found["data"]), f"<i{bits // 8}").reshape(5, 7)
    back = whole * np.where(whole > 0, found["up"], found["down"])
    above = raw > 0
    assert np.abs(back - raw)[above].max() <= tolerance * raw.max()
    assert np.abs(back - raw)[~above].max() <= tolerance * -raw.min()
    assert back[2, 3] == 0
    assert (np.sign(back) * np.sign(raw) >= 0).all()


@pytest.mark.parametrize("side", [14, 112, 224])
def test_size(side: int) -> None:
    """Three noisy pictures of 224 pixels, 20 layers and 5 classes stay under 5 MB, whatever the size of the maps."""
    generator = np.random.default_rng(0)
    layers = [ReportLayer(20 - i, f"layer{i}", "Block", (8, side, side), "NCHW", (side, side)) for i in range(20)]
    classes = [f"class {i}" for i in range(5)]
    images = []
    for number in range(3):
        maps = [[generator.normal(size=(side, side)).astype(np.float32) for _ in layers] for _ in classes]
        images.append(
            ReportImage(f"{number}.png", generator.integers(0, 256, (224, 224, 3), np.uint8), [], classes, maps)
        )
    text = report_html(Report("model", "Grad-CAM", layers, images))
    assert len(text.encode()) < 5_000_000
    storage = re.search(r'<p id="storage">(.*?)</p>', text)[1]
    assert ("16 bits" in storage) == (side == 14)
    assert ("averaged" in storage) == (side > 14)


def test_write(tmp_path: pathlib.Path) -> None:
    """A file that exists is kept unless `force`; a folder in its place is an error; a missing folder is made."""
    path = write_report(_report(), tmp_path / "a.html")
    assert path.read_text(encoding="utf-8") == report_html(_report())
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="force=True"):
        write_report(_report(), path)
    assert path.read_text(encoding="utf-8") == "mine"
    write_report(_report(), path, force=True)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        write_report(_report(), tmp_path, force=True)
    assert write_report(_report(), tmp_path / "none" / "a.html").is_file()


def test_names_of_any_bytes(tmp_path: pathlib.Path) -> None:
    """File names that are no text, and text of any script, do not stop the file from being written."""
    odd = os.fsdecode(b"caf\xe9.jpg") + "\u202e\u2028\x00 猫"
    image = dataclasses.replace(_report().images[0], name=odd)
    path = write_report(_report(images=[image], model=odd), tmp_path / "a.html")
    assert _data(path.read_text(encoding="utf-8"))["images"][0]["name"] == odd


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": []}, "at least one layer"),
        ({"images": []}, "at least one picture"),
        ({"layers": _layers()[:2]}, "4 maps for 'tabby' but the report has 2 layers"),
        ({"threshold": 1.0}, "threshold=1.0"),
        ({"smoothing": -1.0}, "smoothing=-1.0"),
        ({"alpha": float("nan")}, "alpha=nan"),
    ],
)
def test_bad_reports(changes: dict[str, Any], words: str) -> None:
    """Parts that do not fit each other and settings out of range are named."""
    with pytest.raises(GradCamError, match=re.escape(words)):
        _report(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"picture": np.zeros((4, 4, 3), np.float32)}, "float32"),
        ({"picture": np.zeros((4, 4), np.uint8)}, "(4, 4)"),
        ({"classes": ["one"]}, "1 classes but maps for 2"),
        ({"maps": [[np.zeros(3)] * 4] * 2}, "shape (3,)"),
        ({"predictions": [ReportPrediction(0, "x", 1.5)]}, "probability 1.5"),
    ],
)
def test_bad_images(changes: dict[str, Any], words: str) -> None:
    """What is wrong with a picture, its classes, maps or predictions is named."""
    with pytest.raises(ReportError, match=re.escape(words)):
        _report(images=[dataclasses.replace(_report().images[0], **changes)])


def test_unknown_colormap() -> None:
    """A colormap that does not exist is an error with the closest names."""
    with pytest.raises(ValueError, match="viridis"):
        report_html(_report(colormap="virids"))


def test_of_a_sweep(cnn: torch.nn.Module, batch: torch.Tensor, tmp_path: pathlib.Path) -> None:
    """`Sweep.report` writes every stage of the model, with maps where there are any."""
    found = sweep(cnn, batch)
    data = _data(found.report(tmp_path / "a.html", colormap="magma").read_text(encoding="utf-8"))
    assert len(data["images"]) == len(batch)
    assert sum(m is not None for m in data["images"][0]["maps"][0]) == len(found)
    assert data["display"]["colormap"] == "magma"


def test_opens_with_another_map(cnn: torch.nn.Module, batch: torch.Tensor, open_report: Any, tmp_path: Any) -> None:
    """A page opens with the map it is given beside the layers, says what it is, and counts the layers without it."""
    found, best = sweep(cnn, batch, method="layer_cam"), explain(cnn, batch, method="auto")
    data = _data(found.report(tmp_path / "a.html", opening=best).read_text(encoding="utf-8"))
    assert [row["name"] for row in data["layers"]][-1] == module.OPENING
    stored = data["images"][1]["maps"][0][-1]
    assert stored["max"] == pytest.approx(float(best.raw(1, 0).max()), rel=1e-6)
    page = open_report(report_of(found, opening=[best]))
    assert all(cell.inner_text().strip() for cell in page.page.locator("#rows tr:last-child td").all())
    assert page.text("here-name") == module.OPENING and "measures best" in page.text("here-note")
    assert f"{len(found.stages)} layers" in page.text("summary")
    with pytest.raises(ReportError, match="something else"):
        report_of(found, opening=[explain(cnn, batch, target=targets.top(2), method="auto")])
    with pytest.raises(ReportError, match="2 maps"):
        report_of(found, opening=[best, best])


# ------------------------------------------------------------------------------------------------------------- browser


class Page:
    """A report opened from disk, and what to ask of it."""

    def __init__(self, browser: Any, report: Report, folder: pathlib.Path, **context: Any) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.page = self.context.new_page()
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("request", lambda r: self.requests.append(r.url))
        path = write_report(report, folder / "report.html")
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready]", timeout=60_000)

    def set(self, control: str, value: float) -> None:
        """Moves a slider as a hand would: value and input event."""
        self.page.locator(f"#{control}").evaluate(
            "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', { bubbles: true })); }", str(value)
        )

    def pixels(self) -> NDArray[np.uint8]:
        """What the canvas shows once the page has drawn, (H, W, 3)."""
        found = self.page.evaluate(
            """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
                const c = document.getElementById('view');
                done([c.height, c.width, Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)]);
            })))"""
        )
        return np.array(found[2], np.uint8).reshape(found[0], found[1], 4)[..., :3]

    def text(self, id: str) -> str:
        """The text of an element, once the page has drawn."""
        self.pixels()
        return self.page.locator(f"#{id}").text_content()

    def close(self) -> None:
        """Closes the page; it must have been silent, and alone."""
        self.context.close()
        assert self.errors == []
        assert [url for url in self.requests if not url.startswith(("file:", "data:"))] == []


@pytest.fixture
def open_report(browser: Any, tmp_path: pathlib.Path) -> Iterator[Any]:
    """Opens reports, and checks at the end that none wrote to the console or asked the network for anything."""
    pages: list[Page] = []

    def run(report: Report, **context: Any) -> Page:
        folder = tmp_path / str(len(pages))
        folder.mkdir()
        pages.append(Page(browser, report, folder, **context))
        return pages[-1]

    yield run
    for page in pages:
        page.close()


def _expected(report: Report, image: int, target: int, layer: int, *, threshold: float, smoothing: float,
              alpha: float, colormap: str = "bgr", view: str = "positive") -> NDArray[np.int64]:  # fmt: skip
    shown = report.images[image]
    display = Display(threshold, smoothing, alpha, colormap, view)
    return np.asarray(display.overlay(shown.picture, shown.maps[target][layer])).astype(int)


def _same(found: NDArray[np.uint8], expected: NDArray[np.int64]) -> None:
    """Equal but for JPEG and rounding: a step of the colour table at a few pixels."""
    difference = np.abs(found.astype(int) - expected)
    assert found.shape == expected.shape
    assert difference.max() <= 6 and difference.mean() < 0.5


def test_canvas_is_the_python_picture(open_report: Any) -> None:
    """Every control of the page gives the pixels that `rendering` gives for the same map and settings."""
    report = _report(smoothing=0.0)
    page = open_report(report)
    _same(page.pixels(), _expected(report, 0, 0, 2, threshold=0, smoothing=0, alpha=0.6))
    page.set("opacity", 1)
    _same(page.pixels(), _expected(report, 0, 0, 2, threshold=0, smoothing=0, alpha=1))
    page.set("threshold", 0.4)
    _same(page.pixels(), _expected(report, 0, 0, 2, threshold=0.4, smoothing=0, alpha=1))
    page.set("smoothing", 3.5)
    _same(page.pixels(), _expected(report, 0, 0, 2, threshold=0.4, smoothing=3.5, alpha=1))
    page.page.locator("#colormaps label", has_text="viridis").click()
    settings: dict[str, Any] = {"threshold": 0.4, "smoothing": 3.5, "alpha": 1, "colormap": "viridis"}
    _same(page.pixels(), _expected(report, 0, 0, 2, **settings))
    page.set("layer", 0)
    _same(page.pixels(), _expected(report, 0, 0, 0, **settings))
    page.page.locator("#classes button").nth(1).click()
    _same(page.pixels(), _expected(report, 0, 1, 0, **settings))
    page.page.locator("#pictures button").nth(1).click()
    _same(page.pixels(), _expected(report, 1, 1, 0, **settings))
    page.set("smoothing", 20)  # wider than the picture: the border is mirrored more than once
    _same(page.pixels(), _expected(report, 1, 1, 0, **{**settings, "smoothing": 20}))
    page.page.locator("#reset").click()
    _same(page.pixels(), _expected(report, 1, 1, 0, threshold=0, smoothing=0, alpha=0.6))
    page.set("opacity", 0)
    _same(page.pixels(), np.full((H, W, 3), 40))


def test_evidence_stands_under_its_own_map(open_report: Any) -> None:
    """The sentence is shown for the class, layer and picture that it is about, as text, and for no other."""
    said = "Removing the marked 20 % lowers the score. <b>Weak</b>"
    image = dataclasses.replace(_report().images[0], evidence={(0, 2): said})
    page = open_report(_report(images=[image, _report().images[1]]))
    assert page.text("here-evidence") == said and page.page.locator("#here-evidence").is_visible()
    page.set("layer", 1)
    page.pixels()
    assert page.page.locator("#here-evidence").is_hidden()
    page.set("layer", 2)
    page.page.locator("#classes button").nth(1).click()
    assert page.text("here-evidence") == "" and page.page.locator("#here-evidence").is_hidden()
    page.page.locator("#classes button").nth(0).click()
    assert page.text("here-evidence") == said
    page.page.locator("#pictures button").nth(1).click()
    assert page.text("here-evidence") == ""


def test_signed_view(open_report: Any) -> None:
    """The signed view gives the pixels of `Display(view="signed")`, and a map that is all negative is shown there."""
    negative = -np.random.default_rng(3).uniform(0.1, 1, (3, 4))
    image = dataclasses.replace(_report().images[0], maps=[[*_maps(1)[:2], negative, None], _maps(2)])
    report = _report(images=[image], smoothing=0.0, threshold=0.25)
    page = open_report(report)
    page.set("layer", 2)
    page.pixels()
    assert "only against it" in page.text("message")
    page.page.locator("#views label", has_text="for and against").click()
    settings: dict[str, Any] = {"threshold": 0.25, "smoothing": 0, "alpha": 0.6, "view": "signed"}
    _same(page.pixels(), _expected(report, 0, 0, 2, **settings))
    assert not page.page.locator("#message").is_visible()
    assert "against" in page.text("scale-low") and "for" in page.text("scale-high")
    page.set("layer", 1)
    _same(page.pixels(), _expected(report, 0, 0, 1, **settings))
    page.page.locator("#reset").click()
    _same(page.pixels(), _expected(report, 0, 0, 1, **{**settings, "view": "positive"}))
    opened = open_report(_report(view="signed", smoothing=0.0, threshold=0.25))
    _same(opened.pixels(), _expected(_report(), 0, 0, 2, **settings))


def test_contact_sheet(open_report: Any) -> None:
    """Several pictures open with a sheet of cards: sorted by confidence, filtered by class, walked through by key."""
    images = []
    for i, (probability, label) in enumerate([(0.5, "cock"), (0.9, "tabby"), (0.2, "tabby")]):
        predictions = [ReportPrediction(i, label, probability)]
        images.append(dataclasses.replace(_report().images[0], name=f"{i}.jpg", predictions=predictions))
    page = open_report(_report(images=images))

    def names() -> list[str]:
        return page.page.locator("#pictures button bdi").all_text_contents()

    def chosen() -> str:
        page.pixels()
        return page.page.locator("#pictures [aria-pressed=true] bdi").text_content()

    assert names() == ["0.jpg", "1.jpg", "2.jpg"] and chosen() == "0.jpg"
    painted = "[...document.querySelectorAll('#pictures canvas')].every((c) => { const d = c.getContext('2d')"
    painted += ".getImageData(0, 0, c.width, c.height).data; return d.some((v, k) => k % 4 !== 3 && v !== d[0]); })"
    assert page.page.evaluate(painted)
    page.page.select_option("#sort", "most")
    assert names() == ["1.jpg", "0.jpg", "2.jpg"]
    for key, wanted in [("n", "2.jpg"), ("n", "1.jpg"), ("p", "2.jpg"), ("p", "0.jpg")]:
        page.page.locator("#here-name").click()
        page.page.evaluate("document.activeElement.blur()")
        page.page.keyboard.press(key)
        assert chosen() == wanted
    page.page.select_option("#only", "tabby")
    assert names() == ["1.jpg", "2.jpg"] and chosen() == "1.jpg"
    one = open_report(_report(images=images[:1]))
    assert not one.page.locator("#sheet-controls").is_visible() and one.page.locator("#pictures canvas").count() == 0


def test_no_path_of_the_sender(cnn: torch.nn.Module, batch: torch.Tensor) -> None:
    """Of names only the file's name is kept; absolute folders are cut out of the call, everything else stays."""
    found = sweep(cnn, batch)
    names = [f"/home/sender/my pictures/{i}.jpg" if i else "C:\\Users\\sender\\0.jpg" for i in range(len(batch))]
    call = "grad-cam report '/home/sender/my pictures/1.jpg' /home/sender/2.jpg photos/3.jpg -o ~/private/a.html -m a/b"
    report = report_of(found, names=names, call=call, threshold=0.5)
    text = report_html(report)
    assert [image["name"] for image in _data(text)["images"]] == [f"{i}.jpg" for i in range(len(batch))]
    assert report.call == "grad-cam report '1.jpg' 2.jpg photos/3.jpg -o a.html -m a/b"
    assert "sender" not in text and "private" not in text and "my pictures" not in text
    assert report.display == Display(threshold=0.5)
    with pytest.raises(ReportError, match="1 names for"):
        report_of(found, names=["a.jpg"])


def test_old_name() -> None:
    """The old module still gives the names, with a warning that says the new one."""
    import importlib
    import sys

    sys.modules.pop("grad_cam.interfaces.report", None)
    with pytest.warns(FutureWarning, match="grad_cam.rendering.report"):
        old = importlib.import_module("grad_cam.interfaces.report")
    assert all(getattr(old, name) is getattr(module, name) for name in old.__all__)


def test_opens_with_the_settings_given(open_report: Any) -> None:
    """Threshold, smoothing, opacity and a colormap beyond the usual ones are those the page opens with."""
    settings: dict[str, Any] = {"threshold": 0.125, "smoothing": 2.0, "alpha": 0.8, "colormap": "magma"}
    report = _report(**settings)
    _same(open_report(report).pixels(), _expected(report, 0, 0, 2, **settings))


def test_ways_to_a_layer(open_report: Any) -> None:
    """Arrow keys, small pictures and table rows choose the layer; all of them show which one it is."""
    page = open_report(_report())
    assert page.text("here-name") == "layer2"
    page.page.keyboard.press("ArrowLeft")
    assert page.text("here-name") == "layer1"
    page.page.locator("#layer").focus()
    page.page.keyboard.press("ArrowLeft")
    page.page.keyboard.press("ArrowLeft")
    assert page.text("here-name") == "stem"
    page.page.locator("#strip button").nth(2).click()
    assert page.text("here-name") == "layer2"
    page.page.locator("#rows tr").nth(1).click()
    assert page.text("here-name") == "layer1"
    assert page.page.locator("#layer").input_value() == "1"
    for place in ("#strip", "#rows"):
        assert page.page.locator(f"{place} > [aria-current]").count() == 1
        assert page.page.locator(f"{place} > :nth-child(2)[aria-current]").count() == 1
    page.page.locator("#threshold").focus()
    page.page.keyboard.press("ArrowRight")
    assert page.text("here-name") == "layer1"
    assert page.page.locator("#threshold").input_value() != "0"


def test_ways_to_a_class(open_report: Any) -> None:
    """Digits, arrows among the tabs and the predictions choose the class."""
    page = open_report(_report())
    chosen = page.page.locator("#classes [aria-selected=true] bdi")
    assert chosen.text_content() == "tabby"
    page.page.keyboard.press("2")
    page.pixels()
    assert chosen.text_content() == "cock"
    page.page.locator("#classes [aria-selected=true]").focus()
    page.page.keyboard.press("ArrowRight")
    page.pixels()
    assert chosen.text_content() == "tabby"
    assert page.text("here-name") == "layer2"
    page.page.locator("#predictions button", has_text="cock").click()
    page.pixels()
    assert chosen.text_content() == "cock"
    assert "75 %" in page.text("predictions")


def test_empty_maps_in_words(open_report: Any) -> None:
    """Maps that are missing, zero, nowhere positive or not finite show the bare picture and say why."""
    zero, negative, nan = np.zeros((3, 4)), -np.ones((3, 4)), np.full((3, 4), np.nan)
    image = dataclasses.replace(_report().images[0], maps=[[zero, negative, nan, None], _maps(2)])
    page = open_report(_report(images=[image]))
    for layer, words in enumerate(["zero everywhere", "negative or zero", "not finite", "Pooled to one vector"]):
        page.set("layer", layer)
        assert words in page.text("message")
        assert page.page.locator("#message").is_visible()
        assert words in page.page.locator("#view").get_attribute("aria-label")
        _same(page.pixels(), np.full((H, W, 3), 200))
    page.page.keyboard.press("2")
    page.set("layer", 1)
    page.pixels()
    assert not page.page.locator("#message").is_visible()


def test_alternative_text(open_report: Any) -> None:
    """The canvas is described in words: method, class, layer, file, and where the map is strongest."""
    corner = np.zeros((3, 4))
    corner[2, 0] = 1.0
    image = dataclasses.replace(_report().images[0], maps=[[corner] * 4] * 2)
    page = open_report(_report(images=[image]))
    words = page.page.locator("#view").get_attribute("aria-label")
    assert all(word in words for word in ("Grad-CAM", "tabby", "pool", "one.jpg", "lower left"))
    unnamed = page.page.evaluate(
        "[...document.querySelectorAll('button, input, canvas, img')].filter((e) => !e.closest('[aria-hidden=true]') &&"
        " !e.getAttribute('aria-label') && !e.textContent.trim() && !(e.labels && e.labels.length) &&"
        " !e.hasAttribute('alt')).length"
    )
    assert unnamed == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_accessible(open_report: Any, scheme: str, width: int) -> None:
    """Readers who do not see the page get all of it: ten photos, light and dark, on a phone and on a screen."""
    images = [dataclasses.replace(_report().images[0], name=f"{i}.jpg") for i in range(10)]
    size = {"width": width, "height": 844}
    page = open_report(_report(images=images), color_scheme=scheme, viewport=size, bypass_csp=True)
    assert accessibility.flaws(page.page) == []


def test_printed(open_report: Any) -> None:
    """Paper shows the picture, its scale, the predictions and the name of every layer, and no controls."""
    photo = Image.new("RGB", (80, 20)), "12 % of the photo was used"
    page = open_report(_report(images=[dataclasses.replace(_report().images[0], photo=photo)]))
    page.page.emulate_media(media="print")
    for shown in ("#view", "#scale", "#predictions", "#used", "#whole img", "#strip button:last-child .named"):
        assert page.page.locator(shown).is_visible(), shown
    for hidden in ("#threshold", "#colormaps", "#layer", ".copy >> nth=0", "#theme"):
        assert not page.page.locator(hidden).is_visible(), hidden


def test_names_are_inert(open_report: Any) -> None:
    """Markup in the names of files, classes, layers, models, calls and versions is shown, and does nothing."""
    layers = [dataclasses.replace(layer, name=EVIL, type=EVIL, layout=EVIL, note=EVIL) for layer in _layers()]
    predictions = [ReportPrediction(1, EVIL, 0.5)]
    image = dataclasses.replace(_report().images[0], name=EVIL, classes=[EVIL, "b"], predictions=predictions)
    page = open_report(Report(EVIL, EVIL, layers, [image, image], call=EVIL, versions={EVIL: EVIL}))
    page.page.locator("#pictures button").nth(1).click()
    page.page.locator("#rows tr").nth(0).click()
    assert page.text("here-name") == EVIL
    assert page.text("model") == EVIL
    assert page.text("call") == EVIL
    assert page.page.locator("#classes bdi").first.text_content() == EVIL
    assert page.page.evaluate("window.hacked") is None
    assert page.page.locator("img").count() == 2
    assert page.page.locator("script").count() == 2


def test_copy(open_report: Any) -> None:
    """The copy button puts the exact call on the clipboard."""
    page = open_report(_report(call='a("b")\nc'), permissions=["clipboard-read", "clipboard-write"])
    page.page.locator("[data-copy=call]").click()
    page.page.locator("[data-copy=call]", has_text="Copied").wait_for(timeout=30_000)
    assert page.page.evaluate("navigator.clipboard.readText()") == 'a("b")\nc'


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(open_report: Any, scheme: str) -> None:
    """The page opens in the reader's scheme, and the button switches it."""
    page = open_report(_report(), color_scheme=scheme)
    light = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0] > 128"
    assert page.page.evaluate(light) == (scheme == "light")
    page.page.locator("#theme").click()
    assert page.page.evaluate(light) == (scheme == "dark")


@pytest.mark.parametrize("long", [False, True])
def test_phone(open_report: Any, long: bool) -> None:
    """At 390 pixels nothing sticks out sideways, however long the names."""
    image = _report().images[0]
    name = "a_very_long_name_" * 12 if long else "short"
    image = dataclasses.replace(image, name=name, classes=[name, "b"], predictions=[ReportPrediction(1, name, 0.5)])
    layers = [dataclasses.replace(layer, name=name, type=name, note=name) for layer in _layers()]
    page = open_report(
        _report(images=[image], layers=layers, call=name, model=name), viewport={"width": 390, "height": 844},
        is_mobile=True, has_touch=True,
    )  # fmt: skip
    assert page.page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.page.locator("#view").bounding_box()["width"] > 300
    page.set("layer", 0)
    assert page.text("here-name") == name
