"""The model's own forward, with the tensor at a cut made the leaf that gradients are taken on.

Whatever Python the forward holds runs as it is: this is exact for any model, and costs one forward pass.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import SplitError
from ..inputs import Asked, called, logits_of
from .evalcopy import EvalCopy
from .log import under_inference_mode
from .nested import leaves, map_leaves


class Point(NamedTuple):
    """Where a tensor can be met while a model runs.

    Attributes:
        path: The module that returns it, or None where an operation of the outermost forward does.
        times: The how-manieth call of the module, from 0.
        calls: How many calls of it there are.
        number: Without a module: the how-manieth tensor function it is.
        function: Its name.
        leaf: Which leaf of the result.
    """

    path: str | None
    times: int
    calls: int
    number: int
    function: str
    leaf: int


class Moved(SplitError):
    """The forward does not pass where it passed when it was recorded."""


class Written(Moved):
    """A tensor at a cut is written to later: a clone has to be passed on."""


class Aliased(SplitError):
    """A tensor at a cut cannot be made a leaf."""


class Taken(NamedTuple):
    """What a run handed out: the tensors at the points, to differentiate by, and the logits with their graph."""

    tensors: list[Tensor]
    logits: Tensor


class Plain(TorchFunctionMode):
    """Changes nothing but what a function mode does by being there.

    Fused fast paths of `nn.MultiheadAttention` are left, as in the recorded run, and a forward that asks a tensor
    before the cut for its gradient (`register_hook`) goes on.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func in (Tensor.register_hook, Tensor.retain_grad) and not args[0].requires_grad:
            return None
        return func(*args, **(kwargs or {}))


class _AtNumber(Plain):
    """Exchanges the results of the operations with certain numbers."""

    def __init__(self, points: dict[int, list[tuple[int, Point]]], exchange: Any) -> None:
        super().__init__()
        self.points, self.exchange, self.number = points, exchange, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        self.number += 1
        number = self.number
        out = super().__torch_function__(func, types, args, kwargs)
        points = self.points.get(number)  # several where modules hand a tensor on as it is
        if not points:
            return out
        unbound = points[0][1].function == "unbind" and not isinstance(out, (tuple, list))
        if unbound:
            out = tuple(out)
        for index, point in points:
            if getattr(func, "__name__", "") not in (point.function, "__get__", "__iter__"):
                raise Moved("its forward takes another way than when it was recorded", point.function)
            out = _exchanged(out, index, point, self.exchange)
        return iter(out) if unbound else out


def _without_backward_hooks(copy: EvalCopy, path: str) -> None:
    """Takes the backward hooks off a module and what holds it: no gradient reaches their inputs."""
    parts = path.split(".")
    for end in range(len(parts) + 1):
        module = copy.modules.get(".".join(parts[:end]))
        if module is not None and not isinstance(module, torch.jit.ScriptModule):
            module.__dict__["_backward_hooks"] = OrderedDict()
            module.__dict__["_backward_pre_hooks"] = OrderedDict()


def saved_clones() -> Any:
    """While active, what autograd saves for the backward is cloned, so that later writes cannot touch it."""
    return torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda saved: saved)


def _exchanged(out: Any, index: int, point: Point, exchange: Any) -> Any:
    """A result with one of its leaves exchanged."""
    if isinstance(out, Tensor):
        return exchange(index, out)
    counter = itertools.count()
    return map_leaves(out, lambda leaf: exchange(index, leaf) if next(counter) == point.leaf else leaf)


def needs_mode(model: nn.Module) -> bool:
    """Whether a model holds modules with a fast path that a function mode switches off."""
    return any(isinstance(m, (nn.MultiheadAttention, nn.TransformerEncoderLayer)) for m in model.modules())


# Long because what `exchange` saw decides between the three errors after the run.
def intercept(
    copy: EvalCopy, images: Tensor, points: Sequence[Point], output: Asked = None, *, mode: bool = False,
    cloned: Sequence[bool], saving: bool = False,
) -> Taken:  # fmt: skip
    """Runs a copy's own forward and takes the tensors at some points.

    A tensor that does not require a gradient yet is made a leaf, itself, so that it counts wherever the model keeps it;
    one that does (it comes after another point) is kept with its graph.

    Args:
        copy: A fresh copy.
        images: (B, C, H, W).
        points: Where.
        output: See `outputs.find_logits`.
        mode: Whether the run needs a function mode to go the recorded way.
        cloned: For every point, whether a clone has to be passed on, because the tensor is written to later.
        saving: See `observe`.

    Raises:
        Moved: A point was not met, or more often than recorded.
        Written: A clone of a tensor has to be passed on.
    """
    found: list[Tensor | None] = [None] * len(points)
    originals: list[tuple[Tensor, int]] = []

    def exchange(index: int, tensor: Any) -> Any:
        if not isinstance(tensor, Tensor):
            raise Moved("its forward takes another way than when it was recorded", str(points[index].path))
        if tensor.is_inference():
            raise under_inference_mode(type(copy.root).__name__)
        if not tensor.is_floating_point():
            found[index] = tensor
            return tensor
        with torch.enable_grad():
            if not tensor.requires_grad and not cloned[index]:
                tensor.requires_grad_()  # the object itself: all that read it are differentiated through as well
            originals.append((tensor, tensor._version))
            if tensor.requires_grad:
                found[index] = tensor
                return tensor.clone() if cloned[index] else tensor
            found[index] = tensor.detach().clone().requires_grad_()
            tensor.fill_(torch.nan)  # nothing may read the original any more
            originals[-1] = (tensor, tensor._version)
            return found[index].clone()  # type: ignore[union-attr]

    logits = observe(copy, images, points, exchange, output, mode=mode, saving=saving)
    for index, point in enumerate(points):
        if found[index] is None:
            raise Moved(f"'{point.path or point.function}' was not met")
    tensors = [t for t in found if t is not None]
    if any(t._version != version for t, version in originals):
        if not all(cloned):
            raise Written("a tensor at a cut is written to later")
        raise SplitError(
            "what a layer returns is written to later under another name, so that it cannot be made a leaf",
            ", ".join(str(p.path) for p in points), "choose the layer before or after it",
        )  # fmt: skip
    if any(cloned) and bool(logits.isnan().any()) and bool(torch.isfinite(images).all()):
        raise Aliased(
            "what a layer returns is written to later and read under another name, so that it cannot be made a leaf",
            ", ".join(str(p.path) for p in points), "choose the layer before or after it",
        )  # fmt: skip
    return Taken(tensors, logits)


# Long because the hooks it sets have to be taken off in the same place.
def observe(
    copy: EvalCopy, images: Tensor, points: Sequence[Point], exchange: Callable[[int, Tensor], Tensor],
    output: Asked = None, *, mode: bool = False, anywhere: bool = False, saving: bool = False,
) -> Tensor:  # fmt: skip
    """Runs a copy's own forward, in grad mode, and passes the tensors at some points through a function.

    Args:
        copy: A fresh copy.
        images: (B, C, H, W).
        points: Where.
        exchange: From the index of a point and the tensor there to the tensor that takes its place.
        output: See `outputs.find_logits`.
        mode: Whether the run needs a function mode to go the recorded way.
        anywhere: Whether modules may be called another number of times than recorded.
        saving: Whether what the graph saves is cloned, for a forward that writes to it later.

    Returns:
        The logits as the model returns them.

    Raises:
        Moved: A module was called another number of times, or an operation is another one.
    """
    counts: dict[str, int] = {}
    at_modules: dict[str, list[tuple[int, Point]]] = {}
    at_numbers: dict[int, list[tuple[int, Point]]] = {}
    for index, point in enumerate(points):
        if point.path is None:
            at_numbers.setdefault(point.number, []).append((index, point))
        else:
            at_modules.setdefault(point.path, []).append((index, point))

    def hook(path: str) -> Any:
        def after(module: nn.Module, args: Any, out: Any) -> Any:
            times = counts[path] = counts.get(path, 0) + 1
            for index, point in at_modules[path]:
                if point.times == times - 1:
                    with torch._C.DisableTorchFunction():
                        out = _exchanged(out, index, point, exchange)
            return out

        return after

    first = points[0].path if points else None
    for path in at_modules:
        module = copy.modules.get(path)
        if module is None:
            raise Moved(f"there is no module '{path}' any more")
        if path == first:
            _without_backward_hooks(copy, path)
        module.__dict__["_forward_hooks"] = OrderedDict([*module._forward_hooks.items(), (-1, hook(path))])
    with torch.enable_grad():  # images keep their graph where they have one
        given = images.clone()
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            if saving:
                stack.enter_context(saved_clones())
            if at_numbers:
                stack.enter_context(_AtNumber(at_numbers, exchange))
            elif mode:
                stack.enter_context(Plain())
            logits = logits_of(copy.root, given, output)
    finally:
        for path in at_modules:
            copy.modules[path]._forward_hooks.pop(-1, None)
    if not anywhere:
        for point in points:
            if point.path is not None and counts.get(point.path) != point.calls:
                raise Moved(f"'{point.path}' was called {counts.get(point.path, 0)} times, not {point.calls}")
    return logits


def first_not_finite(copy: EvalCopy, images: Tensor, mode: bool, asked: Asked = None) -> str:
    """The first module whose result holds NaN or infinite values, innermost first, or ""."""
    found: list[tuple[str, torch.dtype]] = []

    def hook(path: str) -> Any:
        def after(module: nn.Module, args: Any, out: Any) -> None:
            for leaf in leaves(out):
                if (
                    not found
                    and isinstance(leaf, Tensor)
                    and leaf.is_floating_point()
                    and not bool(leaf.isfinite().all())
                ):
                    found.append((path, leaf.dtype))

        return after

    for path, module in copy.modules.items():
        if path:
            module.__dict__["_forward_hooks"] = OrderedDict([*module._forward_hooks.items(), (-1, hook(path))])
    with torch.no_grad(), Plain() if mode else contextlib.nullcontext():
        called(copy.root, images.detach().clone(), asked)
    return f"'{found[0][0]}' ({found[0][1]})" if found else ""
