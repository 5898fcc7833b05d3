"""The four-line interface: a model and a picture in, a heatmap and figures out."""

from __future__ import annotations

import os
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from . import rendering
from .arguments import as_layer, check_fraction, check_model
from .engine import class_names, explain
from .errors import refuse_existing
from .images import load_image, preprocessing
from .introspection import unwrap
from .results import Explanation
from .splitting import Chain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class GradCAM:
    """Explains one picture, and shows it.

    ::

        cam = GradCAM(model, "dog.jpg", layer_idx=2)
        heatmap = cam()                    # (H, W), 0..1, also in cam.heatmap
        cam.origin_cam_visualization()     # the map at the layer's own size
        cam.imposing_visualization()       # image, overlay, heatmap, colormap

    `threshold`, `smoothing`, `colormap` and `alpha` only concern what is shown; change them at any time, nothing is
    computed again. A new `layer_idx`, `class_idx` or `method` is seen, too: the map is then computed anew.

    Args:
        model: Any image classifier (or a `Chain`); explained in eval mode and left exactly as found.
        img_path: A path, a PIL image or an array; grey, palette, alpha, 16-bit, CMYK and rotated ones are read right.
        layer_idx: Number of stages left to the classifier (2 = the last feature map of a ResNet), a module path or a
            module; None takes the last layer with a spatial map. ``print(grad_cam.chain(model))`` lists them.
        input_size: Side length or (H, W) the picture is brought to; None is the model's own. (`input_shape` is the
            same.)
        class_idx: Class to explain: index, name, or any target of `explain`; None is the predicted class.
        threshold: Fraction of the maximum under which the heatmap is floored; 0 is ReLU.
        smoothing: Gaussian sigma in pixels of the shown picture; None takes what suits its size (5 at 224).
        method: A name from `METHODS`.
        colormap: "bgr" (blue, green, red) or any matplotlib colormap.
        alpha: Opacity of the hottest spot of the overlay.
        reshape_transform: As for `explain`.
        **options: The method's own settings.

    Raises:
        ImageError: The picture cannot be read.
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        img_path: str | os.PathLike[str] | Image.Image | NDArray[Any],
        layer_idx: int | str | nn.Module | None = None,
        input_size: int | tuple[int, int] | None = None,
        *,
        class_idx: Any = None,
        threshold: float = 1 / 8,
        smoothing: float | None = None,
        method: str = "grad_cam",
        colormap: str = rendering.COLORMAP,
        alpha: float = rendering.ALPHA,
        reshape_transform: str | Callable[[Tensor], Tensor] | None = None,
        input_shape: int | tuple[int, int] | None = None,
        **options: Any,
    ) -> None:
        if input_size is not None and input_shape is not None:
            raise TypeError("input_shape is an alias of input_size; give one of them")
        check_model(model)
        check_fraction(threshold, "threshold", below_one=True)
        check_fraction(alpha, "alpha")
        rendering.palette(colormap)
        self.model, self.layer_idx = model, as_layer(layer_idx, "layer_idx")
        self.class_idx, self.method = class_idx, method
        self.threshold, self.smoothing, self.colormap, self.alpha = threshold, smoothing, colormap, alpha
        inner = unwrap(model.model if isinstance(model, Chain) else model)
        prepare = preprocessing(inner, input_size if input_size is not None else input_shape)
        self.picture = prepare.view(load_image(img_path))
        self._tensor = prepare.tensor(self.picture)
        self._reshape, self._options = reshape_transform, options
        self._explanation: Explanation | None = None
        self._explained: tuple[Any, ...] | None = None

    def __call__(self) -> NDArray[np.float32]:
        """Computes the map and returns the heatmap, float32 (H, W) in 0..1."""
        result = explain(
            self.model, self._tensor, layer=as_layer(self.layer_idx, "layer_idx"), target=self.class_idx,
            method=self.method, reshape_transform=self._reshape, **self._options,
        )  # fmt: skip
        assert isinstance(result, Explanation)
        self._explanation, self._explained = result, self._question
        note = result.note()
        if note is not None:
            warnings.warn(f"the map of {result.target[0][0]} at {result.layer.name} is {note}", stacklevel=2)
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
        """The heatmap with the present threshold and smoothing, float32 (H, W) in 0..1."""
        return rendering.heatmap(self._map(), self._size, self.threshold, self._sigma)

    @property
    def classes(self) -> list[str] | None:
        """The names of the model's classes, if known."""
        return class_names(unwrap(self.model))

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
        figure = rendering.map_figure(self._map(), title=self.explanation.title(), colormap=self.colormap)
        if save_path is not None:
            refuse_existing([pathlib.Path(save_path)], force)
            rendering.save(figure, save_path)
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
        heat = self.heatmap
        figure = rendering.panels(
            self.picture, heat, title=self.explanation.title(), alpha=self.alpha, colormap=self.colormap,
            note=self.explanation.note(),
        )  # fmt: skip
        if save_path is not None:
            path = pathlib.Path(save_path)
            pictures = {
                "origin": self.picture,
                "overlapped": rendering.overlay(self.picture, heat, alpha=self.alpha, colormap=self.colormap),
                "heatmap": Image.fromarray(np.rint(heat * 255).astype(np.uint8)),
                "colormap": Image.fromarray(rendering.colorize(heat, self.colormap)),
            }
            raster = path.suffix if path.suffix.lower() not in (".pdf", ".svg") else ".png"
            files = {path.with_name(f"{path.stem}-{name}{raster}"): picture for name, picture in pictures.items()}
            refuse_existing([path, *files], force)
            rendering.save(figure, path)
            for file, picture in files.items():
                rendering.save(picture, file)
        return _shown(figure)

    @property
    def _question(self) -> tuple[Any, ...]:
        """The attributes that the map depends on."""
        return self.model, self.layer_idx, self.class_idx, self.method

    @property
    def _sigma(self) -> float:
        return rendering.default_smoothing(self._size) if self.smoothing is None else self.smoothing

    @property
    def _size(self) -> tuple[int, int]:
        return self.picture.height, self.picture.width

    def _map(self) -> NDArray[np.float32]:
        maps = self.explanation.map
        return (maps[0, 0] if maps.ndim == 4 else maps[0]).float().cpu().numpy()  # (h,w)


def _shown(figure: Figure) -> Figure | None:
    """In a notebook, displays the figure and returns None; elsewhere returns it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return figure
    ipython.display.display(ipython.display.Image(data=rendering.png_bytes(figure), alt="Grad-CAM figure"))
    return None
