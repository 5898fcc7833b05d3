"""Attention methods against a plain loop over an unfused ViT, and the capture on every way attention is written."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from grad_cam.methods import METHODS, attention
from grad_cam.methods import capture as capturing
from grad_cam.methods.common import MethodError
from grad_cam.outputs import find_logits as logits_of
from grad_cam.splitting import chain
from grad_cam.splitting.evalcopy import EvalCopy

BATCH, GRID = 2, (4, 4)
CLASS = 1


def images(side: int = 32) -> Tensor:
    return torch.randn(BATCH, 3, side, side, generator=torch.Generator().manual_seed(1))


def captured(model: nn.Module, grid: tuple[int, int] = GRID, x: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
    """Logits and attentions of a model."""
    x = images() if x is None else x
    with torch.enable_grad(), capturing.Capture(len(x), grid[0] * grid[1]) as capture:
        logits = logits_of(EvalCopy(model).root(x))
    return logits, capture.attentions()


def rollout(found: list[Tensor], gradients: list[Tensor], grid: tuple[int, int]) -> Tensor:
    """Attention rollout, read where the gradients say that the head reads."""
    return attention.attention_rollout(found, attention.tokens_read(gradients), grid)


def of_blocks(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """What LeGrad needs, from the shallowest chain that has one block a stage."""
    for depth in range(1, 6):
        stages = list(chain(EvalCopy(model).root, images(), depth=depth))
        try:
            found, (gradients,) = capturing.block_gradients(stages, images(), [lambda y: y[:, CLASS]], 16)
            return found, gradients
        except MethodError as error:
            if "cut the model deeper" not in str(error):
                raise
    raise AssertionError("no chain has one block a stage")


# --------------------------------------------------------------------------------------------- an unfused ViT, by hand


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(12), nn.LayerNorm(12)
        self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)
        self.mlp = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))
        self.attention: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, 3, 4).permute(2, 0, 3, 1, 4)
        a = (q @ k.transpose(-2, -1) * 4**-0.5 * 3).softmax(-1)
        self.attention = a
        x = x + self.proj((a @ v).transpose(1, 2).reshape(b, n, 12))
        return x + self.mlp(self.norm2(x))


class Plain(nn.Module):
    """Two blocks, three heads, a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 8, stride=8)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 12)), nn.Parameter(torch.randn(1, 17, 12))
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


@functools.cache
def plain() -> Plain:
    torch.manual_seed(0)
    return Plain().eval()


def by_hand() -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Attention of both blocks and its gradient, straight from autograd."""
    model = plain()
    logits = model(images())
    found = [block.attention for block in model.blocks]
    gradients = torch.autograd.grad(logits[:, CLASS].sum(), found)
    return [a.detach() for a in found], list(gradients), logits.detach()


def test_capture_finds_what_the_blocks_computed() -> None:
    """Logits, attention and its gradient are those of the plain model, with the first attention as leaf."""
    wanted, wanted_gradients, wanted_logits = by_hand()
    logits, found = captured(plain())
    torch.testing.assert_close(logits.detach(), wanted_logits)
    gradients = capturing.gradients(logits[:, CLASS], found)
    assert found[0].is_leaf
    for got, want in zip([*found, *gradients], [*wanted, *wanted_gradients], strict=True):
        torch.testing.assert_close(got.detach(), want)


def test_attention_rollout_is_its_loop() -> None:
    """Head means, half identity, rows that sum to one, multiplied block by block; the class token's row."""
    found, gradients, _ = by_hand()
    got = attention.attention_rollout(found, attention.tokens_read(gradients), GRID)
    for b in range(BATCH):
        flow = torch.eye(17)
        for a in found:
            step = torch.zeros(17, 17)
            for head in range(3):
                step += a[b, head] / 3
            step = 0.5 * step + 0.5 * torch.eye(17)
            for i in range(17):
                step[i] /= step[i].sum()
            flow = step @ flow
        torch.testing.assert_close(got[b].flatten(), flow[0, 1:])


def test_gradient_rollout_is_its_loop() -> None:
    """R grows by the head mean of the positive part of gradient times attention, times R."""
    found, gradients, _ = by_hand()
    got = attention.gradient_rollout(found, gradients, GRID)
    for b in range(BATCH):
        flow = torch.eye(17)
        for a, g in zip(found, gradients, strict=True):
            step = torch.zeros(17, 17)
            for head in range(3):
                for i in range(17):
                    for j in range(17):
                        step[i, j] += max(0.0, float(g[b, head, i, j] * a[b, head, i, j])) / 3
            flow = flow + step @ flow
        torch.testing.assert_close(got[b].flatten(), flow[0, 1:])


def test_le_grad_is_its_loop() -> None:
    """Every block's tokens through norm and head; positive gradients averaged over heads, queries and blocks."""
    model, x = plain(), images()
    wanted = torch.zeros(BATCH, 17)
    tokens = torch.cat([model.token.expand(2, -1, -1), model.patch(x).flatten(2).transpose(1, 2)], 1) + model.position
    for block in model.blocks:
        tokens = block(tokens.detach())
        score = model.head(model.norm(tokens)[:, 0])[:, CLASS]
        (g,) = torch.autograd.grad(score.sum(), block.attention)
        for head in range(3):
            for query in range(17):
                wanted += g[:, head, query].clamp(min=0) / (3 * 17 * 2)
    found, gradients = of_blocks(model)
    got = attention.le_grad(found, gradients, GRID)
    torch.testing.assert_close(got, wanted[:, 1:].reshape(BATCH, *GRID))


def test_several_scores_are_one_run_each() -> None:
    """K scores at once give the gradients of K runs, for the whole model and block by block."""
    stages = list(chain(EvalCopy(plain()).root, images(), depth=2))
    scores: list[Callable[[Tensor], Tensor]] = [lambda y: y[:, 0], lambda y: y[:, 3].exp()]
    together = capturing.block_gradients(stages, images(), scores, 16)[1]
    logits, found = captured(plain())
    for k, score in enumerate(scores):
        alone = capturing.block_gradients(stages, images(), [score], 16)[1][0]
        for got, want in zip(together[k], alone, strict=True):
            torch.testing.assert_close(got, want)
        kept = capturing.gradients(score(logits), found, keep_graph=True)
        again_logits, again = captured(plain())
        for got, want in zip(kept, capturing.gradients(score(again_logits), again), strict=True):
            torch.testing.assert_close(got, want)


# ------------------------------------------------------------------------------------------- every way to write it


def sdpa(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    with torch.enable_grad(), capturing.Capture(len(q), k.shape[-2]) as capture:
        out = functional.scaled_dot_product_attention(q, k, v, **options)
    return out.detach(), capture.found[0]


@pytest.mark.parametrize(
    "options",
    [
        {}, {"scale": 0.3}, {"is_causal": True}, {"attn_mask": torch.randn(2, 1, 9, 9)},
        {"attn_mask": torch.rand(9, 9, generator=torch.Generator().manual_seed(0)) > 0.4},
        {"attn_mask": torch.ones(9, 9, dtype=torch.bool).tril(-1)},  # the first query sees no key
        {"enable_gqa": True},
    ],
    ids=["plain", "scale", "causal", "bias", "mask", "empty row", "grouped"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_fused_attention_is_written_out_exactly(options: dict[str, Any], dtype: torch.dtype) -> None:
    """softmax(q k^T * scale + mask) v is what the fused call computes, with all of its options."""
    generator = torch.Generator().manual_seed(3)
    heads = 2 if "enable_gqa" in options else 4
    q = torch.randn(2, 4, 9, 8, generator=generator).to(dtype)
    k, v = (torch.randn(2, heads, 9, 8, generator=generator).to(dtype) for _ in "kv")
    options = {n: o.to(dtype) if isinstance(o, Tensor) and o.dtype == torch.float32 else o for n, o in options.items()}
    out, found = sdpa(q, k, v, **options)
    wanted = functional.scaled_dot_product_attention(q, k, v, **options)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(out, wanted, rtol=tolerance, atol=tolerance)
    assert found.shape == (2, 4, 9, 9)
    assert out.dtype == dtype


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("masked", ["", "attn", "padding", "both"])
@pytest.mark.parametrize("separate", [True, False])
def test_multihead_attention_is_written_out_exactly(
    batch_first: bool, weights: bool, masked: str, separate: bool
) -> None:
    """nn.MultiheadAttention gives the same output and weights, packed or separate, masked or not."""
    torch.manual_seed(0)
    extra = {"kdim": 6, "vdim": 10} if separate else {}
    layer = nn.MultiheadAttention(8, 2, batch_first=batch_first, **extra).eval().requires_grad_(False)  # type: ignore[arg-type]
    given = [torch.randn(3, 5, d) if batch_first else torch.randn(5, 3, d) for d in ((8, 6, 10) if separate else (8,))]
    q, k, v = given if separate else given * 3
    call = functools.partial(layer, q, k, v, need_weights=weights)
    if masked in ("attn", "both"):
        call = functools.partial(call, attn_mask=torch.ones(5, 5, dtype=torch.bool).triu(1))
    if masked in ("padding", "both"):
        padding = torch.zeros(3, 5, dtype=torch.bool)
        padding[1, 4] = True
        call = functools.partial(call, key_padding_mask=padding)
    with torch.no_grad():
        wanted, wanted_weights = call()
    with torch.enable_grad(), capturing.Capture(3, 5) as capture:
        out, out_weights = call()
    torch.testing.assert_close(out.detach(), wanted)
    (found,) = capture.attentions()
    assert found.shape == (3, 2, 5, 5)
    assert capturing.gradients(out.sum((1, 2)) if batch_first else out.sum((0, 2)), [found])[0].abs().max() > 0
    if weights:
        torch.testing.assert_close(out_weights.detach(), wanted_weights)
        torch.testing.assert_close(found.detach().mean(1), wanted_weights)


def test_capture_is_of_its_thread_and_its_time() -> None:
    """Another thread and what runs afterwards are not seen, also when the model fails."""
    import threading

    q = torch.randn(2, 1, 4, 4)
    call = functools.partial(functional.scaled_dot_product_attention, q, q, q)
    with capturing.Capture(2, 4) as capture:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        assert not capture.found
    with pytest.raises(RuntimeError), capturing.Capture(2, 4) as capture:
        functional.linear(q, torch.zeros(3, 3))
    call()
    assert not capture.found


def test_a_mixture_of_softmaxes_is_the_attention() -> None:
    """Two softmaxes mixed before the product (ConViT) count once, as their mixture; the next block counts by itself."""
    q, v = torch.randn(2, 2, 4, 4), torch.randn(2, 2, 4, 3)
    with torch.enable_grad(), capturing.Capture(2, 4) as capture:
        mixed = 0.3 * q.softmax(-1) + 0.7 * torch.zeros(2, 2, 4, 4).softmax(-1)
        x = mixed @ v
        torch.bmm((q.flatten(0, 1) * x.mean()).softmax(-1), v.flatten(0, 1))
    first, second = capture.attentions()
    torch.testing.assert_close(first, mixed)
    assert second.shape == (2, 2, 4, 4)


def tiny_timm(name: str, **extra: Any) -> nn.Module:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    settings: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
    return spread(timm.create_model(name, num_classes=5, **{**settings, **extra}))


def spread(model: nn.Module) -> nn.Module:
    """Weights large enough for attention that is not uniform and layer scales that do not hide a block."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.25 * torch.randn(p.shape, generator=generator) + (1.0 if p.ndim == 1 else 0.0))
    return model.eval()


def tiny_hf(name: str, implementation: str, **extra: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    settings = {
        "image_size": 32, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
        "intermediate_size": 32, "num_labels": 5, "attn_implementation": implementation,
    }  # fmt: skip
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**settings, **extra})
    kind = "ForImageClassificationWithTeacher" if name == "DeiT" else "ForImageClassification"
    return spread(getattr(transformers, name + kind)(config))


# the number of prefix tokens, and how many tokens the head reads (0: it pools by attention)
MODELS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "timm ViT": (lambda: tiny_timm("vit_tiny_patch16_224"), 1, 1),
    "timm ViT, registers": (lambda: tiny_timm("vit_tiny_patch16_224", reg_tokens=4), 5, 1),
    "timm ViT, average": (lambda: tiny_timm("vit_tiny_patch16_224", class_token=False, global_pool="avg"), 0, 16),
    "timm ViT, class token and average": (lambda: tiny_timm("vit_tiny_patch16_224", global_pool="avg"), 1, 16),
    "timm ViT, query norm": (lambda: tiny_timm("vit_tiny_patch16_224", qk_norm=True), 1, 1),
    "timm SigLIP": (lambda: tiny_timm("vit_base_patch16_siglip_224"), 0, 0),
    "timm DINOv2": (lambda: tiny_timm("vit_small_patch14_reg4_dinov2"), 5, 1),
    "timm DINOv3": (lambda: tiny_timm("vit_small_patch16_dinov3"), 5, 16),
    "timm DeiT distilled": (lambda: tiny_timm("deit_tiny_distilled_patch16_224"), 2, 2),
    "timm DeiT-3": (lambda: tiny_timm("deit3_small_patch16_224"), 1, 1),
    "timm BEiT": (lambda: tiny_timm("beit_base_patch16_224"), 1, 16),
    "timm EVA-02": (lambda: tiny_timm("eva02_tiny_patch14_224"), 1, 16),
    "timm relative positions": (lambda: tiny_timm("vit_relpos_small_patch16_224"), 0, 16),
    "timm SAM": (lambda: tiny_timm("samvit_base_patch16_224", global_attn_indexes=(0, 1)), 0, 16),
    "timm CaiT": (lambda: tiny_timm("cait_xxs24_224"), 1, 1),
    "timm ConViT": (lambda: tiny_timm("convit_tiny", embed_dim=8, local_up_to_layer=1), 1, 1),
    **{
        f"Hugging Face {name}, {how}": (functools.partial(tiny_hf, name, how, **extra), prefix, read)  # type: ignore[arg-type]
        for how in ("sdpa", "eager")
        for name, extra, prefix, read in (
            ("ViT", {}, 1, 1),
            ("Dinov2", {}, 1, 17),  # its head reads the class token and the average
            ("Dinov2WithRegisters", {"num_register_tokens": 4}, 5, 17),
            ("DeiT", {}, 2, 2),
            ("Beit", {"use_relative_position_bias": True}, 1, 16),
        )
    },
}


def torchvision_vit() -> nn.Module:
    vit = pytest.importorskip("torchvision.models.vision_transformer")
    torch.manual_seed(0)
    return spread(vit.VisionTransformer(32, 8, 2, 3, 24, 32, num_classes=5))


MODELS["torchvision ViT"] = (torchvision_vit, 1, 1)


@pytest.mark.parametrize(
    ("name", "fused"), [(n, f) for n in MODELS for f in ((True, False) if n.startswith("timm") else (True,))]
)
def test_every_transformer(name: str, fused: bool) -> None:
    """Same logits, one attention a block with a gradient of its own, the tokens the head reads, and three maps."""
    build, prefix, read = MODELS[name]
    if name.startswith("timm"):
        layers = pytest.importorskip("timm.layers")
        layers.set_fused_attn(fused)
    try:
        model = build()
    finally:
        if name.startswith("timm"):
            layers.set_fused_attn(True)
    x = images()
    with torch.no_grad():
        wanted = logits_of(EvalCopy(model).root(x))
    logits, found = captured(model)
    torch.testing.assert_close(logits.detach(), wanted, rtol=1e-4, atol=1e-5)
    square = [a for a in found if a.shape[-1] == a.shape[-2]]
    assert len(square) == 2
    assert max(a.shape[-1] for a in found) == 16 + prefix
    for a in found:
        torch.testing.assert_close(a.detach().sum(-1), torch.ones(a.shape[:-1]), rtol=1e-4, atol=1e-4)
    gradients = capturing.gradients(logits[:, CLASS], found)
    assert all(g.abs().max() > 0 for g in gradients)
    if read:
        reading = attention.tokens_read(gradients)
        assert ((reading > 0).sum(1) == read).all()
    for method in (rollout, attention.gradient_rollout):
        found_map = method(found, gradients, GRID)
        assert found_map.shape == (BATCH, *GRID)
        assert found_map.std() > 0
        assert found_map.detach().min() >= 0
    # LeGrad's last block is scored by what follows it, so its gradient is the whole model's.
    blocks, of_block = of_blocks(model)
    assert len(blocks) == 2
    torch.testing.assert_close(blocks[0], square[0].detach(), rtol=1e-4, atol=1e-5)
    last = next(g for a, g in zip(found[::-1], gradients[::-1], strict=True) if a.shape[-1] == a.shape[-2])
    torch.testing.assert_close(of_block[-1], last, rtol=1e-3, atol=1e-6)
    le_grad = attention.le_grad(blocks, of_block, GRID)
    assert le_grad.shape == (BATCH, *GRID)
    assert le_grad.min() >= 0
    assert le_grad.std() > 0


@pytest.mark.parametrize("name", ["timm ViT", "timm CaiT", "timm SigLIP", "torchvision ViT"])
def test_batch_is_one_by_one(name: str) -> None:
    """The second image of a batch gets the maps it gets alone."""
    model = MODELS[name][0]()
    for method in (rollout, attention.gradient_rollout):
        maps = []
        for x in (images(), images()[1:]):
            logits, found = captured(model, x=x)
            maps.append(method(found, capturing.gradients(logits[:, CLASS], found), GRID)[-1])
        torch.testing.assert_close(maps[0], maps[1], rtol=1e-3, atol=1e-7)


def test_grid_need_not_be_square() -> None:
    """A picture of 32x48 gives a map of 4x6."""
    model = tiny_timm("vit_tiny_patch16_224", img_size=(32, 48))
    logits, found = captured(model, (4, 6), torch.randn(2, 3, 32, 48))
    gradients = capturing.gradients(logits[:, CLASS], found)
    assert attention.gradient_rollout(found, gradients, (4, 6)).shape == (2, 4, 6)


def test_class_attention_updates_the_class_token_only() -> None:
    """Rollout through CaiT's shape of attention: blocks among patches, then one row for the class token."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.rand(1, 2, 4, 4, generator=generator).softmax(-1)
    row = torch.rand(1, 2, 1, 5, generator=generator).softmax(-1)
    got = rollout([patches, row], [torch.ones_like(patches), torch.ones_like(row)], (2, 2))
    flow = torch.eye(5)
    flow[1:, 1:] = (patches[0].mean(0) + torch.eye(4)) / 2
    step = torch.eye(5)
    step[0] = (row[0].mean(0)[0] + torch.eye(5)[0]) / 2
    torch.testing.assert_close(got.flatten(), (step @ flow)[0, 1:])


# ------------------------------------------------------------------------------------------------------- bad input


def test_models_without_attention_are_told_what_fits() -> None:
    """A CNN, window attention and channel attention are refused, each by what it has, with methods that fit."""
    timm = pytest.importorskip("timm")
    with pytest.raises(MethodError, match="no attention that can be seen.*use grad_cam"):
        captured(nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.Flatten(), nn.Linear(64, 5)))
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, patch_size=2, window_size=4, embed_dim=12, depths=(2, 2),
        num_heads=(2, 2), num_classes=5,
    )  # fmt: skip
    with pytest.raises(MethodError, match=r"attentions 0 are .* all 64 positions.*windows.*use grad_cam"):
        captured(swin, (8, 8))
    xcit = timm.create_model("xcit_nano_12_p8_224", img_size=32, embed_dim=24, depth=2, num_heads=3, num_classes=5)
    with pytest.raises(MethodError, match="use grad_cam"):
        captured(xcit)


def test_cross_attention_between_branches_is_refused() -> None:
    """An attention that reads out tokens before the last block is no pooling."""
    q = torch.randn(2, 1, 4, 4)
    with capturing.Capture(2, 4) as capture:
        functional.scaled_dot_product_attention(q, q.clone(), q.clone())
        functional.scaled_dot_product_attention(q[:, :, :1], q.clone(), q.clone())
        functional.scaled_dot_product_attention(q, q.clone(), q.clone())
    with pytest.raises(MethodError, match="cross-attention"):
        capture.attentions()


def test_differential_attention_is_refused_where_it_is_fused() -> None:
    """Two fused attentions over the same values are one difference, not two blocks."""
    q = torch.randn(2, 1, 4, 4)
    with capturing.Capture(2, 4) as capture:
        functional.scaled_dot_product_attention(q, q, q)
        functional.scaled_dot_product_attention(-q, q, q)
    with pytest.raises(MethodError, match="differential"):
        capture.attentions()


def test_block_gradients_wants_one_block_a_stage() -> None:
    """Stages with several blocks, and heads that cannot read a block, are named."""
    model = EvalCopy(plain()).root
    with pytest.raises(MethodError, match="stage 0 of 1 holds several blocks"):
        capturing.block_gradients([model], images(), [lambda y: y[:, 0]], 16)


def test_inputs_that_do_not_fit_are_named() -> None:
    """No attention, too large a grid, a score without a graph."""
    a = torch.ones(1, 1, 4, 4) / 4
    with pytest.raises(MethodError, match="no attention to follow"):
        attention.attention_rollout([], torch.ones(1, 4) / 4, (2, 2))
    with pytest.raises(MethodError, match="4 tokens, too few for a grid of 3x3"):
        attention.gradient_rollout([a], [a], (3, 3))
    with pytest.raises(MethodError, match="does not depend"):
        capturing.gradients(torch.zeros(1), [a])


def test_constant_score_gives_zeros_not_nan() -> None:
    """With zero gradients everywhere nothing is divided by zero."""
    a, g = torch.ones(1, 1, 5, 5) / 5, torch.zeros(1, 1, 5, 5)
    assert attention.gradient_rollout([a], [g], (2, 2)).abs().max() == 0
    assert attention.le_grad([a], [g], (2, 2)).abs().max() == 0
    assert math.isfinite(float(rollout([a], [g], (2, 2)).sum()))


def test_model_is_left_as_found() -> None:
    """The model keeps its mode, its gradients and its attention implementation."""
    model = tiny_timm("vit_tiny_patch16_224").train()
    logits, found = captured(model)
    capturing.gradients(logits[:, CLASS], found)
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_the_registered_methods_are_these() -> None:
    """The methods of this kind read attention, as the tests above give it, and the grid."""
    read = {m.name: m.ingredients for m in METHODS.values() if m.kind == "attention"}
    assert read == {
        "attention_rollout": ("attention", "attention_reading", "grid"),
        "gradient_rollout": ("attention", "attention_gradients", "grid"),
        "le_grad": ("block_attention", "block_gradients", "grid"),
    }
    assert not METHODS["attention_rollout"].class_specific
