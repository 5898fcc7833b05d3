"""Shared by the command line, the notebook explorer and the web page: texts, file names, opened models.

torch and the rest of the package are imported when a model is opened: the command line answers `--help` without them.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..arguments import canonical, scope_of, slug
from ..errors import GradCamError, message_of, refuse_existing
from ..predictions import Prediction, class_label, percentage, predictions, probabilities

if TYPE_CHECKING:
    import os

    from torch import nn

    from .. import Sweep
    from ..loading import Preprocessing

__all__ = [
    "LayerChoice", "MethodFacts", "Opened", "Prediction", "check_method_name", "layer_choices", "method_facts",
    "method_names", "one_line", "open_model", "percentage", "predictions", "probabilities", "refuse_existing", "slug",
    "unique_slugs",
]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- words


def unique_slugs(texts: Sequence[str]) -> list[str]:
    """A slug for each text; the second of the same name gets a 2, whatever the case."""
    taken: set[str] = set()
    slugs = []
    for text in texts:
        name, count = slug(text), 1
        while (found := name if count == 1 else f"{name}-{count}").casefold() in taken:
            count += 1
        taken.add(found.casefold())
        slugs.append(found)
    return slugs


def one_line(error: BaseException) -> str:
    """The message of an error in one line; an unexpected kind of error is named."""
    message = message_of(error)
    expected = isinstance(error, (ValueError, TypeError, OSError, ImportError)) and not isinstance(error, UnicodeError)
    if expected and message:
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


# ------------------------------------------------------------------------------------------------- names of the methods


@functools.cache
def _functions() -> dict[str, ast.FunctionDef]:
    """The functions of the methods, read from the package's source: importing them takes seconds.

    Empty where there is no source to read.
    """
    found = {}
    folder = pathlib.Path(__file__).parents[1] / "methods"
    for path in sorted(folder.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and _registration(node) is not None:
                found[node.name] = node
    return found


def _registration(node: ast.FunctionDef) -> ast.Call | None:
    """The decorator that makes a function a method."""
    marks = (mark for mark in node.decorator_list if isinstance(mark, ast.Call))
    return next((mark for mark in marks if getattr(mark.func, "id", "") == "method"), None)


def method_names() -> dict[str, str]:
    """The methods of the package with their titles, without importing them; empty where there is no source."""
    marks = {name: _registration(node) for name, node in _functions().items()}
    return {name: str(ast.literal_eval(mark.args[0])) for name, mark in marks.items() if mark is not None}


class MethodFacts(NamedTuple):
    """What `methods.Method` says of a method, by the same names, as far as it decides which options fit."""

    name: str
    options: Sequence[str]
    scope: str
    gives: str
    aug_smooth: bool
    eigen_smooth: bool


def method_facts(name: str) -> MethodFacts | None:
    """The facts of a method by its name or title, without importing it; None where there is no source."""
    node = _functions().get(_spellings().get(canonical(name), ""))
    mark = None if node is None else _registration(node)
    if node is None or mark is None:
        return None
    given = {word.arg: word.value.value for word in mark.keywords if isinstance(word.value, ast.Constant)}
    return MethodFacts(
        node.name, [argument.arg for argument in node.args.kwonlyargs],
        scope_of(argument.arg for argument in node.args.args),
        "concepts" if "Factorization" in ast.unparse(node.returns or ast.Constant(None)) else "map",
        given.get("aug_smooth", True) is True, given.get("channelwise", False) is True,
    )  # fmt: skip


def check_method_name(name: str) -> None:
    """Refuses a name that no method has (see `methods.find`), without importing the methods."""
    known = _spellings()
    if known and canonical(name) not in known:
        close = list(dict.fromkeys(known[key] for key in difflib.get_close_matches(canonical(name), known)))
        remedy = f"did you mean {' or '.join(close)}?" if close else "grad-cam methods lists them"
        raise GradCamError(f"there is no method {name!r}", remedy=remedy)


def _spellings() -> dict[str, str]:
    """Names and titles, by their letters alone, with the names they stand for."""
    return {canonical(text): name for name, title in method_names().items() for text in (title, name)}


# --------------------------------------------------------------------------------------------------------------- models


class LayerChoice(NamedTuple):
    """A layer one can choose: its module path, type, grid, and its layer_idx if a top-level stage ends there."""

    name: str
    type: str
    grid: tuple[int, int]
    layer_idx: int | None

    @property
    def size(self) -> str:
        """Height and width of its map."""
        return f"{self.grid[0]} × {self.grid[1]}"


def layer_choices(found: Sweep) -> list[LayerChoice]:
    """The layers of a sweep, from the picture to the logits."""
    types = {stage.name: stage.type for stage in found.stages}
    return [
        LayerChoice(e.layer.name, types.get(e.layer.name, ""), (e.map.shape[-2], e.map.shape[-1]), e.layer.layer_idx)
        for e in found
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """A model ready to explain pictures.

    Attributes:
        name: The name it was opened by.
        model: The model.
        prepare: Preprocessing of its images.
        labels: Names of its classes, if known.
    """

    name: str
    model: nn.Module
    prepare: Preprocessing
    labels: list[str] | None

    @property
    def multi_label(self) -> bool:
        """Whether several classes may be true at once."""
        from ..loading.labels import is_multi_label

        return is_multi_label(self.model)

    def label(self, index: int) -> str:
        """Name of a class."""
        return class_label(self.labels, index)


def open_model(
    model: str | nn.Module,
    *,
    input_size: int | tuple[int, int] | None = None,
    crop: bool = True,
    pretrained: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    class_names: Sequence[str] | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Opened:
    """Opens a model: its module, its preprocessing and the names of its classes.

    Args:
        model: A name for `loading.load`, a model, or a chain of one.
        input_size: Another input size than its own: pixels, or (height, width).
        crop: As for `loading.preprocessing`: False keeps the whole of every photo.
        pretrained: As for `loading.load`; a checkpoint takes the place of the published weights.
        checkpoint: As for `loading.load`.
        class_names: Names of its classes instead of those that are known.
        device: Where to compute, such as "cuda"; where the model is by default.
        dtype: Name of a floating type, such as "bfloat16"; the model's own by default.

    Raises:
        ValueError: There is no such model or device, or the names do not fit the classes.
    """
    import torch

    from .. import Chain, loading

    if device is not None:  # before the model, which takes longer
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = one_line(error).partition(": ")[2].partition(". ")[0]
            raise GradCamError(f"there is no device {device!r}", reason, "the CPU is always there") from None
    if isinstance(model, str):
        name, found = model, loading.load(model, pretrained=pretrained and checkpoint is None, checkpoint=checkpoint)
    else:
        found = model.model if isinstance(model, Chain) else model
        name = type(found).__name__
    if class_names is not None:
        found.class_names = list(class_names)  # type: ignore[assignment]
    if device is not None or dtype is not None:
        try:
            found = found.to(device=device, dtype=None if dtype is None else getattr(torch, dtype))
        except (RuntimeError, AssertionError) as error:
            reason = one_line(error).partition(": ")[2].partition(". ")[0]
            raise ValueError(f"{name} cannot be moved to the device {device!r}: {reason}") from None
    return Opened(name, found, loading.preprocessing(found, input_size, crop=crop), loading.class_names(found))
