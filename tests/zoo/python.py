"""Python inside the forward: branches, loops, batch arithmetic, NumPy, state that is written, errors, randomness."""

from __future__ import annotations

import functools
import math
import types

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .registry import ALL, GRADIENTS, Net, block, zoo

# ------------------------------------------------------------------------------------------------ decisions by values


class Deciding(nn.Module):
    """Doubles or squares its input, whatever the values say, a number of times that they say too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = block(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if x.mean() > 0.05:
            x = x * 2
        else:
            x = x * x
        steps = 0
        while x.abs().max() < 4 and steps < 5:
            x, steps = x * 1.5, steps + 1
        return x


@zoo("if_and_loop_in_a_submodule", "decisions", expect=ALL)
class IfInside(Net):
    def __init__(self) -> None:
        super().__init__()
        self.decide = Deciding()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.decide(self.blk(self.stem(x)))))


zoo("layer_that_decides", "decisions", layer="decide", expect=ALL)(IfInside)


@zoo("if_in_the_forward", "decisions", expect=GRADIENTS)
class IfOutside(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        if x.sum() > 0:
            x = x * 2
        return self.head(self.neck(x))


@zoo("loop_in_the_forward", "decisions", expect=GRADIENTS)
class LoopOutside(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        while bool((x.abs().amax() < 6).item()):
            x = x * 1.3
        return self.head(self.neck(x))


@zoo("item", "decisions", expect=GRADIENTS)
class Item(Net):
    """A value of the images becomes a Python number and comes back."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        return self.head(self.neck(x / (1 + x.std().item())))


@zoo("item_of_every_image", "decisions", expect=GRADIENTS)
class Items(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        scale = [1 + float(v) for v in x.detach().abs().mean((1, 2, 3)).tolist()]
        return self.head(self.neck(x * x.new_tensor(scale)[:, None, None, None]))


@zoo("numpy_round_trip", "decisions", expect=GRADIENTS)
class NumpyTrip(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        weight = torch.from_numpy(x.detach().numpy().mean((2, 3), keepdims=True) + 1)
        return self.head(self.neck(x * weight))


@zoo("numpy_in_a_submodule", "decisions", expect=GRADIENTS)
class NumpyInside(Net):
    class Trip(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.from_numpy(x.detach().numpy().mean((2, 3), keepdims=True) + 1)

    def __init__(self) -> None:
        super().__init__()
        self.trip = self.Trip()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.trip(self.blk(self.stem(x)))))


# ---------------------------------------------------------------------------------------------------- the batch's size


@zoo("chunks_over_the_batch", "batch", layer="stem", expect=GRADIENTS, batches=(3, 10, 1))
class Chunks(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.blk(x[i : i + 4]) for i in range(0, len(x), 4)])
        return self.head(self.neck(x))


@zoo("split_over_the_batch", "batch", layer="stem", expect=GRADIENTS, batches=(5, 2, 9))
class SplitChunks(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.blk(part) * (i + 1) for i, part in enumerate(self.stem(x).split(2))])
        return self.head(self.neck(x))


@zoo("branch_on_the_batch", "batch", expect=GRADIENTS, batches=(3, 6, 1))
class BranchOnBatch(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        return self.head(self.neck(x * 2 if len(x) > 4 else x))


@zoo("divmod_of_the_batch", "batch", expect=ALL)
class Divmod(Net):
    def forward(self, x: Tensor) -> Tensor:
        count, rest = divmod(len(x), 1)
        x = self.blk(self.stem(x))
        return self.head(self.neck(x.reshape(count + rest, 6, -1).view(count, 6, 16, 16)))


@zoo("int_of_a_quotient", "batch", expect=ALL)
class IntQuotient(Net):
    def forward(self, x: Tensor) -> Tensor:
        b = int(x.shape[0] / 1)
        x = self.blk(self.stem(x))
        return self.head(self.neck(x.reshape(b * 2, 3, 16, 16).reshape(b, 6, 16, 16)))


@zoo("product_of_the_shape", "batch", expect=ALL)
class Product(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        flat = x.reshape(math.prod(x.shape[:2]), -1)
        return self.head(self.neck((flat - flat.mean(1, keepdim=True)).view(x.shape)))


@zoo("windows", "batch", expect=ALL)
class Windows(Net):
    """Window partition as Swin writes it, with its way of finding the batch back."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x)).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        windows = x.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 4, 4, c)
        windows = windows - windows.mean((1, 2), keepdim=True)
        b = int(windows.shape[0] / (h * w / 4 / 4))
        x = windows.view(b, h // 4, w // 4, 4, 4, -1).permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, w, -1)
        return self.head(self.neck(x.permute(0, 3, 1, 2)))


@zoo("batch_size_as_a_number", "batch", expect=GRADIENTS)
class BatchNumber(Net):
    """The features are divided by the number of images."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x)) / float(str(len(x)))
        return self.head(self.neck(x))


@zoo("batch_statistics", "batch", expect=GRADIENTS)
class BatchStatistics(Net):
    """Images see each other: the mean over the batch is subtracted."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        return self.head(self.neck(x - 0.5 * x.mean(0, keepdim=True)))


@zoo("padded_batch", "batch", layer="stem", expect=GRADIENTS)
class PaddedBatch(Net):
    """Pads the batch to a multiple of four, as code for accelerators does."""

    def forward(self, x: Tensor) -> Tensor:
        count = len(x)
        x = self.stem(x)
        x = torch.cat([x, x.new_zeros((-count) % 4, *x.shape[1:])])
        return self.head(self.neck(self.blk(x)))[:count]


# --------------------------------------------------------------------------------------------------------- own backward


class Clip(torch.autograd.Function):
    """A clamp with a straight-through gradient."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clamp(-0.5, 0.5)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient * 0.7


class ClipModule(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Clip.apply(x)


@zoo("own_function_in_a_submodule", "own backward", expect=ALL)
class FunctionInside(Net):
    def __init__(self) -> None:
        super().__init__()
        self.clip = ClipModule()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.clip(self.blk(self.stem(x)))))


@zoo("own_function_in_the_forward", "own backward", expect=GRADIENTS)
class FunctionOutside(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(Clip.apply(self.blk(self.stem(x)))))


@zoo("straight_through", "own backward", expect=ALL)
class StraightThrough(Net):
    """Rounds with `detach`, so that value and gradient part."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        x = x + (torch.round(x * 4) / 4 - x).detach()
        return self.head(self.neck(x))


@zoo("detached_branch", "own backward", expect=ALL)
class DetachedBranch(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        return self.head(self.neck(x * torch.sigmoid(x.detach())))


@zoo("tensor_hook", "own backward")
class TensorHook(Net):
    """The forward registers a hook on a tensor that changes its gradient."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        y = x * 2
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient * 3)
        return self.head(self.neck(y))


# ------------------------------------------------------------------------------------------------- grad mode, autocast


@zoo("no_grad_inside", "modes", expect=ALL)
class NoGradInside(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        with torch.no_grad():
            gate = torch.sigmoid(3 * x)
        return self.head(self.neck(x * gate))


@zoo("no_grad_backbone", "modes", layer="neck", expect=GRADIENTS)
class NoGradBackbone(Net):
    """A frozen backbone: the gradient ends at the neck."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.blk(self.stem(x))
        return self.head(self.neck(x))


@zoo("enable_grad_inside", "modes", expect=ALL)
class EnableGrad(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        with torch.enable_grad():
            x = x * torch.sigmoid(x)
        return self.head(self.neck(x))


NEEDS_A_GRADIENT = frozenset(("named", "default", "sweep"))


@zoo("no_grad_forward", "modes", refuse=NEEDS_A_GRADIENT, mentions=r"no_grad|inference_mode|grad mode|gradient")
class NoGradForward(Net):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


@zoo("inference_mode_forward", "modes", refuse=NEEDS_A_GRADIENT, mentions=r"no_grad|inference_mode|gradient")
class InferenceForward(Net):
    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


@zoo("set_grad_enabled_by_the_mode", "modes", expect=GRADIENTS)
class SetGradEnabled(Net):
    """The gradient is switched off in training mode only, for a part that is still frozen."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.training):
            x = self.blk(self.stem(x))
        return self.head(self.neck(x))


AUTOCAST = functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16)


@zoo("autocast_inside", "modes", tolerance=0.05, expect=ALL)
class AutocastInside(Net):
    def forward(self, x: Tensor) -> Tensor:
        with AUTOCAST():
            x = self.neck(self.blk(self.stem(x)))
        return self.head(x.float())


class Island(Net):
    """Everything runs as the caller says, the head in full precision."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.neck(self.blk(self.stem(x)))
        with torch.autocast("cpu", enabled=False):
            return self.head(x.float() * 3.0)


zoo("autocast_switched_off_inside", "modes", expect=ALL)(Island)
zoo("autocast_around", "modes", ambient=AUTOCAST, tolerance=0.05, expect=GRADIENTS)(Net)
zoo("autocast_around_and_off_inside", "modes", ambient=AUTOCAST, tolerance=0.05, expect=GRADIENTS)(Island)
zoo("no_grad_around", "modes", ambient=torch.no_grad, expect=ALL)(NoGradInside)
zoo("inference_mode_around", "modes", ambient=torch.inference_mode, expect=GRADIENTS)(NoGradInside)


# ------------------------------------------------------------------------------------------- state the forward writes


@zoo("feature_kept_on_the_model", "state", layer="stem", expect=GRADIENTS)
class KeptFeature(Net):
    """A submodule reads what the forward put on the model."""

    class Reader(nn.Module):
        def __init__(self, owner: nn.Module) -> None:
            super().__init__()
            self.__dict__["owner"] = owner

        def forward(self, x: Tensor) -> Tensor:
            return x + self.owner.feat

    def __init__(self) -> None:
        super().__init__()
        self.reader = self.Reader(self)

    def forward(self, x: Tensor) -> Tensor:
        self.feat = self.stem(x)
        return self.head(self.neck(self.reader(self.blk(self.feat))))


@zoo("feature_kept_on_a_child", "state", layer="stem", expect=GRADIENTS)
class KeptOnChild(Net):
    """A child keeps its own output, and the model reads it from there later."""

    class Keeper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = block(3, 6, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.kept = self.body(x)
            return self.kept

    def __init__(self) -> None:
        super().__init__()
        self.stem = self.Keeper()

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        return self.head(self.neck(x * torch.sigmoid(self.stem.kept)))


class ImageList:
    """Images with their sizes, as detection code passes them around."""

    def __init__(self, tensors: Tensor, sizes: list[tuple[int, int]]) -> None:
        self.tensors, self.sizes = tensors, sizes


@zoo("tensor_in_a_plain_object", "state", expect=GRADIENTS)
class PlainObject(Net):
    class Wrap(nn.Module):
        def forward(self, x: Tensor) -> ImageList:
            return ImageList(x * 2, [(x.shape[2], x.shape[3])] * len(x))

    class Unwrap(nn.Module):
        def forward(self, images: ImageList) -> Tensor:
            return images.tensors * images.sizes[0][0] / 16

    def __init__(self) -> None:
        super().__init__()
        self.wrap, self.unwrap = self.Wrap(), self.Unwrap()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.unwrap(self.wrap(self.blk(self.stem(x))))))


class Cache:
    """Keeps tensors between modules."""

    def __init__(self) -> None:
        self.store: dict[str, Tensor] = {}
        self.writes = 0


@zoo("cache_object", "state", layer="stem", expect=GRADIENTS)
class CacheObject(Net):
    """A cache that one module fills and another one reads; it starts empty and is the user's."""

    class Put(nn.Module):
        def forward(self, x: Tensor, cache: Cache) -> Tensor:
            cache.store["x"] = x * 0.5
            cache.writes += 1
            return x

    class Get(nn.Module):
        def forward(self, x: Tensor, cache: Cache) -> Tensor:
            return x + cache.store["x"]

    def __init__(self) -> None:
        super().__init__()
        self.put, self.get, self.cache = self.Put(), self.Get(), Cache()

    def forward(self, x: Tensor) -> Tensor:
        x = self.put(self.stem(x), self.cache)
        return self.head(self.neck(self.get(self.blk(x), self.cache)))


@zoo("list_of_features", "state", layer="stem", expect=GRADIENTS)
class FeatureList(Net):
    """Features are collected in a list on the model and joined at the end."""

    def forward(self, x: Tensor) -> Tensor:
        self.features = []
        for part in (self.stem, self.blk):
            x = part(x)
            self.features.append(x)
        return self.head(self.neck(self.features[0] * self.features[1]))


@zoo("log_that_grows", "state", expect=ALL)
class Log(Net):
    def __init__(self) -> None:
        super().__init__()
        self.log, self.seen, self.shapes = [], {}, set()

    def forward(self, x: Tensor) -> Tensor:
        self.log.append(tuple(x.shape))
        x = self.blk(self.stem(x))
        self.seen["last"] = x.detach()
        self.shapes.add(x.shape)
        return self.head(self.neck(x))


@zoo("nested_log_that_grows", "state", expect=ALL)
class NestedLog(Net):
    def __init__(self) -> None:
        super().__init__()
        self.stats = {"calls": [], "by": {"layer": [0]}}

    def forward(self, x: Tensor) -> Tensor:
        self.stats["calls"].append(len(x))
        self.stats["by"]["layer"][0] += 1
        return super().forward(x)


@zoo("counter", "state", expect=ALL)
class Counter(Net):
    """Counts its calls in an attribute and gives itself a new one."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        self.last_shape = tuple(x.shape)
        return super().forward(x)


@zoo("buffer_written_in_eval_mode", "state", expect=GRADIENTS)
class Buffer(Net):
    """A running count of the features, in place and by assignment, which the logits do not read."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        self.count += len(x)
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 2, 3))
        return self.head(self.neck(x))


@zoo("buffer_read_and_written", "state")
class BufferRead(Net):
    """The logits of a second call differ from those of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        self.mean.mul_(0.5).add_(0.5 * x.detach().mean((0, 2, 3))[:, None, None])
        return self.head(self.neck(x - self.mean))


@zoo("batch_norm_without_running_statistics", "state", expect=GRADIENTS)
def no_statistics() -> nn.Module:
    model = Net()
    model.neck[1] = nn.BatchNorm2d(6, track_running_stats=False)
    return model


@zoo("position_cache", "state", expect=ALL)
class PositionCache(Net):
    """Makes a table at the first call and keeps it by size."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[tuple[int, int], Tensor] = {}

    def table(self, h: int, w: int) -> Tensor:
        if (h, w) not in self.tables:
            self.tables[h, w] = torch.linspace(0, 1, h * w).view(1, 1, h, w)
        return self.tables[h, w]

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        return self.head(self.neck(x + self.table(*x.shape[2:])))


# ------------------------------------------------------------------------------------------ references Python can hold


@zoo("closure_over_a_module", "references", expect=ALL)
class ClosureOverModule(Net):
    def __init__(self) -> None:
        super().__init__()
        self.step = lambda x: self.blk(self.stem(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.step(x)))


@zoo("closure_in_a_closure", "references", expect=ALL)
class ClosureInClosure(Net):
    def __init__(self) -> None:
        super().__init__()
        blk, stem = self.blk, self.stem

        def inner(x: Tensor) -> Tensor:
            return blk(stem(x))

        def outer(x: Tensor) -> Tensor:
            return inner(x) * 2

        self.step = functools.partial(lambda f, x: f(x), outer)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.step(x)))


@zoo("bound_methods", "references", layer="neck", expect=ALL)
class BoundMethods(Net):
    """`self.blk.forward` is called directly, so that no hook fires there."""

    def __init__(self) -> None:
        super().__init__()
        self.step = self.blk.forward

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.step(self.stem(x))))


@zoo("nested_lists_of_modules", "references", expect=ALL)
class NestedLists(Net):
    """Registered modules that the forward reaches through plain lists of lists."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = [[self.stem, self.blk], [self.neck]]

    def forward(self, x: Tensor) -> Tensor:
        for group in self.groups:
            for module in group:
                x = module(x)
        return self.head(x)


@zoo("dicts_of_modules", "references", expect=ALL)
class DictsOfModules(Net):
    def __init__(self) -> None:
        super().__init__()
        self.parts = {"first": {"a": self.stem, "b": (self.blk,)}, "then": [{"c": self.neck}]}

    def forward(self, x: Tensor) -> Tensor:
        x = self.parts["first"]["b"][0](self.parts["first"]["a"](x))
        return self.head(self.parts["then"][0]["c"](x))


@zoo("modules_in_a_plain_object", "references")
class ModulesInObject(Net):
    def __init__(self) -> None:
        super().__init__()
        self.parts = types.SimpleNamespace(stem=self.stem, blk=self.blk)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.parts.blk(self.parts.stem(x))))


@zoo("unregistered_module", "references", expect=GRADIENTS)
class Unregistered(Net):
    """A convolution in a plain list: no parameter of the model, but part of its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.Conv2d(6, 6, 3, padding=1)]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.hidden[0](self.blk(self.stem(x)))))


@zoo("functions_on_the_model", "references", expect=ALL)
class Functions(Net):
    def __init__(self) -> None:
        super().__init__()
        self.up = functools.partial(F.interpolate, scale_factor=2.0, mode="nearest")
        self.acts = {"tanh": torch.tanh, "twice": lambda x: x * 2}

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.acts["twice"](self.blk(self.stem(x))))
        return self.head(self.neck(self.acts["tanh"](x)))


@zoo("child_knows_its_parent", "references", layer="neck", expect=ALL)
class Parent(Net):
    """A child calls its parent's other child."""

    class Child(nn.Module):
        def __init__(self, parent: nn.Module) -> None:
            super().__init__()
            self.parent = [parent]
            self.conv = nn.Conv2d(6, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.parent[0].blk(self.conv(x))

    def __init__(self) -> None:
        super().__init__()
        self.child = self.Child(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.child(self.stem(x))))


class WithBatchNorm(Net):
    """What the next model computes, written without a global."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.bn(self.blk(self.stem(x)))))


OWN: dict[str, nn.Module] = {}


@zoo("module_through_a_global", "references", reference=WithBatchNorm)
class ThroughGlobal(WithBatchNorm):
    """The forward reaches the model's own batch norm through a global of its file."""

    def __init__(self) -> None:
        super().__init__()
        OWN["latest"] = self.bn

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(OWN["latest"](self.blk(self.stem(x)))))


torch.manual_seed(11)
OUTSIDE = nn.Conv2d(6, 6, 3, padding=1)


@zoo("foreign_module_through_a_global", "references", expect=GRADIENTS)
class ForeignGlobal(Net):
    """A module that belongs to nobody, reached through a global."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(OUTSIDE(self.blk(self.stem(x)))))


# ------------------------------------------------------------------------------------------------------------ refusals

RANDOM = r"(?i)rand|dropout|noise"


@zoo("noise_in_eval_mode", "random", refuse=ALL, mentions=RANDOM)
class Noise(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        return self.head(self.neck(x + 0.1 * torch.randn_like(x)))


@zoo("dropout_in_eval_mode", "random", refuse=ALL, mentions=RANDOM)
class FunctionalDropout(Net):
    """`F.dropout` without `training=self.training` drops in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(self.neck(self.blk(self.stem(x))), 0.5))


@zoo("noise_in_a_submodule", "random", refuse=ALL, mentions=RANDOM)
class NoiseInside(Net):
    class Add(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand(x.shape)

    def __init__(self) -> None:
        super().__init__()
        self.add = self.Add()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.add(self.blk(self.stem(x)))))


@zoo("own_generator", "random")
class OwnGenerator(Net):
    """Random numbers from a generator with a fixed seed are a constant."""

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.rand(6, 1, 1, generator=torch.Generator().manual_seed(4))
        return self.head(self.neck(self.blk(self.stem(x)) * noise))


class OwnError(RuntimeError):
    """An error of the user's own."""


@zoo("raises_its_own_error", "errors", raises=OwnError("this model wants seven channels"))
class Raises(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        if x.shape[1] != 7:
            raise OwnError("this model wants seven channels")
        return self.head(self.neck(x))


@zoo("raises_a_value_error_in_a_submodule", "errors", raises=ValueError("size (16, 16) is not square enough"))
class RaisesInside(Net):
    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError(f"size {tuple(x.shape[2:])} is not square enough")

    def __init__(self) -> None:
        super().__init__()
        self.picky = self.Picky()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.picky(self.blk(self.stem(x))))


@zoo("asserts", "errors", raises=AssertionError("the batch must hold ten images"))
class Asserts(Net):
    def forward(self, x: Tensor) -> Tensor:
        assert len(x) == 10, "the batch must hold ten images"
        return super().forward(x)


@zoo("broken_in_eval_mode", "errors", raises=NotImplementedError("only for training"))
class OnlyTraining(Net):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            raise NotImplementedError("only for training")
        return super().forward(x)
