"""Layouts: the readings a shape allows, exact inverses, and equal by value to timm's own NCHW features."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import grad_cam
from grad_cam.layouts import Layout, LayoutError, candidates, named

from . import families


@pytest.mark.parametrize(
    ("shape", "size", "prefix", "wanted"),
    [
        ((2, 64, 56, 56), (224, 224), None, Layout("NCHW", (56, 56), 64)),
        ((2, 56, 56, 64), (224, 224), None, Layout("NHWC", (56, 56), 64)),
        ((2, 7, 10, 512), (224, 320), None, Layout("NHWC", (7, 10), 512)),
        ((2, 512, 7, 10), (224, 320), None, Layout("NCHW", (7, 10), 512)),
        ((2, 197, 192), (224, 224), 1, Layout("tokens", (14, 14), 192, 1)),
        ((2, 196, 192), (224, 224), 1, Layout("tokens", (14, 14), 192, 0)),
        ((2, 198, 192), (224, 224), 2, Layout("tokens", (14, 14), 192, 2)),
        ((2, 201, 192), (224, 224), 5, Layout("tokens", (14, 14), 192, 5)),
        ((2, 101, 64), (160, 160), 1, Layout("tokens", (10, 10), 64, 1)),
        ((2, 101, 64), (160, 160), None, Layout("tokens", (10, 10), 64, 1)),
        ((2, 49, 256), (224, 224), None, Layout("tokens", (7, 7), 256)),
        ((2, 141, 32), (160, 224), 1, Layout("tokens", (10, 14), 32, 1)),
        ((2, 192, 196), (224, 224), 0, Layout("tokens", (14, 14), 192, 0, axis=2)),
    ],
)
def test_the_true_reading_is_among_the_candidates(shape, size, prefix, wanted) -> None:
    """Every kind of activation has its own reading among those its shape allows, for square and oblong inputs."""
    assert wanted in candidates(shape, size, prefix)


@pytest.mark.parametrize("shape", [(2, 1280), (2, 3, 4, 5, 6)])
def test_shapes_without_two_spatial_axes_have_no_candidate(shape: tuple[int, ...]) -> None:
    """A vector and a volume are no map."""
    assert candidates(shape, (224, 224)) == []


def test_a_cube_has_both_readings() -> None:
    """(64, 64, 64) fits NCHW and NHWC alike: the shape cannot decide, so neither may be left out."""
    assert {c.name for c in candidates((1, 64, 64, 64), (256, 256))} == {"NCHW", "NHWC"}


ORDER = torch.randperm(35, generator=torch.Generator().manual_seed(0))
LAYOUTS = [
    (Layout("NCHW", (5, 7), 3), (2, 3, 5, 7)),
    (Layout("NHWC", (5, 7), 3), (2, 5, 7, 3)),
    (Layout("tokens", (5, 7), 3, prefix=2), (2, 37, 3)),
    (Layout("tokens", (5, 7), 3, axis=2), (2, 3, 35)),
    (Layout("tokens", (5, 7), 3, prefix=1, order=ORDER), (2, 36, 3)),
]


@pytest.mark.parametrize(("layout", "shape"), LAYOUTS)
def test_from_map_is_the_exact_inverse(layout: Layout, shape: tuple[int, ...]) -> None:
    """to_map and back gives the activation, prefix tokens included, also for more rows than images."""
    x = torch.randn(shape)
    maps = layout.to_map(x)
    assert maps.shape == (2, 3, 5, 7)
    assert torch.equal(layout.from_map(maps, x), x)
    assert torch.equal(layout.from_map(maps[:1].expand(4, -1, -1, -1), x[:1]), x[:1].expand(4, *shape[1:]))


def test_names_and_callables_given_by_the_user() -> None:
    """A layout can be forced by name or callable; what does not fit is refused with both shapes."""
    x = torch.randn(2, 17, 6)
    assert named("tokens", x, (64, 64), 1).grid == (4, 4)
    assert named("NHWC", torch.randn(2, 8, 8, 8), (64, 64)).channels == 8
    with pytest.raises(LayoutError, match="unknown layout 'BCHW'"):
        named("BCHW", x, (64, 64))
    with pytest.raises(LayoutError, match="cannot be read as NCHW"):
        named("NCHW", x, (64, 64))
    with pytest.raises(LayoutError, match=r"has to return \(B, C, H, W\)"):
        named(lambda t: t[:, 1:], x, (64, 64))
    made = named(lambda t: t[:, 1:].transpose(1, 2).reshape(2, 6, 4, 4), x, (64, 64))
    with pytest.raises(LayoutError, match="no inverse"):
        made.from_map(made.to_map(x), x)


ORACLE = [
    "convnext", "deit", "edgenext", "efficientnet", "eva", "ghostnet", "hiera", "mobilenetv3", "pvt_v2", "regnet",
    "resnet", "rexnet", "swin_transformer", "vision_transformer",
]  # fmt: skip


def compare_with_timm(model: nn.Module, side: int | None = None) -> tuple[int, int]:
    """How many of timm's feature levels equal an activation of the chain by value, and how many there are."""
    x = families.example(model, 2)
    if side is not None:
        x = x[..., :side, :side].clone()
    with torch.no_grad():
        wanted = model.forward_intermediates(x.clone(), output_fmt="NCHW", intermediates_only=True, norm=False)
    found = [False] * len(wanted)
    chain = grad_cam.chain(model, tuple(x.shape[-2:]), depth=4)
    with torch.no_grad():
        y = x.clone()
        for info, stage in zip(chain.stages, chain, strict=True):
            y = stage(y)
            if info.layout is not None:
                got = info.layout.to_map(y)
                found = [one or torch.equal(got, w) for one, w in zip(found, wanted, strict=True)]
    return sum(found), len(wanted)


@pytest.mark.parametrize("family", ORACLE)
def test_maps_equal_timms_own_features(family: str) -> None:
    """Every level of forward_intermediates in NCHW is found among the chain's activations, equal by value."""
    found, count = compare_with_timm(families.build(family))
    assert found == count > 1


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto", "resnet18"])
def test_oblong_inputs(name: str) -> None:
    """The same for inputs that are not square."""
    options = {"img_size": (192, 128)} if "vit" in name or "swin" in name else {}
    model = timm.create_model(name, pretrained_cfg_overlay={"input_size": (3, 192, 128)}, **options).eval()
    found, count = compare_with_timm(model)
    assert found == count > 1


@pytest.mark.slow
@pytest.mark.parametrize("family", [f for f in families.TIMM if f not in ORACLE])
def test_maps_equal_timms_own_features_everywhere(family: str) -> None:
    """The same for every family that has the function; the known departures are named."""
    departures = {  # two live tensors, sizes handed on with the tensor, or features taken where there is no border
        "coat", "crossvit", "efficientvim", "hrnet", "mobilenetv5", "nasnet", "nest", "pit", "pnasnet", "selecsls",
        "tnt", "xception", "xception_aligned",
    }  # fmt: skip
    model = families.build(family)
    if not hasattr(model, "forward_intermediates"):
        pytest.skip("has no forward_intermediates")
    found, count = compare_with_timm(model, families.SIDES.get(family))
    assert found == count or family in departures
