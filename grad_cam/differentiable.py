"""Maps in a loss: the same run and the same methods, with the graph kept from the parameters to the map.

The model runs once in eval mode with its own parameters; the gradient at the cut is taken with a graph of its own, so
that a loss on the map is differentiated a second time, through activations and gradients alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .errors import GradCamError
from .ingredients import Forward, Pass, scored
from .methods import MethodError
from .methods.gradient import opaque_step, written_out
from .requests import Request
from .splitting.cuts import Taken


class LiveForward(Forward):
    """One run of a model with its own parameters; see `Forward`."""

    @functools.cached_property
    def taken(self) -> Taken:
        """The activations at the cuts and the logits, with the graph from images and parameters on."""
        with written_out():
            found = self.cutter.take_live(self.cuts)
        opaque = opaque_step(found.logits)
        if opaque is not None:
            raise MethodError(
                f"the model has no second derivative: {opaque} is written for one derivative only", "",
                "differentiable=False, or a layer written out in PyTorch's own operations",
            )  # fmt: skip
        return found

    @functools.cached_property
    def gradients(self) -> list[list[Tensor]]:
        """The gradient of every target's score at every cut, with its own graph."""
        found = []
        for score in self.targets.scores:
            with torch.enable_grad():
                total = scored(score, self.graph).sum()
                found.append(self.cutter.gradients(total, self.taken.activations, differentiable=True))
        return found


class LivePass(Pass):
    """The ingredients at one cut, with their graph; see `Pass`."""

    @functools.cached_property
    def activations(self) -> Tensor:
        """The activation, (B, C, h, w), with its graph."""
        with torch.enable_grad():
            found = self.layout.to_map(self._raw)
        self.cutter.require_finite(found.detach(), f"the activations {self._where}")
        return found

    def gradients(self, k: int) -> Tensor:
        """The gradient of a target's score on the activation, (B, C, h, w), with its graph."""
        with torch.enable_grad():
            return super().gradients(k)

    def _called(self, method: Any, function: Callable[..., Any], options: dict[str, Any], k: int | None) -> Any:
        with torch.enable_grad():
            return super()._called(method, function, options, k)

    def maps(self, method: Any, function: Callable[..., Any], options: dict[str, Any]) -> Any:
        """Calls a method: its maps of all targets, (B, K, h, w), with their graph."""
        with torch.enable_grad():
            found = super().maps(method, function, options)
        if not (isinstance(found, Tensor) and found.requires_grad):
            raise MethodError(
                f"{method.name} returned a map without a graph", self._where, "compute it without detach and no_grad"
            )
        return found


def check_differentiable(request: Request, images: Tensor, parameters: Any) -> None:
    """Raises an error where a map of this request could not be in a loss.

    Args:
        request: The request.
        images: (B, C, H, W) as they were given.
        parameters: The model's.

    Raises:
        MethodError: The method, or what is wrapped around it, has no derivative to follow.
        GradCamError: Gradients are switched off, or nothing asks for one.
    """
    method = request.method
    if not (method.one_pass and method.class_specific and method.kind in ("gradient", "other")):
        raise MethodError(
            f"{method.title} cannot be in a loss: it is not a function of one activation and its gradient", "",
            'method="grad_cam", "hires_cam", "layer_cam" or another gradient method of one pass',
        )  # fmt: skip
    for name in ("aug_smooth", "eigen_smooth", "rules", "fuse"):
        if getattr(request, name):
            raise MethodError(f"{name} and differentiable=True do not go together", "", f"leave {name} out")
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        raise GradCamError(
            "a differentiable map needs gradients, and they are switched off here", "torch.no_grad or inference_mode",
            "call explain outside of it",
        )  # fmt: skip
    if not images.requires_grad and not any(p.requires_grad for p in parameters):
        raise GradCamError(
            "no parameter of the model and no image asks for a gradient, so that a map has no graph", "",
            "model.requires_grad_(), or images.requires_grad_()",
        )  # fmt: skip
