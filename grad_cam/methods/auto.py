"""`method="auto"`, which has no formula of its own: `grad_cam.automatic` takes the method that measured best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor

from .common import MethodError
from .registry import method

if TYPE_CHECKING:
    from .network import WholeScore

Cost = Literal["tail", "pass", "unlimited"]
"""What may be spent: Grad-CAM's price; one forward and one backward pass of the whole network; about 200 passes."""


@method(
    "Automatic", kind="network", own_backward=True, source="by the measure of Bluecher et al., TMLR 2024",
    link="https://arxiv.org/abs/2401.06654",
    advice="What measures best on models of this kind, at the cost given; Grad-CAM where nothing was measured.",
)  # fmt: skip
def auto(whole_score: WholeScore, *, cost: Cost = "pass") -> Tensor:
    """The map that measured best on models of the same kind; see `grad_cam.automatic.choose`.

    Args:
        whole_score: Scores of images.
        cost: "tail" is Grad-CAM at the default cut; "pass" takes one forward and one backward pass through the network,
            "unlimited" 384 forward passes.

    Raises:
        MethodError: Always: `explain` and `sweep` run what is chosen instead.
    """
    raise MethodError("auto has no formula of its own", f"cost={cost!r}", 'use explain(..., method="auto")')
