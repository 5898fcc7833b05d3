"""Gradients of batch norms against finite differences, where PyTorch's own are wrong."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from grad_cam.batchnorm import correct_gradients

Function = Callable[[Tensor], Tensor]

CHANNELS = 6


def settled(model: nn.Module) -> nn.Module:
    """A model in eval mode and float64 whose norms' statistics and weights differ from channel to channel."""
    model = model.double().eval()
    generator = torch.Generator().manual_seed(1)
    for norm in (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)):
        for name, tensor in (*norm.named_parameters(recurse=False), *norm.named_buffers(recurse=False)):
            if tensor.is_floating_point():
                values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.data.copy_(values + 0.5 if "var" in name or "weight" in name else values - 0.5)
    return model


def random(*shape: int) -> Tensor:
    """Normally distributed float64 values, the same at every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gradient(function: Function, x: Tensor, weights: Tensor, correct: bool = True) -> Tensor:
    """The gradient of a weighted sum of a function's values."""
    leaf = x.detach().requires_grad_()
    out = function(leaf)
    if correct:
        correct_gradients(out)
    return torch.autograd.grad((out * weights).sum(), leaf)[0]


def numerical(function: Function, x: Tensor, weights: Tensor) -> Tensor:
    """The same gradient by central differences, value by value."""
    flat = x.detach().reshape(-1).clone()
    slopes = torch.empty_like(flat)
    for i in range(len(flat)):
        ends = []
        for step in (1e-5, -1e-5):
            moved = flat.clone()
            moved[i] += step
            # the strides of x, which the function may depend on
            given = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype).copy_(moved.view(x.shape))
            with torch.no_grad():
                ends.append((function(given) * weights).sum())
        slopes[i] = (ends[0] - ends[1]) / 2e-5
    return slopes.view(x.shape)


def error(function: Function, x: Tensor, correct: bool = True) -> float:
    """The relative error of the gradient of a function."""
    weights = random(*function(x).shape)
    wanted = numerical(function, x, weights)
    return float((gradient(function, x, weights, correct) - wanted).norm() / wanted.norm())


def tokens(x: Tensor) -> Tensor:
    """(B,C,*) as tokens (B,N,C), as transformers read a feature map."""
    return x.flatten(2).transpose(1, 2)


def functional(x: Tensor) -> Tensor:
    """Batch norm without a module."""
    statistics = torch.linspace(0.5, 2, x.shape[1], dtype=x.dtype)
    return F.batch_norm(x, statistics - 1, statistics, statistics, -statistics, False)


def native(x: Tensor) -> Tensor:
    """Batch norm as exported programs call it."""
    statistics = torch.linspace(0.5, 2, x.shape[1], dtype=x.dtype)
    return torch.ops.aten._native_batch_norm_legit_no_training(x, None, None, statistics, statistics, 0.1, 1e-5)[0]


NORMS: dict[str, Callable[[], Function]] = {
    "module": lambda: settled(nn.BatchNorm2d(CHANNELS)),
    "function": lambda: functional,
    "native": lambda: native,
    "without weights": lambda: settled(nn.BatchNorm2d(CHANNELS, affine=False)),
    "statistics of the batch": lambda: settled(nn.BatchNorm2d(CHANNELS, track_running_stats=False)),
    "timm with activation": lambda: settled(timm.layers.BatchNormAct2d(CHANNELS, act_layer=nn.SiLU)),
    "instance norm": lambda: settled(nn.InstanceNorm2d(CHANNELS, affine=True)),
}


def one_pixel_high(x: Tensor) -> Tensor:
    """Two images of one row, channels innermost, and an axis of length 1 whose stride is none of theirs."""
    return x.as_strided((2, CHANNELS, 1, 4), (4 * CHANNELS, 1, 1, CHANNELS))


@pytest.mark.parametrize("name", NORMS)
def test_norms_before_tokens(name: str) -> None:
    """The gradient of one image is that of finite differences for every kind of norm before a transformer."""
    norm = NORMS[name]()
    assert error(lambda x: tokens(norm(x)), random(1, CHANNELS, 3, 4)) < 1e-8


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("shape", [(1, CHANNELS, 3, 4), (2, CHANNELS, 3, 4), (2, CHANNELS, 1, 4), (1, CHANNELS, 1, 1)])
@pytest.mark.parametrize("made", ["rows", "channels last", "tokens"])
def test_norms_in_any_memory_format(name: str, shape: tuple[int, ...], made: str) -> None:
    """Input and gradient in each memory format, for one image and several."""
    if name in ("instance norm", "statistics of the batch") and shape == (1, CHANNELS, 1, 1):
        pytest.skip("one value has no statistics")
    norm = NORMS[name]()
    x = random(*shape)
    if made == "channels last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif made == "tokens":
        x = tokens(x).contiguous().transpose(1, 2).unflatten(2, shape[2:])
    wanted = gradient(norm, x.contiguous(), random(*shape))
    weights = random(*shape)
    for given in (
        weights,
        weights.contiguous(memory_format=torch.channels_last),
        tokens(weights).contiguous().transpose(1, 2).unflatten(2, shape[2:]),
    ):
        leaf = x.detach().requires_grad_()
        out = norm(leaf)
        correct_gradients(out)
        torch.testing.assert_close(torch.autograd.grad(out, leaf, given)[0], wanted)


def test_norms_over_volumes() -> None:
    """(B,C,D,H,W) too."""
    norm = settled(nn.BatchNorm3d(CHANNELS))
    assert error(lambda x: tokens(norm(x)), random(1, CHANNELS, 2, 2, 3)) < 1e-8


def test_images_one_pixel_high() -> None:
    """More than one image can be concerned, if another axis has length 1."""
    weights = one_pixel_high(random(2, 4, 1, CHANNELS))
    x = random(2, CHANNELS, 1, 4).requires_grad_()
    out = functional(x)
    assert correct_gradients(out) == 1
    wanted = torch.autograd.grad(out, x, weights.contiguous(), retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(out, x, weights)[0], wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    """Also in lower precision the gradient is that of a contiguous one."""
    norm = settled(nn.BatchNorm2d(CHANNELS)).to(dtype)
    x, weights = random(1, CHANNELS, 3, 4).to(dtype).requires_grad_(), random(1, 12, CHANNELS).to(dtype)
    given = weights.transpose(1, 2).unflatten(2, (3, 4))
    out = norm(x)
    wanted = torch.autograd.grad(out, x, given.contiguous(), retain_graph=True)[0]
    correct_gradients(out)
    torch.testing.assert_close(torch.autograd.grad(out, x, given)[0], wanted)


def test_what_is_corrected_is_wrong_without() -> None:
    """Without the correction the gradient is wrong; a PyTorch in which it is not needs this module no more."""
    wrong = error(lambda x: tokens(functional(x)), random(1, CHANNELS, 3, 4), correct=False)
    if wrong < 1e-8:
        pytest.skip(f"torch {torch.__version__} computes the gradient right")
    assert wrong > 0.1


class PatchEmbedding(nn.Module):
    """XCiT's beginning: convolutions with batch norms, the last one read as tokens, with an activation in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, CHANNELS, 3, 2, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(CHANNELS)])
        self.act, self.head = nn.ReLU(inplace=True), nn.Linear(CHANNELS, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B,5)."""
        x = self.act(self.norms[0](self.first(x)))
        x = tokens(self.norms[1](self.second(x)))
        return self.head(torch.tanh(x) * x.softmax(1)).sum(1)


def test_a_patch_embedding() -> None:
    """A network that reads a batch norm as tokens, by finite differences of one image."""
    torch.manual_seed(0)
    assert error(settled(PatchEmbedding()), random(1, 3, 8, 8)) < 1e-7


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("xcit_nano_12_p8_224", {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 3}),
        ("lambda_resnet26rpt_256", {}),
        ("levit_128s", {}),
    ],
)
def test_timm_networks(name: str, settings: dict) -> None:
    """One image has the gradient it has beside another one, for which PyTorch's is right."""
    torch.manual_seed(0)
    model = settled(timm.create_model(name, num_classes=5, **settings))
    side = 32 if settings else model.pretrained_cfg["input_size"][-1]
    images = random(2, 3, side, side)
    weights = random(2, 5)
    both = gradient(model, images, weights)
    assert torch.allclose(gradient(model, images[:1], weights[:1]), both[:1], atol=1e-9 * float(both.abs().max()))


def test_scripted_modules() -> None:
    """A scripted norm leaves the same trace in the autograd graph."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer versions of torch announce the end of scripting
        norm = torch.jit.script(settled(nn.BatchNorm2d(CHANNELS)))
    assert error(lambda x: tokens(norm(x)), random(1, CHANNELS, 2, 3)) < 1e-8


def test_inside_other_function_modes() -> None:
    """Function modes around the forward pass, one in another, change nothing."""

    class Counting(TorchFunctionMode):
        calls = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            Counting.calls += 1
            return func(*args, **(kwargs or {}))

    norm = settled(nn.BatchNorm2d(CHANNELS))
    x, weights = random(1, CHANNELS, 2, 3), random(1, 6, CHANNELS)
    with Counting(), Counting():
        found = gradient(lambda given: tokens(norm(given)), x, weights)
    assert Counting.calls
    torch.testing.assert_close(found, numerical(lambda given: tokens(norm(given)), x, weights), atol=1e-8, rtol=1e-8)


def test_second_derivatives() -> None:
    """A gradient of a corrected gradient is right, too."""
    norm = settled(nn.BatchNorm2d(CHANNELS))
    x, along = random(1, CHANNELS, 2, 3), random(1, CHANNELS, 2, 3).flip(1)

    def first(given: Tensor) -> Tensor:
        leaf = given if given.requires_grad else given.detach().requires_grad_()
        with torch.enable_grad():
            out = tokens(norm(leaf)) ** 3
            correct_gradients(out)
            return torch.autograd.grad(out.sum(), leaf, create_graph=True)[0]

    leaf = x.clone().requires_grad_()
    inner = first(leaf)
    correct_gradients(inner)
    second = torch.autograd.grad(inner, leaf, along)[0]
    step = 1e-5 * along
    wanted = (first(x + step) - first(x - step)).detach() / 2e-5  # the Hessian is symmetric
    torch.testing.assert_close(second, wanted, atol=1e-6, rtol=1e-6)


def test_several_gradients_of_one_graph() -> None:
    """Several outputs, several gradients of each, and a second call on the same graph."""
    norm = settled(nn.BatchNorm2d(CHANNELS))
    leaf = random(1, CHANNELS, 2, 3).requires_grad_()
    features = norm(leaf)
    one, two = tokens(features), tokens(features).sin()
    assert correct_gradients(one, two) == 1 == correct_gradients(two)
    for out in (one, two):
        for weights in (random(1, 6, CHANNELS), random(1, 6, CHANNELS).flip(1)):
            found = torch.autograd.grad(out, leaf, weights, retain_graph=True)[0]
            contiguous = torch.autograd.grad(out, features, weights, retain_graph=True)[0].contiguous()
            wanted = torch.autograd.grad(features, leaf, contiguous, retain_graph=True)[0]
            torch.testing.assert_close(found, wanted)


def test_only_where_it_can_happen() -> None:
    """Larger batches, norms over sequences and networks without a batch norm are not watched."""
    x = random(2, CHANNELS, 3, 4).requires_grad_()
    assert correct_gradients(functional(x)) == 0
    assert correct_gradients(functional(x[:1].flatten(2))) == 0
    assert correct_gradients(F.group_norm(x, 2), F.layer_norm(x, x.shape[1:])) == 0
    assert correct_gradients(x, x.detach()) == 0
    assert correct_gradients(functional(x[:1]), functional(x[:1].sin())) == 2


def test_right_gradients_stay_bit_for_bit(cnn: nn.Module, batch: Tensor) -> None:
    """Where PyTorch's gradient is right, it is not touched."""
    assert torch.equal(
        gradient(cnn, batch[:1], torch.ones(1, 7)), gradient(cnn, batch[:1], torch.ones(1, 7), correct=False)
    )


def test_nothing_is_kept() -> None:
    """The graph and what it holds are freed with the output."""
    import gc
    import weakref

    gc.disable()
    try:
        inner = random(1, CHANNELS, 2, 3).requires_grad_().sin()
        out = functional(inner)
        correct_gradients(out)
        kept = weakref.ref(inner)
        del inner, out
        assert kept() is None
    finally:
        gc.enable()
