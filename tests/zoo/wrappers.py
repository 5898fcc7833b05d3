"""What is put around and into models: compilers, parallel wrappers, adapters, parametrizations, hooks, ensembles."""

from __future__ import annotations

import copy
import tempfile
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from .registry import ALL, GRADIENTS, Net, block, zoo

NAMED = frozenset({"named"})  # no single tensor holds the whole model, so that the default may be left to the user

# ----------------------------------------------------------------------------------------------------------- compilers


@zoo("compiled_submodule", "compilers", layer="blk", expect=GRADIENTS, reference=Net)
def compiled_submodule() -> nn.Module:
    model = Net()
    model.neck = torch.compile(model.neck, backend="eager")
    return model


@zoo("compiled_layer", "compilers", layer="blk", expect=GRADIENTS, reference=Net)
def compiled_layer() -> nn.Module:
    model = Net()
    model.blk = torch.compile(model.blk, backend="eager")
    return model


@zoo("compiled_in_place", "compilers", layer="blk", expect=GRADIENTS, reference=Net)
def compiled_in_place() -> nn.Module:
    model = Net()
    model.compile(backend="eager")
    return model


@zoo("submodule_compiled_in_place", "compilers", layer="blk", expect=GRADIENTS, reference=Net)
def submodule_compiled_in_place() -> nn.Module:
    model = Net()
    model.neck.compile(backend="eager")
    return model


@zoo("compiled_wrapper", "compilers", layer="blk", expect=GRADIENTS, reference=Net)
def compiled_wrapper() -> nn.Module:
    return torch.compile(Net(), backend="eager")


@zoo("compiled_function", "compilers", layer="blk", reference=Net)
def compiled_function() -> nn.Module:
    """The forward itself was replaced by a compiled one."""
    model = Net()
    model.forward = torch.compile(model.forward, backend="eager")
    return model


class Scripted(Net):
    """Its neck is a ScriptModule."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.neck = torch.jit.script(self.neck)


zoo("scripted_submodule", "compilers", expect=GRADIENTS, reference=Net)(Scripted)


@zoo("traced_submodule", "compilers", expect=GRADIENTS, reference=Net)
def traced_submodule() -> nn.Module:
    model = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model.neck.eval(), torch.zeros(2, 6, 16, 16))
    model.neck = traced
    return model


@zoo("scripted_function", "compilers", expect=GRADIENTS)
class ScriptedFunction(Net):
    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.act = torch.jit.script(_mish)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.act(self.blk(self.stem(x)))))


def _mish(x: Tensor) -> Tensor:
    return x * torch.tanh(F.softplus(x))


@zoo("scripted_model", "compilers", layer="blk", refuse=ALL, reference=Net)
def scripted_model() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(Net())


@zoo("graph_module", "compilers", layer="blk.2", expect=GRADIENTS)
def graph_module() -> nn.Module:
    return torch.fx.symbolic_trace(Net())


# ------------------------------------------------------------------------------------------------------------ wrappers


@zoo("data_parallel", "wrappers", layer=lambda m: m.module.blk, expect=ALL)
def data_parallel() -> nn.Module:
    return nn.DataParallel(Net())


def distributed() -> bool:
    """Starts a process group of this one process, if that is possible."""
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_gloo_available():
        return False
    if not dist.is_initialized():
        store = dist.FileStore(tempfile.NamedTemporaryFile(delete=False).name, 1)
        try:
            dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        except (RuntimeError, OSError):
            return False
    return True


@zoo("distributed_data_parallel", "wrappers", layer=lambda m: m.module.blk, expect=ALL, reference=Net)
def ddp() -> nn.Module:
    if not distributed():
        raise NotImplementedError("no process group can be started here")
    return nn.parallel.DistributedDataParallel(Net())


@zoo("averaged_model", "wrappers", layer=lambda m: m.module.blk, expect=ALL)
def averaged() -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(Net())


class Lightning(nn.Module):
    """A training wrapper: the network is a child, beside losses, settings and a metric that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Net()
        self.loss = nn.CrossEntropyLoss()
        self.metric = nn.ModuleDict({"accuracy": nn.Identity()})
        self.hparams = {"lr": 0.1, "classes": [1, 2]}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        return self.model(x.to(self.device))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return self.loss(self(batch[0]), batch[1])


zoo("lightning_wrapper", "wrappers", layer="model.blk", expect=ALL)(Lightning)


@zoo("wrapper_with_preprocessing", "wrappers", layer="net.blk", expect=ALL)
class Preprocessing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.net = Net()

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate((x - self.mean) / 0.5, size=(24, 24), mode="bilinear", align_corners=False)
        return self.net(x)


@zoo("ensemble", "wrappers", layer="a.blk", expect=NAMED)
class Ensemble(nn.Module):
    """Two networks that see the same images; their logits are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Net(), Net()

    def forward(self, x: Tensor) -> Tensor:
        return (self.a(x) + self.b(x)) / 2


@zoo("ensemble_of_a_list", "wrappers", layer="nets.2.blk", expect=NAMED)
class EnsembleList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList([Net() for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([net(x) for net in self.nets]).mean(0)


@zoo("vectorised_ensemble", "wrappers", layer="stem")
class VmapEnsemble(Net):
    """Heads that run side by side through `torch.func`."""

    def __init__(self) -> None:
        super().__init__()
        heads = [nn.Linear(6, 5) for _ in range(3)]
        params, _ = torch.func.stack_module_state(heads)
        self.weight, self.bias = nn.Parameter(params["weight"].detach()), nn.Parameter(params["bias"].detach())

    def forward(self, x: Tensor) -> Tensor:
        x = self.neck(self.blk(self.stem(x))).mean((2, 3))
        return torch.func.vmap(F.linear, in_dims=(None, 0, 0))(x, self.weight, self.bias).mean(0)


@zoo("functional_call", "wrappers", layer="stem")
class FunctionalCall(Net):
    """Calls a child with other weights."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        changed = {name: 0.5 * value for name, value in self.blk.named_parameters()}
        x = torch.func.functional_call(self.blk, changed, (x,))
        return self.head(self.neck(x))


@zoo("average_of_copies", "wrappers", layer="student.blk", expect=ALL)
class Teacher(nn.Module):
    """A student and a frozen teacher that eval mode does not ask."""

    def __init__(self) -> None:
        super().__init__()
        self.student = Net()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.target = self.teacher(x)
        return self.student(x)


# ------------------------------------------------------------------------------------- adapters and parametrizations


class Lora(nn.Module):
    """A frozen layer with a low-rank addition."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(2, base.in_features))
        self.b = nn.Parameter(torch.randn(base.out_features, 2))
        self.drop = nn.Dropout(0.4)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.drop(x) @ self.a.T @ self.b.T


@zoo("lora_by_hand", "adapters", expect=ALL)
def lora() -> nn.Module:
    model = Net()
    model.fc = Lora(model.fc)
    return model


@zoo("peft_lora", "adapters", layer="base_model.model.blk", expect=GRADIENTS, needs=("peft",))
def peft_lora() -> nn.Module:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(Net(), LoraConfig(r=2, target_modules=["fc", "neck.0"], lora_dropout=0.3))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # it starts at zero
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def _normed(how: Any, **options: Any) -> Any:
    def make() -> nn.Module:
        model = Net()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.neck[0] = how(model.neck[0], **options)
            model.fc = how(model.fc, **options)
        return model

    return make


zoo("weight_norm_old", "adapters", expect=ALL)(_normed(torch.nn.utils.weight_norm))
zoo("weight_norm", "adapters", expect=ALL)(_normed(torch.nn.utils.parametrizations.weight_norm))
zoo("spectral_norm_old", "adapters", expect=ALL)(_normed(torch.nn.utils.spectral_norm))
zoo("spectral_norm", "adapters", expect=ALL)(_normed(torch.nn.utils.parametrizations.spectral_norm))


@zoo("pruned", "adapters", expect=ALL)
def pruned() -> nn.Module:
    model = Net()
    prune.l1_unstructured(model.neck[0], "weight", 0.4)
    return model


@zoo(
    "quantised_head", "adapters", train=False, tolerance=0.01, refuse=frozenset(("named", "default", "sweep")),
    mentions="(?i)quanti",
)  # fmt: skip
def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(Net().eval(), {nn.Linear}, dtype=torch.qint8)


# ---------------------------------------------------------------------------------------------------------- checkpoint


class Checkpointed(Net):
    """The neck is computed again in backward."""

    reentrant = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        return self.head(checkpoint(self.neck, x, use_reentrant=self.reentrant))


class Reentrant(Checkpointed):
    """The older form, which `torch.autograd.grad` refuses."""

    reentrant = True


zoo("checkpoint", "checkpoint", expect=GRADIENTS)(Checkpointed)
zoo("checkpoint_reentrant", "checkpoint", mentions="(?i)checkpoint", reference=Checkpointed)(Reentrant)


@zoo("checkpoint_while_training", "checkpoint", expect=ALL)
class CheckpointTraining(Net):
    """Only training mode checkpoints, as transformers and timm do."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.blk(self.stem(x))
        x = checkpoint(self.neck, x, use_reentrant=True) if self.training else self.neck(x)
        return self.head(x)


# --------------------------------------------------------------------------------------------------------------- hooks


@zoo("hook_that_reads", "hooks", expect=ALL)
def hook_reads() -> nn.Module:
    model = Net()
    model.seen = {}
    model.blk.register_forward_hook(lambda module, args, out: model.seen.update(mean=float(out.detach().mean())))
    return model


@zoo("hook_that_changes_the_output", "hooks", expect=ALL)
def hook_changes() -> nn.Module:
    model = Net()
    model.blk.register_forward_hook(lambda module, args, out: torch.tanh(out))
    model.neck.register_forward_pre_hook(lambda module, args: (args[0] * 3,))
    return model


@zoo("hook_with_keywords", "hooks", expect=ALL)
def hook_keywords() -> nn.Module:
    model = Net()
    model.blk.register_forward_hook(lambda module, args, kwargs, out: out * (2 + len(kwargs)), with_kwargs=True)
    model.stem.register_forward_pre_hook(lambda module, args, kwargs: ((args[0] + 1,), kwargs), with_kwargs=True)
    model.neck.register_forward_hook(lambda module, args, out: out + 0.1, always_call=True)
    return model


@zoo("hook_that_appends", "hooks", expect=ALL)
def hook_appends() -> nn.Module:
    model = Net()
    model.features = []
    model.neck.register_forward_hook(lambda module, args, out: model.features.append(out.detach()))
    return model


class ReadsStore(Net):
    """Its neck reads what a hook on the stem put into a dict, as depth models do."""

    class Reader(nn.Module):
        def __init__(self, store: dict[str, Tensor]) -> None:
            super().__init__()
            self.store, self.conv = store, block(6, 6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x * torch.sigmoid(self.store["stem"]))

    def __init__(self) -> None:
        super().__init__()
        self.store: dict[str, Tensor] = {}
        self.neck = self.Reader(self.store)
        self.stem.register_forward_hook(self.put)

    def put(self, module: nn.Module, args: Any, out: Tensor) -> None:
        self.store["stem"] = out


zoo("hook_that_fills_a_dict", "hooks", layer="stem", expect=GRADIENTS)(ReadsStore)
zoo("hook_that_fills_a_dict_in_between", "hooks", layer="blk", expect=GRADIENTS)(ReadsStore)


@zoo("hook_closure_fills_a_dict", "hooks", layer="stem", expect=GRADIENTS)
class ClosureStore(Net):
    """As above, the dict lives in the closures of a hook and of a pre-hook."""

    def __init__(self) -> None:
        super().__init__()
        store: dict[str, Tensor] = {}
        self.stem.register_forward_hook(lambda module, args, out: store.update(stem=out))
        self.neck.register_forward_pre_hook(lambda module, args: (args[0] + 0.5 * store["stem"],))


@zoo("backward_hook", "hooks", expect=GRADIENTS)
def backward_hook() -> nn.Module:
    """A full backward hook that only looks."""
    model = Net()
    model.looked = []
    model.neck.register_full_backward_hook(lambda module, grad_in, grad_out: None)
    return model


@zoo("backward_hook_that_changes_gradients", "hooks")
def changing_backward_hook() -> nn.Module:
    model = Net()

    def double(module: nn.Module, grad_in: tuple[Tensor | None], grad_out: tuple[Tensor]) -> Any:
        return None if grad_in[0] is None else (grad_in[0] * 2,)

    model.neck.register_full_backward_hook(double)
    return model


@zoo("hook_on_the_model", "hooks", expect=ALL)
def hook_on_root() -> nn.Module:
    model = Net()
    model.register_forward_hook(lambda module, args, out: out * 3 - 1)
    model.register_forward_pre_hook(lambda module, args: (args[0] * 0.5,))
    return model


@zoo("hook_that_takes_itself_off", "hooks", expect=GRADIENTS)
def hook_once() -> nn.Module:
    """The usual one-shot hook: it belongs to the user and must still be there afterwards."""
    model = Net()
    handles: list[Any] = []

    def once(module: nn.Module, args: Any, out: Tensor) -> None:
        if handles:
            handles[0].remove()

    handles.append(model.neck.register_forward_hook(once))
    return model
