"""What a sweep over all blocks of a network costs, beside other libraries called layer by layer.

    python benchmarks/sweep.py [--quick] [--threads 1]

One image at 224, the predicted class, Grad-CAM at the output of every block. pytorch-grad-cam and torchcam take a list
of layers, but torchcam only as feature maps in NCHW; they are called both once for each layer, as their examples do,
and once with the list. The other calls of `grad_cam.explain` are there to show what one pass saves.
"""

from __future__ import annotations

import common
import torch
from common import Run
from torch import Tensor, nn

import grad_cam

MODELS = ("resnet50", "vit_small_patch16_224")
LIMIT = 3.0


def blocks(model: nn.Module, images: Tensor) -> list[str]:
    """Module paths of the layers that the sweep explains and that are modules of the model."""
    names = [one.layer.name for one in grad_cam.sweep(model, images, layers="blocks")]
    known = dict(model.named_modules())
    return [name for name in names if name in known]


def contenders(model: nn.Module, images: Tensor, layers: list[str]) -> dict[str, Run]:
    """Everything that is timed."""
    runs: dict[str, Run] = {
        "forward": common.forward(model, images),
        "grad_cam.sweep": lambda: grad_cam.sweep(model, images, layers="blocks"),
        "grad_cam.explain, layer by layer": lambda: [grad_cam.explain(model, images, layer=n) for n in layers],
    }
    from pytorch_grad_cam import GradCAM

    modules = [model.get_submodule(name) for name in layers]
    plain = not hasattr(model, "cls_token")
    reshape = None if plain else common.tokens_to_map

    def rival(some: list[nn.Module]) -> object:
        with GradCAM(model, some, reshape_transform=reshape) as cam:
            return cam(images, None)

    runs["pytorch-grad-cam, layer by layer"] = lambda: [rival([module]) for module in modules]
    runs["pytorch-grad-cam, list of layers"] = lambda: rival(modules)  # one averaged map, not one for each
    if plain:
        from captum.attr import LayerGradCam
        from torchcam.methods import GradCAM as TorchcamGradCAM

        def torchcam(some: list[str]) -> object:
            with TorchcamGradCAM(model, target_layer=some) as cam:
                logits = model(images)
                return cam(logits.argmax(1).tolist(), logits)

        runs["torchcam, layer by layer"] = lambda: [torchcam([name]) for name in layers]
        runs["torchcam, list of layers"] = lambda: torchcam(layers)
        with torch.no_grad():
            best = model(images).argmax(1)
        runs["captum, layer by layer"] = lambda: [
            LayerGradCam(model, m).attribute(images, target=best) for m in modules
        ]
    return runs


def child(model_name: str, name: str, device: str, layers: list[str]) -> float:
    """Peak memory of one contender in MB over the loaded model."""
    model, images = common.build(model_name, device), common.pictures(1, device)
    run = contenders(model, images, layers)[name]
    with common.quiet():
        run()
    common.clear(model)
    return common.peak_of(run, device)


def main() -> None:
    """Measures and prints both models."""
    given = common.begun(__doc__.splitlines()[0], child=child)
    for device in common.devices(given.device):
        for model_name in MODELS:
            if given.only not in model_name:
                continue
            model, images = common.build(model_name, device), common.pictures(1, device)
            layers = blocks(model, images)
            rounds = given.rounds or (5 if given.quick else 15)
            runs = contenders(model, images, layers)
            slow = [name for name in runs if name.endswith("layer by layer")]  # about a second or more: fewer rounds
            times = common.alternate({name: run for name, run in runs.items() if name not in slow}, rounds)
            few = 1 if given.quick else max(2, rounds // 5)
            runs["grad_cam.explain, layer by layer"]()  # finding each cut is done once
            again = common.alternate({name: runs[name] for name in ("forward", *slow)}, few, warmup=0)
            rows = [["", "time", "x forward", "CPU time x", "peak memory", ""]]
            for name in runs:
                one = again if name in slow else times
                r, c = common.ratio(one, name), common.ratio(one, name, clock="cpu")
                row = [name, common.milliseconds(one[name]), f"{r:.2f}", f"{c:.2f}", ""]
                if not given.quick:
                    found = common.in_child(__file__, model_name=model_name, name=name, device=device, layers=layers)
                    row[-1] = "not measured" if isinstance(found, dict) else f"{found:.0f} MB"
                ours = name == "grad_cam.sweep"
                rows.append([*row, common.verdict(common.judged(times, name, device=device), LIMIT) if ours else ""])
            common.table(
                f"{model_name}, {len(layers)} layers, batch 1, {device} ({rounds} rounds; layer by layer {few})", rows
            )


if __name__ == "__main__":
    main()
