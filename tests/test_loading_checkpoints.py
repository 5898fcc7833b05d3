"""Checkpoints of every form, and files that are none."""

from __future__ import annotations

import argparse
import zipfile

import pytest
import timm
import torch
from PIL import Image
from torch import nn

from grad_cam import loading
from grad_cam.loading import ModelError, preprocessing

from .test_loading_models import SMALL, tiny

TINY = f"{tiny.__module__}:tiny"


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
    model = loading.load(SMALL, checkpoint=tmp_path / "weights.pth")
    assert _same(model, source) and not model.training and loading.class_names(model) is None


def test_safetensors(tmp_path):
    """A .safetensors file in half precision fills a model, which stays in float32."""
    save_file = pytest.importorskip("safetensors.torch").save_file
    source = tiny().half()
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    model = loading.load(TINY, checkpoint=str(tmp_path / "weights.safetensors"))
    assert _same(model.half(), source)


def test_checkpoint_sizes_the_model(tmp_path):
    """The number of classes and a ViT's picture size are read off the checkpoint."""
    name = "vit_tiny_patch16_224"
    source = timm.create_model(name, num_classes=4, img_size=96).eval()
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    model = loading.load(name, checkpoint=tmp_path / "weights.pth")
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(model(images), source(images))
    assert preprocessing(model).size == (96, 96)


def test_torchvision_checkpoint_sizes_the_model(tmp_path):
    """The number of classes of a torchvision model is read off the checkpoint."""
    source = loading.load("torchvision/resnet18", pretrained=False, num_classes=3)
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    assert _same(loading.load("torchvision/resnet18", checkpoint=tmp_path / "weights.pt"), source)


def test_checkpoint_that_does_not_fit(tmp_path):
    """What is missing, what is too much and what has another shape is named."""
    state = tiny().state_dict()
    state["0.weight"] = torch.zeros(4, 3, 5, 5)
    state["extra.bias"] = state.pop("3.bias")
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ModelError) as caught:
        loading.load(TINY, checkpoint=tmp_path / "weights.pth")
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
            loading.load(TINY, checkpoint=path)
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
            loading.load(TINY, checkpoint=path)
        assert "weights_only" not in str(caught.value) and str(path) in str(caught.value)


def test_advice_to_load_unsafely_is_not_handed_on(tmp_path, monkeypatch):
    """Whatever file torch advises to load with `weights_only=False`, the error does not."""
    path = tmp_path / "weights.pth"
    torch.save(tiny().state_dict(), path)

    def load(*args, **kwargs):
        raise RuntimeError("Please set `weights_only=False`.")

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(ModelError, match="does not load it safely") as caught:
        loading.load(TINY, checkpoint=path)
    assert "weights_only" not in str(caught.value)
