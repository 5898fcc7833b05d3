"""What the interfaces share: words, file names and opened models."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest
import torch

import grad_cam
from grad_cam.errors import GradCamError
from grad_cam.interfaces import common
from grad_cam.methods import find

from .conftest import TinyNet

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("tabby, tabby cat", "tabby-tabby-cat"), ("Gnu/Wildebeest", "Gnu-Wildebeest"), ("../../etc", "etc"),
     ("läufer 3", "läufer-3"), ("layer3.1", "layer3.1"), ("///", "image"), ("x" * 200, "x" * 80)],
)  # fmt: skip
def test_slug(text: str, expected: str) -> None:
    """Any text becomes a tame part of a file name."""
    assert common.slug(text) == expected


def test_unique_slugs() -> None:
    """Equal names are numbered, also where only the case differs or a number is taken."""
    assert common.unique_slugs(["cat", "Cat", "cat-2", "cat"]) == ["cat", "Cat-2", "cat-2-2", "cat-3"]


def test_one_line() -> None:
    """Expected errors speak for themselves, others are named, and the message is one line."""
    assert common.one_line(GradCamError("two\nlines", "x", "remedy")) == "two lines (x); remedy"
    assert common.one_line(KeyError("x")) == "KeyError: 'x'"
    assert common.one_line(RuntimeError()) == "RuntimeError"
    assert common.one_line(ValueError()) == "ValueError"


def test_open_model() -> None:
    """A model is opened with size, type and class names of the caller's choice."""
    torch.manual_seed(0)
    opened = common.open_model(TinyNet().eval(), input_size=64, class_names=list("abcdefg"), dtype="float64")
    assert (opened.name, opened.prepare.size, opened.label(1), opened.label(9)) == ("TinyNet", (64, 64), "b", "class 9")
    assert next(opened.model.parameters()).dtype == torch.float64
    with pytest.raises(ValueError, match="7"):
        common.open_model(TinyNet(), class_names=["a"])


def test_unknown_device() -> None:
    """A device that is not there is an error that names it."""
    with pytest.raises(ValueError, match="'cuda:99'"):
        common.open_model(TinyNet(), device="cuda:99")


def test_names_of_the_methods() -> None:
    """The names read from the source are those of the table, and the same spellings are accepted."""
    assert common.method_names() == {name: method.title for name, method in grad_cam.METHODS.items()}
    for name in ("grad_cam", "HiRes-CAM", "Grad-CAM++", "deep feature factorization"):
        common.check_method_name(name)
        assert find(name)
    for name in ("grad_camm", "hires", "xyz", ""):
        with pytest.raises(GradCamError):
            find(name)
        with pytest.raises(GradCamError, match=f"there is no method {name!r}"):
            common.check_method_name(name)


def test_common_is_light() -> None:
    """Importing it loads neither torch nor numpy."""
    code = "import sys, grad_cam.interfaces.common; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "timm", "matplotlib"} & set(done.stdout.split())
