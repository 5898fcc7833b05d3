"""What every method costs in forward passes, counted operation by operation: `python -m docs.workshop.costs`.

The floating point operations of matrix products and convolutions, forward and backward, over those of one plain
forward pass. They depend on the model and the picture's size, and neither on the machine nor on its load.
"""

from __future__ import annotations

import datetime
import json
import sys
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .cards import DATA, methods


def operations(run: Any) -> int:
    """The operations of a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


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
            try:
                spent = operations(
                    lambda model=model, images=images, name=name: grad_cam.explain(model, images, target=0, method=name)
                )
            except GradCamError as error:
                print(f"{name}, {title}: {str(error)[:100]}", file=sys.stderr)
                continue
            found.setdefault(name, {})[key] = round(spent / once, 2)
            print(f"{name:28} {title:28} {spent / once:8.2f}", flush=True)
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
