"""The four-line interface: a model and a picture in, a heatmap and figures out."""

from __future__ import annotations

import dataclasses
import difflib
import os
import pathlib
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from . import rendering
from .arguments import ArgumentTypeError, as_layer, check_model, is_index
from .engine import explain
from .errors import refuse_existing
from .loading import class_names, load_image, preprocessing
from .loading.geometry import file_name
from .methods import find
from .rendering import Display
from .requests import AnyLayer, AnyMethod, Request, Reshape, Target
from .results import Explanation
from .splitting.public import network_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DISPLAY = tuple(field.name for field in dataclasses.fields(Display))
_QUESTION = ("model", "layer_idx", "class_idx", "method")


class GradCAM:
    """Explains one picture, and shows it.

    ::

        cam = GradCAM(model, "dog.jpg", layer_idx=2)
        heatmap = cam()                    # (H, W), 0..1, also in cam.heatmap
        cam.origin_cam_visualization()     # the map at the layer's own size
        cam.imposing_visualization()       # image, overlay, heatmap, colormap

    `threshold`, `smoothing`, `colormap`, `alpha` and `view` only concern what is shown; change them at any time,
    nothing is computed again. After a new `layer_idx`, `class_idx` or `method` the map is computed again.

    Args:
        model: Any image classifier (or a `Chain`); explained in eval mode and left exactly as found.
        img_path: A path, a PIL image or an array; grey, palette, alpha, 16-bit, CMYK and rotated ones are supported.
        layer_idx: Number of stages left to the classifier (2 = the last feature map of a ResNet), a module path or a
            module; None takes the last layer with a spatial map. ``print(grad_cam.chain(model))`` lists them.
        input_size: Side length or (H, W) the picture is brought to; None is the model's own. (`input_shape` is the
            same.)
        class_idx: Class to explain: index, name, or any target of `explain`; None is the predicted class.
        threshold: Fraction of the maximum under which the heatmap is floored; 0 is ReLU.
        smoothing: Gaussian sigma in pixels of the shown picture; None takes what suits its size (5 at 224).
        method: A name or title from `METHODS`, or a function of ingredients, as for `explain`.
        colormap: "bgr" (blue, green, red) or any matplotlib colormap.
        alpha: Opacity of the hottest spot of the overlay.
        view: "positive", or "signed" to show also what speaks against the class.
        crop: False keeps the whole of the picture, padded, where the model's own way cuts off its sides.
        reshape_transform: As for `explain`.
        **options: The method's own settings, and the others of `explain`, such as `aug_smooth`.

    Raises:
        ImageError: The picture cannot be read.
        ValueError: A setting is out of range.
    """

    model: nn.Module
    layer_idx: AnyLayer | None
    class_idx: Target
    method: AnyMethod
    threshold: float
    smoothing: float | None
    colormap: str
    alpha: float
    view: rendering.View

    def __init__(
        self,
        model: nn.Module,
        img_path: str | os.PathLike[str] | Image.Image | NDArray[Any] | None = None,
        layer_idx: AnyLayer | None = None,
        input_size: int | tuple[int, int] | None = None,
        *,
        class_idx: Target = None,
        threshold: float = Display.threshold,
        smoothing: float | None = None,
        method: AnyMethod = "grad_cam",
        colormap: str = rendering.COLORMAP,
        alpha: float = rendering.ALPHA,
        view: rendering.View = "positive",
        crop: bool = True,
        reshape_transform: Reshape = None,
        input_shape: int | tuple[int, int] | None = None,
        **options: Any,
    ) -> None:
        if input_size is not None and input_shape is not None:
            raise TypeError("input_shape is an alias of input_size; give one of them")
        _check_order(model, img_path)
        check_model(model)
        Request.of("GradCAM", method, class_idx, reshape_transform, **options)
        if img_path is None:
            raise ArgumentTypeError("GradCAM explains a picture", remedy='write GradCAM(model, "cat.jpg")')
        self.display = Display(threshold, smoothing, alpha, colormap, view)
        self.model, self.layer_idx, self.class_idx, self.method = model, layer_idx, class_idx, method
        inner = network_of(model)
        prepare = preprocessing(inner, input_size if input_size is not None else input_shape, crop=crop)
        image = load_image(img_path)
        (self._tensor, self._picture), self._whole = prepare(image), prepare.whole(image)
        self._geometry = prepare.geometry(image, file_name(img_path))
        self._reshape, self._options = reshape_transform, options
        self._explanation: Explanation | None = None
        self._explained: tuple[Any, ...] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets a setting, checked at once; others are refused, with the closest name."""
        if name in _DISPLAY and name in self.__dict__:
            value = getattr(Display.of(self.display, **{name: value}), name)
        elif name == "layer_idx":
            value = as_layer(value, "layer_idx")
        elif name == "class_idx" and is_index(value):
            value = int(value)
        elif name == "method":
            find(value)
        elif name == "model":
            check_model(value)
        elif name not in (*_DISPLAY, *_QUESTION) and not (name.startswith("_") or hasattr(type(self), name)):
            close = difflib.get_close_matches(name, [*_DISPLAY, *_QUESTION], n=1)
            fixed = name in ("img_path", "input_size", "input_shape", "crop", *self._options)
            hint = "make a new GradCAM for another one" if fixed else f"did you mean {close[0]}?" if close else ""
            settings = ", ".join([*_QUESTION, *_DISPLAY])
            raise AttributeError(f"GradCAM has no setting {name!r} to change: {hint or f'it has {settings}'}")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        """Refuses to delete anything."""
        raise AttributeError(f"{name!r} of a GradCAM can be changed, not deleted")

    def __repr__(self) -> str:
        size = "x".join(map(str, self._size))
        found = "" if self._explanation is None else f", map {'x'.join(map(str, self._explanation.map.shape[-2:]))}"
        name = type(network_of(self.model)).__name__
        layer = type(self.layer_idx).__name__ if isinstance(self.layer_idx, nn.Module) else repr(self.layer_idx)
        return (
            f"GradCAM({name}, picture {size}, layer_idx={layer}, class_idx={self.class_idx!r}, "
            f"method={find(self.method).name!r}{found})"
        )

    def __call__(self) -> NDArray[np.float32]:
        """Computes the map and returns the heatmap, float32 (H, W) in 0..1 (in -1..1 in the signed view)."""
        result = explain(
            self.model, self._tensor, layer=self.layer_idx, target=self.class_idx, method=self.method,
            reshape_transform=self._reshape, geometry=self._geometry, **self._options,
        )  # fmt: skip
        self._explanation, self._explained = result, self._question
        note = result.note()
        if note is not None:
            subject = f"the map of {result.target[0][0]} at {result.layer.name}"
            warnings.warn(rendering.noted(subject, note), stacklevel=2)
        return self.heatmap

    @property
    def explanation(self) -> Explanation:
        """The frozen result; computed on first use, and again if model, layer, class or method were exchanged."""
        if self._explained is None or any(a is not b for a, b in zip(self._explained, self._question, strict=True)):
            self()
        assert self._explanation is not None
        return self._explanation

    @property
    def heatmap(self) -> NDArray[np.float32]:
        """The heatmap with the present settings, float32 (H, W) in 0..1 (in -1..1 in the signed view)."""
        heat = self.explanation.heatmap(self.display)
        first: NDArray[np.float32] = heat[0, 0] if heat.ndim == 4 else heat[0]
        return first

    @property
    def display(self) -> Display:
        """The settings that only concern what is shown."""
        return Display(**{name: self.__dict__[name] for name in _DISPLAY})

    @display.setter
    def display(self, display: Display) -> None:
        self.__dict__.update(dataclasses.asdict(Display.of(display)))

    @property
    def picture(self) -> Image.Image:
        """The picture as the model sees it."""
        return self._picture

    @property
    def classes(self) -> list[str] | None:
        """The names of the model's classes, if known."""
        return class_names(network_of(self.model))

    def origin_cam_visualization(
        self, save_path: str | os.PathLike[str] | None = None, *, force: bool = False
    ) -> Figure | None:
        """Shows the raw map at the layer's own size.

        Args:
            save_path: Where to save the figure as well.
            force: Overwrite a file that exists.

        Returns:
            The matplotlib figure; in a notebook it is displayed instead, and None is returned.
        """
        figure = self.explanation.map_figure(display=self.display)
        if save_path is not None:
            rendering.save(figure, save_path, force=force)
        return _shown(figure)

    def imposing_visualization(
        self, save_path: str | os.PathLike[str] | None = None, *, force: bool = False
    ) -> Figure | None:
        """Shows the four panels: image, overlay, heatmap, colormap.

        Args:
            save_path: Where to save the figure; the four pictures are saved beside it with `-origin`, `-overlapped`,
                `-heatmap` and `-colormap` before the suffix.
            force: Overwrite files that exist.

        Returns:
            The matplotlib figure; in a notebook it is displayed instead, and None is returned.

        Raises:
            FileExistsError: A file is there already and `force` is False; nothing is written.
        """
        figure = self.explanation.figure(photo=self._whole, display=self.display)
        if save_path is not None:
            path, heat = pathlib.Path(save_path), self.heatmap
            settings: dict[str, Any] = {"colormap": self.colormap, "view": self.view}
            pictures = {
                "origin": self.picture,
                "overlapped": rendering.overlay(self.picture, heat, alpha=self.alpha, **settings),
                "heatmap": Image.fromarray(np.rint(np.abs(heat) * 255).astype(np.uint8)),
                "colormap": Image.fromarray(rendering.colorize(heat, **settings)),
            }
            raster = path.suffix if path.suffix.lower() not in (".pdf", ".svg") else ".png"
            files = {path.with_name(f"{path.stem}-{name}{raster}"): picture for name, picture in pictures.items()}
            refuse_existing([path, *files], force)
            rendering.save(figure, path, force=force)
            for file, picture in files.items():
                rendering.save(picture, file, force=force)
        return _shown(figure)

    @property
    def _question(self) -> tuple[Any, ...]:
        """The attributes that the map depends on."""
        return tuple(getattr(self, name) for name in _QUESTION)

    @property
    def _size(self) -> tuple[int, int]:
        return self._picture.height, self._picture.width


def _check_order(model: Any, img_path: Any) -> None:
    """Raises ArgumentTypeError for arguments in the order other libraries have them."""
    if isinstance(img_path, nn.Module) and not isinstance(model, nn.Module):
        raise ArgumentTypeError("model and img_path are swapped", remedy='write GradCAM(model, "cat.jpg")')
    listed = img_path if isinstance(img_path, (list, tuple)) else [img_path]
    if any(isinstance(one, nn.Module) for one in listed):
        raise ArgumentTypeError(
            "the second argument is the picture, not a layer", type(img_path).__name__,
            'write GradCAM(model, "cat.jpg", layer_idx=model.layer4)',
        )  # fmt: skip


def _shown(figure: Figure) -> Figure | None:
    """In a notebook, displays the figure and returns None; elsewhere returns it."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return figure
    ipython.display.display(ipython.display.Image(data=rendering.png_bytes(figure), alt="Grad-CAM figure"))
    return None
