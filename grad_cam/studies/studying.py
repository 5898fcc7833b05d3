"""`study`: how a model decides about a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..arguments import as_index, check_model
from ..errors import GradCamError
from ..folders.sources import Anything
from ..habits import answered
from ..introspection import matched_to
from ..loading import Preprocessing
from ..outputs import Output
from ..splitting import Chain
from ..splitting.public import network_of, open_images
from .classes import Classes, correct, matched
from .concepts import Concepts, concepts_of
from .features import features_of
from .knowledge import knowledge_of
from .pictures import Pictures
from .results import Study
from .shortcuts import Forward, Shortcut, Tested, shortcuts_of
from .summaries import summaries_of

Progress = Callable[[str, int, int], None]
"""Called with what is under way, the steps done and their number."""


@answered
def study(
    model: nn.Module, source: Anything | Pictures, *, limit: int | None = None, shortcuts: bool = True,
    summaries: bool = True, concepts: int = 0, batch_size: int = 16, seed: int = 0, name: str | None = None,
    prepare: Preprocessing | None = None, output: Output = None, progress: Progress | None = None,
) -> Study:  # fmt: skip
    """Studies a model on a folder of pictures: where it decides, and what it decides by.

    Args:
        model: Any image classifier, or a `Chain` of one; it is left exactly as found.
        source: A folder that holds one folder for each class, a table with the columns path, class and box or
            mask, a dataset, the folder of a run (`grad_cam.run`), or `Pictures`. With boxes of the objects a shortcut
            is looked for wherever the object is not; without, at the rim, and inside only what is the same from picture
            to picture.
        limit: Largest number of pictures of each class.
        shortcuts: Whether to look for shortcuts.
        summaries: Whether to sum up the maps of every class.
        concepts: Number of concepts to find of each class, at the recommended layer; 0 for none.
        batch_size: Images at a time.
        seed: Of every choice at random.
        name: Name of the model; its class by default.
        prepare: How pictures are made into images; by default as the model declares.
        output: As for `explain`.
        progress: Called with what is under way, the steps done and their number.

    Returns:
        A frozen `Study`; `print` shows the findings, ``study.report("study.html")`` writes the page.

    Raises:
        GradCamError: The folder does not hold two classes of two pictures, or the model has no classes.
    """
    check_model(model)
    batch_size = as_index(batch_size, "batch_size", least=1)
    inner = network_of(model)
    if isinstance(model, Chain) and output is None:
        output = model.output
    pictures = source if isinstance(source, Pictures) else Pictures.of_source(
        source, inner, prepare=prepare, limit=limit
    )  # fmt: skip
    found = features_of(
        inner, pictures, batch_size=batch_size, output=output, progress=_part(progress, "Reading the depths")
    )
    logits = _of_classes(found.logits)
    labels, answers = torch.tensor(pictures.labels), logits.argmax(1)
    classes = matched(inner, pictures.classes, labels, answers)
    knowledge = knowledge_of(found, labels, answers, correct(classes, labels, answers), seed)
    made: tuple[tuple[Shortcut, ...] | None, tuple[Tested, ...]] = (None, ())
    if shortcuts:
        made = shortcuts_of(
            pictures, found.small, logits, classes.indices, _forward(inner, output, pictures), seed=seed,
            progress=_part(progress, "Looking for shortcuts"),
        )  # fmt: skip
    summed = None
    if summaries:
        summed = summaries_of(
            inner, pictures, found.pooled[knowledge.recommended], classes, answers, knowledge.layer,
            batch_size=batch_size, output=output, progress=_part(progress, "Taking the maps"),
        )  # fmt: skip
    notes = [f"Which of the model's classes a folder is: {classes.note}."]
    notes += [f"{file} could not be read: {why}" for file, why in pictures.failed.items()]
    return Study(
        name or type(inner).__name__, pictures, classes, tuple(answers.tolist()), knowledge, *made, summed,
        _concepts(inner, pictures, classes, answers, knowledge.layer, concepts, output, seed, progress), tuple(notes)
    )  # fmt: skip


def _concepts(
    model: nn.Module, pictures: Pictures, classes: Classes, answers: Tensor, layer: int | str, count: int,
    output: Output, seed: int, progress: Progress | None,
) -> tuple[Concepts, ...]:  # fmt: skip
    """The concepts of every class, of the pictures that the model takes for it."""
    found = []
    for k, index in enumerate(classes.indices if count else ()):
        members = [i for i, label in enumerate(pictures.labels) if label == k and int(answers[i]) == index]
        if index is not None and len(members) > 1:
            name = pictures.classes[k]
            found.append(
                concepts_of(model, pictures, name, index, members, layer, count=count, seed=seed, output=output)
            )
        if progress is not None:
            progress("Finding concepts", k + 1, len(classes.indices))
    return tuple(found)


def _of_classes(logits: Tensor) -> Tensor:
    """Logits of two classes at least; a single output is the logit of the second of two."""
    if logits.ndim != 2:
        raise GradCamError(
            "a study needs a model that gives scores of classes", f"its output is {tuple(logits.shape)}",
            "output=... says which part of what it returns are the logits",
        )  # fmt: skip
    return torch.cat([-logits / 2, logits / 2], 1) if logits.shape[1] == 1 else logits


def _forward(model: nn.Module, output: Output, pictures: Pictures) -> Forward:
    """The model as a function from images to logits of classes."""
    cutter = open_images(model, matched_to(model, pictures.images([0, 1])), output, 1)

    def logits(images: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return _of_classes(cutter.forward(matched_to(model, images)))

    return logits


def _part(progress: Progress | None, text: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(text, done, total)
