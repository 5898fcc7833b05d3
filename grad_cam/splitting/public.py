"""What a user sees of cutting: `chain`, `split` and what they return."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn

from ..arguments import as_index, as_layer, check_model
from ..errors import GradCamError, SplitError, message_of
from ..habits import answered
from ..inputs import Inputs, Wiring, output_of, wired
from ..introspection import unwrap
from ..layouts import Layout
from ..outputs import Output
from .cuts import Cutter
from .default import default_cut, inner_cuts, mark_dead
from .example import example_images
from .plan import Border, Cut
from .refusing import refusal
from .scoremaps import NOTE, is_score_map
from .stages import Stages


@dataclass(frozen=True)
class StageInfo:
    """One line of the printed chain: a stage and what leaves it.

    Attributes:
        layer_idx: Number of stages after it (the `layer_idx` of `split` and `GradCAM`); None inside a stage.
        name: Module path of the stage; a stage that ends after a module says so (``blk + add``).
        type: Class of the module.
        shape: Shape at the cut after the stage, without the batch.
        layout: How to read it, or None.
        note: Why no map can be drawn there, or "".
        positions: How the layout is known: "followed" from the images through the operations, "confirmed" by an
            experiment, "undecided" (what the model declares is kept), or "".
    """

    layer_idx: int | None
    name: str
    type: str
    shape: tuple[int, ...]
    layout: Layout | None
    note: str
    positions: str = ""


@dataclass(frozen=True, eq=False)
class Split:
    """A model cut in two: ``classifier(extractor(x))`` is the model's logits.

    At a cut inside a residual branch the extractor returns ``(activation, *context)`` and the classifier takes that
    tuple; elsewhere the extractor returns one tensor. Both were checked at two batch sizes; a forward that
    branches on a third one (``if len(x) > 8``) cannot be seen.

    Attributes:
        extractor: An `nn.Sequential` of the model's own modules, before the cut.
        classifier: The stages after the cut.
        name: Module path of the last stage before the cut.
        layer_idx: Number of stages in the classifier, or None at a cut that is not a border of the chain.
        layout: How to read the activation, or None.
        note: Why no map can be drawn here, or "".
        context: Number of further tensors that the extractor returns.
        batches: The numbers of images at which the halves were checked against the model.
    """

    extractor: nn.Sequential
    classifier: nn.Sequential
    name: str
    layer_idx: int | None
    layout: Layout | None
    note: str
    context: int
    batches: tuple[int, ...] = ()

    def __iter__(self) -> Iterator[nn.Sequential]:
        yield self.extractor
        yield self.classifier

    def __repr__(self) -> str:
        layout = f"{self.layout}, {self.layout.channels} channels" if self.layout else self.note
        context = f", {self.context} more tensors" if self.context else ""
        sizes = " and ".join(map(str, self.batches))
        return f"Split('{self.name}', layer_idx={self.layer_idx}, {layout}{context}, exact at batches of {sizes})"


class Chain(Stages):
    """A model as named stages, `nn.Sequential`-like; made by `chain`.

    ``print(chain)`` shows the table with every `layer_idx`; `stages` holds the same as `StageInfo` objects.

    Attributes:
        depth: How deep the stages are opened.
        names: Module paths of the stages.
        size: Height and width of the input it was made for.
        output: Which part of what the model returns are the logits.
        inputs: What the model is called with besides the images, or None.
        batches: The numbers of images at which the chain was checked against the model; a forward that does something
            else for a third one (``if len(x) > 8``) cannot be seen.
    """

    def __init__(self, cutter: Cutter) -> None:
        super().__init__(cutter.chain())
        self.__dict__["cutter"] = cutter  # not a submodule: the model would appear in it a second time
        self.depth: int = cutter.depth
        self.output: Output = output_of(cutter.output)
        self.inputs: Wiring | None = cutter.output if isinstance(cutter.output, Wiring) else None
        self.size: tuple[int, int] = (int(cutter.images.shape[-2]), int(cutter.images.shape[-1]))
        self.names: tuple[str, ...] = tuple(b.name for b in cutter.borders)
        self.batches: tuple[int, ...] = tuple(len(images) for images, _ in cutter.references())
        self.training: bool = cutter.model.training

    def forward(self, x: Tensor) -> Tensor:
        """The model's logits."""
        for stage in self:
            x = stage(x)
        return x

    @property
    def cutter(self) -> Cutter:
        """The cutter of the model, for the example the chain was made with."""
        if "cutter" not in self.__dict__:  # the chain was loaded or copied: its model is recorded again
            model, images = self.__dict__["_made_of"]
            self.__dict__["cutter"] = open_images(model, images, self.output, self.depth, self.inputs)
        cutter: Cutter = self.__dict__["cutter"]
        return cutter

    def __getstate__(self) -> dict[str, Any]:
        """The state to pickle and copy: the stages, with the model and the example that they were made of."""
        state = self.__dict__.copy()
        cutter = state.pop("cutter", None)
        if self.inputs is not None:
            state["inputs"] = dataclasses.replace(self.inputs, output=None)
        if cutter is not None:
            state["_made_of"] = (cutter.model, cutter.images)
        return {**state, "output": _Saved(self.output)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the state that `__getstate__` returned."""
        super().__setstate__({**state, "output": state["output"].output})  # type: ignore[no-untyped-call]  # torch's

    @property
    def model(self) -> nn.Module:
        """The model this chain was made of."""
        return self.cutter.model

    @property
    def stages(self) -> tuple[StageInfo, ...]:
        """The table that `print` shows, from the picture to the logits."""
        return stages_of(self.cutter, self.depth)

    def split(self, layer: SupportsIndex | str | nn.Module) -> Split:
        """Cuts the chain; see the function `split`."""
        return self.cutter.renewing(lambda: split_at(self.cutter, self.cutter.cut(as_layer(layer))))

    def default_split(self) -> Split:
        """Cuts at the last place with a spatial grid whose gradient reaches the grid."""
        cut = default_cut(self.cutter)
        ends = [] if cut.name in self.names or cut.context else self.cutter.borders[:-1]
        border = next((b for b in ends if b.value == cut.value), None)
        return split_at(self.cutter, cut if border is None else self.cutter.at_border(border))

    def __str__(self) -> str:
        rows = [("layer_idx", "name", "type", "output", "layout", "grid", "note")]
        for s in self.stages:
            grid = "x".join(map(str, s.layout.grid)) if s.layout else "-"
            shape = "x".join(map(str, s.shape)) if s.shape else "scalar"
            rows.append((str(s.layer_idx), s.name, s.type, shape, str(s.layout or "-"), grid, s.note))
        widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)).rstrip() for r in rows]
        lines.insert(1, "  ".join("-" * w for w in widths))
        sizes = " and ".join(map(str, self.batches))
        head = (
            f"{type(self.model).__name__} as a chain of {len(self)} stages, input {self.size[0]}x{self.size[1]}, "
            f"exact at batches of {sizes}"
        )
        return "\n".join([head, *lines])

    __repr__ = __str__


class _Saved:
    """An `output` within a saved chain; one that cannot be found by its name again is refused."""

    def __init__(self, output: Output) -> None:
        self.output = output

    def __deepcopy__(self, memo: dict[int, Any]) -> _Saved:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        name = getattr(self.output, "__qualname__", "")
        if "<" in name:
            raise SplitError(
                "a chain is saved with its output function, which Python can save by its name alone", f"output={name}",
                "define the function at the top of a module, or save chain.state_dict()",
            )  # fmt: skip
        return type(self), (self.output,)


@torch.inference_mode(False)
@answered
def chain(
    model: nn.Module, example: Tensor | tuple[int, ...] | int | None = None, depth: SupportsIndex = 1, *,
    output: Output = None, inputs: Inputs = None,
) -> Chain:  # fmt: skip
    """Turns a model into a chain of stages whose composition is the model.

    The forward pass is recorded on the example, in eval mode, and once more at another batch size; the chain is checked
    against the model, bit for bit, at both.

    Args:
        model: Any image model; wrappers (`DataParallel`, `torch.compile`) are looked through.
        example: A batch (B, C, H, W), or a size (H, W); None takes the model's own configuration, else 224x224.
        depth: 1 gives one stage per top-level child; larger values open stages into blocks (`layer3.2`, `blocks.7`).
        output: Which part of what the model returns are the logits: a key, an index or a callable; None finds it.
        inputs: What the model takes besides the images, as for `explain`; the chain takes the images alone, and these
            are constants of it. If they have a row for each image, it is made for this number of images.

    Returns:
        An `nn.Sequential` of the user's own modules (printing it shows the layer table).

    Raises:
        SplitError: The model cannot be followed, or does something else for another number of images.
        ValueError: The example does not fit the model.
    """
    cutter = open_cutter(model, example, depth, output, inputs)
    cutter.renewing(lambda: require_exact(cutter, cutter.chain(original=False)))
    made = Chain(cutter)
    cutter.forget()
    return made


@torch.inference_mode(False)
@answered
def split(
    model: nn.Module, layer: SupportsIndex | str | nn.Module, example: Tensor | tuple[int, int] | int | None = None, *,
    output: Output = None, inputs: Inputs = None,
) -> Split:  # fmt: skip
    """Cuts a model into an extractor and a classifier, exactly.

    Args:
        model: Any image model, or a `Chain`.
        layer: `layer_idx`, the number of stages left to the classifier (2 = the last feature map of a ResNet); or a
            module path at any depth, also inside a residual branch; or a module of the model. A path means that
            module's output; of a module called several times it is the last, ``path@1`` the first.
        example: As for `chain`.
        output: As for `chain`.
        inputs: As for `chain`.

    Returns:
        The two halves; they unpack: ``extractor, classifier = split(model, 2)``.

    Raises:
        SplitError: The model cannot be cut exactly there.
        ValueError: There is no such layer.
    """
    if isinstance(model, Chain) and example is None and inputs is None:
        return model.split(layer)
    place = as_layer(layer)
    cutter = open_cutter(model, example, 1, output, inputs)
    return cutter.renewing(lambda: split_at(cutter, cutter.cut(place)))


def network_of(model: nn.Module) -> nn.Module:
    """The network itself: without wrappers, and of a chain the model it was made of."""
    return unwrap(model.model if isinstance(model, Chain) else model)


def open_cutter(
    model: nn.Module, example: Any, depth: SupportsIndex, output: Output, inputs: Inputs | Wiring = None
) -> Cutter:
    """A cutter for an example; arguments and errors are those of `chain`."""
    check_model(model)
    level = as_index(depth, "depth", least=1)
    if isinstance(model, Chain):
        output = output if output is not None else model.output
        inputs, model = inputs if inputs is not None else model.inputs, model.model
    model = unwrap(model)
    require_python(model)
    return open_images(model, example_images(model, example), output, level, inputs)


def open_images(
    model: nn.Module, images: Tensor, output: Output = None, depth: int = 1, inputs: Inputs | Wiring = None
) -> Cutter:
    """A cutter for images on the model's device.

    Raises:
        InputError: The images do not fit the model. What the model's own code raises is passed on as it is.
    """
    require_python(model)
    with torch.inference_mode(False):
        try:
            return Cutter(model, images, wired(model, images, output, inputs), depth)
        except GradCamError:
            raise
        except (TypeError, AttributeError, RuntimeError, AssertionError, IndexError, ValueError) as error:
            refused = refusal(error, model, images, inputs)
            if refused is None:
                raise
            raise refused from error


def require_python(model: nn.Module) -> None:
    """Raises SplitError for a model whose forward is not Python."""
    if isinstance(model, torch.jit.ScriptModule):
        raise SplitError(
            "the model is a ScriptModule, whose forward cannot be followed", type(model).__name__,
            "load it as an ordinary nn.Module",
        )  # fmt: skip


def stages_of(cutter: Cutter, depth: int) -> tuple[StageInfo, ...]:
    """The table of stages of a depth, from the picture to the logits; `layer_idx` counts in the cutter's own chain."""
    borders = cutter.borders_at(depth)
    cuts = [cutter.at_border(b) for b in borders[:-1]]
    readings = [cutter.reading(c) for c in cuts]
    mark_dead(cutter, [(c, r.layout) for c, r in zip(cuts, readings, strict=True) if r.layout is not None])
    found = []
    log = cutter.record.plan.log
    for i, border in enumerate(borders):
        shape = log.shapes[border.value][1:]
        if i == len(cuts):
            found.append(StageInfo(0, border.name, _kind(cutter, border), shape, None, "the logits"))
            continue
        reading = readings[i]
        dead = reading.layout is not None and cutter.record.dead.get(border.value, False)
        note = reading.note or ("gradient at the patches is zero" if dead else "")
        note = note or (NOTE if is_score_map(cutter, cuts[i]) else "")
        kind = _kind(cutter, border)
        found.append(StageInfo(cuts[i].layer_idx, border.name, kind, shape, reading.layout, note, reading.evidence))
    return tuple(found)


@torch.inference_mode(False)
def layer_table(
    model: nn.Module, images: Tensor | tuple[int, ...] | int | None = None, depth: SupportsIndex = 1, *,
    output: Output = None, inputs: Inputs = None,
) -> tuple[StageInfo, ...]:  # fmt: skip
    """Lists the layers of a model, also of one that cannot be cut in two.

    Args:
        model: Any image model, or a `Chain`.
        images: (B, C, H, W); or a size, or None for the model's own, as for `chain`.
        depth: As for `chain`.
        output: As for `chain`.
        inputs: As for `chain`.

    Returns:
        The rows of `Chain.stages`, `layer_idx` counted in the top-level chain. Where the stages of the model carry no
        map, the modules that do stand before the logits. Every name and every `layer_idx` is a `layer` for `explain`.

    Raises:
        GradCamError: The model cannot be recorded.
    """
    cutter = open_cutter(model, images, 1, output, inputs)
    with torch.no_grad():
        rows = stages_of(cutter, as_index(depth, "depth", least=1))
        if any(row.layout is not None and not row.note for row in rows):
            return rows
        found = [(cut, cutter.reading(cut)) for cut in reversed(inner_cuts(cutter))]
        mark_dead(cutter, [(cut, reading.layout) for cut, reading in found if reading.layout is not None])
    known = {row.name for row in rows}
    inner = []
    for cut, reading in found:
        if cut.name not in known and not cutter.record.dead.get(cut.value, False) and not is_score_map(cutter, cut):
            shape = cutter.record.plan.log.shapes[cut.value][1:]
            kind = cutter.record.kinds.get(cut.name.partition("@")[0], "operations")
            inner.append(StageInfo(cut.layer_idx, cut.name, kind, shape, reading.layout, "", reading.evidence))
    return (*rows[:-1], *inner, rows[-1])


def _kind(cutter: Cutter, border: Border) -> str:
    kinds = list(dict.fromkeys(cutter.record.kinds.get(p, "operations") for p in border.paths)) or ["operations"]
    text = "+".join(kinds)
    return text if len(text) < 40 else text[:37] + "..."


def split_at(cutter: Cutter, cut: Cut) -> Split:
    """The checked halves at a cut."""
    cutter.require_gradients(cut.position)
    engine = cutter.halves(cut)
    require_exact(cutter, list(enumerate([*engine[0], *engine[1]])))
    extractor, classifier = cutter.halves(cut, original=True)
    reading = cutter.reading(cut)
    batches = tuple(len(images) for images, _ in cutter.references())
    return Split(
        extractor, classifier, cut.name, cut.layer_idx, reading.layout, reading.note, len(cut.context), batches
    )


def require_exact(cutter: Cutter, parts: list[tuple[Any, nn.Module]]) -> None:
    """Raises SplitError if stages made of the copy's modules do not give the recorded logits, at both batch sizes."""
    for images, wanted in cutter.references():
        x: Any = images.clone()
        with torch.enable_grad(), cutter.mode():
            try:
                for _, module in parts:
                    x = module(x)
                problem = differs(x, wanted)
            except Exception as error:
                problem = f"it fails ({message_of(error, 200)})"
        if problem:
            raise SplitError(
                f"the chain of {type(cutter.model).__name__} is not the model for a batch of {len(images)}: {problem}",
                "",
                "explain() with gradient methods runs the model itself and is not concerned; for split() make the "
                "forward depend on its input alone",
            )  # fmt: skip


def differs(got: Tensor, wanted: Tensor) -> str:
    """How two tensors differ, as a clause; empty if they are equal bit for bit."""
    if not isinstance(got, Tensor) or got.shape != wanted.shape:
        return f"its shape is {tuple(getattr(got, 'shape', ()))} instead of {tuple(wanted.shape)}"
    same = (got == wanted) | (got.isnan() & wanted.isnan())
    if bool(same.all()):
        return ""
    off = (got.double() - wanted.double()).abs()[~same].nan_to_num(nan=float("inf"))
    return f"it differs by up to {float(off.max()):.3g}"
