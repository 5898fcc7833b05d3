"""The balanced backward: one function mode under which the gradients of a score add up to it.

Under `Balanced` every operation computes the same result, bit for bit, and passes a gradient on by its rule (see
`table`). Whatever operations add that does not depend on the tensors at the cut is entered in a ledger when the
gradient is taken.
"""

from __future__ import annotations

import dataclasses
import math
import types
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..errors import GradCamError
from . import recurrent
from .functions import OWN
from .linear import any_live, by_image, images_first
from .table import IN_PLACE, RULES

_HOOKS = (Tensor.register_hook, Tensor.retain_grad)


@dataclasses.dataclass(frozen=True)
class Rules:
    """The rules a caller chose: `rules="balanced"` and the strength of the residual rule."""

    residual: float = 0.0

    @classmethod
    def of(cls, rules: str | None, residual: float) -> Rules | None:
        """Checks the arguments `rules` and `residual`."""
        if rules is None and not residual:
            return None
        if rules != "balanced":
            given = f"residual={residual!r}" if rules is None else f"rules={rules!r}"
            raise GradCamError("there is one set of rules", given, 'give rules="balanced"')
        if isinstance(residual, bool) or not isinstance(residual, (int, float)) or not 0 <= residual < math.inf:
            raise GradCamError("residual is a strength", f"residual={residual!r}", "give 0.0 (off) or 1.0")
        return cls(float(residual))

    def __str__(self) -> str:
        return "balanced" + (f", residual {self.residual:g}" if self.residual else "")


class Entry(NamedTuple):
    """What one operation added to the score, of every image.

    Attributes:
        number: Of the operation's node in the graph; it grows in the order in which operations were run.
        name: Of the operation.
        context: Whether what was added is a tensor that depends on the images (see `Balanced`).
        values: (B,), in float64; None where rows and images could not be matched.
    """

    number: int
    name: str
    context: bool
    values: Tensor | None


class Balanced(TorchFunctionMode):
    """While active, operations on tensors that require grad get the rules' backward.

    ::

        with torch.enable_grad(), Balanced(len(images)) as rules:
            logits = tail(leaf)
        (gradient,) = torch.autograd.grad(logits[:, 3].sum(), [leaf])
        entries = rules.entries()

    Parameters must not require grad: they are constants.

    Args:
        images: Number of images B.
        residual: Strength gamma of the rule for residual additions; 0 is the plain sum.
        source: The images, if the ledger is to list constants that depend on them apart from the others.
    """

    def __init__(self, images: int, residual: float = 0.0, source: Tensor | None = None) -> None:
        super().__init__()
        self.images = images
        self.residual = residual
        self.source = source
        self._entries: list[Entry] = []
        self._second = 0  # size of the second axis, where that and not the first is the images'

    def entries(self) -> list[Entry]:
        """The entries made since the ledger was last read; to be read after each gradient."""
        found, self._entries = self._entries, []
        return found

    # ------------------------------------------------------------------------------------------------- what rules use

    def constant(self, out: Tensor, constant: Any, func: Any, scale: float = 1.0) -> None:
        """Records that an operation added a constant to its result."""
        node = out.grad_fn
        if node is None or not (out.is_floating_point() or out.is_complex()):
            return
        place, number, name = out.output_nr, node._sequence_nr(), getattr(func, "__name__", str(func))
        fixed = constant.detach() if isinstance(constant, Tensor) else constant
        context = isinstance(constant, Tensor) and getattr(constant, "_depends_on_images", False)
        second = self._second

        def note(gradients: tuple[Tensor | None, ...]) -> None:
            gradient = gradients[place]
            if gradient is not None:
                with torch.no_grad():
                    gradient = images_first(gradient, second) if second else gradient
                    values = by_image(gradient, fixed, self.images)
                    self._entries.append(Entry(number, name, context, values if values is None else values * scale))

        node.register_prehook(note)  # not on the tensor: what is done to it in place afterwards does not move it

    def scale(self, out: Tensor, factor: float) -> None:
        """Multiplies the gradients that an operation passes on."""
        node = out.grad_fn
        if node is not None:  # on the node, which is run after the gradient at a cut was read
            node.register_prehook(lambda gradients: tuple(None if g is None else g * factor for g in gradients))

    # ------------------------------------------------------------------------------------------------------ the mode

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func in _HOOKS and not args[0].requires_grad:  # a forward that asks a tensor before the cut for its gradient
            return None
        if not torch.is_grad_enabled() or not (any_live(args) or (kwargs and any_live(kwargs.values()))):
            return self._untouched(func, args, kwargs)
        return self._ruled(func, args, kwargs)

    def _ruled(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """What an operation on tensors that require grad returns."""
        if func in RULES:
            out = RULES[func](self, func, args, kwargs)
            return func(*args, **kwargs) if out is OWN else out
        if func in IN_PLACE:
            return self._in_place(func, args, kwargs)
        body = body_of(func, args)
        if body is None:
            return func(*args, **kwargs)
        tokens_first = func is functional.multi_head_attention_forward and args[0].ndim == 3
        before, self._second = self._second, args[0].shape[1] if tokens_first else self._second
        try:
            with self:
                return body(*args, **kwargs)
        finally:
            self._second = before

    def _in_place(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """An operation that writes to its first operand: computed beside it and copied over."""
        plain = IN_PLACE[func]
        target = args[0]
        if target.requires_grad and any_live(args[1:]):
            args = (target.clone(), *args[1:])  # what is kept of it for the backward is not written over
        out = RULES[plain](self, plain, args, kwargs)
        if out is OWN:
            return func(target, *args[1:], **kwargs)
        return self._written(target, out)

    @staticmethod
    def _written(target: Tensor, out: Tensor) -> Tensor:
        """A tensor with a result written into it."""
        if out.requires_grad:
            return target.copy_(out)
        with torch.no_grad():
            target.copy_(out)
        try:
            return target.detach_()
        except RuntimeError:  # a view cannot be detached: whoever holds the tensor finds the values, not the constant
            return out

    def _untouched(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        out = func(*args, **kwargs)
        if self.source is not None:
            self._mark(args, kwargs, out)
        return out

    def _mark(self, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        """Follows what depends on the images."""
        assert self.source is not None
        for given in _tensors((args, list(kwargs.values()))):
            if not hasattr(given, "_depends_on_images") and given.shape == self.source.shape:
                given._depends_on_images = given.dtype == self.source.dtype and torch.equal(given, self.source)  # type: ignore[attr-defined]
            if getattr(given, "_depends_on_images", False):
                for made in _tensors(out):
                    made._depends_on_images = True  # type: ignore[attr-defined]
                return


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in _tensors(v)]
    return []


_BODIES: dict[Any, Any] = {}


def body_of(func: Any, args: Any) -> Any:
    """A function of `torch.nn.functional`, or a recurrent layer, as what it is made of, which the mode sees; else None.

    Each of them begins by handing itself to the active mode, if there is one; in the copy there is none.
    """
    if func in recurrent.STEPS:
        return recurrent.written_out(func, args)
    if type(func) is not types.FunctionType or func.__globals__ is not vars(functional):
        return None
    if func not in _BODIES:
        asks = {name: _no for name in vars(functional) if name.startswith("has_torch_function")}
        body = types.FunctionType(
            func.__code__, {**vars(functional), **asks}, func.__name__, func.__defaults__, func.__closure__
        )
        body.__kwdefaults__ = func.__kwdefaults__
        _BODIES[func] = body
    return _BODIES[func]


def _no(*_: Any) -> bool:
    return False
