"""What the methods cost, beside other libraries where they have them.

    python benchmarks/methods.py [--quick] [--full] [--only SECTION] [--threads 1]

ResNet-50 and ViT-S with random weights, one image at 224. Two methods take minutes in other libraries, so by default
they run on a part of the channels, and the time is scaled to all of them: the scaled rows say so. `--full` runs all.
Sections: ablation, classes, score, attention, eigen, growth.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import common
import numpy as np
import torch
from common import Run, Time
from torch import Tensor, nn

import grad_cam

BATCH = 32  # of perturbed copies: what pytorch-grad-cam takes for Ablation-CAM, and the most that ours takes on a CPU


# ------------------------------------------------------------------------------------------- pytorch-grad-cam, in parts


def rival_ablation(model: nn.Module, images: Tensor, layer: str, channels: int | None) -> Run:
    """AblationCAM of pytorch-grad-cam, on the first channels only."""
    from pytorch_grad_cam import AblationCAM
    from pytorch_grad_cam.ablation_layer import AblationLayer

    class Part(AblationLayer):
        def activations_to_be_ablated(self, activations: Any, ratio_channels_to_ablate: float = 1.0) -> Any:
            self.indices = np.arange(min(len(activations), channels or len(activations)), dtype=np.int32)
            return self.indices

    def run() -> object:
        with AblationCAM(model, [model.get_submodule(layer)], ablation_layer=Part(), batch_size=BATCH) as cam:
            return cam(images, None)

    return run


def rival_score(model: nn.Module, images: Tensor, layer: str, channels: int | None, stop_after: int = 0) -> Run:
    """ScoreCAM of pytorch-grad-cam, on the first channels only; `stop_after` forward passes it is broken off."""
    from pytorch_grad_cam import ScoreCAM

    class Part(ScoreCAM):
        def get_cam_weights(self, x: Any, target: Any, targets: Any, activations: Any, grads: Any) -> Any:
            weights = np.zeros(activations.shape[:2], np.float32)
            part = activations[:, :channels]
            weights[:, : part.shape[1]] = super().get_cam_weights(x, target, targets, part, grads)
            return weights

    def run() -> object:
        calls = 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1
            if stop_after and calls > stop_after:
                raise StopIteration

        handle = model.register_forward_pre_hook(count)
        try:
            with Part(model, [model.get_submodule(layer)]) as cam:
                cam.batch_size = BATCH
                return cam(images, None)
        except StopIteration:
            return None
        finally:
            handle.remove()

    return run


def rival_grad_cam(model: nn.Module, images: Tensor, layer: str, classes: list[int]) -> Run:
    """GradCAM of pytorch-grad-cam, called once for each class."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def run() -> list[object]:
        with GradCAM(model, [model.get_submodule(layer)]) as cam:
            return [cam(images, [ClassifierOutputTarget(c)] * len(images)) for c in classes]

    return run


def rival_eigen(model: nn.Module, images: Tensor, layer: str) -> Run:
    """EigenCAM of pytorch-grad-cam."""
    from pytorch_grad_cam import EigenCAM

    def run() -> object:
        with EigenCAM(model, [model.get_submodule(layer)]) as cam:
            return cam(images, None)

    return run


# ------------------------------------------------------------------------------------------------------------ sections


def scaled(times: list[Time], channels: int, of: int, overhead: list[Time]) -> list[Time]:
    """Times for all channels from times for a part: what grows with the channels is what exceeds the overhead."""
    factor, fixed = of / channels, statistics.median(t.wall for t in overhead)
    fixed_cpu = statistics.median(t.cpu for t in overhead)
    return [
        Time(fixed + max(t.wall - fixed, 0) * factor, fixed_cpu + max(t.cpu - fixed_cpu, 0) * factor) for t in times
    ]


def faster(times: common.Times, ours: str, rival: str, limit: float, device: str) -> str:
    """How many times faster, by the clock and by CPU time."""
    wall, cpu = common.ratio(times, rival, ours), common.ratio(times, rival, ours, "cpu")
    aim = common.verdict(common.judged(times, rival, ours, device), limit, at_least=True)
    return f"{wall:.1f}x faster (CPU time {cpu:.1f}x): {aim}"


def rows_of(times: common.Times, words: dict[str, str] | None = None) -> list[list[str]]:
    """A row for each contender: time, ratios to the forward pass, remark."""
    rows = [["", "time", "x forward", "CPU time x", ""]]
    for name in times:
        r, c = common.ratio(times, name), common.ratio(times, name, clock="cpu")
        rows.append([name, common.milliseconds(times[name]), f"{r:.2f}", f"{c:.2f}", (words or {}).get(name, "")])
    return rows


def ablation(given: argparse.Namespace, device: str) -> None:
    """Ablation-CAM at the last stage and at layer2."""
    model, images = common.build("resnet50", device), common.pictures(1, device)
    for layer, limit, part in (("layer4", 100, 64), ("layer2", 1.5, 64)):
        count = {"layer4": 2048, "layer2": 512}[layer]
        channels = None if given.full else (part // 2 if given.quick else part)
        runs = {
            "forward": common.forward(model, images),
            "grad_cam ablation_cam": lambda layer=layer: grad_cam.explain(
                model, images, layer=layer, method="ablation_cam"
            ),
            "pytorch-grad-cam": rival_ablation(model, images, layer, channels),
        }
        name = f"grad_cam, {channels} channels"
        if channels and layer == "layer2":  # both on a part
            runs[name] = _ablate_part(model, images, layer, channels)
            del runs["grad_cam ablation_cam"]
        times = common.alternate(
            runs, given.rounds or (1 if given.quick or given.full else 3), warmup=0 if given.full else 1
        )
        words = {}
        ours = "grad_cam ablation_cam"
        if channels:
            twice = [Time(2 * t.wall, 2 * t.cpu) for t in times["forward"]]  # it runs the whole model twice besides
            times["pytorch-grad-cam"] = scaled(times["pytorch-grad-cam"], channels, count, twice)
            words["pytorch-grad-cam"] = f"scaled from {channels} channels"
            if name in times:
                times[ours] = scaled(times.pop(name), channels, count, times["forward"])
                words[ours] = f"scaled from {channels} channels; "
        words[ours] = words.get(ours, "") + faster(times, ours, "pytorch-grad-cam", limit, device)
        common.table(f"Ablation-CAM at '{layer}' of ResNet-50, all {count} channels, {device}", rows_of(times, words))


def _ablate_part(model: nn.Module, images: Tensor, layer: str, channels: int) -> Run:
    """Our Ablation-CAM with the tail asked about the first channels only: the others are appended in the tail."""
    from grad_cam.methods.perturbation import ablation_cam

    cut = grad_cam.split(model, layer)

    def run() -> Tensor:
        with torch.no_grad():
            activations = cut.extractor(images)
            best = cut.classifier(activations.clone()).argmax(1)

            def tail(maps: Tensor, index: Tensor) -> Tensor:
                full = activations.expand(len(maps), -1, -1, -1).clone()
                full[:, :channels] = maps
                return cut.classifier(full)[:, best[0]]

            return ablation_cam(activations[:, :channels].contiguous(), tail)

    return run


def classes(given: argparse.Namespace, device: str) -> None:
    """Five classes in one call."""
    model, images = common.build("resnet50", device), common.pictures(1, device)
    five = [3, 77, 281, 500, 900]
    runs = {
        "forward": common.forward(model, images),
        "grad_cam, 1 class": lambda: grad_cam.explain(model, images, layer="layer4", target=3),
        "grad_cam, 5 classes": lambda: grad_cam.explain(model, images, layer="layer4", target=[five]),
        "pytorch-grad-cam, 5 classes": rival_grad_cam(model, images, "layer4", five),
    }
    times = common.alternate(runs, given.rounds or (9 if given.quick else 21))
    words = {"grad_cam, 5 classes": common.verdict(common.judged(times, "grad_cam, 5 classes", device=device), 1.3)}
    common.table(f"Grad-CAM for five classes at 'layer4' of ResNet-50, {device}", rows_of(times, words))


def score(given: argparse.Namespace, device: str) -> None:
    """Score-CAM: time on equally many channels, memory, and the choice of 64 channels."""
    model, images = common.build("resnet50", device), common.pictures(1, device)
    count = 2048
    channels = None if given.full else (32 if given.quick else 128)

    def ours(channels: int | None) -> Run:
        return lambda: grad_cam.explain(model, images, layer="layer4", method="score_cam", channels=channels)

    runs = {
        "forward": common.forward(model, images),
        "grad_cam score_cam": ours(channels),
        "pytorch-grad-cam": rival_score(model, images, "layer4", channels),
    }
    if not given.quick:
        runs["grad_cam score_cam(channels=64)"] = ours(64)
    times = common.alternate(
        runs, given.rounds or (1 if given.quick or given.full else 3), warmup=0 if given.full else 1
    )
    words = {}
    if channels:
        twice = [Time(2 * t.wall, 2 * t.cpu) for t in times["forward"]]
        times["grad_cam score_cam"] = scaled(times["grad_cam score_cam"], channels, count, times["forward"])
        times["pytorch-grad-cam"] = scaled(times["pytorch-grad-cam"], channels, count, twice)
        words["grad_cam score_cam"] = words["pytorch-grad-cam"] = f"scaled from {channels} channels"
    r = common.ratio(times, "grad_cam score_cam", "pytorch-grad-cam")
    cpu = common.ratio(times, "grad_cam score_cam", "pytorch-grad-cam", "cpu")
    words["grad_cam score_cam"] = (
        f"{words.get('grad_cam score_cam', '')}; {r:.2f} of pytorch-grad-cam (CPU time {cpu:.2f}): "
        f"{common.verdict(cpu if common.clock(device) == 'cpu' else r, 0.8)}"
    )
    few = "grad_cam score_cam(channels=64)"
    if few in times:
        part = common.judged(times, few, "grad_cam score_cam", device)
        words[few] = f"1/{1 / part:.1f} of all channels: {common.verdict(part, 1 / 20)}"
    common.table(f"Score-CAM at 'layer4' of ResNet-50, all {count} channels, {device}", rows_of(times, words))

    peaks = {
        who: common.in_child(__file__, section="score", who=who, device=device) for who in ("forward", "ours", "rival")
    }
    print(
        f"  peak memory, broken off after {BATCH * 3} masked images, all buffers being there: forward (batch {BATCH}) "
        f"{_mb(peaks['forward'])}, grad_cam {_mb(peaks['ours'])}, pytorch-grad-cam {_mb(peaks['rival'])}"
    )
    if not any(isinstance(p, dict) for p in peaks.values()):
        part = peaks["ours"] / peaks["rival"]
        print(f"  ratio of the two {part:.2f}: {common.verdict(part, 0.2)}")
    if not given.quick:
        correlation(device)


def correlation(device: str) -> None:
    """How close the map of the 64 most active channels is to the full one, on a trained model and two photos."""
    from grad_cam import loading as zoo
    from grad_cam.loading import preprocessing

    try:
        model = zoo.load("demo").to(device)
    except zoo.ModelError as error:
        print(f"  rank correlation not measured: {error}")
        return
    prepare = preprocessing(model)
    for name, path in zoo.samples().items():
        images = prepare(path)[0].to(device)
        layer = grad_cam.chain(model).default_split().name
        full, few = (
            grad_cam.explain(model, images, layer=layer, method="score_cam", channels=n).map[0] for n in (None, 64)
        )
        ranks = torch.stack([m.flatten().argsort().argsort().float() for m in (full, few)])
        rank = float(torch.corrcoef(ranks)[0, 1])
        print(f"  rank correlation of channels=64 with all, EfficientNet-Lite0 at '{layer}', {name}: {rank:.3f}")


def attention(given: argparse.Namespace, device: str) -> None:
    """Attention methods over all blocks of ViT-S."""
    model, images = common.build("vit_small_patch16_224", device), common.pictures(1, device)
    runs: dict[str, Run] = {"forward": common.forward(model, images)}
    for method in ("attention_rollout", "gradient_rollout", "le_grad"):
        runs[method] = lambda method=method: grad_cam.explain(model, images, method=method)
    times = common.alternate(runs, given.rounds or (9 if given.quick else 21))
    words = {m: common.verdict(common.judged(times, m, device=device), 4) for m in ("gradient_rollout", "le_grad")}
    common.table(f"Attention methods over the 12 blocks of ViT-S, {device}", rows_of(times, words))


def eigen(given: argparse.Namespace, device: str) -> None:
    """Eigen-CAM at the first stage of ResNet-50."""
    model, images = common.build("resnet50", device), common.pictures(1, device)
    layer = "act1"
    runs = {
        "forward": common.forward(model, images),
        "grad_cam eigen_cam": lambda: grad_cam.explain(model, images, layer=layer, method="eigen_cam"),
        "pytorch-grad-cam": rival_eigen(model, images, layer),
    }
    times = common.alternate(runs, given.rounds or (3 if given.quick else 7))
    slow = statistics.median(t.wall for t in times["grad_cam eigen_cam"])
    peaks = {
        who: common.in_child(__file__, section="eigen", who=who, device=device) for who in ("forward", "ours", "rival")
    }
    words = {
        "forward": _mb(peaks["forward"]),
        "grad_cam eigen_cam": f"{common.verdict(slow, 1)} s; {_mb(peaks['ours'], 200)}",
        "pytorch-grad-cam": _mb(peaks["rival"]),
    }
    common.table(f"Eigen-CAM at '{layer}' of ResNet-50, 64 channels at 112x112, {device}", rows_of(times, words))


def growth(given: argparse.Namespace, device: str) -> None:
    """Memory after many calls of every method, on a small model."""
    found = common.in_child(__file__, section="growth", who="ours", device=device, calls=60 if given.quick else 200)
    if "error" in found:
        print(f"\ngrowth: {found['error']}")
        return
    rows = [["", "after 20 calls", "after all", ""]]
    for name, (early, late) in found.items():
        rows.append([name, f"{early:+.1f} MB", f"{late:+.1f} MB", common.verdict(late - early, 4)])
    calls = 60 if given.quick else 200
    common.table(
        f"Memory held over that before the first call, {calls} calls, ResNet-10t and ViT-Tiny at 64, {device}", rows
    )


SECTIONS = {
    "ablation": ablation, "classes": classes, "score": score, "attention": attention, "eigen": eigen, "growth": growth
}  # fmt: skip


# -------------------------------------------------------------------------------------------------------- fresh process


def _mb(value: Any, limit: float | None = None) -> str:
    if isinstance(value, dict):
        return f"not measured ({value['error']})"
    return f"{value:.0f} MB" + (f" {common.verdict(value, limit)}" if limit else "")


def child(section: str, who: str, device: str, calls: int = 0) -> Any:
    """Peak memory in MB of one contender, or what many calls leave behind."""
    if section == "growth":
        return _growth(device, calls)
    model, images = common.build("resnet50", device), common.pictures(1, device)
    if who == "forward":
        run = common.forward(model, common.pictures(BATCH, device) if section == "score" else images)
        warm = common.forward(model, images)
    elif section == "eigen":
        method = {"layer": "act1", "method": "eigen_cam"}
        run = (
            rival_eigen(model, images, "act1") if who == "rival" else lambda: grad_cam.explain(model, images, **method)
        )
        warm = rival_eigen(model, images[..., :64, :64], "act1") if who == "rival" else run
    elif who == "rival":
        run, warm = (rival_score(model, images, "layer4", n, stop_after=s) for n, s in ((None, 4), (2, 0)))
    else:
        masked = 0

        def stop(done: int, total: int) -> None:
            nonlocal masked
            if done >= 3 * BATCH:
                raise StopIteration

        def run() -> object:
            try:
                return grad_cam.explain(model, images, layer="layer4", method="score_cam", progress=stop)
            except StopIteration:
                return None

        def warm() -> object:
            return grad_cam.explain(model, images, layer="layer4", method="score_cam", channels=2)

    with common.quiet():
        warm()
        warm()
    common.clear(model)
    return common.peak_of(run, device)


def _growth(device: str, calls: int) -> dict[str, tuple[float, float]]:
    """For every method: memory held after 20 calls and after all, in MB over that before."""
    import warnings

    import timm

    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", pretrained=False).eval().to(device)
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=64, depth=3).eval().to(device)
    images = common.pictures(1, device, 64)
    few = {
        "score_cam": {"channels": 2},
        "ss_cam": {"channels": 1, "samples": 2},
        "is_cam": {"channels": 1, "steps": 2},
        "deep_feature_factorization": {"concepts": 2},
        "rise": {"masks": 4},
        "occlusion": {"window": 32, "stride": 32},
        "smooth_grad_cam_plus_plus": {"samples": 2},
    }
    out = {}
    for name, method in grad_cam.METHODS.items():
        model = vit if method.kind == "attention" else net
        before, early = common.held(device), 0.0
        try:
            for i in range(calls):
                grad_cam.explain(model, images, method=name, **few.get(name, {}))
                if i == 19:
                    early = common.held(device) - before
        except (ValueError, TypeError) as error:
            out[f"{name} (not run: {str(error)[:60]})"] = (0.0, 0.0)
            continue
        out[name] = (early, common.held(device) - before)
    return out


def main() -> None:
    """Measures and prints every section."""
    given = common.begun(__doc__.splitlines()[0], "full: all channels in other libraries too (takes long)", child=child)
    for device in common.devices(given.device):
        for name, section in SECTIONS.items():
            if given.only in name:
                section(given, device)


if __name__ == "__main__":
    main()
