"""A model as a chain of stages that can be cut anywhere, exactly.

`chain` turns a model into an `nn.Sequential` of named stages whose composition *is* the model; `split` cuts it into an
extractor and a classifier. Stages come from the recorded forward pass (see `tracing`), not from the order of the
model's children: a cut is legal where exactly one tensor is handed over. What happens between two submodules (class
token, position embedding, flatten, pooling) belongs to the stage it feeds.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import layouts, tracing
from .layouts import Layout
from .tracing import Node, SplitError, Trace, logits_of, map_structure, shadow, signature, unwrap

__all__ = ["Chain", "Split", "SplitError", "StageInfo", "chain", "split"]

_TRACING = threading.RLock()
_PLANS: weakref.WeakKeyDictionary[nn.Module, _Cache] = weakref.WeakKeyDictionary()


# -------------------------------------------------------------------------------------------------------------- stages


class _Slot:
    """A reference to a value while a stage runs."""

    def __init__(self, index: int) -> None:
        self.index = index


class _Step(NamedTuple):
    run: Callable[..., Any] | str  # a function, or the name of a registered module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: int
    frees: tuple[int, ...]


class Stage(nn.Module):
    """A link of the chain that is more than one module: submodules and the operations around them.

    It takes what the stage before it hands over (a tensor; at a cut inside a residual branch a tuple whose first tensor
    is the activation and whose others are the context) and returns what it hands over itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[_Step] = []
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        self.tensors: list[tuple[int, str]] = []
        self.constants: list[tuple[int, Tensor]] = []
        self.slots = 0

    def forward(self, x: Any) -> Any:
        """Runs the recorded steps on what the stage before handed over."""
        env: list[Any] = [None] * self.slots
        for slot, value in zip(self.inputs, (x,) if len(self.inputs) == 1 else x, strict=True):
            env[slot] = value
        for slot, name in self.tensors:
            env[slot] = self._parameters[name] if name in self._parameters else self._buffers[name]
        for slot, value in self.constants:
            env[slot] = value
        del x

        def fill(leaf: Any) -> Any:
            return env[leaf.index] if type(leaf) is _Slot else leaf

        for step in self.steps:
            run = self._modules[step.run] if type(step.run) is str else step.run
            env[step.out] = run(*map_structure(step.args, fill), **map_structure(step.kwargs, fill))
            for slot in step.frees:
                env[slot] = None
        out = tuple(env[slot] for slot in self.outputs)
        return out[0] if len(out) == 1 else out

    def extra_repr(self) -> str:
        """The operations that are not modules, for printing."""
        names = [getattr(s.run, "__name__", "op") for s in self.steps if type(s.run) is not str]
        names = [n for n in names if n not in ("__get__", "_item", "_batch", "size", "dim")]
        shown = names if len(names) <= 6 else [*names[:5], f"... {len(names) - 5} more"]
        return ", ".join(dict.fromkeys(shown))


class Stages(nn.Sequential):
    """An `nn.Sequential` whose parts may carry module paths with dots as names; slices are `Stages` again."""

    def __init__(self, parts: Sequence[tuple[str, nn.Module]] = ()) -> None:
        super().__init__()
        self._modules.update(parts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Stages(list(self._modules.items())[index])
        if isinstance(index, str):
            return self._modules[index]
        return super().__getitem__(index)

    def _get_name(self) -> str:
        return "Sequential"


def _batch(x: Tensor, axis: int, here: int, wanted: int) -> int:
    """A batch-dependent number, from the batch of the tensor at the cut."""
    return x.shape[axis] * wanted // here


def _item(value: Any, getter: Callable[[Any], Any]) -> Any:
    return getter(value)


# ---------------------------------------------------------------------------------------------------------------- plan


@dataclass
class _Plan:
    """One recorded forward pass and its borders; builds stages from the user's modules or from the shadow's."""

    trace: Trace
    needed: list[int]  # positions of the steps that matter, in order
    live: list[list[Node]]  # per needed step: input-dependent values still to be used after it
    position: dict[Node, int]

    @classmethod
    def of(cls, trace: Trace) -> _Plan:
        nodes = trace.nodes = _sizes_first(trace.nodes)
        index = {node: i for i, node in enumerate(nodes)}
        wanted: set[Node] = set()
        stack = [trace.output, nodes[0], *(n for n in nodes if n.effect)]
        while stack:
            node = stack.pop()
            if node not in wanted:
                wanted.add(node)
                stack.extend(node.inputs())
        needed = [i for i, n in enumerate(nodes) if n in wanted]
        last: dict[Node, int] = {trace.output: len(nodes)}
        for i in needed:
            for node in nodes[i].inputs():
                last[node] = max(last.get(node, -1), i)
        live: list[list[Node]] = []
        current: list[Node] = []
        for i in needed:
            if nodes[i].depends and not nodes[i].is_int:
                current = [*current, nodes[i]]
            current = [n for n in current if last.get(n, -1) > i]
            live.append(current)
        return cls(trace, needed, live, index)

    def handed_over(self, border: int) -> list[Node] | None:
        """The tensors that cross a border (a place in `needed`), or None if what crosses cannot be handed over."""
        live = self.live[border]
        if not live or any(not _is_tensor(n) for n in live):
            return None
        crossing = self._numbers_across(border)
        if any(_scale(number, live) is None for number in crossing):
            return None
        return live

    def _numbers_across(self, border: int) -> list[Node]:
        cut = self.needed[border]
        found: dict[Node, None] = {}
        seen: set[Node] = set()
        for i in self.needed[border + 1 :]:
            self._numbers_of(self.trace.nodes[i], cut, found, seen)
        return list(found)

    def _numbers_of(self, node: Node, cut: int, found: dict[Node, None], seen: set[Node]) -> None:
        for source in node.inputs():
            if source in seen or self.position[source] > cut:
                continue
            seen.add(source)
            if source.is_int:
                found[source] = None
            elif not source.depends:
                self._numbers_of(source, cut, found, seen)

    def build(self, root: nn.Module, start: int, stop: int, names: dict[str, nn.Module]) -> nn.Module:
        """Makes the stage between two borders (places in `needed`; `start` exclusive, -1 takes the picture itself)."""
        nodes = self.trace.nodes
        inputs = [nodes[0]] if start < 0 else self.live[start]
        outputs = [self.trace.output] if stop == len(self.needed) - 1 else self.live[stop]
        first = self.needed[start] if start >= 0 else 0
        steps: dict[Node, None] = {}
        scaled: dict[Node, Any] = {}

        def add(node: Node) -> None:
            if node in inputs or node in steps or node in scaled:
                return
            if node.is_int and self.position[node] <= first:
                scaled[node] = _scale(node, inputs)
                return
            if node.depends and self.position[node] <= first:
                raise SplitError(f"'{node.target}' would be needed across the cut")
            for source in node.inputs():
                add(source)
            steps[node] = None

        own = self.needed[start + 1 : stop + 1] if start >= 0 else self.needed[1 : stop + 1]
        wanted = set(outputs)
        for i in reversed(own):  # only what this stage's outputs need, and what changes tensors in place
            if nodes[i].effect or nodes[i] in wanted:
                wanted.add(nodes[i])
                wanted.update(nodes[i].inputs())
        for i in own:
            if nodes[i] in wanted:
                add(nodes[i])
        for node in outputs:
            add(node)
        order = sorted(steps, key=self.position.__getitem__)

        def is_module(n: Node) -> bool:
            return n.kind == "module" and not n.kwargs and n.args == (inputs[0],)

        if len(inputs) == len(outputs) == 1 and len(order) == 1 and is_module(order[0]) and outputs[0] is order[0]:
            return names[order[0].target]  # the user's own module, called with the one tensor
        stage = Stage()
        slots = {node: i for i, node in enumerate((*inputs, *scaled, *order))}
        stage.slots = len(slots)
        stage.inputs, stage.outputs = [slots[n] for n in inputs], [slots[n] for n in outputs]

        def refer(leaf: Any) -> Any:
            return _Slot(slots[leaf]) if isinstance(leaf, Node) else leaf

        last: dict[int, int] = {}
        made: list[tuple[Any, tuple[Any, ...], dict[str, Any], int]] = []
        for node, (tensor, axis, here, wanted_number) in scaled.items():
            made.append((_batch, (_Slot(slots[tensor]), axis, here, wanted_number), {}, slots[node]))
        for node in order:
            args, kwargs = map_structure(node.args, refer), map_structure(node.kwargs, refer)
            if node.kind == "param":
                owner, _, name = node.target.rpartition(".")
                module = root.get_submodule(owner)
                table = "_parameters" if name in module._parameters else "_buffers"
                getattr(stage, table)[node.target] = getattr(module, table)[name]
                stage.tensors.append((slots[node], node.target))
            elif node.kind == "const":
                stage.constants.append((slots[node], node.target))
            elif node.kind == "module":
                stage._modules[node.target] = names[node.target]
                made.append((node.target, args, kwargs, slots[node]))
            elif node.kind == "item":
                made.append((_item, (*args, node.target), {}, slots[node]))
            else:
                made.append((node.target, args, kwargs, slots[node]))
        for i, (_, args, kwargs, out) in enumerate(made):
            last[out] = i
            map_structure((args, kwargs), lambda s, i=i: last.__setitem__(s.index, i) if type(s) is _Slot else None)
        for i, (run, args, kwargs, out) in enumerate(made):
            frees = tuple(s for s, when in last.items() if when == i and s not in stage.outputs)
            stage.steps.append(_Step(run, args, kwargs, out, frees))
        stage.train(root.training)
        return stage


def _sizes_first(nodes: Sequence[Node]) -> list[Node]:
    """Moves questions for a tensor's size to where the tensor is made, so that asking late does not keep it alive."""
    parts: dict[Node, list[Node]] = {}
    for node in nodes:
        if node.kind == "item":
            parts.setdefault(node.args[0], []).append(node)
    early: dict[Node, list[Node]] = {}
    moved: set[Node] = set()
    for node in nodes:
        answers = [node] if node.is_int else parts.get(node, [])
        if node.kind == "call" and not node.effect and answers and all(a.is_int for a in answers):
            sources = node.inputs()
            if len(sources) == 1 and _is_tensor(sources[0]):
                block = list(dict.fromkeys([node, *answers]))
                early.setdefault(sources[0], []).extend(block)
                moved.update(block)
    out: list[Node] = []
    for node in nodes:
        if node not in moved:
            out += [node, *early.get(node, [])]
    return out


def _is_tensor(node: Node) -> bool:
    return node.shapes is not None and not node.is_int


def _has_rows(node: Node, count: int) -> bool:
    """Whether a tensor has one row per picture."""
    assert node.shapes is not None
    return node.shapes[0][:1] == (count,)


def _scale(number: Node, tensors: Sequence[Node]) -> tuple[Node, int, int, int] | None:
    """Expresses a batch-dependent number by the batch of a tensor at the cut: (tensor, axis, its size, the number)."""
    assert number.shapes is not None
    v1, v2 = number.shapes
    if isinstance(v1, int) and isinstance(v2, int):
        for tensor in tensors:
            assert tensor.shapes is not None
            for axis, (t1, t2) in enumerate(zip(*tensor.shapes, strict=True)):
                if t1 != t2 and v1 * t2 == v2 * t1:
                    return tensor, axis, t1, v1
    return None


# ------------------------------------------------------------------------------------------------------------- public


@dataclass(frozen=True)
class StageInfo:
    """One line of the printed chain: a stage and what leaves it.

    Attributes:
        layer_idx: Number of stages after it (what `split` and `GradCAM` call `layer_idx`).
        name: Module path of the stage.
        type: Class of the module.
        shape: Shape at the cut after the stage, without the batch.
        layout: How to read it, or None.
        note: Why no map can be drawn there, or "".
    """

    layer_idx: int
    name: str
    type: str
    shape: tuple[int, ...]
    layout: Layout | None
    note: str


@dataclass(frozen=True, eq=False)
class Split:
    """A model cut in two: ``classifier(extractor(x))`` is the model's logits.

    At a cut inside a residual branch the extractor returns ``(activation, *context)`` and the classifier takes that
    tuple; elsewhere one tensor is handed over.

    Attributes:
        extractor: An `nn.Sequential` of the model's own modules, before the cut.
        classifier: The stages after the cut.
        name: Module path of the last stage before the cut.
        layer_idx: Number of stages in the classifier, or None at a cut that is not a border of the chain.
        layout: How to read the activation, or None.
        note: Why no map can be drawn here, or "".
        context: Number of further tensors handed over.
    """

    extractor: nn.Sequential
    classifier: nn.Sequential
    name: str
    layer_idx: int | None
    layout: Layout | None
    note: str
    context: int
    engine: tuple[nn.Sequential, nn.Sequential] = field(repr=False)
    mutates: bool = field(default=False, repr=False)

    def __iter__(self) -> Iterator[nn.Module]:
        yield self.extractor
        yield self.classifier


@dataclass(frozen=True, eq=False)
class Links:
    """What a `Chain` knows of a model, without the modules put together: all that the engine needs."""

    model: nn.Module
    depth: int
    cache: _Cache
    record: _Record

    @property
    def names(self) -> tuple[str, ...]:
        """Module paths of the stages."""
        return tuple(self.record.names)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input."""
        return self.record.size

    @property
    def stages(self) -> tuple[StageInfo, ...]:
        """The table of stages, from the picture to the logits."""
        return self.record.stages()

    @property
    def engine(self) -> tuple[list[nn.Module], list[bool]]:
        """The stages of the stand-in, as the engine runs them, and which of them write into what they are handed."""
        return self.record.modules, self.record.mutates

    def split(self, layer: int | str | nn.Module) -> Split:
        """Cuts the chain; see the function `split`."""
        return self.cache.split(self.model, self.record, layer)

    def default_split(self) -> Split:
        """Cuts at the last place with a spatial grid whose gradient reaches the grid."""
        return self.cache.default(self.model, self.record)

    def fits(self, images: Tensor) -> bool:
        """Whether they are for images of this shape and the model has not changed since."""
        current = self.cache.signature == signature(self.model)
        return current and self.record.example[0].shape[1:] == images.shape[1:]


class Chain(Stages):
    """A model as named stages, `nn.Sequential`-like; made by `chain`.

    ``print(chain)`` shows the table one looks a `layer_idx` up in; `stages` holds the same as `StageInfo` objects.

    Attributes:
        depth: How deep the stages are opened.
        names: Module paths of the stages.
        size: Height and width of the input it was made for.
    """

    def __init__(self, links: Links) -> None:
        super().__init__(list(zip(links.record.names, links.record.build(links.model), strict=True)))
        self.__dict__["links"] = links  # not a submodule: the model would appear in it a second time
        self.depth, self.size, self.names = links.depth, links.size, links.names
        self.training = links.model.training

    def forward(self, x: Tensor) -> Tensor:
        """The model's logits."""
        return super().forward(x)

    @property
    def model(self) -> nn.Module:
        """The model this chain was made of."""
        return self.__dict__["links"].model

    @property
    def stages(self) -> tuple[StageInfo, ...]:
        """The table that `print` shows, from the picture to the logits."""
        return self.__dict__["links"].stages

    def split(self, layer: int | str | nn.Module) -> Split:
        """Cuts the chain; see the function `split`."""
        return self.__dict__["links"].split(layer)

    def default_split(self) -> Split:
        """Cuts at the last place with a spatial grid whose gradient reaches the grid."""
        return self.__dict__["links"].default_split()

    def __str__(self) -> str:
        rows = [("layer_idx", "name", "type", "output", "layout", "grid", "note")]
        for s in self.stages:
            grid = "x".join(map(str, s.layout.grid)) if s.layout else "-"
            shape = "x".join(map(str, s.shape)) if s.shape else "scalar"
            rows.append((str(s.layer_idx), s.name, s.type, shape, str(s.layout or "-"), grid, s.note))
        widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)).rstrip() for r in rows]
        lines.insert(1, "  ".join("-" * w for w in widths))
        head = f"{type(self.model).__name__} as a chain of {len(self)} stages, input {self.size[0]}x{self.size[1]}"
        return "\n".join([head, *lines])

    __repr__ = __str__


def links(model: nn.Module, example: Tensor | tuple[int, ...] | int | None = None, depth: int = 1) -> Links:
    """What `chain` knows of a model; the arguments and errors are those of `chain`."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise ValueError(f"depth={depth!r} is not a depth; give 1 (top-level children) or more (blocks inside them)")
    model = unwrap(model.model if isinstance(model, Chain) else model)
    if isinstance(model, torch.jit.ScriptModule):
        raise SplitError(
            "the model is a ScriptModule, whose forward cannot be followed; load it as an ordinary nn.Module"
        )
    cache = _cache(model)
    return Links(model, depth, cache, cache.record(model, example, depth))


def chain(model: nn.Module, example: Tensor | tuple[int, ...] | int | None = None, depth: int = 1) -> Chain:
    """Turns a model into a chain of stages whose composition is the model.

    The forward pass is recorded on the example, in eval mode, and the chain is checked against the model: bit for bit
    on the example, and within float tolerance for another batch size. The record is kept per model and size.

    Args:
        model: Any image model; wrappers (`DataParallel`, `torch.compile`) are looked through.
        example: A batch (B, C, H, W), or a size (H, W); None takes the model's own configuration, else 224x224.
        depth: 1 gives one stage per top-level child; larger values open stages into blocks (`layer3.2`, `blocks.7`).

    Returns:
        An `nn.Sequential` of the user's own modules (printing it shows the layer table).

    Raises:
        SplitError: The model cannot be followed, or the chain differs from it.
        ValueError: The example does not fit the model.
    """
    return Chain(links(model, example, depth))


def split(
    model: nn.Module, layer: int | str | nn.Module, example: Tensor | tuple[int, int] | int | None = None
) -> Split:
    """Cuts a model into an extractor and a classifier, exactly.

    Args:
        model: Any image model, or a `Chain`.
        layer: `layer_idx`, the number of stages left to the classifier (2 = the last feature map of a ResNet); or a
            module path at any depth, also inside a residual branch; or a module of the model.
        example: As for `chain`.

    Returns:
        The two halves; they unpack: ``extractor, classifier = split(model, 2)``.

    Raises:
        SplitError: The model cannot be cut exactly there.
        ValueError: There is no such layer.
    """
    if isinstance(model, Chain) and example is None:
        return model.split(layer)
    return chain(model, example).split(layer)


# -------------------------------------------------------------------------------------------------------------- records


@dataclass
class _Record:
    """A plan with its chosen borders: the stages of one depth."""

    plan: _Plan
    borders: list[int]  # places in plan.needed; the last is the end
    names: list[str]
    size: tuple[int, int]
    example: tuple[Tensor, Tensor]
    root: nn.Module  # the shadow
    modules: list[nn.Module] = field(default_factory=list)  # the shadow's stages
    mutates: list[bool] = field(default_factory=list)  # whether a stage writes into what it is handed
    written: list[bool] = field(default_factory=list)  # whether what a stage hands over is written into afterwards
    guarded: bool = False  # the model writes into its input: the stand-in gets a copy
    infos: tuple[StageInfo, ...] | None = None
    base: _Record | None = None  # of a record opened for one named module: the chain it was asked of
    splits: dict[Any, Split] = field(default_factory=dict)

    def build(self, root: nn.Module, borders: list[int] | None = None) -> list[nn.Module]:
        names = dict(root.named_modules())
        starts = [-1, *(borders or self.borders)]
        modules = [self.plan.build(root, a, b, names) for a, b in zip(starts, starts[1:], strict=False)]
        if self.guarded and root is self.root:
            modules[0] = nn.Sequential(_Copy(), modules[0])
        return modules

    def stages(self) -> tuple[StageInfo, ...]:
        if self.infos is None:
            self.infos = tuple(self._describe())
        return self.infos

    def _describe(self) -> list[StageInfo]:
        found = self.layouts()
        dead = self.dead(found)
        infos = []
        for i, (name, module) in enumerate(zip(self.names, self.modules, strict=True)):
            layer_idx = len(self.names) - 1 - i
            node = self.plan.trace.output if layer_idx == 0 else self.plan.live[self.borders[i]][0]
            assert node.shapes is not None
            layout = found[i]
            note = layout if isinstance(layout, str) else "gradient at the patches is zero" if i in dead else ""
            note = "the logits" if layer_idx == 0 else note
            kind = type(module).__name__
            if isinstance(module, Stage):
                inner = [type(m).__name__ for n, m in module._modules.items()]
                kind = inner[0] if len(inner) == 1 else "+".join(dict.fromkeys(inner)) or "operations"
                kind = kind if len(kind) < 40 else kind[:37] + "..."
            shape = tuple(node.shapes[0][1:])
            infos.append(StageInfo(layer_idx, name, kind, shape, None if isinstance(layout, str) else layout, note))
        return infos

    def layouts(self) -> list[Layout | str]:
        """The layout after every stage, shapes that fit two readings decided by the other cuts."""
        nodes = [self.plan.live[b][0] for b in self.borders[:-1]]
        found = [self.layout_of(node, name) for node, name in zip(nodes, self.names, strict=False)]
        return [*found, "the logits"]

    def layout_of(self, node: Node, name: str) -> Layout | str:
        assert node.shapes is not None
        shape = node.shapes[0]
        if shape[:1] != (len(self.example[0]),) or node.shapes[1][:1] != (len(self.example[1]),):
            return "not one row per picture"
        prefix = _prefix_tokens(self.root)
        return _reordered(self.root, name, layouts.infer(shape, self.size, prefix, self._prefer), node, self.plan.trace)

    @functools.cached_property
    def _prefer(self) -> str | None:
        """NCHW or NHWC, by the votes of all unambiguous activations of the model."""
        votes = {"NCHW": 0, "NHWC": 0}
        for node in self.plan.trace.nodes:
            if node.depends and _is_tensor(node) and node.kind != "input":
                shape = node.shapes[0]  # type: ignore[index]
                if len(shape) == 4 and not layouts.is_ambiguous(shape, self.size):
                    layout = layouts.infer(shape, self.size)
                    if isinstance(layout, Layout):
                        votes[layout.name] += 1
        return max(votes, key=votes.__getitem__) if any(votes.values()) else None

    def dead(self, found: Sequence[Layout | str]) -> set[int]:
        """The cuts that carry a grid but whose gradient there is exactly zero, from one pass over the example."""
        reach = self._reach(found, self.modules)
        if not any(somewhere for _, somewhere in reach.values()):  # a head that was initialised with zeros: ask another
            filled = shadow(self.root)
            generator = torch.Generator().manual_seed(0)
            for module in filled.modules():
                for name, weight in module._parameters.items():
                    if weight is not None and weight.ndim > 1 and not weight.count_nonzero():
                        noise = torch.randn(weight.shape, generator=generator).to(weight)
                        module._parameters[name] = nn.Parameter(noise, requires_grad=False)
            reach = self._reach(found, self.build(filled))
        return {i for i, (grid, _) in reach.items() if not grid} if any(s for _, s in reach.values()) else set()

    def _reach(self, found: Sequence[Layout | str], modules: Sequence[nn.Module]) -> dict[int, tuple[bool, bool]]:
        """For every cut with a grid: whether the gradient reaches the grid, and whether it reaches anything there."""
        leaves: dict[int, Tensor] = {}
        x: Any = self.example[0][:1]
        with torch.enable_grad():
            for i, module in enumerate(modules):
                x = module(x.clone() if self.mutates[i] and leaves else x)
                if isinstance(found[i], Layout):
                    if not leaves:
                        x = x.detach().requires_grad_()
                    leaves[i] = x
            if not leaves:
                return {}
            score = x.float().flatten(1).max(dim=1).values.sum()
            if not score.requires_grad:
                return dict.fromkeys(leaves, (False, False))
            gradients = torch.autograd.grad(score, list(leaves.values()), materialize_grads=True)
        reach = {}
        for i, gradient in zip(leaves, gradients, strict=True):
            layout = found[i]
            assert isinstance(layout, Layout)
            reach[i] = bool(layout.to_map(gradient).count_nonzero()), bool(gradient.count_nonzero())
        return reach


def _prefix_tokens(model: nn.Module) -> int | None:
    for module in (model, *model.children()):
        for name in ("num_prefix_tokens", "num_tokens"):
            value = getattr(module, name, None)
            if isinstance(value, int) and 0 <= value < 64:
                return value
        config = getattr(module, "config", None)
        registers = getattr(config, "num_register_tokens", None)
        if isinstance(registers, int):
            return 1 + registers
    return None


def _reordered(model: nn.Module, name: str, layout: Layout | str, node: Node, trace: Trace) -> Layout | str:
    """Hiera keeps its tokens grouped by mask unit; its own `reroll` says where each one lies."""
    reroll = getattr(model, "reroll", None)
    if reroll is None or not isinstance(layout, Layout) or layout.name != "tokens" or not hasattr(reroll, "schedule"):
        return layout
    before = [n.target for n in trace.nodes[: trace.nodes.index(node) + 1] if n.kind == "module"]
    if "unroll" not in before:
        return layout
    blocks = [p.split(".")[1] for p in before if p.startswith("blocks.")]
    block = int(blocks[-1]) if blocks else 0
    tokens = layout.grid[0] * layout.grid[1]
    order = reroll(torch.arange(tokens).view(1, tokens, 1), block)  # (1,H,W,1)
    grid = (order.shape[1], order.shape[2])
    return Layout("tokens", grid, layout.channels, layout.prefix, order=order.flatten())


class _Cache:
    """What is known of one model: its shadow, and a record per size and depth."""

    def __init__(self, model: nn.Module) -> None:
        self.signature = signature(model)
        self.shadow = shadow(model)
        self.records: dict[Any, _Record] = {}

    # -- recording

    def record(self, model: nn.Module, example: Any, depth: int) -> _Record:
        pair, key = _examples(model, example)
        with _TRACING:
            if key is not None and (key, depth) in self.records:
                return self.records[key, depth]
            first, second = pair()
            with torch.random.fork_rng(devices=[]):
                try:
                    record = self._at_depth(first, second, depth)
                except SplitError:
                    _require_accepted(model, self.shadow, first)
                    raise
            if key is not None:
                self.records[key, depth] = record
            return record

    def named(self, record: _Record, path: str) -> _Record:
        """A record opened down to a module."""
        key = ("named", tuple(record.example[0].shape), path.rpartition(".")[0], id(record))
        with _TRACING:
            opened = frozenset(_ancestors(path))
            if key not in self.records:
                with torch.random.fork_rng(devices=[]):
                    plan = _plan(self.shadow, *record.example, opened | record.plan.trace.opened)
                    self.records[key] = self._record(plan, record.example, path.count(".") + 1, verify=False)
                    self.records[key].base, self.records[key].guarded = record, record.guarded
                    self.records[key].modules = self.records[key].build(self.shadow)
            return self.records[key]

    def _at_depth(self, first: Tensor, second: Tensor, depth: int) -> _Record:
        opened: frozenset[str] = frozenset({""})
        closed: set[str] = set()
        plan = _plan(self.shadow, first, second, opened)
        level = 1
        while level < depth:
            fresh = {p for p in _containers(self.shadow, plan) if p.count(".") + 1 <= level and p not in closed}
            fresh -= opened
            if not fresh:
                level += 1
                continue
            try:
                tried = _plan(self.shadow, first, second, opened | fresh)
            except SplitError as error:
                culprit = getattr(error, "module", "")
                guilty = {p for p in fresh if culprit == p or culprit.startswith(p + ".")} or fresh
                closed |= guilty
                continue
            unfit = {p for p in fresh if not _is_chain(tried, p)}
            closed |= unfit
            if unfit:
                continue
            opened, plan = opened | fresh, tried
        return self._record(plan, (first, second), depth)

    def _record(self, plan: _Plan, example: tuple[Tensor, Tensor], depth: int, verify: bool = True) -> _Record:
        borders, names = _borders(plan, depth)
        size = (int(example[0].shape[-2]), int(example[0].shape[-1]))
        record = _Record(plan, borders, names, size, example, self.shadow)
        with torch.no_grad():
            record.modules = record.build(self.shadow)
            if verify:
                _verify(self.shadow, record.modules, record.names, record)
                record.mutates, record.written = _mutations(record.modules, record.example[0])
                if record.mutates[0]:
                    record.guarded, record.mutates[0] = True, False
                    record.modules = record.build(self.shadow)
        return record

    # -- cutting

    def split(self, model: nn.Module, record: _Record, layer: int | str | nn.Module) -> Split:
        if isinstance(layer, nn.Module):
            paths = [n for n, m in model.named_modules() if m is layer]
            if not paths or not paths[0]:
                raise ValueError(
                    f"the {type(layer).__name__} given as layer is not a module inside the model; "
                    "give one of its submodules, a path or a layer_idx"
                )
            layer = paths[0]
        if isinstance(layer, bool) or not isinstance(layer, (int, str)):
            raise TypeError(f"layer must be an int (layer_idx), a module path or a module, got {type(layer).__name__}")
        count = len(record.names)
        if isinstance(layer, int):
            if not 1 <= layer <= count - 1:
                problem = "nothing to explain" if layer < 1 else "nothing to extract from"
                name = type(model).__name__
                raise ValueError(
                    f"layer_idx={layer} leaves {problem}: {name} has {count} stages"
                    + (
                        f", use 1..{count - 1}"
                        if count > 1
                        else ", so it cannot be cut at this depth; try a module path"
                    )
                    + " (see print(grad_cam.chain(model)))"
                )
            key: Any = layer
        else:
            key = layer
        with _TRACING:
            if (key, id(model)) not in record.splits:
                if isinstance(layer, int):
                    made = self._cut(model, record, record.borders[count - 1 - layer], record.names[count - 1 - layer])
                else:
                    made = self._cut_at(model, record, layer)
                record.splits[key, id(model)] = made
            return record.splits[key, id(model)]

    def _cut_at(self, model: nn.Module, record: _Record, path: str) -> Split:
        if path in record.names[:-1]:
            i = record.names.index(path)
            return self._cut(model, record, record.borders[i], path)
        known = dict(self.shadow.named_modules())
        if path not in known or path == "":
            close = difflib.get_close_matches(path, dict.fromkeys([*known, *record.names]), n=4, cutoff=0.5)
            hint = f"; closest: {', '.join(close)}" if close else ""
            raise ValueError(f"there is no module '{path}' in {type(model).__name__}{hint} (see model.named_modules())")
        opened, place = self._find(record, path)
        return self._cut(model, opened, place, path)

    def _find(self, record: _Record, path: str) -> tuple[_Record, int]:
        """A record opened down to a module, and the border after that module's output."""
        with _TRACING:
            opened = self.named(record, path)
            plan = opened.plan
            nodes = plan.trace.nodes
            calls = [
                p for p, i in enumerate(plan.needed)
                if nodes[i].kind == "module" and nodes[i].depends
                and (nodes[i].target == path or nodes[i].target.startswith(path + "."))
            ]  # fmt: skip
            if not calls:
                raise ValueError(
                    f"module '{path}' is not called in the forward pass (or its output is not used), so there is no "
                    "activation to explain; see print(grad_cam.chain(model, depth=2))"
                )
            last = calls[-1]
            call = nodes[plan.needed[last]]
            activation, place = call, last
            while place + 1 < len(plan.needed) and _descends(nodes[plan.needed[place + 1]], call):
                place += 1
                part = nodes[plan.needed[place]]
                if _is_tensor(part) and not (_is_tensor(activation) and _has_rows(activation, len(record.example[0]))):
                    activation = part if _has_rows(part, len(record.example[0])) or activation is call else activation
            if place == len(plan.needed) - 1 or call is plan.trace.output:
                raise ValueError(
                    f"'{path}' gives the logits: nothing is left to explain after it; choose an earlier layer"
                )
            live = plan.handed_over(place)
            if live is None or activation not in live:
                raise SplitError(
                    f"cannot cut after '{path}': its output is not handed on as a tensor; cut after its parent "
                    f"'{path.rpartition('.')[0]}' instead"
                )
            plan.live[place] = [activation, *(n for n in live if n is not activation)]
            return opened, place

    def _cut(self, model: nn.Module, record: _Record, border: int, name: str) -> Split:
        plan = record.plan
        at_stage = border in record.borders
        before = [b for b in record.borders if b < border]
        after = [b for b in record.borders if b > border]
        names = record.names[: len(before)] + [name if at_stage else _unique(name, record.names)]
        rest = record.names[len(before) + at_stage :]

        def halves(root: nn.Module, modules: list[nn.Module] | None) -> tuple[nn.Sequential, nn.Sequential]:
            if modules is None:
                modules = record.build(root, [*before, border, *after])
            cut = len(before) + 1
            first = Stages(list(zip(names, modules[:cut], strict=True)))
            last = Stages(list(zip(_distinct(rest), modules[cut:], strict=True)))
            return first, last

        with torch.no_grad():
            engine = halves(self.shadow, record.modules if at_stage else None)
            extractor, classifier = halves(model, None)
        extractor.training = classifier.training = model.training
        node = plan.live[border][0]
        layout = record.layout_of(node, name)
        if at_stage and record.written:  # a border of a chain that has been checked as a whole
            mutates = record.written[record.borders.index(border)]
        else:
            mutates = _check_cut(self.shadow, engine, record, name)
        return Split(
            extractor, classifier, name, self._index(record, rest) if at_stage else None,
            None if isinstance(layout, str) else layout, layout if isinstance(layout, str) else "",
            len(plan.live[border]) - 1, engine, mutates,
        )  # fmt: skip

    def _classes(self, record: _Record) -> int:
        """The number of scores the model gives."""
        assert record.plan.trace.output.shapes is not None
        return record.plan.trace.output.shapes[0][-1]

    def _index(self, record: _Record, rest: Sequence[str]) -> int | None:
        """layer_idx of a cut: how many stages of the chain are after it, if they are stages of that chain."""
        base = record.base or record
        return len(rest) if list(rest) == base.names[len(base.names) - len(rest) :] else None

    def default(self, model: nn.Module, record: _Record) -> Split:
        if ("default", id(model)) in record.splits:
            return record.splits["default", id(model)]
        found = record.layouts()
        dead = record.dead(found)
        made: Split | None = None
        spatial = [i for i, layout in enumerate(found) if isinstance(layout, Layout)]
        alive = [i for i in spatial if i not in dead]
        # a stage whose output is dead may hold blocks whose outputs are not: open it before going further back
        hidden = [n for i, n in enumerate(record.names) if i in dead or (not alive and i < len(found))]
        depth, names = 1, record.names
        while hidden and depth < 6:
            depth += 1
            deeper = self.record(model, record.example[0], depth)
            if deeper.names == names and depth > 2:
                break
            names = deeper.names
            layouts_ = deeper.layouts()
            gone = deeper.dead(layouts_)
            usable = [i for i, layout in enumerate(layouts_) if isinstance(layout, Layout) and i not in gone]
            if usable and (not alive or _further(deeper, usable[-1], record, alive[-1])):
                name = deeper.names[usable[-1]]
                if made is not None and name.startswith(made.name + "."):
                    continue  # the same place, or an earlier one inside the same module
                made = self.split(model, record if name in dict(self.shadow.named_modules()) else deeper, name)
        if made is None:
            # without any usable cut, the last stage that hides one
            for after in alive[-1:] or range(len(record.names) - 2, -2, -1):
                made = made or self._inside(model, record, after)
        if made is None:
            if not alive:
                notes = "; ".join(f"{n}: {f}" for n, f in zip(record.names, found, strict=True) if isinstance(f, str))
                raise ValueError(f"no cut of {type(model).__name__} carries a spatial map with a gradient ({notes})")
            made = self.split(model, record, len(record.names) - 1 - alive[-1])
        record.splits["default", id(model)] = made
        return made

    def _inside(self, model: nn.Module, record: _Record, after: int) -> Split | None:
        """The last usable cut inside a stage of several children (two live tensors), with the others as context."""
        i = after + 1
        if i >= len(record.names):
            return None
        plan = record.plan
        start = record.borders[after] if after >= 0 else -1
        calls = [plan.trace.nodes[plan.needed[p]].target for p in _module_calls(plan) if start < p <= record.borders[i]]
        if len(calls) < 2:  # one container: the blocks it holds
            modules = dict(self.shadow.named_modules())
            calls = [
                path for path in modules
                if any(path.startswith(c + ".") for c in calls)
                and isinstance(modules[path.rpartition(".")[0]], (nn.Sequential, nn.ModuleList))
            ]  # fmt: skip
        tried, classes = 0, self._classes(record)
        for path in dict.fromkeys(reversed(calls)):
            try:
                opened, place = self._find(record, path)
                layout = opened.layout_of(opened.plan.live[place][0], path)
                if isinstance(layout, str) or min(layout.grid) < 2 or layout.channels == classes:
                    continue  # no grid, or a head's own scores at every position
                cut = self.split(model, record, path)
            except ValueError:
                continue
            if _reaches(cut, record.example[0][:1]):
                return cut
            tried += 1
            if tried == 6:
                break
        return None


def _reaches(cut: Split, batch: Tensor) -> bool:
    """Whether a gradient reaches the grid at a cut."""
    assert cut.layout is not None
    with torch.no_grad():
        handed = cut.engine[0](batch)
    parts = [t.clone() for t in (handed if isinstance(handed, tuple) else (handed,))]
    leaf = parts[0].requires_grad_()
    with torch.enable_grad():
        parts[0] = leaf.clone()
        logits = cut.engine[1](tuple(parts) if len(parts) > 1 else parts[0])
        score = logits.float().flatten(1).max(dim=1).values.sum()
        gradient = torch.autograd.grad(score, leaf, allow_unused=True)[0] if score.requires_grad else None
    return gradient is not None and bool(cut.layout.to_map(gradient).count_nonzero())


def _further(deep: _Record, i: int, flat: _Record, j: int) -> bool:
    """Whether cut i of the deeper record lies after cut j of the flat one (by the modules called before it)."""

    def calls(record: _Record, border: int) -> int:
        nodes, needed = record.plan.trace.nodes, record.plan.needed
        return len({nodes[k].target.split(".")[0] for k in needed[: border + 1] if nodes[k].kind == "module"})

    return calls(deep, deep.borders[i]) > calls(flat, flat.borders[j])


def _unique(name: str, taken: Sequence[str]) -> str:
    return name if name not in taken else f"{name}:"


def _distinct(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name}:{seen[name]}")
    return out


def _cache(model: nn.Module) -> _Cache:
    with _TRACING:
        cache = _PLANS.get(model)
        if cache is None or cache.signature != signature(model):
            cache = _PLANS[model] = _Cache(model)
        return cache


def _plan(model: nn.Module, first: Tensor, second: Tensor, opened: frozenset[str]) -> _Plan:
    return _Plan.of(tracing.trace(model, first, second, opened))


def _ancestors(path: str) -> list[str]:
    parts = path.split(".")
    return ["", *(".".join(parts[:i]) for i in range(1, len(parts)))]


def _descends(node: Node, source: Node) -> bool:
    while node.kind == "item":
        node = node.args[0]
        if node is source:
            return True
    return False


def _module_calls(plan: _Plan) -> list[int]:
    """Places (in `needed`) of the submodule calls that carry the picture's information."""
    nodes = plan.trace.nodes
    return [p for p, i in enumerate(plan.needed) if nodes[i].kind == "module" and nodes[i].depends]


def _borders(plan: _Plan, depth: int) -> tuple[list[int], list[str]]:
    """Chooses the borders of the stages of a depth, and names the stages."""
    nodes, needed = plan.trace.nodes, plan.needed
    calls = _module_calls(plan)
    paths = [nodes[needed[p]].target for p in calls]
    keys = [".".join(path.split(".")[:depth]) for path in paths]
    borders: list[int] = []
    groups: list[list[int]] = [[]]
    for n, place in enumerate(calls):
        groups[-1].append(n)
        if n + 1 == len(calls):
            break
        if keys[n] == keys[n + 1]:
            continue
        for p in range(place, calls[n + 1]):
            live = plan.handed_over(p)
            if live is not None and len(live) == 1 and live[0].kind != "input":
                borders.append(p)
                groups.append([])
                break
    borders.append(len(needed) - 1)
    names = []
    for group in groups:
        own = list(dict.fromkeys(keys[n] for n in group))
        if len(own) == 1 and own[0] and all(n in group for n, key in enumerate(keys) if key == own[0]):
            names.append(own[0])
        else:
            own = list(dict.fromkeys(paths[n] for n in group)) or ["forward"]
            names.append("+".join(own) if len(own) <= 3 else f"{own[0]}+...+{own[-1]}")
    return borders, _distinct(names)


def _containers(model: nn.Module, plan: _Plan) -> set[str]:
    """The modules called in a plan that hold a sequence of blocks somewhere inside."""
    modules = dict(model.named_modules())
    found = set()
    for place in _module_calls(plan):
        path = plan.trace.nodes[plan.needed[place]].target
        if any(isinstance(m, (nn.Sequential, nn.ModuleList)) and len(m) for m in modules[path].modules()):
            found.add(path)
    return found


def _is_chain(plan: _Plan, path: str) -> bool:
    """Whether an opened module is itself a chain: most of its children hand over a single tensor."""
    nodes, needed = plan.trace.nodes, plan.needed
    inner = [p for p in _module_calls(plan) if nodes[needed[p]].scope == path]
    if not inner:
        return False
    cuts = 0
    for a, b in zip(inner, inner[1:], strict=False):
        legal = (plan.handed_over(p) for p in range(a, b))
        cuts += any(live is not None and len(live) == 1 for live in legal)
    return len(inner) == 1 or 2 * (cuts + 1) > len(inner)


# --------------------------------------------------------------------------------------------------------- exactness


def _run(modules: Sequence[nn.Module], x: Any) -> Any:
    for module in modules:
        x = module(x)
    return x


def _mutations(modules: Sequence[nn.Module], batch: Tensor) -> tuple[list[bool], list[bool]]:
    """Which stages write into what they are handed, and which stages' results are written into by any later one."""
    mutates, handed = [], []
    x: Any = batch[:1].clone()
    for module in modules:
        before, given = x._version, x
        x = module(x)
        mutates.append(given._version != before)
        handed.append((x, x._version))
    return mutates, [tensor._version != version for tensor, version in handed]


class _Copy(nn.Module):
    """Hands on a copy."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


def _differs(got: Tensor, wanted: Tensor, exact: bool) -> str:
    """In words, how two tensors differ; empty if they do not."""
    if got.shape != wanted.shape:
        return f"its shape is {tuple(got.shape)} instead of {tuple(wanted.shape)}"
    same = (got == wanted) | (got.isnan() & wanted.isnan())
    if bool(same.all()):
        return ""
    if got.dtype.is_floating_point:
        off = (got.double() - wanted.double()).abs()
        scale = max(1.0, float(wanted.double().abs().nan_to_num().max()))
        worst = float(off[~same].nan_to_num(nan=float("inf")).max())
        tolerance = 0.0 if exact else scale * max(1e-5, 8 * torch.finfo(wanted.dtype).eps)
        return f"it differs by up to {worst:.3g}" if worst > tolerance else ""
    return "its values differ"


def _verify(model: nn.Module, modules: Sequence[nn.Module], names: Sequence[str], record: _Record) -> None:
    for batch, exact in zip(record.example, (True, False), strict=True):
        wanted = logits_of(model(batch.clone()))
        try:
            problem = _differs(_run(modules, batch.clone()), wanted, exact)
        except Exception as error:
            problem = f"it fails ({error})"
        if problem:
            if exact and _differs(logits_of(model(batch.clone())), wanted, True):
                raise SplitError(
                    f"{type(model).__name__} gives different logits for the same batch, even in eval mode, so a split "
                    "of it cannot be checked; make its forward deterministic"
                )
            where = _first_difference(model, modules, names, record, batch)
            raise SplitError(
                f"the chain of {type(model).__name__} is not the model for a batch of {len(batch)}: {problem}; "
                f"first difference after stage '{where}'"
            )


def _first_difference(
    model: nn.Module, modules: Sequence[nn.Module], names: Sequence[str], record: _Record, batch: Tensor
) -> str:
    """Walks the chain beside a fresh record of the model and names the first stage that disagrees."""
    tracer = tracing.Tracer(model, record.plan.trace.opened)
    try:
        tracer.run(batch.clone(), batch.clone())
        calls = [n for n in tracer.nodes if n.kind == "module"]
        x: Any = batch.clone()
        for name, module in zip(names, modules, strict=True):
            x = module(x)
            last = list(module._modules)[-1] if isinstance(module, Stage) and module._modules else name
            reference = [n.value for n in calls if n.target == last]
            if reference and isinstance(reference[-1], Tensor) and isinstance(x, Tensor):
                if reference[-1].shape != x.shape or _differs(x, reference[-1], True):
                    return name
    except Exception:
        return name if "name" in locals() else names[0]
    return names[-1]


def _check_cut(model: nn.Module, halves: tuple[nn.Module, nn.Module], record: _Record, name: str) -> bool:
    """Checks one cut on the example; returns whether the classifier writes into what it is handed."""
    with torch.no_grad():
        batch = record.example[0]
        wanted = logits_of(model(batch.clone()))
        handed = halves[0](batch.clone())
        tensors = handed if isinstance(handed, tuple) else (handed,)
        before = [t._version for t in tensors]
        problem = _differs(halves[1](handed), wanted, True)
        if problem:
            raise SplitError(f"cutting {type(model).__name__} after '{name}' does not reproduce its logits: {problem}")
        return before != [t._version for t in tensors]


# ----------------------------------------------------------------------------------------------------------- examples


def _require_accepted(model: nn.Module, stand_in: nn.Module, batch: Tensor) -> None:
    """Raises ValueError if the model itself refuses the example, which is then no question of splitting."""
    try:
        with torch.no_grad():
            stand_in(batch.clone())
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{type(model).__name__} refuses a batch of shape {tuple(batch.shape)}: {reason[:300]}; its own "
            f"configuration says {input_channels(model)} channels, {'x'.join(map(str, default_size(model)))}"
        ) from error


def default_size(model: nn.Module) -> tuple[int, int]:
    """The input size a model is configured for, else 224x224."""
    for owner in (model, getattr(model, "preprocessing", None)):
        size = getattr(owner, "size", None)
        if owner is not model and isinstance(size, tuple) and len(size) == 2:
            return size
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    grid = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if isinstance(grid, tuple) and len(grid) == 2:  # follows set_input_size
        return int(grid[0]), int(grid[1])
    size = config.get("input_size") if isinstance(config, dict) else getattr(config, "input_size", None)
    if size is not None:
        return int(size[-2]), int(size[-1])
    size = getattr(getattr(model, "config", None), "image_size", None)
    if isinstance(size, int):
        return size, size
    if isinstance(size, (tuple, list)) and len(size) == 2:
        return int(size[0]), int(size[1])
    size = getattr(model, "image_size", None)
    return (size, size) if isinstance(size, int) else (224, 224)


def input_channels(model: nn.Module) -> int:
    """The number of channels of the pictures a model takes: what it tells, else what its convolutions suggest."""
    config = getattr(model, "config", None)
    for value in (getattr(model, "in_chans", None), getattr(config, "num_channels", None)):
        if isinstance(value, int):
            return value
    taken = [m.in_channels for m in model.modules() if isinstance(m, (nn.Conv2d, nn.LazyConv2d))]
    if not taken or (taken[0] not in (1, 3) and 3 in taken):
        return 3
    return taken[0]


def _place(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        if tensor.dtype.is_floating_point:
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32


def _examples(model: nn.Module, example: Any) -> tuple[Callable[[], tuple[Tensor, Tensor]], Any]:
    """A function making the two example batches, and a key for the cache (None: do not keep)."""
    device, dtype = _place(model)
    if isinstance(example, Tensor):
        if example.ndim != 4:
            raise ValueError(f"example must be a batch (B, C, H, W), got a tensor of shape {tuple(example.shape)}")
        first = example.detach().to(device=device, dtype=dtype)

        def from_tensor() -> tuple[Tensor, Tensor]:
            count = len(first) - 1 if len(first) > 1 else 2
            second = torch.cat([first.flip(-1), first.flip(-1).roll(1, -1)])[:count]
            return first, second

        key = (tuple(first.shape), first.device, first.dtype)
        return from_tensor, (*key, "given") if len(first) != 2 else key
    if example is None:
        size = default_size(model)
    elif isinstance(example, int) and not isinstance(example, bool):
        size = (example, example)
    elif isinstance(example, (tuple, list)) and len(example) in (2, 3) and all(isinstance(v, int) for v in example):
        size = (example[-2], example[-1])  # (C, H, W) is what the engine gives
    else:
        raise TypeError(f"example must be a batch (B, C, H, W), a size (H, W) or None, got {example!r}")
    if min(size) < 1:
        raise ValueError(f"example={example!r} is not a size; give (height, width) in pixels")
    shape = (2, example[0] if isinstance(example, tuple) and len(example) == 3 else input_channels(model), *size)

    def random() -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        first = torch.randn(shape, generator=generator)
        second = torch.randn((1, *shape[1:]), generator=generator)
        return first.to(device=device, dtype=dtype), second.to(device=device, dtype=dtype)

    return random, (shape, device, dtype)
