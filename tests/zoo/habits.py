"""Habits of users' code that a copy or a record of a model easily gets wrong."""

from __future__ import annotations

import concurrent.futures
import threading
import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .architectures import TOKENS, Tokens
from .python import RANDOM
from .registry import ALL, GRADIENTS, Net, block, zoo

LAYER = frozenset(("named", "split", "ablation"))  # what asks for the named layer

# ------------------------------------------------------------------------------------------- what train() and eval() do


@zoo("mode_kept_by_train", "modes of its own", expect=GRADIENTS)
class OwnMode(Net):
    """`train()` is overridden and keeps the mode in an attribute of its own, which the forward reads."""

    mode = "train"

    def train(self, mode: bool = True) -> OwnMode:
        self.mode = "train" if mode else "eval"
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        return self.head(self.neck(x * 3 if self.mode == "train" else x))


@zoo("weights_merged_by_eval", "modes of its own", expect=GRADIENTS, fused=True)
class Merging(Net):
    """`eval()` adds a low-rank part to the weights in place and `train()` takes it off, as LoRA libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.randn(2, 6))
        self.merged = False

    def train(self, mode: bool = True) -> Merging:
        if mode == self.merged:
            self.fc.weight.data += (self.a @ self.b).detach() * (-1 if mode else 1)
            self.merged = not mode
        return super().train(mode)

    def head(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3))
        return self.fc(x) if self.merged else self.fc(x) + x @ (self.a @ self.b).T


@zoo("batch_norm_frozen_by_train", "modes of its own", expect=ALL)
class FrozenNorm(Net):
    """`train()` leaves the batch norms in eval mode."""

    def train(self, mode: bool = True) -> FrozenNorm:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.training = False
        return self


@zoo("modes_set_in_the_forward", "modes of its own", expect=GRADIENTS)
class SetsModes(Net):
    """The forward puts a frozen part into eval mode each time."""

    def forward(self, x: Tensor) -> Tensor:
        self.stem.eval()
        self.neck.train(False)
        return super().forward(x)


@zoo("functional_batch_norm", "modes of its own", expect=ALL)
class FunctionalNorm(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(6))
        self.register_buffer("running_var", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        x = F.batch_norm(x, self.running_mean, self.running_var, training=self.training)
        return self.head(F.dropout(self.neck(x), 0.3, self.training))


@zoo("functional_batch_norm_always_training", "modes of its own")
class AlwaysTraining(FunctionalNorm):
    """Batch statistics in eval mode too, and the buffers are written."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        return self.head(self.neck(F.batch_norm(x, self.running_mean, self.running_var, training=True)))


# ------------------------------------------------------------------------------------------- weights written in forward


@zoo("weights_renormalised_by_data", "weights written")
class DataRenorm(Net):
    """A maximum norm of the weights, kept by assigning `.data` in the forward."""

    def forward(self, x: Tensor) -> Tensor:
        self.fc.weight.data = torch.renorm(self.fc.weight.data, 2, 0, 0.3)
        return super().forward(x)


@zoo("weights_renormalised_in_place", "weights written")
class InPlaceRenorm(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.fc.weight.renorm_(2, 0, 0.3)
        return super().forward(x)


@zoo("weights_clamped_in_a_submodule", "weights written")
class ClampInside(Net):
    class Clamped(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            self.weight.data.clamp_(-0.05, 0.05)
            return super().forward(x)

    def __init__(self) -> None:
        super().__init__()
        self.neck = self.Clamped(6, 6, 3, 2, 1)


# -------------------------------------------------------------------------------------- modules made or cut at run time


@zoo("modules_made_in_the_forward", "made at run time", expect=ALL)
class MadeInForward(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = nn.Upsample(scale_factor=2)(nn.ReLU(inplace=True)(self.blk(self.stem(x))))
        return nn.Softmax(dim=1)(self.head(self.neck(x)))


@zoo("dropout_made_in_the_forward", "made at run time", refuse=ALL, mentions=RANDOM)
class DropoutMade(Net):
    """A module that is made in the forward is in training mode and drops always."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.Dropout(0.5)(self.neck(self.blk(self.stem(x)))))


@zoo("slice_of_a_sequential", "made at run time", layer="blocks.1", expect=ALL)
class Sliced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(block(3, 6, 2), block(6, 6), block(6, 6, 2))
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[:2](x)
        return self.fc(self.blocks[2:](x * 2).mean((2, 3)))


@zoo("children_in_a_loop", "made at run time", layer="1", expect=ALL)
class Children(nn.Sequential):
    """A Sequential with a forward of its own."""

    def __init__(self) -> None:
        super().__init__(block(3, 6, 2), block(6, 6), block(6, 6, 2), nn.Linear(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        *parts, last = self.children()
        for part in parts:
            x = part(x) + 0.1
        return last(x.mean((2, 3)))


@zoo("hook_inside_the_forward", "made at run time", layer="stem", expect=GRADIENTS)
class HookInside(Net):
    """The forward puts a hook on a child to get at a feature, and takes it off again."""

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        handle = self.stem.register_forward_hook(lambda module, args, out: kept.append(out))
        x = self.blk(self.stem(x))
        handle.remove()
        return self.head(self.neck(x * torch.sigmoid(kept[0])))


# ---------------------------------------------------------------------------------------------------- ways to be called


@zoo("own_call", "calls", expect=GRADIENTS)
class OwnCall(Net):
    """The class overrides `__call__` itself."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x * 2) + 1


@zoo("own_call_of_a_child", "calls", layer="stem", expect=GRADIENTS)
class OwnCallInside(Net):
    class Doubling(nn.Sequential):
        def __call__(self, x: Tensor) -> Tensor:
            return 2 * super().__call__(x + 1)

    def __init__(self) -> None:
        super().__init__()
        self.blk = self.Doubling(*self.blk)


@zoo("calls_itself", "calls", expect=GRADIENTS)
class Recursive(Net):
    """A block that calls itself; the call that returns last is the outermost."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, x: Tensor, depth: int = 2) -> Tensor:
            x = torch.tanh(self.conv(x))
            return x + self(x, depth - 1) if depth else x

    def __init__(self) -> None:
        super().__init__()
        self.blk = self.Block()


@zoo("registered_twice", "calls", layer="alias", expect=GRADIENTS)
class RegisteredTwice(Net):
    """One module under two names; the later name is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.alias = self.blk

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.alias(self.stem(x))))


@zoo("layer_that_returns_a_tuple", "calls", layer="pair", skip=frozenset({"ablation"}))
class TupleLayer(Net):
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.conv(x), x

    def __init__(self) -> None:
        super().__init__()
        self.pair = self.Pair()

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.pair(self.blk(self.stem(x)))
        return self.head(self.neck(a + b))


@zoo("attention_as_the_layer", "calls", layer="attn", read=TOKENS, fused=True, skip=frozenset({"ablation"}))
class AttentionLayer(Tokens):
    """`nn.MultiheadAttention` returns a tuple whose second part may be None."""


@zoo("layer_that_is_not_called", "calls", layer="unused", refuse=LAYER, mentions="unused")
class Unused(Net):
    def __init__(self) -> None:
        super().__init__()
        self.unused = block(6, 6)


@zoo("layer_of_the_training_mode", "calls", layer="aux", refuse=LAYER, mentions="aux")
class Auxiliary(Net):
    """A head that only training mode asks."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = block(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        if self.training:
            self.extra = self.aux(x).mean()
        return self.head(self.neck(x))


@zoo("layer_whose_result_is_dropped", "calls", layer="side", refuse=LAYER, mentions="side")
class Dropped(Net):
    """A branch that is computed and never read."""

    def __init__(self) -> None:
        super().__init__()
        self.side = block(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        self.side(x)
        return self.head(self.neck(x))


@zoo("container_that_is_not_called", "calls", layer="parts", refuse=LAYER, mentions="parts")
class Container(Net):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([self.stem, self.blk])

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return self.head(self.neck(x))


@zoo("forward_called_directly", "calls", refuse=LAYER, mentions="blk")
class DirectForward(Net):
    """`self.blk.forward(x)` fires no hook, so the layer has no output of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.blk.forward(self.stem(x)) * 2))


# -------------------------------------------------------------------------------------------------- objects that resist


@zoo("lock_and_thread_pool", "resisting", expect=ALL)
class Locked(Net):
    """Attributes that can be neither copied deeply nor pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.local, self.lines = threading.Lock(), threading.local(), (line for line in "ab")

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return super().forward(x)


@zoo("refuses_to_be_copied", "resisting", expect=ALL)
class Uncopied(Net):
    def __copy__(self) -> Any:
        raise TypeError("there is only one of me")

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("there is only one of me")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("there is only one of me")


@zoo("refuses_new_attributes", "resisting", expect=ALL)
class Closed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.__dict__["closed"] = True

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("closed") and name != "training":
            raise AttributeError(f"no new attribute {name}")
        super().__setattr__(name, value)


@zoo("delegates_attributes", "resisting", layer="inner.blk", expect=ALL)
class Delegating(nn.Module):
    """Everything it does not know it asks its inner model, as adapter libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Net()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner.neck(self.inner.blk(self.stem(x))))


@zoo("weak_reference_to_the_parent", "resisting", layer="neck")
class WeakParent(Net):
    """A child reaches its parent's other child through a weak reference."""

    class Child(nn.Module):
        def __init__(self, parent: nn.Module) -> None:
            super().__init__()
            self.parent = weakref.ref(parent)

        def forward(self, x: Tensor) -> Tensor:
            return self.parent().blk(x)

    def __init__(self) -> None:
        super().__init__()
        self.child = self.Child(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.child(self.stem(x))))


@zoo("uninitialised_head", "resisting", refuse=ALL, mentions="(?i)lazy|uninit")
class Lazy(Net):
    """A lazy layer that has no weights yet."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.LazyLinear(5)


# ---------------------------------------------------------------------------------------------------- other mathematics


@zoo("branches_in_threads", "mathematics")
class Threads(Net):
    """Two branches run in threads, where no mode of the caller is active."""

    def __init__(self) -> None:
        super().__init__()
        self.other = block(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            a, b = pool.map(lambda part: part(x), (self.blk, self.other))
        return self.head(self.neck(a * b))


@zoo("fourier_filter", "mathematics", expect=ALL)
class Fourier(Net):
    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(6, 16, 9, 2) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        spectrum = torch.fft.rfft2(x) * torch.view_as_complex(self.filter)
        return self.head(self.neck(torch.fft.irfft2(spectrum, s=x.shape[2:])))


@zoo("spatial_transformer", "mathematics", layer="stem", expect=ALL)
class SpatialTransformer(Net):
    def __init__(self) -> None:
        super().__init__()
        self.where = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        theta = self.where(x.mean((2, 3))).view(-1, 2, 3)
        x = F.grid_sample(x, F.affine_grid(theta, x.shape, align_corners=False), align_corners=False)
        return self.head(self.neck(self.blk(x)))


@zoo("einsum", "mathematics", expect=ALL)
class Einsum(Net):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("bchw,dc->bdhw", self.blk(self.stem(x)), self.mix)
        return self.head(self.neck(x))


@zoo("data_attribute", "mathematics")
class DataAttribute(Net):
    """`.data` leaves the graph."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        return self.head(self.neck(x * torch.sigmoid(x.data)))


@zoo("gradient_inside_the_forward", "mathematics")
class InnerGradient(Net):
    """The forward takes a gradient of its own, as energy models do."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        with torch.enable_grad():
            y = x if x.requires_grad else x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(y.pow(3).sum(), y, create_graph=True)
        return self.head(self.neck(x + 0.1 * slope))


@zoo("vmap_over_images", "mathematics")
class Vmap(Net):
    """A function for one image, mapped over the batch."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.func.vmap(lambda one: one * torch.sigmoid(one.mean()))(self.blk(self.stem(x)))
        return self.head(self.neck(x))


# ------------------------------------------------------------------------------------------------ what surrounds a call


class Looking(TorchFunctionMode):
    """A mode of the user's that only looks."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


zoo("function_mode_around", "around", ambient=Looking, expect=GRADIENTS)(Net)
zoo("saved_on_cpu_around", "around", ambient=torch.autograd.graph.save_on_cpu, expect=GRADIENTS)(Net)
zoo("anomaly_detection_around", "around", ambient=torch.autograd.detect_anomaly, expect=GRADIENTS)(Net)
