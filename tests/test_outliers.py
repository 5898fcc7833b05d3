"""Outlier tokens are named where they are, and nowhere else."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

import grad_cam
from grad_cam.introspection import prefix_tokens
from grad_cam.outliers import FACTOR, Outlier, outliers, warning_of


def _loop(activations: Tensor) -> list[list[tuple[int, int]]]:
    """The tokens over FACTOR times the median norm of their grid, image by image."""
    found = []
    for image in activations:
        norms = {
            (y, x): float(image[:, y, x].square().sum().sqrt())
            for y in range(image.shape[1]) for x in range(image.shape[2])
        }  # fmt: skip
        usual = sorted(norms.values())[(len(norms) - 1) // 2]
        found.append(sorted((p for p, n in norms.items() if n >= FACTOR * usual), key=lambda p: -norms[p]))
    return found


def test_positions_against_a_loop() -> None:
    """Rows and columns are those of a slow loop, the largest first."""
    torch.manual_seed(0)
    activations = torch.randn(3, 6, 5, 7)
    activations[0, :, 3, 6] *= 40
    activations[0, :, 1, 2] *= 90
    activations[2, :, 4, 0] *= 25
    found = outliers(activations, (5, 7))
    assert [[one.position for one in row] for row in found] == _loop(activations)
    assert [len(row) for row in found] == [2, 0, 1]
    assert outliers(activations[..., :2, :2], (2, 2)) == ((), (), ())  # too few to say what is usual
    assert warning_of(()) is None
    text = warning_of((Outlier((3, 7), 40.2), Outlier((1, 1), 9.0)))
    assert text == "token (3, 7) has 40x the usual norm (1 more like it): known artefact, not evidence"


class _Storing(nn.Module):
    """A block that adds a huge vector to one token, as trained transformers do to patches of the background."""

    def forward(self, tokens: Tensor) -> Tensor:
        place = torch.zeros_like(tokens)
        place[:, -1] = 50.0
        return tokens + place


def _transformer(**more: int) -> nn.Module:
    torch.manual_seed(0)
    return timm.models.VisionTransformer(
        img_size=40, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=3, global_pool="avg", **more
    ).eval()


def test_a_planted_outlier_is_in_every_note() -> None:
    """The last patch of the grid is named in the note, the title, the warning and the sweep; a plain model has none."""
    model = _transformer()
    images = torch.randn(2, 3, 40, 40)
    assert grad_cam.explain(model, images, layer="blocks.0", method="hires_cam").outliers == ((), ())
    model.blocks[0].ls2 = _Storing()
    found = grad_cam.explain(model, images, layer="blocks.0", method="hires_cam")
    assert [one.position for one in found.outliers[1]] == [(4, 4)]
    note = found.note(1)
    assert note is not None and note.startswith("token (4, 4) has ")
    assert note.endswith("x the usual norm: known artefact, not evidence")
    assert any(note in text.get_text() for text in found.figure(1).texts)
    assert "is token" not in " ".join(text.get_text() for text in found.figure(1).texts)
    assert all(one.note() and "(4, 4)" in str(one.note()) for one in grad_cam.sweep(model, images, layers=["blocks.0"]))
    fused = grad_cam.explain(model, images, layer=["blocks.0", "blocks.1"], fuse="mean")
    assert fused.outliers == ()


def test_patches_that_no_block_has_seen_are_evidence() -> None:
    """A patch may be far brighter than the others: where patches are made this is the picture, and no artefact."""
    images = 0.01 * torch.randn(1, 3, 40, 40)
    images[..., 8:16, 16:24] = 3.0
    model = _transformer()
    model.patch_embed.proj.bias.data.zero_()
    first = grad_cam.explain(model, images, layer="patch_embed", method="hires_cam")
    assert float(first.map.abs().amax()) > 0 and first.outliers == ()
    assert first.note() is None or "artefact" not in str(first.note())


def test_positions_of_a_convolution_are_no_tokens() -> None:
    """A feature map may be strong at one place alone: that is evidence."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.zeros(1, 1, 8, 8)
    images[0, 0, 2, 3] = 1000
    assert grad_cam.explain(model, images, layer="0").outliers == ((),)[:0]


@pytest.mark.parametrize("class_token", [True, False])
def test_registers_are_no_positions(class_token: bool) -> None:
    """A model with registers keeps them before its grid: they are recognised, and never a place in the map."""
    model = _transformer(reg_tokens=4, class_token=class_token)
    assert prefix_tokens(model) == 4 + class_token
    found = grad_cam.explain(model, torch.randn(1, 3, 40, 40), layer="blocks.0")
    assert found.map.shape == (1, 5, 5)


def test_registers_of_hugging_face() -> None:
    """DINOv2 with registers, read from its own parameters."""
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=40, patch_size=8, num_register_tokens=3,
        num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Dinov2WithRegistersForImageClassification(config).eval()
    assert prefix_tokens(model) == 4
    assert grad_cam.explain(model, torch.randn(1, 3, 40, 40)).map.shape == (1, 5, 5)
