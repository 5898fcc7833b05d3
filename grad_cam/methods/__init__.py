"""The methods, in one table: `METHODS`.

A new method is one function, one row here, and one reference in the tests. The command line, the app, the tests and
the documentation read this table; nothing else lists methods.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable
from typing import Any, Literal

from . import attention, factorization, gradient, network, perturbation
from .combinators import aug_smooth, eigen_smooth, fuse
from .common import MethodError

Kind = Literal["gradient", "factorization", "perturbation", "attention", "network"]
Needs = Literal[
    "activations",  # function(activations)
    "gradients",  # function(activations, gradients)
    "tail_gradient",  # function(activations, gradient: gradient.TailGradient), see gradient.gradient_of
    "noisy_gradients",  # function(activations, gradients of noisy inputs, one after another), see gradient.noisy_copies
    "tail",  # function(activations, tail), see perturbation.Score
    "score",  # function(activations, images, score), likewise
    "images",  # function(images, score), likewise
    "attention",  # function(attentions, gradients, grid), see attention.Capture
    "block_attention",  # likewise, see attention.block_gradients
    "network",  # function(images, score) with score from images to (B,)
    "network_cam",  # function(images, score, Grad-CAM's map of the same score)
]


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to make a map.

    Attributes:
        name: Its name in code and on the command line.
        title: Its name in figures and tables.
        function: A pure function; its first arguments are what `needs` says, the others are options with defaults.
        kind: What the map is made from.
        needs: What the engine hands over, see `Needs`.
        source: Where it was published, in a few words.
        link: The publication's address.
        advice: When to use it, in one line.
        eigen_smooth: Whether `eigen_smooth` can wrap it: its map is a sum over channels, each computed alone.
        aug_smooth: Whether `aug_smooth` can wrap it: it gives one map that follows a flip of the image.
        gives: "map", or "concepts" where the result is a `factorization.Factorization`.
    """

    name: str
    title: str
    function: Callable[..., Any] = dataclasses.field(repr=False)
    kind: Kind
    needs: Needs
    source: str
    link: str
    advice: str
    eigen_smooth: bool = False
    aug_smooth: bool = True
    gives: Literal["map", "concepts"] = "map"

    @property
    def class_specific(self) -> bool:
        """Whether the map depends on the target; what is made from activations alone does not."""
        return self.needs != "activations"

    @property
    def scope(self) -> Literal["layer", "input", "network"]:
        """What it reads: the activation at a cut, the input alone, or the whole network; only the first has a layer."""
        if self.needs in ("attention", "block_attention", "network", "network_cam"):
            return "network"
        return "input" if self.needs == "images" else "layer"

    @property
    def one_pass(self) -> bool:
        """Whether activations and gradients of one pass are all it asks for, so that many cuts cost one pass."""
        return self.needs in ("activations", "gradients")

    @property
    def options(self) -> dict[str, Any]:
        """The caller's own settings, with their defaults."""
        parameters = inspect.signature(self.function).parameters
        found = {name: p.default for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
        if self.needs == "noisy_gradients":
            noise = inspect.signature(gradient.noisy_copies).parameters
            found |= {name: noise[name].default for name in ("samples", "noise", "seed")}
        return found


_PGC = "https://github.com/jacobgil/pytorch-grad-cam"

_TABLE = (
    # ------------------------------------------------------------------------------------------------------- gradient
    Method(
        "grad_cam", "Grad-CAM", gradient.grad_cam, "gradient", "gradients",
        "Selvaraju et al., ICCV 2017", "https://arxiv.org/abs/1610.02391",
        "The usual start: coarse and robust at the last feature map of a network.", eigen_smooth=True,
    ),
    Method(
        "grad_cam_plus_plus", "Grad-CAM++", gradient.grad_cam_plus_plus, "gradient", "gradients",
        "Chattopadhay et al., WACV 2018", "https://arxiv.org/abs/1710.11063",
        "Shows all of several objects of one class; wants a layer after a ReLU.", eigen_smooth=True,
    ),
    Method(
        "smooth_grad_cam_plus_plus", "Smooth Grad-CAM++", gradient.smooth_grad_cam_plus_plus, "gradient",
        "noisy_gradients", "Omeiza et al., 2019", "https://arxiv.org/abs/1908.01224",
        "Grad-CAM++ with less noise, at the cost of one whole pass per noisy copy.",
    ),
    Method(
        "xgrad_cam", "XGrad-CAM", gradient.xgrad_cam, "gradient", "gradients",
        "Fu et al., BMVC 2020", "https://arxiv.org/abs/2008.02312",
        "Grad-CAM with weights that best conserve the score; wants a layer after a ReLU.", eigen_smooth=True,
    ),
    Method(
        "hires_cam", "HiResCAM", gradient.hires_cam, "gradient", "gradients",
        "Draelos and Carin, 2020", "https://arxiv.org/abs/2011.08891",
        "Only what the model really used at each position; the safe choice for early layers and flattening heads.",
        eigen_smooth=True,
    ),
    Method(
        "grad_cam_element_wise", "Grad-CAM element-wise", gradient.grad_cam_element_wise, "gradient", "gradients",
        "Gildenblat et al., 2021", _PGC,
        "HiResCAM with every channel's evidence against the class left out.", eigen_smooth=True,
    ),
    Method(
        "layer_cam", "LayerCAM", gradient.layer_cam, "gradient", "gradients",
        "Jiang et al., IEEE TIP 2021", "https://doi.org/10.1109/TIP.2021.3089943",
        "Fine detail at early layers; fuse several of them.", eigen_smooth=True,
    ),
    Method(
        "norm_grad", "NormGrad", gradient.norm_grad, "gradient", "gradients",
        "Rebuffi et al., CVPR 2020", "https://arxiv.org/abs/2004.02866",
        "Where a layer would learn from, for and against alike; sharp at early layers.",
    ),
    Method(
        "shapley_cam", "ShapleyCAM", gradient.shapley_cam, "gradient", "tail_gradient",
        "Cai, 2025", "https://arxiv.org/abs/2501.06261",
        "Grad-CAM corrected for the curvature of the score; differs only where the tail is not linear.",
    ),
    Method(
        "integrated_grad_cam", "Integrated Grad-CAM", gradient.integrated_grad_cam, "gradient", "tail_gradient",
        "Sattarzadeh et al., ICASSP 2021", "https://arxiv.org/abs/2102.07805",
        "When the score is saturated and its gradient vanishes.",
    ),
    Method(
        "random_cam", "Random CAM", gradient.random_cam, "gradient", "activations",
        "control", "",
        "The control: a method that does not beat it explains nothing.", aug_smooth=False,
    ),
    # -------------------------------------------------------------------------------------------------- factorization
    Method(
        "eigen_cam", "Eigen-CAM", factorization.eigen_cam, "factorization", "activations",
        "Muhammad and Yeasin, IJCNN 2020", "https://arxiv.org/abs/2008.00299",
        "What stands out of the picture for this layer, whatever the class; clean maps of the main object.",
    ),
    Method(
        "eigen_grad_cam", "Eigen-Grad-CAM", factorization.eigen_grad_cam, "factorization", "gradients",
        "Gildenblat et al., 2021", _PGC,
        "As clean as Eigen-CAM, and about one class.",
    ),
    Method(
        "seg_eigen_cam", "Seg-Eigen-CAM", factorization.seg_eigen_cam, "factorization", "gradients",
        "Chung and Ying, Applied Sciences 2025", "https://doi.org/10.3390/app15137562",
        "For segmentation models.",
    ),
    Method(
        "kpca_cam", "KPCA-CAM", factorization.kpca_cam, "factorization", "activations",
        "Karmani et al., 2024", "https://arxiv.org/abs/2410.00267",
        "Eigen-CAM with a curved component, whatever the class.",
    ),
    Method(
        "fem", "FEM", factorization.fem, "factorization", "activations",
        "Fuad et al., IPTA 2020", "https://hal.science/hal-02963298",
        "Channels with rare, strong responses, whatever the class; cheap.",
    ),
    Method(
        "deep_feature_factorization", "Deep Feature Factorization", factorization.deep_feature_factorization,
        "factorization", "activations", "Collins et al., ECCV 2018", "https://arxiv.org/abs/1806.10206",
        "The concepts of the picture, each with a map of its own and its own class scores.",
        aug_smooth=False, gives="concepts",
    ),
)  # fmt: skip

METHODS: dict[str, Method] = {method.name: method for method in _TABLE}
METHODS |= {
    name: Method(name, **entry) for part in (perturbation, attention, network) for name, entry in part.ENTRIES.items()
}


def find(name: str) -> Method:
    """Looks a method up.

    Args:
        name: A name from `METHODS`; hyphens count as underscores, capitals do not matter.

    Raises:
        MethodError: There is no such method; the message names the closest ones.
    """
    key = str(name).strip().lower().replace("-", "_")
    if key in METHODS:
        return METHODS[key]
    close = difflib.get_close_matches(key, METHODS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(METHODS)}"
    raise MethodError(f"there is no method {name!r}: {hint}")


__all__ = ["METHODS", "Method", "MethodError", "aug_smooth", "eigen_smooth", "find", "fuse"]
