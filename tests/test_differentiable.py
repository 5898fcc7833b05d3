"""Maps in a loss: the graph of a map is right, and a loss on it changes where a model looks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import grad_cam
from grad_cam.errors import GradCamError, SplitError
from grad_cam.methods import METHODS, MethodError
from grad_cam.splitting.livecopy import LiveCopy

GRADIENT = [m.name for m in METHODS.values() if m.kind == "gradient" and m.one_pass and m.class_specific]


def _net(last: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.Softplus(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3), last or nn.Tanh(),
    ).double()  # fmt: skip


@pytest.mark.parametrize("method", GRADIENT)
def test_gradient_of_the_map_is_that_of_finite_differences(method: str) -> None:
    """A map follows the weights on both sides of the cut, and the images, as its derivative says."""
    model = _net().eval()
    images = torch.randn(2, 1, 8, 8, dtype=torch.double, requires_grad=True)
    weights = torch.randn(2, 8, 8, dtype=torch.double)

    def loss(images: Tensor) -> Tensor:
        found = grad_cam.explain(model, images, layer="4", target=1, method=method, differentiable=True)
        return (found.map * weights).sum()

    plain = grad_cam.explain(model, images, layer="4", target=1, method=method)
    live = grad_cam.explain(model, images, layer="4", target=1, method=method, differentiable=True)
    assert torch.equal(live.map, plain.map) and not plain.map.requires_grad
    for moved in (model[0].weight, model[7].weight, images):
        (slope,) = torch.autograd.grad(loss(images), moved)
        assert float(slope.abs().max()) > 0
        step = torch.randn_like(moved) * 1e-5
        with torch.no_grad():
            moved += step
        more = loss(images)
        with torch.no_grad():
            moved -= 2 * step
        difference = (more - loss(images)) / 2
        with torch.no_grad():
            moved += step
        assert torch.isclose((slope * step).sum(), difference, rtol=1e-4, atol=1e-13)


def test_attention_and_norms_have_second_derivatives() -> None:
    """Fused attention is written out, so that the loss reaches the weights inside it; numbers as in a plain run."""
    timm = pytest.importorskip("timm")
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=3
    )
    images = torch.randn(2, 3, 32, 32)
    live = grad_cam.explain(model, images, target=1, differentiable=True)
    plain = grad_cam.explain(model, images, target=1)
    torch.testing.assert_close(live.map, plain.map, rtol=1e-4, atol=1e-6)
    live.map.square().sum().backward()
    qkv = model.blocks[1].attn.qkv.weight.grad
    assert qkv is not None and bool(qkv.isfinite().all()) and float(qkv.abs().max()) > 0


def _two_dots(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images whose class is told twice, by a dot on the left and one on the right; the classes; the left half."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, 2, (count,), generator=generator)
    images = 0.1 * torch.randn(count, 1, 12, 12, generator=generator)
    for image, label in zip(images, classes.tolist(), strict=True):
        for columns in (slice(1, 5), slice(7, 11)):
            image[0, 2 + 5 * label : 5 + 5 * label, columns] += 1.0
    left = torch.zeros(12, 12)
    left[:, :6] = 1
    return images, classes, left


class _Looks(nn.Module):
    """Two layers: a convolution, and a weight for every position."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(6 * 12 * 12, 2)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.features(images).flatten(1))
        return out


def _share(model: nn.Module, images: Tensor, classes: Tensor, left: Tensor, live: bool) -> tuple[Tensor, Any]:
    found = grad_cam.explain(
        model, images, layer="features", target=classes.tolist(), method="hires_cam", differentiable=live
    )
    evidence = found.map.abs()
    return ((evidence * left).sum((1, 2)) / evidence.sum((1, 2))).mean(), found


def test_a_loss_on_the_map_makes_a_model_look_elsewhere() -> None:
    """Both dots tell the class; trained with a mask the model uses the left one alone, and does without the other."""
    images, classes, left = _two_dots(64, 0)
    torch.manual_seed(1)
    plain = _Looks()
    masked = copy.deepcopy(plain)
    for model, weight in ((plain, 0.0), (masked, 3.0)):
        optimiser = torch.optim.Adam(model.parameters(), 0.02)
        for _ in range(40):
            share, found = _share(model, images, classes, left, live=True)
            loss = functional.cross_entropy(found.logits, classes) + weight * (1 - share)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    others, wanted, _ = _two_dots(64, 7)
    assert 0.3 < float(_share(plain, others, wanted, left, live=False)[0]) < 0.8
    assert float(_share(masked, others, wanted, left, live=False)[0]) > 0.95
    misleading = others.clone()
    misleading[..., 6:] = others[..., 6:].flip(-2)  # the right dot now speaks for the other class
    assert float((masked(misleading).argmax(1) == wanted).float().mean()) == 1.0
    assert float((plain(misleading).argmax(1) == wanted).float().mean()) < 0.9


def test_several_layers_and_targets() -> None:
    """A list of layers and several targets keep their graphs, made by one forward; the result shows itself."""
    model = _net()
    model.train()
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(2, 1, 8, 8).double()
    found = grad_cam.explain(
        model, images, layer=["2", "4"], target=grad_cam.targets.top(2), method="layer_cam", differentiable=True
    )
    assert [one.map.shape for one in found] == [(2, 2, 8, 8)] * 2 and all(one.map.requires_grad for one in found)
    sum(one.map.sum() for one in found).backward()  # type: ignore[union-attr]
    assert model[0].weight.grad is not None and model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert found[0].overlay().size == (8, 8) and "layer_cam" in repr(found[0]) and found[0].figure() is not None
    assert not grad_cam.explain(model, images, layer="4").map.requires_grad


class _OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 2


class _Once(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = _OnceOnly.apply(x)
        return found


class _Merging(nn.Module):
    """Changes its weights when it is switched to eval mode, as layers that merge branches do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)

    def train(self, mode: bool = True) -> _Merging:
        self.conv.weight.data.mul_(1.5 if not mode else 1 / 1.5)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x).mean((2, 3))
        return found


def test_what_cannot_be_in_a_loss_is_refused() -> None:
    """Each refusal says why; none of them gives a map whose graph is cut."""
    model, images = _net(), torch.randn(1, 1, 8, 8).double()
    for method in ("ablation_cam", "eigen_cam", "score_cam", "shapley_cam", "guided_backprop"):
        with pytest.raises(MethodError, match="cannot be in a loss"):
            grad_cam.explain(model, images, method=method, differentiable=True)
    with pytest.raises(MethodError, match="rules and differentiable=True"):
        grad_cam.explain(model, images, rules="balanced", differentiable=True)
    with pytest.raises(MethodError, match="aug_smooth and differentiable=True"):
        grad_cam.explain(model, images, aug_smooth=True, differentiable=True)
    with pytest.raises(MethodError, match="without a graph"):
        grad_cam.explain(
            model, images, method=lambda activations, gradients: (activations * gradients).sum(1).detach(),
            differentiable=True,
        )  # fmt: skip
    with torch.no_grad(), pytest.raises(GradCamError, match="switched off"):
        grad_cam.explain(model, images, differentiable=True)
    with pytest.raises(GradCamError, match="asks for a gradient"):
        grad_cam.explain(_net().requires_grad_(False), images, differentiable=True)
    with pytest.raises(MethodError, match="no second derivative: _OnceOnly"):
        grad_cam.explain(_net(_Once()), images, layer="4", differentiable=True)


def test_a_model_whose_weights_would_change_is_refused() -> None:
    """A train() of the user's own is not called on the user's own weights."""
    model = nn.Sequential(_Merging(), nn.Linear(3, 2))
    weight = model[0].conv.weight.detach().clone()
    with pytest.raises(SplitError, match="train\\(\\) of its own"):
        grad_cam.explain(model, torch.randn(1, 1, 8, 8), layer="0.conv", differentiable=True)
    assert torch.equal(model[0].conv.weight, weight)


def test_parameters_outside_the_registry_are_live_too() -> None:
    """A weight that a forward reads from a list is the model's own one, and so is a tied one."""

    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 3)
            self.tied = self.conv
            self.weights = [self.conv.weight]

        def forward(self, x: Tensor) -> Tensor:
            return functional.conv2d(x, self.weights[0]).mean((2, 3)) + self.tied(x).mean((2, 3))

    model = Listed()
    made = LiveCopy(model)
    root: Any = made.root
    assert root.weights[0] is model.conv.weight and root.tied.weight is model.conv.weight and root.conv is root.tied
