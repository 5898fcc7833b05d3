"""Concepts of a class: that planted ones are found, and that their importance is what arithmetic says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import grad_cam
from grad_cam.errors import GradCamError
from grad_cam.methods.factorization import amounts_of
from grad_cam.studies import Pictures, concepts_of
from grad_cam.studies.concepts import total_indices


class Colours(nn.Module):
    """Three channels that are three concepts; the first class is 3 red + 1 green, squared if asked for."""

    def __init__(self, squared: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 3, 4, 4, bias=False), nn.ReLU())
        self.pool, self.flatten, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2, bias=False)
        self.squared = squared
        with torch.no_grad():
            self.features[0].weight.zero_()
            for k in range(3):
                self.features[0].weight[k, k] = 1 / 16
            self.head.weight.copy_(torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 2)."""
        logits = self.head(self.flatten(self.pool(self.features(x))))
        return logits**2 if self.squared else logits


def _pictures(model: nn.Module, count: int = 12) -> Pictures:
    """Every quarter of a picture is of one colour; all three occur."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(count, 3, 32, 32)
    for image in images:
        order = torch.randperm(3, generator=generator).tolist()
        for n, (y, x) in enumerate(((0, 0), (0, 16), (16, 0), (16, 16))):
            image[order[n % 3], y : y + 16, x : x + 16] = 1.0
    return Pictures.of_tensors(images, [i % 2 for i in range(count)], ["a", "b"], model)


def test_amounts_are_the_nearest_that_are_not_negative() -> None:
    """What was mixed of concepts is found again, and nothing is negative."""
    generator = torch.Generator().manual_seed(0)
    vectors, amounts = torch.rand(3, 8, generator=generator), torch.rand(20, 3, generator=generator)
    assert torch.allclose(amounts_of(amounts @ vectors, vectors, 300), amounts, atol=1e-2)
    assert (amounts_of(torch.randn(20, 8, generator=generator), vectors) >= 0).all()


def test_total_indices_of_a_function_that_is_known() -> None:
    """Of 2 a + b the indices are 4/5 and 1/5, of a b each is 4/7, and a number that is not read has none."""
    draws = torch.quasirandom.SobolEngine(6, scramble=True, seed=0).draw(4096)
    first, second = draws[:, :3], draws[:, 3:]

    def linear(x: Tensor) -> Tensor:
        return (2 * x[:, 0] + x[:, 1]).double()

    def product(x: Tensor) -> Tensor:
        return (x[:, 0] * x[:, 1]).double()

    found = total_indices(linear, first, second, linear(first))
    assert found.tolist() == pytest.approx([0.8, 0.2, 0.0], abs=0.02)
    found = total_indices(product, first, second, product(first))
    assert found.tolist() == pytest.approx([4 / 7, 4 / 7, 0.0], abs=0.03)
    assert total_indices(lambda x: x[:, 0].double() * 0, first, second, first[:, 0].double() * 0).sum() == 0


def test_planted_concepts_are_found_and_weighed() -> None:
    """Three colours are three concepts; with a linear tail importance is exact and goes with the head's weights."""
    model = Colours().eval()
    pictures = _pictures(model)
    found = concepts_of(model, pictures, "a", 0, range(12), "features", count=3)
    assert found.exact and found.error < 0.05 and len(found.concepts) == 3
    first, second, third = found.concepts
    assert first.importance > 0.75 and third.importance < 0.05
    assert first.effect > second.effect > 0 and third.effect == pytest.approx(0, abs=0.02)
    for picture, (x0, y0, x1, y1) in first.examples:
        crop = pictures.images([picture])[0, :, int(y0 * 32) : int(y1 * 32), int(x0 * 32) : int(x1 * 32)]
        assert crop.mean((1, 2)).argmax() == 0  # red is what the class reads most
    again = concepts_of(model, pictures, "a", 0, range(12), "features", count=3)
    assert again == found


def test_tail_that_is_not_linear_is_estimated() -> None:
    """A squared score is no sum of effects: the figures are estimated, and their order is the same."""
    model = Colours(squared=True).eval()
    found = concepts_of(model, _pictures(model), "a", 0, range(12), "features", count=3)
    assert not found.exact
    assert found.concepts[0].importance > 0.5 > found.concepts[1].importance > found.concepts[2].importance - 1e-9


def test_too_few_pictures_are_refused() -> None:
    """More concepts than crops."""
    model = Colours().eval()
    with pytest.raises(GradCamError, match="cannot be found in 4 crops"):
        concepts_of(model, _pictures(model), "a", 0, [0], "features", count=5)


def test_study_with_concepts() -> None:
    """A study finds those of each class, and the page shows their crops."""
    from grad_cam.studies.page import page

    model = Colours().eval()
    model.class_names = ["a", "b"]  # type: ignore[assignment]
    pictures = _pictures(model)
    labels = [int(k) for k in model(pictures.images(range(12))).argmax(1)]
    if len(set(labels)) < 2:
        labels = [i % 2 for i in range(12)]
    pictures = Pictures.of_tensors(pictures.images(range(12)), labels, ["a", "b"], model)
    found = grad_cam.study(model, pictures, shortcuts=False, concepts=2)
    assert found.concepts and all(len(each.concepts) == 2 for each in found.concepts)
    assert page(found).count('class="crops"') == 2 * len(found.concepts)
