"""Image and text: what in a picture makes it like a text, or like another picture."""

from __future__ import annotations

import json
import pathlib
import types
from collections.abc import Sequence
from typing import Any

import open_clip
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

import grad_cam
from grad_cam import targets
from grad_cam.errors import GradCamError
from grad_cam.interfaces import cli
from grad_cam.loading import Preprocessing, preprocessing
from grad_cam.targets import TargetError
from grad_cam.targets.embeddings import Encoded

transformers = pytest.importorskip("transformers")


def _words(prompts: Sequence[str]) -> Tensor:
    """Ids of the letters of texts, (K, 8)."""
    return torch.tensor([[1 + ord(c) % 47 for c in f"{p:<8}"[:8]] for p in prompts])


def _hugging_face(prompts: Sequence[str]) -> dict[str, Tensor]:
    ids = _words(prompts)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _clip() -> nn.Module:
    torch.manual_seed(0)
    small = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**small, "vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 49},
        vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=12,
    )  # fmt: skip
    return transformers.CLIPModel(config)


def _siglip() -> nn.Module:
    torch.manual_seed(0)
    small = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.SiglipConfig(
        text_config={**small, "vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 49},
        vision_config={**small, "image_size": 32, "patch_size": 8},
    )  # fmt: skip
    return transformers.SiglipModel(config)


def _openclip(dictionary: bool = False, resnet: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers: Any = (1, 1, 1, 1) if resnet else 3
    vision = open_clip.CLIPVisionCfg(layers=layers, width=16, head_width=8, patch_size=8, image_size=64)
    text = open_clip.CLIPTextCfg(context_length=8, vocab_size=50, width=16, heads=2, layers=1)
    model: nn.Module = open_clip.CLIP(embed_dim=12, vision_cfg=vision, text_cfg=text, output_dict=dictionary)
    return model


def _embedding(model: Any, images: Tensor) -> Tensor:
    """Embeddings of images by the model's own function."""
    if hasattr(model, "encode_image"):
        return model.encode_image(images)
    return model.get_image_features(pixel_values=images).pooler_output


def _text_embedding(model: Any, prompts: Sequence[str]) -> Tensor:
    if hasattr(model, "encode_text"):
        return model.encode_text(_words(prompts))
    return model.get_text_features(**_hugging_face(prompts)).pooler_output


CASES = {
    "clip": (_clip, 32, _hugging_face), "siglip": (_siglip, 32, _hugging_face), "openclip": (_openclip, 64, _words),
    "openclip-dict": (lambda: _openclip(True), 64, _words), "openclip-resnet": (lambda: _openclip(resnet=True), 64,
                                                                                _words),
}  # fmt: skip
PROMPTS = ["a cat", "a dog", "red cup"]


@pytest.mark.parametrize("case", CASES)
def test_maps_of_prompts_against_hooks(case: str) -> None:
    """The HiResCAM map of every prompt is that of a hook on the model itself and a plain backward; training mode."""
    make, size, tokenizer = CASES[case]
    model = make()
    model.train()
    images = torch.randn(2, 3, size, size)
    target = targets.text(PROMPTS, tokenizer=tokenizer)
    found = grad_cam.explain(model, images, target=target, method="hires_cam")
    assert model.training and all(m.training for m in model.modules())
    assert found.map.shape[:2] == (2, 3) and found.classes is None
    assert found.target[0] == tuple(f'similarity to "{prompt}"' for prompt in PROMPTS)

    model.eval()
    kept: list[Tensor] = []
    handle = model.get_submodule(found.layer.name).register_forward_hook(
        lambda module, args, out: kept.append(out if isinstance(out, Tensor) else out[0])
    )
    scores = functional.cosine_similarity(_embedding(model, images)[:, None], _text_embedding(model, PROMPTS), dim=-1)
    handle.remove()
    activation = kept[0]
    for k in range(3):
        (gradient,) = torch.autograd.grad(scores[:, k].sum(), activation, retain_graph=True)
        terms = activation * gradient
        if terms.ndim == 3:
            side = found.map.shape[-1]
            terms = terms[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))
        torch.testing.assert_close(found.map[:, k], terms.sum(1), rtol=1e-3, atol=1e-6)


_CALLS: list[int] = []


def _count(*_: Any) -> None:
    _CALLS.append(1)


def test_one_prompt_is_one_of_several_and_a_second_is_cheap() -> None:
    """Maps do not depend on the other prompts; further prompts take no further forward of the image side."""
    model, images = _clip().eval(), torch.randn(2, 3, 32, 32)
    model.vision_model.embeddings.patch_embedding.register_forward_hook(_count)
    grad_cam.explain(model, images, target=targets.text("a dog", tokenizer=_hugging_face))
    _CALLS.clear()
    alone = grad_cam.explain(model, images, target=targets.text("a dog", tokenizer=_hugging_face))
    one = len(_CALLS)
    _CALLS.clear()
    together = grad_cam.explain(model, images, target=targets.text(PROMPTS, tokenizer=_hugging_face))
    assert len(_CALLS) == one == 1
    torch.testing.assert_close(together.map[:, 1], alone.map)
    listed = [targets.text("a dog", tokenizer=_hugging_face), targets.text("a cat", tokenizer=_hugging_face)]
    each = grad_cam.explain(model, images, target=listed)
    torch.testing.assert_close(each.map[1], together.map[1, 0])
    swept = grad_cam.sweep(model, images, target=targets.text("a dog", tokenizer=_hugging_face))
    assert len(swept) >= 2 and swept[0].target[0] == ('similarity to "a dog"',)


class _Colours(nn.Module):
    """A vision model whose embedding is how much red, green and blue there is."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.eye_(self.pixels.weight[:, :, 0, 0])

    def forward(self, pixel_values: Tensor) -> Any:
        return types.SimpleNamespace(pooler_output=self.pixels(pixel_values).relu().mean((2, 3)) + 0.01)


class _Named(nn.Module):
    """A model of image and text in which only the colours that a text names can matter."""

    def __init__(self) -> None:
        super().__init__()
        self.vision_model = _Colours()
        self.words = nn.Embedding.from_pretrained(torch.cat([torch.zeros(1, 3), torch.eye(3)]))

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        found: Tensor = self.vision_model(pixel_values=pixel_values).pooler_output
        return found

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        found: Tensor = self.words(input_ids).sum(1)
        return found

    def tokenizer(self, prompts: list[str]) -> Tensor:
        names = ("red", "green", "blue")
        return torch.tensor([[1 + names.index(w) if w in names else 0 for w in (p + " . . .").split()[:4]]
                             for p in prompts])  # fmt: skip


PIXELS = "vision_model.pixels"


def _picture() -> tuple[Tensor, dict[str, tuple[slice, slice]]]:
    image = torch.zeros(1, 3, 24, 24)
    places = {"red": (slice(2, 8), slice(2, 8)), "green": (slice(14, 20), slice(3, 9)),
              "blue": (slice(9, 15), slice(14, 22))}  # fmt: skip
    for channel, (rows, columns) in enumerate(places.values()):
        image[0, channel, rows, columns] = 1
    return image, places


@pytest.mark.parametrize("word", ["red", "green", "blue"])
def test_planted_truth_of_words(word: str) -> None:
    """A text that names a colour speaks for that patch alone; the words around it change nothing."""
    model, (image, places) = _Named().eval(), _picture()
    found = grad_cam.explain(
        model, image, layer=PIXELS, target=targets.text([f"a {word} cup", word]), method="hires_cam"
    )
    torch.testing.assert_close(found.map[0, 0], found.map[0, 1])
    positive = found.map[0, 0].clamp(min=0)
    assert float(positive[places[word]].sum() / positive.sum()) > 0.99


def test_planted_truth_of_another_image() -> None:
    """Only what two pictures share makes them alike."""
    model, (image, places) = _Named().eval(), _picture()
    other = torch.zeros(1, 3, 24, 24)
    other[0, 1, 10:, 10:] = 1  # green, elsewhere
    found = grad_cam.explain(model, image, layer=PIXELS, target=targets.similarity(to=other), method="hires_cam")
    positive = found.map[0].clamp(min=0)
    assert float(positive[places["green"]].sum() / positive.sum()) > 0.99
    assert found.target == (("similarity to the other image",),)


def test_image_towers_alone() -> None:
    """An image model without a text side: its output is the embedding, of the other image too."""
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=0)
    model.eval()
    images, other = torch.randn(2, 3, 32, 32), torch.randn(1, 3, 32, 32)
    found = grad_cam.explain(model, images, target=targets.similarity(to=other), method="hires_cam")
    with torch.no_grad():
        embedding = model(other)[0]
    same = grad_cam.explain(model, images, target=targets.similarity(embedding), method="hires_cam")
    torch.testing.assert_close(found.map, same.map)
    each = grad_cam.explain(model, images, target=targets.similarity(to=images.flip(0)))
    assert each.map.shape == (2, 4, 4)
    with pytest.raises(GradCamError, match="no text side"):
        grad_cam.explain(model, images, target=targets.text("a cat", tokenizer=_words))


@pytest.mark.parametrize("case", ["clip", "siglip", "openclip", "openclip-dict"])
def test_an_embedding_that_is_given(case: str) -> None:
    """The embedding of an image, computed before, is explained in the image side like the image itself."""
    make, size, _ = CASES[case]
    model = make().eval()
    images, other = torch.randn(2, 3, size, size), torch.randn(1, 3, size, size)
    with torch.no_grad():
        embedding = _embedding(model, other)[0]
    found = grad_cam.explain(model, images, target=targets.similarity(embedding), method="hires_cam")
    same = grad_cam.explain(model, images, target=targets.similarity(to=other), method="hires_cam")
    torch.testing.assert_close(found.map, same.map)


def test_evidence_and_perturbation_of_a_text() -> None:
    """What needs scores of changed images encodes the text once more: evidence, and methods that perturb."""
    model, (image, _) = _Named().eval(), _picture()
    target = targets.text("red")
    found = grad_cam.explain(model, image, layer=PIXELS, target=target, method="ablation_cam")
    assert found.map.shape == (1, 24, 24)
    judged = grad_cam.evidence(model, found, explained=target)
    assert judged.without < judged.score


def test_wrong_use_is_refused() -> None:
    """Each refusal says what to give."""
    model, images = _clip().eval(), torch.randn(1, 3, 32, 32)
    with pytest.raises(TargetError, match=r"tokenizer=\.\.\."):
        grad_cam.explain(model, images, target=targets.text("a cat"))
    with pytest.raises(TargetError, match="a text, or several"):
        targets.text("")
    with pytest.raises(TargetError, match="a text, or several"):
        targets.text(3)  # type: ignore[arg-type]
    for nothing in (None, 1):
        with pytest.raises(GradCamError, match=r"takes more than images.*targets\.text\(.*--text"):
            grad_cam.explain(model, images, target=nothing)
    with pytest.raises(TargetError, match="has to be encoded by the model"):
        targets.text("a cat")(torch.randn(1, 5))
    with pytest.raises(TargetError, match="not in one space"):
        grad_cam.explain(
            model, images, target=targets.text("a cat", tokenizer=_hugging_face), output=lambda e: e[:, :5]
        )
    with pytest.raises(GradCamError, match="tensor"):
        targets.similarity()
    with pytest.raises(GradCamError, match="image"):
        targets.similarity(to=torch.ones(5))
    assert isinstance(targets.text("a cat"), Encoded) and repr(targets.text("a cat")) == "text('a cat')"


def test_more_than_vision_model_and_projection_is_refused() -> None:
    """A model that does more to the embedding than the tower is not explained by the tower."""

    class Doubled(_Named):
        def get_image_features(self, pixel_values: Tensor) -> Tensor:
            return super().get_image_features(pixel_values).square()

    with pytest.raises(GradCamError, match="does more than its vision model"):
        grad_cam.explain(Doubled().eval(), _picture()[0], target=targets.text("red"))


def test_command_line(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--text` explains texts and lists no classes, which an embedding has none of; the patch of the word is marked."""
    monkeypatch.chdir(tmp_path)
    image, places = _picture()
    Image.fromarray((image[0].permute(1, 2, 0) * 255).byte().numpy()).save("colours.png")
    model = _Named().eval()
    model.preprocessing = Preprocessing(size=(24, 24), mean=(0,) * 3, std=(1,) * 3)  # type: ignore[assignment]
    monkeypatch.setattr(grad_cam.loading, "load", lambda name, **kw: model)
    words = ["-m", "named", "-l", PIXELS, "--text", "a red cup", "--text", "blue", "-x", "hires_cam", "--json"]
    done = CliRunner().invoke(cli.app, ["explain", "colours.png", *words])
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)["images"]
    assert result["predictions"] == [] and len(result["files"]) == 3
    for found, word in zip(result["explanations"], ("red", "blue"), strict=True):
        positive = torch.tensor(found["map"]).clamp(min=0)
        assert word in found["target"] and float(positive[places[word]].sum() / positive.sum()) > 0.99
    both = CliRunner().invoke(cli.app, ["explain", "colours.png", *words, "--class", "1"])
    assert both.exit_code == 2 and "--text" in both.output


def test_preprocessing_of_these_models() -> None:
    """What OpenCLIP and Hugging Face declare of their images is read."""
    model = _openclip()
    model.visual.preprocess_cfg = {  # type: ignore[union-attr]
        "size": (64, 64), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "bicubic",
        "resize_mode": "longest",
    }  # fmt: skip
    found = preprocessing(model)
    assert (found.size, found.mean, found.std, found.crop_mode) == (
        (64, 64),
        (0.1, 0.2, 0.3),
        (0.4, 0.5, 0.6),
        "border",
    )
    assert preprocessing(_clip()).mean[0] == 0.48145466 and preprocessing(_clip()).size == (32, 32)
    assert preprocessing(_siglip()).mean == (0.5,) * 3
