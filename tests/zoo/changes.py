"""What a user changes between two calls: attributes, configurations, forwards, hooks, weights, Python globals."""

from __future__ import annotations

import types

import torch
from torch import Tensor, nn

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
