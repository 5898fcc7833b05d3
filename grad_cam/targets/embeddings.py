"""Targets in a space of embeddings: what makes an image similar to a text, or to another image.

They are made without a model, and encoded by the model that is explained: see `Encoded`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..arguments import ArgumentTypeError
from ..habits import answered
from .score import Names, Score, Target, TargetError

Tokenizer = Callable[..., Any]
"""From a list of texts to token ids (K, L), or to a mapping with ``input_ids``."""


class Encoder(Protocol):
    """Turns texts and images into embeddings."""

    def texts(self, prompts: Sequence[str], tokenizer: Tokenizer | None) -> Tensor:
        """Embeddings (K, D) of texts."""
        ...

    def images(self, images: Tensor) -> Tensor:
        """Embeddings (N, D) of images (N, C, H, W)."""
        ...


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Encoded(Target):
    """A target that the model itself has to encode before it can be used.

    Attributes:
        encode: From an encoder to the target in the model's space of embeddings.
    """

    encode: Callable[[Encoder], Target] = dataclasses.field(repr=False, default=lambda encoder: _unencoded("target"))


@answered
def text(prompts: str | Sequence[str], *, tokenizer: Tokenizer | None = None) -> Target:
    """The cosine similarity of an image with a text, in a model of image and text (CLIP, SigLIP).

    Args:
        prompts: One text, or several: one map each, from one forward pass of the image.
        tokenizer: Turns the texts into tokens: from a list of texts to ids (K, L) or to a mapping. By default
            the one that comes with the model: its `tokenizer` or `processor`, the files beside a model that was loaded
            from a folder, or OpenCLIP's.

    Raises:
        TargetError: There is no text.

    Source:
        Radford et al., ICML 2021 (CLIP), https://arxiv.org/abs/2103.00020
    """
    several = not isinstance(prompts, str)
    listed = (prompts,) if isinstance(prompts, str) else tuple(prompts) if isinstance(prompts, Iterable) else ()
    if not listed or not all(isinstance(one, str) and one.strip() for one in listed):
        raise TargetError("a text target is a text, or several", repr(prompts)[:60], 'targets.text("a red cup")')
    name = f"text({list(listed) if several else listed[0]!r})"
    return Encoded(
        name, partial(_unencoded, name), several, encode=partial(_encoded_texts, name, listed, several, tokenizer)
    )


def _encoded_texts(
    name: str, prompts: tuple[str, ...], several: bool, tokenizer: Tokenizer | None, encoder: Encoder
) -> Target:
    found = encoder.texts(prompts, tokenizer)  # (K, D)
    return Target(name, partial(_bind_texts, prompts, found), several)


def _bind_texts(prompts: tuple[str, ...], embeddings: Tensor, logits: Tensor, names: Names) -> tuple[Score, ...]:
    _require_space(embeddings, logits)
    return tuple(
        Score(partial(_similarity, one.expand(len(logits), -1)), (f'similarity to "{prompt}"',) * len(logits))
        for prompt, one in zip(prompts, embeddings, strict=True)
    )


@answered
def similarity(embedding: Tensor | None = None, *, to: Tensor | None = None) -> Target:
    """Cosine similarity of the model's output with an embedding, or with its output for another image.

    Args:
        embedding: (D,), or (B, D) for one per image.
        to: Instead of it, an image (1, C, H, W), or one per image
            (B, C, H, W), prepared alike: which parts make the two alike.
    """
    if (embedding is None) == (to is None) or not isinstance(to if embedding is None else embedding, Tensor):
        given = "both" if embedding is not None and to is not None else type(embedding if to is None else to).__name__
        raise ArgumentTypeError(
            "an embedding is a tensor", given,
            "give the model's output for an image, or to= the image itself",
        )  # fmt: skip
    if embedding is not None:
        bound = partial(_bind_similarity, "similarity", embedding.detach())
        given = f"similarity({tuple(embedding.shape)})"
        return Encoded(given, bound, encode=partial(_as_given, Target(given, bound)))
    assert to is not None
    if to.ndim not in (4, 5):
        raise ArgumentTypeError("to= is an image (1, C, H, W)", f"shape {tuple(to.shape)}", "to=image[None]")
    name = f"similarity(to=image {tuple(to.shape)})"
    return Encoded(name, partial(_unencoded, name), encode=partial(_encoded_image, name, to.detach()))


def _as_given(target: Target, encoder: Encoder) -> Target:
    return target


def _encoded_image(name: str, image: Tensor, encoder: Encoder) -> Target:
    return Target(name, partial(_bind_similarity, "similarity to the other image", encoder.images(image)))


def _bind_similarity(phrase: str, embedding: Tensor, logits: Tensor, names: Names) -> tuple[Score, ...]:
    batch, size = len(logits), logits.shape[-1]
    if logits.ndim != 2 or embedding.shape not in ((size,), (1, size), (batch, size)):
        raise TargetError(
            "the embedding does not fit the model's output", f"{tuple(embedding.shape)} and {tuple(logits.shape)}",
            f"use ({size},) or ({batch}, {size})",
        )  # fmt: skip
    return (Score(partial(_similarity, embedding.expand(batch, -1)), (phrase,) * batch),)


def _require_space(embeddings: Tensor, logits: Tensor) -> None:
    if logits.ndim != 2 or embeddings.shape[1] != logits.shape[1]:
        raise TargetError(
            "texts and images of this model are not in one space",
            f"embeddings {tuple(embeddings.shape)}, the model's output {tuple(logits.shape)}",
            "give the whole model of image and text, with output= its image embedding if it returns several tensors",
        )  # fmt: skip


def _similarity(embeddings: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
    return functional.cosine_similarity(logits, embeddings.to(logits)[rows], dim=1)


def _unencoded(name: str, *_: Any) -> Any:
    raise TargetError(
        f"{name} has to be encoded by the model", "it was used on logits alone",
        "give it to grad_cam.explain(model, images, target=...)",
    )  # fmt: skip


def encoded(target: Any, encoder: Callable[[], Encoder]) -> Any:
    """A target, or a list of them, with every one encoded that the model has to encode.

    Args:
        target: As for `explain`.
        encoder: Makes the encoder, if one is needed.
    """
    if isinstance(target, (list, tuple)):
        parts = [encoded(one, encoder) for one in target]
        return target if all(a is b for a, b in zip(parts, target, strict=True)) else parts
    if not isinstance(target, Encoded):
        return target
    with torch.no_grad():
        return target.encode(encoder())
