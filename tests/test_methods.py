"""The registry and the ingredients: a method is a function whose parameters name what it needs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import grad_cam
from grad_cam import METHODS, targets
from grad_cam.errors import GradCamError
from grad_cam.ingredients import Pass
from grad_cam.methods import INGREDIENTS, MethodError, find
from grad_cam.methods.registry import ALL_TARGETS, PER_TARGET

EVERY = pytest.mark.parametrize("name", list(METHODS))
QUICK: dict[str, dict[str, Any]] = {
    "rise": {"masks": 20}, "region_regression": {"masks": 20, "cells": 3},
    "ss_cam": {"samples": 2, "channels": 4}, "is_cam": {"steps": 2, "channels": 4},
    "smooth_grad_cam_plus_plus": {"samples": 2}, "score_cam": {"channels": 4}, "occlusion": {"window": 32},
}  # fmt: skip


@pytest.fixture(autouse=True)
def table() -> Iterator[None]:
    """What a test registers is gone afterwards."""
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


def squared_cam(activations: Tensor, gradients: Tensor, *, power: float = 2.0) -> Tensor:
    """A method in one function."""
    return (activations * gradients).sum(1).clamp(min=0) ** power


# ------------------------------------------------------------------------------------------------------ every method


@EVERY
def test_every_method_explains_and_sweeps(cnn: nn.Module, vit: nn.Module, batch: Tensor, name: str) -> None:
    """explain and sweep give finite maps for every target; a sweep's map is explain's at that layer."""
    method = METHODS[name]
    model = vit if method.kind == "attention" else cnn
    request = {"method": name, "target": targets.top(2), **QUICK.get(name, {})}
    one = grad_cam.explain(model, batch[:2], **request)
    count = 5 if method.gives == "concepts" else 2
    assert one.map.shape[:2] == (2, count) and one.map.ndim == 4
    assert bool(torch.isfinite(one.map).all()) and one.map.abs().max() > 0
    assert [len(words) for words in one.target] == [count] * 2
    layers = ["layer2", "layer1"] if model is cnn else ["blocks.1", "blocks.0"]
    found = grad_cam.sweep(model, batch[:2], layers=layers, **request)
    if method.scope != "layer":
        assert [e.layer for e in found] == [one.layer] and torch.equal(found[0].map, one.map)
        assert "one map for all" in found.skipped[0][1]
        with pytest.raises(GradCamError, match="no layer to choose.*leave layer out"):
            grad_cam.explain(model, batch[:2], layer=layers[0], **request)
        return
    assert [e.layer.name for e in found] == layers[::-1]
    for each in found:
        alone = grad_cam.explain(model, batch[:2], layer=each.layer.name, **request)
        torch.testing.assert_close(each.map, alone.map, rtol=1e-4, atol=1e-5 * float(alone.map.abs().max()))


@EVERY
def test_what_follows_from_the_signature(name: str) -> None:
    """Scope, one pass, class and options agree with what the parameters say."""
    method = METHODS[name]
    parameters = inspect.signature(method.function).parameters.values()
    assert method.ingredients == tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
    assert method.options == {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert method.one_pass == (set(method.ingredients) <= {"activations", "gradients"})
    assert method.class_specific == bool(set(method.ingredients) & {*PER_TARGET, *ALL_TARGETS})
    assert method.gives == ("concepts" if name == "deep_feature_factorization" else "map")


def test_scopes() -> None:
    """The images alone, the whole network, or a layer; Guided Grad-CAM has the layer of its map."""
    scopes = {scope: {m.name for m in METHODS.values() if m.scope == scope} for scope in ("input", "network")}
    assert scopes["input"] == {"occlusion", "rise", "region_regression"}
    assert scopes["network"] == {
        "auto", "attention_rollout", "gradient_rollout", "le_grad", "full_grad", "guided_backprop",
    }  # fmt: skip


def test_every_ingredient_can_be_had(cnn: nn.Module, vit: nn.Module, batch: Tensor) -> None:
    """A method may ask for any name of the table, and is given what the table says, made once for a pass."""
    seen: dict[str, Any] = {}

    def ask(name: str) -> Any:
        def wanting(**given: Any) -> Tensor:
            seen.update(given)
            return torch.ones(3, 2, 4, 4) if name in ALL_TARGETS else torch.ones(3, 4, 4)

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        names = ["activations", name] if name in ("grid", "progress", "logits", "activations") else [name]
        names = list(dict.fromkeys(names))

        def method(*values: Any) -> Tensor:
            return wanting(**dict(zip(names, values, strict=True)))

        method.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])  # type: ignore[attr-defined]
        return method

    for name in INGREDIENTS:
        assert hasattr(Pass, name) or name in ("images", "progress"), name
        grad_cam.explain(vit, batch, method=ask(name), target=targets.top(2), progress=lambda *_: None)
    assert seen["activations"].shape == seen["gradients"].shape == (3, 24, 4, 4)
    assert seen["images"].shape == (3, 3, 64, 64) and seen["logits"].shape == (3, 7) and seen["grid"] == (4, 4)
    assert (
        [a.shape for a in seen["attention"]] == [a.shape for a in seen["attention_gradients"]] == [(3, 2, 17, 17)] * 3
    )
    assert [a.shape for a in seen["block_attention"]] == [a.shape for a in seen["block_gradients"]]
    assert seen["attention_reading"].shape == (3, 17) and seen["cam"].shape == (3, 4, 4)
    assert callable(seen["progress"])
    index = torch.tensor([0, 0, 2, 1])
    assert seen["tail"](seen["activations"][index], index).shape == (4, 2)
    torch.testing.assert_close(seen["score"](batch[index], index)[0], seen["logits"][0].topk(2).values)
    assert seen["whole_score"](batch.requires_grad_()).requires_grad
    assert seen["tail_gradient"](seen["activations"]).shape == (3, 24, 4, 4)
    assert [g.shape for g in seen["noisy_gradients"](2, 0.1, 0)] == [(3, 24, 4, 4)] * 2


# ------------------------------------------------------------------------------------------------------ a new method


def test_a_function_is_a_method(cnn: nn.Module, batch: Tensor) -> None:
    """Any callable whose parameters name ingredients: a function, a partial one, a lambda; options are checked."""
    result = grad_cam.explain(cnn, batch, method=squared_cam, target=1)
    hires = grad_cam.explain(cnn, batch, method="hires_cam", target=1).map
    torch.testing.assert_close(result.map, hires.clamp(min=0) ** 2)
    assert result.method == "squared_cam"
    cubed = grad_cam.explain(cnn, batch, method=functools.partial(squared_cam, power=3.0), target=1)
    torch.testing.assert_close(cubed.map, grad_cam.explain(cnn, batch, method=squared_cam, power=3.0, target=1).map)
    found = grad_cam.sweep(cnn, batch, method=lambda activations, gradients: (activations * gradients).sum(1), target=1)
    assert torch.equal(found[-1].map, grad_cam.sweep(cnn, batch, method="hires_cam", target=1)[-1].map)
    with pytest.raises(GradCamError, match="no option 'steps'; it takes power"):
        grad_cam.explain(cnn, batch, method=squared_cam, steps=3)


def test_a_method_of_the_tail_or_the_images(cnn: nn.Module, batch: Tensor) -> None:
    """tail and score give the scores of all targets, (N, K), or of one target beside something per target."""

    def gap(activations: Tensor, tail: Any) -> Tensor:
        scores = tail(activations * 0, torch.arange(len(activations)))
        return (tail(activations, torch.arange(len(activations))) - scores)[..., None, None]  # (B,K,1,1)

    logits = cnn(batch)
    found = grad_cam.explain(cnn, batch, method=gap, target=[[1, 2]] * 3).map
    wanted = logits[:, 1:3] - cnn.fc(torch.zeros(3, 12))[:, 1:3]
    torch.testing.assert_close(found[..., 0, 0], wanted.detach(), rtol=1e-4, atol=1e-6)

    def beside(gradients: Tensor, score: Any, images: Tensor) -> Tensor:
        assert score(images, torch.arange(len(images))).shape == (3,)
        return gradients.sum(1) * 0 + score(images, torch.arange(len(images)))[:, None, None]

    found = grad_cam.explain(cnn, batch, method=beside, target=[[1, 2]] * 3).map
    torch.testing.assert_close(found.amax((2, 3)), logits[:, 1:3].detach())


def test_registered_methods_are_in_the_table(cnn: nn.Module, batch: Tensor) -> None:
    """A registered function has a name and a title, by which it is found; a taken name is refused."""
    made = grad_cam.register("Squared Grad-CAM", advice="For tests.", channelwise=False)(squared_cam)
    assert made is squared_cam and METHODS["squared_cam"].title == "Squared Grad-CAM"
    assert METHODS["squared_cam"].options == {"power": 2.0} and METHODS["squared_cam"].one_pass
    for name in ("squared_cam", "Squared Grad-CAM", "squared-grad-cam", squared_cam):
        assert find(name) is METHODS["squared_cam"]
    assert grad_cam.explain(cnn, batch, method="squared_cam").title().splitlines()[1].startswith("Squared Grad-CAM at")
    for title, name in (("Squared Grad-CAM", None), ("Other", None), ("Grad-CAM", "mine"), ("Mine", "grad_cam")):
        with pytest.raises(MethodError, match="is taken"):
            grad_cam.register(title, name=name)(squared_cam)
    grad_cam.register("Again", replace=True)(squared_cam)
    assert METHODS["squared_cam"].title == "Again"
    with pytest.raises(GradCamError, match=r'@register\("My method"\)'):
        grad_cam.register(squared_cam)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "name"),
    [("GradCAM", "grad_cam"), ("Grad-CAM", "grad_cam"), ("Grad-CAM++", "grad_cam_plus_plus"), ("XGradCAM", "xgrad_cam"),
     ("GradCAMPlusPlus", "grad_cam_plus_plus"), ("LayerCAM", "layer_cam"), ("full grad", "full_grad"),
     ("KPCA_CAM", "kpca_cam"), ("RISE", "rise")],
)  # fmt: skip
def test_titles_are_names(wanted: str, name: str) -> None:
    """The titles, and what the classes of other libraries are called, are accepted as names."""
    assert find(wanted) is METHODS[name]


def test_names_of_methods_are_unlike() -> None:
    """No two methods share a name or a title, however written."""
    spelt = [text.lower().replace("-", "").replace("_", "").replace(" ", "") for m in METHODS.values()
             for text in dict.fromkeys((m.name.replace("_", ""), m.title.lower().replace("-", "").replace(" ", "")
                                        .replace("++", "plusplus")))]  # fmt: skip
    assert len(spelt) == len(set(spelt))


# ------------------------------------------------------------------------------------------------------------ errors


def any_arguments(*given: Tensor) -> Tensor:
    return given[0]


def required(activations: Tensor, *, power: float) -> Tensor:
    return activations.mean(1) * power


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (lambda activation: activation, r"asks for 'activation': did you mean activations\? Ingredients: .*score"),
        (lambda activations, gradients, power=2: gradients, r"write '\*' before 'power=2'"),
        (lambda activations, *, gradients: gradients, r"write 'gradients' before the '\*'"),
        (any_arguments, r"takes \*given: Tensor|takes \*given: 'Tensor'"),
        (lambda activations, **rest: activations, r"takes \*\*rest"),
        (lambda: torch.ones(1), "asks for no ingredient"),
        (max, "parameters of max cannot be read"),
        (required, r"required needs the option 'power'; give power="),
        (lambda activations, gradients: gradients, r"\(3, 12, 8, 8\) for 3 images; return a tensor \(B, h, w\)"),
        (lambda activations: activations.mean(), r"shape is \(\)"),
        (lambda activations: activations.mean(1)[:1], r"shape is \(1, 8, 8\) for 3 images"),
        (lambda activations, tail: activations.mean((1, 2, 3)), r"for 3 images and 1 targets; return .*\(B, K, h, w\)"),
        (lambda activations: 3.0, r"returned no map \(float\)"),
        (lambda activations: activations.mean(1) > 0, "torch.bool"),
        (3, "a name or a function"),
        ("grad_cm", "did you mean grad_cam"),
    ],
)  # fmt: skip
def test_functions_that_do_not_fit_are_named(cnn: nn.Module, batch: Tensor, method: Any, says: str) -> None:
    """What a function asks for or returns that cannot be is said with what to write."""
    for run, layer in ((grad_cam.explain, {"layer": "layer2"}), (grad_cam.sweep, {"layers": ["layer2"]})):
        with pytest.raises(GradCamError, match=says):
            run(cnn, batch, method=method, **layer)


def test_required_options_can_be_given(cnn: nn.Module, batch: Tensor) -> None:
    """An option without a default is one the caller has to give."""
    assert find(required).options == {"power": inspect.Parameter.empty}
    assert grad_cam.explain(cnn, batch, method=required, power=2.0).map.shape == (3, 8, 8)


def test_channelwise_methods_read_activations_and_gradients() -> None:
    """Only a sum over channels of both can be taken apart."""
    with pytest.raises(MethodError, match="channelwise method reads activations and gradients"):
        grad_cam.register("Mean", channelwise=True)(lambda activations: activations.mean(1))
