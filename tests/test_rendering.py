"""Heatmaps, colours, overlays and figures."""

from __future__ import annotations

import builtins
import concurrent.futures
import dataclasses
import errno
import io
import math
import os
import subprocess
import sys
import threading

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image

from grad_cam import rendering
from grad_cam.errors import GradCamError
from grad_cam.rendering import files

LONG = "Egyptian cat, tiger cat, tabby, tabby cat and every other name that somebody ever gave to a cat, " * 3


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def _picture(height: int = 48, width: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def _heat(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    return rendering.heatmap(_random(7, 7, seed=seed), (height, width))


# --- heatmaps


@pytest.mark.parametrize(
    ("grid", "size"), [((7, 7), (224, 224)), ((7, 10), (60, 33)), ((1, 1), (5, 4)), ((9, 8), (4, 5))]
)
def test_resizing_is_bilinear_between_pixel_centres(grid, size):
    """Without smoothing and threshold a heatmap is torch's bilinear map, cut at zero and divided by its maximum."""
    maps = _random(3, *grid) + 0.5
    resized = torch.nn.functional.interpolate(torch.tensor(maps)[None], size=size, mode="bilinear")[0].clamp(min=0)
    expected = resized / resized.amax((1, 2), keepdim=True).clamp(min=1e-12)
    np.testing.assert_allclose(rendering.heatmap(maps, size), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("sigma", [0.4, 1.5, 6.0])
def test_smoothing_is_a_gaussian(sigma):
    """Smoothing equals the Gaussian sum over the reflected picture, written as a loop, before the cut at zero."""
    height, width = 9, 12
    maps = _random(height, width)
    radius = math.ceil(4 * sigma)
    shifts = range(-radius, radius + 1)
    total = sum(math.exp(-(i**2 + j**2) / 2 / sigma**2) for i in shifts for j in shifts)

    def reflected(i: int, n: int) -> int:
        i %= 2 * n
        return i if i < n else 2 * n - 1 - i

    slow = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            for i in shifts:
                for j in shifts:
                    weight = math.exp(-(i**2 + j**2) / 2 / sigma**2) / total
                    slow[y, x] += weight * maps[reflected(y + i, height), reflected(x + j, width)]
    expected = np.maximum(slow, 0) / slow.max()
    np.testing.assert_allclose(rendering.heatmap(maps, (height, width), smoothing=sigma), expected, atol=1e-6)


def test_threshold_floors_a_fraction_of_the_maximum():
    """Values under threshold * max become 0, the rest is stretched to 1, negative values never count."""
    maps = np.array([[-4.0, 1.0], [2.0, 8.0]])
    np.testing.assert_allclose(rendering.heatmap(maps, (2, 2), 0.125), [[0, 0], [1 / 7, 1]], atol=1e-7)
    np.testing.assert_allclose(rendering.heatmap(maps, (2, 2)), [[0, 1 / 8], [1 / 4, 1]], atol=1e-7)


def test_maps_of_any_scale_kind_and_batch():
    """Scale, dtype and graph do not matter; a batch gives what its maps give one by one; the map is not changed."""
    maps = _random(2, 3, 5, 5)
    before = maps.copy()
    heat = rendering.heatmap(maps, (20, 30), 0.1, 1.5)
    assert heat.shape == (2, 3, 20, 30) and heat.dtype == np.float32 and heat.min() == 0 and heat.max() == 1
    for index in np.ndindex(2, 3):
        np.testing.assert_array_equal(heat[index], rendering.heatmap(maps[index], (20, 30), 0.1, 1.5))
    for factor in (1e-300, 1e300):
        np.testing.assert_allclose(rendering.heatmap(maps * factor, (20, 30), 0.1, 1.5), heat, atol=1e-6)
    tensor = torch.tensor(maps, dtype=torch.bfloat16, requires_grad=True)
    expected = rendering.heatmap(tensor.detach().float().numpy(), (20, 30))
    np.testing.assert_array_equal(rendering.heatmap(tensor, (20, 30)), expected)
    np.testing.assert_array_equal(maps, before)


def test_nothing_positive_is_an_empty_heatmap():
    """Maps that are zero or negative give zeros, beside others that do not."""
    maps = np.stack([np.zeros((3, 3)), -np.ones((3, 3)), np.eye(3)])
    heat = rendering.heatmap(maps, (6, 6), 0.5, 1.0)
    assert not heat[:2].any() and heat[2].max() == 1


def test_default_smoothing_grows_with_the_picture():
    """The default is 5 pixels at 224 and in proportion to the shorter side."""
    assert rendering.default_smoothing((224, 224)) == 5
    assert rendering.default_smoothing((448, 900)) == 10


@pytest.mark.parametrize(
    ("map", "words"),
    [
        (np.zeros((2, 2)), "all zero"),
        (-np.ones((2, 2)), "all negative"),
        ([[0.0, -1.0]], "nowhere positive"),
        (np.full((2, 2), 0.3), "the same everywhere"),
        ([[0.3]], None),
        ([[-1.0, 1.0]], None),
    ],
)
def test_describe_names_what_is_unusual(map, words):
    """A map with nothing to show is described in words, an ordinary one is not."""
    assert rendering.describe(map) == words


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rendering.heatmap([[math.nan, 1.0]], (4, 4)), "1 of 2 values of the map are NaN"),
        (lambda: rendering.heatmap([[math.inf, 1.0]], (4, 4)), "infinite"),
        (lambda: rendering.heatmap(np.ones(4), (4, 4)), "got shape"),
        (lambda: rendering.heatmap(np.ones((0, 4)), (4, 4)), "got shape"),
        (lambda: rendering.heatmap(np.ones((2, 2)), (0, 4)), "size=\\(0, 4\\)"),
        (lambda: rendering.heatmap(np.ones((2, 2)), (4, 4), 1.0), "threshold=1.0"),
        (lambda: rendering.heatmap(np.ones((2, 2)), (4, 4), -0.1), "threshold=-0.1"),
        (lambda: rendering.heatmap(np.ones((2, 2)), (4, 4), math.nan), "threshold=nan"),
        (lambda: rendering.heatmap(np.ones((2, 2)), (4, 4), 0, -1), "smoothing=-1"),
        (lambda: rendering.heatmap(np.ones((2, 2)), (4, 4), 0, 1e9), "from 0 \\(none\\) to 4"),
        (lambda: rendering.palette("virids"), "did you mean viridis"),
        (lambda: rendering.palette("BGR"), "did you mean bgr"),
        (lambda: rendering.palette("no such colours at all"), "try bgr"),
        (lambda: rendering.overlay(_picture(), np.ones((4, 4))), "heatmap is 4x4, the picture 48x64"),
        (lambda: rendering.overlay(_picture(), _heat(), alpha=1.5), "alpha=1.5"),
        (lambda: rendering.overlay(_picture(), np.full((48, 64), math.nan)), "NaN"),
        (lambda: rendering.overlay(np.ones((48, 64)), _heat()), "bytes \\(H, W, 3\\) \\(got float64"),
        (lambda: rendering.colorize(np.ones((1, 4, 4))), "take one of the batch"),
        (lambda: rendering.map_figure(np.ones((2, 4, 4))), "one map"),
        (lambda: rendering.comparison(_picture(), [_heat()], ["a", "b"]), "2 titles for 1 heatmaps"),
        (lambda: rendering.comparison(_picture(), [_heat()], ["a"], notes=[]), "0 notes for 1 heatmaps"),
        (lambda: rendering.comparison(_picture(), [], []), "no heatmap"),
        (lambda: rendering.comparison(_picture(), [_heat()], ["a"], columns=0), "columns=0"),
        (lambda: rendering.sweep_figure(_picture(), [_heat()], ["a"], {"focus": [1, 2]}), "2 values for 1 layers"),
        (lambda: rendering.animation([], "a.gif"), "at least one frame"),
        (lambda: rendering.animation([_picture()], "a.mp4"), "end the name in .gif or .webp"),
        (lambda: rendering.animation([_picture(), _picture(9, 9)], "a.gif"), "9x9, 64x48"),
        (lambda: rendering.animation([_picture()], "a.gif", [100, 100]), "2 durations for 1 frames"),
        (lambda: rendering.animation([_picture()], "a.gif", 5), "at least 20"),
        (lambda: rendering.captioned(_picture(), "a", progress=2), "progress=2"),
        (lambda: rendering.save(_picture(), "picture.docx"), "end the name in one of .png"),
    ],
)
def test_errors_say_what_to_do(call, words):
    """Wrong input is an error that names what was given."""
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("wrong", ["a", None, True, [0.5], 0.5j])
@pytest.mark.parametrize("name", ["threshold", "smoothing", "alpha"])
def test_settings_that_are_no_numbers(name, wrong):
    """A setting that is no number is a TypeError with its name, its value and the range."""
    with pytest.raises(TypeError, match=f"{name}=.*give a number from 0"):
        if name == "alpha":
            rendering.overlay(_picture(), _heat(), alpha=wrong)
        else:
            rendering.heatmap(np.eye(2), (4, 4), **{name: wrong})


@pytest.mark.parametrize("half", [np.float32(0.5), np.array(0.5), torch.tensor(0.5)])
def test_numbers_of_any_kind(half):
    """Numbers of numpy and torch are numbers."""
    np.testing.assert_array_equal(
        rendering.heatmap(np.eye(2), (4, 4), half, half), rendering.heatmap(np.eye(2), (4, 4), 0.5, 0.5)
    )


def test_text_is_no_map():
    """Values that are no real numbers are a TypeError."""
    with pytest.raises(TypeError, match="real numbers"):
        rendering.heatmap(np.ones((2, 2), complex), (4, 4))


# --- display


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"threshold": 1}, "threshold=1 .*not 1"),
        ({"threshold": -0.1}, "threshold=-0.1"),
        ({"smoothing": -1}, "smoothing=-1 is not a sigma in pixels; .* or None"),
        ({"smoothing": math.inf}, "smoothing=inf"),
        ({"alpha": 1.01}, "alpha=1.01"),
        ({"alpha": math.nan}, "alpha=nan"),
        ({"colormap": "virids"}, "did you mean viridis"),
        ({"colormap": None}, "no colormap is called None"),
        ({"view": "negative"}, "view='negative' is unknown; use 'positive' or 'signed'"),
        ({"treshold": 0.1}, "treshold.*did you mean threshold"),
        ({"sigma_of_all": 0.1}, "the settings are threshold, smoothing"),
    ],
)
def test_display_refuses_wrong_values(settings, words):
    """A display setting out of range or of an unknown name is an error with its name, its value and the remedy."""
    with pytest.raises(GradCamError, match=words):
        rendering.Display.of(**settings)
    with pytest.raises(GradCamError, match=words):
        rendering.Display.of(rendering.Display(alpha=0.5), **settings)


def test_display_is_a_frozen_value():
    """Displays of equal settings are equal; changes make another one; numbers of numpy become plain ones."""
    display = rendering.Display(threshold=np.float32(0.25), smoothing=np.array(2), alpha=1)
    assert display == rendering.Display(0.25, 2.0, 1.0) and hash(display) == hash(rendering.Display(0.25, 2.0, 1.0))
    assert [type(v) for v in (display.threshold, display.smoothing, display.alpha)] == [float] * 3
    changed = rendering.Display.of(display, alpha=0.5, smoothing=None)
    assert changed == rendering.Display(0.25, None, 0.5) and display.alpha == 1
    assert rendering.Display.of() == rendering.Display()
    with pytest.raises(dataclasses.FrozenInstanceError):
        display.alpha = 0.1
    with pytest.raises(TypeError, match="display is not a Display"):
        rendering.Display.of(0.5)


def test_display_shows_a_map_as_the_functions_do():
    """A display's heatmap and overlay are those of the functions with its settings, with what suits the size."""
    maps, picture = _random(7, 7), _picture()
    heat = rendering.Display(threshold=0.25).heat(maps, (48, 64))
    sigma = rendering.default_smoothing((48, 64))
    np.testing.assert_array_equal(heat.values, rendering.heatmap(maps, (48, 64), 0.25, sigma))
    overlay = rendering.Display(0.25, 3.0, 0.5, "viridis").overlay(picture, maps)
    wanted = rendering.heatmap(maps, (48, 64), 0.25, 3.0)
    assert overlay == rendering.overlay(picture, wanted, alpha=0.5, colormap="viridis")


def test_range_of_a_heatmap():
    """The ends of a heatmap come with the numbers they stand for, in units of the raw map."""
    maps = np.array([[-4.0, 1.0], [2.0, 8.0]])
    assert rendering.Display(0.25, 0).heat(maps, (2, 2))[1:] == (2.0, 8.0)
    assert rendering.Display(0.25, 0, view="signed").heat(maps, (2, 2))[1:] == (-8.0, 8.0)
    assert rendering.Display(0.25, 0).heat(-np.eye(2), (2, 2))[1:] == (0.0, 0.0)


# --- signed view


def test_signed_heatmaps_keep_both_signs_on_one_scale():
    """The largest magnitude is 1, the floor is a fraction of it for either sign, zero stays zero."""
    maps = np.array([[-4.0, 1.0], [0.0, 8.0]])
    np.testing.assert_allclose(rendering.heatmap(maps, (2, 2), view="signed"), maps / 8, atol=1e-7)
    floored = rendering.heatmap(maps, (2, 2), 0.25, view="signed")
    np.testing.assert_allclose(floored, [[-1 / 3, 0], [0, 1]], atol=1e-7)
    negative = rendering.heatmap(-np.eye(3) - 0.1, (6, 6), 0.125, 1.0, "signed")
    assert negative.min() == -1 and negative.max() <= 0
    np.testing.assert_array_equal(rendering.heatmap(-maps, (9, 9), 0.1, 1.0, "signed"),
                                  -rendering.heatmap(maps, (9, 9), 0.1, 1.0, "signed"))  # fmt: skip


def test_signed_colours_are_one_for_each_sign_and_none_at_zero():
    """For is red, against is blue, zero shows the picture; a diverging colormap is taken, another is not."""
    picture = np.full((1, 3, 3), 128, np.uint8)
    shown = np.asarray(rendering.overlay(picture, [[-1.0, 0.0, 1.0]], alpha=1, view="signed")).astype(int)[0]
    assert shown[0].argmax() == 2 and (shown[1] == 128).all() and shown[2].argmax() == 0
    assert (rendering.colorize([[0.0]], view="signed") > 240).all()
    np.testing.assert_array_equal(rendering.palette("viridis", "signed"), rendering.palette("bgr", "signed"))
    assert (rendering.palette("PuOr", "signed") != rendering.palette("bgr", "signed")).any()


# --- colours


def test_bgr_runs_from_blue_over_green_to_red_without_a_jump():
    """The ends are blue and red, the middle is green, neighbours are close, and no colour comes twice."""
    colours = rendering.palette("bgr").astype(int)
    assert colours.shape == (256, 3)
    assert colours[0].argmax() == 2 and colours[128].argmax() == 1 and colours[-1].argmax() == 0
    assert np.abs(np.diff(colours, axis=0)).max() <= 8
    assert len(np.unique(colours, axis=0)) > 250


def test_lightness_rises_along_the_default_colours():
    """The default colours of every way in are told apart by lightness (L* of CIELAB) alone."""
    colours = rendering.palette(rendering.Display().colormap) / 255
    np.testing.assert_array_equal(rendering.palette(), rendering.palette(rendering.Display().colormap))
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    assert (np.diff(lightness[::8]) > 0.5).all()


def test_any_matplotlib_colormap():
    """Other names give matplotlib's colours."""
    expected = matplotlib.colormaps["viridis"](np.linspace(0, 1, 256))[:, :3] * 255
    np.testing.assert_allclose(rendering.palette("viridis"), expected, atol=0.5)
    assert rendering.palette("gray").tolist() == [[i, i, i] for i in range(256)]


def test_overlay_never_wraps_around():
    """Every channel of an overlay lies between the picture's and the colour's, for all heats and opacities."""
    heat = np.tile(np.linspace(0, 1, 256), (256, 1))
    below = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 256, 1)[..., None].repeat(3, 2)
    colours = rendering.colorize(heat)
    for alpha in (0.0, 0.3, 0.6, 1.0):
        shown = np.asarray(rendering.overlay(below, heat, alpha=alpha))
        assert (shown >= np.minimum(below, colours)).all() and (shown <= np.maximum(below, colours)).all()


def test_overlay_shows_the_picture_where_there_is_no_heat():
    """Opacity grows with heat as alpha * (1 - (1 - h)^2), from the untouched picture on."""
    picture = _picture()
    np.testing.assert_array_equal(rendering.overlay(picture, np.zeros((48, 64))), picture)
    np.testing.assert_array_equal(rendering.overlay(picture, _heat(), alpha=0), picture)
    hot = rendering.overlay(picture, np.ones((48, 64)), alpha=1)
    assert (np.asarray(hot) == rendering.palette()[-1]).all()
    half = np.asarray(rendering.overlay(picture, np.full((48, 64), 0.5), alpha=0.6), float)
    expected = 0.55 * np.asarray(picture, float) + 0.45 * rendering.palette()[128]
    np.testing.assert_allclose(half, expected, atol=0.51)


def test_heat_outside_the_range_is_shown_as_the_nearest_end():
    """Values under 0 and over 1 do not wrap around to the other end of the colours."""
    colours = rendering.colorize([[-0.5, 0.0, 1.0, 1.5]])
    assert (colours[0, 0] == colours[0, 1]).all() and (colours[0, 2] == colours[0, 3]).all()


# --- figures


def _shown_texts(figure) -> list[Text]:
    """All texts that can be seen, those of the figure first."""
    inside = {id(text) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for text in axis.findobj(Text)}
    ticks = {
        id(tick.label1) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for tick in axis.get_major_ticks()
    }
    found = figure.findobj(lambda a: isinstance(a, Text) and bool(a.get_text()) and a.get_visible())
    return [text for text in found if id(text) not in inside or id(text) in ticks]


def _texts(figure) -> list[str]:
    return [text.get_text() for text in _shown_texts(figure)]


def _check_layout(figure) -> None:
    """No text leaves the figure, none lies on another or on a panel, and no panel on another."""
    renderer = figure._get_renderer()
    page = figure.bbox
    texts = [(t.get_text(), t.get_window_extent(renderer)) for t in _shown_texts(figure)]
    panels = [(f"panel {i}", axes.get_window_extent(renderer)) for i, axes in enumerate(figure.axes)]
    for name, box in texts + panels:
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= page.width and box.y1 <= page.height
        assert inside, f"{name!r} leaves the figure"
    things = texts + panels
    for i, (name, box) in enumerate(things):
        for other, second in things[i + 1 :]:
            wide = min(box.x1, second.x1) - max(box.x0, second.x0)
            high = min(box.y1, second.y1) - max(box.y0, second.y0)
            assert wide <= 1 or high <= 1, f"{name!r} lies on {other!r}"


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (32, 32), (20, 200), (200, 20), (1, 1), (700, 900)])
@pytest.mark.parametrize("title", ["", "cat", LONG + "\n" + LONG, "x" * 400])
def test_panels_fit_any_picture_and_title(size, title):
    """Panels, captions, colour bar and title keep apart and inside for any aspect, size and length of name."""
    figure = rendering.panels(_picture(*size), _heat(*size), title=title, note="all negative")
    _check_layout(figure)
    figure.set_dpi(96)
    _check_layout(figure)
    assert {"image", "overlay", "heatmap", "colormap", "low", "high", "map is all negative"} <= set(_texts(figure))


@pytest.mark.parametrize("whole", [(640, 80), (90, 700), (64, 48)])
def test_a_whole_photo_takes_the_place_of_the_image(whole):
    """The whole photo has the shape of the other panels, on white, and its note stands above it or under all."""
    photo = Image.new("RGB", whole, "green"), "12 % of the photo was used"
    figures = [
        rendering.panels(_picture(32, 32), _heat(32, 32), photo=photo),
        rendering.comparison(_picture(32, 32), [_heat(32, 32)] * 3, ["a", "b", "c"], photo=photo),
        rendering.sweep_figure(_picture(32, 32), [_heat(32, 32)] * 3, ["a", "b", "c"], photo=photo),
    ]
    for figure in figures:
        _check_layout(figure)
        assert "12 % of the" in " ".join(_texts(figure)) and "image" not in _texts(figure)
        shown = np.asarray(figure.axes[0].get_images()[0].get_array())
        assert shown.shape[0] == shown.shape[1] and ({tuple(p) for p in shown[::9, ::9].reshape(-1, 3).tolist()}) == {
            (0, 128, 0), (255, 255, 255)
        }  # fmt: skip
    padded = rendering.panels(_picture(32, 32), _heat(32, 32), photo=(None, "the whole photo was used, padded"))
    assert {"image", "The whole photo was used, padded."} <= set(_texts(padded))


@pytest.mark.parametrize("count", [1, 4, 7, 26])
@pytest.mark.parametrize("size", [(48, 64), (64, 40), (30, 120)])
def test_sweeps_fit_any_number_of_layers(count, size):
    """Grid and curves keep apart and inside for any number of layers and any aspect, long names included."""
    names = [
        f"blocks.{i}.attention.projection.of.a.long.path\n{i} · 14 × 14" if i % 3 else f"s{i}" for i in range(count)
    ]
    curves = {"focus": [i / count for i in range(count)], "agreement": [math.nan] + [-0.5] * (count - 1)}
    notes = ["all zero"] + [None] * (count - 1)
    heats = [_heat(*size, seed=i) for i in range(count)]
    figure = rendering.sweep_figure(_picture(*size), heats, names, curves, title=LONG, notes=notes)
    _check_layout(figure)
    texts = set(_texts(figure))
    assert {"focus", "low", "high", "all zero"} <= texts
    assert ("agreement" in texts) == (count > 1)  # a curve without a value is left out
    assert ("Every panel has a scale of its own." in texts) == (count > 1)
    _check_layout(rendering.comparison(_picture(*size), heats, names, title="methods", notes=notes))
    _check_layout(rendering.comparison(_picture(*size), heats, names, columns=2))


def test_points_of_a_curve_stand_under_their_layers():
    """In a sweep of one row, point i of a curve has the same middle as panel i."""
    figure = rendering.sweep_figure(_picture(), [_heat()] * 4, list("abcd"), {"focus": [0.1, 0.2, 0.3, 0.4]})
    panels = [axes for axes in figure.axes if axes.images and axes.get_position().width > 0.05]
    line = next(axes.lines[-1] for axes in figure.axes if len(axes.lines) > 1)
    points = line.get_transform().transform(np.column_stack(line.get_data()))[:, 0]
    middles = [axes.get_window_extent().x0 + axes.get_window_extent().width / 2 for axes in panels[1:]]
    np.testing.assert_allclose(points, middles, atol=0.5)


def test_an_empty_heatmap_is_said_to_be_empty():
    """A heatmap without heat is reported in the title even when no note is given."""
    assert "map is nowhere positive" in _texts(rendering.panels(_picture(), np.zeros((48, 64)), title="cat"))
    assert "nowhere positive" in _texts(rendering.comparison(_picture(), [np.zeros((48, 64))], ["a"]))


@pytest.mark.parametrize(
    ("map", "labels"),
    [
        (np.linspace(-1, 3, 49).reshape(7, 7), {"3", "−1", "0", "raw map, 7 × 7"}),
        (np.linspace(-1e-5, 2, 6).reshape(2, 3), {"2", "−1e−5"}),
        (np.zeros((112, 112)), {"map is all zero", "0", "raw map, 112 × 112"}),
        (-np.eye(3), {"map is nowhere positive"}),
        ([[-1.7e308, 1.7e308]], {"1.7e308", "−1.7e308"}),
        (np.arange(60.0).reshape(1, 60), {"59"}),
        ([[2.0]], {"2"}),
    ],
)
def test_map_figure_shows_the_signed_values(map, labels):
    """The raw map is shown square by square at its own size, its range beside the colour bar."""
    figure = rendering.map_figure(map, title=LONG)
    _check_layout(figure)
    assert labels <= set(_texts(figure))
    assert figure.axes[0].images[0].get_array().shape[:2] == np.shape(map)


def test_names_are_shown_as_they_are():
    """Dollar signs are no formulas, line ends in names of one line, control characters and half characters no crash."""
    figure = rendering.panels(_picture(), _heat(), title="$x_1$ \\frac \x00\x1b \udcff.jpg")
    assert figure.texts[0].get_text() == "$x_1$ \\frac ?.jpg"
    rendering.png_bytes(figure)


def test_png_does_not_depend_on_settings_or_threads():
    """The same call gives the same bytes, whatever the user's matplotlib settings, from several threads at once."""

    def draw(_: int = 0) -> bytes:
        return rendering.png_bytes(rendering.panels(_picture(), _heat(), title="cat"))

    first = draw()
    settings = {"figure.facecolor": "black", "savefig.bbox": "tight", "font.size": 30, "savefig.dpi": 20,
                "text.color": "red", "axes.facecolor": "red", "savefig.facecolor": "red", "image.origin": "lower",
                "text.usetex": True, "savefig.transparent": True, "figure.autolayout": True,
                "axes.grid": True}  # fmt: skip
    with matplotlib.rc_context(settings):
        assert draw() == first
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert set(pool.map(draw, range(8))) == {first}
    figure = rendering.panels(_picture(), _heat(), title="cat")
    across, down = figure.get_size_inches() * 150
    assert Image.open(io.BytesIO(first)).size == (int(across), int(down))
    assert Image.open(io.BytesIO(rendering.png_bytes(figure, dpi=75))).size == (int(across / 2), int(down / 2))


def test_matplotlib_is_imported_late_and_pyplot_never():
    """Importing the module and making heatmaps import no matplotlib; laying colours and drawing import no pyplot."""
    code = """
import sys
import numpy as np
from grad_cam import rendering
heat = rendering.heatmap(np.eye(2), (8, 8), 0.1, 1.0)
assert "matplotlib" not in sys.modules
rendering.overlay(np.zeros((8, 8, 3), np.uint8), heat)
rendering.png_bytes(rendering.panels(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8))))
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- files


def test_of_two_writers_of_one_name_one_succeeds(tmp_path):
    """Many threads write the same new file: one wins, the others get FileExistsError, the file is one of theirs."""
    path, start = tmp_path / "new" / "a.bin", threading.Barrier(8)

    def write(number: int) -> bool:
        start.wait()
        try:
            files.write(path, bytes([number]) * 1_000_000)
        except FileExistsError as error:
            assert "exists already" in str(error) and "force=True" in str(error)
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(8)))
    assert won.count(True) == 1
    assert path.read_bytes() == bytes([won.index(True)]) * 1_000_000
    assert os.listdir(path.parent) == ["a.bin"]


def test_a_name_taken_meanwhile_is_kept(tmp_path, monkeypatch):
    """A file that appears between the check and the end of writing is not overwritten, with hard links or without."""
    path = tmp_path / "a.bin"
    refuse = files.refuse_existing

    def late(paths, force=False):
        refuse(paths, force)
        path.write_bytes(b"theirs")

    def no_links(*_):
        raise PermissionError(errno.EPERM, "no hard links here")

    for links in (os.link, no_links):
        path.unlink(missing_ok=True)
        monkeypatch.setattr(files, "refuse_existing", late)
        monkeypatch.setattr(os, "link", links)
        with pytest.raises(FileExistsError):
            files.write(path, b"mine")
        assert path.read_bytes() == b"theirs" and os.listdir(tmp_path) == ["a.bin"]
        monkeypatch.setattr(files, "refuse_existing", refuse)
        path.unlink()
        assert files.write(path, "mine").read_bytes() == b"mine"
        with pytest.raises(FileExistsError):
            files.write(path, b"again")
        assert files.write(path, b"forced", force=True).read_bytes() == b"forced"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("force", [False, True])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, force):
    """When writing fails half way, no new file and no part of one is left, and an old file is as it was."""
    if force:
        (tmp_path / "a.png").write_bytes(b"old")
    opened = builtins.open

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            self.file.write(data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(builtins, "open", lambda *given, **named: Full(opened(*given, **named)))
    with pytest.raises(OSError, match="No space left"):
        rendering.save(_picture(), tmp_path / "a.png", force=force)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == (["a.png"] if force else [])
    assert not force or (tmp_path / "a.png").read_bytes() == b"old"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit of file sizes")
def test_a_limit_of_the_system_leaves_nothing_behind(tmp_path):
    """A real limit of the operating system (RLIMIT_FSIZE) is an error, and the folder is as it was."""
    code = f"""
import os, resource, signal
from grad_cam.rendering import files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    files.write({str(tmp_path / "a.bin")!r}, bytes(1_000_000))
except OSError as error:
    print(error.errno, os.listdir({str(tmp_path)!r}))
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout == f"{errno.EFBIG} []\n"


def test_links_devices_and_rights(tmp_path):
    """With force a link is followed and stays a link; a device is written to; a new file has the usual rights."""
    (tmp_path / "target.bin").write_bytes(b"old")
    (tmp_path / "link.bin").symlink_to("target.bin")
    files.write(tmp_path / "link.bin", b"new", force=True)
    assert (tmp_path / "link.bin").is_symlink() and (tmp_path / "target.bin").read_bytes() == b"new"
    files.write(os.devnull, b"gone")
    (tmp_path / "usual").touch()
    files.write(tmp_path / "fresh", b"")
    assert (tmp_path / "fresh").stat().st_mode == (tmp_path / "usual").stat().st_mode
    with pytest.raises(IsADirectoryError, match="is a folder"):
        files.write(tmp_path, b"", force=True)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "pdf", "svg"])
def test_figures_are_saved_by_suffix(tmp_path, suffix):
    """A figure is written in the format its name asks for, twice the same."""
    paths = [tmp_path / f"{name}.{suffix.upper()}" for name in "ab"]
    for path in paths:
        assert rendering.save(rendering.map_figure(np.eye(3)), path) == path
    if suffix in ("pdf", "svg"):
        assert paths[0].read_bytes()[:5] in (b"%PDF-", b"<?xml")
    else:
        with Image.open(paths[0]) as picture:
            assert picture.width > 300
    if suffix != "svg":  # its identifiers are random
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_pictures_are_saved_and_a_failure_leaves_the_old_file(tmp_path):
    """A picture comes back as it was saved; when the format refuses it, the file that was there stays."""
    picture = _picture()
    path = rendering.save(picture, tmp_path / "a.png")
    with Image.open(path) as again:
        np.testing.assert_array_equal(again, picture)
    (tmp_path / "b.jpg").write_bytes(b"old")
    with pytest.raises(OSError):
        rendering.save(picture.convert("RGBA"), tmp_path / "b.jpg")
    assert (tmp_path / "b.jpg").read_bytes() == b"old"


def test_folders_are_made(tmp_path):
    """A folder that is not there is made for pictures and animations; a file in its place is named."""
    for path in (tmp_path / "a" / "b" / "c.png", tmp_path / "d" / "e.gif"):
        written = rendering.save(_picture(), path) if path.suffix == ".png" else rendering.animation([_picture()], path)
        assert written.is_file()
    with pytest.raises(NotADirectoryError, match="c.png.* is a file"):
        rendering.save(_picture(), tmp_path / "a" / "b" / "c.png" / "f.png")


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animation_keeps_frames_order_and_time(tmp_path, suffix):
    """Every frame comes back in order, near its colours, with its own duration, in an endless loop."""
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("#c01020", "#20c010", "#1020c0")]
    path = rendering.animation(frames, tmp_path / f"a{suffix}", [100, 200, 900])
    with Image.open(path) as film:
        assert film.n_frames == 3 and film.size == (40, 30) and film.info["loop"] == 0
        for number, (frame, duration) in enumerate(zip(frames, [100, 200, 900], strict=True)):
            film.seek(number)
            film.load()
            assert film.info["duration"] == duration
            np.testing.assert_allclose(np.asarray(film.convert("RGB"), int), np.asarray(frame, int), atol=12)


def test_captions_stand_under_the_picture():
    """A captioned frame has the picture unchanged on top, and one height for all texts; progress fills its line."""
    picture = _picture(100, 200)
    frames = [
        rendering.captioned(picture, text, detail, progress=progress)
        for text, detail, progress in (("a", "", 0.0), (LONG, "7 × 7", 0.5), ("layer4", LONG, 1.0))
    ]
    assert len({frame.size for frame in frames}) == 1
    for frame in frames:
        np.testing.assert_array_equal(np.asarray(frame)[:100], picture)
    lines = [np.asarray(frame)[100] for frame in frames]
    blue = lines[2][0]
    assert [int((line == blue).all(-1).sum()) for line in lines] == [0, 100, 200]


def test_figures_show_themselves_in_notebooks() -> None:
    """A figure that ends a cell is shown without a plotting backend."""
    figure = rendering.map_figure(np.eye(3))
    assert figure._repr_png_() == rendering.png_bytes(figure)
