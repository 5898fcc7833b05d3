"""Videos and volumes: maps of three axes at every model family, shown as strips, refused where they mean nothing."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.video import S3D, VideoResNet, resnet
from torchvision.models.video.mvit import MSBlockConfig, MViT
from torchvision.models.video.swin_transformer import SwinTransformer3d

import grad_cam
from grad_cam.errors import GradCamError
from grad_cam.layouts import Layout, candidates
from grad_cam.loading import Geometry, Preprocessing
from grad_cam.methods import METHODS, MethodError
from grad_cam.rendering import Display
from grad_cam.rendering.volumes import chosen_frames, volume_heat
from grad_cam.volumes import VolumeExplanation

transformers = pytest.importorskip("transformers")

_SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
}


def _conv3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(4, 6, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def _r3d() -> nn.Module:
    layers: Any = [resnet.Conv3DSimple] * 4
    return VideoResNet(resnet.BasicBlock, layers, [1, 1, 1, 1], resnet.BasicStem, num_classes=3)


def _mvit() -> nn.Module:
    blocks = [
        MSBlockConfig(heads, before, 32, [3, 3, 3], [3, 3, 3], [1, *q], [1, *kv])
        for heads, before, q, kv in ((1, 16, (1, 1), (2, 2)), (2, 32, (2, 2), (1, 1)), (2, 32, (1, 1), (1, 1)))
    ]
    return MViT((64, 64), 8, blocks, residual_pool=True, residual_with_cls_embed=False, rel_pos_embed=True,
                proj_after_attn=True, num_classes=3)  # fmt: skip


def _swin3d() -> nn.Module:
    return SwinTransformer3d([2, 4, 4], 16, [2, 2], [2, 4], [4, 4, 4], num_classes=3)


def _videomae() -> nn.Module:
    config = transformers.VideoMAEConfig(num_frames=8, tubelet_size=2, num_labels=3, patch_size=8, **_SMALL)
    return transformers.VideoMAEForVideoClassification(config)


def _timesformer() -> nn.Module:
    config = transformers.TimesformerConfig(num_frames=6, num_labels=3, patch_size=8, **_SMALL)
    return transformers.TimesformerForVideoClassification(config)


def _vivit() -> nn.Module:
    config = transformers.VivitConfig(num_frames=8, tubelet_size=[2, 8, 8], num_labels=3, **_SMALL)
    return transformers.VivitForVideoClassification(config)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "conv3d": (_conv3d, (1, 8, 16, 20), (4, 8, 10)),
    "r3d": (_r3d, (3, 8, 64, 48), (1, 4, 3)),
    "mvit": (_mvit, (3, 8, 64, 64), (4, 8, 8)),
    "swin3d": (_swin3d, (3, 8, 64, 64), (4, 8, 8)),
    "videomae": (_videomae, (8, 3, 32, 32), (4, 4, 4)),
    "timesformer": (_timesformer, (6, 3, 32, 32), (6, 4, 4)),
    "vivit": (_vivit, (8, 3, 32, 32), (4, 4, 4)),
}  # fmt: skip


def _made(name: str) -> tuple[nn.Module, Tensor, tuple[int, ...]]:
    make, shape, grid = MODELS[name]
    torch.manual_seed(0)
    return make().eval(), torch.randn(2, *shape), grid


def _hooked(model: nn.Module, images: Tensor, path: str, target: int) -> tuple[Tensor, Tensor]:
    """The activation at a module and the gradient of the logit there, by a hook and a plain backward."""
    kept: list[Tensor] = []
    module = model.get_submodule(path)
    handle = module.register_forward_hook(lambda m, a, out: kept.append(next(t for t in _tensors(out))))
    out = model(images)
    handle.remove()
    logits = out if isinstance(out, Tensor) else out.logits
    (gradient,) = torch.autograd.grad(logits[:, target].sum(), kept[-1])
    return kept[-1].detach(), gradient


def _tensors(out: Any) -> list[Tensor]:
    if isinstance(out, Tensor):
        return [out]
    values = out.values() if hasattr(out, "values") else out
    return [t for part in values for t in (_tensors(part) if part is not None and not isinstance(part, int) else [])]


def _positions(terms: Tensor, grid: tuple[int, ...], order: str) -> Tensor:
    """Terms (B, C, T, H, W), (B, T, H, W, C) or tokens (B, N, C), summed over channels, as a map (B, t, h, w)."""
    if terms.ndim == 5:
        return terms.sum(1) if terms.shape[2:] == grid else terms.sum(-1)
    sums = terms.sum(2)[:, -int(np.prod(grid)) :]
    if order == "places":
        return sums.reshape(len(sums), *grid[1:], grid[0]).permute(0, 3, 1, 2)
    return sums.reshape(len(sums), *grid)


@pytest.mark.parametrize("name", MODELS)
def test_maps_against_hooks(name: str) -> None:
    """HiResCAM and Grad-CAM at the default layer are those of a hook, one frame after the other."""
    model, images, grid = _made(name)
    order = "places" if name == "timesformer" else "frames"
    found = grad_cam.explain(model, images, target=1, method="hires_cam")
    assert isinstance(found, VolumeExplanation) and found.map.shape == (2, *grid)
    activation, gradient = _hooked(model, images, found.layer.name, 1)
    wanted = _positions(activation * gradient, grid, order)
    torch.testing.assert_close(found.map, wanted, rtol=1e-3, atol=1e-6)
    plain = grad_cam.explain(model, images, target=1)
    if activation.ndim == 5:
        axes = (2, 3, 4) if activation.shape[2:] == grid else (1, 2, 3)
        weights = gradient.mean(axes, keepdim=True)
    else:
        weights = gradient[:, -int(np.prod(grid)) :].mean(1, keepdim=True)
        activation = activation[:, -int(np.prod(grid)) :]
    torch.testing.assert_close(plain.map, _positions(activation * weights, grid, order), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_planted_truth_in_space_and_time(name: str) -> None:
    """Where one patch of some frames is changed, the map of the difference lies in those frames, at that patch."""
    model, images, _ = _made(name)
    images = images[:1]
    first = name in ("videomae", "timesformer", "vivit")
    frames = images.shape[1 if first else 2]
    layer = {"conv3d": "2", "r3d": "stem", "mvit": "conv_proj", "swin3d": "patch_embed"}.get(name)
    layer = layer or next(n for n, _ in model.named_modules() if n.endswith("embeddings"))
    changed = images.clone()
    clip = changed if not first else changed.transpose(1, 2)
    height, width = images.shape[-2:]
    part = clip[:, :, frames // 2 : frames // 2 + 2, height // 4 : height // 2, width // 2 : 3 * width // 4]
    part += 5.0

    def positions(x: Tensor) -> Tensor:
        return grad_cam.explain(
            model, x, layer=layer, target=0, method=lambda activations, gradients: activations.abs().sum(1)
        ).map[0]

    def vector(x: Tensor) -> Tensor:
        return grad_cam.explain(model, x, layer=layer, target=0, method=lambda activations, gradients:
                                activations[:, 0] * 1.0 + gradients.sum(1) * 0).map[0]  # fmt: skip

    moved = (vector(changed) - vector(images)).abs() + (positions(changed) - positions(images)).abs()
    t, y, x = (int(i) for i in torch.unravel_index(moved.argmax(), moved.shape))
    depth, rows, columns = moved.shape
    assert frames // 2 - 1 <= (t + 0.5) * frames / depth <= frames // 2 + 3
    assert height // 4 - 2 <= (y + 0.5) * height / rows <= height // 2 + 2
    assert width // 2 - 2 <= (x + 0.5) * width / columns <= 3 * width // 4 + 2


class _Flash(nn.Module):
    """Only brightness in the last frame, on the left, speaks for class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv3d(3, 2, 1, bias=False)
        nn.init.constant_(self.features.weight, 1.0)
        self.head = nn.Linear(2 * 6 * 8 * 8, 2, bias=False)
        weight = torch.zeros(2, 2, 6, 8, 8)
        weight[1, :, 5, :, :4] = 1
        self.head.weight.data = weight.flatten(1)

    def forward(self, clip: Tensor) -> Tensor:
        out: Tensor = self.head(self.features(clip).flatten(1))
        return out


def _clip() -> Tensor:
    torch.manual_seed(0)
    return torch.rand(1, 3, 6, 8, 8) + 0.5


@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if not m.no_volumes and m.name != "random_cam"])
def test_planted_truth_for_every_method(method: str) -> None:
    """All evidence of methods that read the gradient lies in the one frame and half that can matter."""
    found = grad_cam.explain(_Flash().eval(), _clip(), layer="features", target=1, method=method)
    assert found.map.shape == (1, 6, 8, 8) and bool(found.map.isfinite().all())
    if method in ("hires_cam", "layer_cam", "grad_cam_element_wise", "norm_grad"):
        there = found.map[0, 5, :, :4].abs().sum()
        assert float(there / found.map.abs().sum()) > 0.999


def test_ablation_against_a_loop() -> None:
    """Ablation-CAM writes into the activation: each channel alone, in a loop, gives the same map."""
    model, images, _ = _made("conv3d")
    found = grad_cam.explain(model, images, layer="5", target=2, method="ablation_cam")
    with torch.no_grad():
        activation = model[:6](images)  # type: ignore[index]
        whole = model[6:](activation)[:, 2]  # type: ignore[index]
        total = torch.zeros_like(activation[:, 0])
        for k in range(activation.shape[1]):
            without = activation.clone()
            without[:, k] = 0
            lost = whole - model[6:](without)[:, 2]  # type: ignore[index]
            total += lost[:, None, None, None] * activation[:, k]
    scale = (found.map.flatten(1).norm(dim=1) / total.flatten(1).norm(dim=1))[:, None, None, None]
    sign = (found.map * total).flatten(1).sum(1).sign()[:, None, None, None]
    torch.testing.assert_close(found.map, total * scale * sign, rtol=1e-3, atol=1e-6)


def test_rules_close_the_books() -> None:
    """With rules, map and rest add up to the score, in three axes as in two."""
    model, images, _ = _made("conv3d")
    found = grad_cam.explain(model, images, layer="5", target=1, method="hires_cam", rules="balanced")
    parts = found.ledger().parts(0, 0)
    assert abs(sum(parts.values()) - float(found.logits[0, 1])) < 1e-4
    assert abs(parts["map"] - float(found.map[0].sum())) < 1e-4


def test_layouts_are_exact_inverses() -> None:
    """Reading and writing back is the identity for every form; tokens beside their frames are told from the others."""
    for shape in ((2, 5, 4, 6, 3), (2, 4, 6, 3, 5), (2, 1 + 4 * 2 * 2, 6)):
        for layout in candidates(shape, (4, 60, 30) if len(shape) == 5 else (4, 16, 16), 1):
            values = torch.randn(shape)
            maps = layout.to_map(values)
            assert maps.shape == (2, layout.channels, *layout.folded)
            assert torch.equal(layout.from_map(maps, values), values)
    both = [one for one in candidates((1, 16, 6), (4, 16, 16)) if one.grid == (4, 2, 2)]
    assert [one.order is None for one in both] == [True, False]
    tokens = torch.arange(16.0)[None, :, None].expand(1, 16, 6)
    assert both[0].unfolded(both[0].to_map(tokens))[0, 0, 1, 0, 0] == 4  # the second frame begins after four places
    assert both[1].unfolded(both[1].to_map(tokens))[0, 0, 1, 0, 0] == 1  # the second frame of the first place
    assert Layout("NCDHW", (1, 1, 1), 3).is_single


def test_verification_and_halves() -> None:
    """`verify` compares gradients and positions on volumes as well, and halves are the model."""
    model, images, _ = _made("conv3d")
    checked = grad_cam.verify(model, images)
    assert not checked.problems, checked.problems
    extractor, classifier = grad_cam.split(model, "4", images)
    torch.testing.assert_close(classifier(extractor(images)), model(images))


def _explained(count: int = 12) -> VolumeExplanation:
    model = _Flash().eval()
    model.preprocessing = Preprocessing(mean=(0,) * 3, std=(1,) * 3, size=(8, 8))  # type: ignore[assignment]
    found = grad_cam.explain(model, _clip() / 2, layer="features", target=1, method="hires_cam")
    assert isinstance(found, VolumeExplanation)
    return found


def test_pictures_of_a_map(tmp_path: pathlib.Path) -> None:
    """One scale for all frames: only the last is coloured; strip, overlay, file and animation show it."""
    found = _explained()
    heat = found.heatmap(smoothing=0, threshold=0)
    assert heat.shape == (1, 6, 8, 8) and heat.max() == 1 and heat[0, 5].max() == 1 and heat[0, 2].max() == 0
    strip = found.figure()
    assert any("frame 6" in text.get_text() for axis in strip.axes for text in axis.texts) or len(strip.axes) >= 12
    assert found.overlay(smoothing=0).size == (6 * 8, 8)
    shown = np.asarray(found.overlay(smoothing=0))
    plain = np.concatenate(list(found.pictures[0]), 1)
    assert np.array_equal(shown[:, :40], plain[:, :40]) and not np.array_equal(shown[:, 40:], plain[:, 40:])
    (written,) = found.save(tmp_path / "strip.png")
    assert Image.open(written).width > Image.open(written).height
    movie = Image.open(found.animate(tmp_path / "clip.gif"))
    assert getattr(movie, "n_frames", 1) == 6
    with pytest.raises(FileExistsError):
        found.animate(tmp_path / "clip.gif")


def test_heat_of_a_volume_against_a_loop() -> None:
    """Frames between two of the map are interpolated; each frame is what the two-dimensional heatmap would show."""
    raw = np.random.default_rng(0).normal(size=(2, 3, 4))
    got = volume_heat(raw, (4, 6, 8), Display(threshold=0, smoothing=0)).values
    frames = [raw[0], 0.75 * raw[0] + 0.25 * raw[1], 0.25 * raw[0] + 0.75 * raw[1], raw[1]]
    wanted = [grad_cam.rendering.heatmap(np.abs(raw).max() * np.ones((3, 4)), (6, 8)) for _ in frames]
    assert got.shape == (4, 6, 8) and len(wanted) == 4
    for t, frame in enumerate(frames):
        alone = grad_cam.rendering.heatmap(frame, (6, 8))
        top = got[t].max()
        np.testing.assert_allclose(got[t], alone * top, atol=1e-6)
    assert chosen_frames(np.zeros((5, 2, 2), np.float32)) == [0, 1, 2, 3, 4]
    late = np.zeros((40, 2, 2), np.float32)
    late[29] = 1
    assert len(chosen_frames(late)) == 8 and 29 in chosen_frames(late)


def test_several_targets() -> None:
    """K targets of a video are (B, K, t, h, w); a figure of several has to be told which."""
    found = grad_cam.explain(_Flash().eval(), _clip(), layer="features", target=[[0, 1]], method="hires_cam")
    assert found.map.shape == (1, 2, 6, 8, 8) and found.raw(0, 1).shape == (6, 8, 8)
    with pytest.raises(GradCamError, match=r"figure\(image=0, target=0\)"):
        found.figure()
    assert found.figure(0, 1) is not None


def test_back_in_the_original() -> None:
    """A map of a volume returns to the stored axes, with NIfTI's matrix."""
    where = Geometry((12, 16, 16), (0, 0, 0), (12, 16, 16), order=(2, 1, 0), flipped=(False, True, True))
    found = grad_cam.explain(_Flash().eval(), _clip(), layer="features", target=1, method="hires_cam", geometry=where)
    back = found.to_original()
    assert back.values.shape == (16, 16, 12)
    x, y, z = np.nonzero(back.mask(0.5))
    assert z.min() >= 9 and x.min() >= 7  # the last frames; the left half, counted from the other side


def test_wrong_use_is_refused() -> None:
    """Everything that would read frames as targets, or cover squares of one picture, says so."""
    model, clip = _Flash().eval(), _clip()
    for method in ("score_cam", "rise", "occlusion", "attention_rollout", "full_grad", "activation_occlusion",
                   "deep_feature_factorization", "guided_backprop"):  # fmt: skip
        with pytest.raises(MethodError, match="no map of a video or volume"):
            grad_cam.explain(model, clip, target=1, method=method)
    with pytest.raises(MethodError, match="fuse"):
        grad_cam.explain(model, clip, layer=["features"], fuse="mean")
    found = grad_cam.explain(model, clip, layer="features", target=1, method="hires_cam")
    swept = grad_cam.sweep(model, clip, layers=["features"], target=1)
    with pytest.raises(GradCamError, match="takes regions of a picture away"):
        grad_cam.evidence(model, found)
    for refused in (found.map_figure, swept.figure, swept.curves, lambda: swept.report("x.html"),
                    lambda: swept.animate("x.gif"), lambda: swept.save("folder")):  # fmt: skip
        with pytest.raises(GradCamError):
            refused()
    with pytest.raises(GradCamError, match="not of videos"):
        grad_cam.metrics.srg(torch.zeros(1, 8, 8), clip, lambda x, i: x.flatten(1).sum(1)[:, None])
    with pytest.raises(GradCamError, match=r"\(B, C, H, W\)"):
        grad_cam.explain(model, clip[0, 0], target=1)


class _Frames(nn.Module):
    """A network of pictures that is run on every frame, and its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, clip: Tensor) -> Tensor:
        frames = self.conv(clip.transpose(1, 2).flatten(0, 1)).relu()  # (B*T, C, H, W)
        found: Tensor = self.head(frames.mean((2, 3))).unflatten(0, (len(clip), -1)).mean(1)
        return found


def test_frames_run_as_pictures() -> None:
    """Rows that are frames of all videos are refused with the function that sorts them, and right with it."""
    torch.manual_seed(0)
    model, clips = _Frames().eval(), torch.randn(2, 3, 5, 8, 8)
    with pytest.raises(GradCamError, match=r"unflatten\(0, \(-1, T\)\)"):
        grad_cam.explain(model, clips, layer="conv", target=1)
    found = grad_cam.explain(
        model, clips, layer="conv", target=1, method="hires_cam",
        reshape_transform=lambda a: a.unflatten(0, (-1, 5)).transpose(1, 2),
    )  # fmt: skip
    activation, gradient = _hooked(model, clips, "conv", 1)
    torch.testing.assert_close(found.map, (activation * gradient).sum(1).unflatten(0, (2, 5)))


@pytest.mark.slow
def test_s3d_and_medical_networks() -> None:
    """S3D at its own size, and a DenseNet and a UNet of MONAI."""
    torch.manual_seed(0)
    found = grad_cam.explain(S3D(num_classes=3).eval(), torch.randn(1, 3, 16, 224, 224), target=1, method="hires_cam")
    assert found.map.shape == (1, 2, 7, 7)
    nets = pytest.importorskip("monai.networks.nets")
    dense = nets.DenseNet(3, 1, 4, block_config=(2, 2), init_features=8, growth_rate=4).eval()
    assert grad_cam.explain(dense, torch.randn(1, 1, 32, 32, 32)).map.shape == (1, 4, 4, 4)
    unet = nets.UNet(3, 1, 2, channels=(4, 8, 16), strides=(2, 2)).eval()
    volume = torch.randn(1, 1, 16, 16, 16)
    inside = torch.zeros(16, 16, 16)
    inside[4:8, 4:8, 4:8] = 1

    def target(logits: Tensor) -> Tensor:
        return (logits[:, 1] * inside).sum((1, 2, 3))

    found = grad_cam.explain(unet, volume, layer="model.1.submodule", target=target, method="hires_cam")
    assert found.map.ndim == 4 and bool(found.map.isfinite().all())


@pytest.mark.slow
def test_monais_unet_against_a_hook() -> None:
    """The map of a class in a part of a volume, at the bottom of the U and above it, is that of a plain backward."""
    nets = pytest.importorskip("monai.networks.nets")
    torch.manual_seed(0)
    unet = nets.UNet(3, 1, 2, channels=(8, 16, 32, 64), strides=(2, 2, 2), num_res_units=2).eval()
    volumes = torch.randn(2, 1, 32, 32, 32)

    def target(logits: Tensor) -> Tensor:
        return logits[:, 1, 8:16, 8:16, 8:16].sum((1, 2, 3))

    for layer in ("model.1.submodule.1.submodule.1.submodule", "model.1.submodule.1", "model.0"):
        kept: list[Tensor] = []
        handle = unet.get_submodule(layer).register_forward_hook(lambda module, given, out, kept=kept: kept.append(out))
        score = target(unet(volumes)).sum()
        handle.remove()
        (gradient,) = torch.autograd.grad(score, kept[0])
        found = grad_cam.explain(unet, volumes, layer=layer, target=target, method="hires_cam")
        wanted = (kept[0] * gradient).sum(1)
        assert found.map.shape == wanted.shape and found.map.ndim == 4
        torch.testing.assert_close(found.map, wanted.detach(), rtol=1e-4, atol=1e-5)
