"""method="auto": what is taken of which model, and that the joined map is what a loop over the cuts gives."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import grad_cam
from grad_cam import automatic
from grad_cam.engine import score_function
from grad_cam.errors import GradCamError, LayerError


class Tower(nn.Module):
    """A convolutional classifier that shrinks on one path, in stages of residual blocks."""

    class Block(nn.Module):
        """A convolution, with a shortcut where the grid stays."""

        def __init__(self, inside: int, outside: int, stride: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
            self.bn, self.act, self.shortcut = nn.BatchNorm2d(outside), nn.ReLU6(), stride == 1

        def forward(self, x: Tensor) -> Tensor:
            """f(x), or x + f(x)."""
            y = self.act(self.bn(self.conv(x)))
            return x + y if self.shortcut else y

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        sizes = [(6, 8), (8, 10), (10, 12)]
        self.stages = nn.Sequential(
            *(nn.Sequential(self.Block(a, b, 2), self.Block(b, b, 1)) for a, b in sizes)
        )  # fmt: skip
        self.last, self.pool, self.flatten = nn.Conv2d(12, 14, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.fc = nn.Linear(14, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.fc(self.flatten(self.pool(self.last(self.stages(self.stem(x))))))


@pytest.fixture
def tower() -> nn.Module:
    """A tower with batch norms that do something, in eval mode."""
    torch.manual_seed(4)
    model = Tower()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def _each(model: nn.Module, images: Tensor, layers: list[str], target: Any) -> list[Tensor]:
    """HiResCAM with the rules at single layers, one call each."""
    given = {"method": "hires_cam", "rules": "balanced", "residual": 1.0, "target": target}
    return [grad_cam.explain(model, images, layer=layer, **given).map for layer in layers]


def test_transformer_is_the_mean_of_its_blocks(vit: nn.Module, batch: Tensor) -> None:
    """On a ViT with a class token, the mean over all blocks but the last, which has no map; the ledger closes."""
    found = grad_cam.explain(vit, batch, target=2, method="auto")
    wanted = sum(_each(vit, batch, ["blocks.0", "blocks.1"], 2)) / 2
    torch.testing.assert_close(found.map, wanted, rtol=1e-4, atol=1e-6)
    assert found.layer == ("blocks.0 ... blocks.1", None)
    assert found.title().endswith("HiResCAM + balanced, residual 1, mean of 2 layers at blocks.0 ... blocks.1")
    ledger = found.ledger()
    assert torch.allclose(ledger.score.float(), found.logits[:, 2], atol=1e-5)
    assert torch.allclose(ledger.map.float(), found.map.sum((1, 2)), atol=1e-5)
    assert float(ledger.gap.abs().max()) < 1e-5


def test_tower_is_the_mean_of_its_last_stages(tower: nn.Module, batch: Tensor) -> None:
    """On a CNN, by a loop over positions: stages from twice the last grid on, clipped, smooth, and the last twice."""
    names = ["stages.1.1", "stages.2.1", "last"]
    tower.stages.append(nn.Sequential(Tower.Block(12, 12, 1)).eval())  # the last stage, of which "last" stands
    found = grad_cam.explain(tower, batch, target=1, method="auto")
    maps = _each(tower, batch, names, 1)
    assert [m.shape[-1] for m in maps] == [8, 4, 4] and found.map.shape == (3, 8, 8)
    wanted = torch.zeros(3, 8, 8)
    for name, m, weight in zip(names, maps, (1, 1, 2), strict=True):
        share = _spread if m.shape[1] == 8 else _share
        for b in range(3):
            for row in range(8):
                for column in range(8):
                    value = 0.0
                    for r in range(m.shape[1]):
                        for c in range(m.shape[2]):
                            one = float(m[b, r, c]) if name == "last" else max(float(m[b, r, c]), 0.0)
                            value += share(row, r, m.shape[1]) * share(column, c, m.shape[2]) * one
                    wanted[b, row, column] += weight / 4 * value * (m.shape[1] / 8) ** 2
    torch.testing.assert_close(found.map, wanted, rtol=1e-4, atol=1e-6)
    assert found.layer == ("stages.1.1 ... last", None)
    with pytest.raises(GradCamError, match="has no ledger"):
        found.ledger()


def _share(place: int, source: int, count: int) -> float:
    """The weight of one of `count` values at one of 8 places, by linear interpolation between centres."""
    at = min(max((place + 0.5) * count / 8 - 0.5, 0), count - 1)
    return max(0.0, 1 - abs(at - source))


def _spread(place: int, source: int, count: int) -> float:
    """How much of a value comes to a place: half of its own, a quarter of each neighbour; beyond the border its own."""
    return sum(
        part for step, part in ((-1, 0.25), (0, 0.5), (1, 0.25)) if min(max(place + step, 0), count - 1) == source
    )


def test_enlarging_keeps_sums() -> None:
    """A map has the same sum on a finer grid, and smoothed."""
    m = torch.randn(2, 3, 7, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(automatic.smoothed(m).sum((-2, -1)), m.sum((-2, -1)), atol=1e-5)
    assert torch.allclose(automatic.enlarged(m, (14, 10)).sum((-2, -1)), m.sum((-2, -1)), atol=1e-5)


def test_several_targets_and_smoothing(vit: nn.Module, tower: nn.Module, batch: Tensor) -> None:
    """K targets at once are K calls, a batch is its images, and a mirrored image has the mirrored map on average."""
    for model in (vit, tower):
        both = grad_cam.explain(model, batch, target=[[2, 4]] * 3, method="auto")
        for k, c in enumerate((2, 4)):
            alone = grad_cam.explain(model, batch[1:2], target=c, method="auto").map
            torch.testing.assert_close(both.map[1:2, k], alone, rtol=1e-4, atol=1e-6)
        smooth = grad_cam.explain(model, batch[:1], target=2, method="auto", aug_smooth=True).map
        mirrored = grad_cam.explain(model, batch[:1].flip(-1), target=2, method="auto", aug_smooth=True).map
        torch.testing.assert_close(smooth, mirrored.flip(-1), rtol=1e-3, atol=1e-5)


class Scaled(nn.Module):
    """A classifier whose outputs are probabilities."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities (B, classes)."""
        return self.inner(x).softmax(1)


class Branching(Tower):
    """A tower that looks at its values before it goes on."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return super().forward(x * 2 if float(x.mean()) > 10 else x)


def _timm(name: str, **given: Any) -> nn.Module:
    return timm.create_model(name, num_classes=5, **given)


UNMEASURED = {
    "ResNet, which shrinks beside a shortcut": lambda: _timm("resnet10t"),
    "gates": lambda: _timm("mobilenetv3_small_050"),
    "norms of layers": lambda: _timm("convnext_atto"),
    "windows": lambda: _timm("swin_tiny_patch4_window7_224", img_size=64, window_size=2, embed_dim=12,
                             depths=(1, 1, 2, 1), num_heads=(1, 1, 1, 1)),
    "tokens without attention": lambda: _timm("mixer_s32_224", img_size=64),
    "attention over channels": lambda: _timm("xcit_nano_12_p16_224", img_size=64),
    "class attention": lambda: _timm("cait_xxs24_224", img_size=64, depth=3, embed_dim=48),
    "attention as a head": lambda: _timm("vit_tiny_patch16_224", img_size=64, depth=3, class_token=False,
                                         global_pool="map"),
    "probabilities": lambda: Scaled(Tower()),
    "a forward that depends on values": Branching,
    "features": lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0, depth=3),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNMEASURED)
def test_what_was_not_measured_takes_grad_cam(kind: str) -> None:
    """Other kinds of models, and what is no classifier, get Grad-CAM at the default cut, and no word about a change."""
    torch.manual_seed(0)
    model, x = UNMEASURED[kind]().eval(), torch.randn(1, 3, 64, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        found = grad_cam.explain(model, x)
    before = grad_cam.explain(model, x, method="grad_cam")
    assert (found.method, found.layer) == ("grad_cam", before.layer)
    assert torch.equal(found.map, before.map)


def test_segmentation_takes_grad_cam(batch: Tensor) -> None:
    """A model with a score for every pixel is no classifier, whatever the cost."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    target = lambda logits: logits[:, 1].mean((1, 2))  # noqa: E731
    for cost in ("pass", "unlimited"):
        assert grad_cam.explain(model, batch, target=target, cost=cost).method == "grad_cam"


def test_costs(tower: nn.Module, batch: Tensor) -> None:
    """The cheapest is Grad-CAM, the dearest region regression over the mean colour; there is no fourth."""
    tail = grad_cam.explain(tower, batch, target=1, method="auto", cost="tail")
    assert tail.method == "grad_cam" and torch.equal(
        tail.map, grad_cam.explain(tower, batch, target=1, method="grad_cam").map
    )
    best = grad_cam.explain(tower, batch, target=1, cost="unlimited")
    tower.preprocessing = grad_cam.loading.Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3)
    half = grad_cam.explain(tower, batch, target=1, cost="unlimited")
    assert best.layer.name == half.layer.name == "the input" and best.method == "region_regression"
    for found, fill in ((best, 0.0), (half, [-0.03, -0.088, -0.188])):
        wanted = grad_cam.explain(tower, batch, target=1, method="region_regression", fill=fill).map
        torch.testing.assert_close(found.map, wanted, rtol=1e-3, atol=1e-6)
    with pytest.raises(GradCamError, match="no such cost.*'free'.*tail, pass, unlimited"):
        grad_cam.explain(tower, batch, cost="free")


def test_default_is_auto_where_nothing_else_is_asked(tower: nn.Module, batch: Tensor) -> None:
    """With a layer, rules, a layout or another setting of a method, the method is Grad-CAM as ever."""
    auto = grad_cam.explain(tower, batch, target=1, method="auto")
    assert torch.equal(grad_cam.explain(tower, batch, target=1).map, auto.map)
    given: list[dict[str, Any]] = [
        {"layer": "last"}, {"rules": "balanced"}, {"eigen_smooth": True}, {"reshape_transform": "NCHW"},
    ]  # fmt: skip
    for settings in given:
        found = grad_cam.explain(tower, batch, target=1, **settings)
        named = grad_cam.explain(tower, batch, target=1, method="grad_cam", **settings)
        assert found.layer.name == "last" and torch.equal(found.map, named.map)
    layout = grad_cam.explain(tower, batch, target=1, method="auto", reshape_transform="NCHW")
    assert layout.method == "grad_cam"
    with pytest.raises(GradCamError, match="no layer to choose"):
        grad_cam.explain(tower, batch, method="auto", layer="last")
    with pytest.raises(GradCamError, match="rules mean nothing to auto"):
        grad_cam.explain(tower, batch, method="auto", rules="balanced")


def test_change_is_announced_once(tower: nn.Module, batch: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first default that is another than before warns, later ones and explicit ones do not."""
    monkeypatch.setattr(automatic, "_ANNOUNCED", [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grad_cam.explain(tower, batch, method="auto")
        grad_cam.explain(tower, batch, cost="pass")
        grad_cam.explain(tower, batch, layer="last", rules="balanced")
        grad_cam.explain(tower, batch, eigen_smooth=True)
    with pytest.warns(FutureWarning, match='stages.1.1 ... last; method="grad_cam" gives the map of before') as seen:
        grad_cam.explain(tower, batch)
        grad_cam.explain(tower, batch)
    assert len(seen) == 1 and seen[0].filename == __file__


def test_sweep_has_one_map(vit: nn.Module, batch: Tensor) -> None:
    """A sweep with auto is one explanation, as for every method of the whole network."""
    found = grad_cam.sweep(vit, batch, method="auto", target=3)
    assert len(found) == 1 and torch.equal(found[0].map, grad_cam.explain(vit, batch, method="auto", target=3).map)


def test_evidence_of_auto(tower: nn.Module, batch: Tensor) -> None:
    """The model can be asked about the joined map, which marks its own highest part."""
    found = grad_cam.explain(tower, batch, target=1, method="auto")
    judged = grad_cam.evidence(tower, found, 1)
    score = score_function(tower, batch, 1)(batch, torch.arange(3))
    assert judged.score == pytest.approx(float(score[1]), abs=1e-5) and "random maps" in judged.sentence


def test_its_layers_are_no_single_one(cnn: nn.Module, batch: Tensor) -> None:
    """The name of joined layers is refused with what to give instead."""
    found = grad_cam.explain(cnn, batch, method="auto")
    with pytest.raises(LayerError, match="several layers") as refused:
        grad_cam.explain(cnn, batch, layer=found.layer.name, method="hires_cam")
    assert 'method="auto"' in str(refused.value)
