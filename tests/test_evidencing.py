"""What `evidence` says of a map, and the comparison of explanations."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from torch import Tensor, nn

import grad_cam
from grad_cam import METHODS, metrics, targets
from grad_cam.arguments import ArgumentTypeError
from grad_cam.engine import score_function
from grad_cam.errors import GradCamError
from grad_cam.evidencing import FORWARDS, Evidence, compare, mean_color
from grad_cam.loading.preprocess import Preprocessing
from tests.planted import OneCell


@pytest.fixture
def planted() -> tuple[nn.Module, Tensor]:
    """A network that reads one cell of seven by seven, and two images."""
    return OneCell(row=2, column=4).eval(), torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(0)) + 0.5


def test_good_maps_have_strong_and_wrong_ones_weak_evidence(planted: tuple[nn.Module, Tensor]) -> None:
    """A map of the one cell that matters lowers the score to nothing and beats random maps; one beside it does not."""
    model, x = planted
    found = grad_cam.explain(model, x, method="hires_cam", target=0)
    good = grad_cam.evidence(model, found)
    assert good.weakness is None and good.without < 0.2 * good.score and good.beats > 0.95
    assert good.sentence.startswith("Removing the marked ") and "lowers the score from" in good.sentence
    assert str(good) == good.sentence and "Weak" not in good.sentence
    wrong = dataclasses.replace(found, map=found.map.roll(3, -1))
    weak = grad_cam.evidence(model, wrong, 1)
    assert weak.weakness is not None and f"Weak evidence: {weak.weakness}." in weak.sentence
    nothing = grad_cam.evidence(model, dataclasses.replace(found, map=-found.map.abs()))
    assert nothing.share == 0 and nothing.sentence == "Weak evidence: the map is nowhere positive and marks nothing."


def test_figures_are_what_the_model_says(cnn: nn.Module, batch: Tensor) -> None:
    """The scores are those of the image and of the image with the marked units in the mean colour."""
    found = grad_cam.explain(cnn, batch, target=[1, 2, 3])
    got = grad_cam.evidence(cnn, found, 2)
    with torch.no_grad():
        assert got.score == pytest.approx(float(cnn(batch)[2, 3]), rel=1e-4)
        values = metrics.units_of(found.map[2][None], 14)[0, 0]
        top = (values >= values.sort().values[-39]) & (values > 0)
        rows = torch.arange(64) * 14 // 64
        mask = top.reshape(14, 14)[rows][:, rows]
        without = float(cnn(torch.where(mask, torch.zeros(()), batch[2])[None])[0, 3])
    assert got.without == pytest.approx(without, rel=1e-3, abs=1e-5) and got.share == pytest.approx(
        float(top.sum()) / 196
    )
    assert len(got.without_random) == 9 and -1 <= got.agreement <= 1 and 0 <= got.beats <= 1


def test_evidence_is_bounded_and_leaves_the_model(cnn: nn.Module, batch: Tensor) -> None:
    """It takes 40 forward passes of one image, is the same in chunks and again, and changes nothing."""
    found = grad_cam.explain(cnn, batch[:1])
    weights = copy.deepcopy(cnn.state_dict())
    seen = []
    plain = score_function

    def counted(*args, **kwargs):  # noqa: ANN002, ANN003, ANN202
        inner = plain(*args, **kwargs)

        def scores(x: Tensor, index: Tensor) -> Tensor:
            seen.append(len(x))
            return inner(x, index)

        return scores

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("grad_cam.evidencing.score_function", counted)
        first = grad_cam.evidence(cnn, found, chunk=7)
    assert sum(seen) + 1 == FORWARDS == 40 and max(seen) == 7  # one more fixes the target
    second = grad_cam.evidence(cnn, found)
    assert dataclasses.astuple(second)[0] == first.share
    assert second.without_random == pytest.approx(first.without_random, rel=1e-4)
    assert all(torch.equal(value, weights[name]) for name, value in cnn.state_dict().items())
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.share = 1.0  # type: ignore[misc]


def test_what_was_explained_is_what_is_scored(cnn: nn.Module, batch: Tensor) -> None:
    """Of several targets each is judged by its own score; what is no class's score has to be given again."""
    top = grad_cam.explain(cnn, batch[:1], target=targets.top(2))
    with torch.no_grad():
        best = cnn(batch[:1])[0].sort(descending=True).values
    for k in (0, 1):
        assert grad_cam.evidence(cnn, top, 0, k).score == pytest.approx(float(best[k]), rel=1e-4)
    why = targets.difference(1, 2)
    found = grad_cam.explain(cnn, batch[:1], target=why)
    with pytest.raises(GradCamError, match="explained="):
        grad_cam.evidence(cnn, found)
    with torch.no_grad():
        assert grad_cam.evidence(cnn, found, explained=why).score == pytest.approx(
            float(cnn(batch[:1])[0, 1] - cnn(batch[:1])[0, 2]), rel=1e-3
        )
    for wrong in ({"share": 0.0}, {"share": 1.0}):
        with pytest.raises(GradCamError, match="share="):
            grad_cam.evidence(cnn, top, **wrong)
    with pytest.raises(IndexError, match="image=1"):
        grad_cam.evidence(cnn, top, 1)
    with pytest.raises(ArgumentTypeError):
        grad_cam.evidence(cnn, batch)  # type: ignore[arg-type]


def test_sentence_says_what_happened() -> None:
    """Numbers get the digits in which they differ; a score that rises is said to rise."""
    strong = Evidence(0.2, 9.94, 4.12, (9.2,) * 9, 0.6, 0.98)
    assert strong.sentence == (
        "Removing the marked 20 % lowers the score from 9.9 to 4.1; a random region of the same size lowers it to 9.2; "
        "the map beats 98 % of random maps."
    )
    rising = dataclasses.replace(strong, without=11.0).sentence
    assert "raises the score from 9.9 to 11.0" in rising
    assert "Weak evidence: the score does not depend on the marked part" in rising
    assert "does not lower" in dataclasses.replace(strong, without=9.94).sentence
    as_good = dataclasses.replace(strong, without_random=(9.0,) * 6 + (4.0,) * 3)
    assert as_good.weakness == "3 of 9 random regions matter as much"
    assert "random maps do as well" in dataclasses.replace(strong, beats=0.8).sentence
    small = dataclasses.replace(strong, score=0.91, without=0.22, without_random=(0.85,) * 9)
    assert "from 0.91 to 0.22" in small.sentence
    assert json.loads(json.dumps(strong.as_dict()))["sentence"] == strong.sentence


def test_mean_color() -> None:
    """Subtracting the data's mean makes it 0; a mean of one half is none, ImageNet's takes its place."""
    assert mean_color(Preprocessing()) == [0.0] * 3
    half = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3)
    assert list(mean_color(half)) == pytest.approx([-0.03, -0.088, -0.188])
    assert list(mean_color(dataclasses.replace(half, bgr=True))) == pytest.approx([-0.188, -0.088, -0.03])
    assert mean_color(Preprocessing(mean=(0.5,), std=(0.5,), channels=1)) == [0.0]


def test_compare_of_explanations(planted: tuple[nn.Module, Tensor]) -> None:
    """Explanations are measured on their own images and classes; the right method beats both controls."""
    model, x = planted
    found = {name: grad_cam.explain(model, x, layer="features", target=0, method=name) for name in ("hires_cam", "fem")}
    box = (4 * 8, 2 * 8, 5 * 8, 3 * 8)
    table = compare(model, found, boxes=[box, box], units=7, steps=7, masks=80)
    right = table["hires_cam"]
    for measure in ("srg", "bank", "energy", "pointing"):
        assert all(right.mean(measure) > table[name].mean(measure) for name in ("centred Gaussian", "random map"))
    assert {"insertion", "deletion"} <= set(table.measures)
    with pytest.raises(GradCamError, match="no Explanation"):
        compare(model, {"a": found["fem"].map})


def test_score_function(cnn: nn.Module, batch: Tensor) -> None:
    """It scores versions of images by the target fixed on the originals, without a graph, K scores at once."""
    score = score_function(cnn, batch, [[0, 1], [2, 3], [4, 5]])
    index = torch.tensor([2, 0])
    got = score(batch[[1, 1]], index)
    with torch.no_grad():
        logits = cnn(batch[[1, 1]])
    assert got.shape == (2, 2) and not got.requires_grad
    assert torch.allclose(got, torch.stack([logits[0, [4, 5]], logits[1, [0, 1]]]), atol=1e-5)
    with pytest.raises(targets.TargetError):
        score_function(cnn, batch, [1])
    assert METHODS["occlusion"].scope == "input"
