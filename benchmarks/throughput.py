"""Pictures a second of a run over a folder, beside plain inference and another library; and whether it stays flat.

    python benchmarks/throughput.py [--quick] [--device cpu|cuda] [--threads 1]
                                     [--only resnet|vit|efficientnet|flat|actors]

All contenders read the same JPEG files with the same number of processes and the same preparation, but for
pytorch-grad-cam, which is called as its README does it: one picture after the other. What happens once in a run (its
trial on one picture, the comparison of the fast path) is left out: a run of thousands is meant. All
of it takes about ten minutes on two cores that nothing else uses. The run explains as many pictures at a time as it
chooses; the plain loop is measured with that number, by which the run is judged, and with whole batches of 16.
"""

from __future__ import annotations

import functools
import json
import pathlib
import tempfile
import warnings
from typing import Any

import common
import numpy as np
import torch
from PIL import Image
from torch import nn

import grad_cam
from grad_cam.folders import local, open_source
from grad_cam.folders.decoding import Decoder
from grad_cam.folders.explaining import Explainer, Question, fitting
from grad_cam.folders.fast import accelerated
from grad_cam.folders.place import Place
from grad_cam.folders.workers import decoded

MODELS = {"resnet50": "layer4", "vit_small_patch16_224": "blocks.10", "efficientnet_b0": "blocks.6"}
EXACT, FAST, OTHERS = 0.85, 1.5, 1 / 2.5
WORKERS = 1


def photos(folder: pathlib.Path, count: int, size: tuple[int, int] = (500, 375)) -> pathlib.Path:
    """JPEG files of a usual size, with structure: noise alone would take too long to decode."""
    values = np.random.default_rng(0)
    for n in range(count):
        coarse = values.integers(0, 255, (12, 16, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / f"{n:05d}.jpg", quality=90)
    return folder


def settings(batch: int) -> local.Settings:
    """Of a run without a contact sheet."""
    return local.Settings(batch, WORKERS, 1000, None, lambda text: None, lambda rows: None)


def rows(explainer: Explainer, source: Any, decoder: Decoder, batch: int) -> None:
    """A whole run, shards and all."""
    with tempfile.TemporaryDirectory() as folder:
        local.compute(Place(folder), source, decoder, explainer, settings(batch))


def inference(model: nn.Module, source: Any, decoder: Decoder, batch: int, device: str, most: int | None) -> None:
    """The plain loop over the same loader: what the model predicts, of at most so many at a time."""
    with torch.inference_mode():
        for each in decoded(decoder, range(len(source)), batch, WORKERS, print):
            for images, _ in each.groups:
                for some in images.split(most or len(images)):
                    model(some.to(device)).argmax(1).tolist()


def pytorch_grad_cam(model: nn.Module, layer: str, source: Any, decoder: Decoder, device: str) -> None:
    """The loop of the other library's README: read, prepare, explain and overlay one picture."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.image import show_cam_on_image

    reshape = common.tokens_to_map if hasattr(model, "cls_token") else None
    with GradCAM(model=model, target_layers=[model.get_submodule(layer)], reshape_transform=reshape) as cam:
        for number in range(len(source)):
            tensor, view = decoder.prepare(source.open(number))
            shown = cam(input_tensor=tensor.to(device), targets=None)[0, :]
            show_cam_on_image(np.asarray(view, np.float32) / 255, shown, use_rgb=True)


def compared(name: str, layer: str, batch: int, count: int, device: str, rounds: int) -> None:
    """Prints pictures a second of all contenders on one model."""
    model = common.build(name, device)
    prepare = grad_cam.loading.preprocessing(model)
    with tempfile.TemporaryDirectory() as folder:
        source: Any = open_source(photos(pathlib.Path(folder), count))
        decoder = Decoder(source, prepare, None, 1000)
        question = Question(layer)
        most = fitting(model)
        exact = Explainer(model, question, lambda text: None, most=most)
        quick = Explainer(model, question, lambda text: None)
        images = torch.cat([decoder(n).image for n in range(min(8, count))])  # type: ignore[union-attr]
        notes: list[str] = []
        found = accelerated(model, images, question, notes.append)
        runs: dict[str, common.Run] = {
            "inference": functools.partial(inference, model, source, decoder, batch, device, most),
            "run": functools.partial(rows, exact, source, decoder, batch),
            "pytorch-grad-cam": functools.partial(pytorch_grad_cam, model, layer, source, decoder, device),
        }
        if most is not None:
            runs[f"inference, {batch} at a time"] = functools.partial(
                inference, model, source, decoder, batch, device, None
            )
        if found is not None:
            quick.asked, quick.asked_as, quick.named = found.model, found.ask, found.named
            runs["run --fast"] = functools.partial(rows, quick, source, decoder, batch)
        times = common.alternate(runs, rounds)
    lines = [["", "pictures/s", "x inference", "aim"]]
    clock = common.clock(device)
    for each in times:
        speed = 1 / common.ratio(times, each, "inference", clock)
        shown = count / sorted(t.wall for t in times[each])[len(times[each]) // 2]
        aim = common.verdict(speed, EXACT, at_least=True) if each == "run" else ""
        if each == "run --fast":
            half = found is not None and "bfloat16" in found.steps
            aim = common.verdict(speed, FAST, at_least=True) if half else f"no bfloat16: {'; '.join(notes)[:90]}"
        if each == "pytorch-grad-cam":
            to_ours = 1 / common.ratio(times, each, "run", clock)
            aim = f"{to_ours:.2f} x run, {common.verdict(to_ours, OTHERS)}"
        lines.append([each, f"{shown:.1f}", f"{speed:.2f}", aim])
    steps = ", ".join(found.steps) if found is not None else "none"
    common.table(f"{name} ({count} pictures, batches of {batch}, {device}, layer '{layer}', fast: {steps})", lines)


def child(count: int, device: str) -> dict[str, float]:
    """CPU time for each picture and peak memory of a whole `run` over so many rows, with a small model."""
    warnings.simplefilter("ignore")
    model = common.build("mobilenetv3_small_050", device)
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        (place / "in").mkdir()
        photos(place / "in", 100, (160, 120))
        (place / "in" / "t.csv").write_text("path\n" + "".join(f"{n % 100:05d}.jpg\n" for n in range(count)))
        prepare = grad_cam.loading.preprocessing(model, 64)
        (place / "in" / "warm.csv").write_text("path\n" + "".join(f"{n:05d}.jpg\n" for n in range(20)))

        def run(table: str) -> None:
            grad_cam.run(
                model, place / "in" / table, place / table[:-4], sheet=False, preprocessing=prepare, layer="blocks.4",
                workers=WORKERS, shard=500,
            )  # fmt: skip

        run("warm.csv")
        spent: list[common.Time] = []
        peak = common.peak_of(lambda: spent.append(common.timed(lambda: run("t.csv"))), device)
    return {"ms": 1000 * spent[0].cpu / count, "mb": peak}


def flat(device: str, quick: bool) -> None:
    """Prints cost and memory at 100, 1,000 and 10,000 pictures."""
    lines = [["pictures", "CPU time for each", "peak memory over the model"]]
    for count in (100, 1000) if quick else (100, 1000, 10_000):
        found = common.in_child(__file__, count=count, device=device)
        if "error" in found:
            lines.append([f"{count:,}", found["error"], ""])
            continue
        lines.append([f"{count:,}", f"{found['ms']:.1f} ms", f"{found['mb']:.0f} MB"])
    common.table(f"mobilenetv3_small_050 at 64, {device}: a run stays flat", lines)


def actors(quick: bool) -> None:
    """Prints pictures a second of one and two Ray actors on real photos; the start of Ray and of actors is left out."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    model = common.build("efficientnet_b0")
    few, many = (8, 24) if quick else (16, 144)
    samples = list(grad_cam.loading.samples().values())
    lines = [["actors", "pictures/s", "x one actor", "rows as of the local engine"]]
    first = 0.0
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        for count in (few, many):
            rows = [str(samples[n % len(samples)].resolve()) for n in range(count)]
            (place / f"{count}.csv").write_text("path\n" + "\n".join(rows) + "\n")
        how: dict[str, Any] = {"layer": "blocks.6", "sheet": False, "shard": 8}
        local_rows = grad_cam.run(model, place / f"{few}.csv", place / "local", **how)
        for number in (1, 2):
            seconds = []
            for count in (few, many):
                out = place / f"ray-{number}-{count}"
                run = functools.partial(
                    grad_cam.run, model, place / f"{count}.csv", out, engine="ray", actors=number, **how
                )
                seconds.append(common.timed(run).wall)
            speed = (many - few) / (seconds[1] - seconds[0])
            first = first or speed
            pairs = zip(grad_cam.read(place / f"ray-{number}-{few}"), local_rows, strict=True)
            same = all(a["path"] == b["path"] and np.allclose(a["map"], b["map"], atol=2e-3) for a, b in pairs)
            lines.append([str(number), f"{speed:.1f}", f"{speed / first:.2f}", "yes" if same else "NO"])
    ray.shutdown()
    common.table(f"efficientnet_b0 by Ray actors ({many - few} pictures, a CPU core each, wall clock)", lines)


def main() -> None:
    """Runs the sections."""
    given = common.arguments(__doc__ or "")
    if given.child:
        print(json.dumps(child(**json.loads(given.child))))
        return
    common.heading()
    rounds, count = given.rounds or (1 if given.quick else 3), 16 if given.quick else 48
    for device in common.devices(given.device):
        for name, layer in MODELS.items():
            if given.only in name:
                compared(name, layer, 16, count, device, rounds)
        if given.only in "flat":
            flat(device, given.quick)
        if given.only in "actors" and device == "cpu":
            actors(given.quick)


if __name__ == "__main__":
    main()
