"""What the first explanation of a model costs, in plain forward passes, beside later ones and other libraries.

    python benchmarks/first_call.py [--quick] [--threads 1] [--models resnet50 swin] [--families [NAME ...]]

A person with one picture pays all of a library's set-up. In every round each contender explains one picture with a
model nobody has used, a deep copy made before the clock starts; the plain forward pass in the same round is that of
an identical model. Figures are medians over the rounds of contender / forward. What a process pays only once, such as
imports, is paid before with a tiny model of another kind.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import math
import os
import statistics
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import common
import torch
from common import Run, Time
from torch import Tensor, nn

import grad_cam
from grad_cam.splitting.store import STORE

MODELS = {
    "ResNet-50": "resnet50",
    "ViT-S": "vit_small_patch16_224",
    "DeiT3-B": "deit3_base_patch16_224",
    "Swin-T": "swin_tiny_patch4_window7_224",
    "ConvNeXt-T": "convnext_tiny",
    "EfficientNet-B0": "efficientnet_b0",
    "MobileNetV3-S": "mobilenetv3_small_100",
    "Lite0": "tf_efficientnet_lite0",
}
AIMS = ((40.0, 2.0), (15.0, 4.0))  # at most so many forwards for models whose forward takes so many ms or more
BATCH = 16  # for peak memory
PEAK = 1.3  # at most so many times the forward's, over what a record keeps at most
SEVERAL = 0.25  # seconds of plain forwards to measure in a round; at least one, at most nine


def plain(model: nn.Module, images: Tensor) -> Run:
    """A plain forward pass in eval mode."""

    def run() -> object:
        with torch.no_grad():
            return model(images)

    return run


def explain(model: nn.Module, images: Tensor) -> object:
    """Grad-CAM at the default layer."""
    return grad_cam.explain(model, images, method="grad_cam")


# --------------------------------------------------------------------------------------------------- other libraries


class Place(NamedTuple):
    """Where the others take their map: the module path, and how to read its output as (B, C, h, w) if it is not."""

    layer: str
    read: Callable[[Tensor], Tensor] | None


def place(model: nn.Module, images: Tensor) -> Place | None:
    """The default layer of this package, if it is a module that hooks can be put on."""
    cut = grad_cam.split(model, grad_cam.explain(model, images, method="grad_cam").layer.name, images)
    if cut.name not in dict(model.named_modules()) or isinstance(model.get_submodule(cut.name), nn.ModuleList):
        return None
    assert cut.layout is not None
    return Place(cut.name, None if cut.layout.name == "NCHW" else cut.layout.to_map)


def pytorch_grad_cam(model: nn.Module, images: Tensor, where: Place) -> object:
    """GradCAM of the package grad-cam."""
    from pytorch_grad_cam import GradCAM

    with GradCAM(model, [model.get_submodule(where.layer)], reshape_transform=where.read) as cam:
        return cam(images, None)


def torchcam(model: nn.Module, images: Tensor, where: Place) -> object:
    """GradCAM of torchcam, which wants feature maps in NCHW."""
    from torchcam.methods import GradCAM

    with GradCAM(model, target_layer=where.layer) as cam:
        logits = model(images)
        return cam(logits.argmax(1).tolist(), logits)


def captum(model: nn.Module, images: Tensor, where: Place) -> object:
    """LayerGradCam of captum, which wants feature maps in NCHW, and is told the class by a forward pass of its own."""
    from captum.attr import LayerGradCam

    with torch.no_grad():
        classes = model(images).argmax(1)
    return LayerGradCam(model, model.get_submodule(where.layer)).attribute(images, target=classes)


OTHERS: dict[str, tuple[Callable[[nn.Module, Tensor, Place], object], bool]] = {  # the second: reads NCHW only
    "pytorch-grad-cam": (pytorch_grad_cam, False),
    "torchcam": (torchcam, True),
    "captum": (captum, True),
}


# ---------------------------------------------------------------------------------------------------------- measuring


def prepare() -> None:
    """Pays what a process pays once: imports and the first use of every library."""
    import timm

    tiny = timm.create_model("resnet10t", num_classes=4).eval()
    images = common.pictures(1, size=64)
    with common.quiet():
        for method in ("grad_cam", "hires_cam"):
            grad_cam.explain(tiny, images, method=method)
        where = Place("layer4", None)
        for run, _ in OTHERS.values():
            try:
                run(tiny, images, where)
            except ImportError:
                continue


class Costs(NamedTuple):
    """Median times of the plain forward (s) and ratios to it, by contender and clock."""

    forward: Time
    ratios: dict[str, Time]


def measure(model: nn.Module, images: Tensor, where: Place | None, rounds: int) -> Costs:
    """Times the contenders on fresh copies, alternating with the plain forward of an identical model.

    Args:
        model: A model that is never explained itself.
        images: One picture.
        where: Where the other libraries take their map; None leaves them out.
        rounds: Number of fresh copies.
    """
    forward = plain(copy.deepcopy(model), images)
    for _ in range(3):
        once = common.timed(forward)
    several = max(1, min(9, math.ceil(SEVERAL / max(once.wall, 1e-4))))
    contenders: dict[str, Callable[[nn.Module], object]] = {"first": lambda fresh: explain(fresh, images)}
    for name, (run, only_nchw) in OTHERS.items():
        if where is not None and not (only_nchw and where.read is not None):
            contenders[name] = lambda fresh, run=run: run(fresh, images, where)
    times: dict[str, list[Time]] = {name: [] for name in (*contenders, "second", "third", "forward")}
    failed: set[str] = set()
    names = list(contenders)
    for turn in range(rounds):
        start = turn % len(names)
        each: dict[str, Time] = {}
        before = [common.timed(forward) for _ in range(several)]
        for name in names[start:] + names[:start]:
            if name in failed:
                continue
            fresh = copy.deepcopy(model)
            gc.collect()
            try:
                each[name] = common.timed(lambda name=name, fresh=fresh: contenders[name](fresh))
                if name == "first":
                    each["second"] = common.timed(lambda fresh=fresh: explain(fresh, images))
                    each["third"] = common.timed(lambda fresh=fresh: explain(fresh, images))
            except Exception:
                if name == "first":
                    raise
                failed.add(name)
            del fresh
        after = [common.timed(forward) for _ in range(several)]
        one = [*before, *after]
        each["forward"] = Time(statistics.median(t.wall for t in one), statistics.median(t.cpu for t in one))
        for name, time in each.items():
            times[name].append(time)
    ratios: dict[str, Time] = {}
    for name, found in times.items():
        if name != "forward" and name not in failed and found:
            pairs = list(zip(found, times["forward"], strict=True))
            ratios[name] = Time(
                statistics.median(a.wall / b.wall for a, b in pairs),
                statistics.median(a.cpu / max(b.cpu, 1e-6) for a, b in pairs),
            )
    base = times["forward"]
    return Costs(Time(statistics.median(t.wall for t in base), statistics.median(t.cpu for t in base)), ratios)


def aim(costs: Costs) -> str:
    """The verdict on the first call, by the clock that fits the machine."""
    clock = common.clock()
    milliseconds = 1000 * getattr(costs.forward, clock)
    for least, most in AIMS:
        if milliseconds >= least:
            return common.verdict(getattr(costs.ratios["first"], clock), most)
    return f"no aim under {AIMS[-1][0]:g} ms"


def peak_aim(held: dict[str, float]) -> str:
    """The verdict on the peak memory of the first call, in MB, or ""."""
    if "first" not in held:
        return ""
    return f", peak {common.verdict(held['first'], round(PEAK * held['forward'] + STORE / 2**20))}"


def child(model_name: str, name: str, layer: str, batch: int) -> float:
    """Peak memory of one first call over the loaded model, in MB."""
    prepare()
    model = common.build(model_name)
    small, images = common.pictures(1), common.pictures(batch)
    plain(model, small)()
    where = Place(layer, common.tokens_to_map if layer.startswith("blocks.") and hasattr(model, "cls_token") else None)
    if name == "forward":
        run = plain(model, images)
    elif name == "first":
        run = lambda: explain(model, images)  # noqa: E731
    else:
        run = lambda: OTHERS[name][0](model, images, where)  # noqa: E731
    return common.peak_of(run)


def peaks(model_name: str, names: list[str], layer: str) -> dict[str, float]:
    """Peak memory of every contender at BATCH, each in a process of its own; NaN where it fails."""
    found: dict[str, float] = {}
    for name in names:
        value = common.in_child(__file__, model_name=model_name, name=name, layer=layer, batch=BATCH)
        found[name] = float("nan") if isinstance(value, dict) else value
    return found


# ------------------------------------------------------------------------------------------------------------ printing


def one_model(title: str, name: str, rounds: int, memory: bool) -> None:
    """Prints the table of one model."""
    model, images = common.build(name), common.pictures(1)
    with common.quiet():
        where = place(copy.deepcopy(model), images)
    costs = measure(model, images, where, rounds)
    del model
    held = {}
    if memory:
        held = peaks(
            name, ["forward", "first", *(n for n in OTHERS if n in costs.ratios)], where.layer if where else ""
        )

    rows = [["", "CPU time x forward", "wall time x forward", f"peak at batch {BATCH}", "x forward", "aim"]]
    labels = {"first": "grad_cam, first call", "second": "grad_cam, second call", "third": "grad_cam, third call"}
    for key in (*labels, *OTHERS):
        if key not in costs.ratios:
            rows.append([labels.get(key, f"{key}, first call"), "-", "-", "-", "", "cannot read this layer"])
            continue
        row = [labels.get(key, f"{key}, first call"), f"{costs.ratios[key].cpu:.2f}", f"{costs.ratios[key].wall:.2f}"]
        row += [f"{held[key]:.0f} MB", f"{held[key] / held['forward']:.2f}"] if key in held else ["", ""]
        rows.append([*row, aim(costs) + peak_aim(held) if key == "first" else ""])
    common.table(
        f"{title} ({name}) at {common.SIZE}, batch 1, layer '{where.layer if where else '(no module)'}', forward "
        f"{1000 * costs.forward.cpu:.1f} ms of CPU time, {1000 * costs.forward.wall:.1f} ms of the wall "
        f"({rounds} fresh models)",
        rows,
    )


def all_families(wanted: list[str], rounds: int) -> None:
    """Prints one line for each timm family, as it is measured, and how many miss an aim."""
    from tests import families

    print(
        f"\n{'family':<28} {'model':<38} {'forward ms':>10} {'first x':>8} {'wall x':>7} {'second x':>8}  aim",
        flush=True,
    )
    missed: list[str] = []
    worst: list[float] = []
    for family in wanted or families.TIMM:
        try:
            model = families.build(family)
            images = families.example(model, 1)
            costs = measure(model, images, None, rounds)
            verdict = aim(costs)
            first, second = costs.ratios["first"], costs.ratios["second"]
            worst.append(first.cpu)
            line = (
                f"{1000 * costs.forward.cpu:>10.1f} {first.cpu:>8.2f} {first.wall:>7.2f} {second.cpu:>8.2f}  {verdict}"
            )
        except Exception as error:
            verdict = "MISSED"
            line = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        if "MISSED" in verdict:
            missed.append(family)
        print(f"{family:<28} {families.TIMM[family]:<38} {line}", flush=True)
        gc.collect()
    if worst:
        print(f"median {statistics.median(worst):.2f}, largest {max(worst):.2f} forwards")
    print(f"aims missed: {', '.join(missed) or 'none'}")


def arguments() -> argparse.Namespace:
    """What was given on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three fresh models each, no memory: a look, not a result")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--rounds", type=int, help="fresh models for each contender (default 7)")
    parser.add_argument("--models", nargs="*", help=f"of {', '.join(MODELS)}, or any name of timm (default: all)")
    parser.add_argument("--families", nargs="*", help="every timm family of the tests, or those named, instead")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    return given


def main() -> None:
    """Measures and prints."""
    warnings.filterwarnings("ignore")
    given: Any = arguments()
    if given.child:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
        print(json.dumps(child(**json.loads(given.child))))
        return
    common.heading()
    prepare()
    rounds = given.rounds or (3 if given.quick else 7)
    if given.families is not None:
        all_families(given.families, rounds)
        return
    lower = {key.lower(): (key, name) for key, name in MODELS.items()}
    for asked in given.models or MODELS:
        title, name = lower.get(asked.lower(), (asked, asked))
        one_model(title, name, rounds, not given.quick)


if __name__ == "__main__":
    main()
