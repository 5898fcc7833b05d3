"""Faithfulness, the coalition bank, sanity and the comparison: against slow loops and other libraries."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from grad_cam import METHODS, metrics
from grad_cam.errors import GradCamError
from grad_cam.methods import regions

SIDE = 12


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) + 0.2


def maps(count: int = 2, side: int = 4, seed: int = 3) -> Tensor:
    return torch.randn(count, side, side, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """A small network that is not linear in its input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 6, 3, stride=2), nn.Linear(6 * 25, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 3)."""
        return 3 * self.head(self.conv(x).relu().flatten(1))


NET = Net().eval()


def score(x: Tensor, index: Tensor) -> Tensor:
    """A class of its own for each image."""
    return NET(x)[torch.arange(len(x)), index + 1]


def scores(x: Tensor, index: Tensor) -> Tensor:
    """Two scores."""
    return NET(x)[:, :2]


def slow_curve(image: Tensor, number: int, order: list[int], units: int, base: Tensor, put_in: bool) -> list[float]:
    """The score after each unit of an order: taken away, or put into the base."""
    x = (base if put_in else image).clone()
    other = image if put_in else base
    side = SIDE // units
    curve = []
    with torch.no_grad():
        curve.append(float(score(x[None], torch.tensor([number]))))
        for unit in order:
            y, z = unit // units * side, unit % units * side
            x[:, y : y + side, z : z + side] = other[:, y : y + side, z : z + side]
            curve.append(float(score(x[None], torch.tensor([number]))))
    return curve


# ------------------------------------------------------------------------------------------------------- faithfulness


def test_srg_is_its_formula() -> None:
    """SRG is the mean over the steps of least-first minus most-first curve, unit by unit."""
    x, m, fill = images(), maps(), [0.1, 0.2, 0.3]
    wanted = []
    for b in range(2):
        most = sorted(range(16), key=lambda i: -float(m[b].flatten()[i]))
        base = torch.tensor(fill)[:, None, None].expand(3, SIDE, SIDE)
        first, last = (slow_curve(x[b], b, order, 4, base, False) for order in (most, most[::-1]))
        wanted.append(sum(a - c for a, c in zip(last[1:], first[1:], strict=True)) / 16)
    got = metrics.srg(m, x, score, units=4, steps=16, fill=fill)
    assert got.tolist() == pytest.approx(wanted, rel=1e-4)
    assert min(abs(value) for value in wanted) > 1e-2


def test_srg_of_a_negative_map_is_negative_and_of_a_flat_one_random() -> None:
    """Turning a map round turns SRG round; a map of one value orders by chance, another chance for another seed."""
    x, m = images(), maps()
    kwargs = {"units": 4, "steps": 8}
    assert torch.allclose(metrics.srg(-m, x, score, **kwargs), -metrics.srg(m, x, score, **kwargs), atol=1e-4)
    flat = [metrics.srg(torch.ones(2, 4, 4), x, score, seed=seed, **kwargs) for seed in range(60)]
    alike = torch.stack(flat)
    assert alike.std(0).min() > 0 and (alike.mean(0).abs() < 3 * alike.std(0) / math.sqrt(60)).all()


def test_deletion_and_insertion_are_their_formulas() -> None:
    """The areas under the curves, by trapezoids; insertion begins with a blurred image."""
    x, m = images(), maps()
    for b in range(2):
        most = sorted(range(16), key=lambda i: -float(m[b].flatten()[i]))
        down = slow_curve(x[b], b, most, 4, torch.zeros(3, SIDE, SIDE), False)
        up = slow_curve(x[b], b, most, 4, blurred(x[b]), True)
        for got, curve in ((metrics.deletion, down), (metrics.insertion, up)):
            area = sum((a + c) / 2 for a, c in zip(curve, curve[1:], strict=False)) / 16
            assert float(got(m, x, score, units=4, steps=16)[b]) == pytest.approx(area, rel=1e-4)


def blurred(image: Tensor) -> Tensor:
    """A Gaussian of sigma 5 cut at 10 pixels, the edge continued, by its double sum."""
    out = torch.zeros_like(image)
    weights = {(i, j): math.exp(-(i * i + j * j) / 50) for i in range(-10, 11) for j in range(-10, 11)}
    for y in range(SIDE):
        for z in range(SIDE):
            for (i, j), weight in weights.items():
                out[:, y, z] += weight * image[:, min(max(y + i, 0), SIDE - 1), min(max(z + j, 0), SIDE - 1)]
    return out / sum(weights.values())


def test_region_deletion_is_its_formula() -> None:
    """The correlation of the map with what the score loses without each region alone."""
    x, m = images(), maps()
    got = metrics.region_deletion(m, x, score, units=4)
    for b in range(2):
        losses = []
        for unit in range(16):
            whole, without = slow_curve(x[b], b, [unit], 4, torch.zeros(3, SIDE, SIDE), False)
            losses.append(whole - without)
        assert float(got[b]) == pytest.approx(np.corrcoef(losses, m[b].flatten())[0, 1], rel=1e-3)
    assert metrics.region_deletion(torch.ones(2, 4, 4), x, score, units=4).isnan().all()


def test_chunks_batches_and_columns_do_not_matter() -> None:
    """Chunk sizes, one image alone and several scores at once give the same numbers."""
    x, m = images(), maps(2, 5)
    for number, kwargs in (
        (metrics.srg, {"units": 4, "steps": 5}), (metrics.deletion, {"units": 4, "steps": 5}),
        (metrics.insertion, {"units": 4, "steps": 5}), (metrics.region_deletion, {"units": 4}),
    ):  # fmt: skip
        whole = number(m, x, score, **kwargs)
        assert torch.allclose(number(m, x, score, chunk=3, **kwargs), whole, atol=1e-5)
        assert torch.allclose(number(m[:1], x[:1], score, **kwargs), whole[:1], atol=1e-5)
        both = number(torch.stack([m, -m], 1), x, scores, **kwargs)
        one = number(-m, x, lambda y, i: scores(y, i)[:, 1], **kwargs)
        assert both.shape == (2, 2) and torch.allclose(both[:, 1], one, atol=1e-5)


@pytest.mark.parametrize("order", ["morf", "lerf"])
def test_curves_are_those_of_quantus(order: str) -> None:
    """Deletion of patches loses what Quantus' RegionPerturbation says, most and least important first."""
    quantus = pytest.importorskip("quantus")
    x, m = images(1), maps(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = quantus.RegionPerturbation(
            patch_size=3, order=order, regions_evaluation=16, normalise=False, perturb_baseline=0.0,
            disable_warnings=True,
        )  # fmt: skip
        large = np.repeat(np.repeat(m.numpy(), 3, 1), 3, 2)[:, None]
        (lost,) = metric(
            model=NET, x_batch=x.numpy(), y_batch=np.array([1]), a_batch=large, device="cpu", softmax=False
        )
    whole = float(score(x, torch.tensor([0])).detach())
    curve = [whole, *(whole - float(loss) for loss in lost)]
    area = sum((a + c) / 2 for a, c in zip(curve, curve[1:], strict=False)) / 16
    ours = metrics.deletion(m if order == "morf" else -m, x, score, units=4, steps=16)
    assert float(ours) == pytest.approx(area, rel=1e-4)


def test_srg_is_road_with_a_fixed_fill() -> None:
    """With zeros for its noisy filling, ROAD of pytorch-grad-cam is half of SRG over the same steps."""
    from pytorch_grad_cam.metrics import perturbation_confidence as theirs
    from pytorch_grad_cam.metrics.road import AveragerAcrossThresholds

    x, m = images(1), maps(1, SIDE)
    ranks = m.flatten().argsort().argsort().reshape(SIDE, SIDE).float()  # no ties
    cam = ((ranks + 0.5) / SIDE**2).numpy()[None]

    def averaged(remove: type) -> float:
        def at(percentile: float):  # noqa: ANN202
            return theirs.PerturbationConfidenceMetric(remove(percentile, lambda image, mask: image * mask))

        kept = [100 - p for p in (25, 50, 75)]
        return float(AveragerAcrossThresholds(at, kept)(x, cam, [lambda z: z[1]], NET)[0])

    gap = averaged(theirs.RemoveLeastRelevantFirst) - averaged(theirs.RemoveMostRelevantFirst)
    ours = metrics.srg(torch.from_numpy(cam), x, score, units=SIDE, steps=4)  # its fourth step takes all away: 0
    assert float(ours) * 4 / 3 == pytest.approx(gap, rel=1e-4)


def test_completeness_gap() -> None:
    """A map that sums to the score has no gap, whatever is elsewhere is counted; the gap is relative to the score."""
    m = torch.full((2, 2, 2), 1.0)
    assert metrics.completeness_gap(m, torch.tensor([4.0, 8.0])).tolist() == [0.0, 0.5]
    assert metrics.completeness_gap(m, torch.tensor([4.0, 8.0]), torch.tensor([0.0, 4.0])).tolist() == [0.0, 0.0]
    assert metrics.completeness_gap(m[0], torch.tensor(0.5)).tolist() == 3.5


# ------------------------------------------------------------------------------------------------------------ the bank


def test_coalitions_are_antithetic_and_of_all_sizes() -> None:
    """Every second set is the complement of the one before; sizes lie within 10 and 90 % and fill the range."""
    kept = regions.coalitions(192, 7, 0)
    assert kept.shape == (192, 7, 7) and bool((kept[::2] == ~kept[1::2]).all())
    share = kept.double().mean((1, 2))
    assert share.min() >= 0.1 - 0.02 and share.max() <= 0.9 + 0.02 and share.std() > 0.2
    assert 0.4 < kept.double().mean(0).min() and kept.double().mean(0).max() < 0.6
    for wrong in ({"count": 5}, {"cells": 1}, {"count": 0}):
        with pytest.raises(GradCamError, match="pairs"):
            regions.coalitions(**{"count": 4, "cells": 3, "seed": 0, **wrong})


def slow_scores(x: Tensor, number: int, kept: Tensor) -> list[float]:
    found = []
    side = SIDE // kept.shape[1]
    for mask in kept:
        seen = torch.zeros_like(x)
        for y, z in mask.nonzero().tolist():
            seen[:, y * side : (y + 1) * side, z * side : (z + 1) * side] = x[
                :, y * side : (y + 1) * side, z * side : (z + 1) * side
            ]
        with torch.no_grad():
            found.append(float(score(seen[None], torch.tensor([number]))))
    return found


def test_bank_is_its_formula() -> None:
    """The judgement is the partial correlation of kept mass and score given size and size squared, by regression."""
    x, m = images(), maps()
    bank = metrics.Bank.of(x, score, masks=60, cells=4)
    got = bank.judge(m)
    for b in range(2):
        values = slow_scores(x[b], b, bank.kept)
        assert bank.scores[b, :, 0].tolist() == pytest.approx(values, rel=1e-4, abs=1e-5)
        size = bank.kept.double().mean((1, 2)).numpy()
        nuisance = np.stack([np.ones(60), size, size**2], 1)
        mass = [float((mask * m[b]).sum()) for mask in bank.kept]
        rest = [v - nuisance @ np.linalg.lstsq(nuisance, v, rcond=None)[0] for v in (np.array(mass), np.array(values))]
        assert float(got[b]) == pytest.approx(np.corrcoef(*rest)[0, 1], rel=1e-3)
    assert torch.allclose(bank.judge_many(torch.stack([m[1], -m[1]]), 1), torch.stack([got[1], -got[1]]))
    assert bank.judge(torch.ones(2, 4, 4)).isnan().all()
    assert torch.allclose(metrics.Bank.of(x, score, masks=60, cells=4, chunk=7).judge(m), got)


def test_bank_agrees_with_srg() -> None:
    """Over maps from random to good, the bank puts them in about the order that SRG does, without a pass."""
    x = images(1)
    good = METHODS["region_regression"].function(x, score, masks=400, cells=4)
    noise = maps(12, 4, seed=5)
    mixed = [good + float(good.std()) * weight * each for weight, each in zip(np.linspace(0.1, 6, 12), noise)]  # noqa: B905
    bank = metrics.Bank.of(x, score, cells=4)
    judged = bank.judge_many(torch.cat(mixed))
    true = torch.cat([metrics.srg(each, x, score, units=4, steps=16) for each in mixed])
    assert metrics.agreement(judged[None], true[None]) > 0.8


def test_regression_finds_what_regions_add() -> None:
    """For a score that adds up over regions the regression is each region's own part, for several scores at once."""
    parts = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(7))

    def additive(x: Tensor, index: Tensor) -> Tensor:
        cells = torch.nn.functional.avg_pool2d(x.mean(1), 3)  # (N,4,4)
        return torch.einsum("nhw,khw->nk", cells, parts)

    x = images(1)
    found = METHODS["region_regression"].function(x, additive, cells=4)
    wanted = parts * torch.nn.functional.avg_pool2d(x.mean(1), 3)
    assert found.shape == (1, 2, 4, 4) and torch.allclose(found[0], wanted, atol=5e-3)


def test_ridge_penalty_is_the_best_by_cross_validation() -> None:
    """The weights are ridge's in closed form, at the penalty of a fine grid where the generalised error is least."""
    kept = regions.coalitions(40, 4, 1).flatten(1).double()
    y = kept @ torch.randn(16, generator=torch.Generator().manual_seed(2)).double() + torch.randn(
        40, generator=torch.Generator().manual_seed(3)
    )
    design, wanted = kept - kept.mean(0), y - y.mean()
    best = (math.inf, torch.zeros(16))
    for penalty in torch.logspace(-1, 3, 25, dtype=torch.float64):
        inverse = torch.linalg.inv(design.T @ design + penalty * torch.eye(16))
        weights = inverse @ design.T @ wanted
        hat = design @ inverse @ design.T
        error = float(((wanted - design @ weights) ** 2).sum() / (40 - 1 - hat.trace()) ** 2)
        best = min(best, (error, weights), key=lambda each: each[0])
    assert torch.allclose(regions.fit(kept, y[:, None])[0], best[1], atol=1e-6)


def test_bank_refuses_its_own_regression() -> None:
    """A map made from a bank is not judged on it, also scaled; the other half of the bank judges it."""
    x = images()
    bank = metrics.Bank.of(x, score, masks=80, cells=4)
    with pytest.raises(GradCamError, match="very bank.*split"):
        bank.judge(3 * bank.regression()[:, 0])
    first, second = bank.split()
    assert torch.equal(torch.stack([first.kept[:2], second.kept[:2]]), bank.kept[:4].unflatten(0, (2, 2)))
    assert len(first.kept) == len(second.kept) == 40 and bool((first.kept[::2] == ~first.kept[1::2]).all())
    assert bool((second.judge(first.regression()[:, 0]) > 0.3).all())
    own = METHODS["region_regression"].function(x, score, masks=80, cells=4, seed=0)
    assert bool((bank.judge(own) > 0.3).all())  # the method draws other coalitions for the same seed
    assert not torch.equal(regions.coalitions(80, 4, 0), bank.kept)


# ------------------------------------------------------------------------------------------ sanity and the comparison


def test_parameter_randomisation() -> None:
    """What reads the input alone survives random weights with 1, what reads the weights does not; the model is kept."""
    before = {name: value.clone() for name, value in NET.state_dict().items()}

    def of_input(model: nn.Module, x: Tensor) -> Tensor:
        return x.mean(1)

    def saliency(model: nn.Module, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(model(x)[:, 0].sum(), x)[0].mean(1)

    state = torch.get_rng_state()
    kept = metrics.parameter_randomisation(NET, images(), of_input, samples=3)
    lost = metrics.parameter_randomisation(NET, images(), saliency, samples=3)
    assert torch.equal(state, torch.get_rng_state())
    assert [step.layer for step in kept] == ["head", "conv"]
    assert all(torch.allclose(step.agreement, torch.ones(2).double()) for step in kept)
    assert all(float(step.agreement.abs().max()) < 0.6 for step in lost)
    upward = metrics.parameter_randomisation(NET, images(), saliency, samples=1, order="bottom_up", layers=1)
    assert [step.layer for step in upward] == ["head"]  # the last point, where all is random
    assert all(torch.equal(before[name], value) for name, value in NET.state_dict().items())


def test_smoothing_averages_over_noise() -> None:
    """The maps that are compared are means over noisy copies of the images."""
    seen: list[Tensor] = []

    def of_input(model: nn.Module, x: Tensor) -> Tensor:
        seen.append(x)
        return x.mean(1)

    metrics.parameter_randomisation(NET, images(), of_input, samples=4, noise=0.2, layers=1)
    assert len(seen) == 8 and torch.equal(seen[0], seen[4]) and not torch.equal(seen[0], seen[1])
    spread = torch.stack(seen[:4]) - images()
    wanted = 0.2 * (images().amax((1, 2, 3)) - images().amin((1, 2, 3)))
    assert spread.std((0, 2, 3, 4)).tolist() == pytest.approx(wanted.tolist(), rel=0.15)


def test_comparison_always_has_the_controls() -> None:
    """Every row holds each measure for each image, the controls are there, and the table says the means."""
    x = images()
    boxes = [(0, 0, 6, 6), None]
    found = metrics.compare({"a": maps(), "b": maps(2, 6)}, x, score, boxes=boxes, probability=score, units=4, steps=8,
                            masks=40, cells=4)  # fmt: skip
    assert [row.name for row in found.rows] == ["a", "b", "centred Gaussian", "random map"]
    assert [row.control for row in found.rows] == [False, False, True, True]
    assert found.measures == ("srg", "bank", "insertion", "deletion", "energy", "pointing")
    assert torch.equal(found["a"].values["srg"], metrics.srg(maps(), x, score, units=4, steps=8))
    assert torch.equal(found["a"].values["deletion"], metrics.deletion(maps(), x, score, units=4, steps=8))
    assert found["b"].values["energy"].isnan().tolist() == [False, True]
    large = torch.nn.functional.interpolate(maps(2, 6)[:1, None], (SIDE, SIDE), mode="bilinear")[0, 0]
    assert float(found["b"].values["energy"][0]) == pytest.approx(
        float(metrics.energy_inside(large, boxes[0])), rel=1e-5
    )
    lines = str(found).splitlines()
    assert len(lines) == 5 and lines[0].split() == list(found.measures)
    assert f"{found['a'].mean('srg'):.2f}" in lines[1]
    assert "\n" not in repr(found) and "4 rows" in repr(found)
    gain, low, high = found.against("random map")["a"]
    assert gain == pytest.approx(found["a"].mean("srg") - found["random map"].mean("srg")) and low <= gain <= high


def test_interval_is_a_bootstrap() -> None:
    """The interval of normal values is about 1.96 standard errors to each side; NaN are left out."""
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    mean, low, high = metrics.interval(torch.cat([values, torch.tensor([math.nan])]))
    error = 1.96 * float(values.std()) / 20
    assert mean == pytest.approx(float(values.mean()), abs=1e-6)
    assert mean - low == pytest.approx(error, rel=0.15) and high - mean == pytest.approx(error, rel=0.15)
    assert all(math.isnan(value) for value in metrics.interval([math.nan]))


def test_masks_stand_for_boxes() -> None:
    """A mask of a box gives what the box gives, tolerance included; an empty one or one of another size is refused."""
    mask = np.zeros((12, 10), bool)
    mask[2:7, 3:8] = True
    for seed in range(5):
        heat = maps(1, 12, seed)[0, :, :10].numpy()
        assert metrics.energy_inside(heat, mask) == pytest.approx(metrics.energy_inside(heat, (3, 2, 8, 7)))
        for tolerance in (0, 2.5):
            assert metrics.pointing_game(heat, mask, tolerance) == metrics.pointing_game(heat, (3, 2, 8, 7), tolerance)
    with pytest.raises(GradCamError, match="holds nothing"):
        metrics.energy_inside(heat, np.zeros((12, 10), bool))
    with pytest.raises(GradCamError, match="size of the heatmap"):
        metrics.energy_inside(heat, mask[:5])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.srg(maps(1), images(2), score), "do not belong to 2 images"),
        (lambda: metrics.srg(maps(), images(), scores, units=4, steps=4), "for 2 scores"),
        (lambda: metrics.srg(maps(), images(), score, units=4, steps=17), "do not fit 16 units"),
        (lambda: metrics.srg(maps(), images(), score, units=4, steps=4, fill=[0.0, 1.0]), "3 channels"),
        (lambda: metrics.Bank.of(images(), score, masks=4, cells=4).judge(maps(1)), "do not belong to a bank"),
        (lambda: metrics.compare({}, images(), score), "nothing to compare"),
        (lambda: metrics.compare({"a": maps()}, images(), score, measures=["energy"]), "need.*boxes="),
        (lambda: metrics.compare({"a": maps(3)}, images(), score), "one map for each"),
        (lambda: metrics.compare({"random map": maps()}, images(), score), "another name"),
        (lambda: metrics.compare({"a": maps()}, images(), score, boxes=[None]), "1 boxes for 2"),
        (lambda: metrics.parameter_randomisation(NET, images(), score, order="up"), "top_down"),  # type: ignore[arg-type]
        (lambda: metrics.parameter_randomisation(NET, images(), score, samples=0), "samples=0"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_errors_say_what_to_do(call, words) -> None:  # noqa: ANN001
    """Wrong input is an error that names what was given and what fits."""
    with pytest.raises(GradCamError, match=words):
        call()
