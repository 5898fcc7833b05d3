"""What every method costs in forward passes, counted operation by operation: `python -m docs.workshop.costs`.

The floating point operations of matrix products and convolutions, forward and backward, over those of one plain
forward pass. They depend on the model and the picture's size, and neither on the machine nor on its load. Methods that
score changed copies of the picture are stopped at the first chunk: their number is known then.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import sys
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .cards import DATA, methods


class _Counter(TorchDispatchMode):
    """Adds up the operations of matrix products, convolutions and attention, also in a backward pass."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry:
            self.total += int(flop_registry[packet](*args, **(kwargs or {}), out_val=out))
        elif "flash_attention_for_cpu" in str(packet):
            query, key = args[1:3] if "backward" in str(packet) else args[:2]
            batch, heads, length, width = query.shape
            products = 5 if "backward" in str(packet) else 2
            self.total += 2 * products * batch * heads * length * key.shape[-2] * width
        return out


def operations(run: Any) -> int:
    """The operations of a call."""
    with _Counter() as counter:
        run()
    return counter.total


class _Enough(Exception):
    """The number of copies is known."""


def copies(run: Any) -> int:
    """How many changed copies a call is going to score."""
    totals: list[int] = []

    def stop(done: int, total: int) -> None:
        totals.append(total)
        raise _Enough

    with contextlib.suppress(_Enough):
        run(stop)
    return totals[0]


def models() -> dict[str, tuple[str, nn.Module, int]]:
    """The two models: what they are called, and the side of their pictures."""
    import timm

    torch.manual_seed(0)
    return {
        "cnn": ("EfficientNet-Lite0 at 224", timm.create_model("tf_efficientnet_lite0").eval(), 224),
        "vit": ("ViT-S/16 at 224", timm.create_model("vit_small_patch16_224").eval(), 224),
    }


def measure(only: list[str]) -> dict[str, Any]:
    """Costs of the methods, or of those named, on both models; a refusal has none."""
    import grad_cam
    from grad_cam import METHODS
    from grad_cam.errors import GradCamError

    found: dict[str, dict[str, float]] = {}
    titles = {}
    for key, (title, model, side) in models().items():
        titles[key] = title
        images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            once = operations(lambda model=model, images=images: model(images))
        grad_cam.explain(model, images, target=0, method="grad_cam")  # the record is made once, and not counted
        for name in only or methods():
            ask = functools.partial(grad_cam.explain, model, images, target=0, method=name)
            try:
                if "score" in METHODS[name].ingredients:
                    times = 1.0 + copies(lambda stop, ask=ask: ask(progress=stop))
                else:
                    times = operations(ask) / once
                    if not METHODS[name].one_pass:
                        times = operations(ask) / once  # what it records at its first call is not counted
            except GradCamError as error:
                print(f"{name}, {title}: {str(error)[:100]}", file=sys.stderr)
                continue
            found.setdefault(name, {})[key] = round(times, 2)
            print(f"{name:28} {title:28} {times:8.2f}", flush=True)
    return {"models": titles, "methods": found}


def main() -> None:
    """Measures and writes `docs/data/costs.json`; names given are measured anew, the others kept."""
    path = DATA / "costs.json"
    only = sys.argv[1:]
    known = json.loads(path.read_text(encoding="utf-8"))["methods"] if only and path.exists() else {}
    made = measure(only)
    made["methods"] = {**known, **made["methods"]}
    made["date"] = datetime.date.today().isoformat()
    made["machine"] = f"torch {torch.__version__}, counted operations"
    path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
