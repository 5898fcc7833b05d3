"""What a user changes between two calls: attributes, configurations, forwards, hooks, weights, Python globals."""

from __future__ import annotations

import enum
import functools
import os
import types

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import registry
from .registry import ALL, GRADIENTS, Net, block, zoo


class Config:
    """A configuration object as transformers has it."""

    def __init__(self) -> None:
        self.t = 1.0
        self.depths = [1.0, 2.0]
        self.nested = {"gate": types.SimpleNamespace(power=1.0)}


def _set(name: str, value: object):  # noqa: ANN202
    def change(model: nn.Module) -> None:
        setattr(model, name, value)

    return change


@zoo("scale_is_changed", "changes", expect=ALL, change=_set("scale", 5.0))
class Scaled(Net):
    scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x)) * self.scale
        return self.head(self.neck(x))


def _class_attribute(model: nn.Module) -> None:
    type(model).factor = 3.0


@zoo("class_attribute_is_changed", "changes", expect=ALL, change=_class_attribute)
class ClassAttribute(Net):
    factor = 1.0

    def __init__(self) -> None:
        super().__init__()
        type(self).factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.blk(self.stem(x)) * self.factor))


TEMPERATURE = 1.0


def _global(model: nn.Module) -> None:
    globals()["TEMPERATURE"] = 4.0


@zoo("module_global_is_changed", "changes", expect=ALL, change=_global)
class Global(Net):
    def __init__(self) -> None:
        super().__init__()
        globals()["TEMPERATURE"] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.blk(self.stem(x)) / TEMPERATURE))


def _config(model: nn.Module) -> None:
    model.config.t = 3.0


@zoo("configuration_is_changed", "changes", expect=ALL, change=_config)
class Configured(Net):
    def __init__(self) -> None:
        super().__init__()
        self.config = Config()

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x)) * self.config.t
        x = x * self.config.depths[1] * self.config.nested["gate"].power
        return self.head(self.neck(x))


def _list(model: nn.Module) -> None:
    model.config.depths[1] = 0.5


def _nested(model: nn.Module) -> None:
    model.config.nested["gate"].power = 7.0


zoo("list_in_the_configuration_is_changed", "changes", expect=ALL, change=_list)(Configured)
zoo("nested_configuration_is_changed", "changes", expect=ALL, change=_nested)(Configured)


def _forward(model: nn.Module) -> None:
    def forward(self: Net, x: Tensor) -> Tensor:
        return self.head(self.neck(self.blk(self.stem(x)) ** 2))

    model.forward = types.MethodType(forward, model)


zoo("forward_is_replaced", "changes", expect=ALL, change=_forward)(Net)


def _child_forward(model: nn.Module) -> None:
    model.neck.forward = lambda x: x[:, :, ::2, ::2] * 3.0


zoo("forward_of_a_child_is_replaced", "changes", expect=ALL, change=_child_forward)(Net)


def _root_hook(model: nn.Module) -> None:
    model.register_forward_hook(lambda module, args, out: out * 3.0 + 1.0)


def _inner_hook(model: nn.Module) -> None:
    model.neck.register_forward_hook(lambda module, args, out: out.square())


def _pre_hook(model: nn.Module) -> None:
    model.register_forward_pre_hook(lambda module, args: (args[0] * 2.0,))


zoo("hook_on_the_model_is_added", "changes", expect=ALL, change=_root_hook)(Net)
zoo("hook_on_a_child_is_added", "changes", expect=ALL, change=_inner_hook)(Net)
zoo("pre_hook_is_added", "changes", expect=ALL, change=_pre_hook)(Net)


def _stride(model: nn.Module) -> None:
    model.neck[0].stride = (1, 1)


def _weights(model: nn.Module) -> None:
    with torch.no_grad():
        model.fc.weight.mul_(-2.0)
        model.neck[1].running_mean.add_(1.0)


def _exchanged(model: nn.Module) -> None:
    torch.manual_seed(3)
    model.neck = block(6, 6, 1)
    model.neck.train(model.training)


def _data(model: nn.Module) -> None:
    model.fc.weight.data = torch.linspace(-1, 1, 30).view(5, 6)


def _eps(model: nn.Module) -> None:
    model.neck[1].eps = 2.0


zoo("stride_is_changed", "changes", expect=ALL, change=_stride)(Net)
zoo("weights_are_changed", "changes", expect=ALL, change=_weights)(Net)
zoo("module_is_exchanged", "changes", expect=ALL, change=_exchanged)(Net)
zoo("data_is_exchanged", "changes", expect=ALL, change=_data)(Net)
zoo("eps_is_changed", "changes", expect=ALL, change=_eps)(Net)


def _switch(model: nn.Module) -> None:
    model.residual = True


@zoo("branch_is_switched", "changes", expect=ALL, change=_switch)
class Switched(Net):
    residual = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.blk(x) if self.residual else self.blk(x)
        return self.head(self.neck(x))


def _function(model: nn.Module) -> None:
    model.act = torch.sigmoid


@zoo("function_is_exchanged", "changes", expect=ALL, change=_function)
class Function(Net):
    def __init__(self) -> None:
        super().__init__()
        self.act = torch.tanh

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.act(self.blk(self.stem(x)))))


def _tensor(model: nn.Module) -> None:
    model.shift = torch.full((6, 1, 1), 2.0)


@zoo("plain_tensor_is_exchanged", "changes", expect=ALL, change=_tensor)
class PlainTensor(Net):
    """A tensor that is neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.linspace(-1, 1, 6).view(6, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(torch.tanh(self.blk(self.stem(x)) + self.shift)))


def _list_of_tensors(model: nn.Module) -> None:
    model.shifts[0] = torch.ones(6, 1, 1)


@zoo("tensor_in_a_list_is_exchanged", "changes", expect=ALL, change=_list_of_tensors)
class TensorList(Net):
    def __init__(self) -> None:
        super().__init__()
        self.shifts = [torch.linspace(-1, 1, 6).view(6, 1, 1), torch.zeros(1)]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(torch.tanh(self.blk(self.stem(x)) + self.shifts[0])))


def _closure(model: nn.Module) -> None:
    model.turn(-2.0)


@zoo("closure_is_turned", "changes", expect=GRADIENTS, change=_closure)
class Closure(Net):
    """The factor lives in a function's closure."""

    def __init__(self) -> None:
        super().__init__()
        factor = 1.0

        def turn(to: float) -> None:
            nonlocal factor
            factor = to

        self.turn, self.times = turn, lambda x: x * factor

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.times(self.blk(self.stem(x)))))


def _train(model: nn.Module) -> None:
    model.eval() if model.training else model.train()


zoo("mode_is_changed", "changes", expect=ALL, change=_train)(Net)


# ---------------------------------------------------------------------------- what a list of attributes does not show


class Slots:
    """Settings without a `__dict__`."""

    __slots__ = ("gain", "table")

    def __init__(self) -> None:
        self.gain, self.table = 1.0, (1.0, 2.0)


class Mode(enum.Enum):
    """How the features are joined."""

    ADD = 1
    MULTIPLY = 2


class Hidden(Net):
    """What it computes depends on an array, a slot, a partial, an enum, a default, another file and the environment."""

    def __init__(self) -> None:
        super().__init__()
        self.array = np.ones(3)
        self.slots = Slots()
        self.pool = functools.partial(F.interpolate, scale_factor=1.0)
        self.mode = Mode.ADD
        self.shift = torch.zeros(6, 1, 1)
        self.choices = {"a": {"b": (1.0, [1.0])}}
        self.kernel = {3}
        registry.__dict__["FACTOR"] = 1.0
        os.environ.pop("TESTS_ZOO_FACTOR", None)
        type(self).gain.__defaults__ = (1.0,)

    def gain(self, factor: float = 1.0) -> float:
        return factor

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.blk(self.stem(x)) * float(self.array[1]) * self.slots.gain) + self.shift
        x = x + 0.5 if self.mode is Mode.ADD else x * 3.0
        x = x * registry.FACTOR * float(os.environ.get("TESTS_ZOO_FACTOR", "1")) * self.gain()
        x = x * self.choices["a"]["b"][1][0] * (1.0 if 3 in self.kernel else 5.0)
        return self.head(self.neck(x))


def _array(model: nn.Module) -> None:
    model.array[1] = 4.0


def _slot(model: nn.Module) -> None:
    model.slots.gain = 4.0


def _partial(model: nn.Module) -> None:
    model.pool.keywords["scale_factor"] = 2.0


def _enum(model: nn.Module) -> None:
    model.mode = Mode.MULTIPLY


def _tensor_in_place(model: nn.Module) -> None:
    model.shift.add_(1.0)


def _other_file(model: nn.Module) -> None:
    registry.__dict__["FACTOR"] = 3.0


def _environment(model: nn.Module) -> None:
    os.environ["TESTS_ZOO_FACTOR"] = "3"


def _default(model: nn.Module) -> None:
    type(model).gain.__defaults__ = (3.0,)


def _deep_list(model: nn.Module) -> None:
    model.choices["a"]["b"][1][0] = 3.0


def _set_member(model: nn.Module) -> None:
    model.kernel.discard(3)


def _class_method(model: nn.Module) -> None:
    model.gain = types.MethodType(lambda self: 3.0, model)


HIDDEN = {
    "array": _array, "slot": _slot, "partial": _partial, "enum": _enum, "tensor_in_place": _tensor_in_place,
    "other_file": _other_file, "environment": _environment, "default": _default, "deep_list": _deep_list,
    "set": _set_member, "method": _class_method,
}  # fmt: skip
for _name, _how in HIDDEN.items():
    zoo(f"hidden_change_of_{_name}", "changes", expect=ALL, change=_how, batches=(3, 1))(Hidden)


def _swapped_hook(model: nn.Module) -> None:
    model.handle.remove()
    model.handle = model.neck.register_forward_hook(lambda module, args, out: out * 5)


@zoo("hook_is_exchanged", "changes", expect=ALL, change=_swapped_hook)
class SwappedHook(Net):
    """As many hooks as before, but another one."""

    def __init__(self) -> None:
        super().__init__()
        self.handle = self.neck.register_forward_hook(lambda module, args, out: out * 2)


def _hook_state(model: nn.Module) -> None:
    model.state["gain"] = 5.0


@zoo("state_of_a_hook_is_changed", "changes", expect=ALL, change=_hook_state)
class HookState(Net):
    def __init__(self) -> None:
        super().__init__()
        state = self.state = {"gain": 1.0}
        self.neck.register_forward_hook(lambda module, args, out: out * state["gain"])


class FirstCall(Net):
    """What the next model computes at its first call."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(2 * self.blk(self.stem(x))))


@zoo("alternates_from_call_to_call", "state", reference=FirstCall)
class Alternating(Net):
    """Every second call computes something else; the user's model has never been called."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(self.neck(self.blk(self.stem(x)) * (2 if self.calls % 2 else 1)))


@zoo("alternates_by_a_list", "state", reference=FirstCall)
class AlternatingList(Net):
    def __init__(self) -> None:
        super().__init__()
        self.log = []

    def forward(self, x: Tensor) -> Tensor:
        self.log.append(1)
        return self.head(self.neck(self.blk(self.stem(x)) * (2 if len(self.log) % 2 else 1)))


@zoo("warms_up", "state", reference=FirstCall)
class WarmingUp(Net):
    """The first call makes something that later calls find there and use."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = Config()

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        if not hasattr(self.cache, "seen"):
            self.cache.seen = x.detach().mean()
            return self.head(self.neck(x * 2))
        return self.head(self.neck(x * self.cache.seen))
