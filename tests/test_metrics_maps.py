"""The numbers that sum up a map."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from grad_cam import metrics


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_entropy_follows_its_definition():
    """Entropy is -sum p log p over the positive part, divided by log n."""
    maps = _random(5, 7)
    heat = [value for value in maps.ravel() if value > 0]
    slow = -sum(value / sum(heat) * math.log(value / sum(heat)) for value in heat) / math.log(35)
    assert metrics.entropy(maps) == pytest.approx(slow, rel=1e-12)


def test_entropy_and_focus_have_their_ends():
    """One spot is entropy 0 and focus 1 - 1/n; an even map is entropy 1 and focus 0."""
    spot = np.zeros((4, 4))
    spot[1, 2] = 3.0
    assert metrics.entropy(spot) == 0 and metrics.focus(spot) == pytest.approx(15 / 16)
    assert metrics.entropy(np.full((4, 4), 0.1)) == pytest.approx(1)
    assert metrics.focus(np.full((4, 4), 0.1)) == pytest.approx(0, abs=1e-12)
    assert metrics.entropy([[2.0]]) == 0 and metrics.focus([[2.0]]) == 0


def test_focus_is_the_part_not_covered():
    """A map even over a quarter of the picture has focus 0.75, at any resolution."""
    quarter = np.zeros((6, 6))
    quarter[:3, :3] = 5.0
    assert metrics.focus(quarter) == pytest.approx(0.75)
    maps = _random(7, 5)
    assert metrics.focus(maps.repeat(4, 0).repeat(3, 1)) == pytest.approx(metrics.focus(maps), rel=1e-12)


def test_scale_does_not_matter():
    """Factors leave every number as it is, even where squares would leave the range of numbers."""
    maps, other = _random(6, 6), _random(6, 6, seed=1)
    for factor in (1e-300, 3.0, 1e300):
        assert metrics.focus(maps * factor) == pytest.approx(metrics.focus(maps))
        assert metrics.agreement(maps * factor, other, "cosine") == pytest.approx(
            metrics.agreement(maps, other, "cosine")
        )
        assert metrics.energy_inside(maps * factor, (1, 1, 3, 3)) == pytest.approx(
            metrics.energy_inside(maps, (1, 1, 3, 3))
        )


def test_blank_maps_are_undefined_or_miss():
    """A map without anything positive has no focus, and neither hits nor covers an object."""
    for blank in (np.zeros((3, 3)), -np.ones((3, 3))):
        assert np.isnan(metrics.focus(blank)) and np.isnan(metrics.entropy(blank))
        assert metrics.pointing_game(blank, (0, 0, 3, 3)) == 0 and metrics.energy_inside(blank, (0, 0, 3, 3)) == 0
    assert np.isnan(metrics.agreement(np.ones((3, 3)), _random(3, 3)))
    assert np.isnan(metrics.agreement(np.zeros((3, 3)), _random(3, 3), "cosine"))
    assert np.isnan(metrics.agreement(np.full((56, 56), 0.1), _random(7, 7)))  # also after averaging


def test_rank_agreement_follows_its_definition():
    """Rank agreement is the correlation of ranks, ties sharing the mean of theirs, by counting in a loop."""
    a, b = _random(4, 5).round(1), _random(4, 5, seed=1).round(1)

    def ranks(values: np.ndarray) -> list[float]:
        flat = values.ravel().tolist()
        return [sum(other < value for other in flat) + (flat.count(value) + 1) / 2 for value in flat]

    assert len(set(a.ravel())) < 20  # there are ties
    assert metrics.agreement(a, b) == pytest.approx(np.corrcoef(ranks(a), ranks(b))[0, 1], rel=1e-12)


def test_agreement_has_its_ends():
    """A map agrees with itself by 1, with its negative by -1, and its ranks with any rising function of it."""
    maps = _random(6, 6)
    for kind in ("rank", "cosine"):
        assert metrics.agreement(maps, maps, kind) == pytest.approx(1)
        assert metrics.agreement(maps, -maps, kind) == pytest.approx(-1)
    assert metrics.agreement(maps, np.exp(maps)) == pytest.approx(1)
    assert metrics.agreement(maps, 2 * maps, "cosine") == pytest.approx(1)


def test_agreement_compares_on_the_coarser_grid():
    """Maps of different sizes are averaged over the cells of the coarser grid, fractions of pixels included."""
    coarse = _random(7, 7)
    assert metrics.agreement(coarse, coarse.repeat(8, 0).repeat(8, 1), "cosine") == pytest.approx(1)
    fine, thin = _random(5, 4), _random(2, 4, seed=1)
    rows = np.array([[1, 1, 0.5, 0, 0], [0, 0, 0.5, 1, 1]]) / 2.5
    averaged = rows @ fine
    slow = (averaged * thin).sum() / np.linalg.norm(averaged) / np.linalg.norm(thin)
    assert metrics.agreement(fine, thin, "cosine") == pytest.approx(slow, rel=1e-12)


def test_batches_equal_one_by_one():
    """Leading axes are kept, and every map of a batch has the number it has alone."""
    maps, last = _random(2, 3, 6, 8), _random(4, 4, seed=1)
    for number in (
        metrics.focus,
        metrics.entropy,
        lambda m: metrics.agreement(m, last),
        lambda m: metrics.agreement(m, last, "cosine"),
        lambda m: metrics.pointing_game(m, (1, 1, 5, 4)),
        lambda m: metrics.energy_inside(m, [(1, 1, 5, 4), (0, 0, 2, 2)]),
    ):
        batch = number(maps)
        assert batch.shape == (2, 3)
        for index in np.ndindex(2, 3):
            assert batch[index] == pytest.approx(float(number(maps[index])), rel=1e-12)


def test_tensors_are_read_as_arrays():
    """Tensors of half precision that carry a graph give what their values give."""
    tensor = torch.tensor(_random(5, 5), dtype=torch.bfloat16, requires_grad=True)
    assert metrics.focus(tensor) == metrics.focus(tensor.detach().float().numpy())


def test_pointing_game_hits_by_pixel_centre_and_tolerance():
    """The hottest pixel hits a box that holds its centre or comes within the tolerance."""
    heat = np.zeros((10, 10))
    heat[2, 7] = 1.0  # centre at x = 7.5, y = 2.5
    assert metrics.pointing_game(heat, (7, 2, 8, 3)) == 1
    assert metrics.pointing_game(heat, (0, 0, 7, 10)) == 0
    assert metrics.pointing_game(heat, (0, 0, 7, 10), tolerance=0.5) == 1
    assert metrics.pointing_game(heat, [(0, 0, 7, 10), (7, 0, 10, 10)]) == 1
    heat[9, 0] = 1.0
    assert metrics.pointing_game(heat, (7, 2, 8, 3)) == 0.5


def test_energy_counts_parts_of_pixels_once():
    """Energy inside is the sum inside over the sum; a cut pixel counts by its part, an overlap once."""
    heat = np.arange(1.0, 17).reshape(4, 4)
    assert metrics.energy_inside(heat, (1, 1, 3, 3)) == pytest.approx((6 + 7 + 10 + 11) / 136)
    assert metrics.energy_inside(heat, (0, 0, 0.5, 1)) == pytest.approx(0.5 / 136)
    assert metrics.energy_inside(heat, [(0, 0, 4, 2), (0, 1, 4, 4)]) == pytest.approx(1)
    assert metrics.energy_inside(np.ones((8, 6)), (1, 2, 4, 7.5)) == pytest.approx(
        metrics.box_area((1, 2, 4, 7.5), (8, 6))
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.focus(np.zeros(3)), "height and a width"),
        (lambda: metrics.focus([[np.nan, 1.0]]), "NaN"),
        (lambda: metrics.agreement(np.ones((2, 3, 3)), np.ones((4, 3, 3))), "cannot be paired"),
        (lambda: metrics.agreement(np.ones((3, 3)), np.ones((3, 3)), "ssim"), "'rank' or 'cosine'"),
        (lambda: metrics.pointing_game(np.ones((3, 3)), (2, 0, 1, 3)), "x0 < x1"),
        (lambda: metrics.pointing_game(np.ones((3, 3)), (5, 5, 9, 9)), "holds nothing"),
        (lambda: metrics.pointing_game(np.ones((3, 3)), (0, 0, 1)), "got shape"),
        (lambda: metrics.pointing_game(np.ones((3, 3)), (0, 0, 1, 1), -1), "tolerance=-1"),
        (lambda: metrics.energy_inside(np.ones((3, 3)), (0, 0, math.nan, 1)), "holds nothing"),
    ],
)
def test_errors_say_what_to_do(call, words):
    """Wrong input is an error that names what was given."""
    with pytest.raises(ValueError, match=words):
        call()


def test_text_is_no_map():
    """Values that are no real numbers are a TypeError."""
    with pytest.raises(TypeError, match="real numbers"):
        metrics.focus(np.ones((2, 2), complex))
