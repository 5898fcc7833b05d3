"""Threads that explain with one model at once, and memory over hundreds of calls."""

from __future__ import annotations

import concurrent.futures
import copy
import gc
import os
import pathlib
import threading
from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

import grad_cam

THREADS, CALLS, SIZES = 8, 300, 40
GROWTH = 24.0  # MB that a process may grow by over all these calls, the allocator's own play included


def _models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    vit = timm.models.VisionTransformer(img_size=64, patch_size=16, embed_dim=24, depth=3, num_heads=2, num_classes=7)
    return {
        "resnet10t": timm.create_model("resnet10t", num_classes=7).eval(),
        "vit": vit.eval(),
        "swin": timm.create_model(
            "swin_tiny_patch4_window7_224", img_size=64, window_size=2, depths=(1, 1, 2, 1)
        ).eval(),
    }


def _requests(model: nn.Module) -> list[dict[str, object]]:
    """Eight requests that differ."""
    blocks = [s.name for s in grad_cam.chain(copy.deepcopy(model), (64, 64), depth=2).stages if s.layout is not None]
    plain: list[dict[str, object]] = [
        {}, {"method": "hires_cam"}, {"target": 3}, {"method": "eigen_cam"},
        {"method": "layer_cam", "layer": blocks[0]}, {"layer": blocks[len(blocks) // 2]},
        {"method": "ablation_cam"}, {"target": grad_cam.targets.top(2)},
    ]  # fmt: skip
    return plain


def _batch(number: int, size: int = 64) -> Tensor:
    return torch.randn(1 + number % 3, 3, size, size, generator=torch.Generator().manual_seed(number))


def eight_threads() -> str:
    """Eight threads at once on a model nobody has used give bit for bit what one after another gives."""
    compared = 0
    for name, model in _models().items():
        requests = _requests(model)
        serial = copy.deepcopy(model)
        wanted = [grad_cam.explain(serial, _batch(i), **requests[i]) for i in range(THREADS)]  # type: ignore[arg-type]
        for turn in range(3):
            fresh, gate = copy.deepcopy(model), threading.Barrier(THREADS)

            def work(
                i: int, fresh: nn.Module = fresh, gate: threading.Barrier = gate, requests: list = requests
            ) -> list[grad_cam.Explanation]:
                gate.wait()
                return [grad_cam.explain(fresh, _batch(i), **requests[i]) for _ in range(3)]  # type: ignore[misc]

            with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
                results = list(pool.map(work, range(THREADS)))
            for i, (want, got) in enumerate(zip(wanted, results, strict=True)):
                for one in got:
                    compared += 1
                    same = torch.equal(one.map, want.map) and torch.equal(one.logits, want.logits)
                    assert same and one.layer == want.layer, f"{name}, turn {turn}, request {i}: another result"
    return f"{compared} results, all bit for bit"


def _held() -> float:
    """MB this process holds."""
    gc.collect()
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _alive() -> tuple[int, int]:
    """Objects, and tensors among them."""
    gc.collect()
    objects = gc.get_objects()
    return len(objects), sum(1 for o in objects if type(o) in (Tensor, nn.Parameter))


def _steady(round_: Callable[[], None], what: str) -> str:
    """Runs a round to warm up and then twice; nothing may grow from the second to the third."""
    round_()
    round_()
    memory, (objects, tensors) = _held(), _alive()
    round_()
    more, (now, left) = _held() - memory, _alive()
    said = f"{what}: {more:+.1f} MB, {now - objects:+d} objects, {left - tensors:+d} tensors"
    assert more <= GROWTH, said
    assert now - objects <= max(500, objects // 200), said
    assert left - tensors <= 20, said
    return said


def many_calls() -> str:
    """300 explanations of one model hold no more than 150 did."""
    said = []
    for name, model in _models().items():
        requests = _requests(model)

        def calls(model: nn.Module = model, requests: list = requests) -> None:
            for i in range(CALLS // 3):
                grad_cam.explain(model, _batch(i), **requests[i % THREADS])

        said.append(_steady(calls, name))
    return "; ".join(said)


def many_sizes() -> str:
    """The same for 40 sizes of images, another 40 every round: what is kept of a model does not grow with them."""
    model = timm.create_model("resnet10t", num_classes=7).eval()
    start = [48]

    def sizes() -> None:
        for i in range(SIZES):
            height, width = start[0] + i, start[0] + (7 * i) % SIZES
            grad_cam.explain(model, torch.randn(1, 3, height, width))
        start[0] += SIZES // 2

    return _steady(sizes, f"{SIZES} sizes")


def many_models() -> str:
    """Nothing of a model is kept when the model is gone."""

    def models() -> None:
        for _ in range(20):
            grad_cam.explain(timm.create_model("resnet10t", num_classes=7).eval(), _batch(0))

    return _steady(models, "20 models")


CHECKS: dict[str, Callable[[], str]] = {
    "eight threads": eight_threads,
    "many calls": many_calls,
    "many sizes": many_sizes,
    "many models": many_models,
}
