"""A copy of a model that computes with the model's own parameters, so that a graph reaches them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import SplitError
from .evalcopy import EvalCopy


class LiveCopy(EvalCopy):
    """An eval copy whose parameters are the user's own; everything else a forward could write to is the copy's.

    Raises:
        SplitError: No graph can reach the parameters of a part of the model.
    """

    def _module(self, module: nn.Module, path: str) -> nn.Module:
        if isinstance(module, torch.jit.ScriptModule):
            raise SplitError(
                f"module '{path}' is a ScriptModule, whose parameters no graph can reach here", "",
                "load it as an ordinary nn.Module",
            )  # fmt: skip
        for parameter in module._parameters.values():
            if parameter is not None:
                self._memo.setdefault(id(parameter), parameter)
        return super()._module(module, path)

    def _own_parameters(self, module: nn.Module) -> None:
        raise SplitError(
            f"{type(module).__name__} has a train() of its own, which may change the weights", "the model is in "
            "training mode", "call model.eval() before the differentiable map, and model.train() after it",
        )  # fmt: skip

    def _parameter(self, parameter: Tensor | None, path: str) -> Tensor | None:
        return parameter

    def _cloned(self, tensor: Tensor, path: str) -> Tensor:
        return tensor if tensor.requires_grad else super()._cloned(tensor, path)
