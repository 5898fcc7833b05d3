"""Whole-network methods: completeness, the guided rule for every way to write a ReLU, and captum."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from grad_cam.methods import METHODS as REGISTERED
from grad_cam.methods import network
from grad_cam.methods.common import MethodError
from grad_cam.splitting.evalcopy import EvalCopy


def images(batch: int = 2, side: int = 16) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


def with_statistics(model: nn.Module) -> nn.Module:
    """Random weights, biases and running statistics, so that nothing cancels by being zero or one."""
    torch.manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return model.eval()


class Residual(nn.Module):
    """A ReLU network with what gets in the way: in-place ReLU, in-place sums, functions, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.body = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6))
        self.up = nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = functional.max_pool2d(x, 2)
        y = self.body(x)
        y += x
        y = functional.relu(y)
        y = torch.relu_(self.up(y))
        return self.head(y.mean((2, 3)))


def class_score(model: nn.Module, k: int = 1) -> Callable[[Tensor], Tensor]:
    stand_in = EvalCopy(model).root
    return lambda x: stand_in(x)[:, k]


# ------------------------------------------------------------------------------------------------------ FullGrad


def test_full_gradient_is_complete_on_a_relu_network() -> None:
    """Gradient times input and gradient times every bias add up to the score, in-place operations or not."""
    parts = network.full_gradient(images(), class_score(with_statistics(Residual())))
    assert len(parts.biases) == 5  # two convolutions, two batch normalisations, one linear layer
    torch.testing.assert_close(parts.residual(), torch.zeros(2), atol=1e-5, rtol=0)
    assert parts.score.abs().min() > 1e-3


def test_full_gradient_is_complete_on_resnet18() -> None:
    """The same for torchvision's ResNet-18, with the implicit biases of its batch normalisations."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = with_statistics(torchvision.models.resnet18(num_classes=5)).double()
    parts = network.full_gradient(images(1, 64).double(), class_score(model))
    assert len(parts.biases) == 21
    assert (parts.residual() / parts.score).abs() < 1e-9


def test_bias_terms_are_the_gradients_of_the_biases() -> None:
    """Summed over images and positions, a convolution's terms are its bias times autograd's gradient of the bias."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    x = images(2, 8)
    parts = network.full_gradient(x, class_score(model))
    model(x)[:, 1].sum().backward()
    for got, layer, axes in ((parts.biases[0], model[0], (0, 2, 3)), (parts.biases[1], model[3], (0,))):
        torch.testing.assert_close(got.sum(axes), layer.bias.detach() * layer.bias.grad)
    assert parts.channel_axes == [1, 1]


def test_full_grad_is_its_formula() -> None:
    """The map is the sum over layers of rescaled magnitudes, channel by channel, resized to the image."""
    model = with_statistics(Residual())
    parts = network.full_gradient(images(), class_score(model))
    wanted = torch.zeros(2, 16, 16)
    for part in [parts.input, *[b for b in parts.biases if b.ndim == 4]]:
        for b in range(2):
            one = part[b].abs()
            one = (one - one.min()) / (one.max() - one.min())
            for channel in one:
                wanted[b] += functional.interpolate(
                    channel[None, None], (16, 16), mode="bilinear", align_corners=False
                )[0, 0]
    torch.testing.assert_close(network.full_grad(images(), class_score(model)), wanted)


def test_full_grad_reads_tokens_when_it_knows_the_grid() -> None:
    """Biases of token layers count on the grid, without the prefix token; unknown grids leave them out."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.mix, self.head = nn.Conv2d(3, 4, 4, stride=4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patch(x).flatten(2).transpose(1, 2)
            x = torch.cat([x[:, :1] * 0, x], 1)
            return self.head(functional.relu(self.mix(x)).mean(1))

    torch.manual_seed(0)
    score = class_score(Tokens().eval())
    without, known = network.full_grad(images(), score), network.full_grad(images(), score, grid=(4, 4))
    assert (known >= without).all()
    assert (known > without).any()


# ------------------------------------------------------------------------------------------------------ guided


WRITTEN: dict[str, Callable[[Tensor], Tensor]] = {
    "F.relu": functional.relu,
    "F.relu inplace": lambda x: functional.relu(x, inplace=True),
    "F.relu_": functional.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "Tensor.relu": lambda x: x.relu(),
    "Tensor.relu_, result unused": lambda x: (x.relu_(), x)[1],
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU inplace": nn.ReLU(inplace=True),
    "F.threshold": lambda x: functional.threshold(x, 0, 0),
    "nn.Threshold inplace": nn.Threshold(0.0, 0.0, inplace=True),
    "Tensor.clamp": lambda x: x.clamp(min=0),
    "Tensor.clamp_": lambda x: x.clamp_(0),
    "torch.clamp": lambda x: torch.clamp(x, 0.0),
    "Tensor.clamp_min": lambda x: x.clamp_min(0),
    "Tensor.clamp_min_": lambda x: x.clamp_min_(0),
}
BOUNDED: dict[str, Callable[[Tensor], Tensor]] = {
    "F.relu6": functional.relu6,
    "nn.ReLU6 inplace": nn.ReLU6(inplace=True),
    "F.hardtanh": lambda x: functional.hardtanh(x, 0.0, 6.0),
    "Tensor.clamp": lambda x: x.clamp(0, 6),
}


def by_hand(x: Tensor, weight: Tensor, read: Tensor, limit: float) -> Tensor:
    """Guided gradient of read . relu(weight x), for each image."""
    z = x.flatten(1) @ weight.T
    gate = ((z > 0) & (z < limit)).float() * read.clamp(min=0)
    return (gate @ weight).reshape(x.shape)


@pytest.mark.parametrize("written", [*WRITTEN, *(f"6: {name}" for name in BOUNDED)])
def test_guided_rule_holds_however_relu_is_written(written: str) -> None:
    """Functions, methods, modules, in place or not: negative gradients are stopped, closed units too."""
    relu, limit = (BOUNDED[written[3:]], 6.0) if written.startswith("6: ") else (WRITTEN[written], float("inf"))
    torch.manual_seed(0)
    weight, read, x = torch.randn(7, 48), torch.randn(7), images(2, 4)
    found = network.guided_gradient(x, lambda v: relu(v.flatten(1) @ weight.T) @ read)
    torch.testing.assert_close(found, by_hand(x, weight, read, limit))


@pytest.mark.parametrize(
    "other",
    [lambda x: x.clamp(min=-1), lambda x: functional.hardtanh(x), lambda x: functional.threshold(x, 0.5, 0.1),
     lambda x: x.clamp(max=2), functional.gelu, functional.leaky_relu],
)  # fmt: skip
def test_what_is_no_relu_keeps_its_gradient(other: Callable[[Tensor], Tensor]) -> None:
    """Clamps elsewhere than at 0 and smooth activations are left alone; without any ReLU that is an error."""
    torch.manual_seed(0)
    weight, read, x = torch.randn(7, 48), torch.randn(7), images(2, 4)
    with pytest.raises(MethodError, match="runs none"):
        network.guided_gradient(x, lambda v: other(v.flatten(1) @ weight.T) @ read)
    leaf = x.clone().requires_grad_()
    (other(leaf.flatten(1) @ weight.T) @ read).sum().backward()
    found = network.guided_gradient(x, lambda v: other(v.flatten(1) @ weight.T) @ read + functional.relu(v - 99).sum())
    torch.testing.assert_close(found, leaf.grad)


def test_guided_gradient_agrees_with_captum_on_resnet18() -> None:
    """captum's GuidedBackprop gives the same gradient, on a model whose ReLUs are separate modules for its hooks."""
    attr = pytest.importorskip("captum.attr")
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = with_statistics(torchvision.models.resnet18(num_classes=5))
    x = images(2, 64)
    found = network.guided_gradient(x, class_score(model, 3))
    hooked = copy.deepcopy(model)
    for module in hooked.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    wanted = attr.GuidedBackprop(hooked).attribute(x.clone().requires_grad_(), target=3)
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-4, atol=1e-5 * wanted.abs().max().item())
    maps = network.guided_backprop(x, class_score(model, 3))
    torch.testing.assert_close(maps, found.abs().amax(1))


def test_guided_grad_cam_is_the_product() -> None:
    """Guided backpropagation times the positive, resized map; a nowhere positive map leaves nothing."""
    score = class_score(with_statistics(Residual()))
    cam = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(3))
    large = functional.interpolate(cam[None].clamp(min=0), (16, 16), mode="bilinear", align_corners=False)[0]
    found = network.guided_grad_cam(images(), score, cam)
    torch.testing.assert_close(found, network.guided_backprop(images(), score) * large)
    assert network.guided_grad_cam(images(), score, -cam.abs()).abs().max() == 0


# ------------------------------------------------------------------------------------------------------ both


METHODS: dict[str, Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]] = {
    "full_grad": network.full_grad,
    "guided_backprop": network.guided_backprop,
    "guided_grad_cam": lambda x, score: network.guided_grad_cam(x, score, torch.ones(len(x), 2, 2)),
}
EVERY = pytest.mark.parametrize("name", METHODS)


@EVERY
def test_model_and_images_are_left_as_found(name: str) -> None:
    """Nothing of the model or the images changes, no gradient and no hook stays, and no_grad callers are served."""
    model = with_statistics(Residual()).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = images()
    with torch.no_grad():
        found = METHODS[name](x, class_score(model))
    assert found.shape == (2, 16, 16)
    assert not found.requires_grad
    assert found.min() >= 0
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert torch.equal(x, images())
    for module in model.modules():
        assert module.training
        assert not module._forward_hooks
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@EVERY
def test_batch_is_one_by_one(name: str) -> None:
    """Every image gets the map it gets alone."""
    score = class_score(with_statistics(Residual()))
    together = METHODS[name](images(), score)
    alone = torch.cat([METHODS[name](images()[i : i + 1], score) for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@EVERY
def test_score_without_gradient_is_named(name: str) -> None:
    """A score that does not depend on the images, or is not one per image, is refused with what to do."""
    model = with_statistics(Residual())
    with pytest.raises(MethodError, match="does not depend"):
        METHODS[name](images(), lambda x: (functional.relu(x).mean((1, 2, 3)) > 0).float())
    with pytest.raises(ValueError, match="one score per image"):
        METHODS[name](images(), EvalCopy(model).root)


def test_guided_grad_cam_wants_one_map_an_image() -> None:
    """Maps of another batch are refused."""
    with pytest.raises(ValueError, match=r"one map \(h, w\) for each of 2 images, got \(1, 4, 4\)"):
        network.guided_grad_cam(images(), class_score(Residual().eval()), torch.ones(1, 4, 4))


def test_the_registered_methods_are_these() -> None:
    """The methods of this kind are the ones tested here, and read what the tests give them."""
    read = {m.name: m.ingredients for m in REGISTERED.values() if m.kind == "network" and m.name != "auto"}
    assert read == {
        "full_grad": ("images", "whole_score", "grid"),
        "guided_backprop": ("images", "whole_score"),
        "guided_grad_cam": ("images", "whole_score", "cam"),
    }
    assert set(read) == set(METHODS)
