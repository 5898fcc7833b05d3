"""The balanced backward: each rule against its formula, map + ledger = score, the audit, and what is refused."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

import grad_cam
from grad_cam.errors import GradCamError
from grad_cam.rules import Balanced, audit
from grad_cam.rules.functions import residual_factors
from grad_cam.rules.linear import by_image, total

from . import hugging_face, oracles
from .rules_families import redraw

DOUBLE = torch.float64


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def under_rules(run: Callable[..., Tensor], *inputs: Tensor, residual: float = 0.0) -> tuple[Any, ...]:
    """Result, upstream gradient, gradients on the inputs, and what the ledger says, of one operation."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    with torch.enable_grad(), Balanced(len(inputs[0]), residual) as mode:
        out = run(*leaves)
    upstream = drawn(*out.shape, seed=9, dtype=out.dtype)
    gradients = torch.autograd.grad(out, leaves, upstream, allow_unused=True)
    added = sum((e.values for e in mode.entries()), torch.zeros(len(inputs[0]), dtype=DOUBLE))
    return out.detach(), upstream, gradients, added


def require_balanced(run: Callable[..., Tensor], *inputs: Tensor, residual: float = 0.0) -> tuple[Any, ...]:
    """Forward bit for bit, and <g, y> = sum <g_x, x> + ledger for every image."""
    found = out, upstream, gradients, added = under_rules(run, *inputs, residual=residual)
    assert torch.equal(out, run(*[x.clone() for x in inputs]))
    arrives = (out * upstream).flatten(1).sum(1)
    passes = sum((x * g).flatten(1).sum(1) for x, g in zip(inputs, gradients, strict=True) if g is not None)
    size = (out * upstream).abs().sum()
    assert float((arrives - passes - added).abs().max()) <= 1e-12 * float(size)
    return found


# ---------------------------------------------------------------------------------------------- rules by their formulas


@pytest.mark.parametrize(
    ("function", "limit"),
    [(functional.gelu, 0.5), (functional.silu, 0.5), (functional.hardswish, 0.5), (functional.mish, 0.6),
     (torch.tanh, 1.0), (functional.elu, 1.0), (functional.relu6, 0.0), (torch.square, 0.0), (lambda x: x**3, 0.0)],
)  # fmt: skip
def test_activations_pass_on_y_over_x(function: Any, limit: float) -> None:
    """Every element gets g y / x, and at x = 0 the limit."""
    x = drawn(2, 3, 4) * 4
    x[0, 0, 0] = 0
    y, g, (gx,), _ = require_balanced(function, x)
    for at in [(0, 1, 2), (1, 2, 3), (1, 0, 0)]:
        assert gx[at] == pytest.approx(float(g[at] * y[at] / x[at]), rel=1e-12)
    assert gx[0, 0, 0] == pytest.approx(limit * float(g[0, 0, 0]))


@pytest.mark.parametrize("weighted", [True, False])
def test_layer_norm_is_linear_but_for_its_deviation(weighted: bool) -> None:
    """g_x = (w g - mean(w g)) / std, one row after another."""
    x, w, b = drawn(2, 3, 5), drawn(5, seed=1), drawn(5, seed=2)
    w, b = (w, b) if weighted else (None, None)
    _, g, (gx,), added = require_balanced(lambda x: functional.layer_norm(x, (5,), w, b), x)
    for i in range(2):
        for j in range(3):
            scaled = g[i, j] * (1 if w is None else w)
            wanted = (scaled - scaled.mean()) / (x[i, j].var(correction=0) + 1e-5).sqrt()
            assert torch.allclose(gx[i, j], wanted, rtol=1e-12)
    if weighted:
        assert torch.allclose(added, (g * b).sum((1, 2)))


def test_group_and_instance_norm_are_layer_norms_of_their_groups() -> None:
    """Group by group, (w g - mean(w g)) / std."""
    x, w, b = drawn(2, 6, 4, 4), drawn(6, seed=1), drawn(6, seed=2)
    for run, groups in (
        (lambda x: functional.group_norm(x, 3, w, b), 3),
        (lambda x: functional.instance_norm(x, weight=w, bias=b), 6),
    ):
        _, g, (gx,), _ = require_balanced(run, x)
        scaled = (g * w[:, None, None]).reshape(2, groups, -1)
        spread = (x.reshape(2, groups, -1).var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        wanted = (scaled - scaled.mean(-1, keepdim=True)) / spread
        assert torch.allclose(gx, wanted.reshape(x.shape), rtol=1e-10, atol=1e-14)


def test_rms_norm_and_normalize_scale_by_a_constant() -> None:
    """g_x = w g / rms, and g / |x|."""
    x, w = drawn(2, 3, 5), drawn(5, seed=1)
    _, g, (gx,), _ = require_balanced(lambda x: functional.rms_norm(x, (5,), w, 1e-6), x)
    assert torch.allclose(gx, w * g / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt(), rtol=1e-12)
    _, g, (gx,), _ = require_balanced(lambda x: functional.normalize(x, dim=1), x)
    assert torch.allclose(gx, g / x.norm(dim=1, keepdim=True), rtol=1e-12)


def test_batch_norm_and_its_shift() -> None:
    """g_x = w g / s with running statistics; the ledger gets b - w m / s."""
    x, w, b = drawn(3, 4, 5, 5), drawn(4, seed=1), drawn(4, seed=2)
    m, v = drawn(4, seed=3), drawn(4, seed=4).abs() + 0.1
    _, g, (gx,), added = require_balanced(lambda x: functional.batch_norm(x, m, v, w, b), x)
    s = (v + 1e-5).sqrt()
    assert torch.allclose(gx, g * (w / s)[:, None, None], rtol=1e-12)
    assert torch.allclose(added, (g * (b - w * m / s)[:, None, None]).sum((1, 2, 3)))
    require_balanced(lambda x: functional.batch_norm(x, None, None, w, b, training=True), x[:1])


def test_attention_passes_on_along_values_only() -> None:
    """g_v = A^T g; queries and keys get nothing, in fused and written-out attention."""
    q, k, v = drawn(2, 2, 5, 4), drawn(2, 2, 5, 4, seed=1), drawn(2, 2, 5, 4, seed=2)
    a = (q @ k.transpose(-2, -1) / 2).softmax(-1)
    for run in (functional.scaled_dot_product_attention, lambda q, k, v: (q @ k.transpose(-2, -1) / 2).softmax(-1) @ v):
        _, g, (gq, gk, gv), _ = require_balanced(run, q, k, v)
        assert torch.allclose(gv, a.transpose(-2, -1) @ g, rtol=1e-10)
        assert gq is None and gk is None


def test_products_share_their_gradient() -> None:
    """Two factors get half each, three a third; gates and divisors are constants."""
    a, b = drawn(2, 3, 4), drawn(2, 3, 4, seed=1)
    _, g, (ga, gb), _ = require_balanced(lambda a, b: a * b, a, b)
    assert torch.equal(ga, g * b / 2) and torch.equal(gb, g * a / 2)
    require_balanced(lambda a, b: a @ b.transpose(1, 2), a, b)
    require_balanced(lambda a, b: torch.einsum("bij,bkj,bik->bi", a, b, a @ b.transpose(1, 2)), a, b)
    require_balanced(lambda a, b: torch.baddbmm(torch.ones(2, 3, 3, dtype=DOUBLE), a, b.transpose(1, 2)), a, b)
    _, g, (gx,), _ = require_balanced(lambda x: x * x.sigmoid(), a)
    assert torch.allclose(gx, g * a.sigmoid())
    _, g, (ga, gb), _ = require_balanced(lambda a, b: a / b.exp(), a, b)
    assert torch.allclose(ga, g / b.exp()) and gb is None
    _, g, (gx,), _ = require_balanced(lambda x: functional.glu(x, -1), a)
    assert torch.equal(gx[..., 2:], torch.zeros_like(gx[..., 2:]))


def test_residual_rule() -> None:
    """The formula element by element; a g_a + b g_b = y g exactly, |R_a| + |R_b| <= (1 + 2 / gamma) |R_y|."""
    a, b = drawn(4, 200), drawn(4, 200, seed=1)
    b[0, :50] = -a[0, :50] * (1 + 1e-3 * drawn(50, seed=2))
    a[1, 0] = b[1, 0] = 0
    a[1, 1], b[1, 1] = 1.0, -1.0
    for gamma in (0.5, 1.0, 4.0):
        y, g, (ga, gb), _ = require_balanced(lambda a, b: a + b, a, b, residual=gamma)
        assert torch.allclose(a * ga + b * gb, y * g, rtol=1e-12, atol=1e-14)
        assert bool(((a * ga).abs() + (b * gb).abs() <= (1 + 2 / gamma) * (y * g).abs() + 1e-12).all())
        for i, j in [(0, 3), (0, 100), (2, 5), (3, 150)]:
            one, two, s = float(a[i, j]), float(b[i, j]), 1 if y[i, j] > 0 else -1
            speaking = sum(abs(t) for t in (one, two) if s * t > 0)
            share = abs(one + two) / (abs(one + two) + gamma * speaking)
            assert float(ga[i, j]) == pytest.approx(float(g[i, j]) * share * (1 + gamma * (s * one > 0)))
            assert float(gb[i, j]) == pytest.approx(float(g[i, j]) * share * (1 + gamma * (s * two > 0)))
        require_balanced(lambda a, b: a - b, a, b, residual=gamma)
        require_balanced(lambda a, b: torch.add(a, b, alpha=3), a, b, residual=gamma)
    both = residual_factors(a[1, :2], b[1, :2], 1.0)
    assert [float(f[0]) for f in both] == [1, 1] and [float(f[1]) for f in both] == [0, 0]


C = drawn(4, seed=8)
AFFINE = {
    "linear": lambda x: functional.linear(x, drawn(7, 4, seed=1), drawn(7, seed=2)),
    "conv2d": lambda x: functional.conv2d(x[:, None], drawn(2, 1, 2, 2, seed=1), drawn(2, seed=2)),
    "conv_transpose": lambda x: functional.conv_transpose2d(x[:, None], drawn(1, 2, 2, 2, seed=1), drawn(2, seed=2)),
    "addmm": lambda x: torch.addmm(C, x.flatten(0, 1), drawn(4, 4, seed=1)).unflatten(0, (2, 3)),
    "x + 3": lambda x: x + 3,
    "3 - x": lambda x: 3 - x,
    "x - c": lambda x: x - C,
    "cat": lambda x: torch.cat([C.expand(2, 1, 4), x], 1),
    "stack": lambda x: torch.stack([x, torch.ones_like(x)], 1),
    "where": lambda x: torch.where(torch.arange(4) > 1, x, torch.ones((), dtype=DOUBLE)),
    "masked_fill": lambda x: x.masked_fill(torch.arange(4) > 1, 2.0),
    "pad": lambda x: functional.pad(x, (1, 1), value=1.5),
    "maximum": lambda x: torch.maximum(x, C),
    "clamp": lambda x: x.clamp(min=0.2),
    "lerp": lambda x: torch.lerp(x, C.expand_as(x), 0.3),
    "pooling": lambda x: functional.max_pool1d(functional.leaky_relu(x, 0.1), 2) + functional.avg_pool1d(x, 2),
    "interpolate": lambda x: functional.interpolate(x, scale_factor=2, mode="linear"),
    "lp_pool": lambda x: functional.lp_pool1d(x.abs() + 1, 2, 2),
    "softsign": lambda x: functional.softsign(x),
    "hand-written norm": lambda x: (x - x.mean(-1, keepdim=True)) * (x.var(-1, keepdim=True) + 1e-6).rsqrt() + C,
    "hand-written gelu": lambda x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.04 * torch.pow(x, 3)))),
    "relu6 gate": lambda x: x * functional.relu6(x + 3) / 6,
}  # fmt: skip


@pytest.mark.parametrize("name", AFFINE)
def test_constants_are_booked(name: str) -> None:
    """Biases, constant operands and fill values go into the ledger, image by image."""
    require_balanced(AFFINE[name], drawn(2, 3, 4))


def test_operations_in_place() -> None:
    """Operations that write to their operand do as those that do not, on whole tensors and on views."""

    def run(x: Tensor) -> Tensor:
        x = x * 1
        shortcut = x.clone()
        x += shortcut
        x = functional.silu(x, inplace=True)
        x.mul_(C).add_(1)
        x -= 0.25
        x[:, 0] = 2.0
        x[:, 1:].sub_(0.5)
        return x.clamp_(-3, 3).relu_()

    for residual in (0.0, 1.0):
        require_balanced(run, drawn(2, 3, 4), residual=residual)

    def gated(x: Tensor) -> Tensor:
        gate = (x * 2).mean(1, keepdim=True).sigmoid_()
        return x * gate + gate

    require_balanced(gated, drawn(2, 3, 4))


def test_sums_by_image() -> None:
    """Rows of one image together, images along another axis, numbers, and sums of any length."""
    g = drawn(6, 5, 4)
    assert torch.allclose(by_image(g, C, 2), (g * C).reshape(2, -1).sum(1))
    assert torch.allclose(by_image(g.transpose(0, 1), C, 6), (g * C).sum((1, 2)))
    assert torch.allclose(by_image(g, 2.0, 3), 2 * g.reshape(3, -1).sum(1))
    assert torch.allclose(by_image(g, g, 2), (g * g).reshape(2, -1).sum(1))
    assert by_image(g, C, 7) is None
    for n in (1, 7, 600, 1024, 1025):
        x = drawn(2, n, dtype=torch.float32)
        assert torch.allclose(total(x), x.double().sum(-1), rtol=1e-6, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ on models


class Attentive(nn.Module):
    """`nn.MultiheadAttention` with the tokens first, a class token, and in-place shortcuts."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.token = nn.Parameter(torch.ones(1, 1, 16))
        self.norm = nn.LayerNorm(16)
        self.mix = nn.MultiheadAttention(16, 2)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True, norm_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        y = self.norm(x).transpose(0, 1)
        x = x.clone()
        x += self.mix(y, y, y)[0].transpose(0, 1)
        return self.head(self.block(x)[:, 0])


class TokensFirst(nn.Module):
    """Tokens before images everywhere, one of them for each image: only image by image the ledger can be made."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 5)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, norm_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.patches(x).flatten(2).permute(2, 0, 1)[:15]).mean(0))


def small(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return redraw(timm.create_model(name, num_classes=10, **options))


MODELS: dict[str, Callable[[], tuple[nn.Module, int]]] = {
    "resnet": lambda: (small("resnet18"), 64),
    "vit": lambda: (small("vit_tiny_patch16_224", img_size=64, depth=3), 64),
    "swin": lambda: (small("swin_tiny_patch4_window7_224", img_size=56, depths=(1, 1, 1, 1), embed_dim=24), 56),
    "convnext": lambda: (small("convnext_atto"), 64),
    "convnextv2": lambda: (small("convnextv2_atto"), 64),
    "efficientnet": lambda: (small("efficientnet_b0"), 64),
    "mixer": lambda: (small("mixer_s32_224", img_size=64), 64),
    "attention module": lambda: (redraw(Attentive()), 32),
    "transformer, tokens first": lambda: (redraw(TokensFirst()), 32),
}


def pictures(side: int, batch: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return oracles.images((3, side, side), batch).to(dtype)


@pytest.mark.parametrize("name", MODELS)
def test_map_and_ledger_are_the_score(name: str) -> None:
    """At every mapped cut, for three images and two targets, plain and with the residual rule; logits bit for bit."""
    model, side = MODELS[name]()
    x = pictures(side)
    before = oracles.state(model)
    plain = grad_cam.sweep(model, x, target=[[1, 2]] * 3, method="hires_cam")
    for residual in (0.0, 1.0):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = grad_cam.sweep(
                model, x, target=[[1, 2]] * 3, method="hires_cam",
                rules="balanced", residual=residual,
            )  # fmt: skip
        assert [e.layer for e in found] == [e.layer for e in plain]
        for one in found:
            ledger = one.ledger()
            assert torch.equal(one.logits, plain[0].logits)
            assert torch.allclose(ledger.score, one.logits[:, [1, 2]].double())
            assert torch.allclose(ledger.map, one.map.double().sum((2, 3)), rtol=1e-4, atol=1e-4)
            size = torch.maximum(ledger.score.abs(), one.map.abs().sum((2, 3)).double()).clamp(min=1)
            assert float((ledger.gap.abs() / size).max()) <= 3e-6, one.layer
            assert not bool(ledger.context.any())
    oracles.require_untouched(before, oracles.state(model))


@pytest.mark.parametrize("name", ["resnet", "vit", "efficientnet"])
def test_initial_weights_in_float32(name: str) -> None:
    """The gap is at most 1e-6 of the score with the weights a model is born with."""
    torch.manual_seed(0)
    names = {"resnet": "resnet18", "vit": "vit_tiny_patch16_224", "efficientnet": "efficientnet_b0"}
    model = timm.create_model(names[name])
    for one in grad_cam.sweep(model, pictures(224, 1), rules="balanced"):
        assert float(one.ledger().gap.abs().max()) <= 1e-6 * max(1.0, float(one.ledger().score.abs().max()))


@pytest.mark.parametrize("name", ["ViT", "Swin", "DINOv2"])
def test_hugging_face(name: str) -> None:
    """Attention as transformers writes it, with output objects."""
    pytest.importorskip("transformers")
    model, side = redraw(hugging_face.build(name)).double(), hugging_face.CLASSIFIERS[name].size
    for one in grad_cam.sweep(model, pictures(side, 2, DOUBLE), rules="balanced", residual=1.0):
        assert float(one.ledger().gap.abs().max()) <= 1e-12 * max(1.0, float(one.map.abs().sum()))


def test_half_precision() -> None:
    """In bfloat16 the ledger closes as far as the model computes, without a warning, and the forward is the model's."""
    model, side = MODELS["vit"]()
    model = model.to(torch.bfloat16)
    x = pictures(side, 2, torch.bfloat16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = grad_cam.explain(model, x, method="grad_cam", rules="balanced", residual=1.0)
    assert torch.equal(one.logits, oracles.plain(model, x))
    assert one.ledger().score.dtype == DOUBLE


def test_context_is_booked_beside_the_map() -> None:
    """At a cut inside a residual branch the shortcut is context: a constant of the map."""
    model, side = MODELS["resnet"]()
    x = pictures(side, 2)
    for residual in (0.0, 1.0):
        inside = grad_cam.explain(model, x, layer="layer4.1.bn2", rules="balanced", residual=residual).ledger()
        assert float(inside.gap.abs().max()) <= 1e-5 * float(inside.score.abs().max().clamp(min=1))
        assert float(inside.context.abs().min()) > 0
    first = grad_cam.explain(model, x, layer="layer4.1.bn2", rules="balanced").ledger()
    again = grad_cam.sweep(model, x, layers=["layer3", "layer4.1.bn2"], rules="balanced")[1].ledger()
    assert torch.allclose(first.context, again.context)
    assert not bool(again.constants.isnan().any())


def test_one_layer_is_the_sweeps() -> None:
    """A cut explained alone, by name and again, gives the ledger and the map that the sweep gave."""
    model, side = MODELS["vit"]()
    x = pictures(side, 2)
    found = grad_cam.sweep(model, x, rules="balanced", method="hires_cam")
    for one in (found[0], found[-1]):
        for _ in range(2):
            alone = grad_cam.explain(model, x, layer=one.layer.name, rules="balanced", method="hires_cam")
            assert torch.allclose(alone.map, one.map, rtol=1e-3, atol=1e-5)
            assert torch.allclose(alone.ledger().constants, one.ledger().constants, atol=1e-4)
            assert torch.allclose(alone.ledger().prefix, one.ledger().prefix, atol=1e-4)


def test_targets_that_are_not_linear() -> None:
    """What a probability adds by itself is a constant, so that the ledger closes."""
    model, side = MODELS["resnet"]()
    found = grad_cam.explain(
        model, pictures(side, 2), target=lambda z: z.softmax(1)[:, 1], rules="balanced", method="hires_cam"
    ).ledger()
    assert float(found.gap.abs().max()) < 1e-6


def test_attention_modules_need_no_second_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """`nn.MultiheadAttention` puts tokens before images inside; the ledger knows."""
    model, side = redraw(Attentive()), 32
    monkeypatch.setattr("grad_cam.ingredients.joined", None)
    for batch in (2, 3, 4):
        found = grad_cam.explain(model, pictures(side, batch), layer="patches", rules="balanced").ledger()
        assert float(found.gap.abs().max()) <= 3e-6 * max(1.0, float(found.map.abs().max()))


def test_images_whose_rows_are_mixed() -> None:
    """Where windows come before images, the ledger is made image by image."""

    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fold, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)  # (B,8,4,4)
            y = functional.gelu(self.fold(x.flatten(2).permute(2, 0, 1).flatten(0, 1)))  # (16*B,8)
            return self.head(y.unflatten(0, (16, -1)).mean(0))

    torch.manual_seed(0)
    model, x = Folded(), pictures(16, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = grad_cam.explain(model, x, layer="conv", target=1, rules="balanced").ledger()
    for i in range(4):
        alone = grad_cam.explain(model, x[i : i + 1], layer="conv", target=1, rules="balanced").ledger()
        assert float(alone.constants[0]) == pytest.approx(float(batch.constants[i]), abs=1e-6)


# ------------------------------------------------------------------------------------- what does not balance is found


class Recurrent(nn.Module):
    def __init__(self, rnn: nn.RNNBase | None = None, first: bool = True) -> None:
        super().__init__()
        self.rnn, self.first = rnn or nn.GRU(8, 8, batch_first=True), first
        self.conv, self.head = nn.Conv2d(3, 8, 4, 4), nn.LazyLinear(5)
        self(torch.zeros(1, 3, 16, 16))  # the head takes its size

    def forward(self, x: Tensor) -> Tensor:
        rows = functional.gelu(self.conv(x)).flatten(2).transpose(1, 2)
        out, state = self.rnn(rows if self.first else rows.transpose(0, 1))
        last = state[0] if isinstance(state, tuple) else state
        return self.head(out.mean(1 if self.first else 0) + 0 * last.sum(2).mean(0)[:, None])


class Packed(Recurrent):
    def forward(self, x: Tensor) -> Tensor:
        rows = functional.gelu(self.conv(x)).flatten(2).transpose(1, 2)
        lengths = torch.full((len(x),), rows.shape[1])
        return self.head(self.rnn(nn.utils.rnn.pack_padded_sequence(rows, lengths, batch_first=True))[1][-1])


RECURRENT = {
    "rows first": lambda: Recurrent(nn.LSTM(8, 6, batch_first=True)),
    "two layers, both ways": lambda: Recurrent(nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)),
    "steps first, without biases": lambda: Recurrent(nn.LSTM(8, 6, 2, bias=False), first=False),
    "projected": lambda: Recurrent(nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True, proj_size=3)),
    "projected, without biases": lambda: Recurrent(nn.LSTM(8, 6, batch_first=True, bias=False, proj_size=3)),
    "gru": lambda: Recurrent(nn.GRU(8, 6, 2, batch_first=True, bidirectional=True)),
    "gru, steps first, without biases": lambda: Recurrent(nn.GRU(8, 6, bias=False), first=False),
    "rnn": lambda: Recurrent(nn.RNN(8, 6, 2, batch_first=True)),
    "rnn, relu": lambda: Recurrent(nn.RNN(8, 6, nonlinearity="relu", batch_first=True)),
}  # fmt: skip


@pytest.mark.parametrize("residual", [0.0, 1.0])
@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_layer_balances(kind: str, residual: float) -> None:
    """A recurrent layer passes on what arrives and adds its biases, and the audit agrees."""
    torch.manual_seed(3)
    model, x = RECURRENT[kind]().double().eval(), pictures(16, 2, DOUBLE)
    with torch.no_grad():
        plain = model(x)
    found = grad_cam.explain(model, x, layer="conv", target=1, method="hires_cam", rules="balanced", residual=residual)
    torch.testing.assert_close(found.logits, plain, rtol=1e-13, atol=1e-15)
    ledger, size = found.ledger(), found.map.abs().sum((1, 2)).double()
    assert float((ledger.gap.abs() / size).max()) < 1e-12 and float(size.min()) > 1e-4
    checked = audit(model, x, residual=residual)
    assert checked.operations == () and abs(checked.gap) < 1e-10, str(checked)


def test_lstm_by_one_step() -> None:
    """For a sequence of one step: o f(c) / c (i f(z) / z) through the weights, the gates held; bit for bit."""
    torch.manual_seed(0)
    rnn, x = nn.LSTM(3, 2, batch_first=True).double(), torch.randn(1, 1, 3, dtype=DOUBLE, requires_grad=True)
    for p in rnn.parameters():
        p.requires_grad_(False)
    with Balanced(1):
        out = rnn(x)[0]
        (found,) = torch.autograd.grad(out.sum(), [x])
        assert torch.equal(out.detach(), rnn(x.detach())[0])
    gates = rnn.weight_ih_l0 @ x.detach()[0, 0] + rnn.bias_ih_l0 + rnn.bias_hh_l0
    i, _, z, o = gates.chunk(4)
    c = i.sigmoid() * z.tanh()
    per_unit = o.sigmoid() * (c.tanh() / c) * i.sigmoid() * (z.tanh() / z)
    torch.testing.assert_close(found[0, 0], per_unit @ rnn.weight_ih_l0.chunk(4)[2])


def test_gru_by_one_step() -> None:
    """For a sequence of one step from nothing: (1 - z) f(n) / n through the weights, the gates held; bit for bit."""
    torch.manual_seed(0)
    rnn, x = nn.GRU(3, 2, batch_first=True).double(), torch.randn(1, 1, 3, dtype=DOUBLE, requires_grad=True)
    for p in rnn.parameters():
        p.requires_grad_(False)
    with Balanced(1):
        out = rnn(x)[0]
        (found,) = torch.autograd.grad(out.sum(), [x])
        assert torch.equal(out.detach(), rnn(x.detach())[0])
    entering, held = (rnn.weight_ih_l0 @ x.detach()[0, 0] + rnn.bias_ih_l0).chunk(3), rnn.bias_hh_l0.chunk(3)
    r, z = (entering[0] + held[0]).sigmoid(), (entering[1] + held[1]).sigmoid()
    new = entering[2] + r * held[2]
    torch.testing.assert_close(found[0, 0], ((1 - z) * new.tanh() / new) @ rnn.weight_ih_l0.chunk(3)[2])


class _Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * ctx.saved_tensors[0].cos()


class Hidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(_Sine.apply(self.conv(x)).mean((2, 3)))


def test_audit_names_what_has_no_rule() -> None:
    """A packed sequence by its operation and module, a custom function by its node."""
    torch.manual_seed(0)
    model, x = Packed(), pictures(16, 2)
    before = oracles.state(model)
    found = audit(model, x)
    oracles.require_untouched(before, oracles.state(model))
    assert found.worst is not None and (found.worst.name, found.worst.module) == ("gru", "rnn")
    assert len(found.operations) == 1
    assert found.worst.off == pytest.approx(found.gap, rel=1e-3)
    assert "gru in 'rnn'" in str(found)
    hidden = grad_cam.audit(Hidden(), x)
    assert hidden.worst is not None and "Sine" in hidden.worst.name and "cannot be seen" in str(hidden)
    for name in ("resnet", "attention module", "swin"):
        model, side = MODELS[name]()
        found = audit(model.double(), pictures(side, 2, DOUBLE), residual=1.0)
        assert found.operations == () and abs(found.gap) < 1e-9 * max(1, abs(found.score)), str(found)
        assert found.count > 10


@pytest.mark.parametrize("model", [Packed, Hidden])
def test_a_gap_is_never_silent(model: type[nn.Module]) -> None:
    """An operation that the rules do not know gives a warning that names the audit."""
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match=r"miss the score by .*audit"):
        found = grad_cam.explain(model(), pictures(16, 2), layer="conv", rules="balanced")
    assert float(found.ledger().gap.abs().max()) > 1e-3


def test_a_score_behind_a_sigmoid_is_said_to_be_constant() -> None:
    """A model that ends in a sigmoid has no score to share out: that is said."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2), nn.Sigmoid())
    with pytest.warns(UserWarning, match="miss the score"):
        grad_cam.explain(model, pictures(16, 2), layer="0", rules="balanced")


def test_what_rules_are_refused_for() -> None:
    """Methods they mean nothing to, with the reason; other names; a strength alone; results without a ledger."""
    model, side = MODELS["resnet"]()
    x = pictures(side, 1)
    for method, reason in (
        ("shapley_cam", "other activations"), ("guided_backprop", "rule of its own"), ("le_grad", "attention"),
        ("ablation_cam", "no gradient"), ("eigen_cam", "no gradient"), ("gradient_rollout", "attention"),
    ):  # fmt: skip
        with pytest.raises(GradCamError, match=reason):
            grad_cam.explain(model, x, method=method, rules="balanced")
        with pytest.raises(GradCamError, match=reason):
            grad_cam.sweep(model, x, method=method, rules="balanced")
    for wrong in ({"rules": "lrp"}, {"residual": 1.0}, {"rules": "balanced", "residual": -1.0}):
        with pytest.raises(GradCamError):
            grad_cam.explain(model, x, **wrong)
    with pytest.raises(GradCamError, match="rules="):
        grad_cam.explain(model, x).ledger()
    fused = grad_cam.explain(model, x, layer=["layer3", "layer4"], fuse="mean", rules="balanced")
    with pytest.raises(GradCamError, match="one layer"):
        fused.ledger()


def test_other_methods_take_the_balanced_gradient() -> None:
    """Grad-CAM from the balanced gradient is Grad-CAM of it; FullGrad and smoothing run with rules; names say so."""
    model, side = MODELS["efficientnet"]()
    x = pictures(side, 1)
    plain, ruled = (grad_cam.explain(model, x, layer="blocks.4", rules=r) for r in (None, "balanced"))
    assert not torch.allclose(plain.map, ruled.map)
    assert ruled.method == "grad_cam + balanced"
    own = grad_cam.explain(
        model, x, layer="blocks.4", rules="balanced",
        method=lambda activations, gradients: (gradients.mean((2, 3), keepdim=True) * activations).sum(1),
    )  # fmt: skip
    assert torch.allclose(own.map, ruled.map, rtol=1e-4, atol=1e-6)
    full = [grad_cam.explain(model, x, method="full_grad", rules=r).map for r in (None, "balanced")]
    assert full[0].shape == full[1].shape and not torch.allclose(*full)
    for extra in ({"aug_smooth": True}, {"eigen_smooth": True}, {"method": "smooth_grad_cam_plus_plus", "samples": 2}):
        found = grad_cam.explain(model, x, layer="blocks.4", rules="balanced", residual=1.0, **extra)
        assert "balanced, residual 1" in found.method
        assert float(found.ledger().gap.abs().max()) < 1e-4 * max(1.0, float(found.ledger().score.abs().max()))


def test_a_frozen_copy_of_an_explanation() -> None:
    """A ledger prints as a sum and survives copying."""
    model, side = MODELS["resnet"]()
    found = copy.deepcopy(grad_cam.explain(model, pictures(side, 2), rules="balanced").ledger())
    lines = str(found).split("\n")
    assert len(lines) == 2 and all(" = " in line and "constants" in line and "%" not in line for line in lines)


def test_signed_bars_of_a_sweep() -> None:
    """The ledger is drawn under the overlays and alone: bars that add up to the score at every depth."""
    model, side = MODELS["vit"]()
    found = grad_cam.sweep(model, pictures(side, 1), rules="balanced")
    bars = found._bars(0, 0, mapped=False)
    assert bars is not None and len(bars) == len(found) + 2 == len(found.ledgers())
    layer, ledger = found.ledgers()[-2]  # a block whose patches nobody reads: all is in the class token
    assert layer.name not in [one.layer.name for one in found] and layer.name == "blocks.2"
    assert not bool(ledger.map.any()) and torch.allclose(ledger.prefix + ledger.constants, ledger.score, atol=1e-5)
    assert [name for name, _ in found.skipped].count(layer) == 1
    sums = [sum(values[i] for values in bars.parts.values()) for i in range(len(bars))]
    assert sums == pytest.approx([bars.score] * len(bars), abs=1e-5)
    low, high = bars.range()
    stacked = list(bars.stacked())
    assert {name for name, *_ in stacked} == {"map", "prefix tokens", "constants"}
    assert low == pytest.approx(min(0, *(sum(min(0, v[i]) for v in bars.parts.values()) for i in range(len(bars)))))
    assert high >= bars.score
    for figure in (found.figure(), found.ledger_figure()):
        words = " ".join(text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text")))
        assert "prefix tokens" in words and "constants" in words
    with pytest.raises(GradCamError, match="rules="):
        grad_cam.sweep(model, pictures(side, 1)).ledger_figure()
