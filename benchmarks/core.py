"""What one explanation costs over a plain forward pass, beside other libraries; and how quickly the package starts.

    python benchmarks/core.py [--quick] [--device cpu|cuda] [--threads 1]

Every contender explains the predicted class of the same images at the same layer of the same model in the same
process. captum is told the class, the others find it. Peak memory is taken over the loaded model, in one process for
each contender, after a small warm-up.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import common
import torch
from common import Run
from torch import Tensor, nn

import grad_cam

MODELS = {"resnet50": (1, 16), "vit_small_patch16_224": (1, 16), "efficientnet_b0": (1, 16)}
TIME, MEMORY = 1.10, 1.10  # the aims, set for ResNet-50; memory at batch 16


def ours(model: nn.Module, images: Tensor, layer: str) -> Run:
    """grad_cam.explain at its default layer."""
    return lambda: grad_cam.explain(model, images, method="grad_cam")


def pytorch_grad_cam(model: nn.Module, images: Tensor, layer: str) -> Run:
    """GradCAM of the package grad-cam."""
    from pytorch_grad_cam import GradCAM

    reshape = common.tokens_to_map if layer.startswith("blocks.") and hasattr(model, "cls_token") else None

    def run() -> object:
        with GradCAM(model, [model.get_submodule(layer)], reshape_transform=reshape) as cam:
            return cam(images, None)

    return run


def torchcam(model: nn.Module, images: Tensor, layer: str) -> Run | None:
    """GradCAM of torchcam, which wants feature maps in NCHW."""
    from torchcam.methods import GradCAM

    if hasattr(model, "cls_token"):
        return None

    def run() -> object:
        with GradCAM(model, target_layer=layer) as cam:
            logits = model(images)
            return cam(logits.argmax(1).tolist(), logits)

    return run


def captum(model: nn.Module, images: Tensor, layer: str) -> Run | None:
    """LayerGradCam of captum, which wants feature maps in NCHW."""
    from captum.attr import LayerGradCam

    if hasattr(model, "cls_token"):
        return None
    with torch.no_grad():
        classes = model(images).argmax(1)
    return lambda: LayerGradCam(model, model.get_submodule(layer)).attribute(images, target=classes)


CONTENDERS = {
    "grad_cam.explain": ours,
    "pytorch-grad-cam": pytorch_grad_cam,
    "torchcam": torchcam,
    "captum": captum,
}


def contender(name: str, model: nn.Module, images: Tensor, layer: str) -> Run | None:
    """One contender ready to run; None if it cannot explain this model."""
    if name == "forward":
        return common.forward(model, images)
    return CONTENDERS[name](model, images, layer)


def child(model_name: str, name: str, batch: int, device: str, layer: str) -> float:
    """Peak memory of one contender, in MB over the loaded model."""
    model = common.build(model_name, device)
    warm = contender(name, model, common.pictures(1, device), layer)
    images = common.pictures(batch, device)
    run = contender(name, model, images, layer)
    assert warm is not None and run is not None
    with common.quiet():
        warm()
        warm()
    common.clear(model)
    return common.peak_of(run, device)


def costs(model_name: str, batch: int, device: str, rounds: int, memory: bool) -> None:
    """Prints the table of one model and batch size."""
    model, images = common.build(model_name, device), common.pictures(batch, device)
    common.forward(model, images)()
    start = time.perf_counter()
    layer = grad_cam.chain(model).default_split().name
    once = time.perf_counter() - start
    runs = {name: contender(name, model, images, layer) for name in ("forward", *CONTENDERS)}
    times = common.alternate({name: run for name, run in runs.items() if run is not None}, rounds)
    peaks: dict[str, float] = {}
    if memory:
        for name in times:
            found = common.in_child(__file__, model_name=model_name, name=name, batch=batch, device=device, layer=layer)
            peaks[name] = float("nan") if isinstance(found, dict) else found
    rows = [["", "time", "time x forward", "CPU time x forward", "peak memory", "memory x forward", "aim"]]
    for name, run in runs.items():
        if run is None:
            rows.append([name, "-", "", "", "-", "", "needs NCHW feature maps"])
            continue
        r = common.ratio(times, name)
        row = [name, common.milliseconds(times[name]), f"{r:.2f}", f"{common.ratio(times, name, clock='cpu'):.2f}"]
        row += [f"{peaks[name]:.0f} MB", f"{peaks[name] / peaks['forward']:.2f}"] if name in peaks else ["", ""]
        aim = ""
        if name == "grad_cam.explain" and model_name == "resnet50":
            aim = f"time {common.verdict(common.judged(times, name, device=device), TIME)}"
            if name in peaks and batch == 16:
                aim += f", memory {common.verdict(peaks[name] / peaks['forward'], MEMORY)}"
        rows.append([*row, aim])
    common.table(
        f"{model_name} at {common.SIZE}, batch {batch}, {device}, layer '{layer}' "
        f"({rounds} rounds; splitting it, once: {once:.2f} s)",
        rows,
    )


def starting(rounds: int) -> None:
    """Prints how long an import and the help of the command line take, beside a bare import of torch."""
    cli = "grad_cam.interfaces.cli"
    commands = {
        "python -c 'import torch'": "import torch",
        "python -c 'import torch, timm, numpy, PIL'": "import torch, timm, numpy, PIL.Image",
        "python -c 'import grad_cam'": "import grad_cam",
        "python -c 'from grad_cam import explain'": "from grad_cam import explain",
        "grad-cam --help": f"import sys; sys.argv[1:] = ['--help']; from {cli} import main; main()",
    }
    environment = {**os.environ, "PYTHONPATH": str(common.ROOT), "COLUMNS": "100"}

    def start(code: str) -> Run:
        return lambda: subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)

    times = common.alternate({name: start(code) for name, code in commands.items()}, rounds)
    rows, base = [["", "time", "x import torch", "CPU time x"]], next(iter(times))
    for name in times:
        r, c = common.ratio(times, name, base), common.ratio(times, name, base, "cpu")
        rows.append([name, common.milliseconds(times[name]), f"{r:.2f}", f"{c:.2f}"])
    common.table(f"Starting ({rounds} rounds)", rows)
    code = "import sys, torch; old = set(sys.modules); from grad_cam import explain; print(*(set(sys.modules) - old))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    ).stdout.split()
    heavy = [m for m in ("timm", "torchvision", "matplotlib", "PIL.Image", "rich", "gradio", "scipy") if m in loaded]
    print(f"  `from grad_cam import explain` loads, beside torch: {', '.join(heavy) or 'nothing heavy'}")


def main() -> None:
    """Measures and prints everything."""
    given = common.begun(__doc__.splitlines()[0], child=child)
    if given.only in "starting":
        starting(given.rounds or (3 if given.quick else 7))
    for device in common.devices(given.device):
        for model_name, batches in MODELS.items():
            for batch in batches:
                if given.only not in f"{model_name} {batch}":
                    continue
                usual = {1: 15, 16: 5} if given.quick else {1: 41, 16: 9}
                memory = not given.quick or (model_name, batch) == ("resnet50", 16)
                costs(model_name, batch, device, given.rounds or usual[batch], memory)


if __name__ == "__main__":
    main()
