"""Every model of the zoo, through every operation: right, or refused with a remedy that works, and left as found."""

from __future__ import annotations

import ast
import dataclasses
import gc
import logging
import re
import threading
import time
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import tv_tensors

import grad_cam
from grad_cam.errors import GradCamError

from .oracle import READINGS, Reference, difference, off, picked, rows, snapshot, unwrapped
from .zoo import GRADIENTS, OPERATIONS, ZOO, Entry

RIGHT, REFUSED, WRONG, ERROR, SKIPPED = "right", "refused", "WRONG", "ERROR", "-"

TYPED = re.compile(r"""\b(layers?|output|reshape_transform|target)=("[^"]*"|'[^']*'|-?\d+|\[[^\]]*\])""")
"""Arguments that stand in a remedy as one types them."""

TAKES = {
    "named": {"layer", "output", "reshape_transform", "target"},
    "default": {"layer", "output", "reshape_transform", "target"},
    "sweep": {"layers", "output", "reshape_transform", "target"},
    "ablation": {"layer", "output", "reshape_transform", "target"},
    "chain": {"output"},
    "split": {"layer", "output"},
    "verify": {"output"},
    "mistakes": {"output"},
}


class Altered(AssertionError):
    """Something is not as it was found."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What an operation came to, and why."""

    word: str
    why: str = ""
    seconds: float = 0.0


class Judge:
    """One model of the zoo as its user has it, and the reference that it is compared with."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.model = entry.make()
        self.changed = False
        self._references: dict[int, Reference] = {}

    # ------------------------------------------------------------------------------------------------ the two sides

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls the package as the user would, and looks whether everything is as it was."""
        before = snapshot(self.model)
        batches = [(one, one.clone()) for one in args if isinstance(one, Tensor)]
        try:
            with self.entry.ambient(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return function(*args, **kwargs)
        finally:
            with torch.inference_mode(False):
                found = difference(before, snapshot(self.model))
                if not all(torch.equal(one, was) for one, was in batches):
                    found = "the caller's images hold other values"
            if found:
                raise Altered(f"not left as found: {found}")

    def twin(self) -> nn.Module:
        """A second model of the user, in eval mode, changed like the first."""
        model = self.entry.make()
        if self.changed:
            self.entry.change(model)
        return model.eval()

    def reference(self, count: int) -> Reference:
        """The independent run on a batch of this size, made once."""
        if count not in self._references:
            self._references[count] = self.fresh_reference(count)
        return self._references[count]

    def fresh_reference(self, count: int) -> Reference:
        """The same, made anew: a run may spoil the graph of an earlier one."""
        model = self.entry.make_reference()
        if self.changed:
            self.entry.change(model)
        with self.entry.ambient():
            return Reference(model, self.entry.images(count), self.entry.logits)

    def layer(self, model: nn.Module) -> Any:
        """The layer that is asked for, in this model."""
        return self.entry.layer(model) if callable(self.entry.layer) else self.entry.layer

    def name(self) -> str:
        """The path of that layer, wrappers looked through."""
        layer = self.layer(self.model)
        if isinstance(layer, nn.Module):
            layer = next(path for path, module in self.model.named_modules() if module is layer)
        return unwrapped(layer)

    def read(self, name: str, ndim: int) -> str:
        """How the activation of a layer lies."""
        bare = name.partition("@")[0]
        default = "NCHW" if ndim == 4 else "tokens"
        return self.entry.read.get(bare, default if ndim == 4 else self.entry.read.get("*", default))

    # ---------------------------------------------------------------------------------------------------- comparison

    def complaint(self, result: Any, count: int, asked: str | None = None) -> str | None:
        """What is wrong with an explanation by HiResCAM, or None."""
        reference = self.reference(count)
        where = f"batch of {count}, layer {result.layer.name}"
        if tuple(result.logits.shape) != tuple(reference.logits.shape):
            return f"{where}: logits have shape {tuple(result.logits.shape)}, not {tuple(reference.logits.shape)}"
        fused = self.entry.fused and off(result.logits, reference.logits) < 1e-4
        if not fused and not any(torch.equal(result.logits, same) for same in reference.same_logits):
            return f"{where}: logits are {off(result.logits, reference.logits):.1e} off"
        if asked is not None and unwrapped(result.layer.name) != asked:
            modules = dict(reference.model.named_modules(remove_duplicate=False))
            if asked not in modules or modules.get(result.layer.name) is not modules[asked]:
                return f"{where}: asked for {asked}"
        if result.map.ndim != 3 or len(result.map) != count:
            return f"{where}: the map has shape {tuple(result.map.shape)}"
        calls = reference.find(result.layer.name)
        if calls:
            read = self.read(unwrapped(result.layer.name), calls[-1].value.ndim)
            best = reference.error(result.map, calls[-1], self.entry.target, read)
            if best is None:
                shapes = f"{tuple(calls[-1].value.shape)} has no such map {tuple(result.map.shape)}"
                return f"{where}: the activation {shapes}, or no gradient"
            if asked is None and not bool(reference.gradient(calls[-1], self.entry.target).any()):
                return f"{where}: no gradient arrives there"
        else:  # a place between two modules: some tensor of the forward must give this map
            errors = (
                reference.error(result.map, call, self.entry.target, read)
                for call in reference.everything
                if len(call.value) == count
                for read in READINGS
            )
            best = min((error for error in errors if error is not None), default=float("inf"))
        return f"{where}: the map is {best:.1e} off" if best > self.entry.tolerance else None

    # ---------------------------------------------------------------------------------------------------- operations

    def named(self, **given: Any) -> str | None:
        """Explains the named layer, batch size after batch size, and again after the user's change."""
        asked = None if "layer" in given else self.name()
        for again in (False, True) if self.entry.change else (False,):
            if again and not self.changed:
                self.entry.change(self.model)
                self.changed = True
                self._references.clear()
            for count in self.entry.batches:
                options = {"layer": self.layer(self.model), "target": self.entry.target, **given}
                images = self.entry.images(count)
                result = self.call(grad_cam.explain, self.model, images, method="hires_cam", **options)
                found = self.complaint(result, count, asked)
                if found:
                    return f"after the change: {found}" if again else found
        return None

    def default(self, **given: Any) -> str | None:
        """Explains the layer that the package chooses."""
        for count in self.entry.batches[:2]:
            options = {"target": self.entry.target, **given}
            result = self.call(grad_cam.explain, self.model, self.entry.images(count), method="hires_cam", **options)
            found = self.complaint(result, count)
            if found:
                return found
        return None

    def sweep(self, **given: Any) -> str | None:
        """Explains all layers that a sweep takes by itself."""
        count = self.entry.batches[0]
        options = {"layers": "auto", "target": self.entry.target, **given}
        found = self.call(grad_cam.sweep, self.model, self.entry.images(count), method="hires_cam", **options)
        if not len(found):
            return "an empty sweep"
        names = [one.layer.name for one in found]
        if len(set(names)) < len(names):
            return f"a layer stands twice in the sweep: {names}"
        return next(filter(None, (self.complaint(one, count) for one in found)), None)

    def ablation(self, **given: Any) -> str | None:
        """Explains the named layer by setting its channels to zero."""
        count = self.entry.batches[0]
        options = {"layer": self.layer(self.model), "target": self.entry.target, **given}
        result = self.call(grad_cam.explain, self.model, self.entry.images(count), method="ablation_cam", **options)
        reference = self.fresh_reference(count)
        grid = (int(result.map.shape[1]), int(result.map.shape[2]))
        calls = reference.find(result.layer.name)
        if not calls:
            return f"ablation at {result.layer.name}, which no module is called"
        read = self.read(unwrapped(result.layer.name), calls[-1].value.ndim)
        for everywhere in (False, True):  # what else keeps the layer's output may see it unchanged or not
            wanted = reference.ablation_cam(result.layer.name, self.entry.target, grid, read, everywhere)
            best = off(result.map, wanted)
            if best <= 10 * self.entry.tolerance:
                return None
        return f"the map of ablation_cam is {best:.1e} off"

    def chain(self, **given: Any) -> str | None:
        """Runs the chain of stages in place of the model."""
        images = self.entry.images(self.entry.batches[0])
        self.call(grad_cam.chain, self.model, images, depth=2, **given)
        chain = self.call(grad_cam.chain, self.twin(), images, depth=2, **given)
        return self._halves(chain, lambda x: x, str(chain))

    def split(self, **given: Any) -> str | None:
        """Runs the two halves in place of the model, with a gradient at the cut."""
        images = self.entry.images(self.entry.batches[0])
        layer = given.pop("layer", None)
        self.call(grad_cam.split, self.model, layer or self.layer(self.model), images, **given)
        twin = self.twin()
        cut = self.call(grad_cam.split, twin, layer or self.layer(twin), images, **given)
        found = self._halves(cut.classifier, cut.extractor, f"{cut.note} {cut}")
        if found:
            return found
        reference = self.reference(len(images))
        calls = reference.find(cut.name)
        if not calls:  # a module that returns several tensors
            return None
        call = calls[-1]
        with self.entry.ambient(), torch.inference_mode(False), torch.enable_grad():
            handed = cut.extractor(images.clone())
            activation, context = (handed[0], handed[1:]) if isinstance(handed, tuple) else (handed, ())
            if off(activation, call.value) > self.entry.tolerance:
                return f"the extractor gives something else than {cut.name}"
            leaf = activation.detach().clone().requires_grad_()
            context = tuple(c.detach() for c in context)  # no clones: one of them may be a view of another
            out = picked(cut.classifier((leaf * 1, *context) if context else leaf * 1), self._pick())
            score = rows(out, len(images))[:, self.entry.target].double().sum()
            got = torch.autograd.grad(score, leaf, allow_unused=True)[0] if score.requires_grad else None
        wanted = reference.gradient(call, self.entry.target)
        if got is None or wanted is None:
            return None if got is None and (wanted is None or not bool(wanted.any())) else "no gradient at the cut"
        return "the gradient at the cut is wrong" if off(got, wanted) > self.entry.tolerance else None

    def _halves(self, classifier: Callable[[Any], Any], extractor: Callable[[Any], Any], told: str) -> str | None:
        for count in self.entry.batches:
            reference = self.reference(count)
            with self.entry.ambient(), torch.no_grad():
                out = picked(classifier(extractor(self.entry.images(count))), self._pick())
                got = rows(out, count)
            if any(torch.equal(got, same) for same in (*reference.same_logits, reference.plain_logits)):
                continue
            if count == self.entry.batches[0]:
                return f"the halves' logits are {off(got, reference.logits):.1e} off"
            if off(got, reference.logits) > max(1e-5, self.entry.tolerance / 10) and "batch" not in told:
                return f"the halves' logits are {off(got, reference.logits):.1e} off for a batch of {count}"
        return None

    def _pick(self) -> Callable[[Any], Tensor]:
        def pick(out: Any) -> Tensor:
            return out if isinstance(out, Tensor) else picked(out, self.entry.logits)

        return pick

    def verify(self, **given: Any) -> str | None:
        """Asks the package to check itself."""
        images = self.entry.images(self.entry.batches[0])
        return None if self.call(grad_cam.verify, self.model, images, **given) else "verify says no"

    def mistakes(self, **given: Any) -> str | None:
        """Asks for what is not there, which must be refused and must change nothing."""
        images = self.entry.images(self.entry.batches[0])
        for wrong in ({"layer": "no_such_layer"}, {"target": 999, "layer": self.layer(self.model)}):
            try:
                self.call(grad_cam.explain, self.model, images, **{"target": 0, **wrong, **given})
            except GradCamError as error:
                if not error.what or ("target" not in wrong and not error.remedy):
                    return f"a refusal without a remedy: {error!r}"
            else:
                return f"{wrong} was accepted"
        return None

    # ------------------------------------------------------------------------------------------------------- verdicts

    def judge(self, operation: str) -> Verdict:
        """Runs an operation and says what it came to."""
        if operation in self.entry.skip:
            return Verdict(SKIPPED)
        start = time.perf_counter()
        word, why = self._judge(operation)
        if word == RIGHT and operation in self.entry.refuse:
            word, why = WRONG, "answered, where no answer is right"
        if word == REFUSED and operation in self.entry.expect:
            word, why = ERROR, f"must not be refused: {why}"
        return Verdict(word, why, time.perf_counter() - start)

    def _judge(self, operation: str) -> tuple[str, str]:
        run = getattr(self, operation)
        expected = self.entry.raises
        try:
            found = run()
        except Altered as error:
            return WRONG, str(error)
        except GradCamError as error:
            if expected is not None:
                return WRONG, f"hides the user's own error: {error}"
            return self._refused(operation, run, error)
        except Exception as error:
            if expected is not None and type(error) is type(expected) and str(error) == str(expected):
                return RIGHT, ""
            return ERROR, f"{type(error).__name__}: {error}"
        if expected is not None:
            return WRONG, "the user's own error was lost"
        if found and operation == "verify" and operation not in self.entry.expect:
            return REFUSED, found
        return (WRONG, found) if found else (RIGHT, "")

    def _refused(self, operation: str, run: Callable[..., str | None], error: GradCamError) -> tuple[str, str]:
        """Whether a refusal says what is wrong and what to do, and whether doing so helps."""
        if not error.what or not error.remedy:
            return ERROR, f"a refusal without a remedy: {error!r}"
        must_name = operation in (self.entry.refuse or GRADIENTS)
        if self.entry.mentions and must_name and not re.search(self.entry.mentions, str(error)):
            return ERROR, f"a refusal that does not name the cause: {error}"
        attempts = [
            {name: ast.literal_eval(value)}
            for name, value in TYPED.findall(error.remedy)
            if name in TAKES[operation] and "..." not in value and not (self.entry.fix and name in self.entry.fix)
        ]
        if self.entry.fix:
            missing = [name for name in self.entry.fix if f"{name}=" not in error.remedy]
            if missing or not error.given:
                return ERROR, f"the refusal does not offer {missing} or does not list what there is: {error}"
            attempts.insert(0, self.entry.fix)
        complaints = []
        for attempt in attempts:
            try:
                found = run(**attempt)
            except Altered as altered:
                return WRONG, f"with {attempt}: {altered}"
            except Exception as again:
                found = f"{type(again).__name__}: {again}"
            if not found:
                return REFUSED, f"{error} [tried {attempt}: right]"
            complaints.append(f"{attempt}: {found}")
        if complaints:
            return ERROR, f"the remedy does not help: {error} [{'; '.join(complaints)}]"
        return REFUSED, str(error)


def judged(entry: Entry, operations: Sequence[str] = OPERATIONS) -> dict[str, Verdict]:
    """The verdicts on one model."""
    try:
        judge = Judge(entry)
    except NotImplementedError as error:
        pytest.skip(str(error))
    verdicts = {operation: judge.judge(operation) for operation in operations}
    wrong = [operation for operation, verdict in verdicts.items() if verdict.word == WRONG and operation in GRADIENTS]
    if wrong and "verify" in verdicts and verdicts["verify"].word == RIGHT:
        verdicts["verify"] = dataclasses.replace(verdicts["verify"], word=WRONG, why=f"says yes to a wrong {wrong[0]}")
    return verdicts


EXPLAINED = [name for name, entry in ZOO.items() if not entry.raises and not entry.refuse]


def _installed(name: str) -> Entry:
    """An entry of the zoo; the test is skipped where its library is missing."""
    entry = ZOO[name]
    if entry.missing():
        pytest.skip(f"{entry.missing()} is not installed")
    return entry


@pytest.mark.parametrize("name", list(ZOO))
def test_model_is_explained_right_or_refused(name: str) -> None:
    """No operation gives a wrong map or another error, nothing that must be right is refused, all is left as found."""
    verdicts = judged(_installed(name))
    bad = [f"{o}: {v.word}: {v.why}" for o, v in verdicts.items() if v.word in (WRONG, ERROR)]
    assert not bad, "\n".join(bad)


# ------------------------------------------------------------------------------------- images, threads, targets, memory


IMAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "one image seen three times": lambda x: x[:1].expand(3, -1, -1, -1),
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "every second row of larger images": lambda x: F.interpolate(x, scale_factor=2.0)[:, :, ::2, ::2],
    "a leaf that wants a gradient": lambda x: x.clone().requires_grad_(),
    "the end of another graph": lambda x: x.clone().requires_grad_() * 1.0,
    "a parameter": lambda x: nn.Parameter(x.clone()),
    "a tensor subclass": lambda x: tv_tensors.Image(x),
    "made in inference mode": lambda x: _inferred(x),
    "double precision": lambda x: x.double(),
}


def _inferred(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x * 1.0


@pytest.mark.parametrize("kind", list(IMAGES))
@pytest.mark.parametrize("name", ["net", "writes_its_input", "first_module_in_place", "if_in_the_forward"])
def test_images_of_every_kind(name: str, kind: str) -> None:
    """Whatever tensor holds the images, their values are explained and the tensor is left as it was."""
    judge = Judge(ZOO[name])
    images = IMAGES[kind](judge.entry.images(3))
    values, version = images.detach().clone(), None if images.is_inference() else images._version
    judge._references[3] = Reference(judge.entry.make_reference(), values.float().as_subclass(Tensor))
    result = judge.call(grad_cam.explain, judge.model, images, layer="blk", target=1, method="hires_cam")
    assert judge.complaint(result, 3, "blk") is None
    assert torch.equal(images.detach(), values)
    assert version is None or images._version == version
    assert not images.is_leaf or images.grad is None


def test_layer_inside_a_checkpoint() -> None:
    """What is computed again for the gradient is explained like any other layer, in the first call and later."""
    judge = Judge(ZOO["checkpoint"])
    for _ in range(3):
        result = judge.call(
            grad_cam.explain, judge.model, judge.entry.images(2), layer="neck.0", target=1, method="hires_cam"
        )
        assert judge.complaint(result, 2, "neck.0") is None
    kept = grad_cam.explain(
        judge.model, judge.entry.images(2), layer="neck.0", target=1, method="hires_cam", differentiable=True
    )
    found = torch.autograd.grad(kept.map.sum(), list(judge.model.stem.parameters()), allow_unused=True)
    assert all(g is not None for g in found)  # the graph does not end at the layer
    both = ["neck.0", "neck"]
    with pytest.raises(GradCamError, match="computed again") as caught:
        grad_cam.explain(judge.model, judge.entry.images(2), layer=both, target=1, method="hires_cam")
    assert "that layer alone" in caught.value.remedy


@pytest.mark.parametrize("name", ["net", "hook_that_fills_a_dict", "feature_kept_on_a_child", "cache_object"])
def test_threads_on_a_model_that_keeps_state(name: str) -> None:
    """Four threads on one model, each with its own images, get what one thread gets."""
    judge = Judge(ZOO[name])
    layer, batches = judge.entry.layer, [judge.entry.images(count) for count in (1, 2, 3, 4)]
    answers: list[Any] = [None] * 4

    def work(k: int) -> None:
        for _ in range(3):
            answers[k] = grad_cam.explain(judge.model, batches[k], layer=layer, target=1, method="hires_cam")

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [judge.complaint(answers[k], k + 1, layer) for k in range(4)] == [None] * 4


SEVERAL = ["residual", "checkpoint", "own_function_in_the_forward", "no_grad_inside", "if_in_the_forward", "siamese"]


@pytest.mark.parametrize("name", SEVERAL)
def test_several_classes_at_once(name: str) -> None:
    """Two classes of every image give the maps of two calls, other classes for every image those of one image each."""
    judge = Judge(ZOO[name])
    layer, images, reference = judge.entry.layer, judge.entry.images(3), judge.reference(3)
    call = reference.find(layer)[-1]
    both = grad_cam.explain(judge.model, images, layer=layer, target=[[1, 3]] * 3, method="hires_cam")
    assert [reference.error(both.map[:, k], call, c, "NCHW") < 1e-4 for k, c in enumerate((1, 3))] == [True, True]
    own = grad_cam.explain(judge.model, images, layer=layer, target=[0, 4, 2], method="hires_cam")
    for image, c in enumerate((0, 4, 2)):
        wanted = reference.hires_cam(call, c, tuple(own.map.shape[1:]), "NCHW")
        assert off(own.map[image], wanted[image]) < 1e-3


@pytest.mark.parametrize("name", ["net", "hook_that_fills_a_dict", "log_that_grows", "if_in_the_forward", "checkpoint"])
def test_nothing_of_a_call_stays_alive(name: str) -> None:
    """Copies of a model and tensors of a call are gone after it: ten more calls leave no more objects than two."""
    judge = Judge(ZOO[name])
    images = judge.entry.images(2)

    def alive(calls: int) -> tuple[int, int]:
        for _ in range(calls):
            grad_cam.explain(judge.model, images, layer=judge.entry.layer, target=1)
        gc.collect()
        objects = [type(o) for o in gc.get_objects()]
        return sum(issubclass(t, nn.Module) for t in objects), sum(issubclass(t, Tensor) for t in objects)

    before = alive(2)
    assert alive(10) == before


# -------------------------------------------------------------------------------------------- every layer, every method


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPLAINED)
def test_every_layer_is_explained_right_or_refused(name: str) -> None:
    """Each module that returns a feature map, at any depth, gives the map that hooks give, or is refused."""
    judge = Judge(_installed(name))
    entry, bad = judge.entry, []
    count = entry.batches[0]
    options = {"target": entry.target, "method": "hires_cam"}
    for path, calls in list(judge.reference(count).calls.items()):
        if not path or calls[-1].value.ndim != 4 or path not in dict(judge.model.named_modules()):
            continue
        try:
            result = judge.call(grad_cam.explain, judge.model, entry.images(count), layer=path, **options)
            found = judge.complaint(result, count, unwrapped(path))
        except GradCamError as error:
            found = None if error.what and error.remedy else f"{path}: no remedy: {error}"
        except Exception as error:
            found = f"{path}: {type(error).__name__}: {error}"
        bad += [found] if found else []
    assert not bad, "\n".join(bad)


OTHERS = [
    "grad_cam", "layer_cam", "eigen_cam", "shapley_cam", "integrated_grad_cam", "smooth_grad_cam_plus_plus",
    "activation_occlusion", "score_cam", "full_grad", "guided_backprop", "guided_grad_cam", "gradient_rollout",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("method", OTHERS)
def test_other_methods_leave_every_model_alone(method: str) -> None:
    """Every method answers with finite maps or refuses, and leaves everything as it was."""
    assert method in grad_cam.METHODS
    bad = []
    for entry in ZOO.values():
        if entry.raises or entry.missing():
            continue
        judge = Judge(entry)
        images = entry.images(entry.batches[0])
        try:
            result = judge.call(grad_cam.explain, judge.model, images, target=entry.target, method=method)
            if not bool(torch.isfinite(result.map).all()):
                bad.append(f"{entry.name}: not finite")
        except GradCamError:
            continue
        except Exception as error:
            bad.append(f"{entry.name}: {type(error).__name__}: {error}")
    assert not bad, "\n".join(bad)


# --------------------------------------------------------------------------------------------- the judge and the oracle


def test_oracle_on_a_model_whose_maps_are_known() -> None:
    """Hooks give what closed forms give for activation, gradient, HiResCAM and Ablation-CAM before a linear head."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.relu_(self.conv(self.conv(x))).mean((2, 3)))

    torch.manual_seed(1)
    model, images = Twice(), torch.randn(2, 3, 6, 8)
    reference = Reference(model, images)
    with torch.no_grad():
        first = model.conv(images)
        last = model.conv(first)
        gradient = (last > 0) * model.fc.weight[2].view(1, 3, 1, 1) / 48
        score = reference.logits[:, 2]
        without = [last.clone() for _ in range(3)]
        for channel, changed in enumerate(without):
            changed[:, channel] = 0
        lost = torch.stack([score - model.fc(F.relu(changed).mean((2, 3)))[:, 2] for changed in without], 1)
        ablation = (lost[:, :, None, None] / score.abs()[:, None, None, None] * last).sum(1)
    assert [torch.equal(c.value, v) for c, v in zip(reference.find("conv"), (first, last), strict=True)] == [True, True]
    assert torch.equal(reference.find("conv@1")[-1].value, first)
    call = reference.find("conv")[-1]
    assert torch.allclose(reference.gradient(call, 2), gradient)
    assert torch.allclose(reference.hires_cam(call, 2, (6, 8), "NCHW").float(), (gradient * last).sum(1))
    assert reference.error((gradient * last).sum(1), call, 2, "NCHW") < 1e-6
    assert reference.error((gradient * last).sum(1) * 1.01, call, 2, "NCHW") > 1e-4
    assert off(reference.ablation_cam("conv", 2, (6, 8), "NCHW"), ablation) < 1e-5


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_model_has_something_to_show(name: str) -> None:
    """The named layer is called and its map is not zero, and a change changes what is computed: each test can fail."""
    judge = Judge(_installed(name))
    entry = judge.entry
    count = entry.batches[0]
    reference = judge.reference(count)
    if "ablation" in entry.skip and not reference.find(judge.name()):
        assert judge.name() in dict(reference.model.named_modules())  # it returns several tensors
        return
    call = reference.find(judge.name())[-1]
    gradient = reference.gradient(call, entry.target)
    assert gradient is not None
    assert gradient.abs().max() > 0
    assert call.value.abs().max() > 0
    if entry.change and name != "mode_is_changed":
        entry.change(judge.model)
        judge.changed = True
        judge._references.clear()
        again = judge.reference(count)
        new = again.gradient(again.find(judge.name())[-1], entry.target)
        assert not torch.equal(new, gradient)


def _verdict(name: str, operation: str) -> Verdict:
    return Judge(ZOO[name]).judge(operation)


def _altered(what: str, model: nn.Module) -> None:
    """Does to a model what the package must never do."""
    with torch.no_grad():
        if what == "running statistics":
            model.neck[1].running_mean += 1e-3
        elif what == "a weight":
            model.fc.weight[0, 0] += 1e-3
    if what == "a flag":
        model.blk[1].eval()
    elif what == "a hook":
        model.neck.register_forward_hook(lambda module, args, out: None)
    elif what == "an attribute":
        model.blk.kept = 1
    elif what == "a list":
        model.log.append((1,))
    elif what == "a gradient":
        model.fc.weight.grad = torch.zeros_like(model.fc.weight)
    elif what == "requires_grad":
        model.fc.weight.requires_grad_(False)
    elif what == "a buffer":
        model.neck[1].running_mean = model.neck[1].running_mean.clone()
    elif what == "a module":
        model.blk = nn.Sequential(*model.blk)
    elif what == "random state":
        torch.rand(1)


ALTERED = [
    "running statistics", "a weight", "a flag", "a hook", "an attribute", "a list", "a gradient", "requires_grad",
    "a buffer", "a module", "random state",
]  # fmt: skip


@pytest.mark.parametrize("what", ALTERED)
@pytest.mark.parametrize("fails", [False, True])
def test_judge_sees_what_was_altered(monkeypatch: pytest.MonkeyPatch, what: str, fails: bool) -> None:
    """A call that changes the user's model in any way is wrong, also if it ends with a refusal."""

    def explain(model: nn.Module, *args: Any, **kwargs: Any) -> None:
        _altered(what, model)
        if fails:
            raise GradCamError("no", "this model", "another one")

    monkeypatch.setattr(grad_cam, "explain", explain)
    verdict = _verdict("log_that_grows", "default")
    assert verdict.word == WRONG
    assert "not left as found" in verdict.why


def _honest(judge: Judge, images: Tensor, layer: str, **changed: Any) -> Any:
    """What a right answer looks like, made from the oracle."""
    reference = judge.reference(len(images))
    call = reference.find(layer)[-1]
    grid = (call.value.shape[2], call.value.shape[3])
    facts = {
        "map": reference.hires_cam(call, 1, grid, "NCHW").float(),
        "logits": reference.logits,
        "layer": types.SimpleNamespace(name=layer),
    }
    return types.SimpleNamespace(**{**facts, **changed})


LIES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "a map one percent off": lambda r: {"map": r.map * 1.01},
    "a map with one wrong value": lambda r: {"map": r.map + F.one_hot(torch.tensor(5), r.map[0].numel()).view(16, 16)},
    "a mirrored map": lambda r: {"map": r.map.flip(-1)},
    "a map of nothing": lambda r: {"map": torch.zeros_like(r.map)},
    "a map that is not finite": lambda r: {"map": r.map * float("nan")},
    "maps of other images": lambda r: {"map": r.map.flip(0)},
    "one map too few": lambda r: {"map": r.map[:-1]},
    "logits in the last bit": lambda r: {"logits": torch.nextafter(r.logits, r.logits + 1)},
    "logits of one class more": lambda r: {"logits": F.pad(r.logits, (0, 1))},
    "the name of another layer": lambda r: {"layer": types.SimpleNamespace(name="stem")},
}


@pytest.mark.parametrize("lie", [None, *LIES])
@pytest.mark.parametrize("operation", ["named", "default", "sweep"])
def test_judge_sees_a_wrong_answer(monkeypatch: pytest.MonkeyPatch, operation: str, lie: str | None) -> None:
    """The right answer passes; one that is wrong in map, logits or name does not."""
    judge = Judge(ZOO["net"])

    def explain(model: nn.Module, images: Tensor, **kwargs: Any) -> Any:
        result = _honest(judge, images, "blk")
        return types.SimpleNamespace(**{**vars(result), **LIES[lie](result)}) if lie else result

    monkeypatch.setattr(grad_cam, "explain", explain)
    monkeypatch.setattr(grad_cam, "sweep", lambda *args, **kwargs: [explain(*args, **kwargs)])
    assert judge.judge(operation).word == (WRONG if lie else RIGHT)


@pytest.mark.parametrize("operation", ["named", "default", "sweep", "ablation", "chain", "split", "verify"])
def test_judge_does_not_accept_that_everything_is_refused(monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    """A refusal of a plain model is an error, with whatever remedy, and a refusal without a remedy always is one."""
    for function in ("explain", "sweep", "chain", "split", "verify"):
        monkeypatch.setattr(grad_cam, function, _refusing("wrap the branch in a submodule"), raising=False)
    assert _verdict("residual", operation).word == ERROR
    assert _verdict("tensor_hook", operation).word == REFUSED
    for function in ("explain", "sweep", "chain", "split", "verify"):
        monkeypatch.setattr(grad_cam, function, _refusing(""), raising=False)
    assert _verdict("tensor_hook", operation).word == ERROR


def _refusing(remedy: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise GradCamError("this cannot be followed", "a model", remedy)

    return refuse


def test_judge_tries_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A remedy that is typed as an argument is applied: where it does not help, the refusal is an error."""
    judge = Judge(ZOO["tensor_hook"])

    def explain(model: nn.Module, images: Tensor, **kwargs: Any) -> Any:
        if kwargs.get("layer") != "neck":
            raise GradCamError("not there", "blk", remedy)
        return _honest(judge, images, "neck")

    monkeypatch.setattr(grad_cam, "explain", explain)
    remedy = 'choose layer="neck"'
    assert judge.judge("named").word == REFUSED
    remedy = 'choose layer="stem"'
    assert judge.judge("named").word == ERROR


def test_judge_lets_no_error_of_the_user_be_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own error must arrive with its type and words; a refusal in its place and an answer are wrong."""
    own = ZOO["raises_its_own_error"].raises

    def raising(error: BaseException) -> Callable[..., Any]:
        def explain(*args: Any, **kwargs: Any) -> Any:
            raise error

        return explain

    for error, word in ((own, RIGHT), (type(own)("other words"), ERROR), (GradCamError("no", "", "yes"), WRONG)):
        monkeypatch.setattr(grad_cam, "explain", raising(error))
        assert _verdict("raises_its_own_error", "named").word == word
    monkeypatch.setattr(grad_cam, "explain", lambda *args, **kwargs: None)
    assert _verdict("raises_its_own_error", "mistakes").word == WRONG


def test_judge_wants_a_refusal_where_no_answer_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random forward that is explained all the same is wrong, and so is a refusal that does not name the cause."""
    judge = Judge(ZOO["noise_in_eval_mode"])
    monkeypatch.setattr(grad_cam, "explain", lambda model, images, **kwargs: _honest(judge, images, "blk"))
    assert judge.judge("default").word == WRONG
    monkeypatch.setattr(grad_cam, "explain", _refusing("wrap it"))
    assert judge.judge("default").word == ERROR


# ------------------------------------------------------------------------------------------------------------ the table


def print_table(words: Sequence[str] = ()) -> int:
    """Prints a line for every model and a reason for every verdict that is not "right"; counts what is bad."""
    torch.set_num_threads(1)
    torch._logging.set_logs(all=logging.ERROR)
    warnings.simplefilter("ignore")
    chosen = [e for e in ZOO.values() if not words or any(w in e.name or w in e.kind for w in words)]
    counts = dict.fromkeys((RIGHT, REFUSED, WRONG, ERROR, SKIPPED), 0)
    print(f"{'model':40}{''.join(f'{o:9}' for o in OPERATIONS)}  s")
    reasons = []
    for entry in chosen:
        if entry.missing():
            print(f"{entry.name:40}skipped: {entry.missing()} is not installed")
            continue
        try:
            verdicts = judged(entry)
        except pytest.skip.Exception as error:
            print(f"{entry.name:40}skipped: {error}")
            continue
        seconds = sum(v.seconds for v in verdicts.values())
        print(f"{entry.name:40}{''.join(f'{v.word:9}' for v in verdicts.values())}{seconds:5.2f}", flush=True)
        for operation, verdict in verdicts.items():
            counts[verdict.word] += 1
            if verdict.why:
                reasons.append(f"{entry.name}, {operation}: {verdict.word}: {verdict.why}")
    print()
    for reason in reasons:
        print(reason[:400])
    print()
    print(", ".join(f"{count} {'skipped' if word == SKIPPED else word}" for word, count in counts.items()))
    return int(bool(counts[WRONG] + counts[ERROR]))
