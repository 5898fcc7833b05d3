"""What is asked of a run as text: the same for the same meaning, another for another one."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import torch
from torch import nn

from grad_cam import targets
from grad_cam.folders.needs import RunError
from grad_cam.folders.request import described, model_digest, refuse_changed


def _twice(x: Any) -> Any:
    return 2 * x


def _thrice(x: Any) -> Any:
    return 3 * x


def test_the_same_meaning_is_the_same_text() -> None:
    """Tensors by value, targets by name, modules by path; all of it is JSON."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert described(torch.tensor([1.0, 2.0])) == described(torch.tensor([1.0, 2.0]))
    assert described(torch.tensor([1.0, 2.0])) != described(torch.tensor([1.0, 2.5]))
    assert described(targets.top(3)) == "top(3)" and described(model[1], model) == "1"
    given = {"layer": ["1", model[1]], "target": targets.logit(2), "step": functools.partial(_twice, 3)}
    assert json.loads(json.dumps(described(given, model))) == described(given, model)
    assert "0x" not in json.dumps(described([object(), lambda x: x]))


def test_functions_count_by_what_they_do() -> None:
    """Two functions of other bodies are described differently, one function always alike."""
    assert described(_twice) == described(_twice)
    assert described(_twice).split()[-1] != described(_thrice).split()[-1]


def test_the_digest_follows_weights_and_structure() -> None:
    """One changed number, or another structure with the same numbers, is another model."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    before = model_digest(model)
    assert before == model_digest(model)
    with torch.no_grad():
        model[0].weight[0, 0] += 1e-3
    assert model_digest(model) != before
    other = nn.Sequential(model[0], nn.Sigmoid())
    assert model_digest(other) != model_digest(model)


def test_what_has_changed_is_named() -> None:
    """The error names the setting, both values, what else has changed, and what to do."""
    before = {"layer": "layer4", "options": {"steps": 3, "seed": 0}, "batch": 1}
    refuse_changed(before, dict(before), "out")
    with pytest.raises(RunError, match=r"options \(steps\) has changed.*'out'.*it was 3, now it is 4.*another folder"):
        refuse_changed(before, {**before, "options": {"steps": 4, "seed": 0}}, "out")
    with pytest.raises(RunError, match="layer has changed.*so have batch"):
        refuse_changed(before, {**before, "layer": "layer3", "batch": 2}, "out")
