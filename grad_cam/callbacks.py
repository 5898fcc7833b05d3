"""Maps while a model is trained: the same pictures again and again, to files, TensorBoard or Weights & Biases.

`MapWriter` is for a loop of one's own; `for_lightning` and `for_trainer` make callbacks of it for Lightning and for the
Trainer of Hugging Face. The model that is trained is left exactly as it is: maps are made on an eval copy.
"""

from __future__ import annotations

import contextlib
import importlib
import pathlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from .arguments import as_index
from .engine import explain
from .errors import GradCamError, MissingExtraError, import_extra, message_of
from .introspection import matched_to
from .rendering import Display, save

__all__ = ["MapWriter", "Sink", "for_lightning", "for_trainer", "to_files", "to_tensorboard", "to_wandb"]

Sink = Callable[[int, dict[str, Image.Image]], None]
"""Where pictures go: called with the step and the overlays by name."""

FIRST = 10
"""What the first maps of a model cost at most, in forward passes of the same pictures; three is the most seen."""


class MapWriter:
    """Writes the maps of the same pictures every so many steps of a training.

    In a loop of one's own: ``writer = MapWriter(images, to_files("maps"))``, then ``writer.step(model)`` after every
    step. The time it takes is measured and held under a part of the time that has passed: maps come every `every` steps
    where that costs less, else as soon as what the last ones took is within the part again. An error while maps are
    made ends the writing with a warning and never the training. In distributed training the first process alone writes.

    Args:
        images: (B, C, H, W), normalised as the model expects; a few are enough.
        sink: Where to: `to_files`, `to_tensorboard`, `to_wandb` or a function of the step and the pictures by name.
        every: Steps between two sets of maps at least.
        budget: The part of the time that maps may take; None writes every `every` steps whatever it costs.
        target: As for `explain`, such as the classes of the pictures; the predicted ones by default.
        names: What to call the pictures; their numbers by default.
        display: How maps are shown; `Display()` by default.
        clock: The clock, in seconds.
        **options: layer, method, output and the method's own options, as for `explain`.

    Attributes:
        written: The steps that maps were written at.
        spent: Seconds that took.

    Raises:
        GradCamError: The budget is not between 0 and 1, or the names do not fit the images.
    """

    def __init__(
        self, images: Tensor, sink: Sink, *, every: int = 100, budget: float | None = 0.02, target: Any = None,
        names: Sequence[str] | None = None, display: Display | None = None,
        clock: Callable[[], float] = time.perf_counter, **options: Any,
    ) -> None:  # fmt: skip
        if budget is not None and not 0 < budget <= 1:
            raise GradCamError(
                f"budget={budget!r} is not a part of the time", remedy="give a number above 0, up to 1, or None"
            )
        self.names: list[str] = [f"image {i}" for i in range(len(images))] if names is None else list(names)
        if len(self.names) != len(images) or len(set(self.names)) != len(images):
            raise GradCamError(f"{len(self.names)} names for {len(images)} images", remedy="give another name for each")
        self.images: Tensor = images
        self.sink: Sink = sink
        self.every: int = as_index(every, "every", least=1)
        self.budget: float | None = budget
        self.target: Any = target
        self.display: Display = Display.of(display)
        self.options: dict[str, Any] = options
        self.written: list[int] = []
        self.spent: float = 0.0
        self._clock, self._start, self._count = clock, None, 0
        self._due, self._cost, self._ended = 0, None, False

    _start: float | None
    _cost: float | None

    def step(self, model: nn.Module, step: int | None = None) -> bool:
        """Writes maps if it is time to; call it after every step of the training.

        Args:
            model: The model that is trained.
            step: The number of the step; by default the calls are counted.

        Returns:
            Whether maps were written.
        """
        step = self._count if step is None else step
        self._count += 1
        if self._start is None:
            self._start = self._clock()
        if self._ended or step < self._due or not _is_first_process() or not self._affordable(model):
            return False
        self.write(model, step)
        return not self._ended

    def write(self, model: nn.Module, step: int) -> None:
        """Writes maps now, whatever they cost."""
        _wait(model)
        begun = self._clock()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a map that is nowhere positive is nothing unusual here
                self.sink(step, self._pictures(model))
        except Exception as error:  # whatever it is: maps are not worth a training
            self._ended = True
            warnings.warn(f"no more maps are written: {message_of(error)}", stacklevel=3)
            return
        finally:
            self._cost = self._clock() - begun
            self.spent += self._cost
        self.written.append(step)
        self._due = step + self.every

    def _pictures(self, model: nn.Module) -> dict[str, Image.Image]:
        found = explain(model, self.images, target=self.target, **self.options)
        return {name: found.overlay(i, display=self.display) for i, name in enumerate(self.names)}

    def _affordable(self, model: nn.Module) -> bool:
        """Whether the next maps stay within the budget."""
        if self.budget is None:
            return True
        if self._cost is None:
            self._cost = FIRST * self._forward_time(model)
        assert self._start is not None
        return self.spent + self._cost <= self.budget * (self._clock() - self._start)

    def _forward_time(self, model: nn.Module) -> float:
        """Seconds that one forward pass of one of the pictures takes, times their number; the model is as it was."""
        modes = [(module, module.training) for module in model.modules()]
        _wait(model)
        begun = self._clock()
        one = matched_to(model, self.images[:1])
        try:
            model.eval()
            with torch.no_grad():
                model(one)
            _wait(model)
        finally:
            for module, training in modes:
                module.training = training
        took = self._clock() - begun
        self.spent += took
        return took * len(self.images)


def _wait(model: nn.Module) -> None:
    """Waits for what a GPU has still to do, so that the clock shows what was done in between."""
    weight = next(model.parameters(), None)
    if weight is not None and weight.is_cuda:
        torch.cuda.synchronize(weight.device)


def _is_first_process() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized() and distributed.get_rank() != 0)


# -------------------------------------------------------------------------------------------------------------- sinks


def to_files(folder: str | pathlib.Path) -> Sink:
    """Writes a row of overlays for each step into a folder, `step-00000100.png`; a file of that name is replaced."""
    root = pathlib.Path(folder)

    def sink(step: int, pictures: dict[str, Image.Image]) -> None:
        save(_row(list(pictures.values())), root / f"step-{step:08d}.png", force=True)

    return sink


def to_tensorboard(writer: Any, tag: str = "maps") -> Sink:
    """Adds overlays to TensorBoard.

    Args:
        writer: A `SummaryWriter`, or the folder of its logs.
        tag: What their names begin with.

    Raises:
        ImportError: `writer` is a folder and the extra ``[tensorboard]`` is not installed.
    """
    if isinstance(writer, (str, pathlib.Path)):
        module = "torch.utils.tensorboard"
        writer = import_extra(module, "to_tensorboard needs TensorBoard", "tensorboard").SummaryWriter(str(writer))

    def sink(step: int, pictures: dict[str, Image.Image]) -> None:
        for name, picture in pictures.items():
            writer.add_image(f"{tag}/{name}", _pixels(picture), step)
        writer.flush()

    return sink


def to_wandb(run: Any, tag: str = "maps") -> Sink:
    """Logs overlays to a run of Weights & Biases, which may be offline.

    Args:
        run: What `wandb.init` returned. Its own count of steps is left alone: the step is logged beside the pictures.
        tag: What they are called.

    Raises:
        ImportError: The extra ``[wandb]`` is not installed.
    """
    image = import_extra("wandb", "to_wandb needs wandb", "wandb").Image

    def sink(step: int, pictures: dict[str, Image.Image]) -> None:
        run.log({tag: [image(picture, caption=name) for name, picture in pictures.items()], f"{tag}/step": step})

    return sink


def _row(pictures: Sequence[Image.Image]) -> Image.Image:
    row = Image.new("RGB", (sum(p.width for p in pictures), max(p.height for p in pictures)))
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width
    return row


def _pixels(picture: Image.Image) -> Tensor:
    """uint8 (3, H, W)."""
    values = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    return values.reshape(picture.height, picture.width, 3).permute(2, 0, 1)


# --------------------------------------------------------------------------------------------------------- frameworks


def for_lightning(writer: MapWriter, model: Callable[[Any], nn.Module] | None = None) -> Any:
    """A Lightning callback that writes maps after training batches.

    Args:
        writer: What writes.
        model: From the LightningModule to the network that takes images; by default its attribute `model` or `net`,
            else the module itself.

    Raises:
        ImportError: Neither lightning nor pytorch_lightning is installed.
    """
    try:
        base = importlib.import_module("lightning.pytorch").Callback
    except ImportError:
        try:
            base = importlib.import_module("pytorch_lightning").Callback
        except ImportError:
            raise MissingExtraError("for_lightning needs lightning", remedy="pip install lightning") from None

    class Maps(base):  # type: ignore[misc, valid-type]
        """Writes maps after training batches."""

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any, **__: Any) -> None:
            """Called by Lightning."""
            with _without_trainer(pl_module):
                writer.step(_network(pl_module) if model is None else model(pl_module), int(trainer.global_step))

    return Maps()


@contextlib.contextmanager
def _without_trainer(module: Any) -> Iterator[None]:
    """Takes the trainer off a LightningModule: a copy of the module would hold a copy of the whole training."""
    trainer = module.__dict__.get("_trainer")
    module.__dict__["_trainer"] = None
    try:
        yield
    finally:
        module.__dict__["_trainer"] = trainer


def _network(module: Any) -> nn.Module:
    """The network within a LightningModule."""
    for name in ("model", "net"):
        found = getattr(module, name, None)
        if isinstance(found, nn.Module):
            return found
    own: nn.Module = module
    return own


def for_trainer(writer: MapWriter) -> Any:
    """A callback for the Trainer of Hugging Face that writes maps after optimisation steps.

    Raises:
        ImportError: The extra ``[hf]`` is not installed.
    """
    base = import_extra("transformers", "for_trainer needs transformers", "hf").TrainerCallback

    class Maps(base):  # type: ignore[misc, valid-type]
        """Writes maps after optimisation steps."""

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            """Called by the Trainer."""
            writer.step(model, int(state.global_step))

    return Maps()
