"""What the zoo knows of each of its models, and the small network that most of them vary."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

OPERATIONS = ("named", "default", "sweep", "ablation", "chain", "split", "verify", "mistakes")
"""What is done with every model: explained at its named layer and at the default one, swept, ablated, cut, verified,
and asked for a layer and a class that it does not have."""

ALL = frozenset(OPERATIONS) - {"mistakes"}
"""`expect=ALL`: the forward is plain tensor code, so a refusal of anything is a defect."""

GRADIENTS = frozenset(("named", "default", "sweep"))
"""`expect=GRADIENTS`: gradient methods must be right; what needs other activations may be refused with the reason."""

NOTHING: frozenset[str] = frozenset()
"""`expect=NOTHING` (the default): right or refused, never wrong."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    Attributes:
        name: What the tests call it.
        kind: The group it stands in.
        factory: Makes the model; called under a fixed seed, so that two calls give equal weights.
        layer: The layer that is explained by name: a path, or a function from the model to the module.
        expect: The operations that must be right; the others may be refused.
        refuse: The operations that must be refused, because no right answer exists.
        skip: The operations whose right answer is a matter of taste.
        size: Height and width of the images.
        channels: Channels of the images.
        batches: Batch sizes explained one after the other; the first is used for everything else.
        target: The class that is explained.
        train: Whether the user hands it over in training mode.
        read: How activations lie: paths (or "*") to "NCHW", "NHWC" or "tokens"; four axes are NCHW by default.
        logits: Takes the logits from what the model returns; None for a tensor, or an entry `logits` or `out`.
        fix: Arguments with which a refused operation works.
        change: What the user changes on the model between two calls.
        ambient: A context that is active around every call.
        tolerance: Largest difference of maps, relative to the largest value.
        fused: Whether PyTorch has a fused inference path for it, whose logits differ in the last bits.
        reference: Makes the model that is compared with, if it is not another call of `factory`.
        needs: Packages without which the model is skipped.
        raises: The user's own error that every call must let through.
        mentions: A regular expression that every refusal of the model must match.
    """

    name: str
    kind: str
    factory: Callable[[], nn.Module]
    layer: str | Callable[[nn.Module], nn.Module] = "blk"
    expect: frozenset[str] = NOTHING
    refuse: frozenset[str] = NOTHING
    skip: frozenset[str] = NOTHING
    size: tuple[int, int] = (32, 32)
    channels: int = 3
    batches: tuple[int, ...] = (3, 1, 5)
    target: int = 1
    train: bool = True
    read: dict[str, str] = dataclasses.field(default_factory=dict)
    logits: Callable[[Any], Tensor] | None = None
    fix: dict[str, Any] | None = None
    change: Callable[[nn.Module], None] | None = None
    ambient: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    dtype: torch.dtype = torch.float32
    tolerance: float = 1e-4
    fused: bool = False
    reference: Callable[[], nn.Module] | None = None
    needs: tuple[str, ...] = ()
    raises: BaseException | None = None
    mentions: str = ""

    def make(self) -> nn.Module:
        """The user's model, in the mode the user left it in."""
        torch.manual_seed(0)
        model = self.factory()
        settle(model)
        if self.train and not getattr(model, "keeps_its_mode", False):
            model.train()
        elif not self.train:
            model.eval()
        return model

    def make_reference(self) -> nn.Module:
        """An independent model with the same weights in eval mode."""
        torch.manual_seed(0)
        model = (self.reference or self.factory)()
        settle(model)
        return model.eval()

    def images(self, count: int) -> Tensor:
        """A batch of random images."""
        generator = torch.Generator().manual_seed(10 + count)
        return torch.randn(count, self.channels, *self.size, generator=generator).to(self.dtype)

    def missing(self) -> str | None:
        """The package that is not installed, if one is."""
        return next((name for name in self.needs if importlib.util.find_spec(name) is None), None)


ZOO: dict[str, Entry] = {}


def zoo(name: str, kind: str, **facts: Any) -> Callable[[Any], Any]:
    """Registers a class or a function without arguments that makes a model."""

    def register(factory: Any) -> Any:
        if name in ZOO:
            raise ValueError(f"there are two models called {name}")
        ZOO[name] = Entry(name, kind, factory, **facts)
        return factory

    return register


def settle(model: nn.Module) -> None:
    """Gives batch norms statistics that no batch has, so that training mode gives other logits than eval mode."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        mean, var = (getattr(module, name, None) for name in ("running_mean", "running_var"))
        if isinstance(mean, Tensor) and isinstance(var, Tensor):
            mean.copy_(torch.randn(mean.shape, generator=generator) * 0.1)
            var.copy_(torch.rand(var.shape, generator=generator) + 0.5)


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A convolution, a batch norm and a smooth activation."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.SiLU())


class Net(nn.Module):
    """Four parts in a row; most models of the zoo change one thing about it."""

    def __init__(self, channels: int = 3, classes: int = 5, width: int = 6) -> None:
        super().__init__()
        self.stem = block(channels, width, 2)
        self.blk = block(width, width)
        self.neck = block(width, width, 2)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(width, classes)

    def head(self, x: Tensor) -> Tensor:
        """Logits of a feature map."""
        return self.fc(self.drop(x.mean((2, 3))))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.neck(self.blk(self.stem(x))))


def after(change: Callable[[Net], Any]) -> Callable[[], Net]:
    """A factory of the plain network after a change to it."""

    @functools.wraps(change)
    def make() -> Net:
        model = Net()
        change(model)
        return model

    return make
