"""State-space and recurrent models: a table of what is exact, and what is refused with the reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

import grad_cam
from grad_cam.errors import GradCamError


class Scan(nn.Module):
    """A selective state space over tokens, written as a loop: h = exp(A dt) h + dt B x, y = C h (Gu and Dao, 2023)."""

    def __init__(self, channels: int, states: int = 4, both: bool = False) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.rand(channels, states))
        self.select = nn.Linear(channels, 2 * states + channels)
        self.norm, self.both, self.states = nn.LayerNorm(channels), both, states

    def _one_way(self, x: Tensor) -> Tensor:
        into, out, steps = self.select(x).split([self.states, self.states, x.shape[2]], 2)
        steps = functional.softplus(steps)
        state = x.new_zeros(len(x), x.shape[2], self.states)
        found = []
        for t in range(x.shape[1]):
            decay = torch.exp(-self.rates * steps[:, t, :, None])
            state = decay * state + steps[:, t, :, None] * into[:, t, None] * x[:, t, :, None]
            found.append((state * out[:, t, None]).sum(2))
        return torch.stack(found, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, C)."""
        x = self.norm(tokens)
        y = self._one_way(x)
        if self.both:
            y = y + self._one_way(x.flip(1)).flip(1)
        return tokens + y


class ScanNet(nn.Module):
    """A vision model of state spaces: patches, two scans, their mean (or the last token) and a linear head."""

    def __init__(self, both: bool = True, last: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 8, 8)
        self.blocks = nn.Sequential(Scan(12, both=both), Scan(12, both=both))
        self.head, self.last = nn.Linear(12, 3), last

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, 40, 40)."""
        tokens = self.blocks(self.patches(images).flatten(2).transpose(1, 2))
        out: Tensor = self.head(tokens[:, -1] if self.last else tokens.mean(1))
        return out


class Recurrent(nn.Module):
    """Convolutions, and a recurrent head that reads their map row by row as a sequence."""

    def __init__(self, kind: type[nn.RNNBase], **options: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 5, 4, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU())
        self.memory = kind(8, 10, batch_first=True, **options)
        self.head = nn.Linear(10 * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, 40, 40)."""
        sequence, _ = self.memory(self.features(images).flatten(2).transpose(1, 2))
        out: Tensor = self.head(sequence[:, -1])
        return out


class Packed(Recurrent):
    """The same with packed sequences, whose type is no tensor."""

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, 40, 40)."""
        tokens = self.features(images).flatten(2).transpose(1, 2)
        packed = nn.utils.rnn.pack_padded_sequence(tokens, torch.full((len(tokens),), tokens.shape[1]), True)
        _, (state, _) = self.memory(packed)
        out: Tensor = self.head(state[-1])
        return out


class Cells(nn.Module):
    """A recurrent cell called once for every column of the map."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 5, 4, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU())
        self.cell, self.head = nn.GRUCell(8, 10), nn.Linear(10, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, 40, 40)."""
        columns = self.features(images).mean(2)  # (B,C,w)
        state = columns.new_zeros(len(columns), 10)
        for column in columns.unbind(2):
            state = self.cell(column, state)
        out: Tensor = self.head(state)
        return out


EXACT: dict[str, tuple[Callable[[], nn.Module], int, str]] = {
    "scan, both ways": (ScanNet, 40, "blocks.0"),
    "scan, one way, last token": (lambda: ScanNet(False, True), 40, "blocks.0"),
    "LSTM head": (lambda: Recurrent(nn.LSTM), 40, "features"),
    "LSTM head, both ways": (lambda: Recurrent(nn.LSTM, bidirectional=True), 40, "features"),
    "GRU head": (lambda: Recurrent(nn.GRU), 40, "features"),
    "packed LSTM head": (lambda: Packed(nn.LSTM), 40, "features"),
    "GRU cells": (Cells, 40, "features"),
    "MambaOut": (lambda: timm.create_model("mambaout_femto", num_classes=3, dims=(8, 16, 24, 32),
                                           depths=(1, 1, 1, 1)), 64, "stages.2"),
    "Sequencer": (lambda: timm.create_model("sequencer2d_s", num_classes=3, img_size=64, layers=(1, 1, 1, 1),
                                            embed_dims=(16, 32, 32, 32), hidden_sizes=(4, 8, 8, 8)), 64, "stages.1"),
}  # fmt: skip
"""What is exact: how it is made, the side of its images, and a layer."""


def _by_hook(model: nn.Module, images: Tensor, path: str, grid: tuple[int, int]) -> Tensor:
    """HiResCAM of logit 1 by a hook and a plain backward."""
    kept: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_hook(lambda m, a, out: kept.append(out))
    score = model(images)[:, 1].sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, kept[0])
    terms = kept[0] * gradient
    if terms.ndim == 3:
        return terms.sum(2).reshape(len(terms), *grid)
    return terms.sum(1) if terms.shape[2:] == grid else terms.sum(3)


@pytest.mark.parametrize("name", EXACT)
def test_exact(name: str) -> None:
    """Maps are those of a hook, at a layer before the recurrence; a sweep finds layers, and the model is as it was."""
    make, side, layer = EXACT[name]
    torch.manual_seed(0)
    model = make()
    model.train()
    images = torch.randn(2, 3, side, side)
    found = grad_cam.explain(model, images, layer=layer, target=1, method="hires_cam")
    assert model.training
    grid = (int(found.map.shape[1]), int(found.map.shape[2]))
    torch.testing.assert_close(found.map, _by_hook(model.eval(), images, layer, grid), rtol=1e-3, atol=1e-6)
    assert len(grad_cam.sweep(model, images, target=1)) >= 1


def test_planted_truth_of_a_scan() -> None:
    """A scan that forgets nothing carries evidence from where it is: the map lies at the only patch that matters."""
    torch.manual_seed(0)
    model = ScanNet(both=False, last=True).eval()
    for block in model.blocks:
        block.rates.data.zero_()  # type: ignore[union-attr]
    images = torch.zeros(1, 3, 40, 40)
    images[..., 8:16, 24:32] = 1.0
    moved = images.clone()
    moved[..., 8:16, 24:32] = 2.0
    difference = (
        grad_cam.explain(model, moved, layer="blocks.0", target=1, method="hires_cam").map
        - grad_cam.explain(model, images, layer="blocks.0", target=1, method="hires_cam").map
    ).abs()[0]
    row, column = divmod(int(difference.argmax()), 5)
    assert row * 5 + column >= 8 and float(difference.flatten()[:8].sum()) < 1e-5  # nothing before it in the scan


class Fast(torch.autograd.Function):
    """A recurrence written by hand, as fused kernels are, in the forward of the model itself."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x.cumsum(1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return gradient.flip(1).cumsum(1).flip(1)


class Fused(nn.Module):
    """A model whose own forward calls a fused kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, 40, 40)."""
        tokens: Tensor = Fast.apply(self.features(images).flatten(2).transpose(1, 2))
        out: Tensor = self.head(tokens.square().mean(1))
        return out


def test_fused_kernels_are_exact_or_refused() -> None:
    """A hand-written kernel: gradients are exact by running the model itself; what would replay it says why not."""
    torch.manual_seed(0)
    model, images = Fused().eval(), torch.randn(2, 3, 40, 40)
    found = grad_cam.explain(model, images, layer="features", target=1, method="hires_cam")
    torch.testing.assert_close(found.map, _by_hook(model, images, "features", (5, 5)), rtol=1e-4, atol=1e-7)
    try:
        halves = grad_cam.split(model, "features", images)
    except GradCamError as error:
        assert error.what and error.remedy
    else:
        torch.testing.assert_close(halves.classifier(halves.extractor(images)), model(images))


def test_no_positions_after_a_recurrence() -> None:
    """What a recurrent layer returns last has no positions: refused, with a layer that has some."""
    model, images = Recurrent(nn.LSTM).eval(), torch.randn(1, 3, 40, 40)
    with pytest.raises(GradCamError) as caught:
        grad_cam.explain(model, images, layer="head", target=1)
    assert caught.value.remedy
