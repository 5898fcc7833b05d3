"""Maps while a model is trained: when they are written, what they cost, where they go; training is untouched."""

from __future__ import annotations

import pathlib
import sys
import types
import warnings
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from grad_cam import callbacks
from grad_cam.callbacks import MapWriter
from grad_cam.errors import GradCamError
from tests.shortcut_sets import Net


class Kept:
    """A sink that keeps what it is given, and a clock that moves when it is told to."""

    def __init__(self) -> None:
        self.pictures: dict[int, dict[str, Image.Image]] = {}
        self.now = 0.0
        self.cost = 0.0

    def __call__(self, step: int, pictures: dict[str, Image.Image]) -> None:
        self.pictures[step] = pictures
        self.now += self.cost

    def clock(self) -> float:
        """The time."""
        return self.now


def _images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_every_so_many_steps() -> None:
    """Without a budget maps are written at the first step and every n steps after, one overlay a picture."""
    kept, model = Kept(), Net()
    writer = MapWriter(_images(), kept, every=3, budget=None, names=["a", "b"])
    said = [writer.step(model) for _ in range(8)]
    assert writer.written == list(kept.pictures) == [0, 3, 6] and said[0] and not said[1]
    assert list(kept.pictures[3]) == ["a", "b"] and kept.pictures[3]["a"].size == (32, 32)


def test_budget_is_kept() -> None:
    """Whatever maps cost, they never take more than the part of the time that they may, and go on when they can."""
    kept, model = Kept(), Net()
    kept.cost = 0.5
    writer = MapWriter(_images(), kept, every=5, clock=kept.clock)
    for step in range(2000):
        kept.now += 0.1  # a step of the training
        writer.step(model)
        assert step < 10 or writer.spent <= 0.02 * kept.now + (0.5 if len(writer.written) < 2 else 1e-9)
    assert 6 <= len(writer.written) <= 9 and all(
        b - a >= 5 for a, b in zip(writer.written, writer.written[1:], strict=False)
    )


class Counting(Net):
    """Counts the pictures that pass through any copy of it."""

    passed = 0

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        Counting.passed += len(x)
        return super().forward(x)


def test_work_is_a_part_of_an_epochs() -> None:
    """By the default budget maps pass at most 2 % of all pictures through the model, and a short training gets some."""
    kept, model, batch = Kept(), Counting(), torch.randn(32, 3, 32, 32)
    Counting.passed = ours = 0
    writer = MapWriter(_images(), kept, every=5, clock=lambda: float(Counting.passed))
    for _ in range(75):  # six epochs of 400 pictures
        with torch.no_grad():
            model(batch)
        before = Counting.passed
        writer.step(model)
        ours += Counting.passed - before
        assert ours <= max(0.02 * Counting.passed, 2)  # the estimate passes one picture before anything is known
    assert ours == writer.spent and len(writer.written) >= 5


@pytest.mark.parametrize("kind", ["convolutions", "transformer"])
def test_first_maps_cost_what_is_reckoned(kind: str) -> None:
    """Recording a model for its first maps passes the pictures through it no more often than the budget allows for."""
    transformer = timm.models.vision_transformer.VisionTransformer
    model = Net() if kind == "convolutions" else transformer(32, 8, embed_dim=16, depth=2, num_heads=2, num_classes=3)
    passed: list[int] = []

    class Counted(type(model)):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Any:
            passed.append(len(x))
            return super().forward(x)

    model.__class__ = Counted
    writer = MapWriter(_images(), Kept(), every=1, budget=None)
    writer.write(model, 0)
    assert not writer._ended and len(_images()) <= sum(passed) <= callbacks.FIRST * len(_images())
    passed.clear()
    writer.write(model, 1)
    assert sum(passed) <= 2 * len(_images())


def test_first_maps_wait_for_the_budget() -> None:
    """Before anything is known the cost is estimated from a forward pass: a short training gets no maps."""
    kept, model = Kept(), Net()
    slow = model.register_forward_pre_hook(lambda *_: setattr(kept, "now", kept.now + 0.01))
    writer = MapWriter(_images(), kept, every=1, clock=kept.clock)
    for _ in range(100):
        kept.now += 0.1
        writer.step(model)
    assert not writer.written and writer.spent == pytest.approx(0.01)
    slow.remove()


def test_training_is_untouched() -> None:
    """Weights, modes, gradients, buffers and random numbers are what they are without maps."""

    def trained(writer: MapWriter | None) -> tuple[dict[str, Tensor], Tensor]:
        torch.manual_seed(0)
        model = Net().train()
        model.features[0][1].eval()
        optimiser = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            loss = nn.functional.cross_entropy(nn.functional.dropout(model(_images()), 0.5), torch.tensor([0, 1]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if writer is not None:
                writer.step(model)
        assert model.training and not model.features[0][1].training
        return model.state_dict(), torch.rand(3)

    plain, numbers = trained(None)
    watched, same = trained(MapWriter(_images(), Kept(), every=1, budget=None))
    timed, again = trained(MapWriter(_images(), Kept(), every=1))
    assert all(torch.equal(plain[k], watched[k]) and torch.equal(plain[k], timed[k]) for k in plain)
    assert torch.equal(numbers, same) and torch.equal(numbers, again)


def test_maps_follow_the_weights() -> None:
    """What is written at a later step is the map of the weights then."""
    kept, model = Kept(), Net().eval()
    writer = MapWriter(_images(), kept, every=1, budget=None, target=0)
    writer.step(model)
    with torch.no_grad():
        model.head.weight.neg_()
    writer.step(model)
    assert kept.pictures[0]["image 0"].tobytes() != kept.pictures[1]["image 0"].tobytes()


def test_an_error_ends_the_maps_and_not_the_training() -> None:
    """A layer that is not there, a full disk: one warning, and no further try."""
    writer = MapWriter(_images(), Kept(), every=1, budget=None, layer="nothing")
    with pytest.warns(UserWarning, match="no more maps"):
        assert not writer.step(Net())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not writer.step(Net())

    def full(step: int, pictures: Any) -> None:
        raise OSError("no space left on device")

    with pytest.warns(UserWarning, match="no space left"):
        MapWriter(_images(), full, budget=None).step(Net())


def test_what_does_not_fit_is_refused() -> None:
    """A budget that is no part, names that do not fit, a step of zero."""
    for wrong in ({"budget": 2.0}, {"names": ["a"]}, {"names": ["a", "a"]}, {"every": 0}):
        with pytest.raises(GradCamError):
            MapWriter(_images(), Kept(), **wrong)  # type: ignore[arg-type]


def test_files(tmp_path: pathlib.Path) -> None:
    """One row of overlays a step."""
    MapWriter(_images(), callbacks.to_files(tmp_path / "maps"), budget=None).step(Net(), 7)
    with Image.open(tmp_path / "maps" / "step-00000007.png") as image:
        assert image.size == (64, 32)


def test_tensorboard(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are added by name and step; without TensorBoard the error names it."""
    added: list[tuple[str, tuple[int, ...], int]] = []
    writer = types.SimpleNamespace(
        add_image=lambda name, pixels, step: added.append((name, tuple(pixels.shape), step)), flush=lambda: None
    )
    MapWriter(_images(), callbacks.to_tensorboard(writer), budget=None).step(Net(), 4)
    assert added == [("maps/image 0", (3, 32, 32), 4), ("maps/image 1", (3, 32, 32), 4)]
    pytest.importorskip("tensorboard")
    MapWriter(_images(), callbacks.to_tensorboard(tmp_path), budget=None).step(Net(), 4)
    assert next(tmp_path.glob("events.*")).stat().st_size > 2000
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install \'gradcam-layers\[tensorboard\]\'"):
        callbacks.to_tensorboard(tmp_path)


def test_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are logged with the step beside them; without wandb the error names it."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"pip install \'gradcam-layers\[wandb\]\'"):
        callbacks.to_wandb(None)
    fake = types.ModuleType("wandb")
    fake.Image = lambda picture, caption: (caption, picture.size)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    logged: list[dict[str, Any]] = []
    MapWriter(_images(), callbacks.to_wandb(types.SimpleNamespace(log=logged.append)), budget=None).step(Net(), 9)
    assert logged == [{"maps": [("image 0", (32, 32)), ("image 1", (32, 32))], "maps/step": 9}]


@pytest.mark.slow
def test_wandb_offline(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real run without a network keeps the pictures in its folder."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(mode="offline", dir=str(tmp_path), project="maps")
    MapWriter(_images(), callbacks.to_wandb(run), budget=None).step(Net(), 3)
    assert run.summary["maps/step"] == 3
    run.finish()
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/images/*.png"))) == 2


def test_lightning(tmp_path: pathlib.Path) -> None:
    """A real Trainer calls it after batches, with the network inside the module or the module itself."""
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, inner: bool) -> None:
            super().__init__()
            if inner:
                self.net = Net()
            else:
                self.features, self.flatten, self.head = nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            if hasattr(self, "net"):
                return self.net(x)
            return self.head(self.features(x).relu().mean((2, 3)))

        def training_step(self, batch: Any, index: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.01)

    data = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 2), batch_size=2
    )
    for inner in (True, False):
        writer = MapWriter(_images(), Kept(), every=2, budget=None)
        trainer = lightning.Trainer(
            max_epochs=1, callbacks=[callbacks.for_lightning(writer)], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, accelerator="cpu", default_root_dir=tmp_path,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(Module(inner), data)
        assert writer.written == [1, 3]


def test_hugging_face_trainer(tmp_path: pathlib.Path) -> None:
    """A real Trainer calls it after steps."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=2)
    rows = [{"pixel_values": torch.randn(3, 32, 32), "labels": i % 2} for i in range(8)]
    writer = MapWriter(_images(), Kept(), every=2, budget=None)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=2, report_to=[], save_strategy="no",
        use_cpu=True, disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    trainer = transformers.Trainer(
        transformers.ResNetForImageClassification(config), arguments, train_dataset=rows,
        callbacks=[callbacks.for_trainer(writer)],
    )  # fmt: skip
    trainer.train()
    assert writer.written == [1, 3]
