"""Requests to the engine, validated before anything is computed."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex, TypeAlias

from numpy.typing import NDArray
from torch import Tensor, nn

from .arguments import ArgumentTypeError
from .habits import habit
from .inputs import Inputs
from .loading.geometry import Geometry
from .methods import METHODS, Method, MethodError, find
from .methods import eigen_smooth as _eigen_smooth
from .methods.chunks import Progress
from .methods.combinators import Fusion
from .methods.factorization import Factorization
from .outputs import Output
from .rules.balanced import Rules

OneTarget: TypeAlias = "SupportsIndex | str | Callable[[Tensor], Tensor] | None"
"""None (the predicted class), a class index or name, `targets.top(k)` or another target, or any callable
``logits (B, classes) -> score (B,)``."""

Target: TypeAlias = "OneTarget | Sequence[OneTarget | Sequence[OneTarget]] | NDArray[Any]"
"""One target, or a list with one per image, or with a list of K per image; tensors and arrays of indices, too."""

AnyMethod: TypeAlias = "str | Method | Callable[..., Tensor | Factorization]"
"""A name or title from `METHODS`, or a function whose parameters are named after ingredients."""

AnyLayer: TypeAlias = "SupportsIndex | str | nn.Module"
"""A layer_idx, a module path or a module."""

Layers: TypeAlias = "list[AnyLayer] | list[int] | list[str] | list[nn.Module] | tuple[AnyLayer, ...]"
"""Several layers; to a type checker a list of names is not a list of "names or numbers", so every kind is listed."""

Geometries: TypeAlias = "Geometry | Sequence[Geometry] | None"
"""Where images lie in their originals: one geometry, or a list with one per image."""

Reshape: TypeAlias = "str | Callable[[Tensor], Tensor] | None"
"""None, a layout ("NCHW", "NHWC", "tokens"), or a callable from the activation to (B, C, H, W)."""


@dataclasses.dataclass(frozen=True)
class Request:
    """Validated arguments."""

    method: Method
    target: Target
    layout: Reshape
    fuse: Fusion | None
    aug_smooth: bool
    eigen_smooth: bool
    progress: Progress | None
    output: Output
    inputs: Inputs
    rules: Rules | None
    options: dict[str, Any]
    differentiable: bool = False
    geometry: tuple[Geometry, ...] | None = None

    @classmethod
    def of(
        cls, function: str, method: AnyMethod, target: Target = None, layout: Reshape = None,
        fuse: Fusion | None = None, aug_smooth: bool = False, eigen_smooth: bool = False,
        progress: Progress | None = None, output: Output = None, rules: str | None = None, residual: float = 0.0,
        inputs: Inputs = None, **options: Any,
    ) -> Request:  # fmt: skip
        """Validates the arguments of a function of the public screen, by its name."""
        found, chosen = find(method), Rules.of(rules, residual)
        if chosen is not None and found.no_rules:
            fits = ", ".join(m.name for m in METHODS.values() if not m.no_rules)
            raise MethodError(f"rules mean nothing to {found.name}: {found.no_rules}", remedy=f"they fit {fits}")
        for given, allowed, name in (
            (aug_smooth, found.aug_smooth, "aug_smooth"),
            (eigen_smooth, found.channelwise, "eigen_smooth"),
        ):
            if given and not allowed:
                fits = ", ".join(m.name for m in METHODS.values() if getattr(m, name))
                raise MethodError(f"{name} cannot wrap {found.name}", remedy=f"it wraps {fits}")
        known = found.options
        for name in options:
            if name not in known:
                raise _unknown_argument(function, name, found)
        for name, default in known.items():
            if default is inspect.Parameter.empty and name not in options:
                raise MethodError(f"{found.name} needs the option '{name}'", remedy=f"give {name}=...")
        return cls(found, target, layout, fuse, aug_smooth, eigen_smooth, progress, output, inputs, chosen, options)

    @property
    def function(self) -> Callable[..., Tensor | Factorization]:
        """What is called with the ingredients."""
        return functools.partial(_eigen_smooth, self.method.function) if self.eigen_smooth else self.method.function

    @property
    def name(self) -> str:
        """The method, with what is wrapped around it."""
        name = self.method.name if self.rules is None else f"{self.method.name} + {self.rules}"
        return name + " + eigen_smooth" * self.eigen_smooth + " + aug_smooth" * self.aug_smooth


def check_volume(request: Request, images: Tensor) -> None:
    """Raises MethodError for a request that means nothing for a video or volume (B, C, T, H, W)."""
    if images.ndim != 5:
        return
    method = request.method
    if method.no_volumes:
        raise MethodError(
            f"{method.title} makes no map of a video or volume: {method.no_volumes}", f"images {tuple(images.shape)}",
            'method="grad_cam", "hires_cam", "layer_cam" or another method of one layer',
        )  # fmt: skip
    if request.fuse is not None:
        raise MethodError(
            "fuse joins maps over one picture", f"images {tuple(images.shape)}", "leave fuse out, and look at each"
        )


_CALLS = {
    "explain": (("model", "images"), ("target", "layer", "images")),
    "sweep": (("model", "images"), ("target", "layers", "images")),
    "GradCAM": (("model", '"cat.jpg"'), ("class_idx", "layer_idx", "img_path")),
}
"""What stands in every call of a function, and its parameters that other libraries know by other names."""


def _unknown_argument(function: str, name: str, method: Method) -> ArgumentTypeError:
    call, known = _CALLS[function]
    found = habit(function, name, dict.fromkeys(known), call)
    if found is not None:
        return found
    takes = f"it takes {', '.join(method.options)}" if method.options else "it takes none"
    return ArgumentTypeError(f"{method.name} has no option {name!r}", remedy=takes)


def part_of(progress: Progress | None, part: int, parts: int) -> Progress | None:
    """The progress of one of several runs as progress of all."""
    if progress is None or parts == 1:
        return progress
    return lambda done, total: progress(part * total + done, parts * total)
