"""The arguments of `explain`, `sweep` and `GradCAM`, validated before anything is computed."""

from __future__ import annotations

import pytest
import torch

from grad_cam.errors import GradCamError
from grad_cam.methods import METHODS, find
from grad_cam.requests import Request


def test_a_request_knows_its_method_and_options() -> None:
    """The method is found by any of its names; options are kept for it."""
    request = Request.of("explain", "Score-CAM", target=3, channels=4)
    assert (request.method, request.target, request.options) == (METHODS["score_cam"], 3, {"channels": 4})
    assert request.name == "score_cam" and request.function is METHODS["score_cam"].function
    wrapped = Request.of("explain", "hires_cam", eigen_smooth=True, aug_smooth=True)
    assert wrapped.name == "hires_cam + eigen_smooth + aug_smooth"
    maps = wrapped.function(torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4))
    assert maps.shape == (1, 4, 4) and wrapped.function is not find("hires_cam").function  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("function", "argument", "says"),
    [
        ("explain", "targets", r"explain has no argument targets=; write explain\(model, images, target=\.\.\.\)"),
        ("explain", "target_layers", r"write explain\(model, images, layer=\.\.\.\)"),
        ("sweep", "layer", r"write sweep\(model, images, layers=\[\.\.\.\]\)"),
        ("sweep", "input_tensor", r"write sweep\(model, images\)"),
        ("GradCAM", "target_category", r'write GradCAM\(model, "cat\.jpg", class_idx=\.\.\.\)'),
        ("GradCAM", "use_cuda", r"GradCAM has no argument use_cuda=; move the model: model\.cuda\(\)"),
        ("explain", "steps", "hires_cam has no option 'steps'; it takes none"),
    ],
)
def test_habits_from_other_libraries(function: str, argument: str, says: str) -> None:
    """An argument of another library is answered with what to write here."""
    with pytest.raises(TypeError, match=says):
        Request.of(function, "hires_cam", **{argument: 1})


@pytest.mark.parametrize("name", ["aug_smooth", "eigen_smooth"])
def test_what_wraps_which_methods(name: str) -> None:
    """A smoothing is accepted by the methods that have it, and refused by all others with a list of those."""
    fit = {m.name for m in METHODS.values() if (m.channelwise if name == "eigen_smooth" else m.aug_smooth)}
    assert 0 < len(fit) < len(METHODS)
    for method in METHODS:
        if method in fit:
            assert getattr(Request.of("explain", method, **{name: True}), name)
        else:
            with pytest.raises(GradCamError, match=f"{name} cannot wrap {method}; it wraps .*{sorted(fit)[0]}"):
                Request.of("explain", method, **{name: True})
