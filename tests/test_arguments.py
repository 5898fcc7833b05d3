"""Checks of arguments: what is accepted, and what the errors say."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from grad_cam.arguments import (
    ArgumentTypeError,
    as_index,
    as_layer,
    as_number,
    canonical,
    check_fraction,
    check_images,
    check_model,
    is_index,
)
from grad_cam.errors import GradCamError, InputError, LayerError


@pytest.mark.parametrize(
    "value",
    [3, np.int64(3), np.int32(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor(3, dtype=torch.uint8)],
)
def test_whole_numbers(value: Any) -> None:
    """Whole numbers of Python, numpy and torch become int."""
    for found in (as_index(value, "k"), as_layer(value)):
        assert type(found) is int and found == 3
    assert is_index(value)


@pytest.mark.parametrize(
    "value",
    [
        True, np.bool_(True), torch.tensor(True), 3.0, np.float64(3), torch.tensor(3.0), "3", None, [3], (3,),
        np.array([3]), torch.tensor([3]), 3j, torch.empty((), dtype=torch.long, device="meta"),
    ],
)  # fmt: skip
def test_what_is_no_whole_number(value: Any) -> None:
    """A bool, a float, text and anything with an axis are refused by name and type."""
    assert not is_index(value)
    with pytest.raises(TypeError, match=rf"k=.*whole number \({type(value).__name__}\)"):
        as_index(value, "k")


def test_too_small() -> None:
    """A lower bound is named."""
    assert as_index(np.int64(1), "depth", least=1) == 1
    with pytest.raises(GradCamError, match="depth=0 is too small; give 1 or more"):
        as_index(0, "depth", least=1)


@pytest.mark.parametrize("value", [0, 0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), np.int64(0)])
def test_fractions(value: Any) -> None:
    """Numbers of all kinds become float."""
    found = check_fraction(value, "alpha")
    assert type(found) is float and found == float(value)


@pytest.mark.parametrize("value", ["a", "0.5", None, True, np.bool_(True), [0.5], 0.5j, torch.ones(2), np.array("a")])
def test_what_is_no_fraction(value: Any) -> None:
    """What is no number is a TypeError that names the argument."""
    with pytest.raises(TypeError, match=r"alpha=.*not a fraction .*; give a number from 0 up to 1"):
        check_fraction(value, "alpha")


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf"), np.float64("nan")])
def test_fractions_out_of_range(value: float) -> None:
    """NaN and numbers out of range are a ValueError."""
    with pytest.raises(GradCamError, match=r"alpha=.*not a fraction"):
        check_fraction(value, "alpha")


def test_one_is_no_threshold() -> None:
    """1 is refused where nothing would be left."""
    assert check_fraction(1, "alpha") == 1 and check_fraction(0.999, "threshold", below_one=True) == 0.999
    with pytest.raises(GradCamError, match=r"threshold=1 .*from 0 up to, not 1"):
        check_fraction(1, "threshold", below_one=True)


def test_numbers_in_a_range() -> None:
    """Any range, and a remedy of one's own."""
    assert as_number(5, "smoothing", 0, 10) == 5.0
    with pytest.raises(GradCamError, match="smoothing=11 is not a sigma; give a number from 0 to 10"):
        as_number(11, "smoothing", 0, 10, what="a sigma")
    with pytest.raises(GradCamError, match="x=nan is not a number; try again"):
        as_number(float("nan"), "x", remedy="try again")


def test_layers() -> None:
    """A module path, a module and None are handed on; an empty path and other types are refused."""
    module = nn.ReLU()
    assert as_layer("layer1.0") == "layer1.0" and as_layer(module) is module and as_layer(None) is None
    for empty in ("", " "):
        with pytest.raises(LayerError, match=f"layer={empty!r} names no layer; .*layer=None"):
            as_layer(empty)
    for wrong in (2.5, True, nn.ReLU, b"layer1"):
        with pytest.raises(TypeError, match=r"layer_idx=.*not a layer.*layer_idx.*module path"):
            as_layer(wrong, "layer_idx")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_images(dtype: torch.dtype) -> None:
    """A floating point batch is handed on, also one that requires grad or is a view."""
    images = torch.zeros(2, 3, 8, 8, dtype=dtype).requires_grad_()
    assert check_images(images) is images
    assert check_images(images.transpose(2, 3)).shape == (2, 3, 8, 8)
    assert check_images(torch.zeros(1, 13, 1, 1)) is not None


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ("cat.jpg", r"\(str\); for files and pictures use grad_cam.GradCAM"),
        (None, "NoneType.*GradCAM"),
        (3, "int"),
        ([torch.zeros(3, 8, 8)] * 2, r"list.*torch.stack\(images\)"),
        (np.zeros((1, 3, 8, 8)), r"ndarray.*torch.from_numpy\(images\).*GradCAM"),
    ],
)
def test_images_that_are_no_tensor(images: Any, says: str) -> None:
    """What is no tensor is a TypeError with the way to one."""
    with pytest.raises(TypeError, match=says):
        check_images(images)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.zeros(3, 8, 8), r"\(3, 8, 8\).*images\[None\]"),
        (torch.zeros(1, 2, 2, 3, 8, 8), r"\(B, C, T, H, W\)"),
        (torch.zeros(8, 8), r"batch \(B, C, H, W\), or \(B, C, T, H, W\) \(shape \(8, 8\)\)$"),
        (torch.zeros(0, 3, 8, 8), r"\(0, 3, 8, 8\)"),
        (torch.zeros(1, 3, 0, 8), r"\(1, 3, 0, 8\)"),
        (torch.zeros(1, 3, 8, 8).to_sparse(), r"dense.*to_dense\(\)"),
        (torch.zeros(1, 3, 8, 8, device="meta"), "meta"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"floating point.*uint8.*images.float\(\) / 255"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.long), r"floating point.*int64.*images.float\(\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.complex64), "floating point.*complex64"),
        (torch.zeros(1, 3, 8, 8).to(torch.float8_e4m3fn), "floating point.*float8"),
    ],
)  # fmt: skip
def test_images_that_cannot_be_explained(images: Tensor, says: str) -> None:
    """Wrong shapes, kinds of memory and types of numbers are an InputError with the remedy."""
    with pytest.raises(InputError, match=says):
        check_images(images)


@pytest.mark.filterwarnings("ignore")
def test_nested_and_quantised_images() -> None:
    """A nested tensor has no shape to show; a quantised one says how to undo it."""
    with pytest.raises(InputError, match="nested"):
        check_images(torch.nested.nested_tensor([torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)]))
    with pytest.raises(InputError, match=r"dequantize\(\)"):
        check_images(torch.quantize_per_tensor(torch.zeros(1, 3, 8, 8), 1.0, 0, torch.quint8))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (3, r"torch\.nn\.Module \(int\)"),
        (None, "NoneType"),
        ("resnet18", r"loading\.load\('resnet18'\)"),
        (torch.zeros(1, 3, 8, 8), "Tensor.*model first, then the images"),
        (nn.ReLU, r"the class ReLU.*ReLU\(\.\.\.\)"),
        ({"weight": torch.zeros(1)}, "dict.*load_state_dict"),
        (torch.relu, "builtin_function_or_method"),
    ],
)
def test_what_is_no_model(model: Any, says: str) -> None:
    """What is no module is a TypeError that says how to get one."""
    with pytest.raises(TypeError, match=says):
        check_model(model)


def test_models_without_values(cnn: nn.Module) -> None:
    """Parameters on the meta device, and lazy ones, are named."""
    assert check_model(cnn) is cnn and check_model(nn.Identity()) is not None
    cnn.fc.to("meta")
    with pytest.raises(GradCamError, match=r"'fc.weight' is on the meta device.*load_state_dict"):
        check_model(cnn)
    with pytest.raises(GradCamError, match=r"lazy.*'0.weight'.*run it once"):
        check_model(nn.Sequential(nn.LazyConv2d(4, 3)))


def test_names_of_methods_are_compared_by_their_letters() -> None:
    """Capitals, hyphens, blanks and underscores do not matter; a plus is a word."""
    for name in ("Grad-CAM++", "grad_cam_plus_plus", "GradCAM ++", "gradCamPlusPlus"):
        assert canonical(name) == "gradcamplusplus"
    assert canonical("Grad-CAM") != canonical("Grad-CAM++")


def test_errors_keep_their_parts() -> None:
    """What, given and remedy can be read, and survive pickling."""
    with pytest.raises(GradCamError) as caught:
        as_index("a", "k")
    error = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(error, ArgumentTypeError) and isinstance(error, TypeError) and isinstance(error, ValueError)
    assert (error.what, error.given, error.remedy) == (
        "k='a' is not a whole number", "str", "give an integer, such as k=2"
    )  # fmt: skip


def test_long_values_are_cut() -> None:
    """An error stays on one short line whatever was given."""
    with pytest.raises(TypeError) as caught:
        as_index(torch.zeros(50, 50), "k")
    assert len(str(caught.value)) < 150 and "\n" not in str(caught.value)


def test_no_torch_for_numbers() -> None:
    """Checking numbers and layers does not import torch."""
    code = "import sys; from grad_cam.arguments import as_layer; as_layer(3); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
