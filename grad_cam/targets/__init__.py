"""What is explained: a target turns the model's output into one score per image.

A target is any callable from logits (B, classes) to scores (B,). The ones here also know the names of classes, name
what they explain, and keep their choice: `resolve` fixes the classes on the logits of the images themselves, so that a
score keeps its meaning on the logits of masked, noisy or chunked versions of them.
"""

from .boxes import box, boxes
from .embeddings import similarity, text
from .kinds import (
    binary,
    difference,
    finer,
    logit,
    negative,
    predicted,
    probability,
    regression,
    top,
)
from .regions import segmentation
from .resolving import resolve
from .score import Class, Mark, Names, Resolved, Resolver, Score, Target, TargetError

__all__ = [
    "Class", "Mark", "Names", "Resolved", "Resolver", "Score", "Target", "TargetError", "binary", "box", "boxes",
    "difference", "finer", "logit", "negative", "predicted", "probability", "regression", "resolve", "segmentation",
    "similarity", "text", "top",
]  # fmt: skip
