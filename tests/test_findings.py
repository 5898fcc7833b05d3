"""Ways to be wrong without a word, to change the user's model or to fail unhelpfully: none of them may come back."""

from __future__ import annotations

import contextlib
import re
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import grad_cam
from grad_cam import targets
from grad_cam.errors import GradCamError
from grad_cam.splitting.cuts import Cutter

from .oracle import READINGS, Reference, difference, off, snapshot
from .zoo import ZOO, Net, block
from .zoo.python import IfOutside, NestedLists, NoGradInside


@pytest.fixture
def x() -> Tensor:
    """Two images of 64x64."""
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A model in eval mode with fixed weights."""
    torch.manual_seed(0)
    return make().eval()


def complaint(model: nn.Module, images: Tensor, result: Any, read: str = "NCHW", target: int = 1) -> str | None:
    """What hooks on the model say against an explanation by HiResCAM, or None."""
    reference = Reference(model, images)
    if not any(torch.equal(result.logits, same) for same in reference.same_logits):
        return f"logits {off(result.logits, reference.logits):.1e} off at {result.layer.name}"
    calls = reference.find(result.layer.name)
    error = reference.error(result.map, calls[-1], target, read) if calls else None
    if error is None:
        return f"{result.layer.name} has no map of {tuple(result.map.shape)} as {read}"
    return f"{result.layer.name}: {error:.1e} off" if error > 1e-4 else None


def explained(model: nn.Module, images: Tensor, layer: Any = None, target: int = 1, **given: Any) -> Any:
    """HiResCAM at a layer."""
    return grad_cam.explain(model, images, layer=layer, target=target, method="hires_cam", **given)


def refused(call: Callable[[], Any], *words: str) -> GradCamError:
    """The error with which a call is refused, after a look whether it says what is wrong and what to do."""
    with pytest.raises(GradCamError) as caught:
        call()
    assert caught.value.what
    assert caught.value.remedy
    for word in words:
        assert re.search(word, str(caught.value)), f"{word!r} is not in: {caught.value}"
    return caught.value


# ---------------------------------------------------------------------------------------- axes that are not positions


def pooled() -> nn.Module:
    """A pooling that keeps an axis: (B, 64, 1), which 64 tokens of one channel would look like too."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 8, 8), nn.ReLU(), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 5)
    )


def squeezed() -> nn.Module:
    """The same with a squeeze in a forward."""

    class Squeezed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.pool = nn.Conv2d(3, 64, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool1d(1)
            self.fc = nn.Linear(64, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.pool(self.act(self.conv(x)).flatten(2)).squeeze(-1))

    return Squeezed()


@pytest.mark.parametrize(("make", "pool"), [(pooled, "3"), (squeezed, "pool")])
def test_channels_after_a_pooling_are_no_grid(x: Tensor, make: Callable[[], nn.Module], pool: str) -> None:
    """What is left of the channels after a pooling is not offered as a map, by default, in a sweep or by name."""
    model = seeded(make)
    result = explained(model, x)
    assert result.layer.name in ("0", "1", "2", "conv", "act")
    assert complaint(model, x, result, "tokens last" if result.layer.name == "2" else "NCHW") is None
    assert pool not in [e.layer.name for e in grad_cam.sweep(model, x, method="hires_cam", target=1)]
    refused(lambda: explained(model, x, pool))


def swin(size: int, width: int, window: int) -> nn.Module:
    from transformers import SwinConfig, SwinForImageClassification

    heads = [width // 32 * n for n in (1, 2, 4, 8)] if width >= 32 else [1, 2, 4, 8]
    config = SwinConfig(
        image_size=size, embed_dim=width, depths=[1, 1, 1, 1], num_heads=heads, num_labels=10, window_size=window
    )
    return seeded(lambda: SwinForImageClassification(config))


@pytest.mark.parametrize(
    ("size", "width", "window"), [(64, 8, 2), pytest.param(224, 128, 7, marks=pytest.mark.slow)]
)  # fmt: skip
def test_pooler_of_swin_is_no_grid(size: int, width: int, window: int) -> None:
    """The pooled vector of a Swin transformer has as many channels as a grid has tokens, and is none."""
    model, images = swin(size, width, window), torch.randn(1, 3, size, size)
    assert "pooler" not in grad_cam.explain(model, images).layer.name
    names = [e.layer.name for e in grad_cam.sweep(model, images)]
    assert names
    assert not [name for name in names if "pooler" in name]
    refused(lambda: grad_cam.explain(model, images, layer="swin.pooler"))


class Queries(nn.Module):
    """Sixteen learned queries look at the tokens of the image, as in attention pooling, Perceiver and DETR."""

    def __init__(self, count: int = 16) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 8, 8)
        self.norm = nn.LayerNorm(12)
        self.queries = nn.Parameter(torch.randn(1, count, 12))
        self.attend = nn.MultiheadAttention(12, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(12, 12), nn.GELU())
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patch(x).flatten(2).transpose(1, 2))
        q = self.attend(self.queries.expand(len(x), -1, -1), x, x, need_weights=False)[0]
        return self.fc(self.mlp(q).mean(1))


@pytest.mark.parametrize("count", [16, 64])
def test_queries_are_no_grid(x: Tensor, count: int) -> None:
    """Learned queries have no place in the image, even if there is a square number of them or one per patch."""
    model = seeded(lambda: Queries(count))
    result = explained(model, x)
    assert result.layer.name in ("patch", "norm")
    assert complaint(model, x, result, "NCHW" if result.layer.name == "patch" else "tokens") is None
    assert not {"mlp", "mlp.0", "mlp.1"} & {e.layer.name for e in grad_cam.sweep(model, x)}
    refused(lambda: explained(model, x, "mlp"))


@pytest.mark.slow
def test_queries_of_detr_are_no_grid() -> None:
    """A hundred object queries are not drawn as ten by ten positions."""
    from transformers import DetrConfig, DetrForObjectDetection

    config = DetrConfig(
        use_pretrained_backbone=False, num_queries=100, d_model=32, encoder_layers=1, decoder_layers=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2, num_labels=4,
    )  # fmt: skip
    model, images = seeded(lambda: DetrForObjectDetection(config)), torch.randn(1, 3, 320, 320)

    def score(logits: Tensor) -> Tensor:
        return logits[..., 1].flatten(1).sum(1)

    refused(lambda: grad_cam.explain(model, images, layer="model.decoder.layers.0", target=score))
    with contextlib.suppress(GradCamError):
        assert "decoder" not in grad_cam.explain(model, images, target=score).layer.name


class Mixed(nn.Module):
    """Channels first in most places, channels last in one block, with as many channels as the grid has rows."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.last = last
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))
        self.same = nn.Sequential(nn.Linear(8, 8), nn.GELU())
        self.more = nn.Sequential(nn.Conv2d(8, 20, 3, 2, 1), nn.ReLU(), nn.Conv2d(20, 20, 3, 1, 1), nn.ReLU())
        self.fc = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (B,8,8,8)
        if self.last:
            x = self.same(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        else:
            x = self.same(x)
        return self.fc(self.more(x).mean((2, 3)))


def test_channels_last_where_channels_equal_the_grid(x: Tensor) -> None:
    """A channels-last block among channels-first ones is read as it lies, not as the other layers do."""
    model = seeded(lambda: Mixed(True))
    assert complaint(model, x, explained(model, x, "same"), "NHWC") is None
    assert complaint(model, x, explained(model, x, "stem"), "NCHW") is None


@pytest.mark.parametrize("path", ["stages.0.blocks.0.norm", "stages.0.blocks.0.mlp", "stages.0.blocks.0.conv_dw"])
def test_inside_a_convnext_of_timm(x: Tensor, path: str) -> None:
    """Norm and MLP of a ConvNeXt block lie channels last, its convolution channels first; 16 channels, 16x16."""
    model = seeded(lambda: timm.models.ConvNeXt(depths=(1, 1, 1, 1), dims=(16, 24, 28, 36), num_classes=5))
    read = "NCHW" if path.endswith("dw") else "NHWC"
    assert complaint(model, x, explained(model, x, path), read) is None


@pytest.mark.parametrize(("path", "read"), [("features.1.0.block.2", "NHWC"), ("features.1.0.block.0", "NCHW")])
def test_inside_a_convnext_of_torchvision(x: Tensor, path: str, read: str) -> None:
    """The same in torchvision's ConvNeXt."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    model = seeded(lambda: ConvNeXt([CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 1)], num_classes=5))
    assert complaint(model, x, explained(model, x, path), read) is None


def test_patches_of_a_pyramid_transformer(x: Tensor) -> None:
    """The patch embedding of PVT-v2 hands on channels last where everything after it is tokens or channels first."""
    from timm.models.pvt_v2 import PyramidVisionTransformerV2

    model = seeded(
        lambda: PyramidVisionTransformerV2(
            depths=(1, 1, 1, 1), embed_dims=(16, 24, 32, 40), num_heads=(1, 2, 2, 2), num_classes=5
        )
    )
    assert complaint(model, x, explained(model, x, "patch_embed"), "NHWC") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "path"),
    [
        ("pvt_v2_b2", 256, "patch_embed"),
        ("maxvit_rmlp_nano_rw_256", 256, "stages.0.blocks.0.attn_block"),
        ("convnext_tiny", 384, "stages.0.blocks.0.norm"),
        ("convnext_tiny", 384, "stages.0.blocks.0.mlp"),
        ("torchvision convnext_tiny", 384, "features.1.0.block.2"),
    ],
)
def test_channels_last_in_full_models(name: str, size: int, path: str) -> None:
    """Full models whose channels equal their grid's side are read as they lie."""
    if name.startswith("torchvision"):
        import torchvision

        model = seeded(lambda: torchvision.models.convnext_tiny())
    else:
        model = seeded(lambda: timm.create_model(name, pretrained=False))
    images = torch.randn(1, 3, size, size)
    calls = Reference(model, images).find(path)
    assert calls[-1].value.ndim == 4
    assert calls[-1].value.shape[1] == calls[-1].value.shape[3]  # shapes alone do not say
    assert complaint(model, images, explained(model, images, path), "NHWC") is None


def _vit(**given: Any) -> nn.Module:
    return timm.models.VisionTransformer(
        img_size=64, patch_size=16, depth=2, num_heads=2, num_classes=5, class_token=False, global_pool="avg", **given
    )


def _written_out(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    return model


def _cait() -> nn.Module:
    from timm.models.cait import Cait

    return Cait(img_size=64, patch_size=16, embed_dim=24, depth=2, num_heads=2, num_classes=5)


def _mixer() -> nn.Module:
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(img_size=64, patch_size=16, num_blocks=2, embed_dim=32, num_classes=5)


def _windows() -> nn.Module:
    return timm.models.SwinTransformer(
        img_size=64, patch_size=4, embed_dim=12, depths=(1, 1), num_heads=(2, 2), window_size=8, num_classes=5
    )


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: _written_out(_vit(embed_dim=24)), "blocks.0.attn.attn_drop"),
        (lambda: _vit(embed_dim=32, qk_norm=True), "blocks.0.attn.q_norm"),
        (lambda: _written_out(_windows()), "layers.1.blocks.0.attn.softmax"),
        (_cait, "blocks.0.attn.proj_l"),
        (_mixer, "blocks.0.mlp_tokens.fc1"),
    ],
    ids=["queries x keys", "tokens x width of a head", "a window's attention", "attention with heads last", "units"],
)
def test_other_axes_are_no_picture(x: Tensor, make: Callable[[], nn.Module], path: str) -> None:
    """Attention matrices, heads and hidden units of a token MLP are refused although their sizes fit a picture."""
    model = seeded(make)
    assert Reference(model, x).find(path), "the module is called"
    refused(lambda: grad_cam.explain(model, x, layer=path, target=1), re.escape(path))
    assert path not in [e.layer.name for e in grad_cam.sweep(model, x, target=1)]


@pytest.mark.slow
@pytest.mark.parametrize("path", ["stages.0.blocks.0.mixer.hz_proj", "stages.1.blocks.0.mixer.hz_proj"])
def test_hidden_states_are_no_picture(path: str) -> None:
    """The hidden states of EfficientViM are not positions."""
    model = seeded(lambda: timm.create_model("efficientvim_m1", pretrained=False))
    refused(lambda: grad_cam.explain(model, torch.randn(1, 3, 224, 224), layer=path, target=1), re.escape(path))


# ------------------------------------------------------------------------------------------------ the layer asked for


class Joined(Net):
    """A layer's output meets its input again right after it."""

    def __init__(self, join: str) -> None:
        super().__init__()
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.join == "add":
            x = x + self.blk(x)
        elif self.join == "multiply":
            x = x * self.blk(x)
        elif self.join == "add in place":
            x += self.blk(x)
        elif self.join == "multiply in place":
            x *= self.blk(x)
        else:
            x = torch.cat([x[:, :3], self.blk(x)[:, 3:]], 1)
        return self.head(self.neck(x))


JOINS = ["add", "multiply", "add in place", "multiply in place", "cat"]


@pytest.mark.parametrize("join", JOINS)
def test_a_layer_on_a_branch_is_that_layer(x: Tensor, join: str) -> None:
    """A top-level module on a branch is explained at its own output, asked for by name or as an object."""
    model = seeded(lambda: Joined(join))
    by_name, by_module = explained(model, x, "blk"), explained(model, x, model.blk)
    assert by_name.layer.name == by_module.layer.name == "blk"
    assert complaint(model, x, by_name) is None
    assert torch.equal(by_name.map, by_module.map)


@pytest.mark.parametrize("join", JOINS)
def test_a_cut_on_a_branch_is_after_that_layer(x: Tensor, join: str) -> None:
    """The extractor of a cut at a module on a branch ends with what the module returns."""
    model = seeded(lambda: Joined(join))
    call = Reference(model, x).find("blk")[-1]
    cut = grad_cam.split(model, "blk", x)
    with torch.no_grad():
        handed = cut.extractor(x.clone())
        assert torch.equal(cut.classifier(cut.extractor(x.clone())), model(x.clone()))
    assert cut.name == "blk"
    assert torch.equal(handed[0] if isinstance(handed, tuple) else handed, call.value)


def test_a_sweep_shows_where_the_branch_is_joined(x: Tensor) -> None:
    """A stage that ends with the sum does not carry the module's name alone."""
    model = seeded(lambda: Joined("add"))
    reference = Reference(model, x)
    found = [one for one in grad_cam.sweep(model, x, method="hires_cam", target=1) if reference.find(one.layer.name)]
    assert found
    for one in found:
        assert complaint(model, x, one) is None


# --------------------------------------------------------------------------------------------------------- old records


class Scaled(Net):
    """What it computes depends on an attribute, a configuration and a list."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.config, self.powers = 1.0, types.SimpleNamespace(t=1.0), [1, 1]

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x)) * self.scale / self.config.t
        return self.head(self.neck(x)) ** self.powers[1]


def _attribute(model: nn.Module) -> None:
    model.scale = 5.0


def _configuration(model: nn.Module) -> None:
    model.config.t = 3


def _in_a_list(model: nn.Module) -> None:
    model.powers[1] = 3


def _forward(model: nn.Module) -> None:
    model.forward = lambda x: model.head(model.neck(model.blk(model.stem(x))).square())


def _root_hook(model: nn.Module) -> None:
    model.register_forward_hook(lambda module, args, out: 2 * out + 1)


def _stride(model: nn.Module) -> None:
    model.neck[0].stride = (1, 1)


@pytest.mark.parametrize("change", [_attribute, _configuration, _in_a_list, _forward, _root_hook, _stride])
def test_a_change_between_two_calls_is_seen(x: Tensor, change: Callable[[nn.Module], None]) -> None:
    """After a change the model is explained as it is now, at a named layer and by default."""
    model = seeded(Scaled)
    before = explained(model, x, "blk")
    assert complaint(model, x, before) is None
    change(model)
    after = explained(model, x, "blk")
    assert not torch.equal(after.logits, before.logits)
    assert complaint(model, x, after) is None
    assert complaint(model, x, explained(model, x)) is None


def test_a_change_is_seen_by_a_perturbation_method(x: Tensor) -> None:
    """Ablation-CAM runs the tail as it is now."""
    model = seeded(Scaled)
    grad_cam.explain(model, x, layer="blk", target=1, method="ablation_cam")
    model.powers[1] = 3
    got = grad_cam.explain(model, x, layer="blk", target=1, method="ablation_cam")
    assert off(got.map, Reference(model, x).ablation_cam("blk", 1, (32, 32), "NCHW")) < 1e-3


# ------------------------------------------------------------------------------------------- modes, batches, write-ins


class FullPrecision(Net):
    """The head in full precision, whatever the caller says."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.neck(self.blk(self.stem(x)))
        with torch.autocast("cpu", enabled=False):
            return self.head(x.float())


def test_no_grad_inside_a_forward(x: Tensor) -> None:
    """What is computed without a gradient is a constant of the explanation too."""
    model = seeded(NoGradInside)
    assert complaint(model, x, explained(model, x, "blk")) is None


def test_autocast_switched_off_inside_a_forward(x: Tensor) -> None:
    """The island of full precision stays one under the caller's autocast."""
    model = seeded(FullPrecision)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = explained(model, x, "blk")
        reference = Reference(model, x)
    assert torch.equal(result.logits, reference.logits)
    assert off(result.map, reference.hires_cam(reference.find("blk")[-1], 1, (32, 32), "NCHW")) < 0.05


class Chunked(Net):
    """Four images at a time."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.head(self.neck(self.blk(self.stem(x[i : i + 4])))) for i in range(0, len(x), 4)])


class Branching(Net):
    """Another formula for more than four images."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.blk(self.stem(x))
        z = z * 2 if len(x) > 4 else z
        return self.head(self.neck(z))


def test_ten_images_give_ten_maps() -> None:
    """A forward in chunks is explained for all images, or refused with the reason."""
    model, images = seeded(Chunked), torch.randn(10, 3, 32, 32)
    for layer in ("blk", None):
        try:
            result = explained(model, images, layer)
        except GradCamError as error:
            assert error.remedy
            continue
        assert len(result.map) == 10
        assert torch.equal(result.logits, Reference(model, images).logits)


@pytest.mark.parametrize("counts", [(2, 6), (6, 2), (1, 5, 1)])
def test_the_branch_of_the_batch_at_hand(counts: tuple[int, ...]) -> None:
    """A branch on the batch size is taken as the batch at hand takes it, whatever was explained before."""
    model = seeded(Branching)
    for count in counts:
        images = torch.randn(count, 3, 32, 32)
        assert complaint(model, images, explained(model, images, "blk")) is None


class Features(Net):
    """A later module reads an early feature that came by another way than its arguments."""

    class Reader(nn.Module):
        def __init__(self, owner: nn.Module, key: str) -> None:
            super().__init__()
            self.__dict__["owner"], self.key = owner, key

        def forward(self, x: Tensor) -> Tensor:
            seen = self.owner.feat if self.key == "attribute" else self.owner.store["feat"]
            return x * torch.sigmoid(2 * seen)

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.store = way, {}
        self.reader = self.Reader(self, way)
        if way == "hook":
            self.stem.register_forward_hook(lambda module, args, out: self.store.update(feat=out))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.way == "attribute":
            self.feat = x
        return self.head(self.neck(self.reader(self.blk(x))))


@pytest.mark.parametrize("way", ["attribute", "hook"])
@pytest.mark.parametrize("layer", ["stem", "blk"])
def test_a_feature_that_travels_beside_the_arguments(x: Tensor, way: str, layer: str) -> None:
    """Features kept by a hook or on the model belong to the gradient."""
    model = seeded(lambda: Features(way))
    result = explained(model, x, layer)
    fresh = seeded(lambda: Features(way))
    assert complaint(fresh, x, result) is None


@pytest.mark.parametrize("way", ["attribute", "hook"])
def test_halves_around_a_feature_that_travels(x: Tensor, way: str) -> None:
    """The two halves have the model's gradient too, or there are none."""
    model = seeded(lambda: Features(way))
    try:
        cut = grad_cam.split(model, "stem", x)
    except GradCamError as error:
        assert error.remedy
        return
    reference = Reference(seeded(lambda: Features(way)), x)
    leaf = reference.find("stem")[-1].value.requires_grad_()
    (gradient,) = torch.autograd.grad(cut.classifier(leaf * 1)[:, 1].sum(), leaf)
    assert off(gradient, reference.gradient(reference.find("stem")[-1], 1)) < 1e-4


# ------------------------------------------------------------------------------------------------- outputs and targets


class Segmenter(nn.Module):
    """An encoder, a decoder with a skip and a head of one score per class and pixel."""

    def __init__(self, classes: int = 4, name: str = "out") -> None:
        super().__init__()
        self.name = name
        self.down1, self.down2 = block(3, 6, 2), block(6, 10, 2)
        self.up = block(16, 6)
        self.head = nn.Conv2d(6, classes, 1)

    def forward(self, x: Tensor) -> Any:
        a = self.down1(x)
        b = F.interpolate(self.down2(a), scale_factor=2.0)
        scores = self.head(self.up(torch.cat([a, b], 1)))
        scores = F.interpolate(scores, size=x.shape[2:], mode="bilinear", align_corners=False)
        return {"out": scores} if self.name == "out" else scores


@pytest.mark.parametrize("name", ["out", "tensor"])
def test_the_default_layer_of_a_segmenter_is_not_its_answer(x: Tensor, name: str) -> None:
    """The scores of the classes are not offered as the feature map that explains them."""
    model = seeded(lambda: Segmenter(name=name))
    mask = torch.zeros(64, 64)
    mask[20:30, 20:40] = 1
    result = grad_cam.explain(model, x, target=targets.segmentation(2, mask), method="hires_cam")
    assert "head" not in result.layer.name
    reference = Reference(seeded(lambda: Segmenter(name="tensor")), x)
    assert torch.equal(result.logits.flatten(1), reference.logits)


def test_a_class_of_a_segmenter_is_counted_on_the_class_axis(x: Tensor) -> None:
    """A class beyond the four is refused although there are 64 columns of pixels, and the last class is known."""
    model = seeded(Segmenter)
    mask = torch.ones(64, 64)
    refused_by = pytest.raises(GradCamError, match=r"\b4\b|0\.\.3")
    with refused_by:
        grad_cam.explain(model, x, target=targets.segmentation(10, mask))
    with pytest.raises(GradCamError, match=r"\b4\b|0\.\.3|segmentation"):
        grad_cam.explain(model, x, target=10)
    grad_cam.explain(model, x, target=targets.segmentation(3, mask))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
def test_the_default_layer_of_torchvisions_segmenters(name: str) -> None:
    """The default layer of torchvision's segmentation models has more channels than there are classes."""
    import torchvision

    build = getattr(torchvision.models.segmentation, name)
    model = seeded(lambda: build(weights=None, weights_backbone=None, num_classes=21))
    images, mask = torch.randn(1, 3, 128, 128), torch.ones(128, 128)
    layer = grad_cam.explain(model, images, target=targets.segmentation(2, mask)).layer.name
    assert layer != "classifier"
    for call in Reference(model, images).find(layer)[-1:]:  # a backbone that returns a dict has none
        assert call.value.shape[1] != 21


class Parts(Net):
    """Returns its features beside its scores."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Any:
        feats = self.neck(self.blk(self.stem(x))).mean((2, 3))
        return (feats, self.fc(feats)) if self.how == "tuple" else {"features": feats, "pred": self.fc(feats)}


@pytest.mark.parametrize(("how", "output", "listed"), [("tuple", 1, r"\b1\b"), ("dict", "pred", "pred")])
def test_which_part_holds_the_scores_is_not_guessed(x: Tensor, how: str, output: int | str, listed: str) -> None:
    """The parts are listed with their shapes, `output=` is offered and works everywhere."""
    model = seeded(lambda: Parts(how))
    for call in (grad_cam.explain, grad_cam.sweep, grad_cam.verify):
        error = refused(lambda call=call: call(model, x), "output=")
        assert re.search(listed, error.given)
        assert "output=" in error.remedy
    refused(lambda: grad_cam.chain(model, x), "output=")
    refused(lambda: grad_cam.split(model, "blk", x), "output=")
    reference = Reference(model, x, lambda out: out[output])
    result = explained(model, x, "blk", output=output)
    assert torch.equal(result.logits, reference.logits)
    assert off(result.map, reference.hires_cam(reference.find("blk")[-1], 1, (32, 32), "NCHW")) < 1e-4
    assert grad_cam.verify(model, x, output=output)
    assert len(grad_cam.sweep(model, x, output=output))
    cut = grad_cam.split(model, "blk", x, output=output)
    with torch.no_grad():
        assert torch.equal(cut.classifier(cut.extractor(x.clone())), reference.logits)
        assert torch.equal(grad_cam.chain(model, x, output=output)(x.clone()), reference.logits)


def test_an_output_that_is_not_there(x: Tensor) -> None:
    """A wrong key, index or callable is refused with the parts that are there."""
    model = seeded(lambda: Parts("dict"))
    assert "pred" in str(refused(lambda: grad_cam.explain(model, x, output="predictions")))
    refused(lambda: grad_cam.explain(model, x, output=7))
    refused(lambda: grad_cam.explain(model, x, output=lambda out: "no tensor"))


def test_quantised_layers_are_named(x: Tensor) -> None:
    """A dynamically quantised layer after the cut has no gradient, which the refusal says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(seeded(Net), {nn.Linear}, dtype=torch.qint8)
    refused(lambda: grad_cam.explain(model, x, target=1), "(?i)quanti", r"\bfc\b")


class Transposed(nn.Module):
    """A batch norm whose incoming gradient is a transposed view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 4, 4), nn.BatchNorm2d(6)
        self.weight, self.fc = nn.Parameter(torch.randn(1, 16, 6)), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.bn(self.conv(x)))

    def tail(self, x: Tensor) -> Tensor:
        return self.fc((x.flatten(2).transpose(1, 2) * self.weight).tanh().mean(1))


@pytest.mark.parametrize("count", [1, 2])
def test_gradient_through_a_batch_norm_before_a_transposition(count: int) -> None:
    """HiResCAM before such a batch norm agrees with finite differences in double precision, for one image too."""
    model = seeded(Transposed).double()
    model.bn.running_mean.copy_(torch.linspace(-0.2, 0.2, 6))
    model.bn.running_var.copy_(torch.linspace(0.5, 1.5, 6))
    images = torch.randn(count, 3, 16, 16, dtype=torch.float64)
    result = explained(model, images, "conv")
    with torch.no_grad():
        conv = model.conv(images)

        def score(activation: Tensor) -> Tensor:
            return model.tail(model.bn(activation))[:, 1]

        step, wanted = 1e-6, torch.zeros(count, 4, 4, dtype=torch.float64)
        for channel in range(6):
            for row in range(4):
                for column in range(4):
                    up, down = conv.clone(), conv.clone()
                    up[:, channel, row, column] += step
                    down[:, channel, row, column] -= step
                    slope = (score(up) - score(down)) / (2 * step)
                    wanted[:, row, column] += slope * conv[:, channel, row, column]
    assert off(result.map, wanted) < 1e-6
    swept = {e.layer.name: e for e in grad_cam.sweep(model, images, layers=["conv"], method="hires_cam", target=1)}
    assert off(swept["conv"].map, wanted) < 1e-6


def test_smooth_grad_cam_takes_a_layout_by_name(x: Tensor) -> None:
    """`reshape_transform="NHWC"` means the same to the noisy method as it does to the others."""
    model = seeded(lambda: Mixed(True))
    options = {"layer": "same", "target": 1, "reshape_transform": "NHWC"}
    by_name = grad_cam.explain(model, x, method="smooth_grad_cam_plus_plus", samples=2, seed=0, **options)
    options["reshape_transform"] = lambda activation: activation.permute(0, 3, 1, 2)
    by_hand = grad_cam.explain(model, x, method="smooth_grad_cam_plus_plus", samples=2, seed=0, **options)
    options["reshape_transform"] = "NCHW"
    other = grad_cam.explain(model, x, method="smooth_grad_cam_plus_plus", samples=2, seed=0, **options)
    assert torch.allclose(by_name.map, by_hand.map)
    assert not torch.allclose(by_name.map, other.map)


def test_a_module_may_be_called_default(x: Tensor) -> None:
    """A module of the name "default" is cut at when it is asked for, and is not the default cut."""

    class Default(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.default, self.blk, self.neck, self.fc = block(3, 6, 2), block(6, 6), block(6, 6, 2), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.neck(self.blk(self.default(x))).mean((2, 3)))

    model = seeded(Default)
    assert grad_cam.chain(model, x).split("default").name == "default"
    assert grad_cam.split(model, "default", x).name == "default"
    assert explained(model, x, "default").layer.name == "default"
    assert explained(model, x).layer.name != "default"


# ------------------------------------------------------------------------------------------ the user's model as it was


class Writing(Net):
    """A forward that writes to a list, a dict, a counter, an object and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.log, self.features, self.calls = [], {"names": []}, 0
        self.stats = types.SimpleNamespace(seen=0, last=None)
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.log.append(len(x))
        self.features["x"] = x
        self.features["names"].append("x")
        self.calls += 1
        self.stats.seen += len(x)
        self.stats.last = x
        self.count += 1
        return super().forward(x)


def _frozen_neck() -> nn.Module:
    model = Net()
    model.train()
    model.neck.eval()
    return model


def _closure() -> nn.Module:
    model = Net()
    blk, neck = model.blk, model.neck
    model.forward = lambda x: model.head(neck(blk(model.stem(x))))
    return model.train()


def _lists() -> nn.Module:
    return NestedLists().train()


def _compiled() -> nn.Module:
    model = Net()
    model.neck = torch.compile(model.neck, backend="eager")
    return model.train()


STATEFUL = [lambda: Writing().train(), _frozen_neck, _closure, _lists, _compiled]
USES = [
    lambda model, x: grad_cam.explain(model, x, target=1),
    lambda model, x: grad_cam.explain(model, x, layer="blk", target=1),
    lambda model, x: grad_cam.explain(model, x, target=99),
    lambda model, x: grad_cam.sweep(model, x, target=1),
    lambda model, x: grad_cam.explain(model, x, layer="blk", target=1, method="ablation_cam"),
    lambda model, x: grad_cam.split(model, "blk", x),
    lambda model, x: grad_cam.chain(model, x, depth=3),
    lambda model, x: grad_cam.verify(model, x),
]
USED = ["default", "named", "error", "sweep", "ablation", "split", "chain", "verify"]


@pytest.mark.parametrize("make", STATEFUL, ids=["writing", "frozen neck", "closure", "lists", "compiled"])
@pytest.mark.parametrize(
    "use", USES, ids=["default", "named", "error", "sweep", "ablation", "split", "chain", "verify"]
)
def test_the_users_model_is_as_it_was(x: Tensor, make: Callable[[], nn.Module], use: Callable[..., Any]) -> None:
    """Lists, dicts, objects, buffers, running statistics and mixed train flags are as they were before a call."""
    torch.manual_seed(0)
    model = make()
    before = snapshot(model)
    with contextlib.suppress(GradCamError):
        use(model, x)
    assert difference(before, snapshot(model)) is None


FIRED: list[int] = []  # a global, as a list in a closure may be copied with the model


def test_a_hook_fires_once_in_the_record_and_once_in_the_tail(x: Tensor) -> None:
    """A user's hook on a module after the named cut fires at most twice in a first explanation, and in a later one."""
    model = seeded(Net)
    model.neck.register_forward_hook(lambda module, args, out: FIRED.append(1))
    FIRED.clear()
    explained(model, x, "blk")
    assert 1 <= len(FIRED) <= 2
    FIRED.clear()
    explained(model, x, "blk")
    assert 1 <= len(FIRED) <= 2


def test_no_tensor_of_a_forward_is_kept_by_the_users_hook_store(x: Tensor) -> None:
    """A dict on the model that a hook fills is empty afterwards, as it was."""
    model = seeded(lambda: Features("hook"))
    explained(model, x, "blk")
    assert model.store == {}


# ----------------------------------------------------------------------------------------------------- helpful answers


class OneScore(Net):
    """(B,) after `squeeze(1)`, or whatever `squeeze()` leaves."""

    def __init__(self, axis: int | None) -> None:
        super().__init__(classes=1)
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x.squeeze() if self.axis is None else x.squeeze(self.axis)


@pytest.mark.parametrize("axis", [1, None])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("target", [None, 0, targets.binary(), targets.binary(False)])
def test_one_score_per_image(axis: int | None, count: int, target: Any) -> None:
    """A model that returns (B,), or a bare number for one image, is explained like one that returns (B, 1)."""
    images = torch.randn(count, 3, 32, 32)
    plain = seeded(lambda: Net(classes=1))
    got = grad_cam.explain(seeded(lambda: OneScore(axis)), images, layer="blk", target=target, method="hires_cam")
    reference = Reference(plain, images)
    wanted = reference.hires_cam(reference.find("blk")[-1], 0, (16, 16), "NCHW")
    sign = -1 if repr(target) == repr(targets.binary(False)) else 1
    assert got.logits.shape == (count, 1)
    assert off(got.map, sign * wanted) < 1e-4
    default = grad_cam.explain(seeded(lambda: OneScore(axis)), images, target=target, method="hires_cam")
    assert default.map.ndim == 3
    assert default.map.any()


@pytest.mark.slow
def test_reordered_tokens_before_a_norm() -> None:
    """The norm of Hiera's second block is explained or refused, not answered with an error of a reshape."""
    model = seeded(lambda: timm.create_model("hiera_tiny_224", pretrained=False))
    try:
        result = grad_cam.explain(model, torch.randn(1, 3, 224, 224), layer="blocks.1.norm1", target=1)
    except GradCamError as error:
        assert error.remedy
    else:
        assert result.map.shape == (1, 56, 56)


class Wrapper(nn.Module):
    """A model inside a model."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_a_wrapped_model_is_swept(x: Tensor) -> None:
    """A sweep without further words finds the layers inside a wrapper, two of them deep."""
    model = seeded(lambda: Wrapper(Wrapper(Net())))
    found = grad_cam.sweep(model, x, method="hires_cam", target=1)
    assert len(found) >= 2
    for one in found:
        assert complaint(model, x, one) is None


def test_a_classifier_of_transformers_is_swept(x: Tensor) -> None:
    """A sweep without further words finds the blocks of a classifier of transformers."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=64, patch_size=16
    )
    model = seeded(lambda: ViTForImageClassification(config))
    found = grad_cam.sweep(model, x, target=1)
    assert len(found) >= 2
    assert all(tuple(one.map.shape) == (2, 4, 4) for one in found)


class ByRow(Net):
    """Python goes through the batch."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        if self.how == "rows":
            x = torch.stack([2 * row for row in x])
        else:
            a, b = x.chunk(2, 0)
            x = torch.cat([a * 2, b])
        return self.head(self.neck(x))


@pytest.mark.parametrize("how", ["rows", "two halves"])
def test_python_that_goes_through_the_batch(x: Tensor, how: str) -> None:
    """`for row in t` and `a, b = f.chunk(2, 0)` are explained for the batch at hand."""
    model = seeded(lambda: ByRow(how))
    assert complaint(model, x, explained(model, x, "blk")) is None


class Configured(Net):
    """The size of its images stands in a nested configuration, and it takes no other."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != (3, 48, 48):
            raise RuntimeError(f"images of 48x48, not {tuple(x.shape)}")
        return super().forward(x)


def test_the_size_in_a_nested_configuration() -> None:
    """`config.vision_config.image_size` is read as `config.image_size` is."""
    config = types.SimpleNamespace(vision_config=types.SimpleNamespace(image_size=48, num_channels=3))
    assert grad_cam.chain(seeded(lambda: Configured(config))).size == (48, 48)


def test_a_size_that_nothing_says_is_asked_for() -> None:
    """Where a model does not say its size, the error says so and offers `example=`; it claims no configuration."""
    model = seeded(lambda: Configured(types.SimpleNamespace()))
    with pytest.raises((GradCamError, RuntimeError)) as caught:
        grad_cam.chain(model)
    assert "own configuration says" not in str(caught.value)
    if isinstance(caught.value, GradCamError):
        assert "example=" in caught.value.remedy
    else:
        assert "images of 48x48" in str(caught.value)
    assert grad_cam.chain(model, (48, 48)).size == (48, 48)


def test_a_model_that_was_compiled_in_place(x: Tensor) -> None:
    """`model.compile()` changes nothing about the explanation."""
    model = seeded(Net)
    model.compile(backend="eager")
    result = explained(model, x, "blk")
    assert complaint(seeded(Net), x, result) is None


class Ensemble(nn.Module):
    """Two networks on the same images."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Net(), Net()

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)


def test_an_ensemble_is_explained_in_one_of_its_branches(x: Tensor) -> None:
    """By default a layer of one branch is explained, or such a layer is offered and works."""
    model = seeded(Ensemble)
    try:
        result = explained(model, x)
    except GradCamError as error:
        offered = re.search(r"""layer=["']((?:a|b)\.[\w.]+)["']""", error.remedy)
        assert offered, error
        result = explained(model, x, offered.group(1))
    assert result.layer.name.startswith(("a.", "b."))
    assert complaint(model, x, result) is None


class Broken(RuntimeError):
    """The user's own."""


class Raising(Net):
    """Raises in its forward."""

    def forward(self, x: Tensor) -> Tensor:
        raise Broken("the backbone is not downloaded")


@pytest.mark.parametrize(
    "use", USES, ids=["default", "named", "error", "sweep", "ablation", "split", "chain", "verify"]
)
def test_the_users_own_error_reaches_the_user(x: Tensor, use: Callable[..., Any]) -> None:
    """What the forward raises arrives as it was raised, without a word about shapes around it."""
    with pytest.raises(Broken, match=r"^the backbone is not downloaded$"):
        use(seeded(Raising), x)


def test_a_forward_in_inference_mode(x: Tensor) -> None:
    """A forward under `inference_mode` is refused with that word and what to do."""

    class Inference(Net):
        @torch.inference_mode()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    refused(lambda: grad_cam.explain(seeded(Inference), x, target=1), "inference_mode")


def test_a_depth_model_is_explained_right_or_refused() -> None:
    """DPT, which collects hidden states and reshapes them, is right at its blocks or refused with a remedy."""
    from transformers import DPTConfig, DPTForDepthEstimation

    config = DPTConfig(
        hidden_size=24, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=64, patch_size=16,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, is_hybrid=False,
        reassemble_factors=[4, 2, 1, 0.5],
    )  # fmt: skip
    model, images = seeded(lambda: DPTForDepthEstimation(config)), torch.randn(2, 3, 64, 64)

    def depth(out: Any) -> Tensor:
        return out.flatten(1).sum(1)

    output = {"output": "predicted_depth"}
    reference = Reference(model, images, lambda out: out.predicted_depth.flatten(1).sum(1, keepdim=True))
    blocks = [p for p in reference.calls if re.search(r"layers?\.2$", p)]
    assert blocks
    result = grad_cam.explain(model, images, layer=blocks[0], target=depth, method="hires_cam", **output)
    assert off(result.map, reference.hires_cam(reference.find(blocks[0])[-1], 0, (4, 4), "tokens")) < 1e-3


class Packed(nn.Module):
    """Around the vision encoder of Qwen2-VL: the tokens of all images in one list, in an order of its own."""

    def __init__(self) -> None:
        from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
        from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

        super().__init__()
        config = Qwen2VLVisionConfig(depth=2, embed_dim=16, hidden_size=16, num_heads=2, patch_size=8)
        self.visual, self.fc = Qwen2VisionTransformerPretrainedModel(config), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x[:, None].expand(-1, 2, -1, -1, -1)
        x = x.reshape(b, 1, 2, c, h // 16, 2, 8, w // 16, 2, 8).permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9)
        grid = torch.tensor([[1, h // 8, w // 8]] * b)
        out = self.visual(x.reshape(b * h * w // 64, -1), grid_thw=grid)
        out = out if isinstance(out, Tensor) else out.pooler_output
        return self.fc(torch.tanh(out).view(b, -1, 16).mean(1))


def test_tokens_of_all_images_in_one_list(x: Tensor) -> None:
    """An encoder without a batch axis is refused at its blocks, and explained where the user gives the layout."""

    def grid(tokens: Tensor) -> Tensor:
        return tokens.view(-1, 4, 4, 16).permute(0, 3, 1, 2)

    model = seeded(Packed)
    refused(lambda: explained(model, x, "visual.blocks.1"), "visual.blocks.1")
    result = explained(model, x, "visual.merger", reshape_transform=grid)
    reference = Reference(model, x)
    call = reference.find("visual.merger")[-1]
    assert torch.equal(result.logits, reference.logits)
    assert off(result.map, grid(call.value * reference.gradient(call, 1)).sum(1)) < 1e-4


class Required(Net):
    """Wants a second argument that it has no default for."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x * mask)


@pytest.mark.parametrize("use", USES, ids=USED)
def test_a_second_argument_that_is_required(x: Tensor, use: Callable[..., Any]) -> None:
    """The missing argument is named, and nothing is said about a size or a configuration."""
    with pytest.raises((TypeError, GradCamError), match="mask") as caught:
        use(seeded(Required), x)
    assert "configuration" not in str(caught.value)


def test_a_decision_by_values_in_the_outermost_forward(x: Tensor) -> None:
    """A gradient method explains the images at hand; what needs other activations is right too or says why not."""
    model, reason = seeded(IfOutside), "(?i)python|values|branch|rows|images"
    model.neck[1].running_mean += 0.2
    for images in (x, -x, 3 * x[:1]):
        assert complaint(model, images, explained(model, images, "blk")) is None
        try:
            got = grad_cam.explain(model, images, layer="blk", target=1, method="ablation_cam")
        except GradCamError as error:
            assert re.search(reason, str(error))
        else:
            assert off(got.map, Reference(model, images).ablation_cam("blk", 1, (32, 32), "NCHW")) < 1e-3
    with torch.no_grad():
        sums = [model.blk(model.stem(images)).sum() > 0 for images in (x, -x, x - 5, x + 5)]
        try:
            cut = grad_cam.split(model, "blk", x)
        except GradCamError as error:
            assert re.search(reason, str(error))
        else:
            for images in (x, -x, x - 5, x + 5):
                assert torch.equal(cut.classifier(cut.extractor(images.clone())), model(images.clone()))
    assert len(set(map(bool, sums))) == 2  # both branches are taken


def test_a_scripted_part(x: Tensor) -> None:
    """A scripted submodule is run as it is, in eval mode, and its running statistics are left alone."""
    model = seeded(Net).train()
    model.neck = torch.jit.script(model.neck)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = explained(model, x, "blk")
    assert complaint(seeded(Net), x, result) is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_scripted_model_is_refused_without_unsafe_advice(x: Tensor, tmp_path: Any) -> None:
    """A TorchScript model, also one read from a file, is refused with a remedy that is safe."""
    torch.jit.script(seeded(Net)).save(str(tmp_path / "net.pt"))
    error = refused(lambda: grad_cam.explain(torch.jit.load(str(tmp_path / "net.pt")), x, target=1), "(?i)script")
    assert "weights_only=False" not in str(error)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: grad_cam.explain(3, x),
        lambda x: grad_cam.sweep("resnet18", x),
        lambda x: grad_cam.split(None, 2, x),
        lambda x: grad_cam.chain([], x),
        lambda x: grad_cam.verify(3, x),
    ],
)
def test_what_is_no_model_is_named(x: Tensor, call: Callable[[Tensor], Any]) -> None:
    """Anything but a module is refused with a type error that says what a model is."""
    with pytest.raises(TypeError, match="Module"):
        call(x)


def test_an_empty_layer_name(x: Tensor) -> None:
    """The empty name is refused, and not with an empty list of similar names."""
    error = refused(lambda: grad_cam.explain(seeded(Net), x, layer=""))
    assert not re.search(r"closest: *(\(|;|$)", str(error))


def test_integers_of_numpy_are_integers(x: Tensor) -> None:
    """`layer=np.int64(3)` is `layer=3`."""
    model = seeded(Net)
    assert grad_cam.explain(model, x, layer=np.int64(3), target=1).layer == explained(model, x, 3).layer
    assert grad_cam.split(model, np.int64(3), x).name == grad_cam.split(model, 3, x).name


@pytest.mark.parametrize("make", [lambda x: x.to_sparse(), lambda x: x.to("meta")], ids=["sparse", "meta"])
def test_images_without_plain_values(x: Tensor, make: Callable[[Tensor], Tensor]) -> None:
    """Sparse and meta tensors are refused by that word."""
    refused(lambda: grad_cam.explain(seeded(Net), make(x)), "(?i)sparse|meta|dense")


def test_a_model_without_values(x: Tensor) -> None:
    """A model on the meta device has nothing to explain, which is said."""
    refused(lambda: grad_cam.explain(seeded(Net).to("meta"), x), "(?i)meta")


@pytest.mark.parametrize("show", ["heatmap", "overlay", "figure"])
def test_a_threshold_that_is_no_number(x: Tensor, show: str) -> None:
    """The name of the setting and what it takes stand in the error."""
    result = grad_cam.explain(seeded(Net), x, target=1)
    with pytest.raises((TypeError, ValueError), match="threshold"):
        getattr(result, show)(threshold="a")


def test_saving_into_a_folder_that_is_not_there(x: Tensor, tmp_path: Any) -> None:
    """The folder is made, or the error is the package's own and names it."""
    result = grad_cam.explain(seeded(Net), x[:1], target=1)
    path = tmp_path / "new" / "map.png"
    try:
        result.save(path)
    except GradCamError as error:
        assert "new" in str(error)
        assert error.remedy
    else:
        assert path.exists()


def test_an_absurd_size_is_refused_before_anything_is_computed() -> None:
    """`chain(model, 10**6)` would need terabytes: the size is refused."""
    error = refused(lambda: grad_cam.chain(seeded(Net), 10**6))
    assert "1000000" in str(error).replace("_", "").replace(",", "")


def test_every_reading_of_the_oracle_is_another_one() -> None:
    """The readings that these tests compare with tell each other's activations apart."""
    from .oracle import as_map

    values = torch.randn(2, 8, 8, 8)
    assert not torch.allclose(as_map(values, (8, 8), "NCHW"), as_map(values, (8, 8), "NHWC"))
    tokens = torch.randn(2, 16, 16)
    assert not torch.allclose(as_map(tokens, (4, 4), "tokens"), as_map(tokens, (4, 4), "tokens last"))
    assert set(READINGS) == {"NCHW", "NHWC", "tokens", "tokens last"}


@pytest.mark.parametrize("method", ["activation_occlusion", "occlusion", "full_grad"])
@pytest.mark.parametrize(
    "name",
    ["halves_of_the_batch", "split_over_the_batch", "padded_batch", "mirrored_copies", "checkpoint_reentrant"],
)
def test_other_methods_work_or_are_refused_on_odd_models(name: str, method: str) -> None:
    """A forward that mixes or counts its batch gives a finite map or the package's own error, never a raw one."""
    entry = ZOO[name]
    for count in entry.batches[:2]:
        try:
            found = grad_cam.explain(entry.make(), entry.images(count), method=method, target=1)
        except GradCamError as error:
            assert error.what
            assert error.given
            assert error.remedy
        else:
            assert found.map.shape[0] == count
            assert torch.isfinite(found.map).all()


def test_full_gradient_of_a_forward_that_writes_what_autograd_saved() -> None:
    """`x += branch(x)` cannot be trained in PyTorch; FullGrad is that of the same model written x = x + branch(x)."""
    entry = ZOO["residual_in_place_that_cannot_be_trained"]
    images = entry.images(3)
    found = grad_cam.explain(entry.make(), images, method="full_grad", target=1)
    wanted = grad_cam.explain(entry.make_reference(), images, method="full_grad", target=1)
    torch.testing.assert_close(found.map, wanted.map)


def test_queries_of_a_detector_are_never_read_as_a_grid() -> None:
    """DETR with as many queries as positions: the encoder's grid is the picture's, the decoder's tokens are no map."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 16, 32, 32], depths=[1] * 4, layer_type="basic", out_features=["stage4"]
    )
    sizes = dict.fromkeys(("encoder_layers", "decoder_layers"), 2)
    sizes |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 64)
    config = transformers.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone_config=backbone, backbone=None, d_model=32,
        encoder_attention_heads=4, decoder_attention_heads=4, num_queries=49, num_labels=5, **sizes,
    )  # fmt: skip
    model = transformers.DetrForObjectDetection(config).eval()
    images = torch.randn(1, 3, 224, 224)

    def classes(out: Any) -> Tensor:
        return out.logits[:, :, :-1].amax(1)

    found = grad_cam.explain(model, images, output=classes)
    assert found.layer.name == "model.encoder"
    assert found.map.shape == (1, 7, 7)
    cutter = Cutter(model, images, classes)
    assert cutter.reading(cutter.cut("model.encoder"), careful=True).evidence == "confirmed"
    for layer in ("model.decoder", "model.decoder.layers.0"):
        with pytest.raises(GradCamError, match="not positions of the picture"):
            grad_cam.explain(model, images, layer=layer, output=classes)
