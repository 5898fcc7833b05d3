"""The fast path keeps only what leaves the maps as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import grad_cam
from grad_cam import metrics
from grad_cam.errors import GradCamError
from grad_cam.folders import RunError, fast
from grad_cam.folders.compiling import Compiled
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


def _as_it_is(module: nn.Module, **_: Any) -> nn.Module:
    """What is compiled, not compiled."""
    return module


def _no_compiler(module: nn.Module, **_: Any) -> Any:
    def run(images: Tensor) -> Any:
        raise RuntimeError("no working C++ compiler found")

    return run


def test_compiled_part_runs_and_the_model_is_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is before the layer runs compiled, in a copy, for batches that are at least half full."""
    seen: list[int] = []

    def compiled(module: nn.Module, **_: Any) -> Any:
        return lambda images: (seen.append(len(images)), module(images))[1]

    monkeypatch.setattr(torch, "compile", compiled)
    model, x, question, notes = _model(), _batch(), Question("layer2", None, "hires_cam"), list[str]()
    found = accelerated(model, x, question, notes.append, compiled=True)
    assert found is not None and found.steps[-1] == fast.COMPILE and seen and notes == []
    assert not any(isinstance(m, Compiled) or m._compiled_call_impl is not None for m in model.modules())
    assert any(isinstance(m, Compiled) for m in found.model.modules())
    explained(found.model, x[:3], found.ask(question), None)  # another size is recorded first, as it is
    seen.clear()
    quick = explained(found.model, x[:3], found.ask(question), None)[0]
    exact = explained(model, x[:3], question, None)[0]
    assert seen == [4] and quick.map.shape == exact.map.shape  # filled up to the batch it is compiled for
    assert min(float(metrics.agreement(a, b)) for a, b in zip(quick.map, exact.map, strict=True)) > 0.95
    for other in (x[:1], x[:, :, :32, :32]):
        explained(found.model, other, found.ask(question), None)
        explained(found.model, other, found.ask(question), None)
    assert seen == [4]
    assert not accelerated(model, x, question, notes.append).steps.count(fast.COMPILE)  # type: ignore[union-attr]


def test_compiled_part_that_changes_the_maps_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that is not there, and one that computes something else, are said, and the rest is kept."""

    def wrong(module: nn.Module, **_: Any) -> Any:
        return lambda images: module(images).flip(-1)

    for broken, said in ((_no_compiler, "no working C\\+\\+ compiler"), (wrong, "rank correlation|other classes")):
        monkeypatch.setattr(torch, "compile", broken)
        notes: list[str] = []
        found = accelerated(_model(), _batch(), Question("layer2", None, "hires_cam"), notes.append, compiled=True)
        assert found is not None and fast.COMPILE not in found.steps and "channels_last" in found.steps
        assert re.search(f"compile is left out, .*({said})", notes[-1])


def test_a_compiled_run_goes_on_compiled_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run says whether it is compiled, and is refused by name where it cannot go on so."""
    _pictures(tmp_path / "photos", [f"{n}.png" for n in range(5)])
    monkeypatch.setattr(torch, "compile", _as_it_is)
    how: dict[str, Any] = {"method": "hires_cam", "fast": "compile", "batch_size": 2, "notify": lambda text: None}
    rows = _run(_model(), tmp_path / "photos", tmp_path / "out", **how)
    _once(rows, 5)
    assert rows.about["steps"][-1] == "compile"
    _pictures(tmp_path / "photos", ["added.png"])
    _once(_run(_model(), tmp_path / "photos", tmp_path / "out", **how), 6)
    monkeypatch.setattr(torch, "compile", _no_compiler)
    with pytest.raises(RunError, match=r"begun with torch.compile, .*\(RuntimeError: no working"):
        _run(_model(), tmp_path / "photos", tmp_path / "out", **how)
    with pytest.raises(RunError, match="^fast has changed"):
        _run(_model(), tmp_path / "photos", tmp_path / "out", **{**how, "fast": True})
    with pytest.raises(GradCamError, match="fast='quick' is no fast path"):
        _run(_model(), tmp_path / "photos", tmp_path / "other", **{**how, "fast": "quick"})


@pytest.mark.slow
def test_torch_compiles(tmp_path: Path) -> None:
    """With PyTorch's own compiler, or the reason said where it is of no use, rows are those of the exact path."""
    _pictures(tmp_path / "photos", [f"{n}.png" for n in range(11)])
    exact = _run(_model(), tmp_path / "photos", tmp_path / "exact", method="hires_cam")
    notes: list[str] = []
    how: dict[str, Any] = {"method": "hires_cam", "fast": "compile", "batch_size": 4, "notify": notes.append}
    quick = _run(_model(), tmp_path / "photos", tmp_path / "fast", **how)
    _once(quick, 11)
    assert "compile" in quick.about["steps"] or any("compile is left out" in note for note in notes)
    assert all(float(metrics.agreement(quick.raw(n), exact.raw(n))) > 0.95 for n in range(11))
    assert all(quick[n]["prediction"] == exact[n]["prediction"] for n in range(11))
