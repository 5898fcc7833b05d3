"""The targets: each has a name and turns logits into one score per image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from ..arguments import as_number, is_index
from ..habits import answered
from .classes import PerRow, class_score, columns, indices, labels, pick, plain, require_classes
from .regions import top_classes
from .score import Class, Names, Score, Target, TargetError

# Each target is a function of this module with its settings (functools.partial), so that it can be pickled.


@answered
def logit(k: Class) -> Target:
    """The logit of class k: y_k.

    Args:
        k: Index, name, or None for the predicted class.
    """
    return _of_class(f"logit({plain(k)!r})", k, pick, "{}")


def predicted() -> Target:
    """The logit of the class predicted for each image; the default."""
    return dataclasses.replace(logit(None), name="predicted()")


@answered
def negative(k: Class = None) -> Target:
    """Minus the logit of class k: what speaks against it.

    Args:
        k: Index, name, or None for the predicted class.

    Source:
        Selvaraju et al., ICCV 2017, sec. 3 (counterfactual explanations), https://arxiv.org/abs/1610.02391
    """
    return _of_class(f"negative({plain(k)!r})", k, _minus, "against {}")


def _minus(logits: Tensor, index: Tensor) -> Tensor:
    return -pick(logits, index)


@answered
def probability(k: Class = None) -> Target:
    """The probability of class k: softmax over the classes, or the sigmoid of a model with a single output.

    Args:
        k: Index, name, or None for the predicted class.

    Note:
        The gradient of a softmax vanishes where the model is sure; the logit's does not.
    """
    return _of_class(f"probability({plain(k)!r})", k, _probability, "probability of {}")


def _probability(logits: Tensor, index: Tensor) -> Tensor:
    return logits[:, 0].sigmoid() if logits.shape[1] == 1 else pick(logits.softmax(1), index)


def _of_class(name: str, k: Class, score: Callable[[Tensor, Tensor], Tensor], phrase: str) -> Target:
    """A target about one class: score takes logits (N, classes) and the class of every row (N,)."""
    return Target(name, partial(_bind_class, plain(k), score, phrase))


def _bind_class(k: Class, score: Any, phrase: str, logits: Tensor, names: Names) -> tuple[Score, ...]:
    index = indices(k, logits, names)  # (B,)
    return (Score(PerRow(score, index), tuple(phrase.format(label) for label in labels(index, names)), index),)


@answered
def difference(a: Class, b: Class) -> Target:
    """Why a rather than b: y_a - y_b.

    Args:
        a: Index, name, or None for the predicted class.
        b: Likewise.
    """
    a, b = plain(a), plain(b)
    return Target(f"difference({a!r}, {b!r})", partial(_bind_difference, a, b))


def _bind_difference(a: Class, b: Class, logits: Tensor, names: Names) -> tuple[Score, ...]:
    first, second = indices(a, logits, names), indices(b, logits, names)
    if bool((first == second).any()):
        image = int((first == second).nonzero()[0])
        raise TargetError(
            f"difference({a!r}, {b!r}) compares a class with itself", f"class {int(first[image])} in image {image}"
        )
    pairs = zip(labels(first, names), labels(second, names), strict=True)
    phrases = tuple(f"{one} rather than {other}" for one, other in pairs)
    return (Score(partial(_difference, first, second), phrases, first),)


def _difference(first: Tensor, second: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
    return pick(logits, first[rows]) - pick(logits, second[rows])


@answered
def top(k: SupportsIndex = 5) -> Target:
    """The k most probable classes of each image, likeliest first: k maps per image from one pass of the extractor.

    Args:
        k: Number of classes, 1..classes.
    """
    return Target(f"top({plain(k)!r})", partial(_bind_top, plain(k)), several=True)


def _bind_top(k: int, logits: Tensor, names: Names) -> tuple[Score, ...]:
    if logits.ndim == 4:
        return top_classes(k, logits, names)
    require_classes(logits)
    if not is_index(k) or not 1 <= k <= logits.shape[1]:
        raise TargetError(f"top({k!r}) of a model with {logits.shape[1]} classes", remedy=f"use 1..{logits.shape[1]}")
    best = logits.topk(k, dim=1).indices  # (B,k)
    return tuple(class_score(column, names) for column in best.unbind(1))


@answered
def finer(classes: SupportsIndex | Sequence[SupportsIndex | str] = 3, gamma: float = 0.6, k: Class = None) -> Target:
    """What sets a class apart from those most like it: y_k - gamma mean of the other classes' logits.

    Args:
        classes: Number of the nearest other logits to compare with (at most all of them), or the classes themselves.
        gamma: Strength of the comparison, 0 (none) and up.
        k: Index, name, or None for the predicted class.

    Raises:
        GradCamError: `gamma` is not a number of at least 0.

    Source:
        Zhang et al., CVPR 2025, https://arxiv.org/abs/2501.11309
    """
    gamma = as_number(gamma, "gamma", 0, what="a strength", remedy="give 0 (no comparison) or more")
    if hasattr(classes, "tolist"):  # tensors, arrays and their scalars
        classes = classes.tolist()
    k = plain(k)
    return Target(f"finer({classes!r}, {gamma!r}, {k!r})", partial(_bind_finer, classes, gamma, k))


def _bind_finer(classes: Any, gamma: float, k: Class, logits: Tensor, names: Names) -> tuple[Score, ...]:
    own = indices(k, logits, names)  # (B,)
    if logits.shape[1] < 2:
        raise TargetError("finer compares classes", "this model has one output", "use binary() or regression()")
    if is_index(classes):
        if classes < 1:
            raise TargetError(f"finer(classes={classes}) compares with nothing", remedy="use 1 or more")
        distance = (logits - pick(logits, own)[:, None]).abs().scatter(1, own[:, None], torch.inf)
        count = min(int(classes), logits.shape[1] - 1)
        others = distance.topk(count, dim=1, largest=False).indices  # (B,n)
    else:
        if not isinstance(classes, Sequence) or isinstance(classes, str) or not classes:
            raise TargetError(f"finer(classes={classes!r}) names no classes", remedy="give a number, or a list of them")
        others = torch.stack([indices(each, logits, names) for each in classes], 1)
        if bool((others == own[:, None]).any()):
            raise TargetError(f"finer(classes={classes!r}) compares class {k!r} with itself", remedy="leave it out")
    phrases = tuple(f"what sets {label} apart" for label in labels(own, names))
    return (Score(partial(_finer, own, others, gamma), phrases, own),)


def _finer(own: Tensor, others: Tensor, gamma: float, logits: Tensor, rows: Tensor) -> Tensor:
    return pick(logits, own[rows]) - gamma * logits.gather(1, others[rows]).mean(1)


@answered
def binary(positive: bool = True) -> Target:
    """The answer of a model with one logit: the logit itself for yes, minus the logit for no.

    Args:
        positive: Which answer to explain.
    """
    return Target(f"binary({positive!r})", partial(_bind_binary, positive))


def _bind_binary(positive: bool, logits: Tensor, names: Names) -> tuple[Score, ...]:
    count = columns(logits).shape[1]
    if count != 1:
        raise TargetError("binary() is for models with one output", f"this one has {count}", "use logit(k)")
    sign, answer = (1.0, "yes") if positive else (-1.0, "no")
    return (Score(partial(_column, 0, sign), (answer,) * len(logits)),)


@answered
def regression(i: SupportsIndex = 0) -> Target:
    """Output i of a model that predicts numbers.

    Args:
        i: Which of the outputs.
    """
    return Target(f"regression({plain(i)!r})", partial(_bind_regression, plain(i)))


def _bind_regression(i: int, logits: Tensor, names: Names) -> tuple[Score, ...]:
    count = columns(logits).shape[1]
    if not is_index(i) or not 0 <= i < count:
        raise TargetError(f"regression({i!r}) of a model with {count} outputs", remedy=f"use 0..{count - 1}")
    return (Score(partial(_column, i, 1.0), (f"output {i}",) * len(logits)),)


def _column(i: int, sign: float, logits: Tensor, rows: Tensor) -> Tensor:
    return sign * columns(logits)[:, i]
