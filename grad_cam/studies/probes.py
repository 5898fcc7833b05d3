"""Simple classifiers on features, judged on pictures they were not fitted to."""

from __future__ import annotations

import math

import torch
from torch import Tensor

STRENGTHS = tuple(10.0**power for power in range(-4, 4))
"""Ridge penalties that are tried, in units of the mean squared singular value."""


def folds(labels: Tensor, count: int, seed: int = 0) -> Tensor:
    """Deals the pictures of each class out to parts, so that every part holds its share of every class.

    Args:
        labels: (N,); -1 is in no class.
        count: Number of parts.
        seed: Of the order they are dealt in.

    Returns:
        The part of each, (N,); -1 for those in no class.
    """
    generator = torch.Generator().manual_seed(seed)
    parts, dealt = torch.full_like(labels, -1), 0
    for label in labels[labels >= 0].unique():
        members = (labels == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        parts[members] = (torch.arange(len(members)) + dealt) % count
        dealt += len(members)
    return parts


def held_out(features: Tensor, labels: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
    """What a nearest class mean and a linear probe say of every picture when it is held out.

    Args:
        features: (N, C).
        labels: (N,) from 0 on; -1 is in no class.
        parts: As `folds` deals them.

    Returns:
        The class that each says, (N,) twice; -1 for those in no part.
    """
    means, probe = torch.full_like(labels, -1), torch.full_like(labels, -1)
    features = features.double()
    for part in parts[parts >= 0].unique():
        fitted, judged = (parts >= 0) & (parts != part), parts == part
        train, test = standardised(features[fitted], features[judged])
        means[judged] = nearest_mean(train, labels[fitted], test)
        probe[judged] = linear_probe(train, labels[fitted], test)
    return means, probe


def standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Features standardised by the mean and deviation of the fitted ones; constant features become zero."""
    mean, deviation = train.mean(0), train.std(0, correction=0)
    scale = torch.where(deviation > 1e-6 * deviation.amax().clamp(min=1e-12), 1 / deviation, 0)
    return (train - mean) * scale, (test - mean) * scale


def nearest_mean(train: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    """The class whose mean is nearest, (M,)."""
    classes = labels.unique()
    means = torch.stack([train[labels == k].mean(0) for k in classes])
    nearest: Tensor = classes[torch.cdist(test, means).argmin(1)]
    return nearest


def linear_probe(train: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    """The class that ridge regression on the classes' indicators gives most to, (M,).

    The penalty is the one with the smallest error where each fitted picture is left out in turn, in closed form.
    """
    classes, index = labels.unique(return_inverse=True)
    wanted = torch.nn.functional.one_hot(index, len(classes)).to(train.dtype)
    mean = wanted.mean(0)
    wanted = wanted - mean
    left, sizes, right = torch.linalg.svd(train, full_matrices=False)
    squares, inside = sizes.square(), left.T @ wanted
    unit = squares.mean().clamp(min=torch.finfo(train.dtype).tiny)
    best, weights = math.inf, torch.zeros(train.shape[1], len(classes), dtype=train.dtype)
    for strength in STRENGTHS:
        shrunk = squares / (squares + strength * unit)
        leverage = (left.square() @ shrunk + 1 / len(train)).clamp(max=1 - 1e-9)
        error = float((((wanted - left @ (shrunk[:, None] * inside)) / (1 - leverage)[:, None]) ** 2).mean())
        if error < best:
            best = error
            weights = right.T @ ((sizes / (squares + strength * unit))[:, None] * inside)
    likeliest: Tensor = classes[(test @ weights + mean).argmax(1)]
    return likeliest


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a proportion.

    Source:
        Wilson, Journal of the American Statistical Association 22, 1927.
    """
    if count == 0:
        return 0.0, 1.0
    part, square = right / count, z * z
    middle = (part + square / (2 * count)) / (1 + square / count)
    half = z / (1 + square / count) * math.sqrt(part * (1 - part) / count + square / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)
