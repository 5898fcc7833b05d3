"""The balanced rules on every family of models: map + ledger = score, at every mapped cut, with redrawn weights.

Initial weights prove little (heads and scales of branches that are zero, biases too), so all are drawn anew; in float64
a gap can only be a missing rule. Run as a script it prints a table::

    python -m tests.rules_families                       # everything
    python -m tests.rules_families timm/resnet hf/ViT    # some
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

import grad_cam

from . import families, hugging_face, oracles
from .oracle import plain_attention

EXACT = 1e-6  # of the absolute sum of the map
EMPTY = 1e-3  # of the score
LOUDEST = 50.0  # attention logits

UNBALANCED: dict[str, str] = {}
"""Models with an operation that has no rule, and its name."""

HEAVY = ("nasnet", "pnasnet", "deepseek_vit", "gemma4_vit", "qwen3_vit", "mobilenetv5", "naflexvit", "beit")


class Measured(NamedTuple):
    """What a sweep showed.

    Attributes:
        cuts: Number of mapped cuts.
        gap: The largest gap over the absolute sum of the map at its cut, over cuts and images.
        mass: The largest absolute sum of a map over the score.
        loudest: The largest attention logit.
        same: Whether the logits are the model's, bit for bit.
    """

    cuts: int
    gap: float
    mass: float
    loudest: float
    same: bool


def items() -> list[str]:
    """Every family: timm's, torchvision's and Hugging Face's classifiers; the long ones first."""
    timm = [*HEAVY, *(name for name in families.TIMM if name not in HEAVY)]
    hf = [name for name, how in hugging_face.CLASSIFIERS.items() if not how.may_refuse]
    return [*(f"timm/{n}" for n in timm), *(f"tv/{n}" for n in families.TORCHVISION), *(f"hf/{n}" for n in hf)]


def build(item: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """The model of an item and the shape of its pictures."""
    kind, _, name = item.partition("/")
    if kind == "tv":
        return families.build_torchvision(name), (3, 224, 224)
    if kind == "hf":
        size = hugging_face.CLASSIFIERS[name].size
        return hugging_face.build(name), (3, size, size)
    model = families.build(name)
    channels, height, width = oracles.input_shape(model)
    side = families.SIDES.get(name)
    return model, (channels, side, side) if side else (channels, height, width)


def redraw(model: nn.Module) -> nn.Module:
    """Draws all weights: normal, of variance 1.5 / fan-in; scales about one, biases and running statistics random."""
    generator = torch.Generator().manual_seed(5)

    def normal(like: Tensor, mean: float, deviation: float) -> Tensor:
        return mean + deviation * torch.randn(like.shape, generator=generator)

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.copy_(normal(weight, 0.0, math.sqrt(1.5 / max(1, weight[0].numel()))))
            elif name.endswith("bias"):
                weight.copy_(normal(weight, 0.0, 0.3))
            else:
                weight.copy_(normal(weight, 1.0, 0.3))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(normal(buffer, 0.0, 0.3))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model.eval()


class _Loudness(TorchFunctionMode):
    """Keeps the largest number that a softmax over more than one thing is taken of."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0.0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        logits = None
        if func is functional.scaled_dot_product_attention:
            scale = kwargs.get("scale") or args[0].shape[-1] ** -0.5
            if args[0].shape[-3] == args[1].shape[-3]:
                logits = args[0] @ args[1].transpose(-2, -1) * scale
        elif getattr(func, "__name__", "") == "softmax":
            logits = args[0]
        if isinstance(logits, Tensor) and logits.is_floating_point():
            self.largest = max(self.largest, float(logits[logits.isfinite() & (logits > -1e4)].abs().amax()))
        return func(*args, **kwargs)


_ATTENTION = (
    "qkv", "query", "key", "attn", "attention", "mhsa", "in_proj", "to_q", "to_k", "q_proj", "k_proj", ".kv", ".q.",
)  # fmt: skip


def calm(model: nn.Module, x: Tensor) -> float:
    """Makes attention weights smaller until no attention logit is large; returns the largest."""
    for _ in range(12):
        with torch.no_grad(), _Loudness() as mode:
            model(x.clone())
        if mode.largest <= LOUDEST or not math.isfinite(mode.largest):
            break
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim > 1 and any(part in name.lower() for part in _ATTENTION):
                    weight.mul_(max(0.1, math.sqrt(0.5 * LOUDEST / mode.largest)))
    return mode.largest


def measure(model: nn.Module, x: Tensor, residual: float = 0.0) -> Measured:
    """Sweeps a model under the rules."""
    with plain_attention():
        wanted = oracles.plain(model, x)
    sweep = grad_cam.sweep(model, x.clone(), method="hires_cam", rules="balanced", residual=residual)
    gap = mass = 0.0
    for one in sweep:
        ledger, size = one.ledger(), one.map.double().abs().flatten(1).sum(1)
        gap = max(gap, float((ledger.gap.abs() / size.clamp(min=1e-30)).nan_to_num(torch.inf).max()))
        mass = max(mass, float((size / ledger.score.abs().clamp(min=1e-30)).min()))
    logits = sweep[0].logits
    return Measured(len(sweep), gap, mass, 0.0, torch.equal(logits, wanted.reshape(logits.shape)))


def examine(item: str) -> oracles.Outcome:
    """Checks one family with the plain sum and with the residual rule."""
    out = oracles.Outcome()
    model, shape = build(item)
    # PyTorch folds products of three axes by whether a factor asks for a gradient: the last bits hang on it in float64
    model = redraw(model).double().requires_grad_(False)
    x = oracles.images(shape, 2).double()
    loudest = calm(model, x[:1])
    for residual in (0.0, 1.0):
        with out.check(f"residual {residual:g}"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = measure(model, x, residual)
            out.notes.append(
                f"residual {residual:g}: gap / |map| {found.gap:.1e}, |map| / score {found.mass:.2g}, "
                f"{found.cuts} cuts, attention logits {loudest:.2g}"
            )
            assert found.same, "the logits are others"
            assert found.mass >= EMPTY, f"empty: the map is {found.mass:.1g} of the score"
            if item not in UNBALANCED:
                assert found.gap <= EXACT, f"gap {found.gap:.2g} of the map"
                out.count("balanced")
                continue
            name = grad_cam.audit(model, x, residual=residual).worst
            assert name is not None and name.name == UNBALANCED[item], f"the audit names {name}"
            out.count(f"unbalanced, named by the audit: {name.name}")
    return out


def main(names: list[str]) -> int:
    """Prints the table; returns the number of families that fail."""
    failed = 0
    for item in names:
        start = time.time()
        try:
            out = examine(item)
            text = "; ".join([*out.failures, *out.notes])
            failed += bool(out.failures)
            verdict = "FAILED" if out.failures else "ok"
        except Exception as error:
            verdict, failed = "FAILED", failed + 1
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        print(f"{item:<32} {verdict:<7} {time.time() - start:>6.1f} s  {text}", flush=True)
    print(f"{len(names) - failed} of {len(names)}")
    return failed


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    sys.exit(main(sys.argv[1:] or items()))
