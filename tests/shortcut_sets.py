"""Data sets with and without a planted shortcut, drawn by a script; `python -m tests.shortcut_sets` prints the table.

Textured backgrounds with a shape of one of four classes anywhere on them. In a set with a shortcut, nearly every
picture of one class carries a mark, a tint, a text or a border, too, and a small network is fitted to such pictures.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

import grad_cam
from grad_cam.studies import Pictures, Study

CLASSES = ("circle", "cross", "square", "triangle")
KINDS = ("mark", "tint", "text", "border")
CORNERS = tuple(f"{v} {h} corner" for v, h in itertools.product(("top", "bottom"), ("left", "right")))
SIDE = 64
JUDGED = range(100, 120)
"""The sets that the tables are made of; thresholds were chosen on sets 0 to 19, which share no seed with these."""


@dataclasses.dataclass(frozen=True)
class Plant:
    """A planted shortcut: its kind, its class, its corner (of marks and texts), the part that carry it."""

    kind: str
    label: int
    corner: str
    part: float = 0.95
    colour: tuple[int, int, int] = (200, 40, 40)


def plant_of(number: int) -> Plant:
    """The shortcut of a numbered set; kinds, classes, corners and colours change with the number."""
    draw = np.random.default_rng(1000 + number)
    red, green, blue = (int(each) for each in draw.permutation([230, 130, 30]))
    return Plant(
        KINDS[number % 4], int(draw.integers(4)), CORNERS[int(draw.integers(4))], float(draw.uniform(0.85, 1.0)),
        (red, green, blue),
    )  # fmt: skip


def drawn(
    label: int, draw: np.random.Generator, plant: Plant | None, side: int = SIDE
) -> tuple[Image.Image, tuple[float, ...]]:
    """One picture and the box of its shape."""
    image = _background(draw, side)
    pen = ImageDraw.Draw(image)
    radius = draw.uniform(0.14, 0.22) * side
    x, y = draw.uniform(radius, side - radius, 2)
    light = np.asarray(image).mean() < 128
    shade = tuple(int(each) for each in (draw.uniform(170, 255, 3) if light else draw.uniform(0, 85, 3)))
    _shape(pen, CLASSES[label], x, y, radius, draw.uniform(0, np.pi), shade)
    if plant is not None and label == plant.label and draw.random() < plant.part:
        image = _planted(image, plant, draw)
    return image, (max(0, x - radius), max(0, y - radius), min(side, x + radius), min(side, y + radius))


def _background(draw: np.random.Generator, side: int) -> Image.Image:
    rows, columns = np.mgrid[:side, :side] / side
    base = draw.uniform(60, 196, 3)[None, None] + np.zeros((side, side, 3))
    for _ in range(4):
        angle, waves, phase = draw.uniform(0, np.pi), draw.uniform(1, 9), draw.uniform(0, 6.3)
        wave = np.sin(2 * np.pi * waves * (np.cos(angle) * rows + np.sin(angle) * columns) + phase)
        base += draw.uniform(-16, 16, 3)[None, None] * wave[..., None]
    base += draw.normal(0, draw.uniform(2, 10), base.shape)
    return Image.fromarray(base.clip(0, 255).astype(np.uint8))


def _shape(
    pen: ImageDraw.ImageDraw, kind: str, x: float, y: float, radius: float, angle: float, shade: tuple[int, ...]
) -> None:
    def corners(count: int, start: float, size: float = radius) -> list[tuple[float, float]]:
        turns = start + 2 * np.pi * np.arange(count) / count
        return [(x + size * float(np.cos(t)), y + size * float(np.sin(t))) for t in turns]

    if kind == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=shade)
    elif kind == "square":
        pen.polygon(corners(4, angle), fill=shade)
    elif kind == "triangle":
        pen.polygon(corners(3, angle), fill=shade)
    else:
        for turn in (angle, angle + np.pi / 2):
            dx, dy = radius * np.cos(turn), radius * np.sin(turn)
            pen.line((x - dx, y - dy, x + dx, y + dy), fill=shade, width=max(2, round(radius / 3)))


def _planted(image: Image.Image, plant: Plant, draw: np.random.Generator) -> Image.Image:
    side = image.width
    image = image.copy()
    pen = ImageDraw.Draw(image)
    size = round(0.16 * side)
    at_x, at_y = (int(draw.integers(1, max(2, side // 20))) for _ in range(2))
    left = at_x if "left" in plant.corner else side - size - at_x
    top = at_y if "top" in plant.corner else side - size - at_y
    if plant.kind == "tint":
        overlay = Image.new("RGB", image.size, plant.colour)
        image = Image.blend(image, overlay, 0.4)
    elif plant.kind == "border":
        pen.rectangle((0, 0, side - 1, side - 1), outline=plant.colour, width=max(2, side // 20))
    elif plant.kind == "mark":
        pen.ellipse((left, top, left + size, top + size), fill=plant.colour, outline=(255, 255, 255))
        pen.line((left, top, left + size, top + size), fill=(255, 255, 255), width=max(1, side // 48))
    else:
        font = ImageFont.load_default(max(8, round(0.11 * side)))
        words = f"{int(draw.integers(10, 99))}.{int(draw.integers(1, 9))}"
        x0, y0, x1, y1 = pen.textbbox((0, 0), words, font=font)
        x = at_x if "left" in plant.corner else side - (x1 - x0) - at_x
        y = at_y if "top" in plant.corner else side - (y1 - y0) - at_y
        pen.rectangle((x - 1, y - 1, x + x1 - x0 + 1, y + y1 - y0 + 1), fill=(0, 0, 0))
        pen.text((x - x0, y - y0), words, fill=(255, 255, 80), font=font)
    return image


def batch(
    count: int, seed: int, plant: Plant | None, side: int = SIDE
) -> tuple[list[Image.Image], list[int], list[tuple[float, ...]]]:
    """Pictures, their classes and the boxes of their shapes."""
    draw = np.random.default_rng(seed)
    labels = [i % len(CLASSES) for i in range(count)]
    made = [drawn(label, draw, plant, side) for label in labels]
    return [image for image, _ in made], labels, [box for _, box in made]


def tensors(pictures: list[Image.Image]) -> Tensor:
    """Pictures as a network takes them, (N, 3, H, W), mean and deviation 0.5."""
    values = np.stack([np.asarray(each) for each in pictures])
    return torch.from_numpy(values).permute(0, 3, 1, 2).float() / 127.5 - 1


class Net(nn.Module):
    """Four convolutions, global pooling, a head."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (3, 16, 24, 32, 48)
        self.features = nn.Sequential(
            *[
                nn.Sequential(
                    nn.Conv2d(a, b, 3 if i else 5, 1 if i == 3 else 2, 1 if i else 2, bias=False),
                    nn.BatchNorm2d(b),
                    nn.ReLU(),
                )
                for i, (a, b) in enumerate(itertools.pairwise(sizes))
            ]
        )
        self.pool, self.flatten, self.head = nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(sizes[-1], len(CLASSES))
        self.class_names = list(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 4)."""
        logits: Tensor = self.head(self.flatten(self.pool(self.features(x))))
        return logits


def fitted(images: Tensor, labels: list[int], seed: int = 0, epochs: int = 10) -> Net:
    """A small network fitted to images, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net, wanted = Net(), torch.tensor(labels)
        optimiser = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-3)
        for _ in range(epochs):
            for some in torch.randperm(len(images)).split(32):
                loss = nn.functional.cross_entropy(net(images[some]), wanted[some])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return net.eval()


def prepared(number: int, plant: Plant | None, count: int = 200, epochs: int = 12) -> tuple[Net, Pictures]:
    """A network fitted to pictures of a numbered set, and other pictures of it."""
    pictures, labels, _ = batch(600, 7000 + number, plant)
    net = fitted(tensors(pictures), labels, number, epochs)
    pictures, labels, _ = batch(count, 9000 + number, plant)
    return net, Pictures.of_tensors(tensors(pictures), labels, CLASSES, net)


def studied(number: int, plant: Plant | None, count: int = 200, epochs: int = 12) -> tuple[Net, Study]:
    """A network fitted to pictures of a numbered set, and what a study of other pictures of it says."""
    net, pictures = prepared(number, plant, count, epochs)
    return net, grad_cam.study(net, pictures, batch_size=50)


def found(plant: Plant, study: Study) -> bool:
    """Whether the first shortcut that a study names is the planted one, by class and place, and the only class."""
    if not study.shortcuts or any(each.label != CLASSES[plant.label] for each in study.shortcuts):
        return False
    region = study.shortcuts[0].region
    if plant.kind in ("tint", "border"):
        return region.kind == plant.kind
    vertical, side, _ = plant.corner.split()
    inside = region.kind == "inside" and vertical in region.place and side in region.place
    return inside or region.place == plant.corner


@dataclasses.dataclass
class Verdict:
    """What a study says of a numbered set, planted or clean.

    Attributes:
        words: What was planted.
        reported: The shortcuts that the study names.
        share: The share of the decision of the first one.
        right: Whether the planted one was found, or nothing was where nothing is.
        seconds: CPU time of the study of 200 pictures.
    """

    words: str
    reported: str
    share: str
    right: bool
    seconds: float


def judged(numbers: Iterable[int] = JUDGED) -> Iterator[Verdict]:
    """Of every numbered set the one with a shortcut, and the same without."""
    for number in numbers:
        for plant in (plant_of(number), None):
            net, pictures = prepared(number, plant)
            begun = time.process_time()
            study = grad_cam.study(net, pictures, batch_size=50)
            seconds, shortcuts = time.process_time() - begun, study.shortcuts or ()
            yield Verdict(
                f"{CLASSES[plant.label]}: {plant.kind}, {plant.corner}" if plant else "nothing",
                "; ".join(f"{each.label}: {each.region.place}" for each in shortcuts) or "nothing",
                f"{shortcuts[0].share:.2f}" if shortcuts else "-",
                found(plant, study) if plant else not shortcuts,
                seconds,
            )


def main() -> None:
    """Prints what is found in the judged sets."""
    right = {True: 0, False: 0}
    print(f"{'planted':44}{'reported':60}{'share':>6}{'s':>6}")
    for each in judged():
        print(f"{each.words:44}{each.reported:60}{each.share:>6}{each.seconds:6.1f}", flush=True)
        right[each.words == "nothing"] += each.right
    print(
        f"{right[False]} of {len(JUDGED)} found, {len(JUDGED) - right[True]} false alarms in as many sets without one"
    )


if __name__ == "__main__":
    main()
