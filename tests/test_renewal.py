"""Eval copies that are used again: whatever a user changes between two calls is in the next result."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import grad_cam
from grad_cam.splitting import cuts, records, session


class Settings:
    """A plain object, as configurations are."""

    def __init__(self) -> None:
        self.power = 1.0


class Network(nn.Module):
    """Reads an attribute, a nested dict, a plain object and a buffer of its own beside its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        self.neck = nn.Conv2d(8, 8, 3, 2, 1)
        self.fc = nn.Linear(8, 5)
        self.scale = 1.0
        self.table = {"gates": {"inner": [1.0, 2.0]}}
        self.settings = Settings()
        self.register_buffer("shift", torch.zeros(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm(self.stem(x)))
        x = x * self.scale * self.table["gates"]["inner"][1] + self.shift
        x = self.neck(x) ** 2 * self.settings.power
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def model() -> Network:
    """The network, with statistics that no batch has."""
    torch.manual_seed(0)
    made = Network().eval()
    made.norm.running_mean.normal_()
    return made


@pytest.fixture
def images() -> Tensor:
    """Three images."""
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def spares(model: nn.Module) -> list[Any]:
    """The eval copies that are kept for later calls."""
    return list(records.KNOWN[model].spare)


def warm(model: nn.Module, images: Tensor) -> None:
    """Explains until a copy is kept for later calls and has been used again."""
    for _ in range(3):
        grad_cam.explain(model, images, layer="neck")
    assert spares(model), "no copy is kept: the tests below would test nothing"


def explained(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Map and logits of the package."""
    result = grad_cam.explain(model, images, target=1, layer="neck", method="hires_cam")
    return result.map, result.logits


def by_hand(model: Network, images: Tensor) -> tuple[Tensor, Tensor]:
    """HiResCAM at `neck` and the logits, with a hook and a backward on the model in eval mode."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    seen: list[Tensor] = []
    handle = model.neck.register_forward_hook(lambda *call: seen.append(call[2]))
    try:
        logits = model(images.to(next(model.parameters()).dtype))
        (gradient,) = torch.autograd.grad(logits[:, 1].sum(), seen[0])
    finally:
        handle.remove()
        for module, flag in flags.items():
            module.training = flag
    return (seen[0] * gradient).sum(1).detach(), logits.detach()


def set_attribute(model: Network) -> None:
    model.scale = 3.0


def set_in_nested_dict(model: Network) -> None:
    model.table["gates"]["inner"][1] = 0.5


def set_in_plain_object(model: Network) -> None:
    model.settings.power = 7.0


def write_data(model: Network) -> None:
    model.neck.weight.data = model.neck.weight.data.flip(0) * 2


def replace_parameter(model: Network) -> None:
    model.neck.weight = nn.Parameter(model.neck.weight.detach().flip(0) * 2)


def replace_child(model: Network) -> None:
    model.norm = nn.GroupNorm(2, 8)


def change_dtype(model: Network) -> None:
    model.double()


def add_hook(model: Network) -> None:
    model.norm.register_forward_hook(lambda module, args, out: out * 2 + 1)


def change_memory_format(model: Network) -> None:
    model.to(memory_format=torch.channels_last)


def write_buffer_in_place(model: Network) -> None:
    model.shift.normal_(generator=torch.Generator().manual_seed(3))
    model.norm.running_var.mul_(4)


def set_training(model: Network) -> None:
    model.train()


def train_a_step(model: Network) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(torch.ones(2, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


CHANGES = (
    set_attribute, set_in_nested_dict, set_in_plain_object, write_data, replace_parameter, replace_child, change_dtype,
    add_hook, change_memory_format, write_buffer_in_place, set_training, train_a_step,
)  # fmt: skip
UNSEEN = (change_dtype, change_memory_format, set_training)
"""Changes after which the logits are the same but for rounding."""


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_between_two_calls_is_in_the_next_result(
    model: Network, images: Tensor, change: Callable[[Network], None]
) -> None:
    """After any kind of change, map and logits are those of a backward by hand on the model as it is now."""
    warm(model, images)
    _, before = by_hand(model, images)
    change(model)
    for _ in range(3):  # with a new record, with a new copy, with a renewed one
        map_, logits = explained(model, images)
        wanted_map, wanted_logits = by_hand(model, images)
        assert torch.equal(logits, wanted_logits)
        torch.testing.assert_close(map_.double(), wanted_map.double(), rtol=1e-4, atol=1e-6)
    if change not in UNSEEN:
        assert not torch.allclose(before.double(), wanted_logits.double(), atol=1e-3), "the change changes nothing"


def test_a_hook_that_is_taken_off_is_gone(model: Network, images: Tensor) -> None:
    """A removed hook acts no more, also where it acted in the call before."""
    plain = explained(model, images)[1]
    handle = model.norm.register_forward_hook(lambda module, args, out: out * 2 + 1)
    warm(model, images)
    assert torch.equal(explained(model, images)[1], by_hand(model, images)[1])
    handle.remove()
    assert torch.equal(explained(model, images)[1], plain)


@pytest.mark.parametrize("undo", [True, False])
def test_changes_follow_one_another(model: Network, images: Tensor, undo: bool) -> None:
    """A value that goes to and fro, or that only grows, is right at every call."""
    warm(model, images)
    for turn in range(6):
        model.scale = 1.0 + (turn % 2 if undo else turn)
        assert torch.equal(explained(model, images)[1], by_hand(model, images)[1])


def test_copies_are_renewed(model: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that stays as it is is copied once: later calls take the copy that was kept."""
    warm(model, images)
    made: list[int] = []
    original = session.EvalCopy.__init__

    def counting(self: Any, *args: Any, **kwargs: Any) -> None:
        made.append(1)
        original(self, *args, **kwargs)

    monkeypatch.setattr(session.EvalCopy, "__init__", counting)
    for _ in range(4):
        explained(model, images)
    assert not made
    model.scale = 2.0
    explained(model, images)
    assert made


class Listed(Network):
    """Keeps modules in a plain nested list, one of them twice, beside one that they hold in turn."""

    def __init__(self) -> None:
        super().__init__()
        gate = Gate()
        gate.inner = Gate()
        self.gates = [[gate], gate]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.gates[1](self.gates[0][0](x)))


class Gate(nn.Module):
    """Multiplies by an attribute of its own and of a module in it."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor * (self.inner.factor if hasattr(self, "inner") else 1.0)


def test_modules_in_lists_are_compared_with_all_that_they_hold(images: Tensor) -> None:
    """What changes on a module that only a list holds, on one in it, or in the list itself is in the next result."""
    model = Listed().eval()

    def one() -> None:
        model.gates[0][0].factor = 1.5

    def inner() -> None:
        model.gates[1].inner.factor = 0.7

    def other() -> None:
        model.gates[1] = Gate()

    for change in (one, inner, other):
        warm(model, images)
        before = explained(model, images)[1]
        change()
        for _ in range(2):
            assert torch.equal(explained(model, images)[1], by_hand(model, images)[1])
        assert not torch.equal(explained(model, images)[1], before), "the change changes nothing"


class Remembering(Network):
    """Leaves the features of the last call on itself."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.neck(torch.tanh(self.norm(self.stem(x))))
        self.features = x if not hasattr(self, "features") else x + 0 * self.features
        return self.fc(x.mean((2, 3)))


def test_a_copy_that_a_run_left_something_on_is_not_kept(images: Tensor) -> None:
    """A forward that stores on the module gets a new copy every time, and the user's module stays without the value."""
    torch.manual_seed(0)
    model = Remembering().eval()
    for count in (3, 3, 1, 2, 3):
        _, logits = explained(model, images[:count])
        assert not hasattr(model, "features")
        assert torch.equal(logits, Remembering.forward(_twin(model), images[:count]))
    assert not spares(model)


def _twin(model: nn.Module) -> Any:
    twin = type(model)().eval()
    twin.load_state_dict(model.state_dict())
    return twin


def test_threads_share_the_copies_of_a_model(model: Network, images: Tensor) -> None:
    """Eight threads explain different images on one model again and again, bit for bit as one after the other."""
    batches = [images + i for i in range(8)]
    wanted = [explained(model, batch) for batch in batches]
    found: list[Any] = [None] * 8

    def work(index: int) -> None:
        found[index] = [explained(model, batches[index]) for _ in range(6)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, results in enumerate(found):
        assert results is not None, "a thread failed"
        for map_, logits in results:
            assert torch.equal(map_, wanted[index][0])
            assert torch.equal(logits, wanted[index][1])
    assert len(spares(model)) <= records.SPARE


def test_a_model_is_freed_with_its_copies(images: Tensor) -> None:
    """Neither records nor kept copies keep a model, its modules or its parameters alive."""
    model = Network().eval()
    warm(model, images)
    parts: list[Any] = [model, model.neck, model.neck.weight, model.settings]
    references = [weakref.ref(part) for part in parts]
    parts.clear()
    del model
    gc.collect()
    assert [reference() for reference in references] == [None] * 4


def test_kept_copies_hold_no_tensor(model: Network, images: Tensor) -> None:
    """What waits for the next call has no parameter, no buffer and no module of the user's, nor the images."""
    warm(model, images)
    kept = spares(model)
    for copy in kept:
        assert not copy.originals
        for module in copy.modules.values():
            assert not module._parameters
            assert not module._buffers
    theirs = {id(t) for t in (*model.parameters(), *model.buffers(), images)}
    seen: set[int] = set()
    stack: list[Any] = list(kept)
    while stack:  # everything that can be reached from the copies, but for classes, functions and modules of Python
        value = stack.pop()
        if id(value) in seen or isinstance(value, type) or type(value).__name__ in ("module", "function"):
            continue
        seen.add(id(value))
        assert not isinstance(value, Tensor), "a kept copy holds a tensor"
        assert id(value) not in theirs
        stack += gc.get_referents(value)


def test_a_replaced_parameter_is_freed(model: Network, images: Tensor) -> None:
    """Weights that the user exchanges are not kept by a copy that was made of them."""
    warm(model, images)
    gone = weakref.ref(model.neck.weight)
    storage = model.neck.weight.untyped_storage().data_ptr()
    replace_parameter(model)
    gc.collect()
    assert gone() is None
    tensors = [t for t in gc.get_objects() if type(t) in (Tensor, nn.Parameter) and t.numel() == 576]
    held = [t for t in tensors if t is not model.neck.weight and t.untyped_storage().data_ptr() == storage]
    assert not held


@pytest.mark.parametrize(("kind", "count"), [("predicted", 1), ("another", 2), ("several", 3)])
def test_the_gradient_of_the_search_is_used_again(
    model: Network, images: Tensor, kind: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call takes the predicted class's gradient once, that of other classes anew; later calls agree."""
    best = model(images).argmax(1)
    others = [int(k + 1) % 5 for k in best]
    target = {"predicted": None, "another": others, "several": [[k, (k + 1) % 5] for k in others]}[kind]
    taken: list[int] = []
    original = cuts.Cutter.gradients

    def counting(self: cuts.Cutter, *args: Any, **kwargs: Any) -> list[Tensor]:
        taken.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(cuts.Cutter, "gradients", counting)
    first = grad_cam.explain(model, images, target=target, method="hires_cam")
    assert first.layer.name == "neck"
    assert len(taken) == count
    later = grad_cam.explain(model, images, target=target, method="hires_cam")
    assert torch.equal(first.map, later.map)
    assert len(taken) == count + max(1, count - 1)


def test_two_images_of_which_one_is_explained_by_another_class(model: Network, images: Tensor) -> None:
    """A class for each image, right for some of them alone, gets a gradient of its own."""
    best = model(images).argmax(1)
    classes = [int(best[0]), int(best[1] + 1) % 5, int(best[2])]
    first = grad_cam.explain(model, images, target=classes, method="hires_cam")
    assert torch.equal(first.map, grad_cam.explain(model, images, target=classes, method="hires_cam").map)
    assert not torch.equal(first.map[1], grad_cam.explain(model, images, method="hires_cam").map[1])


def by_value(model: Network, x: Tensor) -> bool:
    return bool(x.mean() > 5)


def by_size(model: Network, x: Tensor) -> bool:
    return len(x) > 3


def by_flag(model: Network, x: Tensor) -> bool:
    return model.scale == 2.0


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("when", [by_value, by_size, by_flag], ids=lambda when: when.__name__)
def test_a_buffer_that_is_written_to_only_now_and_then(
    images: Tensor, when: Callable[[Network, Tensor], bool], in_place: bool
) -> None:
    """A forward that writes to a buffer for some images, some sizes or some settings writes to the copy's."""

    class Counting(Network):
        def forward(self, x: Tensor) -> Tensor:
            if when(self, x):
                self.shift = self.shift.add_(1) if in_place else self.shift + 1
            return super().forward(x)

    torch.manual_seed(0)
    model = Counting().eval()
    warm(model, images)
    before = model.shift
    for batch in (images + 50, images.repeat(2, 1, 1, 1)):
        for scale in (1.0, 2.0, 1.0):
            model.scale = scale
            logits = explained(model, batch)[1]
            assert model.shift is before
            assert not before.any()
            assert before._version == 0
            assert torch.equal(explained(model, batch)[1], logits)
            twin = _twin(model)
            twin.scale = scale
            assert torch.equal(logits, twin(batch))
