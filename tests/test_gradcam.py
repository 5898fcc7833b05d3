"""The four-line interface: GradCAM(model, picture, layer_idx, input_size)."""

from __future__ import annotations

import copy
import pathlib
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

import grad_cam
from grad_cam import GradCAM, rendering
from grad_cam.loading import ImageError, preprocessing

from .conftest import TinyNet

SIZE = 64
PICTURES = ("-origin", "-overlapped", "-heatmap", "-colormap")


@pytest.fixture
def path(tmp_path: pathlib.Path, picture: Image.Image) -> pathlib.Path:
    """A picture in a file."""
    file = tmp_path / "photo.png"
    picture.save(file)
    return file


def test_call_returns_and_keeps_the_heatmap(cnn: nn.Module, path: pathlib.Path) -> None:
    """Calling it gives the heatmap at the model's input size, in 0..1, and keeps it in `heatmap`."""
    cam = GradCAM(cnn, path, 3, SIZE, class_idx=3)
    heat = cam()
    assert heat.shape == (SIZE, SIZE) and heat.dtype == np.float32
    assert 0 <= heat.min() and heat.max() <= 1
    np.testing.assert_array_equal(heat, cam.heatmap)


def test_is_explain(cnn: nn.Module, path: pathlib.Path) -> None:
    """It shows the map of `grad_cam.explain` on the preprocessed picture, floored at an eighth of the maximum."""
    tensor, view = preprocessing(cnn, SIZE)(path)
    wanted = grad_cam.explain(cnn, tensor, layer="layer1", target=3)
    cam = GradCAM(cnn, path, "layer1", SIZE, class_idx=3)
    smoothing = rendering.default_smoothing((SIZE, SIZE))
    np.testing.assert_allclose(cam(), wanted.heatmap(threshold=1 / 8, smoothing=smoothing)[0], atol=1e-6)
    assert torch.equal(cam.explanation.map, wanted.map)
    assert cam.picture.tobytes() == view.tobytes()


def test_positions_and_aliases(cnn: nn.Module, path: pathlib.Path) -> None:
    """The positional order is model, img_path, layer_idx, input_size; `input_shape` is the same as `input_size`."""
    by_place = GradCAM(cnn, str(path), 4, (48, SIZE))
    by_name = GradCAM(model=cnn, img_path=path, layer_idx=4, input_size=(48, SIZE))
    by_alias = GradCAM(cnn, path, 4, input_shape=(48, SIZE))
    assert by_place().shape == (48, SIZE)
    np.testing.assert_array_equal(by_place.heatmap, by_name())
    np.testing.assert_array_equal(by_place.heatmap, by_alias())
    with pytest.raises(TypeError, match="alias"):
        GradCAM(cnn, path, 4, SIZE, input_shape=SIZE)


def test_layer_can_be_number_name_or_module(cnn: nn.Module, path: pathlib.Path) -> None:
    """A layer_idx, its module path and the module itself name the same cut; None takes the last map."""
    chain = grad_cam.chain(cnn, SIZE)
    index = {s.name: s.layer_idx for s in chain.stages}["layer1"]
    maps = [GradCAM(cnn, path, layer, SIZE).explanation for layer in (index, "layer1", cnn.layer1)]
    assert all(torch.equal(maps[0].map, one.map) and one.layer == maps[0].layer for one in maps)
    assert GradCAM(cnn, path, input_size=SIZE).explanation.layer.layer_idx == chain.default_split().layer_idx


def test_a_chain_knows_the_classes_of_its_model(cnn: nn.Module, path: pathlib.Path) -> None:
    """The names of the classes and of the model are those of the model that a chain was made of."""
    cnn.class_names = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]  # type: ignore[assignment]
    cam = GradCAM(grad_cam.chain(cnn, SIZE), path, 3, SIZE)
    assert cam.classes == cnn.class_names and repr(cam).startswith(f"GradCAM({type(cnn).__name__}, ")


def test_class_by_name(cnn: nn.Module, path: pathlib.Path) -> None:
    """A class name set on the model is accepted and shown; without one the predicted class is explained."""
    cnn.class_names = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]  # type: ignore[assignment]
    named = GradCAM(cnn, path, 3, SIZE, class_idx="dog")
    assert torch.equal(named.explanation.map, GradCAM(cnn, path, 3, SIZE, class_idx=3).explanation.map)
    assert named.explanation.title().startswith("dog")
    assert named.classes == cnn.class_names
    best = GradCAM(cnn, path, 3, SIZE).explanation
    assert best.classes is not None and int(best.classes[0, 0]) == int(best.logits.argmax())


def test_sources_are_alike(cnn: nn.Module, path: pathlib.Path, picture: Image.Image) -> None:
    """A path, a PIL image and an array of the same picture give the same heatmap."""
    heats = [GradCAM(cnn, source, 3, SIZE)() for source in (path, str(path), picture, np.asarray(picture))]
    assert all(np.array_equal(heats[0], heat) for heat in heats)


def test_display_settings_do_not_compute_again(
    cnn: nn.Module, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threshold, smoothing, colours and opacity can be changed after the call; the model does not run again."""
    cam = GradCAM(cnn, path, "layer1", SIZE, smoothing=0)
    first = cam()
    monkeypatch.setattr("grad_cam.gradcam.explain", lambda *a, **k: pytest.fail("computed again"))
    cam.threshold = 0.5
    assert (cam.heatmap > 0).sum() < (first > 0).sum()
    cam.threshold = 0.0
    lowest = cam.heatmap
    cam.smoothing = 3.0
    assert not np.array_equal(cam.heatmap, lowest)
    cam.colormap, cam.alpha = "viridis", 0.2
    assert isinstance(cam.imposing_visualization(), Figure)
    assert isinstance(cam.origin_cam_visualization(), Figure)


def test_the_question_can_be_changed(cnn: nn.Module, path: pathlib.Path) -> None:
    """Another layer, class or method set on the object is answered, by the map and by its title."""
    cam = GradCAM(cnn, path, "layer1", SIZE, class_idx=1)
    first = cam()
    for name, value in (("layer_idx", np.int64(3)), ("class_idx", 2), ("method", "hires_cam")):
        setattr(cam, name, value)
        settings = {"layer_idx": cam.layer_idx, "class_idx": cam.class_idx, "method": cam.method}
        wanted = GradCAM(cnn, path, input_size=SIZE, **settings)
        np.testing.assert_array_equal(cam.heatmap, wanted.heatmap)
        assert cam.explanation.title() == wanted.explanation.title()
    assert not np.array_equal(first, cam.heatmap)


@pytest.mark.parametrize("layer", [np.int64(3), np.array(3), torch.tensor(3)])
def test_whole_numbers_of_any_kind(cnn: nn.Module, path: pathlib.Path, layer: Any) -> None:
    """Whole numbers of numpy and torch are layers, classes and sizes like any other."""
    wanted = GradCAM(cnn, path, 3, SIZE, class_idx=3)()
    size = type(layer)(SIZE) if isinstance(layer, np.int64) else layer * 0 + SIZE
    np.testing.assert_array_equal(GradCAM(cnn, path, layer, size, class_idx=layer)(), wanted)


def test_folders_are_made(cnn: nn.Module, path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Files can be saved into a folder that is not there yet."""
    GradCAM(cnn, path, 3, SIZE).imposing_visualization(tmp_path / "new" / "folder" / "out.png")
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 5


def test_figures_compute_when_needed(cnn: nn.Module, path: pathlib.Path) -> None:
    """A visualization asked for before the call computes the map itself, once."""
    cam = GradCAM(cnn, path, 3, SIZE)
    assert isinstance(cam.imposing_visualization(), Figure)
    assert cam.explanation is cam.explanation


def test_files_saved(cnn: nn.Module, path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """With a path, the figure and the four pictures beside it are written, each at the size of the model's input."""
    cam = GradCAM(cnn, path, "layer1", SIZE)
    heat = cam()
    cam.imposing_visualization(tmp_path / "out.png")
    cam.origin_cam_visualization(tmp_path / "map.png")
    made = {p.name for p in tmp_path.iterdir()} - {"photo.png"}
    assert made == {"out.png", "map.png", *(f"out{name}.png" for name in PICTURES)}
    for name in PICTURES:
        assert Image.open(tmp_path / f"out{name}.png").size == (SIZE, SIZE)
    assert Image.open(tmp_path / "out-origin.png").convert("RGB").tobytes() == cam.picture.tobytes()
    np.testing.assert_allclose(np.asarray(Image.open(tmp_path / "out-heatmap.png")) / 255, heat, atol=1 / 255)


def test_a_wide_picture_is_shown_whole(cnn: nn.Module, path: pathlib.Path) -> None:
    """The figure says how much of a wide picture was used; `crop=False` keeps the whole of it."""
    wide = Image.new("RGB", (8 * SIZE, SIZE), "green")

    def texts(cam: GradCAM) -> str:
        figure = cam.imposing_visualization()
        assert figure is not None
        shown = [text.get_text() for axes in figure.axes for text in axes.texts]
        return " ".join([*shown, *(text.get_text() for text in figure.texts)])

    cam = GradCAM(cnn, wide, "layer1", SIZE)
    assert "12 % of the photo was used" in texts(cam) and (np.asarray(cam.picture) == (0, 128, 0)).all()
    cam = GradCAM(cnn, wide, "layer1", SIZE, crop=False)
    assert "The whole photo was used, padded" in texts(cam) and not (np.asarray(cam.picture) == (0, 128, 0)).all()


def test_vector_figures_have_raster_pictures(cnn: nn.Module, path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A PDF figure comes with PNG pictures."""
    GradCAM(cnn, path, 3, SIZE).imposing_visualization(tmp_path / "out.pdf")
    assert (tmp_path / "out.pdf").read_bytes().startswith(b"%PDF")
    assert Image.open(tmp_path / "out-overlapped.png").format == "PNG"


@pytest.mark.parametrize("name", ["out.png", *(f"out{name}.png" for name in PICTURES)])
def test_existing_files_are_refused(cnn: nn.Module, path: pathlib.Path, tmp_path: pathlib.Path, name: str) -> None:
    """If one of the five files is there, none is written, unless `force`."""
    (tmp_path / name).write_text("precious")
    cam = GradCAM(cnn, path, 3, SIZE)
    with pytest.raises(FileExistsError, match=name):
        cam.imposing_visualization(tmp_path / "out.png")
    assert (tmp_path / name).read_text() == "precious"
    assert {p.name for p in tmp_path.iterdir()} == {"photo.png", name}
    cam.imposing_visualization(tmp_path / "out.png", force=True)
    assert Image.open(tmp_path / name).format == "PNG"
    with pytest.raises(FileExistsError):
        cam.origin_cam_visualization(tmp_path / "out.png")


def test_model_is_left_as_found(path: pathlib.Path) -> None:
    """Training mode, flags, gradients, hooks and weights are as before."""
    model = TinyNet().train()
    model.fc.weight.requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        GradCAM(model, path, 3, SIZE)()
    assert model.training and all(m.training for m in model.modules())
    assert not model.fc.weight.requires_grad and model.fc.bias.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


class Against(nn.Module):
    """A model whose logits fall with everything it sees."""

    def __init__(self, scale: float = -1.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.fc = nn.Linear(2, 2, bias=False)
        nn.init.constant_(self.conv.weight, 1.0)
        nn.init.constant_(self.fc.weight, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 2)."""
        return self.fc(self.flat(self.pool(self.relu(self.conv(x + 3)))))


@pytest.mark.parametrize(("scale", "says"), [(-1.0, "all negative"), (0.0, "all zero")])
def test_empty_maps_are_said_to_be_so(path: pathlib.Path, scale: float, says: str) -> None:
    """A map without anything positive warns once and gives an empty heatmap, not noise."""
    cam = GradCAM(Against(scale), path, "relu", 32, class_idx=0)
    with pytest.warns(UserWarning, match=says):
        heat = cam()
    assert not heat.any()


def test_ordinary_maps_do_not_warn(cnn: nn.Module, path: pathlib.Path) -> None:
    """Nothing is said about a map that has nothing unusual."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cam = GradCAM(cnn, path, "layer1", SIZE)
        if cam.explanation.note() is None:
            cam.imposing_visualization()


# ------------------------------------------------------------------------------------------------------------ bad input


def _bad_files(folder: pathlib.Path, picture: Image.Image) -> dict[str, pathlib.Path]:
    files = {name: folder / name for name in ("text.png", "cut.jpg", "zero.png", "missing.png")}
    files["text.png"].write_text("no picture")
    picture.save(folder / "whole.jpg")
    files["cut.jpg"].write_bytes((folder / "whole.jpg").read_bytes()[:600])
    files["zero.png"].touch()
    return {**files, "folder": folder}


@pytest.mark.parametrize("kind", ["text.png", "cut.jpg", "zero.png", "missing.png", "folder"])
def test_bad_files(cnn: nn.Module, picture: Image.Image, tmp_path: pathlib.Path, kind: str) -> None:
    """What is no picture is refused at once, by name."""
    file = _bad_files(tmp_path, picture)[kind]
    with pytest.raises(ImageError, match=file.name):
        GradCAM(cnn, file, 3, SIZE)


def test_image_bomb(cnn: nn.Module, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that would unpack to a huge picture is refused before it is unpacked."""
    file = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(file)
    with pytest.raises(ImageError, match="pixels"):
        GradCAM(cnn, file, 3, SIZE)


@pytest.mark.parametrize("source", [np.zeros((4, 4, 2), np.uint8), np.full((4, 4), np.nan), np.array(["a"]), None, 3])
def test_bad_sources(cnn: nn.Module, source: Any) -> None:
    """An array that is no picture, or something else altogether, is refused."""
    with pytest.raises((ImageError, TypeError)):
        GradCAM(cnn, source, 3, SIZE)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"layer_idx": 0}, "layer_idx=0"),
        ({"layer_idx": ""}, "names no layer"),
        ({"layer_idx": 2.5}, "layer_idx=2.5 is not a layer"),
        ({"layer_idx": -2}, "-2"),
        ({"layer_idx": 50}, "50"),
        ({"layer_idx": "layr1"}, "layer1"),
        ({"layer_idx": "pool"}, "pool"),
        ({"layer_idx": nn.ReLU()}, "ReLU"),
        ({"class_idx": 7}, "7"),
        ({"class_idx": -1}, "-1"),
        ({"class_idx": "bee"}, "bee"),
        ({"method": "gradcm"}, "grad_cam"),
        ({"method": "grad_cam", "chunk": 3}, "chunk"),
        ({"input_size": 0}, "0"),
        ({"input_size": (64, -1)}, "-1"),
        ({"threshold": 1.0}, "threshold"),
        ({"threshold": -0.1}, "threshold"),
        ({"threshold": "a"}, "threshold='a' is not a fraction"),
        ({"alpha": "a"}, "alpha='a'"),
        ({"smoothing": "a"}, "smoothing='a'"),
        ({"smoothing": -1}, "smoothing"),
        ({"colormap": "jett"}, "jet"),
        ({"alpha": 1.5}, "alpha"),
    ],
)
def test_bad_settings(cnn: nn.Module, path: pathlib.Path, settings: dict[str, Any], says: str) -> None:
    """A setting that cannot be is an error that names it."""
    with pytest.raises((ValueError, TypeError), match=says):
        GradCAM(cnn, path, **{"input_size": SIZE, **settings}).imposing_visualization()


def test_input_size_the_model_refuses(vit: nn.Module, path: pathlib.Path) -> None:
    """A size that the model does not take is an error that tells its own."""
    with pytest.raises(ValueError, match="64"):
        GradCAM(vit, path, input_size=100)()


def test_wrong_channels(path: pathlib.Path) -> None:
    """A tensor with the wrong number of channels is refused; a grey model gets a grey picture by itself."""
    grey = TinyNet(channels=1).eval()
    assert GradCAM(grey, path, 3, SIZE)().shape == (SIZE, SIZE)
    with pytest.raises(ValueError, match="channels"):
        grad_cam.explain(grey, torch.rand(1, 3, SIZE, SIZE))


def test_nan_weights_are_named(path: pathlib.Path) -> None:
    """NaN in the weights is reported with the name of the weight."""
    model = TinyNet().eval()
    with torch.no_grad():
        model.down.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"down\.weight"):
        GradCAM(model, path, 3, SIZE)()


class Forked(nn.Module):
    """A model whose Python depends on the values of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 2)."""
        found = [self.body(one[None]) if float(one.mean()) > 0 else self.body(-one[None]) for one in x]
        return self.fc(torch.cat(found).mean((2, 3)))


def test_model_whose_python_depends_on_values(path: pathlib.Path) -> None:
    """Such a model is explained by its own forward; it cannot be split, and the error says why."""
    cam = GradCAM(Forked(), path, layer_idx="body", input_size=32)
    assert cam().size
    with pytest.raises(ValueError, match="another number of images.*gradient methods"):
        grad_cam.split(Forked(), "body", 32)


def test_settings_are_checked_at_once(cnn: nn.Module, path: pathlib.Path) -> None:
    """A setting that cannot be is refused when the object is made, before a picture is read."""
    for wrong in ({"threshold": "a"}, {"alpha": 2}, {"colormap": "jett"}, {"layer_idx": ""}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            GradCAM(cnn, path / "missing", input_size=SIZE, **wrong)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("treshold", 0.2, "no setting 'treshold' to change: did you mean threshold"),
        ("input_size", 32, "make a new GradCAM"),
        ("img_path", "x.jpg", "make a new GradCAM"),
        ("anything", 1, "it has model, layer_idx, class_idx, method, threshold"),
        ("picture", None, "picture"),
    ],
)
def test_unknown_settings_are_refused(cnn: nn.Module, path: pathlib.Path, name: str, value: Any, says: str) -> None:
    """An attribute that is no setting is refused, with the close name; nothing is left on the object."""
    cam = GradCAM(cnn, path, 3, SIZE)
    before = dict(vars(cam))
    with pytest.raises(AttributeError, match=says):
        setattr(cam, name, value)
    assert vars(cam) == before


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("threshold", "a", "threshold='a' is not a fraction"), ("alpha", 2, "alpha"), ("colormap", "jett", "jet"),
        ("smoothing", -1, "smoothing"), ("layer_idx", "", "names no layer"), ("layer_idx", 2.5, "not a layer"),
        ("method", "grad_cm", "did you mean grad_cam"), ("model", 3, "Module"), ("view", "both", "view"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused_at_once(
    cnn: nn.Module, path: pathlib.Path, name: str, value: Any, says: str
) -> None:
    """A value that cannot be is refused when it is set, and the one before stays."""
    cam = GradCAM(cnn, path, 3, SIZE)
    before = getattr(cam, name)
    with pytest.raises((ValueError, TypeError), match=says):
        setattr(cam, name, value)
    assert getattr(cam, name) is before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"target_layers": ["layer1"]}, r'write GradCAM\(model, "cat.jpg", layer_idx=...\)'),
        ({"target_layer": "layer1"}, r'write GradCAM\(model, "cat.jpg", layer_idx=...\)'),
        ({"layer": "layer1"}, r'write GradCAM\(model, "cat.jpg", layer_idx=...\)'),
        ({"targets": [1]}, r'write GradCAM\(model, "cat.jpg", class_idx=...\)'),
        ({"target_category": 1}, r'write GradCAM\(model, "cat.jpg", class_idx=...\)'),
        ({"image": "x.jpg"}, r'write GradCAM\(model, "cat.jpg"\)'),
        ({}, r'explains a picture; write GradCAM\(model, "cat.jpg"\)'),
        ({"steps": 3}, "no option 'steps'"),
        ({"eigen_smooth": True, "method": "fem"}, "cannot wrap fem"),
    ],
)
def test_habits_from_other_libraries(cnn: nn.Module, arguments: dict[str, Any], says: str) -> None:
    """Arguments that other libraries have are answered with what to write, before a picture is asked for."""
    with pytest.raises((TypeError, ValueError), match=says):
        GradCAM(model=cnn, **arguments)


def test_swapped_arguments(cnn: nn.Module, path: pathlib.Path) -> None:
    """The picture first, or a layer where the picture belongs, is named."""
    for first in (path, str(path), Image.new("RGB", (9, 9)), torch.rand(1, 3, 8, 8)):
        with pytest.raises(TypeError, match="model and img_path are swapped"):
            GradCAM(first, cnn)
    for second in (cnn.layer1, [cnn.layer1]):
        with pytest.raises(TypeError, match="the second argument is the picture.*layer_idx="):
            GradCAM(cnn, second)


def test_settings_stay_plain_and_cannot_be_deleted(cnn: nn.Module, path: pathlib.Path) -> None:
    """A class index of numpy or torch is kept as an int; no setting can be deleted, so that the object stays whole."""
    cam = GradCAM(cnn, path, 3, SIZE, class_idx=np.int64(1))
    assert type(cam.class_idx) is int
    cam.class_idx = torch.tensor(2)
    assert "class_idx=2," in repr(cam)
    with pytest.raises(AttributeError, match="'threshold' of a GradCAM can be changed, not deleted"):
        del cam.threshold
    assert copy.deepcopy(cam).threshold == cam.threshold


def test_repr_pickle_and_display(cnn: nn.Module, path: pathlib.Path) -> None:
    """One line says what it is; a copy shows the same; all display settings can be exchanged at once."""
    cam = GradCAM(cnn, path, 3, SIZE, class_idx=1)
    assert repr(cam) == "GradCAM(TinyNet, picture 64x64, layer_idx=3, class_idx=1, method='grad_cam')"
    heat = cam()
    assert repr(cam).endswith("method='grad_cam', map 8x8)")
    for other in (pickle.loads(pickle.dumps(cam)), copy.deepcopy(cam)):
        np.testing.assert_array_equal(other.heatmap, heat)
        other.class_idx = 2
        assert not np.array_equal(other.heatmap, heat)
    cam.display = rendering.Display(threshold=0.5, colormap="viridis")
    assert (cam.threshold, cam.colormap, cam.alpha) == (0.5, "viridis", 0.6)
    cam.view, cam.threshold, cam.colormap = "signed", 0.0, "bgr"
    assert cam.heatmap.min() < 0
    cam.imposing_visualization()


def test_options_of_explain(cnn: nn.Module, path: pathlib.Path) -> None:
    """Smoothing, a method's options and functions as methods go through to explain."""
    smooth = GradCAM(cnn, path, 3, SIZE, aug_smooth=True).explanation
    assert smooth.method == "grad_cam + aug_smooth"
    cam = GradCAM(cnn, path, 3, SIZE, method=lambda activations, *, k=0: activations[:, k], k=np.int64(2))
    assert cam.explanation.map.shape == (1, 8, 8)


def test_model_without_values(path: pathlib.Path) -> None:
    """A model on the meta device is refused, naming a parameter."""
    with pytest.raises(ValueError, match=r"'conv.weight' is on the meta device"):
        GradCAM(TinyNet().to("meta"), path)


@pytest.mark.parametrize("model", [3, None, "resnet18", nn.ReLU, torch.rand(2)])
def test_model_must_be_a_module(path: pathlib.Path, model: Any) -> None:
    """Something else than a module is refused by type."""
    with pytest.raises(TypeError, match="Module"):
        GradCAM(model, path)
