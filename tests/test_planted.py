"""Maps of networks that can see one place only: the default has to lie there, and the methods that do not are named."""

from __future__ import annotations

import pytest
import torch

from grad_cam import METHODS
from tests.planted import CANNOT, CELLS_READ, NETWORKS, hits, images

EVERY = ("hires_cam", "grad_cam_element_wise", "layer_cam", "norm_grad", "eigen_grad_cam", "seg_eigen_cam", "full_grad",
         "activation_occlusion", "occlusion", "region_regression")  # fmt: skip
"""They lie there in every case."""

ASTRAY = {
    "one window": {"rise"},
    "one cell": {"grad_cam", "eigen_cam", "fem", "ablation_cam", "score_cam", "random_cam"},
    "one token": {"grad_cam", "eigen_cam", "fem", "ablation_cam", "score_cam", "random_cam",
                  "attention_rollout", "gradient_rollout", "le_grad"},
}  # fmt: skip
"""Those of the others that were tried and do not: weights averaged over all positions cannot see a head that reads one
of them, activations alone do not know the head, and attention does not know what is done with a token afterwards."""


def test_networks_see_one_place_only() -> None:
    """Noise outside the cell changes no logit, noise in it does."""
    x, cell = images(), CELLS_READ[0]
    inside = torch.zeros(7, 7)
    inside[cell] = 1
    inside = inside.repeat_interleave(8, 0).repeat_interleave(8, 1)
    with torch.no_grad():
        for make in NETWORKS.values():
            model = make(*cell).eval()
            assert torch.allclose(model(x), model(x + torch.randn_like(x) * (1 - inside)), atol=1e-5)
            assert (model(x) - model(x + torch.randn_like(x) * inside)).abs().max() > 1e-3


@pytest.mark.parametrize("network", NETWORKS)
def test_default_lies_there(network: str) -> None:
    """The default's largest value is where the network looks, in every case."""
    assert hits(network, None) == "9 of 9"


@pytest.mark.parametrize("network", NETWORKS)
def test_methods_that_follow_positions_lie_there(network: str) -> None:
    """Methods that keep each position's own gradient, and those that try, are right in every case."""
    quick = [m for m in EVERY if m != "region_regression"] if network == "one token" else EVERY
    assert {method: hits(network, method) for method in quick} == dict.fromkeys(quick, "9 of 9")


@pytest.mark.parametrize("network", NETWORKS)
def test_methods_that_go_astray_are_known(network: str) -> None:
    """The others are named, so that a change is seen: one that became right has to leave the list."""
    for name in ASTRAY[network]:
        assert hits(network, name) not in ("9 of 9", CANNOT), name


def test_lists_name_methods() -> None:
    """Every name in the lists is a method."""
    assert {*EVERY, *(name for names in ASTRAY.values() for name in names)} <= set(METHODS)
