"""What every model has to pass, checked without the package's own machinery: hooks, plain backward, other batches.

Only the public API of the package is used. A check returns nothing when it holds and raises `AssertionError` with
the figures when it does not.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import grad_cam
from grad_cam.errors import GradCamError

from . import positions
from .oracle import plain_attention

RECORDED, OTHER = 2, 3  # batch sizes
CLOSE, GRADIENT = 1e-5, 1e-4  # relative


def input_shape(model: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of the pictures a model is made for."""
    given = getattr(model, "pretrained_cfg", None)
    if isinstance(given, dict) and given.get("input_size"):
        channels, *size = given["input_size"]
        built = getattr(getattr(model, "patch_embed", None), "img_size", None)
        return channels, *(built if isinstance(built, tuple) else size)
    config = getattr(model, "config", None)
    size = getattr(config, "image_size", None) or getattr(model, "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else size
    return getattr(config, "num_channels", 3), height, width


def enliven(model: nn.Module) -> nn.Module:
    """Gives values to heads, branches and embeddings that start at about zero, where equal gradients prove nothing."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            flat = weight.flatten()
            if (
                name.endswith("bias")
                or weight.numel() < 2
                or abs(float(flat[0])) > 0.01
                or bool((flat != flat[0]).any())
            ):
                continue
            if sum(n > 1 for n in weight.shape) > 1:
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
            else:  # the scale of a branch, or one token
                weight.fill_(0.5)
    return model


def images(shape: Sequence[int], batch: int) -> Tensor:
    """A random batch of pictures of a shape (C, H, W)."""
    return torch.randn((batch, *shape), generator=torch.Generator().manual_seed(batch))


def logits_of(output: Any) -> Tensor:
    """The score tensor in what a classifier returns."""
    for name in ("logits", "out", "last_hidden_state"):
        found = output.get(name) if isinstance(output, dict) else getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    while isinstance(output, (tuple, list)):
        output = output[0]
    assert isinstance(output, Tensor), f"no scores in {type(output).__name__}"
    return output


def plain(model: nn.Module, x: Tensor) -> Tensor:
    """The model's own scores of a copy of the images."""
    with torch.no_grad():
        return logits_of(model(x.clone()))


def relative(got: Tensor, wanted: Tensor) -> float:
    """The largest difference over the largest value that was wanted."""
    assert got.shape == wanted.shape, f"shape {tuple(got.shape)} instead of {tuple(wanted.shape)}"
    off = (got.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp(min=1e-30)
    return float(off)


# ------------------------------------------------------------------------------------------------ the model as found


def state(model: nn.Module) -> dict[str, Any]:
    """What must be the same after any use of a model: weights, flags, hooks, attributes, random numbers."""
    found: dict[str, Any] = {"rng": torch.get_rng_state().tolist()}
    for path, module in model.named_modules():
        found[f"flags of '{path}'"] = module.training
        found[f"attributes of '{path}'"] = sorted(vars(module))
        for table in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            found[f"{table} of '{path}'"] = list(vars(module).get(table) or ())
        for name, value in vars(module).items():
            if isinstance(value, (int, float, str, type(None))):
                found[f"'{path}'.{name}"] = value
            elif isinstance(value, (list, dict, set)) and not name.startswith("_"):
                found[f"length of '{path}'.{name}"] = len(value)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        grad = None if tensor.grad is None else id(tensor.grad)
        total = float(tensor.detach().double().sum()) if tensor.numel() else 0.0
        found[f"tensor '{name}'"] = (id(tensor), tensor._version, tensor.requires_grad, grad, repr(total))
    return found


def require_untouched(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Names what changed between two `state`s."""
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    assert not changed, f"changed: {', '.join(changed[:4])}" + (f" and {len(changed) - 4} more" * (len(changed) > 4))


# -------------------------------------------------------------------------------------------------------- the halves


def require_exact(halves: Callable[[Tensor], Tensor], model: nn.Module, shape: Sequence[int]) -> str:
    """Halves are the model: bit for bit at the recorded batch, within float tolerance at another.

    Returns:
        What is to be said about it, or "".
    """
    said = ""
    x = images(shape, RECORDED)
    with torch.no_grad():
        got, wanted = halves(x.clone()), plain(model, x)
        if not torch.equal(got, wanted):
            off = relative(got, wanted)
            with plain_attention():
                assert torch.equal(halves(x.clone()), plain(model, x)), f"differs by {off:.3g} at the recorded batch"
            said = "equal bit for bit only without the fast path of nn.MultiheadAttention"
        x = images(shape, OTHER)
        with plain_attention() if said else contextlib.nullcontext():
            off = relative(halves(x.clone()), plain(model, x))
    assert off <= CLOSE, f"differs by {off:.3g} at a batch of {OTHER}"
    return said


# ----------------------------------------------------------------------------------------------------- hooks, gradients


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of a nested output, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [t for part in value for t in tensors_in(part)]
    return []


@dataclasses.dataclass
class Hooked:
    """What a forward hook saw at a module's last call, and the gradient of the classes' scores there."""

    activation: Tensor
    gradient: Tensor


def reference_of(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode that asks for no gradients of its weights."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def hooked(reference: nn.Module, path: str, x: Tensor, classes: Tensor, shape: Sequence[int] | None) -> Hooked:
    """Runs a plain forward with a hook at a module and a plain backward.

    Args:
        reference: A copy of the model, see `reference_of`.
        path: The module.
        x: Images.
        classes: The class of each image whose score is followed, (B,).
        shape: Shape of the activation, where the module returns several tensors.
    """
    seen: list[Tensor] = []

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        found = [t for t in tensors_in(output) if shape is None or t.shape == torch.Size(shape)]
        if not found:  # a module that is called for other tensors, too
            return output
        leaf = found[0].detach().clone().requires_grad_()
        seen.append(leaf)

        def replaced(value: Any) -> Any:
            if value is found[0]:
                return leaf.clone()
            if isinstance(value, dict):
                new = copy.copy(value)
                for key in list(value):
                    new[key] = replaced(value[key])
                return new
            if isinstance(value, tuple) and hasattr(value, "_fields"):
                return type(value)(*map(replaced, value))
            return type(value)(map(replaced, value)) if isinstance(value, (tuple, list)) else value

        return replaced(output)

    handle = reference.get_submodule(path).register_forward_hook(hook)
    try:
        with torch.enable_grad(), plain_attention():
            logits = logits_of(reference(x.clone()))
            assert seen, f"no hook on '{path}' is called with a tensor of shape {shape}"
            logits = logits if logits.ndim > 1 else logits[:, None]
            score = logits.gather(1, classes[:, None]).sum()
            gradient = None
            if score.requires_grad:
                (gradient,) = torch.autograd.grad(score, seen[-1], allow_unused=True)
    finally:
        handle.remove()
    return Hooked(seen[-1].detach(), torch.zeros_like(seen[-1]) if gradient is None else gradient)


def require_gradient(
    model: nn.Module, reference: nn.Module, layer: str, x: Tensor, classes: Tensor, read: positions.Read | None
) -> bool:
    """The halves' gradient and the explanation at a layer are those of a hook and a plain backward.

    Returns:
        Whether the gradient is other than zero, so that this says something.
    """
    cut = grad_cam.split(model, layer, x)
    with torch.no_grad():
        handed = cut.extractor(x.clone())
    activation, context = (handed[0], handed[1:]) if isinstance(handed, tuple) else (handed, ())
    wanted = hooked(reference, layer, x, classes, activation.shape)
    off = relative(activation, wanted.activation)
    assert off <= CLOSE, f"at '{layer}' the activation is not the module's output: {off:.3g} off"
    leaf = activation.detach().clone().requires_grad_()
    with torch.enable_grad(), plain_attention():
        logits = cut.classifier((leaf.clone(), *context) if context else leaf.clone())
        logits = logits if logits.ndim > 1 else logits[:, None]
        (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), leaf)
    off = relative(gradient, wanted.gradient)
    assert off <= GRADIENT, f"at '{layer}' the halves' gradient is {off:.3g} off"
    if read is not None:
        terms = read(wanted.activation).double() * read(wanted.gradient).double()  # (B,C,h,w)
        result = grad_cam.explain(model, x, layer=layer, target=classes.tolist(), method="hires_cam")
        scale = float(terms.abs().sum(1).max().clamp(min=1e-30))
        off = float((result.map.double().view(terms[:, 0].shape) - terms.sum(1)).abs().max()) / scale
        assert off <= GRADIENT, f"at '{layer}' the map is {off:.3g} off"
    return bool(wanted.gradient.any())


# ----------------------------------------------------------------------------------------------------------- positions


def capture(reference: nn.Module, paths: Sequence[str], shapes: Sequence[Sequence[int]]) -> positions.Run:
    """A function from images to the outputs of modules, as hooks see them; `shapes` are those of one image."""

    def run(x: Tensor) -> list[Tensor | None]:
        seen: dict[str, Tensor] = {}

        def watch(path: str, shape: Sequence[int]) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                found = [t for t in tensors_in(output) if tuple(t.shape[1:]) == tuple(shape)]
                if found:
                    seen[path] = found[0].detach().clone()

            return reference.get_submodule(path).register_forward_hook(hook)

        handles = [watch(path, shape) for path, shape in zip(paths, shapes, strict=True)]
        try:
            with torch.no_grad(), plain_attention():
                reference(x.clone())
        finally:
            for handle in handles:
                handle.remove()
        return [seen.get(path) for path in paths]

    return run


# ------------------------------------------------------------------------------------------------------- a whole model


@dataclasses.dataclass
class Outcome:
    """What came out of the checks of one model.

    Attributes:
        failures: What does not hold, each with the name of the check.
        notes: What is worth saying although it holds.
        counts: How many chains, gradients and readings were judged, by outcome.
    """

    failures: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    @contextlib.contextmanager
    def check(self, name: str) -> Iterator[None]:
        """Notes what is raised inside as a failure of the check; an end of time or memory is passed on."""
        try:
            yield
        except (TimeoutError, MemoryError):
            raise
        except Exception as error:
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            text = " ".join(str(error).split())
            self.failures.append(f"{name}: {kind}{text[:400]}")


def mixed(model: nn.Module) -> None:
    """Training mode as in fine-tuning: the normalisation layers stay in eval mode."""
    model.train()
    for module in model.modules():
        if "Norm" in type(module).__name__:
            module.eval()


def called(reference: nn.Module, x: Tensor) -> set[str]:
    """Paths of the modules that a forward pass calls and that return a tensor."""
    found: set[str] = set()

    def watch(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if tensors_in(output):
                found.add(path)

        return hook

    handles = [m.register_forward_hook(watch(path)) for path, m in reference.named_modules() if path]
    try:
        with plain_attention():
            plain(reference, x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def chosen(model: nn.Module, x: Tensor, modules: set[str], default: str) -> list[str]:
    """Names of an early and a middle layer with a map, from the opened chain, the default layer left out."""
    for depth in (3, 2, 1):
        try:
            stages = grad_cam.chain(model, x, depth=depth).stages
        except GradCamError:
            continue
        mapped = [s.name for s in stages if s.layout is not None and s.name in modules and min(s.layout.grid) > 1]
        mapped = [name for name in dict.fromkeys(mapped) if name != default]
        if mapped:
            return list(dict.fromkeys([mapped[len(mapped) // 6], mapped[len(mapped) // 2]]))
    return []


def examine(model: nn.Module, shape: tuple[int, int, int], depths: Sequence[int] = (1, 3)) -> Outcome:
    """Runs every check on one classifier.

    Args:
        model: The classifier, in eval mode.
        shape: Channels, height and width of its pictures.
        depths: Depths of the chains.
    """
    out = Outcome()
    reference = reference_of(model)
    x = images(shape, RECORDED)
    plain(model, x)  # what a model keeps of its own first run is not the package's doing
    before = state(model)
    for depth in depths:
        with out.check(f"chain at depth {depth}"):
            chain = grad_cam.chain(model, x.clone(), depth=depth)
            said = require_exact(chain, model, shape)
            out.count("chains")
            if said:
                out.notes.append(f"chain at depth {depth}: {said}")
            if depth == depths[0] and len(chain) < 2:
                out.notes.append("one stage")
    default = ""
    classes = plain(reference, x).reshape(RECORDED, -1).argmax(1)
    with out.check("explanation"):
        result = grad_cam.explain(model, x.clone(), target=classes.tolist(), method="grad_cam")
        default = result.layer.name
        off = relative(result.logits, plain(reference, x).reshape(result.logits.shape))
        assert off <= GRADIENT, f"the logits are {off:.3g} off"
        assert min(result.map.shape[-2:]) > 1, f"a map of {tuple(result.map.shape[-2:])} at '{default}'"
        assert float(result.map.abs().max()) > 0, f"an empty map at '{default}'"
        out.notes.append(f"default '{default}', {result.map.shape[-2]}x{result.map.shape[-1]}")
    layers = [default] if default else []
    with out.check("choice of layers"):
        layers += chosen(model, x.clone(), called(reference, x[:1]), default)
        if len(layers) < 3:
            out.notes.append(f"only {len(layers)} layers with a map")
    examine_layers(model, reference, layers, x, classes, out)
    with out.check("untouched"):
        require_untouched(before, state(model))
    with out.check("training mode"):
        mixed(model)
        before = state(model)
        result = grad_cam.explain(model, x.clone(), target=classes.tolist())  # what auto takes
        require_untouched(before, state(model))
        off = relative(result.logits, plain(reference, x).reshape(result.logits.shape))
        assert off <= GRADIENT, f"the logits are {off:.3g} off"
    model.eval()
    gc.collect()
    return out


def examine_layers(
    model: nn.Module, reference: nn.Module, layers: Sequence[str], x: Tensor, classes: Tensor, out: Outcome
) -> None:
    """Checks gradients and positions of named layers; adds to an outcome."""
    hookable = called(reference, x[:1])
    shape: tuple[int, int, int] = tuple(x.shape[1:])  # type: ignore[assignment]
    paths: list[str] = []
    shapes: list[Sequence[int]] = []
    reads: list[positions.Read] = []
    for layer in layers:
        with out.check("split"):
            cut = grad_cam.split(model, layer, x.clone())
            layout = cut.layout
            if layout is None:
                out.notes.append(f"'{layer}' has no map")
            if layer not in hookable:
                out.notes.append(f"'{layer}' is no module that a hook sees: its gradient is not compared")
                if layout is not None:
                    with torch.no_grad():
                        finding = positions.judge(lambda x, cut=cut: [first(cut, x)], [layout.to_map], shape)[0]
                    _count(out, layer, tuple(first(cut, x).shape[1:]), finding)
                continue
            if layout is not None:
                paths.append(layer)
                shapes.append(first(cut, x).shape[1:])
                reads.append(layout.to_map)
            alive = require_gradient(model, reference, layer, x, classes, layout.to_map if layout else None)
            out.count("gradients" if alive else "gradients of zero")
    with out.check("positions"):
        found = positions.judge(capture(reference, paths, shapes), reads, shape) if paths else []
        for layer, size, finding in zip(paths, shapes, found, strict=True):
            _count(out, layer, tuple(size), finding)


def first(cut: grad_cam.Split, x: Tensor) -> Tensor:
    """The activation an extractor gives, without its context."""
    with torch.no_grad(), plain_attention():
        handed = cut.extractor(x.clone())
    return handed[0] if isinstance(handed, tuple) else handed


def _count(out: Outcome, layer: str, shape: tuple[int, ...], finding: positions.Finding) -> None:
    out.count(finding.verdict)
    if finding.verdict == "contradicted":
        out.failures.append(f"positions: '{layer}' {shape}: {finding.why}")
    elif finding.verdict == "undecided":
        out.notes.append(f"'{layer}' {shape} undecided: {finding.why}")
