"""One run over the pictures: the logits, and the features of each picture at every cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..depths import depth_of
from ..errors import LayerError
from ..introspection import matched_to
from ..layouts import Layout
from ..outputs import Output
from ..splitting.cuts import Cutter
from ..splitting.plan import Cut
from ..splitting.public import network_of, open_images
from .pictures import Pictures

FLAT = 8192
"""Features of a cut without positions are taken as they are up to this number."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A cut of the model.

    Attributes:
        name: Module path.
        layer_idx: Number of stages after it, or None within a stage.
        grid: Height and width of its map, or None where it carries none.
        note: Why it carries none, or "".
        features: Number of pooled features.
        at: Where the cut lies along the forward pass, 0..1, as its share of the recorded operations.
    """

    name: str
    layer_idx: int | None
    grid: tuple[int, int] | None
    note: str
    features: int
    at: float


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """What one run over the pictures gave.

    Attributes:
        places: The cuts, from the picture to the logits.
        pooled: For each cut the pooled features, (N, C): the mean over the positions and, where there are prefix
            tokens, beside it the first of them.
        logits: (N, classes).
        small: The pictures scaled down, (N, 4, 32, 32): their colours, 0..1, and how much they vary between pixels.
    """

    places: tuple[Place, ...]
    pooled: tuple[Tensor, ...]
    logits: Tensor
    small: Tensor


SMALL = 32


@torch.inference_mode(False)
def features_of(
    model: nn.Module, pictures: Pictures, *, batch_size: int, output: Output = None,
    progress: Callable[[int, int], None] | None = None,
) -> Features:  # fmt: skip
    """Runs the model over all pictures once."""
    inner = network_of(model)
    pooled: list[list[Tensor]] = []
    logits, small, cutter, which = [], [], None, _Cuts([], [])
    for some, images in pictures.batches(range(len(pictures)), batch_size):
        images = matched_to(inner, images)
        with torch.no_grad():
            if cutter is None:
                cutter = open_images(inner, images, output, 1)
                which = _cuts(cutter)
                pooled = [[] for _ in which.cuts]
            else:
                cutter = cutter.for_images(images)
            taken = cutter.take_all(which.cuts)
        logits.append(taken.logits.detach()[: len(some)].float().cpu())
        for kept, raw, layout in zip(pooled, taken.activations, which.layouts, strict=True):
            kept.append(_pooled(raw.detach(), layout)[: len(some)].float().cpu())
        small.append(_scaled_down(torch.from_numpy(pictures.shown(images[: len(some)]))))
        if progress is not None:
            progress(some[-1] + 1, len(pictures))
    joined = tuple(torch.cat(each) for each in pooled)
    places = tuple(
        dataclasses.replace(place, features=each.shape[1]) for place, each in zip(which.places, joined, strict=True)
    )
    return Features(places, joined, torch.cat(logits), torch.cat(small))


def _scaled_down(shown: Tensor) -> Tensor:
    """Pictures, uint8 (n, H, W, 3), as `Features.small` has them."""
    colours = shown.permute(0, 3, 1, 2).float() / 255
    grey = torch.nn.functional.pad(colours.mean(1, keepdim=True), (0, 1, 0, 1), mode="replicate")
    change = (grey[:, :, 1:, :-1] - grey[:, :, :-1, :-1]).abs() + (grey[:, :, :-1, 1:] - grey[:, :, :-1, :-1]).abs()
    return torch.nn.functional.adaptive_avg_pool2d(torch.cat([colours, change], 1), SMALL)


@dataclasses.dataclass
class _Cuts:
    """Cuts, how each is read, and where it lies."""

    cuts: list[Cut]
    layouts: list[Layout | None]
    places: list[Place] = dataclasses.field(default_factory=list)


def _cuts(cutter: Cutter) -> _Cuts:
    """The cuts of the blocks (of the stages, where those carry no map), each with how it is read."""
    depth, mapped, skipped = depth_of(cutter, "auto")
    why = {layer.name: note for layer, note in skipped}
    plan, found, before = cutter.record.plan, _Cuts([], []), None
    listed = {cut.value: cut for cut in mapped}
    for border in cutter.borders_at(depth)[:-1]:
        unchanged = before is not None and plan.is_unchanged(before, border)
        before = border
        if not unchanged and border.value not in listed:
            listed[border.value] = cutter.at_border(border)
    for cut in sorted(listed.values(), key=lambda each: each.position):
        layout = cutter.reading(cut).layout
        shape = plan.log.shapes[cut.value]
        size = 1
        for side in shape[1:]:
            size *= side
        if layout is None and size > FLAT:
            continue
        carries = any(cut.value == each.value for each in mapped)
        note = "" if carries else why.get(cut.name, "no map")
        found.cuts.append(cut)
        found.layouts.append(layout)
        plane = layout is not None and carries and len(layout.grid) == 2
        grid = (layout.grid[0], layout.grid[1]) if layout is not None and plane else None
        at = cut.position / max(1, len(plan.log.events))
        found.places.append(Place(cut.name, cut.layer_idx, grid, note, 0, at))
    if not found.cuts:
        raise LayerError("no cut of the model holds features", type(cutter.model).__name__, "study another model")
    return found


def _pooled(raw: Tensor, layout: Layout | None) -> Tensor:
    """Features of each image, (B, C)."""
    if layout is None:
        return raw.flatten(1)
    means = layout.to_map(raw).flatten(2).mean(2)
    if layout.name != "tokens" or not layout.prefix:
        return means
    tokens = raw if layout.axis == 1 else raw.transpose(1, 2)
    return torch.cat([means, tokens[:, 0]], 1)


def mapped_places(places: Sequence[Place]) -> list[int]:
    """The numbers of the cuts that carry a map."""
    return [n for n, place in enumerate(places) if place.grid is not None]
