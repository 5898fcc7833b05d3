"""Models of image and text: the part that sees the image is what is cut, the other encodes what is explained.

The image tower is the model's own code for images: OpenCLIP's model without a text, or the vision model and projection
of a Hugging Face model, checked to give what the model itself gives.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ModelError
from .outputs import Output, find_logits
from .splitting.evalcopy import EvalCopy
from .splitting.public import network_of
from .targets import TargetError
from .targets.embeddings import Encoded, Tokenizer, encoded

_CLIP_WORDS = 49408
"""Size of the vocabulary of CLIP's own tokenizer, which OpenCLIP brings along."""

_VOCABULARIES = frozenset({
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
})  # fmt: skip
"""Files that hold the words of a tokenizer; from a folder without one transformers makes a tokenizer of no words."""


class ImageTower(nn.Module):
    """The image side of a Hugging Face model of image and text: images (B, C, H, W) to embeddings (B, D)."""

    def __init__(self, vision_model: nn.Module, visual_projection: nn.Module | None) -> None:
        super().__init__()
        self.vision_model = vision_model
        if visual_projection is not None:
            self.visual_projection = visual_projection

    def forward(self, images: Tensor) -> Tensor:
        """The embeddings."""
        pooled: Tensor = self.vision_model(pixel_values=images).pooler_output
        projected: Tensor = self.visual_projection(pooled) if hasattr(self, "visual_projection") else pooled
        return projected


_TOWERS: weakref.WeakKeyDictionary[nn.Module, ImageTower] = weakref.WeakKeyDictionary()


def needs_encoding(target: Any) -> bool:
    """Whether a target has to be encoded by the model."""
    if isinstance(target, (list, tuple)):
        return any(map(needs_encoding, target))
    return isinstance(target, Encoded)


def with_tower(model: nn.Module, images: Any, target: Any, output: Output) -> tuple[nn.Module, Any, Output]:
    """The model that is cut, the target in its space, and where its embedding is; unchanged for other targets.

    Args:
        model: What is explained.
        images: The batch, which a reference image has to fit.
        target: As for `explain`.
        output: As for `explain`.

    Raises:
        ModelError: The model has no text side, or an image side that is not known.
        TargetError: There is no tokenizer.
    """
    if not needs_encoding(target) or not isinstance(model, nn.Module):
        return model, target, output
    inner = network_of(model)
    tower, output = _tower_of(inner, images, output)
    found = encoded(target, lambda: _Encoder(inner, tower, output))
    return model if tower is inner else tower, found, output


def _tower_of(model: nn.Module, images: Tensor, output: Output) -> tuple[nn.Module, Output]:
    if _is_open_clip(model):
        if output is None:
            output = "image_features" if getattr(model, "output_dict", False) else 0
        return model, output
    vision = getattr(model, "vision_model", None)
    if not isinstance(vision, nn.Module) or not hasattr(model, "get_image_features"):
        return model, output  # an image model: its output is the embedding
    tower = _TOWERS.get(model)
    projection = getattr(model, "visual_projection", None)
    if tower is None or tower.vision_model is not vision or getattr(tower, "visual_projection", None) is not projection:
        tower = _TOWERS[model] = ImageTower(vision, projection)
        tower.training = model.training
        for name in ("config", "preprocessing", "image_processor"):
            if hasattr(model, name):
                setattr(tower, name, getattr(model, name))
        _require_same(model, tower, images)
    return tower, output


def _require_same(model: nn.Module, tower: nn.Module, images: Tensor) -> None:
    """Raises ModelError unless a tower gives what the model gives for images."""
    some = images[:1].detach().to(next(model.parameters()))
    with torch.no_grad():
        theirs = _tensor(EvalCopy(model).root.get_image_features(pixel_values=some))  # type: ignore[operator]
        ours = EvalCopy(tower).root(some)
    if theirs.shape != ours.shape or not torch.allclose(theirs, ours, rtol=1e-4, atol=1e-6):
        _TOWERS.pop(model, None)
        raise ModelError(
            f"the image side of {type(model).__name__} does more than its vision model and projection", "",
            "explain a module of your own that returns the image embedding, with targets.similarity(embedding)",
        )  # fmt: skip


class _Encoder:
    """The text side of a model, and its image side for reference images."""

    def __init__(self, model: nn.Module, tower: nn.Module, output: Output) -> None:
        self.model, self.tower, self.output = model, tower, output
        self.place = next(p for p in model.parameters() if p.is_floating_point())

    def texts(self, prompts: Sequence[str], tokenizer: Tokenizer | None) -> Tensor:
        """Embeddings (K, D) of texts."""
        copy: Any = EvalCopy(self.model).root
        if not (_is_open_clip(self.model) or hasattr(copy, "get_text_features")):
            raise ModelError(
                f"{type(self.model).__name__} has no text side that is known", "",
                "use targets.similarity(embedding) with the embedding of the text",
            )  # fmt: skip
        tokens = _tokens(self.model, list(prompts), tokenizer)
        tokens = {name: value.to(self.place.device) for name, value in tokens.items()}
        if _is_open_clip(self.model):
            found: Any = copy.encode_text(tokens["input_ids"])
        else:
            found = _tensor(copy.get_text_features(**tokens))
        if len(found) != len(prompts):
            raise TargetError(f"{len(prompts)} texts became {len(found)} embeddings", "", "check tokenizer=")
        embeddings: Tensor = found.detach()
        return embeddings

    def images(self, images: Tensor) -> Tensor:
        """Embeddings (N, D) of images (N, C, H, W)."""
        copy = EvalCopy(self.tower).root
        return find_logits(copy(images.to(self.place)), self.output).detach()


def _tensor(returned: Any) -> Any:
    return returned if isinstance(returned, Tensor) else returned.pooler_output


def _is_open_clip(model: nn.Module) -> bool:
    known = any(base.__module__.partition(".")[0] == "open_clip" for base in type(model).__mro__)
    return known and hasattr(model, "encode_text") and hasattr(model, "encode_image")


def _tokens(model: nn.Module, prompts: list[str], tokenizer: Tokenizer | None) -> dict[str, Tensor]:
    """Token ids (K, L), and what else a tokenizer gives."""
    own = tokenizer or _own_tokenizer(model)
    if own is None:
        raise TargetError(
            "the texts cannot be made tokens: no tokenizer comes with the model", type(model).__name__,
            "targets.text(..., tokenizer=...), or load the model from a folder that holds its tokenizer",
        )  # fmt: skip
    if hasattr(own, "pad"):  # a Hugging Face tokenizer
        siglip = "siglip" in str(getattr(getattr(model, "config", None), "model_type", ""))
        length = getattr(getattr(model.config, "text_config", None), "max_position_embeddings", None)
        found = own(
            prompts, padding="max_length" if siglip else True, truncation=True, return_tensors="pt",
            **({"max_length": length} if length else {}),
        )  # fmt: skip
    else:
        found = own(prompts)
    given = {"input_ids": found} if isinstance(found, Tensor) else dict(found)
    known = {name: given[name] for name in ("input_ids", "attention_mask", "position_ids") if name in given}
    if not isinstance(known.get("input_ids"), Tensor):
        raise TargetError(
            "a tokenizer gives ids (K, L)", type(found).__name__, "tokenizer=open_clip.get_tokenizer(...)"
        )
    return known


def _own_tokenizer(model: nn.Module) -> Callable[..., Any] | None:
    for name in ("tokenizer", "processor"):
        there = getattr(model, name, None)
        if callable(there):
            found: Callable[..., Any] = getattr(there, "tokenizer", there)
            return found
    if _is_open_clip(model):
        words = getattr(model, "vocab_size", None)
        if words not in (None, _CLIP_WORDS):
            return None
        make: Callable[..., Callable[..., Any]] = sys.modules["open_clip"].SimpleTokenizer
        return make(context_length=getattr(model, "context_length", 77))
    folder = getattr(getattr(model, "config", None), "_name_or_path", "")
    if folder and os.path.isdir(folder) and _VOCABULARIES & set(os.listdir(folder)):
        from transformers import AutoTokenizer

        load: Callable[..., Callable[..., Any]] = AutoTokenizer.from_pretrained
        return load(folder)
    return None
