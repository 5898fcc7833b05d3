"""What is explained: a target turns the model's output into one score per image.

A target is any callable from logits (B, classes) to scores (B,). The ones here also know the names of classes, say
what they explain in words, and hold on to their choice: `resolve` fixes the classes on the logits of the images
themselves, so that a score keeps its meaning on the logits of masked, noisy or chunked versions of them.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .arguments import ArgumentTypeError, as_number, is_index
from .errors import GradCamError

Class = int | str | None
"""A class: its index, its name, or None for the class predicted for each image."""

Names = Sequence[str] | Callable[[str], int] | None
"""The names of a model's classes in order, or a function from a name to its index, or None where they are unknown."""


class TargetError(GradCamError):
    """A target does not fit the model's output; the message says what would."""


# ------------------------------------------------------------------------------------------------------------- results


@dataclasses.dataclass(frozen=True, eq=False)
class Score:
    """One score per image, with its classes fixed.

    Attributes:
        function: Logits (N, classes) and the image of every row (N,) to scores (N,).
        names: What is explained, in words, one per image of the batch it was made for.
        classes: Class indices (B,), or None if it is not about a class.
    """

    function: Callable[[Tensor, Tensor], Tensor] = dataclasses.field(repr=False)
    names: tuple[str, ...]
    classes: Tensor | None = None

    def __call__(self, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        """Scores logits.

        Args:
            logits: (N, classes).
            rows: The image of the original batch that each row is a version of, (N,); None means all in order.

        Returns:
            (N,).
        """
        if rows is None:
            if len(logits) != len(self.names):
                raise TargetError(
                    f"logits of {len(logits)} rows for a target made for {len(self.names)} images: say which image "
                    "each row belongs to with rows="
                )
            rows = torch.arange(len(logits))
        scores = self.function(logits, rows.to(logits.device))
        if not isinstance(scores, Tensor) or scores.numel() != len(logits) or scores.ndim > 2:
            got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise TargetError(
                f"the target gave {got} for {len(logits)} images: it must turn logits {tuple(logits.shape)} into one "
                f"score per image, ({len(logits)},), without a sum or a mean over the batch"
            )
        return scores.reshape(-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Resolved:
    """A target fixed on a batch.

    Attributes:
        scores: K scores per image.
        classes: Class indices (B, K), or None if a score is not about a class.
        names: What is explained, in words: one list of K names per image.
        several: Whether the target asked for a list of scores per image, so that maps are (B, K, h, w).
    """

    scores: tuple[Score, ...]
    classes: Tensor | None
    names: list[list[str]]
    several: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A target that can be named and fixed on a batch; made by the functions below.

    Attributes:
        name: How it is written.
        bind: Logits and class names to K scores.
        several: Whether it gives a list of scores per image.
    """

    name: str
    bind: Callable[[Tensor, Names], tuple[Score, ...]] = dataclasses.field(repr=False)
    several: bool = False

    def __call__(self, logits: Tensor) -> Tensor:
        """Scores a batch on its own logits: (B, classes) to (B,), or (B, K) for `top`."""
        scores = self.bind(logits.detach(), None)
        return torch.stack([score(logits) for score in scores], 1) if self.several else scores[0](logits)

    def __repr__(self) -> str:
        """Writes it as it is made."""
        return self.name


# -------------------------------------------------------------------------------------------------------------- targets


def logit(k: Class) -> Target:
    """The logit of class k: y_k.

    Args:
        k: Index, name, or None for the predicted class.
    """
    return _of_class(f"logit({k!r})", k, lambda logits, index: _pick(logits, index), "{}")


def predicted() -> Target:
    """The logit of the class predicted for each image; the default."""
    return dataclasses.replace(logit(None), name="predicted()")


def negative(k: Class = None) -> Target:
    """Minus the logit of class k: what speaks against it.

    Args:
        k: Index, name, or None for the predicted class.

    Source:
        Selvaraju et al., ICCV 2017, sec. 3 (counterfactual explanations), https://arxiv.org/abs/1610.02391
    """
    return _of_class(f"negative({k!r})", k, lambda logits, index: -_pick(logits, index), "against {}")


def probability(k: Class = None) -> Target:
    """The probability of class k: softmax over the classes, or the sigmoid of a model with a single output.

    Args:
        k: Index, name, or None for the predicted class.

    Note:
        The gradient of a softmax vanishes where the model is sure; the logit's does not.
    """

    def score(logits: Tensor, index: Tensor) -> Tensor:
        return logits[:, 0].sigmoid() if logits.shape[1] == 1 else _pick(logits.softmax(1), index)

    return _of_class(f"probability({k!r})", k, score, "probability of {}")


def difference(a: Class, b: Class) -> Target:
    """Why a rather than b: y_a - y_b.

    Args:
        a: Index, name, or None for the predicted class.
        b: Likewise.
    """

    def bind(logits: Tensor, names: Names) -> tuple[Score, ...]:
        first, second = _indices(a, logits, names), _indices(b, logits, names)
        if bool((first == second).any()):
            image = int((first == second).nonzero()[0])
            raise TargetError(
                f"difference({a!r}, {b!r}) compares class {int(first[image])} with itself in image {image}"
            )
        words = [
            f"{one} rather than {other}" for one, other in zip(_words(first, names), _words(second, names), strict=True)
        ]
        return (Score(lambda z, rows: _pick(z, first[rows]) - _pick(z, second[rows]), tuple(words), first),)

    return Target(f"difference({a!r}, {b!r})", bind)


def top(k: int = 5) -> Target:
    """The k most probable classes of each image, likeliest first: k maps per image from one pass of the extractor.

    Args:
        k: Number of classes, 1..classes.
    """

    def bind(logits: Tensor, names: Names) -> tuple[Score, ...]:
        _require_classes(logits)
        if not is_index(k) or not 1 <= k <= logits.shape[1]:
            raise TargetError(f"top({k!r}) of a model with {logits.shape[1]} classes: use 1..{logits.shape[1]}")
        best = logits.topk(int(k), dim=1).indices  # (B,k)
        return tuple(_class_score(column, names) for column in best.unbind(1))

    return Target(f"top({k!r})", bind, several=True)


def finer(classes: int | Sequence[int | str] = 3, gamma: float = 0.6, k: Class = None) -> Target:
    """What tells a class from the ones most like it: y_k - gamma mean of the other classes' logits.

    Args:
        classes: How many of the nearest other logits to compare with (at most all of them), or the classes themselves.
        gamma: Strength of the comparison, 0 (none) and up.
        k: Index, name, or None for the predicted class.

    Raises:
        GradCamError: `gamma` is no number from 0 on.

    Source:
        Zhang et al., CVPR 2025, https://arxiv.org/abs/2501.11309
    """
    gamma = as_number(gamma, "gamma", 0, what="a strength", remedy="give 0 (no comparison) or more")
    if hasattr(classes, "tolist"):  # tensors, arrays and their scalars
        classes = classes.tolist()

    def bind(logits: Tensor, names: Names) -> tuple[Score, ...]:
        own = _indices(k, logits, names)  # (B,)
        if logits.shape[1] < 2:
            raise TargetError("finer compares classes, and this model has one output: use binary() or regression()")
        if is_index(classes):
            if classes < 1:
                raise TargetError(f"finer(classes={classes}) compares with nothing: use 1 or more")
            distance = (logits - _pick(logits, own)[:, None]).abs().scatter(1, own[:, None], torch.inf)
            count = min(int(classes), logits.shape[1] - 1)
            others = distance.topk(count, dim=1, largest=False).indices  # (B,n)
        else:
            if not isinstance(classes, Sequence) or isinstance(classes, str) or not classes:
                raise TargetError(f"finer(classes={classes!r}): give a number of classes, or a list of them")
            others = torch.stack([_indices(each, logits, names) for each in classes], 1)
            if bool((others == own[:, None]).any()):
                raise TargetError(f"finer(classes={classes!r}) compares class {k!r} with itself: leave it out")
        words = [f"what sets {word} apart" for word in _words(own, names)]

        def score(z: Tensor, rows: Tensor) -> Tensor:
            return _pick(z, own[rows]) - gamma * z.gather(1, others[rows]).mean(1)

        return (Score(score, tuple(words), own),)

    return Target(f"finer({classes!r}, {gamma!r}, {k!r})", bind)


def binary(positive: bool = True) -> Target:
    """The answer of a model with one logit: the logit itself for yes, minus the logit for no.

    Args:
        positive: Which answer to explain.
    """

    def bind(logits: Tensor, names: Names) -> tuple[Score, ...]:
        if _columns(logits).shape[1] != 1:
            raise TargetError(f"binary() is for models with one output, this one has {logits.shape[1]}: use logit(k)")
        sign, word = (1, "yes") if positive else (-1, "no")
        return (Score(lambda z, rows: sign * _columns(z)[:, 0], (word,) * len(logits)),)

    return Target(f"binary({positive!r})", bind)


def regression(i: int = 0) -> Target:
    """Output i of a model that predicts numbers.

    Args:
        i: Which of the outputs.
    """

    def bind(logits: Tensor, names: Names) -> tuple[Score, ...]:
        count = _columns(logits).shape[1]
        if not is_index(i) or not 0 <= i < count:
            raise TargetError(f"regression({i!r}) of a model with {count} outputs: use 0..{count - 1}")
        return (Score(lambda z, rows: _columns(z)[:, int(i)], (f"output {int(i)}",) * len(logits)),)

    return Target(f"regression({i!r})", bind)


def similarity(embedding: Tensor) -> Target:
    """Cosine similarity of the model's output with an embedding, such as its output for another image.

    Args:
        embedding: (D,), or (B, D) for one per image.
    """
    if not isinstance(embedding, Tensor):
        raise ArgumentTypeError(
            "an embedding is a tensor",
            type(embedding).__name__,
            "give the model's output for an image",
        )
    embedding = embedding.detach()

    def bind(logits: Tensor, names: Names) -> tuple[Score, ...]:
        batch, size = logits.shape
        if embedding.shape not in ((size,), (1, size), (batch, size)):
            raise TargetError(
                f"similarity to an embedding {tuple(embedding.shape)}, but the model's output is {tuple(logits.shape)}:"
                f" use ({size},) or ({batch}, {size})"
            )
        each = embedding.expand(batch, -1)

        def score(z: Tensor, rows: Tensor) -> Tensor:
            return functional.cosine_similarity(z, each.to(z)[rows], dim=1)

        return (Score(score, ("similarity",) * batch),)

    return Target(f"similarity({tuple(embedding.shape)})", bind)


def segmentation(k: int | str, mask: Any = None) -> Target:
    """The logits of class k inside a region of a segmentation model's output, summed.

    Args:
        k: Index or name of the class.
        mask: Region, (H, W) or (B, H, W) at the size of the model's output, bool or weights 0..1, tensor or array.
            None takes the pixels where k is the predicted class.

    Source:
        Vinogradova et al., AAAI 2020 (Seg-Grad-CAM), eq. 2, https://arxiv.org/abs/2002.11434
    """
    try:
        region = None if mask is None else torch.as_tensor(mask)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(
            "a mask is an array or tensor of bool or weights 0..1", type(mask).__name__, "give (H, W) or (B, H, W)"
        ) from error

    def bind(logits: Tensor, names: Names) -> tuple[Score, ...]:
        if logits.ndim != 4:
            raise TargetError(
                f"segmentation() needs an output (B, classes, H, W), this one is {tuple(logits.shape)}: use logit(k)"
            )
        batch, count, height, width = logits.shape
        index = _index(k, count, names)
        inside = logits.argmax(1) == index if region is None else region  # (B,H,W) or (H,W)
        if inside.shape not in ((height, width), (1, height, width), (batch, height, width)):
            raise TargetError(
                f"a mask {tuple(inside.shape)} for an output of {height} x {width} pixels and {batch} images: resize "
                f"it to ({height}, {width}) or ({batch}, {height}, {width})"
            )
        inside = inside.expand(batch, -1, -1)
        empty = [b for b in range(batch) if not bool(inside[b].any())]
        if empty:
            why = "the class is predicted nowhere" if region is None else "the mask is empty"
            raise TargetError(f"segmentation({k!r}): {why} in image {empty[0]}; give a mask that covers some pixels")

        def score(z: Tensor, rows: Tensor) -> Tensor:
            return (z[:, index] * inside.to(z)[rows]).sum((1, 2))

        chosen = torch.full((batch,), index, device=logits.device)
        return (Score(score, tuple(_words(chosen, names)), chosen),)

    return Target(f"segmentation({k!r})", bind)


# -------------------------------------------------------------------------------------------------------------- resolve


def resolve(target: Any, logits: Tensor, names: Names = None) -> Resolved:
    """Fixes a target on a batch.

    Args:
        target: None (the predicted class); a class index or name; a list with one class or target per image; a list of
            lists with K classes per image; `top(k)` or another target; or any callable from logits to scores (B,).
        logits: The model's output for the batch, (B, classes), or (B, classes, H, W) for `segmentation`.
        names: Class names in order, or a function from a name to an index.

    Returns:
        K scores per image with their classes and names.

    Raises:
        TargetError: An index out of range, an unknown name, a list that does not fit the batch, a callable whose
            result is not one score per image, a kind of target that does not fit the output.
        TypeError: Not a target at all.
    """
    if hasattr(target, "tolist"):  # tensors, arrays and their scalars
        target = target.tolist()
    logits = logits.detach()
    if isinstance(target, (list, tuple)):
        return _resolve_list(list(target), logits, names)
    scores, several = _bind(target, logits, names)
    return _resolved(scores, several)


def _resolve_list(target: list[Any], logits: Tensor, names: Names) -> Resolved:
    batch = len(logits)
    if len(target) != batch:
        hint = f"; for {len(target)} classes of each image, write one list per image: [[...]]" if target else ""
        raise TargetError(f"a target list of {len(target)} for a batch of {batch}: give one entry per image{hint}")
    rows = [list(each) if isinstance(each, (list, tuple)) else each for each in target]
    nested = [isinstance(each, list) for each in rows]
    if any(nested):
        lengths = sorted({len(each) if isinstance(each, list) else 1 for each in rows})
        if not all(nested) or len(lengths) > 1 or lengths[0] == 0:
            raise TargetError(f"a target list of lists needs equally many classes, 1 or more, in each: got {target}")
        columns = [[row[k] for row in rows] for k in range(lengths[0])]
    else:
        columns = [rows]
    scores = tuple(_per_image(column, logits, names) for column in columns)
    return _resolved(scores, any(nested))


def _per_image(column: list[Any], logits: Tensor, names: Names) -> Score:
    """One score whose meaning differs from image to image."""
    if all(each is None or _is_class(each) for each in column):
        _require_classes(logits)
        best = logits.argmax(1)
        index = [best[b] if each is None else _index(each, logits.shape[1], names) for b, each in enumerate(column)]
        return _class_score(torch.as_tensor(index, device=logits.device), names)
    parts = []
    for b, each in enumerate(column):
        bound, several = _bind(each, logits[b : b + 1], names)
        if several:
            raise TargetError(f"{each!r} gives several scores and cannot stand in a list: use it for the whole batch")
        parts.append(bound[0])

    def score(z: Tensor, rows: Tensor) -> Tensor:
        out: list[Tensor] = [z.new_empty(0)] * len(z)
        for b in rows.unique().tolist():
            at = (rows == b).nonzero()[:, 0]
            for place, value in zip(at.tolist(), parts[b](z[at], torch.zeros_like(at)), strict=True):
                out[place] = value
        return torch.stack(out)

    known = [part.classes for part in parts if part.classes is not None]
    classes = torch.cat(known) if len(known) == len(parts) else None
    return Score(score, tuple(part.names[0] for part in parts), classes)


def _bind(target: Any, logits: Tensor, names: Names) -> tuple[tuple[Score, ...], bool]:
    if target is None or _is_class(target):
        target = logit(target)
    if isinstance(target, Target):
        return target.bind(logits, names), target.several
    if not callable(target) or isinstance(target, type):
        raise TypeError(
            f"target={target!r} is not a target: use None, a class index or name, a list with one per image, "
            "a target from grad_cam.targets, or a function from logits to one score per image"
        )
    word = getattr(target, "__name__", type(target).__name__)
    word = "custom target" if word == "<lambda>" else word
    score = Score(lambda z, rows: target(z), (word,) * len(logits))
    score(logits)  # complains now rather than in the middle of the work
    return (score,), False


def _resolved(scores: tuple[Score, ...], several: bool) -> Resolved:
    columns = [score.classes for score in scores if score.classes is not None]
    classes = torch.stack(columns, 1) if len(columns) == len(scores) else None
    names = [list(row) for row in zip(*(score.names for score in scores), strict=True)]
    return Resolved(scores, classes, names, several)


# -------------------------------------------------------------------------------------------------------------- classes


def _is_class(value: Any) -> bool:
    return isinstance(value, str) or is_index(value)


def _of_class(name: str, k: Class, score: Callable[[Tensor, Tensor], Tensor], words: str) -> Target:
    """A target about one class: score takes logits (N, classes) and the class of every row (N,)."""

    def bind(logits: Tensor, names: Names) -> tuple[Score, ...]:
        index = _indices(k, logits, names)  # (B,)
        said = tuple(words.format(word) for word in _words(index, names))
        return (Score(lambda z, rows: score(z, index[rows]), said, index),)

    return Target(name, bind)


def _class_score(index: Tensor, names: Names) -> Score:
    return Score(lambda z, rows: _pick(z, index[rows]), tuple(_words(index, names)), index)


def _pick(logits: Tensor, index: Tensor) -> Tensor:
    """The entry of each row: (N, classes) and (N,) to (N,)."""
    return logits.gather(1, index[:, None])[:, 0]


def _columns(logits: Tensor) -> Tensor:
    return logits[:, None] if logits.ndim == 1 else logits


def _require_classes(logits: Tensor) -> None:
    if logits.ndim == 2:
        return
    hint = "segmentation(k, mask)" if logits.ndim == 4 else "a function from this output to one score per image"
    raise TargetError(f"the model's output {tuple(logits.shape)} is not (B, classes): use {hint} as the target")


def _indices(k: Class, logits: Tensor, names: Names) -> Tensor:
    """The class of every image, (B,)."""
    _require_classes(logits)
    if k is None:
        return logits.argmax(1)
    return torch.full((len(logits),), _index(k, logits.shape[1], names), device=logits.device)


def _index(k: Any, count: int, names: Names) -> int:
    if isinstance(k, str):
        k = _named(k, names)
    if not _is_class(k):
        raise TypeError(f"{k!r} is not a class: use an index 0..{count - 1} or a name")
    if not 0 <= k < count:
        raise TargetError(f"class {k} of a model with {count} classes: use 0..{count - 1}")
    return int(k)


def _named(name: str, names: Names) -> int:
    if callable(names):
        return names(name)
    if names is None:
        raise TargetError(f"class {name!r}: this model does not tell the names of its classes; give an index")
    for key in (str, str.casefold):
        found = [i for i, each in enumerate(names) if key(each) == key(name)]
        if len(found) > 1:
            raise TargetError(f"{len(found)} classes are named {name!r}: give one of the indices {found}")
        if found:
            return found[0]
    lowered = {each.casefold(): each for each in names}
    close = difflib.get_close_matches(name.casefold(), lowered, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(lowered[each]) for each in close)}?" if close else "give an index"
    raise TargetError(f"this model has no class {name!r}: {hint}")


def _words(index: Tensor, names: Names) -> list[str]:
    known = names is not None and not callable(names)
    return [str(names[i]) if known and i < len(names) else f"class {i}" for i in index.tolist()]
