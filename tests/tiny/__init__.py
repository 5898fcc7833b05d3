"""Tiny nets trained on drawn shapes, so that figures of detectors, segmenters and their like show something true.

`tiny.load("detector")` gives one with its weights, `shapes.scenes(...)` draws pictures for it, and
``python -m tests.tiny.train`` trains them all again. A net is a function in a module of this folder, decorated with
`tiny.net`; its weights lie beside it as ``NAME.safetensors``, at most 1 MB.
"""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
from collections.abc import Callable

import torch
from torch import nn

FOLDER = pathlib.Path(__file__).parent
MODULES = ("vision", "moving", "tokens")
"""The modules of this folder that hold nets."""

MOST_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class Net:
    """A net: how it is built, and how it is trained from nothing."""

    name: str
    build: Callable[[], nn.Module]
    train: Callable[[nn.Module], str]


NETS: dict[str, Net] = {}


def net(train: Callable[..., str]) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Registers the function that builds a net, under its name.

    Args:
        train: Trains what was built, in place, from a fixed seed; says in a sentence how good it got.
    """

    def register(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        NETS[build.__name__] = Net(build.__name__, build, train)
        return build

    return register


def nets() -> dict[str, Net]:
    """All nets by name."""
    for module in MODULES:
        importlib.import_module(f"{__name__}.{module}")
    return NETS


def load(name: str) -> nn.Module:
    """A trained net in eval mode."""
    from safetensors.torch import load_file

    with torch.random.fork_rng():
        model = nets()[name].build()
    model.load_state_dict(load_file(FOLDER / f"{name}.safetensors"))
    return model.eval()
