"""Calls that do not fit, as people write them out of habit, are answered with what to write."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import grad_cam
from grad_cam import targets
from grad_cam.errors import GradCamError

CALLS: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str]] = [
    (
        grad_cam.explain,
        (0,),
        {"input_tensor": 1},
        "explain has no argument input_tensor=; write explain(model, images)",
    ),
    (grad_cam.explain, (), {"net": 1, "images": 2}, "explain has no argument net=; write explain(model, images)"),
    (grad_cam.explain, (0,), {}, "explain needs images; write explain(model, images)"),
    (grad_cam.explain, (), {}, "explain needs model and images; write explain(model, images)"),
    (
        grad_cam.explain,
        (0, 1, 2),
        {},
        "explain takes 2 arguments without a name (3 were given); name the others: layer",
    ),
    (grad_cam.explain, (0,), {"target_category": 1}, "write explain(model, images, target=...)"),
    (grad_cam.sweep, (0,), {"image": 1}, "sweep has no argument image=; write sweep(model, images)"),
    (grad_cam.split, (0,), {"target_layer": 1}, "split has no argument target_layer=; write split(model, layer)"),
    (grad_cam.split, (0, 1), {"device": 1}, "split has no argument device=; move the model: model.cuda()"),
    (grad_cam.chain, (0,), {"exmaple": 1}, "chain has no argument exmaple=; did you mean example=?"),
    (grad_cam.verify, (0, 1), {"tolerance_of_mine": 1}, "verify has no argument tolerance_of_mine="),
    (grad_cam.study, (0,), {}, "study needs source; write study(model, source)"),
    (grad_cam.explain, (0, 1), {"model": 2}, "explain: multiple values for argument 'model'"),
    (targets.box, (), {"index": 0}, "box has no argument index=; it takes which, score"),
    (targets.boxes, (3,), {"kind": "edge"}, "boxes has no argument kind=; it takes which, score"),
    (targets.segmentation, (), {"masks": 1}, "segmentation has no argument masks=; did you mean mask=?"),
    (targets.text, (), {}, "text needs prompts; write text(prompts)"),
    (targets.logit, (), {"category": 3}, "logit has no argument category=; it takes k"),
    (targets.top, (), {"n": 3}, "top has no argument n=; it takes k"),
]


@pytest.mark.parametrize(("function", "args", "kwargs", "says"), CALLS)
def test_calls_that_do_not_fit(function: Callable[..., Any], args: Any, kwargs: Any, says: str) -> None:
    """The package's own error, also a TypeError, with what was wrong and what to write; without Python's beneath it."""
    with pytest.raises(GradCamError) as caught:
        function(*args, **kwargs)
    assert isinstance(caught.value, TypeError) and caught.value.remedy and caught.value.__suppress_context__
    assert says in str(caught.value)


def test_signatures_stay() -> None:
    """Help, signatures and names are those of the functions themselves."""
    for function in {call[0] for call in CALLS}:
        assert "called" not in (function.__name__, function.__qualname__) and function.__doc__
        assert "kwargs" not in inspect.signature(function).parameters
