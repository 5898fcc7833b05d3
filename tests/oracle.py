"""What a model computes, seen with ordinary forward hooks and `torch.autograd.grad`; nothing of the package is used.

`Reference` runs a model in eval mode and gives logits, activations, gradients, HiResCAM and Ablation-CAM maps at any
module; `snapshot` and `difference` say whether a model is as it was found.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import random
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

WRAPPERS = ("module.", "_orig_mod.")

# ----------------------------------------------------------------------------------------------------------- reference


@dataclasses.dataclass(eq=False)
class Call:
    """One call of a module: its output's value at that moment and the place in the graph where it was made.

    A module that hands on its argument, as dropout does in eval mode, has no place of its own: `handed_on`.
    """

    value: Tensor
    edge: Any
    handed_on: bool = False


class _Everything(TorchFunctionMode):
    """Keeps value and place of every tensor that an operation returns."""

    def __init__(self, found: list[Call]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(one, Tensor) and one.is_floating_point() and one.requires_grad and one.ndim > 2:
                self.found.append(_call(one))
        return out


def _contiguous(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.contiguous()


def _call(out: Tensor, handed_on: bool = False) -> Call:
    return Call(out.detach().clone(), get_gradient_edge(out) if out.grad_fn is not None else None, handed_on)


def picked(out: Any, pick: Callable[[Any], Tensor] | None) -> Tensor:
    """The logits in what a model returned."""
    if pick is not None:
        return pick(out)
    if isinstance(out, Tensor):
        return out
    return next(out[key] for key in ("logits", "out") if key in out)


class Reference:
    """One run of a model in eval mode, with a hook on every module.

    Args:
        model: The model; it is put into eval mode.
        images: The batch.
        pick: Takes the logits from what the model returns.

    Attributes:
        logits: (B, classes).
        same_logits: The bit patterns that the logits may have: without and with parameters that require a gradient.
        plain_logits: Those of a run without gradients, in which fused paths are allowed.
        calls: What every module returned, by module path, in order of the calls.
        everything: What every operation returned.
        scores: The logits with their graph.
    """

    def __init__(self, model: nn.Module, images: Tensor, pick: Callable[[Any], Tensor] | None = None) -> None:
        self.model, self.images, self.pick = model.eval(), images, pick
        self.calls: dict[str, list[Call]] = collections.defaultdict(list)
        self.everything: list[Call] = []
        self._gradients: dict[tuple[int, int], Tensor | None] = {}
        self._buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
        with torch.inference_mode(False), torch.no_grad():
            self.plain_logits = self._answer(images).clone()
        with torch.inference_mode(False), torch.enable_grad(), plain_attention():
            self.logits = self._frozen_logits()
            self.same_logits = (self.logits, self._answer(images).detach().clone())
            with self._hooks():
                leaf = images.clone().requires_grad_()
                saved = torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda one: one)  # safe from later writes
                with _Everything(self.everything), saved:
                    self.scores = self._answer(leaf * 1)

    def _frozen_logits(self) -> Tensor:
        """The logits while no parameter requires a gradient, as kernels of attention are chosen by that."""
        learning = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in learning:
            parameter.requires_grad_(False)
        logits = self._answer(self.images).detach().clone()
        for parameter in learning:
            parameter.requires_grad_()
        return logits

    def _answer(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            for buffer, value in self._buffers:  # a forward may write them
                if not torch.equal(buffer, value):
                    buffer.detach().copy_(value)
        return rows(picked(self.model(images.clone()), self.pick), len(images))

    @contextlib.contextmanager
    def _hooks(self) -> Iterator[None]:
        handles = []
        for path, module in self.model.named_modules(remove_duplicate=False):
            if isinstance(module, torch.jit.ScriptModule):
                continue

            def hook(module: nn.Module, args: Any, out: Any, path: str = path) -> None:
                if isinstance(out, Tensor) and out.is_floating_point():
                    self.calls[path].append(_call(out, any(out is arg for arg in args)))
                    if isinstance(module, nn.modules.batchnorm._BatchNorm) and out.requires_grad:
                        out.register_hook(_contiguous)  # PyTorch's own gradient is wrong for some views

            handles.append(module.register_forward_hook(hook))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def find(self, name: str) -> list[Call]:
        """The calls a layer name means, the last of them explained: `blk`, or `blk@1` for the first call alone."""
        path, _, number = name.partition("@")
        for known in self.paths(path):
            calls = self.calls.get(known, [])
            if calls:
                return [calls[int(number) - 1]] if number else calls
        inside = [calls for known, calls in self.calls.items() if known.startswith(f"{path}.") and calls]
        return inside[-1] if inside else []  # a container that is not called: its last part is its output

    def paths(self, path: str) -> list[str]:
        """The paths in this model that a path in the user's model may mean, wrappers looked through."""
        found = [path]
        bare = unwrapped(path)
        found += [known for known in self.calls if unwrapped(known) == bare and known != path]
        return found

    def gradient(self, call: Call, target: int) -> Tensor | None:
        """The gradient of a class's score there: zeros where nothing arrives, None if the score has no gradient."""
        key = (id(call), target)
        if key not in self._gradients:
            score = self.scores[:, target].float().sum() if self.scores.dtype.itemsize < 4 else self.scores[:, target]
            found = None
            if call.edge is None:  # made under no_grad, which what follows need not be
                found = self._gradient_of_a_leaf(call, target)
            elif self.scores.requires_grad:
                try:
                    (found,) = torch.autograd.grad(score.sum(), [call.edge], retain_graph=True, allow_unused=True)
                    found = torch.zeros_like(call.value) if found is None else found
                except RuntimeError as error:  # the model cannot be trained from there
                    if "inplace" not in str(error):
                        raise
            self._gradients[key] = found
        return self._gradients[key]

    def _gradient_of_a_leaf(self, call: Call, target: int) -> Tensor | None:
        path = next((path for path, calls in self.calls.items() if call in calls), None)
        if path is None:
            return None
        calls = self.calls[path]
        seen: list[Tensor] = []

        def hook(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            seen.append(out.detach().requires_grad_())
            return seen[-1] if len(seen) == calls.index(call) + 1 else out

        handle = dict(self.model.named_modules(remove_duplicate=False))[path].register_forward_hook(hook)
        with torch.inference_mode(False), torch.enable_grad(), plain_attention():
            scores = self._answer(self.images)
        handle.remove()
        if not scores.requires_grad:
            return None
        leaf = seen[calls.index(call)]
        return torch.autograd.grad(scores[:, target].sum(), [leaf], materialize_grads=True)[0]

    def hires_cam(self, call: Call, target: int, grid: tuple[int, int], read: str) -> Tensor | None:
        """The sum over the channels of activation times gradient, (B,h,w)."""
        gradient = self.gradient(call, target)
        if gradient is None:
            return None
        return as_map(call.value.double() * gradient.double(), grid, read)

    def error(self, got: Tensor, call: Call, target: int, read: str) -> float | None:
        """How far a HiResCAM map is off there, relative to the largest sum of its terms' sizes; None without a map.

        The terms cancel before a layer norm, so the map's own size would be no measure.
        """
        grid = (int(got.shape[-2]), int(got.shape[-1]))
        wanted = self.hires_cam(call, target, grid, read)
        if wanted is None or wanted.shape != got.shape or not bool(torch.isfinite(got).all()):
            return None
        terms = as_map((call.value.double() * self.gradient(call, target).double()).abs(), grid, read)
        wrong = float((got.detach().double() - wanted).abs().max()) / (float(terms.max()) or 1.0)
        if call.handed_on and wrong > 1e-4:  # the argument's gradient, or what arrives through this module alone
            own = as_map(call.value.double() * self._gradient_of_a_leaf(call, target).double(), grid, read)
            wrong = min(wrong, float((got.detach().double() - own).abs().max()) / (float(own.abs().max()) or 1.0))
        return wrong

    def ablation_cam(
        self, name: str, target: int, grid: tuple[int, int], read: str, everywhere: bool = False
    ) -> Tensor:
        """Every channel weighted by the share of the score that is lost when it is set to zero, one at a time.

        Args:
            name: The layer.
            target: The class.
            grid: Height and width of the map.
            read: How the activation lies.
            everywhere: The returned tensor itself is written, so that others who keep it see it too.
        """
        call = self.find(name)[-1]
        path = next(p for p, calls in self.calls.items() if call in calls)
        wanted = self.calls[path].index(call)
        module = dict(self.model.named_modules(remove_duplicate=False))[path]
        axis = {"NCHW": 1, "NHWC": call.value.ndim - 1, "tokens": 2}[read]

        def score(channel: int | None, image: int = 0) -> Tensor:
            count = -1

            def hook(module: nn.Module, args: Any, out: Tensor) -> Tensor | None:
                nonlocal count
                count += 1
                if count != wanted or channel is None:
                    return None
                changed = out if everywhere else out.clone()
                part = changed[:, -grid[0] * grid[1] :] if read == "tokens" else changed
                part.select(axis, channel)[image].zero_()
                return changed

            handle = module.register_forward_hook(hook)
            with torch.inference_mode(False), torch.no_grad(), plain_attention():
                out = self._answer(self.images)[:, target].double()
            handle.remove()
            return out if channel is None else out[image]

        whole = score(None)
        maps = torch.zeros(len(self.images), *grid, dtype=torch.float64)
        for channel in range(call.value.shape[axis]):
            lost = whole - torch.stack([score(channel, image) for image in range(len(self.images))])
            weight = lost / torch.where(whole == 0, torch.ones_like(whole), whole.abs())
            part = call.value[:, -grid[0] * grid[1] :] if read == "tokens" else call.value
            maps += weight[:, None, None] * part.select(axis, channel).double().reshape(-1, *grid)
        return maps


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """No fused inference path of `nn.MultiheadAttention`."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


def unwrapped(path: str) -> str:
    """A module path without the wrappers around the model."""
    parts = [part for part in path.split(".") if f"{part}." not in WRAPPERS]
    return ".".join(parts)


def rows(logits: Tensor, count: int) -> Tensor:
    """Logits as (B, classes), whatever squeezing left of them."""
    return logits.reshape(count, -1)


def as_map(values: Tensor, grid: tuple[int, int], read: str) -> Tensor | None:
    """The sum over channels as (B,h,w), or None if the values do not fit the grid."""
    h, w = grid
    if read == "NCHW" and values.ndim == 4 and tuple(values.shape[2:]) == grid:
        return values.sum(1)
    if read == "NHWC" and values.ndim == 4 and tuple(values.shape[1:3]) == grid:
        return values.sum(3)
    if read == "tokens" and values.ndim == 3 and values.shape[1] >= h * w:
        return values[:, -h * w :].sum(2).reshape(-1, h, w)
    if read == "tokens last" and values.ndim == 3 and values.shape[2] >= h * w:
        return values[:, :, -h * w :].sum(1).reshape(-1, h, w)
    return None


READINGS = ("NCHW", "NHWC", "tokens", "tokens last")


def off(got: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest wanted value."""
    if got.shape != wanted.shape:
        return float("inf")
    if not bool(torch.isfinite(got).all()):
        return float("inf")
    scale = float(wanted.abs().max())
    return float((got.detach().double() - wanted.double()).abs().max()) / (scale or 1.0)


# ------------------------------------------------------------------------------------------------------ state as found


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything of a model and of the process that a call must leave alone."""
    state: dict[str, Any] = {
        "torch's random state": torch.get_rng_state(),
        "python's random state": random.getstate(),
        "numpy's random state": np.random.get_state()[1].tobytes(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "attention's fast path": torch.backends.mha.get_fastpath_enabled(),
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
    }
    for path, module in model.named_modules(remove_duplicate=False):
        state[f"{path or 'model'} (identity)"] = id(module)
        state[f"{path or 'model'}.training"] = module.training
        if not isinstance(module, torch.jit.ScriptModule):
            for key, value in vars(module).items():
                state[f"{path or 'model'}.{key}"] = _fingerprint(value, 0)
        else:
            for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                state[f"{path}.{name} (values)"] = [tensor.requires_grad, tensor.detach().clone()]
    return state


OURS = ("tests", "types")  # objects of these packages are looked into


def _fingerprint(value: Any, depth: int) -> Any:
    if isinstance(value, nn.parameter.UninitializedTensorMixin):
        return [id(value), type(value)]
    if isinstance(value, Tensor):
        grad = None if not value.is_leaf or value.grad is None else (id(value.grad), value.grad.clone())
        kept = value.detach().clone() if value.layout is torch.strided and not value.is_meta else None
        return [id(value), value.requires_grad, grad, kept]
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)):
        return value
    if isinstance(value, np.ndarray):
        return [id(value), value.tolist()]
    if isinstance(value, nn.Module) or depth > 6:
        return id(value)
    if isinstance(value, (list, tuple, collections.deque)):
        return [id(value) if isinstance(value, list) else 0, *(_fingerprint(v, depth + 1) for v in value)]
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, Mapping):
        return {k if type(k) in (str, int) else repr(k): _fingerprint(v, depth + 1) for k, v in value.items()}
    if isinstance(value, types.FunctionType | types.MethodType | type | types.ModuleType):
        return id(value)
    if type(value).__module__.split(".")[0] in OURS and hasattr(value, "__dict__"):
        return {"": id(value), **{k: _fingerprint(v, depth + 1) for k, v in vars(value).items()}}
    return id(value)


def difference(before: Any, now: Any, path: str = "") -> str | None:
    """The first thing that is not as it was, or None."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            where = f"{path}[{key}]" if path else key
            if key not in now:
                return f"{where} is gone"
            if key not in before:
                return f"{where} is new"
            found = difference(before[key], now[key], where)
            if found:
                return found
        return None
    if isinstance(before, Tensor) and isinstance(now, Tensor):
        same = before.dtype == now.dtype and before.shape == now.shape and bool(torch.equal(before, now))
        return None if same else f"{path} holds other values"
    if isinstance(before, (list, tuple)) and isinstance(now, (list, tuple)):
        if len(before) != len(now):
            return f"{path} had length {len(before)}, has {len(now)}"
        return next(filter(None, (difference(a, b, path) for a, b in zip(before, now, strict=True))), None)
    return None if type(before) is type(now) and before == now else f"{path} was {before!r}, is {now!r}"
