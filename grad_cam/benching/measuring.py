"""Judges every contender at every layer on every photo."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from ..arguments import as_maps
from ..engine import explain, score_function
from ..errors import GradCamError, message_of
from ..evidencing import mean_color
from ..habits import answered
from ..methods.chunks import Progress, Score
from ..methods.regions import MASKS
from ..metrics import Bank, centred_gaussian, energy_inside, pointing_game, random_maps
from ..metrics import srg as _srg
from ..metrics.comparison import CONTROLS
from ..metrics.faithfulness import UNITS
from ..metrics.maps import on_grid
from ..outputs import Output
from ..requests import AnyMethod
from .contenders import DEFAULT_CUT, Contender, contenders, timed
from .results import Bench, Entry, Example

LIMIT = 20.0
"""Forward passes of a photo: a contender whose maps of all layers cost more is dear."""

_SHORTEST = 0.025
"""Seconds that a forward pass counts at least: for a small model everything costs many passes, and nothing is dear."""

EXAMPLES = 4


@answered
def bench(
    model: nn.Module, images: Tensor, targets: Sequence[int | None] | None = None, *,
    boxes: Sequence[ArrayLike | None] | None = None, names: Sequence[str] | None = None,
    methods: Sequence[AnyMethod] | None = None, layers: str | Sequence[str] = "auto", srg: int = 0, few: int = 5,
    few_layers: int = 3, masks: int = MASKS, cells: int = 7, units: int = UNITS, seed: int = 0, output: Output = None,
    chunk: int | None = None, progress: Progress | None = None,
) -> Bench:  # fmt: skip
    """Measures on photos which method, at which layer, makes the most faithful map of a model.

    A bank of random coalitions of a photo's regions is scored once and judges all maps of it. Methods that score
    copies, take passes of their own at each layer, or cost more than 20 forward passes a photo are *dear*: they run on
    a few photos and layers only, and the table says so.

    Args:
        model: Any classifier.
        images: Model inputs, (B, C, H, W).
        targets: For each image the index of the class to explain, None for the predicted one.
        boxes: For each image its box, boxes or mask in pixels of the input, or None: adds energy and pointing.
        names: What to call the images; their numbers by default.
        methods: Names, with "+balanced" or "+residual" for the rules, or functions as for `explain`; all by default.
        layers: As for `sweep`.
        srg: Number of images on which SRG judges each contender at its best layer; 55 forward passes for each map.
        few: Number of images on which dear contenders run, evenly spread.
        few_layers: Number of layers at which they run: the default cut and others, evenly spread.
        masks: Number of coalitions, as many forward passes for each image.
        cells: Regions along each side.
        units: Units along each side that SRG takes away; best a transformer's patches, so that none is cut.
        seed: Seed of everything random.
        output: As for `explain`.
        chunk: Number of copies scored at once; None chooses by size and free memory.
        progress: Called after every image as (done, total).

    Returns:
        A frozen `Bench`.

    Raises:
        GradCamError: There are no images, or not as many targets, boxes or names as images.
    """
    wanted = contenders(methods)
    count = len(images) if isinstance(images, Tensor) and images.ndim == 4 else 0
    if not count:
        raise GradCamError("bench needs images (B, C, H, W)", remedy="give one at least")
    for what, given in (("targets", targets), ("boxes", boxes), ("names", names)):
        if given is not None and len(given) != count:
            raise GradCamError(f"{len(given)} {what} for {count} images", remedy="give one for each, or None")
    first = explain(model, images[:1], target=[_first(targets)], method="grad_cam", output=output)
    run = _Run(
        model, images, list(targets or [None] * count), list(boxes or [None] * count), layers, output, chunk,
        first.layer.name, mean_color(first.seen.preprocessing), masks, cells, units, seed, spread(count, few),
        few_layers,
    )  # fmt: skip
    for number in range(count):
        run.judge(number, wanted)
        if progress is not None:
            progress(number + 1, count)
    words = tuple(names or (f"image {i + 1}" for i in range(count)))
    found = run.result(type(model).__name__, words)
    if srg > 0:
        found = dataclasses.replace(found, srg=run.srg(found, wanted, spread(count, srg)))
    worst, best = run.examples(found, wanted)
    return dataclasses.replace(found, worst=worst, best=best)


def _first(targets: Sequence[int | None] | None) -> int | None:
    return None if targets is None else targets[0]


def spread(count: int, some: int) -> tuple[int, ...]:
    """At most `some` numbers below `count`, evenly spread."""
    some = min(some, count)
    return tuple(sorted({(2 * i + 1) * count // (2 * some) for i in range(some)}))


@dataclasses.dataclass
class _Run:
    """What a bench has measured so far."""

    model: nn.Module
    images: Tensor
    targets: list[int | None]
    boxes: list[ArrayLike | None]
    layers: str | Sequence[str]
    output: Output
    chunk: int | None
    default: str
    fill: Sequence[float]
    masks: int
    cells: int
    units: int
    seed: int
    few: tuple[int, ...]
    few_layers: int
    values: dict[tuple[str, str], dict[str, Tensor]] = dataclasses.field(default_factory=dict)
    depths: list[str] = dataclasses.field(default_factory=list)
    dear: set[str] = dataclasses.field(default_factory=set)
    forwards: dict[str, float] = dataclasses.field(default_factory=dict)
    refused: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    words: list[str] = dataclasses.field(default_factory=list)
    indices: list[int] = dataclasses.field(default_factory=list)

    def judge(self, number: int, wanted: Sequence[Contender]) -> None:
        """Judges the contenders on one photo."""
        image = self.images[number, None]
        plain = explain(
            self.model, image, target=[self.targets[number]], method="grad_cam", output=self.output
        )  # fmt: skip
        assert plain.classes is not None  # a class, or the predicted one
        self.words.append(plain.target[0][0])
        self.indices.append(int(plain.classes[0, 0]))
        score = self._score(number)
        if not self.depths:
            self._prepare(image, score)
        bank = Bank.of(
            image, score, masks=self.masks, cells=self.cells, fill=self.fill, seed=self.seed, chunk=self.chunk
        )  # fmt: skip
        for contender in wanted:
            for e in self._maps(contender, number):
                where = "" if contender.whole or contender.method.scope != "layer" else e.layer.name
                self._note(contender.name, where, number, bank, e.raw())
        for name, control in self._controls(number):
            self._note(name, "", number, bank, control)

    def _score(self, number: int) -> Score:
        return score_function(self.model, self.images[number, None], [self.indices[number]], output=self.output)

    def _controls(self, number: int) -> list[tuple[str, Tensor]]:
        noise = random_maps(number + 1, self.cells, self.seed)[-1]
        return [(CONTROLS[0], centred_gaussian(1, self.cells)[0]), (CONTROLS[1], noise)]

    def _prepare(self, image: Tensor, score: Score) -> None:
        """Lists the layers, and times a forward pass once everything about the model is known."""
        probe = contenders(["hires_cam"])[1]
        found = probe.maps(self.model, image, self.indices[0], self.layers, self.output)
        self.depths = [e.layer.name for e in found]
        index = torch.zeros(1, dtype=torch.long)
        times = []
        for _ in range(4):
            start = time.perf_counter()
            score(image, index)
            times.append(time.perf_counter() - start)
        self._forward = min(times)

    def _maps(self, contender: Contender, number: int) -> list[Any]:
        """The explanations of a photo by a contender; none if it refuses, or is dear and the photo is not among few."""
        if contender.is_dear:
            self.dear.add(contender.name)
        name = contender.name
        dear = name in self.dear
        if dear and number not in self.few:
            return []
        layers = self._some_layers() if dear else self.layers
        where = (self.model, self.images[number, None], self.indices[number], layers, self.output)
        try:
            found, seconds = timed(contender, *where)
            if name not in self.forwards and name != DEFAULT_CUT:
                limit = LIMIT * max(self._forward, _SHORTEST)
                if seconds > limit and not dear:  # the first call may do more than the next
                    found, seconds = timed(contender, *where)
                self.forwards[name] = seconds / self._forward
                if seconds > limit and not contender.whole:
                    self.dear.add(name)
                    found = [e for e in found if e.layer.name in self._some_layers() or len(found) == 1]
                    found = found if number in self.few else []
        except (GradCamError, ValueError) as error:
            self.refused.setdefault(name, []).append(message_of(error))
            return []
        return found

    def _some_layers(self) -> list[str]:
        """The default cut, and others spread over the layers."""
        others = [name for name in self.depths if name != self.default]
        chosen = {others[i] for i in spread(len(others), self.few_layers - 1)} if others else set()
        return [name for name in self.depths if name in chosen] + [self.default]

    def _note(self, name: str, layer: str, number: int, bank: Bank, raw: Tensor) -> None:
        """Measures one map (h, w) and keeps the figures."""
        count, box = len(self.images), self.boxes[number]
        kinds = ["bank", *(["energy", "pointing"] if any(b is not None for b in self.boxes) else [])]
        values = self.values.setdefault(
            (name, layer), {kind: torch.full((count,), torch.nan, dtype=torch.float64) for kind in kinds}
        )
        agreement = float(bank.judge_many(raw[None].cpu())[0])
        decided = bool((bank.scores.amax(1) > bank.scores.amin(1)).all())
        values["bank"][number] = 0.0 if math.isnan(agreement) and decided else agreement  # a constant map says nothing
        if box is not None:
            large = on_grid(as_maps(raw), (self.images.shape[-2], self.images.shape[-1]))
            values["energy"][number] = float(energy_inside(large, box))
            values["pointing"][number] = float(pointing_game(large, box))

    def result(self, model: str, names: tuple[str, ...]) -> Bench:
        """The bench of the photos judged so far."""
        judged = {name for name, _ in self.values}
        refused = [
            (name, reasons[0] if name not in judged else f"on {len(reasons)} of {len(names)} photos: {reasons[0]}")
            for name, reasons in self.refused.items()
        ]
        controls = [key for key in self.values if key[0] in CONTROLS]
        keys = [key for key in self.values if key not in controls] + controls
        return Bench(
            model, names, tuple(self.words), tuple(self.depths),
            tuple(Entry(name, layer, self.values[name, layer]) for name, layer in keys),
            self.few, frozenset(self.dear & judged), dict(self.forwards), {}, tuple(refused), (), (), self.masks,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------- after all photos

    def _again(self, found: Bench, contender: Contender, number: int) -> Any:
        """The explanation of a photo by a contender at its best layer."""
        at = found.at(contender.name).layer
        layers = [at] if at else self.layers
        return contender.maps(self.model, self.images[number, None], self.indices[number], layers, self.output)[-1]

    def srg(self, found: Bench, wanted: Sequence[Contender], photos: Sequence[int]) -> dict[str, Tensor]:
        """SRG of each contender at its best layer, on some of the photos."""
        known = {entry.name for entry in found.entries}
        values = {name: torch.full((len(self.images),), torch.nan, dtype=torch.float64) for name in known}
        for number in photos:
            score, image = self._score(number), self.images[number, None]
            maps = dict(self._controls(number))
            for contender in wanted:
                bank = found.at(contender.name).values["bank"] if contender.name in known else None
                if bank is not None and not bank[number].isnan():
                    maps[contender.name] = self._again(found, contender, number).raw()
            for name, one in maps.items():
                gain = _srg(
                    one[None], image, score, units=self.units, fill=self.fill, seed=self.seed, chunk=self.chunk
                )  # fmt: skip
                values[name][number] = float(gain[0])
        return values

    def examples(
        self, found: Bench, wanted: Sequence[Contender]
    ) -> tuple[tuple[Example, ...], tuple[Example, ...]]:  # fmt: skip
        """The photos on which the best contender does worst, and best."""
        own = {each.name: each for each in wanted}
        row = next((row for row in found.rows if row.name in own and not row.dear), None)
        if row is None:
            return (), ()
        values = found.at(row.name).values["bank"]
        order = [i for i in values.argsort().tolist() if not values[i].isnan()]
        some = min(EXAMPLES, len(order) // 2)
        chosen = order[:some], order[len(order) - max(some, min(1, len(order))) :][::-1]
        worst, best = (
            tuple(
                Example(i, float(values[i]), self._again(found, own[row.name], i), _outline(self.boxes[i], self.images))
                for i in numbers
            )
            for numbers in chosen
        )
        return worst, best


def _outline(box: ArrayLike | None, images: Tensor) -> tuple[float, float, float, float] | None:
    """The smallest rectangle around a box, boxes or mask, as parts of the picture."""
    if box is None:
        return None
    given, (height, width) = np.asarray(box), images.shape[-2:]
    if given.dtype == bool:
        rows, columns = given.nonzero()
        edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    else:
        corners = given.reshape(-1, 4)
        edges = (*corners[:, :2].min(0), *corners[:, 2:].max(0))
    left, top, right, bottom = (float(edge) for edge in edges)
    return left / width, top / height, right / width, bottom / height
