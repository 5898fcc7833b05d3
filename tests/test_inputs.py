"""`grad_cam.inputs`: models that take more than a picture, judged by a hook and a plain backward."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grad_cam import GradCAM, chain, explain, split, sweep, targets, verify
from grad_cam.arguments import ArgumentTypeError
from grad_cam.engine import score_function
from grad_cam.errors import InputError, LayerError


def trunk() -> nn.Sequential:
    """A small convolutional trunk, (B, 3, 16, 16) to (B, 6, 8, 8)."""
    return nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 6, 3, 2, 1), nn.Tanh())


class Siamese(nn.Module):
    """How alike two pictures are; one trunk sees both."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = trunk()

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        a, b = self.trunk(one).flatten(1), self.trunk(two).flatten(1)
        return nn.functional.cosine_similarity(a, b)[:, None]


class Patient(nn.Module):
    """Classes from a table, a picture, a number and a word; the picture is not the first argument."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.table, self.head = trunk(), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, table: Tensor, image: Tensor, *, scale: float = 1.0, pool: str = "mean") -> dict[str, Tensor]:
        seen = self.trunk(image) * self.table(table).sigmoid()[:, :, None, None]
        pooled = seen.mean((2, 3)) if pool == "mean" else seen.amax((2, 3))
        return {"classes": self.head(pooled) * scale, "age": pooled.sum(1)}


class OfDict(nn.Module):
    """Takes one dictionary, as some training code has it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Patient()

    def forward(self, batch: dict[str, Any]) -> Tensor:
        found: Tensor = self.inner(batch["table"], batch["more"]["image"])["classes"]
        return found


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def by_hook(model: nn.Module, layer: str, call: Any, call_number: int = -1) -> Tensor:
    """HiResCAM by a forward hook and a plain backward; `call` gives the score."""
    model, seen = copy.deepcopy(model).eval(), []
    handle = model.get_submodule(layer).register_forward_hook(lambda m, a, out: seen.append(out))
    score = call(model)
    handle.remove()
    one = seen[call_number]
    (gradient,) = torch.autograd.grad(score, one)
    return (one * gradient).sum(1).detach()


IMAGES, OTHERS = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)


class Matched(nn.Module):
    """What two pictures have in common, position by position."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 6, 2, 2, bias=False)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        return (self.trunk(one) * self.trunk(two)).sum((1, 2, 3))[:, None]


def test_planted_truth_of_a_pair() -> None:
    """Where the other picture is empty nothing can matter: all evidence lies in the one corner where it is not."""
    other = torch.zeros(2, 3, 16, 16)
    other[:, :, 2:6, 8:12] = 1
    how: dict[str, Any] = {"layer": "trunk@1", "target": targets.regression(), "method": "hires_cam"}
    found = explain(Matched(), IMAGES, inputs=(..., other), **how).map
    assert bool(found[:, 1:3, 4:6].all()) and int((found != 0).sum()) == 2 * 4


@pytest.mark.parametrize("place", [0, 1])
def test_either_picture_of_a_pair_is_explained(place: int) -> None:
    """`...` says which one is the picture; the other is constant, and the calls of the shared trunk are told apart."""
    model = Siamese()
    inputs = (..., OTHERS) if place == 0 else (OTHERS, ...)
    pair = (IMAGES, OTHERS) if place == 0 else (OTHERS, IMAGES)
    name = "trunk@1" if place == 0 else "trunk"
    found = explain(model, IMAGES, inputs=inputs, layer=name, target=targets.regression(), method="hires_cam")
    wanted = by_hook(model, "trunk", lambda m: m(*pair).sum(), call_number=place)
    torch.testing.assert_close(found.map, wanted)
    default = explain(model, IMAGES, inputs=inputs, target=targets.regression(), method="hires_cam")
    assert default.layer.name == "trunk.2"
    wanted = by_hook(model, "trunk.2", lambda m: m(*pair).sum(), call_number=place)
    torch.testing.assert_close(default.map, wanted)


def test_a_call_that_sees_the_other_picture_is_refused() -> None:
    """The layer of the other picture says nothing about this one."""
    with pytest.raises(LayerError, match="does not depend on the images|not used"):
        explain(Siamese(), IMAGES, inputs=OTHERS, layer="trunk", target=targets.regression())


def inputs_of(**more: Any) -> dict[str, Any]:
    """Further inputs of `Patient`."""
    return {"table": torch.rand(2, 4), **more}


@pytest.mark.parametrize("more", [{}, {"scale": 3.0, "pool": "max"}])
def test_keywords_numbers_and_words(more: dict[str, Any]) -> None:
    """The picture goes to the argument that is left; what is no tensor is handed on as it is."""
    model, inputs = Patient(), inputs_of(**more)
    found = explain(model, IMAGES, output="classes", inputs=inputs, layer="trunk", target=1, method="hires_cam")
    wanted = by_hook(model, "trunk", lambda m: m(image=IMAGES, **inputs)["classes"][:, 1].sum())
    torch.testing.assert_close(found.map, wanted)
    torch.testing.assert_close(found.logits, model(image=IMAGES, **inputs)["classes"].detach())


def test_a_picture_deep_inside_and_other_values_afterwards() -> None:
    """`...` stands anywhere; other values, or the same tensor written to, are not answered from an old record."""
    model, table = OfDict(), torch.rand(2, 4)
    inputs = ({"table": table, "more": {"image": ...}},)
    for _ in range(2):
        found = explain(model, IMAGES, inputs=inputs, layer="inner.trunk", target=0, method="hires_cam")
        batch = {"table": table, "more": {"image": IMAGES}}
        wanted = by_hook(model, "inner.trunk", lambda m, batch=batch: m(batch)[:, 0].sum())
        torch.testing.assert_close(found.map, wanted)
        table.mul_(-3)


def test_a_model_that_writes_to_its_inputs_leaves_the_callers_alone() -> None:
    """A forward that works in place is given tensors of its own."""

    class Writes(Patient):
        def forward(self, table: Tensor, image: Tensor) -> Tensor:  # type: ignore[override]
            table.add_(1)
            return super().forward(table, image)["classes"]

    table = torch.rand(2, 4)
    before, model = table.clone(), Writes()
    maps = [explain(model, IMAGES, inputs={"table": table}, layer="trunk", target=0).map for _ in range(3)]
    assert torch.equal(table, before) and torch.equal(maps[0], maps[1]) and torch.equal(maps[0], maps[2])


@pytest.mark.parametrize("method", ["ablation_cam", "score_cam", "occlusion", "layer_cam", "smooth_grad_cam_plus_plus"])
def test_rows_stay_with_their_images(method: str) -> None:
    """Perturbed copies get the row of the image that they are versions of: a batch is its images one by one."""
    if method == "smooth_grad_cam_plus_plus":
        options: dict[str, Any] = {"samples": 2}
    else:
        options = {"chunk": 3} if method in ("ablation_cam", "score_cam", "occlusion") else {}
    model, inputs = Patient(), inputs_of()
    how: dict[str, Any] = {"output": "classes", "target": 1, "method": method, **options}
    whole = explain(model, IMAGES, inputs=inputs, **how).map
    alone = [
        explain(model, IMAGES[b : b + 1], inputs={"table": inputs["table"][b : b + 1]}, **how).map for b in range(2)
    ]
    if method != "smooth_grad_cam_plus_plus":  # noise is drawn for the whole batch
        torch.testing.assert_close(whole, torch.cat(alone))
    assert whole.shape[0] == 2 and bool(whole.isfinite().all())


def test_every_way_in_takes_them() -> None:
    """`sweep`, `chain`, `split`, `verify`, `score_function` and `GradCAM` alike."""
    model, inputs = Patient().eval(), inputs_of()
    how: dict[str, Any] = {"output": "classes", "inputs": inputs}
    logits = model(image=IMAGES, **inputs)["classes"]
    assert torch.equal(chain(model, IMAGES, **how)(IMAGES), logits)
    halves = split(model, "trunk.2", IMAGES, **how)
    assert torch.equal(halves.classifier(halves.extractor(IMAGES)), logits) and halves.batches == (2,)
    checked = verify(model, IMAGES, **how)
    assert checked and all(row.gradient == "equal" for row in checked.rows), checked
    assert len(sweep(model, IMAGES, layers=["trunk.0", "trunk"], target=0, **how)) == 2
    score = score_function(model, IMAGES, 0, **how)
    torch.testing.assert_close(score(IMAGES.flip(0), torch.tensor([1, 0]))[:, 0], logits[:, 0].flip(0).detach())
    one = {**how, "inputs": {"table": inputs["table"][:1]}}
    assert GradCAM(model, IMAGES[0].permute(1, 2, 0).numpy(), input_size=16, class_idx=0, **one)().shape == (16, 16)


def test_a_chain_keeps_them() -> None:
    """A chain is explained, pickled and verified with the inputs it was made with; another number of images is not."""
    model, inputs = Patient().eval(), inputs_of()
    made = chain(model, IMAGES, output="classes", inputs=inputs)
    wanted = explain(model, IMAGES, output="classes", inputs=inputs, layer="trunk", target=0).map
    for one in (made, pickle.loads(pickle.dumps(made))):
        assert torch.equal(explain(one, IMAGES, layer="trunk", target=0).map, wanted)
        assert verify(one, IMAGES)
    with pytest.raises(InputError, match="row for each image.*2 there, 1 images here"):
        explain(made, IMAGES[:1], target=0)


def test_what_has_no_row_for_each_image_follows_any_number() -> None:
    """A table of prompts, say, is a constant: halves are exact for two numbers of images."""

    class Prompted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = trunk()

        def forward(self, x: Tensor, prompts: Tensor) -> Tensor:
            return self.trunk(x).mean((2, 3)) @ prompts.T

    prompts = torch.rand(7, 6)
    halves = split(Prompted(), "trunk", IMAGES, inputs=prompts)
    assert halves.batches == (2, 1)
    made = chain(Prompted(), IMAGES, inputs=prompts)
    assert made(torch.rand(7, 3, 16, 16)).shape == (7, 7) and explain(made, torch.rand(7, 3, 16, 16)).map.shape[0] == 7


@pytest.mark.parametrize(
    ("inputs", "error", "says"),
    [
        ({"tabel": torch.rand(2, 4)}, ArgumentTypeError, "no argument 'tabel'.*did you mean table"),
        ({"table": ..., "image": ...}, InputError, "hold \\.\\.\\. 2 times"),
        ({"table": torch.rand(2, 4), "image": IMAGES, "scale": 1.0, "pool": "max"}, InputError, "no argument for the"),
        (3, ArgumentTypeError, "inputs are what the model takes"),
        (None, InputError, "takes more than images.*inputs="),
    ],
)  # fmt: skip
def test_wrong_inputs(inputs: Any, error: type[Exception], says: str) -> None:
    """What is misspelt, doubled, missing or no inputs at all is refused with what to write."""
    with pytest.raises(error, match=says):
        explain(Patient(), IMAGES, output="classes", inputs=inputs)
