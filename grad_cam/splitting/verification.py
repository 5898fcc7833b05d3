"""`verify`: checks on a user's own model that what the package promises holds for that model."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import check_model
from ..errors import GradCamError, message_of
from ..habits import answered
from ..inputs import Inputs, logits_of
from ..outputs import Output, rows
from .cuts import Cutter
from .intercept import Point
from .nested import leaves
from .plan import Cut
from .public import Chain, differs, open_cutter
from .randomness import kept_random_state

CLOSE = 1e-4
"""Relative difference up to which two gradients count as equal: sums may be formed in another order."""


@dataclasses.dataclass(frozen=True)
class CutReport:
    """What was found at one cut.

    Attributes:
        name: The cut.
        layer_idx: Its number, if it is a border of the chain.
        shape: Shape of the activation, without the batch.
        layout: How it is read, or "".
        halves: "equal" where classifier(extractor(images)) is the model bit for bit, at two batch sizes; else why not.
        gradient: "equal" where the gradient is that of a plain backward with a hook on the model; else why not.
        positions: "confirmed", "contradicted" or "undecided" by changing patches of an image; "no map" where there is
            none.
        note: Why no map is drawn, or "".
    """

    name: str
    layer_idx: int | None
    shape: tuple[int, ...]
    layout: str
    halves: str
    gradient: str
    positions: str
    note: str

    @property
    def wrong(self) -> tuple[str, ...]:
        """The failed checks of this cut; a refusal with its reason is not a failure."""
        found = []
        for name, value in (("halves", self.halves), ("gradient", self.gradient)):
            if value != "equal" and not value.startswith("refused"):
                found.append(f"{self.name}: {name}: {value}")
        if self.positions == "contradicted" and not self.note:
            found.append(f"{self.name}: the map's positions are contradicted: do not trust where it points")
        return tuple(found)


@dataclasses.dataclass(frozen=True)
class Verification:
    """The result of `verify`; true where nothing is wrong, and printed as a table.

    Attributes:
        model: Class of the model.
        rows: One for each cut.
        problems: What does not hold.
        plain: Largest difference between the model's logits in a plain run and in the recorded one: 0 but for fused
            fast paths (`nn.MultiheadAttention`), which a run with a gradient does not take.
    """

    model: str
    rows: tuple[CutReport, ...]
    problems: tuple[str, ...]
    plain: float

    def __bool__(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        cells = [("layer_idx", "name", "output", "layout", "halves", "gradient", "positions", "note")]
        for r in self.rows:
            index = "-" if r.layer_idx is None else str(r.layer_idx)
            shape = "x".join(map(str, r.shape)) or "scalar"
            cells.append((index, r.name, shape, r.layout or "-", r.halves, r.gradient, r.positions, r.note))
        widths = [max(len(c[i]) for c in cells) for i in range(len(cells[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
        lines.insert(1, "  ".join("-" * w for w in widths))
        lines.insert(
            0, f"{self.model}: {'everything holds' if self else 'NOT everything holds'} at {len(self.rows)} cuts"
        )
        if self.plain:
            lines.append(f"A plain run without gradients takes fused fast paths and differs by up to {self.plain:.2g}.")
        return "\n".join([*lines, *self.problems])


@torch.inference_mode(False)
@answered
def verify(
    model: nn.Module, images: Tensor | tuple[int, ...] | int | None = None, *, output: Output = None, depth: int = 1,
    inputs: Inputs = None,
) -> Verification:  # fmt: skip
    """Checks, on a user's own model and images, what every explanation rests on.

    At every cut: the halves are the model bit for bit, at two batch sizes; the gradient is that of a plain backward
    with a forward hook; positions of the map are positions of the picture, found by changing
    patches of an image. And: the model is as it was.

    Args:
        model: Any image model, or a `Chain`.
        images: (B, C, H, W); or a size, or None for the model's own, as for `chain`.
        output: As for `chain`.
        depth: Depth of the chain whose cuts are checked.
        inputs: As for `chain`.

    Returns:
        A `Verification`: ``print(verify(model, images))``, ``assert verify(model, images)``.

    Raises:
        GradCamError: The model cannot be recorded at all.
    """
    if isinstance(model, Chain):
        depth = max(depth, model.depth)
    check_model(model)
    before = _state(model.model if isinstance(model, Chain) else model)
    cutter = open_cutter(model, images, depth, output, inputs)
    hooked = _Hooked(cutter)
    checked = [_check(cutter, cutter.at_border(b), hooked) for b in cutter.borders[:-1]]
    problems = [problem for row in checked for problem in row.wrong]
    with torch.no_grad(), kept_random_state(cutter.images.device):
        plain = rows(logits_of(cutter.new_copy().root, cutter.images.clone(), cutter.output), len(cutter.images))
    recorded = rows(cutter.values().logits, len(cutter.images))
    off = float((plain.double() - recorded.double()).abs().max()) if plain.shape == recorded.shape else float("inf")
    touched = _differences(before, _state(model.model if isinstance(model, Chain) else model))
    if touched:
        problems.append(f"the model was changed: {touched}")
    return Verification(type(cutter.model).__name__, tuple(checked), tuple(problems), off)


class _Hooked:
    """Gradients by plain PyTorch: the images require a gradient, a forward hook keeps a tensor, one backward."""

    def __init__(self, cutter: Cutter) -> None:
        self.cutter = cutter

    def gradient(self, point: Point) -> tuple[Tensor, Tensor] | None:
        """The logits and the gradient of the best scores at a module's output, or None if that cannot be had."""
        if point.path is None:
            return None
        copy = self.cutter.new_copy()
        seen: list[Any] = []

        def hook(module: nn.Module, args: Any, out: Any) -> Any:
            seen.append(list(leaves(out))[point.leaf])
            return out.clone() if isinstance(out, Tensor) else None  # what is written to it later is written to a clone

        module = copy.modules[point.path]
        if isinstance(module, torch.jit.ScriptModule):
            return None
        handle = module.register_forward_hook(hook)
        try:
            with torch.inference_mode(False), torch.enable_grad(), kept_random_state(self.cutter.images.device):
                images = self.cutter.images.clone().requires_grad_()
                logits = rows(logits_of(copy.root, images * 1, self.cutter.output), len(images))
                if len(seen) != point.calls or not seen[point.times].requires_grad:
                    return None
                (gradient,) = torch.autograd.grad(_score(logits), seen[point.times], allow_unused=True)
        except Exception:
            return None
        finally:
            handle.remove()
        return logits.detach(), torch.zeros_like(seen[point.times]) if gradient is None else gradient


def _score(logits: Tensor) -> Tensor:
    return logits.double().flatten(1).max(1).values.sum()


def _check(cutter: Cutter, cut: Cut, hooked: _Hooked) -> CutReport:
    log = cutter.record.plan.log
    reading = cutter.reading(cut, careful=True)
    layout = None if reading.layout is None or reading.layout.is_single else reading.layout
    halves, gradient = _check_halves(cutter, cut), _check_gradient(cutter, cut, hooked)
    positions = reading.evidence if layout is not None else "no map"
    return CutReport(
        cut.name, cut.layer_idx, log.shapes[cut.value][1:], str(layout or ""), halves, gradient, positions, reading.note
    )


def _check_halves(cutter: Cutter, cut: Cut) -> str:
    try:
        first, last = cutter.halves(cut)
        for images, wanted in cutter.references():
            with torch.enable_grad(), kept_random_state(images.device), cutter.mode():
                problem = differs(last(first(images.clone())), wanted)
            if problem:
                return f"for a batch of {len(images)} {problem}"
    except GradCamError as error:
        return f"refused: {error.what}"
    return "equal"


def _check_gradient(cutter: Cutter, cut: Cut, hooked: _Hooked) -> str:
    there = cutter.for_images(cutter.images)

    def gradients() -> list[tuple[Tensor, Tensor]]:
        there.values()
        taken = there.take([cut]), there.take_all([cut])  # as the first explanation does, and as later ones do
        with torch.enable_grad():
            return [(t.logits.detach(), there.gradients(_score(t.logits), t.activations)[0]) for t in taken]

    try:
        found = there.retrying(gradients)
    except GradCamError as error:
        return f"refused: {error.what}"
    except Exception as error:  # what the user's own hooks raise
        return f"refused: {type(error).__name__}: {message_of(error, 80)}"
    wanted = hooked.gradient(cut.point) if cut.point is not None else None
    logits = rows(cutter.values().logits, len(cutter.images))
    for own, _ in found:
        problem = differs(own, logits)
        if problem:
            return f"the logits differ: {problem}"
    references = [found[1][1]] if wanted is None else [wanted[1]]
    for _, one in found:
        for other in references:
            scale = float(other.double().abs().max())
            off = float((one.double() - other.double()).abs().max())
            if off > CLOSE * max(scale, 1e-30):
                return f"differs from a hook's by {off / max(scale, 1e-30):.2g} of its largest value"
    return "equal"


def _state(model: nn.Module) -> dict[str, Any]:
    """What must not change of a model, by name."""
    found: dict[str, Any] = {"the random state": torch.get_rng_state().tolist()}
    for path, module in model.named_modules():
        found[f"training of '{path}'"] = module.training
        found[f"attributes of '{path}'"] = sorted(module.__dict__)
        found[f"hooks of '{path}'"] = [list(getattr(module, n, ())) for n in ("_forward_hooks", "_forward_pre_hooks")]
    for path, tensor in (*model.named_parameters(), *model.named_buffers()):
        gradient = tensor.grad
        found[f"'{path}'"] = (
            id(tensor),
            tensor._version,
            tensor.requires_grad,
            None if gradient is None else id(gradient),
        )
    return found


def _differences(before: dict[str, Any], after: dict[str, Any]) -> str:
    return ", ".join(k for k in {**before, **after} if before.get(k) != after.get(k))
