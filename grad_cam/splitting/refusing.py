"""Errors that a model raises for a batch, said as what does not fit."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..errors import InputError, message_of
from ..introspection import input_description


def refusal(error: BaseException, model: nn.Module, images: Tensor, inputs: Any) -> InputError | None:
    """What to say of an error that a model raised; None where its own code raised it, which is passed on as it is.

    Args:
        error: The error.
        model: The model.
        images: The batch.
        inputs: What else it was given, or None.
    """
    name = type(model).__name__
    if isinstance(error, (TypeError, AttributeError)):
        pair = hasattr(model, "get_text_features")
        if inputs is not None or not (pair or "required positional argument" in str(error)):
            return None
        texts = 'target=targets.text("a red cup") (--text), or ' * pair
        return InputError(
            f"{name} takes more than images", message_of(error),
            f'give {texts}inputs={{"name": value}}: explain(model, images, inputs=...)',
        )  # fmt: skip
    if not _from_library(error):
        return None
    return InputError(
        f"{name} refuses a batch of shape {tuple(images.shape)}: {message_of(error, 300)}",
        input_description(model) or "nothing in the model says what size it takes",
        "example=torch.zeros(1, channels, height, width) or images of a shape that the model takes",
    )


def _from_library(error: BaseException) -> bool:
    """Whether an error was raised by a library's check of its input rather than by the model's own code."""
    place = error.__traceback__
    name = ""
    while place is not None:
        here = place.tb_frame.f_globals.get("__name__", "")
        if not here.startswith("grad_cam.") and here != "torch.overrides":
            name = here
        place = place.tb_next
    return name.partition(".")[0] in ("torch", "torchvision", "timm", "transformers")
