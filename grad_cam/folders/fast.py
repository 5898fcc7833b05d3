"""The fast path: what comes before the cut, made quicker step by step; each is kept only if the maps stay the same."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .. import metrics
from ..errors import GradCamError, LayerError, message_of
from ..loading import class_names, preprocessing
from ..results import Explanation, Layer
from ..splitting import split
from .compiling import Compiled
from .explaining import Notify, Question, explained
from .needs import RunError

AGREEMENT, LEAST = 0.99, 0.95
"""Rank correlation with the exact maps that a step must keep: the mean of a batch, and every image."""


class Fast(nn.Module):
    """A model whose part before the cut is prepared for speed; what follows is in the model's own precision.

    Args:
        front: The part before the cut.
        tail: The part after it.
        steps: What was done to the front, of `STEPS`.
        like: A parameter of the model as it was: its type and device are those of the images and of the tail.
    """

    def __init__(self, front: nn.Module, tail: nn.Module, steps: Sequence[str], like: Tensor) -> None:
        super().__init__()
        # the first parameter, at which is looked for device and dtype
        self.like: nn.Parameter = nn.Parameter(like.detach().new_empty(1), requires_grad=False)
        self.front: nn.Module = front
        self.tail: nn.Module = tail
        self.cut: nn.Identity = nn.Identity()
        self.steps: tuple[str, ...] = tuple(steps)

    def forward(self, images: Tensor) -> Any:
        """The logits of images (B, C, H, W)."""
        if "channels_last" in self.steps:
            images = images.contiguous(memory_format=torch.channels_last)
        if "bfloat16" in self.steps:
            images = images.bfloat16()
        return self.tail(self.cut(self.front(images).to(self.like.dtype)))


class Folded(nn.Module):
    """What is left of a batch norm that was put into a convolution: nothing, or its activation."""

    def forward(self, x: Tensor) -> Any:
        """The activation of x."""
        rest: Any = self
        return rest.act(rest.drop(x)) if hasattr(self, "act") else x


def _fold(model: nn.Module, images: Tensor) -> None:
    """Puts batch norms into the convolutions whose result they read."""
    for conv, norm in _pairs(model, images):
        assert norm.running_mean is not None and norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        norm.__class__ = Folded  # type: ignore[assignment]  # in its place, whoever holds it


def _pairs(model: nn.Module, images: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions with the batch norm that reads their result, where both are called once."""
    results: dict[int, nn.Conv2d] = {}
    kept: list[Any] = []
    calls: dict[nn.Module, int] = {}
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def hook(module: nn.Module, given: tuple[Any, ...], result: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        kept.append((given, result))  # alive, so that no id is given twice
        if isinstance(module, nn.Conv2d):
            results[id(result)] = module
        elif given and id(given[0]) in results:
            found.append((results[id(given[0])], module))  # type: ignore[arg-type]

    fit = [m for m in model.modules() if type(m) in (nn.Conv2d, nn.BatchNorm2d) or _has_activation(m)]
    with _hooked(fit, hook), torch.no_grad():
        model(images[:1])
    return [(c, n) for c, n in found if calls[c] == calls[n] == 1 and not n.training and n.running_mean is not None]


def _has_activation(module: nn.Module) -> bool:
    return type(module).__name__ == "BatchNormAct2d" and isinstance(module, nn.BatchNorm2d)


@contextlib.contextmanager
def _hooked(modules: Iterable[nn.Module], hook: Any) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _halve(model: nn.Module, front: nn.Module, tail: nn.Module, images: Tensor) -> None:
    """Makes all of a model bfloat16 but for the modules that the tail calls."""
    after: set[nn.Module] = set()

    def hook(module: nn.Module, given: Any, result: Any) -> None:
        after.add(module)

    with torch.no_grad():
        activation = front(images[:1])
        with _hooked(model.modules(), hook):
            tail(activation)
    for module in set(model.modules()) - after:
        for tensor in [*module._parameters.values(), *module._buffers.values()]:
            if tensor is not None and tensor.is_floating_point():
                tensor.data = tensor.data.bfloat16()


STEPS = ("channels_last", "folded", "bfloat16")
"""What is tried, in this order."""

COMPILE = "compile"
"""The step that is tried last, and only where it is asked for: it takes a minute or more, and a compiler."""


def _possible(device: torch.device, compiled: bool) -> list[str]:
    """The steps that make sense on a device."""
    if device.type == "cuda":
        half = torch.cuda.is_bf16_supported()
    else:
        half = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    return [step for step in STEPS if half or step != "bfloat16"] + [COMPILE] * compiled


def _made(model: nn.Module, layer: str | int, steps: Sequence[str], images: Tensor) -> Fast:
    """A copy of a model with some steps."""
    made = copy.deepcopy(model).eval()
    like = next((p for p in made.parameters() if p.is_floating_point()), images)
    if "folded" in steps:
        _fold(made, images)
    if "channels_last" in steps:
        made = made.to(memory_format=torch.channels_last)
    halves = split(made, layer, example=images[:1])
    if halves.context:
        raise LayerError("the cut is inside a residual branch")
    fast = Fast(halves.extractor, halves.classifier, steps, like).eval()
    if "bfloat16" in steps:
        _halve(made, halves.extractor, halves.classifier, images)
    if COMPILE in steps:
        fast.front = Compiled(fast.front, tuple(images.shape)).eval()
    fast.class_names = class_names(model)  # type: ignore[assignment]
    fast.preprocessing = preprocessing(model)  # type: ignore[assignment]
    return fast


@dataclasses.dataclass
class Accelerated:
    """A model for the fast path.

    Attributes:
        model: The model to explain.
        steps: What was done to it.
        layer: Where the maps are said to be taken, in the model as it was given.
    """

    model: nn.Module
    steps: tuple[str, ...]
    layer: Layer

    def ask(self, question: Question) -> Question:
        """The question as it is put to this model."""
        return dataclasses.replace(question, layer="cut")

    def named(self, found: list[Explanation]) -> list[Explanation]:
        """The explanations with the name of the layer."""
        return [dataclasses.replace(each, layer=self.layer) for each in found]


# Long because every way out says why.
def accelerated(
    model: nn.Module, images: Tensor, question: Question, notify: Notify, steps: Sequence[str] | None = None,
    compiled: bool = False,
) -> Accelerated | None:  # fmt: skip
    """Makes a model quicker, as far as its maps allow.

    Args:
        model: The model; what is made quicker is a copy.
        images: A batch to compare maps on, (B, C, H, W); what is compiled is compiled for batches of its shape.
        question: What is asked, with its layer.
        notify: Called with every step that is left out, and why.
        steps: Take these without a comparison: those of the run that is gone on with.
        compiled: Try `torch.compile`, too.

    Returns:
        The quicker model; None if it cannot be cut in two for this question.

    Raises:
        RunError: The steps of the run that is gone on with hold one that is not possible here.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    images = images.to(device)
    target = question.target if question.target is not None and not isinstance(question.target, list) else None
    ask = dataclasses.replace(question, target=target, of_class=False, evidence=False)
    (exact, *others) = explained(model, images, ask, ask.target)
    if others or not isinstance(question.layer, (str, int)):
        notify("fast: several layers, or none, cannot be made faster; the exact path is taken")
        return None
    layer = question.layer
    try:
        _compared(exact, _made(model, layer, (), images), ask)
    except (GradCamError, RuntimeError, TypeError, AttributeError) as error:
        notify(f"fast: the model cannot be cut in two at {exact.layer}, the exact path is taken ({str(error)[:120]})")
        return None
    if steps is not None:
        return Accelerated(_again(model, layer, steps, exact, ask), tuple(steps), exact.layer)
    best, kept = _made(model, layer, (), images), list[str]()
    for step in _possible(device, compiled):
        made, reason = _tried(model, layer, [*kept, step], exact, ask)
        if made is not None and reason is None:
            best, kept = made, [*kept, step]
        else:
            notify(f"fast: {step} is left out, {reason}")
    return Accelerated(best, tuple(kept), exact.layer)


def _again(
    model: nn.Module, layer: str | int, steps: Sequence[str], exact: Explanation, question: Question
) -> Fast:  # fmt: skip
    """A model with the steps of a run that is gone on with."""
    if COMPILE not in steps:
        return _made(model, layer, steps, exact.images)
    made, reason = _tried(model, layer, steps, exact, question)
    if made is None or reason is not None:
        raise RunError(
            "the run was begun with torch.compile, which cannot be used here", reason or "",
            "go on where it was begun, or give another folder for a new run",
        )  # fmt: skip
    return made


def _tried(
    model: nn.Module, layer: str | int, steps: Sequence[str], exact: Explanation, question: Question
) -> tuple[Fast | None, str | None]:
    """A model with some steps, and why it is of no use; None if it is."""
    try:
        made = _made(model, layer, steps, exact.images)
        reason = _compared(exact, made, question)
        if reason is None and isinstance(made.front, Compiled):  # it was recorded as it is; from now on it is compiled
            reason = _compared(exact, made, question)
            if reason is None and not made.front.calls:
                reason = "maps of this model are made under a function mode, in which nothing runs compiled"
    except Exception as error:
        return None, f"{type(error).__name__}: {message_of(error, 160)}"
    return made, reason


def _compared(exact: Explanation, fast: nn.Module, question: Question) -> str | None:
    """Why the maps of a faster model are not those of the model; None if they are."""
    (found,) = explained(fast, exact.images, dataclasses.replace(question, layer="cut"), question.target)
    if found.map.shape != exact.map.shape:
        return f"its maps are {tuple(found.map.shape)}, not {tuple(exact.map.shape)}"
    if not torch.equal(found.logits.argmax(1), exact.logits.argmax(1)):
        return "it predicts other classes"
    pairs = zip(found.map.flatten(0, -3), exact.map.flatten(0, -3), strict=True)
    values = torch.tensor([_agreement(a.float(), b.float()) for a, b in pairs])
    if values.mean() >= AGREEMENT and values.min() >= LEAST:
        return None
    return f"the rank correlation of its maps is {values.mean():.3f}, at least {values.min():.3f}"


def _agreement(one: Tensor, other: Tensor) -> float:
    if torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max())):
        return 1.0
    found = float(metrics.agreement(one, other))
    return found if found == found else 0.0
