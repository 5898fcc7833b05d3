"""The fast path keeps only what leaves the maps as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import grad_cam
from grad_cam import metrics
from grad_cam.folders import RunError, fast
from grad_cam.folders.explaining import Question, explained
from grad_cam.folders.fast import accelerated
from tests.test_folders import _model, _once, _pictures, _run


def _batch() -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_steps_keep_the_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every step on, maps and classes are those of the exact path, and the model is untouched."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    model, x = _model(), _batch()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    question = Question("layer2", None, "hires_cam")
    notes: list[str] = []
    found = accelerated(model, x, question, notes.append)
    assert found is not None and found.steps[:2] == ("channels_last", "folded")
    assert set(fast.STEPS) - set(found.steps) <= {"bfloat16"} and len(notes) == 3 - len(found.steps)
    exact = explained(model, x, question, None)[0]
    quick = found.named(explained(found.model, x, found.ask(question), None))[0]
    assert quick.layer == exact.layer and quick.target == exact.target and quick.map.dtype == exact.map.dtype
    assert min(float(metrics.agreement(a, b)) for a, b in zip(quick.map, exact.map, strict=True)) > 0.95
    folded = [m for m in found.model.modules() if isinstance(m, fast.Folded)]
    assert len(folded) == 4  # those of the four residual blocks
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(isinstance(m, fast.Folded) for m in model.modules())


def test_a_step_that_changes_the_maps_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold that is wrong, and one that fails, are found on the batch, said, and not used."""
    question = Question("layer2", None, "hires_cam")

    def wrong(model: nn.Module, images: Tensor) -> None:
        with torch.no_grad():
            model.get_submodule("layer1.0.conv1").weight.neg_()

    def fails(model: nn.Module, images: Tensor) -> None:
        raise RuntimeError("no such operator")

    for broken, said in ((wrong, "rank correlation|other classes"), (fails, "no such operator")):
        monkeypatch.setattr(fast, "_fold", broken)
        notes: list[str] = []
        found = accelerated(_model(), _batch(), question, notes.append)
        assert found is not None and "folded" not in found.steps
        with pytest.raises(AssertionError, match=said):
            raise AssertionError(notes[0])


def test_a_run_keeps_its_steps(tmp_path: Path) -> None:
    """A run on the fast path has the rows of the exact one, and goes on with the steps it began with."""
    _pictures(tmp_path / "photos", [f"{n}.png" for n in range(6)])
    exact = _run(_model(), tmp_path / "photos", tmp_path / "exact", method="hires_cam")
    notes: list[str] = []

    def stop(done: int, total: int | None, failed: int) -> None:
        raise StopIteration

    how: dict[str, Any] = {"method": "hires_cam", "fast": True, "notify": notes.append}
    with pytest.raises(StopIteration):
        _run(_model(), tmp_path / "photos", tmp_path / "fast", progress=stop, **how)
    quick = _run(_model(), tmp_path / "photos", tmp_path / "fast", **how)
    _once(quick, 6)
    assert "channels_last" in quick.about["steps"]
    for n in range(6):
        assert quick[n]["layer"] == exact[n]["layer"] and quick[n]["prediction"] == exact[n]["prediction"]
        assert float(metrics.agreement(quick.raw(n), exact.raw(n))) > 0.95
    with pytest.raises(RunError, match="^fast has changed"):
        _run(_model(), tmp_path / "photos", tmp_path / "exact", **how)
    several = _run(_model(), tmp_path / "photos", tmp_path / "several", layer=["layer1", "layer2"], **how)
    assert several.about["steps"] == [] and "the exact path is taken" in notes[-1] and len(several) == 12
    assert grad_cam.read(tmp_path / "several").complete
