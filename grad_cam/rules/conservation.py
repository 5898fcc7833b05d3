"""The audit: which operations do not pass on what arrives at them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import targets
from ..arguments import check_images
from ..batchnorm import correct_gradients
from ..habits import answered
from ..inputs import logits_of
from ..introspection import matched_to, unwrap
from ..outputs import Output, rows
from ..splitting.evalcopy import EvalCopy
from ..splitting.intercept import saved_clones
from .balanced import Balanced, body_of
from .linear import map_tensors
from .table import IN_PLACE, RULES

_LEFT = {"requires_grad_", "detach_", "detach", "retain_grad", "register_hook", "size", "dim", "numel"}


class Operation(NamedTuple):
    """One call of an operation.

    Attributes:
        name: Of the operation; of its node in the graph if no function mode sees it.
        module: Path of the module that called it.
        arrives: Sum of its results times the gradients on them.
        passes: Sum of its inputs times the gradients it passes on; None if it cannot be seen.
        constant: What it adds.
        size: Sum of absolute values behind `arrives`.
    """

    name: str
    module: str
    arrives: float
    passes: float | None
    constant: float
    size: float

    @property
    def off(self) -> float:
        """What arrives and is neither passed on nor added."""
        return self.arrives if self.passes is None else self.arrives - self.passes - self.constant

    def __str__(self) -> str:
        where = f"{self.name} in '{self.module}'" if self.module else self.name
        if self.passes is None:
            return f"{where}: {self.arrives:.3g} arrives; the operation cannot be seen"
        return f"{where}: {self.arrives:.3g} arrives, {self.passes:.3g} passed on, {self.constant:.3g} added"


@dataclasses.dataclass(frozen=True)
class Audit:
    """What `audit` found, summed over the batch.

    Attributes:
        score: The score.
        gap: By how much input and ledger miss it.
        operations: The operations that do not conserve the score, the worst first.
        count: Number of operations that were checked.
    """

    score: float
    gap: float
    operations: tuple[Operation, ...]
    count: int

    @property
    def worst(self) -> Operation | None:
        """The operation that loses most, or None if every one conserves the score."""
        return self.operations[0] if self.operations else None

    def __str__(self) -> str:
        head = f"score {self.score:.4g}, gap {self.gap:.2g}, {self.count} operations"
        if not self.operations:
            return f"{head}: each passes on what arrives"
        return "\n".join([f"{head}; not conserved by", *(f"  {one}" for one in self.operations[:10])])


@answered
def audit(
    model: nn.Module, images: Tensor, *, target: Any = None, residual: float = 0.0, output: Output = None
) -> Audit:  # fmt: skip
    """Checks every operation of a model under the balanced rules, from the images to the score.

    For each operation the sum of results times gradients is compared with the sum of inputs times gradients plus what
    it adds. Takes two to three times the memory of training.

    Args:
        model: Any image classifier; left as found.
        images: (B, C, H, W).
        target: As for `explain`, but for names of classes.
        residual: Strength of the residual rule.
        output: As for `explain`.

    Returns:
        The operations that do not conserve the score; print it.
    """
    copy = EvalCopy(unwrap(model))
    given = check_images(images).detach()
    leaf = matched_to(copy.root, given).clone().requires_grad_()
    with torch.inference_mode(False), torch.enable_grad(), saved_clones(), _Audited(residual) as mode:
        mode.follow(copy.modules)
        logits = rows(logits_of(copy.root, leaf + 0, output), len(given))
    with torch.enable_grad():
        if not logits.requires_grad:
            return Audit(float(logits.sum()), float(logits.sum()), (), len(mode.calls))
        correct_gradients(logits)
        resolved = targets.resolve(target, logits.detach(), None)
        total = resolved.scores[0](logits.float() if logits.dtype in _HALF else logits, None).sum()
        gradient, on_logits = torch.autograd.grad(total, [leaf, logits], allow_unused=True)
    added = mode.close()
    score = float((logits.detach().double() * on_logits.double()).sum())
    through = 0.0 if gradient is None else float((leaf.detach().double() * gradient.double()).sum())
    tolerance = 2000 * torch.finfo(leaf.dtype).eps
    found = [call.operation() for call in mode.calls]
    off = [one for one in found if abs(one.off) > tolerance * max(1.0, abs(score), one.size)]
    return Audit(score, score - through - added, tuple(sorted(off, key=lambda one: -abs(one.off))), len(found))


_HALF = (torch.float16, torch.bfloat16)


def inner(value: Tensor, gradient: Tensor) -> Tensor:
    """The terms of <g, x>; of complex numbers, their real part."""
    if value.is_complex() or gradient.is_complex():
        return (gradient.conj() * value).real.double()
    return gradient.double() * value.double()


class _Call:
    """One call of an operation, with sums that fill up when the gradient is taken."""

    def __init__(self, name: str, module: str, seen: bool = True) -> None:
        self.name, self.module, self.seen = name, module, seen
        self.arrives = self.passes = self.constant = self.size = 0.0

    def operation(self) -> Operation:
        """The sums."""
        return Operation(
            self.name, self.module, self.arrives, self.passes if self.seen else None, self.constant, self.size
        )

    def watch(self, out: Tensor) -> None:
        """Sums up what arrives at a result."""
        value = out.detach().clone()

        def arrived(gradient: Tensor | None) -> None:
            if gradient is not None:
                product = inner(value, gradient)
                self.arrives += float(product.sum())
                self.size += float(product.abs().sum())

        out.register_hook(arrived)


class _Edge(torch.autograd.Function):
    """A copy of an input that sums up what is passed on to it."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, call: _Call) -> Tensor:
        ctx.call, ctx.value = call, given.detach().clone()
        return given.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        ctx.call.passes += float(inner(ctx.value, gradient).sum())
        return gradient, None


class _Audited(Balanced):
    """The rules, with every operation between copies of its inputs and a watch on its results."""

    def __init__(self, residual: float) -> None:
        super().__init__(1, residual)
        self.calls: list[_Call] = []
        self._path = [""]
        self._made: dict[Any, None] = {}
        self._by_number: dict[int, _Call] = {}
        self._current: _Call | None = None

    def follow(self, modules: dict[str, nn.Module]) -> None:
        """Records which module is running."""
        for path, module in modules.items():
            if not isinstance(module, torch.jit.ScriptModule):
                module.register_forward_pre_hook(lambda m, a, path=path: self._path.append(path))
                module.register_forward_hook(lambda m, a, o: (self._path.pop(), None)[1], always_call=True)

    def close(self) -> float:
        """Books what was added with the operations that did; returns its sum."""
        added = 0.0
        for entry in self.entries():
            value = 0.0 if entry.values is None else float(entry.values.sum())
            self._by_number[entry.number].constant += value
            added += value
        return added

    def constant(self, out: Tensor, constant: Any, func: Any, scale: float = 1.0) -> None:
        if out.grad_fn is not None and self._current is not None:
            self._by_number[out.grad_fn._sequence_nr()] = self._current
        super().constant(out, constant, func, scale)

    def _ruled(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        name = getattr(func, "__name__", str(func))
        if func not in RULES and func not in IN_PLACE and body_of(func, args) is not None or name in _LEFT:
            return super()._ruled(func, args, kwargs)
        call = self._current = _Call(name.strip("_"), self._path[-1])
        self.calls.append(call)
        self._require_seen((args, kwargs))
        inside = map_tensors((args, kwargs), lambda t: _Edge.apply(t, call) if _counts(t) else t)
        if not _writes(name):
            out = self._of_rule(func, *inside)
            return self._watched(out, call)
        plain = IN_PLACE.get(func)
        target = args[0]
        if plain is not None:
            out = self._of_rule(plain, *inside)
        else:
            work = inside[0][0] if target.requires_grad else target.clone()
            self._of_rule(func, (work, *inside[0][1:]), inside[1])
            out = work
        self._watched(out, call)
        written = self._written(target, out)
        if written.grad_fn is not None:
            self._made[written.grad_fn] = None
        return None if name == "__setitem__" else written

    def _of_rule(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return super()._ruled(func, args, kwargs)

    def _watched(self, out: Any, call: _Call) -> Any:
        for one in _tensors_of(out):
            if _counts(one):
                call.watch(one)
                self._made[one.grad_fn] = None
        return out

    def _require_seen(self, given: Any) -> None:
        """Records the operations that made an input and were not seen."""

        def look(tensor: Tensor) -> Tensor:
            node = tensor.grad_fn
            if _counts(tensor) and node is not None and node not in self._made and "Edge" not in node.name():
                self._made[node] = None
                call = _Call(node.name(), self._path[-1], seen=False)
                call.watch(tensor)
                self.calls.append(call)
            return tensor

        map_tensors(given, look)


def _counts(tensor: Tensor) -> bool:
    return tensor.requires_grad and (tensor.is_floating_point() or tensor.is_complex())


def _writes(name: str) -> bool:
    if name.startswith("__"):
        return name == "__setitem__" or name.startswith("__i") and name not in ("__init__", "__invert__", "__iter__")
    return name.endswith("_")


def _tensors_of(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    keep: Callable[[Tensor], Any] = found.append
    map_tensors(value, keep)
    return found
